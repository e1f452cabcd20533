"""Sums without rounding: the same result for any order, any split over ranks, any batch size.

In: float64 values, perhaps with weights. Out: their sum or mean, rounded once. A sum is kept as an expansion, a short
list of floats whose exact sum it is (Shewchuk 1997, "Adaptive Precision Floating-Point Arithmetic"), in the one form in
which each part is the rest rounded to nearest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ExactMean", "ExactSum"]

SPLITTER = 2.0**27 + 1  # halves the 53 bits of a float64, Dekker 1971


def expansion(values: Iterable[float]) -> list[float]:
    """Floats that add up to exactly the sum of ``values``: the sum rounded, then the rest rounded, and so on.

    Two sets of values with one exact sum have one expansion, so states can be compared to the bit. Infinities and NaN
    replace the sum by their own.

    Examples
    --------
    >>> expansion([1.0, 1e20, 1e-20])
    [1e+20, 1.0, 1e-20]
    >>> expansion([0.5, -0.5]), expansion([1.0, math.inf])
    ([], [inf])
    """
    rest = [value for value in values if value]
    special = [value for value in rest if not math.isfinite(value)]
    if special:
        return [sum(special)]
    parts: list[float] = []
    while part := math.fsum(rest):
        parts.append(part)
        rest.append(-part)
    return parts


@dataclass(slots=True)
class ExactSum:
    """Exact sums, one per column.

    Parameters
    ----------
    columns : int
        Number of sums kept side by side, e.g. one per horizon step.

    Examples
    --------
    >>> total = ExactSum(2)
    >>> total.add([[1e16, 0.1], [1.0, 0.2], [-1e16, 0.3]])
    >>> total.value()
    array([1. , 0.6])
    """

    columns: int = 1
    _parts: list[list[float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._parts = [[] for _ in range(self.columns)]

    def add(self, values: object) -> None:
        """Add values.

        Parameters
        ----------
        values : array_like, shape (..., columns), float64
            Infinities and NaN make the sum infinite or NaN, as ordinary addition would.

        Raises
        ------
        OverflowError
            If the sum of finite values leaves the range of float64.
        """
        table = np.asarray(values, dtype=np.float64).reshape(-1, self.columns)
        added = zip(self._parts, table.T.tolist(), strict=True)
        self._parts = [expansion([*parts, *column]) for parts, column in added]

    def merge(self, other: ExactSum) -> None:
        """Add the sums of another, e.g. of another rank."""
        if other.columns != self.columns:
            raise ValueError(f"sums of {self.columns} and {other.columns} columns cannot be merged.")
        self._parts = [expansion(own + others) for own, others in zip(self._parts, other._parts, strict=True)]

    def exact(self, column: int = 0) -> Fraction | float:
        """Sum of a column without rounding; a float where it is infinite or NaN."""
        parts = self._parts[column]
        return sum(map(Fraction, parts), Fraction(0)) if all(map(math.isfinite, parts)) else parts[0]

    def value(self) -> np.ndarray:
        """Return sums rounded once, shape (columns,), float64."""
        return np.array([parts[0] if parts else 0.0 for parts in self._parts])

    def state(self) -> list[float]:
        """Return a flat list of float64: columns, then the number of parts and the parts of each."""
        flat = [float(self.columns)]
        for parts in self._parts:
            flat += [float(len(parts)), *parts]
        return flat

    @classmethod
    def from_state(cls, state: Sequence[float]) -> ExactSum:
        """Rebuild from `state`; what follows the list (padding, a second state) is ignored."""
        total, at = cls(int(state[0])), 1
        for column in range(total.columns):
            stop = at + 1 + int(state[at])
            total._parts[column] = [float(part) for part in state[at + 1 : stop]]
            at = stop
        return total


@dataclass(slots=True)
class ExactMean:
    """Weighted means that do not depend on order, batch size or ranks.

    The mean is sum(weights * values) / sum(weights), both sums exact, divided exactly, rounded once. Products are exact
    too, as sums of two floats (Dekker 1971), where they lie between 1e-275 and 1e300.

    Parameters
    ----------
    columns : int
        Number of means kept side by side, e.g. one per horizon step.

    Examples
    --------
    >>> mean = ExactMean(2)
    >>> mean.add([[1.0, 10.0], [3.0, 20.0]], weights=[1.0, 1.0])
    >>> other = ExactMean(2)
    >>> other.add([[5.0, 60.0], [9.0, 99.0]], weights=[1.0, 0.0])  # a filled row counts for nothing
    >>> mean.merge(other)
    >>> mean.value()
    array([ 3., 30.])
    """

    columns: int = 1
    total: ExactSum = field(init=False, repr=False)
    weight: ExactSum = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.total, self.weight = ExactSum(self.columns), ExactSum(self.columns)

    def add(self, values: object, weights: object = None, *, counts: object = 1.0) -> None:
        """Add values, or sums of several values each.

        Parameters
        ----------
        values : array_like, shape (row, columns), float64
            Where the weight is 0 the value is ignored: it may be NaN.
        weights : array_like, shape (row,) or (row, columns), float64, optional
            1 each where not given.
        counts : array_like, shape (row, columns)
            How many values each of ``values`` is the sum of, as in an evaluation loop: one sum of errors and one number
            of observed cells per window and horizon step.
        """
        table = np.asarray(values, dtype=np.float64).reshape(-1, self.columns)
        factor = np.ones(1) if weights is None else np.asarray(weights, dtype=np.float64)
        if factor.ndim == 1 and len(factor) == len(table):
            factor = factor[:, np.newaxis]
        factor = np.broadcast_to(factor, table.shape)
        for kept, terms in ((self.total, table), (self.weight, np.asarray(counts, np.float64))):
            kept.add(np.concatenate(_product(np.where(factor != 0, terms, 0.0), factor)))

    def merge(self, other: ExactMean) -> None:
        """Add the values of another, e.g. of another rank."""
        self.total.merge(other.total)
        self.weight.merge(other.weight)

    def value(self) -> np.ndarray:
        """Means rounded once, shape (columns,), float64; NaN where the weights add up to 0."""
        return np.array([self._mean([column]) for column in range(self.columns)])

    def overall(self) -> float:
        """Mean over all columns together, rounded once; NaN where the weights add up to 0."""
        return self._mean(range(self.columns))

    def _mean(self, columns: Iterable[int]) -> float:
        total, weight = (sum(map(kept.exact, columns)) for kept in (self.total, self.weight))
        return float(total / weight) if weight else math.nan

    def state(self) -> list[float]:
        """Return all as a flat list of float64: length of the first sum's state, that state, the second's."""
        total = self.total.state()
        return [float(len(total)), *total, *self.weight.state()]

    @classmethod
    def from_state(cls, state: Sequence[float]) -> ExactMean:
        """Rebuild from `state`; what follows the list (padding) is ignored."""
        length = int(state[0])
        total = ExactSum.from_state(state[1 : 1 + length])
        mean = cls(total.columns)
        mean.total, mean.weight = total, ExactSum.from_state(state[1 + length :])
        return mean


def _product(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact products as a rounded part and the rest (Dekker 1971; no fused multiply-add is needed)."""
    product = left * right
    if np.isin(right, (0.0, 1.0)).all():  # weights of filled and of real rows: nothing is rounded
        return product, np.zeros_like(product)
    with np.errstate(over="ignore", invalid="ignore"):
        (a, b), (c, d) = _halves(left), _halves(right)
        rest = ((a * c - product) + a * d + b * c) + b * d
    return product, np.where(np.isfinite(rest), rest, 0.0)


def _halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    swollen = SPLITTER * values
    high = swollen - (swollen - values)
    return high, values - high
