"""Block order: a shuffle that needs few blocks at a time, as a pure function of its parameters.

In: starts, a grid, a seed, how many blocks are active, how many lanes. Out: window numbers of any stretch
of any lane, and per lane the turn at which each block enters. Never reads, never stores anything per
window beyond a few turns.

A lane is a contiguous piece of the windows, so that two lanes share only the blocks at their borders. Its
blocks are visited by as many *runs* as blocks are active: each run goes in time order round its own run
of neighbouring blocks, and the runs take turns. Block ``Lane.visits[t]`` enters at turn ``t`` and stays
``Lane.active`` turns. A window becomes possible when its last block has entered, and the windows that became
possible at a turn are assigned over the turns their block stays. So each turn mixes all active blocks, each
block is read once, and the neighbour of a block comes just when the block leaves: few overlaps stay open.

What an executor and a plan need: `BlockOrder.sequence` gives the `Lane`: which grid blocks it reads
(``blocks``) and which rows of them (``begin``, ``end``, cut to what the lane's windows use), ``visits``,
``entry``, ``crossing``, and ``spread.borders``, where turns lie in the sequence. ``schedule`` makes of these
what is read and dropped when.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import LoaderError

from .lane import Lane, LanePiece
from .order import PARAMETERS, lane_borders
from .permutation import Permutation, Purpose, draw, key
from .spread import Spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .grid import Grid, SortedStarts

__all__ = ["BlockOrder", "interleaved_runs", "lay_out"]


def interleaved_runs(blocks: int, active: int, *, seed: int, epoch: int, lane: int = 0) -> NDArray[np.int64]:
    """Order the blocks of a lane by runs that take turns.

    Parameters
    ----------
    blocks : int
        How many blocks the lane has.
    active : int
        How many runs there are, at most ``blocks``.
    seed, epoch, lane : int
        What the starts of the runs and their order are drawn from.

    Returns
    -------
    ndarray, shape (blocks,), int64
        The block that enters at each turn.

    Examples
    --------
    >>> sorted(interleaved_runs(7, 3, seed=0, epoch=0).tolist())
    [0, 1, 2, 3, 4, 5, 6]
    """
    if blocks == 0:
        return np.empty(0, np.int64)
    borders = np.array([i * blocks // active for i in range(active + 1)], np.int64)
    lengths = np.diff(borders)
    begins = [
        draw(int(length), key(seed, epoch=epoch, purpose=Purpose.RUN_START, lane=lane, index=w))
        for w, length in enumerate(lengths)
    ]
    turns = Permutation(active, key(seed, epoch=epoch, purpose=Purpose.ROUND, lane=lane))(np.arange(active))
    rounds = np.arange(lengths.max())[:, None]
    visits = borders[:-1] + (np.array(begins, np.int64) + rounds) % lengths
    chosen: NDArray[np.int64] = visits[:, turns][(rounds < lengths)[:, turns]]
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class BlockOrder:
    """Windows shuffled by blocks: ``block-1(W, grid, span, m, L, rotate)``.

    Parameters
    ----------
    starts : SortedStarts
        Where windows start, in time order; window numbers are positions in it.
    grid : Grid
        The blocks of these windows, from ``grid.cut``.
    seed : int
        0 ≤ seed < 2^128.
    active : int
        How many blocks are resident per lane, m. More mix better and take more memory.
    lanes : int
        Into how many contiguous pieces the windows are assigned, L.
    rotate : bool
        Whether the first lane begins at another window each epoch.

    Raises
    ------
    LoaderError
        Where a number is outside its range, or the grid belongs to other windows.

    Examples
    --------
    >>> from windowloader.order.grid import Grid
    >>> from windowloader.windows.index import Runs
    >>> starts = Runs.of_segments(np.array([0, 309]), span=10, stride=1)
    >>> grid = Grid(np.array([0, 100, 200]), np.array([100, 200, 309]), span=10, rows=40)
    >>> order = BlockOrder(starts, grid=grid, active=2)
    >>> sorted(order.lane(0, 0, 0, 300).tolist()) == list(range(300))
    True
    """

    starts: SortedStarts
    grid: Grid = field(kw_only=True)
    seed: int = field(default=0, kw_only=True)
    active: int = field(kw_only=True)
    lanes: int = field(default=1, kw_only=True)
    rotate: bool = field(default=True, kw_only=True)
    _counts: NDArray[np.int64] = field(init=False, repr=False)
    _hash: str = field(init=False, repr=False)
    _kept: OrderedDict[tuple[int, int], Lane] = field(init=False, repr=False, default_factory=OrderedDict)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        lane_borders(len(self.starts), self.lanes)
        key(self.seed, epoch=0, purpose=Purpose.ROTATION)  # the range of the seed, now and not in epoch 0
        if self.active < 1:
            raise LoaderError(f"active={self.active}: at least one block must be active.")
        counts = self.grid.counts(self.starts)
        _check(self.starts, self.grid, counts)
        object.__setattr__(self, "_counts", counts)
        object.__setattr__(self, "_hash", self.grid.hash())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.starts, self.grid, self.seed, self.active, self.lanes, self.rotate)

    @property
    def name(self) -> str:
        """The algorithm and its version."""
        return "block-1"

    @property
    def parameters(self) -> dict[str, int | str]:
        """What, with the seed, the order is made of; the grid follows from the data and ``block_rows``."""
        return {
            **PARAMETERS,
            "lanes": self.lanes,
            "active_blocks": self.active,
            "rotate": int(self.rotate),
            "span": self.grid.span,
            "block_rows": self.grid.rows,
            "chunk_rows": self.grid.cells[0],
            "chunk_first": self.grid.cells[1],
            "grid": "" if self.grid.cells[0] else self._hash,
        }

    @property
    def grid_hash(self) -> str:
        """Hash of the block borders."""
        return self._hash

    @property
    def num_windows(self) -> int:
        """How many windows an epoch has."""
        return len(self.starts)

    @property
    def num_lanes(self) -> int:
        """How many sequences the windows are assigned to."""
        return self.lanes

    def lane_sizes(self, epoch: int) -> NDArray[np.int64]:
        """Return the windows of every lane, as `Order.lane_sizes`."""
        del epoch
        return np.diff(lane_borders(self.num_windows, self.lanes))

    def lane(self, epoch: int, lane: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return window numbers of a lane's sequence, as `Order.lane`; IndexError outside it."""
        return self.sequence(epoch, lane).windows(start, stop)

    def sequence(self, epoch: int, lane: int) -> Lane:
        """Return a lane of an epoch, with the tables that plan and executor read; a few are kept.

        Parameters
        ----------
        epoch, lane : int

        Returns
        -------
        Lane

        Raises
        ------
        IndexError
            Where there is no such lane.
        """
        if not 0 <= lane < self.lanes:
            raise IndexError(f"lane {lane} is outside the {self.lanes} lanes of this order.")
        with self._lock:
            if (epoch, lane) in self._kept:
                self._kept.move_to_end((epoch, lane))
                return self._kept[epoch, lane]
        made = _lane(self, epoch, lane)
        with self._lock:
            # Another thread may have been faster: all must share its tables.
            made = self._kept.setdefault((epoch, lane), made)
            while len(self._kept) > 2 * self.lanes + 2:  # this epoch, and the next one being read ahead
                self._kept.popitem(last=False)
        return made


