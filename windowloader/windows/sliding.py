"""Sums over the rows that windows read, for every start at once.

In: a number a row, the rows of a window. Out: a number a start. Never knows which starts there are.
"""

from __future__ import annotations

import numpy as np

__all__ = ["progressions", "window_sums"]


def progressions(offsets: np.ndarray) -> list[tuple[int, int, int]]:
    """Cut rising offsets into pieces of equal steps: (first, count, step).

    Examples
    --------
    >>> progressions(np.array([-2016, -288, -2, -1, 0]))
    [(-2016, 2, 1728), (-2, 3, 1)]
    """
    values = [int(value) for value in offsets]
    pieces, i = [], 0
    while i < len(values):
        j = i + 1
        step = values[j] - values[i] if j < len(values) else 1
        while j < len(values) and values[j] - values[j - 1] == step:
            j += 1
        pieces.append((values[i], j - i, step))
        i = j
    return pieces


def window_sums(values: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
    """Sum the values at ``i + offsets`` for each i in ``[0, size)``.

    Parameters
    ----------
    values : ndarray, shape (row,), int64
        At least up to row ``size + offsets[-1]``.
    offsets : ndarray, shape (step,), int64
        At least 0, rising.
    size : int

    Returns
    -------
    ndarray, shape (size,), int64

    Examples
    --------
    >>> window_sums(np.array([1, 2, 3, 4, 5]), np.array([0, 2]), 3)
    array([4, 6, 8])
    """
    from .kernels import slide

    out, part = np.zeros(size, np.int64), np.empty(size, np.int64)
    for first, count, step in progressions(offsets):
        slide(np.ascontiguousarray(values, np.int64), first, count, step, out, part)
    return out
