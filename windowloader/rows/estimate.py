"""What an epoch costs a rank, before anything is read: bytes and requests, also of a resumed one.

In: a block order, how variables are stored, rank and world size. Out: a `EpochEstimate`. Never reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.order.order import lane_borders
from windowloader.sources.storage import total_cost

from .block_schedule import BlockSchedule, turns_before

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from windowloader.order.grid import SortedStarts
    from windowloader.order.lane import LanesOfBlocks
    from windowloader.sources.storage import Storage

__all__ = ["EpochEstimate", "blocks_read", "forecast", "lanes_read", "rows_of", "sides_asked"]

_LOOK = 1 << 20  # windows that are looked at to see which sides are asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEstimate:
    """What one rank reads in one epoch, from a cursor to the end.

    Attributes
    ----------
    lanes : tuple of int
        The lanes it reads.
    blocks : int
        Blocks it reads, each counted once a lane.
    bytes, requests : int
        Decoded bytes and requests to storage of these blocks, with the indexes of shards, each read once.
    sides, side_bytes, side_requests : int
        Overlap sides that a resumed run reads besides, when a window first asks for them.
    distinct : int
        Decoded bytes of the chunks that all windows of the order need, each counted once.
    overlaps : int
        Places for overlaps that a lane needs at most.
    rows : int
        Rows resident at most, over all its lanes.
    """

    lanes: tuple[int, ...]
    blocks: int = 0
    bytes: int = 0
    requests: int = 0
    sides: int = 0
    side_bytes: int = 0
    side_requests: int = 0
    distinct: int = 0
    overlaps: int = 0
    rows: int = 0

    @property
    def share(self) -> float:
        """Bytes read over the bytes that all windows need: 1/R where a rank reads its part and no more."""
        return (self.bytes + self.side_bytes) / max(self.distinct, 1)


def forecast(
    order: LanesOfBlocks,
    variables: Sequence[Storage],
    *,
    epoch: int,
    slots: int,
    batch_per_lane: int = 1,
    rank: int = 0,
    world_size: int = 1,
    cursor: int = 0,
    end: int | None = None,
) -> EpochEstimate:
    """Estimate what a rank reads in an epoch.

    Parameters
    ----------
    order : LanesOfBlocks
        A ``BlockOrder``, or a ``TimeOrder``.
    variables : sequence of Storage
        Storage of what is read by blocks.
    epoch, slots, cursor : int
        ``slots`` are the places for blocks of each lane, ``cursor`` the windows of each lane already done.
    end : int, optional
        Where an epoch ends that is a part of the pass, in windows of each lane. None: with the pass.
    batch_per_lane, rank, world_size : int
        Which lanes the rank reads.

    Returns
    -------
    Forecast
    """
    grid = order.grid
    lanes = lanes_read(rank, world_size, lanes=order.num_lanes, batch_per_lane=batch_per_lane)
    sum_of = dict.fromkeys(("blocks", "bytes", "requests", "sides", "side_bytes", "side_requests"), 0)
    overlaps, rows, ranges = 0, 0, []
    for lane in lanes:
        sequence = order.sequence(epoch, lane)
        schedule = BlockSchedule(sequence, span=grid.span, slots=slots, cursor=min(cursor, len(sequence)))
        read = blocks_read(schedule, end)
        cost = total_cost(variables, sequence.begin, sequence.end)
        sides = [schedule.side_rows(int(overlap)) for overlap in sides_asked(schedule, order.starts)]
        side = total_cost(variables, *np.array(sides, np.int64).reshape(-1, 2).T)
        for name, value in {
            "blocks": np.count_nonzero(read),
            "bytes": cost.bytes[read].sum(),
            "requests": cost.requests[read].sum(),
            "sides": len(sides),
            "side_bytes": side.bytes.sum(),
            "side_requests": side.requests.sum(),
        }.items():
            sum_of[name] += int(value)
        ranges.append(np.stack([sequence.begin, sequence.end])[:, read])
        overlaps = max(overlaps, int(schedule.overlap_slots().max(initial=0)))
        rows += int(schedule.resident_rows().max(initial=0))
    begin, end = np.concatenate([np.empty((2, 0), np.int64), *ranges], axis=1)
    sum_of["requests"] += sum(len(variable.broken(begin, end)) * variable.columns for variable in variables)
    distinct = sum(variable.distinct(grid.begin, grid.end) for variable in variables)
    return EpochEstimate(lanes=lanes, distinct=distinct, overlaps=overlaps, rows=rows, **sum_of)


def blocks_read(schedule: BlockSchedule, end: int | None = None) -> NDArray[np.bool_]:
    """Mark the blocks of a lane that are read for its windows before ``end``; for all of them where it is None."""
    read = np.zeros(len(schedule.lane.blocks), np.bool_)
    last = turns_before(schedule, end)
    read[schedule.lane.visits[:last][schedule.placed[:last]]] = True
    return read


def sides_asked(schedule: BlockSchedule, starts: SortedStarts) -> NDArray[np.int64]:
    """List the missing overlaps of which a window is left: of two joined at once, one may be done.

    Parameters
    ----------
    schedule : BlockSchedule
    starts : SortedStarts

    Returns
    -------
    ndarray, int64
        Some of ``schedule.overlaps[schedule.missing]``; all where they are too many windows to look at.
    """
    lane, turn = schedule.lane, schedule.first_turn
    doubtful = schedule.missing & (schedule.joined <= turn)
    end = int(lane.spread.borders[min(turn + lane.active, lane.num_turns)])
    if not doubtful.any() or end - schedule.cursor > _LOOK:
        return schedule.overlaps[schedule.missing]
    block, crosses = schedule.locate(starts(lane.windows(schedule.cursor, end)))
    asked = np.isin(schedule.overlaps, block[crosses])
    return schedule.overlaps[schedule.missing & (asked | ~doubtful)]


def rows_of(
    starts: SortedStarts, num_lanes: int, lanes: Sequence[int], *, span: int, rotate: bool
) -> tuple[int, int]:
    """Return the rows ``[begin, end)`` that the windows of some of the lanes lie in; of all where lanes rotate."""
    borders = lane_borders(len(starts), num_lanes)
    first, last = (0, len(starts)) if rotate else (int(borders[lanes[0]]), int(borders[lanes[-1] + 1]))
    if first == last:
        return 0, 0
    begin, end = starts(np.array([first, last - 1], np.int64)).tolist()
    return begin, end + span


def lanes_read(rank: int, world_size: int, *, lanes: int, batch_per_lane: int) -> tuple[int, ...]:
    """List the lanes of which a rank gets windows.

    Parameters
    ----------
    rank, world_size : int
    lanes : int
        Into how many lanes the windows are assigned.
    batch_per_lane : int
        Windows of a step from each lane.

    Returns
    -------
    tuple of int
        Whole lanes where ``world_size`` divides ``lanes``; the last, shorter step is looked at too.

    Examples
    --------
    >>> lanes_read(1, 2, lanes=4, batch_per_lane=16), lanes_read(1, 3, lanes=2, batch_per_lane=3)
    ((2, 3), (0, 1))
    """
    found: set[int] = set()
    for batch in range(1, batch_per_lane + 1):
        share = -(-lanes * batch // world_size)
        last = lanes * batch - 1  # what fills the list up is its last window again
        first, end = min(rank * share, last), min((rank + 1) * share - 1, last)
        found.update(range(first // batch, end // batch + 1))
    return tuple(sorted(found))
