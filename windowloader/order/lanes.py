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

Without a shuffle the windows come in time order, read by one block at a time: the grid is then no parameter of the
order.

What an executor and a plan need: `BlockOrder.sequence` gives the `Lane`: which grid blocks it reads
(``blocks``) and which rows of them (``begin``, ``end``, cut to what the lane's windows use), ``visits``,
``entry``, ``crossing``, and ``spread.borders``, where turns lie in the sequence. ``schedule`` makes of these
what is read and dropped when.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import LoaderError

from .lane import Lane, LanePiece, Recent, Spread
from .order import PARAMETERS, Order
from .permutation import Permutation, Purpose, draw, key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .grid import Grid, SortedStarts

__all__ = ["BlockOrder", "interleaved_runs"]


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
class BlockOrder(Order):
    """Windows shuffled by blocks: ``block-1(W, grid, span, m, L, rotate)``; or ``sequential-1(W, L)`` read by blocks.

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
    shuffle : bool
        False: time order, one block active.

    Raises
    ------
    LoaderError
        Where a number is outside its range, or the windows are not in time order.

    Examples
    --------
    >>> from windowloader.order.grid import Grid
    >>> from windowloader.windows.index import Runs
    >>> starts = Runs.of_segments(np.array([0, 309]), span=10, stride=1)
    >>> grid = Grid(np.array([0, 100, 200]), np.array([100, 200, 309]), span=10, rows=40)
    >>> order = BlockOrder(starts, grid=grid, active=2)
    >>> sorted(order.lane(0, 0, 0, 300).tolist()) == list(range(300))
    True
    >>> lane = BlockOrder(starts, grid=grid, active=1, shuffle=False).sequence(0, 0)
    >>> lane.spread.borders, lane.windows(90, 94)
    (array([  0,  91, 191, 300]), array([90, 91, 92, 93]))
    """

    starts: SortedStarts
    grid: Grid = field(kw_only=True)
    seed: int = field(default=0, kw_only=True)
    active: int = field(kw_only=True)
    lanes: int = field(default=1, kw_only=True)
    rotate: bool = field(default=True, kw_only=True)
    shuffle: bool = field(default=True, kw_only=True)
    _recent: Recent[Lane] = field(init=False, repr=False, default_factory=Recent)

    def __post_init__(self) -> None:
        Order.__post_init__(self)
        if self.active < 1:
            raise LoaderError(f"active={self.active}: at least one block must be active.")
        if not self.starts.rising:
            raise LoaderError(
                "windows out of time order, or taken twice, cannot be shuffled by blocks. Sort the positions and "
                'leave out repeats, or pass shuffle="global".'
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            self.starts,
            self.grid,
            self.seed,
            self.active,
            self.lanes,
            self.rotate,
            self.shuffle,
        )

    @property
    def name(self) -> str:
        """The algorithm and its version."""
        return "block-1" if self.shuffle else "sequential-1"

    @property
    def parameters(self) -> dict[str, int | str]:
        """What, with the seed, the order is made of; the grid follows from the data and ``block_rows``."""
        if not self.shuffle:
            return {**PARAMETERS, "lanes": self.lanes}
        size, phase = self.grid.cells
        return {
            **PARAMETERS,
            "lanes": self.lanes,
            "active_blocks": self.active,
            "rotate": int(self.rotate),
            "span": self.grid.span,
            "block_rows": self.grid.rows,
            "chunk_rows": size,
            "chunk_first": phase,
            "grid": "" if size else self.grid_hash,
        }

    @property
    def grid_hash(self) -> str:
        """Hash of the block borders."""
        return self.grid.hash() if self.shuffle else ""

    @property
    def num_windows(self) -> int:  # type: ignore[override]
        """How many windows an epoch has."""
        return len(self.starts)

    @property
    def num_lanes(self) -> int:  # type: ignore[override]
        """How many sequences the windows are assigned to."""
        return self.lanes

    def _numbers(self, epoch: int, lane: int, start: int, stop: int) -> NDArray[np.int64]:
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
        most = 2 * self.lanes + 2  # this epoch, and the next one being read ahead
        return self._recent.get((epoch, lane), most, lambda: self._lay_out(epoch, lane))

    def _lay_out(self, epoch: int, lane: int) -> Lane:
        """Lay out a lane: its blocks, their visits, and the windows that become possible at each."""
        piece, grid, starts = self._piece(epoch, lane), self.grid, self.starts
        blocks = piece.blocks(grid, starts)
        own, inside, high = (piece.rank(counts) for counts in grid.counts(starts, blocks))
        before = own.copy()  # of windows from before that reach into a block
        follows = np.flatnonzero(np.diff(blocks) == 1)
        before[follows + 1] = inside[follows]
        used = high > before
        blocks, before, own, inside, high = (each[used] for each in (blocks, before, own, inside, high))
        active = min(self.active, len(blocks))
        if self.shuffle:
            visits = interleaved_runs(len(blocks), active, seed=self.seed, epoch=epoch, lane=lane)
        else:
            visits = np.arange(len(blocks), dtype=np.int64)
        entry = np.empty_like(visits)
        entry[visits] = np.arange(len(visits))
        # With a neighbour that came before, a block brings the windows of their overlap as well.
        earlier = np.append(False, entry[:-1] < entry[1:])
        later = np.append(entry[1:] < entry[:-1], False)
        begin = np.where(earlier, before, own)
        end = np.where(later, high, inside)
        return Lane(
            epoch=epoch,
            lane=lane,
            active=active,
            blocks=blocks,
            begin=np.maximum(grid.begin[blocks], starts(piece.numbers(before))),
            end=np.minimum(grid.end[blocks], starts(piece.numbers(high - 1)) + grid.span),
            visits=visits,
            entry=entry,
            crossing=high - inside,
            low=begin[visits],
            spread=Spread((end - begin)[visits], active=active),
            _piece=piece,
            _seed=self.seed if self.shuffle else None,
        )

    def _piece(self, epoch: int, lane: int) -> LanePiece:
        first, windows = self.lane_start(lane), self.num_windows
        if self.shuffle and self.rotate and self.lanes > 1 and windows:
            first += draw(windows, key(self.seed, epoch=epoch, purpose=Purpose.ROTATION))
        return LanePiece(first % max(windows, 1), self.lane_size(lane), windows)


def _rebuild(
    starts: Any, grid: Grid, seed: int, active: int, lanes: int, rotate: bool, shuffle: bool
) -> BlockOrder:
    return BlockOrder(
        starts, grid=grid, seed=seed, active=active, lanes=lanes, rotate=rotate, shuffle=shuffle
    )
