"""Missing values: what marks them, how many each row has, and which windows read too many.

In: a series whose variables declare what stands for missing; a spec; starts. Out: `MissingScan`, a few bytes per row
with missing values; the starts that `max_missing` leaves; errors that name a missing value. Never keeps values, and
never reads a variable that declares nothing.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from windowloader.series.packed import pack_integers, unpack_integers
from windowloader.sources.base import digest
from windowloader.sources.disk_cache import keep, recall
from windowloader.sources.mapping import mapping_of
from windowloader.util.ranks import in_shares

from .reads import READ_BYTES, row_ranges, rows_in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from windowloader.series.series import Series
    from windowloader.series.variable import Variable

    Progress = Callable[[int, int], object]
    Table = tuple["RowCounts", ...]

__all__ = ["MissingScan", "RowCounts", "count_variables", "is_missing", "scan", "sentinel"]

KEPT_VARIABLES = 64  # variables whose counts stay in the process


def sentinel(missing: float | None, dtype: np.dtype) -> np.ndarray | None:
    """Mark of missing values in a variable's own dtype, shape (1,); None where no value of it can be missing.

    Floats: NaN is missing too wherever anything is declared. Integers: only a whole number in range can occur.

    Examples
    --------
    >>> sentinel(-1.0, np.dtype(np.int16)), sentinel(float("nan"), np.dtype(np.int16))
    (array([-1], dtype=int16), None)
    """
    if missing is None:
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.array([missing]).astype(dtype)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not np.isfinite(missing) or missing != int(missing) or not low <= int(missing) <= high:
        return None
    return np.array([int(missing)]).astype(dtype)


def is_missing(values: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """Whether each raw value is the mark, or NaN."""
    return np.asarray((values == mark[0]) | (values != values))  # NaN


@dataclass(frozen=True, slots=True, eq=False)
class RowCounts:
    """How many nodes miss one feature, for the rows where any does.

    Parameters
    ----------
    rows : ndarray, shape (row,), int64
        Rows with missing values, rising.
    counts : ndarray, shape (row,), int32
        Missing values of each of them.
    nodes : int
        Nodes that each value stands for.
    has_time : bool
        Whether counts differ from row to row.

    Examples
    --------
    >>> counts = RowCounts(np.array([2]), np.array([3]))
    >>> counts.between(1, 4), counts.between(0, 2), counts.total
    (array([0, 3, 0]), None, 3)
    """

    rows: np.ndarray
    counts: np.ndarray
    nodes: int = 1
    has_time: bool = True

    @property
    def total(self) -> int:
        """Missing values of all rows."""
        return int(self.counts.sum()) * self.nodes

    def between(self, start: int, stop: int) -> np.ndarray | None:
        """Return counts of rows ``[start, stop)``, int64; None where nothing is missing."""
        if not self.has_time:
            return np.full(stop - start, self.total)
        low, high = np.searchsorted(self.rows, (start, stop))
        if low == high:
            return None
        out = np.zeros(stop - start, np.int64)
        out[self.rows[low:high] - start] = self.counts[low:high]
        return out * self.nodes


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MissingScan:
    """What is missing in a series.

    Parameters
    ----------
    cells : mapping of str to int
        Cells of each feature that can be missing, by name.
    counts : mapping of str to RowCounts
        How many of them are, by row.
    num_steps : int
        Rows of the series.

    Examples
    --------
    >>> import windowloader as wl
    >>> found = wl.scan(wl.Series(np.array([[1.0, 0.0], [2.0, 3.0]]), missing=0.0))
    >>> found
    MissingScan(value: 1 of 4 missing, 25.00 %)
    >>> found.share["value"], found.rows("value")
    (0.25, array([1, 0]))
    """

    cells: Mapping[str, int]
    counts: Mapping[str, RowCounts]
    num_steps: int

    @property
    def missing(self) -> dict[str, int]:
        """Missing cells of each feature."""
        return {name: counts.total for name, counts in self.counts.items()}

    @property
    def share(self) -> dict[str, float]:
        """Share of missing cells of each feature."""
        return {name: total / max(self.cells[name], 1) for name, total in self.missing.items()}

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Nodes that miss a feature in each row of ``[start, stop)``, int64."""
        stop = self.num_steps if stop is None else stop
        found = self.counts[name].between(start, stop)
        return np.zeros(stop - start, np.int64) if found is None else found

    def __repr__(self) -> str:
        share = self.share
        parts = [
            f"{name}: {total:,} of {self.cells[name]:,} missing, {100 * share[name]:.2f} %"
            for name, total in self.missing.items()
        ]
        return f"MissingScan({'; '.join(parts) or 'nothing is declared missing'})"


