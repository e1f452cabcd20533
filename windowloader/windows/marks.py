"""What marks a missing value, in the words of the data themselves.

In: what was declared missing, and a dtype. Out: the mark in that dtype, and which raw values are it.
"""

from __future__ import annotations

import numpy as np

__all__ = ["is_missing", "sentinel"]


def sentinel(missing: float | None, dtype: np.dtype) -> np.ndarray | None:
    """Mark of missing values in a variable's own dtype, shape (1,); None where no value of it can be missing.

    Floats: NaN is missing too wherever anything is declared. Integers: only a whole number in range can occur.

    Examples
    --------
    >>> sentinel(-1.0, np.dtype(np.int16)), sentinel(float("nan"), np.dtype(np.int16))
    (array([-1], dtype=int16), None)
    """
    if missing is None:
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.array([missing]).astype(dtype)
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not np.isfinite(missing) or missing != int(missing) or not limits[0] <= int(missing) <= limits[1]:
        return None
    return (
        np.array([int(missing)]).astype(dtype) if dtype.kind == "b" else np.array([int(missing)], dtype=dtype)
    )


def is_missing(values: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """Whether each raw value is the mark, or NaN."""
    return np.asarray((values == mark[0]) | (values != values))  # NaN
