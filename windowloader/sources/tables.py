"""Tables as sources: CSV, Parquet, Feather, Excel, HDF5 frames, pandas frames; wide, or long with one row a reading.

In: files or frames, and perhaps which columns are times and entities. Out: sources with timestamps and labels, and what
was assumed about their columns, for a warning. Entities of a long table are laid end to end and keep their own lengths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas

from windowloader.errors import SourceFormatError
from windowloader.util.axes import TIME_NAMES

from .base import Described, Description
from .frame_hdf5 import Block, block_of
from .handles import Stamp
from .hdf5_dataset import open_dataset, opened
from .memory import ArraySource, LoadedSource
from .table_columns import (
    PARTS,
    SAMPLE,
    TIME_TEXT,
    apart,
    as_frame,
    chosen,
    ids,
    numbers,
    parse_times,
    rises,
    some,
    times_of,
)  # fmt: skip
from .table_files import TableOptions, read_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from windowloader.util.calendars import Times

    from .base import Source

__all__ = ["open_frame", "open_stored_frame", "open_table"]


def open_table(path: str | os.PathLike[str], *, axes: str | None = None, **options: Any) -> LoadedSource:
    """Open a file whose rows are times and whose columns are sensors.

    Parameters
    ----------
    path : path-like
        CSV (``.gz`` and the like are unpacked), Parquet, a folder of Parquet files, Feather, Excel or HDF5.
    axes : str, optional
        ``tn`` (default); ``tf`` where the columns are features; ``nt`` where a row is a sensor: then its column of
        text, or the one column whose name is not a number or date, has the labels, and the header the times.
    **options
        See `TableOptions`.

    Raises
    ------
    SourceFormatError
        For a first line that could be a header or data, columns of text, times that do not parse.
    """
    asked = TableOptions(axes=axes, **options)
    load = partial(_load_wide, options=asked)
    what = (asked.key or "").lstrip("/")
    source = LoadedSource(Stamp.of(path), load, what=what, axes=asked.time_first)
    source.doubts = source.loaded()[1].doubts
    return source


def _load_wide(path: str, options: TableOptions) -> tuple[np.ndarray, Described]:
    """Read a table; the rows of a folder of files are sorted by time."""
    values, found = wide(read_table(path, options), options, os.path.basename(path))
    if found.times is None or not os.path.isdir(path):
        return values, found
    order = np.argsort(found.times, kind="stable")
    return values[order], Described(found.by_dim, found.times[order], found.doubts)


def open_frame(
    target: Any,
    *,
    axes: str | None = None,
    time: Any = None,
    time_unit: str | None = None,
    time_format: str | None = None,
    columns: Sequence[str] | None = None,
) -> ArraySource:
    """Open a frame or series of pandas, or a table that converts to one; the options are those of `TableOptions`."""
    frame, name = as_frame(target), type(target).__name__
    single = frame.ndim == 1 and frame.index.nlevels == 1
    options = TableOptions(
        axes=axes, time=time, time_unit=time_unit, time_format=time_format, columns=columns
    )
    values, found = wide(frame, options, name)
    source = ArraySource(
        values[:, 0] if single else values,
        axes=options.time_first,
        name=name,
        labels=found.by_dim,
        timestamps=found.times,
    )
    source.doubts = found.doubts
    return source


def open_stored_frame(stamp: Stamp, group: Any, *, axes: str | None = None, **options: Any) -> Source:
    """Open a frame of an open HDF5 file: mapped where it is one block of numbers, else read by pandas."""
    asked = TableOptions(axes=axes, key=group.name, **options)
    plain = set(options) <= {"time"} and asked.time in (None, True, False) and axes in (None, "tn", "tf")
    block = block_of(group) if plain else None
    if block is None or (found := _described(block, asked)) is None:
        return open_table(stamp.path, axes=axes, key=group.name, **options)
    description = FrameDescription(stamp, asked)
    source = open_dataset(stamp, block.dataset, axes=axes or "tn", description=description)
    source.doubts = found.doubts
    return source


def _described(block: Block, options: TableOptions) -> Described | None:
    """Labels and times of a block; None where the values of its frame would not be the block itself."""
    name = block.dataset.parent.name
    values, head = wide(block.frame(SAMPLE), options, name)
    if values.shape[1] != len(block.columns) or values.dtype != block.dataset.dtype:
        return None
    times = index_times(block.index, options, name)
    return Described(_labels(block.index, block.columns, timed=times is not None), times, head.doubts)


@dataclass(frozen=True, slots=True)
class FrameDescription(Description):
    """Labels and timestamps of a mapped frame, read when asked for, so that its source pickles small."""

    stamp: Stamp
    options: TableOptions

    def _found(self) -> Described:
        with opened(self.stamp) as file:
            block = block_of(file[self.options.key])
            return (block and _described(block, self.options)) or Described()

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along a dimension as stored: of the columns, and of rows that are not times."""
        return self._found().labels(dim)

    def timestamps(self) -> np.ndarray | None:
        """Index of the frame where it is times, else None."""
        return self._found().timestamps()


