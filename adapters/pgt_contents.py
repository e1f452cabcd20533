"""What a PGT container holds, by name, whichever of the twelve it is.

In: a signal, told by its attributes. Out: `SignalContents`; of signals of several node types, one space of all their
nodes, and `HeteroLayout`, which says where each type is. Copies nothing of a signal of one node type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SeriesError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HeteroLayout", "SignalContents", "contents_of", "hetero_layout"]


@dataclass(frozen=True, slots=True, eq=False)
class HeteroLayout:
    """Where node and edge types of a heterogeneous signal are in its series.

    Parameters
    ----------
    nodes : mapping of str to slice
        Nodes of each type, one type after the other.
    shapes : mapping of str to mapping of str to tuple of int
        For ``x``, ``y`` and further attributes: what one node of a type has; narrower types are padded with NaN.
    edge_types : tuple of tuple of str
        Relations: (source, relation, target).
    edge_type : ndarray, shape (edge,), int64
        Which relation each edge of the series' graph is, in the order of its edges.
    """

    nodes: Mapping[str, slice]
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    edge_types: tuple[tuple[str, ...], ...]
    edge_type: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class SignalContents:
    """Arrays and edges of a container.

    Parameters
    ----------
    arrays : mapping of str to sequence, ndarray or None
        ``x``, ``y``, additional features, ``batch``: one array a snapshot (None where it has none), or one for all.
    edges : sequence of pairs, pair or None
        ``(edge_index, edge_weight)`` of each snapshot, or for all.
    dynamic : bool
        Whether there are edges for each snapshot.
    count : int
        Snapshots.
    labels : tuple of str, optional
        Of nodes.
    """

    arrays: Mapping[str, Any]
    edges: Any
    dynamic: bool
    count: int
    labels: tuple[str, ...] | None = None

    def num_nodes(self) -> int:
        """Nodes of each snapshot: those that have features, else targets."""
        for name in ("x", "y"):
            given = self.arrays[name]
            first = (
                given if hasattr(given, "dtype") else next((a for a in given or () if a is not None), None)
            )
            if first is not None and np.ndim(first):
                return max(int(np.shape(first)[0]), 1)
        raise SeriesError("no snapshot has features or targets, so there is nothing to make a series of.")


def contents_of(signal: Any, node_axis: int = 0) -> SignalContents:
    """Tell what a container holds; SeriesError for anything else.

    Parameters
    ----------
    signal : object
    node_axis : int
        Of the features of a snapshot.
    """
    if hasattr(signal, "target_dicts"):
        return _homogeneous(signal)[0]
    if not hasattr(signal, "targets") or not (hasattr(signal, "features") or hasattr(signal, "feature")):
        raise SeriesError(
            f"{type(signal).__name__} is no PGT signal: those have targets, and features or feature. Of a dataset "
            "loader take loader.get_dataset()."
        )
    arrays = {
        "x": _or_none(signal.features if hasattr(signal, "features") else signal.feature),
        "y": _or_none(signal.targets),
        **{key: getattr(signal, key) for key in signal.additional_feature_keys},
    }
    if node_axis and arrays["x"] is not None:
        constant = hasattr(arrays["x"], "dtype")
        moved = [
            a if a is None else np.moveaxis(a, node_axis, 0)
            for a in ([arrays["x"]] if constant else arrays["x"])
        ]
        arrays["x"] = moved[0] if constant else moved
    if hasattr(signal, "batches"):
        arrays["batch"] = signal.batches
    dynamic = hasattr(signal, "edge_indices")
    if dynamic:
        edges: Any = list(zip(signal.edge_indices, signal.edge_weights, strict=True))
    else:
        edges = None if signal.edge_index is None else (signal.edge_index, signal.edge_weight)
    return SignalContents(arrays, edges, dynamic, len(signal.targets))


def hetero_layout(signal: Any) -> HeteroLayout:
    """Tell where node and edge types are in the series that `from_signal` makes of a heterogeneous signal.

    Parameters
    ----------
    signal : object
        One of PGT's six ``…Hetero…`` containers.

    Returns
    -------
    HeteroLayout

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> signal = SimpleNamespace(
    ...     edge_index_dict={("author", "writes", "paper"): np.array([[0, 1], [0, 2]])}, edge_weight_dict=None,
    ...     feature_dicts=[{"author": np.ones((2, 1)), "paper": np.ones((3, 2))}] * 4,
    ...     target_dicts=[{"author": np.zeros(2), "paper": np.zeros(3)}] * 4, additional_feature_keys=[])
    >>> layout = hetero_layout(signal)
    >>> layout.nodes["paper"], layout.shapes["x"]
    (slice(2, 5, None), {'author': (1,), 'paper': (2,)})
    """
    if not hasattr(signal, "target_dicts"):
        raise SeriesError(f"{type(signal).__name__} has one node type: there is nothing to tell apart.")
    return _homogeneous(signal)[1]


def _or_none(given: Any) -> Any:
    """None where no snapshot has an array."""
    empty = given is None or (not hasattr(given, "dtype") and all(array is None for array in given))
    return None if empty else given


def _homogeneous(signal: Any) -> tuple[SignalContents, HeteroLayout]:
    """All node types as one space, all relations as one graph."""
    given = {
        "x": signal.feature_dicts if hasattr(signal, "feature_dicts") else signal.feature_dict,
        "y": signal.target_dicts,
        **{key: getattr(signal, key) for key in signal.additional_feature_keys},
    }
    for name in ("batch_dicts", "batch_dict"):
        if hasattr(signal, name):
            given["batch"] = getattr(signal, name)
    dynamic = hasattr(signal, "edge_index_dicts")
    if dynamic:
        edges = list(zip(signal.edge_index_dicts, signal.edge_weight_dicts, strict=True))
    else:
        edges = [(signal.edge_index_dict, signal.edge_weight_dict)]
    nodes = _nodes(given)
    arrays, shapes = {}, {}
    for name, dicts in given.items():
        arrays[name], shapes[name] = _spread(dicts, nodes)
    relations = list(dict.fromkeys(key for index, _ in edges for key in index or {}))
    joined = [_join_edges(index or {}, weight or {}, relations, nodes) for index, weight in edges]
    labels = tuple(
        f"{kind}/{number}" for kind, part in nodes.items() for number in range(part.stop - part.start)
    )
    weighted = any(weight for _, weight in edges)
    pairs = [(index, weight if weighted else None) for index, weight, _ in joined]
    contents = SignalContents(
        arrays,
        pairs if dynamic else pairs[0] if relations else None,
        dynamic,
        len(signal.target_dicts),
        labels,
    )
    kinds = np.concatenate([np.empty(0, np.int64), *(kind for _, _, kind in joined)])
    return contents, HeteroLayout(nodes, shapes, tuple(relations), kinds)


def _each(dicts: Any) -> Sequence[Any]:
    """Dictionaries of all snapshots: a single one is for all."""
    return [dicts] if dicts is None or hasattr(dicts, "keys") else dicts


def _nodes(given: Mapping[str, Any]) -> dict[str, slice]:
    """Where the nodes of each type begin and end, in order of appearance."""
    sizes: dict[str, int] = {}
    for dicts in given.values():
        for snapshot in _each(dicts):
            for kind, array in (snapshot or {}).items():
                if array is not None:
                    sizes.setdefault(kind, len(array))
    ends = np.cumsum([0, *sizes.values()]).tolist()
    return {kind: slice(ends[place], ends[place + 1]) for place, kind in enumerate(sizes)}


def _spread(dicts: Any, nodes: Mapping[str, slice]) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """One array for all types, of the widest; NaN where a type is narrower or not there."""
    shapes: dict[str, tuple[int, ...]] = {}
    kinds = set()
    for snapshot in _each(dicts):
        for kind, array in (snapshot or {}).items():
            if array is not None:
                shapes.setdefault(kind, np.shape(array)[1:])
                kinds.add(np.asarray(array).dtype)
    if not shapes:
        return None, {}
    width = max(math.prod(shape) for shape in shapes.values())
    flat = not any(shapes.values())
    full = set(shapes) == set(nodes) and all(math.prod(shape) == width for shape in shapes.values())
    full = full and all(
        snapshot is not None and all(snapshot.get(kind) is not None for kind in nodes)
        for snapshot in _each(dicts)
    )
    dtype = np.result_type(*kinds) if full else np.result_type(np.float64, *kinds)
    total = max(part.stop for part in nodes.values())
    found = [
        None if snapshot is None else _row(snapshot, nodes, shapes, (total, width), dtype)
        for snapshot in _each(dicts)
    ]
    found = [array if array is None or not flat else array[:, 0] for array in found]
    return found[0] if hasattr(dicts, "keys") else found, shapes


def _row(
    snapshot: Mapping[str, Any],
    nodes: Mapping[str, slice],
    shapes: Mapping[str, tuple[int, ...]],
    shape: tuple[int, int],
    dtype: np.dtype,
) -> np.ndarray:
    out = np.full(shape, np.nan if dtype.kind == "f" else 0, dtype)
    for kind, array in snapshot.items():
        if array is None:
            continue
        size = nodes[kind].stop - nodes[kind].start
        if np.shape(array) != (size, *shapes[kind]):
            raise SeriesError(
                f"{kind!r} has shape {np.shape(array)} in one snapshot and {(size, *shapes[kind])} in another: a "
                "series has the same nodes and features in every row."
            )
        out[nodes[kind], : math.prod(shapes[kind])] = np.asarray(array).reshape(size, -1)
    return out


def _join_edges(
    index: Mapping[Any, Any],
    weight: Mapping[Any, Any],
    relations: Sequence[Any],
    nodes: Mapping[str, slice],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of all relations, end to end, with their weights (1 where a relation has none) and relations."""
    ends, weights, kinds = [np.empty((2, 0), np.int64)], [np.empty(0)], [np.empty(0, np.int64)]
    for number, relation in enumerate(relations):
        if index.get(relation) is None or np.size(index[relation]) == 0:
            continue
        missing = [kind for kind in (relation[0], relation[-1]) if kind not in nodes]
        if missing:
            raise SeriesError(
                f"relation {relation} joins {missing[0]!r}, a type without features and targets."
            )
        shift = np.array([[nodes[relation[0]].start], [nodes[relation[-1]].start]])
        edges = np.asarray(index[relation]).astype(np.int64) + shift
        given = weight.get(relation)
        ends.append(edges)
        weights.append(np.ones(edges.shape[1]) if given is None else np.asarray(given, np.float64))
        kinds.append(np.full(edges.shape[1], number))
    return np.concatenate(ends, axis=1), np.concatenate(weights), np.concatenate(kinds)
