"""Streams whose rows fit in memory: each block is read once a run, in the order of the first epoch, and stays.

In: an order laid out over blocks, the rows of this rank's lanes. Out: the rows of every batch, at their place in one
array. Rows are never moved or dropped, so that a window lies in one piece whatever blocks it touches. Never reads a
block twice, and never more blocks ahead than the plan says.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from .block_schedule import rows_of
from .reader import Job
from .rows import Piece
from .streamed import StreamAccess, StreamRows
from .strided import Rows, StridedBuffer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from numpy.typing import NDArray

    from windowloader.order.lanes import BlockOrder
    from windowloader.order.shard import Position, Step

    from .arena import Arena
    from .counting import ReadCounts
    from .read_plan import ReadPlan
    from .reader import Reader
    from .rows import ResidentVariables

__all__ = ["PreloadedAccess", "PreloadedStream", "blocks_of"]


def blocks_of(order: BlockOrder, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """List the blocks of the grid that windows touch, rising."""
    block, crosses = order.grid.locate(starts)
    return np.unique(np.concatenate([block, block[crosses] + 1]))


class PreloadedAccess(StreamAccess):
    """Rows that are read once and stay, for all iterators of a loader."""

    def __init__(self, plan: ReadPlan, others: ResidentVariables, **parts: Any) -> None:
        super().__init__(plan, others, **parts)
        order = self.order
        rotate = bool(self.steps.order.parameters["rotate"])
        self.begin, self.end = rows_of(
            order.starts, order.num_lanes, self.lanes, span=self.span, rotate=rotate
        )
        self.there = np.zeros(len(order.grid), np.bool_)
        """Which blocks have arrived."""
        low = int(np.searchsorted(order.grid.end, self.begin, side="right"))
        self._own = self.there[low : int(np.searchsorted(order.grid.begin, self.end))]
        self._jobs: dict[int, Job] = {}
        self._asked: dict[int, int] = {}  # for which iterator a block was asked for
        self._iterators = 0
        self._arena: Arena | None = None
        self._reads: ReadCounts | None = None  # of the iterator that was begun last
        self._flat: tuple[StridedBuffer | None, ...] = ()
        weakref.finalize(self, _abandon, self.reader, self._jobs)

    @property
    def arena(self) -> Arena:
        """Where rows stand: made when first asked for, in the process that reads."""
        with self._lock:
            if self._arena is None:
                self._arena = self.new_arena(self.end - self.begin)
                self._arena.touch()
                self._flat = tuple(map(StridedBuffer.kept, self._arena.regions))
            return self._arena

    @property
    def whole(self) -> bool:
        """Whether all blocks of this rank are there."""
        return bool(self._own.all())

    def located(self, starts: NDArray[np.int64]) -> list[Rows]:
        """Return where windows begin in the arena."""
        first = starts - self.begin
        return [
            Rows(region, first, flat) for region, flat in zip(self.arena.regions, self._flat, strict=True)
        ]

    def stream(self, position: Position) -> PreloadedStream:
        """Rows for an iterator that begins at a position, whose first blocks are asked for."""
        self._iterators += 1
        stream = PreloadedStream(self, self._iterators)
        self._reads = stream.reads
        step = self.steps.rank_at(position, rank=self.ranks.rank, world_size=self.ranks.world_size)
        if step is not None:
            with self.reader.lock:
                self.read_ahead(step)
        return stream

    def read_ahead(self, step: Step) -> None:
        """Ask for the blocks of the turns that follow a step, as many as are read ahead; under the reader's lock."""
        pass_number = step.before.pass_number
        for number in np.unique(step.lanes).tolist():
            lane = self.order.sequence(pass_number, number)
            if number not in self.lanes or not len(lane):
                continue
            place = min(int(step.places[step.lanes == number].max()), len(lane) - 1)
            turn = int(lane.spread.turn_of(np.array([place]))[0])
            for entry in range(turn, min(turn + 1 + self.choice.ahead, len(lane.visits))):
                block = int(lane.blocks[lane.visits[entry]])
                if not self.there[block]:
                    self.submit([block], (pass_number, int(lane.spread.borders[entry])))

    def submit(self, blocks: Iterable[int], need: tuple[int, int]) -> list[Job]:
        """Ask for blocks that are not there, nor under way; return the jobs of all; under the reader's lock."""
        jobs = []
        for block in blocks:
            if block not in self._jobs:
                begin, end = self.rows(block)
                arena = self.arena
                job = Job(self.ranges(arena.regions, begin, end, at=begin - self.begin), arena, blocks=1)
                self._jobs[block], self._asked[block] = job, self._iterators
                self.reader.submit(job, need)
            jobs.append(self._jobs[block])
        return jobs

    def rows(self, block: int) -> tuple[int, int]:
        """Return the rows of a block that lie among those of this rank."""
        grid = self.order.grid
        return max(int(grid.begin[block]), self.begin), min(int(grid.end[block]), self.end)

    def settle(self, blocks: NDArray[np.int64], iterator: int) -> list[int]:
        """Note blocks that arrived, and forget those that failed; under the lock.

        Returns those that failed and had been asked for by an iterator of before: they are asked for again.

        Storage may still write the rows of a failed read. They are the same rows at the same place.
        """
        again = []
        for block in blocks.tolist():
            job = self._jobs.pop(block, None)
            if job is None:  # settled by another iterator, or closed
                continue
            self.there[block] = job.error is None
            if job.error is not None and self._asked[block] < iterator:
                again.append(block)
        return again

    def loaded(self) -> NDArray[np.bool_]:
        """Return which blocks are there already."""
        return self.there.copy()

    def close(self) -> None:
        """End every read and let go of the rows; what was read in vain counts for the iterator that was begun last."""
        with self.reader.lock:
            jobs = list(self._jobs.values())
            self.reader.drop([job for job in jobs if not job.done])
            self._jobs.clear()
            self.there[:] = False
            self.reader.drain()
            if self._reads is not None:
                self._reads.add(jobs)
        with self._lock:
            if self._arena is not None:
                self._arena.release()
            self._arena = None
        super().close()


