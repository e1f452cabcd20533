"""From names to roles: everything about a batch that can be resolved, and refused, before the first row is read.

In: a series, a spec and how batches are delivered. Out: the roles of a `Recipe`. Reads no rows but those of covariates
without time, which every batch repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import FeatureNameError, LoaderError, MissingDataError, ScalerError
from windowloader.sources.mapping import unchanged
from windowloader.windows.missing import is_missing, sentinel
from windowloader.windows.missing_policy import node_name, undeclared_nan

from .nan_guard import GuardedColumns, NanGuard
from .roles import FLOATS, Group, Role, RowColumn, Static, cast, delivered_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.scaling.affine import Affine
    from windowloader.series.series import Column, Series
    from windowloader.series.variable import Variable
    from windowloader.windows.spec import WindowSpec

    from .roles import Delivery

__all__ = ["compile_roles"]


def compile_roles(
    series: Series, spec: WindowSpec, delivery: Delivery
) -> tuple[tuple[Role, ...], tuple[int, ...], NanGuard | None]:
    """Resolve every name of a spec.

    Parameters
    ----------
    series : Series
    spec : WindowSpec
    delivery : Delivery

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
    FeatureNameError, MissingDataError, AxesError, ScalerError, LoaderError
    """
    asked = {
        "inputs": series.columns(spec.inputs),
        "targets": series.columns(spec.targets) if spec.num_targets else (),
        "future": series.columns(spec.future) if spec.future else (),
    }
    if not asked["inputs"]:
        raise FeatureNameError(
            f"inputs={spec.inputs!r} name nothing. Leave inputs out for the series' own features."
        )
    needed = {column.variable for columns in asked.values() for column in columns if column.variable >= 0}
    variables = tuple(sorted(index for index in needed if series.variables[index].has_time))
    compiler = _Compiler(series, spec, delivery, {variable: i for i, variable in enumerate(variables)})
    unseen = compiler.check_scaler(asked)
    roles = tuple(compiler.role(name, columns) for name, columns in asked.items() if columns)
    watched = tuple(
        GuardedColumns(series, compiler.rows[variable], tuple(own), compiler.offsets(role))
        for role, columns in asked.items()
        for variable in variables
        if (own := [c for c in columns if c.variable == variable and compiler.delivers_nan(c)])
    )
    guard = NanGuard(series, watched, unseen) if watched or unseen is not None else None
    return roles, variables, guard


@dataclass(frozen=True, slots=True, eq=False)
class _Compiler:
    """Turns columns of one series into roles.

    Parameters
    ----------
    series : Series
    spec : WindowSpec
    delivery : Delivery
    rows : mapping of int to int
        Place in ``Recipe.variables`` of each variable that rows are needed of.
    """

    series: Series
    spec: WindowSpec
    delivery: Delivery
    rows: Mapping[int, int]

    def role(self, name: str, columns: Sequence[Column]) -> Role:
        """Sort the columns of a role by how they are delivered."""
        once = not self.delivery.broadcast and name != "targets"
        shared = [column for column in columns if once and not self._by_node(column)]
        kept = [column for column in columns if column not in shared]
        places = {column.name: place for place, column in enumerate(kept)}
        by_row = [column for column in kept if self._by_row(column)]
        by_source: dict[tuple[int, bool], list[Column]] = {}
        for column in kept:
            if column.variable in self.rows and not self._by_row(column):
                by_source.setdefault((column.variable, self._divides(column, name)), []).append(column)
        groups = tuple(
            self._group(name, key[0], own, places)
            for key, own in sorted(by_source.items(), key=itemgetter(0))
        )
        space, nodes = self.series.space_shape, self.series.num_nodes
        layout, offsets = self.delivery.layouts[name == "targets"], self.offsets(name)
        if "n" not in layout.letters and not any(self._by_node(column) for column in kept):
            space, nodes = (), 1  # nothing differs by node (labels of a row, say), so its axis has size 1
        if kept:
            layout.check(steps=len(offsets), nodes=nodes, features=len(kept), role=name)
        still = {place: column for place, column in enumerate(shared) if self._is_static(column)}
        moving = {place: column for place, column in enumerate(shared) if place not in still}
        role = Role(
            name=name,
            offsets=offsets,
            layout=layout,
            space=space,
            num_nodes=nodes,
            num_features=len(kept),
            groups=groups,
            statics=tuple(self._static(c, name, places[c.name]) for c in kept if self._is_static(c)),
            row_columns=tuple(self._row_column(column, name) for column in by_row),
            row_places=np.array([places[column.name] for column in by_row], dtype=np.int64),
            shared_columns=tuple(self._row_column(column, name) for column in moving.values()),
            shared_places=np.array(list(moving), dtype=np.int64),
            shared_statics=tuple(
                (place, self._static(column, name, 0).values.reshape(-1)) for place, column in still.items()
            ),
            has_mask=any(self._can_miss(column) for column in kept),
        )
        computed = role.row_columns or role.shared_columns or role.statics
        if self.delivery.dtype not in FLOATS and (computed or not all(group.copies for group in groups)):
            raise LoaderError(
                f"dtype={self.delivery.dtype!r} only copies values that are stored so, and the {name} hold others, "
                f"clocks, or values that are scaled. Ask for one of {', '.join(FLOATS)}."
            )
        return role

    def offsets(self, role: str) -> np.ndarray:
        """Rows from a window's start that a role reads."""
        rows = self.spec.input_rows if role == "inputs" else self.spec.target_rows
        return np.asarray(rows, dtype=np.int64)

    def delivers_nan(self, column: Column) -> bool:
        """Whether NaN in storage would be delivered: in floats that nothing fills, declared missing or not."""
        filled = self._can_miss(column) and self.delivery.fill is not None
        return self._variable(column).dtype.kind == "f" and not filled

    def check_scaler(self, asked: Mapping[str, Sequence[Column]]) -> np.ndarray | None:
        """Refuse a scaler that covers nothing of what it is asked to scale, or that was fitted on other nodes.

        Returns
        -------
        ndarray of bool, shape (entity,), or None
            Entities that it has no statistics for; None where it has them for all.
        """
        borders = self.series.entity_borders
        entities = 1 if borders is None else len(borders) - 1
        unseen = np.zeros(entities, np.bool_)
        scaled, covered = set(), False
        for role, columns in asked.items():
            for column in columns:
                if not self._scales(column, role):
                    continue
                scaled.add(column.name)
                affine = self._affine(column, role)
                if affine is None:
                    continue
                covered = True
                nodes = self.series.num_nodes if self._variable(column).has_nodes else 1
                shape = affine.shift.shape
                if any(
                    part.shape[0] not in (1, entities) or part.shape[1] not in (1, nodes)
                    for part in (affine.shift, affine.factor)
                ):
                    raise ScalerError(
                        f"the scaler has statistics of (entity, node) = {shape} for {column.name!r}, which here has "
                        f"{entities} entities and {nodes} nodes. Fit it on windows of this series."
                    )
                unseen |= self._unscaled(column, affine)
        if scaled and not covered:
            raise ScalerError(
                f"the scaler covers none of {sorted(scaled)}. Fit it on these features, give its numbers their names "
                "(features=[…]), or leave scaler= out."
            )
        return unseen if unseen.any() else None

    def _unscaled(self, column: Column, affine: Affine) -> np.ndarray:
        """Entities that a column has no statistics for; `ScalerError` where they do not differ by entity."""
        bad = np.asarray(~np.isfinite(affine.shift) | ~np.isfinite(affine.factor) | (affine.factor == 0))
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

    def _variable(self, column: Column) -> Variable:
        return self.series.variables[column.variable]

    def _is_static(self, column: Column) -> bool:
        return column.variable >= 0 and not self._variable(column).has_time

    def _by_node(self, column: Column) -> bool:
        """Whether a column has a value for each node; without a space axis all but clocks belong to the one node."""
        return column.variable >= 0 and (self._variable(column).has_nodes or not self.series.space_shape)

    def _by_row(self, column: Column) -> bool:
        """Whether a column has time and one value per row."""
        if column.variable < 0:
            return True
        many = self.series.num_nodes > 1
        return not self._is_static(column) and not self._variable(column).has_nodes and many

    def _can_miss(self, column: Column) -> bool:
        if column.variable < 0 or self.spec.max_missing == 0.0 or self.spec.on_missing == "raise":
            return False
        variable = self._variable(column)
        return sentinel(variable.missing, variable.dtype) is not None

    def _check_missing(self, column: Column, role: str) -> None:
        """Refuse NaN that would reach the model, and name the ways out."""
        missing = self._variable(column).missing
        if (
            self.delivery.fill is None
            and self._can_miss(column)
            and missing is not None
            and np.isnan(missing)
        ):
            raise MissingDataError(
                f"{column.name!r} of the {role} marks missing values by NaN, and nothing says what a batch should hold "
                "there. Either pass fill=0.0 to fill them after scaling (0.0 is the mean; batch masks tell which), "
                "or WindowSpec(max_missing=0.0) to leave out windows that miss anything."
            )

    def _scales(self, column: Column, role: str) -> bool:
        scales = self.delivery.scaler is not None and (role != "targets" or self.delivery.scale_targets)
        return scales and column.variable >= 0 and not self._is_static(column)

    def _affine(self, column: Column, role: str) -> Affine | None:
        scaler = self.delivery.scaler
        return scaler.affine(column.name) if scaler is not None and self._scales(column, role) else None

    def _divides(self, column: Column, role: str) -> bool:
        affine = self._affine(column, role)
        return affine is not None and affine.divide

    def _group(self, role: str, variable: int, columns: Sequence[Column], places: Mapping[str, int]) -> Group:
        source, delivery = self.series.variables[variable], self.delivery
        for column in columns:
            self._check_missing(column, role)
        affines = [self._affine(column, role) for column in columns]
        shift, factor = _stack(affines)
        features = np.array([column.feature for column in columns], dtype=np.int64)
        at = np.array([places[column.name] for column in columns], dtype=np.int64)
        can_miss = any(self._can_miss(column) for column in columns)
        mark = sentinel(source.missing, source.dtype)
        fill = delivery.fill if can_miss else None
        bits = delivery.dtype != "bfloat16" and delivered_dtype(delivery.dtype) == source.dtype
        return Group(
            rows=self.rows[variable],
            features=features,
            places=at,
            shift=shift,
            factor=factor,
            divide=np.full(len(columns), affines[0] is not None and affines[0].divide),
            sentinel=np.zeros(1, source.dtype) if mark is None else mark,
            can_miss=can_miss,
            fill=fill,
            copies=bits and fill is None and all(affine is None for affine in affines),
        )

    def _row_column(self, column: Column, role: str) -> RowColumn:
        if column.variable < 0:
            return RowColumn(clock=column.name)
        self._check_missing(column, role)
        variable, affine = self._variable(column), self._affine(column, role)
        shift, factor = _stack([affine])
        can_miss = self._can_miss(column)
        return RowColumn(
            rows=self.rows[column.variable],
            feature=column.feature,
            shift=shift[0, :, 0],
            factor=factor[0, :, 0],
            divide=affine is not None and affine.divide,
            sentinel=sentinel(variable.missing, variable.dtype) if can_miss else None,
            fill=self.delivery.fill if can_miss else None,
        )

    def _static(self, column: Column, role: str, place: int) -> Static:
        """Deliver a covariate without time as it is: never scaled, missing cells filled."""
        self._check_missing(column, role)
        variable, fill, dtype = self._variable(column), self.delivery.fill, self.delivery.dtype
        raw = _only_row(variable)[:, column.feature]
        seen = np.ones(len(raw), bool)
        mark = sentinel(variable.missing, variable.dtype)
        if mark is not None and self._can_miss(column):
            seen = ~is_missing(raw, mark)
        values = raw.astype(np.float64)
        unfilled = np.isnan(values) & (seen | (fill is None))
        if unfilled.any():
            raise undeclared_nan(self.series, column, None, int(np.argmax(unfilled)))
        if fill is not None:
            values = np.where(seen, values, fill)
        return Static(
            values=cast(values, dtype).reshape(1, 1, -1, 1),
            observed=seen.view(np.uint8).reshape(1, 1, -1, 1),
            places=np.array([place], dtype=np.int64),
        )


def _stack(affines: Sequence[Affine | None]) -> tuple[np.ndarray, np.ndarray]:
    """Shifts and factors of columns as arrays [column, 1 | entity, 1 | node]; 0 and 1 where there is none."""
    shifts = [np.zeros((1, 1)) if affine is None else affine.shift for affine in affines]
    factors = [np.ones((1, 1)) if affine is None else affine.factor for affine in affines]
    shape = np.broadcast_shapes(*(values.shape for values in shifts + factors))
    shift, factor = (
        np.ascontiguousarray([np.broadcast_to(values, shape) for values in part], dtype=np.float64)
        for part in (shifts, factors)
    )
    return shift, factor


def _only_row(variable: Variable) -> np.ndarray:
    view = variable.view()
    if view is not None:
        with unchanged(view):
            return np.array(view[0])
    out = np.empty((1, variable.num_nodes, variable.num_features), variable.dtype)
    variable.read(0, 1, out)
    return np.asarray(out[0])
