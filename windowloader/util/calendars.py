"""Times as nanoseconds since 1970, and the time zones and calendars that give them a meaning.

In: strings, datetime64, datetime, pandas objects (by duck type), dates of cftime; the name of a zone or calendar. Out:
int64 nanoseconds, local time, clock features, dates. Never loses precision, and never guesses a unit or a zone.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np

from windowloader.errors import MissingExtraError, SeriesError

__all__ = [
    "OWN", "Times", "calendar_of", "clock_values", "dates", "frequency", "local", "moment", "moment_of",
    "nanoseconds_of", "ordinals", "own",
]  # fmt: skip

DAY = 86_400_000_000_000
OWN = {"noleap": 3, "all_leap": 6, "360_day": 2, "julian": 2}  # weekday of 1970-01-01, as cftime has it
SAME = {"365_day": "noleap", "366_day": "all_leap"}
SINCE = "microseconds since 1970-01-01"
ZONE = re.compile(r"T?\d\d:\d\d.*(Z|[+-]\d\d:?\d\d)$")
UNITS = {  # case matters: pandas' M and MS are months
    "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "S": 10**9, "min": 60 * 10**9, "T": 60 * 10**9, "h": 3600 * 10**9,
    "H": 3600 * 10**9, "d": 86400 * 10**9, "D": 86400 * 10**9, "W": 7 * 86400 * 10**9,
}  # fmt: skip


class Times(np.ndarray):
    """Timestamps with a time zone or a calendar of their own, datetime64[ns].

    With a zone they are UTC. In a calendar of `OWN` they count its days: 1971-01-01 of ``noleap`` is 365 days after
    1970-01-01, and 2004-03-01 one day after 2004-02-28, so that they are no dates of NumPy's.

    Parameters
    ----------
    times : ndarray of datetime64[ns] or int64
    calendar : str
        A time zone such as ``"Europe/Berlin"``, or one of `OWN`; empty: UTC.

    Examples
    --------
    >>> Times(np.zeros(2, np.int64), "Europe/Berlin")[1:].calendar
    'Europe/Berlin'
    """

    calendar: str

    def __new__(cls, times: np.ndarray, calendar: str = "") -> Times:
        """View times, which are not copied."""
        found = np.asarray(times).view("datetime64[ns]").view(cls)
        found.calendar = calendar
        return found

    def __array_finalize__(self, other: Any) -> None:
        self.calendar = calendar_of(other) if isinstance(other, Times) else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return Times, (np.asarray(self), self.calendar)


def own(calendar: str) -> str:
    """Return the name of a calendar that is not the usual one; empty for others and for zones.

    Examples
    --------
    >>> own("365_day"), own("standard")
    ('noleap', '')
    """
    name = SAME.get(calendar.lower(), calendar.lower())
    return name if name in OWN else ""


def calendar_of(values: Any) -> str:
    """Time zone or calendar of timestamps: of `Times`, of a pandas index or series, of dates of cftime."""
    if isinstance(values, Times):
        return values.calendar
    zone = getattr(getattr(values, "dt", values), "tz", None)
    if zone is not None:
        return _zone_name(zone)
    array = np.asarray(values) if np.size(values) else np.empty(0)
    first = array.flat[0] if array.dtype.kind == "O" else None
    return own(str(getattr(first, "calendar", "")))


def _zone_name(zone: Any) -> str:
    """Name by which pandas finds a time zone again, e.g. ``"UTC+02:00"`` for a fixed offset; empty for UTC."""
    offset = zone.utcoffset(None)
    if offset is not None:
        minutes = round(offset.total_seconds() / 60)
        sign = "-" if minutes < 0 else "+"
        return f"UTC{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else ""
    file = re.fullmatch(r"tzfile\('(.+)'\)", str(zone))  # of dateutil
    return f"dateutil/{file[1]}" if file else str(zone)


def ordinals(dates: Any, calendar: str) -> Times:
    """Dates of cftime in a calendar of `OWN`, exact to the microsecond; `SeriesError` outside 292 years of 1970."""
    counted = np.asarray(_cftime().date2num(np.asarray(dates), SINCE, calendar=calendar))
    if counted.size and not -(2**63) < 1000 * int(counted.min()) <= 1000 * int(counted.max()) < 2**63:
        raise SeriesError(
            f"dates of the calendar {calendar!r} lie outside 1678–2262, which nanoseconds since 1970 can represent."
        )
    return Times(counted.astype(np.int64) * 1000, calendar)


def moment_of(when: Any, calendar: str) -> int:
    """Nanoseconds of a date that is written as text, or of any kind, in a calendar of `OWN`."""
    parts = [int(part) for part in re.findall(r"\d+", str(when))[:6]]
    try:
        date = _cftime().datetime(*parts, *[1, 1][len(parts) - 1 :], calendar=calendar)
    except (ValueError, TypeError) as error:
        raise SeriesError(f"{when!r} is not a date of the calendar {calendar!r}: {error}.") from error
    return int(ordinals([date], calendar).view(np.int64)[0])


def dates(nanoseconds: np.ndarray, calendar: str) -> np.ndarray:
    """ISO text of dates in a calendar of `OWN`, in the shape of ``nanoseconds``."""
    found = _cftime().num2date(np.asarray(nanoseconds) // 1000, SINCE, calendar=calendar)
    return np.asarray(np.vectorize(lambda date: date.isoformat(), otypes=["U32"])(found))


def local(nanoseconds: np.ndarray, zone: str) -> np.ndarray:
    """Nanoseconds since 1970 that the clocks of a time zone show at moments of UTC, as pandas converts them."""
    import pandas

    times = pandas.DatetimeIndex(nanoseconds.reshape(-1).view("datetime64[ns]")).tz_localize("UTC")
    shown = times.tz_convert(zone).tz_localize(None).to_numpy().astype("datetime64[ns]")
    return np.asarray(shown.view(np.int64).reshape(nanoseconds.shape))


def clock_values(nanoseconds: np.ndarray, code: int, calendar: str) -> np.ndarray:
    """One clock in the standard calendar or one of `OWN`; ``code``: index into `series.clock.CLOCK_NAMES`."""
    days, rest = np.divmod(nanoseconds, DAY)
    which, form = divmod(code, 3)
    if which == 0:
        value = turn = rest / DAY
    elif which == 1:
        value = (days + OWN.get(calendar, 3)) % 7  # 1970-01-01 was a Thursday
        turn = value / 7
    else:
        day, length = _day_of_year(days, calendar)
        value, turn = day + 1, day / length
    return np.asarray((value, np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn))[form], np.float64)


def _day_of_year(days: np.ndarray, calendar: str) -> tuple[np.ndarray, Any]:
    """Day of the year, from 0, and how many days that year has."""
    if not calendar:
        year = days.view("datetime64[D]").astype("datetime64[Y]")
        starts = year, year + np.timedelta64(1, "Y")
        first, after = (start.astype("datetime64[D]").astype(np.int64) for start in starts)
        return days - first, after - first
    if calendar == "julian":  # cycles of four years, the last a leap year: from 1969
        cycle = (days + 365) % 1461
        year = np.minimum(cycle // 365, 3)
        return cycle - 365 * year, 365 + (year == 3)
    length = {"noleap": 365, "all_leap": 366, "360_day": 360}[calendar]
    return days % length, length


def _cftime() -> Any:
    try:
        import cftime
    except ImportError as error:
        raise MissingExtraError(
            "a calendar that is not the usual one needs cftime: pip install 'windowloader[netcdf]'."
        ) from error
    return cftime


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
            f"freq={freq!r} is not a step of a fixed length above 0. Write a number and one of ns, us, ms, s, "
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
    array = np.asarray(values if getattr(given, "tz", None) is None else given.tz_convert(None))
    if array.ndim != 1:
        raise SeriesError(
            f"{name} have shape {array.shape}; give one timestamp per row, shape (steps,), or a start and a step, e.g. "
            "('2012-03-01', '5min')."
        )
    if array.dtype.kind in "OSUT":
        try:
            array = _parsed(array)
        except (ValueError, TypeError) as error:
            first = str(array[0]) if array.size else None
            raise SeriesError(
                f"{name} cannot be read as times. The first is {first!r}. Give datetime64 or ISO strings such "
                "as '2012-03-01T00:05', or dates of cftime."
            ) from error
    if array.dtype.kind != "M" or np.datetime_data(array.dtype)[0] == "generic":
        raise SeriesError(
            f"{name} are {array.dtype} numbers, whose unit is not known. Convert them, e.g. "
            "values.astype('datetime64[s]') for seconds since 1970, or give (start, freq), e.g. ('2012-03-01', '5min')."
        )
    stamps = array.astype("datetime64[ns]")
    wrong = np.flatnonzero(stamps.astype(array.dtype) != array)  # NaT equals nothing
    if wrong.size:
        raise SeriesError(
            f"{name}: row {wrong[0]} is {array[wrong[0]]}, not a time from 1677-09-21 to 2262-04-11, which nanoseconds "
            "since 1970 can represent. Every row needs its timestamp."
        )
    return np.ascontiguousarray(stamps).view(np.int64)


def _parsed(array: np.ndarray) -> np.ndarray:
    """Text or objects as datetime64; by pandas where there are time zones or objects."""
    if array.dtype.kind != "O":
        array = array.astype(np.str_)
        if not any(ZONE.search(text) for text in array[:1]):
            return array.astype("datetime64")
    import pandas

    # dates of cftime become text here; those of a calendar of its own were counted before
    values = [value.isoformat() if hasattr(value, "calendar") else value for value in array.tolist()]
    if not all(isinstance(value, str | datetime.date | np.datetime64) for value in values):
        raise TypeError("not all are text, datetime or dates of cftime")
    return np.asarray(pandas.to_datetime(values, utc=True, format="ISO8601").tz_localize(None))
