"""The loaders of DCRNN, Graph WaveNet, MTGNN, LargeST and AGCRN, over windows that are never materialised.

In: a series, three window sets, or a folder of ``train.npz``, ``val.npz``, ``test.npz``; the name of a script. Out: the
literature's dict of loaders, arrays and a scaler, as their ``util.load_dataset`` returns it. Computes nothing of its
own: windows, splits and statistics are the core's, and what each script does is in `CLIENTS`.

How their sources define a loader (``lib/utils.py`` of DCRNN, ``util.py`` of Graph WaveNet and MTGNN,
``src/utils/dataloader.py`` of LargeST, ``lib/dataloader.py`` of AGCRN): samples stand in order of time; an epoch
ends by repeating the last sample up to a full batch (*pad*), with a short batch (*keep*: AGCRN's test part), or
before it (*drop*: LargeST, AGCRN's other parts); ``shuffle()`` permutes, by NumPy's global generator, the order of
the last epoch, repeated samples among it. AGCRN's loaders are torch's own ``DataLoader``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.adapters.numpy_clients import CLIENTS, PARTS, Client, Ratio, Tail
from windowloader.adapters.numpy_samples import ArrayPairs, ArrayWindowPairs, FeatureScaler, Pairs, Samples
from windowloader.errors import LoaderError, SourceFormatError, SourceNotFoundError
from windowloader.series.series import Series
from windowloader.sources.numpy_files import open_npz_archive
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from windowloader.scaling.scalers import StandardScaler
    from windowloader.windows.spec import WindowSpec

__all__ = ["CLIENTS", "Client", "FeatureScaler", "LoopLoader", "Pairs", "Samples", "load_dataset"]


@dataclass(slots=True, eq=False)
class LoopLoader:
    """An epoch's worth of batches as the literature's scripts walk through them.

    Parameters
    ----------
    pairs : Pairs
        The samples, in order of time.
    batch_size : int
    tail : {"pad", "keep", "drop"}
        How an epoch ends: the last sample repeated up to a full batch, a short batch, or none.
    shuffle_now : bool
        Shuffle once at construction, as DCRNN does.
    rng : numpy.random.Generator or RandomState, optional
        What `shuffle` draws from. None: NumPy's global generator, which their scripts seed with
        ``np.random.seed``, so that the order is theirs.

    Attributes
    ----------
    size : int
        Samples, repeated ones among them.
    num_batch : int
        Batches of an epoch.
    current_ind : int
        Number of the batch that the newest iterator yields next.

    Raises
    ------
    LoaderError
        If batch_size is below 1, tail is unknown, or an epoch would be empty.

    Examples
    --------
    >>> import windowloader as wl
    >>> data = load_dataset(wl.Series(np.arange(600.0).reshape(200, 3)), batch_size=50)
    >>> loader = LoopLoader(data["x_train"].pairs, 50, tail="keep")
    >>> [len(x) for x, y in loader.get_iterator()]
    [50, 50, 24]
    """

    pairs: Pairs
    batch_size: int
    tail: Tail = "pad"
    shuffle_now: bool = False
    rng: Any = None
    current_ind: int = field(init=False, default=0)
    _order: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.pairs)
        _check_epoch(count, self.batch_size, self.tail)
        padding = -count % self.batch_size if self.tail == "pad" else 0
        self._order = np.concatenate([np.arange(count), np.full(padding, count - 1)]).astype(np.int64)
        if self.shuffle_now:
            self.shuffle()

    @property
    def size(self) -> int:
        """Samples of an epoch, repeated ones among them."""
        return len(self._order)

    @property
    def num_batch(self) -> int:
        """Batches of an epoch."""
        return -(-self.size // self.batch_size) if self.tail == "keep" else self.size // self.batch_size

    @property
    def xs(self) -> Samples:
        """Inputs in the present order, seen as an array."""
        return Samples(self.pairs, 0, self._order)

    @property
    def ys(self) -> Samples:
        """Targets in the present order, seen as an array."""
        return Samples(self.pairs, 1, self._order)

    def __len__(self) -> int:
        return self.num_batch

    def shuffle(self) -> None:
        """Permute the present order, for the epochs to come."""
        rng = np.random if self.rng is None else self.rng
        self._order = self._order[rng.permutation(self.size)]

    def get_iterator(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of one epoch, pairs (x, y) of new arrays."""
        self.current_ind = 0
        return self._batches(self._order)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.get_iterator()

    def _batches(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(self.num_batch):
            self.current_ind = index
            yield self.pairs.read(order[index * self.batch_size : (index + 1) * self.batch_size])
        self.current_ind = self.num_batch


def _check_epoch(count: int, batch_size: int, tail: Tail) -> None:
    """Refuse what gives no batch."""
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise LoaderError(f"batch_size={batch_size!r}: a whole number of 1 or more is asked for.")
    if tail not in ("pad", "keep", "drop"):
        raise LoaderError(f"tail={tail!r} is unknown: 'pad', 'keep' or 'drop'.")
    if not count or (tail == "drop" and count < batch_size):
        raise LoaderError(
            f"{count} windows give no batch of {batch_size} with tail={tail!r}. Take a smaller batch_size, or "
            "tail='pad' or 'keep'."
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
    """Loaders, samples and scaler in the literature's dict.

    Parameters
    ----------
    series : Series, three WindowSets, or path
        A series is cut into parts as the client does. Three window sets are taken as train, val and test. A path
        is a folder of ``train.npz``, ``val.npz`` and ``test.npz`` with ``x``, ``y`` and perhaps ``x_offsets``,
        ``y_offsets``; these are held in memory as they are.
    batch_size, valid_batch_size, test_batch_size : int
        None: ``batch_size``.
    tail : {"pad", "keep", "drop"} or mapping of part to these, optional
        How an epoch ends; None: as the client's. DCRNN, Graph WaveNet, MTGNN: "pad". LargeST: "drop". AGCRN:
        ``{"train": "drop", "val": "drop", "test": "keep"}``.
    client : {"graph-wavenet", "mtgnn", "dcrnn", "largest", "agcrn"}
        The script whose arithmetic is taken (`CLIENTS`):

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
        Known statistics. None: of the first feature, as the client has them. Values declared missing are left out;
        the literature declares none and counts zeros too.
    scale_targets : bool, optional
        Whether the first feature of y is scaled as well; None: as the client has it.
    fill : float, optional
        What missing cells hold; see `WindowLoader`.
    dtype : str
        Of the batches. "float32" is what all these scripts feed to their models; the arrays of DCRNN, Graph WaveNet
        and MTGNN are "float64".
    shuffle_train : bool, optional
        Shuffle the train loader: once, here, as DCRNN does (AGCRN: each epoch). None: as the client does. Graph
        WaveNet, MTGNN and LargeST call ``train_loader.shuffle()`` each epoch.
    rng : numpy.random.Generator, RandomState or torch.Generator, optional
        What loaders shuffle by. None: NumPy's global generator; of AGCRN torch's.

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
        If the folder has not the three files, or a file not its arrays.

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
    tails = _tails(known.tail if tail is None else tail)
    sizes = (batch_size, valid_batch_size or batch_size, test_batch_size or batch_size)
    scaled = known.scale_targets if scale_targets is None else scale_targets
    shuffled = known.shuffle_train if shuffle_train is None else shuffle_train
    if isinstance(series, str | os.PathLike):
        if not known.reads_npz:
            raise LoaderError(
                f"client={client!r} reads no train.npz, val.npz and test.npz. Pass the series that its files were "
                "made from, or the client whose script wrote the folder."
            )
        data = _from_folder(Path(series), scaler, scaled, np.dtype(dtype))
    else:
        options = {"fill": fill, "dtype": dtype, "scale_targets": scaled}
        data = _from_windows(_three(series, spec, ratio, known), scaler, options, known)
    for part, size in zip(PARTS, sizes, strict=True):
        pairs: Pairs = data[f"x_{part}"].pairs
        shuffle = shuffled and part == "train"
        if known.tensors:
            assert isinstance(pairs, ArrayWindowPairs)
            loader: Any = _tensor_loader(pairs, size, tails[part], shuffle, rng)
        else:
            loader = LoopLoader(pairs, size, tail=tails[part], shuffle_now=shuffle, rng=rng)
        data[f"{part}_loader"] = loader
    return data


def _tails(tail: Tail | Mapping[str, Tail]) -> dict[str, Tail]:
    if not isinstance(tail, Mapping):
        return dict.fromkeys(PARTS, tail)
    if set(tail) != set(PARTS):
        raise LoaderError(f"tail={dict(tail)!r}: one entry each for {', '.join(PARTS)} is asked for.")
    return dict(tail)


def _three(
    series: Series | Sequence[WindowSet], spec: WindowSpec | None, ratio: Ratio | None, client: Client
) -> dict[str, WindowSet]:
    if not isinstance(series, Series):
        sets = tuple(series)
        if len(sets) != 3 or spec is not None:
            raise LoaderError(
                f"{len(sets)} window sets were given{' and a spec' if spec is not None else ''}: three are "
                f"asked for, train, val and test, which bring their own spec."
            )
        return dict(zip(PARTS, sets, strict=True))
    windows = WindowSet(series, spec or client.spec(series))
    return dict(zip(PARTS, client.cut(windows, ratio or client.ratio), strict=True))


def _from_windows(
    parts: Mapping[str, WindowSet],
    scaler: StandardScaler | None,
    options: Mapping[str, Any],
    client: Client,
) -> dict[str, Any]:
    train = parts["train"]
    first = train.series.columns(train.spec.inputs)[0].name
    if scaler is None:
        scaler = client.fit(parts, first)
    data: dict[str, Any] = {"scaler": _numbers(scaler, first)}
    for part, windows in parts.items():
        data |= _samples(
            part, ArrayWindowPairs.of(windows, {**options, "scaler": scaler[first]}, client.week)
        )
    spec = train.spec
    data["x_offsets"], data["y_offsets"] = (
        (rows - spec.anchor)[:, np.newaxis] for rows in (spec.input_rows, spec.target_rows)
    )
    return data


def _tensor_loader(
    pairs: ArrayWindowPairs, batch_size: int, tail: Tail, shuffle: bool, generator: Any
) -> Any:
    """Make torch's own loader over the same windows: pairs of tensors, one gather a batch."""
    from windowloader.adapters.pytorch import WindowDataset  # says what to install where torch is not

    from torch.utils.data import DataLoader  # isort: skip

    _check_epoch(len(pairs), batch_size, tail)
    if tail == "pad":
        raise LoaderError("tail='pad': torch's DataLoader repeats no sample. Pass 'keep' or 'drop'.")
    dataset = WindowDataset(pairs.windows, **pairs.options)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=tail == "drop",
        collate_fn=partial(_on_the_gpu, dataset),
        generator=generator,
    )


def _on_the_gpu(dataset: Any, samples: Any) -> Any:
    """Collate, on the CUDA device where there is one: AGCRN's loop moves nothing."""
    import torch

    batch = dataset.collate(samples)
    return batch.to("cuda") if torch.cuda.is_available() else batch


def _from_folder(
    folder: Path, scaler: StandardScaler | None, scale_targets: bool, dtype: np.dtype
) -> dict[str, Any]:
    files = {part: folder / f"{part}.npz" for part in PARTS}
    absent = [path.name for path in files.values() if not path.is_file()]
    if absent:
        raise SourceNotFoundError(
            f"{folder} has no {', '.join(absent)}; asked for are train.npz, val.npz and test.npz."
        )
    arrays = {part: _members(path) for part, path in files.items()}
    train = arrays["train"]["x"][..., 0]
    numbers = FeatureScaler(float(train.mean(dtype=np.float64)), float(train.std(dtype=np.float64)))
    if scaler is not None:
        numbers = _numbers(scaler, (scaler.features or ("value",))[0])
    data: dict[str, Any] = {"scaler": numbers}
    for part, members in arrays.items():
        data |= _samples(part, ArrayPairs(members["x"], members["y"], numbers, scale_targets, dtype))
    for name in ("x_offsets", "y_offsets"):
        if name in arrays["train"]:
            data[name] = arrays["train"][name]
    return data


def _members(path: Path) -> dict[str, np.ndarray]:
    with open_npz_archive(path) as archive:
        absent = [name for name in ("x", "y") if name not in archive.names]
        if absent:
            raise SourceFormatError(f"{path} holds {', '.join(archive.names)}, not {' and '.join(absent)}.")
        members = {name: archive[name] for name in archive.names}
    if len(members["x"]) != len(members["y"]):
        raise SourceFormatError(
            f"{path} holds {len(members['x'])} x and {len(members['y'])} y: one y for each x."
        )
    return members


def _samples(part: str, pairs: Pairs) -> dict[str, Samples]:
    order = np.arange(len(pairs))
    return {f"x_{part}": Samples(pairs, 0, order), f"y_{part}": Samples(pairs, 1, order)}


def _numbers(scaler: StandardScaler, feature: str) -> FeatureScaler:
    mean, std = scaler[feature].mean, scaler[feature].std
    if not isinstance(mean, float) or not isinstance(std, float):
        raise LoaderError(
            f"scaler={scaler!r}: the literature's loops know one mean and one std, for the first feature."
        )
    return FeatureScaler(mean, std)
