"""Tables of time × sensor: CSV, Parquet, Feather, Excel, pandas frames. In memory, columns are sensors.

In: a file or a frame, perhaps which column is time. Out: `LoadedSource` or `ArraySource`, with timestamps and
labels, and with what was assumed about its columns, for a warning.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError
from windowloader.util.axes import TIME_NAMES

from .base import Described
from .handles import Stamp
from .memory import ArraySource, LoadedSource
from .table_columns import PARTS, TIME_TEXT, as_frame, ids, numbers, parse_times, some
from .table_files import TableOptions, read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from windowloader.util.calendars import Times

__all__ = ["find_time", "index_times", "labels_of", "open_frame", "open_table", "times_of", "wide"]

LEAST_ROWS = 12  # below which ranges of columns tell nothing
SAMPLE = 4096  # rows that tell them
QUANTITIES = re.compile(
    "temp|humid|dew|pres|wind|speed|flow|volume|occup|load|power|volt|energy|price|rain|precip|radiation|solar|"
    "pm2|pm10|no2|so2|ozone|co2"
)


def open_table(path: str | os.PathLike[str], *, axes: str | None = None, **options: Any) -> LoadedSource:
    """Open a file whose rows are times and whose columns are sensors.

    Parameters
    ----------
    path : path-like
        CSV (``.gz`` and the like are unpacked), Parquet, a folder of Parquet files, Feather, Excel or HDF5.
    axes : str, optional
        ``tn`` (default); ``tf`` where the columns are features; ``nt`` where a row is a sensor: then its column of
        text, or the one column that the header does not number or date, has the labels, and the header the times.
    **options
        See `TableOptions`.

    Raises
    ------
    SourceFormatError
        For a first line that could be a header or data, columns of text, times that do not parse.
    """
    asked = TableOptions(axes=axes, **options)
    load = partial(read_wide, options=asked)
    source = LoadedSource(Stamp.of(path), load, what=(asked.key or "").lstrip("/"), axes=axes)
    source.doubts = source.loaded()[1].doubts
    return source


def read_wide(path: str, options: TableOptions) -> tuple[np.ndarray, Described]:
    """Read a table; rows of a folder of files go by their times."""
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
        axes=axes,
        name=name,
        labels=found.by_dim,
        timestamps=found.times,
    )
    source.doubts = found.doubts
    return source


def wide(frame: Any, options: TableOptions, name: str) -> tuple[np.ndarray, Described]:
    """Values [time, column] of a frame, its column labels and its times; [row, time] where a row is a sensor."""
    frame = _unstacked(frame.to_frame("value") if frame.ndim == 1 else frame, name)
    if frame.columns.nlevels > 1:  # two lines of names: what pandas calls an empty one is left out
        names = [[part for part in map(str, column) if not part.startswith("Unnamed: ")] for column in frame]
        frame = frame.set_axis([".".join(parts) for parts in names], axis=1)
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()]
        raise SourceFormatError(f"{name!r} has the columns {some(twice)} more than once. Rename them.")
    times = None
    if options.by_row:
        frame = _with_labels(frame, name)
    elif options.time is not False:
        frame, times = take_time(frame, name, options)
    if options.columns is not None:
        frame = chosen(frame, options.columns, name)
    if options.by_row:
        times = index_times(frame.columns, options, name)
    values = numbers(frame, name)
    labels = labels_of(frame.index, frame.columns, timed=times is not None and not options.by_row)
    return values, Described(labels, times, _doubts(frame, values, times, options, name))


def chosen(frame: Any, columns: Iterable[Any], name: str) -> Any:
    """Choose columns of a frame; an error where it has not all of them."""
    if absent := [column for column in columns if column not in frame.columns]:
        raise SourceFormatError(f"{name!r} has no columns {absent}; it has {some(frame.columns)}.")
    return frame[list(columns)]


def labels_of(index: Any, columns: Any, *, timed: bool) -> dict[int, np.ndarray]:
    """Labels of rows, where they are no times, and of columns; none where they only count."""
    labels = {}
    for dim, side in enumerate((index, columns)):
        counted = side.dtype.kind in "iu" and np.array_equal(side, np.arange(len(side)))
        if not counted and not (dim == 0 and timed):
            text = side.dtype.kind not in "iuf"
            labels[dim] = np.asarray(side.astype(str)).astype(str) if text else np.asarray(side)
    return labels


def _unstacked(frame: Any, name: str) -> Any:
    """Frame with one row a time, where a row of it is a time of an id: index (time, id)."""
    levels = list(frame.index.names)
    if len(levels) == 1:
        return frame.set_axis(frame.index.get_level_values(0))
    kinds = [str(level.name).lower() in TIME_NAMES or level.dtype.kind == "M" for level in frame.index.levels]
    if sorted(kinds) == [False, True] and len(frame.columns) == 1 and frame.index.is_unique:
        return frame.iloc[:, 0].unstack(kinds.index(False))
    raise SourceFormatError(
        f"the rows of {name!r} have levels {levels}, and are not one a time and id of one column. Give one row a "
        "time, by {v: frame[v].unstack(id_level) for v in frame}; or open frame.reset_index() with entity= and time=."
    )


def take_time(frame: Any, name: str, options: TableOptions) -> tuple[Any, Times | None]:
    """Frame without its columns of time, and the times as datetime64[ns]."""
    columns: list[Any] = options.times
    if columns == [frame.index.name] and columns[0] not in frame.columns:
        frame = frame.reset_index()
    if not columns and (times := index_times(frame.index, options, name)) is not None:
        return frame, times
    columns = columns or [column for column in [find_time(frame, name)] if column is not None]
    if not columns:
        return frame, None
    return frame.drop(columns=columns, errors="ignore"), times_of(frame, columns, options, name)


def index_times(index: Any, options: TableOptions, name: str) -> Times | None:
    """Return the times that the row labels of a frame are; None where they are none, or are not to be."""
    import pandas

    dated = index.dtype.kind in "mM" or isinstance(index, pandas.PeriodIndex)
    formed = options.by_row and options.time_format is not None
    if options.time is False or not (dated or formed or _reads_as_times(index)):
        return None
    return parse_times(index.to_series(), name, form=options.time_format)


def times_of(frame: Any, columns: Sequence[Any], options: TableOptions, name: str) -> Times:
    """Parse the times that one column has, or several have together: parts by their names, else text."""
    import pandas

    parts = chosen(frame, columns, name).set_axis([str(column).strip().lower() for column in columns], axis=1)
    column = parts.iloc[:, 0]
    if set(PARTS[:3]) <= set(parts.columns) <= set(PARTS):
        column = pandas.to_datetime(parts, errors="coerce")
    elif len(columns) > 1:
        first, *others = (part.astype(str).str.strip() for _, part in parts.items())
        column = first.str.cat(others, sep=" ")
    where = f"{name}:{' + '.join(map(str, columns))}"
    return parse_times(column, where, unit=options.time_unit, form=options.time_format)


def find_time(frame: Any, name: str = "") -> Any:
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


def _with_labels(frame: Any, name: str) -> Any:
    """Frame [row, time] with the labels of the rows as its index: of the column that the header does not number."""
    frame = frame.apply(ids)
    texts = frame.columns.astype(str)
    marked = np.array([bool(TIME_TEXT.match(text) or text[-1:].isdigit()) for text in texts], bool)
    if not marked.any():  # names that are no times: text names the rows
        numeric = np.array([kind.kind in "fiub" for kind in frame.dtypes], bool)
        marked = numeric & (not numeric.all() or frame.index.dtype.kind not in "iu")
    named = frame.columns[~marked]
    if len(named) > 1:
        raise SourceFormatError(
            f"the columns {some(named)} of {name!r} are no times, and one can name its rows. Read it with pandas, "
            "and pass frame.set_index(name).drop(columns=others)."
        )
    return frame.set_index(named[0]) if len(named) else frame


def _doubts(frame: Any, values: np.ndarray, times: Any, options: TableOptions, name: str) -> tuple[str, ...]:
    """Say what was assumed: of labels that may be times, columns that may be no readings or of several quantities."""
    import pandas

    found: list[str] = []
    steps = frame.columns if options.by_row else frame.index
    counts = np.asarray(pandas.to_numeric(steps[:SAMPLE].astype(str), errors="coerce"))
    named = counts.dtype.kind in "iu" and str(steps.name).lower() in TIME_NAMES
    if options.time is None and times is None and (named or _rises(counts, even=False)):
        found.append(
            f"the {'header' if options.by_row else 'row labels'} of {name!r}, from '{steps[0]}' to '{steps[-1]}', are "
            "not taken for times. If they are, say time_format='%Y' or '%Y%m%d', or of row labels, named in the frame, "
            "time=name with time_unit='s'; else time=False."
        )
    if options.by_row and found:
        raise SourceFormatError(found[0])
    if options.by_row or options.columns is not None:
        return ()
    names = [str(column) for column in frame.columns]
    rising = [options.time is not False and _rises(column) for column in values[:SAMPLE, :9].T]
    counters = {column for column, rises in zip(names, rising, strict=False) if rises and not all(rising)}
    counted = [column for column in names if column in counters or column.strip().lower() in PARTS]
    if counted and (times is None or options.axes != "tf"):
        found.append(
            f"the columns {counted} of {name!r} are taken for readings, and look like row numbers or parts of times."
            " Row numbers are left out by columns=[…], which also says that they are meant; times are told by time=… "
            "with time_unit='s' or time_format='%Y', parts by time=['year', 'month', 'day', 'hour']."
        )
    if options.axes is None and (apart := _apart(names, values)):
        found.append(
            f"the columns of {name!r} are taken for sensors of one quantity, which one mean and deviation scale, but "
            f"{apart}. Different quantities are axes='tf'; axes='tn' says that they are sensors."
        )
    return tuple(found)


def _rises(values: np.ndarray, *, even: bool = True) -> bool:
    """Whether whole numbers rise like years, dates or epochs, or (``even``) by one step throughout."""
    if values.dtype.kind not in "iuf" or len(values) < 2 + even or not np.isfinite(values).all():
        return False
    steps = np.diff(values.astype(float))
    dated = values[0] > 15_000_000 or (values[0] >= 1800 and values[-1] <= 2100)
    return not (values % 1).any() and bool((steps > 0).all() and (dated or (even and np.ptp(steps) == 0)))


def _apart(names: list[str], values: np.ndarray) -> str:
    """Say of two columns whose ranges have nothing in common, or whose names are of different quantities."""
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