def _rebuild(starts: Any, grid: Grid, seed: int, active: int, lanes: int, rotate: bool) -> BlockOrder:
    return BlockOrder(starts, grid=grid, seed=seed, active=active, lanes=lanes, rotate=rotate)


def _check(starts: SortedStarts, grid: Grid, counts: NDArray[np.int64]) -> None:
    """Check that every window lies in its block, or in it and the next, looking at the first and the last."""
    if not starts.rising:
        raise LoaderError(
            "windows out of time order, or taken twice, cannot be shuffled by blocks. Sort the positions and "
            'leave out repeats, or pass shuffle="global".'
        )
    if len(starts) == 0:
        return
    low, high = counts[:-1:2], counts[2::2]
    some = high > low
    reach = grid.end if grid.halo else np.append(grid.end[1:], grid.end[-1])
    wrong = len(grid) == 0 or counts[0] != 0 or np.any(np.diff(counts) < 0)
    if not wrong:
        firsts, lasts = starts(low[some]), starts(high[some] - 1)
        wrong = np.any(firsts < grid.begin[some]) or np.any(lasts + grid.span > reach[some])
    if wrong:
        raise LoaderError(
            f"the grid of {len(grid)} blocks does not hold these {len(starts)} windows of {grid.span} rows. "
            "Cut it from the same window set, with starts in time order."
        )


