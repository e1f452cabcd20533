"""Times of tables: one column, or several together, as datetime64[ns] with their time zone.

In: columns of a frame, and how they are read. Out: moments in UTC, with the zone that they were written in. Never takes
the day for the month, a number for a date or a time of day for a moment: where it could be either, the error asks and
names the option.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from windowloader.clocks.calendars import Times, calendar_of
from windowloader.errors import SourceFormatError

from .base import to_nanoseconds

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CLOCK_ONLY", "PARTS", "TIME_TEXT", "ReadOptions", "parse_times", "some", "times_of"]

UNITS = ("D", "h", "m", "s", "ms", "us", "ns")
PARTS = ("year", "month", "day", "hour", "minute", "second")
TIME_TEXT = re.compile(r"\d{1,4}[-/]\d{1,2}[-/]\d|\d{1,2}\.\d{1,2}\.\d\d|\d{1,2}:\d\d|\d{8}T\d")
EITHER_FIRST = re.compile(r"\s*\d{1,2}[-/. ]\d{1,2}[-/. ](\d{2}|\d{4})(?!\d)")
CLOCK_ONLY = re.compile(r"\s*\d{1,2}:\d\d(:\d\d(\.\d+)?)?(\s*[AaPp][Mm])?\s*")
OFFSET = r"(?:\d:\d\d|T\d{2,6})\S*?\s?([+-]\d\d(?::?\d\d)?|Z)\s*$"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a file becomes a frame and times: options of `pandas.read_csv` and `pandas.to_datetime` by their names.

    Parameters
    ----------
    time_unit : {"D", "h", "m", "s", "ms", "us", "ns"}, optional
        For times that are numbers: since 1970, UTC.
    time_format : str, optional
        For times that are text or dates as numbers, as `datetime.datetime.strptime` has it; None: ISO 8601, or what
        leaves no doubt.
    header : bool, int or sequence of int, optional
        Whether the first line of a CSV file or Excel sheet names the columns, or which lines do; None: seen from the
        file, or asked for.
    sep : str, optional
        What separates the columns of a CSV file; None: seen from its first lines.
    decimal, thousands, encoding, dtype, na_values : optional
        Handed to `pandas.read_csv`, and to `pandas.read_excel` as far as it takes them.
    sheet_name : str or int
        Sheet of an Excel file.
    key : str, optional
        Frame of an HDF5 file.
    """

    time_unit: str | None = None
    time_format: str | None = None
    header: bool | int | Sequence[int] | None = None
    sep: str | None = None
    decimal: str = "."
    thousands: str | None = None
    encoding: str | None = None
    dtype: Any = None
    na_values: Any = None
    sheet_name: str | int = 0
    key: str | None = None


