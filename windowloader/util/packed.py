"""Integer arrays made small for pickles: differences, in the narrowest type, compressed.

In: int64 arrays that mostly rise, as tables of runs do. Out: bytes, and the array again, exactly. Never loses
a bit.
"""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["pack_integers", "unpack_integers"]


def pack_integers(values: np.ndarray) -> tuple[int, int, str, bytes]:
    """Pack a one-dimensional int64 array.

    Parameters
    ----------
    values : ndarray, shape (n,), int64
        Any values; rising ones pack best.

    Returns
    -------
    tuple
        For `unpack_integers`: the first value, what all differences are multiples of, their dtype, their
        bytes.

    Examples
    --------
    >>> rows = np.arange(0, 10**9, 1000)
    >>> len(pack_integers(rows)[-1]) < 3000
    True
    >>> bool((unpack_integers(pack_integers(rows)) == rows).all())
    True
    """
    if len(values) == 0:
        return 0, 0, "", b""
    steps = np.diff(values)  # wraps on overflow and so does the sum that undoes it
    unit = int(np.gcd.reduce(steps)) if len(steps) else 0
    steps = steps // unit if unit > 0 else steps
    low, high = (int(steps.min()), int(steps.max())) if len(steps) else (0, 0)
    narrow = np.result_type(
        np.min_scalar_type(min(low, -1)), np.min_scalar_type(high) if high > 0 else np.int8
    )
    narrow = narrow if narrow.kind == "i" else np.dtype(np.int64)
    little = np.dtype(narrow).newbyteorder("<")
    planes = steps.astype(little).view(np.uint8).reshape(-1, little.itemsize)  # alike bytes lie together
    return int(values[0]), unit, little.str, zlib.compress(planes.T.tobytes(), 6)


def unpack_integers(packed: tuple[int, int, str, bytes]) -> np.ndarray:
    """Return the array that `pack_integers` packed, int64."""
    first, unit, dtype, data = packed
    if not dtype:
        return np.empty(0, np.int64)
    little = np.dtype(dtype)
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(little.itemsize, -1)
    steps = np.ascontiguousarray(planes.T).view(little)[:, 0].astype(np.int64)
    values = np.empty(len(steps) + 1, np.int64)
    values[0] = first
    values[1:] = steps * unit if unit > 0 else steps
    return np.cumsum(values, out=values)
