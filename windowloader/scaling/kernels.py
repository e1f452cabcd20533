"""Sums of rows, compiled: per lane within a group of rows, and groups joined by Chan's formula.

In: float64 rows and what was summed so far. Out: sums, in place. Never reads, allocates or decides anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from windowloader.util.jit import kernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["add_rows", "close_group", "widen_range"]


@kernel
def add_rows(
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

    Node j is summed in lane j mod lanes. Sums are taken about the lane's first value: it is a member of the
    sample, so the spread is never small against the squares that are subtracted at the end, whatever the
    level of the values.
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
def close_group(
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

    With one total for all lanes the lanes are joined in order first, so that the totals see one group at a
    time. Means are kept as distances from ``origin``, the first value of all: differences of group means then do
    not suffer from a level that is high against the spread.
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


@kernel
def widen_range(
    values: Floats,
    weights: Floats,
    sentinel: float,
    skip_nan: bool,
    count: Floats,
    low: Floats,
    high: Floats,
) -> int:
    """Widen the range of each lane by rows of weight above 0; return how many cells were bad."""
    rows, nodes = values.shape
    lanes = low.shape[0]
    bad = 0
    for row in range(rows):
        if weights[row] == 0.0:
            continue
        for base in range(0, nodes, lanes):
            width = min(lanes, nodes - base)
            for lane in range(width):
                value = values[row, base + lane]
                missing = value == sentinel or (skip_nan and value != value)
                finite = abs(value) < math.inf
                bad += 0 if missing or finite else 1
                if finite and not missing:
                    count[lane] += weights[row]
                    low[lane] = min(low[lane], value)
                    high[lane] = max(high[lane], value)
    return bad
