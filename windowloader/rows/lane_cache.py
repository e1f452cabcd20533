"""One lane of a stream on its way through turns: which place of the arena holds what, and who still needs it.

In: the plan of a lane (`BlockSchedule`), places, a `Reader`. Out: for windows of the present turn, the rows of the
arena where they begin. Follows the plan to the letter: what is read, kept and dropped when is decided in
``schedule``.

A *tick* counts turns over all passes. A batch that is being gathered holds the tick at which it began; a place that
was left at tick ``k`` is used again when nobody holds an earlier one. So turns move on while batches are made.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import ClosedError, SourceTimeoutError

from .block_schedule import BlockSchedule
from .counting import ReadCounts
from .reader import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from windowloader.order.lane import Lane

    from .block_schedule import Turn
    from .streamed import StreamAccess

__all__ = ["BlockMemory", "Cut", "LaneCache"]


class Cut(Exception):  # noqa: N818 - not an error: the batch goes on once what it has so far is gathered
    """A batch holds itself what it would need next to be free."""


class BlockMemory:
    """Where rows of blocks and overlaps lie in an arena that the lane caches of an iterator share.

    Parameters
    ----------
    access : StreamAccess
    """

    def __init__(self, access: StreamAccess) -> None:
        grid, choice, lanes = access.order.grid, access.choice, len(access.lanes)
        self.order, self.reader, self._ranges = access.order, access.reader, access.ranges
        self.slots, self.overlaps = choice.places(len(grid)), choice.overlaps(len(grid))
        self._overlaps_at = lanes * self.slots * grid.largest  # behind the blocks of all lanes
        self.arena = access.new_arena(self._overlaps_at + lanes * self.overlaps * 2 * (grid.span - 1))
        self.arena.touch()

    def job(self, begin: int, end: int, row: int, *, ended: Callable[[Job], None] | None = None) -> Job:
        """Return a read of rows into the arena from ``row`` on; of a block where somebody asks for its end."""
        ranges = self._ranges(self.arena.regions, begin, end, at=row)
        return Job(ranges, self.arena, ended, blocks=int(ended is not None))

    def place(self, lane_cache: int, place: int) -> int:
        """First row of a place for a block."""
        return (lane_cache * self.slots + place) * self.order.grid.largest

    def overlap(self, lane_cache: int, place: int) -> int:
        """First row of a place for an overlap."""
        rows = 2 * (self.order.grid.span - 1)
        return self._overlaps_at + (lane_cache * self.overlaps + place) * rows

    def copy(self, source: int, target: int, rows: int) -> None:
        """Copy rows of every variable within the arena."""
        for region in self.arena.regions:
            region[target : target + rows] = region[source : source + rows]


@dataclass(slots=True, eq=False)
class _LanePass:
    """One pass of a lane cache over its lane: what is where."""

    number: int
    lane: Lane
    schedule: BlockSchedule
    turn: int
    """The turn that was begun last."""
    wanted: deque[int] = field(default_factory=deque)
    """Blocks for which there was no place yet."""
    unlisted: int = 0
    """Blocks that no turn has asked for yet."""
    jobs: dict[int, Job] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    overlap_places: dict[int, int] = field(default_factory=dict)
    sides: set[tuple[int, int]] = field(default_factory=set)
    """(overlap, block) whose rows stand in the overlap buffer."""
    absent: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Rows of overlaps that are read when a window asks for them."""
    block_at: NDArray[np.int64] = field(init=False)
    overlap_at: NDArray[np.int64] = field(init=False)
    """What, added to a row of the series, gives its row in the arena."""

    def __post_init__(self) -> None:
        self.block_at = np.zeros(len(self.lane.blocks), np.int64)
        self.overlap_at = np.zeros(len(self.lane.blocks), np.int64)
        self.unlisted = int(np.count_nonzero(self.schedule.placed))

    @property
    def begun(self) -> bool:
        """Whether a turn has begun."""
        return self.turn >= self.schedule.first_turn

    @property
    def failed(self) -> bool:
        """Whether a read failed."""
        return any(job.error is not None for job in self.jobs.values())


