"""PGT's index datasets over windows that are read where they lie.

In: a series (or what becomes one) and PGT's arguments. Out: its tuple of three torch ``DataLoader``s, edges and
statistics. Makes no copy of the series, unless it is asked to hold it on a device.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from windowloader.adapters.pgt_arithmetic import Published, numbers
from windowloader.adapters.pgt_datasets import IndexWindows, collate, fit_on_device, on_device
from windowloader.adapters.pgt_families import family_of
from windowloader.adapters.pgt_pairs import Fold, PairOptions
from windowloader.errors import GraphError, LoaderError, RankError, ScalerError
from windowloader.scaling.scalers import StandardScaler
from windowloader.series.opening import open as open_series
from windowloader.series.series import Series
from windowloader.windows.spec import WindowSpec
from windowloader.windows.split import split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.utils.data import Dataset

    from windowloader.windows.window_set import WindowSet

__all__ = ["PGTWarning", "get_index_dataset"]

Statistics = Literal["default", "train", "series"] | None


class PGTWarning(UserWarning):
    """Where numbers differ from those PyTorch Geometric Temporal would give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampling:
    """How the three loaders draw: PGT's arguments, checked."""

    batch_size: int
    shuffle: bool
    world_size: int
    ddp_rank: int
    num_workers: int
    pin_memory: bool
    streamed: bool

    def __post_init__(self) -> None:
        if (self.ddp_rank == -1) != (self.world_size == -1):
            raise RankError(
                f"world_size={self.world_size} and ddp_rank={self.ddp_rank}: both are given under DDP, or neither "
                "(-1). Pass dist.get_world_size() and dist.get_rank()."
            )
        if self.ddp_rank != -1 and not 0 <= self.ddp_rank < self.world_size:
            raise RankError(
                f"ddp_rank={self.ddp_rank} is outside world_size={self.world_size}; ranks count from 0."
            )

    def loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        sampler: DistributedSampler[Any] | None = None
        if self.ddp_rank != -1:
            sampler = DistributedSampler(
                dataset, num_replicas=self.world_size, rank=self.ddp_rank, shuffle=self.shuffle
            )
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=self.shuffle if sampler is None else None,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            # Statistics are read here, and TensorStore cannot be used in a process forked after that.
            multiprocessing_context="forkserver" if self.num_workers and self.streamed else None,
            pin_memory=self.pin_memory,
        )


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
    statistics: Statistics = "default",
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
    num_workers: int = 0,
    pin_memory: bool = False,
) -> tuple[Any, ...]:
    """PGT's ``get_index_dataset`` for any series.

    Parameters
    ----------
    series : Series, array, path or PGT dataset loader
        An array or path is opened as ``windowloader.open`` does. Of a PGT loader its files are, and all that these
        arguments leave open is as in that loader's own ``get_index_dataset``: the batches are equal to the bit. A
        loader that has none takes the lags and the scaling of its ``get_dataset`` (`FAMILIES`).
    lags, batch_size : int, optional
        Default: 12 and 64; of a PGT loader its own (Chickenpox: 4 and 4; windmills: 8 and 64).
    shuffle, ratio, world_size, ddp_rank
        As in PGT: the three loaders draw by the same torch samplers, so an equal torch seed gives an equal order.
    allGPU : int or device
        Hold the scaled series on this CUDA device, and gather there; -1: read windows where the series lies.
    dask_batching : bool
        Accepted and without effect: windows are always read where they lie.
    statistics : {"default", "train", "series"}, optional
        Scale by statistics of the rows that train windows hold (clocks keep their range), or of the whole series in
        PGT's own arithmetic, to the bit. None: not at all. "default": "train"; for a PGT loader what it does, which
        is "series", or None for those whose files are scaled already (Chickenpox).
    means, stds : array_like or Tensor, optional
        Known statistics, used in PGT's arithmetic: one a feature, one a node, or shape (node, feature).
    horizon : int, optional
        Steps of y; PGT has as many as lags.
    features, targets : sequence of str, optional
        Names of x and of y, clocks such as "time_of_day" among them. Default: the series' own features; y as x.
    per : {"feature", "node"}, optional
        What has statistics of its own; default "feature"; PGT's windmills: "node".
    epsilon : float, optional
        Added to the standard deviation; default 0; PGT's windmills: 1e-10.
    dtype : {"float32", "float64"}, optional
        Of batches and of PGT's arithmetic; default float32; PGT's PeMS sets, windmills and Chickenpox, where no
        device holds them: float64.
    fill : float, optional
        What missing cells hold after scaling, where the series declares missing values.
    layout : str or pair of str
        Axes of a window, of x and y: ``t``, ``n``, ``f``, brackets fold: ``("n(tf)", "nt")``.
    by : {"windows", "targets", "rows"}
        Cut parts by window number as PGT does, where neighbouring parts share rows, or without shared targets, or
        without shared rows; see `windowloader.windows.split`.
    edges, edge_weights : array_like, optional
        Default: those of the series' graph; weights are ones where it has none.
    num_workers, pin_memory
        As of ``DataLoader``. Workers of a series that is streamed are started by forkserver, so that a script needs
        ``if __name__ == "__main__":``.

    Returns
    -------
    tuple
        ``train_dataloader, val_dataloader, test_dataloader, edges, edge_weights, means, stds``. Batches are tuples
        of tensors, shape (batch, step, node, feature), the last one short. Edges: shape (2, edge), int64; weights,
        means and stds: float32, shape (feature,) or (node,). Edges are None where there is no graph. Five values,
        without means and stds, for a PGT loader whose values are not scaled (Chickenpox).

    Raises
    ------
    LoaderError, SplitError, ScalerError, RankError
        For arguments that do not fit, with what to do.

    Warns
    -----
    PGTWarning
        Where train statistics are taken, of what differs from PGT.

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
    found, own = _as_series(series)
    lags = own["lags"] if lags is None else lags
    sampling = _Sampling(
        batch_size=own["batch_size"] if batch_size is None else batch_size, shuffle=shuffle,
        world_size=world_size, ddp_rank=ddp_rank, num_workers=num_workers, pin_memory=pin_memory,
        streamed=any(variable.view() is None for variable in found.variables),
    )  # fmt: skip
    device = _device(allGPU)
    kind: Literal["feature", "node"] = per or own["per"]
    added: float = own["epsilon"] if epsilon is None else epsilon
    dtype = dtype or ("float32" if device is not None else own["dtype"])
    features = features or own["features"]
    if statistics == "default":
        statistics = own["statistics"]
    if dtype not in ("float32", "float64"):
        raise LoaderError(f"dtype={dtype!r}: 'float32' or 'float64' is asked for, as PGT's sets are.")
    names = [column.name for column in found.columns(features)]
    spec = WindowSpec(
        lookback=lags,
        horizon=lags if horizon is None else horizon,
        inputs=names,
        targets=names if targets is None else targets,
    )
    if spec.num_targets == 0 or spec.targets == ():
        raise LoaderError("PGT's batches are pairs: say horizon=1 or more, and targets that are not empty.")
    parts = list(split(found, spec, tuple(ratio), by=by))
    pair = (layout, layout) if isinstance(layout, str) else layout
    scaling = _scaling(
        parts[0], names, statistics, means, stds, per=kind, epsilon=added, dtype=dtype, device=device
    )
    options = PairOptions(scaling=scaling, fill=fill, dtype=dtype, layouts=(Fold(pair[0]), Fold(pair[1])))
    if device is None:
        datasets: list[Dataset[Any]] = [IndexWindows(part, options) for part in parts]
    else:
        datasets = [*on_device(parts, options, device)]
    if statistics == "train" and means is None:
        _say_what_differs(parts[0], names, by)
    loaders = [sampling.loader(dataset) for dataset in datasets]
    graph = _edges(found, edges, edge_weights)
    if scaling is None and own["statistics"] is None:
        return (*loaders, *graph)
    known = [torch.from_numpy(table) for table in numbers(scaling, names)]
    if device is not None:
        known = [table.to(device) for table in known]
    return (*loaders, *graph, *known)


def _as_series(given: Any) -> tuple[Series, Mapping[str, Any]]:
    """Open what was given, and say what its options are where the caller gave none."""
    own: dict[str, Any] = {
        "lags": 12, "batch_size": 64, "statistics": "train", "per": "feature", "epsilon": 0.0,
        "dtype": "float32", "features": None,
    }  # fmt: skip
    if isinstance(given, Series):
        return given, own
    if hasattr(given, "get_index_dataset") or hasattr(given, "get_dataset"):
        family = family_of(given)
        return family.open(given), {
            **own, "lags": family.lags, "statistics": "series", **family.index_options
        }  # fmt: skip
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    return open_series(given), own


def _device(given: int | str | torch.device) -> torch.device | None:
    if isinstance(given, int):
        return None if given == -1 else torch.device("cuda", given)
    return torch.device(given)


def _scaling(
    train: WindowSet, names: list[str], statistics: Statistics, means: Any, stds: Any, *,
    per: Literal["feature", "node"], epsilon: float, dtype: str, device: torch.device | None,
) -> StandardScaler | Published | None:  # fmt: skip
    if (means is None) != (stds is None):
        raise ScalerError("means and stds go together: give both, or neither.")
    if means is not None:
        return Published.of(names, means, stds, dtype=dtype, num_nodes=train.series.num_nodes)
    if statistics is None:
        return None
    if statistics == "series":
        if device is not None:
            return fit_on_device(train.series, names, device, per=per, epsilon=epsilon, dtype=dtype)
        return Published.fit(train.series, names, per=per, epsilon=epsilon, dtype=dtype)
    if statistics != "train":
        raise ScalerError(
            f"statistics={statistics!r} is unknown. Known are 'train', 'series' (PGT's) and None (no scaling)."
        )
    columns = train.series.columns(names)
    timed = [c.name for c in columns if c.variable >= 0 and train.series.variables[c.variable].has_time]
    return StandardScaler.fit(train, features=timed, per=per, epsilon=epsilon) if timed else None


def _say_what_differs(train: WindowSet, names: list[str], by: str) -> None:
    first, last = train.row_range
    clocks = [column.name for column in train.series.columns(names) if column.variable < 0]
    span = train.spec.span - 1
    shared = (
        f" Parts are cut by window number, as PGT's: neighbours share up to {span} rows, targets among them; "
        "by='targets' shares no target."
        if by == "windows"
        else f" Parts are cut by={by!r}, not by window number."
    )
    warnings.warn(
        f"means and stds are those of rows {first} … {last - 1}, which train windows hold; PGT takes them over all "
        f"{train.series.num_steps} rows, the test part's among them, so its published numbers differ "
        f"(statistics='series' gives them).{f' Clocks keep their range: {clocks}.' if clocks else ''}{shared}",
        PGTWarning,
        stacklevel=3,
    )


def _edges(series: Series, edges: Any, weights: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if edges is None:
        graph = series.graph
        if graph is None:
            return None, None
        if not hasattr(graph, "dense"):
            raise GraphError(
                "the series' graph changes with time, and an index dataset has one graph: pass edges=, or take "
                "to_signal, which gives each snapshot its own."
            )
        edges, weights = graph.edge_index, graph.edge_weight if weights is None else weights
    index = torch.as_tensor(edges, dtype=torch.int64)
    if index.ndim != 2 or index.shape[0] != 2:
        raise GraphError(f"edges have shape {tuple(index.shape)}; (2, edge) is asked for.")
    values = torch.ones(index.shape[1]) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
    return index, values