def _abandon(reader: Reader, jobs: dict[int, Job]) -> None:
    """End what nobody can ask for any more; runs in the garbage collector, which must not wait."""
    if reader.lock.acquire(blocking=False):
        try:
            reader.drop([job for job in jobs.values() if not job.done])
        finally:
            reader.lock.release()


class PreloadedStream(StreamRows):
    """Rows for the steps of one iterator."""

    def __init__(self, access: PreloadedAccess, number: int) -> None:
        super().__init__(access)
        self._access, self._number = access, number

    def pieces(self, index: int, step: Step, starts: NDArray[np.int64]) -> Generator[Piece]:
        """Yield the rows of batch number ``index``, once all its blocks are there."""
        access = self._access
        try:
            self.await_turn(index)
            span = access.order.grid.span
            inside = (starts >= access.begin) & (starts + span <= access.end)
            if not access.whole:
                self._await(step, blocks_of(access.order, starts[inside]))
            self.pass_on(index)
            borders = np.flatnonzero(np.diff(inside)) + 1
            for begin, end in zip([0, *borders.tolist()], [*borders.tolist(), len(starts)], strict=True):
                if inside[begin]:
                    yield Piece(access.others.beside(access.located(starts), starts, self.reads), begin, end)
                else:
                    first = np.zeros(len(starts), np.int64)
                    while begin < end:
                        low, (begin, regions) = begin, self.read_apart(starts, first, begin, end)
                        rows = [Rows(region, first) for region in regions]
                        yield Piece(access.others.beside(rows, starts, self.reads), low, begin)
        except BaseException:
            self.fail(index)
            raise

    def _await(self, step: Step, blocks: NDArray[np.int64]) -> None:
        access = self._access
        with self._lock:
            self.check()
            missing = blocks[~access.there[blocks]]
            jobs = access.submit(missing.tolist(), (-1, 0))
            access.read_ahead(step)
            while jobs:
                while not all(job.done for job in jobs):
                    self._lock.wait()
                    self.check()
                self.reads.add(jobs)
                again = access.settle(missing, self._number)
                for block, job in zip(missing.tolist(), jobs, strict=True):
                    if job.error is not None and block not in again:
                        raise job.error
                missing = np.array(again, np.int64)
                jobs = access.submit(again, (-1, 0))

    def close(self, *, wait: bool = False) -> None:
        """Use the rows no more; what is read stays for the next iterator."""
        with self._lock:
            self.closed = True
            self._lock.notify_all()
            if wait:
                self._access.reader.drain()