def wide(frame: Any, options: TableOptions, name: str) -> tuple[np.ndarray, Described]:
    """Values [time, column] of a frame, with its column labels and its times."""
    frame = _unstacked(frame.to_frame("value") if frame.ndim == 1 else frame, name)
    if frame.columns.nlevels > 1:  # two lines of names, of which pandas names the empty ones
        names = [[part for part in map(str, column) if not part.startswith("Unnamed: ")] for column in frame]
        frame = frame.set_axis([".".join(parts) for parts in names], axis=1)
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()]
        raise SourceFormatError(f"{name!r} has the columns {some(twice)} more than once. Rename them.")
    times = None
    if options.by_row:
        frame = _transposed(frame, options, name)
        times = index_times(frame.index, options, name)
    else:
        if options.time is not False:
            frame, times = _take_time(frame, name, options)
        if options.columns is not None:
            frame = chosen(frame, options.columns, name)
    values = numbers(frame, name)
    labels = _labels(frame.index, frame.columns, timed=times is not None)
    return values, Described(labels, times, tuple(_doubts(frame, values, times, options, name)))


def _labels(index: Any, columns: Any, *, timed: bool) -> dict[int, np.ndarray]:
    """Labels of rows, unless they are times, and of columns; none where they only count."""
    labels = {}
    for dim, side in enumerate((index, columns)):
        counted = side.dtype.kind in "iu" and np.array_equal(side, np.arange(len(side)))
        if not counted and not (dim == 0 and timed):
            labels[dim] = np.asarray(side if side.dtype.kind in "iuf" else side.astype(str))
            labels[dim] = labels[dim].astype(str) if labels[dim].dtype == object else labels[dim]
    return labels


def _unstacked(frame: Any, name: str) -> Any:
    """Frame with one row a time, of a frame whose index is (time, id)."""
    levels = list(frame.index.names)
    if len(levels) == 1:
        return frame.set_axis(frame.index.get_level_values(0))
    kinds = [str(level.name).lower() in TIME_NAMES or level.dtype.kind == "M" for level in frame.index.levels]
    if sorted(kinds) == [False, True] and len(frame.columns) == 1 and frame.index.is_unique:
        return frame.iloc[:, 0].unstack(kinds.index(False))
    raise SourceFormatError(
        f"the rows of {name!r} have levels {levels}, and are not one a time and id of one column. Pass "
        "{v: frame[v].unstack(id_level) for v in frame}, or frame.reset_index() with entity= and time=."
    )


def _take_time(frame: Any, name: str, options: TableOptions) -> tuple[Any, Times | None]:
    """Frame without its columns of time, and the times as datetime64[ns]."""
    columns: list[Any] = options.times
    if columns == [frame.index.name] and columns[0] not in frame.columns:
        frame = frame.reset_index()
    if not columns and (times := index_times(frame.index, options, name)) is not None:
        return frame, times
    if not columns and (found := _time_column(frame, name)) is not None:
        columns = [found]
    if not columns:
        return frame, None
    return frame.drop(columns=columns, errors="ignore"), times_of(
        frame, columns, name, options.time_unit, options.time_format
    )


def index_times(index: Any, options: TableOptions, name: str) -> Times | None:
    """Return the times in the row labels of a frame; None where they are not times, or with ``time=False``."""
    dated = index.dtype.kind in "mM" or isinstance(index, pandas.PeriodIndex)
    formed = options.by_row and options.time_format is not None
    if options.time is False or not (dated or formed or _reads_as_times(index)):
        return None
    return parse_times(index.to_series(), name, form=options.time_format)


