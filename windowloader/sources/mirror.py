"""One array's mirror on this node: a sparse file of its rows, and a table of which of its blocks are whole.

In: the folder of an entry, shape, dtype and the rows where blocks begin. Out: `Mirror`, shared by all that read the
array in this process. Never fetches: `cached` does, and tells it what has arrived.

A folder holds four files. ``values`` has the array as it would lie in memory. ``blocks`` has 16 bytes a block: the
CRC-32 of its bytes and a seal over number, checksum and data set; zeros where the block is absent. ``claims`` is empty:
whoever fetches a block holds a lock on the byte of its number, which the kernel takes back when that process ends,
however it ends. ``used`` is locked, shared, while somebody has the mirror open, and its time says when that was last.

A block is written, flushed to the device, and only then entered in the table, so that after a crash at any moment it is
whole or absent; each process compares its checksum before the first use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import warnings
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceError

from .handles import Stamp
from .mapping import CacheMap, unchanged
from .mirror_form import SLOT
from .mirror_watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .mirror_form import Form
    from .mirror_watch import Watched

__all__ = ["Mirror"]

THREADS = 16  # that bring arrived blocks to the file; none of them ever waits for another process
BUSY = (11, 13)  # EAGAIN, EACCES: somebody else has the lock


class Mirror:
    """A mirror as one process has it open.

    Parameters
    ----------
    folder : Path
        Of the entry, its files made.
    form : Form
        What it holds.
    writable : bool
        Whether blocks may be added.
    """

    def __init__(self, folder: Path, form: Form, *, writable: bool) -> None:
        self.folder, self.form, self.writable = folder, form, writable
        self.changed = threading.Condition()  # notified whenever a block of this process has moved on
        self.reserved = not writable
        blocks = form.num_blocks
        self._lost = False
        self.seen = 0  # when values were written last, as far as this process knows
        self._files = {name: _open(folder / name, writable) for name in ("values", "blocks", "claims")}
        self._used = os.open(folder / "used", os.O_RDONLY)
        fcntl.flock(self._used, fcntl.LOCK_SH)
        sizes = {"values": form.nbytes, "blocks": blocks * SLOT.itemsize}
        self._maps = {name: CacheMap.of(Stamp.of(folder / name), size, 0) for name, size in sizes.items()}
        self.rows = np.ndarray(form.shape, form.dtype, self._maps["values"])
        self._table = np.ndarray(blocks, SLOT, self._maps["blocks"])
        self._checked = np.zeros(blocks, np.bool_)  # compared with its checksum, or written, by this process
        self._written = np.zeros(blocks, np.bool_)  # by this process, in the table or about to be
        self._mine = np.zeros(blocks, np.bool_)  # claimed by this process
        self._ready: list[tuple[int, np.ndarray]] = []
        self._committing = False
        self._watch = Watch(self.changed)
        self._jobs, self._closing = 0, False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="windowloader-mirror")

    # -- what is there -------------------------------------------------------------------------------------------------

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Blocks ``[first, last)`` that rows ``[start, stop)`` lie in."""
        edges = self.form.edges
        return int(np.searchsorted(edges, start, "right")) - 1, int(np.searchsorted(edges, stop, "left"))

    def intact(self) -> bool:
        """Whether nobody has cut, removed or replaced the files; values that somebody wrote are compared again."""
        found = {name: os.fstat(self._files[name]) for name in self._maps}
        self._lost = self._lost or any(
            one.lost or found[name].st_size != one.stamp.size or not found[name].st_nlink
            for name, one in self._maps.items()
        )
        if found["values"].st_mtime_ns != self.seen:
            self.seen = found["values"].st_mtime_ns
            self._checked[:] = False
        return not self._lost

    def held(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Which of some blocks are whole: in the table, or written by this process and about to be.

        Returns
        -------
        ndarray, shape (last - first,), bool
        """
        with unchanged(self._table):
            slots = self._table[first:last].copy()
        if not self.intact():
            return np.zeros(len(slots), np.bool_)
        listed = (slots["seal"] != 0) & (slots["seal"] == self.form.seals(first, slots["crc"]))
        return np.asarray(listed | self._written[first:last])

    def spans(self, begin: np.ndarray, end: np.ndarray) -> set[tuple[int, int]]:
        """Blocks ``[first, last)`` that each of some ranges of rows lies in, each pair once."""
        edges = self.form.edges
        first = np.searchsorted(edges, begin, "right") - 1
        return set(zip(first.tolist(), np.searchsorted(edges, end, "left").tolist(), strict=True))

    def has(self, begin: np.ndarray, end: np.ndarray) -> bool:
        """Whether ranges of rows are what was fetched, compared again where somebody wrote since the last time."""
        return self.intact() and all(self._compare(low, high) for low, high in self.spans(begin, end))

    def unwritten(self, seen: int) -> bool:
        """Whether nobody has written since `seen` was this."""
        return self.intact() and self.seen == seen

    def check(self, first: int, last: int) -> bool:
        """Compare blocks that are held with their checksums, once a process; one that differs becomes absent.

        Returns
        -------
        bool
            Whether all of them are whole.
        """
        return self.intact() and self._compare(first, last)

    def _compare(self, first: int, last: int) -> bool:
        whole = True
        for block in (np.flatnonzero(~self._checked[first:last]) + first).tolist():
            begin, end = self.form.edges[block : block + 2]
            with unchanged(self._table, self.rows):
                slot = self._table[block].copy()
                good = bool(self.held(block, block + 1)[0]) and _crc(self.rows[begin:end]) == int(slot["crc"])
            if not self.intact():
                return False
            if good:
                self._checked[block] = True
            else:
                self._drop(block, slot)
                whole = False
        return whole

    def copy(self, first: int, last: int, begin: int, end: int, out: np.ndarray) -> bool:
        """Copy rows ``[begin, end)`` of blocks ``[first, last)``; False where one of these is not whole."""
        if not self.check(first, last):
            return False
        with unchanged(self.rows):
            out[...] = self.rows[begin:end]
        return self.check(first, last)  # compared again only where somebody wrote meanwhile

    def _drop(self, block: int, seen: np.void) -> None:
        self._written[block] = False
        if not self.writable:
            raise CorruptDataError(
                f"block {block} of the read-only mirror {self.folder} is not what was written. Remove the folder, or "
                "leave out cache_dir=."
            )
        with unchanged(self._table):
            same = self._table[block] == seen
        if same:  # nobody has put it right meanwhile
            os.pwrite(self._files["blocks"], bytes(SLOT.itemsize), block * SLOT.itemsize)

    # -- who fetches what ----------------------------------------------------------------------------------------------

    def claim(self, first: int, last: int) -> bool:
        """Take blocks ``[first, last)`` for this caller alone, if nobody on this node has any of them."""
        with self.changed:
            if self._mine[first:last].any():
                return False
            try:
                fcntl.lockf(self._files["claims"], fcntl.LOCK_EX | fcntl.LOCK_NB, last - first, first)
            except OSError as error:
                if error.errno in BUSY:
                    return False
                raise SourceError(
                    f"{self.folder / 'claims'} cannot be locked ({error}); cache_dir= needs a file system with locks, "
                    "best a local one."
                ) from error
            self._mine[first:last] = True
            return True

    def release(self, first: int, last: int) -> None:
        """Give blocks back, whether they have been written or not."""
        with self.changed:
            self._mine[first:last] = False
            fcntl.lockf(self._files["claims"], fcntl.LOCK_UN, last - first, first)
            self.changed.notify_all()

    def write(self, first: int, last: int, data: np.ndarray) -> None:
        """Put the rows of claimed blocks in place; they can be read at once, and are entered when flushed.

        Parameters
        ----------
        first, last : int
            Blocks, which `commit` then enters and releases.
        data : ndarray
            Their rows.
        """
        edges, flat = self.form.edges, np.ascontiguousarray(data)
        begin = int(edges[first])
        crc = np.array(
            [_crc(flat[edges[block] - begin : edges[block + 1] - begin]) for block in range(first, last)],
            np.uint64,
        )
        _write_all(self._files["values"], memoryview(flat).cast("B"), begin * self.form.row_bytes)
        with self.changed:
            self._written[first:last] = True
            self._checked[first:last] = True
            self._ready.append((first, crc))
            self.changed.notify_all()

    def commit(self) -> None:
        """Flush what was written and enter it; one thread does so for all that came meanwhile."""
        with self.changed:
            if self._committing or not self._ready:
                return
            self._committing = True
        try:
            while batch := self._take_batch():
                try:
                    os.fdatasync(self._files["values"])
                    for first, crc in batch:
                        slots = np.empty(len(crc), SLOT)
                        slots["crc"], slots["seal"] = crc, self.form.seals(first, crc)
                        os.pwrite(self._files["blocks"], slots.tobytes(), first * SLOT.itemsize)
                except BaseException:
                    for first, crc in batch:  # what the device did not take may be lost
                        self._written[first : first + len(crc)] = False
                        self._checked[first : first + len(crc)] = False
                    raise
                finally:
                    for first, crc in batch:
                        self.release(first, first + len(crc))
        except BaseException:
            with self.changed:
                self._committing = False
            raise

    def _take_batch(self) -> list[tuple[int, np.ndarray]]:
        with self.changed:
            batch, self._ready = self._ready, []
            self._committing = bool(batch)
            return batch

    def keep(self, first: int, last: int, data: np.ndarray) -> None:
        """Write claimed blocks and give them back; from then on they can be read, and they are entered soon after.

        A device that takes no more ends the keeping, with a warning, and not the reading.
        """
        try:
            self.write(first, last, data)
        except OSError as error:
            self.release(first, last)
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        with self.changed:
            first_time, self.writable = self.writable, False
            left, self._ready = self._ready, []
        for first, crc in left:
            self.release(first, first + len(crc))
        if first_time:
            warnings.warn(
                f"the mirror {self.folder} takes no more ({error}); what is not there yet is streamed.",
                stacklevel=2,
            )

    def watch(self, read: Watched) -> None:
        """Look for a read's blocks until they are there or can be claimed."""
        self._watch.add(read)

    # -- work and the end ----------------------------------------------------------------------------------------------

    def work(self, job: Callable[[], Any]) -> Future[Any]:
        """Do something on a thread of this mirror, which stays open until it is done."""
        with self.changed:
            future = self._pool.submit(self._run, job)
            self._jobs += 1
            return future

    def _run(self, job: Callable[[], Any]) -> Any:
        try:
            return job()
        finally:
            try:
                self.commit()
            except OSError as error:
                self._stop(error)
            self._ended()

    def _ended(self) -> None:
        with self.changed:
            self._jobs -= 1
            self.changed.notify_all()
            last = self._closing and not self._jobs
        if last:
            self._close_files()

    def touch(self) -> None:
        """Note that the mirror is used now."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / "used", (now := time.time(), now))

    def close(self, *, wait: bool = True) -> None:
        """Let go of the files once nothing is under way; views of `rows` that someone holds stay valid."""
        with self.changed:
            self._closing = True
            idle = not self._jobs
        self._watch.close(f"the mirror {self.folder} was closed while rows were waited for.", wait=wait)
        self._pool.shutdown(wait=wait)
        if idle:
            self._close_files()

    def _close_files(self) -> None:
        with self.changed:
            files, self._files = self._files, {}
        for number in files.values():
            os.close(number)
        if files:
            os.close(self._used)


def _open(path: Path, writable: bool) -> int:
    return os.open(path, os.O_RDWR if writable else os.O_RDONLY)


def _crc(rows: np.ndarray) -> int:
    return zlib.crc32(memoryview(rows).cast("B")) if rows.size else 0


def _write_all(file: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(file, data[: 1 << 30], offset)
        data, offset = data[done:], offset + done
