"""One lane of a stream on its way through turns: which place of the arena holds what, and who still needs it.

In: the plan of a lane (`BlockSchedule`), places, a `Reader`. Out: for windows of the present turn, the rows of the
arena where they begin. Follows the plan to the letter: what is read, kept and dropped when is decided in
``residency``.

A *tick* counts turns over all passes. A batch that is being gathered holds the tick at which it began; a place that
was left at tick ``k`` is used again when nobody holds an earlier one. So turns move on while batches are made.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import ClosedError, SourceTimeoutError

from .block_schedule import BlockSchedule
from .counting import ReadCounts
from .passage import Passage
from .reader import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .block_schedule import Turn
    from .passage import Grounds

__all__ = ["Cut", "LaneCache"]


class Cut(Exception):  # noqa: N818 - not an error: the batch goes on once what it has so far is gathered
    """A batch holds itself what it would need next to be free."""


class LaneCache:
    """A lane, pass after pass.

    All methods but `locate` are called with the reader's lock held; those that may wait give it up meanwhile.

    Parameters
    ----------
    grounds : Grounds
    lane : int
        Of the order.
    index, courses : int
        Which of the courses of the stream this is.
    """

    def __init__(self, grounds: Grounds, lane: int, index: int, courses: int) -> None:
        self.grounds = grounds
        self.number = lane
        self.index, self.courses = index, courses
        self.slots = grounds.slots
        """Places for blocks, but those whose read was given up and failed."""
        self.free = list(range(grounds.slots))[::-1]
        self.free_seams = list(range(grounds.seams))[::-1]
        self.tick = 0
        self.holds: Counter[int] = Counter()
        self.left: deque[tuple[int, list[int], int]] = deque()
        self.passes: deque[Passage] = deque()
        self.closed: Callable[[], bool] = lambda: False
        self.reads = ReadCounts()
        """Where what is read counts: those of the iterator that goes through the lane."""
        self.ahead = True
        self.paused = False
        """Whether the present pass goes on where an epoch ended within it; else it may have stopped anywhere."""

    @property
    def present(self) -> Passage:
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
    def _is_near(passage: Passage, cursor: int) -> bool:
        """Whether fewer blocks lie between the present turn and a place than would be read to begin there."""
        lane = passage.lane
        turn = int(lane.deal.turn_of(np.array([min(cursor, len(lane) - 1)]))[0])
        return cursor >= passage.residency.cursor and 0 <= turn - passage.turn <= lane.active

    def end_pass(self) -> None:
        """Leave all places of the present pass; the next one is the present then, if it was begun ahead."""
        passage = self.passes.popleft()
        self.tick += 1
        there = [place for block, place in passage.places.items() if passage.jobs[block].done]
        self.left.extend((self.tick, self.free, place) for place in there)
        self.reads.add(job for job in passage.jobs.values() if job.done)
        # The places of the others are freed when their reads have ended, see `_ended`.
        self.grounds.reader.drop([job for job in passage.jobs.values() if not job.done])
        for place in passage.seam_places.values():
            self.left.append((self.tick, self.free_seams, place))
        passage.places.clear()
        self.settle()

    def _append(self, number: int, cursor: int) -> Passage:
        grounds = self.grounds
        lane = grounds.order.sequence(number, self.number)
        residency = BlockSchedule(
            lane, span=grounds.order.grid.span, slots=grounds.slots, cursor=min(cursor, len(lane))
        )
        passage = Passage(number, lane, residency, residency.first_turn - 1)
        self.passes.append(passage)
        if residency.first_turn < lane.num_turns:
            self._list(passage, residency.turn(residency.first_turn).submit)
        self.settle()
        return passage

    def _list(self, passage: Passage, blocks: NDArray[np.int64]) -> None:
        passage.wanted.extend(blocks.tolist())
        passage.unlisted -= len(blocks)

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
        for passage in self.passes:
            while passage.wanted and self.free:
                self._submit(passage, passage.wanted.popleft())
        last = self.passes[-1] if self.passes else None
        # While a lane drains, its next pass fills the places.
        if last is not None and len(self.passes) == 1 and self.ahead and last.begun and self._drains(last):
            self._append(last.number + 1, 0)
        self.grounds.reader.lock.notify_all()

    def _drains(self, passage: Passage) -> bool:
        return not passage.unlisted and not passage.wanted

    def _submit(self, passage: Passage, block: int, *, place: int | None = None) -> Job:
        grounds = self.grounds
        place = self.free.pop() if place is None else place
        begin, end = passage.residency.rows(block)
        row = grounds.place(self.index, place)
        passage.block_at[block] = row - begin
        job = Job(
            grounds.ranges(begin, end, row),
            grounds.arena,
            lambda job: self._ended(passage, place, job),
            blocks=1,
        )
        passage.places[block], passage.jobs[block] = place, job
        need = (passage.number, int(passage.lane.deal.borders[passage.lane.entry[block]]))
        grounds.reader.submit(job, need)
        return job

    def _ended(self, passage: Passage, place: int, job: Job) -> None:
        if passage not in self.passes:  # given up while it was under way
            self.reads.add([job])
            if job.error is None:
                self.free.append(place)
            else:  # storage may write to the place as long as the request lives
                self.slots -= 1
            del job
            self.settle()

    # -- turns ---------------------------------------------------------------------------------------------------------

    def reach(self, turn: int, place: int, *, holding: bool) -> int:
        """Go on to a turn, waiting for what it needs.

        Parameters
        ----------
        turn : int
            The present one, or a later one.
        place : int
            In the lane's sequence, of a window of that turn.
        holding : bool
            Whether the batch that asks holds a tick of this course.

        Returns
        -------
        int
            How many windows from ``place`` on are there; at least those of the turn.

        Raises
        ------
        Cut
            Where ``holding`` is in the way.
        """
        del place
        while self.present.turn < turn:
            self._check_room(holding)
            self._turn()
        return len(self.present.lane)

    def _check_room(self, holding: bool) -> None:
        """Wait until the places are free that the next turn takes."""
        passage = self.present
        events = passage.residency.turn(passage.turn + 1)
        seams = {*events.saved.tolist(), *events.joined.tolist()} - passage.seam_places.keys()

        def fits() -> bool:
            # Seams that the turn releases itself give their places as soon as nobody holds this turn.
            gone = sum(seam in passage.seam_places for seam in events.released.tolist())
            room = len(self.free_seams) + (0 if self.holds else gone)
            return len(seams) <= room and all(block in passage.jobs for block in self._first_needed(passage))

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
        if self.slots < self.grounds.slots:
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
        return len(self.free) + sum(len(passage.places) for passage in self.passes) < self.slots

    def _first_needed(self, passage: Passage) -> list[int]:
        """Blocks that must be there when the next turn begins."""
        lane, turn = passage.lane, passage.turn + 1
        if passage.begun:
            needed = lane.visits[turn : turn + 1]
        else:
            entered = np.arange(min(turn + 1, len(lane.visits)))
            needed = lane.visits[entered[passage.residency.placed[entered]]]
        return [int(block) for block in needed]

    def _turn(self) -> None:
        """Begin the next turn, as ``residency`` has it."""
        passage = self.present
        turn = passage.turn + 1
        events = passage.residency.turn(turn)
        first = not passage.begun
        for block in self._first_needed(passage):
            self.await_job(passage.jobs[block])
        self.tick += 1
        self._leave(passage.seam_places, events.released, self.free_seams)
        passage.turn = turn
        self.settle()
        self._join(passage, events)
        self._leave(passage.places, events.leave, self.free)
        if not first:  # those of the first turn were listed when the pass was
            self._list(passage, events.submit)
        self.settle()

    def _join(self, passage: Passage, events: Turn) -> None:
        """Keep the rows of seams that would be gone, or are all there now."""
        for seam in events.saved.tolist() + events.joined.tolist():
            self._save(passage, seam)
        for seam in events.joined.tolist():
            if passage.residency.missing[np.searchsorted(passage.residency.seams, seam)]:
                passage.absent[seam] = passage.residency.side_rows(seam)

    def _leave(self, places: dict[int, int], names: NDArray[np.int64], free: list[int]) -> None:
        for name in names.tolist():
            if name in places:
                self.left.append((self.tick, free, places.pop(name)))
                if free is self.free:
                    del self.present.jobs[name]

    def _save(self, passage: Passage, seam: int) -> None:
        """Copy the sides of a seam that are there to its place."""
        begin, border, end = passage.residency.seam_rows(seam)
        if seam not in passage.seam_places:
            place = passage.seam_places[seam] = self.free_seams.pop()
            passage.seam_at[seam] = self.grounds.seam(self.courses, self.index, place) - begin
        at = int(passage.seam_at[seam])
        for block, low, high in ((seam, begin, border), (seam + 1, border, end)):
            if (seam, block) in passage.sides or block not in passage.places:
                continue
            job = passage.jobs[block]
            if job.done and job.error is None:
                # Nobody else moves a course on, so that its reads need not wait for the copy.
                self.grounds.reader.lock.release()
                try:
                    self.grounds.copy(int(passage.block_at[block]) + low, at + low, high - low)
                finally:
                    self.grounds.reader.lock.acquire()
                self._check()
                passage.sides.add((seam, block))

    # -- windows -------------------------------------------------------------------------------------------------------

    def locate(self, starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the rows of the arena where windows of the present turn begin.

        Parameters
        ----------
        starts : ndarray, int64

        Returns
        -------
        rows : ndarray, int64
        seams : ndarray, int64
            Those of their seams of which a side must be read first: `read_sides`.
        """
        passage = self.present
        block, crosses = passage.residency.locate(starts)
        rows = starts + np.where(crosses, passage.seam_at[block], passage.block_at[block])
        if not passage.absent:
            return rows, block[:0]
        asked = np.unique(block[crosses])
        return rows, asked[np.isin(asked, list(passage.absent))]

    def read_sides(self, seams: NDArray[np.int64]) -> list[Job]:
        """Ask for the sides of seams whose blocks are gone; the jobs are to be waited for."""
        passage, grounds = self.present, self.grounds
        jobs = []
        for seam in seams.tolist():
            begin, end = passage.absent.pop(seam)
            row = int(passage.seam_at[seam]) + begin
            job = Job(grounds.ranges(begin, end, row), grounds.arena)
            grounds.reader.submit(job, (-1, 0))
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
        self.grounds.reader.lock.wait()
        self._check()

    def _check(self) -> None:
        if self.closed():
            raise ClosedError("this iterator was closed.")
