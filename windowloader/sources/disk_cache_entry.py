"""One array in the disk cache: a sparse file of its rows, with the checksum of each block that is there.

A file begins with a header that describes the array; its rows follow as they lie in memory, then four bytes per block:
its checksum, or 0 while it is absent. A process that fetches a block locks the byte of its number, one that has the
file open the byte `IN_USE` (shared); the kernel unlocks both when that process ends. The time of access says when the
file was last opened.

A block is written, flushed to the device, and only then entered in the table: after a crash at any moment it is whole
or absent. Every block is compared with its checksum before its rows are used.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import struct
import threading
import time
import warnings
import weakref
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .mapping import CacheMap

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HEADER", "IN_USE", "SLOT", "CacheEntry", "CacheLayout", "lock", "open_file"]

FORMAT = 3
HEADER = 4096  # bytes
SLOT = np.dtype("<u4")
IN_USE = 1 << 62


@dataclass(frozen=True, slots=True, eq=False)
class CacheLayout:
    """What an entry holds.

    Parameters
    ----------
    name : str
        Name of the array, for messages.
    shape : tuple of int
        Time first.
    dtype : numpy.dtype
    edges : ndarray, shape (blocks + 1,), int64
        First row of each block, and the end.
    salt : str
        Differs between arrays and between states of one array; part of every checksum.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    edges: np.ndarray
    salt: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.row_bytes

    @property
    def header(self) -> bytes:
        """First bytes of the file."""
        about = {"name": self.name[:500], "shape": self.shape, "dtype": self.dtype.str, "format": FORMAT}
        about |= {"bytes": self.nbytes, "blocks": len(self.edges) - 1}
        return json.dumps(about).encode().ljust(HEADER)

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return HEADER + self.nbytes + (len(self.edges) - 1) * SLOT.itemsize

    def checksum(self, block: int, rows: np.ndarray) -> int:
        """Return a checksum of a block and of where it belongs; never 0."""
        return zlib.crc32(_bytes(rows), zlib.crc32(f"{self.salt} {block}".encode())) or 1


