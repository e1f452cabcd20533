"""The streamed tier by blocks: batches from a fixed arena that holds a few blocks of each lane.

In: an order laid out over blocks, a `BlockLayout` of how much memory holds what, steps and ranks. Out: the rows of
every batch, addressable in the arena. Never exceeds its arena, never reads a block twice where the plan does not, and
never hands storage more requests at once than the plan says.

Batches are laid out in their order, one after another, on whichever thread makes them; what one of them needs and is
not there yet is waited for then. Gathering happens side by side, and turns move on meanwhile (see ``lane_cache``).
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from .lane_cache import BlockMemory, Cut, LaneCache
from .rows import Piece
from .streamed import StreamAccess, StreamRows
from .strided import Rows

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from windowloader.order.shard import Position, Step

    from .read_plan import ReadPlan
    from .rows import ResidentVariables

__all__ = ["BlockAccess", "BlockStream"]


class BlockAccess(StreamAccess):
    """Rows by blocks, for all iterators of a loader.

    Parameters
    ----------
    plan, others, steps, ranks, span
        As for `StreamAccess`.
    epochs : int, optional
        How many epochs there will be; None: unknown.
    """

    def __init__(
        self, plan: ReadPlan, others: ResidentVariables, *, epochs: int | None = None, **parts: Any
    ) -> None:
        super().__init__(plan, others, **parts)
        self._epochs, self._begun = epochs, 0
        self._block_caches: list[BlockCache] = []
        weakref.finalize(self, _abandon, self._block_caches)

    def stream(self, position: Position) -> BlockStream:
        """Rows for an iterator that begins at a position; a second one at a time takes an arena of its own."""
        with self._lock:
            idle = self._trim(1)
            if not idle:
                idle = [BlockCache(self)]
                self._block_caches.append(idle[0])
            ahead = self.reads_on(position.epoch)
            self._begun += 1
            return BlockStream(self, idle[0], position, ahead=ahead)

    def reads_on(self, epoch: int) -> bool:
        """Whether the blocks of the next pass are read ahead while this epoch drains.

        A single pass reads nothing that it does not deliver, so that only an epoch after the first one that is iterated
        expects another.
        """
        if self.steps.steps_per_epoch is not None:  # an epoch may go on into the next pass
            return True
        more = self._epochs is None or epoch + 1 < self._epochs
        return more and self._begun > 0 and self.steps.order.name.startswith("block")

    def rest(self, arenas: int = 0) -> None:
        """Release the arenas that no iterator uses, but so many."""
        with self._lock:
            self._trim(arenas)

    def _trim(self, arenas: int) -> list[BlockCache]:
        idle = [block_cache for block_cache in self._block_caches if block_cache.idle]
        kept = [block_cache for block_cache in idle if not block_cache.memory.arena.lost][:arenas]
        for block_cache in idle:
            if block_cache not in kept:
                block_cache.close()
                self._block_caches.remove(block_cache)
        return kept

    def close(self) -> None:
        """End every read and let go of the arena."""
        with self._lock:
            for block_cache in self._block_caches:
                block_cache.close()
            self._block_caches.clear()
        super().close()


def _abandon(block_caches: list[BlockCache]) -> None:
    """End what nobody can ask for any more; runs in the garbage collector, which must not wait."""
    for block_cache in block_caches:
        if block_cache.lock.acquire(blocking=False):
            try:
                block_cache.stop()
            finally:
                block_cache.lock.release()


class BlockCache:
    """An arena and the lane caches of all lanes in it; one iterator at a time."""

    def __init__(self, access: BlockAccess) -> None:
        self.reader, self.lock = access.reader, access.reader.lock
        self.memory = BlockMemory(access)
        lanes = access.lanes
        self.lane_caches = {lane: LaneCache(self.memory, lane, index) for index, lane in enumerate(lanes)}
        self._user: weakref.ref[BlockStream] | None = None

    @property
    def idle(self) -> bool:
        """Whether no iterator uses it, nor any batch that is still being made."""
        return self._unused() and not any(lane_cache.holds for lane_cache in self.lane_caches.values())

    def _unused(self) -> bool:
        user = None if self._user is None else self._user()
        return user is None or user.closed

    def used_by(self, stream: BlockStream) -> bool:
        """Whether it is this iterator that uses it."""
        return self._user is not None and self._user() is stream

    def begin(self, stream: BlockStream, number: int, cursor: int, *, ahead: bool) -> None:
        """Let an iterator begin; the reads for where it begins are asked for."""
        with self.lock:
            self._user = weakref.ref(stream)
            for lane_cache in self.lane_caches.values():
                lane_cache.closed, lane_cache.ahead, lane_cache.reads = self._unused, ahead, stream.reads
                lane_cache.begin(number, cursor)

    def leave(self, goes_on: int) -> None:
        """Leave the present passes, where they were begun and are not that which goes on; what is read ahead stays."""
        for lane_cache in self.lane_caches.values():
            if lane_cache.passes and lane_cache.present.begun:
                lane_cache.paused = lane_cache.present.number == goes_on
                if not lane_cache.paused:
                    lane_cache.end_pass()

    def close(self) -> None:
        """Give up all reads that were not handed over; nobody uses it again, and its memory goes with the last read."""
        with self.lock:
            self.stop()
            # Drop references so that a finished iterator does not keep the arena alive.
            self.lane_caches = {}
            self.memory.arena.release()

    def stop(self) -> None:
        """Do so with the lock held."""
        for lane_cache in self.lane_caches.values():
            lane_cache.ahead = False
            while lane_cache.passes:
                lane_cache.end_pass()


class BlockStream(StreamRows):
    """Rows for the steps of one iterator."""

    def __init__(
        self, access: BlockAccess, block_cache: BlockCache, position: Position, *, ahead: bool
    ) -> None:
        super().__init__(access)
        self._access, self._block_cache = access, block_cache
        here = access.steps.upcoming(position)
        self._pass = here.pass_number
        self._goes_on = -1
        block_cache.begin(self, here.pass_number, here.cursor, ahead=ahead)

    def pieces(self, index: int, step: Step, starts: NDArray[np.int64]) -> Generator[Piece]:
        """Yield the rows of batch number ``index``, a stretch of its windows at a time."""
        holds: dict[LaneCache, int] = {}
        try:
            self.await_turn(index)
            self._enter(step)
            first = np.zeros(len(starts), np.int64)
            begin = 0
            while begin < len(starts):
                end, regions = self._lay_out(step, starts, first, begin, holds)
                if end == len(starts):
                    self._note_end(step)
                    self.pass_on(index)
                streamed = [Rows(region, first) for region in regions]
                yield Piece(self._access.others.beside(streamed, starts, self.reads), begin, end)
                self._release(holds)
                begin = end
        except BaseException:
            self.fail(index)
            raise
        finally:
            self._release(holds)

    def close(self, *, wait: bool = False) -> None:
        """Use the rows no more: batches that wait for some fail.

        Reads for what comes next go on, and an epoch that ends within a pass leaves all where it is for the next
        one; with ``wait`` reads are given up, and those under way waited for.
        """
        block_cache = self._block_cache
        with block_cache.lock:
            mine = not self.closed and block_cache.used_by(self)
            self.closed = True
            if mine and wait:
                block_cache.stop()
            elif mine:
                block_cache.leave(self._goes_on)
            block_cache.lock.notify_all()
            while mine and wait and any(lane_cache.busy for lane_cache in block_cache.lane_caches.values()):
                block_cache.lock.wait()
        self._access.rest(1)

    def _note_end(self, step: Step) -> None:
        """With the last step of an epoch laid out, note the pass that the next one begins in."""
        steps = self._access.steps
        if not steps.left(step.after):
            self._goes_on = steps.upcoming(step.after).pass_number

    def _release(self, holds: dict[LaneCache, int]) -> None:
        if holds:
            with self._block_cache.lock:
                for lane_cache, tick in holds.items():
                    lane_cache.release(tick)
            holds.clear()

    # -- where rows lie ------------------------------------------------------------------------------------------------

    def _enter(self, step: Step) -> None:
        """Begin the pass of a step, where it is another than before."""
        here = step.before
        if here.pass_number != self._pass:
            with self._block_cache.lock:
                for lane_cache in self._block_cache.lane_caches.values():
                    lane_cache.begin(here.pass_number, here.cursor)
            self._pass = here.pass_number

    def _lay_out(
        self,
        step: Step,
        starts: NDArray[np.int64],
        first: NDArray[np.int64],
        begin: int,
        holds: dict[LaneCache, int],
    ) -> tuple[int, Sequence[np.ndarray]]:
        """Bring as many windows as there is room for into the arena; return how far it went, and where they are."""
        end, sides = begin, []
        try:
            while end < len(starts):
                lane_cache = self._block_cache.lane_caches.get(int(step.lanes[end]))
                turn, stop = self._stretch(lane_cache, step, end)
                if lane_cache is None or turn < 0:
                    if end > begin:
                        break
                    return self.read_apart(starts, first, begin, stop)
                with self._block_cache.lock:
                    self.check()
                    try:
                        lane_cache.reach(turn, holding=lane_cache in holds)
                    except Cut:
                        break
                    if lane_cache not in holds:
                        holds[lane_cache] = lane_cache.hold()
                    first[end:stop], absent = lane_cache.locate(starts[end:stop])
                    sides += lane_cache.read_sides(absent)
                end = stop
        finally:
            # Whatever happens: a place must not be given back while a side is being read into it.
            self.await_jobs(sides)
        return end, self._block_cache.memory.arena.regions

    def _stretch(self, lane_cache: LaneCache | None, step: Step, begin: int) -> tuple[int, int]:
        """Return the turn of a window, and how far windows of that turn go on; turn −1: no turn has it."""
        other = np.flatnonzero(step.lanes[begin:] != step.lanes[begin])
        stop = begin + int(other[0]) if len(other) else len(step.lanes)
        if lane_cache is None:
            return -1, stop
        own, schedule = lane_cache.present.lane, lane_cache.present.schedule
        at = np.minimum(step.places[begin:stop], len(own) - 1)  # beyond the end: its last window again
        if schedule.first_turn >= own.num_turns or at[0] < schedule.cursor:
            return -1, stop
        turns = own.spread.turn_of(at)
        return int(turns[0]), begin + int(np.searchsorted(turns, turns[0], side="right"))
