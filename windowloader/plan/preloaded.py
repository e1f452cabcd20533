"""What an epoch reads whose rows stay in memory once they are read: the blocks that no epoch before it needed.

In: a `Case`. Out: fields of a `Plan`. Arithmetic on the lanes that the reading follows; never reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.rows.budget import REQUESTS
from windowloader.rows.estimate import lanes_read, rows_of
from windowloader.rows.preloaded import blocks_of
from windowloader.sources.storage import total_cost

from .blocks import POINTS, filler_cost, of_all
from .case import LOOK, advice, held_cost, plus
from .plan import EpochCost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from windowloader.order.lane import LanesOfBlocks

    from .case import Case

__all__ = ["preloaded"]


def preloaded(case: Case) -> dict[str, Any]:
    """Estimate the rest of an epoch whose rows stay.

    Parameters
    ----------
    case : Case

    Returns
    -------
    dict
        Fields of `Plan`.
    """
    own, held, choice = _Rank(case, case.rank), held_cost(case), case.reading.choice
    assert choice is not None
    needed, ahead = own.needed()
    cost = everyone = plus(held, own.cost(needed), *own.fillers())
    if case.world_size > 1:
        total = of_all(case.world_size, lambda rank: _Rank(case, rank).total(held))
        grid = own.order.grid
        whole = sum(one.distinct(grid.begin, grid.end) for one in case.reading.storages) + held.distinct
        everyone = replace(total, distinct=min(total.distinct, whole))
    return {
        "mode": "preloaded",
        "lanes": own.lanes,
        "own": cost,
        "all_ranks": everyone,
        "blocks": int(needed.sum()),
        "active": choice.active,
        "slots": choice.slots,
        "memory": choice.terms,
        "at_a_time": choice.requests,
        "resident": own.over_time(needed),
        "first": plus(held, own.first()),
        "upcoming": own.cost(ahead & ~needed),
        "scan_share": min(1.0, choice.requests / REQUESTS) / max(cost.amplification, 1.0),
        "advice": tuple(advice(case, cost)),
    }


@dataclass(slots=True)
class _Rank:
    """What a rank needs of the grid's blocks."""

    case: Case
    rank: int

    @property
    def order(self) -> LanesOfBlocks:
        assert self.case.reading.lanes is not None
        return self.case.reading.lanes

    @property
    def lanes(self) -> tuple[int, ...]:
        steps = self.case.steps
        return lanes_read(
            self.rank, self.case.world_size, lanes=self.order.num_lanes, batch_per_lane=steps.batch_per_lane
        )

    def needed(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Mark the blocks that the rest of the epoch reads, and those that are read ahead of its end besides."""
        needed, ahead = np.zeros((2, len(self.order.grid)), np.bool_)
        choice = self.case.reading.choice
        assert choice is not None
        for part in self.case.stretches():
            for number in self.lanes:
                lane = self.order.sequence(part.here.pass_number, number)
                begin, end = min(part.here.cursor, len(lane)), min(part.end or len(lane), len(lane))
                if end - begin == len(lane):
                    needed[lane.blocks] = True
                elif begin == end == len(lane) and part.steps.count(part.here.pass_number, part.here.cursor):
                    needed[blocks_of(self.order, self.order.starts(lane.windows(end - 1, end)))] = (
                        True  # it fills up
                    )
                elif begin < end:
                    looked = min(begin + LOOK, end)
                    needed[blocks_of(self.order, self.order.starts(lane.windows(begin, looked)))] = True
                    first, last = lane.spread.turn_of(np.array([looked, end]) - 1).tolist()
                    if looked < end:  # of the others, all blocks that are active or enter
                        needed[lane.blocks[lane.visits[max(0, first - lane.active) : last + 1]]] = True
                    coming = lane.visits[last + 1 : last + 1 + max(1, choice.slots - choice.active)]
                    ahead[lane.blocks[coming]] = True
        if self.case.loaded is not None:
            needed &= ~self.case.loaded
            ahead &= ~self.case.loaded
        return needed, ahead

    def total(self, held: EpochCost) -> EpochCost:
        """Count all that the rank reads, with what is ``held`` whole."""
        return plus(held, self.cost(self.needed()[0]), *self.fillers())

    def fillers(self) -> list[EpochCost]:
        """Count the windows of other lanes that fill up steps of an empty one."""
        return [
            filler_cost(part, lane)
            for part in self.case.stretches()
            for lane in self.lanes
            if not len(self.order.sequence(part.here.pass_number, lane))
        ]

    def cost(self, blocks: NDArray[np.bool_]) -> EpochCost:
        """Count what blocks cost, as far as their rows are this rank's."""
        grid, storages = self.order.grid, self.case.reading.storages
        rotate = bool(self.case.reading.order.parameters["rotate"])
        low, high = rows_of(
            self.order.starts, self.order.num_lanes, self.lanes, span=grid.span, rotate=rotate
        )
        begin, end = np.maximum(grid.begin[blocks], low), np.minimum(grid.end[blocks], high)
        cost = total_cost(storages, begin, end)
        indexes = sum(len(storage.broken(begin, end)) * storage.columns for storage in storages)
        return EpochCost(
            bytes=int(cost.bytes.sum()),
            requests=int(cost.requests.sum()) + indexes,
            distinct=sum(storage.distinct(begin, end) for storage in storages) if len(begin) else 0,
        )

    def first(self) -> EpochCost:
        """Count what the first batch waits for."""
        case = self.case
        step = case.steps.rank_at(case.position, rank=self.rank, world_size=case.world_size)
        blocks = np.zeros(len(self.order.grid), np.bool_)
        if step is not None:
            blocks[blocks_of(self.order, case.windows.index(step.positions))] = True
        if case.loaded is not None:
            blocks &= ~case.loaded
        return self.cost(blocks)

    def over_time(self, needed: NDArray[np.bool_]) -> tuple[tuple[float, int], ...]:
        """Bytes of rows that are there at even places of the rest of the epoch: they come in and stay."""
        grid = self.order.grid
        rows = (grid.end - grid.begin)[needed].sum()
        there = 0 if self.case.loaded is None else (grid.end - grid.begin)[self.case.loaded].sum()
        shares = np.linspace(0, 1, POINTS, endpoint=False)
        size = (there + rows * np.minimum(1.0, shares + 1 / POINTS)) * self.case.row_bytes
        return tuple(zip(shares.tolist(), size.astype(np.int64).tolist(), strict=True))
