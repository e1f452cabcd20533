"""A source whose rows are kept on this node's disk: each block is fetched once, then read from a file.

In: a source that must be read, and a `DiskCache`. Out: `CachedSource`, with the same rows, edges, labels and
fingerprint, so that order and state are those of the source itself.

A read copies the blocks that are on disk, claims and fetches those that no other thread or process has claimed, and
waits for the rest. A thread releases its claims before it waits, so that processes never wait for one another, and it
waits for another process only for a while: that one may have been stopped. `rows_held` and `require` let a
loader index the file itself once all its rows are there.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError

from .base import SourceOver, digest
from .disk_cache_entry import CacheLayout
from .joined import JoinedSource
from .processes import PerProcess
from .reads import Done, Pending, Threaded, begun, taken
from .storage import box_shape, chunk_edges

if TYPE_CHECKING:
    from .base import Source
    from .disk_cache import DiskCache
    from .disk_cache_entry import CacheEntry
    from .storage import Box, Storage

__all__ = ["CachedSource", "cached"]

TRIES = 4  # to bring rows to an entry that is changed from outside
BLOCK = 64 << 10  # bytes of a block, where storage has no chunks
THREADS = 64  # reads at a time
PATIENCE = 10.0  # seconds to wait for blocks that other processes fetch; then they are read without the cache
LOOK = 0.02  # seconds between two looks at blocks that others fetch

_POOLS: PerProcess[tuple[ThreadPoolExecutor, ThreadPoolExecutor]] = PerProcess()


def _pools() -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
    """Return the threads that read, and the one that flushes what was written."""
    return _POOLS.get(lambda: (ThreadPoolExecutor(THREADS), ThreadPoolExecutor(1)))


def cached(source: Source, cache: DiskCache, *, options: str = "") -> Source:
    """Keep a source's rows on disk, each part of a joined source by itself; local sources are returned as they are.

    Parameters
    ----------
    source : Source
        From a path or URL: its fingerprint tells whether the data changed.
    cache : DiskCache
    options : str
        What else decides its values.

    Returns
    -------
    Source
    """
    if isinstance(source, JoinedSource):
        with ThreadPoolExecutor(8) as pool:  # each asks storage for its state
            parts = list(pool.map(lambda part: cached(part, cache, options=options), source.parts))
        joined = JoinedSource(parts)
        joined.times, joined.moved, joined.doubts = source.times, source.moved, source.doubts
        return joined
    if source.axes[:1] != "t" or 0 in source.shape or source.tier != "streamed":
        return source
    return CachedSource(source, cache, options=options)


class CachedSource(SourceOver):
    """A source and its copy on this node.

    Parameters
    ----------
    source : Source
        What is kept.
    cache : DiskCache
        Where.
    options : str
        What else decides its values.
    box : tuple of slice or ndarray, optional
        What is kept of the axes after the first; each box that is read has an entry of its own.
    state : str, optional
        As `Source.state` returns it; None: the source is asked.

    Examples
    --------
    >>> import tempfile
    >>> from windowloader.sources.memory import ArraySource
    >>> from windowloader.sources.disk_cache import DiskCache
    >>> source = CachedSource(ArraySource(np.arange(12.0).reshape(6, 2)), DiskCache(tempfile.mkdtemp()))
    >>> rows = np.empty((2, 2))
    >>> taken = source.read(1, 3, rows)
    >>> rows[0].tolist(), bool(source.rows_held([0], [6]))
    ([2.0, 3.0], True)
    >>> source.close()
    """

    tier = "cached"

    def __init__(
        self,
        source: Source,
        cache: DiskCache,
        *,
        options: str = "",
        box: Box | None = None,
        state: str | None = None,
    ) -> None:
        self.source, self.cache, self.options, self._box = source, cache, options, box
        self._state = source.state() if state is None else state
        sizes = source.shape[1:] if box is None else box_shape(box)
        row_bytes = math.prod(sizes) * source.dtype.itemsize
        # Without chunks the blocks are rows, so that no read ends within one; several where rows are so small that the
        # table would be long, and then they count as chunks.
        chunked = source.storage(box).edges is not None
        self._rows = 0 if chunked else max(1, -(-BLOCK // max(row_bytes, 1)))
        super().__init__(source.name, shape=(source.shape[0], *sizes), dtype=source.dtype, axes=source.axes)
        self.boxes = source.boxes if box is None else "whole"
        self._parts: dict[str, CachedSource] = {}
        self._entry: PerProcess[CacheEntry | None] = PerProcess()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": {}}

    def storage(self, box: Box | None = None) -> Storage:
        """Return that of the source, or of blocks of rows where it has no chunks."""
        if box is not None:
            return self._of_box(box).storage()
        inner = self.source.storage(*self._more)
        if self._rows > 1:
            inner = replace(inner, edges=chunk_edges(self.shape[0], self._rows))
        return replace(inner, split=False)

    @property
    def cached_in(self) -> str:
        """Folder of the disk cache."""
        return self.cache.path

    def state(self) -> str:
        """State of the source when it was opened, and where it is."""
        return digest(self.source.address(), self._state)

    @property
    def _more(self) -> tuple[Box, ...]:
        return () if self._box is None else (self._box,)

    def _of_box(self, box: Box) -> CachedSource:
        """Return the source of a box, which keeps and fetches nothing else."""
        key = _key_of(box)
        if key not in self._parts:
            more: Any = {"options": self.options, "box": box, "state": self._state}
            self._parts[key] = CachedSource(self.source, self.cache, **more)
        return self._parts[key]

    # -- the entry -----------------------------------------------------------------------------------------------------

    def entry(self) -> CacheEntry | None:
        """Return the entry as this process has it open; None where the rows cannot be kept."""
        entry = self._entry.get(self._open)
        if entry is not None and not entry.intact():
            warnings.warn(
                f"{entry.path} was changed from outside; what this cache has of {self.name!r} is dropped and fetched "
                "again.",
                stacklevel=2,
            )
            self._entry.drop(entry)  # reads under way keep it open
            entry = self._entry.get(self._open)
        return entry

    def _open(self) -> CacheEntry | None:
        edges = self.storage().edges
        if edges is None:
            edges = np.arange(self.shape[0] + 1, dtype=np.int64)
        which = (self.name, self.axes, self.shape[1:], self.dtype.str, self.options, self.source.address())
        key, state = digest(*which, _key_of(self._box or ())), digest(self.source.fingerprint(), self._state)
        layout = CacheLayout(self.name, self.shape, self.dtype, np.asarray(edges), f"{key} {state}")
        return self.cache.open(layout, key=key, state=state)

    def rows_held(self, begin: Any, end: Any) -> bool:
        """Whether rows ``[begin, end)`` are all on this node.

        Parameters
        ----------
        begin, end : array_like of int, shape (n,)
            Ranges of rows, none of them empty.

        Returns
        -------
        bool
        """
        entry = self.entry()
        if entry is None:
            return False
        held = entry.held()
        return all(held[low:high].all() for low, high in entry.spans(np.asarray(begin), np.asarray(end)))

    def require(self, begin: np.ndarray, end: np.ndarray) -> tuple[CacheEntry, int]:
        """Return an entry that has rows ``[begin, end)`` verified; what is absent or damaged is fetched.

        Parameters
        ----------
        begin, end : ndarray, shape (n,), int64
            Ranges of rows, none of them empty.

        Returns
        -------
        entry : CacheEntry
            Of its ``rows`` only these may be used, if `CacheEntry.confirm` says afterwards that they were whole.
        seen : int
            For `CacheEntry.confirm`.

        Raises
        ------
        CorruptDataError
            Where the entry does not keep them.
        """
        for _ in range(TRIES):
            entry = self.entry()
            if entry is None:
                break
            seen = entry.seen
            absent = [span for span in entry.spans(begin, end) if not entry.verify(*span)]
            if not absent:
                return entry, seen
            for low, high in absent:
                start, stop = int(entry.layout.edges[low]), int(entry.layout.edges[high])
                self.read(start, stop, np.empty((stop - start, *self.shape[1:]), self.dtype))
        raise CorruptDataError(
            f"rows of {self.name!r} cannot be kept in {self.cache.path}, which is changed from outside or takes no "
            "more. Leave cache_dir= out, or choose another folder."
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read; blocks that are not on this node are fetched from the source."""
        self.check_range(start, stop, out, box)
        if out.dtype != self.dtype:
            raise ValueError(f"rows of {self.name!r} are {self.dtype}, but out has dtype {out.dtype}.")
        if box is not None:
            return self._of_box(box).submit(start, stop, out)
        if not out.size:
            return Done()
        entry = self.entry()
        if entry is None:
            return self.begin(start, stop, out)
        fetched: list[tuple[int, int]] = []
        read = _CacheRead(self, entry, start, out, fetched)
        held = [read]  # the pool must not keep the entry open once the result is there
        del read, entry
        return _Submitted(_pools()[0].submit(lambda: held.pop().run()), fetched)

    def begin(self, start: int, stop: int, out: np.ndarray) -> Pending:
        """Begin to read from the source itself."""
        return begun(self.source.submit(start, stop, out, *self._more), self.name)

    def close(self) -> None:
        """Close the source and the entry; a later read opens them again."""
        if self._entry.drop() is not None:
            with contextlib.suppress(RuntimeError):  # the interpreter ends
                _pools()[1].submit(int).result()  # what was written is flushed by now
        for part in self._parts.values():
            part.close()
        self.source.close()


