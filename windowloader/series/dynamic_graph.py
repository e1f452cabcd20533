"""A graph over the nodes of a series whose edges change from step to step; graphs aligned to a series by their labels.

In: the edges of all steps, concatenated, and where those of each step begin; any graph, and the labels of a series.
Out: `DynamicGraph`, the edges of windows as `WindowEdges`, built on request; a graph with the nodes of the series.
Never pairs nodes by position where both sides have labels.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.errors import GraphError
from windowloader.util.labels import order

from .edges import Edges, Naming, check_edges, keep_edges, order_of, read_edges, renumbering, table_edges
from .graph import Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["DynamicGraph", "WindowEdges", "align_graph"]

Mode = Literal["each", "first", "last"]


@dataclass(frozen=True, slots=True, eq=False)
class WindowEdges:
    """Edges of the rows of windows, concatenated window by window, and row by row in each.

    Parameters
    ----------
    edge_index : ndarray, shape (2, edge), int64
        Node ``n`` of window ``w`` is ``w * num_nodes + n``.
    edge_weight : ndarray, shape (edge,), or None
    offsets : ndarray, shape (window, row + 1), int64
        Row ``i`` of window ``w`` has the edges from ``offsets[w, i]`` to ``offsets[w, i + 1]``.
    num_nodes : int
        Nodes of one window.
    """

    edge_index: Any
    edge_weight: Any
    offsets: Any
    num_nodes: int

    def step(self, row: int) -> tuple[Any, Any]:
        """Edges of one row of every window: ``edge_index`` and ``edge_weight`` (None without weights)."""
        offsets = np.asarray(self.offsets)
        chosen, _ = _spans(offsets[:, row], offsets[:, row + 1])
        return self.edge_index[:, chosen], None if self.edge_weight is None else self.edge_weight[chosen]

    def map(self, function: Callable[[Any], Any]) -> WindowEdges:
        """Apply a function to the edges and weights: how adapters turn them into tensors."""
        weight = None if self.edge_weight is None else function(self.edge_weight)
        return WindowEdges(function(self.edge_index), weight, self.offsets, self.num_nodes)


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class DynamicGraph:
    """Edges of every step.

    Parameters
    ----------
    edge_index : array-like, shape (2, edge), integer
        Edges of all steps, concatenated; sources above, targets below.
    edge_weight : array-like, shape (edge,), optional
        Arrays of floats keep their precision; anything else, Python's floats too, becomes float32. As tensors they
        come in torch's default dtype, which is that of models.
    offsets : array-like, shape (step + 1,), integer
        Step ``t`` has the edges from ``offsets[t]`` to ``offsets[t + 1]``.
    num_nodes : int, optional
        Default: as many as labels, else one more than the largest number.
    nodes : array-like, shape (node,), optional
        Labels, each once.

    Raises
    ------
    GraphError
        For invalid edges, or offsets that do not increase from 0 to the number of edges.

    Examples
    --------
    >>> graph = DynamicGraph.from_steps([[[0, 1], [1, 0]], [[2], [0]]])
    >>> graph
    DynamicGraph(2 steps, 3 nodes, 3 edges)
    >>> edges = graph.batch([0], [0, 1])
    >>> edges.offsets
    array([[0, 2, 3]])
    """

    edge_index: np.ndarray
    edge_weight: np.ndarray | None
    offsets: np.ndarray
    num_nodes: int
    nodes: np.ndarray | None
    sized: bool  # whether num_nodes was given: if not, nodes without edges at the end may be more

    def __init__(
        self,
        edge_index: Any,
        edge_weight: Any,
        offsets: Any,
        *,
        num_nodes: int | None = None,
        nodes: Any = None,
    ) -> None:
        fields = Edges(edge_index, edge_weight, num_nodes, nodes).fields()
        fields["offsets"] = _check_offsets(offsets, fields["edge_index"].shape[1])
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_steps(
        cls, steps: Iterable[Any], *, num_nodes: int | None = None, nodes: Any = None
    ) -> DynamicGraph:
        """Take the edges step by step.

        Parameters
        ----------
        steps : iterable
            For each step an ``edge_index`` of shape (2, edge), a pair ``(edge_index, edge_weight)``, or a
            `Graph`.
        num_nodes : int, optional
            Default: as many as labels, else one more than the largest number.
        nodes : array-like, optional
            Labels.

        Returns
        -------
        DynamicGraph

        Raises
        ------
        GraphError
            For an invalid step (the message has its number), or weights that some steps have and others not.

        Examples
        --------
        >>> DynamicGraph.from_steps([([[0], [1]], [0.5]), ([[], []], [])], num_nodes=3)
        DynamicGraph(2 steps, 3 nodes, 1 edges, weighted)
        """
        checked = []
        for number, step in enumerate(steps):
            try:
                checked.append(check_edges(*_pair(step), num_nodes)[:2])
            except GraphError as error:
                raise GraphError(f"step {number}: {error}") from error
        weighted = [number for number, (_, weight) in enumerate(checked) if weight is not None]
        if weighted and len(weighted) < len(checked):
            raise GraphError(
                f"{len(weighted)} of {len(checked)} steps have edge weights; give them to all or to none."
            )
        index = np.concatenate([np.empty((2, 0), np.int64), *(index for index, _ in checked)], axis=1)
        weight = np.concatenate([weight for _, weight in checked]) if weighted else None
        offsets = np.cumsum([0, *(index.shape[1] for index, _ in checked)])
        return cls(index, weight, offsets, num_nodes=num_nodes, nodes=nodes)

    @property
    def num_steps(self) -> int:
        """Steps, as many as the series has rows."""
        return len(self.offsets) - 1

    def batch(self, starts: Any, rows: Any, mode: Mode = "each", num_nodes: int | None = None) -> WindowEdges:
        """Edges of windows.

        Parameters
        ----------
        starts : array-like, shape (window,), int
            First rows.
        rows : array-like, shape (row,), int
            Rows of a window, counted from its start.
        mode : {"each", "first", "last"}
            Edges of each of these rows, or of the first or the last only.
        num_nodes : int, optional
            By how much the nodes of the next window are shifted; default: the graph's.

        Returns
        -------
        WindowEdges
        """
        kept = {"each": slice(None), "first": slice(0, 1), "last": slice(-1, None)}
        if mode not in kept:
            raise GraphError(f"graph={mode!r} is none of 'each', 'first', 'last'.")
        steps = np.asarray(starts, np.int64)[:, None] + np.asarray(rows, np.int64)[None, kept[mode]]
        if steps.size and not (int(steps.min()) >= 0 and int(steps.max()) < self.num_steps):
            raise GraphError(
                f"windows reach from step {steps.min()} to {steps.max()}; the graph has {self.num_steps}."
            )
        chosen, counts = _spans(self.offsets[steps].reshape(-1), self.offsets[steps + 1].reshape(-1))
        windows, width = steps.shape
        ends = np.concatenate(([0], np.cumsum(counts)))  # of the edges of each row
        offsets = ends[np.arange(windows)[:, None] * width + np.arange(width + 1)]
        size = self.num_nodes if num_nodes is None else num_nodes
        shift = np.repeat(np.arange(windows, dtype=np.int64) * size, offsets[:, -1] - offsets[:, 0])
        weight = None if self.edge_weight is None else self.edge_weight[chosen]
        return WindowEdges(self.edge_index[:, chosen] + shift, weight, offsets, size)

    def reorder(self, nodes: Any) -> DynamicGraph:
        """Return the graph of ``nodes``, some or all, in their order; `GraphError` for labels it does not have."""
        return self.select(order_of(self.nodes, nodes))

    def select(self, index: Any) -> DynamicGraph:
        """Return the graph of some nodes and the edges among them; ``index`` as of `Graph.select`."""
        chosen = np.asarray(index)
        new = renumbering(chosen, self.num_nodes)
        edge_index, edge_weight, kept = keep_edges(self.edge_index, self.edge_weight, new)
        offsets = np.concatenate(([0], np.cumsum(kept)))[self.offsets]
        labels = None if self.nodes is None else self.nodes[chosen]
        return DynamicGraph(edge_index, edge_weight, offsets, num_nodes=int((new >= 0).sum()), nodes=labels)

    def steps(self, start: int, stop: int) -> DynamicGraph:
        """Return the graph of steps ``[start, stop)``."""
        offsets = self.offsets[start : stop + 1]
        edges = slice(int(offsets[0]), int(offsets[-1]))
        index, weight = self.edge_index[:, edges], self.edge_weight
        weight = None if weight is None else weight[edges]
        return DynamicGraph(index, weight, offsets - offsets[0], num_nodes=self.num_nodes, nodes=self.nodes)

    def resized(self, num_nodes: int, nodes: np.ndarray | None) -> DynamicGraph:
        """Return the same edges over ``num_nodes`` nodes; those past the largest number have none."""
        return DynamicGraph(self.edge_index, self.edge_weight, self.offsets, num_nodes=num_nodes, nodes=nodes)

    def __repr__(self) -> str:
        weighted = ", weighted" if self.edge_weight is not None else ""
        labelled = ", labelled" if self.nodes is not None else ""
        edges = self.edge_index.shape[1]
        return (
            f"DynamicGraph({self.num_steps} steps, {self.num_nodes} nodes, {edges} edges{weighted}{labelled})"
        )


def _check_offsets(offsets: Any, edges: int) -> np.ndarray:
    array = np.asarray(offsets)
    integers = array.ndim == 1 and len(array) > 0 and array.dtype.kind in "iu"
    if not integers or array[0] != 0 or array[-1] != edges or (np.diff(array.astype(np.int64)) < 0).any():
        raise GraphError(
            f"offsets have shape {array.shape} and dtype {array.dtype}; integers of shape (steps + 1,) that rise from "
            f"0 to the {edges} edges are needed."
        )
    return array.astype(np.int64)


def _pair(step: Any) -> tuple[Any, Any]:
    """One step as edges and weights: a graph, a pair of both, or edges alone."""
    with suppress(AttributeError):
        return step.edge_index, step.edge_weight
    pair = isinstance(step, (tuple, list)) and len(step) == 2 and np.ndim(step[0]) == 2
    return (step[0], step[1]) if pair else (step, None)


def _spans(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the numbers of the ranges [begin, end); also return the length of each range."""
    counts = ends - begins
    total = int(counts.sum())
    return np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(total), counts


