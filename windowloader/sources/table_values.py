"""Values of tables: frames of any library as pandas frames, and their columns as one array of numbers.

In: a frame. Out: numbers [row, column] in one dtype, ids. Whole numbers stay exact, or an error says that they cannot.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError

from .base import check_dtype, optional
from .table_times import CLOCK_ONLY, TIME_TEXT, some

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["as_frame", "from_arrow", "ids", "numbers", "widened"]

EXACT = 2**53  # the largest whole number up to which float64 holds each
GROUPED = re.compile(r"\s*[-+]?\d+([,. ']\d+)+\s*")  # digits with commas or marks between thousands
THOUSANDS = re.compile(r"\s*[-+]?\d{1,3}([,. ']\d{3})+\s*")


def as_frame(target: Any) -> Any:
    """Return a pandas frame or series of a table of another library (polars, Arrow); None where it is none."""
    if type(target).__module__.partition(".")[0] in ("pandas", "xarray"):  # have families of their own
        return None
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
    import pandas

    if isinstance(column.dtype, pandas.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if column.dtype.kind != "O" or column.astype(str).str.match(r"[-+]?0\d").any():
        return column
    found = pandas.to_numeric(column, errors="coerce")
    return column if (found.isna() & column.notna()).any() else found


def numbers(frame: Any, name: str) -> np.ndarray:
    """Values of a frame, shape (row, column), in one dtype of numbers.

    Raises
    ------
    SourceFormatError
        For columns that hold no numbers, and whole numbers that the common dtype of the columns does not hold.
    """
    import pandas

    if not len(frame.columns):
        raise SourceFormatError(f"{name!r} has no columns of numbers.")
    text = [place for place, dtype in enumerate(frame.dtypes) if dtype.kind not in "fiub"]
    parsed = {place: pandas.to_numeric(frame.iloc[:, place], errors="coerce") for place in text}
    wrong = {
        place: np.flatnonzero(found.isna() & frame.iloc[:, place].notna()) for place, found in parsed.items()
    }
    bad = [place for place in text if wrong[place].size or str(frame.dtypes.iloc[place]) != "object"]
    if text and not len(frame):
        return np.empty(frame.shape)
    if bad:
        raise SourceFormatError(_no_numbers(frame, name, bad, wrong[bad[0]]))
    own = [place for place, dtype in enumerate(frame.dtypes) if not isinstance(dtype, np.dtype)]
    values: np.ndarray
    if not text and not own and len(set(frame.dtypes)) == 1:
        values = frame.to_numpy()
    else:
        columns = [_plain(parsed.get(place, column)) for place, (_, column) in enumerate(frame.items())]
        values = np.empty(frame.shape, np.result_type(*(column.dtype for column in columns)))
        for place, column in enumerate(columns):
            values[:, place] = column
    check_dtype(values.dtype, name)
    _check_exact(frame, values, name)
    return np.ascontiguousarray(values)


def _plain(column: Any) -> np.ndarray:
    """Values of one column: as they are where none is missing, else floats with NaN."""
    import pandas

    if isinstance(column.dtype, pandas.SparseDtype):
        column = column.sparse.to_dense()
    if isinstance(column.dtype, np.dtype):
        return np.asarray(column)
    whole = column.dtype.kind in "f" or not column.isna().any()
    return np.asarray(column.to_numpy(column.dtype.numpy_dtype if whole else "float64", na_value=np.nan))


def widened(values: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Values in a dtype that also holds another: themselves where theirs does."""
    import pandas

    common = np.result_type(values.dtype, dtype)
    if common == values.dtype:
        return values
    found = values.astype(common)
    _check_exact(pandas.DataFrame(values), found, name)
    return found


def _check_exact(frame: Any, values: np.ndarray, name: str) -> None:
    """Refuse whole numbers beyond 2**53 that became floats, beside missing ones or columns of floats."""
    if values.dtype.kind != "f":
        return
    large = [
        column
        for column, found in frame.items()
        if found.dtype.kind in "iu"
        and not found.isna().all()
        and (found.max() > EXACT or found.min() < -EXACT)
    ]
    if large:
        raise SourceFormatError(
            f"the columns {some(large)} of {name!r} hold whole numbers above 2**53, which {values.dtype}, the dtype "
            "that all columns have in common, does not hold exactly. Choose columns=[…], or, if rounding them is "
            "right, cast them: frame.astype('float64')."
        )


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
