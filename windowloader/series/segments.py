"""Segments and entities: series that lie end to end in one array, and gaps in time that divide them.

In: borders, i.e. increasing rows from 0 to the end. Out: the same, validated or clipped. Never sorts or reorders rows.
"""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

from windowloader.errors import SeriesError

__all__ = ["check_borders", "clip_borders", "jump_rows"]


def check_borders(borders: Any, num_steps: int, *, what: str) -> np.ndarray:
    """Validate where segments or entities begin.

    Parameters
    ----------
    borders : array-like, shape (part + 1,), integer
        First row of each part, and the end: 0, …, ``num_steps``, increasing.
    num_steps : int
        Number of rows.
    what : str
        Name of the argument, for the error.

    Returns
    -------
    ndarray, shape (part + 1,), int64

    Raises
    ------
    SeriesError
        For anything else; the message says how to convert lengths and pairs.

    Examples
    --------
    >>> check_borders([0, 3, 10], 10, what="segments")
    array([ 0,  3, 10])
    """
    array, falls = np.asarray(borders), ""
    if array.ndim == 1 and array.size > 1 and array.dtype.kind in "iu":
        array = array.astype(np.int64)
        falls = "".join(f", falling at {place + 1}" for place in np.flatnonzero(np.diff(array) <= 0)[:1])
        if array[0] == 0 and array[-1] == num_steps and not falls:
            return array
    raise SeriesError(
        f"{what}= takes the rows where each begins, and the end: 0, …, {num_steps}, rising. Found {array.dtype} of "
        f"shape {array.shape}, {reprlib.repr(array.tolist())}{falls}. Of lengths make np.append(0, "
        f"np.cumsum(lengths)), of pairs (start, stop) np.append(starts, {num_steps})."
    )


def clip_borders(borders: np.ndarray, rows: slice) -> tuple[np.ndarray, slice]:
    """Return the borders within a slice of rows, relative to its start, and which parts remain.

    Examples
    --------
    >>> clip_borders(np.array([0, 3, 10, 12]), slice(4, 11))
    (array([0, 6, 7]), slice(1, 3, None))
    """
    low = int(np.searchsorted(borders, rows.start, side="right")) - 1
    high = int(np.searchsorted(borders, rows.stop))
    return np.clip(borders[low : high + 1], rows.start, rows.stop) - rows.start, slice(low, high)


def jump_rows(steps: np.ndarray, counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the rows that follow a jump in time: a step that is far from the median step.

    Parameters
    ----------
    steps, counts, first : ndarray, shape (n,), int64
        Lengths of steps, how many equal ones follow each other, and the row that the first of them leads to.

    Returns
    -------
    ndarray, shape (jump,), int64
        Increasing.
    """
    order = np.argsort(steps, kind="stable")
    reached = np.cumsum(counts[order])
    median = int(steps[order][np.searchsorted(reached, (reached[-1] + 1) // 2)])
    far = (steps > median + median // 2) | (steps < median - median // 2)
    lengths = counts[far]
    begins = np.repeat(first[far] - (np.cumsum(lengths) - lengths), lengths)
    return np.sort(begins + np.arange(len(begins)))
