"""Fewer places than active blocks: what is evicted and read again within a turn.

In: a paged `BlockSchedule` and where windows start. Out: per turn, before which window which block is read into
whose place. The order of windows is kept and the memory too; the bytes grow. Never reads.

Blocks whose next use lies furthest ahead go first. This turn and the next are looked at: what neither needs
has no next use. Windows across an overlap need no place, the overlap buffer has their rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from windowloader.order.grid import SortedStarts

    from .block_schedule import BlockSchedule

__all__ = ["Page", "pages", "reads", "turns_before"]

_EXACT = 1 << 20  # windows up to which reads are counted by going through all of them
_SAMPLE = 32  # turns looked at otherwise


class Page(NamedTuple):
    """The reads of one turn, in the order in which they are needed; arrays of shape (reads,), int64."""

    turn: int
    before: NDArray[np.int64]
    """Position in the turn's sequence before which the block must be there."""
    read: NDArray[np.int64]
    """The block that is read; the one entering at this turn is read first."""
    drop: NDArray[np.int64]
    """The block whose place it takes; −1 for a free place."""


def pages(schedule: BlockSchedule, starts: SortedStarts, *, turns: range | None = None) -> Iterator[Page]:
    """Go through the turns of a paged lane.

    Parameters
    ----------
    schedule : BlockSchedule
    starts : SortedStarts
        Where the windows of the order start.
    turns : range, optional
        Consecutive turns; all from ``schedule.first_turn`` on.

    Yields
    ------
    Page
        For each turn. Before the first one all places are free.
    """
    from .kernels import page

    lane = schedule.lane
    turns = range(schedule.first_turn, lane.num_turns) if turns is None else turns
    held = np.full(schedule.slots, -1, np.int64)
    now = _uses(schedule, starts, turns.start) if len(turns) else np.empty(0, np.int64)
    for turn in turns:
        then = _uses(schedule, starts, turn + 1) if turn + 1 < lane.num_turns else now[:0]
        out = np.empty((len(now), 3), np.int64)
        count = page(np.concatenate([now, then]), len(now), held, len(lane.blocks), out)
        enters = int(turn < len(lane.blocks))  # the first use is the entering block's, not a window's
        yield Page(turn, np.maximum(out[:count, 0] - enters, 0), out[:count, 1].copy(), out[:count, 2].copy())
        now = then


def reads(schedule: BlockSchedule, starts: SortedStarts, *, end: int | None = None) -> NDArray[np.float64]:
    """Tell how often each block is read for the windows of the lane before ``end``.

    Parameters
    ----------
    schedule : BlockSchedule
    starts : SortedStarts
    end : int, optional
        Position in the lane's sequence; None: all.

    Returns
    -------
    ndarray, shape (blocks,), float64
        Exact, and whole numbers, where nothing is paged or the lane has at most 2^20 windows; else the same
        for each block, from turns in the middle of the epoch.
    """
    lane, blocks = schedule.lane, len(schedule.lane.blocks)
    last = turns_before(schedule, end)
    if not schedule.paged:
        placed = np.zeros(blocks)
        placed[lane.visits[:last][schedule.placed[:last]]] = 1
        return placed
    if len(lane) <= _EXACT:
        found = [
            page.read[page.before < _left(schedule, page.turn, end)]
            for page in pages(schedule, starts, turns=range(schedule.first_turn, last))
        ]
        return np.bincount(np.concatenate([np.empty(0, np.int64), *found]), minlength=blocks).astype(float)
    first = max(schedule.first_turn, (lane.num_turns - _SAMPLE) // 2)
    sample = range(first, min(first + _SAMPLE, lane.num_turns))
    seen = [len(page.read) for page in pages(schedule, starts, turns=sample)][2:]  # filling the places
    left = max(0, last - schedule.first_turn)
    return np.full(blocks, max(1.0, float(np.mean(seen or [0]))) * left / max(blocks, 1))


def turns_before(schedule: BlockSchedule, end: int | None) -> int:
    """Return how many turns of a lane begin before a place of it; all where ``end`` is None or beyond."""
    lane = schedule.lane
    if end is None or end >= len(lane):
        return lane.num_turns
    return int(lane.spread.turn_of(np.array([end - 1]))[0]) + 1 if end else 0


def _left(schedule: BlockSchedule, turn: int, end: int | None) -> int:
    """Count the windows of a turn that come before a place; the turn itself begins even where none does."""
    if end is None:
        return np.iinfo(np.int64).max
    return max(1, end - max(int(schedule.lane.spread.borders[turn]), schedule.cursor))


def _uses(schedule: BlockSchedule, starts: SortedStarts, turn: int) -> NDArray[np.int64]:
    lane = schedule.lane
    begin = max(int(lane.spread.borders[turn]), schedule.cursor)
    end = max(int(lane.spread.borders[turn + 1]), begin)
    block, crosses = schedule.locate(starts(lane.windows(begin, end)))
    return np.concatenate([lane.visits[turn : turn + 1], np.where(crosses, -1, block)])
