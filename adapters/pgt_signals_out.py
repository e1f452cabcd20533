"""Windows as a PGT signal: snapshots that are read when they are looked at.

In: a window set, how its arrays should look. Out: `WindowSignal`, which PGT's loops, its ``temporal_signal_split`` and
its own containers take for one of theirs. Never materialises: a slice is the same signal of fewer windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from windowloader.adapters.pgt_arithmetic import Published
from windowloader.adapters.pgt_objects import pyg_data
from windowloader.adapters.pgt_pairs import Fold, PairOptions, WindowPairs
from windowloader.dynamic_graph import DynamicGraph
from windowloader.errors import GraphError, LoaderError, SeriesError

if TYPE_CHECKING:
    from windowloader.scaler import Scaler
    from windowloader.spec import WindowSpec
    from windowloader.windows import WindowSet

__all__ = ["Snapshots", "WindowSignal", "to_signal"]

AHEAD_BYTES = 1 << 20  # an iterator gathers snapshots together up to this size


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One attribute of a snapshot.

    Parameters
    ----------
    pairs : WindowPairs
    side : {0, 1}
        Its inputs or its targets.
    shape : tuple of int, optional
        Of one snapshot, where it is not as gathered.
    integer : bool
        Delivered as int64.
    """

    pairs: WindowPairs
    side: int
    shape: tuple[int, ...] | None = None
    integer: bool = False

    def read(self, positions: np.ndarray) -> list[Any]:
        """Arrays of some snapshots, views of one gather; None where nothing of one is there."""
        return self.finish(self.pairs.read(positions)[self.side], positions)

    def finish(self, array: Any, positions: np.ndarray) -> list[Any]:
        """Shape what was gathered, snapshot by snapshot."""
        if array is None:
            return [None] * len(positions)
        if self.shape is not None:
            array = array.reshape(len(positions), *self.shape)
        if self.integer:
            array = array.astype(np.int64)
        seen = self.pairs.observed(positions)[self.side]
        return [part if there else None for part, there in zip(array, seen, strict=True)]


class Snapshots(Sequence[Any]):
    """One attribute of all snapshots, as PGT's containers hold them: arrays by number, read when asked for.

    Parameters
    ----------
    part : Part
    windows : WindowSet
    """

    __slots__ = ("_numbers", "_part")

    def __init__(self, part: Part, numbers: range) -> None:
        self._part = part
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Snapshots(self._part, self._numbers[index])
        return self._part.read(np.array([self._numbers[index]]))[0]

    def __repr__(self) -> str:
        return f"<{len(self)} snapshots, read when indexed>"


class Edges(Sequence[Any]):
    """Edges or weights of all snapshots of a dynamic graph."""

    __slots__ = ("_numbers", "_weights", "_windows")

    def __init__(self, windows: WindowSet, numbers: range, *, weights: bool) -> None:
        self._windows = windows
        self._numbers = numbers
        self._weights = weights

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Edges(self._windows, self._numbers[index], weights=self._weights)
        edges = self._windows.graph_at(self._windows.starts([self._numbers[index]]))
        return edges.edge_weight if self._weights else edges.edge_index


