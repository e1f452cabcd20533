"""Columns of tables: numbers as one array, times as datetime64[ns] with their zone, ids.

In: a frame of any library. Out: a pandas frame, arrays. Whole numbers stay exact, or an error says that they cannot.
Never takes the day for the month, a number for a date or a time of day for a moment: where a column could be either,
the error asks and names the option.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError
from windowloader.util.axes import check_dtype
from windowloader.util.calendars import Times, calendar_of

from .base import optional, to_nanoseconds

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PARTS", "TIME_TEXT", "as_frame", "from_arrow", "ids", "numbers", "parse_times", "some", "widened"]

EXACT = 2**53  # the largest whole number up to which float64 holds each
UNITS = ("D", "h", "m", "s", "ms", "us", "ns")
PARTS = ("year", "month", "day", "hour", "minute", "second")
TIME_TEXT = re.compile(r"\d{1,4}[-/]\d{1,2}[-/]\d|\d{1,2}\.\d{1,2}\.\d\d|\d{1,2}:\d\d|\d{8}T\d")
GROUPED = re.compile(r"\s*[-+]?\d+([,. ']\d+)+\s*$")  # digits with commas or marks between thousands
OFFSET = r"[T ].*?\d\s*([+-]\d\d:?\d*|Z)\s*$"


def some(names: Any) -> str:
    """List up to 12 names of columns, for a message."""
    return ", ".join(map(repr, names[:12])) + (", …" if len(names) > 12 else "")


def as_frame(target: Any) -> Any:
    """Return a table of any library (pandas, polars, Arrow) as a pandas frame or series; None for what is none."""
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
    """Frame of an Arrow table; whole numbers of which some are missing stay whole numbers."""
    import pandas
    import pyarrow

    whole = {pyarrow.int64(): pandas.Int64Dtype(), pyarrow.uint64(): pandas.UInt64Dtype()}
    return table.to_pandas(types_mapper=whole.get)


def ids(column: Any) -> Any:
    """Turn identifiers that were read as text into numbers, but where that would lose zeros: 0042."""
    column = _plain(column)
    if column.dtype.kind != "O" or column.astype(str).str.match(r"[-+]?0\d").any():
        return column
    found, lost = _to_numbers(column)
    return column if lost.size else found


def _plain(column: Any) -> Any:
    """Column of values in place of categories."""
    categories = getattr(column.dtype, "categories", None)
    return column if categories is None else column.astype(categories.dtype)


def _to_numbers(column: Any) -> tuple[Any, np.ndarray]:
    """Numbers that a column of text or objects writes, and the rows that write none."""
    import pandas

    found = pandas.to_numeric(column, errors="coerce")
    return found, np.flatnonzero(found.isna() & column.notna())


def numbers(frame: Any, name: str) -> np.ndarray:
    """Values of a frame, shape (row, column), in one dtype of numbers.

    Raises
    ------
    SourceFormatError
        For columns that hold no numbers, and whole numbers that the common dtype of the columns does not hold.
    """
    if not len(frame.columns):
        raise SourceFormatError(f"{name!r} has no columns of numbers.")
    columns = [_numeric(column) for _, column in frame.items()]
    if bad := [place for place, column in enumerate(columns) if column is None]:
        raise SourceFormatError(_no_numbers(frame.iloc[:, bad], name))
    kind = columns[0].dtype
    if isinstance(kind, np.dtype) and (frame.dtypes == kind).all():
        values = frame.to_numpy()
    else:
        values = np.column_stack([_array(column) for column in columns])
        _check_exact(columns, values.dtype, name)
    check_dtype(values.dtype, name)
    return np.ascontiguousarray(values)


def widened(values: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Values in a dtype that also holds another: themselves where theirs does."""
    import pandas

    common = np.result_type(values.dtype, dtype)
    if common != values.dtype:
        _check_exact([column for _, column in pandas.DataFrame(values).items()], common, name)
    return values.astype(common, copy=False)


def _numeric(column: Any) -> Any:
    """Column of numbers: itself, or what objects such as decimals are; None for text, times and categories."""
    if column.dtype.kind in "fiub":
        return column
    if not len(column):
        return column.astype(object).astype(float)
    found, lost = _to_numbers(column) if column.dtype == object else (None, np.empty(0))
    return None if lost.size else found


def _array(column: Any) -> np.ndarray:
    """Values of one column: as they are where none is missing, else floats with NaN."""
    if isinstance(column.dtype, np.dtype):
        return np.asarray(column)
    whole = column.dtype.kind == "f" or not column.isna().any()
    return np.asarray(column.to_numpy(None if whole else float, na_value=np.nan))


