"""Streams whose rows fit in memory: each block is read once a run, in the order of the first epoch, and stays.

In: an order laid out over blocks, the rows of this rank's lanes. Out: the rows of every batch, at their place in one
array. Rows are never moved or dropped, so that a window lies in one piece whatever blocks it touches. Never reads a
block twice, and never more blocks ahead than the plan says.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import numpy as np

from .arena import Arena
from .estimate import lanes_read, rows_of
from .reader import Job, Reader, ranges_of
from .rows import InTurn, Piece
from .strided import Rows, StridedBuffer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from numpy.typing import NDArray

    from windowloader.order.lane import LanesOfBlocks
    from windowloader.order.shard import Position, Step, Steps
    from windowloader.util.ranks import Ranks

    from .counting import ReadCounts
    from .layout import BlockLayout
    from .reader import Stored
    from .rows import ResidentVariables

__all__ = ["PreloadedAccess", "PreloadedStream", "blocks_of"]


def blocks_of(order: LanesOfBlocks, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """List the blocks of the grid that windows touch, rising."""
    block, crosses = order.grid.locate(starts)
    return np.unique(np.concatenate([block, block[crosses] + 1]))


class PreloadedAccess:
    """Rows that are read once and stay, for all iterators of a loader.

    Parameters
    ----------
    stored : sequence of Stored
        The variables that are read.
    others : ResidentVariables
        The rest.
    order : LanesOfBlocks
    choice : BlockLayout
        Requests at a time, and how many blocks are read ahead.
    steps : Steps
    ranks : Ranks
    """

    def __init__(
        self,
        stored: Sequence[Stored],
        others: ResidentVariables,
        *,
        order: LanesOfBlocks,
        choice: BlockLayout,
        steps: Steps,
        ranks: Ranks,
    ) -> None:
        self.stored, self.others = tuple(stored), others
        self.order, self.choice, self.steps, self.ranks = order, choice, steps, ranks
        self.lanes = lanes_read(
            ranks.rank, ranks.world_size, lanes=order.num_lanes, batch_per_lane=steps.batch_per_lane
        )
        rotate = bool(steps.order.parameters["rotate"])
        self.begin, self.end = rows_of(
            order.starts, order.num_lanes, self.lanes, span=order.grid.span, rotate=rotate
        )
        self.reader = Reader(choice.requests)
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
        self._lock = threading.Lock()
        weakref.finalize(self, _abandon, self.reader, self._jobs)

    @property
    def arena(self) -> Arena:
        """Where rows stand: made when first asked for, in the process that reads."""
        with self._lock:
            if self._arena is None:
                variables = [one.variable for one in self.stored]
                self._arena = Arena(variables, self.end - self.begin)
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
            ahead = max(1, self.choice.slots - self.choice.active)
            for entry in range(turn, min(turn + 1 + ahead, len(lane.visits))):
                block = int(lane.blocks[lane.visits[entry]])
                self.submit([block], (pass_number, int(lane.spread.borders[entry])))

    def submit(self, blocks: Iterable[int], need: tuple[int, int]) -> list[Job]:
        """Ask for blocks that are not there, nor under way; return the jobs of all; under the reader's lock."""
        jobs = []
        for block in blocks:
            if block not in self._jobs:
                begin, end = self.rows(block)
                limit, arena = self.choice.requests, self.arena
                ranges = ranges_of(self.stored, arena.regions, begin, end, at=begin - self.begin, limit=limit)
                job = Job(ranges, arena, blocks=1)
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
            if block not in self._jobs or self._jobs[block].error is None:
                self.there[block] = block in self._jobs
                continue
            del self._jobs[block]
            if self._asked[block] < iterator:
                again.append(block)
        return again

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
        self.others.close()


def _abandon(reader: Reader, jobs: dict[int, Job]) -> None:
    """End what nobody can ask for any more; runs in the garbage collector, which must not wait."""
    if reader.lock.acquire(blocking=False):
        try:
            reader.drop([job for job in jobs.values() if not job.done])
        finally:
            reader.lock.release()


class PreloadedStream(InTurn):
    """Rows for the steps of one iterator."""

    def __init__(self, access: PreloadedAccess, number: int) -> None:
        super().__init__(access.reader.lock)
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
                    yield from self._read_apart(starts, begin, end)
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

    def _read_apart(self, starts: NDArray[np.int64], begin: int, end: int) -> Generator[Piece]:
        """Read windows of other ranks' lanes, which fill a step of a lane that has none, one by one."""
        access, span = self._access, self._access.order.grid.span
        for place in range(begin, end):
            start = int(starts[place])
            scratch = Arena([one.variable for one in access.stored], span)
            limit = access.choice.requests
            ranges = ranges_of(access.stored, scratch.regions, start, start + span, at=0, limit=limit)
            job = Job(ranges, scratch)
            with self._lock:
                access.reader.submit(job, (-1, 0))
            access.reader.await_all([job])
            with self._lock:
                self.reads.add([job])
            rows = [Rows(region, starts - start) for region in scratch.regions]
            yield Piece(access.others.beside(rows, starts, self.reads), place, place + 1)

    def close(self, *, wait: bool = False) -> None:
        """Use the rows no more; what is read stays for the next iterator."""
        with self._lock:
            self.closed = True
            self._lock.notify_all()
            if wait:
                self._access.reader.drain()
