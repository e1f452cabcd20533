"""PGT's index datasets over windows that are gathered batch by batch.

In: a series (or what opens as one) and PGT's arguments. Out: PGT's tuple of three torch ``DataLoader``s, edges and
statistics. Holds the rows in memory, as PGT does, where PGT's own scaling is asked for, or on a device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from windowloader.adapters.pgt.families import SignalFamily, family_of
from windowloader.adapters.pgt.pairs import Published, WindowPairs, reported, rows_in_memory
from windowloader.errors import GraphError, LoaderError, RankError, ScalerError
from windowloader.scaling.scalers import StandardScaler
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.series.opening import open as open_series
from windowloader.series.series import Series
from windowloader.windows.spec import WindowSpec
from windowloader.windows.split import split

if TYPE_CHECKING:
    from windowloader.scaling.scaler import Scaler
    from windowloader.windows.window_set import WindowSet

__all__ = ["PGTWarning", "get_index_dataset"]

Pair = tuple[torch.Tensor, torch.Tensor]
ANY_SERIES = SignalFamily(
    loader="", open=open_series, lags=12, per="feature", dtype="float32"
)  # its defaults


class PGTWarning(UserWarning):
    """Where numbers differ from those that PyTorch Geometric Temporal would give."""


def get_index_dataset(
    series: Any,
    lags: int | None = None,
    batch_size: int | None = None,
    shuffle: bool = False,
    allGPU: int | str | torch.device = -1,  # noqa: N803 - PGT's name
    ratio: tuple[float, float, float] = (0.7, 0.1, 0.2),
    world_size: int = -1,
    ddp_rank: int = -1,
    dask_batching: bool = False,
    statistics: Literal["default", "train", "series"] | None = "default",
    means: Any = None,
    stds: Any = None,
    *,
    horizon: int | None = None,
    features: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    per: Literal["feature", "node"] | None = None,
    epsilon: float | None = None,
    dtype: Literal["float32", "float64"] | None = None,
    fill: float | None = None,
    layout: str | tuple[str, str] = "tnf",
    by: Literal["windows", "targets", "rows"] = "windows",
    edges: Any = None,
    edge_weights: Any = None,
    **loader_options: Any,
) -> tuple[Any, ...]:
    """PGT's ``get_index_dataset`` for any series.

    Parameters
    ----------
    series : Series, array, path or PGT dataset loader
        An array or path is opened as by ``windowloader.open``. Of a PGT loader the files are read, and arguments that
        are left out default to that loader's own ``get_index_dataset``: batches are equal to the bit. A loader
        without one takes the lags and the scaling of its ``get_dataset`` (`FAMILIES`).
    lags, batch_size : int, optional
        Default: 12 and 64; of a PGT loader its own (Chickenpox: 4 and 4; windmills: 8 and 64).
    shuffle, ratio, world_size, ddp_rank
        As in PGT. The three loaders use the same torch samplers, so an equal torch seed gives an equal order.
    allGPU : int or device
        Hold the scaled series on this CUDA device and gather there; -1: do not.
    dask_batching : bool
        Accepted without effect.
    statistics : {"default", "train", "series"}, optional
        Scale by statistics of the rows that train windows contain (clocks keep their range), or of the whole series
        in PGT's own arithmetic, to the bit, whose rows are then held in memory, as by PGT. None: no scaling.
        "default": "train"; for a PGT loader what it does, which is "series", or None where its file is already scaled
        (Chickenpox).
    means, stds : array_like or Tensor, optional
        Known statistics, used as those of "series": one per feature, one per node, or shape (node, feature).
    horizon : int, optional
        Steps of y. Default: as many as lags, as in PGT.
    features, targets : sequence of str, optional
        Names of x and of y, which may be clocks such as "time_of_day". Default: the series' own features; y as x.
    per : {"feature", "node"}, optional
        What has statistics of its own. Default "feature"; PGT's windmills: "node".
    epsilon : float, optional
        Added to the standard deviation. Default 0; PGT's windmills: 1e-10.
    dtype : {"float32", "float64"}, optional
        Of batches and of PGT's arithmetic. Default float32; PGT's PeMS sets, windmills and Chickenpox, unless a
        device holds them: float64.
    fill : float, optional
        Value of missing cells after scaling, where the series declares missing values.
    layout : str or pair of str
        Axes of a window, of x and y: ``t``, ``n``, ``f``; brackets fold: ``("n(tf)", "nt")``.
    by : {"windows", "targets", "rows"}
        Cut parts by window number as PGT does, where neighbouring parts share rows, or without shared targets, or
        without shared rows; see `windowloader.windows.split`.
    edges, edge_weights : array_like, optional
        Default: those of the series' graph; weights are ones where it has none.
    **loader_options
        Of ``DataLoader``: ``num_workers``, ``pin_memory``, … Workers of a streamed series are started by forkserver, so
        a script needs ``if __name__ == "__main__":``.

    Returns
    -------
    tuple
        ``train_dataloader, val_dataloader, test_dataloader, edges, edge_weights, means, stds``. Batches are tuples
        of tensors, shape (batch, step, node, feature); the last one is short. Edges: shape (2, edge), int64; weights,
        means and stds: float32, shape (feature,) or (node,). Edges are None without a graph. Five values,
        without means and stds, for a PGT loader whose values are not scaled (Chickenpox).

    Raises
    ------
    LoaderError, SplitError, ScalerError, RankError
        For arguments that do not fit, with what to do.

    Warns
    -----
    PGTWarning
        Where train statistics are used, of what differs from PGT.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> train, val, test, edges, weights, means, stds = get_index_dataset(
    ...     rng.normal(50, 9, (200, 3, 1)), lags=4, batch_size=16, statistics="series", edges=[[0, 1], [1, 2]])
    >>> x, y = next(iter(train))
    >>> x.shape, y.shape, len(train.dataset), edges.tolist(), weights.tolist()
    (torch.Size([16, 4, 3, 1]), torch.Size([16, 4, 3, 1]), 135, [[0, 1], [1, 2]], [1.0, 1.0])
    """
    family = family_of(series)
    own = family or ANY_SERIES
    if isinstance(series, torch.Tensor):
        series = series.detach().cpu().numpy()
    found = series if isinstance(series, Series) else own.open(series)
    device = None
    if allGPU != -1:
        device = torch.device("cuda", allGPU) if isinstance(allGPU, int) else torch.device(allGPU)
    lags = own.lags if lags is None else lags
    dtype = dtype or ("float32" if device is not None else own.dtype)
    fixed: Literal["series"] | None = "series" if own.per is not None else None  # what PGT's loader does
    if statistics == "default":
        statistics = "train" if family is None else fixed
    if dtype not in ("float32", "float64"):
        raise LoaderError(f"dtype must be 'float32' or 'float64', as PGT's sets are, got {dtype!r}.")
    names = [column.name for column in found.columns(features or own.features)]
    spec = WindowSpec(
        lookback=lags,
        horizon=lags if horizon is None else horizon,
        inputs=names,
        targets=names if targets is None else targets,
    )
    if spec.num_targets == 0 or spec.targets == ():
        raise LoaderError("PGT's batches are pairs: pass horizon=1 or more, and targets that are not empty.")
    parts = list(split(found, spec, tuple(ratio), by=by))
    how: dict[str, Any] = {
        "per": per or own.per or "feature",
        "epsilon": own.epsilon if epsilon is None else epsilon,
    }
    known = None if means is None and stds is None else (means, stds)
    if known and (means is None or stds is None):
        raise ScalerError("means and stds go together: pass both, or neither.")
    others = [column.name for column in found.columns(spec.targets) if column.name not in names]
    scaler: Scaler | None = None
    published = None
    if known or statistics == "series":
        published = Published.of(
            found, names, others, known=known, dtype=dtype, raw_dtype=dtype, fill=fill, device=device, **how
        )
    elif statistics == "train":
        _warn_of_differences(parts[0], names, by)
        columns = found.columns(names)
        timed = [c.name for c in columns if c.variable >= 0 and found.variables[c.variable].has_time]
        scaler = StandardScaler.fit(parts[0], features=timed, **how) if timed else None
    elif statistics is not None:
        raise ScalerError(
            f"statistics must be 'train', 'series' (PGT's) or None (no scaling), got {statistics!r}."
        )
    layouts = layout if isinstance(layout, tuple) else (layout, layout)
    if device is None:
        options: dict[str, Any] = {"scaler": scaler, "fill": fill, "dtype": dtype, "layout": layouts}
        pairs = [WindowPairs(part, published=published, **options) for part in parts]
        datasets = [IndexWindows(one.windows, one.read) for one in pairs]
    elif layouts != ("tnf", "tnf"):
        raise LoaderError(
            "allGPU holds the series as [time, node, feature] and gathers windows in that order: leave layout='tnf', "
            "and permute on the device."
        )
    else:
        every = [*names, *others]
        if published is not None:
            values = published.values
        else:
            values, _ = rows_in_memory(found, every, dtype=dtype, device=device, scaler=scaler, fill=fill)
        datasets = [_on_device(part, values, every) for part in parts]
    if loader_options.get("num_workers") and any(variable.view() is None for variable in found.variables):
        # TensorStore, which read the statistics here, cannot be used in a process forked after that
        loader_options.setdefault("multiprocessing_context", "forkserver")
    loader_options["batch_size"] = own.batch_size if batch_size is None else batch_size
    loaders = [_loader(dataset, shuffle, world_size, ddp_rank, loader_options) for dataset in datasets]
    graph = _edges(found, edges, edge_weights)
    scaling = published or scaler
    if scaling is None and fixed is None:
        return (*loaders, *graph)
    tables = [torch.from_numpy(table).to(device or "cpu") for table in reported(scaling, names)]
    return (*loaders, *graph, *tables)


def _loader(
    dataset: Dataset[Any], shuffle: bool, world_size: int, ddp_rank: int, options: dict[str, Any]
) -> DataLoader[Any]:
    sampler: DistributedSampler[Any] | None = None
    if (world_size, ddp_rank) != (-1, -1):
        if not 0 <= ddp_rank < world_size:
            raise RankError(
                f"world_size={world_size} and ddp_rank={ddp_rank}: under DDP pass dist.get_world_size() and "
                "dist.get_rank(), which counts from 0; otherwise neither."
            )
        sampler = DistributedSampler(dataset, num_replicas=world_size, rank=ddp_rank, shuffle=shuffle)
    own_shuffle = shuffle and sampler is None
    return DataLoader(dataset, shuffle=own_shuffle, sampler=sampler, collate_fn=collate, **options)


# -- data sets --------------------------------------------------------------------------------------------------------


class Gathered(Sequence[Any]):
    """Windows of one gather: pairs when indexed, the whole gather when collated."""

    __slots__ = ("pair",)

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def __len__(self) -> int:
        return len(self.pair[0])

    def __getitem__(self, index: Any) -> Any:
        return self.pair[0][index], self.pair[1][index]


def collate(windows: Sequence[Any]) -> Pair:
    """Return a gather as it is; stack pairs that came one by one."""
    if isinstance(windows, Gathered):
        return windows.pair
    x, y = zip(*windows, strict=True)
    return torch.stack(x), torch.stack(y)


class IndexWindows(Dataset[Any]):
    """Windows by number, with the attributes of PGT's ``IndexDataset``.

    Parameters
    ----------
    windows : WindowSet
    read : callable
        ``read(positions)`` gathers windows into tensors x and y.
    gpu : bool
        Whether a device holds the series.
    """

    lazy = False

    def __init__(self, windows: WindowSet, read: Callable[[np.ndarray], Pair], *, gpu: bool = False) -> None:
        self.windows, self.gpu = windows, gpu
        self.horizon = windows.spec.num_targets
        self._read = read

    @property
    def indices(self) -> np.ndarray:
        """First rows of the windows."""
        return self.windows.starts()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> Gathered:
        return Gathered(self._read(np.asarray(indices, np.int64)))


def _on_device(part: WindowSet, values: torch.Tensor, names: list[str]) -> IndexWindows:
    """Gather the windows of a part from rows that a device holds."""
    spec, sides = part.spec, []
    for wanted, steps in ((spec.inputs, spec.input_rows), (spec.targets, spec.target_rows)):
        role = [column.name for column in part.series.columns(wanted)]
        columns = slice(None) if role == names else [names.index(name) for name in role]
        sides.append((torch.as_tensor(steps, device=values.device), columns))

    def read(positions: np.ndarray) -> Pair:
        starts = torch.from_numpy(part.starts(positions)).to(values.device)[:, None]
        x, y = (values[starts + steps][..., columns] for steps, columns in sides)
        return x, y

    return IndexWindows(part, read, gpu=True)


# -- statistics and edges ---------------------------------------------------------------------------------------------


def _warn_of_differences(train: WindowSet, names: list[str], by: str) -> None:
    first, last = train.row_range
    clocks = [column.name for column in train.series.columns(names) if column.variable < 0]
    shared = f"Parts are cut by={by!r}, not by window number."
    if by == "windows":
        shared = f"Neighbouring parts share up to {train.spec.span - 1} rows; by='targets' shares no target."
    warnings.warn(
        f"means and stds are those of rows {first} … {last - 1}, which train windows contain. PGT takes them over all "
        f"{train.series.num_steps} rows, so its published numbers differ (statistics='series' gives them). Clocks keep "
        f"their range: {clocks}. {shared}",
        PGTWarning,
        stacklevel=3,
    )


def _edges(series: Series, edges: Any, weights: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if edges is None:
        graph = series.graph
        if graph is None:
            return None, None
        if isinstance(graph, DynamicGraph):
            raise GraphError(
                "the series' graph changes with time, and an index dataset has one graph: pass edges=, or use "
                "to_signal, which gives each snapshot its own."
            )
        edges, weights = graph.edge_index, graph.edge_weight if weights is None else weights
    index = torch.as_tensor(edges, dtype=torch.int64)
    if index.ndim != 2 or index.shape[0] != 2:
        raise GraphError(f"edges must have shape (2, edge), got {tuple(index.shape)}.")
    return index, torch.ones(index.shape[1]) if weights is None else torch.as_tensor(
        weights, dtype=torch.float32
    )
