"""Series that lie end to end in one array: where each begins, which row belongs to which.

In: borders, rising rows with 0 and the end. Out: the same, checked, and the number of each row's entity or
segment. Never sorts or reorders rows.
"""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

from windowloader.errors import SeriesError

from .labels import as_labels

__all__ = ["check_borders", "check_entities", "clip_borders", "entity_numbers", "unite"]


def check_borders(borders: Any, num_steps: int, *, what: str) -> np.ndarray:
    """Check where segments or entities begin.

    Parameters
    ----------
    borders : array-like, shape (part + 1,), integer
        Rows where each begins, and the end: 0, …, ``num_steps``, rising.
    num_steps : int
        Rows there are.
    what : str
        The argument's name, for an error.

    Returns
    -------
    ndarray, shape (part + 1,), int64

    Raises
    ------
    SeriesError
        For anything else; the message says what turns lengths and pairs into borders.

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


def check_entities(borders: Any, names: Any, num_steps: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Check where entities begin, as `check_borders` does, and their names: each is either given or None."""
    if borders is None:
        if names is not None:
            raise SeriesError(
                "entity_names= were given without entities=: the rows where each begins, and the end."
            )
        return None, None
    checked = check_borders(borders, num_steps, what="entities")
    if names is not None:
        names = as_labels(names, size=len(checked) - 1, what="entity_names")
    return checked, names


def unite(*borders: np.ndarray) -> np.ndarray:
    """Borders of several kinds as one: windows cross none of them."""
    return np.unique(np.concatenate(borders)).astype(np.int64)


def clip_borders(borders: np.ndarray, rows: slice) -> tuple[np.ndarray, slice]:
    """Borders of a slice of rows with both ends, counted from its start, and which parts are left.

    Examples
    --------
    >>> clip_borders(np.array([0, 3, 10, 12]), slice(4, 11))
    (array([0, 6, 7]), slice(1, 3, None))
    """
    low = int(np.searchsorted(borders, rows.start, side="right")) - 1
    high = int(np.searchsorted(borders, rows.stop))
    return np.clip(borders[low : high + 1], rows.start, rows.stop) - rows.start, slice(low, high)


def entity_numbers(borders: np.ndarray | None, rows: Any) -> np.ndarray:
    """Which part each row lies in, int64, in the shape of ``rows``; 0 without borders.

    Examples
    --------
    >>> entity_numbers(np.array([0, 3, 10]), [0, 2, 3, 9])
    array([0, 0, 1, 1])
    """
    wanted = np.asarray(rows, np.int64)
    if borders is None:
        return np.zeros(wanted.shape, np.int64)
    return np.asarray(np.searchsorted(borders, wanted, side="right") - 1, np.int64)
