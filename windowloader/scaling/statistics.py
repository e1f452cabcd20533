"""Reducers of rows to statistics: moments, extremes and quantiles, by entity and node.

In: rows in order, with weights. Out: a table of statistics, the same to the bit however the rows are read. Never reads
rows, and keeps none but for quantiles. Imported by `fit` only when something is fitted, as it needs numba.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from windowloader.util.jit import kernel
from windowloader.windows.missing import is_missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "Extremes",
    "Moments",
    "Quantiles",
    "Reducer",
    "weighted_quantiles",
]

LANES = 64  # nodes pooled into one statistic are summed side by side: no loop is one chain of additions


class Reducer(ABC):
    """Takes rows in order and keeps a few numbers of them.

    Parameters
    ----------
    entities, nodes : int
        Sizes; 1 entity where statistics do not differ by entity.
    pooled : bool
        Whether all nodes share one statistic.

    Attributes
    ----------
    count : ndarray, shape (entity, node or 1), float64
        Values seen, by weight.
    """

    def __init__(self, entities: int, nodes: int, pooled: bool) -> None:
        self.entities, self.nodes, self.pooled = entities, nodes, pooled
        self.count = np.zeros((entities, 1 if pooled else nodes))

    @abstractmethod
    def add(self, values: Floats, weights: Floats, mark: Floats | None, entity: int, group: int) -> int:
        """Take rows of one entity and one group; return how many cells were neither finite nor missing.

        ``values``: shape (row, node), float64, contiguous. ``weights``: shape (row,), float64; rows of
        weight 0 do not count. ``mark``: what stands for missing, shape (1,), beside NaN; None: nothing does.
        """

    @abstractmethod
    def finish(self) -> None:
        """Complete the statistics: no more rows will come."""

    @abstractmethod
    def table(self) -> dict[str, np.ndarray]:
        """Return the statistics by name, shape (entity, node or 1); NaN where there was no value."""


class Moments(Reducer):
    """Count, mean and sum of squared deviations by entity and node.

    Attributes
    ----------
    count, mean, square : ndarray, shape (entity, node or 1), float64
    """

    def __init__(self, entities: int, nodes: int, pooled: bool) -> None:
        super().__init__(entities, nodes, pooled)
        self.square, self._origin, self._distance = (np.zeros_like(self.count) for _ in range(3))
        lanes = min(LANES, nodes) if pooled else nodes
        self._group = tuple(np.zeros(lanes) for _ in range(4))
        self._open: tuple[int, int] | None = None

    def add(self, values: Floats, weights: Floats, mark: Floats | None, entity: int, group: int) -> int:
        """Add rows of one entity and one group."""
        if self._open != (entity, group):
            self.finish()
            self._open = (entity, group)
        sentinel = np.nan if mark is None else float(mark[0])
        return int(_add_rows(values, weights, sentinel, mark is not None, *self._group))

    @property
    def mean(self) -> np.ndarray:
        """Means; NaN where there was no value."""
        return np.where(self.count > 0, self._origin + self._distance, np.nan)

    def finish(self) -> None:
        """Join the open group to the totals."""
        if self._open is not None:
            entity = self._open[0]
            totals = (self._origin, self.count, self._distance, self.square)
            _close_group(*self._group, *(total[entity] for total in totals))
            self._open = None

    def table(self) -> dict[str, np.ndarray]:
        """Return mean and population standard deviation."""
        with np.errstate(invalid="ignore"):
            return {"mean": self.mean, "std": np.sqrt(self.square / self.count)}


class Extremes(Reducer):
    """Smallest and largest value by entity and node."""

    def __init__(self, entities: int, nodes: int, pooled: bool) -> None:
        super().__init__(entities, nodes, pooled)
        self._low, self._high = (np.full_like(self.count, np.nan) for _ in range(2))

    def add(self, values: Floats, weights: Floats, mark: Floats | None, entity: int, group: int) -> int:
        """Widen the ranges; groups do not matter to them."""
        rows, counted, bad = _observed(values, weights, mark)
        axis = None if self.pooled else 0
        seen = counted @ ~np.isnan(rows)
        self.count[entity] += seen.sum() if self.pooled else seen
        self._low[entity] = np.fmin(self._low[entity], np.fmin.reduce(rows, axis, initial=np.nan))
        self._high[entity] = np.fmax(self._high[entity], np.fmax.reduce(rows, axis, initial=np.nan))
        return bad

    def finish(self) -> None:
        """Nothing to complete."""

    def table(self) -> dict[str, np.ndarray]:
        """Return minimum and maximum."""
        return {"minimum": self._low, "maximum": self._high}


class Quantiles(Reducer):
    """Exact quantiles: keeps every value, then sorts.

    Parameters
    ----------
    entities, nodes, pooled
        As in `Reducer`.
    ranks : ndarray, shape (rank,), float64
        Of the quantiles; the table needs three, the second that of the median.

    Attributes
    ----------
    quantiles : ndarray, shape (rank, entity, node or 1), float64
        NaN where there was no value.
    """

    def __init__(self, entities: int, nodes: int, pooled: bool, ranks: np.ndarray) -> None:
        super().__init__(entities, nodes, pooled)
        self.ranks = ranks
        self.quantiles = np.full((len(ranks), *self.count.shape), np.nan)
        self._kept: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, values: Floats, weights: Floats, mark: Floats | None, entity: int, group: int) -> int:
        """Keep rows of weight above 0."""
        rows, counted, bad = _observed(values, weights, mark)
        self._kept.setdefault(entity, []).append((rows, counted))
        return bad

    def finish(self) -> None:
        """Sort what was kept and free it."""
        while self._kept:
            entity, kept = self._kept.popitem()
            values, weights = (np.concatenate(parts) for parts in zip(*kept, strict=True))
            kept.clear()
            once = bool((weights == 1).all())
            for node in range(self.count.shape[1]):
                column = values.reshape(-1) if self.pooled else values[:, node]
                there = ~np.isnan(column)
                column = column[there]
                if once:  # without a weight for each value, which would take as much memory as the values
                    found = np.quantile(column, self.ranks, overwrite_input=True) if len(column) else np.nan
                    self.count[entity, node], self.quantiles[:, entity, node] = len(column), found
                    continue
                weight = (np.repeat(weights, values.shape[1]) if self.pooled else weights)[there]
                self.count[entity, node] = weight.sum()
                if len(column):
                    self.quantiles[:, entity, node] = weighted_quantiles(column, weight, self.ranks)

    def table(self) -> dict[str, np.ndarray]:
        """Return the median, and the distance of the outer quantiles."""
        low, median, high = self.quantiles
        return {"median": median, "spread": high - low}


def _observed(values: Floats, weights: Floats, mark: Floats | None) -> tuple[Floats, Floats, int]:
    """Return rows of weight above 0 with NaN where missing, their weights, and how many cells are bad."""
    if not weights.all():
        values, weights = values[weights > 0], weights[weights > 0]
    finite = np.isfinite(values)
    if mark is None:
        return values, weights, int(np.count_nonzero(~finite))
    left_out = is_missing(values, mark)
    return np.where(left_out, np.nan, values), weights, int(np.count_nonzero(~finite & ~left_out))


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
    sentinel: float,
    skip_nan: bool,
    shift: Floats,
    count: Floats,
    first: Floats,
    second: Floats,
) -> int:
    """Add rows to the open group in order; return how many cells were neither finite nor missing.

    Node j is summed in lane j mod lanes. Sums are of differences from the lane's first value: it belongs to the
    sample, so the spread is never small against the squares that are subtracted at the end, whatever the level of the
    values.
    """
    rows, nodes = values.shape
    lanes = shift.shape[0]
    bad = 0
    for row in range(rows):
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
                origin = shift[lane] if count[lane] > 0.0 else value
                origin = origin if use > 0.0 else shift[lane]
                shift[lane] = origin
                away = value - origin if use > 0.0 else 0.0
                count[lane] += use
                first[lane] += use * away
                second[lane] += use * (away * away)
    return bad


@kernel
def _close_group(
    shift: Floats,
    count: Floats,
    first: Floats,
    second: Floats,
    origin: Floats,
    total_count: Floats,
    total_mean: Floats,
    total_square: Floats,
) -> None:
    """Join the open group to the totals (Chan, Golub and LeVeque 1983, formula 2.1) and open a new one.

    With one total for all lanes the lanes are joined in order first, so that the totals see one group at a time. Means
    are kept as differences from ``origin``, the first value of all, so that a level that is high against the spread
    costs no precision.
    """
    lanes = shift.shape[0]
    pooled = total_count.shape[0] == 1 and lanes > 1
    group_count, group_mean, group_square = 0.0, 0.0, 0.0
    for lane in range(lanes):
        n = count[lane]
        if n > 0.0:
            total = 0 if pooled else lane
            if total_count[total] == 0.0 and not (pooled and group_count > 0.0):
                origin[total] = shift[lane]
            away = first[lane] / n
            mean = (shift[lane] - origin[total]) + away
            square = max(second[lane] - first[lane] * away, 0.0)
            if pooled:
                both = group_count + n
                delta = mean - group_mean
                group_square += square + delta * delta * (group_count * (n / both))
                group_mean += delta * (n / both)
                group_count = both
            else:
                both = total_count[lane] + n
                delta = mean - total_mean[lane]
                total_square[lane] += square + delta * delta * (total_count[lane] * (n / both))
                total_mean[lane] += delta * (n / both)
                total_count[lane] = both
        count[lane] = 0.0
        first[lane] = 0.0
        second[lane] = 0.0
    if pooled and group_count > 0.0:
        both = total_count[0] + group_count
        delta = group_mean - total_mean[0]
        total_square[0] += group_square + delta * delta * (total_count[0] * (group_count / both))
        total_mean[0] += delta * (group_count / both)
        total_count[0] = both
