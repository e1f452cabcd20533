"""Moments and frequencies as people write them, as nanoseconds since 1970.

In: strings, datetime64, datetime, pandas objects (by duck type), tuples (start, freq). Out: int64. Never
loses precision or guesses a unit; a time zone is converted to UTC and dropped.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np

from windowloader.errors import SeriesError

from .calendars import Times, calendar_of, ordinals, own

__all__ = ["frequency", "moment", "nanoseconds_of"]

ZONE = re.compile(r"T?\d\d:\d\d.*(Z|[+-]\d\d:?\d\d)$")
UNITS = {  # case matters: pandas' M and MS are months
    "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "S": 10**9, "min": 60 * 10**9, "T": 60 * 10**9, "h": 3600 * 10**9,
    "H": 3600 * 10**9, "d": 86400 * 10**9, "D": 86400 * 10**9, "W": 7 * 86400 * 10**9,
}  # fmt: skip


def frequency(freq: Any) -> int:
    """Nanoseconds of one step.

    Parameters
    ----------
    freq : str, timedelta64 or timedelta
        ``"5min"``, ``"1h"``, ``"D"``; units ns, us, ms, s, min, h, D, W.

    Returns
    -------
    int
        Above 0.

    Raises
    ------
    SeriesError
        For anything without a fixed length (months) or not above 0.

    Examples
    --------
    >>> frequency("5min")
    300000000000
    """
    step = 0
    if isinstance(freq, str):
        match = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]+)\s*", freq)
        if match:
            step = int(match[1] or 1) * UNITS.get(match[2], 0)
    elif isinstance(freq, np.timedelta64) and np.datetime_data(freq)[0] not in ("Y", "M", "generic"):
        step = int(freq.astype("timedelta64[ns]").astype(np.int64))
    elif isinstance(freq, datetime.timedelta):  # pandas.Timedelta is one
        step = int(np.timedelta64(freq, "ns").astype(np.int64))
    if step <= 0:
        raise SeriesError(
            f"freq={freq!r} is no step of a fixed length above 0. Write a number and one of ns, us, ms, s, "
            "min, h, D, W ('5min'); steps that vary, such as months, are given as an array of timestamps."
        )
    return step


def moment(when: Any) -> int:
    """Nanoseconds since 1970 of one moment.

    Examples
    --------
    >>> moment("1970-01-02")
    86400000000000
    """
    return int(nanoseconds_of([when], name=repr(when))[0])


def nanoseconds_of(values: Any, *, name: str = "timestamps") -> np.ndarray:
    """Nanoseconds since 1970 of many moments.

    Parameters
    ----------
    values : array-like, shape (step,)
        datetime64 of any unit, ISO strings, datetime objects, a pandas index or series of moments, or dates of cftime.
    name : str
        What to call them in an error.

    Returns
    -------
    ndarray, shape (step,), int64

    Raises
    ------
    SeriesError
        For plain numbers (their unit is unknown), NaT, and moments outside 1677-09-21 to 2262-04-11.

    Examples
    --------
    >>> nanoseconds_of(np.array(["1969-12-31T23"], dtype="datetime64[h]"))
    array([-3600000000000])
    """
    if not isinstance(values, Times) and (calendar := own(calendar_of(values))):
        values = ordinals(values, calendar)
    given = getattr(values, "dt", values)  # a pandas series keeps its time zone under .dt
    if getattr(given, "tz", None) is not None:
        values = values.dt.tz_convert(None) if given is not values else values.tz_convert(None)
    array = _datetimes(np.asarray(values), name)
    stamps = array.astype("datetime64[ns]")
    wrong = np.flatnonzero(np.isnat(array))
    if wrong.size:
        raise SeriesError(f"{name}: row {wrong[0]} is not a time (NaT). Every row needs its timestamp.")
    wrong = np.flatnonzero(stamps.astype(array.dtype) != array)
    if wrong.size:
        raise SeriesError(
            f"{name}: row {wrong[0]} is {array[wrong[0]]}, outside what nanoseconds since 1970 can hold "
            "(1677-09-21 to 2262-04-11)."
        )
    return np.ascontiguousarray(stamps).view(np.int64)


def _datetimes(array: np.ndarray, name: str) -> np.ndarray:
    """Return the same moments as datetime64 of whatever unit, or a `SeriesError`."""
    if array.ndim != 1:
        raise SeriesError(
            f"{name} have shape {array.shape}; one timestamp a row is needed, shape (steps,), or a start and a step, "
            "e.g. ('2012-03-01', '5min')."
        )
    if array.dtype.kind == "M" and np.datetime_data(array.dtype)[0] != "generic":
        return array
    if array.dtype.kind in "OSUT":
        try:
            return _parsed(array)
        except (ValueError, TypeError) as error:
            first = str(array[0]) if array.size else None
            raise SeriesError(
                f"{name} cannot be read as moments: {error}. The first is {first!r}. Give datetime64 or ISO "
                "strings such as '2012-03-01T00:05', or dates of cftime."
            ) from error
    raise SeriesError(
        f"{name} are {array.dtype} numbers, whose unit is not known. Convert them, e.g. "
        "values.astype('datetime64[s]') for seconds since 1970, or give (start, freq), e.g. ('2012-03-01', "
        "'5min')."
    )


def _parsed(array: np.ndarray) -> np.ndarray:
    """Strings or objects as datetime64 of the finest unit among them."""
    if array.dtype.kind in "SUT":
        texts = array.astype(np.str_)
        if not any(ZONE.search(text) for text in texts[:1]):
            return texts.astype("datetime64")
        array = texts
    return np.array([_naive(value) for value in array.tolist()], dtype="datetime64")


def _naive(value: Any) -> np.datetime64:
    """Return a moment without its time zone, in UTC."""
    if isinstance(value, str):
        if not ZONE.search(value):
            return np.datetime64(value)
        value = datetime.datetime.fromisoformat(value)
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        return value.to_datetime64() if hasattr(value, "to_datetime64") else np.datetime64(value)
    if isinstance(value, (datetime.date, np.datetime64)):
        return np.datetime64(value)
    if hasattr(value, "calendar"):  # a date of cftime in the usual calendar
        return np.datetime64(value.isoformat())
    raise TypeError(f"{type(value).__name__} is no moment")
