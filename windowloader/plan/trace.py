"""Where in time the rows are that an epoch reads, one after another: what pictures of a plan show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LaneTrace", "Trace"]


@dataclass(frozen=True, slots=True, eq=False)
class LaneTrace:
    """Blocks of a lane, in the order in which they enter.

    Attributes
    ----------
    lane : int
    own : bool
        Whether the rank reads it.
    begin, end : ndarray of int
        Rows.
    enter, leave : ndarray of float
        Share of the epoch at which windows of a block begin to come, and end.
    """

    lane: int
    own: bool
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    enter: NDArray[np.float64]
    leave: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What is read when.

    Attributes
    ----------
    num_rows : int
        Of the series.
    lanes : tuple of LaneTrace
        Of a streamed epoch.
    shares, starts : ndarray
        Else: share of the epoch, and first rows of some windows that come there.
    """

    num_rows: int
    lanes: tuple[LaneTrace, ...]
    shares: NDArray[np.float64]
    starts: NDArray[np.int64]
