"""Graphs aligned to a series by their labels.

In: a graph, or a file, frame or matrix of one, and the labels of the series. Out: a graph with the nodes of the series,
in their order. Never pairs nodes by position where both sides have labels.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from windowloader.errors import GraphError
from windowloader.util.labels import order

from .dynamic_graph import DynamicGraph
from .edges import Naming, read_edges, table_edges
from .graph import Graph

if TYPE_CHECKING:
    import numpy as np

__all__ = ["align_graph"]


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
