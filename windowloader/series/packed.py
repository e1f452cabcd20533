"""Integer arrays as few bytes, for pickles.

In: int64 arrays that mostly rise, such as timestamps and borders. Out: bytes, and the array again, exactly.
"""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["pack_integers", "unpack_integers"]


def pack_integers(values: np.ndarray) -> bytes:
    """Pack a one-dimensional int64 array: differences, bytes of equal weight together, compressed.

    Examples
    --------
    >>> rows = np.arange(0, 10**9, 1000)
    >>> len(pack_integers(rows)) < 10_000
    True
    >>> bool((unpack_integers(pack_integers(rows)) == rows).all())
    True
    """
    steps = np.diff(values, prepend=0).astype("<i8")  # wraps on overflow, as does the sum that undoes it
    return zlib.compress(steps.view(np.uint8).reshape(-1, 8).T.tobytes())


def unpack_integers(packed: bytes) -> np.ndarray:
    """Return the array that `pack_integers` packed, int64."""
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(8, -1)
    return np.cumsum(np.ascontiguousarray(planes.T).view("<i8")[:, 0], dtype=np.int64)
