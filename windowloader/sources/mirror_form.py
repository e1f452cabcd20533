"""What a mirror holds: shape, dtype, where its blocks begin, and the seal that a whole block has in the table.

In: what an array looks like. Out: `Form`. Pure arithmetic; never touches a file.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SLOT", "Form", "runs"]

SLOT = np.dtype([("crc", "<u8"), ("seal", "<u8")])


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What a mirror holds.

    Parameters
    ----------
    name : str
        Of the array, for messages.
    shape : tuple of int
        Time first.
    dtype : numpy.dtype
    edges : ndarray, shape (blocks + 1,), int64
        Rows where blocks begin, and the end.
    salt : int
        Differs between data sets, 64 bits.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    edges: np.ndarray
    salt: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.shape[0] * self.row_bytes

    @property
    def num_blocks(self) -> int:
        """How many blocks there are."""
        return len(self.edges) - 1

    def seals(self, first: int, crc: np.ndarray) -> np.ndarray:
        """Mark that block ``first``, ``first + 1`` … of this data set have these checksums; never 0."""
        mixed = crc ^ (np.arange(first + 1, first + 1 + len(crc), dtype=np.uint64) << np.uint64(32))
        mixed = mixed ^ np.uint64(self.salt)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64's mixing
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        sealed: np.ndarray = np.maximum(mixed ^ (mixed >> np.uint64(31)), np.uint64(1))
        return sealed


def runs(flags: Sequence[bool] | np.ndarray) -> list[tuple[int, int, bool]]:
    """Cut flags into runs of one value.

    Examples
    --------
    >>> runs([True, True, False])
    [(0, 2, True), (2, 3, False)]
    """
    array = np.asarray(flags, np.bool_)
    borders = [0, *(np.flatnonzero(np.diff(array)) + 1).tolist(), len(array)]
    return [(a, b, bool(array[a])) for a, b in itertools.pairwise(borders)] if len(array) else []
