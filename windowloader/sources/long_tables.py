"""Long tables: one row a reading, an entity and a time beside it. Entities are laid end to end.

In: files or frames, and the names of the two columns. Out: a source [row, feature] with timestamps, the rows where each
entity begins, and the entities' names. Never makes a grid of it: entities keep their own lengths. Of Parquet files no
more is in memory than the result and a batch of rows.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from windowloader.errors import SourceFormatError
from windowloader.hiding import hide_secrets
from windowloader.util.calendars import Times

from .base import Described
from .fetching import fetched
from .formats import is_pattern, is_url, matching
from .handles import Stamp
from .memory import ArraySource, LoadedSource
from .table_columns import as_frame, from_arrow, ids, numbers, widened
from .table_files import TableOptions, kind_of, parquet_tables, read_table
from .tables import chosen, times_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["LongTable", "open_long_table"]


@dataclass(frozen=True, slots=True)
class Entities(Described):
    """A description that also knows where each entity lies: see `LongTable`."""

    borders: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, "U1"))


class LongTable(NamedTuple):
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
) -> LongTable:
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
        See `TableOptions`.

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
    asked = TableOptions(entity=entity, time=time, columns=values, **options)
    if is_pattern(target):
        target = matching(target, storage_options or {})
    if isinstance(target, str | os.PathLike) and not is_url(target):
        loaded = LoadedSource(Stamp.of(target), partial(_read_long, options=asked), axes="tf")
        _, described = loaded.loaded()
        return LongTable(loaded, described.borders, described.names)  # type: ignore[attr-defined]
    name = hide_secrets(target) if is_url(target) else "DataFrame"
    with ExitStack() as files:
        parts = [
            files.enter_context(fetched(part, storage_options)) if is_url(part) else part
            for part in (target if isinstance(target, list | tuple) else [target])
        ]
        array, found = lay_out(parts, asked, name)
    source = ArraySource(array, axes="tf", name=name, labels=found.by_dim, timestamps=found.times)
    return LongTable(source, found.borders, found.names)


def _read_long(path: str, options: TableOptions) -> tuple[np.ndarray, Entities]:
    return lay_out([path], options, os.path.basename(path))


def lay_out(targets: Sequence[Any], asked: TableOptions, name: str) -> tuple[np.ndarray, Entities]:
    """Rows by entity, and by time within, stable: what stands twice stays in the order of the files."""
    import pandas

    tables = [_table(target, asked) for target in targets]
    sizes: Counter[Any] = Counter()  # rows of each entity, in the order in which they appear
    for part in _parts(tables, asked, [asked.entity]):
        own, labels = pandas.factorize(chosen(part, [asked.entity], name)[asked.entity])
        if (unnamed := np.flatnonzero(own < 0)).size:
            row = sizes.total() + unnamed[0]
            raise SourceFormatError(
                f"row {row} of {name!r} has no {asked.entity!r}. Drop such rows, or name them."
            )
        sizes.update(dict(zip(labels, np.bincount(own).tolist(), strict=True)))
    if not sizes:
        raise SourceFormatError(f"{name!r} has no rows.")
    borders = np.cumsum([0, *sizes.values()], dtype=np.int64)
    entities, free, rows = pandas.Index(list(sizes)), borders[:-1].copy(), 0
    times, values = np.empty(borders[-1], np.int64), np.empty(0)
    features: list[Any] = list(asked.columns or ())
    zones = set()
    for part in _parts(tables, asked, None if asked.columns is None else asked.named):
        where = f"{name} from row {rows}" if rows else name
        features = features or [column for column in part.columns if column not in asked.named]
        block = numbers(chosen(part, dict.fromkeys([*asked.named, *features]), name)[features], where)
        found = times_of(part, asked.times, asked, where)
        zones.add(found.calendar)
        values = values if rows else np.empty((len(times), len(features)), block.dtype)
        values = widened(values, block.dtype, name)
        entity = pandas.Series(entities.get_indexer(part[asked.entity]))
        place = free[entity] + entity.groupby(entity).cumcount().to_numpy()
        free += np.bincount(entity, minlength=len(free))
        times[place], values[place] = found.view(np.int64), block
        rows += len(part)
    for begin, end in itertools.pairwise(borders):
        own = times[begin:end]
        if (own[1:] < own[:-1]).any():
            order = begin + np.argsort(own, kind="stable")
            times[begin:end], values[begin:end] = times[order], values[order]
    labels = ids(pandas.Series(entities))
    labels = np.asarray(labels if labels.is_unique else entities)
    return values, Entities(
        {1: np.asarray(features).astype(str)},
        Times(times, zones.pop() if len(zones) == 1 else ""),
        borders=borders,
        names=labels if labels.dtype.kind in "iuf" else labels.astype(str),
    )


def _table(target: Any, asked: TableOptions) -> Any:
    """Frame of a target; of Parquet files their path, as they are read in parts."""
    if not isinstance(target, str | os.PathLike):
        return as_frame(target)
    path = os.fspath(target)
    return path if kind_of(path) == "Parquet" else read_table(path, asked)


def _parts(tables: Sequence[Any], asked: TableOptions, columns: Sequence[Any] | None) -> Iterator[Any]:
    """Frames of tables, one after another: of Parquet files in batches, of some columns."""
    for table in tables:
        frames = map(from_arrow, parquet_tables(table, asked, columns)) if isinstance(table, str) else [table]
        for part in frames:
            yield part if set(asked.named).isdisjoint(part.index.names) else part.reset_index()
