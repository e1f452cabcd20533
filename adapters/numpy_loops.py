"""The loaders of DCRNN, Graph WaveNet, MTGNN, LargeST and AGCRN, over windows that are never materialised.

In: a series, three window sets, or a folder of ``train.npz``, ``val.npz``, ``test.npz``; the name of a script. Out: the
literature's dict of loaders, arrays and a scaler, as their ``util.load_dataset`` returns it. Windows, splits and
statistics are the core's; `CLIENTS` lists what each script does.

The scripts' loaders (``lib/utils.py`` of DCRNN, ``util.py`` of Graph WaveNet and MTGNN, ``src/utils/dataloader.py`` of
LargeST, ``lib/dataloader.py`` of AGCRN) have samples in order of time. An epoch ends by repeating the last sample up to
a full batch (*pad*), with a short batch (*keep*: AGCRN's test part), or before it (*drop*: LargeST, AGCRN's other
parts). ``shuffle()`` permutes the order of the last epoch, repeated samples included, by NumPy's global generator.
AGCRN's loaders are torch's own ``DataLoader``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.adapters.numpy_samples import FeatureScaler, LoopLoader, Pairs, Samples, Tail, check_epoch
from windowloader.batch.window_reader import WindowReader
from windowloader.errors import LoaderError, SourceFormatError, SourceNotFoundError
from windowloader.scaling.scalers import StandardScaler
from windowloader.series.series import Series
from windowloader.sources.numpy_files import open_npz_archive
from windowloader.windows.spec import WindowSpec
from windowloader.windows.split import Split, split
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from windowloader.batch.window_reader import WindowReadOptions

__all__ = ["CLIENTS", "Client", "FeatureScaler", "LoopLoader", "Pairs", "Samples", "load_dataset"]


# -- samples and loaders ----------------------------------------------------------------------------------------------

Ratio = tuple[float, float, float]
Parts = Mapping[str, WindowSet]
PARTS = ("train", "val", "test")


def _cut_windows(windows: WindowSet, ratio: Ratio) -> Split:
    """DCRNN: train and test are rounded, val is the rest."""
    return split(windows, None, ratio, by="windows")


def _cut_windows_test_last(windows: WindowSet, ratio: Ratio) -> Split:
    """LargeST: train and val are rounded, test is the rest."""
    train, val = (round(len(windows) * share) for share in ratio[:2])
    return split(windows, None, [train, train + val], by="windows")


def _cut_rows_from_the_end(windows: WindowSet, ratio: Ratio) -> Split:
    """AGCRN: rows are counted from the end, shares rounded down, and no window reaches into another part."""
    rows, (_, val, test) = windows.series.num_steps, ratio
    return split(windows, None, [rows - int(rows * (test + val)), rows - int(rows * test)], by="rows")


def _fit_train_windows(parts: Parts, feature: str) -> StandardScaler:
    """DCRNN: inputs of train windows, a row counted once per window that contains it."""
    return StandardScaler.fit(parts["train"], features=feature, weighting="windows", rounding="divide")


def _fit_rows_before_val(parts: Parts, feature: str) -> StandardScaler:
    """LargeST: each row once, to a lookback before the last observed row of the first val window."""
    spec = parts["val"].spec
    return _fit_rows(parts, feature, int(parts["val"].starts([0])[0]) + spec.anchor - spec.num_inputs)


def _fit_all_rows(parts: Parts, feature: str) -> StandardScaler:
    """AGCRN: each row once, those of the test part included."""
    return _fit_rows(parts, feature, parts["train"].series.num_steps)


def _fit_rows(parts: Parts, feature: str, stop: int) -> StandardScaler:
    spec = WindowSpec(lookback=1, horizon=0, inputs=[feature])
    rows = WindowSet(parts["train"].series, spec).take(slice(0, stop))
    return StandardScaler.fit(rows, features=feature, rounding="divide")


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What one script does.

    Parameters
    ----------
    features : {"all", "first"}
        Which of the series' features are inputs.
    clocks : tuple of str
        Inputs after them, where the series has timestamps.
    targets : {"inputs", "first"}
    ratio : tuple of float
        Train, val and test.
    cut : callable
        From windows and a ratio to three parts.
    fit : callable
        From parts and the name of the first feature to a scaler.
    scale_targets : bool
    week : bool
        Whether the day of the week is divided by 7.
    tail : {"pad", "keep", "drop"} or mapping of part to these
        How an epoch ends.
    shuffle_train : bool
        NumPy loaders: once, when they are made; tensor loaders: each epoch.
    tensors : bool
        Whether loaders are torch's, rather than NumPy's.
    """

    features: Literal["all", "first"] = "all"
    clocks: tuple[str, ...] = ("time_of_day",)
    targets: Literal["inputs", "first"] = "inputs"
    ratio: Ratio = (0.7, 0.1, 0.2)
    cut: Callable[[WindowSet, Ratio], Split] = _cut_windows
    fit: Callable[[Parts, str], StandardScaler] = _fit_train_windows
    scale_targets: bool = False
    week: bool = False
    tail: Tail | Mapping[str, Tail] = "pad"
    shuffle_train: bool = False
    tensors: bool = False

    @property
    def reads_npz(self) -> bool:
        """Whether the script loads ``train.npz``, ``val.npz`` and ``test.npz``."""
        return self.cut is _cut_windows

    def spec(self, series: Series) -> WindowSpec:
        """Return what a window of the script reads: 12 steps and the 12 that follow."""
        features = list(series.features)
        chosen = features if self.features == "all" else features[:1]
        inputs = [*chosen, *(self.clocks if series.clock is not None else ())]
        targets = inputs if self.targets == "inputs" else features[:1]
        return WindowSpec(lookback=12, horizon=12, inputs=inputs, targets=targets)


