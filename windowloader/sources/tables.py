"""Tables of time × sensor: CSV, Parquet, pandas frames. In memory, columns are sensors.

In: a file or a frame, perhaps which column is time. Out: `LoadedSource` or `ArraySource`, with timestamps and
labels, and with what was assumed about its columns, for a warning.
"""

from __future__ import annotations

import os
import re
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
from .table_files import as_frame, ids, numbers, read_table
from .table_times import PARTS, TIME_TEXT, ReadOptions, parse_times, some, times_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


__all__ = ["TableOptions", "open_by_node", "open_frame", "open_long_table", "open_table"]


LEAST_ROWS = 12  # below which ranges of columns tell nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions(ReadOptions):
    """How a table is read: as `ReadOptions`, and which columns are what.

    Parameters
    ----------
    time : str, sequence of str or bool, optional
        Column of the timestamps; several that give them together, as ``["date", "time"]`` or ``["year", "month",
        "day", "hour"]``; False: there is none; None: found by its name, or by being the first column and text that
        parses as times.
    columns : sequence of str, optional
        The columns to keep; None: all but the time.
    axes : str, optional
        As `open_table` takes them.
    """

    time: str | Sequence[str] | bool | None = None
    columns: Sequence[str] | None = None
    axes: str | None = None

    def __call__(self, path: str) -> tuple[np.ndarray, Described]:
        """Read a table."""
        several = () if isinstance(self.time, str | bool | None) else self.time
        texts = None if self.by_row else several
        return wide(read_table(path, self, texts=texts, wanted=self.columns), self, os.path.basename(path))

    @property
    def by_row(self) -> bool:
        """Whether a row is a sensor or a feature, and a column a time."""
        return self.axes in ("nt", "ft")


