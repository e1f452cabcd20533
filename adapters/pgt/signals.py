"""PGT's signals, both ways: windows as a signal, and PGT's containers as series.

In: a window set, or one of PGT's signals, known by its attributes. Out: `WindowSignal`, whose snapshots are read when
they are looked at, and which PGT's loops and ``temporal_signal_split`` accept as a signal of their own; a `Series`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from windowloader.adapters.pgt.pairs import Published, WindowPairs
from windowloader.adapters.pgt.pyg import pyg_data
from windowloader.errors import GraphError, LoaderError, SeriesError
from windowloader.series.dynamic_graph import DynamicGraph, WindowEdges
from windowloader.series.graph import Graph
from windowloader.series.series import Series

if TYPE_CHECKING:
    from windowloader.scaling.scaler import Scaler
    from windowloader.windows.window_set import WindowSet

__all__ = ["WindowSignal", "from_signal", "to_signal"]

AHEAD_BYTES = 1 << 20  # an iterator gathers snapshots together up to this size


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
) -> WindowSignal:
    """View windows as a PGT signal, without materialising them.

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
        Value of missing cells. None: NaN stays NaN.
    dtype : {"float32", "float64"}
        Of x and y; PGT's snapshots are float32. Integer targets that are not scaled are int64.
    layout : str or pair of str, optional
        Axes of x and y of a snapshot, letters ``t``, ``n``, ``f``; brackets fold, ``"n(tf)"``. Default as PGT's
        loaders: x ``nt`` for one feature, ``nft`` for more; y the same without an axis of size 1.

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
            f"the graph changes with time, and a snapshot of {spec.num_inputs} input rows would have one for each. "
            "Pass WindowSpec(…, graph='first'), as PGT's loaders do, or 'last'."
        )
    inputs = series.columns(spec.inputs)
    targets = series.columns(spec.targets) if spec.num_targets and spec.targets != () else ()
    if fill is None and any(v.missing is not None and np.isnan(v.missing) for v in series.variables):
        fill = float("nan")
    published = None
    if statistics == "series" and scaler is None:
        changing = [
            c.name
            for c in (*inputs, *(targets if scale_targets else ()))
            if c.variable < 0 or series.variables[c.variable].has_time
        ]
        raw = [c.name for c in inputs if c.name not in changing]
        raw += [c.name for c in targets if not scale_targets or c.name not in changing]
        published = Published.of(
            series,
            list(dict.fromkeys(changing)),
            list(dict.fromkeys(raw)),
            per=per,
            epsilon=epsilon,
            dtype=precision,
            raw_dtype="float64",
            fill=fill,
        )
    elif statistics is not None:
        raise LoaderError(
            f"statistics must be None or 'series' (PGT's), and only one of them and scaler=, got {statistics!r} and "
            f"scaler={scaler!r}."
        )
    several = "f" if len(inputs) > 1 else ""
    by_node = any(c.variable >= 0 and series.variables[c.variable].has_nodes for c in targets)
    x = "n" + several + ("t" if spec.num_inputs > 1 or not several else "")
    y = "n" * by_node + "f" * (len(targets) > 1) + "t" * (spec.num_targets > 1)
    given = layout if isinstance(layout, tuple) else (layout, layout)
    pairs = WindowPairs(
        windows,
        published=published,
        scaler=scaler,
        scale_targets=scale_targets,
        fill=fill,
        dtype=dtype,
        layout=(x if given[0] is None else given[0], y if given[1] is None else given[1]),
        integer_targets=True,
    )
    return WindowSignal(pairs, range(len(windows)))


class Snapshots(Sequence[Any]):
    """One attribute of all snapshots, as PGT's containers have them: read when indexed."""

    __slots__ = ("_numbers", "_read")

    def __init__(self, read: Callable[[int], Any], numbers: range) -> None:
        self._read, self._numbers = read, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Snapshots(self._read, self._numbers[index])
        return self._read(self._numbers[index])

    def __repr__(self) -> str:
        return f"<{len(self)} snapshots, read when indexed>"


