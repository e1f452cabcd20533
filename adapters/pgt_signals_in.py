"""PGT's containers as series: any of its twelve, told by the attributes it has.

In: a signal with its lists of arrays. Out: a `Series` of one row a snapshot, or, where features are lagged and asked
to be joined, of one row a time step. PGT is never imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.adapters.pgt_contents import SignalContents, contents_of
from windowloader.errors import SeriesError
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.series.graph import Graph
from windowloader.series.series import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["from_signal"]


def from_signal(signal: Any, *, lagged: bool = False, node_axis: int = 0) -> Series:
    """Make a series of a PGT container.

    The series has the variables ``x`` and ``y``, one row a snapshot; a feature that does not change is a covariate
    ``x``, and so are targets that do not differ by node, a covariate ``y``; additional features are covariates of
    their names, batch numbers the covariate ``batch``. Further axes of a node's values are folded into features.
    ``None`` among arrays becomes NaN, declared missing; ``None`` among edges becomes a graph without edges.

    With ``WindowSpec(lookback=1, target_offsets=(0,), inputs=["x"], targets=["y"])``, ``to_signal(…, like=signal)``
    gives the snapshots again.

    Parameters
    ----------
    signal : object
        Any of PGT's signals, or a `WindowSignal`. Several node types become one space, one type after the other, see
        `hetero_layout`.
    lagged : bool
        The last axis of the features are consecutive steps, as the ``lags`` of PGT's dataset loaders make them: join
        them to the series they were cut from, variable ``x``, so that windows of any length can be cut again.
    node_axis : int
        Which axis of a snapshot's features has the nodes; PGT's MTM: 1.

    Returns
    -------
    Series

    Raises
    ------
    SeriesError
        Where snapshots differ in shape, or do not overlap as lagged ones do.

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
    contents = contents_of(signal, node_axis)
    nodes = contents.num_nodes()
    return _joined(contents, nodes) if lagged else _by_snapshot(contents, nodes)


def _by_snapshot(contents: SignalContents, nodes: int) -> Series:
    """One row a snapshot."""
    own: dict[str, np.ndarray] = {}
    covariates: dict[str, Any] = {}
    missing: dict[str, float] = {}
    for name, given in contents.arrays.items():
        if given is None:
            continue
        constant = hasattr(given, "dtype")
        array, gaps = (np.asarray(given), False) if constant else _stack(given, name)
        if gaps or (array.dtype.kind == "f" and bool(np.isnan(array).any())):
            missing[name] = float("nan")
        axes = _axes(array.shape, nodes, constant)
        if name in ("x", "y") and axes.startswith("tn"):
            own[name] = array
        else:
            covariates[name] = (array, axes)
    if not own:
        raise SeriesError(
            "neither features nor targets of this signal differ by snapshot and by node, so it is no series. Make one "
            "of what does: wl.Series(values, covariates={…}, graph=…)."
        )
    return Series(
        own,
        axes={name: _axes(array.shape, nodes, constant=False) for name, array in own.items()},
        covariates=covariates,
        missing=missing or None,
        graph=_graph(contents, nodes, contents.count),
        nodes=contents.labels,
        name="signal",
    )


def _axes(shape: Sequence[int], nodes: int, constant: bool) -> str:
    """Letters of an array whose rows are snapshots; the node axis is the one as long as there are nodes."""
    inner = shape if constant else shape[1:]
    space = "n" if inner and inner[0] == nodes else ""
    return ("" if constant else "t") + space + "f" * (len(inner) - len(space))


def _stack(arrays: Sequence[Any], name: str) -> tuple[np.ndarray, bool]:
    """One array of all snapshots, and whether some are not there."""
    first = next((np.asarray(array) for array in arrays if array is not None), None)
    if first is None:
        raise SeriesError(f"no snapshot has {name}.")
    gaps = any(array is None for array in arrays)
    kind = first.dtype if not gaps or first.dtype.kind == "f" else np.dtype(np.float64)
    out = np.empty((len(arrays), *first.shape), kind)
    for number, array in enumerate(arrays):
        if array is not None and np.shape(array) != first.shape:
            raise SeriesError(
                f"{name} of snapshot {number} has shape {np.shape(array)}, and of those before {first.shape}: a series "
                "has the same nodes and features in every row."
            )
        out[number] = np.nan if array is None else array
    return out, gaps


