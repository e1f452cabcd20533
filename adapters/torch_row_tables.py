"""Rows as a batch would hold them, one after another: what the core's own kernels make of each row, once.

In: a recipe. Out: the columns that its roles need, each once, as two recipes of single rows (by node, and the same for
all nodes), and where each role finds its columns. Never rounds anything itself: what is delivered from these tables has
the bits that the core delivers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.batch.recipe import Recipe
from windowloader.batch.roles import Role
from windowloader.util.axes import Layout

if TYPE_CHECKING:
    from collections.abc import Hashable

    from windowloader.batch.roles import Group, RowColumn

__all__ = ["Columns", "RowTables"]


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a role that one table has: ``picks`` in the table, and their ``places`` in the role."""

    picks: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RowTables:
    """Two recipes whose windows are single rows, and the columns of each role.

    Parameters
    ----------
    by_node : Recipe or None
        Delivers ``inputs`` (row, 1, node, column), and ``input_mask`` where anything can be missing.
    by_row : Recipe or None
        Delivers ``inputs`` (row, 1, 1, column) and perhaps ``input_mask``: clocks, covariates without nodes.
    nodes, rows, shared : tuple of Columns
        For each role of the recipe: in the first table, in the second, and what is delivered once a row.
    """

    by_node: Recipe | None
    by_row: Recipe | None
    nodes: tuple[Columns, ...]
    rows: tuple[Columns, ...]
    shared: tuple[Columns, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> RowTables:
        """Take a recipe apart."""
        groups: dict[Hashable, Group] = {}
        columns: dict[Hashable, RowColumn] = {}
        nodes, rows, shared = [], [], []
        for role in recipe.roles:
            single = [_column(group, k) for group in role.groups for k in range(len(group.places))]
            places = [int(place) for group in role.groups for place in group.places]
            nodes.append(_chosen(groups, single, places))
            rows.append(_chosen(columns, role.row_columns, role.row_places.tolist()))
            shared.append(_chosen(columns, role.shared_columns, role.shared_places.tolist()))
        one = recipe.roles[0]
        return cls(
            by_node=_recipe(recipe, one.num_nodes, list(groups.values()), []) if groups else None,
            by_row=_recipe(recipe, 1, [], list(columns.values())) if columns else None,
            nodes=tuple(nodes),
            rows=tuple(rows),
            shared=tuple(shared),
        )

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The tables there are."""
        return tuple(recipe for recipe in (self.by_node, self.by_row) if recipe is not None)

    def nbytes(self, rows: int) -> int:
        """Bytes of the tables of so many rows."""
        return sum(part.nbytes for recipe in self.recipes for part in recipe.fields(rows)) if rows else 0


def _column(group: Group, k: int) -> Group:
    """One column of a group, as a group."""
    one = slice(k, k + 1)
    return replace(
        group,
        features=group.features[one],
        places=np.zeros(1, np.int64),
        shift=group.shift[one],
        factor=group.factor[one],
        divide=group.divide[one],
        whole=False,
    )


def _key(column: Any) -> Hashable:
    """Return what makes two columns deliver the same values: all fields but the place."""
    fields = (getattr(column, name) for name in column.__slots__ if name not in ("places", "whole"))
    return tuple(
        (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value for value in fields
    )


def _chosen(known: dict[Hashable, Any], columns: Any, places: list[int]) -> Columns:
    """Add columns that are not known yet, and say which they are, in the order of their places."""
    picks = []
    for column in columns:
        key = _key(column)
        known.setdefault(key, column)
        picks.append(list(known).index(key))
    order = np.argsort(np.asarray(places, dtype=np.int64), kind="stable").tolist()
    return Columns(tuple(picks[i] for i in order), tuple(places[i] for i in order))


def _recipe(recipe: Recipe, nodes: int, groups: list[Group], columns: list[RowColumn]) -> Recipe:
    count = len(groups) + len(columns)
    role = Role(
        name="inputs",
        offsets=np.zeros(1, np.int64),
        layout=Layout("btnf"),
        space=(nodes,),
        num_nodes=nodes,
        num_features=count,
        groups=tuple(replace(group, places=np.array([place])) for place, group in enumerate(groups)),
        statics=(),
        row_columns=tuple(columns),
        row_places=np.arange(len(columns)),
        shared_columns=(),
        shared_places=np.zeros(0, np.int64),
        shared_statics=(),
        has_mask=any(group.can_miss for group in groups) or any(c.sentinel is not None for c in columns),
    )
    return Recipe(
        roles=(role,),
        variables=recipe.variables,
        clock=recipe.clock if columns else None,
        borders=recipe.borders,
        dtype=recipe.dtype,
    )
