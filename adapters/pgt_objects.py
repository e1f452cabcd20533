"""PyG's ``Data`` and ``Batch`` from batches of windows, made in one piece.

In: a `Batch` with its graph. Out: ``torch_geometric.data.Batch`` as PyG's own collation would give it. PyG is imported
here and only when asked for an object of it; what a graph's edges are comes from the core.
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
    """PyG's module of data objects; MissingExtraError where PyG is not installed."""
    try:
        with warnings.catch_warnings():
            if "torch_geometric.data" not in sys.modules:
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # of what PyG itself uses when it is imported
            import torch_geometric.data
    except ImportError as error:
        raise MissingExtraError(
            "Data and Batch objects are PyG's, which is not installed: pip install torch_geometric. The arrays come "
            "without it: signal.features, signal.targets, batch.inputs."
        ) from error
    return torch_geometric.data


def to_pyg(batch: Batch, *, node_axis: int = 1) -> Any:
    """One PyG ``Batch`` of the graphs of all windows of a batch.

    To be used as ``WindowLoader(…, layout=("bnft", "bnt"), transform=to_pyg)``.

    Parameters
    ----------
    batch : Batch
        Inputs and targets with the node axis behind the batch axis; arrays or tensors. Its graph is static, or each
        window's own for one row (``WindowSpec(graph="first")`` or ``"last"``, or a lookback of 1).
    node_axis : int
        Where the inputs and targets have their nodes, counted with the batch axis.

    Returns
    -------
    torch_geometric.data.Batch
        ``x``, shape (window · node, …), ``y``, ``edge_index`` with node offsets, ``edge_attr``, ``batch``, ``ptr``.

    Raises
    ------
    GraphError
        Where there is no graph, or one for each of several rows: take `to_pyg_steps`.

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
            f"each window has the graphs of {np.shape(graph.offsets)[1] - 1} rows. Say WindowSpec(graph='first') or "
            "'last' for one a window, or take to_pyg_steps(batch): a Batch for each row."
        )
    x, y = (_by_node(part, node_axis) for part in (batch.inputs, batch.targets))
    return _assemble(x, y, *_edges(graph, batch.num_windows), batch.num_windows)


def to_pyg_steps(batch: Batch, *, layout: str = "btnf") -> list[Any]:
    """One PyG ``Batch`` for each input row, with the edges of that row; targets are in each.

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
        Where there is no graph, or the nodes' axis of the targets cannot be told.

    Examples
    --------
    >>> import windowloader as wl
    >>> edges = wl.DynamicGraph.from_steps([[[0], [1]], [[1, 2], [2, 0]]] * 10)
    >>> windows = wl.WindowSet(wl.Series(np.zeros((20, 3)), graph=edges), wl.WindowSpec(lookback=2, horizon=1))
    >>> [row.num_edges for row in to_pyg_steps(windows.read([0, 1, 2]))]
    [4, 5]
    """
    time, graph = layout.index("t"), batch.graph
    inputs = batch.inputs if isinstance(batch.inputs, torch.Tensor) else torch.from_numpy(batch.inputs)
    node = layout.replace("t", "").index("n")
    targets = _by_node(batch.targets, 1 if batch.targets is None else _target_axis(batch))
    found = []
    for row in range(inputs.shape[time]):
        x = _by_node(inputs.select(time, row), node)
        found.append(_assemble(x, targets, *_edges(graph, batch.num_windows, row), batch.num_windows))
    return found


def _target_axis(batch: Batch) -> int:
    """Find the axis of the targets that has as many entries as the graph has nodes, after the batch's."""
    nodes = batch.graph.num_nodes
    places = [place for place, size in enumerate(batch.targets.shape) if place and size == nodes]
    if len(places) != 1:
        raise GraphError(
            f"targets of shape {tuple(batch.targets.shape)} have {len(places)} axes of the graph's {nodes} nodes; "
            "there must be one."
        )
    return places[0]


def _by_node(part: Any, axis: int) -> torch.Tensor | None:
    """Nodes first, those of all windows end to end."""
    if part is None:
        return None
    tensor = part if isinstance(part, torch.Tensor) else torch.from_numpy(part)
    return tensor.movedim(axis, 1).flatten(0, 1)


def _edges(graph: Any, windows: int, row: int = 0) -> tuple[torch.Tensor, Any, np.ndarray, int]:
    """Edges of all windows, their weights, where each window's begin, and the nodes of one."""
    if graph is None:
        raise GraphError("the batch has no graph: give the series one, wl.Series(…, graph=…).")
    if isinstance(graph, WindowEdges):
        index, weight = graph.step(row)
        offsets = np.asarray(graph.offsets)
        counts = offsets[:, row + 1] - offsets[:, row]
    else:
        edges = graph.edge_index.shape[1]
        shift = np.repeat(np.arange(windows, dtype=np.int64) * graph.num_nodes, edges)
        index = np.tile(graph.edge_index, windows) + shift
        weight = None if graph.edge_weight is None else np.tile(graph.edge_weight, windows)
        counts = np.full(windows, edges)
    begins = np.concatenate(([0], np.cumsum(counts)))
    return (
        torch.as_tensor(index),
        None if weight is None else torch.as_tensor(weight),
        begins,
        graph.num_nodes,
    )


def _assemble(
    x: torch.Tensor | None,
    y: torch.Tensor | None,
    edge_index: torch.Tensor,
    edge_attr: torch.Tensor | None,
    begins: np.ndarray,
    nodes: int,
    windows: int,
) -> Any:
    """Lay out a Batch as PyG's collation does, so that it comes apart again."""
    data = pyg_data()
    ptr = torch.arange(windows + 1) * nodes
    parts = {"x": x, "edge_index": edge_index, "edge_attr": edge_attr, "y": y}
    given = {name: part for name, part in parts.items() if part is not None}
    cuts = torch.from_numpy(begins)
    result = data.Batch(_base_cls=data.Data, **given)
    result.batch = torch.arange(windows).repeat_interleave(nodes)
    result.ptr = ptr
    result._num_graphs = windows
    result._slice_dict = {name: cuts if name.startswith("edge") else ptr for name in given}
    result._inc_dict = {
        name: ptr[:-1] if name == "edge_index" else torch.zeros(windows, dtype=torch.int64) for name in given
    }
    return result.to(edge_index.device) if x is None else result.to(x.device)
