"""Fills a part of a batch: runs the loops that were chosen for it, in pieces that stay in the cache.

In: a recipe, arrays to fill, starts and rows. Out: the arrays, filled. Imported with the first batch, as it needs
numba. Never allocates anything of a batch's size, but where rows are addressable only by bytes (see `flat`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.rows.strided import StridedBuffer

from .loop_context import BatchPart
from .loops import role_loops
from .row_table import RowTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.rows.strided import BufferLayout, Rows
    from windowloader.series.clock import Clock

    from .loop_context import Loop
    from .nan_guard import NanGuard
    from .roles import Role
    from .row_table import KeptClock

__all__ = ["Filling"]

PIECE = 512 * 1024  # bytes written before the next loop comes to the same windows: half a second-level cache


@dataclass(frozen=True, slots=True, eq=False)
class RoleFilling:
    """One role of a `Filling`.

    Parameters
    ----------
    role : Role
    table, shared : RowTable
        What is the same for all nodes: written for each, or delivered once (None where nothing is).
    values, masks : tuple of Loop
    piece : int
        Windows at a time.
    at : int
        Words before those of the first node.
    """

    role: Role
    table: RowTable
    shared: RowTable | None
    values: tuple[Loop, ...]
    masks: tuple[Loop, ...]
    piece: int
    at: int


@dataclass(frozen=True, slots=True, eq=False)
class Filling:
    """A recipe made out for a batch size, for rows of some shape and strides, and for all nodes or some.

    Parameters
    ----------
    roles : tuple of RoleFilling
    """

    roles: tuple[RoleFilling, ...]

    @classmethod
    def of(
        cls,
        roles: Sequence[Role],
        clock: Clock | KeptClock | None,
        dtype: str,
        batch: int,
        rows: Sequence[Rows],
        nodes: tuple[int, int] | None,
    ) -> Filling:
        """Choose all loops. What is delivered once for all nodes goes with the first of them."""
        kinds = [(row.flat or StridedBuffer.of(row.base)).kind for row in rows]
        if nodes is not None:
            kinds = [replace(kind, origin=kind.origin + nodes[0] * kind.steps[1]) for kind in kinds]
        return cls(tuple(_role(role, clock, dtype, kinds, batch, nodes) for role in roles))

    def fill(
        self,
        out: Mapping[str, np.ndarray],
        starts: np.ndarray,
        rows: Sequence[Rows],
        entity: np.ndarray,
        begin: int,
        end: int,
        guard: NanGuard | None,
    ) -> None:
        """Fill batch positions ``[begin, end)`` of every array, once the guard has looked at the rows."""
        flats = [row.flat or StridedBuffer.of(row.base) for row in rows]
        part = BatchPart([flat.values for flat in flats], [row.first for row in rows], entity)
        if guard is not None:
            guard.check_batch(starts, rows, entity, begin, end, flats)
        for role in self.roles:
            _fill(role, out, starts, rows, part, begin, end)


def _role(
    role: Role,
    clock: Clock | KeptClock | None,
    dtype: str,
    kinds: Sequence[BufferLayout],
    batch: int,
    nodes: tuple[int, int] | None,
) -> RoleFilling:
    itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    between, at = role.steps_between(batch), 0
    if nodes is not None:
        role, at = role.of_nodes(*nodes), nodes[0] * between[2]
    values, masks = (
        role_loops(role, kinds, between, batch, dtype, itemsize) if role.num_features else ((), ())
    )
    piece = batch
    if len(values) + len(masks) > 1 and between[0] >= between[1]:
        # with another axis outermost a few windows are not compact
        piece = max(1, PIECE // (between[0] * itemsize))
    return RoleFilling(
        role=role,
        table=RowTable(role.row_columns, clock, role.offsets, dtype),
        shared=RowTable(role.shared_columns, clock, role.offsets, dtype) if role.num_shared else None,
        values=values,
        masks=masks,
        piece=max(piece, 1),
        at=at,
    )


def _fill(
    filling: RoleFilling, out: Mapping[str, np.ndarray], starts: np.ndarray, rows: Sequence[Rows], part: BatchPart,
    begin: int, end: int,
) -> None:  # fmt: skip
    role = filling.role
    if filling.shared is not None:
        shared = out[role.shared_name][begin:end]
        if role.shared_columns:
            found = filling.shared.lines(starts, rows, part.entity, begin, end).table(begin, end)
            shared[..., role.shared_places] = found.view(shared.dtype)
        for place, value in role.shared_statics:
            shared[..., place] = value
    if not role.num_features:
        return
    target = _words(out[role.name])[filling.at :]
    lines = filling.table.lines(starts, rows, part.entity, begin, end)
    if not filling.masks and end - begin <= filling.piece:
        for loop in filling.values:
            loop(part, begin, end, target, lines)
        return
    mask, seen = None, lines
    if role.has_mask:
        mask = _words(out[role.mask_name])[filling.at :]
        if role.row_columns:
            seen = filling.table.seen(starts, rows, part.entity, begin, end)
    for first in range(begin, end, filling.piece):
        last = min(first + filling.piece, end)
        for loop in filling.values:
            loop(part, first, last, target, lines)
        for loop in filling.masks:
            loop(part, first, last, mask, seen)


def _words(array: np.ndarray) -> Any:
    """Flat view that numba can write: bool as bytes, float16 as its bits."""
    if not array.flags.c_contiguous:
        raise ValueError("arrays that are gathered into must be C-contiguous")
    words = array.reshape(-1)
    if words.dtype == np.float16:
        return words.view(np.uint16)
    return words.view(np.uint8) if words.dtype == np.bool_ else words
