"""A graph over the nodes of a series that does not change with time.

In: an edge list, an adjacency matrix, or a file of either. Out: `Graph`. Never guesses which label is which node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .edges import Edges, Naming, keep_edges, order_of, read_edges, renumbering, table_edges

if TYPE_CHECKING:
    import os

__all__ = ["Graph"]


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Graph:
    """Edges between numbered nodes, with weights and labels where there are any.

    Parameters
    ----------
    edge_index : array-like, shape (2, edge), integer
        Sources above, targets below.
    edge_weight : array-like, shape (edge,), optional
        Arrays of floats keep their precision; anything else, Python's floats too, becomes float32. As tensors they
        come in torch's default dtype, which is that of models.
    num_nodes : int, optional
        Default: as many as labels, else one more than the largest number.
    nodes : array-like, shape (node,), optional
        Labels, each once: they align the graph with an array whose columns stand in another order.

    Raises
    ------
    GraphError
        Where the edges are not of shape (2, edge), not integers or outside the nodes, or sizes differ.

    Examples
    --------
    >>> graph = Graph([[0, 1], [1, 2]], [0.5, 1.0], nodes=["a", "b", "c"])
    >>> graph
    Graph(3 nodes, 2 edges, weighted, labelled)
    >>> graph.reorder(["c", "b", "a"]).edge_index
    array([[2, 1],
           [1, 0]])
    """

    edge_index: np.ndarray
    edge_weight: np.ndarray | None
    num_nodes: int
    nodes: np.ndarray | None
    sized: bool  # whether num_nodes was given: if not, nodes without edges at the end may be more

    def __init__(
        self, edge_index: Any, edge_weight: Any = None, *, num_nodes: int | None = None, nodes: Any = None
    ) -> None:
        for name, value in Edges(edge_index, edge_weight, num_nodes, nodes).fields().items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dense(cls, matrix: Any, *, nodes: Any = None) -> Graph:
        """Take an adjacency matrix: an edge from i to j wherever ``matrix[i, j]`` is not 0.

        Parameters
        ----------
        matrix : array-like, scipy sparse or frame, shape (node, node)
            Weights. A frame (pandas, polars, 2-D xarray) may have its labels in any order, its columns in another than
            its rows; or list edges, in columns such as ``from,to,weight``.
        nodes : array-like, shape (node,), optional
            Labels of the columns, where the matrix has none.

        Returns
        -------
        Graph
            Edges row by row.

        Raises
        ------
        GraphError
            For a matrix that is not square.

        Examples
        --------
        >>> Graph.from_dense([[0, 2], [0, 0]]).edge_index
        array([[0],
               [1]])
        """
        return cls.of(table_edges(matrix, Naming(nodes)))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, nodes: Any = None, ends: str | None = None) -> Graph:
        """Read a graph from a file.

        Parameters
        ----------
        path : path-like
            ``.npz`` (``edge_index``, or a scipy sparse matrix in coo, csr or csc, or one square matrix), ``.npy`` (a
            square matrix, or an edge index), ``.csv`` or ``.txt`` (a square matrix, with or without labels; or a list
            of edges with a header such as ``from,to,weight``), ``.pkl`` (DCRNN's ``[ids, id_to_index, adjacency]``,
            or a matrix).
        nodes : array-like, shape (node,), optional
            Labels of a file that has none; a list of edges may be written in them.
        ends : {"labels", "numbers"}, optional
            What a list of edges is written in. None: whichever fits; an error where both do, or where numbers go far
            beyond the nodes.

        Returns
        -------
        Graph

        Raises
        ------
        GraphError
            Where the file holds no graph, or does not say which node is which.
        SourceNotFoundError
            Where the file does not exist.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "roads.npz"
        >>> np.savez(path, edge_index=[[0, 1], [1, 2]], edge_weight=[0.5, 1.0])
        >>> Graph.load(path, nodes=["a", "b", "c"])
        Graph(3 nodes, 2 edges, weighted, labelled)
        """
        return cls.of(read_edges(path, Naming(nodes, ends)))

    @classmethod
    def of(cls, found: Edges) -> Graph:
        """Make a graph of edges that are not checked yet."""
        return cls(found.edge_index, found.edge_weight, num_nodes=found.num_nodes, nodes=found.nodes)

    def reorder(self, nodes: Any) -> Graph:
        """Return the graph of ``nodes``, some or all, in their order; `GraphError` for labels it does not have."""
        return self.select(order_of(self.nodes, nodes))

    def select(self, index: Any) -> Graph:
        """Return the graph of some nodes and the edges among them.

        Parameters
        ----------
        index : array-like of int, or bool of shape (node,)
            The nodes that stay, in their new order.

        Returns
        -------
        Graph

        Raises
        ------
        GraphError
            For a number that is not a node's, or a node chosen twice.

        Examples
        --------
        >>> Graph([[0, 1], [1, 2]], nodes=["a", "b", "c"]).select([2, 1]).edge_index
        array([[1],
               [0]])
        """
        chosen = np.asarray(index)
        new = renumbering(chosen, self.num_nodes)
        edge_index, edge_weight, _ = keep_edges(self.edge_index, self.edge_weight, new)
        labels = None if self.nodes is None else self.nodes[chosen]
        return Graph(edge_index, edge_weight, num_nodes=int((new >= 0).sum()), nodes=labels)

    def resized(self, num_nodes: int, nodes: np.ndarray | None) -> Graph:
        """Return the same edges over ``num_nodes`` nodes; those past the largest number have none."""
        return Graph(self.edge_index, self.edge_weight, num_nodes=num_nodes, nodes=nodes)

    def dense(self) -> np.ndarray:
        """Adjacency matrix, shape (node, node), in the weights' dtype.

        An edge without a weight counts 1 (float32), repeated edges add up.
        """
        weight = (
            np.ones(self.edge_index.shape[1], np.float32) if self.edge_weight is None else self.edge_weight
        )
        matrix = np.zeros((self.num_nodes, self.num_nodes), weight.dtype)
        np.add.at(matrix, (self.edge_index[0], self.edge_index[1]), weight)
        return matrix

    def __repr__(self) -> str:
        weighted = ", weighted" if self.edge_weight is not None else ""
        labelled = ", labelled" if self.nodes is not None else ""
        return f"Graph({self.num_nodes} nodes, {self.edge_index.shape[1]} edges{weighted}{labelled})"
