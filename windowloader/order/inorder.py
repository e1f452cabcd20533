"""Time order laid out over blocks: the same lanes as ``order.SequentialOrder``, read by one block at a time.

In: starts, a grid, how many lanes. Out: per lane the turn at which each block enters, for the executor of block
order. Never draws anything and never changes which window comes when: the grid is no parameter of the order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .lane import Lane, LanePiece
from .lanes import lay_out
from .order import lane_borders

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .grid import Grid, SortedStarts

__all__ = ["TimeLane", "TimeOrder"]


@dataclass(frozen=True, slots=True, eq=False)
class TimeLane(Lane):
    """A lane whose windows come in time order."""

    def windows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the window numbers at ``[start, stop)`` of the sequence."""
        return self._piece.numbers(np.arange(start, stop, dtype=np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class TimeOrder:
    """Windows in time order, by blocks of which one is active.

    Parameters
    ----------
    starts : SortedStarts
        Where windows start, in time order.
    grid : Grid
        The blocks of these windows.
    num_lanes : int
        Into how many contiguous pieces the windows are assigned.

    Examples
    --------
    >>> from windowloader.order.grid import Grid
    >>> from windowloader.windows.index import Runs
    >>> starts = Runs.of_segments(np.array([0, 309]), span=10, stride=1)
    >>> grid = Grid(np.array([0, 100, 200]), np.array([100, 200, 309]), span=10, rows=40)
    >>> lane = TimeOrder(starts, grid=grid).sequence(0, 0)
    >>> lane.spread.borders, lane.windows(90, 94)
    (array([  0,  91, 191, 300]), array([90, 91, 92, 93]))
    """

    starts: SortedStarts
    grid: Grid = field(kw_only=True)
    num_lanes: int = field(default=1, kw_only=True)
    _counts: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_counts", self.grid.counts(self.starts))

    def sequence(self, epoch: int, lane: int) -> Lane:
        """Return a lane; the same in each epoch.

        Parameters
        ----------
        epoch, lane : int

        Returns
        -------
        Lane
        """
        borders = lane_borders(len(self.starts), self.num_lanes)
        piece = LanePiece(int(borders[lane]), int(borders[lane + 1] - borders[lane]), len(self.starts))
        return lay_out(
            self.starts,
            self.grid,
            self._counts,
            piece,
            active=1,
            visit=lambda blocks, _: np.arange(blocks, dtype=np.int64),
            make=partial(TimeLane, epoch=epoch, lane=lane, _seed=0),
        )