def _time_column(frame: Any, name: str) -> Any:
    """Return the column of times: by its name, or the first one where it is text that reads like times."""
    named = [column for column in frame.columns if str(column).strip().lower() in TIME_NAMES]
    texts = [column for column in named if frame[column].dtype.kind not in "fiub"]
    texts = [column for column in texts if str(column) not in "tT"] or texts  # beside others, a temperature
    if len(texts) > 1:
        raise SourceFormatError(
            f"the columns {texts} of {name!r} may each be the time. Where a date and a time stand in two columns, join "
            f"them by time={texts}; else name one, e.g. time={texts[0]!r}."
        )
    first = [column for column in frame.columns[:1] if _reads_as_times(frame[column])]
    return next(iter(texts or (named if len(named) == 1 else first)), None)


def _reads_as_times(column: Any) -> bool:
    """Whether the first labels or cells are text that reads like times."""
    texts = [] if column.dtype.kind in "iufb" else list(map(str, column[:8]))
    return len(texts) > 0 and all(TIME_TEXT.match(text) for text in texts)


def _transposed(frame: Any, options: TableOptions, name: str) -> Any:
    """Frame [time, sensor] of a frame whose rows are sensors, labelled by the column whose name is not a time."""
    frame = frame.apply(ids)
    texts = frame.columns.astype(str)
    marked = np.array([bool(TIME_TEXT.match(text) or text[-1:].isdigit()) for text in texts], bool)
    if not marked.any():  # no name is a time: text names the rows
        numeric = np.array([kind.kind in "fiub" for kind in frame.dtypes], bool)
        marked = numeric & (not numeric.all() or frame.index.dtype.kind not in "iu")
    named = frame.columns[~marked]
    if len(named) > 1:
        raise SourceFormatError(
            f"the columns {some(named)} of {name!r} are no times, and one can name its rows. Read it with pandas, "
            "and pass frame.set_index(name).drop(columns=others)."
        )
    frame = frame.set_index(named[0]) if len(named) else frame
    frame = frame if options.columns is None else chosen(frame, options.columns, name)
    return pandas.DataFrame(numbers(frame, name).T, frame.columns, frame.index)


def _doubts(frame: Any, values: np.ndarray, times: Any, options: TableOptions, name: str) -> Iterator[str]:
    """Yield what was assumed: of labels that may be times, of columns that may be counters or different quantities."""
    steps = frame.index
    counts = np.asarray(pandas.to_numeric(steps[:SAMPLE].astype(str), errors="coerce"))
    named = counts.dtype.kind in "iu" and str(steps.name).lower() in TIME_NAMES
    if options.time is None and times is None and (named or rises(counts, even=False)):
        doubt = (
            f"the {'header' if options.by_row else 'row labels'} of {name!r}, from '{steps[0]}' to '{steps[-1]}', are "
            "not taken for times. If they are, say time_format='%Y' or '%Y%m%d', or of row labels, named in the frame, "
            "time=name with time_unit='s'; else time=False."
        )
        if options.by_row:
            raise SourceFormatError(doubt)
        yield doubt
    if options.by_row or options.columns is not None:
        return
    names = [str(column) for column in frame.columns]
    rising = [options.time is not False and rises(column) for column in values[:SAMPLE, :9].T]
    counters = {column for column, rises in zip(names, rising, strict=False) if rises and not all(rising)}
    counted = [column for column in names if column in counters or column.strip().lower() in PARTS]
    if counted and (times is None or options.axes != "tf"):
        yield (
            f"the columns {counted} of {name!r} are taken for readings, and look like row numbers or parts of times. "
            "Say which columns are meant, columns=[…], or which are times: time=… with time_unit='s' or "
            "time_format='%Y', or time=['year', 'month', 'day', 'hour']."
        )
    if options.axes is None and (difference := apart(names, values)):
        yield (
            f"the columns of {name!r} are taken for sensors of one quantity, which one mean and deviation scale, but "
            f"{difference}. Different quantities are axes='tf'; axes='tn' says that they are sensors."
        )
