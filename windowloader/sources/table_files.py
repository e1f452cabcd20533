"""Files of tables as pandas frames: CSV, Parquet, folders of Parquet files, Feather, Excel, frames in HDF5.

In: a path and options. Out: a frame, or frames of a bounded number of rows. pandas and pyarrow read the files; where it
is unclear whether a line is a header or data, the error names the option to pass.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas

from windowloader.errors import SourceFormatError

from .base import optional
from .fetching import fetched
from .formats import by_name, format_of, is_url
from .frame_hdf5 import read_frame
from .handles import Stamp
from .table_columns import TIME_TEXT, as_frame, from_arrow, some
from .table_parquet import parquet_parts, reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["TableOptions", "as_table", "has_header", "kind_of", "read_table", "separator"]

NUMBER = re.compile(r"[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|inf)|nan", re.IGNORECASE)
CHANCE = 1e-6  # below which a line of whole numbers is taken for names


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How a table is read: the role of its columns, and options of pandas by their names.

    Parameters
    ----------
    time : str, sequence of str or bool, optional
        Column of the timestamps, or several that form them, as ``["date", "time"]`` or ``["year", "month", "day",
        "hour"]``; False: there is none; None: the column with a name of times, or the first one if it is text that
        reads as times.
    time_unit : {"D", "h", "m", "s", "ms", "us", "ns"}, optional
        For times that are numbers: since 1970, UTC.
    time_format : str, optional
        For times that are text or dates as numbers, as `datetime.datetime.strptime` has it; None: ISO 8601.
    columns : sequence of str, optional
        The columns to keep; None: all but the time and the entity.
    entity : str, optional
        Column of the entity, of a table of one reading per row.
    static : sequence of str
        Columns of such a table that are the same throughout an entity.
    axes : str, optional
        See `windowloader.sources.tables.open_table`.
    header : bool, int or sequence of int, optional
        Whether the first line of a CSV file or Excel sheet names the columns, or which lines do; None: detected, or
        an error where that is impossible.
    sep : str, optional
        Separator of the columns of a CSV file; None: detected in its first lines.
    decimal, thousands, encoding, dtype, na_values : optional
        Passed to `pandas.read_csv`, and to `pandas.read_excel` where it has them.
    sheet_name : str or int
        Sheet of an Excel file.
    key : str, optional
        Frame of an HDF5 file.
    """

    time: str | Sequence[str] | bool | None = None
    time_unit: str | None = None
    time_format: str | None = None
    columns: Sequence[str] | None = None
    entity: str | None = None
    static: Sequence[str] = ()
    axes: str | None = None
    header: bool | int | Sequence[int] | None = None
    sep: str | None = None
    decimal: str = "."
    thousands: str | None = None
    encoding: str | None = None
    dtype: Any = None
    na_values: Any = None
    sheet_name: str | int = 0
    key: str | None = None

    @property
    def times(self) -> list[str]:
        """Columns of the time, where they are named."""
        if self.time is None or isinstance(self.time, bool):
            return []
        return [self.time] if isinstance(self.time, str) else [*self.time]

    @property
    def by_row(self) -> bool:
        """Whether a row is a sensor or a feature, and a column a time."""
        return self.axes in ("nt", "ft")

    @property
    def time_first(self) -> str | None:
        """Axes once the times are rows."""
        return self.axes[::-1] if self.axes is not None and self.by_row else self.axes

    @property
    def named(self) -> list[str]:
        """Every column that is named."""
        found = dict.fromkeys([self.entity, *self.times, *self.static, *(self.columns or ())])
        return [name for name in found if name is not None]

    def dtypes(self, first: Any) -> Any:
        """Dtypes that were asked for, and text for columns that have to stay so: ids and parts of times."""
        if not isinstance(self.dtype, dict | None):
            return self.dtype
        texts = [first] if self.by_row else [self.entity, *(self.times if len(self.times) > 1 else ())]
        return {**{name: str for name in texts if name is not None}, **(self.dtype or {})} or None


def as_table(target: Any, storage_options: Mapping[str, Any] | None = None) -> Any:
    """Return the frame of a file, URL or table of any library; None for other targets."""
    if isinstance(target, str | os.PathLike):
        path = os.fspath(target)
        named = by_name(path)
        if named is None or named.kind != "table":
            return None
        with fetched(path, storage_options) if is_url(path) else nullcontext(path) as found:
            return read_table(found, TableOptions())
    found = as_frame(target)
    return found if found is not None and found.ndim == 2 else None


def read_table(path: str, options: TableOptions) -> Any:
    """Read a file, or a folder of Parquet files, as a pandas frame."""
    kind = kind_of(path)
    with reading(path, kind):
        if kind == "HDF5":
            return read_frame(path, options.key)
        if kind in ("CSV", "Excel"):
            return _read_text(path, kind, options)
        pyarrow = optional("pyarrow", extra="parquet", purpose=f"opening {path!r}")
        if kind == "Feather":
            from pyarrow.feather import read_table as read_feather

            return from_arrow(read_feather(path, memory_map=False))
        tables = [part.table() for part in parquet_parts(path, options.named)]
        return from_arrow(pyarrow.concat_tables(tables, promote_options="permissive"))


