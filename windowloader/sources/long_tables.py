"""Long tables: one row a reading, an entity and a time beside it. Entities are laid end to end.

In: files or frames, and the names of the two columns. Out: a source [row, feature] with timestamps, the rows where each
entity begins, and the entities' names. Never makes a grid of it: entities keep their own lengths. Of Parquet files no
more is in memory than the result and a batch of rows.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.clocks.calendars import Times
from windowloader.errors import SourceFormatError
from windowloader.hiding import hide_secrets

from .base import Described
from .fetching import fetched
from .handles import Stamp
from .memory import ArraySource, LoadedSource
from .patterns import is_pattern, is_url, matching
from .table_files import is_parquet, parquet_parts, read_table
from .table_times import ReadOptions, times_of
from .table_values import as_frame, ids, numbers, widened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["LongTable", "open_long_table"]


@dataclass(frozen=True, slots=True)
class Entities(Described):
    """A description that also knows where each entity lies: see `LongTable`."""

    borders: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, "U1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LongOptions(ReadOptions):
    """How a long table is read: as `ReadOptions`, and which columns are what.

    Parameters
    ----------
    entity : str
        Name of its column.
    time : str or sequence of str
        Names of its columns.
    values : sequence of str, optional
        The features; None: all other columns.
    """

    entity: str
    time: str | Sequence[str]
    values: Sequence[str] | None = None

    @property
    def times(self) -> list[str]:
        """Columns of the time."""
        return [self.time] if isinstance(self.time, str) else list(self.time)

    def parts(self, target: Any, *, ids_only: bool = False) -> Iterator[Any]:
        """Frames of a table, one after another: of a Parquet file in batches, of others the whole."""
        columns = [self.entity] if ids_only else None if self.values is None else self.wanted
        if isinstance(target, str | os.PathLike):
            path = os.fspath(target)
            if is_parquet(path):
                yield from parquet_parts(path, columns, self.entity, self.wanted)
                return
            texts = [self.entity, *(self.times if len(self.times) > 1 else ())]
            target = read_table(path, self, texts=texts, wanted=self.values, named=self.wanted)
        elif (found := as_frame(target)) is not None:
            target = found
        flat = {self.entity, *self.times}.isdisjoint(target.index.names)
        yield target if flat else target.reset_index()

    @property
    def wanted(self) -> list[str]:
        """Every column that is named."""
        return list(dict.fromkeys([self.entity, *self.times, *(self.values or ())]))

    def __call__(self, path: str) -> tuple[np.ndarray, Entities]:
        """Read a table."""
        return lay_out([path], self, os.path.basename(path))


@dataclass(frozen=True, slots=True)
class LongTable:
    """What a long table holds.

    Parameters
    ----------
    source : Source
        Axes ``tf``: entities end to end, rising in time within each.
    borders : ndarray, shape (entity + 1,), int64
        First row of each entity, and the end.
    names : ndarray, shape (entity,)
        As the table has them, in the order they first appear.
    """

    source: LoadedSource | ArraySource
    borders: np.ndarray
    names: np.ndarray


def open_long_table(
    target: Any,
    *,
    entity: str,
    time: str | Sequence[str],
    values: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Open a table of one row a reading.

    Parameters
    ----------
    target : path, URL, pattern or pandas.DataFrame, or a list of them
        Files as `windowloader.sources.tables.open_table` takes them; the rows of several are taken together.
    entity, time : str
        The columns that say whose a reading is and when it was; ``time`` may be several, see `TableOptions`.
    values : sequence of str, optional
        The columns of numbers to take; None: all others.
    storage_options : mapping, optional
        For URLs; see `windowloader.sources.options.locate`.
    **options
        See `LongOptions`.

    Returns
    -------
    LongTable

    Raises
    ------
    SourceFormatError
        For columns that are not there or hold no numbers, and readings without entity or time.

    Examples
    --------
    >>> import pandas
    >>> table = pandas.DataFrame(
    ...     {"meter": ["b", "a", "b"], "utc": ["2020-01-02", "2020-01-01", "2020-01-01"], "kwh": [1, 2, 3]}
    ... )
    >>> found = open_long_table(table, entity="meter", time="utc")
    >>> found.names, found.borders, found.source.array().ravel()
    (array(['b', 'a'], dtype='<U1'), array([0, 2, 3]), array([3, 1, 2]))
    """
    asked = LongOptions(entity=entity, time=time, values=values, **options)
    if is_pattern(target):
        target = matching(target, storage_options or {})
    if isinstance(target, str | os.PathLike) and not is_url(target):
        loaded = LoadedSource(Stamp.of(target), asked, axes="tf")
        _, described = loaded.loaded()
        return LongTable(loaded, described.borders, described.names)  # type: ignore[attr-defined]
    name = hide_secrets(target) if is_url(target) else "DataFrame"
    with ExitStack() as files:
        parts = [
            files.enter_context(fetched(part, storage_options)) if is_url(part) else part
            for part in (target if isinstance(target, list | tuple) else [target])
        ]
        array, found = lay_out(parts, asked, name)
    labels = {1: found.labels(1)}
    source = ArraySource(array, axes="tf", name=name, labels=labels, timestamps=found.timestamps())
    return LongTable(source, found.borders, found.names)


