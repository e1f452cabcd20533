"""CSV and Parquet files as pandas frames, columns of times as datetime64[ns], columns of numbers as one array.

In: a path. Out: a frame, times, values. Never guesses whether a line is a header or data, or a number a time:
where it could be either, it asks.
"""

from __future__ import annotations

import itertools
import re
import warnings
from typing import TYPE_CHECKING, Any, cast

import fsspec
import numpy as np

from windowloader.errors import SourceFormatError

from .base import check_dtype, optional, to_nanoseconds

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TIME_TEXT", "has_header", "numbers", "parse_times", "read_table", "separator"]

PARQUET = (".parquet", ".pq")
UNITS = ("s", "ms", "us", "ns")
TIME_TEXT = re.compile(r"\d{1,4}[-/]\d{1,2}[-/]\d|\d{1,2}:\d\d|\d{8}T\d")
CHANCE = 1e-6  # below which a line of whole numbers is taken for names
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
EITHER_FIRST = re.compile(r"\d{1,2}[-/.]\d{1,2}[-/.]\d{4}")


def parse_times(column: Any, name: str, *, unit: str | None = None, form: str | None = None) -> np.ndarray:
    """Turn a column of times into datetime64[ns], shape (row,); times with a zone become UTC.

    Raises
    ------
    SourceFormatError
        For numbers without ``unit``, for 03/04/2020 without ``form``, and for text that is no time; the
        message has the first such row.
    """
    import pandas

    first = column.iloc[0] if len(column) else None
    if column.dtype.kind in "iuf" and unit not in UNITS:
        raise SourceFormatError(
            f"the times {name!r} are numbers, the first {first}. Say what they count since 1970, "
            "time_unit='s', 'ms', 'us' or 'ns'; or that they are no times, time=False."
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
        if header is None and (header := has_header(lines, sep, path)):
            _warn_of_numbers(lines[0], sep, path)
        frame = pandas.read_csv(path, sep=sep, header=0 if header else None, low_memory=False)
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, SourceFormatError):
            raise
        raise SourceFormatError(f"{path!r} cannot be read as CSV with sep={sep!r}: {error}") from error
    if not isinstance(frame.index, pandas.RangeIndex):  # pandas took what is too much for labels of rows
        raise SourceFormatError(
            f"{path!r} cannot be read as CSV: its lines have more fields than the {len(frame.columns)} names of its "
            "first line. Name every column, or say header=False."
        )
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
    count from 0 or 1, or where so few numbers below are whole that readings would not give such a line.

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
    if TIME_TEXT.match(first[0]) and all(TIME_TEXT.match(fields[0]) for fields in below):
        return False  # times begin every line, the first one too
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


def _warn_of_numbers(line: str, sep: str, name: str) -> None:
    """Warn of a header that pandas made of a line of data, with .1 and .2 after what is there again."""
    fields = [field.strip() for field in re.split(sep, line)]
    marked = [field for field in fields if not _is_number(field)]
    if any("." in field for field in fields) and all(
        _is_number(field.rpartition(".")[0]) for field in marked
    ):
        warnings.warn(
            f"the first line of {name!r} is taken for names, but holds numbers, some marked as pandas marks repeated "
            f"names ({marked[0]!r}): a line of data may have become the header. header=True says that it is meant.",
            stacklevel=2,
        )


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def numbers(frame: Any, name: str) -> np.ndarray:
    """Values of a frame, shape (row, column), in one dtype of numbers."""
    text = [column for column, dtype in frame.dtypes.items() if dtype.kind not in "fiub"]
    if text or not len(frame.columns):
        sample = str(frame[text[0]].iloc[0]) if text and len(frame) else ""
        if DECIMAL_COMMA.fullmatch(sample):
            raise SourceFormatError(
                f"columns {text[:8]} of {name!r} hold {sample!r}, which has a comma for the decimal point. Read it by "
                "pandas.read_csv(path, decimal=',', sep=…) and pass the frame."
            )
        raise SourceFormatError(
            f"columns {text[:8]} of {name!r} hold no numbers{f' ({sample!r})' if sample else ''}. Choose columns=[…], "
            "name the time column by time=, or, for a table of one row a reading, give entity= and time=."
        )
    values: np.ndarray = frame.to_numpy()
    if values.dtype.kind == "O":  # columns of pandas' own types that may lack values
        values = frame.to_numpy(dtype="float64", na_value=np.nan)
    check_dtype(values.dtype, name)
    return np.ascontiguousarray(values)
