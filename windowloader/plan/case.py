"""What a plan is made of, and what its halves share.

In: the parts of an engine, a rank, a position. Out: a `Case`, and costs that do not depend on how rows are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from windowloader.order.grid import SPANS, cut
from windowloader.rows.budget import REQUESTS, default_active, memory_for
from windowloader.rows.reader import stored
from windowloader.sources.storage import Storage, total_cost
from windowloader.util.units import format_bytes

from .plan import EpochCost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from windowloader.order.config import LoaderConfig
    from windowloader.order.shard import Position, Steps
    from windowloader.rows.read_plan import ReadPlan
    from windowloader.windows.reads import Reads
    from windowloader.windows.window_set import WindowSet

__all__ = ["LOOK", "Case", "advice", "held_cost", "plus", "seen_by_all", "used"]

LOOK = 1 << 20  # rows of windows that are looked at


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

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of a row of what is read step by step."""
        return sum(storage.row_bytes for storage in self.reading.storages)


def used(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Ranges of the rows that the windows use."""
    if not case.windows.index.rising:
        low, high = case.windows.row_range
        return np.array([low]), np.array([high])
    span = case.windows.spec.span
    grid = cut(case.windows.index, [Storage(None, row_bytes=1)], span=span, rows=SPANS * span)
    return grid.begin, grid.end


def seen_by_all(case: Case, offsets: int) -> bool:
    """Whether the windows of all ranks are few enough to look at each, of so many rows."""
    return case.steps.left(case.position) * case.steps.global_batch * offsets <= LOOK


def held_cost(case: Case) -> EpochCost:
    """Read once, with the first batch."""
    size = requests = 0
    for one in case.reading.held.values():
        cost = stored(one.variable).storage.cost([one.begin], [one.end])
        size, requests = size + int(cost.bytes[0]), requests + int(cost.requests[0])
    return EpochCost(bytes=size, requests=requests, distinct=size)


def plus(*costs: EpochCost) -> EpochCost:
    """Add costs up."""
    return EpochCost(
        bytes=sum(cost.bytes for cost in costs),
        requests=sum(cost.requests for cost in costs),
        distinct=sum(cost.distinct for cost in costs),
    )


def advice(case: Case, own: EpochCost) -> list[str]:
    """Say what budget or storage would be better.

    Parameters
    ----------
    case : Case
    own : EpochCost
        What the rank reads.

    Returns
    -------
    list of str
    """
    choice, span = case.reading.choice, case.windows.spec.span
    found: list[str] = []
    assert choice is not None
    if choice.mode == "preloaded":
        return found
    rows = max((storage.largest for storage in case.reading.storages), default=1)
    if choice.mode == "direct":
        if own.amplification > 1.5:
            found.append(
                f"each row is read {own.amplification:.1f} times. With active_blocks= and a memory that holds the "
                f"blocks each is read once; or rewrite the array in chunks of {SPANS * span} rows or more with "
                "'windowloader convert'."
            )
        return found
    assert choice.grid is not None
    lanes = max(
        1,
        choice.terms.arena // max(1, choice.places(len(choice.grid)) * choice.grid.largest * case.row_bytes),
    )
    per_block = max(
        1, int(total_cost(case.reading.storages, choice.grid.begin, choice.grid.end).requests.max())
    )
    best = default_active(len(choice.grid), case.steps.order.num_lanes)
    active = choice.active if case.reading.order.name.startswith("sequential") else max(choice.active, best)
    slots = min(active + -(-2 * REQUESTS // per_block), len(choice.grid))
    memory = memory_for(
        choice.grid, case.reading.storages, span=span, lanes_held=lanes, active=active, slots=slots
    )
    if memory > case.config.budget and (choice.requests < REQUESTS or choice.active < active):
        gain = "the speed of a plain scan" if choice.requests < REQUESTS else "better mixing"
        found.append(f"memory={format_bytes(memory)!r} would give {gain}, with {active} blocks active.")
    if choice.mode == "halo":
        found.append(f"a memory that holds blocks of {SPANS * span} rows would read each row once.")
    if rows < SPANS * span and per_block > REQUESTS:
        found.append(
            f"a block is {per_block} requests: chunks of {SPANS * span} rows or more would need fewer ('windowloader "
            "convert')."
        )
    return found
