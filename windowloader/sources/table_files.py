"""Files of tables as pandas frames: CSV, Parquet, folders of Parquet files, Feather, Excel, frames in HDF5.

In: a path. Out: a frame, or frames of a bounded number of rows. pandas and pyarrow read; where they would have to guess
(a header or data), the error asks and names the option.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np

from windowloader.errors import MissingExtraError, SourceFormatError, WindowLoaderError

from .base import optional
from .fetching import fetched
from .handles import Stamp
from .patterns import is_url, natural
from .registry import by_name
from .table_times import PARTS, TIME_TEXT, ReadOptions, some
from .table_values import as_frame, from_arrow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "as_table",
    "has_header",
    "is_parquet",
    "parquet_files",
    "parquet_parts",
    "read_table",
    "separator",
]

MAGIC = {
    b"PAR1": "parquet",
    b"ARROW1": "feather",
    b"PK\3\4": "excel",
    b"\xd0\xcf\x11\xe0": "excel",
    b"\x89HDF": "hdf5",
}
MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
CHANCE = 1e-6  # below which a line of whole numbers is taken for names
MOST_FOLDERS = 10_000  # within a folder, that are looked into for Parquet files
BATCH = 1 << 17  # rows of a long Parquet file in memory beside the result


def as_table(target: Any, storage_options: Mapping[str, Any] | None = None) -> Any:
    """Return the frame of what is a table: a file, a URL, a frame of any library; None for other targets."""
    if isinstance(target, str | os.PathLike):
        path = os.fspath(target)
        if by_name(path) != "table":
            return None
        with fetched(path, storage_options) if is_url(path) else nullcontext(path) as found:
            return read_table(found)
    found = target if type(target).__module__.partition(".")[0] == "pandas" else as_frame(target)
    return found if found is not None and found.ndim == 2 else None


def read_table(
    path: str,
    options: ReadOptions | None = None,
    *,
    texts: Sequence[str] | None = (),
    wanted: Sequence[str] | None = None,
    named: Sequence[str] = (),
) -> Any:
    """Read a file, or a folder of Parquet files, as a pandas frame.

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
    named : sequence of str
        Other columns that were asked for: names of folders (``year=2020``) are columns only where they are.
    """
    options = options or ReadOptions()
    kind = _kind(path)
    if kind == "csv":
        return _read_csv(path, options, texts, wanted)
    if kind == "hdf5":
        from .frame_hdf5 import read_frame

        return read_frame(path, options.key)
    if kind == "excel":
        return _read_excel(path, options, texts, wanted)
    pyarrow = optional("pyarrow", extra="parquet", purpose=f"opening {path!r}")
    with _reading(path, kind.title()):
        if kind == "feather":
            from pyarrow.feather import read_table as read_feather

            return from_arrow(read_feather(path, memory_map=False))
        asked = [*(wanted or ()), *named]
        tables = [_parquet_table(path, file, asked) for file in parquet_files(path)]
        return from_arrow(pyarrow.concat_tables(tables, promote_options="permissive"))


@contextmanager
def _reading(path: str, what: str) -> Iterator[None]:
    """Tell what the libraries raise, which is of many classes, as one error."""
    try:
        yield
    except WindowLoaderError:
        raise
    except UnicodeError as error:
        raise SourceFormatError(
            f"{path!r} cannot be read as {what}: {error}. Say which encoding it has, e.g. encoding='latin-1', 'cp1252' "
            "or 'utf-16'."
        ) from error
    except ImportError as error:
        raise MissingExtraError(
            f"opening {path!r} needs a package that is not installed: {error} Most files need no more than pip install "
            "'windowloader[tables]'."
        ) from error
    except Exception as error:
        problem = str(error).strip().rstrip(".")
        raise SourceFormatError(
            f"{path!r} cannot be read as {what}: {problem}. Read it with pandas, and pass the frame."
        ) from error


def _kind(path: str) -> str:
    """Format of a table: told by its first bytes."""
    Stamp.of(path)  # nothing there is its own error
    if os.path.isdir(path):
        return "parquet"
    with open(path, "rb") as file:
        head = file.read(8)
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "csv")


def parquet_files(path: str) -> list[str]:
    """Return the Parquet files of a folder and the folders in it, in natural order; a file itself."""
    if not os.path.isdir(path):
        return [path]
    found: list[Path] = []
    for count, (folder, _, names) in enumerate(os.walk(path)):
        if count == MOST_FOLDERS:
            raise SourceFormatError(
                f"{path!r} has more than {MOST_FOLDERS} folders within it, too many to look for Parquet. Pass the "
                "folder that has them, or a list of files."
            )
        found += [Path(folder, name) for name in names if name.endswith((".parquet", ".pq"))]
    hidden = ("_", ".")  # as Spark names what is no data
    return sorted((str(file) for file in found if not file.name.startswith(hidden)), key=natural)


def _folder_columns(path: str, file: str, asked: Sequence[str]) -> dict[str, str]:
    """Columns that the names of folders are, ``year=2020``, of those that were asked for."""
    parts = Path(file).relative_to(path).parts[:-1] if os.path.isdir(path) else ()
    pairs = dict(part.split("=", 1) for part in parts if "=" in part)
    if left := [name for name in pairs if name not in asked and name.lower() not in (*PARTS, "date")]:
        warnings.warn(
            f"the folders of {path!r} are named by {some(left)}, which is left out: it is a column only where "
            "columns=, entity= or time= names it.",
            stacklevel=2,
        )
    return {name: text for name, text in pairs.items() if name in asked}


def _parquet_table(path: str, file: str, asked: Sequence[str]) -> Any:
    import pyarrow
    from pyarrow.parquet import read_table as read_parquet

    table = read_parquet(file, partitioning=None)
    for name, text in _folder_columns(path, file, asked).items():
        table = table.append_column(name, pyarrow.array([text] * len(table)))
    return table


def is_parquet(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a Parquet file, or a folder of some."""
    return _kind(os.fspath(path)) == "parquet"


