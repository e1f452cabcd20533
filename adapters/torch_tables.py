"""Tables of rows on a device, and batches gathered from them.

In: a recipe, a device; rows as the core delivers them; where the rows of windows lie. Out: the arrays of batches, as
tensors on the device, with the bits that the core delivers on the host. Never decides which rows are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from windowloader.adapters.torch_batch import as_tensor
from windowloader.adapters.torch_row_tables import RowTables
from windowloader.errors import LoaderError
from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.adapters.torch_row_tables import Columns
    from windowloader.batch.recipe import Recipe
    from windowloader.batch.roles import Role
    from windowloader.rows.strided import Rows

__all__ = ["DeviceTables"]

SIGNED = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}  # torch indexes no others


class DeviceTables:
    """Rows of all columns that the roles of a recipe need, on a device.

    Parameters
    ----------
    recipe : Recipe
        What batches look like.
    device : torch.device
    rows : int
        How many there is room for.

    Attributes
    ----------
    nbytes : int
        Bytes of the tables.

    Raises
    ------
    LoaderError
        Where the device has not enough memory.
    """

    def __init__(self, recipe: Recipe, device: torch.device, rows: int) -> None:
        self.device, self.rows = device, rows
        self._recipe = recipe
        self._bfloat16 = recipe.dtype == "bfloat16"
        self.tables = RowTables.of(recipe)
        self.nbytes = self.tables.nbytes(rows)
        both = (("nodes", self.tables.by_node), ("rows", self.tables.by_row))
        self._parts = [(name, part) for name, part in both if part is not None]
        self._kept: dict[str, torch.Tensor] = {}
        for name, part in self._parts:
            for field in part.fields(1):
                which = name if field.name == "inputs" else f"{name}_seen"
                self._kept[which] = self._empty((rows, *field.shape[2:]), field.dtype)
        one = np.empty(0, recipe.fields(1)[0].dtype)
        self.delivered_dtype = as_tensor(one, bfloat16=self._bfloat16).dtype
        self.kept_dtype = self.tensor(one).dtype  # as what torch can index
        self._roles = [_Role(self, number, role) for number, role in enumerate(recipe.roles)]

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
        kind = self.tensor(np.empty(0, dtype)).dtype
        try:
            return torch.empty(shape, dtype=kind, device=self.device)
        except torch.OutOfMemoryError as error:
            raise LoaderError(
                f"device_memory: {self.rows:,} rows take {format_bytes(self.nbytes)} as "
                f"{self._recipe.dtype}, which {self.device} has not free. Pass device_memory= a number of bytes that "
                "it has, or a narrower dtype such as 'bfloat16'."
            ) from error

    def put(self, places: slice | torch.Tensor, starts: np.ndarray, rows: Sequence[Rows]) -> None:
        """Make rows on the host, scaled and cast, and copy them to places of the tables.

        Parameters
        ----------
        places : slice or Tensor of int64, shape (row,)
        starts : ndarray, shape (row,), int64
            Which rows of the series.
        rows : sequence of Rows
            Where they lie, one a variable.
        """
        for name, part in self._parts:
            made = {field.name: self._host(field.shape, field.dtype) for field in part.fields(len(starts))}
            part.gather({kind: tensor.numpy() for kind, tensor in made.items()}, starts, rows)
            for kind, tensor in made.items():
                table = self._kept[name if kind == "inputs" else f"{name}_seen"]
                source = self._words(tensor)[:, 0]
                if isinstance(places, slice):
                    table[places].copy_(source, non_blocking=True)
                else:
                    table[places] = source.to(self.device, non_blocking=True)

    def _host(self, shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
        """Memory that copies can start from without waiting; torch keeps it until they have ended."""
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        return torch.empty(shape, dtype=kind, pin_memory=self.device.type == "cuda")

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """Wrap an array as what is kept on the device: bits of bfloat16 as such, unsigned integers as signed."""
        return self._words(torch.from_numpy(array))

    def _words(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._bfloat16 and tensor.dtype == torch.uint16:
            return tensor.view(torch.bfloat16)
        return tensor.view(SIGNED[tensor.dtype]) if tensor.dtype in SIGNED else tensor

    def to_device(self, numbers: np.ndarray) -> torch.Tensor:
        """Send places; without waiting where that is possible."""
        tensor = torch.from_numpy(numbers)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def pick(self, places: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Copy the rows of windows out of the tables, role by role; queued on the calling thread's stream.

        Parameters
        ----------
        places : sequence of Tensor, each shape (batch, step), int64
            Where the rows of each role lie.

        Returns
        -------
        list of dict
            For `deliver`, perhaps after those of other windows.
        """
        return [role.pick(own) for role, own in zip(self._roles, places, strict=True)]

    def deliver(self, picked: Sequence[list[dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
        """Bring stretches of a batch into its arrays, as the core's gather delivers them."""
        found: dict[str, torch.Tensor] = {}
        for number, role in enumerate(self._roles):
            parts = [stretch[number] for stretch in picked]
            whole = (
                parts[0] if len(parts) == 1 else {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
            )
            found |= {name: role.delivered(name, values) for name, values in whole.items()}
        return found

    def table(self, which: str) -> torch.Tensor | None:
        """Return the values or the mask of one table: "nodes", "rows", "nodes_seen", "rows_seen"."""
        return self._kept.get(which)


class _Role:
    """One role of a batch, gathered on the device."""

    def __init__(self, rows: DeviceTables, number: int, role: Role) -> None:
        self._rows = rows
        self._role = role
        tables = rows.tables
        self._nodes, self._by_row, self._shared = (
            tables.nodes[number], tables.rows[number], tables.shared[number],
        )  # fmt: skip
        self._statics = [
            (static.places.tolist(), *(self._on_device(part) for part in (static.values, static.observed)))
            for static in role.statics
        ]
        self._still = [(place, self._on_device(value)) for place, value in role.shared_statics]
        self._dtype, self._kept_as = rows.delivered_dtype, rows.kept_dtype

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        return self._rows.tensor(np.array(array)).to(self._rows.device)

    def pick(self, places: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return values, mask and what is shared, not yet in their layout."""
        role, batch = self._role, len(places)
        index, found = places.reshape(-1), {}
        if role.num_features:
            statics = [(columns, values) for columns, values, _ in self._statics]
            found[role.name] = self._values(index, batch, "", statics)
            if role.has_mask:
                statics = [(columns, seen.bool()) for columns, _, seen in self._statics]
                found[role.mask_name] = self._values(index, batch, "_seen", statics)
        if role.num_shared:
            found[role.shared_name] = self._once_a_row(index, batch)
        return found

    def delivered(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Bring what `pick` returned into its layout and dtype."""
        if name == self._role.shared_name:
            return values.view(self._dtype)
        found = self._delivered(values)
        return found if name == self._role.mask_name else found.view(self._dtype)

    def _values(self, index: torch.Tensor, batch: int, which: str, statics: Any) -> torch.Tensor:
        """Values, or with ``which="_seen"`` masks, as (batch, step, node, feature)."""
        role = self._role
        shape = (batch, len(role.offsets), role.num_nodes, role.num_features)
        nodes = _picked(self._rows.table(f"nodes{which}"), index, self._nodes)
        if nodes is not None and len(self._nodes.places) == role.num_features:
            return nodes.reshape(shape)
        kind = torch.bool if which else self._kept_as
        out = torch.ones(
            shape, dtype=kind, device=index.device
        )  # nothing is missing where a table has no mask
        if nodes is not None:
            out[..., list(self._nodes.places)] = nodes.reshape(*shape[:3], -1)
        rows = _picked(self._rows.table(f"rows{which}"), index, self._by_row)
        if rows is not None:
            out[..., list(self._by_row.places)] = rows.reshape(*shape[:2], 1, -1)
        for places, values in statics:
            out[..., places] = values
        return out

    def _once_a_row(self, index: torch.Tensor, batch: int) -> torch.Tensor:
        role = self._role
        shape = (batch, len(role.offsets), role.num_shared)
        out = torch.empty(shape, dtype=self._kept_as, device=index.device)
        rows = _picked(self._rows.table("rows"), index, self._shared)
        if rows is not None:
            out[..., list(self._shared.places)] = rows.reshape(*shape[:2], -1)
        for place, value in self._still:
            out[..., place] = value
        return out

    def _delivered(self, values: torch.Tensor) -> torch.Tensor:
        """Bring (batch, step, node, feature) into the layout, space axes apart."""
        role, letters = self._role, self._role.layout.letters
        order = ["btnf".index(letter) for letter in letters + "".join(set("btnf") - set(letters))]
        shape = role.layout.shape(
            batch=len(values), steps=len(role.offsets), space=role.space, features=role.num_features
        )
        return values.permute(order).contiguous().reshape(shape)


def _picked(table: torch.Tensor | None, index: torch.Tensor, columns: Columns) -> torch.Tensor | None:
    """Rows of some columns of a table [row, node, column]; neighbours are picked as a slice, before they are copied."""
    if table is None or not columns.picks:
        return None
    first, last = columns.picks[0], columns.picks[-1] + 1
    if columns.picks == tuple(range(first, last)):
        return table[..., first:last].index_select(0, index)
    return table.index_select(0, index)[..., list(columns.picks)]
