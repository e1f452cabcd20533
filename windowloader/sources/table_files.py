"""CSV and Parquet files as pandas frames, columns of times as datetime64[ns], columns of numbers as one array.

In: a path or a frame. Out: a frame, times, values. pandas reads; where it would have to guess (a header or data, day
or month first, a number or a time), the error asks and names the option.
"""

from __future__ import annotations

import csv
import itertools
import re
import warnings
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np

from windowloader.errors import SourceFormatError

from .base import check_dtype, optional
from .table_times import CLOCK_ONLY, TIME_TEXT, ReadOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["as_frame", "has_header", "ids", "numbers", "read_table", "separator"]

PARQUET = (".parquet", ".pq")
MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
CHANCE = 1e-6  # below which a line of whole numbers is taken for names
GROUPED = re.compile(r"\s*[-+]?\d+([,. ']\d+)+\s*")  # digits with commas or marks between thousands
THOUSANDS = re.compile(r"\s*[-+]?\d{1,3}([,. ']\d{3})+\s*")


def as_frame(target: Any) -> Any:
    """Return a pandas frame or series of a table of another library (polars, Arrow); None where it is none."""
    if type(target).__module__.partition(".")[0] in ("pandas", "xarray"):  # have families of their own
        return None
    if hasattr(target, "to_pandas"):
        return target.to_pandas()
    if hasattr(target, "__arrow_c_stream__"):
        return optional("pyarrow", extra="tables", purpose="opening an Arrow table").table(target).to_pandas()
    return None


def read_table(
    path: str,
    options: ReadOptions | None = None,
    *,
    texts: Sequence[str] | None = (),
    wanted: Sequence[str] | None = None,
) -> Any:
    """Read a CSV or Parquet file as a pandas frame.

    Parameters
    ----------
    path : str
        Of the file.
    options : ReadOptions, optional
        How it is read.
    texts : sequence of str, optional
        Columns of a CSV file that stay text: identifiers, and parts of times. None: the first one.
    wanted : sequence of str, optional
        The columns that are used; None: all, each of which needs a name of its own.
    """
    options = options or ReadOptions()
    pandas = optional("pandas", extra="tables", purpose=f"opening {path!r}")
    if path.lower().endswith(PARQUET):
        optional("pyarrow", extra="tables", purpose=f"opening {path!r}")
        try:
            return pandas.read_parquet(path)
        except (OSError, ValueError) as error:
            raise SourceFormatError(f"{path!r} cannot be read as Parquet: {error}") from error
    sep, header = options.sep, options.header
    try:
        encoding = options.encoding or _encoding(path)
        with fsspec.open(path, "rt", compression="infer", encoding=encoding) as file:
            lines = [line.rstrip("\r\n") for line in itertools.islice(file, 12)]
        if not lines:
            raise SourceFormatError(f"{path!r} is empty.")
        sep = sep or separator(*lines)
        if header is None and (header := has_header(lines, sep, path)):
            _warn_of_numbers(lines[0], sep, path)
        if header is True or header is False:
            header = 0 if header else None
        first, *_ = names = _fields(lines[0], sep) if header == 0 else [""]
        dtype = options.dtype
        if header == 0 and (dtype is None or isinstance(dtype, dict)):
            dtype = {
                **dict.fromkeys([first or "Unnamed: 0"] if texts is None else texts, str),
                **(dtype or {}),
            }
        frame = pandas.read_csv(
            path,
            sep=sep,
            header=header,
            decimal=options.decimal,
            thousands=options.thousands,
            encoding=encoding,
            dtype=dtype,
            na_values=options.na_values,
            low_memory=False,
        )
    except UnicodeError as error:
        raise SourceFormatError(
            f"{path!r} is not text in {encoding!r}: {error}. Say which encoding it has, e.g. encoding='latin-1', "
            "'cp1252' or 'utf-16'."
        ) from error
    except (ValueError, OSError, EOFError, LookupError, TypeError) as error:
        if isinstance(error, SourceFormatError):
            raise
        raise SourceFormatError(f"{path!r} cannot be read as CSV with sep={sep!r}: {error}") from error
    more = header == 0 and len(lines) > 1 and len(_fields(lines[1], sep)) > len(names)
    if more or not isinstance(
        frame.index, pandas.RangeIndex
    ):  # pandas took what is too much for labels of rows
        raise SourceFormatError(
            f"{path!r} cannot be read as CSV: its lines have more fields than the {len(names)} names of its first "
            "line. Name every column, or say header=False; where commas are decimal points, decimal=',' and sep=';'."
        )
    return _checked(frame, names if wanted is None else [], path)


def _encoding(path: str) -> str:
    """Return the encoding that the first bytes tell; UTF-8 where there is no mark."""
    with fsspec.open(path, "rb", compression="infer") as file:
        head = file.read(1024)
    found = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if found is None and b"\0" in head:
        raise SourceFormatError(
            f"{path!r} has bytes of 0, as text in UTF-16 without a mark has. Say which encoding it has, e.g. "
            "encoding='utf-16-le'."
        )
    return found or "utf-8-sig"


