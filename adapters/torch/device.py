"""Where the batches of a loader go: a device, prefetched copies to it, and perhaps rows that live on it.

In: a device as the user named it, batches in the threads that make them. Out: batches on the device, in the loop's
thread, whose stream waits for their copy. No device is used before the loop begins, so that a process may still fork.
The host never waits where memory is pinned, and memory is not used again before a copy from it has ended: pinned
memory comes from torch's allocator, which tracks every copy from it.
"""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from windowloader.adapters.torch.batch import TorchBatch, TorchBuffers, graph_of_tensors, moved_graph
from windowloader.adapters.torch.rows import DeviceRows, rows_of_rank
from windowloader.adapters.torch.tables import RowTables
from windowloader.errors import LoaderError
from windowloader.rows.rows import Resident, ResidentVariables
from windowloader.series.dynamic_graph import DynamicGraph, WindowEdges
from windowloader.util.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import numpy as np

    from windowloader.batch.recipe import Recipe
    from windowloader.loader.pipeline import Pipeline
    from windowloader.rows.rows import Piece
    from windowloader.windows.window_set import WindowSet

__all__ = ["Destination", "DeviceReport"]


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """Where rows live, and what went to the device so far.

    Parameters
    ----------
    tier : {"device", "kept", "host"}
        Where batches are gathered: on the device from all rows, or from those that are kept there for a while; or on
        the host.
    row_bytes : int
        Size of the rows on the device; of all rows if batches are gathered on the host.
    array_bytes : int
        Size of those rows as they are stored.
    moved_bytes : int
        Sent to the device so far: rows and starts, or batches.
    note : str
        Why this tier was chosen.
    """

    tier: str
    row_bytes: int
    array_bytes: int
    moved_bytes: int
    note: str

    @property
    def moved_per_array(self) -> float:
        """Bytes over the bus ÷ bytes of the array."""
        return self.moved_bytes / self.array_bytes


def _checked(device: torch.device | str | int | None) -> torch.device | None:
    """Return the device that the user named; LoaderError if it is unknown or this torch was built without it."""
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise LoaderError(
            f"device={device!r} is unknown: {str(error).splitlines()[0]} Pass 'cuda', 'cuda:1', 'cpu', or None."
        ) from error
    if found.type == "cuda" and not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        raise LoaderError(
            f"device={device!r}, but this torch was built without CUDA. Install one with it, or pass device=None."
        )
    if found.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=found)
        except Exception as error:  # as many kinds as there are backends
            raise LoaderError(
                f"device={device!r} cannot be used by this torch here. Pass 'cuda', 'cpu', or None."
            ) from error
    return found


