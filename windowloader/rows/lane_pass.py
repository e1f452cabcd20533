"""Where the rows of a stream lie in memory: slots of the arena that lane caches share, and one pass over a lane.

In: an order of blocks, an arena, the plan of a lane. Out: `BlockMemory` and `LanePass`, used by `LaneCache`. Never
decides what is read or dropped.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from windowloader.order.lane import Lane, LanesOfBlocks

    from .arena import Arena
    from .block_schedule import BlockSchedule
    from .reader import Job, Reader, RowRange

__all__ = ["BlockMemory", "LanePass"]


@dataclass(frozen=True, slots=True, eq=False)
class BlockMemory:
    """What the lane caches of a stream share.

    Parameters
    ----------
    order : LanesOfBlocks
    slots, overlaps : int
        Places of a lane for blocks and for overlaps.
    arena : Arena
        Rows of each variable.
    reader : Reader
        Its lock guards all lane caches.
    ranges : callable
        ``ranges(begin, end, row)``: how rows are read into the arena from ``row`` on.
    """

    order: LanesOfBlocks
    slots: int
    overlaps: int
    arena: Arena
    reader: Reader
    ranges: Callable[[int, int, int], Sequence[RowRange]]

    def place(self, lane_cache: int, place: int) -> int:
        """First row of a place for a block."""
        return (lane_cache * self.slots + place) * self.order.grid.largest

    def overlap(self, lane_caches: int, lane_cache: int, place: int) -> int:
        """First row of a place for an overlap: they lie behind the blocks of all lane caches."""
        overlap_rows = 2 * (self.order.grid.span - 1)
        return self.place(lane_caches, 0) + (lane_cache * self.overlaps + place) * overlap_rows

    def copy(self, source: int, target: int, rows: int) -> None:
        """Copy rows of every variable within the arena."""
        for region in self.arena.regions:
            region[target : target + rows] = region[source : source + rows]


@dataclass(slots=True, eq=False)
class LanePass:
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
