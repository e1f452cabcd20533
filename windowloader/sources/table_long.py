"""Long tables, with one row a reading, as one array in which the rows of each entity lie end to end.

In: Parquet files here or in a bucket, which may be larger than memory; other tables as frames. Out: `LongTable`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import MissingExtraError, SourceFormatError, hide_secrets
from windowloader.util.calendars import Times

from .base import Described
from .fetching import fetched
from .formats import by_name, is_pattern, is_url, matching
from .handles import Stamp
from .memory import ArraySource, LoadedSource
from .options import scheme_of
from .table_columns import as_frame
from .table_files import TableOptions, kind_of, read_table
from .table_parquet import ParquetPart, parquet_parts
from .table_passes import count_entities, described, scatter, sort
from .table_stored import LongTable, in_a_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LongTable", "open_long_table"]

SMALL = 64 << 20  # bytes of a table that is kept in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Entities(Described):
    """A description with what else `LongTable` has."""

    borders: np.ndarray
    names: np.ndarray
    static: Mapping[str, np.ndarray]


def open_long_table(
    target: Any,
    *,
    entity: str,
    time: str | Sequence[str],
    values: Sequence[str] | None = None,
    static: str | Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
    **options: Any,
) -> LongTable:
    """Open a table of one reading per row.

    Parameters
    ----------
    target : path, URL, pattern or frame, or a list of them
        Files as `open_table` takes them, folders and URLs of Parquet files; the rows of several are taken together.
    entity, time : str
        The columns with the entity and the time of each reading; ``time`` may be several, see `TableOptions`.
    values : sequence of str, optional
        The columns of numbers to take; None: all others.
    static : sequence of str
        Columns that are the same in all rows of an entity.
    storage_options : mapping, optional
        For URLs; see `windowloader.sources.options.locate`.
    cache_dir : path, optional
        Where a large table, sorted by entity, is kept for the next time; None: in a temporary folder.
    **options
        See `TableOptions`.

    Raises
    ------
    SourceFormatError
        For columns that are not there or hold no numbers, readings without entity or time, and static columns that
        change.

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
    asked = TableOptions(
        entity=entity,
        time=time,
        columns=values,
        static=[static] if isinstance(static, str) else static,
        **options,
    )
    by_path = isinstance(target, str | os.PathLike) and not is_url(target) and not is_pattern(target)
    name = os.path.basename(os.path.normpath(target)) if by_path else "DataFrame"
    name = hide_secrets(target) if is_url(target) else name
    parts = _parts(target, asked, storage_options or {})
    if _size(parts, asked) > SMALL:
        return in_a_file(parts, asked, name, cache_dir)
    if by_path:
        loaded = LoadedSource(Stamp.of(_local(target)), partial(_load, options=asked), axes="tf")
        found: Any = loaded.loaded()[1]
        return LongTable(loaded, found.borders, found.names, found.static)
    array, found = _in_memory(parts, asked, name)
    source = ArraySource(array, axes="tf", name=name, labels=found.by_dim, timestamps=found.times)
    return LongTable(source, found.borders, found.names, found.static)


def _parts(target: Any, asked: TableOptions, storage_options: Mapping[str, Any]) -> list[Any]:
    """Return the parts of a table: Parquet files, which are read in batches, paths of other files, and frames."""
    if is_pattern(target):
        target = matching(target, storage_options)
    if isinstance(target, list | tuple):
        return [part for one in target for part in _parts(one, asked, storage_options)]
    if not isinstance(target, str | os.PathLike):
        frame = as_frame(target)
        if frame is None or frame.ndim != 2:
            raise SourceFormatError(f"a {type(target).__name__} is no table of one reading per row.")
        return [frame]
    path = os.fspath(target)
    if not is_url(path):
        path = _local(path)
        return parquet_parts(path, asked.named) if kind_of(path) == "Parquet" else [path]
    named = by_name(path)
    if (named is None or named.name == "Parquet") and scheme_of(path) not in ("http", "https"):
        with suppress(MissingExtraError):  # without fsspec's package of the store it is fetched whole
            return parquet_parts(path, asked.named, storage_options)
    with fetched(path, storage_options) as file:
        return [read_table(file, asked)]


def _local(path: str | os.PathLike[str]) -> str:
    return os.path.expanduser(os.fspath(path).removeprefix("file://").removeprefix("local://"))


def _size(parts: Sequence[Any], asked: TableOptions) -> int:
    """Bytes of the array of a table of Parquet files; 0 where a part is in memory already."""
    total = 0
    for part in parts:
        if not isinstance(part, ParquetPart):
            return 0
        with part.opened() as file:
            features = len(asked.columns or ()) or len(file.schema_arrow.names) - len(asked.named) + len(
                part.added
            )
            total += file.metadata.num_rows * 8 * (1 + max(features, 1))
    return total


def _load(path: str, options: TableOptions) -> tuple[np.ndarray, Entities]:
    return _in_memory(_parts(path, options, {}), options, os.path.basename(path))


def _in_memory(parts: Sequence[Any], asked: TableOptions, name: str) -> tuple[np.ndarray, Entities]:
    parts = [read_table(part, asked) if isinstance(part, str) else part for part in parts]
    found = count_entities(parts, asked, name)
    rows = int(found.counts.sum())
    values, times = np.empty((rows, len(found.features)), found.dtype), np.empty(rows, np.int64)
    zone = scatter(parts, asked, found, values, times, name)
    sort(values, times, found.borders)
    labels = {1: np.asarray(found.features).astype(str)}
    return values, Entities(labels, Times(times, zone), **described(found, asked))