class CudaStream:
    """A stream of one CUDA device, beside the loop's own, for copies and gathers.

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
        """Return an event after all work queued so far."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def hand_over(self, mark: Any, tensors: list[torch.Tensor]) -> None:
        """Let the current stream wait for a mark, and keep the tensors' memory until its work with them is done."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(mark)
        for tensor in tensors:
            tensor.record_stream(current)


def side_stream(device: torch.device | None) -> CudaStream | None:
    """Return a stream for copies to a device; None where they are made at once."""
    return CudaStream(device) if device is not None and device.type == "cuda" else None


class Destination:
    """Where the batches of a loader go. Threads hold this, never the loader.

    Parameters
    ----------
    device : torch.device, str, int or None
    pin_memory : bool or None
        None: where the device is a CUDA one.
    device_memory : str, int or None
        For rows that live on the device: a number of bytes, or "all".
    windows : WindowSet
    recipe : Recipe

    Raises
    ------
    LoaderError
        For a device that cannot be used.

    Warns
    -----
    UserWarning
        For pinned memory where there is no CUDA device.
    """

    def __init__(
        self,
        device: torch.device | str | int | None,
        *,
        pin_memory: bool | None,
        device_memory: str | int | None,
        windows: WindowSet,
        recipe: Recipe,
    ) -> None:
        self._device = _checked(device)
        cuda = self._device is not None and self._device.type == "cuda"
        self.pinned = cuda if pin_memory is None else bool(pin_memory)
        if pin_memory and not torch.cuda.device_count():  # does not use a device: a process may still fork
            warnings.warn(
                "pin_memory=True, and torch finds no CUDA device: batches are made in plain memory, as by torch's "
                "DataLoader. Leave out pin_memory= to have it follow device=.",
                UserWarning,
                stacklevel=4,
            )
            self.pinned = False
        if device_memory is not None and self._device is None:
            raise LoaderError(
                f"device_memory={device_memory!r} limits the rows on a device, and device= names none. Pass "
                "device='cuda' (or 'cpu', to keep the rows in host memory)."
            )
        self._budget: float | None = None  # bytes for rows on the device
        if device_memory is not None:
            self._budget = math.inf if device_memory == "all" else parse_bytes(device_memory)
        self._windows, self._recipe = windows, recipe
        self._static = not isinstance(windows.series.graph, DynamicGraph)
        self._bfloat16 = recipe.dtype == "bfloat16"
        self._resolved = False
        self._stream: CudaStream | None = None
        self._graph: Any = None
        self._wanted: tuple[int, int, int] | None = None  # begin and end of the rows, and places for them
        self._loaded: tuple[int, int, int] | None = None
        self._rows: DeviceRows | None = None
        self._moved = 0  # batches, and rows that were released
        note = "device_memory= was not passed: batches are gathered on the host."
        self._report = DeviceReport("host", 0, self._stored_bytes(*windows.row_range), 0, note)

    def _stored_bytes(self, begin: int, end: int) -> int:
        variables = self._windows.series.variables
        return (end - begin) * sum(variables[number].row_bytes for number in self._recipe.variables)

    @property
    def one_by_one(self) -> bool:
        """Whether batches are made singly: a copy to the device, or a gather there, is of one."""
        return self.pinned or self._budget is not None

    # -- before the loop ----------------------------------------------------------------------------------------------

    def place(self, pipeline: Pipeline) -> Pipeline:
        """Decide where batches are gathered; nothing is read or moved before `load`."""
        pipeline = replace(pipeline, make=self.start)
        if self._budget is None:
            return pipeline
        begin, end = rows_of_rank(self._windows, pipeline.steps, pipeline.ranks)
        stored = self._stored_bytes(begin, end)
        row_bytes = RowTables.of(self._recipe).nbytes(1)
        needed = row_bytes * (end - begin)
        rows = f"rows {begin} … {end - 1} take {format_bytes(needed)} as {self._recipe.dtype}"
        if needed <= self._budget:
            self._wanted = begin, end, end - begin
            self._report = DeviceReport("device", needed, stored, 0, f"{rows}, sent once.")
            pipeline.access.close()  # no rows are read for a batch
            return replace(pipeline, gather=self.gather, access=Resident(ResidentVariables(0, {}, {})))
        budget = int(self._budget)
        more = f"{rows}, more than device_memory={format_bytes(budget)}"
        places = budget // row_bytes
        obstacle = self._obstacle(pipeline, places)
        if not obstacle:
            note = f"{more}: {places:,} at a time are kept there, each sent when a window first needs it."
            self._wanted = begin, end, places
            self._report = DeviceReport("kept", row_bytes * places, stored, 0, note)
            return replace(pipeline, gather=self.gather)
        note = f"{more}, and {obstacle}: batches are gathered on the host."
        warnings.warn(note, stacklevel=2)
        self._wanted, self._report = None, DeviceReport("host", needed, stored, 0, note)
        return pipeline

    def _obstacle(self, pipeline: Pipeline, places: int) -> str:
        """Return why rows cannot stay on the device for a while; empty where they can."""
        share = -(-pipeline.steps.global_batch // pipeline.ranks.world_size)
        begin, end = self._windows.row_range
        most = min(share * len(self._recipe.reads.offsets), end - begin)
        if places < most:
            return f"that holds {places:,} rows, where one batch may need {most:,}"
        if pipeline.reading.lanes is None and not pipeline.reading.order.name.startswith("sequential"):
            return "in a full permutation each would be sent again for most windows that contain it"
        return ""

    def load(self) -> None:
        """Resolve the device in the calling thread, and send the rows that are to live there."""
        if not self._resolved:
            self._resolve()
        if self._wanted == self._loaded:
            return
        if self._rows is not None:
            self._moved += self._rows.moved_bytes
        self._rows = None  # release these rows before others are allocated
        if self._wanted is not None:
            assert self._device is not None
            begin, end, places = self._wanted
            self._rows = DeviceRows(
                self._windows, self._recipe, self._device, begin=begin, end=end, places=places
            )
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # the side stream uses them next
        self._loaded = self._wanted

    def _resolve(self) -> None:
        """Give the device the index that is current in the calling thread: other threads have another one."""
        device = self._device
        index: int | None = None if device is None else device.index  # torch's annotation leaves out None
        if device is not None and device.type == "cuda" and index is None:
            if not torch.cuda.is_available():
                raise LoaderError(
                    "device='cuda' was asked for, and torch finds no CUDA device in this process."
                )
            device = self._device = torch.device("cuda", torch.cuda.current_device())
        self._stream = side_stream(device)
        graph = self._windows.series.graph
        self._graph = None if isinstance(graph, DynamicGraph) else graph_of_tensors(graph)
        if device is not None and self._graph is not None:
            self._graph = self._graph.to(device)
        self._resolved = True

    # -- in the threads that make batches -----------------------------------------------------------------------------

    def buffers(self, nbytes: int) -> TorchBuffers:
        """Return pinned memory for batches."""
        return TorchBuffers(nbytes, self._pinned_bytes)

    def _pinned_bytes(self, nbytes: int) -> torch.Tensor:
        device = self._device
        # the current device of a new thread is 0, and pinning would make a context there
        with torch.cuda.device(device if device is not None and device.type == "cuda" else -1):
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def gather(self, starts: np.ndarray, pieces: Iterator[Piece]) -> dict[str, torch.Tensor]:
        """Make the arrays of a batch on the device."""
        assert self._rows is not None
        with self._queue():
            return self._rows.gather(starts, pieces)

    def _queue(self) -> AbstractContextManager[Any]:
        """Make the calling thread's work on the device go to the side stream."""
        return nullcontext() if self._stream is None else self._stream()

    def start(self, *, graph: Any, **fields: Any) -> TorchBatch | tuple[TorchBatch, Any]:
        """Make a batch, and begin to copy it; with a side stream, return a mark after its copies as well."""
        graph = self._graph if self._static else graph_of_tensors(graph)
        with self._queue():
            found = TorchBatch.over(fields, bfloat16=self._bfloat16, graph=graph)
            if self._device is not None and self._device.type != "cpu":
                found = self._copied(found, self._device)
            return found if self._stream is None else (found, self._stream.mark())

    def _copied(self, batch: TorchBatch, device: torch.device) -> TorchBatch:
        """Copy to the device: without waiting if memory is pinned, for which small tensors are pinned here."""
        pinned = {id(tensor) for tensor in batch.arrays().values()}  # where batches are made in pinned memory

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device == device:
                return tensor
            source = tensor.pin_memory() if self.pinned and id(tensor) not in pinned else tensor
            return torch.empty_like(source, device=device).copy_(source, non_blocking=self.pinned)

        moved: Any = batch.map(copy)
        found: TorchBatch = replace(moved, graph=moved_graph(batch.graph, copy, device))
        return found

    # -- in the loop's thread -----------------------------------------------------------------------------------------

    def finish(self, made: TorchBatch | tuple[TorchBatch, Any]) -> TorchBatch:
        """Take over a batch: the current stream waits for its copies."""
        batch, mark = (made, None) if isinstance(made, TorchBatch) else made
        if self._rows is None and self._device is not None and self._device.type != "cpu":
            self._moved += batch.nbytes
        if self._stream is not None:
            tensors = [*batch.arrays().values(), batch.weights]
            if isinstance(batch.graph, WindowEdges):  # a static graph was copied before, and stays
                tensors += [batch.graph.edge_index, batch.graph.edge_weight]
            self._stream.hand_over(mark, [tensor for tensor in tensors if tensor is not None])
        return batch

    def report(self) -> DeviceReport:
        """Return where rows live, and what was moved."""
        rows = 0 if self._rows is None else self._rows.moved_bytes
        return replace(self._report, moved_bytes=self._moved + rows)