def _checked(frame: Any, names: Sequence[str], path: str) -> Any:
    """Frame without the row numbers and the empty columns that a CSV file may have, each name once."""
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise SourceFormatError(
            f"the header of {path!r} has {twice[:8]} more than once. Rename them in the file; choose columns=[…], "
            f"where pandas calls the second {twice[0] + '.1'!r}; or, where two lines are names, header=[0, 1]."
        )
    unnamed = [column for column in frame.columns if str(column).startswith("Unnamed: ")]
    empty = [column for column in unnamed if frame[column].isna().all()]  # every line ends in separators
    if frame.columns[0] in unnamed and np.array_equal(frame[frame.columns[0]], np.arange(len(frame))):
        empty.append(frame.columns[0])  # the row numbers that pandas writes by default
    return frame.drop(columns=empty)


def separator(first: str, *below: str) -> str:
    """Return what separates the columns: the first of ; tab | , that a line has, else blanks where every line has them.

    Examples
    --------
    >>> separator("773869,767541")
    ','
    >>> separator("Heart rate", "84.25")
    ','
    """
    bare = re.sub(r'"[^"]*"', "", first)
    found = [mark for mark in ";\t|," if mark in bare]
    if found:
        return found[0]
    many = len(first.split())
    return r"\s+" if many > 1 and all(len(line.split()) == many for line in below if line.strip()) else ","


def _fields(line: str, sep: str) -> list[str]:
    """Fields of a line, without quotes and blanks around them."""
    parts = next(csv.reader([line], delimiter=sep), [""]) if len(sep) == 1 else re.split(sep, line)
    return [field.strip().strip("\"'") for field in parts]


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
    first, *below = [_fields(line, sep) for line in lines]
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
    fields = _fields(line, sep)
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


def ids(column: Any) -> Any:
    """Turn identifiers that were read as text into numbers, but where that would lose zeros: 0042."""
    import pandas

    if column.dtype.kind != "O" or column.astype(str).str.match(r"[-+]?0\d").any():
        return column
    found = pandas.to_numeric(column, errors="coerce")
    return column if (found.isna() & column.notna()).any() else found


def numbers(frame: Any, name: str) -> np.ndarray:
    """Values of a frame, shape (row, column), in one dtype of numbers."""
    import pandas

    if not len(frame.columns):
        raise SourceFormatError(f"{name!r} has no columns of numbers.")
    text = [place for place, dtype in enumerate(frame.dtypes) if dtype.kind not in "fiub"]
    if text:
        parsed = {place: pandas.to_numeric(frame.iloc[:, place], errors="coerce") for place in text}
        wrong = {
            place: np.flatnonzero(found.isna() & frame.iloc[:, place].notna())
            for place, found in parsed.items()
        }
        bad = [place for place in text if wrong[place].size or str(frame.dtypes.iloc[place]) != "object"]
        if bad:
            raise SourceFormatError(_no_numbers(frame, name, bad, wrong[bad[0]]))
        frame = frame.copy()
        for place, found in parsed.items():  # objects that are numbers: decimals
            frame.isetitem(place, found)
    values: np.ndarray = frame.to_numpy()
    if values.dtype.kind == "O":  # columns of pandas' own types that may lack values
        values = frame.to_numpy(dtype="float64", na_value=np.nan)
    check_dtype(values.dtype, name)
    return np.ascontiguousarray(values)


def _no_numbers(frame: Any, name: str, bad: Sequence[int], rows: np.ndarray) -> str:
    """Name columns of text and the first cell that is no number, and say what such a cell mostly is."""
    listed = [frame.columns[place] for place in bad[:8]]
    said = f"columns {listed} of {name!r} hold no numbers"
    if not rows.size:
        kind = frame.dtypes.iloc[bad[0]]
        return f"{said}, but {kind}. Choose columns=[…], or cast them, e.g. frame.astype('float64')."
    cell = str(frame.iloc[rows[0], bad[0]])
    said += (
        f": row {rows[0]} of {listed[0]!r} is {cell!r} ({rows.size} of {len(frame)} rows are no numbers). "
    )
    if CLOCK_ONLY.fullmatch(cell) or TIME_TEXT.match(cell):
        return (
            f"{said}Name the column of times, time={listed[0]!r}; of a date and a time in two columns, both."
        )
    if GROUPED.fullmatch(cell):
        marks = re.findall("[,. ']", cell.strip())
        if marks.count(",") == 1 and marks[-1] == ",":
            said += "For commas in place of decimal points say decimal=',' (and sep=';'). "
        if len(marks) > 1 or THOUSANDS.fullmatch(cell):
            said += f"For marks between thousands say thousands={marks[0]!r}."
        return said.rstrip()
    if rows.tolist() == [0] and len(frame) > 1:
        return f"{said}A second line of names is told by header=[0, 1]; a mark of missing by na_values=[{cell!r}]."
    if rows.size < len(frame):
        return f"{said}If it marks what is missing, say na_values=[{cell!r}]; else choose columns=[…]."
    return (
        f"{said}Choose columns=[…], name the time column by time=, or, for a table of one row a reading, give entity= "
        "and time=."
    )
