"""Gathers a role of a batch: which compiled loop writes which columns, chosen once per batch size and layout of rows.

In: a role, how its rows lie in memory, how many windows a batch has. Out: `RoleGather`, which fills the arrays of a
batch from starts and rows. Imported with the first batch, as it needs numba. Never allocates anything of a batch's
size, unless rows can only be addressed by bytes (see ``StridedBuffer``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import kernels
from .interleave import LANES, MOST, ROW_VALUE, interleaving, pattern_of, transposing
from .roles import WORDS, as_words, delivered_dtype
from .row_table import Lines, RowTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from windowloader.rows.strided import BufferLayout, Rows
    from windowloader.series.clock import Clock

    from .roles import Group, Role
    from .row_table import KeptClock

__all__ = ["RoleGather"]

PIECE = 512 * 1024  # bytes written before the next loop visits the same windows: half a second-level cache
RUN = 64  # elements of a row up to which a window is scaled as one run: longer rows are prefetched one by one
PERIOD = 1024  # elements that statistics of columns are repeated to, so that a run needs no other index
INSIDE = 24 * 1024  # bytes of output that are written in any order: they stay in the first-level cache
LONG = 512 << 10  # bytes of an output row from which on it is streamed by itself
STREAMED = 8 << 20  # bytes of an array from which on non-temporal stores are used
PREFETCH = 8192  # bytes of rows that are prefetched
SHORT = 3072  # bytes of a row up to which they are: the processor prefetches longer ones itself


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """A compiled loop and the arguments that stay the same from batch to batch.

    Parameters
    ----------
    kernel : callable
    rows : int
        Which of the `Rows` it reads; -1: none.
    constants : tuple
    lines : Lines, optional
        Values to write in place of those of the batch's rows.
    """

    kernel: Any
    rows: int
    constants: tuple[Any, ...]
    lines: Lines | None = None

    def __call__(
        self, sources: Sequence[np.ndarray], rows: Sequence[Rows], entity: np.ndarray, begin: int, end: int,
        out: np.ndarray, lines: Lines,
    ) -> None:  # fmt: skip
        """Write positions ``[begin, end)`` of a batch."""
        source, first = (sources[self.rows], rows[self.rows].first) if self.rows >= 0 else (out, entity)
        self.kernel(source, first, entity, begin, end, out, *(self.lines or lines), *self.constants)


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
    """

    def __init__(
        self, role: Role, clock: Clock | KeptClock | None, dtype: str, layouts: Sequence[BufferLayout], batch: int
    ) -> None:  # fmt: skip
        self.role, self._layouts, self._dtype, self._batch = role, layouts, dtype, batch
        self._strides = role.strides(batch)  # in elements: batch, step, node, feature
        self._itemsize = delivered_dtype(dtype).itemsize
        self._table = RowTable(role.row_columns, clock, role.offsets, dtype)
        self._shared = RowTable(role.shared_columns, clock, role.offsets, dtype) if role.num_shared else None
        self._loops = tuple(self._value_loops()) if role.num_features else ()
        self._mask_loops = tuple(self._masks()) if role.num_features and role.has_mask else ()
        self._piece = batch
        if len(self._loops) + len(self._mask_loops) > 1 and self._strides[0] >= self._strides[1]:
            # with another axis outermost a few windows are not compact
            self._piece = max(1, PIECE // (self._strides[0] * self._itemsize))

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
        target, seen = self._flat(out[role.name]), lines
        mask = target
        if self._mask_loops:
            mask = self._flat(out[role.mask_name])
            seen = self._table.seen(starts, rows, begin, end) if role.row_columns else lines
        for first in range(begin, end, self._piece):
            last = min(first + self._piece, end)
            for loop in self._loops:
                loop(sources, rows, entity, first, last, target, lines)
            for loop in self._mask_loops:
                loop(sources, rows, entity, first, last, mask, seen)

    def _flat(self, array: np.ndarray) -> Any:
        if not array.flags.c_contiguous:
            raise ValueError("arrays that are gathered into must be C-contiguous")
        return array.reshape(-1).view(WORDS.get(array.dtype, array.dtype))

    def _value_loops(self) -> Iterator[Loop]:
        """Yield the loops that write the role's array."""
        role, found = self.role, None
        if len(role.groups) == 1 and not role.statics:
            (group,) = role.groups
            if self._together(group):
                found = self._run(group, len(role.row_columns))
            elif not (group.copies and self._is_run(group)):
                found = self._interleaved(group) or self._transposed(group)
        if found is not None:
            yield found
            return
        pending = role.row_places
        for group in role.groups:
            if self._is_run(group):
                yield self._copied(group) if group.copies else self._run(group)
            else:
                yield self._tiles(group, pending)
                pending = pending[:0]
        for static in role.statics:
            yield self._spread(static.places, static.values)
        if len(pending):
            yield self._spread(pending)

    def _masks(self) -> Iterator[Loop]:
        """Yield the loops that write the role's mask."""
        role = self.role
        complete = all(column.sentinel is None for column in role.row_columns)
        if complete and len(role.groups) == 1 and not role.statics and self._together(role.groups[0]):
            yield self._run(role.groups[0], len(role.row_columns), mask=True)
            return
        for group in role.groups:
            if not group.can_miss:
                yield self._spread(group.places, np.ones((1, 1, 1, len(group.places)), np.uint8))
            elif self._is_run(group):
                yield self._run(group, mask=True)
            else:
                yield self._tiles(group, role.row_places[:0], mask=True)
        for static in role.statics:
            yield self._spread(static.places, static.observed)
        if role.row_columns:
            yield self._spread(role.row_places)

    def _together(self, group: Group) -> bool:
        """Whether one loop writes all of a role: runs of values, alone or with one or two of the row beside each."""
        others = len(self.role.row_columns)
        if others == 0:
            return not group.copies and self._is_run(group)
        beside = self._strides[2:] == (self.role.num_features, 1)
        return len(group.places) == 1 and others <= 2 and self._layouts[group.rows].steps[1] == 1 and beside

    def _is_run(self, group: Group) -> bool:
        """Whether neighbours in a row of the source are neighbours in a row of the output."""
        strides, count = self._layouts[group.rows].steps, len(group.places)
        if count == 1:
            return strides[1] == 1 and self._strides[2] == 1
        return group.whole and strides[1:] == (count, 1) and self._strides[2:] == (count, 1)

    def _span(self, group: Group, longest: float) -> tuple[int, int, np.ndarray]:
        """Origin, width and offsets of runs: one per row or, where rows up to ``longest`` touch, one per window."""
        layout, offsets = self._layouts[group.rows], self.role.offsets
        width = self.role.num_nodes * len(group.places)
        origin = layout.origin + int(group.features[0]) * layout.steps[2]
        rising = int(offsets[-1] - offsets[0]) == len(offsets) - 1
        if width <= longest and rising and layout.steps[0] == width and self._strides[1] == width:
            # the first offset is that of all rows
            return origin, width * len(offsets), offsets[:1]
        return origin, width, offsets

    def _how(self, group: Group, *, mask: bool = False) -> tuple[Any, ...]:
        """Return what selects code in `kernels.element`."""
        layout = self._layouts[group.rows]
        sentinel = group.sentinel.view(layout.dtype)[0]
        if layout.half is not None:
            sentinel = group.sentinel.astype(np.float64)[0]  # compared by value
        if mask:
            return layout.half, None, sentinel, None, None, None, True, None
        if group.copies:
            return None, None, sentinel, None, None, None, None, True
        half, brain = (True if self._dtype == name else None for name in ("float16", "bfloat16"))
        divide = True if group.divide.any() else None
        return layout.half, divide, sentinel, group.fill, half, brain, None, None

    def _ahead(self, group: Group, elements: int) -> int:
        """How many rows in advance a row of so many elements is prefetched."""
        row = elements * self._layouts[group.rows].dtype.itemsize
        return min(-(-PREFETCH // row), 64) if row <= SHORT else 0

    def _run(self, group: Group, others: int = 0, *, mask: bool = False) -> Loop:
        """Scale a group by runs, with values of the row beside each element."""
        columns, (out_batch, out_row) = len(group.places), self._strides[:2]
        origin, width, offsets = self._span(group, 0 if others else RUN)
        if mask:
            shift, factor, known = np.zeros(1), np.ones(1), 1
        elif group.shift.shape[2] > 1:  # where a window is one run, the statistics of a row are repeated
            repeats = len(self.role.offsets) // len(offsets)
            shift, factor, known = _statistics(group, self.role.num_nodes, repeats=repeats)
        else:
            nodes = 1 if columns == 1 else min(width // columns, max(1, PERIOD // columns))
            shift, factor, known = _statistics(group, nodes)
        place = int(group.places[0])
        at = 0 if others else place * self._strides[3]
        row_words = width * (1 + others)
        constants = (
            origin, self._layouts[group.rows].steps[0], width, offsets, shift, factor, known,
            self._how(group, mask=mask), at, out_batch, out_row,
        )  # fmt: skip
        kind = others, place if others else 0, known > 1
        apart = out_row != row_words or out_batch != out_row * len(offsets)
        large = not mask and self._batch * out_batch * self._itemsize >= STREAMED
        if large and (not apart or row_words * self._itemsize >= LONG):
            return Loop(kernels.stream_runs(*kind), group.rows, (*constants, apart))
        return Loop(kernels.scale_runs(*kind), group.rows, (*constants, self._ahead(group, width)))

    def _copied(self, group: Group) -> Loop:
        """Copy runs."""
        (out_batch, out_row, _, out_feature), at = self._strides, int(group.places[0])
        origin, width, offsets = self._span(group, np.inf)
        row_step = self._layouts[group.rows].steps[0]
        constants = origin, row_step, width, offsets, at * out_feature, out_batch, out_row
        return Loop(kernels.copy_runs, group.rows, constants)

    def _tiles(self, group: Group, row_places: np.ndarray, *, mask: bool = False) -> Loop:
        """Scale any columns, and write the values of the row at ``row_places``."""
        layout, role = self._layouts[group.rows], self.role
        row_step, node_step, feature_step = layout.steps
        out_batch, out_row, out_node, out_feature = self._strides
        count, nodes = len(group.places), role.num_nodes
        neighbours = bool(np.array_equal(group.features, np.arange(count) + group.features[0]))
        dense = node_step == count and feature_step == 1 and neighbours
        tile = kernels.TILE // count
        if out_node > role.num_features:
            tile = min(tile, INSIDE // (out_node * self._itemsize))
        tile = min(nodes, max(16, tile))
        shift, factor, known = _statistics(group, nodes if group.shift.shape[2] > 1 else tile, dense=dense)
        constants = (
            layout.origin, row_step, node_step, nodes, group.features * feature_step, dense, role.offsets,
            shift, factor, known, self._how(group, mask=mask), out_batch, out_row, out_node,
            group.places * out_feature, row_places * out_feature, tile,
            self._ahead(group, nodes * count) if dense else 0,
        )  # fmt: skip
        return Loop(kernels.tiles, group.rows, constants)

    def _spread(self, places: np.ndarray, values: np.ndarray | None = None) -> Loop:
        """Write what is the same for all nodes, or (``values``, by node) in all rows."""
        role, lines = self.role, None
        if values is not None:
            table = as_words(values).reshape(values.shape[2:])
            lines = Lines.constant(table, self._batch, len(role.offsets))
        by_node = lines is not None and len(lines.values) > 1
        constants = role.num_nodes, by_node, *self._strides[:3], places * self._strides[3]
        return Loop(kernels.spread, -1, constants, lines=lines)

    def _interleaved(self, group: Group) -> Loop | None:
        """Write all words of a node in one row beside each other; None where they do not lie so."""
        order = np.argsort(
            group.features, kind="stable"
        )  # that of the source: all columns are then as they lie there
        features, places = group.features[order], group.places[order]
        group = replace(group, shift=group.shift[order], factor=group.factor[order])
        layout, role = self._layouts[group.rows], self.role
        row_step, columns, _ = layout.steps
        nodes, count, picks = role.num_nodes, role.num_features, features.tolist()
        beside = self._strides[2:] == (count, 1) and count <= MOST
        if not beside or not _side_by_side(layout) or nodes < LANES:  # fewer are as fast one by one
            return None
        if columns > max(4, 2 * len(picks)) or max(picks) >= columns:
            return None
        own, pattern = np.zeros(count, np.int64), [ROW_VALUE] * count
        for value, place in enumerate(places.tolist()):
            own[place] = pattern[place] = value
        own[role.row_places] = -1 - np.arange(len(role.row_places))
        some = picks != list(range(columns))
        loop = interleaving(pattern_of(len(picks), pattern), pattern_of(columns, picks) if some else 0)
        tile = min(nodes, max(LANES, kernels.TILE // max(columns, count)))
        statistics = _statistics(group, nodes if group.shift.shape[2] > 1 else tile)
        constants = (
            layout.origin, row_step, columns, nodes, features, role.offsets, *statistics, self._how(group),
            *self._strides[:2], own, tile, self._ahead(group, nodes * columns),
        )  # fmt: skip
        return Loop(loop, group.rows, constants)

    def _transposed(self, group: Group) -> Loop | None:
        """Write all rows of a node beside each other; None where they do not lie so."""
        layout, role, picks = self._layouts[group.rows], self.role, group.features
        row_step, columns, _ = layout.steps
        out_batch, out_row, out_node, out_feature = self._strides
        nodes, steps, count = role.num_nodes, len(role.offsets), role.num_features
        inside = out_feature < out_node or count == 1  # a node's features lie beside each other, too
        depth = steps * count if inside else steps
        if out_node != depth or out_row >= depth or out_batch < nodes * depth or nodes < LANES:
            return None
        if not _side_by_side(layout) or int(picks.max()) >= columns:
            return None
        apart = np.arange(steps)[:, np.newaxis] * out_row
        own, others = group.places, role.row_places
        if inside:  # all columns of all steps: one panel
            panels, row_panels = np.zeros(1, np.int64), others[:0]
            value_rows, row_rows = apart + own * out_feature, apart + others * out_feature
        else:
            panels, row_panels = own * out_feature, others * out_feature
            value_rows, row_rows = apart + np.arange(len(own)) * depth, np.zeros((steps, 0), np.int64)
        most = kernels.TILE * 4 // (len(panels) * depth)  # nodes whose rows stay in the first-level cache
        pieces = -(-nodes // max(LANES, most))
        tile = -(-nodes // pieces // LANES) * LANES if pieces > 1 else nodes
        statistics = _statistics(group, nodes if group.shift.shape[2] > 1 else tile, dense=False)
        constants = (
            layout.origin, row_step, nodes, picks, role.offsets, *statistics, self._how(group), out_batch, depth,
            panels, value_rows, row_rows, row_panels, tile,
        )  # fmt: skip
        return Loop(transposing(columns), group.rows, constants)


def _side_by_side(layout: BufferLayout) -> bool:
    """Whether nodes lie beside each other with all their features, so that none reads beyond the array."""
    _, columns, feature_step = layout.steps
    return columns == 1 or (1 < columns <= MOST and feature_step == 1 and layout.features == columns)


def _statistics(
    group: Group, nodes: int, *, repeats: int = 1, dense: bool = True
) -> tuple[np.ndarray, np.ndarray, int]:
    """Shifts and factors of nodes as flat arrays, node by node or column by column, and how many per entity."""
    flat = []
    for values in (group.shift, group.factor):
        wide = np.broadcast_to(values, (*values.shape[:2], nodes)).transpose(
            1, *((2, 0) if dense else (0, 2))
        )
        flat.append(np.tile(wide.reshape(values.shape[1], -1), (1, repeats)).reshape(-1))
    return flat[0], flat[1], nodes * len(group.places) * repeats