CLIENTS: Mapping[str, Client] = MappingProxyType(
    {
        "dcrnn": Client(scale_targets=True, shuffle_train=True),
        "graph-wavenet": Client(),
        "mtgnn": Client(),
        "largest": Client(
            clocks=("time_of_day", "day_of_week"),
            targets="first",
            ratio=(0.6, 0.2, 0.2),
            cut=_cut_windows_test_last,
            fit=_fit_rows_before_val,
            scale_targets=True,
            week=True,
            tail="drop",
        ),
        "agcrn": Client(
            features="first",
            clocks=(),
            ratio=(0.6, 0.2, 0.2),
            cut=_cut_rows_from_the_end,
            fit=_fit_all_rows,
            scale_targets=True,
            tail={"train": "drop", "val": "drop", "test": "keep"},
            shuffle_train=True,
            tensors=True,
        ),
    }
)


def load_dataset(
    series: Series | Sequence[WindowSet] | str | os.PathLike[str],
    batch_size: int,
    valid_batch_size: int | None = None,
    test_batch_size: int | None = None,
    tail: Tail | Mapping[str, Tail] | None = None,
    *,
    client: str = "graph-wavenet",
    spec: WindowSpec | None = None,
    ratio: Ratio | None = None,
    scaler: StandardScaler | None = None,
    scale_targets: bool | None = None,
    fill: float | None = None,
    dtype: str = "float32",
    shuffle_train: bool | None = None,
    rng: Any = None,
) -> dict[str, Any]:
    """Return loaders, samples and scaler in the literature's dict.

    Parameters
    ----------
    series : Series, three WindowSets, or path
        A series is cut into parts as the client does. Three window sets are used as train, val and test. A path
        is a folder of ``train.npz``, ``val.npz`` and ``test.npz`` with ``x``, ``y`` and perhaps ``x_offsets``,
        ``y_offsets``; these are kept in memory as they are.
    batch_size, valid_batch_size, test_batch_size : int
        None: ``batch_size``.
    tail : {"pad", "keep", "drop"} or mapping of part to these, optional
        How an epoch ends; None: as the client's. DCRNN, Graph WaveNet, MTGNN: "pad". LargeST: "drop". AGCRN:
        ``{"train": "drop", "val": "drop", "test": "keep"}``.
    client : {"graph-wavenet", "mtgnn", "dcrnn", "largest", "agcrn"}
        The script whose arithmetic is used (`CLIENTS`):

        - graph-wavenet, mtgnn: the files of DCRNN's script. ``round(n · 0.7)`` windows to train on,
          ``round(n · 0.2)`` to test, statistics over the train windows' inputs, y raw.
        - dcrnn: the same, with y scaled, and train windows shuffled once.
        - largest: ``round(n · 0.6)`` windows to train on, ``round(n · 0.2)`` for val, statistics over the rows
          before val, y the first feature alone, scaled; the day of the week in sevenths is a third feature.
        - agcrn: parts of rows that share nothing, the last 20 and 40 percent rounded down; statistics over all
          rows; the first feature alone, scaled in x and y. Loaders are torch's ``DataLoader`` of float32 tensors,
          on the CUDA device where there is one, shuffled each epoch.
    spec : WindowSpec, optional
        None: 12 steps to 12 steps of the client's features.
    ratio : tuple of float, optional
        Train, val and test; None: the client's.
    scaler : StandardScaler, optional
        Known statistics. None: of the first feature, as the client fits them. Values declared missing are skipped;
        the literature declares none and includes zeros.
    scale_targets : bool, optional
        Whether the first feature of y is scaled as well; None: as the client has it.
    fill : float, optional
        Value of missing cells; see `WindowLoader`.
    dtype : str
        Of the batches. "float32" is what all these scripts feed to their models; the arrays of DCRNN, Graph WaveNet
        and MTGNN are "float64".
    shuffle_train : bool, optional
        Shuffle the train loader: once, here, as DCRNN does (AGCRN: each epoch). None: as the client does. Graph
        WaveNet, MTGNN and LargeST call ``train_loader.shuffle()`` each epoch.
    rng : numpy.random.Generator, RandomState or torch.Generator, optional
        Generator of the loaders' shuffles. None: NumPy's global generator; for AGCRN torch's.

    Returns
    -------
    dict
        ``train_loader``, ``val_loader``, ``test_loader`` (`LoopLoader`, of AGCRN ``DataLoader``); ``x_train``,
        ``y_train``, … ``y_test`` (`Samples`, without repeated ones); ``scaler``; ``x_offsets``, ``y_offsets``.

    Raises
    ------
    LoaderError
        If the client is unknown, or batch sizes, tails or the number of window sets do not fit.
    SourceNotFoundError, SourceFormatError
        If one of the three files, or an array of one, is missing.

    Examples
    --------
    >>> import windowloader as wl
    >>> data = load_dataset(wl.Series(np.random.default_rng(0).normal(50, 9, (2016, 3))), batch_size=64)
    >>> [(data[f"{part}_loader"].size, len(data[f"x_{part}"])) for part in ("train", "val", "test")]
    [(1408, 1395), (256, 199), (448, 399)]
    >>> x, y = next(data["train_loader"].get_iterator())
    >>> x.shape, y.shape
    ((64, 12, 3, 1), (64, 12, 3, 1))
    """
    if client not in CLIENTS:
        raise LoaderError(f"client={client!r} is unknown. Known are {', '.join(map(repr, CLIENTS))}.")
    known = CLIENTS[client]
    tail = known.tail if tail is None else tail
    tails = dict(tail) if isinstance(tail, Mapping) else dict.fromkeys(PARTS, tail)
    if set(tails) != set(PARTS):
        raise LoaderError(f"tail must have one entry each for {', '.join(PARTS)}, got {tails!r}.")
    scaled = known.scale_targets if scale_targets is None else scale_targets
    shuffled = known.shuffle_train if shuffle_train is None else shuffle_train
    options: WindowReadOptions = {"fill": fill, "dtype": dtype, "scale_targets": scaled}
    windows: Parts = {}
    if isinstance(series, str | os.PathLike):
        if not known.reads_npz:
            raise LoaderError(
                f"client={client!r} reads no train.npz, val.npz and test.npz. Pass the series that its files were "
                "made from, or the client whose script wrote the folder."
            )
        pairs, numbers, offsets = _from_folder(Path(series), scaler, scaled, np.dtype(dtype))
    else:
        windows = _three(series, spec, ratio, known)
        used = windows["train"].spec
        first = windows["train"].series.columns(used.inputs)[0].name
        scaler = known.fit(windows, first) if scaler is None else scaler
        numbers = _two_numbers(scaler, first)
        options["scaler"] = scaler[first]
        pairs = {part: _pairs_of(one, options, week=known.week) for part, one in windows.items()}
        rows = {"x_offsets": used.input_rows, "y_offsets": used.target_rows}
        offsets = {name: (steps - used.anchor)[:, np.newaxis] for name, steps in rows.items()}
    data: dict[str, Any] = {"scaler": numbers}
    for part, samples in pairs.items():
        order = np.arange(len(samples))
        data |= {f"x_{part}": Samples(samples, 0, order), f"y_{part}": Samples(samples, 1, order)}
    data |= offsets
    sizes = (batch_size, valid_batch_size or batch_size, test_batch_size or batch_size)
    for part, size in zip(PARTS, sizes, strict=True):
        shuffle = shuffled and part == "train"
        if known.tensors:
            loader: Any = _tensor_loader(windows[part], options, size, tails[part], shuffle, rng)
        else:
            loader = LoopLoader(pairs[part], size, tail=tails[part], shuffle_now=shuffle, rng=rng)
        data[f"{part}_loader"] = loader
    return data


