"""Tables of time × sensor: CSV, Parquet, Feather, Excel, pandas frames. In memory, columns are sensors.

In: a file or a frame, perhaps which column is time. Out: `LoadedSource` or `ArraySource`, with timestamps and
labels, and with what was assumed about its columns, for a warning.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.axes import TIME_NAMES
from windowloader.errors import SourceFormatError

from .base import Described
from .handles import Stamp
from .memory import ArraySource, LoadedSource
from .table_files import read_table
from .table_times import PARTS, TIME_TEXT, ReadOptions, parse_times, some, times_of
from .table_values import ids, numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.clocks.calendars import Times

__all__ = ["TableOptions", "find_time", "index_times", "labels_of", "open_frame", "open_table", "wide"]

LEAST_ROWS = 12  # below which ranges of columns tell nothing
SAMPLE = 4096  # rows that tell them
QUANTITIES = (
    "temp", "humid", "dew", "press", "pres", "wind", "speed", "flow", "volume", "occup", "load", "power", "volt",
    "energy", "price", "rain", "precip", "radiation", "solar", "pm2", "pm10", "no2", "so2", "ozone", "co2",
)  # fmt: skip


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
        """Read a table; rows of a folder of files go by their times."""
        several = () if isinstance(self.time, str | bool | None) else self.time
        texts = None if self.by_row else several
        values, found = wide(
            read_table(path, self, texts=texts, wanted=self.columns, named=self.times),
            self,
            os.path.basename(path),
        )
        times = found.times
        if times is None or not os.path.isdir(path) or (times[1:] > times[:-1]).all():
            return values, found
        order = np.argsort(times, kind="stable")
        return values[order], Described(found.by_dim, times[order], found.doubts)

    @property
    def times(self) -> list[str]:
        """Columns of the time, where they are named."""
        if isinstance(self.time, str):
            return [self.time]
        return [] if self.time is None or isinstance(self.time, bool) else [*self.time]

    @property
    def by_row(self) -> bool:
        """Whether a row is a sensor or a feature, and a column a time."""
        return self.axes in ("nt", "ft")


def open_table(path: str | os.PathLike[str], *, axes: str | None = None, **options: Any) -> LoadedSource:
    """Open a file whose rows are times and whose columns are sensors.

    Parameters
    ----------
    path : path-like
        CSV (``.gz`` and the like are unpacked), Parquet, a folder of Parquet files, Feather or Excel.
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
    source.doubts = source.loaded()[1].doubts
    return source


def open_frame(frame: Any, *, axes: str | None = None, **options: Any) -> ArraySource:
    """Open a pandas.DataFrame, or Series, as `open_table` does a file; an index of times is the time."""
    name, single = type(frame).__name__, frame.ndim == 1 and frame.index.nlevels == 1
    values, described = wide(frame, TableOptions(axes=axes, **options), name)
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


def wide(frame: Any, options: TableOptions, name: str) -> tuple[np.ndarray, Described]:
    """Values [time, column] of a frame, its column labels and its times; [row, time] where a row is a sensor."""
    frame = _unstacked(frame.to_frame("value") if frame.ndim == 1 else frame, name)
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
    labels = labels_of(frame.index, frame.columns, timed=times is not None and not options.by_row)
    doubts = () if options.by_row else _doubts(frame, values, times, options, name)
    return values, Described(labels, times, doubts)


def labels_of(index: Any, columns: Any, *, timed: bool) -> dict[int, np.ndarray]:
    """Labels of rows, where they are no times, and of columns; none where they only count."""
    labels = {}
    for dim, side in enumerate((index, columns)):
        counted = side.dtype.kind in "iu" and np.array_equal(side, np.arange(len(side)))
        if not counted and not (dim == 0 and (timed or side.nlevels > 1)):
            labels[dim] = np.asarray(side)
            if side.dtype.kind not in "iuf":
                labels[dim] = np.asarray(side.astype(str)).astype(str)
    return labels


def _unstacked(frame: Any, name: str) -> Any:
    """Frame with one row a time, where a row of it is a time of an id: index (time, id)."""
    levels = list(frame.index.names)
    if len(levels) == 1:
        return frame.set_axis(frame.index.get_level_values(0))
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


