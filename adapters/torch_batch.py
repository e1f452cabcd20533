"""Batches of tensors, and graphs of tensors.

In: a `Batch` of arrays. Out: `TorchBatch` over the same memory, which also moves to a device and into pinned memory.
Never copies unless it is asked to move.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from windowloader.batch.batch import Batch
from windowloader.series.dynamic_graph import WindowEdges

if TYPE_CHECKING:
    from collections.abc import Callable

    from windowloader.series.graph import Graph

__all__ = ["TorchBatch", "TorchGraph", "as_tensor", "graph_of_tensors", "moved_graph"]


def as_tensor(array: np.ndarray | torch.Tensor, *, bfloat16: bool = False) -> torch.Tensor:
    """Wrap an array as a tensor over the same memory, which it keeps alive.

    Parameters
    ----------
    array : ndarray or Tensor
        A tensor is returned as it is.
    bfloat16 : bool
        Whether uint16 stands for bits of bfloat16.

    Returns
    -------
    Tensor
        A view of the tensor that the memory belongs to, where it belongs to one: torch then knows it as pinned or
        shared.

    Examples
    --------
    >>> as_tensor(np.array([0x3F80, 0x4049], np.uint16), bfloat16=True)
    tensor([1.0000, 3.1406], dtype=torch.bfloat16)
    """
    if isinstance(array, torch.Tensor):
        return array
    owner = getattr(array.base, "base", None)
    if isinstance(owner, torch.Tensor):
        first = array.__array_interface__["data"][0] - owner.data_ptr()
        kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
        tensor = owner[first : first + array.nbytes].view(kind).view(array.shape)
    else:
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if bfloat16 and array.dtype == np.uint16 else tensor


@dataclass(frozen=True, slots=True, eq=False)
class TorchGraph:
    """A static graph as tensors, made once and shared by all batches.

    Parameters
    ----------
    edge_index : Tensor, shape (2, edge), int64
    edge_weight : Tensor, shape (edge,), torch's default dtype, or None
    num_nodes : int
    nodes : ndarray, shape (node,), or None
        Labels.

    Examples
    --------
    >>> import windowloader as wl
    >>> graph_of_tensors(wl.Graph([[0, 1], [1, 2]], [0.5, 1.0])).edge_index
    tensor([[0, 1],
            [1, 2]])
    """

    edge_index: torch.Tensor
    edge_weight: torch.Tensor | None
    num_nodes: int
    nodes: np.ndarray | None = None
    _moved: dict[torch.device, TorchGraph] = field(default_factory=dict, repr=False)

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> TorchGraph:
        """Return the graph on a device; the copy is made once a device, however many batches are moved."""
        place = torch.device(device)
        if self.edge_index.device == place:
            return self
        if place not in self._moved:
            self._moved[place] = self._map(lambda tensor: tensor.to(place, non_blocking=non_blocking))
        return self._moved[place]

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> TorchGraph:
        weight = None if self.edge_weight is None else function(self.edge_weight)
        return TorchGraph(function(self.edge_index), weight, self.num_nodes, self.nodes)

    def __reduce__(self) -> tuple[Any, ...]:
        return TorchGraph, (self.edge_index, self.edge_weight, self.num_nodes, self.nodes)


def graph_of_tensors(graph: Graph | WindowEdges | None) -> Any:
    """Turn a static graph, or edges of windows, into tensors; None stays None.

    Memory is shared where the weights have torch's default dtype, float32; else they are cast to it.
    """
    if isinstance(graph, WindowEdges):
        return graph.map(_edges)
    if graph is None:
        return None
    weight = None if graph.edge_weight is None else _edges(graph.edge_weight)
    return TorchGraph(_edges(graph.edge_index), weight, graph.num_nodes, graph.nodes)


def _edges(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor  # as models have it


def moved_graph(graph: Any, move: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> Any:
    """Move a graph: a static one by its own `to`, the edges of windows tensor by tensor."""
    if isinstance(graph, WindowEdges):
        return graph.map(move)
    return graph if graph is None else graph.to(device)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TorchBatch(Batch):
    """A `Batch` whose arrays are tensors, with all of its attributes.

    ``starts`` and ``entities`` stay NumPy arrays, on the host; a graph is a `TorchGraph`, or windows' edges as tensors.

    Examples
    --------
    >>> batch = TorchBatch(inputs=torch.zeros(4, 12, 207, 2), targets=torch.zeros(4, 12, 207, 1), starts=np.arange(4))
    >>> inputs, targets = batch.to("cpu")
    >>> inputs.shape
    torch.Size([4, 12, 207, 2])
    """

    @classmethod
    def of(
        cls,
        batch: Batch,
        *,
        bfloat16: bool = False,
        graph: Any = None,
    ) -> TorchBatch:
        """Wrap the arrays of a batch; ``graph`` takes the place of its own."""
        found: dict[str, Any] = {
            name: as_tensor(array, bfloat16=bfloat16) for name, array in batch.arrays().items()
        }
        weights = None if batch.weights is None else torch.from_numpy(batch.weights)
        return cls(
            **found,
            weights=weights,
            starts=batch.starts,
            entities=batch.entities,
            graph=graph,
            epoch=batch.epoch,
            step=batch.step,
            exact=batch.exact,
            step_weight=batch.step_weight,
        )

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> TorchBatch:
        """Copy to a device.

        Parameters
        ----------
        device : torch.device, str or int
        non_blocking : bool
            Return before the copies have ended; needs pinned memory.

        Returns
        -------
        TorchBatch
        """
        place = torch.device(device)

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(place, non_blocking=non_blocking)

        moved: Any = self.map(move)
        found: TorchBatch = replace(moved, graph=moved_graph(self.graph, move, place))
        return found

    def pin_memory(self, device: torch.device | str | None = None) -> TorchBatch:
        """Copy into pinned memory what is not pinned; ``DataLoader(pin_memory=True)`` calls this."""
        del device  # torch's own default is the present accelerator, and a second one cannot be pinned for
        pinned: Any = self.map(torch.Tensor.pin_memory)
        found: TorchBatch = pinned
        return found