def parquet_parts(
    path: str, columns: Sequence[str] | None, entity: str, named: Sequence[str]
) -> Iterator[Any]:
    """Read Parquet files in frames of a bounded number of rows.

    Parameters
    ----------
    path : str
        A file, or a folder of some.
    columns : sequence of str, optional
        The columns to read; None: all.
    entity : str
        A column of text that repeats, which comes as categories.
    named : sequence of str
        The columns that were asked for, see `read_table`.
    """
    parquet = optional("pyarrow.parquet", extra="parquet", purpose=f"opening {path!r}")
    with _reading(path, "Parquet"):
        for file in parquet_files(path):
            added = _folder_columns(path, file, named)
            stored = None if columns is None else [name for name in columns if name not in added]
            repeated = [entity] if entity in parquet.read_schema(file).names else []
            with parquet.ParquetFile(file, pre_buffer=False, read_dictionary=repeated) as opened:
                for batch in opened.iter_batches(BATCH, columns=stored, use_threads=False):
                    frame = from_arrow(batch)
                    flat = set(named).isdisjoint(frame.index.names)
                    yield (frame if flat else frame.reset_index()).assign(**added)


def _read_excel(
    path: str, options: ReadOptions, texts: Sequence[str] | None, wanted: Sequence[str] | None
) -> Any:
    """Read a sheet of an Excel file; see `read_table`."""
    import pandas

    header = 0 if options.header in (None, True) else None if options.header is False else options.header
    with _reading(path, "Excel"):
        first = pandas.read_excel(path, sheet_name=options.sheet_name, header=None, nrows=1)
        names = first.iloc[0].dropna().tolist() if header == 0 and len(first) else []
        if options.header is None and all(isinstance(name, int | float) for name in names):
            raise SourceFormatError(
                f"the first line of {path!r} holds numbers ({some(names)}), which could name the columns or be "
                "readings. Say header=True or header=False."
            )
        frame = pandas.read_excel(
            path,
            sheet_name=options.sheet_name,
            header=header,
            dtype=_dtypes(options, texts, names[:1]) if names else options.dtype,
            decimal=options.decimal,
            thousands=options.thousands,
            na_values=options.na_values,
        )
    return _checked(frame, [str(name) for name in names] if wanted is None else [], path)


def _dtypes(options: ReadOptions, texts: Sequence[str] | None, first: Sequence[Any]) -> Any:
    """Dtypes that were asked for, and text for columns that have to stay so: ids, parts of times."""
    if not isinstance(options.dtype, dict | None):
        return options.dtype
    return {**dict.fromkeys(first if texts is None else texts, str), **(options.dtype or {})} or None


def _read_csv(
    path: str, options: ReadOptions, texts: Sequence[str] | None, wanted: Sequence[str] | None
) -> Any:
    """Read a CSV file; see `read_table`."""
    import pandas

    sep, header = options.sep, options.header
    with _reading(path, "CSV"):
        encoding = options.encoding or _encoding(path)
    with _reading(path, f"CSV in {encoding!r} with sep={sep!r}"):
        with fsspec.open(path, "rt", compression="infer", encoding=encoding) as file:
            lines = [line.rstrip("\r\n") for line in itertools.islice(file, 12)]
        if not lines:
            raise SourceFormatError(f"{path!r} is empty.")
        sep = sep or separator(*lines)
        if header is None and (header := has_header(lines, sep, path)):
            _warn_of_numbers(lines[0], sep, path)
        if header is True or header is False:
            header = 0 if header else None
        names = _fields(lines[0], sep) if header == 0 else [""]
        frame = pandas.read_csv(
            path,
            sep=sep,
            header=header,
            decimal=options.decimal,
            thousands=options.thousands,
            encoding=encoding,
            dtype=_dtypes(options, texts, [names[0] or "Unnamed: 0"]) if header == 0 else options.dtype,
            na_values=options.na_values,
            low_memory=False,
        )
    more = header == 0 and len(lines) > 1 and len(_fields(lines[1], sep)) > len(names)
    if more or not isinstance(frame.index, pandas.RangeIndex):  # the first columns became labels of rows
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