class WindowSignal:
    """A window set as PGT's ``StaticGraphTemporalSignal`` or ``DynamicGraphTemporalSignal``.

    Made by `to_signal`. An int gives a PyG ``Data``, a slice a signal; iterators are independent.

    Attributes
    ----------
    windows : WindowSet
    features, targets : sequence of ndarray
    edge_index, edge_weight : ndarray or None
        With a static graph.
    edge_indices, edge_weights : sequence of ndarray
        With a dynamic graph.
    snapshot_count : int
    additional_feature_keys : list
        Empty; PGT's code asks for it.
    """

    def __init__(self, pairs: WindowPairs, numbers: range) -> None:
        self._pairs, self._numbers = pairs, numbers
        self.windows = pairs.windows
        self.snapshot_count = len(numbers)
        self.additional_feature_keys: list[str] = []
        self.features = Snapshots(partial(self._array, side=0), numbers)
        self.targets = Snapshots(partial(self._array, side=1), numbers)
        graph = self.windows.series.graph
        self._static: tuple[Any, Any] | None = None
        if isinstance(graph, DynamicGraph):
            self.edge_indices = Snapshots(lambda number: self._own(number).edge_index, numbers)
            self.edge_weights = Snapshots(lambda number: self._own(number).edge_weight, numbers)
        else:
            self.edge_index = None if graph is None else graph.edge_index
            self.edge_weight = None if graph is None else graph.edge_weight
            self._static = _edge_tensors(self.edge_index, self.edge_weight)

    def _array(self, number: int, side: Literal[0, 1]) -> np.ndarray | None:
        tensor = self._pairs.read(np.array([number]))[side]
        return None if tensor is None else tensor[0].numpy()

    def _own(self, number: int) -> WindowEdges:
        edges: WindowEdges = self.windows.graph_at(self.windows.starts([number]))
        return edges

    def __len__(self) -> int:
        return self.snapshot_count

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return WindowSignal(self._pairs, self._numbers[index])
        return next(self._snapshots([self._numbers[index]]))

    def __iter__(self) -> Iterator[Any]:
        size = self.features[0].nbytes if len(self) else 1
        together = max(1, AHEAD_BYTES // max(1, size))
        for begin in range(0, len(self), together):
            yield from self._snapshots(self._numbers[begin : begin + together])

    def __repr__(self) -> str:
        kind = "dynamic" if self._static is None else "static"
        return f"WindowSignal({len(self):,} snapshots, {kind} graph; {self.windows!r})"

    def _snapshots(self, numbers: Sequence[int]) -> Iterator[Any]:
        """Gather some snapshots together, and yield each as ``Data``."""
        data = pyg_data()
        xs, ys = self._pairs.read(np.asarray(numbers, np.int64))
        for place, number in enumerate(numbers):
            edges = self._static
            if edges is None:
                own = self._own(number)
                edges = _edge_tensors(own.edge_index, own.edge_weight)
            yield data.Data(
                x=xs[place],
                edge_index=edges[0],
                edge_attr=edges[1],
                y=None if ys is None else ys[place],
            )


def _edge_tensors(index: Any, weight: Any) -> tuple[Any, Any]:
    """Edges as PGT's snapshots have them: int64 and float32."""
    return (
        None if index is None else torch.as_tensor(index),
        None if weight is None else torch.as_tensor(weight, dtype=torch.float32),
    )


# -- containers as series ---------------------------------------------------------------------------------------------


def from_signal(signal: Any, *, lagged: bool = False, node_axis: int = 0) -> Series:
    """Make a series of a PGT container.

    The series has the variables ``x`` and ``y``, one row per snapshot. What does not change with time or does not
    differ by node is a covariate, as are additional features, under their names, and batch numbers, ``batch``. Further
    axes of a node's values are folded into features. ``None`` among arrays becomes NaN, declared missing; ``None``
    among edges a graph without edges.

    ``WindowSpec(lookback=1, target_offsets=(0,), inputs=["x"], targets=["y"])`` reads one snapshot.

    Parameters
    ----------
    signal : object
        A PGT signal of one node type, or a `WindowSignal`.
    lagged : bool
        The last axis of the features are consecutive steps, as the ``lags`` of PGT's dataset loaders make them: join
        them to the series they were cut from, variable ``x``, so that windows of any length can be cut again.
    node_axis : int
        Node axis of a snapshot's features; PGT's MTM: 1.

    Returns
    -------
    Series

    Raises
    ------
    SeriesError
        Where snapshots differ in shape, or do not overlap as lagged ones do; for signals of several node types.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> steps = np.arange(20.0).reshape(10, 2)
    >>> signal = SimpleNamespace(
    ...     edge_index=np.array([[0], [1]]), edge_weight=None, features=[steps[i : i + 3].T for i in range(7)],
    ...     targets=[steps[i + 3] for i in range(7)], additional_feature_keys=[])
    >>> from_signal(signal)
    Series('signal': 7 steps × 2 nodes, features x.0, x.1, x.2, y; 1 edges; memory)
    >>> from_signal(signal, lagged=True)
    Series('signal': 10 steps × 2 nodes, features x; 1 edges; memory)
    """
    given = vars(signal)
    if "targets" not in given or not given.keys() & {"features", "feature"}:
        raise SeriesError(
            f"{type(signal).__name__} is no PGT signal of one node type: those have targets, and features or feature. "
            "Of a dataset loader pass loader.get_dataset(); of several node types make a series for each."
        )
    names = {"x": "features" if "features" in given else "feature", "y": "targets", "batch": "batches"}
    names |= {name: name for name in given["additional_feature_keys"]}
    arrays = {
        name: (_stacked(given[key], name), not isinstance(given[key], np.ndarray))
        for name, key in names.items()
        if key in given and _present(given[key])
    }
    if node_axis and "x" in arrays:
        x, by_time = arrays["x"]
        arrays["x"] = np.moveaxis(x, node_axis + by_time, by_time), by_time
    nodes = next((array.shape[by_time] for array, by_time in arrays.values() if array.ndim > by_time), 0)
    count = len(given["targets"])
    if lagged:
        if not _present(given.get("features")) or any(array is None for array in given["features"]):
            raise SeriesError("lagged=True joins the features of all snapshots, and some or all have none.")
        steps = _joined(arrays["x"][0], given["targets"])
        own, axes, count = {"x": steps}, {"x": "tn" + "f" * (steps.ndim - 2)}, len(steps)
        covariates: dict[str, Any] = {}
        arrays = {}
    else:
        axes = {}
        for name, (array, by_time) in arrays.items():
            inner = array.shape[by_time:]
            node = bool(inner) and inner[0] == nodes
            axes[name] = "t" * by_time + "n" * node + "f" * (len(inner) - node)
        own = {name: arrays[name][0] for name in ("x", "y") if axes.get(name, "").startswith("tn")}
        covariates = {name: (arrays[name][0], axes[name]) for name in arrays if name not in own}
    if not own:
        raise SeriesError(
            "neither features nor targets of this signal differ by snapshot and by node, so it is no series. Make one "
            "of what does: wl.Series(values, covariates={…}, graph=…)."
        )
    gaps = [name for name, (array, _) in arrays.items() if array.dtype.kind == "f" and np.isnan(array).any()]
    return Series(
        own,
        axes={name: axes[name] for name in own},
        covariates=covariates,
        missing=dict.fromkeys(gaps, float("nan")) or None,
        graph=_graph(given, nodes, count),
        name="signal",
    )


def _present(given: Any) -> bool:
    """Whether any snapshot has an array."""
    return given is not None and any(array is not None for array in given)


def _stacked(given: Any, name: str) -> np.ndarray:
    """Return one array of all snapshots, with NaN for those without one."""
    if isinstance(given, np.ndarray):
        return given
    given = list(given)
    first = next(np.asarray(array) for array in given if array is not None)
    for number, array in enumerate(given):
        if array is not None and np.shape(array) != first.shape:
            raise SeriesError(
                f"{name} of snapshot {number} has shape {np.shape(array)}, and of those before {first.shape}: a series "
                "has the same nodes and features in every row."
            )
    return np.stack([np.full(first.shape, np.nan) if array is None else array for array in given])


def _graph(given: Mapping[str, Any], nodes: int, steps: int) -> Graph | DynamicGraph | None:
    """Build the graph of all rows; rows after the last snapshot have no edges."""
    if "edge_indices" not in given:
        index, weight = given["edge_index"], given["edge_weight"]
        return None if index is None else Graph(np.asarray(index).astype(np.int64), weight, num_nodes=nodes)
    weighted = any(weight is not None for weight in given["edge_weights"])
    edges = []
    for index, weight in zip(given["edge_indices"], given["edge_weights"], strict=True):
        array = np.asarray([[], []] if index is None or not np.size(index) else index).astype(np.int64)
        if weight is None and weighted:
            weight = np.ones(array.shape[1])
        edges.append((array, None if weight is None else np.asarray(weight)))
    nothing = np.empty((2, 0), np.int64), np.empty(0) if weighted else None
    return DynamicGraph.from_steps(edges + [nothing] * (steps - len(edges)), num_nodes=nodes)


def _joined(arrays: np.ndarray, targets: Sequence[Any]) -> np.ndarray:
    """Lay lagged features, shape (snapshot, …, lag), over one another: one row per step."""
    windows = np.moveaxis(arrays, -1, 1)
    lags = windows.shape[1]
    steps = np.concatenate([windows[0], windows[1:, -1]])
    for number, window in enumerate(windows):
        if not _equal(window, steps[number : number + lags]):
            raise SeriesError(
                f"the features of snapshot {number}, shape {arrays.shape[1:]}, are not the {lags} steps before those "
                "of the next, one on: the last axis is no lag. Leave out lagged=True."
            )
    if not _present(targets) or any(target is None for target in targets):
        return steps
    following = np.stack(targets)
    node, cell = steps.shape[1:2], steps.shape[1:]
    for rows in (following[:, np.newaxis], np.moveaxis(following, -1, 1)):  # one step, or several
        if rows.shape[2:] == cell:
            known = np.concatenate([steps, rows[-1]])
        elif rows.shape[2:] == node:
            known = steps[..., 0]  # targets of the first feature alone
        else:
            continue
        if all(
            _equal(part[: len(known) - at], known[at:][: len(part)]) for at, part in enumerate(rows, lags)
        ):
            return known if rows.shape[2:] == cell else steps
    raise SeriesError(
        f"the targets, shape {following.shape[1:]}, are not the steps that follow the features. Leave out "
        "lagged=True: x and y become variables of their own."
    )


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
