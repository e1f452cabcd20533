"""In what order the windows of a set come: what all orders share, the global and the sequential order.

In: how many windows there are, a seed, named parameters. Out: per lane, the window numbers of any stretch
of an epoch, computed when asked. Never stores an order, never looks at data; block order is in ``lanes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

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


class Order:
    """A pure function of seed, epoch, name and parameters: which window comes at which place of which lane.

    Lanes are contiguous pieces of the windows that differ by at most one; their sizes are arithmetic, the same in all
    epochs. An order is a subclass with a name of `ORDERS`, these attributes and `_numbers`.

    Attributes
    ----------
    num_windows, num_lanes : int
        How many windows an epoch has, and to how many sequences they are assigned.
    seed : int
        0 where nothing is shuffled.

    Raises
    ------
    LoaderError
        Where there is no lane, a negative number of windows, or a seed outside its range.
    """

    __slots__ = ()
    num_windows: int
    num_lanes: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_lanes < 1 or self.num_windows < 0:
            raise LoaderError(
                f"cannot spread {self.num_windows} windows to {self.num_lanes} lanes: at least one lane is needed."
            )
        key(self.seed, epoch=0, purpose=Purpose.GLOBAL)  # the range of the seed, now and not in epoch 0

    @property
    def name(self) -> str:
        """Algorithm and version, one of `ORDERS`."""
        raise NotImplementedError

    @property
    def parameters(self) -> dict[str, int | str]:
        """Resolved parameters, the keys of `PARAMETERS`."""
        return {**PARAMETERS, "lanes": self.num_lanes}

    @property
    def grid_hash(self) -> str:
        """Hash of the block borders, regular or not; "" without blocks."""
        return ""

    def lane_start(self, lane: Any) -> Any:
        """Return how many windows the lanes before a lane have, of one lane or of an array of them."""
        size, rest = divmod(self.num_windows, self.num_lanes)
        return lane * size + lane * rest // self.num_lanes  # lane · num_windows may be more than 63 bits

    def lane_size(self, lane: Any) -> Any:
        """Return the windows of a lane, or of each of an array of lanes."""
        return self.lane_start(lane + 1) - self.lane_start(lane)

    @property
    def longest_lane(self) -> int:
        """The first of the longest lanes."""
        rest = self.num_windows % self.num_lanes
        return -(-self.num_lanes // rest) - 1 if rest else 0

    def lane_sizes(self, epoch: int) -> NDArray[np.int64]:
        """Return the windows of every lane, the same in every epoch; shape (num_lanes,), int64."""
        del epoch
        return np.diff(lane_borders(self.num_windows, self.num_lanes))

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
        if not (0 <= lane < self.num_lanes and 0 <= start <= stop <= self.lane_size(lane)):
            has = f"has {self.lane_size(lane)} windows" if 0 <= lane < self.num_lanes else "is none"
            raise IndexError(f"lane {lane} of {self.num_lanes} {has}; [{start}, {stop}) was asked.")
        return self._numbers(epoch, lane, start, stop)

    def _numbers(self, epoch: int, lane: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return what `lane` does, of a stretch inside it."""
        raise NotImplementedError


def lane_borders(num_windows: int, num_lanes: int) -> NDArray[np.int64]:
    """Cut the windows into contiguous lanes that differ by at most one.

    Parameters
    ----------
    num_windows, num_lanes : int

    Returns
    -------
    ndarray, shape (num_lanes + 1,), int64
        Lane ``l`` is [borders[l], borders[l + 1]).

    Examples
    --------
    >>> lane_borders(10, 3)
    array([ 0,  3,  6, 10])
    """
    borders: NDArray[np.int64] = SequentialOrder(num_windows, num_lanes).lane_start(np.arange(num_lanes + 1))
    return borders


@dataclass(frozen=True, slots=True)
class GlobalOrder(Order):
    """All windows in one keyed permutation: ``global-1(W)``.

    One lane, since any rank may need any window.

    Parameters
    ----------
    num_windows : int
    seed : int
        0 ≤ seed < 2^128.

    Examples
    --------
    >>> order = GlobalOrder(5, seed=0)
    >>> sorted(order.lane(0, 0, 0, 5).tolist())
    [0, 1, 2, 3, 4]
    """

    num_windows: int
    seed: int = 0

    @property
    def name(self) -> str:
        """The algorithm and its version."""
        return "global-1"

    @property
    def num_lanes(self) -> int:  # type: ignore[override]
        """Always 1."""
        return 1

    def _numbers(self, epoch: int, lane: int, start: int, stop: int) -> NDArray[np.int64]:
        del lane
        permutation = _global_permutation(self.num_windows, self.seed, epoch)
        return permutation(np.arange(start, stop, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class SequentialOrder(Order):
    """The windows as they lie in time, in contiguous lanes: ``sequential-1(W, L)``.

    Parameters
    ----------
    num_windows : int
    num_lanes : int
        1, or more for several ranks that each read their own stretch of a stream.

    Examples
    --------
    >>> SequentialOrder(10, num_lanes=2).lane(0, 1, 0, 3)
    array([5, 6, 7])
    """

    num_windows: int
    num_lanes: int = 1

    @property
    def name(self) -> str:
        """The algorithm and its version."""
        return "sequential-1"

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Always 0: nothing is drawn."""
        return 0

    def _numbers(self, epoch: int, lane: int, start: int, stop: int) -> NDArray[np.int64]:
        del epoch
        first = self.lane_start(lane)
        return np.arange(first + start, first + stop, dtype=np.int64)


@lru_cache(maxsize=8)  # a loader asks for one epoch at a time, perhaps reading ahead into the next
def _global_permutation(num_windows: int, seed: int, epoch: int) -> Permutation:
    return Permutation(num_windows, key(seed, epoch=epoch, purpose=Purpose.GLOBAL))
