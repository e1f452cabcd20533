"""Mapped files that are not in memory: the order is known, so the system is told what to read before it is needed.

In: the rows of mapped variables, and the steps to come. Out: the same rows, whose pages are on their way a few batches
before their turn. Files that are in memory, and small ones, are left to the system. Never reads by itself, never waits.

Which of three a file is, is found out when an iterator begins:

resident   nearly all of a sample of its pages is in memory, or it is small: nothing is done
fits       it is smaller than what memory is left: the windows to come are advised (``MADV_WILLNEED``), and the system
           may read around them, which warms the file
exceeds    the same, and the map is marked ``MADV_RANDOM``: what is read around a window would push out others
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.sources.mapping import is_mapped
from windowloader.util.units import parse_bytes

from .rows import Resident, RowAccess

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from windowloader.order.shard import Position, Step, Steps
    from windowloader.util.ranks import Ranks
    from windowloader.windows.index import Starts

    from .rows import Piece, ResidentVariables

__all__ = ["ReadAhead", "Stretch", "file_memory", "stretch_of"]

SMALL = 256 << 20  # bytes up to which the system's own read-ahead warms a file as fast
MOST = (
    128 << 10
)  # bytes of an advice: what the system reads ahead by default, where it would cut a longer one
WITHIN = 64 << 20  # bytes advised before their turn, about; one batch at least, 16 at most
SAMPLE = 512  # pages looked at to tell whether a file is in memory
RESIDENT = 0.98  # of them
AGAIN = 64  # batches until a file that was cold is looked at again: to ask for what is there costs as well
WHOLE = 2**62  # bytes: no matter how many
VARIABLE = "WINDOWLOADER_FILE_MEMORY"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where the rows of a mapped variable lie in memory.

    Parameters
    ----------
    address : int
        Of row 0.
    rows : int
    row_step, row_bytes : int
        Bytes from row to row, and from a row's first byte to its last.
    """

    address: int
    rows: int
    row_step: int
    row_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes from the first row to the last."""
        return (self.rows - 1) * self.row_step + self.row_bytes

    def resident(self) -> float:
        """Share of a sample of pages that is in memory; 1.0 where the system does not say."""
        from windowloader.util.machine import count_resident

        places = np.linspace(0, self.nbytes - 1, SAMPLE).astype(np.int64)
        found = count_resident(self.address, places, mmap.PAGESIZE)
        return 1.0 if found < 0 else found / len(places)

    def advise(self, begins: np.ndarray, ends: np.ndarray, advice: int, *, most: int = MOST) -> None:
        """Advise the system on ranges of rows."""
        from windowloader.util.machine import advise

        advise(
            self.address, begins * self.row_step, (ends - 1) * self.row_step + self.row_bytes, advice,
            mmap.PAGESIZE, most,
        )  # fmt: skip


def stretch_of(view: np.ndarray) -> Stretch | None:
    """Return where mapped rows lie; None for an array in memory, or one whose rows do not lie one after another."""
    inner = sum((n - 1) * abs(stride) for n, stride in zip(view.shape[1:], view.strides[1:], strict=True))
    orderly = view.size and view.strides[0] >= inner + view.itemsize and min(view.strides) >= 0
    if not orderly or not is_mapped(view) or not hasattr(mmap, "MADV_WILLNEED"):
        return None
    address = int(view.__array_interface__["data"][0])
    return Stretch(address, view.shape[0], view.strides[0], inner + view.itemsize)


def file_memory() -> int:
    """Bytes of files that memory can hold: what is available, within the limit of the control group.

    ``WINDOWLOADER_FILE_MEMORY`` (``"8GiB"``) says it instead, where others need the memory too.
    """
    declared = os.environ.get(VARIABLE)
    if declared:
        return parse_bytes(declared)
    room = [
        _available(),
        _number("/sys/fs/cgroup/memory.max"),
        _number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ]
    return min(found for found in room if found is not None)


def _available() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # absent, or "max"
        return None


class ReadAhead(RowAccess):
    """Rows of mapped variables, whose files are told what comes: a `RowAccess`.

    Parameters
    ----------
    arrays : ResidentVariables
        All variables of the recipe, in memory, mapped or kept whole.
    rows : ndarray, shape (row,), int64
        Which rows a window reads, counted from its start, rising.
    index : Starts
        Of the windows.
    steps : Steps
    ranks : Ranks
    """

    def __init__(
        self, arrays: ResidentVariables, rows: np.ndarray, index: Starts, steps: Steps, ranks: Ranks
    ) -> None:
        self._arrays = arrays
        self.stretches = tuple(found for view in arrays.views if (found := stretch_of(view)) is not None)
        borders = np.flatnonzero(np.diff(rows) > 1)
        self.opens = rows[np.append(0, borders + 1)]
        self.closes = rows[np.append(borders, len(rows) - 1)] + 1
        self.index, self.steps, self.ranks = index, steps, ranks

    def stream(self, position: Position) -> Resident:
        """Rows for a new iterator, advised before their turn where files are not in memory."""
        large = [stretch for stretch in self.stretches if stretch.nbytes > SMALL]
        cold = [stretch for stretch in large if stretch.resident() < RESIDENT]
        if not cold:
            return Resident(self._arrays)
        exceeds = sum(stretch.nbytes for stretch in large) > file_memory()
        for stretch in cold:
            whole = np.array([0]), np.array([stretch.rows])
            stretch.advise(*whole, mmap.MADV_RANDOM if exceeds else mmap.MADV_NORMAL, most=WHOLE)
        return MmapPrefetcher(self._arrays, self, cold, position)

    def close(self) -> None:
        """Let go of what is kept whole."""
        self._arrays.close()


class MmapPrefetcher(Resident):
    """Rows where they lie, asked for before their turn: a `RowStream`."""

    def __init__(
        self, arrays: ResidentVariables, access: ReadAhead, cold: Sequence[Stretch], position: Position
    ) -> None:
        super().__init__(arrays)
        self._access, self._cold = access, tuple(cold)
        ranks = access.ranks
        self._coming = access.steps.rank_rest(position, rank=ranks.rank, world_size=ranks.world_size)
        share = -(-access.steps.global_batch // ranks.world_size)
        rows = int((access.closes - access.opens).sum())
        batch = share * rows * sum(stretch.row_bytes for stretch in cold)
        self.ahead = max(1, min(16, WITHIN // max(1, batch)))
        self._told, self._looked = 0, 0
        self._lock = threading.Lock()

    def pieces(self, index: int, step: Step, starts: np.ndarray) -> Generator[Piece]:
        """Whole arrays, each window at its start, after the batches to come were asked for."""
        if index - self._looked >= AGAIN and self._cold:
            self._looked = index
            self._cold = tuple(stretch for stretch in self._cold if stretch.resident() < RESIDENT)
        while self._cold and (coming := self._next(index)) is not None:
            self._tell(self._access.index(coming))
        return super().pieces(index, step, starts)

    def _next(self, index: int) -> np.ndarray | None:
        """Window numbers of the next step to ask for, up to ``ahead`` steps after ``index``."""
        with self._lock:
            if self._told > index + self.ahead:
                return None
            self._told += 1
            coming = next(self._coming, None)
            if coming is None:
                self._told = 2**62
                return None
            return coming.positions

    def _tell(self, starts: np.ndarray) -> None:
        ranges = np.stack(
            [
                (starts[:, np.newaxis] + self._access.opens).reshape(-1),
                (starts[:, np.newaxis] + self._access.closes).reshape(-1),
            ]
        )
        begins, ends = _united(ranges)
        for stretch in self._cold:
            stretch.advise(begins, ends, mmap.MADV_WILLNEED)


def _united(ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unite ranges (begins, ends) that touch; rising."""
    begins, ends = ranges[:, np.argsort(ranges[0], kind="stable")]
    reach = np.maximum.accumulate(ends)
    opens = np.append(True, begins[1:] > reach[:-1])
    return begins[opens], reach[np.append(opens[1:], True)]
