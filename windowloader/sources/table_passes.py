"""Rows of long tables brought into the order of their entities, in two passes.

In: Parquet files, which are read in batches, and frames. Out: `EntityCounts` of a first pass, and rows that a second
pass writes to their places in arrays, in memory or mapped. So entities may be scattered over the table. Memory holds a
batch, and an entity while it is sorted.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import pandas

from windowloader.errors import SourceFormatError
from windowloader.util.axes import check_dtype, pieces

from .mapping import release
from .table_columns import check_exact, chosen, ids, numbers, times_of
from .table_parquet import ParquetPart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .table_files import TableOptions

__all__ = ["count_entities", "described", "load", "save", "scatter", "sort"]

PIECE = 64 << 20  # bytes that are sorted at once
TOUCHED = 256 << 20  # bytes of mapped pages after which they are dropped
SAVED = 1 << 25  # rows between two states that a killed run goes on from


def _frames(
    parts: Sequence[Any], asked: TableOptions, *, whole: bool = True, skip: int = 0
) -> Iterator[tuple[int, Any]]:
    """Read parts in frames, each with the number of its row group, from row group ``skip`` on.

    With ``whole=False`` the columns of times and of floats in Parquet files are not read but filled with zeros.
    """
    number = 0
    for part in parts:
        if not isinstance(part, ParquetPart):
            yield 0, part if set(asked.named).isdisjoint(part.index.names) else part.reset_index()
            continue
        with part.opened() as file:
            schema, groups = file.schema_arrow, file.num_row_groups
        wanted = set(asked.named) if asked.columns else None
        floats = {} if whole else _unread(schema, asked)
        read = [name for name in schema.names if name not in floats and (wanted is None or name in wanted)]
        labels = [name for name in schema.names if name in (asked.entity, *asked.static)]
        for group, frame in part.frames(read, labels, max(skip - number, 0)):
            frame = frame if set(asked.named).isdisjoint(frame.index.names) else frame.reset_index()
            frame = frame.assign(**{name: np.zeros(len(frame), kind) for name, kind in floats.items()})
            order = dict.fromkeys([*schema.names, *frame.columns])
            yield number + group, frame[[name for name in order if name in frame.columns]]
        number += groups


def _unread(schema: Any, asked: TableOptions) -> dict[str, Any]:
    """Columns whose dtype is known without reading them: times, which count as floats here, and floats."""
    import pyarrow

    kept = {asked.entity, *asked.static}
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    kept |= {name for name in index if isinstance(name, str)} - {*asked.named}
    fields = [
        one for one in schema if one.name not in kept and (not asked.columns or one.name in asked.named)
    ]
    floats = {one.name: one.type.to_pandas_dtype() for one in fields if pyarrow.types.is_floating(one.type)}
    return floats | {one.name: np.float64 for one in fields if one.name in asked.times}


@dataclass(slots=True)
class EntityCounts:
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


def _owners(part: Any, found: EntityCounts, asked: TableOptions, name: str, rows: int) -> np.ndarray:
    """Return the number of the entity of each row."""
    own, labels = pandas.factorize(part[asked.entity])
    if (unnamed := np.flatnonzero(own < 0)).size:
        raise SourceFormatError(
            f"row {rows + unnamed[0]} of {name!r} has no {asked.entity!r}. Drop such rows."
        )
    seen = found.entities
    return np.array([seen.setdefault(label, len(seen)) for label in labels], np.int64)[own]


def count_entities(parts: Sequence[Any], asked: TableOptions, name: str) -> EntityCounts:
    """Count the rows of each entity, find a dtype that holds all values, and the static values."""
    found, dtypes, rows = EntityCounts(list(asked.columns or ())), set(), 0
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


def scatter(
    parts: Sequence[Any],
    asked: TableOptions,
    found: EntityCounts,
    values: np.ndarray,
    times: np.ndarray,
    name: str,
    saved: Path | None = None,
) -> str:
    """Write every row to the next place of its entity, and return the time zone.

    ``saved`` is where states are kept from which a killed run goes on.
    """  # fmt: skip
    cursor, zones, done, rows, since, touched = found.borders[:-1].copy(), set[str](), 0, 0, 0, 0
    if saved is not None and (state := load(saved)) is not None:
        cursor, zones, done = state["cursor"], set(state["zones"].tolist()), int(state["done"])
        rows = int((cursor - found.borders[:-1]).sum())
    for group, part in _frames(parts, asked, skip=done):
        if saved is not None and group > done and since >= SAVED:
            save(saved, values, times, cursor=cursor, zones=np.array(sorted(zones), str), done=group)
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
        rows, since = rows + len(part), since + len(part)
        touched += block.nbytes + 8192 * len(owners)
        if touched > TOUCHED:
            release(values, times)
            touched = 0
    return zones.pop() if len(zones) == 1 else ""


def save(path: Path, values: Any, times: Any, **state: Any) -> None:
    """Keep a state beside mapped arrays, once what was written is on the disk."""
    values.flush()
    times.flush()
    whole = path.with_suffix(".new.npz")
    np.savez(whole, **state)
    with open(whole, "rb") as file:
        os.fsync(file.fileno())
    os.replace(whole, path)


def load(path: Path) -> dict[str, np.ndarray] | None:
    """Return a state that `save` wrote; None where there is none, or it is damaged."""
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), open(path, "rb") as raw:
        return dict(np.load(raw))
    return None


def sort(values: np.ndarray, times: np.ndarray, borders: np.ndarray) -> None:
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


def described(found: EntityCounts, asked: TableOptions) -> dict[str, Any]:
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
    if column.dtype.kind in "iufb":
        return np.asarray(column)
    return np.asarray(column.fillna("").astype(str), str)