@dataclass(slots=True, eq=False)
class _Submitted(Threaded):
    """A read on a thread, and the rows it fetched."""

    fetched: list[tuple[int, int]] | None


@dataclass(frozen=True, slots=True)
class _CacheRead:
    """One read of rows, run by one thread.

    Parameters
    ----------
    source : CachedSource
    entry : CacheEntry
    start : int
        First row.
    out : ndarray
    fetched : list of tuple of int
        Filled with the rows that storage is asked for, counted from the first of the read.
    """

    source: CachedSource
    entry: CacheEntry
    start: int
    out: np.ndarray
    fetched: list[tuple[int, int]]

    def run(self) -> int:
        """Bring all rows; return the bytes taken from storage."""
        entry, size = self.entry, 0
        ((first, last),) = entry.spans(np.array([self.start]), np.array([self.start + len(self.out)]))
        left = np.ones(last - first, np.bool_)
        deadline = time.monotonic() + PATIENCE
        while left.any():
            mine = entry.claim(first, left)
            size += self._fetch(first, mine, keep=True)
            left &= ~mine
            left &= ~entry.copy(first, left, self.start, self.out)
            if entry.full or not entry.intact():
                return size + self._fetch(first, left, keep=False)
            if not left.any():
                break
            entry.patient = entry.patient and time.monotonic() < deadline
            if not entry.patient:  # a process that does not go on delays this one no more
                others = left & ~entry.claimed(first, last)
                size += self._fetch(first, others, keep=False)
                left &= ~others
            with entry.changed:
                entry.changed.wait(LOOK)
        return size

    def _fetch(self, first: int, wanted: np.ndarray, *, keep: bool) -> int:
        """Fetch blocks, all at once, and keep them where they are claimed; return the bytes taken."""
        entry, edges, stop, pieces = self.entry, self.entry.layout.edges, self.start + len(self.out), []
        for low, high in _runs(first, wanted):
            # Blocks that are read in part are fetched whole, apart from the others.
            partial = keep and int(edges[low]) < self.start, keep and int(edges[high]) > stop
            for one, other in itertools.pairwise(sorted({low, high, low + partial[0], high - partial[1]})):
                begin, end = int(edges[one]), int(edges[other])
                if not keep:
                    begin, end = max(begin, self.start), min(end, stop)
                self.fetched.append((begin - self.start, end - self.start))
                pieces.append((one, other, begin, *self._begin(begin, end)))
        size, error = 0, None
        for low, high, begin, rows, pending in pieces:
            try:
                size += taken(pending.result(), self.source.name)
                if keep:
                    entry.store(low, high, rows)
            except Exception as raised:  # raised once nothing writes to ``out`` any more
                error = error or raised
                if keep:
                    entry.release(low, high)
            else:
                skip = max(self.start - begin, 0)
                into = self.out[begin + skip - self.start : begin + len(rows) - self.start]
                if not np.may_share_memory(into, rows):
                    into[...] = rows[skip : skip + len(into)]
        if keep and pieces:
            _pools()[1].submit(entry.commit)
        if error is not None:
            raise error
        return size

    def _begin(self, begin: int, end: int) -> tuple[np.ndarray, Pending]:
        """Ask storage for rows, straight into ``out`` where all of them lie in it."""
        rows = self.out[max(begin - self.start, 0) : end - self.start]
        try:
            if len(rows) < end - begin:
                rows = np.empty((end - begin, *self.out.shape[1:]), self.out.dtype)
            return rows, self.source.begin(begin, end, rows)
        except Exception as error:  # raised by the result, so that claims are released in one place
            failed: Future[int] = Future()
            failed.set_exception(error)
            return rows, begun(failed, self.source.name)


def _key_of(box: Box) -> str:
    return digest([repr(part) if isinstance(part, slice) else part.tobytes() for part in box])


def _runs(first: int, wanted: np.ndarray) -> list[tuple[int, int]]:
    """Return the runs of wanted blocks, ``[low, high)``, counted from a first block.

    Examples
    --------
    >>> _runs(5, np.array([True, True, False]))
    [(5, 7)]
    """
    borders = np.flatnonzero(np.diff(wanted, prepend=False, append=False)) + first
    return [(low, high) for low, high in borders.reshape(-1, 2).tolist()]