def _three(
    series: Series | Sequence[WindowSet], spec: WindowSpec | None, ratio: Ratio | None, client: Client
) -> Parts:
    if isinstance(series, Series):
        windows = WindowSet(series, spec or client.spec(series))
        return dict(zip(PARTS, client.cut(windows, ratio or client.ratio), strict=True))
    sets = tuple(series)
    if len(sets) != 3 or spec is not None:
        raise LoaderError(
            f"{len(sets)} window sets were passed{' and a spec' if spec is not None else ''}. Pass three, for train, "
            "val and test, which have their own spec."
        )
    return dict(zip(PARTS, sets, strict=True))


def _pairs_of(windows: WindowSet, options: WindowReadOptions, *, week: bool) -> Pairs:
    """Return windows as samples, with the days of the week in sevenths where ``week``."""
    reader = WindowReader(windows, **options)
    columns = [
        [place for place, column in enumerate(windows.series.columns(names)) if column.name == "day_of_week"]
        for names in (windows.spec.inputs, windows.spec.targets)
    ]

    def read(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = reader.read(numbers, graph=False)
        for array, days in zip((batch.inputs, batch.targets), columns, strict=True):
            if week and days:
                array[..., days] /= 7
        return batch.inputs, batch.targets

    x, y = read(np.zeros(1, np.int64))
    return Pairs(read, len(windows), (x.shape[1:], y.shape[1:]), x.dtype)


def _tensor_loader(
    windows: WindowSet, options: WindowReadOptions, batch_size: int, tail: Tail, shuffle: bool, generator: Any
) -> Any:
    """Make torch's own loader over the same windows: pairs of tensors, one gather per batch."""
    from windowloader.adapters.pytorch import (
        WindowDataset,
    )  # its error names the extra where torch is missing

    from torch.utils.data import DataLoader  # isort: skip

    check_epoch(len(windows), batch_size, tail)
    if tail == "pad":
        raise LoaderError("tail='pad': torch's DataLoader repeats no sample. Pass 'keep' or 'drop'.")
    dataset = WindowDataset(windows, **options)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=tail == "drop",
        collate_fn=partial(_collate_to_gpu, dataset),
        generator=generator,
    )


