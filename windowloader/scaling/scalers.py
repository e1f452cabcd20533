"""Scalers fitted on the rows that a window set reads, or made from known numbers.

In: a window set, or statistics. Out: `StandardScaler`, `MinMaxScaler`, `RobustScaler`. Never sees a row
outside its window set.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np

from windowloader.errors import ScalerError
from windowloader.util.units import format_bytes, parse_bytes

from .scaler import ANY, Numbers, Scaler, ScalerWarning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from .fit import Fit, Make, Rounding

    Given = float | Sequence[float] | np.ndarray | Mapping[str, float | Sequence[float] | np.ndarray]

__all__ = ["KnownOptions", "MinMaxScaler", "RobustScaler", "Scaler", "ScalerWarning", "StandardScaler"]


SUMS = "statistics-2"  # how sums are joined: by a tree over groups of rows


class KnownOptions(TypedDict, total=False):
    """The keyword arguments that scalers of known statistics share."""

    features: str | Sequence[str] | None
    rounding: Rounding
    missing: float | None


class StandardScaler(Scaler):
    """Scale to mean 0 and standard deviation 1: ``(x - mean) / (std + epsilon)``.

    Clocks and covariates without time are neither fitted nor scaled.

    Parameters
    ----------
    mean, std : float, array_like of shape (node,), or mapping of feature to either
        Known statistics; `fit` computes them. The standard deviation is that of the population (ddof=0).
    features : str or sequence of str, optional
        What is covered. None: the names of the mapping, or any feature that is not a clock.
    rounding : {"multiply", "divide"}
        Multiply by 1/std as the gather does best, or divide, to the bit of NumPy's ``(x - mean) / std``.
    epsilon : float
        Added to std (PyTorch Geometric Temporal uses 1e-10 for some sets).
    missing : float, optional
        What stands for missing in the raw data, for ``inverse_transform(…, mask=…)``.

    Raises
    ------
    ScalerError
        If a statistic has no usable shape or value.

    Examples
    --------
    >>> scaler = StandardScaler({"speed": 59.3, "flow": 180.0}, {"speed": 12.4, "flow": 75.0})
    >>> scaler
    StandardScaler(speed: mean 59.3, std 12.4; flow: mean 180, std 75)
    >>> scaler["speed"].inverse_transform(np.array([[1.0, -1.0]]), layout="bn").round(1)
    array([[71.7, 46.9]])
    """

    __slots__ = ()
    NAMES: ClassVar[tuple[str, ...]] = ("mean", "std")
    SPREAD: ClassVar[str] = "std"
    OPTIONS: ClassVar[Mapping[str, float]] = {"epsilon": 0.0}
    OWN: ClassVar[tuple[str, ...]] = ("epsilon",)

    def __init__(
        self, mean: Given, std: Given, *, epsilon: float = 0.0, **options: Unpack[KnownOptions]
    ) -> None:
        _set_known(self, {"mean": mean, "std": std}, {"epsilon": _epsilon(epsilon)}, **options)

    @classmethod
    def _how(cls, fit: Fit, epsilon: float = 0.0) -> tuple[Make, dict[str, Any]]:
        from .statistics import Moments

        return Moments, {"epsilon": _epsilon(epsilon), "statistics": SUMS}

    @property
    def mean(self) -> Numbers | dict[str, Numbers]:
        """Mean: a float, or an array, shape (node,) or (entity,); a dict of them for several features."""
        return self._public("mean")

    @property
    def std(self) -> Numbers | dict[str, Numbers]:
        """Standard deviation, as `mean`; epsilon is not in it."""
        return self._public("std")

    def _map(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        table = self._statistics[feature]
        return table["mean"], table["std"] + float(self._options["epsilon"])


class MinMaxScaler(Scaler):
    """Scale a range of values to ``feature_range``, [0, 1] by default.

    Parameters
    ----------
    minimum, maximum : float, array_like of shape (node,), or mapping of feature to either
        Known statistics; `fit` computes them.
    features, rounding, missing
        As in `StandardScaler`.
    feature_range : tuple of float
        Where minimum and maximum come to lie.

    Raises
    ------
    ScalerError
        If a maximum is below its minimum, or the range does not rise.

    Examples
    --------
    >>> MinMaxScaler(0.0, 80.0, feature_range=(-1, 1)).transform(np.array([[0.0, 60.0]]), layout="bn")
    array([[-1. ,  0.5]])
    """

    __slots__ = ()
    NAMES: ClassVar[tuple[str, ...]] = ("minimum", "maximum")
    SPREAD: ClassVar[str] = "range"
    OPTIONS: ClassVar[Mapping[str, object]] = {"feature_range": [0.0, 1.0]}
    OWN: ClassVar[tuple[str, ...]] = ("feature_range",)

    def __init__(
        self,
        minimum: Given,
        maximum: Given,
        *,
        feature_range: tuple[float, float] = (0.0, 1.0),
        **options: Unpack[KnownOptions],
    ) -> None:
        scaling = {"feature_range": _rising("feature_range", feature_range, -np.inf, np.inf)}
        _set_known(self, {"minimum": minimum, "maximum": maximum}, scaling, **options)

    @classmethod
    def _how(cls, fit: Fit, feature_range: tuple[float, float] = (0.0, 1.0)) -> tuple[Make, dict[str, Any]]:
        from .statistics import Extremes

        return Extremes, {"feature_range": _rising("feature_range", feature_range, -np.inf, np.inf)}

    @property
    def minimum(self) -> Numbers | dict[str, Numbers]:
        """Smallest value, in the shapes of `StandardScaler.mean`."""
        return self._public("minimum")

    @property
    def maximum(self) -> Numbers | dict[str, Numbers]:
        """Largest value."""
        return self._public("maximum")

    def _map(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        low, high = self._options["feature_range"]
        table = self._statistics[feature]
        scale = (table["maximum"] - table["minimum"]) / (high - low)
        return table["minimum"] - low * np.where(scale == 0, 1.0, scale), scale


class RobustScaler(Scaler):
    """Scale by median and distance of two quantiles: ``(x - median) / spread``; outliers do not matter.

    Parameters
    ----------
    median, spread : float, array_like of shape (node,), or mapping of feature to either
        Known statistics; `fit` computes them.
    features, rounding, missing
        As in `StandardScaler`.

    Fitted exactly, as ``np.quantile`` does: all values are kept, 8 bytes each, and must fit in ``exact_bytes``; sorting
    them temporarily takes twice that (six times where nodes are pooled and rows weighted).

    Raises
    ------
    ScalerError
        If a spread is below 0.

    Examples
    --------
    >>> RobustScaler(60.0, 8.0, features="speed").transform(np.array([[64.0]]), layout="bn")
    array([[0.5]])
    """

    __slots__ = ()
    NAMES: ClassVar[tuple[str, ...]] = ("median", "spread")
    SPREAD: ClassVar[str] = "spread"
    OWN: ClassVar[tuple[str, ...]] = ("quantile_range", "exact_bytes")

    def __init__(self, median: Given, spread: Given, **options: Unpack[KnownOptions]) -> None:
        _set_known(self, {"median": median, "spread": spread}, {}, **options)

    @classmethod
    def _how(
        cls,
        fit: Fit,
        quantile_range: tuple[float, float] = (0.25, 0.75),
        exact_bytes: str | int = "256MiB",
    ) -> tuple[Make, dict[str, Any]]:
        from .statistics import Quantiles

        low, high = _rising("quantile_range", quantile_range, 0.0, 1.0)
        if (needed := fit.value_bytes()) > parse_bytes(exact_bytes, name="exact_bytes"):
            raise ScalerError(
                f"quantiles need all values in memory, {format_bytes(needed)}, and exact_bytes={exact_bytes!r} is "
                "less. Raise it, or fit on some of the windows, e.g. train.take(slice(None, None, 100))."
            )
        return partial(Quantiles, ranks=np.array([low, 0.5, high])), {}

    @property
    def median(self) -> Numbers | dict[str, Numbers]:
        """Median, in the shapes of `StandardScaler.mean`."""
        return self._public("median")

    @property
    def spread(self) -> Numbers | dict[str, Numbers]:
        """Distance of the two quantiles."""
        return self._public("spread")

    def _map(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        table = self._statistics[feature]
        return table["median"], table["spread"]


def _epsilon(epsilon: float) -> float:
    if not 0 <= epsilon < np.inf:
        raise ScalerError(
            f"epsilon={epsilon!r} is added to the standard deviation: 0 or a small number above."
        )
    return float(epsilon)


def _rising(name: str, pair: tuple[float, float], lowest: float, highest: float) -> list[float]:
    values = [float(value) for value in pair]
    if len(values) != 2 or not lowest <= values[0] < values[1] <= highest or not np.isfinite(values).all():
        raise ScalerError(
            f"{name}={pair!r}: two rising numbers between {lowest:g} and {highest:g} are asked for."
        )
    return values


def _set_known(
    scaler: Scaler,
    given: Mapping[str, Any],
    scaling: Mapping[str, Any],
    *,
    features: str | Sequence[str] | None = None,
    rounding: Rounding = "multiply",
    missing: float | None = None,
) -> None:
    """Fill a scaler with known statistics: numbers for all features alike, or mappings by feature."""
    names = [features] if isinstance(features, str) else None if features is None else list(features)
    mappings = [value for value in given.values() if isinstance(value, Mapping)]
    if mappings:
        wanted = list(mappings[0]) if names is None else names
        if len(mappings) < len(given):
            raise ScalerError(
                f"one of {' and '.join(given)} is a mapping by feature, the other not: give both alike."
            )
        if any(set(mapping) != set(wanted) for mapping in mappings):
            raise ScalerError(
                f"the mappings name {list(map(list, mappings))}, features={features!r}: they must agree."
            )
        statistics = {name: {label: table[name] for label, table in given.items()} for name in wanted}
    else:
        if names == []:
            raise ScalerError("features=() covers nothing.")
        if names is not None and len(names) > 1 and any(map(np.ndim, given.values())):
            raise ScalerError(
                f"an array is one value per node; for {len(names)} features give a mapping by feature."
            )
        statistics = {name: dict(given) for name in names or [ANY]}
    marks = {} if missing is None else dict.fromkeys(statistics, float(missing))
    Scaler.__init__(scaler, statistics, rounding=rounding, _missing=marks, _options=scaling)
    if any((scaler._map(feature)[1] < 0).any() for feature in statistics):
        raise ScalerError(f"{scaler.SPREAD} is below 0 somewhere: {' and '.join(given)} must give 0 or more.")
    scaler._warn_constant()
