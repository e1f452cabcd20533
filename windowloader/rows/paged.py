"""A lane with fewer places than active blocks: blocks are evicted and read again within a turn.

In: as ``lane_cache``. Out: the same windows, from less memory and more reads. Follows ``paging.pages`` to the letter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .lane_cache import Cut, LaneCache
from .paging import pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .lane_pass import LanePass
    from .paging import Page

__all__ = ["PagedLaneCache"]


@dataclass(slots=True, eq=False)
class _Reader:
    """How far the reads of a pass are."""

    pages: Iterator[Page]
    page: Page
    read: int = 0
    """Reads of the page that are done."""

    def before(self, window: int) -> bool:
        """Whether a read is left that comes before a window of the turn."""
        return self.read < len(self.page.before) and int(self.page.before[self.read]) <= window

    def next(self) -> tuple[int, int]:
        """Return the next read of the page: which block, in whose place."""
        at = self.read
        self.read += 1
        return int(self.page.read[at]), int(self.page.drop[at])


class PagedLaneCache(LaneCache):
    """A lane cache of which some passes have too few places, so that their blocks come and go; see `LaneCache`.

    A lane may have fewer blocks in one pass than in another, since lanes rotate: then its places may do.
    """

    _readers: dict[LanePass, _Reader]

    def _append(self, number: int, cursor: int) -> LanePass:
        if not self.passes:
            self._readers = {}
        return super()._append(number, cursor)

    def _list(self, lane_pass: LanePass, blocks: NDArray[np.int64]) -> None:
        if not lane_pass.schedule.paged:  # else pages say what is read when, and nothing is read ahead
            super()._list(lane_pass, blocks)

    def reach(self, turn: int, place: int, *, holding: bool) -> int:
        """Go on to a window; all before it must have been gathered. See `LaneCache.reach`."""
        lane_pass = self.present
        if not lane_pass.schedule.paged:
            return super().reach(turn, place, holding=holding)
        while lane_pass.turn < turn:
            if lane_pass.begun:
                self._read_until(lane_pass, np.iinfo(np.int64).max, holding)
            self._alone(holding)
            self._turn()
        begin = max(int(lane_pass.lane.spread.borders[turn]), lane_pass.schedule.cursor)
        self._read_until(lane_pass, place - begin, holding)
        reader, end = self._readers[lane_pass], int(lane_pass.lane.spread.borders[turn + 1])
        if reader.read < len(reader.page.before):
            end = min(end, begin + int(reader.page.before[reader.read]))
        return end - place

    def _turn(self) -> None:
        """Begin the next turn: the entering block is read, and its sides of both overlaps are kept at once."""
        lane_pass = self.present
        if not lane_pass.schedule.paged:
            super()._turn()
            return
        turn = lane_pass.turn + 1
        events = lane_pass.schedule.turn(turn)
        reader = self._readers.get(lane_pass)
        if reader is None:
            turns = pages(lane_pass.schedule, self.block_memory.order.starts)
            reader = self._readers[lane_pass] = _Reader(turns, next(turns))
        else:
            reader.page, reader.read = next(reader.pages), 0
        if len(events.enter):
            self._fetch(lane_pass, *reader.next())
        self.tick += 1
        self._leave(lane_pass.overlap_places, events.released, self.free_overlaps)
        lane_pass.turn = turn
        self.settle()
        self._join(lane_pass, events)

    def _read_until(self, lane_pass: LanePass, window: int, holding: bool) -> None:
        reader = self._readers[lane_pass]
        while reader.before(window):
            self._alone(holding)
            self._fetch(lane_pass, *reader.next())

    def _alone(self, holding: bool) -> None:
        """Wait until nobody holds anything."""
        if holding:
            raise Cut
        while self.holds:
            self._wait()

    def _fetch(self, lane_pass: LanePass, block: int, drop: int) -> None:
        place = None
        if drop >= 0:
            place = lane_pass.places.pop(drop)
            del lane_pass.jobs[drop]
        while place is None and not self.free:
            self._check_places()
            self._wait()  # for reads that were given up
        self.await_job(self._submit(lane_pass, block, place=place))
