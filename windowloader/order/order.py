"""In what order the windows of a set come: the protocol, the global and the sequential order.

In: how many windows there are, a seed, named parameters. Out: per lane, the window numbers of any stretch
of an epoch, computed when asked. Never stores an order, never looks at data; block order is in ``lanes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from windowloader.errors import LoaderError

from .permutation import Permutation, Purpose, key

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ORDERS", "PARAMETERS", "GlobalOrder", "Order", "SequentialOrder", "lane_borders"]

ORDERS = ("block-1", "global-1", "sequential-1")
"""Every order this release can make. A changed algorithm is added under the next number; old ones stay."""

PARAMETERS: dict[str, int | str] = {
    "lanes": 1,  # L, into how many sequences the windows are assigned
    "active_blocks": 0,  # m, 0 without blocks
    "rotate": 0,  # 1 where the first lane begins elsewhere each epoch
    "span": 0,  # rows of a window, 0 without blocks
    "block_rows": 0,  # rows asked of a block, 0 without blocks
    "chunk_rows": 0,  # rows of the cells whose edges are block borders, 0 without blocks or where they are irregular
    "chunk_first": 0,  # the first row at which a cell may begin
    "grid": "",  # hash of the block borders, "" without blocks or where they are regular
}
"""All parameters an order can have, and what they are for one that has no such thing."""


class Order(Protocol):
    """What steps, ranks and state need of an order: a pure function of seed, epoch, name and parameters."""

    @property
    def name(self) -> str:
        """Algorithm and version, one of `ORDERS`."""
        ...

    @property
    def parameters(self) -> dict[str, int | str]:
        """Resolved parameters, the keys of `PARAMETERS`."""
        ...

    @property
    def seed(self) -> int:
        """The seed; 0 where nothing is shuffled."""
        ...

    @property
    def grid_hash(self) -> str:
        """Hash of the block borders, regular or not; "" without blocks."""
        ...

    @property
    def num_windows(self) -> int:
        """How many windows an epoch has."""
        ...

    @property
    def num_lanes(self) -> int:
        """How many sequences the windows are assigned to."""
        ...

    def lane_sizes(self, epoch: int) -> NDArray[np.int64]:
        """Return the windows of every lane.

        Parameters
        ----------
        epoch : int
            Any: the sizes are the same in all.

        Returns
        -------
        ndarray, shape (num_lanes,), int64
        """
        ...

    def lane(self, epoch: int, lane: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the window numbers at [start, stop) of a lane's sequence.

        Parameters
        ----------
        epoch, lane, start, stop : int
            0 ≤ lane < num_lanes; 0 ≤ start ≤ stop ≤ the lane's size.

        Returns
        -------
        ndarray, shape (stop − start,), int64

        Raises
        ------
        IndexError
            Where the stretch is outside the lane.
        """
        ...


