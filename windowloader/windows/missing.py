"""How much is missing, row by row, counted in one pass.

In: a series whose variables declare what stands for missing. Out: `MissingScan`, a few bytes a row that
misses something. Never keeps values, and never reads a variable that declares nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.sources.mapping import mapping_of, unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from windowloader.series.series import Series
    from windowloader.series.variable import Variable
    from windowloader.sources import Pending

    Progress = Callable[[int, int], object]
    Table = tuple["RowCounts", ...]

__all__ = ["MissingScan", "RowCounts", "count_variables", "scan"]

PIECE_ROWS = 1 << 16  # rows kept together: a row's number within a piece fits 16 bits
READ_BYTES = 32 << 20  # rows asked of storage at once
READS_AHEAD = 2
KEPT_VARIABLES = 64  # whose counts stay in the process


class RowCounts:
    """How many nodes miss one feature, by row: nothing where none does, else whichever form is smaller.

    Examples
    --------
    >>> counts = RowCounts()
    >>> counts.append(np.array([0, 0, 3]))
    >>> counts.between(1, 4), counts.between(0, 2), counts.total
    (array([0, 3, 0]), None, 3)
    """

    __slots__ = ("_pieces", "total")

    def __init__(self) -> None:
        # One a piece: None, or (rows that miss something, their counts), or (None, counts of all rows).
        self._pieces: list[tuple[np.ndarray | None, np.ndarray] | None] = []
        self.total = 0

    def append(self, counts: np.ndarray) -> None:
        """Take the counts of the next 65,536 rows; of fewer at the end only."""
        rows = np.flatnonzero(counts)
        if len(rows) == 0:
            self._pieces.append(None)
            return
        self.total += int(counts.sum())
        narrow = counts.astype(np.min_scalar_type(int(counts.max())))
        listed = (2 + narrow.itemsize) * len(rows) < narrow.nbytes
        self._pieces.append((rows.astype(np.uint16), narrow[rows]) if listed else (None, narrow))

    def between(self, start: int, stop: int) -> np.ndarray | None:
        """Return counts of rows ``[start, stop)``, int64; None where nothing is missing."""
        out = None
        for number in range(start // PIECE_ROWS, min(-(-stop // PIECE_ROWS), len(self._pieces))):
            piece = self._pieces[number]
            if piece is None:
                continue
            rows, counts = piece
            where = (np.arange(len(counts)) if rows is None else rows.astype(np.int64)) + number * PIECE_ROWS
            low, high = np.searchsorted(where, (start, stop))
            if counts[low:high].any():
                out = np.zeros(stop - start, np.int64) if out is None else out
                out[where[low:high] - start] = counts[low:high]
        return out

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = (array for piece in self._pieces if piece is not None for array in piece if array is not None)
        return sum(array.nbytes for array in held)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MissingScan:
    """What is missing in a series.

    Parameters
    ----------
    cells : mapping of str to int
        Cells of each feature that can be missing, by name.
    counts : mapping of str to RowCounts
        How many of them are, by row.

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
        return {name: counts.total / max(self.cells[name], 1) for name, counts in self.counts.items()}

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Nodes that miss a feature in each row of ``[start, stop)``, int64."""
        stop = self.num_steps if stop is None else stop
        found = self.counts[name].between(start, stop)
        return np.zeros(stop - start, np.int64) if found is None else found

    def __repr__(self) -> str:
        parts = [
            f"{name}: {counts.total:,} of {self.cells[name]:,} missing, {self.share[name]:.2%}".replace(
                "%", " %"
            )
            for name, counts in self.counts.items()
        ]
        return f"MissingScan({'; '.join(parts) or 'nothing is declared missing'})"


def scan(series: Series, *, progress: Progress | None = None) -> MissingScan:
    """Count what is missing, in one pass over the variables that declare it.

    For files and stores the counts stay in the process, by fingerprint, and window sets with `max_missing` use
    them instead of reading again. Arrays in memory are counted anew each time, at the speed of memory: their
    values may have changed.

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
    tables = count_variables(series, range(len(series.variables)), progress=progress)
    names, cells, counts = [], [], []
    for number, table in tables.items():
        variable = series.variables[number]
        for feature, found in zip(variable.features, table, strict=True):
            names.append(feature if feature not in names else f"{variable.name}.{feature}")
            cells.append((variable.num_rows if variable.has_time else 1) * variable.num_nodes)
            counts.append(found)
    return MissingScan(
        dict(zip(names, cells, strict=True)), dict(zip(names, counts, strict=True)), series.num_steps
    )


