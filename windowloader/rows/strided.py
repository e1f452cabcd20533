"""Rows as the loops address them: one array of words, and how rows, nodes and features lie in it.

In: an array [row, node, feature] of any strides. Out: `StridedBuffer`. Never copies, unless rows are addressable only
by bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["BufferLayout", "Rows", "StridedBuffer"]


@dataclass(frozen=True, slots=True)
class BufferLayout:
    """How rows lie in a flat array: element (row, node, feature) at ``origin + row·r + node·n + feature·f``.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the words that are read: uint16 for float16, uint8 for bool.
    half : bool or None
        Whether the words are float16; None where not, as the kernels take it.
    origin : int
    steps : tuple of int
        r, n and f.
    features : int
        That each node has: what lies behind them may be no memory of the array's.
    """

    dtype: np.dtype
    half: bool | None
    origin: int
    steps: tuple[int, int, int]
    features: int


@dataclass(frozen=True, slots=True, eq=False)
class StridedBuffer:
    """An array as the loops take it: what stays for many batches is made so once.

    Parameters
    ----------
    values : ndarray, shape (word,)
        All that rows lie in, read-only.
    kind : BufferLayout

    Examples
    --------
    >>> StridedBuffer.of(np.arange(12.0).reshape(2, 3, 2)[::-1]).kind.steps
    (-6, 2, 1)
    """

    values: np.ndarray
    kind: BufferLayout

    @classmethod
    def of(cls, base: np.ndarray) -> StridedBuffer:
        """Address rows by elements of one flat array, whatever their strides.

        Float16 is read as its bits, bool as bytes. Rows whose strides are no whole number of elements (a field of a
        structured array) or whose bytes are swapped are copied: the only case that costs memory.
        """
        kind = _kind_of(base)
        return cls(_words_of(base, kind), kind)

    @classmethod
    def kept(cls, base: np.ndarray) -> StridedBuffer | None:
        """As `of`, to be kept beside the array; None where that would keep a copy."""
        return None if _is_odd(base) else cls.of(base)


def _kind_of(base: np.ndarray) -> BufferLayout:
    size = base.itemsize
    half = base.dtype == np.float16
    dtype = np.dtype(
        np.uint16 if half else np.uint8 if base.dtype == np.bool_ else base.dtype.newbyteorder("=")
    )
    if _is_plain(base):
        origin, steps = 0, (base.shape[1] * base.shape[2], base.shape[2], 1)
    else:
        lengths = [(n - 1) * stride for n, stride in zip(base.shape, base.strides, strict=True)]
        origin = -sum(min(length, 0) for length in lengths) // size
        steps = (base.strides[0] // size, base.strides[1] // size, base.strides[2] // size)
    return BufferLayout(dtype, True if half else None, int(origin), steps, base.shape[2])


def _is_odd(base: np.ndarray) -> bool:
    """Whether rows are addressable by bytes only."""
    return not base.dtype.isnative or any(stride % base.itemsize for stride in base.strides)


def _is_plain(base: np.ndarray) -> bool:
    """Whether rows lie one after another, or are copied so."""
    return bool(base.flags.c_contiguous) or _is_odd(base)


def _words_of(base: np.ndarray, kind: BufferLayout) -> np.ndarray:
    """All that rows lie in as one array of words."""
    if base.flags.c_contiguous and base.dtype.isnative:
        values = base.reshape(-1)
    elif _is_plain(base):
        values = np.ascontiguousarray(base, dtype=base.dtype.newbyteorder("=")).reshape(-1)
    else:
        lengths = [(n - 1) * stride for n, stride in zip(base.shape, base.strides, strict=True)]
        lowest = base[tuple(slice(-1, None) if length < 0 else slice(0, 1) for length in lengths)]
        extent = sum(abs(length) for length in lengths) // base.itemsize + 1
        values = np.lib.stride_tricks.as_strided(lowest, (extent,), (base.itemsize,))
    values = values.view() if values.dtype == kind.dtype else values.view(kind.dtype)
    # read-only arrays are another type to numba: as they must be taken (mapped files), all are made so
    values.flags.writeable = False
    return values


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of one variable, and where the windows of a batch begin in them.

    Parameters
    ----------
    base : ndarray, shape (row, node | 1, feature)
        Any strides, the variable's dtype.
    first : ndarray, shape (batch,), int64
        Row of ``base`` where each window's row 0 lies; its further rows follow.
    flat : StridedBuffer, optional
        ``base`` as the loops take it, where it stays the same for many batches.
    """

    base: np.ndarray
    first: np.ndarray
    flat: StridedBuffer | None = None
