"""From names to roles: everything about a batch that can be settled, and refused, before the first row is read.

In: a series, a spec, a scaler and how batches should look. Out: the roles of a `Recipe`. Reads no rows but those of
covariates without time, which every batch repeats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import FeatureNameError, LoaderError, MissingDataError, ScalerError, SeriesError
from windowloader.sources.mapping import unchanged
from windowloader.windows.missing import is_missing, sentinel
from windowloader.windows.missing_policy import node_name, undeclared_nan

from .delivery import FLOATS, delivered_dtype
from .nan_guard import GuardedColumns, NanGuard, unusable, watch
from .roles import Group, Role, RowColumn, Static, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.scaling.affine import Affine
    from windowloader.series.series import Column, Series
    from windowloader.series.variable import Variable
    from windowloader.windows.spec import WindowSpec

    from .delivery import Options

__all__ = ["compile_roles"]


def compile_roles(
    series: Series, spec: WindowSpec, options: Options
) -> tuple[tuple[Role, ...], tuple[int, ...], NanGuard | None]:
    """Resolve every name of a spec.

    Parameters
    ----------
    series : Series
    spec : WindowSpec
    options : Options

    Returns
    -------
    roles : tuple of Role
        In the order inputs, targets, future; those that deliver something.
    variables : tuple of int
        Which of the series' variables rows are needed of, rising.
    guard : NanGuard or None
        None where no batch can hold NaN but by a fill.

    Raises
    ------
    FeatureNameError, SeriesError, MissingDataError, AxesError, ScalerError, LoaderError
    """
    asked = {
        "inputs": series.columns(spec.inputs),
        "targets": series.columns(spec.targets) if spec.num_targets else (),
        "future": series.columns(spec.future) if spec.future else (),
    }
    _check_columns(series, spec, asked)
    needed = {column.variable for columns in asked.values() for column in columns if column.variable >= 0}
    variables = tuple(sorted(index for index in needed if series.variables[index].has_time))
    builder = _Builder(series, spec, options, {variable: i for i, variable in enumerate(variables)})
    unseen = None if options.scaler is None else builder.check_scaler(asked)
    roles = tuple(builder.role(name, columns) for name, columns in asked.items() if columns)
    watched = builder.watched(asked)
    guard = NanGuard(series, watched, unseen) if watched or unseen is not None else None
    return roles, variables, guard


def _check_columns(series: Series, spec: WindowSpec, asked: Mapping[str, Sequence[Column]]) -> None:
    for role, columns in asked.items():
        names = [column.name for column in columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise FeatureNameError(f"{role} name {twice} more than once. Name each once.")
    if not asked["inputs"]:
        raise FeatureNameError(
            f"inputs={spec.inputs!r} name nothing. Leave inputs out for the series' own features."
        )
    both = sorted({column.name for column in asked["targets"]} & {column.name for column in asked["future"]})
    if both:
        raise FeatureNameError(
            f"{both} are both targets and future: what is to be predicted would be known when the forecast is made. "
            "Take them out of one of the two."
        )
    clocks = sorted({column.name for columns in asked.values() for column in columns if column.variable < 0})
    if clocks and series.clock is None:
        raise SeriesError(
            f"{clocks} come from timestamps, and the series has none. Pass timestamps= (an array, or a start and a "
            "step), or leave them out."
        )


class _Builder:
    """Columns of one series to roles; holds what all of them need."""

    def __init__(self, series: Series, spec: WindowSpec, options: Options, rows: Mapping[int, int]) -> None:
        self.series = series
        self.spec = spec
        self.options = options
        self.rows = rows
        self.dtype = delivered_dtype(options.dtype)

    def role(self, name: str, columns: Sequence[Column]) -> Role:
        """Sort the columns of a role by how they are delivered."""
        space, nodes = self.series.space_shape, self.series.num_nodes
        apart = not self.options.broadcast and name != "targets"
        shared = [column for column in columns if apart and not self._by_node(column)]
        kept = [column for column in columns if column not in shared]
        places = {column.name: place for place, column in enumerate(kept)}
        by_row = [column for column in kept if self._by_row(column)]
        groups = tuple(
            self._group(name, variable, [c for c in kept if c.variable == variable], places)
            for variable in self.rows
            if any(c.variable == variable and not self._by_row(c) for c in kept)
        )
        statics = tuple(self._static(c, name, places[c.name]) for c in kept if self._is_static(c))
        layout = self.options.layouts[name == "targets"]
        if "n" not in layout.letters and not any(self._by_node(column) for column in kept):
            space, nodes = (), 1  # labels of a row, say: nothing differs by node, so its axis has size 1
        offsets = self._offsets(name)
        if kept:
            layout.check(steps=len(offsets), nodes=nodes, features=len(kept), role=name)
        row_columns = tuple(self._row_column(c, name) for c in by_row)
        shared_rows = [c for c in shared if not self._is_static(c)]
        self._check_dtype(
            name, groups, row_columns + tuple(self._row_column(c, name) for c in shared_rows), statics
        )
        still = [(place, self._static(c, name, 0)) for place, c in enumerate(shared) if self._is_static(c)]
        return Role(
            name=name,
            offsets=offsets,
            layout=layout,
            space=space,
            num_nodes=nodes,
            num_features=len(kept),
            groups=groups,
            statics=statics,
            row_columns=row_columns,
            row_places=np.array([places[c.name] for c in by_row], dtype=np.int64),
            shared_columns=tuple(self._row_column(c, name) for c in shared_rows),
            shared_places=np.array(
                [p for p, c in enumerate(shared) if not self._is_static(c)], dtype=np.int64
            ),
            shared_statics=tuple((place, static.values.reshape(-1)) for place, static in still),
            has_mask=any(self._can_miss(c) for c in kept),
        )

    def watched(self, asked: Mapping[str, Sequence[Column]]) -> tuple[GuardedColumns, ...]:
        """Columns whose NaN would be delivered: floats that nothing fills, declared missing or not."""
        return watch(
            (
                (column, self._offsets(role))
                for role, columns in asked.items()
                for column in columns
                if column.variable in self.rows
                and self.series.variables[column.variable].dtype.kind == "f"
                and not (self._can_miss(column) and self.options.fill is not None)
            ),
            self.rows,
        )

    def _offsets(self, role: str) -> np.ndarray:
        rows = self.spec.input_rows if role == "inputs" else self.spec.target_rows
        return np.asarray(rows, dtype=np.int64)

    def check_scaler(self, asked: Mapping[str, Sequence[Column]]) -> np.ndarray | None:
        """Refuse a scaler that covers nothing of what it is asked to scale, or that was fitted on other nodes.

        Returns
        -------
        ndarray of bool, shape (entity,), or None
            Entities that it has no statistics for; None where it has them for all.
        """
        roles = ["inputs", "future", *(["targets"] if self.options.scale_targets else [])]
        columns = [c for role in roles for c in asked[role] if c.variable >= 0 and not self._is_static(c)]
        unseen = np.zeros(self._num_entities(), np.bool_)
        for column in columns:
            affine = self.options.scaler.affine(column.name)
            if affine is None:
                continue
            nodes = self.series.num_nodes if self.series.variables[column.variable].has_nodes else 1
            for values in (affine.shift, affine.factor):
                if values.shape[1] not in (1, nodes) or values.shape[0] not in (1, self._num_entities()):
                    raise ScalerError(
                        f"the scaler has statistics of (entity, node) = {values.shape} for {column.name!r}, which here "
                        f"has {self._num_entities()} entities and {nodes} nodes. Fit it on windows of this series."
                    )
            unseen |= self._unscaled(column, affine)
        if columns and all(self.options.scaler.affine(column.name) is None for column in columns):
            raise ScalerError(
                f"the scaler covers none of {sorted({column.name for column in columns})}. Fit it on these features, "
                "give its numbers their names (features=[…]), or leave scaler= out."
            )
        return unseen if unseen.any() else None

    def _unscaled(self, column: Column, affine: Affine) -> np.ndarray:
        """Entities that a column has no statistics for; `ScalerError` where they do not differ by entity."""
        bad = unusable(affine)
        if len(bad) == 1 and bad.any():
            node = int(np.argmax(bad[0]))
            shift, factor = (
                np.broadcast_to(part, bad.shape)[0, node] for part in (affine.shift, affine.factor)
            )
            at = f" at {node_name(self.series.nodes, node)}" if bad.size > 1 else ""
            raise ScalerError(
                f"the scaler would make NaN of {column.name!r}{at}: it subtracts {shift:g} and "
                f"{'divides' if affine.divide else 'multiplies'} by {factor:g}. Both must be finite, and the second "
                "not 0: repair its statistics (for a node without values, 0 and 1), or fit it with StandardScaler.fit."
            )
        return np.asarray(bad.any(axis=1))

    def _num_entities(self) -> int:
        borders = self.series.entity_borders
        return 1 if borders is None else len(borders) - 1

    def _is_static(self, column: Column) -> bool:
        return column.variable >= 0 and not self.series.variables[column.variable].has_time

    def _by_node(self, column: Column) -> bool:
        """Whether a column has a value for each node; without a space axis all but clocks belong to the one node."""
        return column.variable >= 0 and (
            self.series.variables[column.variable].has_nodes or not self.series.space_shape
        )

    def _by_row(self, column: Column) -> bool:
        """Whether a column has time and one value a row."""
        return column.variable < 0 or (
            not self._is_static(column)
            and not self.series.variables[column.variable].has_nodes
            and self.series.num_nodes > 1
        )

    def _can_miss(self, column: Column) -> bool:
        if column.variable < 0 or self.spec.max_missing == 0.0 or self.spec.on_missing == "raise":
            return False
        variable = self.series.variables[column.variable]
        return sentinel(variable.missing, variable.dtype) is not None

    def _check_missing(self, column: Column, role: str) -> None:
        """NaN would reach the model: refuse, and name the ways out."""
        if column.variable < 0 or self.options.fill is not None:
            return
        missing = self.series.variables[column.variable].missing
        if self._can_miss(column) and missing is not None and np.isnan(missing):
            raise MissingDataError(
                f"{column.name!r} of the {role} marks missing values by NaN, and nothing says what a batch should hold "
                "there. Either pass fill=0.0 to fill them after scaling (0.0 is the mean; batch masks tell which), "
                "or WindowSpec(max_missing=0.0) to leave out windows that miss anything."
            )

    def _affine(self, column: Column, role: str) -> Any:
        if self.options.scaler is None or self._is_static(column) or column.variable < 0:
            return None
        if role == "targets" and not self.options.scale_targets:
            return None
        return self.options.scaler.affine(column.name)

    def _group(self, role: str, variable: int, columns: Sequence[Column], places: Mapping[str, int]) -> Group:
        source = self.series.variables[variable]
        for column in columns:
            self._check_missing(column, role)
        affines = [self._affine(column, role) for column in columns]
        shift, factor, divide = _stack(affines)
        features = np.array([column.feature for column in columns], dtype=np.int64)
        at = np.array([places[column.name] for column in columns], dtype=np.int64)
        can_miss = any(self._can_miss(column) for column in columns)
        mark = sentinel(source.missing, source.dtype)
        return Group(
            rows=self.rows[variable],
            features=features,
            places=at,
            shift=shift,
            factor=factor,
            divide=divide,
            sentinel=np.zeros(1, source.dtype) if mark is None else mark,
            can_miss=can_miss,
            fill=self.options.fill if can_miss else None,
            copies=self.dtype == source.dtype
            and self.options.dtype != "bfloat16"
            and all(affine is None for affine in affines)
            and not (can_miss and self.options.fill is not None),
            whole=len(places) == len(columns) == source.num_features
            and bool(np.array_equal(features, np.arange(source.num_features)))
            and bool(np.array_equal(at, features)),
        )

    def _row_column(self, column: Column, role: str) -> RowColumn:
        if column.variable < 0:
            return RowColumn(clock=column.name)
        self._check_missing(column, role)
        variable = self.series.variables[column.variable]
        shift, factor, divide = _stack([self._affine(column, role)])
        can_miss = self._can_miss(column)
        return RowColumn(
            rows=self.rows[column.variable],
            feature=column.feature,
            shift=shift[0, :, 0],
            factor=factor[0, :, 0],
            divide=bool(divide[0]),
            sentinel=sentinel(variable.missing, variable.dtype) if can_miss else None,
            fill=self.options.fill if can_miss else None,
        )

    def _static(self, column: Column, role: str, place: int) -> Static:
        """Deliver a covariate without time as it is: never scaled, missing cells filled."""
        self._check_missing(column, role)
        variable = self.series.variables[column.variable]
        raw = _rows_of(variable)[0, :, column.feature]
        seen = np.ones(len(raw), bool)
        mark = sentinel(variable.missing, variable.dtype)
        if mark is not None and self._can_miss(column):
            seen = ~is_missing(raw, mark)
        values = raw.astype(np.float64)
        unfilled = np.isnan(values) & (seen | (self.options.fill is None))
        if unfilled.any():
            raise undeclared_nan(self.series, column, None, int(np.argmax(unfilled)))
        if self.options.fill is not None:
            values = np.where(seen, values, self.options.fill)
        delivered = (
            raw.astype(self.dtype) if self.options.dtype not in FLOATS else cast(values, self.options.dtype)
        )
        return Static(
            values=np.ascontiguousarray(delivered).reshape(1, 1, -1, 1),
            observed=np.ascontiguousarray(seen.view(np.uint8)).reshape(1, 1, -1, 1),
            places=np.array([place], dtype=np.int64),
        )

    def _check_dtype(
        self, role: str, groups: Sequence[Group], rows: Sequence[RowColumn], statics: Sequence[Static]
    ) -> None:
        """Integers and bools are only ever copied: whatever computes needs a floating dtype."""
        if self.options.dtype in FLOATS or (
            not rows and not statics and all(group.copies for group in groups)
        ):
            return
        raise LoaderError(
            f"dtype={self.options.dtype!r} only copies values that are stored so, and the {role} hold others, clocks, "
            f"or values that are scaled. Ask for one of {', '.join(FLOATS)}."
        )


def _stack(affines: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shifts and factors of columns as arrays [column, 1 | entity, 1 | node]; 0 and 1 where there is none."""
    one = np.ones((1, 1))
    shifts = [np.zeros((1, 1)) if affine is None else affine.shift for affine in affines]
    factors = [one if affine is None else affine.factor for affine in affines]
    shape = np.broadcast_shapes(*(values.shape for values in shifts + factors))
    shift, factor = (
        np.ascontiguousarray([np.broadcast_to(values, shape) for values in part], dtype=np.float64)
        for part in (shifts, factors)
    )
    return shift, factor, np.array([affine is not None and affine.divide for affine in affines], dtype=bool)


def _rows_of(variable: Variable) -> np.ndarray:
    view = variable.view()
    if view is not None:
        with unchanged(view):
            return np.array(view)
    out = np.empty((1, variable.num_nodes, variable.num_features), variable.dtype)
    variable.read(0, 1, out)
    return out