def lane_borders(num_windows: int, num_lanes: int) -> NDArray[np.int64]:
    """Cut the windows into contiguous lanes that differ by at most one.

    Parameters
    ----------
    num_windows : int
    num_lanes : int

    Returns
    -------
    ndarray, shape (num_lanes + 1,), int64
        Lane ``l`` is [borders[l], borders[l + 1]).

    Raises
    ------
    LoaderError
        Where there is no lane, or a negative number of windows.

    Examples
    --------
    >>> lane_borders(10, 3)
    array([ 0,  3,  6, 10])
    """
    if num_lanes < 1 or num_windows < 0:
        raise LoaderError(
            f"cannot spread {num_windows} windows to {num_lanes} lanes: at least one lane is needed."
        )
    # Python's integers: lane · num_windows may be more than 63 bits.
    return np.array([lane * num_windows // num_lanes for lane in range(num_lanes + 1)], np.int64)


@dataclass(frozen=True, slots=True)
class GlobalOrder:
    """All windows in one keyed permutation: ``global-1(W)``.

    Parameters
    ----------
    num_windows : int
        How many windows there are.
    seed : int
        0 ≤ seed < 2^128.

    Raises
    ------
    LoaderError
        Where the seed or the number of windows is outside its range.

    Examples
    --------
    >>> order = GlobalOrder(5, seed=0)
    >>> sorted(order.lane(0, 0, 0, 5).tolist())
    [0, 1, 2, 3, 4]
    """

    num_windows: int
    seed: int = 0

    def __post_init__(self) -> None:
        lane_borders(self.num_windows, 1)
        key(self.seed, epoch=0, purpose=Purpose.GLOBAL)  # the range of the seed, now and not in epoch 0

    @property
    def name(self) -> str:
        """The algorithm and its version."""
        return "global-1"

    @property
    def parameters(self) -> dict[str, int | str]:
        """One lane, no blocks."""
        return dict(PARAMETERS)

    @property
    def grid_hash(self) -> str:
        """No blocks."""
        return ""

    @property
    def num_lanes(self) -> int:
        """Always 1: any rank may need any window, so there is nothing to spread."""
        return 1

    def lane_sizes(self, epoch: int) -> NDArray[np.int64]:
        """Return the windows of its one lane."""
        del epoch
        return np.array([self.num_windows], np.int64)

    def lane(self, epoch: int, lane: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return window numbers of a lane's sequence, as `Order.lane`; IndexError outside it."""
        _check_stretch(lane, 1, start, stop, self.num_windows)
        permutation = _global_permutation(self.num_windows, self.seed, epoch)
        return permutation(np.arange(start, stop, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class SequentialOrder:
    """The windows as they lie in time, in contiguous lanes: ``sequential-1(W, L)``.

    Parameters
    ----------
    num_windows : int
        How many windows there are.
    num_lanes : int
        1, or more for several ranks that each read their own stretch of a stream.

    Raises
    ------
    LoaderError
        Where there is no lane.

    Examples
    --------
    >>> SequentialOrder(10, num_lanes=2).lane(0, 1, 0, 3)
    array([5, 6, 7])
    """

    num_windows: int
    num_lanes: int = 1

    def __post_init__(self) -> None:
        lane_borders(self.num_windows, self.num_lanes)

    @property
    def name(self) -> str:
        """The algorithm and its version."""
        return "sequential-1"

    @property
    def parameters(self) -> dict[str, int | str]:
        """The lanes; no blocks."""
        return {**PARAMETERS, "lanes": self.num_lanes}

    @property
    def seed(self) -> int:
        """Always 0: nothing is drawn."""
        return 0

    @property
    def grid_hash(self) -> str:
        """No blocks."""
        return ""

    def lane_sizes(self, epoch: int) -> NDArray[np.int64]:
        """Return the windows of every lane, as `Order.lane_sizes`."""
        del epoch
        return np.diff(lane_borders(self.num_windows, self.num_lanes))

    def lane(self, epoch: int, lane: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return window numbers of a lane's sequence, as `Order.lane`; IndexError outside it."""
        del epoch
        first = lane * self.num_windows // self.num_lanes
        size = (lane + 1) * self.num_windows // self.num_lanes - first
        _check_stretch(lane, self.num_lanes, start, stop, size)
        return np.arange(first + start, first + stop, dtype=np.int64)


def _check_stretch(lane: int, num_lanes: int, start: int, stop: int, size: int) -> None:
    if not (0 <= lane < num_lanes and 0 <= start <= stop <= size):
        raise IndexError(f"lane {lane} of {num_lanes} has {size} windows; [{start}, {stop}) was asked.")


@lru_cache(maxsize=8)  # a loader asks for one epoch at a time, perhaps reading ahead into the next
def _global_permutation(num_windows: int, seed: int, epoch: int) -> Permutation:
    return Permutation(num_windows, key(seed, epoch=epoch, purpose=Purpose.GLOBAL))
