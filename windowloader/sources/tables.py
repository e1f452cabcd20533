"""Tables of time × sensor: CSV, Parquet, pandas frames. In memory, columns are sensors.

In: a file or a frame, perhaps which column is time. Out: `LoadedSource` or `ArraySource`, with timestamps and
labels. Never guesses whether a line is a header or data: where it could be either, it asks.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.assembly.alignment import find
from windowloader.axes import TIME_NAMES
from windowloader.clocks.calendars import Times, calendar_of
from windowloader.errors import SourceFormatError

from .base import Described
from .fetching import fetched
from .formats import by_name, is_url
from .handles import Stamp
from .long_tables import open_long_table
from .memory import ArraySource, LoadedSource
from .table_files import TIME_TEXT, numbers, parse_times, read_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .base import Description

__all__ = ["TableOptions", "open_by_node", "open_frame", "open_long_table", "open_table"]


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
    """Open a pandas.DataFrame, or Series, as `open_table` does a file; an index of times is the time."""
    name, single = type(frame).__name__, frame.ndim == 1
    values, described = wide(frame.to_frame("value") if single else frame, TableOptions(**options), name)
    labels = {dim: found for dim, found in (described.by_dim or {}).items() if dim < frame.ndim}
    return ArraySource(
        values[:, 0] if single else values,
        axes=axes,
        name=name,
        labels=labels,
        timestamps=described.timestamps(),
    )


def open_by_node(
    target: Any, nodes: np.ndarray, steps: int, storage_options: Mapping[str, Any]
) -> ArraySource | None:
    """Open a table without time, of which a column has the labels of nodes, by that column; None for other targets.

    A column that counts the ``steps`` of the series is no such column.
    """
    pandas = sys.modules.get("pandas")
    if isinstance(target, str | os.PathLike):
        name = os.fspath(target)
        if by_name(name) != "table":
            return None
        with fetched(name, storage_options) if is_url(name) else nullcontext(name) as path:
            target = read_table(path)
    elif pandas is None or not isinstance(target, pandas.DataFrame):
        return None
    if target.index.dtype.kind == "M" or find_time(target) is not None:
        return None
    for column, values in target.items():
        kind = values.dtype.kind
        counts = len(target) == steps and kind in "iuf" and set(values.diff()[1:]) == {1}
        if kind not in "iufOUT" or counts or not values.is_unique:
            continue
        missing = len(find(values, nodes)[1])
        if missing == 0 or (
            kind != "f" and 2 * missing < len(nodes)
        ):  # a few may be missing, which is an error
            return open_frame(target.set_index(column), axes="nf")
    return None


def wide(frame: Any, options: TableOptions, name: str) -> tuple[np.ndarray, Described]:
    """Values [time, column] of a frame, its column labels and its times."""
    frame, times = take_time(frame, name, time=options.time, unit=options.time_unit, form=options.time_format)
    if options.columns is not None:
        absent = [column for column in options.columns if column not in frame.columns]
        if absent:
            raise SourceFormatError(f"{name!r} has no columns {absent}; it has {_some(frame.columns)}.")
        frame = frame[list(options.columns)]
    values = numbers(frame, name)
    labels = {}
    for dim, side in enumerate((frame.index, frame.columns)):
        if not _counts(side) and (dim or (times is None and side.nlevels == 1)):
            found = np.asarray(side)
            labels[dim] = found.astype(str) if found.dtype.kind == "O" else found
    return values, Described(labels, times)


def take_time(
    frame: Any, name: str, *, time: Any = None, unit: str | None = None, form: str | None = None
) -> tuple[Any, np.ndarray | None]:
    """Frame without its time column, and the times as datetime64[ns]."""
    if time is False:
        return frame, None
    if time is None and frame.index.dtype.kind == "M":
        times = parse_times(frame.index.to_series(), name)
        return frame, Times(times, calendar_of(frame.index))
    column = time if isinstance(time, str) else find_time(frame)
    if column is None:
        return frame, None
    if column not in frame.columns:
        raise SourceFormatError(f"{name!r} has no column {time!r}; it has {_some(frame.columns)}.")
    times = parse_times(frame[column], f"{name}:{column}", unit=unit, form=form)
    return frame.drop(columns=[column]), Times(times, calendar_of(frame[column]))


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


def _counts(columns: Any) -> bool:
    """Whether column labels only count: they came from no header."""
    return bool(columns.dtype.kind in "iu" and np.array_equal(columns, np.arange(len(columns))))


def _some(columns: Any) -> str:
    return ", ".join(map(repr, columns[:12])) + (", …" if len(columns) > 12 else "")