def open_table(path: str | os.PathLike[str], *, axes: str | None = None, **options: Any) -> LoadedSource:
    """Open a CSV or Parquet file whose rows are times and whose columns are sensors.

    Parameters
    ----------
    path : path-like
        The file; ``.gz`` and the like are unpacked.
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
    source = LoadedSource(Stamp.of(path), TableOptions(axes=axes, **options), axes=axes)
    source.doubts = source.loaded()[1].doubts  # type: ignore[attr-defined]
    return source


def open_frame(frame: Any, *, axes: str | None = None, **options: Any) -> ArraySource:
    """Open a pandas.DataFrame, or Series, as `open_table` does a file; an index of times is the time."""
    name, single = type(frame).__name__, frame.ndim == 1 and frame.index.nlevels == 1
    given = TableOptions(axes=axes, **options)
    values, described = wide(frame.to_frame("value") if frame.ndim == 1 else frame, given, name)
    labels = {dim: found for dim, found in (described.by_dim or {}).items() if not single or dim == 0}
    source = ArraySource(
        values[:, 0] if single else values,
        axes=axes,
        name=name,
        labels=labels,
        timestamps=described.timestamps(),
    )
    source.doubts = described.doubts
    return source


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
        target = as_frame(target)
        if target is None or not isinstance(target, sys.modules["pandas"].DataFrame):
            return None
    if target.index.dtype.kind == "M" or not target.columns.is_unique or find_time(target) is not None:
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
    """Values [time, column] of a frame, its column labels and its times; [row, time] where a row is a sensor."""
    frame = _unstacked(frame, name)
    if frame.columns.nlevels > 1:  # two lines of names: what pandas calls an empty one is left out
        levels = [
            [str(level) for level in column if not str(level).startswith("Unnamed: ")]
            for column in frame.columns
        ]
        frame = frame.set_axis([".".join(level) for level in levels], axis=1)
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()]
        raise SourceFormatError(f"{name!r} has the columns {some(twice)} more than once. Rename them.")
    if options.by_row:
        frame, times = _by_row(frame, options, name)
    else:
        frame, times = take_time(frame, name, options)
    if options.columns is not None:
        absent = [column for column in options.columns if column not in frame.columns]
        if absent:
            raise SourceFormatError(f"{name!r} has no columns {absent}; it has {some(frame.columns)}.")
        frame = frame[list(options.columns)]
    values = numbers(frame, name)
    labels = {}
    for dim, side in enumerate((frame.index, frame.columns)):
        if not _counts(side) and (dim or options.by_row or (times is None and side.nlevels == 1)):
            found = np.asarray(side)
            labels[dim] = found.astype(str) if found.dtype.kind == "O" else found
    doubts = () if options.by_row else _doubts(frame, values, times, options, name)
    return values, Described(labels, times, doubts)


def _unstacked(frame: Any, name: str) -> Any:
    """Frame with one row a time, where a row of it is a time of an id: index (time, id)."""
    levels = list(frame.index.names)
    if len(levels) == 1:
        return frame
    dated = [place for place, level in enumerate(frame.index.levels) if level.dtype.kind == "M"]
    named = [place for place, level in enumerate(levels) if str(level).lower() in TIME_NAMES]
    if len(levels) == 2 and len(frame.columns) == 1 and len(dated or named) == 1:
        other = 1 - (dated or named)[0]
        try:
            return frame.iloc[:, 0].unstack(other)
        except ValueError as error:
            raise SourceFormatError(
                f"the rows {levels} of {name!r} are not one a time and id: {error}."
            ) from error
    raise SourceFormatError(
        f"the rows of {name!r} have levels {levels}. Give one row a time, by {{v: frame[v].unstack(id_level) for v in "
        "frame}; or open frame.reset_index() with entity= and time=, one series an id."
    )


def take_time(frame: Any, name: str, options: TableOptions) -> tuple[Any, np.ndarray | None]:
    """Frame without its columns of time, and the times as datetime64[ns]."""
    time = options.time
    if time is False:
        return frame, None
    time = None if time is True else time
    if isinstance(time, str) and frame.index.name == time and time not in frame.columns:
        frame = frame.reset_index()
    if time is None and (index := _index_times(frame.index)) is not None:
        return frame, Times(parse_times(index, name, form=options.time_format), calendar_of(frame.index))
    columns: Sequence[Any] = [time] if isinstance(time, str) else time or [find_time(frame, name)]
    if columns[0] is None:
        return frame, None
    times = times_of(frame, columns, options, name)
    zone = calendar_of(frame[columns[0]]) if len(columns) == 1 else ""
    return frame.drop(columns=list(columns), errors="ignore"), Times(times, zone)


def _index_times(index: Any) -> Any:
    """Return the row labels of a frame as a column, where they are times; None for others."""
    import pandas

    if isinstance(index, pandas.PeriodIndex):
        index = index.to_timestamp()
    texts = index[:8].astype(str) if index.dtype.kind == "O" else []
    if index.dtype.kind in "mM" or (len(texts) and all(TIME_TEXT.match(text) for text in texts)):
        return index.to_series()
    return None


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
    if len(named) == 1 or texts:
        return (texts or named)[0]
    first = frame.columns[0] if len(frame.columns) else None
    if first is None or frame[first].dtype.kind in "fiub":
        return None
    samples = frame[first].head(8).astype(str)
    return first if all(TIME_TEXT.match(text) for text in samples) else None


def _by_row(frame: Any, options: TableOptions, name: str) -> tuple[Any, np.ndarray | None]:
    """Frame [row, time] with the labels of the rows as its index, and the times that its header has."""
    import pandas

    frame = frame if options.columns is None else frame[[c for c in options.columns if c in frame.columns]]
    texts = pandas.Series(frame.columns.astype(str))
    marked = (texts.str.match(TIME_TEXT) | texts.str.fullmatch(r"\d+(\.\d+)?")).to_numpy()
    numeric = np.array([ids(column).dtype.kind in "fiub" for _, column in frame.items()], bool)
    stems = texts.str.replace(r"\d+$", "", regex=True)
    if not marked.any():  # names that are no times: text names the rows, or the column before d_1, d_2, …
        marked = numeric
        if numeric.all() and len(texts) > 1 and stems[1:].nunique() == 1:
            marked = (stems == stems.iloc[-1]).to_numpy()
        elif (
            numeric.all() and frame.index.dtype.kind in "iu" and frame.iloc[:, 0].is_unique and len(frame) > 1
        ):
            raise SourceFormatError(
                f"the first column {texts.iloc[0]!r} of {name!r} may name the rows or be their first reading. Pass a "
                "frame with the names as its index, frame.set_index(name)."
            )
    named = frame.columns[~marked]
    if len(named) > 1:
        raise SourceFormatError(
            f"the columns {some(named)} of {name!r} are no times, and one can name its rows. Read it with pandas, "
            "and pass frame.set_index(name).drop(columns=others)."
        )
    frame = frame.set_index(ids(frame[named[0]])).drop(columns=named) if len(named) else frame.apply(ids)
    texts = texts[marked]
    if options.time is False or not (texts.str.match(TIME_TEXT).all() or options.time_format):
        if (
            len(texts) > 1
            and options.time is not False
            and texts.str.fullmatch(r"(1[89]|20)\d\d(\d{4})?").all()
        ):
            raise SourceFormatError(
                f"the header of {name!r} goes from {texts.iloc[0]!r} to {texts.iloc[-1]!r}. Say what it is: "
                "time_format='%Y' or '%Y%m%d', or time=False for names that are no times."
            )
        return frame, None
    return frame, parse_times(texts, f"{name}: header", form=options.time_format)


def _doubts(
    frame: Any, values: np.ndarray, times: np.ndarray | None, options: TableOptions, name: str
) -> tuple[str, ...]:
    """Say what was assumed about columns that may be no readings, or not all of one quantity."""
    if options.columns is not None:
        return ()
    found = []
    counters = [str(column) for column in frame.columns if str(column).strip().lower() in PARTS]
    counters = [] if times is not None and options.axes == "tf" else counters  # features of a row, on purpose
    if options.time is not False and times is None:
        if len(frame.columns) > 1 and _rises(frame):
            counters = list(dict.fromkeys([str(frame.columns[0]), *counters]))
        index = frame.index.to_series()
        if _dated(index) or (index.dtype.kind in "iu" and str(index.name).lower() in TIME_NAMES):
            found.append(
                f"the row labels of {name!r}, {index.iloc[0]} to {index.iloc[-1]}, are not taken for times. If they "
                "are, name the index and say time=name with time_unit='s' or time_format='%Y'; else time=False."
            )
    if counters:
        found.append(
            f"the columns {counters} of {name!r} are taken for readings, and look like numbers of rows or parts of "
            "times. Row numbers are left out by columns=[…]; times are told by time=… with time_unit='s' or "
            "time_format='%Y', parts by time=['year', 'month', 'day', 'hour']; columns=[…] says that they are "
            "meant."
        )
    if options.axes is None and (pair := _apart(frame.columns, values)):
        found.append(
            f"the columns of {name!r} are taken for sensors of one quantity, which one mean and deviation scale, but "
            f"those of {pair[0]!r} and {pair[1]!r} have no values in common. Different quantities are axes='tf', each "
            "with its own mean and deviation; axes='tn' says that they are sensors."
        )
    return tuple(found)


def _rises(frame: Any) -> bool:
    """Whether the first column rises as counters, epoch seconds or years do, and another column does not."""
    steps = [
        np.unique(np.diff(frame.iloc[:, place].to_numpy()))
        for place in range(min(len(frame.columns), 9))
        if frame.dtypes.iloc[place].kind in "iu"
    ]
    first = frame.iloc[:, 0]
    if first.dtype.kind not in "iu" or len(frame) < 3 or not steps[0][0] > 0:
        return False
    others = len(steps) < min(len(frame.columns), 9) or any(len(step) > 1 for step in steps[1:])
    return others and (len(steps[0]) == 1 or _dated(first))


def _dated(column: Any) -> bool:
    """Whether a column of whole numbers rises like years, dates written as numbers or epoch seconds."""
    if (
        column.dtype.kind not in "iu"
        or len(column) < 3
        or not (column.is_monotonic_increasing and column.is_unique)
    ):
        return False
    return bool(column.between(1800, 2100).all() or column.iloc[0] > 15_000_000)


def _apart(columns: Any, values: np.ndarray) -> tuple[str, str] | None:
    """Two columns whose ranges have nothing in common, of a table whose column names are no ids."""
    names = [str(column) for column in columns]
    stems = {re.sub(r"\d+\w?$", "", name) for name in names if name}
    if len(values) < LEAST_ROWS or len(names) < 2 or len(stems) == 1 or all(len(name) == 1 for name in names):
        return None
    lows, highs = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)  # without NaN
    used = np.flatnonzero(lows < highs)
    lows, highs = lows[used], highs[used]
    if not used.size or lows.max() <= highs.min():
        return None
    return names[used[highs.argmin()]], names[used[lows.argmax()]]


def _counts(columns: Any) -> bool:
    """Whether column labels only count: they came from no header."""
    return bool(columns.dtype.kind in "iu" and np.array_equal(columns, np.arange(len(columns))))