def kind_of(path: str) -> str:
    """Format of a table: by its first bytes, else by its name, else CSV.

    Raises
    ------
    SourceFormatError
        For a file of another kind, such as a web page, which would be read as text.
    """
    Stamp.of(path)  # raises where nothing is there
    if os.path.isdir(path):
        return "Parquet"
    found = format_of(path) or by_name(path)
    if found is not None and found.kind not in ("table", "hdf5"):
        raise SourceFormatError(f"{path!r} is not a table, but a file of the format {found.name}.")
    return "CSV" if found is None else found.name


def _read_text(path: str, kind: str, options: TableOptions) -> Any:
    """Read a CSV file or a sheet of an Excel file."""
    if kind == "Excel":
        read: Any = partial(pandas.read_excel, path, sheet_name=options.sheet_name)
        head = read(header=None, nrows=12, dtype=str).fillna("").to_numpy().tolist()
    else:
        encoding = options.encoding or "utf-8-sig"
        with fsspec.open(path, "rt", compression="infer", encoding=encoding) as file:
            lines = [line.rstrip("\r\n") for line in itertools.islice(file, 12) if line.strip()]
        if any("\0" in line for line in lines):
            raise UnicodeError("it has bytes of 0, as text in UTF-16 has")
        sep = options.sep or separator(*lines)
        head = [_fields(line, sep) for line in lines]
        read = partial(pandas.read_csv, path, sep=sep, encoding=encoding, low_memory=False)
    if not head:
        raise SourceFormatError(f"{path!r} is empty.")
    header: Any = has_header(head, path) if options.header is None else options.header
    if isinstance(header, bool):
        header = 0 if header else None
    names = head[0] if header == 0 else []
    frame = read(
        header=header,
        dtype=options.dtypes(names[0] or "Unnamed: 0") if names else options.dtype,
        decimal=options.decimal,
        thousands=options.thousands,
        na_values=options.na_values,
    )
    more = names and len(head) > 1 and len(head[1]) > len(names)
    if more or not isinstance(frame.index, pandas.RangeIndex):  # the first columns became labels of rows
        raise SourceFormatError(
            f"{path!r} cannot be read as {kind}: its lines have more fields than the {len(names)} names of its first "
            "line. Name every column, or say header=False; where commas are decimal points, decimal=',' and sep=';'."
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice and options.columns is None:
        raise SourceFormatError(
            f"the header of {path!r} has {twice[:8]} more than once. Rename them in the file; choose columns=[…], "
            f"where pandas calls the second {twice[0] + '.1'!r}; or, where two lines are names, header=[0, 1]."
        )
    unnamed = [column for column in frame.columns if str(column).startswith("Unnamed: ")]
    empty = [column for column in unnamed if frame[column].isna().all()]  # every line ends in separators
    if frame.columns[0] in unnamed and np.array_equal(frame[frame.columns[0]], np.arange(len(frame))):
        empty.append(frame.columns[0])  # the row numbers that pandas writes by default
    return frame.drop(columns=empty)


def separator(first: str = "", *below: str) -> str:
    """Return what separates the columns: the first of ; tab | , that a line has, else blanks where every line has them.

    Examples
    --------
    >>> separator("773869,767541")
    ','
    >>> separator("Heart rate", "84.25")
    ','
    """
    bare = re.sub(r'"[^"]*"', "", first)
    many = len(first.split())
    blanks = many > 1 and all(len(line.split()) == many for line in below)
    return next((mark for mark in ";\t|," if mark in bare), r"\s+" if blanks else ",")


def _fields(line: str, sep: str) -> list[str]:
    """Fields of a line, without quotes and blanks around them."""
    parts = next(csv.reader([line], delimiter=sep)) if len(sep) == 1 else re.split(sep, line)
    return [field.strip().strip("\"'") for field in parts]


def has_header(lines: Sequence[Sequence[str]], name: str) -> bool:
    """Whether the first of some lines, split into fields, names the columns.

    It does where a field is neither a number nor a time. Whole numbers, all different, name sensors where they
    count from 0 or 1, or where so few numbers below are whole that readings would not give such a line.

    Raises
    ------
    SourceFormatError
        Where such whole numbers stand above other whole numbers: they could be names or readings.

    Examples
    --------
    >>> has_header([["773869", "767541"], ["64.375", "67.625"]], "speed.csv")
    True
    >>> has_header([["0.7855", "1.611"], ["0.7818", "1.61"]], "rates.csv")
    False
    """
    first, *below = [[field for field in fields if field] for fields in lines]
    if all(TIME_TEXT.match(fields[0]) for fields in lines):
        return False  # times begin every line, the first one too
    if marked := [field for field in first if not NUMBER.fullmatch(field)]:
        if all(NUMBER.fullmatch(field.rpartition(".")[0]) for field in marked):
            warnings.warn(
                f"the first line of {name!r} is taken for names, but holds numbers as pandas marks repeated names "
                f"({marked[0]!r}): a line of data may have become the header. header=True says that it is meant.",
                stacklevel=2,
            )
        return True
    if not all(field.isdigit() for field in first) or len(set(first)) < len(first):
        return False
    counts, cells = list(map(int, first)), list(itertools.chain(*below))
    counted = len(counts) > 1 and counts in (list(range(len(counts))), list(range(1, len(counts) + 1)))
    whole = sum(cell.isdigit() for cell in cells) / max(len(cells), 1)
    if not lines[0][0] or counted or whole ** len(counts) < CHANCE:
        return True
    raise SourceFormatError(
        f"the first line of {name!r} holds whole numbers ({some(first)}), which could name the columns or be readings. "
        "Say header=True or header=False."
    )
