"""Time zones and calendars: what a clock counts, and the days, weeks and years of it.

In: nanoseconds since 1970, in UTC or in the days of a calendar of its own, and the name of a zone or calendar. Out:
local time, clock features, dates. Never guesses a zone.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from windowloader.errors import MissingExtraError, SeriesError

__all__ = ["OWN", "Times", "calendar_of", "clock_values", "dates", "local", "moment_of", "ordinals", "own"]

DAY = 86_400_000_000_000
OWN = {"noleap": 3, "all_leap": 6, "360_day": 2, "julian": 2}  # weekday of 1970-01-01, as cftime has it
SAME = {"365_day": "noleap", "366_day": "all_leap"}
SINCE = "microseconds since 1970-01-01"


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
    """Name by which pandas finds a time zone again, ``"UTC+02:00"`` where it only has an offset; empty for UTC."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    fixed = None if name else zone.utcoffset(None)
    if fixed is not None:
        minutes = round(fixed.total_seconds() / 60)
        name = (
            f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
            if minutes
            else "UTC"
        )
    file = re.fullmatch(r"tzfile\('(.+)'\)", str(zone))  # of dateutil
    name = str(name or (f"dateutil/{file[1]}" if file else zone))
    return "" if name == "UTC" else name


def ordinals(dates: Any, calendar: str) -> Times:
    """Dates of cftime in a calendar of `OWN`, exact to the microsecond; `SeriesError` outside 292 years of 1970."""
    counted = np.asarray(_cftime().date2num(np.asarray(dates), SINCE, calendar=calendar))
    if counted.size and not -(2**63) < 1000 * int(counted.min()) <= 1000 * int(counted.max()) < 2**63:
        raise SeriesError(
            f"dates of the calendar {calendar!r} lie outside 1678–2262, which nanoseconds since 1970 can hold."
        )
    return Times(counted.astype(np.int64) * 1000, calendar)


def moment_of(when: Any, calendar: str) -> int:
    """Nanoseconds of a date that is written as text, or of any kind, in a calendar of `OWN`."""
    parts = [int(part) for part in re.findall(r"\d+", str(when))[:6]]
    try:
        date = _cftime().datetime(*parts, *[1, 1][len(parts) - 1 :], calendar=calendar)
    except (ValueError, TypeError) as error:
        raise SeriesError(f"{when!r} is no date of the calendar {calendar!r}: {error}.") from error
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
        first, after = (start.astype("datetime64[D]").astype(np.int64) for start in (year, year + 1))
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