def take_time(frame: Any, name: str, options: TableOptions) -> tuple[Any, Times | None]:
    """Frame without its columns of time, and the times as datetime64[ns]."""
    if options.time is False:
        return frame, None
    columns: list[Any] = options.times
    if len(columns) == 1 and frame.index.name == columns[0] and columns[0] not in frame.columns:
        where = f"{name}:{columns[0]}"
        index = frame.index.to_series()
        return frame, parse_times(index, where, unit=options.time_unit, form=options.time_format)
    if not columns and (times := index_times(frame.index, options, name)) is not None:
        return frame, times
    columns = columns or [find_time(frame, name)]
    if columns[0] is None:
        return frame, None
    times = times_of(frame, columns, options, name)
    return frame.drop(columns=columns), times


def index_times(index: Any, options: TableOptions, name: str) -> Times | None:
    """Return the times that the row labels of a frame are; None where they are none, or are not to be."""
    import pandas

    dated = index.dtype.kind in "mM" or isinstance(index, pandas.PeriodIndex)
    texts = [] if dated or index.dtype.kind in "iufb" else index[:8].astype(str)
    if options.time is False or not (dated or (len(texts) and all(TIME_TEXT.match(text) for text in texts))):
        return None
    return parse_times(index.to_series(), name, form=options.time_format)


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
    return first if len(samples) and all(TIME_TEXT.match(text) for text in samples) else None


def _by_row(frame: Any, options: TableOptions, name: str) -> tuple[Any, Times | None]:
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
    frame: Any, values: np.ndarray, times: Times | None, options: TableOptions, name: str
) -> tuple[str, ...]:
    """Say what was assumed about columns that may be no readings, or not all of one quantity."""
    if options.columns is not None:
        return ()
    found = []
    index = frame.index.to_series()
    if options.time is not False and times is None and len(index):
        named = index.dtype.kind in "iu" and str(index.name).lower() in TIME_NAMES
        if named or (index.dtype.kind in "iu" and _dated(index.to_numpy())):
            found.append(
                f"the row labels of {name!r}, the first {index.iloc[0]}, are not taken for times. If they are, name "
                "the index and say time=name with time_unit='s' or time_format='%Y'; else time=False."
            )
    counters = (
        [] if times is not None and options.axes == "tf" else _counters(frame, options.time is not False)
    )
    if counters:
        found.append(
            f"the columns {counters} of {name!r} are taken for readings, and look like numbers of rows or parts of "
            "times. Row numbers are left out by columns=[…]; times are told by time=… with time_unit='s' or "
            "time_format='%Y', parts by time=['year', 'month', 'day', 'hour']; columns=[…] says that they are "
            "meant."
        )
    if options.axes is None and (apart := _apart([str(column) for column in frame.columns], values)):
        found.append(
            f"the columns of {name!r} are taken for sensors of one quantity, which one mean and deviation scale, but "
            f"{apart}. Different quantities are axes='tf', each with its own mean and deviation; axes='tn' says that "
            "they are sensors."
        )
    return tuple(found)


def _counters(frame: Any, rising: bool) -> list[str]:
    """Columns that are parts of times by their name, or (``rising``) rise as counters, epochs or years do."""
    head = frame.iloc[:SAMPLE, :9]
    counted = [
        str(column)
        for column, values in head.items()
        if rising and values.dtype.kind in "iuf" and _counts(values.to_numpy(float, na_value=np.nan))
    ]
    counted = counted if len(counted) < len(head.columns) else []
    names = [str(column) for column in frame.columns]
    return [name for name in names if name in counted or name.strip().lower() in PARTS]


def _counts(values: np.ndarray) -> bool:
    """Whether whole numbers rise by one step throughout, or like years and epochs."""
    if len(values) < 3 or not np.isfinite(values).all() or (values % 1).any():
        return False
    steps = np.diff(values)
    return bool(steps[0] > 0 and (steps == steps[0]).all()) or _dated(values)


def _dated(values: np.ndarray) -> bool:
    """Whether whole numbers rise like years, dates written as numbers or epoch seconds."""
    rises = len(values) > 2 and bool((np.diff(values) > 0).all())
    return rises and (bool(values[0] > 15_000_000) or bool(values[0] >= 1800 and values[-1] <= 2100))


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
    kinds = {name: {word for word in QUANTITIES if word in name.lower()} for name in names}
    told = [name for name, kind in kinds.items() if kind]
    other = next((name for name in told[1:] if kinds[name].isdisjoint(kinds[told[0]])), None)
    return f"{told[0]!r} and {other!r} are names of different ones" if other else ""