def _check_exact(columns: Iterable[Any], dtype: np.dtype, name: str) -> None:
    """Refuse whole numbers beyond 2**53 that become floats, beside missing ones or columns of floats."""
    whole = [column for column in columns if column.dtype.kind in "iu"] if dtype.kind == "f" else []
    large = [column.name for column in whole if ((column > EXACT) | (column < -EXACT)).any()]
    if large:
        raise SourceFormatError(
            f"the columns {some(large)} of {name!r} hold whole numbers above 2**53, which {dtype}, the dtype of all "
            "columns, does not hold exactly. Choose columns=[…], or cast them: frame.astype('float64') rounds."
        )


def _no_numbers(frame: Any, name: str) -> str:
    """Name columns that hold no numbers and the first such cell, and say what such a cell may be."""
    column, listed = frame.iloc[:, 0], list(frame.columns[:8])
    said = f"columns {listed} of {name!r} hold no numbers"
    rows = _to_numbers(column)[1] if column.dtype.kind == "O" else np.empty(0, int)
    if not len(rows):
        return f"{said}, but {column.dtype}. Choose columns=[…], or cast them, e.g. frame.astype('float64')."
    cell = str(column.iloc[rows[0]])
    said += f": row {rows[0]} of {listed[0]!r} is {cell!r} ({len(rows)} of {len(frame)} rows are no numbers)"
    if GROUPED.match(cell):
        mark = cell.strip().lstrip("+-0123456789")[0]
        return (
            f"{said}. Decimal commas: decimal=',' and sep=';'. Marks between thousands: thousands={mark!r}."
        )
    if len(rows) == len(frame):
        return (
            f"{said}. Choose columns=[…]; name the column of times, time={listed[0]!r}, of date and time in two "
            "columns both; or, of a table of one row a reading, entity= and time=."
        )
    return f"{said}. Marks of missing cells: na_values=[{cell!r}]. A second line of names: header=[0, 1]."


def parse_times(column: Any, name: str, *, unit: str | None = None, form: str | None = None) -> Times:
    """Turn a column of times into datetime64[ns], shape (row,); UTC, with the zone that the column has.

    Raises
    ------
    SourceFormatError
        For numbers without ``unit`` or ``form``, for 03/04/2020 and times of day without ``form``, and for text that
        is no time; the message has the first such row.
    """
    import pandas

    column = _plain(column)
    if isinstance(column.dtype, pandas.PeriodDtype):
        column = column.dt.to_timestamp()
    kind, how = column.dtype.kind, dict[str, Any]()
    if kind == "m":
        raise SourceFormatError(
            f"the times {name!r} are durations. Add them to a date: pandas.Timestamp(…) + column."
        )
    if kind in "iuf" and form is None and unit not in UNITS:
        raise SourceFormatError(
            f"the times {name!r} are numbers, the first {column.iloc[0] if len(column) else None}. Say what they are: "
            "dates or years, time_format='%Y%m%d' or time_format='%Y'; counts since 1970, time_unit='s', 'ms', 'us' or "
            "'ns'; or no times, time=False."
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
            "Say the format, with the day or the month first: time_format='%d/%m/%Y %H:%M'. A date and a time of day "
            "in two columns: time=['date', 'time']. Times of day alone: time=False and timestamps=(start, step). "
            "A second line of names: header=[0, 1]."
        )
    zone = calendar_of(parsed)
    parsed = parsed if parsed.dt.tz is None else parsed.dt.tz_convert(None)
    return Times(to_nanoseconds(parsed.to_numpy(), name), zone)


def _to_moments(column: Any, name: str, how: dict[str, Any]) -> Any:
    """Parse times as pandas does, in one format; of several offsets UTC, which a warning says."""
    import pandas

    with warnings.catch_warnings(action="error"):
        try:
            return pandas.to_datetime(column, errors="coerce", **how)
        except (ValueError, FutureWarning):  # offsets that are not the same throughout
            parsed = pandas.to_datetime(column, errors="coerce", utc=True, **how)
    offsets = column.astype(str).str.extract(OFFSET, expand=False)
    listed = some(sorted(offsets.dropna().unique()))
    if (rows := np.flatnonzero(offsets.isna() & parsed.notna())).size:
        raise SourceFormatError(
            f"row {rows[0]} of the times {name!r} is {column.iloc[rows[0]]!r}, without an offset from UTC, and others "
            f"have {listed}. Write all with an offset, or none."
        )
    warnings.warn(
        f"the times {name!r} have the offsets {listed}: they are moments of UTC here, and clocks such as time_of_day "
        "are of UTC. For clocks of a zone pass timestamps=, a pandas index with its time zone: "
        "pandas.to_datetime(column, utc=True).dt.tz_convert('Europe/Berlin').",
        stacklevel=2,
    )
    return parsed