def _graph(contents: SignalContents, nodes: int, steps: int) -> Graph | DynamicGraph | None:
    """Build the graph of all rows; those after the last snapshot have no edges."""
    if contents.edges is None:
        return None
    if not contents.dynamic:
        return Graph(*_pair(*contents.edges), num_nodes=nodes)
    weighted = any(weight is not None for _, weight in contents.edges)
    pairs = [_pair(index, weight, weighted) for index, weight in contents.edges]
    pairs += [_pair(None, None, weighted)] * (steps - len(pairs))
    return DynamicGraph.from_steps(pairs, num_nodes=nodes)


def _pair(index: Any, weight: Any, weighted: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Edges as (2, edge) integers and their weights; none of either where there are none."""
    array = np.empty((2, 0), np.int64) if index is None or np.size(index) == 0 else np.asarray(index)
    if weight is None:
        return array.astype(np.int64), np.ones(array.shape[1]) if weighted else None
    return array.astype(np.int64), np.asarray(weight)


def _joined(contents: SignalContents, nodes: int) -> Series:
    """One row a step: lagged features laid over one another again."""
    arrays = contents.arrays["x"]
    if arrays is None or hasattr(arrays, "dtype") or any(array is None for array in arrays):
        raise SeriesError("lagged=True joins the features of all snapshots, and some or all have none.")
    windows = [np.moveaxis(np.asarray(array), -1, 0) for array in arrays]
    lags = len(windows[0])
    steps = np.concatenate([windows[0], np.stack([window[-1] for window in windows])[1:]])
    for number, window in enumerate(windows):
        if not np.array_equal(window, steps[number : number + lags], equal_nan=steps.dtype.kind == "f"):
            raise SeriesError(
                f"the features of snapshot {number}, shape {np.shape(arrays[number])}, are not the {lags} steps before "
                "those of the next, one on: the last axis is no lag. Leave out lagged=True."
            )
    steps = _continued(steps, contents.arrays["y"], lags)
    return Series(
        {"x": steps},
        axes={"x": "tn" + "f" * (steps.ndim - 2)},
        graph=_graph(contents, nodes, len(steps)),
        nodes=contents.labels,
        name="signal",
    )


def _continued(steps: np.ndarray, targets: Any, lags: int) -> np.ndarray:
    """Add the rows that only targets hold; refuse targets that are something else than what comes next."""
    if targets is None or hasattr(targets, "dtype") or any(target is None for target in targets):
        return steps
    shape = steps.shape[1:]
    for meaning in ("one step", "steps of all features", "steps of the first feature"):
        whole = meaning != "steps of the first feature" and np.shape(targets[0])[: len(shape)] == shape
        found = [_as_rows(np.asarray(target), meaning, shape) for target in targets]
        ahead = [rows for rows in found if rows is not None]
        if len(ahead) < len(found):
            continue
        known = np.concatenate([steps, ahead[-1]]) if whole else steps if steps.ndim == 2 else steps[..., 0]
        if all(_agrees(rows, known[number + lags :]) for number, rows in enumerate(ahead)):
            return known if whole else steps
    raise SeriesError(
        f"the targets, shape {np.shape(targets[0])}, are not the steps that follow the features. Leave out "
        "lagged=True: x and y become variables of their own."
    )


def _agrees(rows: Any, known: np.ndarray) -> bool:
    """Whether targets are the steps that are known, as far as they are."""
    there = known[: len(rows)]
    return bool(np.array_equal(rows[: len(there)], there, equal_nan=there.dtype.kind == "f"))


def _as_rows(target: np.ndarray, meaning: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Targets of one snapshot with the steps first, if they can mean that."""
    if meaning == "one step":
        return target[np.newaxis] if target.shape in (shape, shape[:1]) else None
    inner = shape if meaning == "steps of all features" else shape[:1]
    return np.moveaxis(target, -1, 0) if target.shape[:-1] == inner else None
