"""What a plan is made of, and what all ways to have rows count alike.

In: the parts of a pipeline, a rank, a position. Out: `Case`, and costs of ranges of rows. Never reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from windowloader.order.grid import SPANS, cut
from windowloader.rows.block_schedule import lanes_read
from windowloader.sources.storage import Storage, total_cost

from .plan import EpochCost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from windowloader.order.config import LoaderConfig
    from windowloader.order.lane import Lane
    from windowloader.order.lanes import BlockOrder
    from windowloader.order.shard import Position, Steps
    from windowloader.rows.budget import BlockLayout
    from windowloader.rows.read_plan import ReadPlan
    from windowloader.windows.reads import Reads
    from windowloader.windows.window_set import WindowSet

    Ranges = NDArray[np.int64]  # shape (2, n): first rows and ends

__all__ = ["NOTHING", "Case", "cost_of", "plus"]

NOTHING = EpochCost(bytes=0, requests=0, distinct=0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """What a plan is made of; ``batch_bytes`` are those of one rank's full batch."""

    windows: WindowSet
    reads: Reads
    batch_bytes: int
    config: LoaderConfig
    reading: ReadPlan
    steps: Steps
    rank: int
    world_size: int
    position: Position
    ahead: int
    reads_on: bool = False
    """Whether blocks of the next pass are read ahead while this one drains."""
    loaded: NDArray[np.bool_] | None = None
    """Of preloaded rows: the blocks that are there already."""
    end: int | None = None
    """Where a stretch of the epoch ends that is a part of a pass, in windows of each lane."""

    @property
    def here(self) -> Position:
        """Where the next step comes from."""
        return self.steps.upcoming(self.position)

    @property
    def lanes(self) -> BlockOrder:
        """The order over blocks."""
        assert self.reading.lanes is not None
        return self.reading.lanes

    @property
    def layout(self) -> BlockLayout:
        """How a stream is read."""
        assert self.reading.choice is not None
        return self.reading.choice

    def stretches(self) -> list[Case]:
        """Part the rest of the epoch by passes: ``steps_per_epoch`` may end within one, and begin in another."""
        steps, left, here, found = self.steps, self.steps.left(self.position), self.position, []
        while left:
            here = steps.upcoming(here)
            count = steps.count(here.pass_number, here.cursor)
            taken = min(left, count)
            cursor = steps.after(here.pass_number, here.cursor, taken)
            found.append(replace(self, position=here, end=None if taken == count else cursor))
            here, left = replace(here, step=here.step + taken, cursor=cursor), left - taken
        return found or [self]

    def lanes_of(self, rank: int) -> tuple[int, ...]:
        """Lanes that a rank reads."""
        batch = self.steps.batch_per_lane
        return lanes_read(rank, self.world_size, lanes=self.steps.order.num_lanes, batch_per_lane=batch)

    def used(self) -> Ranges:
        """Ranges of the rows that the windows use."""
        index, span = self.windows.index, self.windows.spec.span
        if not index.rising:
            return np.array(self.windows.row_range).reshape(2, 1)
        grid = cut(index, [Storage(None, row_bytes=1)], span=span, rows=SPANS * span)
        return np.stack([grid.begin, grid.end])

    def cost(self, rows: Ranges) -> EpochCost:
        """Count reads of ranges of rows, with the indexes of shards."""
        return cost_of(self.reading.storages, rows)

    def held_cost(self) -> EpochCost:
        """Count the variables that are kept whole, read with the first batch."""
        parts = []
        for one in self.reading.held.values():
            cost = one.variable.source.storage().cost([one.begin], [one.end])
            size = int(cost.bytes[0])
            parts.append(EpochCost(bytes=size, requests=int(cost.requests[0]), distinct=size))
        return plus(*parts)

    def filler(self, lane: Lane) -> EpochCost:
        """Count the window that fills the last step of a lane that has none left where the run begins."""
        here = self.here
        if here.cursor < len(lane) or not self.steps.count(here.pass_number, here.cursor):
            return NOTHING
        if not len(lane):
            lane = self.lanes.sequence(here.pass_number, self.steps.order.longest_lane)
        begin = self.lanes.starts(lane.windows(len(lane) - 1, len(lane)))
        cost = total_cost(self.reading.storages, begin, begin + self.lanes.grid.span)
        return EpochCost(bytes=int(cost.bytes[0]), requests=int(cost.requests[0]), distinct=0)


def plus(*costs: EpochCost) -> EpochCost:
    """Add costs up."""
    return EpochCost(
        bytes=sum(cost.bytes for cost in costs),
        requests=sum(cost.requests for cost in costs),
        distinct=sum(cost.distinct for cost in costs),
    )


def cost_of(storages: Sequence[Storage], rows: Ranges) -> EpochCost:
    """Count reads of ranges of rows, with the indexes of shards."""
    cost = total_cost(storages, *rows)
    indexes = sum(len(storage.broken(*rows)) * storage.columns for storage in storages)
    return EpochCost(
        bytes=int(cost.bytes.sum()),
        requests=int(cost.requests.sum()) + indexes,
        distinct=sum(storage.distinct(*rows) for storage in storages) if rows.size else 0,
    )
