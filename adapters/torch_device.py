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
from windowloader.adapters.torch_kept import KeptRows
from windowloader.adapters.torch_row_tables import RowTables
from windowloader.adapters.torch_rows import DeviceRows, rows_of_rank
from windowloader.errors import LoaderError
from windowloader.rows.rows import Resident, ResidentVariables
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.util.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from windowloader.adapters.torch_batch import TorchBatch
    from windowloader.adapters.torch_copies import OnItsWay, SideStream
    from windowloader.batch.batch import Batch
    from windowloader.batch.recipe import Recipe
    from windowloader.loader.pipeline import Pipeline
    from windowloader.rows.rows import Piece
    from windowloader.windows.window_set import WindowSet

__all__ = ["Destination", "DeviceReport", "check_device", "resolve_device"]


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """Where rows live, and what went to the device so far.

    Parameters
    ----------
    tier : {"device", "kept", "host"}
        Where batches are gathered: on the device from all rows, or from those that are kept there for a while; or on
        the host.
    row_bytes : int
        What the rows take on the device; on the host, what all would take.
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


def _has_gpu() -> bool:
    """Say whether a CUDA device is there, without touching it: a process may still fork."""
    return _built() and torch.cuda.device_count() > 0


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
        For a device that cannot be.

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
        self.asked = check_device(device)
        cuda = self.asked is not None and self.asked.type == "cuda"
        self.pinned = cuda if pin_memory is None else bool(pin_memory)
        if pin_memory and not _has_gpu():
            warnings.warn(
                "pin_memory=True, and torch finds no CUDA device: batches are made in plain memory, as torch's "
                "DataLoader makes them then. Leave pin_memory= out to have it follow device=.",
                UserWarning,
                stacklevel=4,
            )
            self.pinned = False
        if device_memory is not None and self.asked is None:
            raise LoaderError(
                f"device_memory={device_memory!r} says how much of a device rows may take, and device= names none. "
                "Pass device='cuda' (or 'cpu', to keep the rows in host memory)."
            )
        budget = None if device_memory in (None, "all") else parse_bytes(device_memory)
        self._memory = "all" if device_memory == "all" else budget
        self._windows, self._recipe = windows, recipe
        self._copies: Copies | None = None
        self._wanted: tuple[int, int, int] | None = None  # begin and end of the rows, and how many at a time
        self._there: tuple[int, int, int] | None = None
        self._rows: DeviceRows | KeptRows | None = None
        self._moved = 0  # for rows that were given up
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

    @property
    def one_by_one(self) -> bool:
        """Whether batches are made singly: a copy, or a gather there, is of one."""
        return self.pinned or self._memory is not None

    def place(self, engine: Pipeline) -> Pipeline:
        """Decide where batches are gathered; nothing is read or moved before `load`."""
        engine = replace(engine, finish=self.start)
        if self._memory is None:
            return engine
        begin, end = rows_of_rank(self._windows, engine.steps, engine.ranks)
        stored = _stored_bytes(self._windows, self._recipe, begin, end)
        row_bytes = RowTables.of(self._recipe).nbytes(1)
        needed = row_bytes * (end - begin)
        rows = f"rows {begin} … {end - 1} take {format_bytes(needed)} as {self._recipe.dtype}"
        if not isinstance(self._memory, int) or needed <= self._memory:
            self._wanted = begin, end, end - begin
            self._report = DeviceReport("device", needed, stored, 0, f"{rows}, sent once.")
            engine.access.close()  # nothing is read on the way to a batch
            return replace(engine, gather=self.gather, access=Resident(ResidentVariables(0, {}, {})))
        more = f"{rows}, more than device_memory={format_bytes(self._memory)}"
        places = self._memory // row_bytes
        why = self._cannot_keep(engine, places)
        if not why:
            note = f"{more}: {places:,} at a time are kept there, each sent when a window first needs it."
            self._wanted = begin, end, places
            self._report = DeviceReport("kept", row_bytes * places, stored, 0, note)
            return replace(engine, gather=self.gather)
        note = f"{more}, and {why}: batches are gathered on the host."
        warnings.warn(note, stacklevel=2)
        self._wanted, self._report = None, DeviceReport("host", needed, stored, 0, note)
        return engine

    def _cannot_keep(self, engine: Pipeline, places: int) -> str:
        """Say why rows cannot stay on the device for a while; nothing where they can."""
        share = -(-engine.steps.global_batch // engine.ranks.world_size)
        begin, end = self._windows.row_range
        most = min(share * len(self._recipe.reads.offsets), end - begin)
        if places < most:
            return f"that holds {places:,} rows, where one batch may need {most:,}"
        if engine.reading.lanes is None and not engine.reading.order.name.startswith("sequential"):
            return "in an order that may go anywhere each would be sent again for most windows that have it"
        return ""

    def load(self) -> None:
        """Resolve the device in the calling thread, and send the rows there if they are to live there."""
        copies, wanted, there = self.copies, self._wanted, self._there
        copies.made_there = wanted is not None
        if wanted is not None and there is not None:
            whole = wanted[2] == wanted[1] - wanted[0] and there[2] == there[1] - there[0]
            if there == wanted or (whole and there[0] <= wanted[0] and wanted[1] <= there[1]):
                return
        if self._rows is not None:
            self._moved += self._rows.moved_bytes
        self._rows = self._there = None  # before others come
        if wanted is None:
            return
        begin, end, places = wanted
        assert copies.device is not None
        if places == end - begin:
            self._rows = DeviceRows(self._windows, self._recipe, copies.device, begin=begin, end=end)
        else:
            self._rows = KeptRows(self._recipe, copies.device, begin=begin, end=end, places=places)
        if copies.device.type == "cuda":
            torch.cuda.synchronize(copies.device)  # the stream of the copies goes on with them
        self._there = wanted

    def gather(self, starts: np.ndarray, pieces: Iterator[Piece]) -> dict[str, torch.Tensor]:
        """Make the arrays of a batch on the device; in the thread that makes the batch."""
        assert self._rows is not None
        with self.copies.queue():
            return self._rows.gather(starts, pieces)

    def report(self) -> DeviceReport:
        """Return where rows live, and what moved."""
        moved = self._moved + (0 if self._copies is None else self._copies.moved_bytes)
        if self._rows is not None:
            moved += self._rows.moved_bytes
        return replace(self._report, moved_bytes=moved)

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