def align_graph(
    graph: Any, nodes: np.ndarray | None, num_nodes: int, num_steps: int, stored: np.ndarray | None = None
) -> Graph | DynamicGraph | None:
    """Bring a graph to the nodes of a series.

    Parameters
    ----------
    graph : Graph, DynamicGraph, path, frame, square matrix or None
        With or without labels.
    nodes : ndarray, shape (num_nodes,), optional
        Labels of the series.
    num_nodes, num_steps : int
        Sizes of the series.
    stored : ndarray, shape (num_nodes,), optional
        Labels in the series' file, where those of the series only count.

    Returns
    -------
    Graph, DynamicGraph or None
        With the nodes of the series, in their order, and its labels where it has any.

    Raises
    ------
    GraphError
        Where a node of the series is missing, or a dynamic graph has another number of steps.
    """
    if graph is None:
        return None
    found = _as_graph(graph, nodes)
    if isinstance(found, DynamicGraph) and found.num_steps != num_steps:
        raise GraphError(f"the dynamic graph has {found.num_steps} steps and the series {num_steps}.")
    advice = "Choose the nodes of both, by series.select(nodes=...), or pass nodes= if the array's labels are wrong."
    wanted = stored if nodes is None else nodes
    picked = order(found.nodes, wanted, "the graph", "the array", GraphError, advice)
    if picked is not None:
        found = found.select(picked)
        return found if nodes is None else found.resized(num_nodes, nodes)
    if found.num_nodes > num_nodes or (found.sized and found.num_nodes < num_nodes):
        raise GraphError(
            f"the graph has {found.num_nodes} nodes, up to node {found.num_nodes - 1}, and the series has the nodes "
            f"0 … {num_nodes - 1}, {num_nodes} of them, and not both have labels. Choose nodes: graph.select(index), "
            "series.select(nodes=index). Where edges are written in labels (sensor ids), pass nodes=, the labels in "
            "the order of the array's columns."
        )
    labels = nodes if found.nodes is None else found.nodes
    return found if found.sized and labels is found.nodes else found.resized(num_nodes, labels)


def _as_graph(given: Any, nodes: np.ndarray | None) -> Graph | DynamicGraph:
    """Graph of a file, frame or matrix; a list of edges may be written in the labels of the series."""
    if isinstance(given, (Graph, DynamicGraph)):
        return given
    if isinstance(given, (list, tuple, dict, set)):
        raise GraphError(
            f"graph= is a {type(given).__name__}; a Graph, DynamicGraph, path, frame or square matrix is needed. "
            "Edges are given as Graph(edge_index, edge_weight), a matrix in lists as numpy.array(matrix)."
        )
    naming = Naming(nodes, of_series=True)
    stored = isinstance(given, (str, os.PathLike))
    return Graph.of(read_edges(given, naming) if stored else table_edges(given, naming))