class CacheEntry:
    """One entry as this process has it open; shared by all its threads, closed when the last reference goes.

    Parameters
    ----------
    path : str
        Of the file.
    layout : CacheLayout

    Attributes
    ----------
    rows : ndarray
        The whole array, mapped; use only rows that `verify` found to be whole.
    seen : int
        When the file was last written, as far as this process knows.
    full : bool
        Whether the device takes no more: blocks that are absent are streamed.
    patient : bool
        Whether reads wait for blocks that other processes fetch; not once one of those has taken too long.
    changed : Condition
        Notified when a block of this process was written or released.

    Raises
    ------
    OSError
        Where the file is not there, or is not what this cache made.
    """

    def __init__(self, path: str, layout: CacheLayout) -> None:
        self.path, self.layout = path, layout
        self.changed = threading.Condition()
        self.full, self.patient, self.seen = False, True, 0
        self._file = open_file(path)
        weakref.finalize(self, os.close, self._file).atexit = False
        status = os.fstat(self._file)
        header = os.pread(self._file, HEADER, 0)
        if (status.st_size, header) != (layout.file_bytes, layout.header):
            raise OSError(f"{path} is damaged")
        if not lock(self._file, fcntl.F_RDLCK, IN_USE):
            raise OSError(f"{path} is being removed")
        os.utime(self._file, ns=(time.time_ns(), status.st_mtime_ns))
        self._map = CacheMap.of_descriptor(self._file, path, layout.file_bytes)
        self.rows = np.ndarray(layout.shape, layout.dtype, self._map, HEADER)
        blocks = len(layout.edges) - 1
        self._checked = np.zeros(blocks, np.bool_)  # by `verify`, since the file was last written
        self._claimed = np.zeros(blocks, np.bool_)  # by this process
        self._sums = np.zeros(blocks, SLOT)  # of blocks that this process wrote
        self._written: list[tuple[int, int]] = []  # blocks that will be entered in the table

    # -- what is there -------------------------------------------------------------------------------------------------

    def spans(self, begin: np.ndarray, end: np.ndarray) -> set[tuple[int, int]]:
        """Return the blocks ``[first, last)`` of each of some ranges of rows, each pair once."""
        edges = self.layout.edges
        first = np.searchsorted(edges, begin, "right") - 1
        return set(zip(first.tolist(), np.searchsorted(edges, end, "left").tolist(), strict=True))

    def intact(self) -> bool:
        """Whether the file still has its size and name; after it was written to, blocks are verified again."""
        status = os.fstat(self._file)
        if status.st_mtime_ns != self.seen:
            self.seen = status.st_mtime_ns
            self._checked[:] = False
        return not self._map.lost and status.st_size == self.layout.file_bytes and status.st_nlink > 0

    def held(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Return which blocks are in the table, or written by this process.

        Returns
        -------
        ndarray, shape (last - first,), bool
        """
        last = len(self._sums) if last is None else last
        return self._table(first, last) != 0 if self.intact() else np.zeros(last - first, np.bool_)

    def _slot(self, block: int) -> int:
        """Where the checksum of a block lies."""
        return HEADER + self.layout.nbytes + block * SLOT.itemsize

    def _table(self, first: int, last: int) -> np.ndarray:
        """Return the checksums of blocks, 0 where they are absent."""
        data = os.pread(self._file, (last - first) * SLOT.itemsize, self._slot(first))
        found = np.frombuffer(data.ljust((last - first) * SLOT.itemsize, b"\0"), SLOT)
        return np.where(found, found, self._sums[first:last])

    def verify(self, first: int, last: int) -> bool:
        """Compare blocks with their checksums, once a process; those that differ become absent."""
        intact, seen, edges = self.intact(), self.seen, self.layout.edges
        for block in (np.flatnonzero(~self._checked[first:last]) + first).tolist() if intact else ():
            rows = np.empty((edges[block + 1] - edges[block], *self.layout.shape[1:]), self.layout.dtype)
            intact = (
                bool(self.copy(block, np.ones(1, np.bool_), int(edges[block]), rows)[0]) and self.intact()
            )
            if not intact:
                break
            self._checked[block] = self.seen == seen
        return intact

    def confirm(self, seen: int, begin: np.ndarray, end: np.ndarray) -> bool:
        """Whether mapped rows ``[begin, end)``, verified when `seen` was this, are still whole after their use."""
        return self.intact() and (
            self.seen == seen or all(self.verify(*span) for span in self.spans(begin, end))
        )

    def copy(self, first: int, wanted: np.ndarray, start: int, out: np.ndarray) -> np.ndarray:
        """Copy the rows ``[start, start + len(out))`` of wanted blocks that are there; damaged ones become absent.

        Returns
        -------
        ndarray, shape (blocks,), bool
            Which of them were copied.
        """
        edges, layout = self.layout.edges, self.layout
        copied: np.ndarray = wanted & self.held(first, first + len(wanted))
        for place in np.flatnonzero(copied).tolist():
            block = first + place
            expected = int(self._table(block, block + 1)[0])
            begin, end = int(edges[block]), int(edges[block + 1])
            low, high = max(begin, start), min(end, start + len(out))
            part = out[low - start : high - start]
            whole = high - low == end - begin and part.flags.c_contiguous
            rows = part if whole else np.empty((end - begin, *layout.shape[1:]), layout.dtype)
            try:
                read = _transfer(os.preadv, self._file, rows, HEADER + begin * layout.row_bytes)
            except OSError:
                read = False
            if not read or layout.checksum(block, rows) != expected:
                self._drop(block, expected)
                copied[place] = False
            elif not whole:
                part[...] = rows[low - begin : high - begin]
        return copied

    def _drop(self, block: int, expected: int) -> None:
        """Make a damaged block absent, unless it was written again meanwhile."""
        with self.changed:
            if int(self._table(block, block + 1)[0]) == expected and self.intact():
                self._sums[block] = 0
                os.pwrite(self._file, bytes(SLOT.itemsize), self._slot(block))

    # -- what is fetched -----------------------------------------------------------------------------------------------

    def claim(self, first: int, wanted: np.ndarray) -> np.ndarray:
        """Claim absent blocks for the calling thread, but those that another thread or process has.

        Parameters
        ----------
        first : int
            First block.
        wanted : ndarray, shape (blocks,), bool

        Returns
        -------
        ndarray, shape (blocks,), bool
            Which of them are claimed now; none where the entry keeps no more.
        """
        mine, last = np.zeros(len(wanted), np.bool_), first + len(wanted)
        if self.full or not self.intact():
            return mine
        with self.changed:
            own = self._claimed[first:last]
            for place in np.flatnonzero(wanted & ~own & ~self.held(first, last)).tolist():
                own[place] = mine[place] = lock(self._file, fcntl.F_WRLCK, first + place)
        for place in np.flatnonzero(
            mine & self.held(first, last)
        ).tolist():  # written by others before it was claimed
            self.release(first + place, first + place + 1)
            mine[place] = False
        return mine

    def release(self, first: int, last: int) -> None:
        """Release claimed blocks, whether they were written or not."""
        with self.changed:
            self._claimed[first:last] = False
            lock(self._file, fcntl.F_UNLCK, first, last - first)
            self.changed.notify_all()

    def claimed(self, first: int, last: int) -> np.ndarray:
        """Return which blocks this process has claimed."""
        return self._claimed[first:last].copy()

    def store(self, first: int, last: int, data: np.ndarray) -> None:
        """Write the rows of claimed blocks. They can be read at once; `commit` enters them in the table."""
        edges, layout, data = self.layout.edges, self.layout, np.ascontiguousarray(data)
        begin = int(edges[first])
        try:
            _transfer(os.pwritev, self._file, data, HEADER + begin * layout.row_bytes)
        except OSError as error:
            self.release(first, last)
            self._stop(error)
            return
        with self.changed:
            for block in range(first, last):
                self._sums[block] = layout.checksum(
                    block, data[edges[block] - begin : edges[block + 1] - begin]
                )
            self._written.append((first, last))
            self.changed.notify_all()

    def commit(self) -> None:
        """Flush blocks that were written, enter them in the table and release them; only one thread at a time."""
        with self.changed:
            written, self._written = self._written, []
        try:
            if written:
                os.fdatasync(self._file)
            for first, last in written:
                os.pwrite(self._file, self._sums[first:last].tobytes(), self._slot(first))
        except OSError as error:  # blocks that were not flushed may be lost
            self._stop(error)
        finally:
            for span in written:
                self.release(*span)

    def _stop(self, error: OSError) -> None:
        with self.changed:
            warned, self.full = self.full, True
        if not warned:
            warnings.warn(
                f"the disk cache {self.path} takes no more ({error}); blocks that are not there yet are streamed.",
                stacklevel=2,
            )


def open_file(path: str, flags: int = 0) -> int:
    """Open a file of the cache; `OSError` where it is no regular file of this user's alone.

    Parameters
    ----------
    path : str
    flags : int
        ``os.O_CREAT | os.O_EXCL``: it is made.

    Returns
    -------
    int
        A descriptor.
    """
    number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600)
    status = os.fstat(number)
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o077 and status.st_nlink == 1
    if not (private and stat.S_ISREG(status.st_mode)):
        os.close(number)
        raise OSError(f"{path} was not written by this cache")
    return number


def lock(descriptor: int, kind: int, byte: int, count: int = 1) -> bool:
    """Lock or unlock bytes of an open file, of all its descriptors together; False where another has them locked."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, count, 0))
    except BlockingIOError:
        return False
    return True


def _bytes(rows: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))


def _transfer(call: Callable[..., int], descriptor: int, rows: np.ndarray, offset: int) -> bool:
    """Read or write contiguous rows at an offset; False where the file ends before."""
    view = _bytes(rows)
    while view:
        if not (count := call(descriptor, [view], offset)):
            return False
        view, offset = view[count:], offset + count
    return True
