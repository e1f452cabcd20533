"""Tables of time × sensor: CSV, Parquet, pandas frames. In memory, columns are sensors.

In: a file or a frame, perhaps which column is time. Out: `LoadedSource` or `ArraySource`, with timestamps and
labels. Never guesses whether a line is a header or data: where it could be either, it asks.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import fsspec
import numpy as np

from windowloader.axes import TIME_NAMES
from windowloader.errors import SourceFormatError

from .base import Described, check_dtype, optional, to_nanoseconds
from .handles import Stamp
from .memory import ArraySource, LoadedSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .base import Description

__all__ = ["find_time", "open_frame", "open_table", "parse_times", "read_table"]

PARQUET = (".parquet", ".pq")
UNITS = ("s", "ms", "us", "ns")
TIME_TEXT = re.compile(r"\d{1,4}[-/]\d{1,2}[-/]\d|\d{1,2}:\d\d|\d{8}T\d")
CHANCE = 1e-6  # below which a line of whole numbers is taken for names
EITHER_FIRST = re.compile(r"\d{1,2}[-/.]\d{1,2}[-/.]\d{4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How a table is read.

    Parameters
    ----------
    time : str or bool, optional
        Column of the timestamps; False: there is none; None: found by its name, or by being the first column
        and text that parses as times.
    time_unit : {"s", "ms", "us", "ns"}, optional
        For times that are numbers: since 1970, UTC.
    time_format : str, optional
        For text, as `datetime.datetime.strptime` has it; None: ISO 8601, or what leaves no doubt.
    header : bool, optional
        Whether the first line of a CSV file names the columns; None: seen from the file, or asked for.
    sep : str, optional
        What separates the columns of a CSV file; None: seen from its first line.
    columns : sequence of str, optional
        The columns to keep; None: all but the time.
    """

    time: str | bool | None = None
    time_unit: str | None = None
    time_format: str | None = None
    header: bool | None = None
    sep: str | None = None
    columns: Sequence[str] | None = None

    def __call__(self, path: str) -> tuple[np.ndarray, Description]:
        """Read a table."""
        frame = read_table(path, header=self.header, sep=self.sep)
        return wide(frame, self, os.path.basename(path))


def open_table(path: str | os.PathLike[str], *, axes: str | None = None, **options: Any) -> LoadedSource:
    """Open a CSV or Parquet file whose rows are times and whose columns are sensors.

    Parameters
    ----------
    path : path-like
        The file; ``.gz`` and the like are unpacked.
    axes : str, optional
        ``tn`` (default); ``tf`` where the columns are features, ``nt`` where a row is a sensor.
    **options
        See `TableOptions`.

    Raises
    ------
    SourceFormatError
        For a first line that could be a header or data, columns of text, times that do not parse.
    """
    return LoadedSource(Stamp.of(path), TableOptions(**options), axes=axes)


def open_frame(frame: Any, *, axes: str | None = None, **options: Any) -> ArraySource:
    """Open a pandas.DataFrame as `open_table` does a file; an index of times is the time."""
    values, described = wide(frame, TableOptions(**options), "DataFrame")
    labels = described.labels(1)
    return ArraySource(
        values,
        axes=axes,
        name="DataFrame",
        labels={} if labels is None else {1: labels},
        timestamps=described.timestamps(),
    )


def wide(frame: Any, options: TableOptions, name: str) -> tuple[np.ndarray, Described]:
    """Values [time, column] of a frame, its column labels and its times."""
    frame, times = take_time(frame, name, time=options.time, unit=options.time_unit, form=options.time_format)
    if options.columns is not None:
        absent = [column for column in options.columns if column not in frame.columns]
        if absent:
            raise SourceFormatError(f"{name!r} has no columns {absent}; it has {_some(frame.columns)}.")
        frame = frame[list(options.columns)]
    values = numbers(frame, name)
    labels = None if _counts(frame.columns) else np.asarray(frame.columns)
    if labels is not None and labels.dtype.kind == "O":
        labels = labels.astype(str)
    return values, Described({} if labels is None else {1: labels}, times)


def take_time(
    frame: Any, name: str, *, time: Any = None, unit: str | None = None, form: str | None = None
) -> tuple[Any, np.ndarray | None]:
    """Frame without its time column, and the times as datetime64[ns]."""
    if time is False:
        return frame, None
    if time is None and frame.index.dtype.kind == "M":
        return frame, parse_times(frame.index.to_series(), name)
    column = time if isinstance(time, str) else find_time(frame)
    if column is None:
        return frame, None
    if column not in frame.columns:
        raise SourceFormatError(f"{name!r} has no column {time!r}; it has {_some(frame.columns)}.")
    return frame.drop(columns=[column]), parse_times(frame[column], f"{name}:{column}", unit=unit, form=form)


def find_time(frame: Any) -> Any:
    """Return the column of times: by its name, or the first one where it is text that reads like times."""
    named = [column for column in frame.columns if str(column).strip().lower() in TIME_NAMES]
    if len(named) == 1:
        return named[0]
    first = frame.columns[0] if len(frame.columns) else None
    if first is None or frame[first].dtype.kind in "fiub":
        return None
    texts = frame[first].head(8).astype(str)
    return first if all(TIME_TEXT.match(text) for text in texts) else None