# Counts of variables in files and stores, by what tells their bytes; the least recently used goes first.
_kept: OrderedDict[tuple[object, ...], Table] = OrderedDict()


def count_variables(
    series: Series, wanted: Iterable[int], *, progress: Progress | None = None
) -> dict[int, Table]:
    """Count the missing values of each feature of the wanted variables; those that can miss none are left out."""
    from .marks import sentinel

    chosen = [(number, series.variables[number]) for number in wanted if number >= 0]
    marks = [sentinel(variable.missing, variable.dtype) for _, variable in chosen]
    total = sum(found.num_rows for (_, found), mark in zip(chosen, marks, strict=True) if mark is not None)
    done, tables = 0, {}
    for (number, variable), mark in zip(chosen, marks, strict=True):
        if mark is None:
            continue
        key = _identity(variable, mark)
        table = _kept.pop(key, None) if key is not None else None
        if table is None:
            table = _count(variable, mark, progress, done, total)
        if key is not None:
            _kept[key] = table
            while len(_kept) > KEPT_VARIABLES:
                _kept.popitem(last=False)
        done += variable.num_rows
        tables[number] = table
    return tables


def _identity(variable: Variable, mark: np.ndarray) -> tuple[object, ...] | None:
    """Tell a variable's bytes from any others; None in memory, where values may change unnoticed.

    A map is told by itself, too: two files written in one tick of the clock may share size and time.
    """
    view = variable.view()
    told = (variable.source.name, variable.source.fingerprint(), variable.features, mark.tobytes())
    if view is None:
        return told
    mapping = mapping_of(view)
    return None if mapping is None else (*told, weakref.ref(mapping[0]))


def _count(variable: Variable, mark: np.ndarray, progress: Progress | None, done: int, total: int) -> Table:
    """Count in one pass, a piece at a time."""
    table = tuple(RowCounts() for _ in variable.features)
    for begin in range(0, variable.num_rows, PIECE_ROWS):
        end = min(begin + PIECE_ROWS, variable.num_rows)
        counts = np.zeros((len(table), end - begin), np.int64)
        for start, rows in _rows(variable, begin, end):
            _count_rows(rows, mark, counts, start - begin)
            if progress is not None:
                progress(done + start + len(rows), total)
        for feature, found in zip(table, counts, strict=True):
            feature.append(found)
    return table


def _count_rows(rows: np.ndarray, mark: np.ndarray, counts: np.ndarray, first: int) -> None:
    from .marks import is_missing
    from .missing_kernels import count_missing

    by_feature = rows.transpose(0, 2, 1)
    if rows.dtype == np.float16:  # which numba does not compile
        counts[:, first : first + len(rows)] += np.count_nonzero(is_missing(by_feature, mark), axis=2).T
    else:
        count_missing(by_feature, mark, counts, first)


def _rows(variable: Variable, begin: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
    """Rows in order, some reads ahead where they must be read; valid until the next is asked for."""
    view = variable.view()
    if view is not None:
        with unchanged(view):
            yield begin, view[begin:end]
        return
    ahead: deque[tuple[int, np.ndarray, Pending]] = deque()
    try:
        for start, stop in itertools.pairwise(_cuts(variable, begin, end)):
            rows = np.empty((stop - start, variable.num_nodes, variable.num_features), variable.dtype)
            ahead.append((start, rows, variable.submit(start, stop, rows)))
            if len(ahead) == READS_AHEAD:
                yield _finish(ahead.popleft())
        while ahead:
            yield _finish(ahead.popleft())
    finally:  # memory that a read writes to must outlive it
        for _, _, pending in ahead:
            with contextlib.suppress(Exception):
                pending.result()


def _finish(read: tuple[int, np.ndarray, Pending]) -> tuple[int, np.ndarray]:
    read[2].result()
    return read[0], read[1]


def _cuts(variable: Variable, begin: int, end: int) -> list[int]:
    """Cut ``[begin, end)`` into reads of about `READ_BYTES`, at edges of chunks where there are any."""
    rows = max(1, READ_BYTES // max(variable.row_bytes, 1))
    edges = variable.source.storage().edges
    wanted = np.arange(begin + rows, end, rows)
    if edges is not None:
        wanted = np.unique(edges[np.searchsorted(edges, wanted, side="right") - 1])
    inside = wanted[(wanted > begin) & (wanted < end)]
    return [begin, *inside.tolist(), end]
