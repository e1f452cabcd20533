"""Sums without rounding: the same result for any order, any split over ranks, any batch size.

In: float64 values, perhaps with weights. Out: their sum or mean, rounded once. Never rounds in between: what
is kept is an expansion, a short list of floats whose exact sum is the sum (Shewchuk 1997, "Adaptive
Precision Floating-Point Arithmetic"), in the one form in which each part is the rest rounded to nearest.
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

    Two sets of values with one exact sum have one expansion, so states can be compared to the bit.

    Examples
    --------
    >>> expansion([1.0, 1e20, 1e-20])
    [1e+20, 1.0, 1e-20]
    >>> expansion([0.5, -0.5])
    []
    """
    rest = [value for value in values if value]
    parts: list[float] = []
    while part := math.fsum(rest):
        parts.append(part)
        rest.append(-part)
    return parts


@dataclass(slots=True)
class ExactSum:
    """Exact sums, one a column.

    Parameters
    ----------
    columns : int
        How many sums are kept side by side, say one a horizon step.

    Examples
    --------
    >>> total = ExactSum(2)
    >>> total.add([[1e16, 0.1], [1.0, 0.2], [-1e16, 0.3]])
    >>> total.value()
    array([1. , 0.6])
    """

    columns: int = 1
    _parts: list[list[float]] = field(init=False, repr=False)
    _special: list[float] = field(init=False, repr=False)  # infinities and NaN, which no expansion holds

    def __post_init__(self) -> None:
        self._parts = [[] for _ in range(self.columns)]
        self._special = [0.0] * self.columns

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
        finite = np.isfinite(table)
        for column in range(self.columns):
            good = finite[:, column]
            self._parts[column] = expansion([*self._parts[column], *table[good, column].tolist()])
            if not good.all():
                self._special[column] += sum(table[~good, column].tolist())

    def merge(self, other: ExactSum) -> None:
        """Add what another has summed, say on another rank."""
        if other.columns != self.columns:
            raise ValueError(f"sums of {self.columns} and {other.columns} columns cannot be merged.")
        for column in range(self.columns):
            self._parts[column] = expansion(self._parts[column] + other._parts[column])
            self._special[column] += other._special[column]

    def exact(self, column: int = 0) -> Fraction | float:
        """Sum of a column without rounding; a float where it is infinite or NaN."""
        special = self._special[column]
        return special if special else sum((Fraction(part) for part in self._parts[column]), Fraction(0))

    def value(self) -> np.ndarray:
        """Return sums rounded once, shape (columns,), float64."""
        return np.array(
            [
                special or (parts[0] if parts else 0.0)
                for special, parts in zip(self._special, self._parts, strict=True)
            ]
        )

    def state(self) -> list[float]:
        """Return a flat list of float64: columns, then for each its special value, length and parts."""
        flat = [float(self.columns)]
        for special, parts in zip(self._special, self._parts, strict=True):
            flat += [special, float(len(parts)), *parts]
        return flat

    @classmethod
    def from_state(cls, state: Sequence[float]) -> ExactSum:
        """Rebuild from `state`; what follows the list (padding, a second state) is not looked at."""
        total, at = cls(int(state[0])), 1
        for column in range(total.columns):
            length = int(state[at + 1])
            total._special[column] = float(state[at])
            total._parts[column] = [float(part) for part in state[at + 2 : at + 2 + length]]
            at += 2 + length
        return total


@dataclass(slots=True)
class ExactMean:
    """Weighted means that do not depend on order, batch size or ranks.

    The mean is sum(weights * values) / sum(weights), each of the two sums exact, divided exactly, rounded
    once. Products are exact too, as sums of two floats (Dekker 1971), where they lie between 1e-275 and
    1e300.

    Parameters
    ----------
    columns : int
        How many means are kept side by side, say one a horizon step.

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

    def add(self, values: object, weights: object = None) -> None:
        """Add values.

        Parameters
        ----------
        values : array_like, shape (row, columns), float64
            Where the weight is 0 the value is not looked at: it may be NaN.
        weights : array_like, shape (row,) or (row, columns), float64, optional
            1 each where not given.
        """
        table = np.asarray(values, dtype=np.float64).reshape(-1, self.columns)
        factor = np.ones(1) if weights is None else np.asarray(weights, dtype=np.float64)
        if factor.ndim == 1 and len(factor) == len(table):
            factor = factor[:, np.newaxis]
        factor = np.broadcast_to(factor, table.shape)
        used = np.where(factor != 0, table, 0.0)
        self.total.add(np.concatenate(_product(used, factor)))
        self.weight.add(factor)

    def add_sums(self, sums: object, counts: object, weights: object = None) -> None:
        """Add sums that were taken over ``counts`` values each; both array_like, shape (row, columns).

        The way of an evaluation loop: one sum of errors and one number of observed cells a window and
        horizon step. ``weights``, shape (row,), default to 1; a row of weight 0 is not looked at.
        """
        if weights is None:
            self.total.add(sums)
            self.weight.add(counts)
            return
        factor = np.asarray(weights, dtype=np.float64).reshape(-1, 1)
        for kept, values in ((self.total, sums), (self.weight, counts)):
            table = np.asarray(values, dtype=np.float64).reshape(-1, self.columns)
            wide = np.broadcast_to(factor, table.shape)
            kept.add(np.concatenate(_product(np.where(wide != 0, table, 0.0), wide)))

    def merge(self, other: ExactMean) -> None:
        """Add what another has seen, say on another rank."""
        self.total.merge(other.total)
        self.weight.merge(other.weight)

    def value(self) -> np.ndarray:
        """Means rounded once, shape (columns,), float64; NaN where the weights add up to 0."""
        return np.array([self._mean(column) for column in range(self.columns)])

    def _mean(self, column: int) -> float:
        total, weight = self.total.exact(column), self.weight.exact(column)
        if not weight:
            return math.nan
        if isinstance(total, float) or isinstance(weight, float):
            return float(total) / float(weight)
        return float(total / weight)

    def overall(self) -> float:
        """Mean over all columns together, rounded once; NaN where the weights add up to 0."""
        pooled = ExactMean(1)
        for kept, own in ((pooled.total, self.total), (pooled.weight, self.weight)):
            kept._parts = [expansion(part for parts in own._parts for part in parts)]
            kept._special = [sum(own._special)]
        return float(pooled.value()[0])

    def state(self) -> list[float]:
        """Return all as a flat list of float64: length of the first sum's state, that state, the second's."""
        total = self.total.state()
        return [float(len(total)), *total, *self.weight.state()]

    @classmethod
    def from_state(cls, state: Sequence[float]) -> ExactMean:
        """Rebuild from `state`; what follows the list (padding) is not looked at."""
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
