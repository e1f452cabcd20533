"""Batches and graphs of tensors, and the memory that torch allocates for them.

In: a `Batch` of arrays. Out: `TorchBatch` over the same memory, which is copied only when it is moved to a device or
into pinned memory; `TorchBuffers`, which allocates batches in tensors (pinned, or shared between processes).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from windowloader.batch.batch import ARRAYS, Batch
from windowloader.batch.roles import Field
from windowloader.series.dynamic_graph import WindowEdges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from windowloader.batch.recipe import Recipe
    from windowloader.series.graph import Graph

__all__ = [
    "TorchBatch",
    "TorchBuffers",
    "TorchGraph",
    "as_tensor",
    "batch_axes",
    "graph_of_tensors",
    "moved_graph",
    "shared_arrays",
]


def as_tensor(array: np.ndarray | torch.Tensor, *, bfloat16: bool = False) -> torch.Tensor:
    """Wrap an array as a tensor over the same memory, which it keeps alive.

    Parameters
    ----------
    array : ndarray or Tensor
        A tensor is returned as it is.
    bfloat16 : bool
        Whether uint16 holds the bits of bfloat16.

    Returns
    -------
    Tensor
        Where a tensor owns the memory, a view of that tensor, so that torch knows it as pinned or shared.

    Examples
    --------
    >>> as_tensor(np.array([0x3F80, 0x4049], np.uint16), bfloat16=True)
    tensor([1.0000, 3.1406], dtype=torch.bfloat16)
    """
    if isinstance(array, torch.Tensor):
        return array
    owner: Any = array.base.base if isinstance(array.base, np.ndarray) else None
    if isinstance(owner, torch.Tensor):
        first = array.__array_interface__["data"][0] - owner.data_ptr()
        kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
        tensor = owner[first : first + array.nbytes].view(kind).view(array.shape)
    else:
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if bfloat16 and array.dtype == np.uint16 else tensor


@dataclass(frozen=True, slots=True, eq=False)
class TorchGraph:
    """A static graph as tensors, shared by all batches.

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
        """Return the graph on a device; it is copied once per device, however many batches are moved."""
        place = torch.device(device)
        if self.edge_index.device == place:
            return self
        if place not in self._moved:
            index = self.edge_index.to(place, non_blocking=non_blocking)
            weight = self.edge_weight
            if weight is not None:
                weight = weight.to(place, non_blocking=non_blocking)
            self._moved[place] = TorchGraph(index, weight, self.num_nodes, self.nodes)
        return self._moved[place]

    def __reduce__(self) -> tuple[Any, ...]:
        return TorchGraph, (self.edge_index, self.edge_weight, self.num_nodes, self.nodes)


def graph_of_tensors(graph: Graph | WindowEdges | None) -> Any:
    """Return a static graph, or edges of windows, as tensors; None stays None.

    Memory is shared, except that weights are cast to torch's default dtype, which is that of models.
    """

    def tensor(array: np.ndarray) -> torch.Tensor:
        found = torch.from_numpy(array if array.flags.writeable else array.copy())
        return found.to(torch.get_default_dtype()) if found.is_floating_point() else found

    if isinstance(graph, WindowEdges):
        return graph.map(tensor)
    if graph is None:
        return None
    weight = None if graph.edge_weight is None else tensor(graph.edge_weight)
    return TorchGraph(tensor(graph.edge_index), weight, graph.num_nodes, graph.nodes)


def moved_graph(graph: Any, move: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> Any:
    """Move a graph: a static one by its own `to`, the edges of windows tensor by tensor."""
    if isinstance(graph, WindowEdges):
        return graph.map(move)
    return graph if graph is None else graph.to(device)


WRAPPED = frozenset((*ARRAYS, "weights"))
FACTS = ("starts", "entities", "weights", "epoch", "step", "exact", "step_weight")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TorchBatch(Batch):
    """A `Batch` whose arrays are tensors, with all of its attributes.

    ``starts`` and ``entities`` stay NumPy arrays on the host. A graph is a `TorchGraph`, or windows' edges as tensors.

    Examples
    --------
    >>> batch = TorchBatch(inputs=torch.zeros(4, 12, 207, 2), targets=torch.zeros(4, 12, 207, 1), starts=np.arange(4))
    >>> inputs, targets = batch.to("cpu")
    >>> inputs.shape
    torch.Size([4, 12, 207, 2])
    """

    @classmethod
    def of(cls, batch: Batch, *, bfloat16: bool = False, **changed: Any) -> TorchBatch:
        """Wrap the arrays of a batch; its graph is left out, and what is passed by name replaces its own."""
        fields = {name: getattr(batch, name) for name in ARRAYS + FACTS}
        return cls.over(fields | changed, bfloat16=bfloat16)

    @classmethod
    def over(cls, fields: dict[str, Any], *, bfloat16: bool, **others: Any) -> TorchBatch:
        """Make a batch of the fields of a `Batch` and others; arrays become tensors over the same memory."""
        tensors: dict[str, Any] = {
            name: as_tensor(value, bfloat16=bfloat16) if name in WRAPPED and value is not None else value
            for name, value in fields.items()
        }
        return cls(**tensors, **others)

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
        del device  # torch pins for the current accelerator, and cannot pin for another
        pinned: Any = self.map(torch.Tensor.pin_memory)
        found: TorchBatch = pinned
        return found


def batch_axes(recipe: Recipe) -> dict[str, int]:
    """Return the batch axis of each array of a batch."""
    found = {"weights": 0}
    for role in recipe.roles:
        before = role.layout.letters[: role.layout.letters.index("b")]
        axis = sum(len(role.space) if letter == "n" else 1 for letter in before)
        found |= {role.name: axis, role.mask_name: axis, role.shared_name: 0}
    return found


# -- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class TorchBuffers:
    """Allocates each batch as one tensor. Keeps no memory: torch's own allocator does, and knows of pending copies.

    Parameters
    ----------
    nbytes : int
        Of a batch.
    allocate : callable
        ``allocate(nbytes)`` returns a uint8 tensor of one axis, whose first byte is aligned to 64.
    """

    nbytes: int
    allocate: Callable[[int], torch.Tensor]

    def lease(self) -> TorchLease:
        """Allocate one batch."""
        return TorchLease(self.allocate(self.nbytes))

    def close(self) -> None:
        """Do nothing: there is no memory to release."""


@dataclass(frozen=True, slots=True, eq=False)
class TorchLease:
    """The memory of one batch; arrays made of it keep the tensor alive, and `as_tensor` finds it again."""

    tensor: torch.Tensor

    def carve(self, parts: Iterable[Field]) -> dict[str, np.ndarray]:
        """Make the arrays of a batch, by name."""
        whole = self.tensor.numpy()
        return {
            part.name: np.ndarray(part.shape, part.dtype, buffer=whole, offset=part.offset) for part in parts
        }


def shared_arrays(recipe: Recipe, batch: int) -> dict[str, np.ndarray]:
    """Allocate a batch and its weights in one piece of shared memory, which the main process of a worker can map."""
    weights = Field("weights", (batch,), np.dtype(np.float32), recipe.nbytes(batch))
    storage = torch.UntypedStorage._new_shared(weights.offset + weights.nbytes)  # type: ignore[no-untyped-call]
    lease = TorchLease(torch.empty(0, dtype=torch.uint8).set_(storage))
    return lease.carve((*recipe.fields(batch), weights))
