"""A lane with fewer places than active blocks: blocks are evicted and read again within a turn.

In: as ``course``. Out: the same windows, from less memory and more reads. Follows ``paging.pages`` to the letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .course import Course, Cut, Passage
from .paging import pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .paging import Page

__all__ = ["PagedCourse"]


class PagedCourse(Course):
    """A course whose blocks come and go as furthest next use has it; see `Course`."""

    _pages: Iterator[Page]
    _page: Page
    _next: int  # read of the page that comes next

    def _append(self, number: int, cursor: int) -> Passage:
        self.ahead = False  # there is no place for the next pass
        passage = super()._append(number, cursor)
        self._pages = pages(passage.residency, self.grounds.order.starts)
        return passage

    def _list(self, passage: Passage, blocks: NDArray[np.int64]) -> None:
        """Ask for nothing ahead: pages say what is read when."""

    def reach(self, turn: int, place: int, *, holding: bool) -> int:
        """Go on to a window; all before it must have been gathered. See `Course.reach`."""
        passage = self.present
        while passage.turn < turn:
            self._alone(holding)
            if passage.begun:
                self._read_until(np.iinfo(np.int64).max, holding)
            self._turn()
        begin = max(int(passage.lane.deal.borders[turn]), passage.residency.cursor)
        self._read_until(place - begin, holding)
        end = int(passage.lane.deal.borders[turn + 1])
        if self._next < len(self._page.before):
            end = min(end, begin + int(self._page.before[self._next]))
        return end - place

    def _turn(self) -> None:
        """Begin the next turn: the entering block is read and its sides of both seams are kept at once."""
        passage = self.present
        turn = passage.turn + 1
        events = passage.residency.turn(turn)
        page, taken = next(self._pages), 0
        if len(events.enter):
            self._fetch(int(page.read[0]), int(page.drop[0]))
            taken = 1
        self.tick += 1
        self._leave(passage.seam_places, events.released, self.free_seams)
        passage.turn, self._page, self._next = turn, page, taken
        self.settle()
        for seam in events.saved.tolist() + events.joined.tolist():
            self._save(passage, seam)
        for seam in events.joined.tolist():
            if passage.residency.missing[np.searchsorted(passage.residency.seams, seam)]:
                passage.absent[seam] = passage.residency.side_rows(seam)

    def _read_until(self, window: int, holding: bool) -> None:
        page = self._page
        while self._next < len(page.before) and page.before[self._next] <= window:
            self._alone(holding)
            self._fetch(int(page.read[self._next]), int(page.drop[self._next]))
            self._next += 1

    def _alone(self, holding: bool) -> None:
        """Wait until nobody holds anything."""
        if holding:
            raise Cut
        while self.holds:
            self._wait()

    def _fetch(self, block: int, drop: int) -> None:
        passage = self.present
        place = None
        if drop >= 0:
            place = passage.places.pop(drop)
            del passage.jobs[drop]
        while place is None and not self.free:
            self._wait()  # for reads that were given up
        self.await_job(self._submit(passage, block, place=place))
