"""What every scaler does with its statistics: scale, undo, select, save.

In: a table of statistics by feature. Out: one shift and one factor per feature, for the gather (`Scaler.affine`) and
for arrays and tensors of any layout; JSON from which the same bits come back. Never looks at data.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np

from windowloader.errors import ScalerError

from .affine import Affine, arrange, back, choose, like, to_float64
from .fit import NAMED, check_choices, listed
from .fitted import Fitted

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from .fit import Per, Rounding, Unseen

__all__ = ["Numbers", "Scaler", "ScalerWarning"]

Numbers = float | np.ndarray
Statistics = Mapping[str, Mapping[str, Any]]  # feature -> statistic -> [entity or 1, node or 1]
ANY = ""  # the name of statistics for which no feature was named
VERSION = 1


class ScalerWarning(UserWarning):
    """A statistic that scales nothing: a constant feature or node."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Scaler(Fitted):
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

    _statistics: Statistics
    per: Per = None  # type: ignore[assignment]  # found from the shapes of the statistics
    rounding: Rounding = "multiply"
    _missing: Mapping[str, float] = field(default_factory=dict)
    _options: Mapping[str, Any] = field(default_factory=dict)

    NAMES: ClassVar[tuple[str, ...]] = ()
    SPREAD: ClassVar[str] = ""  # what is 0 where a feature is constant
    OPTIONS: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        check_choices(self, ("rounding",))
        frozen = {
            feature: {name: _two_axes(table[name], name, feature, self.per) for name in self.NAMES}
            for feature, table in self._statistics.items()
        }
        object.__setattr__(self, "_statistics", frozen)
        object.__setattr__(self, "_options", {**self.OPTIONS, **self._options})
        if cast("Any", self.per) is None:
            entities, nodes = np.max(
                [one.shape for table in frozen.values() for one in table.values()], axis=0
            )
            object.__setattr__(self, "per", "entity" if entities > 1 else "node" if nodes > 1 else "feature")

    @classmethod
    def _build(cls, statistics: Statistics, **fields: Any) -> Self:
        """Make a scaler of this class from its fields, past the constructor for known numbers."""
        scaler = object.__new__(cls)
        Scaler.__init__(scaler, statistics, **fields)
        return scaler

    def _warn_constant(self, place: Callable[[int, int, tuple[int, ...]], str] | None = None) -> None:
        """Warn once where the spread is 0; the factor is 1 there."""
        places, count = [], 0
        for feature in self._statistics:
            scale = self._map(feature)[1]
            constant = np.argwhere(scale == 0)
            count += len(constant)
            for row, column in constant[:NAMED].tolist():
                at = (place or _place)(row, column, scale.shape)
                places.append((repr(feature) if feature else "any feature") + (f" at {at}" if at else ""))
        if count:
            warnings.warn(
                f"{self.SPREAD} is 0 for{listed(places, count)}: constant there, so the factor is 1 and scaled values "
                "are all the same.",
                ScalerWarning,
                stacklevel=4,
            )

    @property
    def features(self) -> tuple[str, ...] | None:
        """What it covers; None: any feature that is not a clock."""
        return None if ANY in self._statistics else tuple(self._statistics)

    def _map(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        """Shift and scale of a feature, (x - shift) / scale, before constants are replaced by 1."""
        raise NotImplementedError

    @property
    def unseen(self) -> Unseen:
        """How windows of entities without rows in the fitted set are treated: "raise", or "pooled"."""
        unseen: Unseen = self._options.get("unseen", "raise")
        return unseen

    def names(self) -> tuple[str, ...]:
        """Names of the statistics; one empty name where no feature was named."""
        return tuple(self._statistics)

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
            Its feature axis has this scaler's features, in order. Computed in float64, returned in its own
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
                covered = (
                    "any feature but clocks" if self.features is None else ", ".join(map(repr, self.features))
                )
                raise ScalerError(f"the scaler covers {covered}, not {name!r}.")
            statistics[name] = self._statistics[key]
            if key in self._missing:
                missing[name] = self._missing[key]
        return self._build(
            statistics, per=self.per, rounding=self.rounding, _missing=missing, _options=self._options
        )

    def to_json(self) -> str:
        """Text from which `from_json` makes an equal scaler, to the bit."""
        content = {
            "scaler": type(self).__name__,
            "version": VERSION,
            "per": self.per,
            "rounding": self.rounding,
            "options": dict(self._options),
            "missing": {feature: _plain(value) for feature, value in self._missing.items()},
            "statistics": {
                feature: {
                    name: [[_plain(x) for x in row] for row in array.tolist()]
                    for name, array in table.items()
                }
                for feature, table in self._statistics.items()
            },
        }
        return json.dumps(content, allow_nan=False)

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
        try:
            content = json.loads(text)
            kind = {kind.__name__: kind for kind in Scaler.__subclasses__()}[content["scaler"]]
            statistics = {
                feature: {
                    name: np.array([[float(x) for x in row] for row in rows]) for name, rows in table.items()
                }
                for feature, table in content["statistics"].items()
            }
            fields = {
                "per": content["per"],
                "rounding": content["rounding"],
                "_missing": {feature: float(value) for feature, value in content["missing"].items()},
                "_options": content["options"],
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ScalerError(
                f"this is not a scaler as to_json writes it: {text[:80]!r} … ({error!r})"
            ) from error
        if not issubclass(kind, cls):
            raise ScalerError(f"the text has a {kind.__name__}; read it with {kind.__name__}.from_json.")
        scaler: Self = kind._build(statistics, **fields)
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

    def _spread(self, values: Any, layout: str, entities: object) -> tuple[np.ndarray, np.ndarray]:
        """Shift and scale, arranged to broadcast with an array."""
        tables = zip(*map(self._map, self._statistics), strict=True)
        shift, scale = (arrange(table, values.shape, layout, entities, self.features) for table in tables)
        if np.isnan(scale).any() or np.isnan(shift).any():
            raise ScalerError(
                "the array has windows of entities without rows in the set this scaler was fitted on. Fit it with "
                "unseen='pooled', which gives them the statistics of all."
            )
        return shift, np.where(scale == 0, 1.0, scale)

    def _raw_missing(self, shape: Sequence[int], layout: str, missing: float | None) -> np.ndarray:
        """Arrange what stands for missing to broadcast with an array."""
        known = self._missing if missing is None else dict.fromkeys(self._statistics, missing)
        unknown = [feature or "any" for feature in self._statistics if feature not in known]
        if unknown:
            raise ScalerError(
                f"mask= was given, but nothing is declared missing for {', '.join(unknown)}: pass what stands for "
                "missing in the raw data, missing=0.0 or missing=float('nan')."
            )
        tables = [np.array([[known[feature]]], np.float64) for feature in self._statistics]
        return arrange(tables, shape, layout, None, self.features)

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
    absent = np.isnan(array) if len(array) == 1 else False  # of several entities some may have none
    if array.ndim != 2 or not array.size or (np.isinf(array) | absent).any():
        raise ScalerError(
            f"{name} of {feature or 'any feature'!r} must be one finite number, or one per node, shape (node,), got "
            f"{reprlib.repr(value)}. For a node without values give 0 and 1."
        )
    array.setflags(write=False)
    return array


def _place(entity: int, node: int, shape: tuple[int, ...]) -> str:
    """Name the entity and node of a known statistic, by number."""
    return ", ".join([f"entity {entity}"] * (shape[0] > 1) + [f"node {node}"] * (shape[1] > 1))


def _plain(value: float) -> float | str:
    """Return what JSON can represent; Python writes the shortest text that reads back to the same bits."""
    return value if np.isfinite(value) else str(value)
