"""Where batches go: a device as the user named it, resolved when the loop begins.

In: what was asked for. Out: a device with an index, the `Copies` that lead there, and perhaps rows that live there.
Never touches a device before the loop begins, so that a process may still fork.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from windowloader.adapters.torch_buffers import TorchBuffers
from windowloader.adapters.torch_copies import Copies, CudaStream
from windowloader.adapters.torch_row_tables import RowTables
from windowloader.adapters.torch_rows import DeviceRows, rows_of_rank
from windowloader.dynamic_graph import DynamicGraph
from windowloader.errors import LoaderError
from windowloader.gathering.rows import Others, Resident
from windowloader.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from windowloader.adapters.torch_batch import TorchBatch
    from windowloader.adapters.torch_copies import OnItsWay, SideStream
    from windowloader.batch import Batch
    from windowloader.engine import Engine
    from windowloader.gather import Recipe
    from windowloader.windows import WindowSet

__all__ = ["Destination", "DeviceReport", "check_device", "resolve_device"]


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """Where rows live, and what went to the device so far.

    Parameters
    ----------
    tier : {"device", "host"}
        Where batches are gathered.
    row_bytes : int
        What the rows take on the device, or would take.
    array_bytes : int
        Those rows as they are stored.
    moved_bytes : int
        Sent to the device so far: rows once and starts, or batches.
    note : str
        Why it is so.
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


NO_ROWS = "device_memory= was not passed: batches are gathered on the host."


def check_device(device: torch.device | str | int | None) -> torch.device | None:
    """Read what the user named; LoaderError for no device, or one that this torch was not built for.

    Examples
    --------
    >>> check_device("cpu")
    device(type='cpu')
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise LoaderError(
            f"device={device!r} names none: {str(error).splitlines()[0]} Pass 'cuda', 'cuda:1', 'cpu', or None."
        ) from error
    if found.type == "cuda" and not _built():
        raise LoaderError(
            f"device={device!r}, but this torch was built without CUDA. Install one with it, or pass device=None."
        )
    return found


def _built() -> bool:
    return bool(torch.backends.cuda.is_built())  # type: ignore[no-untyped-call]


def resolve_device(device: torch.device | None) -> torch.device | None:
    """Give a device the index that is current in the calling thread: other threads have another one."""
    index: int | None = None if device is None else device.index  # torch's annotation leaves out None
    if device is None or device.type != "cuda" or index is not None:
        return device
    if not torch.cuda.is_available():
        raise LoaderError("device='cuda' was asked for, and torch finds no CUDA device in this process.")
    return torch.device("cuda", torch.cuda.current_device())


def side_stream(device: torch.device | None) -> SideStream | None:
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
        For rows that live on the device: a number of bytes that they may take, or "all".
    windows : WindowSet
    recipe : Recipe

    Raises
    ------
    LoaderError
        For a device that cannot be, or pinned memory without CUDA.
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
        self.asked = check_device(device)
        cuda = self.asked is not None and self.asked.type == "cuda"
        self.pinned = cuda if pin_memory is None else bool(pin_memory)
        if self.pinned and not _built():
            raise LoaderError(
                "pin_memory=True, but this torch was built without CUDA, so nothing can be pinned. "
                "Leave pin_memory= out."
            )
        if device_memory is not None and self.asked is None:
            raise LoaderError(
                f"device_memory={device_memory!r} says how much of a device rows may take, and device= names none. "
                "Pass device='cuda' (or 'cpu', to keep the rows in host memory)."
            )
        budget = None if device_memory in (None, "all") else parse_bytes(device_memory)
        self._memory = "all" if device_memory == "all" else budget
        self._windows, self._recipe = windows, recipe
        self._copies: Copies | None = None
        self._range: tuple[int, int] | None = None  # rows that are to live on the device
        self._report = DeviceReport("host", 0, _stored_bytes(windows, recipe, *windows.row_range), 0, NO_ROWS)

    @property
    def copies(self) -> Copies:
        """The way there; resolves the device when first asked for, in the thread that asks."""
        if self._copies is None:
            device, graph = resolve_device(self.asked), self._windows.series.graph
            self._copies = Copies(
                device,
                stream=side_stream(device),
                pinned=self.pinned,
                bfloat16=self._recipe.dtype == "bfloat16",
                graph=None if isinstance(graph, DynamicGraph) else graph,
            )
        return self._copies

    def place(self, engine: Engine) -> Engine:
        """Decide where batches are gathered; nothing is read or moved before `load`."""
        engine = replace(engine, finish=self.start)
        if self._memory is None:
            return engine
        begin, end = rows_of_rank(self._windows, engine.steps, engine.ranks)
        needed = RowTables.of(self._recipe).nbytes(end - begin)
        stored = _stored_bytes(self._windows, self._recipe, begin, end)
        rows = f"rows {begin} … {end - 1} take {format_bytes(needed)} as {self._recipe.dtype}"
        if isinstance(self._memory, int) and needed > self._memory:
            note = f"{rows}, more than device_memory={format_bytes(self._memory)}: batches are gathered on the host."
            warnings.warn(note, stacklevel=2)
            self._range, self._report = None, DeviceReport("host", needed, stored, 0, note)
            return engine
        self._range = begin, end
        self._report = DeviceReport("device", needed, stored, 0, f"{rows}, sent once.")
        engine.access.close()  # nothing is read on the way to a batch
        return replace(engine, gathers=False, access=Resident(Others(0, {}, {})))

    def load(self) -> None:
        """Resolve the device in the calling thread, and send the rows there if they are to live there."""
        copies = self.copies
        if self._range is None:
            copies.rows = None
            return
        begin, end = self._range
        assert copies.device is not None
        if copies.rows is None or not copies.rows.begin <= begin <= end <= copies.rows.end:
            copies.rows = None  # before others come
            rows = DeviceRows(self._windows, self._recipe, copies.device, begin=begin, end=end)
            if copies.device.type == "cuda":
                torch.cuda.synchronize(copies.device)  # other streams will read them
            copies.rows = rows
            copies.moved_bytes += rows.nbytes

    def report(self) -> DeviceReport:
        """Return where rows live, and what moved."""
        return replace(self._report, moved_bytes=0 if self._copies is None else self._copies.moved_bytes)

    def buffers(self, nbytes: int) -> TorchBuffers:
        """Pinned memory for batches."""
        return TorchBuffers(nbytes, self._pinned_bytes)

    def _pinned_bytes(self, nbytes: int) -> torch.Tensor:
        device = self.copies.device
        # a thread's present device is 0 until told otherwise, and pinning would make a context there
        with torch.cuda.device(device if device is not None and device.type == "cuda" else -1):
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def start(self, batch: Batch) -> TorchBatch | OnItsWay:
        """Wrap a batch and begin to copy it; in the thread that made it."""
        return self.copies.start(batch)


def _stored_bytes(windows: WindowSet, recipe: Recipe, begin: int, end: int) -> int:
    return (end - begin) * sum(windows.series.variables[number].row_bytes for number in recipe.variables)
