"""A graph on the nodes of a series, aligned by its labels.

In: a graph, a file, frame or matrix of one, and the labels of the series. Out: a graph with a node for each of the
series', in their order. Never pairs nodes by position where both sides have labels.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from windowloader.errors import GraphError
from windowloader.util.labels import order

from .dynamic_graph import DynamicGraph
from .graph import Graph
from .graph_files import lists_edges, read_graph, table_edges

if TYPE_CHECKING:
    import numpy as np

__all__ = ["align_graph"]


def align_graph(
    graph: Any, nodes: np.ndarray | None, num_nodes: int, num_steps: int, stored: np.ndarray | None = None
) -> Graph | DynamicGraph | None:
    """Bring a graph to the nodes of a series.

    Parameters
    ----------
    graph : Graph, DynamicGraph, path, square matrix or None
        Labelled or not.
    nodes : ndarray, shape (num_nodes,), optional
        Labels of the series.
    num_nodes, num_steps : int
        Sizes of the series.
    stored : ndarray, shape (num_nodes,), optional
        Labels in the series' file, where these only count.

    Returns
    -------
    Graph, DynamicGraph or None
        With the series' labels where there are any, its nodes in their order; others are left out.

    Raises
    ------
    GraphError
        Where a node of the series is missing, or a dynamic graph has other steps.
    """
    if graph is None:
        return None
    found = _as_graph(graph, nodes)
    if isinstance(found, DynamicGraph) and found.num_steps != num_steps:
        raise GraphError(
            f"the dynamic graph has {found.num_steps} steps and the series {num_steps}; each row needs its "
            "edges."
        )
    advice = "Choose the nodes of both, by series.select(nodes=...), or pass nodes= if the array's labels are wrong."
    wanted = stored if nodes is None else nodes
    picked = order(found.nodes, wanted, "the graph", "the array", GraphError, advice)
    if picked is not None:
        found = found.select(picked)
        return found if nodes is None else found.resized(num_nodes, nodes)
    if found.num_nodes > num_nodes or (found.sized and found.num_nodes < num_nodes):
        raise GraphError(
            f"the graph has {found.num_nodes} nodes, up to node {found.num_nodes - 1}, and the series has the nodes "
            f"0 … {num_nodes - 1}, {num_nodes} of them: without labels on both there is no telling which are which. "
            "Cut one: graph.select(index), series.select(nodes=index). Where edges are written in labels (sensor "
            "ids), pass nodes=, the labels in the order of the array's columns."
        )
    labels = nodes if found.nodes is None else found.nodes
    return found if found.sized and labels is found.nodes else found.resized(num_nodes, labels)


def _as_graph(given: Any, nodes: np.ndarray | None) -> Graph | DynamicGraph:
    """Turn what stands for a graph into one; a list of edges may be written in the series' labels."""
    if isinstance(given, (Graph, DynamicGraph)):
        return given
    stored = isinstance(given, (str, os.PathLike))
    if not stored and not hasattr(given, "shape"):
        raise GraphError(
            f"graph= is a {type(given).__name__}; a Graph, DynamicGraph, path, frame or square matrix is needed. "
            "Edges are given as Graph(edge_index, edge_weight), a matrix in lists as numpy.array(matrix)."
        )
    read = read_graph if stored else table_edges
    if not lists_edges(given):
        return Graph.of(read(given))
    return Graph.of(read(given, nodes=nodes, ends="numbers" if nodes is None else None, more=True))