def scan(series: Series, *, progress: Progress | None = None) -> MissingScan:
    """Count what is missing, in one pass over the variables that declare it.

    For files and stores the counts stay in the process, by fingerprint, and in ``cache_dir`` where rows are cached
    there; window sets with `max_missing` use them instead of reading again. Ranks of torch.distributed that scan the
    same data each read a share. Arrays in memory are counted anew each time: their values may have changed.

    Parameters
    ----------
    series : Series
        Only variables with ``missing=`` are read.
    progress : callable, optional
        Called with rows done and rows in all.

    Returns
    -------
    MissingScan

    Examples
    --------
    >>> import windowloader as wl
    >>> wl.scan(wl.Series(np.array([[1.0, np.nan, 2.0]]).T, missing=np.nan)).missing
    {'value': 1}
    """
    cells, counts = {}, {}
    for number, table in count_variables(series, range(len(series.variables)), progress=progress).items():
        variable = series.variables[number]
        for feature, found in zip(variable.features, table, strict=True):
            name = feature if feature not in counts else f"{variable.name}.{feature}"
            cells[name] = variable.num_rows * variable.num_nodes
            counts[name] = found
    return MissingScan(cells, counts, series.num_steps)


# Counts of variables in files and stores, by what identifies their bytes; the least recently used goes first.
_kept: dict[tuple[object, ...], Table] = {}


def count_variables(
    series: Series, wanted: Iterable[int], *, progress: Progress | None = None
) -> dict[int, Table]:
    """Count the missing values of each feature of the wanted variables; those that can miss none are left out."""
    marks = {
        number: mark
        for number in wanted
        if number >= 0
        and (mark := sentinel(series.variables[number].missing, series.variables[number].dtype)) is not None
    }
    total = sum(series.variables[number].num_rows for number in marks)
    done, tables = 0, {}
    for number, mark in marks.items():
        variable = series.variables[number]
        key = _identity(variable, mark)
        table = _kept.pop(key, None)
        if table is None:
            called = None if progress is None else partial(_report, progress, done, total)
            table = _recall_or_count(variable, mark, key, called)
        if key:
            _kept[key] = table
            if len(_kept) > KEPT_VARIABLES:
                _kept.pop(next(iter(_kept)), None)
        done += variable.num_rows
        tables[number] = table
    return tables


def _report(call: Progress, before: int, total: int, done: int) -> None:
    call(before + done, total)


def _identity(variable: Variable, mark: np.ndarray) -> tuple[object, ...]:
    """Identify a variable's bytes; () in memory, where values may change unnoticed.

    For a mapped file the map itself is part of it: two files written in one tick of the clock may share size and time.
    """
    view = variable.view()
    known = (variable.source.name, variable.source.fingerprint(), variable.features, mark.tobytes())
    if view is None:
        return known
    mapping = mapping_of(view)
    return () if mapping is None else (*known, weakref.ref(mapping[0]))


def _recall_or_count(
    variable: Variable, mark: np.ndarray, key: tuple[object, ...], progress: Callable[[int], object] | None
) -> Table:
    """Take counts from the disk cache that keeps the variable's rows, or count: in shares, one for each rank."""
    ranges = list(row_ranges(variable, 0, variable.num_rows, READ_BYTES))
    count = partial(_count, variable, mark, progress)
    if not key:
        return _unpack([count(ranges)])
    folder, shared = variable.source.cached_in, digest(*key[:4])
    state = "" if folder is None else variable.source.state()
    if folder is not None and (data := recall(folder, shared + state)) is not None:
        return _unpack([data])
    table = _unpack(in_shares(shared, ranges, count))
    if progress is not None:
        progress(variable.num_rows)
    if folder is not None:
        keep(folder, shared + state, _pack(table))
    return table


def _count(
    variable: Variable,
    mark: np.ndarray,
    progress: Callable[[int], object] | None,
    ranges: Sequence[tuple[int, int]],
) -> bytes:
    """Count in one pass over some ranges of rows; see `_pack`."""
    found: list[list[RowCounts]] = [[] for _ in variable.features]
    for start, stop, rows in rows_in_order(variable, ranges):
        for feature, parts in enumerate(found):
            counts = is_missing(rows[:, :, feature], mark).sum(axis=1, dtype=np.int32)
            there = np.flatnonzero(counts)
            parts.append(RowCounts(there + start, counts[there]))
        if progress is not None:
            progress(stop)
    return _pack([_join(parts) for parts in found])


def _join(parts: Sequence[RowCounts]) -> RowCounts:
    return RowCounts(
        np.concatenate([part.rows for part in parts]), np.concatenate([part.counts for part in parts])
    )


def _pack(table: Sequence[RowCounts]) -> bytes:
    """Return the counts of each feature as bytes."""
    return pack_integers(
        np.concatenate([part for one in table for part in ([len(one.rows)], one.rows, one.counts)])
    )


def _unpack(shares: Sequence[bytes]) -> Table:
    """Return the counts of each feature, those of consecutive ranges of rows together."""
    tables: list[list[RowCounts]] = []
    for share in shares:
        values, table = unpack_integers(share), []
        while len(values):
            rows, counts, values = np.split(values[1:], [values[0], 2 * values[0]])
            table.append(RowCounts(rows, counts.astype(np.int32)))
        tables.append(table)
    return tuple(_join(parts) for parts in zip(*tables, strict=True))
