"""From a window set to a table of statistics: which columns, which reducers, what is wrong with the result.

In: a window set and the user's choices. Out: finished reducers by feature name, warnings, errors. Never
computes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from windowloader.errors import ScalerError
from windowloader.windows.missing_policy import entity_name, node_name
from windowloader.windows.window_set import WindowSet

from .row_reads import Weighting, row_weights
from .scaler import ANY
from .statistics import Missing, Per, Reducer, Unseen, reduce_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from windowloader.series.series import Column

    from .scaler import Scaler

__all__ = ["Fit", "ScalerWarning", "known", "warn_constant"]


class ScalerWarning(UserWarning):
    """A statistic that scales nothing: a constant feature or node."""


class Counted(Reducer, Protocol):
    """A reducer that knows how many values it saw."""

    count: np.ndarray


R = TypeVar("R", bound=Counted)


@dataclass(frozen=True, slots=True)
class _Both:
    """Two reducers of the same rows: one by entity, one for all."""

    by_entity: Reducer
    whole: Reducer

    def add(self, values: np.ndarray, weights: np.ndarray, missing: Missing, entity: int, group: int) -> int:
        self.whole.add(values, weights, missing, 0, group)
        return self.by_entity.add(values, weights, missing, entity, group)

    def finish(self) -> None:
        self.whole.finish()
        self.by_entity.finish()


@dataclass(slots=True)
class Fit:
    """One fit: the user's choices, checked, and the columns they mean.

    Raises
    ------
    ScalerError
        If a choice is unknown, or nothing is left to fit.
    FeatureNameError
        If a feature is not in the series.
    """

    window_set: WindowSet
    features: str | Sequence[str] | None
    per: Per
    weighting: Weighting
    unseen: Unseen
    columns: tuple[Column, ...] = field(init=False)
    missing: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        for name, choices in (
            ("per", ("feature", "node", "entity")),
            ("weighting", ("rows", "windows")),
            ("unseen", ("raise", "pooled")),
        ):
            if getattr(self, name) not in choices:
                raise ScalerError(
                    f"{name}={getattr(self, name)!r} is unknown; there are {', '.join(map(repr, choices))}."
                )
        if not isinstance(self.window_set, WindowSet):
            raise ScalerError(
                f"a scaler is fitted on a WindowSet, not on a {type(self.window_set).__name__}. Pass the train part of "
                "a split: train, val, test = wl.split(series, spec, (0.7, 0.1, 0.2))."
            )
        series = self.window_set.series
        if self.unseen == "pooled" and self.per != "entity":
            raise ScalerError(
                f"unseen='pooled' says how entities without rows are scaled, and per={self.per!r} keeps no statistics "
                "by entity. Pass per='entity', or leave unseen= out."
            )
        if self.per == "entity" and series.entity_borders is None:
            raise ScalerError(
                "per='entity' needs a series of entities: open it with entity=…, or give "
                "Series(entities=borders)."
            )
        if not len(self.window_set):
            raise ScalerError("the window set is empty: there is nothing to fit on.")
        self.columns = self._columns()
        self.missing = {
            column.name: float(declared)
            for column in self.columns
            if (declared := series.variables[column.variable].missing) is not None
        }

    def statistics(
        self,
        make: Callable[[int, int, bool], R],
        table: Callable[[R], dict[str, np.ndarray]],
        progress: Callable[[int, int], object] | None,
    ) -> dict[str, dict[str, np.ndarray]]:
        """Reduce every column.

        Parameters
        ----------
        make : callable
            ``make(entities, nodes, pooled)`` gives an empty reducer.
        table : callable
            Statistics of a finished reducer; NaN where its count is.
        progress : callable, optional

        Returns
        -------
        dict of str to dict of str to ndarray, shape (entity or 1, node or 1)
            NaN for entities without rows, unless these take the statistics of all.
        """
        series = self.window_set.series
        borders = series.entity_borders
        entities = 1 if self.per != "entity" or borders is None else len(borders) - 1
        found: dict[Column, R] = {}
        whole: dict[Column, R] = {}
        for column in self.columns:
            nodes = series.variables[column.variable].num_nodes
            found[column] = make(entities, nodes, self.per != "node")
            if self.unseen == "pooled":
                whole[column] = make(1, nodes, True)
        reduce_rows(
            self.window_set,
            {column: _Both(own, whole[column]) if whole else own for column, own in found.items()},
            weighting=self.weighting,
            by_entity=self.per == "entity",
            progress=progress,
        )
        statistics = {}
        for column, own in found.items():
            self._check(column, own, whole.get(column))
            statistics[column.name] = table(own)
            if whole:
                every, unseen = table(whole[column]), np.isnan(own.count)
                for name, values in statistics[column.name].items():
                    statistics[column.name][name] = np.where(unseen, every[name], values)
        return statistics

    def _check(self, column: Column, found: R, whole: R | None) -> None:
        """Refuse a statistic without values; the counts of entities that may have none become NaN."""
        empty = np.argwhere(found.count == 0)
        if len(found.count) > 1:
            if whole is not None and whole.count.all():
                empty = empty[:0]
            else:
                empty = np.array([(entity, node) for entity, node in empty if self._is_held(int(entity))])
            found.count[found.count == 0] = np.nan
        if len(empty):
            places = [self._place(int(entity), int(node), found.count.shape) for entity, node in empty]
            raise ScalerError(
                f"feature {column.name!r} is missing in every row of the window "
                f"set{_listed(places, ' at ')}: there "
                "is nothing to fit on. Leave these out with series.select(…), or fit per='feature'."
            )

    @property
    def options(self) -> dict[str, str]:
        """What the scaler remembers of the choices beside its statistics."""
        return {} if self.unseen == "raise" else {"unseen": self.unseen}

    @property
    def reducers(self) -> int:
        """Reducers of a column: one, or one by entity and one of all."""
        return 2 if self.unseen == "pooled" else 1

    def value_bytes(self) -> int:
        """Bytes of all values between the first and the last row, as float64, in all reducers."""
        first, last = self.window_set.row_range
        series = self.window_set.series
        variables = [series.variables[column.variable] for column in self.columns]
        return self.reducers * sum(8 * variable.num_nodes * (last - first) for variable in variables)

    def _columns(self) -> tuple[Column, ...]:
        series, spec = self.window_set.series, self.window_set.spec
        if self.features is not None:
            names = (self.features,) if isinstance(self.features, str) else tuple(self.features)
            columns = tuple(dict.fromkeys(series.columns(names)))
            self._check_named(columns)
        else:
            roles = [spec.inputs, *([spec.targets] if spec.num_targets else []), spec.future]
            read = [
                column for names in roles if names is None or len(names) for column in series.columns(names)
            ]
            columns = tuple(
                dict.fromkeys(c for c in read if c.variable >= 0 and series.variables[c.variable].has_time)
            )
        if not columns:
            raise ScalerError("nothing is left to fit: the windows read only clocks and static covariates.")
        return columns

    def _check_named(self, columns: Sequence[Column]) -> None:
        for column in columns:
            if column.variable < 0:
                raise ScalerError(
                    f"{column.name!r} is a clock: it has no statistics to fit, and is not scaled."
                )
            if not self.window_set.series.variables[column.variable].has_time:
                raise ScalerError(
                    f"{column.name!r} has no time axis: it is delivered as it is, and not scaled."
                )

    def _is_held(self, entity: int) -> bool:
        borders = self.window_set.series.entity_borders
        assert borders is not None
        first, last = self.window_set.row_range
        start, stop = max(first, int(borders[entity])), min(last, int(borders[entity + 1]))
        return start < stop and bool(row_weights(self.window_set, start, stop, self.weighting).any())

    def _place(self, entity: int, node: int, shape: tuple[int, ...]) -> str:
        parts = [entity_name(self.window_set.series, entity)] if shape[0] > 1 else []
        parts += [node_name(self.window_set.series.nodes, node)] if shape[1] > 1 else []
        return ", ".join(parts)

    def place(self, row: int, column: int, shape: tuple[int, ...]) -> str:
        """Name the entity and node of one statistic."""
        return self._place(row, column, shape)


def known(given: Mapping[str, Any], features: str | Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Known statistics by feature: from numbers for all features alike, or from mappings.

    Examples
    --------
    >>> known({"mean": {"speed": 59.0}, "std": {"speed": 12.0}}, None)
    {'speed': {'mean': 59.0, 'std': 12.0}}
    """
    names = (features,) if isinstance(features, str) else None if features is None else tuple(features)
    tables = {label: value for label, value in given.items() if isinstance(value, Mapping)}
    if tables and len(tables) < len(given):
        raise ScalerError(
            f"{' and '.join(tables)} is a mapping by feature, the other is not: give both alike."
        )
    if tables:
        keys = [tuple(table) for table in tables.values()]
        if any(set(key) != set(keys[0]) for key in keys) or (
            names is not None and set(names) != set(keys[0])
        ):
            raise ScalerError(
                f"the mappings name {keys[0]} and {keys[-1]}, features={features!r}: they must agree."
            )
        return {name: {label: table[name] for label, table in tables.items()} for name in names or keys[0]}
    arrays = [label for label, value in given.items() if np.ndim(value)]
    if names is not None and len(names) > 1 and arrays:
        raise ScalerError(
            f"{arrays[0]} is an array, which holds one value a node; for {len(names)} features give a "
            f"mapping, {arrays[0]}={{{names[0]!r}: …, {names[1]!r}: …}}."
        )
    if names == ():
        raise ScalerError("features=() covers nothing.")
    return {name: dict(given) for name in names or (ANY,)}


def warn_constant(scaler: Scaler, what: str, fit: Fit | None = None) -> None:
    """Say once where nothing spreads; the factor is 1 there."""
    places: list[str] = []
    for feature in scaler.names():
        scale = scaler.spread_of(feature)
        for row, column in np.argwhere(scale == 0):
            at = (
                fit.place(int(row), int(column), scale.shape)
                if fit
                else _index(int(row), int(column), scale.shape)
            )
            label = repr(feature) if feature else "any feature"
            places.append(f"{label} at {at}" if at else label)
    if places:
        warnings.warn(
            f"{what} is 0 for{_listed(places)}: constant there, so the factor is 1 and scaled values are "
            f"all the same.",
            ScalerWarning,
            stacklevel=3,
        )


def _index(row: int, column: int, shape: tuple[int, ...]) -> str:
    return ", ".join([f"entity {row}"] * (shape[0] > 1) + [f"node {column}"] * (shape[1] > 1))


def _listed(places: Sequence[str], lead: str = " ") -> str:
    named = [place for place in places if place]
    if not named:
        return ""
    more = len(named) - 8
    return lead + "; ".join(named[:8]) + (f"; and {more} more" if more > 0 else "")
