"""Edge lists, checked and renumbered: what static and dynamic graphs share.

In: ``edge_index`` and ``edge_weight`` as people have them. Out: int64 of shape (2, edge), and floats. Never
reorders edges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from windowloader.errors import GraphError
from windowloader.util.labels import as_labels, locate

__all__ = ["Edges", "check_edges", "check_nodes", "keep_edges", "order_of", "renumbering"]


class Edges(NamedTuple):
    """A graph as it was found, before anything of it is checked: what `Graph` takes."""

    edge_index: Any
    edge_weight: Any = None
    num_nodes: int | None = None
    nodes: Any = None

    @classmethod
    def of_matrix(cls, matrix: Any, *, nodes: Any = None) -> Edges:
        """Edges of an adjacency matrix, dense or scipy's, row by row; `GraphError` where it is not square."""
        shape = np.shape(matrix) if not hasattr(matrix, "tocoo") else matrix.shape
        if len(shape) != 2 or shape[0] != shape[1]:
            edges = " An edge index is given as Graph(edge_index, edge_weight)." if shape[:1] == (2,) else ""
            raise GraphError(f"an adjacency matrix is square, but this has shape {tuple(shape)}.{edges}")
        if hasattr(matrix, "tocoo"):
            sparse = matrix.tocoo(copy=True)
            sparse.sum_duplicates()
            order = np.lexsort((sparse.col, sparse.row))
            order = order[sparse.data[order] != 0]
            index, weight = np.stack([sparse.row[order], sparse.col[order]]), sparse.data[order]
        else:
            dense = np.asarray(matrix)
            index = np.stack(np.nonzero(dense))
            weight = dense[index[0], index[1]]
            weight = (
                weight if hasattr(matrix, "dtype") else weight.tolist()
            )  # of no precision that was chosen
        return cls(index, weight, int(shape[0]), nodes)

    def check(self) -> Edges:
        """Return itself, if a `Graph` can be made of it; else `GraphError`."""
        self.fields()
        return self

    def fields(self) -> dict[str, Any]:
        """Return what static and dynamic graphs hold of it, checked; ``sized``: whether the nodes were counted."""
        labels = check_nodes(self.nodes, self.num_nodes)
        known = self.num_nodes if labels is None else len(labels)
        index, weight, count = check_edges(self.edge_index, self.edge_weight, known)
        return {
            "edge_index": index,
            "edge_weight": weight,
            "num_nodes": count,
            "nodes": labels,
            "sized": known is not None,
        }


def check_edges(
    edge_index: Any, edge_weight: Any, num_nodes: int | None
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Check an edge list.

    Parameters
    ----------
    edge_index : array-like, shape (2, edge), integer
        Sources above, targets below.
    edge_weight : array-like, shape (edge,), optional
        Arrays of floats keep their precision; anything else, Python's floats too, becomes float32.
    num_nodes : int, optional
        Default: one more than the largest number.

    Returns
    -------
    edge_index : ndarray, shape (2, edge), int64
    edge_weight : ndarray, shape (edge,), floating, or None
    num_nodes : int

    Raises
    ------
    GraphError
        For a shape, dtype or number that cannot be.
    """
    index = np.asarray(edge_index)
    if index.size == 0:
        index = np.empty((2, 0), np.int64)
    if index.ndim != 2 or index.shape[0] != 2:
        hint = " Pass edge_index.T." if index.ndim == 2 and index.shape[1] == 2 else ""
        raise GraphError(
            f"edge_index has shape {index.shape}; (2, edges) is needed, sources above targets.{hint}"
        )
    if index.dtype.kind not in "iu":
        raise GraphError(
            f"edge_index has dtype {index.dtype}; node numbers are integers. Use edge_index.astype('int64')."
        )
    index = np.ascontiguousarray(index, np.int64)
    low, high = (int(index.min()), int(index.max())) if index.size else (0, -1)
    if low < 0 or (num_nodes is not None and high >= num_nodes):
        edge = int(np.flatnonzero(((index < 0) | (index >= (num_nodes or high + 1))).any(axis=0))[0])
        bound = "from 0" if num_nodes is None else f"in 0 … {num_nodes - 1}"
        raise GraphError(
            f"edge_index out of range: edge {edge} joins {index[0, edge]} and {index[1, edge]}, and nodes "
            f"are numbered {bound}. Are these labels (sensor ids) or counted from 1?"
        )
    return (
        index,
        _check_weight(edge_weight, index.shape[1]),
        high + 1 if num_nodes is None else int(num_nodes),
    )


def _check_weight(edge_weight: Any, edges: int) -> np.ndarray | None:
    if edge_weight is None:
        return None
    weight = np.asarray(edge_weight)
    if weight.shape != (edges,):
        raise GraphError(
            f"edge_weight has shape {weight.shape}; edge_index has {edges} edges, one weight each."
        )
    if weight.dtype.kind not in "fiub":
        raise GraphError(f"edge_weight has dtype {weight.dtype}; weights are numbers.")
    chosen = weight.dtype.kind == "f" and hasattr(
        edge_weight, "dtype"
    )  # a list has no precision that anybody chose
    with np.errstate(over="ignore"):
        weight = np.ascontiguousarray(weight, weight.dtype if chosen else np.float32)
    wrong = np.flatnonzero(~np.isfinite(weight))
    if wrong.size:
        raise GraphError(
            f"edge_weight of edge {wrong[0]} is {weight[wrong[0]]}; leave out edges that do not exist."
        )
    return weight


def check_nodes(nodes: Any, num_nodes: int | None) -> np.ndarray | None:
    """Labels of nodes, or None."""
    return None if nodes is None else as_labels(nodes, size=num_nodes, what="nodes", error=GraphError)


def order_of(nodes: np.ndarray | None, wanted: Any) -> np.ndarray:
    """Where the wanted labels are among ``nodes``; `GraphError` where one is missing."""
    if nodes is None:
        raise GraphError(
            "the graph has no node labels to re-order by. Give them: Graph(edge_index, weight, nodes=ids)."
        )
    labels = as_labels(wanted, size=None, what="nodes", error=GraphError)
    return locate(nodes, labels, "the graph", "the array", GraphError)


def renumbering(chosen: np.ndarray, num_nodes: int) -> np.ndarray:
    """Give the ``chosen`` nodes the numbers 0, 1, …, and the others -1."""
    index = np.asarray(chosen)
    if index.dtype == np.bool_:
        index = np.flatnonzero(index) if index.shape == (num_nodes,) else np.full(1, -1)
    if index.size and not (int(index.min()) >= 0 and int(index.max()) < num_nodes):
        raise GraphError(f"nodes {chosen!r} are not all among the graph's nodes 0 … {num_nodes - 1}.")
    new = np.full(num_nodes, -1, np.int64)
    new[index] = np.arange(len(index))
    if np.count_nonzero(new >= 0) < len(index):
        raise GraphError("a node was chosen twice; a graph has each node once.")
    return new


def keep_edges(
    edge_index: np.ndarray, edge_weight: np.ndarray | None, new: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Edges between nodes that stay, in their new numbers, and which edges those are."""
    ends = new[edge_index]
    kept = (ends >= 0).all(axis=0)
    return ends[:, kept], None if edge_weight is None else edge_weight[kept], kept
