"""Tables of rows on a device, and batches gathered from them.

In: a recipe, a device; rows as the core delivers them, and their places. Out: the arrays of batches on the device, with
the bits that the core delivers on the host: each row is scaled and cast once, by the core's own kernels, and a column
that several roles read is stored once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from windowloader.adapters.torch.batch import as_tensor
from windowloader.batch.gather import singly
from windowloader.batch.recipe import Recipe
from windowloader.batch.roles import Role
from windowloader.errors import LoaderError
from windowloader.util.axes import Layout
from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from windowloader.batch.roles import Group, RowColumn
    from windowloader.rows.strided import Rows

__all__ = ["DeviceTables", "RowTables"]

SIGNED = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}  # torch indexes these


# -- which columns ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a role that one table has: ``picks`` in the table, and their ``places`` in the role."""

    picks: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RowTables:
    """A recipe taken apart into recipes of single rows, which have each column that its roles need once.

    Parameters
    ----------
    recipes : dict of str to Recipe
        "nodes" delivers ``inputs`` (row, 1, node, column), "rows" (row, 1, 1, column): clocks, and covariates without
        nodes. Both have ``input_mask`` where values can be missing. Without columns a table is left out.
    columns : tuple of dict of str to Columns
        For each role of the recipe: its columns of "nodes" and of "rows", and those of "rows" that are delivered once
        per row, "shared".
    """

    recipes: dict[str, Recipe]
    columns: tuple[dict[str, Columns], ...]

    @classmethod
    def of(cls, recipe: Recipe) -> RowTables:
        """Take a recipe apart."""
        groups: dict[Hashable, Group] = {}
        rows: dict[Hashable, RowColumn] = {}
        columns = []
        for role in recipe.roles:
            single = [column for group in role.groups for column in singly(group)]
            places = [int(place) for group in role.groups for place in group.places]
            columns.append(
                {
                    "nodes": _add(groups, single, places),
                    "rows": _add(rows, role.row_columns, role.row_places.tolist()),
                    "shared": _add(rows, role.shared_columns, role.shared_places.tolist()),
                }
            )
        nodes = recipe.roles[0].num_nodes
        recipes = {}
        if groups:
            recipes["nodes"] = _row_recipe(recipe, nodes, groups=list(groups.values()))
        if rows:
            recipes["rows"] = _row_recipe(recipe, 1, columns=list(rows.values()))
        return cls(recipes, tuple(columns))

    def nbytes(self, rows: int) -> int:
        """Bytes of the tables of so many rows."""
        fields = [field for recipe in self.recipes.values() for field in recipe.fields(max(1, rows))]
        return sum(field.nbytes for field in fields) if rows else 0


def _add(known: dict[Hashable, Any], columns: Sequence[Any], places: list[int]) -> Columns:
    """Add columns that are not known yet; return which they are, in the order of their places.

    Columns deliver the same values where all their fields but the place are equal.
    """
    picks = []
    for column in columns:
        fields = [getattr(column, name) for name in column.__slots__ if name != "places"]
        key = tuple((f.shape, f.tobytes()) if isinstance(f, np.ndarray) else f for f in fields)
        known.setdefault(key, column)
        picks.append(list(known).index(key))
    order = sorted(range(len(places)), key=places.__getitem__)
    return Columns(tuple(picks[i] for i in order), tuple(places[i] for i in order))