def _lane(order: BlockOrder, epoch: int, lane: int) -> Lane:
    """Lay out a lane by runs that take turns."""
    return lay_out(
        order.starts,
        order.grid,
        order._counts,
        _piece(order, epoch, lane),
        active=order.active,
        visit=lambda blocks, active: interleaved_runs(
            blocks, active, seed=order.seed, epoch=epoch, lane=lane
        ),
        make=partial(Lane, epoch=epoch, lane=lane, _seed=order.seed),
    )


def lay_out(
    starts: SortedStarts,
    grid: Grid,
    counts: NDArray[np.int64],
    piece: LanePiece,
    *,
    active: int,
    visit: Callable[[int, int], NDArray[np.int64]],
    make: Callable[..., Lane],
) -> Lane:
    """Lay out a lane: its blocks, their visits, and the windows that become possible at each.

    Parameters
    ----------
    starts, grid
    counts : ndarray
        ``grid.counts(starts)``.
    piece : LanePiece
        The lane's windows.
    active : int
        Blocks that are active at a time.
    visit : callable
        ``visit(blocks, active)`` gives which block enters at each turn.
    make : callable
        Makes the lane of its tables.

    Returns
    -------
    Lane
    """
    counts = piece.rank(counts)  # as the grid's, of the lane's windows only
    before = np.concatenate([counts[:1], counts[1:-2:2]])  # windows from before that reach into a block
    blocks = np.flatnonzero(counts[2::2] > before)
    low, inside, high = before[blocks], counts[2 * blocks + 1], counts[2 * blocks + 2]
    active = min(active, len(blocks))
    visits = visit(len(blocks), active)
    entry = np.empty_like(visits)
    entry[visits] = np.arange(len(visits))
    # With a neighbour that came before, a block brings the windows of their overlap as well.
    earlier = np.append(False, entry[:-1] < entry[1:])
    later = np.append(entry[1:] < entry[:-1], False)
    begin = np.where(earlier, low, counts[2 * blocks])
    end = np.where(later, high, inside)
    first = starts(piece.numbers(low))
    last = starts(piece.numbers(high - 1)) + grid.span
    return make(
        active=active,
        blocks=blocks,
        begin=np.maximum(grid.begin[blocks], first),
        end=np.minimum(grid.end[blocks], last),
        visits=visits,
        entry=entry,
        crossing=high - inside,
        low=begin[visits],
        spread=Spread((end - begin)[visits], active=active),
        _piece=piece,
    )


def _piece(order: BlockOrder, epoch: int, lane: int) -> LanePiece:
    windows = order.num_windows
    borders = lane_borders(windows, order.lanes)
    turned = 0
    if order.rotate and order.lanes > 1 and windows:
        turned = draw(windows, key(order.seed, epoch=epoch, purpose=Purpose.ROTATION))
    size = int(borders[lane + 1] - borders[lane])
    return LanePiece((turned + int(borders[lane])) % max(windows, 1), size, windows)
