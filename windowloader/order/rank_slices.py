"""Which rows of a step are a rank's: equal slices of a list that no rank makes whole.

In: how many windows each lane gives, how many lanes, a rank. Out: the stretches of lanes that a slice lies in, and the
slice cut from their rows. Knows neither windows nor orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import RankError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Places", "RankSlice", "Step", "check_rank"]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A list of windows, of all ranks or of one.

    Parameters
    ----------
    positions : ndarray, shape (rows,), int64
        Window numbers.
    weights : ndarray, shape (rows,), float32
        1, or 0 for a row that only fills the shape.
    advance : int
        By how much the step moves the cursor.

    Examples
    --------
    >>> Step(np.array([4, 2]), np.ones(2, np.float32), advance=2).positions
    array([4, 2])
    """

    positions: NDArray[np.int64]
    weights: NDArray[np.float32]
    advance: int


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the rows of a rank's step come from.

    Parameters
    ----------
    pass_number, cursor : int
        The pass over the data, and how far each of its lanes was at the step's beginning.
    lanes, places : ndarray, shape (rows,), int64
        The lane of each row, and its place in the lane's sequence.
    """

    pass_number: int
    cursor: int
    lanes: NDArray[np.int64]
    places: NDArray[np.int64]

    def filled(self, rows: int) -> Places:
        """Repeat the last row, so that there are ``rows``."""
        taken = np.minimum(np.arange(rows), len(self.lanes) - 1)
        return Places(self.pass_number, self.cursor, self.lanes[taken], self.places[taken])


@dataclass(frozen=True, slots=True)
class RankSlice:
    """A rank's slice of a step: the list of all lanes' windows, filled to a multiple of the ranks with its last one.

    Parameters
    ----------
    stretches : list of tuple of int
        Lane, start and stop, in the lane's sequence, of what the slice lies in.
    begin, count : int
        Which of their rows, put one after another, it is.
    depth : int
        Windows that each lane gives to the step.

    Examples
    --------
    >>> RankSlice.of(0, 3, 2, rank=1, world_size=4)  # of [a0, a1, a2, b0, b1, b2] in slices of two
    RankSlice(stretches=[(0, 2, 3), (1, 0, 1)], begin=0, count=2, depth=3)
    """

    stretches: list[tuple[int, int, int]]
    begin: int
    count: int
    depth: int

    @classmethod
    def of(cls, cursor: int, depth: int, lanes: int, *, rank: int, world_size: int) -> RankSlice:
        """Cut a step of ``depth`` windows a lane, from ``cursor`` on; `RankError` for a rank outside the world."""
        check_rank(rank, world_size)
        rows = depth * lanes
        share = -(-rows // world_size)
        # A slice beyond the end of the list consists of fillers, and they repeat the list's last row.
        begin, end = min(rank * share, rows - 1), min((rank + 1) * share, rows)
        stretches = [
            (lane, cursor + max(begin - lane * depth, 0), cursor + min(end - lane * depth, depth))
            for lane in range(begin // depth, -(-end // depth))
        ]
        return cls(stretches, rank * share - begin, share, depth)

    def cut(self, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Take the slice from the rows of its stretches, beyond their end the last again, and which are no repeats."""
        taken = np.arange(self.begin, self.begin + self.count)
        return rows[np.minimum(taken, len(rows) - 1)], taken < len(rows)


def check_rank(rank: int, world_size: int) -> None:
    """Raise `RankError` where a rank is outside the world."""
    if not 0 <= rank < world_size:
        raise RankError(f"rank {rank} is outside world_size={world_size}. Ranks count from 0.")