def lay_out(targets: Sequence[Any], asked: LongOptions, name: str) -> tuple[np.ndarray, Entities]:
    """Rows by entity, and by time within, stable: what stands twice stays in the order of the files."""
    stored = all(isinstance(target, str | os.PathLike) and is_parquet(target) for target in targets)
    frames = None if stored else [part for target in targets for part in asked.parts(target)]

    def parts(*, ids_only: bool = False) -> Iterable[Any]:
        if frames is not None:
            return frames
        return (part for target in targets for part in asked.parts(target, ids_only=ids_only))

    codes, sizes = _entities(parts(ids_only=True), asked, name)
    borders = np.append(0, np.cumsum(sizes)).astype(np.int64)
    times, values = np.empty(borders[-1], np.int64), np.empty(0)
    features: list[Any] = []
    free, rows, zones = borders[:-1].copy(), 0, set()
    for part in parts():
        where = f"{name} from row {rows}" if rows else name
        _check_columns(part, [*asked.wanted, *features], name)
        features = features or [*(asked.values or (c for c in part.columns if c not in asked.wanted))]
        found, block = times_of(part, asked.times, asked, where), numbers(part[features], where)
        values = (
            widened(values, block.dtype, name) if rows else np.empty((len(times), len(features)), block.dtype)
        )
        place = _places(part[asked.entity], codes, free)
        times[place], values[place] = found.view(np.int64), block
        zones.add(found.calendar)
        rows += len(part)
    _sort_within(times, values, borders)
    labels = _names(codes)
    described = Entities(
        {1: np.asarray(features).astype(str)},
        Times(times, zones.pop() if len(zones) == 1 else ""),
        borders=borders,
        names=labels,
    )
    return values, described


def _check_columns(part: Any, wanted: Sequence[Any], name: str) -> None:
    if absent := [column for column in wanted if column not in part.columns]:
        raise SourceFormatError(f"{name!r} has no columns {absent}; it has {list(part.columns)[:20]}.")


def _entities(parts: Iterable[Any], asked: LongOptions, name: str) -> tuple[dict[Any, int], list[int]]:
    """Numbers of the entities, in the order in which they appear, and how many rows each has."""
    import pandas

    codes: dict[Any, int] = {}
    sizes: list[int] = []
    rows = 0
    for part in parts:
        _check_columns(part, [asked.entity], name)
        own, names = pandas.factorize(part[asked.entity])
        if (own < 0).any():
            row = rows + int(np.flatnonzero(own < 0)[0])
            raise SourceFormatError(
                f"row {row} of {name!r} has no {asked.entity!r}. Drop such rows, or name them."
            )
        rows += len(part)
        for label, count in zip(names, np.bincount(own).tolist(), strict=True):
            if codes.setdefault(label, len(codes)) == len(sizes):
                sizes.append(0)
            sizes[codes[label]] += count
    if not rows:
        raise SourceFormatError(f"{name!r} has no rows.")
    return codes, sizes


def _places(column: Any, codes: Mapping[Any, int], free: np.ndarray) -> np.ndarray:
    """Rows of the result that the rows of a part take: the next free ones of their entities, which are then taken."""
    import pandas

    own, names = pandas.factorize(column)
    entity = np.array([codes[label] for label in names], np.int64)[own]
    order = np.argsort(entity, kind="stable")
    counts = np.bincount(entity, minlength=len(free))
    begins = np.cumsum(counts) - counts
    place = np.empty(len(entity), np.int64)
    place[order] = np.arange(len(entity)) + (free - begins)[entity[order]]
    free += counts
    return place


def _sort_within(times: np.ndarray, values: np.ndarray, borders: np.ndarray) -> None:
    """Sort the rows of each entity by time, in place, where they are not."""
    falls = np.flatnonzero(times[1:] < times[:-1]) + 1
    inside = falls[~np.isin(falls, borders)]
    for entity in np.unique(np.searchsorted(borders, inside, side="right") - 1).tolist():
        rows = slice(borders[entity], borders[entity + 1])
        order = np.argsort(times[rows], kind="stable")
        times[rows], values[rows] = times[rows][order], values[rows][order]


def _names(codes: Mapping[Any, int]) -> np.ndarray:
    """Labels of the entities: numbers where they are, or write, numbers."""
    import pandas

    names = pandas.Series(list(codes))
    found = ids(names)
    labels = np.asarray(found if found.is_unique else names)
    return labels if labels.dtype.kind in "iuf" else labels.astype(str)
