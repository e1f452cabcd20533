"""Long tables: one row a reading, an entity and a time beside it. Entities are laid end to end.

In: CSV or Parquet files or a frame, and the names of the two columns. Out: a source [row, feature] with
timestamps, the rows where each entity begins, and the entities' names. Never makes a grid of it: entities
keep their own lengths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError
from windowloader.hiding import hide_secrets

from .base import Described, optional
from .fetching import fetched
from .formats import is_url
from .handles import Stamp
from .memory import ArraySource, LoadedSource
from .table_files import as_frame, ids, numbers, read_table
from .table_times import ReadOptions, times_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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

    def read(self, path: str) -> Any:
        """Read a file."""
        texts = [self.entity, *(self.times if len(self.times) > 1 else ())]
        return read_table(path, self, texts=texts, wanted=self.values)

    def __call__(self, path: str) -> tuple[np.ndarray, Entities]:
        """Read a table."""
        return lay_out(self.read(path), self, os.path.basename(path))


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
    target : path, URL or pandas.DataFrame, or a list of them
        CSV or Parquet; the rows of several are taken together.
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
    if isinstance(target, str | os.PathLike) and not is_url(target):
        loaded = LoadedSource(Stamp.of(target), asked, axes="tf")
        _, described = loaded.loaded()
        return LongTable(loaded, described.borders, described.names)  # type: ignore[attr-defined]
    name = hide_secrets(target) if is_url(target) else "DataFrame"
    if isinstance(target, str | list | tuple):
        pandas = optional("pandas", extra="tables", purpose="opening a long table")
        parts = [target] if isinstance(target, str) else target
        target = pandas.concat([_frame(part, asked, storage_options) for part in parts], ignore_index=True)
    else:
        target = _frame(target, asked, storage_options)
    array, found = lay_out(target, asked, name)
    labels = {1: found.labels(1)}
    source = ArraySource(array, axes="tf", name=name, labels=labels, timestamps=found.timestamps())
    return LongTable(source, found.borders, found.names)


def _frame(part: Any, asked: LongOptions, storage_options: Mapping[str, Any] | None) -> Any:
    """Read one of several tables; a frame is one already."""
    if is_url(part):
        with fetched(part, storage_options) as path:
            return asked.read(path)
    if isinstance(part, str | os.PathLike):
        return asked.read(os.fspath(part))
    found = as_frame(part)
    return part if found is None else found


def lay_out(frame: Any, asked: LongOptions, name: str) -> tuple[np.ndarray, Entities]:
    """Rows by entity, and by time within, stable: what stands twice stays in the file's order."""
    import pandas

    if not {asked.entity, *asked.times}.isdisjoint(frame.index.names):
        frame = frame.reset_index()
    wanted = [asked.entity, *asked.times, *(asked.values or ())]
    if absent := [column for column in wanted if column not in frame.columns]:
        raise SourceFormatError(f"{name!r} has no columns {absent}; it has {list(frame.columns)[:20]}.")
    times = times_of(frame, asked.times, asked, name)
    codes, names = pandas.factorize(ids(frame[asked.entity]))
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise SourceFormatError(
            f"row {row} of {name!r} has no {asked.entity!r}. Drop such rows, or name them."
        )
    rest = [column for column in frame.columns if column not in (asked.entity, *asked.times)]
    values = frame[rest if asked.values is None else list(asked.values)]
    order = np.lexsort((times.view(np.int64), codes))
    borders = np.append(0, np.cumsum(np.bincount(codes, minlength=len(names)))).astype(np.int64)
    features, labels = np.asarray(values.columns).astype(str), np.asarray(names)
    labels = labels.astype(str) if labels.dtype.kind == "O" else labels
    return numbers(values, name)[order], Entities({1: features}, times[order], borders=borders, names=labels)
