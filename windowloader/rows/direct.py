"""Rows read straight into buffers, where blocks make no sense: one-step chunks, rows of many megabytes, full shuffles.

In: the starts of a batch. Out: the rows of as many of its windows as a buffer holds, each row once. What another buffer
still holds is copied, not read again: windows of neighbouring batches share rows where they come in time order. Only
rows that windows read are asked for, not those between sparse offsets. Never takes more than its buffers, and never
hands storage more requests at once than it was told.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceError

from .reader import Job
from .row_buffers import RowBufferSchedule
from .rows import Piece
from .streamed import StreamAccess, StreamRows
from .strided import Rows

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from windowloader.order.shard import Position, Step

    from .arena import Arena
    from .read_plan import ReadPlan
    from .reader import RowRange
    from .row_buffers import Laid
    from .rows import ResidentVariables

__all__ = ["DirectAccess"]


@dataclass(slots=True, eq=False)
class _RowBuffer:
    """The rows themselves."""

    arena: Arena
    regions: Sequence[np.ndarray]
    ready: bool = True
    failed: bool = False
    holds: int = 0


class DirectAccess(StreamAccess):
    """Rows without blocks, for all iterators of a loader.

    Parameters
    ----------
    plan, others, steps, ranks, span
        As for `StreamAccess`.
    offsets : ndarray, int64
        Rows that a window reads, counted from its start.
    """

    def __init__(
        self, plan: ReadPlan, others: ResidentVariables, *, offsets: NDArray[np.int64], **parts: Any
    ) -> None:
        super().__init__(plan, others, **parts)
        assert plan.buffers is not None
        self.shape, self.offsets = plan.buffers, offsets
        self._idle: list[list[_RowBuffer]] = []
        self._streams: weakref.WeakSet[DirectStream] = weakref.WeakSet()

    def stream(self, position: Position) -> DirectStream:
        """Rows for an iterator; a second one at a time takes buffers of its own."""
        with self._lock:
            if self._idle:
                buffers = self._idle.pop()
            else:
                arena = self.new_arena(self.shape.rows * self.shape.count)
                arena.touch()
                cuts = [
                    slice(i * self.shape.rows, (i + 1) * self.shape.rows) for i in range(self.shape.count)
                ]
                buffers = [_RowBuffer(arena, [region[cut] for region in arena.regions]) for cut in cuts]
            stream = DirectStream(self, buffers)
            self._streams.add(stream)
            return stream

    def give_back(self, buffers: list[_RowBuffer]) -> None:
        """Take the buffers of an iterator that is over for the next one."""
        with self._lock:
            if not self._idle and not buffers[0].arena.lost:
                self._idle.append(buffers)

    def rest(self, arenas: int = 0) -> None:
        """Release the buffers that no iterator uses."""
        with self._lock:
            self._idle.clear()

    def close(self) -> None:
        """End every read and let go of the buffers."""
        for stream in list(self._streams):
            stream.close()
        super().close()
        self.rest()


class DirectStream(StreamRows):
    """Rows for the steps of one iterator."""

    def __init__(self, access: DirectAccess, buffers: list[_RowBuffer]) -> None:
        super().__init__(access)
        self._access, self._buffers = access, buffers
        self._work = RowBufferSchedule(access.shape, access.offsets, access.span)

    def pieces(self, index: int, step: Step, starts: NDArray[np.int64]) -> Generator[Piece]:
        """Yield the rows of batch number ``index``, as many windows at a time as a buffer holds."""
        buffer: _RowBuffer | None = None
        first = np.zeros(len(starts), np.int64)
        try:
            self.await_turn(index)
            begin = 0
            while begin < len(starts):
                end = self._work.fit(starts, begin)
                buffer, laid, job = self._take(index, starts[begin:end])
                first[begin:end] = laid.first
                if end == len(starts):
                    self.pass_on(index)
                self._fill(buffer, laid, job)
                rows = [Rows(region, first) for region in buffer.regions]
                yield Piece(self._access.others.beside(rows, starts, self.reads), begin, end)
                self._let_go([buffer])
                buffer, begin = None, end
        except BaseException:
            self.fail(index)
            raise
        finally:
            if buffer is not None:
                self._let_go([buffer])

    def _take(self, index: int, starts: NDArray[np.int64]) -> tuple[_RowBuffer, Laid, Job]:
        """Wait for the next buffer, and ask for the rows that no other has."""
        buffer = self._buffers[self._work.upcoming]
        with self._lock:
            while buffer.holds:
                self._lock.wait()
                self.check()
            laid = self._work.lay(starts)
            if buffer.arena.lost:  # at its own batch, which comes first, the error itself is raised
                raise SourceError("rows of an earlier batch could not be read.")
            for other, _, _ in laid.shared:
                self._buffers[other].holds += 1
            buffer.holds, buffer.ready, buffer.failed = 1, False, False
        for source, target in zip(*(places.tolist() for places in laid.moved), strict=True):
            for region in buffer.regions:
                region[target] = region[source]
        job = Job(self._ranges(buffer, laid), buffer.arena)  # only now: reads write where rows were
        with self._lock:
            self._access.reader.submit(job, (index,))
        return buffer, laid, job

    def _ranges(self, buffer: _RowBuffer, laid: Laid) -> list[RowRange]:
        access = self._access
        return [
            part
            for begin, end, place in laid.runs()
            for part in access.ranges(buffer.regions, begin, end, at=place)
        ]

    def _fill(self, buffer: _RowBuffer, laid: Laid, job: Job) -> None:
        """Wait for the rows, and copy those that other buffers have."""
        failed = True
        try:
            for number, source, target in laid.shared:
                other = self._buffers[number]
                with self._lock:
                    while not (other.ready or other.failed):
                        self._lock.wait()
                if other.failed:
                    raise SourceError("rows that are shared with an earlier batch could not be read.")
                for ours, theirs in zip(buffer.regions, other.regions, strict=True):
                    ours[target] = theirs[source]
            self._access.reader.await_all([job])
            failed = False
        finally:
            with self._lock:
                if failed:  # what is under way writes to the buffer until it ends
                    self._access.reader.drop([] if job.done else [job])
                    while not job.done:
                        self._lock.wait()
                buffer.ready, buffer.failed = not failed, failed
                self.reads.add([job])
                for number, _, _ in laid.shared:
                    self._buffers[number].holds -= 1
                self._lock.notify_all()

    def _let_go(self, buffers: Sequence[_RowBuffer]) -> None:
        with self._lock:
            for buffer in buffers:
                buffer.holds -= 1
            self._lock.notify_all()

    def close(self, *, wait: bool = False) -> None:
        """Use the rows no more."""
        with self._lock:
            was, self.closed = self.closed, True
            self._lock.notify_all()
            while wait and any(buffer.holds for buffer in self._buffers):
                self._lock.wait()
            quiet = not any(buffer.holds for buffer in self._buffers)
        if quiet and not was:
            self._access.give_back(self._buffers)
