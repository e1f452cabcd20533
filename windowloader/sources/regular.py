"""Edges of chunks along rows: arithmetic where all chunks are equally long.

In: the length of chunks. Out: what stands for the array of their edges, so that 10^8 chunks cost four integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Edges", "RegularEdges", "longest"]


@dataclass(frozen=True, slots=True)
class RegularEdges:
    """Edges of chunks of equal length, as arithmetic: ``first``, every ``phase + k·size`` between, and ``stop``.

    Stands for the array of them: an index, a slice or an array of indices gives edges, and `searchsorted` their
    numbers. ``np.asarray`` makes the table.

    Parameters
    ----------
    first, stop : int
        The first edge, and the last one; ``first < stop``.
    size : int
        Rows of a chunk, at least 1.
    phase : int
        A row at which a chunk begins.

    Examples
    --------
    >>> edges = RegularEdges(3, 20, 8)
    >>> np.asarray(edges), len(edges), edges[1], edges.searchsorted([8, 9], side="right")
    (array([ 3,  8, 16, 20]), 4, np.int64(8), array([2, 2]))
    """

    first: int
    stop: int
    size: int
    phase: int = 0

    def __len__(self) -> int:
        return -((self.phase - self.stop) // self.size) - self._low + 1

    @property
    def _low(self) -> int:
        """Number of the chunk that the first edge lies in, counted from ``phase``."""
        return (self.first - self.phase) // self.size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)), dtype=np.int64)
        index = np.asarray(index)
        index = np.where(index < 0, index + len(self), index)
        return np.clip(self.phase + (self._low + index) * self.size, self.first, self.stop)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __sub__(self, rows: int) -> RegularEdges:
        return RegularEdges(self.first - rows, self.stop - rows, self.size, self.phase - rows)

    def searchsorted(self, rows: ArrayLike, side: Literal["left", "right"] = "left") -> NDArray[np.intp]:
        """Count the edges before rows, or with ``side="right"`` up to them."""
        rows = np.asarray(rows)
        if side == "right":
            found = (rows - self.phase) // self.size - self._low + 1
            return np.where(rows >= self.stop, len(self), np.where(rows < self.first, 0, found))
        found = -((self.phase - rows) // self.size) - self._low
        return np.where(rows > self.stop, len(self), np.where(rows <= self.first, 0, found))


Edges: TypeAlias = "NDArray[np.int64] | RegularEdges"
"""Rows where chunks begin, and the end, increasing: arithmetic where they are regular."""


def longest(edges: Edges) -> int:
    """Most rows between two neighbouring edges."""
    if isinstance(edges, RegularEdges) and len(edges) > 3:
        return edges.size
    return int(np.diff(np.asarray(edges)).max())
