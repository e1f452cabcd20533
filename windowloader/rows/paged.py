"""A lane with fewer places than active blocks: blocks are evicted and read again within a turn.

In: as ``course``. Out: the same windows, from less memory and more reads. Follows ``paging.pages`` to the letter.
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

    from .paging import Page
    from .passage import Passage

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
    """A course of which some passes have too few places, so that their blocks come and go; see `LaneCache`.

    A lane may have fewer blocks in one pass than in another, since lanes rotate: then its places may do.
    """

    _readers: dict[Passage, _Reader]

    def _append(self, number: int, cursor: int) -> Passage:
        if not self.passes:
            self._readers = {}
        return super()._append(number, cursor)

    def _list(self, passage: Passage, blocks: NDArray[np.int64]) -> None:
        if not passage.residency.paged:  # else pages say what is read when, and nothing is read ahead
            super()._list(passage, blocks)

    def reach(self, turn: int, place: int, *, holding: bool) -> int:
        """Go on to a window; all before it must have been gathered. See `LaneCache.reach`."""
        passage = self.present
        if not passage.residency.paged:
            return super().reach(turn, place, holding=holding)
        while passage.turn < turn:
            if passage.begun:
                self._read_until(passage, np.iinfo(np.int64).max, holding)
            self._alone(holding)
            self._turn()
        begin = max(int(passage.lane.deal.borders[turn]), passage.residency.cursor)
        self._read_until(passage, place - begin, holding)
        reader, end = self._readers[passage], int(passage.lane.deal.borders[turn + 1])
        if reader.read < len(reader.page.before):
            end = min(end, begin + int(reader.page.before[reader.read]))
        return end - place

    def _turn(self) -> None:
        """Begin the next turn: the entering block is read, and its sides of both seams are kept at once."""
        passage = self.present
        if not passage.residency.paged:
            super()._turn()
            return
        turn = passage.turn + 1
        events = passage.residency.turn(turn)
        reader = self._readers.get(passage)
        if reader is None:
            turns = pages(passage.residency, self.grounds.order.starts)
            reader = self._readers[passage] = _Reader(turns, next(turns))
        else:
            reader.page, reader.read = next(reader.pages), 0
        if len(events.enter):
            self._fetch(passage, *reader.next())
        self.tick += 1
        self._leave(passage.seam_places, events.released, self.free_seams)
        passage.turn = turn
        self.settle()
        self._join(passage, events)

    def _read_until(self, passage: Passage, window: int, holding: bool) -> None:
        reader = self._readers[passage]
        while reader.before(window):
            self._alone(holding)
            self._fetch(passage, *reader.next())

    def _alone(self, holding: bool) -> None:
        """Wait until nobody holds anything."""
        if holding:
            raise Cut
        while self.holds:
            self._wait()

    def _fetch(self, passage: Passage, block: int, drop: int) -> None:
        place = None
        if drop >= 0:
            place = passage.places.pop(drop)
            del passage.jobs[drop]
        while place is None and not self.free:
            self._check_places()
            self._wait()  # for reads that were given up
        self.await_job(self._submit(passage, block, place=place))