def parse_times(column: Any, name: str, *, unit: str | None = None, form: str | None = None) -> np.ndarray:
    """Turn a column of times into datetime64[ns], shape (row,); times with a zone become UTC.

    Raises
    ------
    SourceFormatError
        For numbers without ``unit``, for 03/04/2020 without ``form``, and for text that is no time; the message
        has the first such row.
    """
    import pandas

    first = column.iloc[0] if len(column) else None
    if column.dtype.kind in "iuf" and unit not in UNITS:
        raise SourceFormatError(
            f"the times {name!r} are numbers, the first {first}. Say what they count since 1970, time_unit='s',"
            " 'ms', 'us' or 'ns'; or that they are no times, time=False."
        )
    if form is None and isinstance(first, str) and EITHER_FIRST.match(first):
        raise SourceFormatError(
            f"the times {name!r} begin with {first!r}, which may have the day or the month first. Say which, "
            "e.g. time_format='%d/%m/%Y %H:%M'."
        )
    if column.dtype.kind in "iuf":
        parsed: Any = pandas.to_datetime(column, unit=cast("Any", unit), errors="coerce", utc=True)
    else:
        parsed = pandas.to_datetime(column, format=form or "ISO8601", errors="coerce", utc=True)
        if form is None and parsed.isna().any():
            parsed = pandas.to_datetime(column, format="mixed", errors="coerce", utc=True)
    bad = np.flatnonzero(parsed.isna())
    if bad.size:
        raise SourceFormatError(
            f"row {bad[0]} of the times {name!r} is {column.iloc[bad[0]]!r}, which is no time; "
            f"there are {bad.size} such rows."
        )
    return to_nanoseconds(parsed.dt.tz_convert(None).to_numpy(), name)


def numbers(frame: Any, name: str) -> np.ndarray:
    """Values of a frame, shape (row, column), in one dtype of numbers."""
    text = [column for column, dtype in frame.dtypes.items() if dtype.kind not in "fiub"]
    if text or not len(frame.columns):
        raise SourceFormatError(
            f"columns {text[:8]} of {name!r} hold no numbers. Choose columns=[…], name the time column by time=, "
            "or, for a table of one row a reading, give entity= and time=."
        )
    values: np.ndarray = frame.to_numpy()
    if values.dtype.kind == "O":  # columns of pandas' own types that may lack values
        values = frame.to_numpy(dtype="float64", na_value=np.nan)
    check_dtype(values.dtype, name)
    return np.ascontiguousarray(values)


def read_table(path: str, *, header: bool | None = None, sep: str | None = None) -> Any:
    """Read a CSV or Parquet file as a pandas frame."""
    pandas = optional("pandas", extra="tables", purpose=f"opening {path!r}")
    if path.lower().endswith(PARQUET):
        optional("pyarrow", extra="tables", purpose=f"opening {path!r}")
        try:
            return pandas.read_parquet(path)
        except (OSError, ValueError) as error:
            raise SourceFormatError(f"{path!r} cannot be read as Parquet: {error}") from error
    try:
        with fsspec.open(path, "rt", compression="infer") as file:
            lines = [line.rstrip("\r\n") for line in itertools.islice(file, 12)]
        if not lines:
            raise SourceFormatError(f"{path!r} is empty.")
        sep = sep or separator(lines[0])
        header = has_header(lines, sep, path) if header is None else header
        frame = pandas.read_csv(path, sep=sep, header=0 if header else None, low_memory=False)
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, SourceFormatError):
            raise
        raise SourceFormatError(f"{path!r} cannot be read as CSV with sep={sep!r}: {error}") from error
    first = frame.columns[0]
    if header and str(first).startswith("Unnamed: ") and np.array_equal(frame[first], np.arange(len(frame))):
        frame = frame.drop(columns=[first])  # the row numbers that pandas writes by default
    return frame


def separator(line: str) -> str:
    """Return what separates the columns: the first of ; tab | , that a line has, else blanks.

    Examples
    --------
    >>> separator("773869,767541")
    ','

    """
    found = [mark for mark in ";\t|," if mark in line]
    return found[0] if found else r"\s+" if line.split()[1:] else ","


def has_header(lines: Sequence[str], sep: str, name: str) -> bool:
    """Whether the first line names the columns.

    It does where a field is neither a number nor a time. Whole numbers, all different, name sensors where they
    count from 0 or 1, or where so few numbers below are whole that no reading would give such a line.

    Raises
    ------
    SourceFormatError
        Where such whole numbers stand above other whole numbers: names or readings, nobody can tell.

    Examples
    --------
    >>> has_header(["773869,767541", "64.375,67.625"], ",", "speed.csv")
    True
    >>> has_header(["0.7855,1.611", "0.7818,1.61"], ",", "rates.csv")
    False
    """
    first, *below = [[field.strip().strip("\"'") for field in re.split(sep, line)] for line in lines]
    if len(first) > 1 and TIME_TEXT.match(first[0]):
        first, below = first[1:], [fields[1:] for fields in below]
    if not all(_is_number(field) for field in first[1:]) or not (_is_number(first[0]) or not first[0]):
        return True
    named = [field for field in first if field]
    if not all(field.isdigit() for field in named) or len(set(named)) < len(named):
        return False
    counts = [int(field) for field in named]
    if not first[0] or (
        len(counts) > 1 and counts in (list(range(len(counts))), list(range(1, len(counts) + 1)))
    ):
        return True
    numbers = [field for fields in below for field in fields if field]
    whole = sum(field.isdigit() for field in numbers) / max(len(numbers), 1)
    if whole ** len(named) < CHANCE:
        return True
    raise SourceFormatError(
        f"the first line of {name!r} holds whole numbers ({', '.join(named[:3])}, …), which could name the "
        "columns or be readings. Say header=True or header=False."
    )


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _counts(columns: Any) -> bool:
    """Whether column labels only count: they came from no header."""
    return bool(columns.dtype.kind in "iu" and np.array_equal(columns, np.arange(len(columns))))


def _some(columns: Any) -> str:
    return ", ".join(map(repr, columns[:12])) + (", …" if len(columns) > 12 else "")
