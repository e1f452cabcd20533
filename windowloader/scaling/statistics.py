"""Statistics of the rows that a window set holds, in one streaming pass per variable.

In: a window set, columns, a reducer for each. Out: counts, means, squares, ranges by entity and node, the
same to the bit however the rows are read. Never looks at a row that no window of the set holds, and keeps
only one read in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from windowloader.errors import ScalerError
from windowloader.windows.missing import sentinel
from windowloader.windows.missing_policy import node_name, undeclared_nan

from .row_reads import READ_BYTES, Weighting, row_reads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from windowloader.series.series import Column, Series
    from windowloader.series.variable import Variable
    from windowloader.windows.window_set import WindowSet

__all__ = [
    "Extremes",
    "Missing",
    "Moments",
    "Per",
    "Reducer",
    "Unseen",
    "reduce_rows",
]

Per = Literal["feature", "node", "entity"]
Unseen = Literal["raise", "pooled"]

GROUP = 256  # rows summed before they join the totals, counted from the set's first row
LANES = 64  # nodes pooled into one statistic are summed side by side: no loop is one chain of additions
TILE_BYTES = 4 << 20  # rows as float64 on their way into a kernel


@dataclass(frozen=True, slots=True)
class Missing:
    """What stands for missing in a variable, as its dtype holds it.

    Parameters
    ----------
    sentinel : float
        Value that stands for missing; NaN (equal to nothing) where there is none.
    skip_nan : bool
        Whether NaN stands for missing.
    """

    sentinel: float = np.nan
    skip_nan: bool = False

    @classmethod
    def of(cls, variable: Variable) -> Missing:
        """Rule of a variable, in its own dtype (-999.9 in float32 is another number); that of the gather."""
        mark = sentinel(variable.missing, variable.dtype)
        return cls() if mark is None else cls(sentinel=float(mark[0]), skip_nan=True)

    def mask(self, values: np.ndarray) -> np.ndarray:
        """Where values are missing."""
        return np.asarray((values == self.sentinel) | (np.isnan(values) & self.skip_nan))


class Reducer(Protocol):
    """Takes rows in order and keeps a few numbers of them."""

    def add(self, values: np.ndarray, weights: np.ndarray, missing: Missing, entity: int, group: int) -> int:
        """Take rows of one entity and one group; return how many cells were neither finite nor missing.

        ``values``: shape (row, node), float64, contiguous. ``weights``: shape (row,), float64; rows of
        weight 0 do not count.
        """

    def finish(self) -> None:
        """Close what is open: no more rows will come."""


@dataclass(slots=True)
class Moments:
    """Count, mean and sum of squared deviations by entity and node.

    Parameters
    ----------
    entities, nodes : int
        Sizes; 1 entity where statistics do not differ by entity.
    pooled : bool
        Whether all nodes share one statistic.

    Attributes
    ----------
    count, mean, square : ndarray, shape (entity, node or 1), float64
    """

    entities: int
    nodes: int
    pooled: bool
    count: np.ndarray = field(init=False)
    square: np.ndarray = field(init=False)
    _origin: np.ndarray = field(init=False)
    _distance: np.ndarray = field(init=False)
    _group: tuple[np.ndarray, ...] = field(init=False)
    _open: tuple[int, int] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        width = 1 if self.pooled else self.nodes
        self.count, self.square, self._origin, self._distance = (
            np.zeros((self.entities, width)) for _ in range(4)
        )
        lanes = min(LANES, self.nodes) if self.pooled else self.nodes
        self._group = tuple(np.zeros(lanes) for _ in range(4))

    def add(self, values: np.ndarray, weights: np.ndarray, missing: Missing, entity: int, group: int) -> int:
        """Add rows of one entity and one group."""
        from .kernels import add_rows

        if self._open != (entity, group):
            self.finish()
            self._open = (entity, group)
        return int(add_rows(values, weights, missing.sentinel, missing.skip_nan, *self._group))

    @property
    def mean(self) -> np.ndarray:
        """Means; NaN where there was no value."""
        return np.where(self.count > 0, self._origin + self._distance, np.nan)

    def finish(self) -> None:
        """Join the open group to the totals."""
        from .kernels import close_group

        if self._open is not None:
            entity = self._open[0]
            totals = (self._origin, self.count, self._distance, self.square)
            close_group(*self._group, *(total[entity] for total in totals))
            self._open = None


@dataclass(slots=True)
class Extremes:
    """Smallest and largest value by entity and node.

    Attributes
    ----------
    count, low, high : ndarray, shape (entity, node or 1), float64
    """

    entities: int
    nodes: int
    pooled: bool
    count: np.ndarray = field(init=False)
    low: np.ndarray = field(init=False)
    high: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        lanes = min(LANES, self.nodes) if self.pooled else self.nodes
        self.count = np.zeros((self.entities, lanes))
        self.low = np.full((self.entities, lanes), np.inf)
        self.high = np.full((self.entities, lanes), -np.inf)

    def add(self, values: np.ndarray, weights: np.ndarray, missing: Missing, entity: int, group: int) -> int:
        """Widen the ranges; groups do not matter to them."""
        from .kernels import widen_range

        rows = self.count[entity], self.low[entity], self.high[entity]
        return int(widen_range(values, weights, missing.sentinel, missing.skip_nan, *rows))

    def finish(self) -> None:
        """Join the lanes where all nodes share one statistic."""
        if self.pooled:
            self.count = self.count.sum(axis=1, keepdims=True)
            self.low = self.low.min(axis=1, keepdims=True)
            self.high = self.high.max(axis=1, keepdims=True)


def reduce_rows(
    window_set: WindowSet,
    reducers: Mapping[Column, Reducer],
    *,
    weighting: Weighting,
    by_entity: bool,
    progress: Callable[[int, int], object] | None = None,
    read_bytes: int = READ_BYTES,
) -> None:
    """Hand every row that the set holds to the reducers, in order, each variable read once.

    Parameters
    ----------
    window_set : WindowSet
        Rows that none of its windows holds are neither counted nor, where whole reads can be left out, read.
    reducers : mapping of Column to Reducer
        What to do with each column.
    weighting : {"rows", "windows"}
        A row counts once if any window holds it among its inputs or targets, or as often as windows hold it
        among their inputs.
    by_entity : bool
        Whether rows of different entities are kept apart.
    progress : callable, optional
        Called with (rows done, rows in all).
    read_bytes : int
        About how much to ask of storage at once; changes no result.

    Raises
    ------
    MissingDataError
        At a NaN that is not declared missing.
    ScalerError
        At an infinite value.
    """
    series = window_set.series
    by_variable: dict[int, list[Column]] = {}
    for column in reducers:
        by_variable.setdefault(column.variable, []).append(column)
    first, last = window_set.row_range
    borders = series.entity_borders if by_entity else None
    total = (last - first) * len(by_variable)
    for turn, (index, columns) in enumerate(by_variable.items()):
        variable = series.variables[index]
        missing = Missing.of(variable)
        for start, values, weights in row_reads(window_set, variable, weighting, read_bytes):
            for begin, end, entity, group in _pieces(
                start, start + len(values), first, borders, variable.num_nodes
            ):
                inside = slice(begin - start, end - start)
                if not weights[inside].any():
                    continue
                for column in columns:
                    tile = np.ascontiguousarray(values[inside, :, column.feature], dtype=np.float64)
                    if reducers[column].add(tile, weights[inside], missing, entity, group):
                        _refuse(series, column, tile, weights[inside], missing, begin)
            if progress is not None:
                progress(turn * (last - first) + start + len(values) - first, total)
    for reducer in reducers.values():
        reducer.finish()


def _pieces(
    start: int, stop: int, first: int, borders: np.ndarray | None, nodes: int
) -> Iterator[tuple[int, int, int, int]]:
    """Cut a read at groups, entities and where a tile would grow too large: (begin, end, entity, group)."""
    rows = max(1, TILE_BYTES // (8 * nodes))
    begin = start
    while begin < stop:
        group = (begin - first) // GROUP
        end = min(stop, first + (group + 1) * GROUP, begin + rows)
        entity = 0
        if borders is not None:
            entity = int(np.searchsorted(borders, begin, side="right")) - 1
            end = min(end, int(borders[entity + 1]))
        yield begin, end, entity, group
        begin = end


def _refuse(
    series: Series, column: Column, tile: np.ndarray, weights: np.ndarray, missing: Missing, begin: int
) -> None:
    """Raise for the first cell that is neither finite nor missing."""
    bad = ~np.isfinite(tile) & ~missing.mask(tile) & (weights > 0)[:, np.newaxis]
    row, node = (int(i) for i in np.argwhere(bad)[0])
    if np.isnan(tile[row, node]):
        raise undeclared_nan(series, column, begin + row, node)
    where = f"feature {column.name!r} at row {begin + row}, {node_name(series.nodes, node)}"
    raise ScalerError(
        f"{where} is {tile[row, node]}: no mean, range or spread can be taken over infinite values. Repair "
        f"the data, or declare the value missing."
    )
