"""Quantiles of the rows a window set holds: exact where they fit in memory, else from a streaming sketch.

In: rows in order, with weights. Out: quantiles by entity and node. Never keeps more than its limit in
memory: above it a t-digest (Dunning and Ertl 2019, arXiv:1902.04023, from the datasketches library) stands
for the values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import MissingExtraError, ScalerError

if TYPE_CHECKING:
    from .statistics import Missing

__all__ = ["Exact", "Sketched", "quantile_reducer", "weighted_quantiles"]

SKETCH_SIZE = 16_384  # centroids at most; the rank of a quartile is then off by about 1e-4
SMALLEST_SKETCH = 100  # below, quartiles are off by percents
CENTROID_BYTES = 96  # memory of one centroid with its share of buffers


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Quantiles of values that are repeated by whole weights, interpolated linearly.

    Parameters
    ----------
    values : ndarray, shape (value,), float64
        Finite, in any order, at least one.
    weights : ndarray, shape (value,), float64
        Whole numbers, how often each value counts; above 0.
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


@dataclass(slots=True)
class Exact:
    """Keeps every value, then sorts.

    Parameters
    ----------
    entities, nodes : int
        Sizes; 1 entity where statistics do not differ by entity.
    pooled : bool
        Whether all nodes share one statistic.
    ranks : ndarray, shape (rank,), float64

    Attributes
    ----------
    count : ndarray, shape (entity, node or 1), float64
    quantiles : ndarray, shape (rank, entity, node or 1), float64
        NaN where there was no value.
    """

    entities: int
    nodes: int
    pooled: bool
    ranks: np.ndarray
    count: np.ndarray = field(init=False)
    quantiles: np.ndarray = field(init=False)
    _kept: dict[int, list[tuple[np.ndarray, np.ndarray]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        width = 1 if self.pooled else self.nodes
        self.count = np.zeros((self.entities, width))
        self.quantiles = np.full((len(self.ranks), self.entities, width), np.nan)

    def add(self, values: np.ndarray, weights: np.ndarray, missing: Missing, entity: int, group: int) -> int:
        """Keep rows of weight above 0."""
        kept, bad = _counted(values, weights, missing)
        self._kept.setdefault(entity, []).append((kept, weights[weights > 0]))
        return bad

    def finish(self) -> None:
        """Sort what was kept and let go of it."""
        while self._kept:
            entity, rows = self._kept.popitem()
            values = np.concatenate([part for part, _ in rows])
            weights = np.concatenate([part for _, part in rows])
            rows.clear()
            once = bool((weights == 1).all())
            for node in range(self.count.shape[1]):
                column = values.reshape(-1) if self.pooled else values[:, node]
                there = ~np.isnan(column)
                column = column[there]
                if once:  # without a weight for each value, which would take as much as the values
                    found = np.quantile(column, self.ranks, overwrite_input=True) if len(column) else np.nan
                    self.count[entity, node], self.quantiles[:, entity, node] = len(column), found
                    continue
                weight = (np.repeat(weights, values.shape[1]) if self.pooled else weights)[there]
                self.count[entity, node] = weight.sum()
                if len(column):
                    self.quantiles[:, entity, node] = weighted_quantiles(column, weight, self.ranks)


@dataclass(slots=True)
class Sketched:
    """Keeps one t-digest a statistic: a few thousand centroids, whatever the number of values.

    The library's t-digest draws no random numbers and takes values one by one, so that its answer depends on
    the order of rows and on nothing else. (Its KLL sketch is closer at equal size, but draws random bits
    seeded by the clock: two fits of one data set would differ.)

    Parameters
    ----------
    entities, nodes, pooled, ranks
        As in `Exact`.
    limit : int
        Bytes that all sketches together may take.

    Raises
    ------
    MissingExtraError
        If datasketches is not installed.
    ScalerError
        If there are too many statistics for the limit.
    """

    entities: int
    nodes: int
    pooled: bool
    ranks: np.ndarray
    limit: int
    count: np.ndarray = field(init=False)
    quantiles: np.ndarray = field(init=False)
    _sketches: list[list[Any]] = field(init=False)

    def __post_init__(self) -> None:
        try:
            from datasketches import tdigest_double
        except ImportError as error:
            raise MissingExtraError(
                "quantiles of more data than fit under exact_bytes need a streaming sketch: "
                "pip install 'windowloader[quantiles]', or raise exact_bytes."
            ) from error
        width = 1 if self.pooled else self.nodes
        size = min(SKETCH_SIZE, self.limit // (CENTROID_BYTES * self.entities * width))
        if size < SMALLEST_SKETCH:
            raise ScalerError(
                f"quantiles of {self.entities * width} nodes and entities need at least "
                f"{SMALLEST_SKETCH * CENTROID_BYTES * self.entities * width} bytes for their sketches, and "
                f"exact_bytes leaves {self.limit}. Raise exact_bytes, or pool with per='feature'."
            )
        self.count = np.zeros((self.entities, width))
        self.quantiles = np.full((len(self.ranks), self.entities, width), np.nan)
        self._sketches = [[tdigest_double(size) for _ in range(width)] for _ in range(self.entities)]

    def add(self, values: np.ndarray, weights: np.ndarray, missing: Missing, entity: int, group: int) -> int:
        """Hand rows to the sketches, each as often as it counts."""
        kept, bad = _counted(values, weights, missing)
        times = weights[weights > 0].astype(np.int64)
        repeated = np.repeat(kept, times, axis=0) if (times != 1).any() else kept
        for node, sketch in enumerate(self._sketches[entity]):
            column = repeated.ravel() if self.pooled else np.ascontiguousarray(repeated[:, node])
            there = column[~np.isnan(column)]
            self.count[entity, node] += len(there)
            sketch.update(there)
        return bad

    def finish(self) -> None:
        """Ask the sketches and let go of them."""
        for entity, row in enumerate(self._sketches):
            for node, sketch in enumerate(row):
                if self.count[entity, node]:
                    self.quantiles[:, entity, node] = [
                        sketch.get_quantile(float(rank)) for rank in self.ranks
                    ]
        self._sketches = []


def quantile_reducer(
    *, entities: int, nodes: int, pooled: bool, ranks: np.ndarray, bytes_kept: int, limit: int
) -> Exact | Sketched:
    """Exact quantiles where the values take at most ``limit`` bytes, else sketched ones."""
    if bytes_kept <= limit:
        return Exact(entities, nodes, pooled, ranks)
    return Sketched(entities, nodes, pooled, ranks, limit)


def _counted(values: np.ndarray, weights: np.ndarray, missing: Missing) -> tuple[np.ndarray, int]:
    """Rows of weight above 0 with NaN where missing, and how many cells are neither finite nor missing."""
    rows = values[weights > 0]
    left_out = missing.mask(rows)
    bad = int(np.count_nonzero(~np.isfinite(rows) & ~left_out))
    return np.where(left_out, np.nan, rows), bad
