"""PyG's ``Data`` and ``Batch`` from batches of windows.

In: a `Batch` with its graph. Out: PyG's ``Batch`` as PyG's own collation makes it, in one piece. PyG is imported only
when an object of it is made.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from windowloader.errors import GraphError, MissingExtraError
from windowloader.series.dynamic_graph import WindowEdges

if TYPE_CHECKING:
    from windowloader.batch.batch import Batch

__all__ = ["pyg_data", "to_pyg", "to_pyg_steps"]


def pyg_data() -> Any:
    """Import PyG's module of data objects; MissingExtraError where PyG is not installed."""
    try:
        with warnings.catch_warnings():
            if "torch_geometric.data" not in sys.modules:
                warnings.simplefilter("ignore", DeprecationWarning)  # of what PyG uses when it is imported
            import torch_geometric.data
    except ImportError as error:
        raise MissingExtraError(
            "Data and Batch are PyG's, which is not installed: pip install torch_geometric. The arrays are there "
            "without it: signal.features, signal.targets, batch.inputs."
        ) from error
    return torch_geometric.data


def to_pyg(batch: Batch, *, node_axis: int = 1) -> Any:
    """Make one PyG ``Batch`` of the graphs of all windows of a batch.

    Use it as ``WindowLoader(…, layout=("bnft", "bnt"), transform=to_pyg)``.

    Parameters
    ----------
    batch : Batch
        Inputs and targets with the node axis after the batch axis; arrays or tensors. Its graph is static, or each
        window's own for one row (``WindowSpec(graph="first")`` or ``"last"``, or a lookback of 1).
    node_axis : int
        Node axis of inputs and targets, counted with the batch axis.

    Returns
    -------
    torch_geometric.data.Batch
        ``x``, shape (window · node, …), ``y``, ``edge_index`` with node offsets, ``edge_attr``, ``batch``, ``ptr``.

    Raises
    ------
    GraphError
        Without a graph, or with one for each of several rows: use `to_pyg_steps`.

    Examples
    --------
    >>> import windowloader as wl
    >>> series = wl.Series(np.zeros((20, 3), "float32"), graph=wl.Graph([[0, 1], [1, 2]], num_nodes=3))
    >>> windows = wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=2))
    >>> loader = wl.WindowLoader(windows, batch_size=8, layout=("bnft", "bnt"), transform=to_pyg)
    >>> next(iter(loader))
    DataBatch(x=[24, 1, 4], edge_index=[2, 16], y=[24, 2], batch=[24], ptr=[9])
    """
    graph = batch.graph
    if isinstance(graph, WindowEdges) and np.shape(graph.offsets)[1] > 2:
        raise GraphError(
            f"each window has the graphs of {np.shape(graph.offsets)[1] - 1} rows. Pass WindowSpec(graph='first') or "
            "'last' for one per window, or use to_pyg_steps(batch): a Batch for each row."
        )
    return _assembled(batch, _by_node(batch.inputs, node_axis), _by_node(batch.targets, node_axis), 0)


def to_pyg_steps(batch: Batch, *, layout: str = "btnf") -> list[Any]:
    """Make one PyG ``Batch`` for each input row, with the edges of that row; each has the targets.

    Parameters
    ----------
    batch : Batch
    layout : str
        Of its inputs.

    Returns
    -------
    list of torch_geometric.data.Batch
        ``x`` of row i: shape (window · node, feature).

    Raises
    ------
    GraphError
        Without a graph, or where the node axis of the targets is ambiguous.

    Examples
    --------
    >>> import windowloader as wl
    >>> edges = wl.DynamicGraph.from_steps([[[0], [1]], [[1, 2], [2, 0]]] * 10)
    >>> windows = wl.WindowSet(wl.Series(np.zeros((20, 3)), graph=edges), wl.WindowSpec(lookback=2, horizon=1))
    >>> [row.num_edges for row in to_pyg_steps(windows.read([0, 1, 2]))]
    [4, 5]
    """
    targets = None
    if batch.targets is not None and batch.graph is not None:
        shape, nodes = tuple(batch.targets.shape), batch.graph.num_nodes
        axes = [axis for axis, size in enumerate(shape) if axis and size == nodes]
        if len(axes) != 1:
            raise GraphError(
                f"targets of shape {shape} have {len(axes)} axes of the graph's {nodes} nodes, not one."
            )
        targets = _by_node(batch.targets, axes[0])
    inputs = torch.as_tensor(batch.inputs)
    node = layout.replace("t", "").index("n")
    rows = inputs.unbind(layout.index("t"))
    return [_assembled(batch, _by_node(x, node), targets, row) for row, x in enumerate(rows)]


def _by_node(part: Any, axis: int) -> torch.Tensor | None:
    """Return the nodes of all windows, end to end, first."""
    return None if part is None else torch.as_tensor(part).movedim(axis, 1).flatten(0, 1)


def _assembled(batch: Batch, x: torch.Tensor | None, y: torch.Tensor | None, row: int) -> Any:
    """Lay out a Batch with the edges of one row as PyG's collation does, so that it can be taken apart again."""
    graph, windows = batch.graph, batch.num_windows
    if graph is None:
        raise GraphError("the batch has no graph: pass one to the series, wl.Series(…, graph=…).")
    nodes: int = graph.num_nodes
    if isinstance(graph, WindowEdges):
        edge_index, edge_attr = graph.step(row)
        offsets = np.asarray(graph.offsets)
        counts = offsets[:, row + 1] - offsets[:, row]
    else:
        edges = graph.edge_index.shape[1]
        edge_index = np.tile(graph.edge_index, windows) + np.repeat(np.arange(windows) * nodes, edges)
        edge_attr = None if graph.edge_weight is None else np.tile(graph.edge_weight, windows)
        counts = np.full(windows, edges)
    data, ptr = pyg_data(), torch.arange(windows + 1) * nodes
    cuts = torch.from_numpy(np.concatenate(([0], np.cumsum(counts))))
    parts = {"x": x, "edge_index": edge_index, "edge_attr": edge_attr, "y": y}
    given = {name: torch.as_tensor(part) for name, part in parts.items() if part is not None}
    result = data.Batch(_base_cls=data.Data, **given)
    result.batch = torch.arange(windows).repeat_interleave(nodes)
    result.ptr = ptr
    result._num_graphs = windows
    result._slice_dict = {name: cuts if name.startswith("edge") else ptr for name in given}
    zeros = torch.zeros(windows, dtype=torch.int64)
    result._inc_dict = {name: ptr[:-1] if name == "edge_index" else zeros for name in given}
    return result.to(given["edge_index" if x is None else "x"].device)
