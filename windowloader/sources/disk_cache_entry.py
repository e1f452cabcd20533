"""One array in the disk cache: a sparse file of its rows, and a table with the checksum of each block that is there.

An entry is a folder of four files. ``values`` holds the rows as they lie in memory. ``blocks`` holds four bytes per
block: its checksum, or 0 while it is absent. ``claims`` is empty: a process that fetches a block locks the byte of its
number, and the kernel unlocks it when that process ends. ``about.json`` describes the array. It is written last, is
locked (shared) while a process has the entry open, and its time of change says when the entry was last opened.

A block is written, flushed to the device, and only then entered in the table: after a crash at any moment it is whole
or absent. Every block is compared with its checksum before its rows are used.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import warnings
import weakref
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .mapping import CacheMap, unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["ABOUT", "FILES", "CacheEntry", "CacheLayout", "open_file"]

ABOUT = "about.json"
FILES = ("values", "blocks", "claims", ABOUT)
SLOT = np.dtype("<u4")


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
    def sizes(self) -> dict[str, int]:
        """Bytes of each file, without `ABOUT`."""
        blocks = len(self.edges) - 1
        return {"values": self.shape[0] * self.row_bytes, "blocks": blocks * SLOT.itemsize, "claims": 0}

    def checksum(self, block: int, rows: np.ndarray) -> int:
        """Return a checksum of a block and of where it belongs; never 0."""
        return zlib.crc32(_bytes(rows), zlib.crc32(f"{self.salt} {block}".encode())) or 1


class CacheEntry:
    """One entry as this process has it open; shared by all its threads, closed when the last reference goes.

    Parameters
    ----------
    folder : Path
    layout : CacheLayout
    files : mapping of str to int
        Descriptors of `FILES`, which the entry closes.

    Attributes
    ----------
    rows : ndarray
        The whole array, mapped; use only rows that `verify` found to be whole.
    seen : int
        When the values were last written, as far as this process knows.
    full : bool
        Whether the device takes no more: blocks that are absent are streamed.
    impatient_until : float
        Until then (``time.monotonic``) no read waits for another process.
    changed : Condition
        Notified when a block of this process was written or released.
    """

    def __init__(self, folder: Path, layout: CacheLayout, files: Mapping[str, int]) -> None:
        self.folder, self.layout = folder, layout
        self.changed = threading.Condition()
        self.full = False
        self.seen = 0
        self.impatient_until = 0.0
        self._files = dict(files)
        fcntl.flock(files[ABOUT], fcntl.LOCK_SH)
        os.utime(files[ABOUT])
        blocks = len(layout.edges) - 1
        self._map = CacheMap.of_descriptor(files["values"], folder / "values", layout.sizes["values"])
        self.rows = np.ndarray(layout.shape, layout.dtype, self._map)
        self._lost = False
        self._checked = np.zeros(blocks, np.bool_)  # compared by `verify` since the values were last written
        self._claimed = np.zeros(blocks, np.bool_)  # by this process
        self._sums = np.zeros(blocks, SLOT)  # of blocks that are written and will be entered in the table
        self._written: list[tuple[int, np.ndarray]] = []
        self._committing = threading.Lock()
        weakref.finalize(self, _close, tuple(files.values())).atexit = False

    # -- what is there -------------------------------------------------------------------------------------------------

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return the blocks ``[first, last)`` that rows ``[start, stop)`` lie in."""
        ((first, last),) = self.spans(np.array([start]), np.array([stop]))
        return first, last

    def spans(self, begin: np.ndarray, end: np.ndarray) -> set[tuple[int, int]]:
        """Return the blocks ``[first, last)`` of each of some ranges of rows, each pair once."""
        edges = self.layout.edges
        first = np.searchsorted(edges, begin, "right") - 1
        return set(zip(first.tolist(), np.searchsorted(edges, end, "left").tolist(), strict=True))

    def intact(self) -> bool:
        """Whether the files still have their sizes and names; values that were written are verified again."""
        found = {name: os.fstat(self._files[name]) for name in ("values", "blocks")}
        self._lost = self._lost or self._map.lost
        for name, status in found.items():
            self._lost = self._lost or status.st_size != self.layout.sizes[name] or not status.st_nlink
        if found["values"].st_mtime_ns != self.seen:
            self.seen = found["values"].st_mtime_ns
            self._checked[:] = False
        return not self._lost

    def held(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Return which blocks are in the table, or written by this process.

        Returns
        -------
        ndarray, shape (last - first,), bool
        """
        last = len(self._sums) if last is None else last
        return self._table(first, last) != 0 if self.intact() else np.zeros(last - first, np.bool_)

    def _table(self, first: int, last: int) -> np.ndarray:
        """Return the checksums of blocks, 0 where they are absent."""
        size = SLOT.itemsize
        written = self._sums[first:last].copy()  # before the table: `commit` moves them there
        try:
            data = os.pread(self._files["blocks"], (last - first) * size, first * size)
        except OSError:
            data, self._lost = b"", True
        found = np.frombuffer(data.ljust((last - first) * size, b"\0"), SLOT)
        return np.where(found, found, written)

    def verify(self, first: int, last: int) -> bool:
        """Compare mapped blocks with their checksums, once a process; those that differ become absent."""
        if not self.intact():
            return False
        seen = self.seen
        for block in (np.flatnonzero(~self._checked[first:last]) + first).tolist():
            begin, end = self.layout.edges[block : block + 2]
            expected = int(self._table(block, block + 1)[0])
            with unchanged(self.rows):
                found = self.layout.checksum(block, self.rows[begin:end])
            if not self.intact():
                return False
            if found != expected:
                self._drop(block, expected)
                return False
            self._checked[block] = self.seen == seen
        return True

    def confirm(self, seen: int, begin: np.ndarray, end: np.ndarray) -> bool:
        """Whether mapped rows ``[begin, end)``, verified when `seen` was this, are still whole after their use."""
        if not self.intact():
            return False
        return self.seen == seen or all(self.verify(*span) for span in self.spans(begin, end))

    def copy(self, first: int, last: int, start: int, out: np.ndarray) -> bool:
        """Copy rows ``[start, start + len(out))`` of blocks ``[first, last)``; False where a block is not whole."""
        edges, layout = self.layout.edges, self.layout
        for block, expected in zip(range(first, last), self._table(first, last).tolist(), strict=True):
            begin, end = int(edges[block]), int(edges[block + 1])
            low, high = max(begin, start), min(end, start + len(out))
            part = out[low - start : high - start]
            whole = high - low == end - begin and part.flags.c_contiguous
            rows = part if whole else np.empty((end - begin, *layout.shape[1:]), layout.dtype)
            read = _transfer(os.preadv, self._files["values"], rows, begin * layout.row_bytes)
            if not read or layout.checksum(block, rows) != expected:
                self._drop(block, expected)
                return False
            if not whole:
                part[...] = rows[low - begin : high - begin]
        return True

    def _drop(self, block: int, expected: int) -> None:
        """Make a damaged block absent, unless it was written again meanwhile."""
        with self.changed:
            if int(self._table(block, block + 1)[0]) == expected:
                self._sums[block] = 0
                os.pwrite(self._files["blocks"], bytes(SLOT.itemsize), block * SLOT.itemsize)

    # -- what is fetched -----------------------------------------------------------------------------------------------

    def claim(self, first: int, wanted: np.ndarray) -> np.ndarray:
        """Claim blocks for the calling thread, but those that another thread or process has.

        Parameters
        ----------
        first : int
            First block.
        wanted : ndarray, shape (blocks,), bool

        Returns
        -------
        ndarray, shape (blocks,), bool
            Which of them are claimed now.
        """
        mine = np.zeros(len(wanted), np.bool_)
        with self.changed:
            own = self._claimed[first : first + len(wanted)]
            for place in np.flatnonzero(wanted & ~own).tolist():
                try:
                    fcntl.lockf(self._files["claims"], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, first + place)
                except OSError:  # another process has it
                    continue
                own[place] = mine[place] = True
        return mine

    def release(self, first: int, last: int) -> None:
        """Release claimed blocks, whether they were written or not."""
        with self.changed:
            self._claimed[first:last] = False
            fcntl.lockf(self._files["claims"], fcntl.LOCK_UN, last - first, first)
            self.changed.notify_all()

    def claimed(self, first: int, last: int) -> np.ndarray:
        """Return which blocks this process has claimed."""
        return self._claimed[first:last].copy()

    def store(self, first: int, last: int, data: np.ndarray) -> None:
        """Write the rows of claimed blocks. They can be read at once; `commit` enters them in the table."""
        edges, layout = self.layout.edges, self.layout
        data = np.ascontiguousarray(data)
        begin = int(edges[first])
        try:
            _transfer(os.pwritev, self._files["values"], data, begin * layout.row_bytes)
        except OSError as error:
            self.release(first, last)
            self._stop(error)
            return
        parts = [
            layout.checksum(block, data[edges[block] - begin : edges[block + 1] - begin])
            for block in range(first, last)
        ]
        with self.changed:
            self._sums[first:last] = parts
            self._written.append((first, np.array(parts, SLOT)))
            self.changed.notify_all()

    def commit(self) -> None:
        """Flush all blocks that were written so far, enter them in the table and release them."""
        with self._committing:
            with self.changed:
                written, self._written = self._written, []
            try:
                if written:
                    os.fdatasync(self._files["values"])
                for first, sums in written:
                    os.pwrite(self._files["blocks"], sums.tobytes(), first * SLOT.itemsize)
            except OSError as error:  # blocks that were not flushed may be lost
                self._stop(error)
            finally:
                for first, sums in written:
                    self._sums[first : first + len(sums)] = 0
                    self.release(first, first + len(sums))

    def _stop(self, error: OSError) -> None:
        with self.changed:
            warned, self.full = self.full, True
        if not warned:
            warnings.warn(
                f"the disk cache {self.folder} takes no more ({error}); blocks that are not there yet are streamed.",
                stacklevel=2,
            )


def open_file(folder: int, name: str, size: int | None, flags: int) -> int:
    """Open a file of an entry; `OSError` where it is no regular file of this user's alone, or has another size.

    Parameters
    ----------
    folder : int
        Descriptor of the entry's folder.
    name : str
    size : int or None
        Bytes that it must have; None: any.
    flags : int
        As of `os.open`. With ``O_CREAT | O_EXCL`` the file is made, of this size.
    """
    number = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=folder)
    if flags & os.O_CREAT:
        os.truncate(number, size or 0)
    status = os.fstat(number)
    private = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1
    if not private or size not in (None, status.st_size):
        os.close(number)
        raise OSError(f"{name} was not written by this cache")
    return number


def _close(descriptors: tuple[int, ...]) -> None:
    for number in descriptors:
        os.close(number)


def _bytes(rows: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))


def _transfer(call: Callable[..., int], descriptor: int, rows: np.ndarray, offset: int) -> bool:
    """Read or write contiguous rows at an offset; False where the file ends before."""
    view = memoryview(rows.reshape(-1).view(np.uint8))
    while view:
        if not (count := call(descriptor, [view], offset)):
            return False
        view, offset = view[count:], offset + count
    return True
