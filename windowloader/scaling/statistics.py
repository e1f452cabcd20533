"""Reducers of rows to statistics: moments, extremes and quantiles, by entity and node.

In: rows with weights, cut into runs of one group and one entity. Out: a table of statistics, the same to the bit
however the rows are read and on however many workers. Never reads rows, and keeps none but for quantiles. Imported by
`fit` only when something is fitted, as it needs numba.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from windowloader.util.jit import kernel
from windowloader.windows.missing import is_missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["GROUP", "Extremes", "GroupRuns", "Moments", "Quantiles", "Reducer", "weighted_quantiles"]

GROUP = 256  # rows that are summed before they join others, counted from the set's first row
TILE_BYTES = 512 << 10  # rows as float64 on their way into a kernel
UNSETTLED = 16  # nodes of a tree that wait at most, beside as many as there are


@dataclass(frozen=True, slots=True)
class GroupRuns:
    """Consecutive rows cut where a group or an entity ends.

    Parameters
    ----------
    edges : ndarray, shape (run + 1,), int64
        First row of each run, and the end, counted from the first.
    entity, group : ndarray, shape (run,), int64
    """

    edges: Ints
    entity: Ints
    group: Ints

    @classmethod
    def of(cls, start: int, stop: int, first: int, borders: Ints | None) -> GroupRuns:
        """Cut rows ``[start, stop)`` at the groups counted from ``first``, and at borders of entities.

        Examples
        --------
        >>> GroupRuns.of(250, 300, 0, np.array([0, 260, 400])).edges
        array([ 0,  6, 10, 50])
        """
        groups = np.arange((start - first) // GROUP + 1, -((first - stop) // GROUP), dtype=np.int64)
        cuts = first + GROUP * groups
        if borders is not None:
            low, high = np.searchsorted(borders, [start + 1, stop])
            cuts = np.sort(np.concatenate([cuts, borders[low:high]]), kind="stable")
            cuts = cuts[np.diff(cuts, prepend=start) > 0]  # entities may be empty
        edges = np.concatenate([[start], cuts, [stop]])
        begins = edges[:-1]
        entity = np.zeros_like(begins)
        if borders is not None:
            entity = np.searchsorted(borders, begins, side="right") - 1
        return cls(edges - start, entity, (begins - first) // GROUP)


class Reducer(ABC):
    """Takes rows in order and keeps a few numbers of them; others of the same kind can be merged into it.

    Parameters
    ----------
    entities, nodes : int
        Sizes; 1 entity where statistics do not differ by entity.
    pooled : bool
        Whether all nodes share one statistic.

    Attributes
    ----------
    count : ndarray, shape (entity, node or 1), float64
        Values seen, by weight; known after `finish`.
    """

    def __init__(self, entities: int, nodes: int, pooled: bool) -> None:
        self.entities, self.nodes, self.pooled = entities, nodes, pooled
        self.count = np.zeros((entities, 1 if pooled else nodes))

    @abstractmethod
    def add(self, rows: np.ndarray, weights: Floats, mark: np.ndarray | None, runs: GroupRuns) -> int:
        """Take consecutive rows; return how many cells were neither finite nor missing.

        ``rows``: shape (row, node). ``weights``: shape (row,); rows of weight 0 do not count. ``mark``: what stands
        for missing, shape (1,), beside NaN; None: nothing does.
        """

    @abstractmethod
    def merge(self, other: Reducer) -> None:
        """Take what another has seen of other groups."""

    @abstractmethod
    def finish(self) -> dict[str, np.ndarray]:
        """Return the statistics by name, shape (entity, node or 1); NaN where there was no value."""


class Tree(Reducer):
    """Statistics of groups, joined in pairs: groups 2i and 2i + 1, then fours, and so on up.

    The tree is fixed by the numbers of the groups, so that neither reads nor workers change a bit. What has no partner
    goes up as it is. Every statistic is an array of shape (field, node of the tree, node or 1); the first field counts.
    """

    FIELDS: ClassVar[tuple[float, ...]]  # what an empty group holds
    LANES: ClassVar[int] = np.iinfo(
        np.int64
    ).max  # columns that a group has while it is open, if nodes are pooled

    def __init__(self, entities: int, nodes: int, pooled: bool) -> None:
        super().__init__(entities, nodes, pooled)
        self.width = min(self.LANES, nodes) if pooled else nodes
        self._open = (np.empty((3, 0), np.int64), self._empty(0))
        self._parts: list[tuple[Ints, Floats]] = []  # keys: entity, level, number
        self._settled = 0

    @abstractmethod
    def _reduce(
        self, rows: np.ndarray, weights: Floats, mark: np.ndarray | None, edges: Ints, into: Floats
    ) -> int:
        """Add the rows of each run to what ``into`` holds; return how many cells are bad."""

    @abstractmethod
    def _closed(self, groups: Floats) -> Floats:
        """Make statistics of complete groups."""

    @staticmethod
    @abstractmethod
    def _join(left: Floats, right: Floats) -> Floats:
        """Join statistics elementwise."""

    def _empty(self, size: int) -> Floats:
        return np.stack([np.full((size, self.width), value) for value in self.FIELDS])

    def add(self, rows: np.ndarray, weights: Floats, mark: np.ndarray | None, runs: GroupRuns) -> int:
        """Take consecutive rows."""
        entity = runs.entity if self.entities > 1 else np.zeros_like(runs.group)
        keys = np.stack([entity, np.zeros_like(entity), runs.group])
        groups = self._empty(len(entity))
        held, begun = self._open
        if held.shape[1] and (held[:, 0] == keys[:, 0]).all():
            groups[:, :1] = begun
        else:
            self.close()
        bad = self._reduce(rows, weights, mark, runs.edges, groups)
        self._take(keys[:, :-1], groups[:, :-1])
        self._open = (keys[:, -1:], groups[:, -1:])
        return bad

    def close(self) -> None:
        """Complete the last group."""
        self._take(*self._open)
        self._open = (self._open[0][:, :0], self._open[1][:, :0])

    def _take(self, keys: Ints, groups: Floats) -> None:
        there = groups[0].any(axis=1)
        if there.any():
            self._keep(keys[:, there], self._closed(groups[:, there]))

    def _keep(self, keys: Ints, fields: Floats) -> None:
        self._parts.append(self._paired(keys, fields, final=False))
        if sum(part[0].shape[1] for part in self._parts) > 2 * self._settled + UNSETTLED:
            self._settle(final=False)

    def merge(self, other: Reducer) -> None:
        """Take the groups of another."""
        assert isinstance(other, Tree)
        other.close()
        for keys, fields in other._parts:
            self._keep(keys.copy(), fields.copy())

    def _settle(self, *, final: bool) -> tuple[Ints, Floats]:
        keys = np.concatenate([np.empty((3, 0), np.int64), *(part[0] for part in self._parts)], axis=1)
        nothing = np.empty((len(self.FIELDS), 0, self.count.shape[1]))
        fields = np.concatenate([nothing, *(part[1] for part in self._parts)], axis=1)
        self._parts = [self._paired(keys, fields, final=final)]
        self._settled = self._parts[0][0].shape[1]
        return self._parts[0]

    def _paired(self, keys: Ints, fields: Floats, *, final: bool) -> tuple[Ints, Floats]:
        """Join all pairs that are there, in place; ``final``: up to one node an entity."""
        entity, level, number = keys
        alive, live = np.ones(keys.shape[1], bool), np.arange(keys.shape[1])
        for depth in range(64):
            if final:
                live = live[np.bincount(entity[live])[entity[live]] > 1]
            at = live[level[live] == depth]
            at = at[np.lexsort((number[at], entity[at]))]
            left, right = at[:-1], at[1:]
            pair = (entity[left] == entity[right]) & (number[left] >> 1 == number[right] >> 1)
            left, right = left[pair], right[pair]
            if len(left):
                fields[:, left] = self._join(fields[:, left], fields[:, right])
            up = at if final else left
            level[up] += 1
            number[up] >>= 1
            alive[right] = False
            live = live[alive[live] & (level[live] > depth)]
            if not len(live):
                break
        return keys[:, alive], fields[:, alive]

    def _finished(self) -> Floats:
        """Fields by entity, (field, entity, node or 1)."""
        self.close()
        keys, fields = self._settle(final=True)
        total = np.stack([np.full(self.count.shape, value) for value in self.FIELDS])
        total[:, keys[0]] = fields
        self.count = total[0]
        return total


class Moments(Tree):
    """Count, mean and sum of squared deviations: as an origin, the distance of the mean from it, and the sum.

    The origin is the first value, so that a level that is high against the spread costs no precision. While a group is
    open its fields are count, origin, and the sums of the differences from it and of their squares.
    """

    FIELDS = (0.0, 0.0, 0.0, 0.0)
    LANES = 64  # nodes pooled into one statistic are summed side by side: no loop is one chain of additions

    def _reduce(
        self, rows: np.ndarray, weights: Floats, mark: np.ndarray | None, edges: Ints, into: Floats
    ) -> int:
        sentinel = np.nan if mark is None else float(mark[0])
        step, bad = max(1, TILE_BYTES // (8 * self.nodes)), 0
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            tile = np.ascontiguousarray(rows[some], dtype=np.float64)
            low, high = np.searchsorted(edges, [start + 1, start + len(tile)])
            parts = into[:, low - 1 : high]
            bad += _add_rows(
                tile, weights[some], edges[low - 1 : high + 1] - start, sentinel, mark is not None, *parts
            )
        return bad

    def _closed(self, groups: Floats) -> Floats:
        count, origin, first, second = groups
        away = np.divide(first, count, out=np.zeros_like(first), where=count > 0)
        fields = np.stack([count, origin, away, np.maximum(second - first * away, 0.0)])
        if not self.pooled:
            return fields
        total = fields[:, :, :1]
        for lane in range(1, self.width):
            total = self._join(total, fields[:, :, lane : lane + 1])
        return total

    @staticmethod
    def _join(left: Floats, right: Floats) -> Floats:
        """Join as Chan, Golub and LeVeque 1983, formula 2.1."""
        (n, origin, away, square), (m, other, distance, spread) = left, right
        both = n + m
        share = np.divide(m, both, out=np.zeros_like(m), where=both > 0)
        delta = (other - origin) + (distance - away)
        joined = np.stack(
            [both, origin, away + delta * share, square + (spread + delta * delta * (n * share))]
        )
        return np.where(n == 0, right, np.where(m == 0, left, joined))

    def finish(self) -> dict[str, np.ndarray]:
        """Return mean and population standard deviation."""
        count, origin, away, square = self._finished()
        with np.errstate(invalid="ignore"):
            return {"mean": np.where(count > 0, origin + away, np.nan), "std": np.sqrt(square / count)}


class Extremes(Tree):
    """Count, smallest and largest value."""

    FIELDS = (0.0, np.nan, np.nan)

    def _reduce(
        self, rows: np.ndarray, weights: Floats, mark: np.ndarray | None, edges: Ints, into: Floats
    ) -> int:
        values, bad = _observed(rows, weights, mark)
        begins = edges[:-1]
        into[0] += np.add.reduceat((values == values) * weights[:, np.newaxis], begins, axis=0)
        into[1] = np.fmin(into[1], np.fmin.reduceat(values, begins, axis=0))
        into[2] = np.fmax(into[2], np.fmax.reduceat(values, begins, axis=0))
        return bad

    def _closed(self, groups: Floats) -> Floats:
        if not self.pooled:
            return groups
        count, low, high = groups
        several = [count.sum(axis=1), np.fmin.reduce(low, axis=1), np.fmax.reduce(high, axis=1)]
        return np.stack(several)[:, :, np.newaxis]

    @staticmethod
    def _join(left: Floats, right: Floats) -> Floats:
        return np.stack([left[0] + right[0], np.fmin(left[1], right[1]), np.fmax(left[2], right[2])])

    def finish(self) -> dict[str, np.ndarray]:
        """Return minimum and maximum."""
        _, low, high = self._finished()
        return {"minimum": low, "maximum": high}


class Quantiles(Reducer):
    """Exact quantiles: keeps every value, then sorts.

    Parameters
    ----------
    entities, nodes, pooled
        As in `Reducer`.
    ranks : ndarray, shape (3,), float64
        Of the quantiles, the second that of the median.
    """

    def __init__(self, entities: int, nodes: int, pooled: bool, ranks: np.ndarray) -> None:
        super().__init__(entities, nodes, pooled)
        self.ranks = ranks
        self._kept: list[
            tuple[np.ndarray, np.ndarray, np.ndarray]
        ] = []  # entities, values and weights of rows

    def add(self, rows: np.ndarray, weights: Floats, mark: np.ndarray | None, runs: GroupRuns) -> int:
        """Keep rows of weight above 0."""
        values, bad = _observed(rows, weights, mark)
        entity = np.repeat(
            runs.entity if self.entities > 1 else np.zeros_like(runs.entity), np.diff(runs.edges)
        )
        used = weights > 0
        self._kept.append((entity[used], values[used].astype(np.float64, copy=False), weights[used]))
        return bad

    def merge(self, other: Reducer) -> None:
        """Take the rows of another."""
        assert isinstance(other, Quantiles)
        self._kept += other._kept

    def finish(self) -> dict[str, np.ndarray]:
        """Sort what was kept and free it; return the median, and the distance of the outer quantiles."""
        found = np.full((len(self.ranks), *self.count.shape), np.nan)
        entity, values, weights = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        self._kept.clear()
        present, begins = np.unique(entity, return_index=True)  # rows came in order
        for number, begin, end in zip(present, begins, [*begins[1:], len(entity)], strict=True):
            for node in range(self.count.shape[1]):
                some = values[begin:end] if self.pooled else values[begin:end, node : node + 1]
                column, weight = some.reshape(-1), weights[begin:end]
                there = ~np.isnan(column)
                column = column[there]
                if (weight == 1).all():  # without a weight for each value, which would take as much memory
                    self.count[number, node] = len(column)
                    if len(column):
                        found[:, number, node] = np.quantile(column, self.ranks, overwrite_input=True)
                    continue
                weight = np.repeat(weight, some.shape[1])[there]
                self.count[number, node] = weight.sum()
                if len(column):
                    found[:, number, node] = weighted_quantiles(column, weight, self.ranks)
        return {"median": found[1], "spread": found[2] - found[0]}


def _observed(rows: np.ndarray, weights: Floats, mark: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Return rows with NaN where missing or of no weight, and how many cells are bad."""
    left_out = np.broadcast_to(weights[:, np.newaxis] == 0, rows.shape)
    if mark is not None:
        left_out = left_out | is_missing(rows, mark)
    bad = int(np.count_nonzero(~np.isfinite(rows) & ~left_out))
    return np.where(left_out, np.nan, rows), bad


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Quantiles of values that are repeated by whole weights, interpolated linearly.

    Parameters
    ----------
    values : ndarray, shape (value,), float64
        Finite, in any order, at least one.
    weights : ndarray, shape (value,), float64
        Whole numbers above 0: how often each value counts.
    ranks : ndarray, shape (rank,), float64
        Between 0 and 1.

    Returns
    -------
    ndarray, shape (rank,), float64
        What ``np.quantile(np.repeat(values, weights), ranks)`` returns.

    Examples
    --------
    >>> weighted_quantiles(np.array([5.0, 1.0]), np.array([1.0, 3.0]), np.array([0.5, 1.0]))
    array([1., 5.])
    """
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    at = (reached[-1] - 1.0) * np.asarray(ranks, dtype=np.float64)
    below = np.floor(at)
    low = values[order[np.searchsorted(reached, below, side="right")]]
    high = values[order[np.searchsorted(reached, np.minimum(below + 1.0, reached[-1] - 1.0), side="right")]]
    return np.asarray(low + (high - low) * (at - below))


@kernel
def _add_rows(
    values: Floats,
    weights: Floats,
    edges: Ints,
    sentinel: float,
    skip_nan: bool,
    count: Floats,
    origin: Floats,
    first: Floats,
    second: Floats,
) -> int:
    """Add rows to their runs in order; return how many cells were neither finite nor missing.

    Node j is summed in lane j mod lanes. Sums are of differences from the lane's first value: it belongs to the
    sample, so the spread is never small against the squares that are subtracted at the end, whatever the level of the
    values.
    """
    rows, nodes = values.shape
    lanes = count.shape[1]
    bad = 0
    for at in range(len(edges) - 1):
        counts, origins, firsts, seconds = count[at], origin[at], first[at], second[at]
        for row in range(max(edges[at], 0), min(edges[at + 1], rows)):
            weight = weights[row]
            if weight == 0.0:
                continue
            for base in range(0, nodes, lanes):
                width = min(lanes, nodes - base)
                for lane in range(width):
                    value = values[row, base + lane]
                    missing = value == sentinel or (skip_nan and value != value)
                    finite = abs(value) < math.inf
                    bad += 0 if missing or finite else 1
                    use = weight if finite and not missing else 0.0
                    begin = origins[lane] if counts[lane] > 0.0 else value
                    begin = begin if use > 0.0 else origins[lane]
                    origins[lane] = begin
                    away = value - begin if use > 0.0 else 0.0
                    counts[lane] += use
                    firsts[lane] += use * away
                    seconds[lane] += use * (away * away)
    return bad
