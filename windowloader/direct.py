"""Rows read straight into benches, where blocks make no sense: one-step chunks, rows of many megabytes, full shuffles.

In: the starts of a batch. Out: the rows of as many of its windows as a bench holds, each row once. What another bench
still holds is copied, not read again: windows of neighbouring batches share rows where they come in time order. Only
rows that windows read are asked for, not those between sparse offsets. Never takes more than its benches, and never
hands storage more requests at once than it was told.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .arena import Arena
from .errors import MemoryBudgetError
from .gather import Rows
from .reader import Job, Reader
from .rows import InTurn, Piece, merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from .budget import Choice
    from .gather import Recipe
    from .rows import Others
    from .shard import Position
    from .stored import Stored

__all__ = ["Benches", "DirectAccess", "window_rows"]

_NONE = np.empty(0, np.int64)


def window_rows(recipe: Recipe) -> NDArray[np.int64]:
    """Return the rows that a window reads, counted from its start, rising."""
    return np.unique(np.concatenate([role.offsets for role in recipe.roles]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Benches:
    """How much room there is for rows that are read directly.

    Parameters
    ----------
    rows : int
        Of a bench: at least a window's span.
    count : int
        Benches.

    Examples
    --------
    >>> Benches.within(1000, row_bytes=10, span=6, windows=8, wanted=4)
    Benches(rows=25, count=4)
    """

    rows: int
    count: int

    @classmethod
    def within(cls, memory: int, *, row_bytes: int, span: int, windows: int, wanted: int) -> Benches:
        """Divide memory into benches.

        Parameters
        ----------
        memory : int
            Bytes for all of them.
        row_bytes, span : int
            Of a row, all variables together; rows of a window.
        windows : int
            Windows of a batch: no bench needs to hold more.
        wanted : int
            Batches under way at a time, and one whose rows may be used again.

        Raises
        ------
        MemoryBudgetError
            Where not one window fits.
        """
        held = memory // max(row_bytes, 1)
        if held < span:
            raise MemoryBudgetError(
                f"a window of {span} rows of {row_bytes} bytes is {span * row_bytes} bytes, and memory= leaves "
                f"{memory} for it. Pass {span * row_bytes - memory} bytes more, or read fewer nodes or features."
            )
        count = max(1, min(wanted, held // span))
        return cls(rows=min(windows * span, held // count), count=count)


@dataclass(slots=True, eq=False)
class _Bench:
    """Rows of one stretch of a batch."""

    regions: Sequence[np.ndarray]
    rows: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    """Which rows of the series it holds, rising."""
    places: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    """Where."""
    job: Job | None = None
    ready: bool = True
    failed: bool = False
    holds: int = 0
    used: int = 0


class DirectAccess:
    """Rows without blocks, for all iterators of a loader.

    Parameters
    ----------
    stored : sequence of Stored
        The variables that are read.
    others : Others
        The rest.
    choice : Choice
        Requests at a time.
    benches : Benches
    offsets : ndarray, int64
        Rows that a window reads, counted from its start.
    span : int
    """

    def __init__(
        self,
        stored: Sequence[Stored],
        others: Others,
        *,
        choice: Choice,
        benches: Benches,
        offsets: NDArray[np.int64],
        span: int,
    ) -> None:
        self.stored, self.others, self.offsets, self.span = tuple(stored), others, offsets, span
        self.shape, self.limit = benches, choice.requests
        self.reader = Reader(choice.requests)
        self._idle: list[list[_Bench]] = []
        self._streams: weakref.WeakSet[DirectStream] = weakref.WeakSet()
        self._lock = threading.Lock()

    def stream(self, position: Position) -> DirectStream:
        """Rows for an iterator; a second one at a time takes benches of its own."""
        with self._lock:
            if self._idle:
                benches = self._idle.pop()
            else:
                variables = [one.variable for one in self.stored]
                arena = Arena(variables, self.shape.rows * self.shape.count)
                cuts = [slice(i * self.shape.rows, (i + 1) * self.shape.rows) for i in range(self.shape.count)]
                benches = [_Bench([region[cut] for region in arena.regions]) for cut in cuts]
            stream = DirectStream(self, benches)
            self._streams.add(stream)
            return stream

    def give_back(self, benches: list[_Bench]) -> None:
        """Take the benches of an iterator that is over for the next one."""
        with self._lock:
            if not self._idle:
                self._idle.append(benches)

    def close(self) -> None:
        """End every read and let go of the benches."""
        for stream in list(self._streams):
            stream.close()
        with self.reader.lock:
            self.reader.drain()
        with self._lock:
            self._idle.clear()
        self.others.close()


class DirectStream(InTurn):
    """Rows for the steps of one iterator."""

    def __init__(self, access: DirectAccess, benches: list[_Bench]) -> None:
        super().__init__(access.reader.lock)
        self._access, self._benches = access, benches
        self._clock = 0

    def pieces(self, index: int, position: Position, starts: NDArray[np.int64]) -> Iterator[Piece]:
        """Yield the rows of batch number ``index``, as many windows at a time as a bench holds."""
        bench: _Bench | None = None
        first = np.zeros(len(starts), np.int64)
        try:
            self.await_turn(index)
            begin = 0
            while begin < len(starts):
                end = self._fit(starts, begin)
                bench, shared, first[begin:end] = self._lay_out(index, starts[begin:end])
                if end == len(starts):
                    self.pass_on(index)
                self._fill(bench, shared)
                rows = [Rows(region, first) for region in bench.regions]
                yield Piece(self._access.others.beside(rows, starts), begin, end)
                self._let_go([bench])
                bench, begin = None, end
        except BaseException:
            self.fail(index)
            raise
        finally:
            if bench is not None:
                self._let_go([bench])

    def _fit(self, starts: NDArray[np.int64], begin: int) -> int:
        """Return up to which window a bench holds the rows."""
        room, span = self._access.shape.rows, self._access.span
        low, high = begin + 1, len(starts)
        while low < high:  # more windows never need fewer rows
            middle = (low + high + 1) // 2
            opens, ends, _ = merge(starts[begin:middle], span)
            low, high = (middle, high) if (ends - opens).sum() <= room else (low, middle - 1)
        return low

    def _lay_out(
        self, index: int, starts: NDArray[np.int64]
    ) -> tuple[_Bench, list[tuple[_Bench, NDArray[np.int64], NDArray[np.int64]]], NDArray[np.int64]]:
        """Take a bench, and say which of its rows others have and which are read."""
        access = self._access
        opens, _, first = merge(starts, access.span)
        rows = np.unique(starts[:, np.newaxis] + access.offsets)
        shift = np.empty(len(opens), np.int64)
        shift[np.searchsorted(opens, starts, side="right") - 1] = first - starts
        places = rows + shift[np.searchsorted(opens, rows, side="right") - 1]
        with self._lock:
            bench = self._take()
            wanted, shared = np.ones(len(rows), np.bool_), []
            for other in sorted(self._benches, key=lambda one: -one.used):
                if other is bench or other.failed or not len(other.rows):
                    continue
                at = np.minimum(np.searchsorted(other.rows, rows), len(other.rows) - 1)
                there = wanted & (other.rows[at] == rows)
                if there.any():
                    other.holds += 1
                    shared.append((other, other.places[at[there]], places[there]))
                    wanted &= ~there
            bench.rows, bench.places, bench.ready, bench.failed = rows, places, False, False
            bench.job = Job(self._ranges(bench, rows[wanted], places[wanted]))
            access.reader.submit(bench.job, (index,))
        return bench, shared, first

    def _take(self) -> _Bench:
        """Wait for the bench that was used longest ago and that nobody holds."""
        while not (free := [bench for bench in self._benches if not bench.holds]):
            self._lock.wait()
            self.check()
        bench = min(free, key=lambda one: one.used)
        self._clock += 1
        bench.used, bench.holds = self._clock, 1
        return bench

    def _ranges(self, bench: _Bench, rows: NDArray[np.int64], places: NDArray[np.int64]):  # type: ignore[no-untyped-def]
        """Reads of runs of rows that follow one another, in the series and on the bench."""
        cuts = np.flatnonzero((np.diff(rows) != 1) | (np.diff(places) != 1)) + 1
        begins, ends = np.concatenate([[0], cuts]), np.append(cuts, len(rows))
        return [
            part
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
            if end > begin
            for one, region in zip(self._access.stored, bench.regions, strict=True)
            for part in one.ranges(
                int(rows[begin]),
                int(rows[end - 1]) + 1,
                region[int(places[begin]) : int(places[end - 1]) + 1],
                self._access.limit,
            )
        ]

    def _fill(self, bench: _Bench, shared: list[tuple[_Bench, NDArray[np.int64], NDArray[np.int64]]]) -> None:
        """Wait for the rows, and copy those that other benches have."""
        failed = True
        try:
            for other, source, target in shared:
                with self._lock:
                    while not (other.ready or other.failed):
                        self._lock.wait()
                if other.failed:
                    # It was let down by its own reads; the error is raised at its batch, which comes first.
                    raise RuntimeError("rows of an earlier batch could not be read.")
                for ours, theirs in zip(bench.regions, other.regions, strict=True):
                    ours[target] = theirs[source]
            self._access.reader.await_all([bench.job] if bench.job is not None else [])
            failed = False
        finally:
            if failed and bench.job is not None:
                self._await_silently(bench.job)
            with self._lock:
                bench.ready, bench.failed, bench.job = not failed, failed, None
                self._lock.notify_all()
            self._let_go([other for other, _, _ in shared])

    def _await_silently(self, job: Job) -> None:
        with self._lock:
            self._access.reader.drop([job])
            while not job.done:
                self._lock.wait()

    def _let_go(self, benches: Sequence[_Bench]) -> None:
        with self._lock:
            for bench in benches:
                bench.holds -= 1
            self._lock.notify_all()

    def close(self, *, wait: bool = False) -> None:
        """Use the rows no more."""
        with self._lock:
            was, self.closed = self.closed, True
            self._lock.notify_all()
            while wait and any(bench.holds for bench in self._benches):
                self._lock.wait()
            quiet = not any(bench.holds for bench in self._benches)
        if quiet and not was:
            self._access.give_back(self._benches)