def _collate_to_gpu(dataset: Any, samples: Any) -> Any:
    """Collate, on the CUDA device where there is one: AGCRN's loop does not move batches."""
    import torch

    batch = dataset.collate(samples)
    return batch.to("cuda") if torch.cuda.is_available() else batch


def _from_folder(
    folder: Path, scaler: StandardScaler | None, scale_targets: bool, dtype: np.dtype
) -> tuple[dict[str, Pairs], FeatureScaler, dict[str, np.ndarray]]:
    """Read the three files; samples stay raw in memory and are scaled when they are read."""
    files = {part: folder / f"{part}.npz" for part in PARTS}
    absent = [path.name for path in files.values() if not path.is_file()]
    if absent:
        raise SourceNotFoundError(f"{folder} has no {', '.join(absent)}. Pass a folder of all three files.")
    arrays = {}
    for part, path in files.items():
        with open_npz_archive(path) as archive:
            if not {"x", "y"} <= set(archive.names):
                raise SourceFormatError(f"{path} holds {', '.join(archive.names)}, not x and y.")
            arrays[part] = {name: archive[name] for name in archive.names}
        counts = [len(arrays[part][name]) for name in "xy"]
        if counts[0] != counts[1]:
            raise SourceFormatError(
                f"{path} holds {counts[0]} x and {counts[1]} y: one y for each x is required."
            )
    first = arrays["train"]["x"][..., 0]
    numbers = FeatureScaler(float(first.mean(dtype=np.float64)), float(first.std(dtype=np.float64)))
    if scaler is not None:
        numbers = _two_numbers(scaler, (scaler.features or ("value",))[0])

    def pairs(x: np.ndarray, y: np.ndarray) -> Pairs:
        def read(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return side(x[positions], True), side(y[positions], scale_targets)

        return Pairs(read, len(x), (x.shape[1:], y.shape[1:]), dtype)

    def side(values: np.ndarray, scale: bool) -> np.ndarray:
        if not scale:
            return values.astype(dtype)
        values = values.astype(np.float64)
        values[..., 0] = numbers.transform(values[..., 0])
        return values.astype(dtype, copy=False)

    offsets = {name: array for name, array in arrays["train"].items() if name.endswith("_offsets")}
    return {part: pairs(found["x"], found["y"]) for part, found in arrays.items()}, numbers, offsets


def _two_numbers(scaler: StandardScaler, feature: str) -> FeatureScaler:
    mean, std = scaler[feature].mean, scaler[feature].std
    if not isinstance(mean, float) or not isinstance(std, float):
        raise LoaderError(
            f"scaler={scaler!r}: the literature's loops know one mean and one std, for the first feature."
        )
    return FeatureScaler(mean, std)