def parse_times(column: Any, name: str, *, unit: str | None = None, form: str | None = None) -> Times:
    """Turn a column of times into datetime64[ns], shape (row,); UTC, with the zone that the column has.

    Raises
    ------
    SourceFormatError
        For numbers without ``unit`` or ``form``, for 03/04/2020 and times of day without ``form``, and for text that
        is no time; the message has the first such row.
    """
    import pandas

    if isinstance(column.dtype, pandas.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if isinstance(column.dtype, pandas.PeriodDtype):
        column = column.dt.to_timestamp()
    kind = column.dtype.kind
    if kind in "iuf" and form is not None:
        column, kind = column.astype("Int64").astype("str"), "O"
    elif kind in "iuf" and unit not in UNITS:
        raise SourceFormatError(
            f"the times {name!r} are numbers, the first {column.iloc[0] if len(column) else None}. "
            f"{_meaning(column)} time_unit='s', 'ms', 'us' or 'ns'; or that they are no times, time=False."
        )
    elif kind == "m":
        raise SourceFormatError(
            f"the times {name!r} are durations. Add them to a date: pandas.Timestamp('2020-01-01') + column."
        )
    elif kind not in "iufM" and form is None:
        _check_open(column, name)
    timely = kind in "iufM"
    parsed: Any = pandas.to_datetime(
        column,
        unit=cast("Any", unit if kind in "iuf" else None),
        format=None if timely else form or "ISO8601",
        errors="coerce",
        utc=True,
    )
    if form is None and not timely and parsed.isna()[:1].any():
        parsed = _inferred(column, name)
    bad = np.flatnonzero(parsed.isna())
    if bad.size:
        second = " A second line of names is told by header=[0, 1]." if bad.tolist() == [0] else ""
        raise SourceFormatError(
            f"row {bad[0]} of the times {name!r} is {column.iloc[bad[0]]!r}, which is no time"
            f"{f' in the format {form!r}' if form else ''}; there are {bad.size} such rows.{second}"
        )
    written = not timely and (form is None or "%z" in form)
    zone = calendar_of(column) if kind == "M" else _offset(column, name) if written else ""
    return Times(to_nanoseconds(parsed.dt.tz_convert(None).to_numpy(), name), zone)


def _offset(column: Any, name: str) -> str:
    """Return the zone of times that are text with an offset, "UTC+02:00"; a warning where there are several."""
    found = column.astype(str).str.extract(OFFSET, expand=False)
    offsets = sorted(found.dropna().unique())
    if offsets and (rows := np.flatnonzero(found.isna())).size:
        raise SourceFormatError(
            f"row {rows[0]} of the times {name!r} is {column.iloc[rows[0]]!r}, without an offset from UTC, and others "
            f"have {offsets[0]!r}. Write all with an offset, or none."
        )
    if len(offsets) > 1:
        warnings.warn(
            f"the times {name!r} have the offsets {some(offsets)}: they are moments of UTC here, and clocks such as "
            "time_of_day are of UTC. For clocks of a zone pass timestamps=, a pandas index with its time zone: "
            "pandas.to_datetime(column, utc=True).dt.tz_convert('Europe/Berlin').",
            UserWarning,
            stacklevel=2,
        )
    if len(offsets) != 1 or not offsets[0].strip("Z+-0:"):
        return ""
    digits = offsets[0].replace(":", "").ljust(5, "0")
    return f"UTC{digits[:3]}:{digits[3:]}"


def _inferred(column: Any, name: str) -> Any:
    """Parse times in the format that pandas tells from the first one, and refuse what it would parse cell by cell."""
    import pandas

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parsed = pandas.to_datetime(column, errors="coerce", utc=True)
    if caught and not parsed.isna()[:1].any():
        raise SourceFormatError(
            f"the times {name!r} begin with {column.iloc[0]!r}, whose format is not plain. Say it, e.g. "
            "time_format='%d %b %y %H:%M'."
        )
    return parsed


def _meaning(column: Any) -> str:
    """Say what numbers may stand for: dates written as one number, years, or what they count since 1970."""
    import pandas

    if column.between(1_000_01_01, 2999_12_31).all():
        dates = pandas.to_datetime(column.astype("Int64").astype("str"), format="%Y%m%d", errors="coerce")
        if not dates.isna().any():
            return "If they are dates, say time_format='%Y%m%d'. Else say what they count since 1970,"
    if column.between(1000, 2999).all():
        return "If they are years, say time_format='%Y'. Else say what they count since 1970,"
    return "Say what they count since 1970,"


def _check_open(column: Any, name: str) -> None:
    """Refuse text whose day, month or year may be another number, and times of day."""
    texts = column.dropna().astype(str)
    if (rows := np.flatnonzero(texts.str.match(EITHER_FIRST))).size:
        raise SourceFormatError(
            f"the times {name!r} hold {texts.iloc[rows[0]]!r}, which may have the day or the month first. Say which, "
            "e.g. time_format='%d/%m/%Y %H:%M'; %y is a year of two digits."
        )
    if (rows := np.flatnonzero(texts.str.fullmatch(CLOCK_ONLY))).size:
        raise SourceFormatError(
            f"the times {name!r} hold {texts.iloc[rows[0]]!r}, a time of day without a date. Where the date is in "
            "another column, name both: time=['date', 'time']; else time=False and timestamps=(start, step)."
        )


def times_of(frame: Any, columns: Sequence[str], options: ReadOptions, name: str) -> Times:
    """Parse the times that one column has, or several have together."""
    if absent := [column for column in columns if column not in frame.columns]:
        raise SourceFormatError(f"{name!r} has no column {absent[0]!r}; it has {some(frame.columns)}.")
    column = frame[columns[0]] if len(columns) == 1 else _join_times(frame, columns)
    where = f"{name}:{' + '.join(map(str, columns))}"
    return parse_times(column, where, unit=options.time_unit, form=options.time_format)


def _join_times(frame: Any, columns: Sequence[str]) -> Any:
    """One column of times from several: year, month, day, … by their names, else text joined by blanks."""
    import pandas

    names = [str(column).strip().lower() for column in columns]
    if set(PARTS[:3]) <= set(names) <= set(PARTS):
        parts = frame[list(columns)].set_axis(names, axis=1)
        return pandas.to_datetime(parts, errors="coerce")
    first, *others = (frame[column].astype(str).str.strip() for column in columns)
    return first.str.cat(others, sep=" ")


def some(columns: Any) -> str:
    """List up to 12 names of columns, for a message."""
    return ", ".join(map(repr, columns[:12])) + (", …" if len(columns) > 12 else "")