def _row_recipe(
    recipe: Recipe, nodes: int, groups: Sequence[Group] = (), columns: Sequence[RowColumn] = ()
) -> Recipe:
    none = np.zeros(0, np.int64)
    role = Role(
        name="inputs",
        offsets=np.zeros(1, np.int64),
        layout=Layout("btnf"),
        space=(nodes,),
        num_nodes=nodes,
        num_features=len(groups) + len(columns),
        groups=tuple(replace(group, places=np.array([place])) for place, group in enumerate(groups)),
        statics=(),
        row_columns=tuple(columns),
        row_places=np.arange(len(columns)),
        shared_columns=(),
        shared_places=none,
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


# -- tables on the device ---------------------------------------------------------------------------------------------


class DeviceTables:
    """Tables of rows on a device, and the gather of batches from them.

    Parameters
    ----------
    recipe : Recipe
    device : torch.device
    rows : int
        Number of places.

    Raises
    ------
    LoaderError
        Where the device has not enough memory.
    """

    def __init__(self, recipe: Recipe, device: torch.device, rows: int) -> None:
        self._recipe, self._device = recipe, device
        self._bfloat16 = recipe.dtype == "bfloat16"
        self._split = RowTables.of(recipe)
        self.nbytes = self._split.nbytes(rows)
        one = np.empty(0, recipe.fields(1)[0].dtype)
        self._delivered = as_tensor(one, bfloat16=self._bfloat16).dtype
        self._stored = self._words(torch.from_numpy(one)).dtype
        self._tables: dict[tuple[str, str], torch.Tensor] = {}
        try:
            for name, part in self._split.recipes.items():
                for field in part.fields(1):
                    kind = self._words(torch.from_numpy(np.empty(0, field.dtype))).dtype
                    table = torch.empty((rows, *field.shape[2:]), dtype=kind, device=device)
                    self._tables[name, field.name] = table
        except torch.OutOfMemoryError as error:
            raise LoaderError(
                f"device_memory: {rows:,} rows take {format_bytes(self.nbytes)} as {recipe.dtype}, which {device} has "
                "not free. Pass device_memory= a number of bytes that it has, or a narrower dtype such as 'bfloat16'."
            ) from error
        # values and masks of columns without time, and values of those that are delivered once
        self._statics: list[dict[str, list[tuple[Any, torch.Tensor]]]] = [
            {
                "inputs": [(one.places.tolist(), self._copied(one.values)) for one in role.statics],
                "input_mask": [
                    (one.places.tolist(), self._copied(one.observed).bool()) for one in role.statics
                ],
                "shared": [(place, self._copied(value)) for place, value in role.shared_statics],
            }
            for role in recipe.roles
        ]

    def _words(self, tensor: torch.Tensor) -> torch.Tensor:
        """View a tensor as what torch can index: bits of bfloat16 as such, unsigned integers as signed."""
        if self._bfloat16 and tensor.dtype == torch.uint16:
            return tensor.view(torch.bfloat16)
        return tensor.view(SIGNED[tensor.dtype]) if tensor.dtype in SIGNED else tensor

    def _copied(self, array: Any) -> torch.Tensor:
        return self._words(torch.from_numpy(np.array(array))).to(self._device)

    def put(self, places: slice | torch.Tensor, starts: np.ndarray, rows: Sequence[Rows]) -> None:
        """Make rows on the host, scaled and cast, and copy them to places of the tables.

        Parameters
        ----------
        places : slice or Tensor of int64, shape (row,)
        starts : ndarray, shape (row,), int64
            Numbers of the rows in the series.
        rows : sequence of Rows
            Their addresses, one per variable.
        """
        for name, part in self._split.recipes.items():
            made = {}
            for field in part.fields(len(starts)):
                kind = torch.from_numpy(np.empty(0, field.dtype)).dtype
                # torch keeps pinned memory until the copies from it have ended
                made[field.name] = torch.empty(
                    field.shape, dtype=kind, pin_memory=self._device.type == "cuda"
                )
            part.gather({array: tensor.numpy() for array, tensor in made.items()}, starts, rows)
            for array, tensor in made.items():
                source = self._words(tensor)[:, 0]
                if isinstance(places, slice):
                    self._tables[name, array][places].copy_(source, non_blocking=True)
                else:
                    self._tables[name, array][places] = source.to(self._device, non_blocking=True)

    def to_device(self, numbers: np.ndarray) -> torch.Tensor:
        """Send numbers to the device, without waiting where that is possible."""
        tensor = torch.from_numpy(numbers)
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def gather(self, places: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Make the arrays of a batch, as the core's gather delivers them; queued on the calling thread's stream.

        Parameters
        ----------
        places : sequence of Tensor, each shape (batch, step), int64
            Places of the rows of each role.
        """
        found = {}
        for number, (role, own) in enumerate(zip(self._recipe.roles, places, strict=True)):
            columns, statics = self._split.columns[number], self._statics[number]
            if role.num_features:
                values = self._values(role, columns, own, "inputs", statics["inputs"])
                found[role.name] = _laid_out(role, values).view(self._delivered)
            if role.num_features and role.has_mask:
                seen = self._values(role, columns, own, "input_mask", statics["input_mask"])
                found[role.mask_name] = _laid_out(role, seen)
            if role.num_shared:
                out = own.new_empty((*own.shape, role.num_shared), dtype=self._stored)
                rows = self._picked("rows", "inputs", own, columns["shared"])
                if rows is not None:
                    out[..., list(columns["shared"].places)] = rows[..., 0, :]
                for place, value in statics["shared"]:
                    out[..., place] = value
                found[role.shared_name] = out.view(self._delivered)
        return found

    def _values(
        self, role: Role, columns: dict[str, Columns], own: torch.Tensor, kind: str, statics: list[Any]
    ) -> torch.Tensor:
        """Return values ("inputs") or masks ("input_mask") of one role as (batch, step, node, feature)."""
        nodes = self._picked("nodes", kind, own, columns["nodes"])
        if nodes is not None and len(columns["nodes"].places) == role.num_features:
            return nodes
        # ones: nothing is missing where a table has no mask
        dtype = self._stored if kind == "inputs" else torch.bool
        out = torch.ones((*own.shape, role.num_nodes, role.num_features), dtype=dtype, device=own.device)
        if nodes is not None:
            out[..., list(columns["nodes"].places)] = nodes
        rows = self._picked("rows", kind, own, columns["rows"])
        if rows is not None:
            out[..., list(columns["rows"].places)] = rows
        for places, values in statics:
            out[..., places] = values
        return out

    def _picked(self, name: str, kind: str, own: torch.Tensor, columns: Columns) -> torch.Tensor | None:
        """Return some columns of rows as (batch, step, node, column); neighbours are sliced before they are copied."""
        table = self._tables.get((name, kind))
        if table is None or not columns.picks:
            return None
        first, last = columns.picks[0], columns.picks[-1] + 1
        if columns.picks == tuple(range(first, last)):
            found = table[..., first:last].index_select(0, own.reshape(-1))
        else:
            found = table.index_select(0, own.reshape(-1))[..., list(columns.picks)]
        return found.reshape(*own.shape, *found.shape[1:])


def _laid_out(role: Role, values: torch.Tensor) -> torch.Tensor:
    """Bring (batch, step, node, feature) into the role's layout, space axes apart."""
    letters = role.layout.letters
    order = ["btnf".index(letter) for letter in letters + "".join(set("btnf") - set(letters))]
    shape = role.layout.shape(
        batch=len(values), steps=len(role.offsets), space=role.space, features=role.num_features
    )
    return values.permute(order).contiguous().reshape(shape)