class WindowSignal:
    """A window set as PGT's ``StaticGraphTemporalSignal`` or ``DynamicGraphTemporalSignal``.

    Made by `to_signal`. An int gives a PyG ``Data`` (a ``Batch`` where nodes have batch numbers), a slice a signal;
    each iterator runs by itself.

    Attributes
    ----------
    windows : WindowSet
    features, targets : Snapshots
        Arrays by number.
    edge_index, edge_weight : ndarray or None
        With a static graph.
    edge_indices, edge_weights : sequence of ndarray
        With a dynamic graph.
    snapshot_count : int
    additional_feature_keys : list of str
        Further attributes, each a `Snapshots` under its name.
    """

    def __init__(self, windows: WindowSet, parts: Mapping[str, Part], numbers: range) -> None:
        self.windows = windows
        self._parts = dict(parts)
        self._numbers = numbers
        self.snapshot_count = len(numbers)
        self.features = Snapshots(parts["x"], numbers)
        self.targets = Snapshots(parts["y"], numbers)
        self.additional_feature_keys = [name for name in parts if name not in ("x", "y", "batch")]
        for name in self.additional_feature_keys:
            setattr(self, name, Snapshots(parts[name], numbers))
        graph = windows.series.graph
        if "batch" in parts:
            batches = Snapshots(parts["batch"], numbers)
            self.batches = batches if isinstance(graph, DynamicGraph) or not len(self) else batches[0]
        self._static: tuple[Any, Any] = (None, None)
        if isinstance(graph, DynamicGraph):
            self.edge_indices = Edges(windows, numbers, weights=False)
            self.edge_weights = Edges(windows, numbers, weights=True)
        else:
            self.edge_index = None if graph is None else graph.edge_index
            self.edge_weight = None if graph is None else graph.edge_weight
            self._static = _tensors(self.edge_index, self.edge_weight)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return WindowSignal(self.windows, self._parts, self._numbers[index])
        return self._snapshots(np.array([self._numbers[index]]))[0]

    def __iter__(self) -> Iterator[Any]:
        first = self.features[0] if len(self) else None
        size = max(1, 0 if first is None else first.nbytes)
        together = max(1, AHEAD_BYTES // size)
        for begin in range(0, len(self), together):
            yield from self._snapshots(np.asarray(self._numbers[begin : begin + together], np.int64))

    def __repr__(self) -> str:
        kind = "dynamic" if isinstance(self.windows.series.graph, DynamicGraph) else "static"
        return f"WindowSignal({len(self):,} snapshots, {kind} graph; {self.windows!r})"

    def _snapshots(self, positions: np.ndarray) -> list[Any]:
        """Snapshots of some windows, gathered together."""
        gathered: dict[int, Any] = {}
        columns: dict[str, list[Any]] = {}
        for name, part in self._parts.items():
            key = id(part.pairs)
            if key not in gathered:
                gathered[key] = part.pairs.read(positions)
            columns[name] = part.finish(gathered[key][part.side], positions)
        data = pyg_data()
        kind = data.Batch if "batch" in columns else data.Data
        found = []
        for place, position in enumerate(positions.tolist()):
            given = {
                name: None if values[place] is None else torch.from_numpy(values[place])
                for name, values in columns.items()
            }
            edge_index, edge_attr = self._edges(position)
            found.append(
                kind(x=given.pop("x"), edge_index=edge_index, edge_attr=edge_attr, y=given.pop("y"), **given)
            )
        return found

    def _edges(self, position: int) -> tuple[Any, Any]:
        if not isinstance(self.windows.series.graph, DynamicGraph):
            return self._static
        edges = self.windows.graph_at(self.windows.starts([position]))
        return _tensors(edges.edge_index, edges.edge_weight)


def _tensors(index: Any, weight: Any) -> tuple[Any, Any]:
    """Edges as PGT's snapshots hold them: int64, and float32."""
    return (
        None if index is None else torch.as_tensor(index),
        None if weight is None else torch.as_tensor(weight, dtype=torch.float32),
    )


def to_signal(
    windows: WindowSet,
    *,
    scaler: Scaler | None = None,
    scale_targets: bool = True,
    statistics: Literal["series"] | None = None,
    per: Literal["feature", "node"] = "feature",
    epsilon: float = 0.0,
    precision: Literal["float32", "float64"] = "float64",
    fill: float | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    layout: str | tuple[str | None, str | None] | None = None,
    additional: Mapping[str, str | Sequence[str]] = {},
    like: Any = None,
) -> WindowSignal:
    """See windows as a PGT signal, without materialising them.

    Parameters
    ----------
    windows : WindowSet
        A window is a snapshot. With a dynamic graph the spec says whose row's edges a snapshot has:
        ``graph="first"`` as PGT's loaders, or ``"last"``.
    scaler : Scaler, optional
        For example ``StandardScaler.fit(train)``, which sees no row of the test part.
    scale_targets : bool
        False: targets keep their units.
    statistics : {"series"}, optional
        PGT's published arithmetic instead of a scaler: over all rows of the series, for each feature or (``per``)
        each node, ``epsilon`` added to the deviation, computed in ``precision``.
    per, epsilon, precision
        Of ``statistics="series"``.
    fill : float, optional
        What missing cells hold. None: as they are (NaN stays NaN).
    dtype : {"float32", "float64"}
        Of x and y; PGT's snapshots are float32. Integer targets that nothing scales stay int64.
    layout : str or pair of str, optional
        Axes of x and y of a snapshot, letters ``t``, ``n``, ``f``; brackets fold, ``"n(tf)"``. Default as PGT's
        loaders: x ``nt`` for one feature, ``nft`` for more; y the same without an axis of size 1.
    additional : mapping of str to name or names
        Further attributes of a snapshot: features read over the input rows.
    like : signal, optional
        A PGT container that the series was made from (`from_signal`): snapshots get the shapes, additional features
        and batch numbers of its own.

    Returns
    -------
    WindowSignal

    Raises
    ------
    GraphError
        Where a snapshot would have the graphs of several rows.
    LoaderError, AxesError, ScalerError, SeriesError
        For arguments that do not fit.

    Examples
    --------
    >>> import windowloader as wl
    >>> series = wl.Series(np.arange(30.0).reshape(10, 3), graph=wl.Graph([[0, 1], [1, 2]]))
    >>> signal = to_signal(wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=1)))
    >>> len(signal), signal.features[0].shape, signal.targets[0], len(signal[2:])
    (6, (3, 4), array([12., 13., 14.], dtype=float32), 4)
    """
    spec, series = windows.spec, windows.series
    if isinstance(series.graph, DynamicGraph) and spec.graph == "each" and spec.num_inputs > 1:
        raise GraphError(
            f"the graph changes with time, and a snapshot of {spec.num_inputs} input rows would have one for each. Say "
            "WindowSpec(…, graph='first'), as PGT's loaders do, or 'last'."
        )
    if scaler is not None and statistics is not None:
        raise LoaderError("scaler= and statistics= both say how to scale. Give one of them.")
    scaling: Scaler | Published | None = scaler
    if statistics == "series":
        names = [c.name for c in (*series.columns(spec.inputs), *_target_columns(windows))]
        names = [n for n in dict.fromkeys(names) if _is_scalable(windows, n)]
        scaling = Published.fit(series, names, per=per, epsilon=epsilon, dtype=precision)
    elif statistics is not None:
        raise LoaderError(
            f"statistics={statistics!r} is unknown: 'series' is PGT's, None leaves it to scaler=."
        )
    options = PairOptions(
        scaling=scaling, scale_targets=scale_targets, dtype=dtype, fill=_fill(windows, fill),
        layouts=_layouts(windows, layout),
    )  # fmt: skip
    pairs = WindowPairs(windows, options)
    parts = {"x": Part(pairs, 0, _shape(like, "features")), "y": Part(pairs, 1, _shape(like, "targets"))}
    extras: dict[str, Any] = dict(additional)
    if like is not None:
        extras |= {key: key for key in like.additional_feature_keys}
        extras |= {"batch": "batch"} if hasattr(like, "batches") else {}
    for key, names_ in extras.items():
        parts[key] = _extra(windows, key, names_, options, like)
    return WindowSignal(windows, parts, range(len(windows)))


def _target_columns(windows: WindowSet) -> Sequence[Any]:
    spec = windows.spec
    return windows.series.columns(spec.targets) if spec.num_targets and spec.targets != () else ()


def _is_scalable(windows: WindowSet, name: str) -> bool:
    """Whether a column changes with time; clocks do."""
    series = windows.series
    (column,) = series.columns([name])
    return column.variable < 0 or series.variables[column.variable].has_time


def _by_node(windows: WindowSet, columns: Sequence[Any]) -> bool:
    """Whether a column has a value for each node."""
    variables = windows.series.variables
    return any(column.variable >= 0 and variables[column.variable].has_nodes for column in columns)


def _fill(windows: WindowSet, fill: float | None) -> float | None:
    """Keep NaN where nothing else is asked for: PGT's containers hand it on."""
    declared = [variable.missing for variable in windows.series.variables]
    keep = fill is None and any(missing is not None and np.isnan(missing) for missing in declared)
    return float("nan") if keep else fill


def _layouts(windows: WindowSet, layout: Any) -> tuple[Fold, Fold]:
    """Layouts as given, else as PGT's loaders have them."""
    given = layout if isinstance(layout, tuple) else (layout, layout)
    spec, columns = windows.spec, windows.series.columns(windows.spec.inputs)
    targets = _target_columns(windows)
    several = "f" if len(columns) > 1 else ""
    x = "n" + several + ("t" if spec.num_inputs > 1 or not several else "")
    y = "n" * _by_node(windows, targets) + "f" * (len(targets) > 1) + "t" * (spec.num_targets > 1)
    return Fold(x if given[0] is None else given[0]), Fold(y if given[1] is None else given[1])


def _first(given: Any) -> Any:
    """Return the first array that is there of an attribute of a container, which may be one array for all snapshots."""
    if given is None or hasattr(given, "dtype"):
        return given
    return next((array for array in given if array is not None), None)


def _shape(like: Any, name: str) -> tuple[int, ...] | None:
    """Shape of an attribute of a container's snapshots."""
    if like is None:
        return None
    if hasattr(like, "feature_dicts") or hasattr(like, "feature_dict"):
        raise SeriesError(
            "like= is a signal of several node types, and a snapshot here has one. Leave it out, and cut nodes and "
            "features apart by hetero_layout(signal)."
        )
    found = _first(getattr(like, name, getattr(like, "feature", None) if name == "features" else None))
    return None if found is None else tuple(np.shape(found))


def _extra(windows: WindowSet, key: str, names: str | Sequence[str], options: PairOptions, like: Any) -> Part:
    """Read a further attribute over the input rows."""
    from windowloader.windows import WindowSet as Windows

    spec: WindowSpec = replace(windows.spec, inputs=names, targets=())
    chosen = Windows(windows.series, spec, index=windows.index)
    columns = windows.series.columns(spec.inputs)
    variables = [windows.series.variables[column.variable] for column in columns if column.variable >= 0]
    integer = len(variables) == len(columns) and all(variable.dtype.kind in "iu" for variable in variables)
    node = "n" if _by_node(windows, columns) else ""
    text = node + "f" * (len(columns) > 1) + "t" * (spec.num_inputs > 1)
    pairs = WindowPairs(
        chosen,
        PairOptions(
            dtype="float64" if integer else options.dtype, fill=options.fill, layouts=(Fold(text),) * 2
        ),
    )
    shape = None if like is None else _shape(like, "batches" if key == "batch" else key)
    return Part(pairs, 0, shape, integer)
