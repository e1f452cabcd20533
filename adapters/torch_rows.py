"""Rows that live on a device, and batches gathered there.

In: a recipe, a window set, a device; then starts, batch by batch. Out: the arrays of batches, as tensors on the device,
with the bits that the core delivers on the host. Each row crosses the bus once, scaled and cast; a batch sends its
starts. Never decides which windows a batch has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from windowloader.adapters.torch_batch import as_tensor
from windowloader.adapters.torch_row_tables import RowTables
from windowloader.errors import LoaderError
from windowloader.gathering.rows import row_access
from windowloader.units import format_bytes

if TYPE_CHECKING:
    from windowloader.adapters.torch_row_tables import Columns
    from windowloader.gather import Recipe
    from windowloader.gathering.roles import Role
    from windowloader.ranks import Ranks
    from windowloader.shard import Steps
    from windowloader.windows import WindowSet

__all__ = ["DeviceRows", "rows_of_rank"]

PIECE = 32 * 1024 * 1024  # bytes made on the host before they go to the device
SIGNED = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}  # torch indexes no others


def rows_of_rank(windows: WindowSet, steps: Steps, ranks: Ranks) -> tuple[int, int]:
    """Return the rows that a rank's windows can read: its lanes' where it reads whole ones in order, else all.

    Parameters
    ----------
    windows : WindowSet
    steps : Steps
    ranks : Ranks

    Returns
    -------
    begin, end : int
    """
    order, world = steps.order, ranks.world_size
    sizes = order.lane_sizes(0)
    if world == 1 or not order.name.startswith("sequential") or len(sizes) % world or not sizes.all():
        return windows.row_range
    share = len(sizes) // world
    borders = np.concatenate(([0], np.cumsum(sizes)))
    first, last = int(borders[ranks.rank * share]), int(borders[(ranks.rank + 1) * share])
    lanes = (ranks.rank * share, (ranks.rank + 1) * share - 1)
    ends = order.lane(0, lanes[0], 0, 1)[0], order.lane(0, lanes[1], sizes[lanes[1]] - 1, sizes[lanes[1]])[0]
    if ends != (first, last - 1):  # lanes that are no stretches of time
        return windows.row_range
    return windows.take(range(first, last)).row_range


class DeviceRows:
    """Rows ``[begin, end)`` of a window set on a device.

    Parameters
    ----------
    windows : WindowSet
    recipe : Recipe
        What batches look like.
    device : torch.device
    begin, end : int
        Rows of the series.

    Raises
    ------
    LoaderError
        Where the device has not enough memory.
    """

    def __init__(
        self, windows: WindowSet, recipe: Recipe, device: torch.device, *, begin: int, end: int
    ) -> None:
        self.begin, self.end = begin, end
        self.device = device
        self._recipe = recipe
        self._bfloat16 = recipe.dtype == "bfloat16"
        self._tables = RowTables.of(recipe)
        self.nbytes = self._tables.nbytes(end - begin)
        found = [self._load(windows, part) for part in (self._tables.by_node, self._tables.by_row)]
        (self._nodes, self._nodes_seen), (self._rows, self._rows_seen) = found
        self._roles = [_Role(self, number, role) for number, role in enumerate(recipe.roles)]

    def _load(
        self, windows: WindowSet, recipe: Recipe | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Make the rows of a table, piece by piece, and copy them."""
        if recipe is None:
            return None, None
        rows = self.end - self.begin
        piece = max(1, min(rows, PIECE // recipe.nbytes(1)))
        whole = {field.name: self._empty((rows, *field.shape[2:]), field.dtype) for field in recipe.fields(1)}
        access = row_access(windows.series, recipe.variables, 1)
        try:
            for first in range(self.begin, self.end, piece):
                starts = np.arange(first, min(first + piece, self.end))
                out = {field.name: np.empty(field.shape, field.dtype) for field in recipe.fields(len(starts))}
                for part in access.pieces(starts):
                    recipe.gather(out, starts, part.rows, begin=part.begin, end=part.end)
                for name, made in out.items():
                    rows_made = self.tensor(made)[:, 0]
                    whole[name][first - self.begin : first - self.begin + len(starts)].copy_(rows_made)
        finally:
            access.close()
        return whole["inputs"], whole.get("input_mask")

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
        kind = self.tensor(np.empty(0, dtype)).dtype
        try:
            return torch.empty(shape, dtype=kind, device=self.device)
        except torch.OutOfMemoryError as error:
            raise LoaderError(
                f"device_memory: {self.end - self.begin:,} rows take {format_bytes(self.nbytes)} as "
                f"{self._recipe.dtype}, which {self.device} has not free. Pass device_memory= a number of bytes to use "
                "the host where they do not fit, or a narrower dtype such as 'bfloat16'."
            ) from error

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """Wrap an array as what is kept on the device: bits of bfloat16 as such, unsigned integers as signed."""
        tensor = as_tensor(array, bfloat16=self._bfloat16)
        return tensor.view(SIGNED[tensor.dtype]) if tensor.dtype in SIGNED else tensor

    def gather(self, starts: Any) -> dict[str, torch.Tensor]:
        """Make the arrays of a batch.

        Parameters
        ----------
        starts : ndarray, shape (batch,), int64
            First rows of windows, in the series.

        Returns
        -------
        dict of str to Tensor
            As the core's gather delivers them; queued on the calling thread's stream.
        """
        own = torch.from_numpy(starts - self.begin)
        if self.device.type == "cuda":
            own = own.pin_memory().to(self.device, non_blocking=True)
        found: dict[str, torch.Tensor] = {}
        for role in self._roles:
            found |= role.gather(own)
        return found

    def table(self, which: str) -> Any:
        """Return the values or the mask of one table."""
        return {
            "nodes": self._nodes,
            "nodes_seen": self._nodes_seen,
            "rows": self._rows,
            "rows_seen": self._rows_seen,
        }[which]


class _Role:
    """One role of a batch, gathered on the device."""

    def __init__(self, rows: DeviceRows, number: int, role: Role) -> None:
        self._rows = rows
        self._role = role
        tables = rows._tables
        self._nodes, self._by_row, self._shared = (
            tables.nodes[number], tables.rows[number], tables.shared[number],
        )  # fmt: skip
        self._offsets = torch.from_numpy(role.offsets).to(rows.device)
        self._statics = [
            (static.places.tolist(), *(self._on_device(part) for part in (static.values, static.observed)))
            for static in role.statics
        ]
        self._still = [(place, self._on_device(value)) for place, value in role.shared_statics]
        self._dtype = as_tensor(np.empty(0, rows._recipe.fields(1)[0].dtype), bfloat16=rows._bfloat16).dtype

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        return self._rows.tensor(np.array(array)).to(self._rows.device)

    def gather(self, starts: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the arrays of this role: values, mask and what is shared."""
        role = self._role
        index = (starts[:, None] + self._offsets).reshape(-1)
        batch, found = len(starts), {}
        if role.num_features:
            statics = [(places, values) for places, values, _ in self._statics]
            found[role.name] = self._delivered(self._values(index, batch, "", statics)).view(self._dtype)
            if role.has_mask:
                statics = [(places, seen.bool()) for places, _, seen in self._statics]
                found[role.mask_name] = self._delivered(self._values(index, batch, "_seen", statics))
        if role.num_shared:
            found[role.shared_name] = self._once_a_row(index, batch).view(self._dtype)
        return found

    def _values(self, index: torch.Tensor, batch: int, which: str, statics: Any) -> torch.Tensor:
        """Values, or with ``which="_seen"`` masks, as (batch, step, node, feature)."""
        role = self._role
        shape = (batch, len(role.offsets), role.num_nodes, role.num_features)
        nodes = _picked(self._rows.table(f"nodes{which}"), index, self._nodes)
        if nodes is not None and len(self._nodes.places) == role.num_features:
            return nodes.reshape(shape)
        kind = torch.bool if which else self._rows.tensor(np.empty(0, self._words())).dtype
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

    def _words(self) -> np.dtype:
        return self._rows._recipe.fields(1)[0].dtype

    def _once_a_row(self, index: torch.Tensor, batch: int) -> torch.Tensor:
        role = self._role
        shape = (batch, len(role.offsets), role.num_shared)
        out = torch.empty(
            shape, dtype=self._rows.tensor(np.empty(0, self._words())).dtype, device=index.device
        )
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
