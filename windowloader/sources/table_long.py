"""Long tables, with one row a reading, as one array in which the rows of each entity lie end to end.

In: Parquet files here or in a bucket, which are read in batches; other tables as frames. Out: `LongTable`. A first pass
counts the rows of each entity, a second one writes every row to its place, in memory or, where the table is large, in a
mapped file. So entities may be scattered over the table. Memory holds a batch, and an entity while it is sorted.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas

from windowloader.errors import (
    MissingExtraError,
    SourceChangedError,
    SourceError,
    SourceFormatError,
    hide_secrets,
)
from windowloader.util.axes import check_dtype, pieces
from windowloader.util.calendars import Times
from windowloader.util.units import format_bytes

from .base import Described, Description, digest
from .fetching import fetched
from .formats import by_name, is_pattern, is_url, matching
from .handles import Stamp
from .mapping import Region, release
from .memory import ArraySource, LoadedSource, MappedSource
from .options import scheme_of
from .table_columns import as_frame, check_exact, chosen, ids, numbers, times_of
from .table_files import TableOptions, kind_of, read_table
from .table_parquet import ParquetPart, parquet_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .base import Source

__all__ = ["LongTable", "open_long_table"]

log = logging.getLogger("windowloader")

SMALL = 64 << 20  # bytes of a table that is kept in memory
PIECE = 64 << 20  # bytes that are sorted at once
TOUCHED = 256 << 20  # bytes of mapped pages after which they are dropped
SAVED = 1 << 25  # rows between two states that a killed run goes on from


class LongTable(NamedTuple):
    """A long table that is open.

    Parameters
    ----------
    source : Source
        Axes ``tf``: entities end to end, rising in time within each.
    borders : ndarray, shape (entity + 1,), int64
        First row of each entity, and the end.
    names : ndarray, shape (entity,)
        Ids as in the table, in the order of their first rows.
    static : mapping of str to ndarray, shape (entity,)
        Columns that do not change within an entity: numbers or text.
    """

    source: Source
    borders: np.ndarray
    names: np.ndarray
    static: Mapping[str, np.ndarray]


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
        return _in_a_file(parts, asked, name, cache_dir)
    if by_path:
        loaded = LoadedSource(Stamp.of(target), partial(_load, options=asked), axes="tf")
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
        path = os.path.expanduser(path.removeprefix("file://").removeprefix("local://"))
        return parquet_parts(path, asked.named) if kind_of(path) == "Parquet" else [path]
    named = by_name(path)
    if (named is None or named.name == "Parquet") and scheme_of(path) not in ("http", "https"):
        with suppress(MissingExtraError):  # without fsspec's package of the store it is fetched whole
            return parquet_parts(path, asked.named, storage_options)
    with fetched(path, storage_options) as file:
        return [read_table(file, asked)]


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


def _frames(
    parts: Sequence[Any], asked: TableOptions, *, whole: bool = True, skip: int = 0
) -> Iterator[tuple[int, Any]]:
    """Read parts in frames, each with the number of its row group, from row group ``skip`` on.

    With ``whole=False`` the columns of times and of floats in Parquet files are not read but filled with zeros.
    """
    number = 0
    for part in parts:
        if not isinstance(part, ParquetPart):
            if number >= skip:
                frame = part if set(asked.named).isdisjoint(part.index.names) else part.reset_index()
                yield number, frame
            number += 1
            continue
        with part.opened() as file:
            schema, groups = file.schema_arrow, file.num_row_groups
        wanted = None if asked.columns is None else set(asked.named)
        floats = {} if whole else _unread(schema, asked)
        read = [name for name in schema.names if name not in floats and (wanted is None or name in wanted)]
        texts = [
            one.name for one in schema if one.name in (asked.entity, *asked.static) and _is_text(one.type)
        ]
        for group, frame in part.frames(read, texts, max(skip - number, 0)):
            frame = frame if set(asked.named).isdisjoint(frame.index.names) else frame.reset_index()
            frame = frame.assign(**{name: np.zeros(len(frame), kind) for name, kind in floats.items()})
            order = dict.fromkeys([*schema.names, *frame.columns])
            yield number + group, frame[[name for name in order if name in frame.columns]]
        number += groups


def _is_text(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _unread(schema: Any, asked: TableOptions) -> dict[str, Any]:
    """Columns whose dtype is known without reading them: times, which count as floats here, and floats."""
    import pyarrow

    kept = {asked.entity, *asked.static}
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    kept |= {name for name in index if isinstance(name, str)} - {*asked.named}
    fields = [
        one for one in schema if one.name not in kept and (asked.columns is None or one.name in asked.named)
    ]
    floats = {one.name: one.type.to_pandas_dtype() for one in fields if pyarrow.types.is_floating(one.type)}
    return floats | {one.name: np.float64 for one in fields if one.name in asked.times}


@dataclass(slots=True)
class Survey:
    """What the first pass finds: features and dtype, and of each entity its rows and static values."""

    features: list[Any]
    entities: dict[Any, int] = field(default_factory=dict)  # numbered in the order in which they appear
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    dtype: Any = None
    static: dict[Any, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def borders(self) -> np.ndarray:
        """First row of each entity, and the end."""
        return np.concatenate([[0], np.cumsum(self.counts)])


def _owners(part: Any, found: Survey, asked: TableOptions, name: str, rows: int) -> np.ndarray:
    """Return the number of the entity of each row."""
    own, labels = pandas.factorize(part[asked.entity])
    if (unnamed := np.flatnonzero(own < 0)).size:
        raise SourceFormatError(
            f"row {rows + unnamed[0]} of {name!r} has no {asked.entity!r}. Drop such rows."
        )
    seen = found.entities
    return np.array([seen.setdefault(label, len(seen)) for label in labels], np.int64)[own]


def _survey(parts: Sequence[Any], asked: TableOptions, name: str) -> Survey:
    """Count the rows of each entity, find a dtype that holds all values, and the static values."""
    found, dtypes, rows = Survey(list(asked.columns or ())), set(), 0
    for _, part in _frames(parts, asked, whole=False):
        where = f"{name} from row {rows}" if rows else name
        found.features = found.features or [column for column in part.columns if column not in asked.named]
        part = chosen(part, dict.fromkeys([*asked.named, *found.features]), where)
        counts = np.bincount(_owners(part, found, asked, name, rows), minlength=len(found.entities))
        counts[: len(found.counts)] += found.counts
        found.counts = counts
        dtypes.add(numbers(part[found.features], where).dtype)
        if asked.static:
            pairs = part[[asked.entity, *asked.static]].drop_duplicates().astype(object)
            for label, *own in pairs.where(pairs.notna(), None).itertuples(index=False):
                if found.static.setdefault(label, tuple(own)) != tuple(own):
                    raise SourceFormatError(
                        f"{list(asked.static)} of {label!r} in {name!r} are {found.static[label]} and {tuple(own)}. "
                        "What changes within an entity is no static column; leave it out of static=."
                    )
        rows += len(part)
    if not rows:
        raise SourceFormatError(f"{name!r} has no rows.")
    found.dtype = check_dtype(np.result_type(*dtypes), name)
    return found


def _scatter(
    parts: Sequence[Any],
    asked: TableOptions,
    found: Survey,
    values: np.ndarray,
    times: np.ndarray,
    name: str,
    saved: Path | None = None,
) -> str:
    """Write every row to the next place of its entity, and return the time zone.

    ``saved`` is where states are kept from which a killed run goes on.
    """  # fmt: skip
    cursor, zones, done, rows, since, touched = found.borders[:-1].copy(), set[str](), 0, 0, 0, 0
    if saved is not None and saved.exists():
        with np.load(saved) as state:
            cursor, zones, done = state["cursor"], set(state["zones"].tolist()), int(state["done"])
            rows = int((cursor - found.borders[:-1]).sum())
    for group, part in _frames(parts, asked, skip=done):
        if saved is not None and group > done and since >= SAVED:
            _save(saved, values, times, cursor=cursor, zones=np.array(sorted(zones), str), done=group)
            since = 0
        done = group
        where = f"{name} from row {rows}" if rows else name
        part = chosen(part, dict.fromkeys([*asked.named, *found.features]), where)
        owner, block = _owners(part, found, asked, name, rows), numbers(part[found.features], where)
        check_exact(pandas.DataFrame(block, columns=found.features), found.dtype, where)
        moments = times_of(part, asked.times, where, asked.time_unit, asked.time_format)
        zones.add(moments.calendar)
        order = np.argsort(owner, kind="stable")
        begins = np.flatnonzero(np.diff(owner[order], prepend=-1))
        counts, owners = np.diff(begins, append=len(owner)), owner[order[begins]]
        place = np.repeat(cursor[owners] - begins, counts) + np.arange(len(owner))
        values[place], times[place] = block[order], moments.view(np.int64)[order]
        cursor[owners] += counts
        rows, since, touched = (
            rows + len(part),
            since + len(part),
            touched + block.nbytes + 8192 * len(owners),
        )
        if touched > TOUCHED:
            release(values, times)
            touched = 0
    return zones.pop() if len(zones) == 1 else ""


def _save(path: Path, values: Any, times: Any, **state: Any) -> None:
    """Keep a state beside mapped arrays, once what was written is on the disk."""
    values.flush()
    times.flush()
    whole = path.with_suffix(".new.npz")
    np.savez(whole, **state)
    with open(whole, "rb") as file:
        os.fsync(file.fileno())
    os.replace(whole, path)


def _sort(values: np.ndarray, times: np.ndarray, borders: np.ndarray) -> None:
    """Sort the rows of each entity by time; equal times keep their order."""
    for first, last in pieces(borders, max(PIECE // (8 + values[:1].nbytes), 1)):
        inner = borders[first : last + 1]
        rows, found = slice(inner[0], inner[-1]), times[inner[0] : inner[-1]]
        back = np.diff(found) < 0
        back[(inner[1:-1] - inner[0]) - 1] = False  # from one entity to the next
        if back.any():
            order = np.lexsort((found, np.repeat(np.arange(last - first), np.diff(inner))))
            values[rows], times[rows] = values[rows][order], found[order]
        release(values, times)


def _described(found: Survey, asked: TableOptions) -> dict[str, Any]:
    """Return borders and names of entities, and static values, as arrays."""
    names = pandas.Series(list(found.entities))
    numbered = ids(names)
    labels = np.asarray(numbered if numbered.is_unique else names)
    static = pandas.DataFrame(
        [found.static.get(one, ()) for one in found.entities], columns=list(asked.static)
    )
    return {
        "borders": found.borders,
        "names": labels if labels.dtype.kind in "iuf" else labels.astype(str),
        "static": {str(name): _plain(column) for name, column in static.infer_objects().items()},
    }


def _plain(column: Any) -> np.ndarray:
    """Numbers of a static column, or text, which is empty where it is missing."""
    return (
        np.asarray(column) if column.dtype.kind in "iufb" else np.asarray(column.fillna("").astype(str), str)
    )


# -- in memory ---------------------------------------------------------------------------------------------------------


def _load(path: str, options: TableOptions) -> tuple[np.ndarray, Entities]:
    return _in_memory(_parts(path, options, {}), options, os.path.basename(path))


def _in_memory(parts: Sequence[Any], asked: TableOptions, name: str) -> tuple[np.ndarray, Entities]:
    parts = [read_table(part, asked) if isinstance(part, str) else part for part in parts]
    found = _survey(parts, asked, name)
    rows = int(found.counts.sum())
    values, times = np.empty((rows, len(found.features)), found.dtype), np.empty(rows, np.int64)
    zone = _scatter(parts, asked, found, values, times, name)
    _sort(values, times, found.borders)
    labels = {1: np.asarray(found.features).astype(str)}
    return values, Entities(labels, Times(times, zone), **_described(found, asked))


# -- in a file ---------------------------------------------------------------------------------------------------------


class LongSource(MappedSource):
    """The rows of a large table in a mapped file, which is as good as any other that was made of the same table."""

    def __init__(self, region: Region, state: str, **array: Any) -> None:
        self._state = state
        super().__init__(region, axes="tf", **array)

    def fingerprint(self) -> str:
        """Shape, dtype and what the table was made of."""
        return digest(self.axes, self.shape, self.dtype.str, self._state)


@dataclass(frozen=True, slots=True)
class StoredTimes(Description):
    """Names of features, and times in a mapped file."""

    features: np.ndarray
    region: Region
    zone: str

    def labels(self, dim: int) -> np.ndarray | None:
        """Names of the features."""
        return self.features if dim == 1 else None

    def timestamps(self) -> np.ndarray:
        """Return the times of the rows, mapped."""
        return Times(self.region.map(), self.zone)


def _in_a_file(parts: Sequence[Any], asked: TableOptions, name: str, cache_dir: str | None) -> LongTable:
    """Open the file of a table, made if it is not there: other processes wait until it is."""
    state = [part.identity() for part in parts]
    key = digest(repr(asked), [part.path for part in parts])
    folder = Path(
        tempfile.mkdtemp(prefix="windowloader-") if cache_dir is None else _folder(cache_dir, key, state)
    )
    used = os.open(folder / "used", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(used, fcntl.LOCK_SH)  # until the source goes
        with open(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            table = _read(folder) or _build(folder, parts, asked, name, state)
        rows, features = int(table["borders"][-1]), table["features"]
        dtype = table["like"].dtype
        regions = [
            Region.packed(Stamp.of(folder / file), offset=0, shape=shape, dtype=kind)
            for file, shape, kind in (("values", (rows, len(features)), dtype), ("times", (rows,), np.int64))
        ]
        description = StoredTimes(features, regions[1], str(table["zone"]))
        source = LongSource(regions[0], digest(state, key), name=name, description=description)
    except BaseException:
        _close(used, folder if cache_dir is None else None, os.getpid())
        raise
    weakref.finalize(source, _close, used, folder if cache_dir is None else None, os.getpid())
    static = {one.removeprefix("static."): table[one] for one in table if one.startswith("static.")}
    return LongTable(source, table["borders"], table["names"], static)


def _folder(cache_dir: str, key: str, state: Any) -> str:
    """Make the folder of a table in its present state, and remove those of other states that nobody uses."""
    folder = Path(cache_dir, f"long-table.{key}.{digest(state)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SourceError(f"{str(folder)!r} is not a folder of this user alone. Choose another cache_dir=.")
    for other in folder.parent.glob(f"long-table.{key}.*"):
        with suppress(OSError):
            if other != folder:
                with open(os.open(other / "used", os.O_RDWR | os.O_NOFOLLOW)) as used:
                    fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(other)
    return str(folder)


def _read(folder: Path) -> dict[str, np.ndarray] | None:
    """Read what describes a table; None where it is not complete."""
    with suppress(OSError, ValueError, KeyError), np.load(folder / "table.npz") as file:
        table = dict(file)
        sizes = [os.path.getsize(folder / name) for name in ("values", "times")]
        rows, row_bytes = int(table["borders"][-1]), len(table["features"]) * table["like"].dtype.itemsize
        return table if sizes == [rows * row_bytes, rows * 8] else None
    return None


def _build(
    folder: Path, parts: Sequence[Any], asked: TableOptions, name: str, state: Any
) -> dict[str, np.ndarray]:
    """Write the files of a table and return what `_read` reads; its file tells that all are complete."""
    log.info("%s is sorted by %s into %s", name, asked.entity, folder)
    found, saved = _survey(parts, asked, name), folder / "progress.npz"
    rows = int(found.counts.sum())
    values = _allocated(folder / "values", found.dtype, (rows, len(found.features)))
    times = _allocated(folder / "times", np.dtype(np.int64), (rows,))
    zone = _scatter(parts, asked, found, values, times, name, saved)
    saved.unlink(missing_ok=True)  # from a sort that was killed none goes on
    _sort(values, times, found.borders)
    about = _described(found, asked)
    about |= {f"static.{one}": column for one, column in about.pop("static").items()}
    features, like = np.asarray(found.features).astype(str), np.empty(0, found.dtype)
    about |= {"features": features, "like": like, "zone": np.array(zone)}
    if [part.identity() for part in parts] != state:
        raise SourceChangedError(f"{name!r} changed while it was read. Open it again.")
    _save(folder / "table.npz", values, times, **about)
    return about


def _allocated(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> Any:
    """Map a file of a size for writing; its bytes are allocated, as a write to a full device would be a bus error."""
    size = dtype.itemsize * int(np.prod(shape))
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as file:
        try:
            os.truncate(file.fileno(), size)
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise SourceError(
                f"{format_bytes(size)} are needed in {str(path.parent)!r}: {error}. Give the folder of a larger disk, "
                "cache_dir= (or the environment's TMPDIR)."
            ) from error
    return np.memmap(path, dtype, "r+", shape=shape)


def _close(used: int, folder: Path | None, process: int) -> None:
    """Release a table, and remove a temporary one in the process that made it."""
    os.close(used)
    if folder is not None and os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
