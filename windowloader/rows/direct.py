"""Rows read straight into benches, where blocks make no sense: one-step chunks, rows of many megabytes, full shuffles.

In: the starts of a batch. Out: the rows of as many of its windows as a bench holds, each row once. What another bench
still holds is copied, not read again: windows of neighbouring batches share rows where they come in time order. Only
rows that windows read are asked for, not those between sparse offsets. Never takes more than its benches, and never
hands storage more requests at once than it was told.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import SourceError

from .arena import Arena
from .reader import Job, Reader
from .row_buffers import RowBufferSchedule
from .rows import InTurn, Piece
from .strided import Rows

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from windowloader.order.shard import Position

    from .budget import BlockLayout
    from .reader import RowRange, Stored
    from .row_buffers import Laid, RowBuffers
    from .rows import ResidentVariables

__all__ = ["DirectAccess"]


@dataclass(slots=True, eq=False)
class _Bench:
    """The rows themselves."""

    arena: Arena
    regions: Sequence[np.ndarray]
    ready: bool = True
    failed: bool = False
    holds: int = 0


class DirectAccess:
    """Rows without blocks, for all iterators of a loader.

    Parameters
    ----------
    stored : sequence of Stored
        The variables that are read.
    others : ResidentVariables
        The rest.
    choice : BlockLayout
        Requests at a time.
    benches : RowBuffers
    offsets : ndarray, int64
        Rows that a window reads, counted from its start.
    span : int
    """

    def __init__(
        self,
        stored: Sequence[Stored],
        others: ResidentVariables,
        *,
        choice: BlockLayout,
        benches: RowBuffers,
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
                arena.touch()
                cuts = [
                    slice(i * self.shape.rows, (i + 1) * self.shape.rows) for i in range(self.shape.count)
                ]
                benches = [_Bench(arena, [region[cut] for region in arena.regions]) for cut in cuts]
            stream = DirectStream(self, benches)
            self._streams.add(stream)
            return stream

    def give_back(self, benches: list[_Bench]) -> None:
        """Take the benches of an iterator that is over for the next one."""
        with self._lock:
            if not self._idle and not benches[0].arena.lost:
                self._idle.append(benches)

    def rest(self) -> None:
        """Let go of the benches that no iterator uses."""
        with self._lock:
            self._idle.clear()

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
        self._work = RowBufferSchedule(access.shape, access.offsets, access.span)

    def pieces(self, index: int, position: Position, starts: NDArray[np.int64]) -> Generator[Piece]:
        """Yield the rows of batch number ``index``, as many windows at a time as a bench holds."""
        bench: _Bench | None = None
        first = np.zeros(len(starts), np.int64)
        try:
            self.await_turn(index)
            begin = 0
            while begin < len(starts):
                end = self._work.fit(starts, begin)
                bench, laid, job = self._take(index, starts[begin:end])
                first[begin:end] = laid.first
                if end == len(starts):
                    self.pass_on(index)
                self._fill(bench, laid, job)
                rows = [Rows(region, first) for region in bench.regions]
                yield Piece(self._access.others.beside(rows, starts, self.reads), begin, end)
                self._let_go([bench])
                bench, begin = None, end
        except BaseException:
            self.fail(index)
            raise
        finally:
            if bench is not None:
                self._let_go([bench])

    def _take(self, index: int, starts: NDArray[np.int64]) -> tuple[_Bench, Laid, Job]:
        """Wait for the next bench, and ask for the rows that no other has."""
        bench = self._benches[self._work.upcoming]
        with self._lock:
            while bench.holds:
                self._lock.wait()
                self.check()
            laid = self._work.lay(starts)
            if bench.arena.lost:  # at its own batch, which comes first, the error itself is raised
                raise SourceError("rows of an earlier batch could not be read.")
            for other, _, _ in laid.shared:
                self._benches[other].holds += 1
            bench.holds, bench.ready, bench.failed = 1, False, False
        for source, target in zip(*(places.tolist() for places in laid.moved), strict=True):
            for region in bench.regions:
                region[target] = region[source]
        job = Job(self._ranges(bench, laid), bench.arena)  # only now: reads write where rows were
        with self._lock:
            self._access.reader.submit(job, (index,))
        return bench, laid, job

    def _ranges(self, bench: _Bench, laid: Laid) -> list[RowRange]:
        access = self._access
        return [
            part
            for begin, end, place in laid.runs()
            for one, region in zip(access.stored, bench.regions, strict=True)
            for part in one.ranges(begin, end, region[place : place + end - begin], access.limit)
        ]

    def _fill(self, bench: _Bench, laid: Laid, job: Job) -> None:
        """Wait for the rows, and copy those that other benches have."""
        failed = True
        try:
            for number, source, target in laid.shared:
                other = self._benches[number]
                with self._lock:
                    while not (other.ready or other.failed):
                        self._lock.wait()
                if other.failed:
                    raise SourceError("rows that are shared with an earlier batch could not be read.")
                for ours, theirs in zip(bench.regions, other.regions, strict=True):
                    ours[target] = theirs[source]
            self._access.reader.await_all([job])
            failed = False
        finally:
            with self._lock:
                if failed:  # what is under way writes to the bench until it ends
                    self._access.reader.drop([] if job.done else [job])
                    while not job.done:
                        self._lock.wait()
                bench.ready, bench.failed = not failed, failed
                self.reads.add([job])
                for number, _, _ in laid.shared:
                    self._benches[number].holds -= 1
                self._lock.notify_all()

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
