"""Fewer places than active blocks: what is evicted and read again within a turn.

In: a paged `BlockSchedule` and where windows start. Out: per turn, before which window which block is read into
whose place. The order of windows is kept and the memory too; the bytes grow. Never reads.

Blocks whose next use lies furthest ahead go first. This turn and the next are looked at: what neither needs
has no next use. Windows across a seam need no place, the stash has their rows.
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


def pages(residency: BlockSchedule, starts: SortedStarts, *, turns: range | None = None) -> Iterator[Page]:
    """Go through the turns of a paged lane.

    Parameters
    ----------
    residency : BlockSchedule
    starts : SortedStarts
        Where the windows of the order start.
    turns : range, optional
        Consecutive turns; all from ``residency.first_turn`` on.

    Yields
    ------
    Page
        For each turn. Before the first one all places are free.
    """
    from .kernels import page

    lane = residency.lane
    turns = range(residency.first_turn, lane.num_turns) if turns is None else turns
    held = np.full(residency.slots, -1, np.int64)
    now = _uses(residency, starts, turns.start) if len(turns) else np.empty(0, np.int64)
    for turn in turns:
        then = _uses(residency, starts, turn + 1) if turn + 1 < lane.num_turns else now[:0]
        out = np.empty((len(now), 3), np.int64)
        count = page(np.concatenate([now, then]), len(now), held, len(lane.blocks), out)
        enters = int(turn < len(lane.blocks))  # the first use is the entering block's, not a window's
        yield Page(turn, np.maximum(out[:count, 0] - enters, 0), out[:count, 1].copy(), out[:count, 2].copy())
        now = then


def reads(residency: BlockSchedule, starts: SortedStarts, *, end: int | None = None) -> NDArray[np.float64]:
    """Tell how often each block is read for the windows of the lane before ``end``.

    Parameters
    ----------
    residency : BlockSchedule
    starts : SortedStarts
    end : int, optional
        Position in the lane's sequence; None: all.

    Returns
    -------
    ndarray, shape (blocks,), float64
        Exact, and whole numbers, where nothing is paged or the lane has at most 2^20 windows; else the same
        for each block, from turns in the middle of the epoch.
    """
    lane, blocks = residency.lane, len(residency.lane.blocks)
    last = turns_before(residency, end)
    if not residency.paged:
        placed = np.zeros(blocks)
        placed[lane.visits[:last][residency.placed[:last]]] = 1
        return placed
    if len(lane) <= _EXACT:
        found = [
            page.read[page.before < _left(residency, page.turn, end)]
            for page in pages(residency, starts, turns=range(residency.first_turn, last))
        ]
        return np.bincount(np.concatenate([np.empty(0, np.int64), *found]), minlength=blocks).astype(float)
    first = max(residency.first_turn, (lane.num_turns - _SAMPLE) // 2)
    sample = range(first, min(first + _SAMPLE, lane.num_turns))
    seen = [len(page.read) for page in pages(residency, starts, turns=sample)][2:]  # filling the places
    left = max(0, last - residency.first_turn)
    return np.full(blocks, max(1.0, float(np.mean(seen or [0]))) * left / max(blocks, 1))


def turns_before(residency: BlockSchedule, end: int | None) -> int:
    """Return how many turns of a lane begin before a place of it; all where ``end`` is None or beyond."""
    lane = residency.lane
    if end is None or end >= len(lane):
        return lane.num_turns
    return int(lane.deal.turn_of(np.array([end - 1]))[0]) + 1 if end else 0


def _left(residency: BlockSchedule, turn: int, end: int | None) -> int:
    """Count the windows of a turn that come before a place; the turn itself begins even where none does."""
    if end is None:
        return np.iinfo(np.int64).max
    return max(1, end - max(int(residency.lane.deal.borders[turn]), residency.cursor))


def _uses(residency: BlockSchedule, starts: SortedStarts, turn: int) -> NDArray[np.int64]:
    lane = residency.lane
    begin = max(int(lane.deal.borders[turn]), residency.cursor)
    end = max(int(lane.deal.borders[turn + 1]), begin)
    block, crosses = residency.locate(starts(lane.windows(begin, end)))
    return np.concatenate([lane.visits[turn : turn + 1], np.where(crosses, -1, block)])
