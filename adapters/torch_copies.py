"""Copies of batches to a device, made ahead on a stream of their own.

In: batches in host memory, in the threads that made them. Out: batches on the device, in the loop's thread, whose
stream waits for their copy. Never blocks the host where memory is pinned, and never lets memory be used again before a
copy from it has ended: pinned memory comes from torch's allocator, which marks every copy from it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from windowloader.adapters.torch_batch import TorchBatch, graph_of_tensors, moved_graph

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from windowloader.batch.batch import Batch
    from windowloader.series.graph import Graph

__all__ = ["Copies", "CudaStream", "OnItsWay", "SideStream"]


class SideStream(Protocol):
    """A queue of device work beside the loop's own; a fake stands in for it where there is no device."""

    def __call__(self) -> AbstractContextManager[Any]:
        """Make the calling thread's work go to this queue."""
        ...

    def mark(self) -> Any:
        """Return a mark of all work queued so far."""

    def hand_over(self, mark: Any, tensors: list[torch.Tensor]) -> None:
        """Let the calling thread's own queue wait for a mark, and let the tensors be used there."""


class CudaStream:
    """A CUDA stream of one device.

    Parameters
    ----------
    device : torch.device
        With an index.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self) -> AbstractContextManager[Any]:
        """Make the calling thread's work go to this stream, and to its device."""
        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context

    def mark(self) -> Any:
        """Return an event behind all work queued so far."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def hand_over(self, mark: Any, tensors: list[torch.Tensor]) -> None:
        """Let the current stream wait, and keep the tensors' memory until its work with them is done."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(mark)
        for tensor in tensors:
            tensor.record_stream(current)


@dataclass(frozen=True, slots=True)
class OnItsWay:
    """A batch on the device whose copies may not have ended."""

    batch: TorchBatch
    mark: Any

    @property
    def num_windows(self) -> int:
        """Windows of the batch."""
        return self.batch.num_windows

    @property
    def nbytes(self) -> int:
        """Bytes of the batch's arrays."""
        return self.batch.nbytes


class Copies:
    """The way of batches to one device.

    Parameters
    ----------
    device : torch.device or None
        Resolved: with an index where the device type has any. None: batches stay where they are.
    stream : SideStream, optional
        None: batches are copied in the thread that made them, which waits.
    pinned : bool
        Whether batches are made in pinned memory.
    bfloat16 : bool
        Whether arrays of uint16 are bits of bfloat16.
    graph : Graph, optional
        A static graph, copied once.

    Attributes
    ----------
    made_there : bool
        Whether batches are gathered on the device.
    moved_bytes : int
        Of batches made on the host and sent to the device so far.
    """

    def __init__(
        self,
        device: torch.device | None,
        *,
        stream: SideStream | None = None,
        pinned: bool = False,
        bfloat16: bool = False,
        graph: Graph | None = None,
    ) -> None:
        self.device = device
        self._stream = stream
        self._pinned = pinned
        self._bfloat16 = bfloat16
        self._static = graph
        self._graph = graph_of_tensors(graph)
        if device is not None and self._graph is not None:
            self._graph = self._graph.to(device)
        self.made_there = False
        self.moved_bytes = 0

    def start(self, batch: Batch) -> TorchBatch | OnItsWay:
        """Wrap a batch, and begin to copy it; in the thread that made it."""
        graph = self._graph if batch.graph is self._static else graph_of_tensors(batch.graph)
        if self._stream is None:
            return self._there(batch, graph)
        with self._stream():
            return OnItsWay(self._there(batch, graph), self._stream.mark())

    def _there(self, batch: Batch, graph: Any) -> TorchBatch:
        tensors = TorchBatch.of(batch, bfloat16=self._bfloat16, graph=graph)
        return tensors if self.device is None or self.device.type == "cpu" else self._copied(tensors)

    def queue(self) -> AbstractContextManager[Any]:
        """Make the calling thread's work on the device go where the copies go."""
        return nullcontext() if self._stream is None else self._stream()

    def finish(self, made: TorchBatch | OnItsWay) -> TorchBatch:
        """Take over a batch in the loop's thread."""
        batch = made if isinstance(made, TorchBatch) else made.batch
        if not self.made_there and self.device is not None and self.device.type != "cpu":
            self.moved_bytes += batch.nbytes
        if isinstance(made, TorchBatch):
            return made
        assert self._stream is not None
        self._stream.hand_over(made.mark, _tensors(made.batch))
        return made.batch

    def _copied(self, batch: TorchBatch) -> TorchBatch:
        assert self.device is not None
        small = batch.weights  # alone not made in the batch's own, perhaps pinned memory
        moved: Any = batch.map(lambda tensor: self.copy(tensor, made_pinned=tensor is not small))
        edges = moved_graph(batch.graph, lambda tensor: self.copy(tensor, made_pinned=False), self.device)
        found: TorchBatch = replace(moved, graph=edges)
        return found

    def copy(self, tensor: torch.Tensor, *, made_pinned: bool) -> torch.Tensor:
        """Copy one tensor to the device: without waiting if memory is pinned, and small ones are made so."""
        if tensor.device == self.device:
            return tensor
        source = tensor.pin_memory() if self._pinned and not made_pinned else tensor
        target = torch.empty_like(source, device=self.device)
        return target.copy_(source, non_blocking=self._pinned)


def _tensors(batch: TorchBatch) -> list[torch.Tensor]:
    found = [*batch.arrays().values()]
    if batch.weights is not None:
        found.append(batch.weights)
    if hasattr(batch.graph, "offsets"):  # a window's own edges; the static graph was copied before, and stays
        found += [t for t in (batch.graph.edge_index, batch.graph.edge_weight) if t is not None]
    return found
