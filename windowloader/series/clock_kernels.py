"""Clock features from row numbers, compiled: which run, which nanosecond, which value.

In: the table of a `Clock` and rows. Out: float64. Never allocates; other kernels may call `nanoseconds` and
`clock_value` while they fill a batch, so that a clock is computed by the same instructions wherever it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from windowloader.util.jit import kernel

if TYPE_CHECKING:
    import numpy as np

__all__ = ["clock_value", "fill", "nanoseconds"]

DAY = 86_400_000_000_000


@kernel
def nanoseconds(row: int, rows: np.ndarray, times: np.ndarray, steps: np.ndarray, stamps: np.ndarray) -> Any:
    """Nanoseconds since 1970 of one row: by its run, or from the table where the clock is irregular."""
    if stamps.size:
        return stamps[row]
    low, high = 0, rows.size
    while high - low > 1:
        middle = (low + high) >> 1
        if rows[middle] <= row:
            low = middle
        else:
            high = middle
    return times[low] + (row - rows[low]) * steps[low]


@kernel
def _year_of(days: int) -> tuple[int, int]:
    """Year of a day counted from 1970-01-01 (proleptic Gregorian), and the day its 1 January is."""
    # Years begin in March here, so that the leap day is the last of a year, and eras of 400 years are all
    # alike (the algorithm of C++'s std::chrono, https://howardhinnant.github.io/date_algorithms.html#civil_from_days).
    shifted = days + 719468
    era = shifted // 146097
    day = shifted - era * 146097
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day_of_march_year = day - (365 * year + year // 4 - year // 100)
    if day_of_march_year >= 306:
        year += 1
    year += era * 400
    before = year - 1
    january = 365 * before + before // 4 - before // 100 + before // 400 - 719162
    return year, january


@kernel
def clock_value(nanosecond: int, code: int) -> float:
    """One clock at one moment; ``code`` counts in `clock.CLOCK_NAMES`: three, each plain, sine, cosine."""
    days = nanosecond // DAY  # floors, so moments before 1970 belong to the day they lie in
    which, form = code // 3, code % 3
    if which == 0:
        value = (nanosecond - days * DAY) / DAY
        turn = value
    elif which == 1:
        number = (days + 3) % 7  # 1970-01-01 was a Thursday
        value = float(number)
        turn = number / 7
    else:
        year, january = _year_of(days)
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        value = float(days - january + 1)
        turn = (days - january) / (366 if leap else 365)
    if form == 0:
        return value
    return math.sin(2.0 * math.pi * turn) if form == 1 else math.cos(2.0 * math.pi * turn)


@kernel
def fill(
    out: np.ndarray,
    wanted: np.ndarray,
    codes: np.ndarray,
    rows: np.ndarray,
    times: np.ndarray,
    steps: np.ndarray,
    stamps: np.ndarray,
) -> None:
    """``out[i, k]`` becomes clock ``codes[k]`` at row ``wanted[i]``."""
    for i in range(wanted.size):
        nanosecond = nanoseconds(wanted[i], rows, times, steps, stamps)
        for k in range(codes.size):
            out[i, k] = clock_value(nanosecond, codes[k])
