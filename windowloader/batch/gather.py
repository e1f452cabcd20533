"""Gathers a role of a batch: which compiled loop writes which columns, chosen once per batch size and layout of rows.

In: a role, how its rows lie in memory, how many windows a batch has. Out: `RoleGather`, which fills the arrays of a
batch from starts and rows. Imported with the first batch, as it needs numba. Never allocates anything of a batch's
size, unless rows can only be addressed by bytes (see ``StridedBuffer``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.rows.strided import StridedBuffer
from windowloader.util.memory import address_of

from .kernels import copy_runs, rows_of, tiles_of
from .passes import Pass, Tiling
from .roles import WORDS, Group, delivered_dtype
from .row_table import Lines, RowTable
from .vectors import KernelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from windowloader.rows.strided import BufferLayout, Rows
    from windowloader.series.clock import Clock

    from .roles import Role
    from .row_table import KeptClock

__all__ = ["RoleGather", "singly"]

PIECE = 512 * 1024  # bytes written before the next loop visits the same windows: half a second-level cache


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """A compiled loop and the arguments that stay the same from batch to batch.

    Parameters
    ----------
    kernel : callable
    rows : int
        Which of the `Rows` it reads; -1: none.
    constants : tuple
    masks : bool
        It writes masks alone.
    fixed : ndarray, optional
        Values to read in place of rows.
    kept : tuple of ndarray
        What ``constants`` holds addresses of.
    """

    kernel: Any
    rows: int
    constants: tuple[Any, ...]
    masks: bool = False
    fixed: np.ndarray | None = None
    kept: tuple[np.ndarray, ...] = ()


class RoleGather:
    """Fills the arrays of one role for batches of one size, from rows of one layout.

    Parameters
    ----------
    role : Role
    clock : Clock, KeptClock or None
    dtype : str
        Delivered.
    layouts : sequence of BufferLayout
        How the rows of each variable lie.
    batch : int
        Windows.
    around : bool
        Write around the cache; arrays then begin a cache line.
    """

    def __init__(
        self, role: Role, clock: Clock | KeptClock | None, dtype: str, layouts: Sequence[BufferLayout], batch: int,
        around: bool,
    ) -> None:  # fmt: skip
        self.role, self._layouts, self._dtype, self._around = role, layouts, dtype, around
        self._itemsize = delivered_dtype(dtype).itemsize
        out_batch, out_row, out_node, out_feature = role.strides(batch)  # in elements
        if role.num_nodes == 1:  # any step will do
            out_node = role.num_features if out_feature == 1 else 1
        self._strides = out_batch, out_row, out_node, out_feature
        self._table = RowTable(role.row_columns, clock, role.offsets, dtype)
        self._shared = RowTable(role.shared_columns, clock, role.offsets, dtype) if role.num_shared else None
        self._complete = all(column.sentinel is None for column in role.row_columns)
        self._loops = tuple(self._all_loops()) if role.num_features else ()
        self._piece = batch
        if (
            len(self._loops) > 1 and out_batch >= out_row
        ):  # with another axis outermost a few windows are not compact
            self._piece = max(1, PIECE // (out_batch * self._itemsize))

    def fill(
        self, out: Mapping[str, np.ndarray], starts: np.ndarray, sources: Sequence[np.ndarray],
        rows: Sequence[Rows], entity: np.ndarray, begin: int, end: int,
    ) -> None:  # fmt: skip
        """Fill positions ``[begin, end)``; see `Recipe.gather`."""
        role = self.role
        if self._shared is not None:
            shared = out[role.shared_name][begin:end]
            if role.shared_columns:
                found = self._shared.lines(starts, rows, entity, begin, end).table(begin, end)
                shared[..., role.shared_places] = found.view(shared.dtype)
            for place, value in role.shared_statics:
                shared[..., place] = value
        if not self._loops:
            return
        if self._table.kept is None:
            lines = self._table.lines(starts, rows, entity, begin, end)
        else:
            lines = Lines(self._table.kept, starts, role.offsets)
        seen = lines
        target = mask = _flat(out[role.name])
        if role.has_mask:
            mask = _flat(out[role.mask_name])
            if role.row_columns:
                seen = self._table.seen(starts, rows, begin, end)
        for low in range(begin, end, self._piece):
            high = min(low + self._piece, end)
            for loop in self._loops:
                if loop.fixed is not None:
                    source, first = loop.fixed, entity
                else:
                    source, first = sources[loop.rows], rows[loop.rows].first
                goal = (mask, mask, *seen) if loop.masks else (target, mask, *lines)
                loop.kernel(source, first, entity, low, high, *goal, *loop.constants)

    def _all_loops(self) -> Iterator[Loop]:
        """Yield the loops that write the role's array and its mask."""
        role, pending, none = self.role, self.role.row_places, self.role.row_places[:0]
        for group in role.groups:
            layout = self._layouts[group.rows]
            beside = pending if len(pending) and self._together(group, layout, pending) else none
            pending = pending[len(beside) :]
            yield from self._loops_of(group, layout, beside)
        for static in role.statics:
            for values, masks in ((static.values, False), (static.observed, True)):
                if role.has_mask or not masks:
                    flat = StridedBuffer.of(values[0])
                    node_step = flat.kind.steps[1] if values.shape[2] > 1 else 0
                    layout = replace(flat.kind, steps=(0, node_step, 1))
                    group = _copied(static.places)
                    passed = Pass.of(role, group, layout, none, self._strides)
                    yield self._converting(passed, group, layout, "bits", flat.values, masks=masks)
        if len(pending):
            flat = StridedBuffer.of(np.empty((1, 1, 1), delivered_dtype(self._dtype)))
            yield from self._loops_of(_copied(none), flat.kind, pending, flat.values)

    def _together(self, group: Group, layout: BufferLayout, row_places: np.ndarray) -> bool:
        """Whether one loop writes a group and the values of the row beside it."""
        passed = Pass.of(self.role, group, layout, row_places, self._strides)
        if passed.touches or passed.tiled:
            return True
        return not self._around and not self._copies(
            group, Pass.of(self.role, group, layout, row_places[:0], self._strides)
        )

    def _copies(self, group: Group, passed: Pass) -> bool:
        return group.copies and passed.is_copy and not self.role.has_mask

    def _loops_of(
        self, group: Group, layout: BufferLayout, row_places: np.ndarray, fixed: np.ndarray | None = None
    ) -> Iterator[Loop]:
        """Yield the loops that write a group, values of the row beside it, and their masks."""
        role = self.role
        passed = Pass.of(role, group, layout, row_places, self._strides)
        if self._copies(group, passed):
            yield self._copying(passed, group)
            return
        apart = len(group.places) + bool(len(row_places))
        if self._around and apart > 1 and not (passed.tiled or self._aligned(passed)):
            for part in singly(group):  # rows that begin anywhere in a cache line: one after the other
                yield from self._loops_of(part, layout, row_places[:0], fixed)
            if len(row_places):  # all values of the row at once, as its table has them
                yield from self._loops_of(_copied(row_places[:0]), layout, row_places, fixed)
            return
        fused = role.has_mask and not passed.tiled and (self._complete or not len(row_places))
        out = "bits" if group.copies else self._dtype
        yield self._converting(passed, group, layout, out, fixed, fused=fused)
        if role.has_mask and not fused:
            yield self._converting(passed, group, layout, "mask", fixed, masks=True)

    def _aligned(self, passed: Pass) -> bool:
        """Whether the words of a node touch, or lie whole cache lines from each other."""
        words = passed.words
        return passed.touches or bool(((words - words[0]) * self._itemsize % 64 == 0).all())

    def _copying(self, passed: Pass, group: Group) -> Loop:
        """Copy runs; distances in bytes."""
        size, place = self._itemsize, int(passed.places[0])
        source = passed.origin + int(passed.picks[0]), passed.row_step, passed.nodes
        constants = (
            *(size * distance for distance in source), passed.offsets,
            *(size * distance for distance in (place, self._strides[0], passed.out_row)), self._around,
        )  # fmt: skip
        return Loop(copy_runs, group.rows, constants)

    def _converting(
        self, passed: Pass, group: Group, layout: BufferLayout, out: str, fixed: np.ndarray | None, *,
        masks: bool = False, fused: bool = False,
    ) -> Loop:  # fmt: skip
        """Convert values with their masks (``fused``) or without, or write ``masks`` alone."""
        scaled = out not in ("bits", "mask") and bool((group.shift != 0).any() or (group.factor != 1).any())
        shift, factor = (
            np.ascontiguousarray(part.transpose(1, 0, 2)) if scaled else np.zeros((1, 1, 1))
            for part in (passed.shift, passed.factor)
        )
        count, stored = len(passed.picks), layout.dtype.itemsize
        words, order = (
            passed.words,
            np.argsort(passed.words) if passed.touches else np.arange(len(passed.words)),
        )
        numbers = np.array([*range(count), *(-1 - k for k in range(len(passed.row_places)))])[order]
        far, origin = passed.picks * stored, passed.origin
        if count == 1 and passed.columns < 2:
            origin += int(passed.picks[0])
        conversion = KernelOptions(
            source="float16" if layout.half else layout.dtype.name,
            out=out,
            columns=passed.columns,
            picks=tuple(passed.picks.tolist()) if passed.columns > 1 else tuple(range(count)),
            words=tuple(numbers.tolist()),
            statistics=0 if not scaled else 1 if shift.shape[2] == 1 else 2,
            divide=scaled and bool(group.divide.any()),
            missing=group.can_miss and (masks or fused or group.fill is not None),
            fill=group.fill is not None and not masks,
            mask=fused,
            apart=not passed.touches,
            around=self._around and not masks and not passed.tiled and self._aligned(passed),
        )
        sentinel = group.sentinel.view(layout.dtype) if group.can_miss else np.zeros(1, layout.dtype)
        at = 0 if passed.tiled else int(words[order[0]])
        to, size = words[order] - at, 1 if masks else self._itemsize
        tiling = (
            Tiling.of(passed, self._strides[0], size, around=self._around and not masks)
            if passed.tiled
            else None
        )
        if tiling is not None:
            to = tiling.to
        constants: tuple[Any, ...] = (
            origin * stored, passed.row_step * stored, passed.node_step * stored, address_of(far), passed.nodes,
            passed.offsets, address_of(shift), address_of(factor), shift[0].nbytes if len(shift) > 1 else 0,
            8 * shift.shape[2], address_of(sentinel), group.fill or 0.0,
            at, self._strides[0], passed.out_row, address_of(to),
        )  # fmt: skip
        kept = far, shift, factor, sentinel, to
        if tiling is None:
            constants = *constants, passed.tile or passed.nodes
            return Loop(rows_of(conversion), group.rows, constants, masks, fixed, kept)
        constants = *constants, tiling.tile, passed.out_node, tiling.group, *tiling[3:7]
        return Loop(tiles_of(conversion, tiling.fixed), group.rows, constants, masks, fixed, kept)


def singly(group: Group) -> Iterator[Group]:
    """Each column of a group by itself."""
    for k in range(len(group.places)):
        own = slice(k, k + 1)
        yield replace(
            group, features=group.features[own], places=group.places[own], shift=group.shift[own],
            factor=group.factor[own], divide=group.divide[own],
        )  # fmt: skip


def _copied(places: np.ndarray) -> Group:
    """Make a group of columns that are not of a variable's rows, and delivered as they are."""
    count = len(places)
    return Group(
        rows=-1, features=np.arange(count), places=places, shift=np.zeros((count, 1, 1)),
        factor=np.ones((count, 1, 1)), divide=np.zeros(count, np.bool_), sentinel=np.zeros(1), can_miss=False,
        fill=None, copies=True,
    )  # fmt: skip


def _flat(array: np.ndarray) -> Any:
    if not array.flags.c_contiguous:
        raise ValueError("arrays that are gathered into must be C-contiguous")
    flat = array.reshape(-1)
    return flat.view(WORDS[array.dtype]) if array.dtype in WORDS else flat
