"""Columns of frames: numbers as one array, times as datetime64[ns] with their zone, ids.

In: a frame of any library. Out: a pandas frame, arrays. Whole numbers stay exact or raise an error. Where a column has
two readings (day or month first, a number or a date, a time of day or a moment), the error names the option to pass.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas

from windowloader.errors import SourceFormatError
from windowloader.util.axes import check_dtype
from windowloader.util.calendars import Times, calendar_of

from .base import optional, to_nanoseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "PARTS", "SAMPLE", "TIME_TEXT", "apart", "as_frame", "check_exact", "chosen", "from_arrow", "ids", "numbers",
    "parse_times", "rises", "some", "times_of",
]  # fmt: skip

EXACT = 2**53  # the largest whole number up to which float64 holds each
UNITS = ("D", "h", "m", "s", "ms", "us", "ns")
PARTS = ("year", "month", "day", "hour", "minute", "second")
TIME_TEXT = re.compile(r"\d{1,4}[-/]\d{1,2}[-/]\d|\d{1,2}\.\d{1,2}\.\d\d|\d{1,2}:\d\d|\d{8}T\d")
GROUPED = re.compile(r"\s*[-+]?\d+([,. ']\d+)+\s*$")  # digits with commas or marks between thousands
OFFSET = r"[T ].*?\d\s*([+-]\d\d:?\d*|Z)\s*$"
LEAST_ROWS = 12  # of which ranges of columns are compared
SAMPLE = 4096  # rows that are compared
QUANTITIES = re.compile(
    "temp|humid|dew|pres|wind|speed|flow|volume|occup|load|power|volt|energy|price|rain|precip|radiation|solar|"
    "pm2|pm10|no2|so2|ozone|co2"
)


def some(names: Any) -> str:
    """List up to 12 names of columns, for a message."""
    return ", ".join(map(repr, names[:12])) + (", …" if len(names) > 12 else "")


def as_frame(target: Any) -> Any:
    """Return a table of any library (pandas, polars, Arrow) as a pandas frame or series; None for other objects."""
    homes = {kind.__module__.partition(".")[0] for kind in type(target).__mro__}
    if "pandas" in homes or "xarray" in homes:
        return target if "pandas" in homes else None
    if hasattr(target, "__arrow_c_stream__"):
        pyarrow = optional("pyarrow", extra="parquet", purpose="opening an Arrow or polars table")
        try:
            return from_arrow(pyarrow.table(target))
        except pyarrow.ArrowInvalid:  # one column, without a name
            return target.to_pandas()
    return target.to_pandas() if hasattr(target, "to_pandas") else None


def from_arrow(table: Any) -> Any:
    """Frame of an Arrow table; columns of whole numbers with missing values stay whole numbers."""
    import pyarrow

    whole = {pyarrow.int64(): pandas.Int64Dtype(), pyarrow.uint64(): pandas.UInt64Dtype()}
    return table.to_pandas(types_mapper=whole.get)


def chosen(frame: Any, columns: Iterable[Any], name: str) -> Any:
    """Choose columns of a frame; an error where some are missing."""
    if absent := [column for column in columns if column not in frame.columns]:
        raise SourceFormatError(f"{name!r} has no columns {absent}; it has {some(frame.columns)}.")
    return frame[list(columns)]


def ids(column: Any) -> Any:
    """Turn identifiers that were read as text into numbers, unless that would lose zeros: 0042."""
    column = _plain(column)
    if column.dtype.kind != "O" or column.astype(str).str.match(r"[-+]?0\d").any():
        return column
    found, lost = _to_numbers(column)
    return column if lost.size else found


def _plain(column: Any) -> Any:
    """Column of values in place of categories."""
    dtype = column.dtype
    return column.astype(dtype.categories.dtype) if isinstance(dtype, pandas.CategoricalDtype) else column


def _to_numbers(column: Any) -> tuple[Any, np.ndarray]:
    """Numbers of a column of text or objects, and the rows that are not numbers."""
    found = pandas.to_numeric(column, errors="coerce")
    return found, np.flatnonzero(found.isna() & column.notna())


def numbers(frame: Any, name: str) -> np.ndarray:
    """Values of a frame, shape (row, column), in one dtype of numbers.

    Raises
    ------
    SourceFormatError
        For columns that are not numbers, and whole numbers that the common dtype of the columns does not hold.
    """
    if not len(frame.columns):
        raise SourceFormatError(f"{name!r} has no columns of numbers.")
    columns = [_numeric(column) for _, column in frame.items()]
    if bad := [place for place, column in enumerate(columns) if column is None]:
        raise SourceFormatError(_no_numbers(frame.iloc[:, bad], name))
    values = np.column_stack([_array(column) for column in columns])
    check_exact(dict(zip(frame.columns, columns, strict=True)), values.dtype, name)
    check_dtype(values.dtype, name)
    return values


def _numeric(column: Any) -> Any:
    """Column of numbers, or of objects such as decimals converted to numbers; None for text, times and categories."""
    if column.dtype.kind in "fiub":
        return column
    if not len(column):
        return column.astype(object).astype(float)
    found, lost = _to_numbers(column) if column.dtype == object else (None, np.empty(0))
    return None if lost.size else found


def _array(column: Any) -> np.ndarray:
    """Values of one column; floats with NaN where some are missing."""
    if isinstance(column.dtype, np.dtype):
        return np.asarray(column)
    whole = column.dtype.kind == "f" or not column.isna().any()
    return np.asarray(column.to_numpy(None if whole else float, na_value=np.nan))


def check_exact(columns: Any, dtype: np.dtype, name: str) -> None:
    """Refuse whole numbers beyond 2**53 that would become floats, in a frame or a mapping of columns."""
    whole = {name: one for name, one in columns.items() if one.dtype.kind in "iu" and dtype.kind == "f"}
    large = [name for name, one in whole.items() if ((one > EXACT) | (one < -EXACT)).any()]
    if large:
        raise SourceFormatError(
            f"the columns {some(large)} of {name!r} hold whole numbers above 2**53, which {dtype}, the dtype of all "
            "columns, does not hold exactly. Choose columns=[…], or cast them: frame.astype('float64') rounds."
        )


def _no_numbers(frame: Any, name: str) -> str:
    """Message for columns that are not numbers: the first such cell, and what it may be."""
    column, listed = frame.iloc[:, 0], list(frame.columns[:8])
    said = f"columns {listed} of {name!r} hold no numbers"
    rows = _to_numbers(column)[1] if column.dtype.kind == "O" else np.empty(0, int)
    if not len(rows):
        return f"{said}, but {column.dtype}. Choose columns=[…], or cast them, e.g. frame.astype('float64')."
    cell = str(column.iloc[rows[0]])
    said += f": row {rows[0]} of {listed[0]!r} is {cell!r} ({len(rows)} of {len(frame)} rows are no numbers)"
    if len(rows) == len(frame) and not GROUPED.match(cell):
        return (
            f"{said}. Choose columns=[…]; name the column of times, time={listed[0]!r}, of date and time in two "
            "columns both; or, of a table of one reading per row, entity= and time=."
        )
    mark = next((letter for letter in cell if letter in ",. '"), ",")
    return (
        f"{said}. Marks of missing cells: na_values=[{cell!r}]. Decimal commas: decimal=',' and sep=';'. Marks between "
        f"thousands: thousands={mark!r}. A second line of names: header=[0, 1]."
    )


def parse_times(column: Any, name: str, *, unit: str | None = None, form: str | None = None) -> Times:
    """Turn a column of times into datetime64[ns], shape (row,); UTC, with the zone of the column.

    Raises
    ------
    SourceFormatError
        For numbers without ``unit`` or ``form``, for 03/04/2020 and times of day without ``form``, and for text that
        does not parse; the message has the first such row.
    """
    column = _plain(column)
    if isinstance(column.dtype, pandas.PeriodDtype):
        column = column.dt.to_timestamp()
    kind, how = column.dtype.kind, dict[str, Any]()
    if kind == "m":
        raise SourceFormatError(f"the times {name!r} are durations. Add them to a date.")
    if kind in "iuf" and form is None and unit not in UNITS:
        raise SourceFormatError(
            f"the times {name!r} are numbers, the first {column.iloc[0] if len(column) else None}. Dates are "
            "time_format='%Y%m%d' or time_format='%Y'; counts since 1970 time_unit='s', 'ms', …; no times time=False."
        )
    if kind in "iuf":
        column = column if form is None else column.astype("Int64").astype("str")
        how = {"unit": unit} if form is None else {"format": form}
    elif kind != "M":
        how = {"format": form or "ISO8601"}
    parsed = _to_moments(column, name, how)
    if (bad := np.flatnonzero(parsed.isna())).size:
        cell, known = column.iloc[bad[0]], form or "ISO 8601"
        raise SourceFormatError(
            f"row {bad[0]} of the times {name!r} is {cell!r}, which is no time in {known!r} ({bad.size} such rows). "
            "Say the format, with the day or the month first: time_format='%d/%m/%Y %H:%M'. Date and time of day in "
            "two columns: time=['date', 'time']. Times of day alone: time=False and timestamps=(start, step)."
        )
    zone = calendar_of(parsed)
    parsed = parsed if parsed.dt.tz is None else parsed.dt.tz_convert(None)
    return Times(to_nanoseconds(parsed.to_numpy(), name), zone)


def times_of(
    frame: Any, columns: Sequence[Any], name: str, unit: str | None = None, form: str | None = None
) -> Times:
    """Parse the times that one column has, or several form together: parts by their names, else text."""
    parts = chosen(frame, columns, name).set_axis([str(column).strip().lower() for column in columns], axis=1)
    column = parts.iloc[:, 0]
    if set(PARTS[:3]) <= set(parts.columns) <= set(PARTS):
        column = pandas.to_datetime(parts, errors="coerce")
    elif len(columns) > 1:
        first, *others = (part.astype(str).str.strip() for _, part in parts.items())
        column = first.str.cat(others, sep=" ")
    return parse_times(column, f"{name}:{' + '.join(map(str, columns))}", unit=unit, form=form)


def _to_moments(column: Any, name: str, how: dict[str, Any]) -> Any:
    """Parse times in one format; times with different offsets become UTC, with a warning."""
    with warnings.catch_warnings(action="error"):
        try:
            return pandas.to_datetime(column, errors="coerce", **how)
        except (ValueError, FutureWarning):  # different offsets
            parsed = pandas.to_datetime(column, errors="coerce", utc=True, **how)
    offsets = column.astype(str).str.extract(OFFSET, expand=False)
    listed = some(sorted(offsets.dropna().unique()))
    if (rows := np.flatnonzero(offsets.isna() & parsed.notna())).size:
        raise SourceFormatError(
            f"row {rows[0]} of the times {name!r} is {column.iloc[rows[0]]!r}, without an offset, and others have "
            f"{listed}. Write all with an offset from UTC, or none."
        )
    warnings.warn(
        f"the times {name!r} have the offsets {listed}: clocks such as time_of_day are of UTC. For clocks of a zone "
        "pass timestamps=pandas.to_datetime(column, utc=True).dt.tz_convert('Europe/Berlin').",
        stacklevel=2,
    )
    return parsed


def rises(values: np.ndarray, *, even: bool = True) -> bool:
    """Whether whole numbers rise like years, dates or epochs, or (``even``) by one step throughout."""
    if values.dtype.kind not in "iuf" or len(values) < 2 + even or not np.isfinite(values).all():
        return False
    steps = np.diff(values.astype(float))
    dated = values[0] > 15_000_000 or (values[0] >= 1800 and values[-1] <= 2100)
    return not (values % 1).any() and bool((steps > 0).all() and (dated or (even and np.ptp(steps) == 0)))


def apart(names: list[str], values: np.ndarray) -> str:
    """Name two columns whose ranges have nothing in common, or whose names are of different quantities."""
    stems = {re.sub(r"\d+\w?$", "", name) for name in names if name}
    if len(names) < 2 or len(stems) == 1 or all(len(name) == 1 for name in names):
        return ""
    values = values[:: max(1, len(values) // SAMPLE)]
    if len(values) >= LEAST_ROWS:
        lows, highs = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)  # without NaN
        used = np.flatnonzero(lows < highs)
        if used.size and lows[used].max() > highs[used].min():
            pair = names[used[highs[used].argmin()]], names[used[lows[used].argmax()]]
            return f"those of {pair[0]!r} and {pair[1]!r} have no values in common"
    kinds = {name: found for name in names if (found := {*QUANTITIES.findall(name.lower())})}
    first = next(iter(kinds), "")
    other = next((name for name in kinds if kinds[name].isdisjoint(kinds[first])), None)
    return f"{first!r} and {other!r} are names of different ones" if other else ""