class LaneCache:
    """A lane, pass after pass.

    All methods but `locate` are called with the reader's lock held; those that may wait give it up meanwhile.

    Parameters
    ----------
    cache : BlockMemory
        Has the arena.
    lane : int
        Of the order.
    index : int
        Which of the lane caches of the stream this is.
    """

    def __init__(self, cache: BlockMemory, lane: int, index: int) -> None:
        self.cache = cache
        self.number = lane
        self.index = index
        self.slots = cache.slots
        """Places for blocks, but those whose read was given up and failed."""
        self.free = list(range(cache.slots))[::-1]
        self.free_overlaps = list(range(cache.overlaps))[::-1]
        self.tick = 0
        self.holds: Counter[int] = Counter()
        self.left: deque[tuple[int, list[int], int]] = deque()
        self.passes: deque[_LanePass] = deque()
        self.closed: Callable[[], bool] = lambda: False
        self.reads = ReadCounts()
        """Where what is read counts: those of the iterator that goes through the lane."""
        self.ahead = True
        self.paused = False
        """Whether the present pass goes on where an epoch ended within it; else it may have stopped anywhere."""

    @property
    def present(self) -> _LanePass:
        """The pass that is gone through."""
        return self.passes[0]

    # -- passes --------------------------------------------------------------------------------------------------------

    def begin(self, number: int, cursor: int) -> None:
        """Go to a place of a pass: on from where it is or what is read ahead if that is it, else anew."""
        paused, self.paused = self.paused, False
        while self.passes:
            first = self.present
            there = cursor == 0 if not first.begun else paused and self._is_near(first, cursor)
            if first.number == number and there and not first.failed:
                return
            self.end_pass()
            paused = False
        self._append(number, cursor)

    @staticmethod
    def _is_near(lane_pass: _LanePass, cursor: int) -> bool:
        """Whether fewer blocks lie between the present turn and a place than would be read to begin there."""
        lane = lane_pass.lane
        turn = int(lane.spread.turn_of(np.array([min(cursor, len(lane) - 1)]))[0])
        return cursor >= lane_pass.schedule.cursor and 0 <= turn - lane_pass.turn <= lane.active

    def end_pass(self) -> None:
        """Leave all places of the present pass; the next one is the present then, if it was begun ahead."""
        lane_pass = self.passes.popleft()
        self.tick += 1
        there = [place for block, place in lane_pass.places.items() if lane_pass.jobs[block].done]
        self.left.extend((self.tick, self.free, place) for place in there)
        self.reads.add(job for job in lane_pass.jobs.values() if job.done)
        # The places of the others are freed when their reads have ended, see `_ended`.
        self.cache.reader.drop([job for job in lane_pass.jobs.values() if not job.done])
        for place in lane_pass.overlap_places.values():
            self.left.append((self.tick, self.free_overlaps, place))
        lane_pass.places.clear()
        self.settle()

    def _append(self, number: int, cursor: int) -> _LanePass:
        lane = self.cache.order.sequence(number, self.number)
        schedule = BlockSchedule(
            lane, span=self.cache.order.grid.span, slots=self.cache.slots, cursor=min(cursor, len(lane))
        )
        lane_pass = _LanePass(number, lane, schedule, schedule.first_turn - 1)
        self.passes.append(lane_pass)
        if schedule.first_turn < lane.num_turns:
            self._list(lane_pass, schedule.turn(schedule.first_turn).submit)
        self.settle()
        return lane_pass

    def _list(self, lane_pass: _LanePass, blocks: NDArray[np.int64]) -> None:
        lane_pass.wanted.extend(blocks.tolist())
        lane_pass.unlisted -= len(blocks)

    # -- places --------------------------------------------------------------------------------------------------------

    def hold(self) -> int:
        """Keep all that is there now until `release` of the tick that is returned."""
        self.holds[self.tick] += 1
        return self.tick

    def release(self, tick: int) -> None:
        """Let go of what was there at a tick."""
        self.holds[tick] -= 1
        if not self.holds[tick]:
            del self.holds[tick]
        self.settle()

    def settle(self) -> None:
        """Free the places that nobody holds, and read what waits for one."""
        oldest = min(self.holds, default=self.tick)
        while self.left and self.left[0][0] <= oldest:
            _, places, place = self.left.popleft()
            places.append(place)
        for lane_pass in self.passes:
            while lane_pass.wanted and self.free:
                self._submit(lane_pass, lane_pass.wanted.popleft())
        last = self.passes[-1] if self.passes else None
        # While a lane drains, its next pass fills the places.
        if last is not None and len(self.passes) == 1 and self.ahead and last.begun and self._drains(last):
            self._append(last.number + 1, 0)
        self.cache.reader.lock.notify_all()

    def _drains(self, lane_pass: _LanePass) -> bool:
        return not lane_pass.unlisted and not lane_pass.wanted

    def _submit(self, lane_pass: _LanePass, block: int) -> None:
        cache, place = self.cache, self.free.pop()
        begin, end = lane_pass.schedule.rows(block)
        row = cache.place(self.index, place)
        lane_pass.block_at[block] = row - begin
        job = cache.job(begin, end, row, ended=lambda job: self._ended(lane_pass, place, job))
        lane_pass.places[block], lane_pass.jobs[block] = place, job
        need = (lane_pass.number, int(lane_pass.lane.spread.borders[lane_pass.lane.entry[block]]))
        cache.reader.submit(job, need)

    def _ended(self, lane_pass: _LanePass, place: int, job: Job) -> None:
        if lane_pass not in self.passes:  # given up while it was under way
            self.reads.add([job])
            if job.error is None:
                self.free.append(place)
            else:  # storage may write to the place as long as the request lives
                self.slots -= 1
            del job
            self.settle()

    # -- turns ---------------------------------------------------------------------------------------------------------

    def reach(self, turn: int, *, holding: bool) -> None:
        """Go on to a turn, waiting for what it needs.

        Parameters
        ----------
        turn : int
            The present one, or a later one.
        holding : bool
            Whether the batch that asks holds a tick of this lane cache.

        Raises
        ------
        Cut
            Where ``holding`` is in the way.
        """
        while self.present.turn < turn:
            self._check_room(holding)
            self._turn()

    def _check_room(self, holding: bool) -> None:
        """Wait until the places are free that the next turn takes."""
        lane_pass = self.present
        events = lane_pass.schedule.turn(lane_pass.turn + 1)
        overlaps = {*events.saved.tolist(), *events.joined.tolist()} - lane_pass.overlap_places.keys()

        def fits() -> bool:
            # Overlaps that the turn releases itself give their places as soon as nobody holds this turn.
            gone = sum(overlap in lane_pass.overlap_places for overlap in events.released.tolist())
            room = len(self.free_overlaps) + (0 if self.holds else gone)
            return len(overlaps) <= room and all(
                block in lane_pass.jobs for block in self._first_needed(lane_pass)
            )

        while not fits():
            if holding:
                raise Cut
            if not self.holds:
                self._check_places()
            self._wait()

    def _check_places(self) -> None:
        """Raise where no place will be free any more."""
        if self._under_way():
            return
        if self.slots < self.cache.slots:
            raise SourceTimeoutError(
                "a read that the iterator before had begun failed, and its answer may still come, to memory that is "
                "needed now. Iterate again: that takes other memory."
            )
        raise AssertionError(f"lane {self.number}: the plan has too few places")

    @property
    def busy(self) -> bool:
        """Whether somebody holds something, or reads that were given up are under way."""
        return bool(self.holds) or self._under_way()

    def _under_way(self) -> bool:
        """Whether reads that were given up still fill places."""
        return len(self.free) + sum(len(lane_pass.places) for lane_pass in self.passes) < self.slots

    def _first_needed(self, lane_pass: _LanePass) -> list[int]:
        """Blocks that must be there when the next turn begins."""
        lane, turn = lane_pass.lane, lane_pass.turn + 1
        if lane_pass.begun:
            needed = lane.visits[turn : turn + 1]
        else:
            entered = np.arange(min(turn + 1, len(lane.visits)))
            needed = lane.visits[entered[lane_pass.schedule.placed[entered]]]
        return [int(block) for block in needed]

    def _turn(self) -> None:
        """Begin the next turn, as ``schedule`` has it."""
        lane_pass = self.present
        turn = lane_pass.turn + 1
        events = lane_pass.schedule.turn(turn)
        first = not lane_pass.begun
        for block in self._first_needed(lane_pass):
            self.await_job(lane_pass.jobs[block])
        self.tick += 1
        self._leave(lane_pass.overlap_places, events.released, self.free_overlaps)
        lane_pass.turn = turn
        self.settle()
        self._join(lane_pass, events)
        self._leave(lane_pass.places, events.leave, self.free)
        if not first:  # those of the first turn were listed when the pass was
            self._list(lane_pass, events.submit)
        self.settle()

    def _join(self, lane_pass: _LanePass, events: Turn) -> None:
        """Keep the rows of overlaps that would be gone, or are all there now."""
        for overlap in events.saved.tolist() + events.joined.tolist():
            self._save(lane_pass, overlap)
        for overlap in events.joined.tolist():
            if lane_pass.schedule.missing[np.searchsorted(lane_pass.schedule.overlaps, overlap)]:
                lane_pass.absent[overlap] = lane_pass.schedule.side_rows(overlap)

    def _leave(self, places: dict[int, int], names: NDArray[np.int64], free: list[int]) -> None:
        for name in names.tolist():
            if name in places:
                self.left.append((self.tick, free, places.pop(name)))
                if free is self.free:
                    del self.present.jobs[name]

    def _save(self, lane_pass: _LanePass, overlap: int) -> None:
        """Copy the sides of an overlap that are there to its place."""
        begin, border, end = lane_pass.schedule.overlap_rows(overlap)
        if overlap not in lane_pass.overlap_places:
            place = lane_pass.overlap_places[overlap] = self.free_overlaps.pop()
            lane_pass.overlap_at[overlap] = self.cache.overlap(self.index, place) - begin
        at = int(lane_pass.overlap_at[overlap])
        for block, low, high in ((overlap, begin, border), (overlap + 1, border, end)):
            if (overlap, block) in lane_pass.sides or block not in lane_pass.places:
                continue
            job = lane_pass.jobs[block]
            if job.done and job.error is None:
                # Nobody else moves a lane cache on, so that its reads need not wait for the copy.
                self.cache.reader.lock.release()
                try:
                    self.cache.copy(int(lane_pass.block_at[block]) + low, at + low, high - low)
                finally:
                    self.cache.reader.lock.acquire()
                self._check()
                lane_pass.sides.add((overlap, block))

    # -- windows -------------------------------------------------------------------------------------------------------

    def locate(self, starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the rows of the arena where windows of the present turn begin.

        Parameters
        ----------
        starts : ndarray, int64

        Returns
        -------
        rows : ndarray, int64
        overlaps : ndarray, int64
            Those of their overlaps of which a side must be read first: `read_sides`.
        """
        lane_pass = self.present
        block, crosses = lane_pass.schedule.locate(starts)
        rows = starts + np.where(crosses, lane_pass.overlap_at[block], lane_pass.block_at[block])
        if not lane_pass.absent:
            return rows, block[:0]
        asked = np.unique(block[crosses])
        return rows, asked[np.isin(asked, list(lane_pass.absent))]

    def read_sides(self, overlaps: NDArray[np.int64]) -> list[Job]:
        """Ask for the sides of overlaps whose blocks are gone; the jobs are to be waited for."""
        lane_pass, cache = self.present, self.cache
        jobs = []
        for overlap in overlaps.tolist():
            begin, end = lane_pass.absent.pop(overlap)
            row = int(lane_pass.overlap_at[overlap]) + begin
            job = cache.job(begin, end, row)
            cache.reader.submit(job, (-1, 0))
            jobs.append(job)
        return jobs

    def await_job(self, job: Job) -> None:
        """Wait for a read, and raise what it raised."""
        while not job.done:
            self._wait()
        self.reads.add([job])
        if job.error is not None:
            raise job.error

    def _wait(self) -> None:
        self._check()
        self.cache.reader.lock.wait()
        self._check()

    def _check(self) -> None:
        if self.closed():
            raise ClosedError("this iterator was closed.")
