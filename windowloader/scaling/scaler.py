"""What every scaler does with its statistics: scale, undo, select, keep.

In: a table of statistics by feature. Out: one shift and one factor a feature, for the gather
(`Scaler.affine`) and for arrays and tensors of any layout; JSON. Never looks at data.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from windowloader.errors import ScalerError

from .affine import Affine, back, choose, like, spread, to_float64
from .text import from_text, not_a_scaler, to_text

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from .statistics import Per, Unseen

__all__ = ["Numbers", "Rounding", "Scaler"]

Rounding = Literal["multiply", "divide"]
Numbers = float | np.ndarray
ANY = ""  # the name under which statistics stand that no feature was named for


@dataclass(frozen=True, slots=True, eq=False, init=False, repr=False)
class Scaler:
    """What all scalers share: a table of statistics, and an affine map for each feature made from it.

    Use `StandardScaler`, `MinMaxScaler` or `RobustScaler`; this class is for annotations, and `Scaler.load`
    reads whichever of them was saved. No loader scales clocks, nor covariates without time (elevation, road class):
    scale those yourself before they become covariates.

    Attributes
    ----------
    features : tuple of str or None
        What it covers; None: any feature that is not a clock.
    per : {"feature", "node", "entity"}
        What the statistics differ by.
    """

    features: tuple[str, ...] | None
    per: Per
    rounding: Rounding
    _statistics: Mapping[str, Mapping[str, np.ndarray]]  # feature -> statistic -> [entity or 1, node or 1]
    _missing: Mapping[str, float]
    _options: Mapping[str, Any]

    NAMES: ClassVar[tuple[str, ...]] = ()
    OPTIONS: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def _build(
        cls,
        statistics: Mapping[str, Mapping[str, np.ndarray]],
        *,
        per: Per = "feature",
        rounding: Rounding = "multiply",
        missing: dict[str, float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        scaler = object.__new__(cls)
        scaler._fill(statistics, per=per, rounding=rounding, missing=missing, options=options)
        return scaler

    def _fill(
        self,
        statistics: Mapping[str, Mapping[str, np.ndarray]],
        *,
        per: Per | None = None,
        rounding: Rounding,
        missing: float | dict[str, float] | None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Take statistics by feature; ``per`` None: as their shapes say; a ``missing`` number: for all features."""
        if rounding not in ("multiply", "divide"):
            raise ScalerError(f"rounding={rounding!r} is unknown: 'multiply' (by 1/std) or 'divide'.")
        if not isinstance(missing, dict):
            missing = {} if missing is None else dict.fromkeys(statistics, float(missing))
        frozen: dict[str, dict[str, np.ndarray]] = {}
        for feature, table in statistics.items():
            frozen[feature] = {name: _two_axes(table[name], name, feature, per) for name in self.NAMES}
        shapes = [array.shape for table in frozen.values() for array in table.values()]
        if per is None:  # known statistics: their shapes say it
            per = (
                "entity"
                if max(shapes)[0] > 1
                else "node"
                if max(shape[1] for shape in shapes) > 1
                else "feature"
            )
        for name, value in (
            ("features", None if ANY in frozen else tuple(frozen)),
            ("per", per),
            ("rounding", rounding),
            ("_statistics", frozen),
            ("_missing", dict(missing)),
            ("_options", {**self.OPTIONS, **(options or {})}),
        ):
            object.__setattr__(self, name, value)

    def _map(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        """Shift and scale of a feature, (x - shift) / scale, before constants are dealt with."""
        raise NotImplementedError

    @property
    def unseen(self) -> Unseen:
        """How windows of entities without rows in the set that was fitted on are scaled: "raise", or "pooled"."""
        unseen: Unseen = self._options.get("unseen", "raise")
        return unseen

    def names(self) -> tuple[str, ...]:
        """Names that statistics are kept under; one empty name where no feature was named."""
        return tuple(self._statistics)

    def spread_of(self, feature: str) -> np.ndarray:
        """Return what a feature is divided by, shape (entity or 1, node or 1); 0 where it is constant."""
        return self._map(feature)[1]

    def affine(self, name: str) -> Affine | None:
        """How a feature is scaled, for the gather; None where this scaler does not cover it.

        Examples
        --------
        >>> from windowloader import StandardScaler
        >>> StandardScaler(58.0, 12.5, features="speed").affine("speed").factor
        array([[0.08]])
        """
        found = self._key(name)
        if found is None:
            return None
        shift, scale = self._map(found)
        scale = np.where(scale == 0, 1.0, scale)
        divide = self.rounding == "divide"
        return Affine(shift, scale if divide else 1.0 / scale, divide)

    def transform(self, x: Any, *, layout: str = "btnf", entities: object = None) -> Any:
        """Scale an array or a tensor.

        Parameters
        ----------
        x : ndarray or torch.Tensor
            Its feature axis holds this scaler's features, in order. Computed in float64, returned in its own
            dtype.
        layout : str
            Letters of its axes: ``b``, ``t``, ``n`` (all space axes), ``f``, in any order; letters may be
            left out.
        entities : array_like of int, shape (batch,), optional
            ``batch.entities``, where statistics differ by entity.

        Returns
        -------
        ndarray or torch.Tensor
            A new one; gradients flow through tensors.

        Raises
        ------
        ScalerError
            If the features, nodes or entities are not the scaler's.
        AxesError
            If the layout does not fit the array.

        Examples
        --------
        >>> from windowloader import StandardScaler
        >>> StandardScaler(60.0, 10.0).transform(np.array([[70.0, 55.0]]), layout="bn")
        array([[ 1. , -0.5]])
        """
        values = to_float64(x)
        shift, scale = self._spread(values, layout, entities)
        moved = values - like(shift, values)
        if self.rounding == "divide":
            return back(moved / like(scale, values), x)
        return back(moved * like(1.0 / scale, values), x)

    def inverse_transform(
        self,
        x: Any,
        *,
        layout: str = "btnf",
        entities: object = None,
        mask: Any = None,
        missing: float | None = None,
    ) -> Any:
        """Undo `transform`, for predictions and for scaled targets.

        Parameters
        ----------
        x, layout, entities
            As in `transform`.
        mask : array_like of bool, same shape as x, optional
            ``batch.target_mask`` or ``batch.input_mask``: cells that were missing come back as what stands
            for missing in the raw data, exactly (METR-LA: 0), which no arithmetic can promise.
        missing : float, optional
            What stands for missing; known already where the scaler was fitted on data that declare it.

        Returns
        -------
        ndarray or torch.Tensor

        Examples
        --------
        >>> from windowloader import StandardScaler
        >>> scaler = StandardScaler(58.9, 12.1)
        >>> raw = np.array([[0.0, 61.3]], dtype=np.float32)
        >>> scaled = scaler.transform(raw, layout="bn")
        >>> scaler.inverse_transform(scaled, layout="bn", mask=raw != 0, missing=0.0)
        array([[ 0. , 61.3]], dtype=float32)
        """
        values = to_float64(x)
        shift, scale = self._spread(values, layout, entities)
        result = values * like(scale, values) + like(shift, values)
        if mask is not None:
            result = choose(mask, result, self._raw_missing(values.shape, layout, missing))
        return back(result, x)

    def __getitem__(self, names: str | Sequence[str]) -> Self:
        """Scaler of some of the features, in the order given."""
        wanted = (names,) if isinstance(names, str) else tuple(names)
        statistics, missing = {}, {}
        for name in wanted:
            key = self._key(name)
            if key is None:
                raise ScalerError(f"the scaler covers {self._whose()}, not {name!r}.")
            statistics[name] = self._statistics[key]
            if key in self._missing:
                missing[name] = self._missing[key]
        return self._build(
            statistics, per=self.per, rounding=self.rounding, missing=missing, options=self._options
        )

    def to_json(self) -> str:
        """Text from which `from_json` makes an equal scaler, to the bit."""
        return to_text(
            type(self).__name__,
            self._statistics,
            per=self.per,
            rounding=self.rounding,
            missing=self._missing,
            options=self._options,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild from `to_json`.

        Examples
        --------
        >>> from windowloader import StandardScaler
        >>> scaler = StandardScaler(0.1, 1 / 3, features="speed")
        >>> StandardScaler.from_json(scaler.to_json()) == scaler
        True

        Raises
        ------
        ScalerError
            If the text is not of a scaler of this class.
        """
        name, held = from_text(text)
        kind = {kind.__name__: kind for kind in Scaler.__subclasses__()}.get(name)
        if kind is None:
            raise not_a_scaler(text, f"there is no {name}")
        if not issubclass(kind, cls):
            raise ScalerError(f"the text holds a {kind.__name__}; read it with {kind.__name__}.from_json.")
        scaler: Self = kind._build(**held)
        return scaler

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    def hash(self) -> str:
        """16 hexadecimal digits that are the same wherever all statistics are, to the bit."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=8).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scaler) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.hash())

    def __repr__(self) -> str:
        parts = [self._describe(feature) for feature in list(self._statistics)[:3]]
        more = len(self._statistics) - len(parts)
        return f"{type(self).__name__}({'; '.join(parts)}{f'; and {more} more' if more else ''})"

    def _describe(self, feature: str) -> str:
        statistics = self._statistics[feature]
        label = feature or "any feature"
        size = max(array.size for array in statistics.values())
        if size > 1:
            kind = "entities" if self.per == "entity" else "nodes"
            return f"{label}: {' and '.join(statistics)} of {size} {kind}"
        return f"{label}: " + ", ".join(f"{name} {array[0, 0]:.6g}" for name, array in statistics.items())

    def _key(self, name: str) -> str | None:
        if self.features is not None:
            return name if name in self._statistics else None
        from windowloader.series.clock import CLOCK_NAMES

        return None if name in CLOCK_NAMES else ANY

    def _whose(self) -> str:
        return "any feature but clocks" if self.features is None else ", ".join(map(repr, self.features))

    def _spread(self, values: Any, layout: str, entities: object) -> tuple[np.ndarray, np.ndarray]:
        affines = []
        for feature in self._statistics:
            shift, scale = self._map(feature)
            affines.append(Affine(shift, np.where(scale == 0, 1.0, scale), divide=True))
        shift, scale = spread(
            affines, values.shape, layout, entities, "" if self.features is None else self._whose()
        )
        if np.isnan(scale).any() or np.isnan(shift).any():
            raise ScalerError(
                "the array holds windows of entities without rows in the set this scaler was fitted on. Fit it with "
                "unseen='pooled', which gives them the statistics of all."
            )
        return shift, scale

    def _raw_missing(self, shape: Sequence[int], layout: str, missing: float | None) -> np.ndarray:
        unknown = [
            feature or "any"
            for feature in self._statistics
            if missing is None and feature not in self._missing
        ]
        if unknown:
            raise ScalerError(
                f"mask= was given, but nothing is declared missing for {', '.join(unknown)}: say what "
                f"stands for missing in the raw data, missing=0.0 or missing=float('nan')."
            )
        raw = [self._missing[feature] if missing is None else missing for feature in self._statistics]
        constants = [Affine(np.array([[value]]), np.ones((1, 1)), divide=True) for value in raw]
        whose = "" if self.features is None else self._whose()
        return spread(constants, shape, layout, None, whose)[0]

    def _public(self, name: str) -> Numbers | dict[str, Numbers]:
        """Return a statistic as it would be given to the constructor."""
        table: dict[str, Numbers] = {}
        for feature, statistics in self._statistics.items():
            array = statistics[name]
            table[feature] = float(array[0, 0]) if array.size == 1 else array.ravel()
        return next(iter(table.values())) if len(table) == 1 else table


def _two_axes(value: Any, name: str, feature: str, per: Per | None) -> np.ndarray:
    """Return a statistic as (entity or 1, node or 1), float64, read-only."""
    array = np.array(value, dtype=np.float64, order="C")
    if array.ndim < 2:
        array = array.reshape((-1, 1) if per == "entity" else (1, -1))
    if array.ndim != 2 or not array.size:
        raise ScalerError(
            f"{name} of {feature or 'any feature'!r} has shape {array.shape}: one number, or one a node, "
            f"shape (node,)."
        )
    if np.isinf(array).any():
        raise ScalerError(f"{name} of {feature or 'any feature'!r} is infinite: nothing can be scaled by it.")
    if len(array) == 1 and np.isnan(array).any():  # of several entities some may have none
        at = f" at node {int(np.argmax(np.isnan(array[0])))}" if array.size > 1 else ""
        raise ScalerError(
            f"{name} of {feature or 'any feature'!r} is NaN{at}: every value there would become NaN. Give the numbers "
            "of observed values (np.nanmean, np.nanstd), and 0 and 1 for a node that has none."
        )
    array.setflags(write=False)
    return array
