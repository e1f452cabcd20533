"""Gathers a role of a batch: which compiled loop writes which columns, chosen once per batch size and layout of rows.

In: a role, how its rows lie in memory, how many windows a batch has. Out: `RoleGather`, which fills the arrays of a
batch from starts and rows. Imported with the first batch, as it needs numba. Never allocates anything of a batch's
size, unless rows can only be addressed by bytes (see ``StridedBuffer``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from windowloader.rows.strided import StridedBuffer
from windowloader.util.memory import address_of

from .kernels import copy_runs, rows_of, tiles_of
from .roles import Group, delivered_dtype
from .row_table import Lines, RowTable
from .vectors import LANES, Conversion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from windowloader.rows.strided import BufferLayout, Rows
    from windowloader.series.clock import Clock

    from .roles import Role
    from .row_table import KeptClock

__all__ = ["RoleGather"]

PIECE = 512 * 1024  # bytes written before the next loop visits the same windows: half a second-level cache
PERIOD = 1024  # elements that statistics of columns are repeated to, so that a run needs no other index
SHORT = 64  # elements of a row up to which statistics of nodes are repeated to those of a window
MOST = 8  # words per node that shuffles handle, on either side
SCRATCH = 24 << 10  # bytes of planes before they are transposed: they stay in the first-level cache
WIDE = 64  # nodes per tile at least, so that rows are read in pieces of some cache lines


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
    masks: bool
    fixed: np.ndarray | None
    kept: tuple[np.ndarray, ...]


class _Columns(NamedTuple):
    """Columns that one loop writes: a group, how its source lies, and values of the row beside it."""

    group: Group
    layout: BufferLayout
    row_places: np.ndarray
    fixed: np.ndarray | None = None

    @property
    def places(self) -> np.ndarray:
        return np.concatenate([self.group.places, self.row_places])

    def apart(self) -> Iterator[_Columns]:
        """Each column by itself."""
        group = self.group
        for k in range(len(group.places)):
            part = slice(k, k + 1)
            own = replace(
                group, features=group.features[part], places=group.places[part], shift=group.shift[part],
                factor=group.factor[part], divide=group.divide[part], whole=False,
            )  # fmt: skip
            yield self._replace(group=own, row_places=self.row_places[:0])


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
        if len(self._loops) > 1 and out_batch >= out_row:  # with another axis outermost a few windows are not compact
            self._piece = max(1, PIECE // (out_batch * self._itemsize))

    def fill(
        self, out: Mapping[str, np.ndarray], starts: np.ndarray, sources: Sequence[int],
        rows: Sequence[Rows], entity: np.ndarray, begin: int, end: int,
    ) -> None:  # fmt: skip
        """Fill positions ``[begin, end)``; see `Recipe.gather`. ``sources``: addresses of the rows."""
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
        values, first, steps = self._table.lines(starts, rows, entity, begin, end)
        value_lines = mask_lines = address_of(values), first, steps
        target = mask = _address_in(out, role.name)
        if role.has_mask:
            mask = _address_in(out, role.mask_name)
            if role.row_columns:
                seen, first, steps = self._table.seen(starts, rows, begin, end)
                mask_lines = address_of(seen), first, steps
        for low in range(begin, end, self._piece):
            high = min(low + self._piece, end)
            for loop in self._loops:
                if loop.rows < 0:
                    source, own = 0 if loop.fixed is None else address_of(loop.fixed), entity
                else:
                    source, own = sources[loop.rows], rows[loop.rows].first
                lines = mask_lines if loop.masks else value_lines
                goal = mask if loop.masks else target
                loop.kernel(source, own, entity, low, high, goal, mask, *lines, *loop.constants)

    # -- which loops -----------------------------------------------------------------------------------------------

    def _all_loops(self) -> Iterator[Loop]:
        """Yield the loops that write the role's array and its mask."""
        role, pending = self.role, self.role.row_places
        for group in role.groups:
            columns = _Columns(group, self._layouts[group.rows], pending)
            if len(pending) and not self._together(columns):
                columns = columns._replace(row_places=pending[:0])
            pending = pending[len(columns.row_places) :]
            yield from self._loops_of(columns)
        for static in role.statics:
            for values, masks in ((static.values, False), (static.observed, True)):
                if role.has_mask or not masks:
                    flat = StridedBuffer.of(values[0])
                    layout = replace(flat.kind, steps=(0, *flat.kind.steps[1:]))
                    if flat.kind.steps[0] == len(static.places):  # one value for all nodes
                        layout = replace(layout, steps=(0, 0, 1))
                    group = _copied(static.places)
                    yield self._converting(_Columns(group, layout, pending[:0], flat.values), "bits", masks)
        if len(pending):
            layout = StridedBuffer.of(np.empty((1, 1, 1), delivered_dtype(self._dtype))).kind
            yield from self._loops_of(_Columns(_copied(pending[:0]), layout, pending))

    def _together(self, columns: _Columns) -> bool:
        """Whether one loop writes the values of the row beside a group."""
        if self._touches(columns):
            return True
        copied = columns.group.copies and self._is_run(columns) and not self.role.has_mask
        return not copied and not (self._around and self._strides[2] == 1)

    def _touches(self, columns: _Columns) -> bool:
        """Whether all words of a node touch, and the next node's follow."""
        count = len(columns.places)
        return count <= MOST and self._strides[2] == count and (count == 1 or self._strides[3] == 1)

    def _is_run(self, columns: _Columns) -> bool:
        """Whether neighbours in a row of the source are neighbours in a row of the output."""
        group, steps = columns.group, columns.layout.steps
        count = len(group.places)
        if count == 1:
            return steps[1] == 1 and self._strides[2] == 1
        return group.whole and steps[1:] == (count, 1) and self._strides[2:] == (count, 1)

    def _loops_of(self, columns: _Columns) -> Iterator[Loop]:
        role = self.role
        if columns.group.copies and len(columns.group.places) and not role.has_mask and self._is_run(columns):
            if not len(columns.row_places):
                yield self._copying(columns)
                return
        apart = self._strides[2] == 1 and len(columns.places) > 1
        if self._around and apart and not self._aligned(columns.places * self._strides[3]):
            for column in columns.apart():  # rows of words that begin anywhere: one after the other
                yield from self._loops_of(column)
            for place in columns.row_places:
                empty = _copied(columns.row_places[:0])
                yield from self._loops_of(columns._replace(group=empty, row_places=np.array([place])))
            return
        yield self._converting(columns, "bits" if columns.group.copies else self._dtype, masks=False)
        if role.has_mask and not self._masks_too(columns):
            yield self._converting(columns, "mask", masks=True)

    def _aligned(self, distances: np.ndarray) -> bool:
        """Whether places so many words from the first begin cache lines."""
        return bool(((distances - distances[0]) * self._itemsize % 64 == 0).all())

    def _masks_too(self, columns: _Columns) -> bool:
        """Whether the loop that writes values writes their masks."""
        return not self._in_tiles(columns) and (self._complete or not len(columns.row_places))

    def _in_tiles(self, columns: _Columns) -> bool:
        single = self._strides[2] == 1 and len(columns.places) <= MOST
        return not (
            self._touches(columns) or single or self._is_elements(columns) or self._is_split(columns)
        )

    def _is_elements(self, columns: _Columns) -> bool:
        return len(columns.group.places) > 1 and not len(columns.row_places) and self._is_run(columns)

    def _is_split(self, columns: _Columns) -> bool:
        """Whether a window of few nodes splits into columns of steps that touch in the output."""
        layout, role = columns.layout, self.role
        count = role.num_nodes * layout.steps[1]
        return (
            self._strides[1] == 1 < len(role.offsets)
            and not len(columns.row_places)
            and 0 < count <= MOST
            and layout.steps[0] == count
            and (layout.steps[2] == 1 or layout.steps[1] == 1)
            and layout.features == layout.steps[1]
            and role.num_nodes * len(columns.group.places) <= MOST
            and _rising(role.offsets)
        )

    # -- their arguments -------------------------------------------------------------------------------------------

    def _copying(self, columns: _Columns) -> Loop:
        """Copy runs."""
        group, layout, size = columns.group, columns.layout, self._itemsize
        run, offsets = self.role.num_nodes * len(group.places), self.role.offsets
        out_batch, out_row = self._strides[:2]
        if _rising(offsets) and layout.steps[0] == run == out_row:
            run, offsets = run * len(offsets), offsets[:1]
        origin = layout.origin + int(group.features[0]) * layout.steps[2]
        at = int(group.places[0]) * self._strides[3]
        words = origin, layout.steps[0], run
        constants = (
            *(word * size for word in words), offsets, *(word * size for word in (at, out_batch, out_row)), self._around
        )  # fmt: skip
        return Loop(copy_runs, group.rows, constants, False, None, ())

    def _converting(self, columns: _Columns, out: str, masks: bool) -> Loop:
        """Convert values, or look for those that are missing."""
        group, layout, _, fixed = columns
        role, offsets = self.role, self.role.offsets
        row_step, node_step, feature_step = layout.steps
        nodes, count = role.num_nodes, len(group.places)
        size = 1 if masks else self._itemsize
        out_batch, out_row, out_node, out_feature = self._strides
        features, places = group.features, columns.places * out_feature
        shift, factor = group.shift, group.factor
        scaled = out not in ("bits", "mask") and bool((shift != 0).any() or (factor != 1).any())
        fused = role.has_mask and not masks and fixed is None and self._masks_too(columns)
        words: list[int] = [*range(count), *(-1 - k for k in range(len(columns.row_places)))]
        touching = self._touches(columns)
        tiled = self._in_tiles(columns)
        tile = nodes
        if self._is_elements(columns):
            # values of all columns as those of more nodes
            wide = nodes if shift.shape[2] > 1 else min(nodes, max(LANES, PERIOD // count // LANES * LANES))
            shift, factor = (
                np.broadcast_to(part, (*part.shape[:2], wide)).transpose(1, 2, 0).reshape(1, part.shape[1], -1)
                for part in (shift, factor)
            )
            nodes, tile, words, places = nodes * count, wide * count, [0], places[:1] * 0
            node_step, features, count, touching, out_node = 1, features[:1], 1, True, 1
        elif self._is_split(columns) and tiled is False and not touching and out_node != 1:
            shift, factor = (
                np.broadcast_to(part, (*part.shape[:2], nodes)).transpose(2, 0, 1).reshape(-1, part.shape[1], 1)
                for part in (shift, factor)
            )
            places = (np.arange(nodes)[:, np.newaxis] * out_node + places).reshape(-1)
            features = (np.arange(nodes)[:, np.newaxis] * node_step + features).reshape(-1)
            node_step, feature_step, count = nodes * node_step, 1, len(features)
            nodes = tile = len(offsets)
            words, offsets, out_node, out_row = list(range(count)), offsets[:1], 1, 0
        columns_each = self._columns_each(layout, node_step, feature_step)
        if (
            not tiled and not len(columns.row_places) and _rising(offsets) and len(offsets) > 1
            and row_step == nodes * node_step and out_row == nodes * out_node
            and (shift.shape[2] == 1 or not scaled or nodes <= SHORT or tile < nodes)
        ):  # fmt: skip
            if scaled and shift.shape[2] == nodes:
                shift, factor = (np.tile(part, (1, 1, len(offsets))) for part in (shift, factor))
            tile = tile if tile < nodes else nodes * len(offsets)
            nodes, offsets = nodes * len(offsets), offsets[:1]
        if touching and len(words) > 1:
            order = np.argsort(places)
            words, places = [words[k] for k in order], places[order]
        apart = not (touching and not tiled) and len(words) > 0
        stored = layout.dtype.itemsize
        origin = layout.origin
        if columns_each > 1:
            picks = tuple(int(feature) for feature in features)
            far = np.zeros(1, np.int64)
        else:
            picks = tuple(range(count))
            far = features * feature_step * stored
            if count == 1:
                origin += int(features[0]) * feature_step
        statistics = 0 if not scaled else 1 if shift.shape[2] == 1 else 2
        conversion = Conversion(
            "float16" if layout.half else layout.dtype.name, out, columns_each, picks, tuple(words), statistics,
            scaled and bool(group.divide.any()),
            group.can_miss and (masks or fused or group.fill is not None) and fixed is None,
            group.fill is not None and not masks, fused, apart,
            self._around and not masks and not tiled and (not apart or self._aligned(places)),
        )  # fmt: skip
        moved, scale = (
            np.ascontiguousarray(part.transpose(1, 0, 2) if scaled else np.zeros((1, 1, 1)), np.float64)
            for part in (shift, factor)
        )
        known = moved[0].nbytes if len(moved) > 1 else 0
        at = 0 if tiled else int(places[0])
        to = places.astype(np.int64) - at
        sentinel = group.sentinel.view(layout.dtype) if group.can_miss else np.zeros(1, layout.dtype)
        statistic = address_of(moved), address_of(scale), known, moved.shape[2] * 8
        source = (
            origin * stored, row_step * stored, node_step * stored, address_of(far), nodes, offsets, *statistic,
            address_of(sentinel), 0.0 if group.fill is None else group.fill,
        )  # fmt: skip
        kept: tuple[np.ndarray, ...] = (far, moved, scale, sentinel, to)
        if not tiled:
            constants = *source, at, out_batch, out_row, address_of(to), tile
            return Loop(rows_of(conversion), group.rows, constants, masks, fixed, kept)
        tiling = _Tiling.of(nodes, len(offsets), places, self._strides, size, self._around and not masks)
        constants = (
            *source, 0, out_batch, out_row, address_of(tiling.to), tiling.tile, out_node, tiling.group, *tiling[3:7]
        )  # fmt: skip
        kernel = tiles_of(conversion, tiling.fixed)
        return Loop(kernel, group.rows, constants, masks, fixed, (*kept, tiling.to))

    def _columns_each(self, layout: BufferLayout, node_step: int, feature_step: int) -> int:
        """Values of a node that touch, as `Conversion` counts them, without reading beyond the array."""
        if node_step == 1:
            return 1
        inside = node_step % max(1, layout.features) == 0 and feature_step == 1
        return node_step if 1 < node_step <= MOST and inside and layout.features == layout.steps[1] else 0


class _Tiling(NamedTuple):
    """How planes of a tile reach the output: settled once for a layout and a batch size."""

    to: np.ndarray  # [step of either group, word]: places of planes in the scratch buffer, in words
    group: int  # steps whose planes are in the scratch buffer together
    tile: int  # nodes
    planes: np.ndarray  # of each chunk: its first plane,
    depths: np.ndarray  # how many planes it has,
    places: np.ndarray  # and where it begins in the output, in words from the group's first step
    cut: int  # chunks of a whole group; the others are those of the last
    fixed: int  # as `transpose` takes it

    @classmethod
    def of(
        cls, nodes: int, steps: int, places: np.ndarray, strides: Sequence[int], size: int, around: bool
    ) -> _Tiling:
        """Cut steps and nodes so that planes stay in the first-level cache, and find which planes touch."""
        count, (out_batch, out_row, out_node, _) = len(places), strides
        full = -(-nodes // LANES) * LANES
        wide = min(full, WIDE)
        group = steps
        if count * steps * wide * size > SCRATCH:
            group = min(max(LANES, SCRATCH // (count * wide * size) // LANES * LANES), steps)
        tile = min(full, max(LANES, SCRATCH // (count * group * size) // LANES * LANES))
        ranks, chunks, cuts = [], [], [0]
        for length in dict.fromkeys((group, steps % group or group)):
            at = (np.arange(length)[:, np.newaxis] * out_row + places).reshape(-1)
            order = np.argsort(at, kind="stable")
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            ranks.append(rank)
            first, line = 0, at[order]
            for k in range(1, len(line) + 1):
                if k == len(line) or line[k] != line[k - 1] + 1 or k - first == LANES:
                    chunks.append((first, k - first, int(line[first])))
                    first = k
            cuts.append(len(chunks))
        planes, depths, found = (np.array(column, np.int64) for column in zip(*chunks, strict=True))
        fixed = LANES if (depths == LANES).all() else 0
        steps_apart = np.array([out_batch, out_row * group, out_node, *found])
        if around and fixed and size >= 4 and not (steps_apart % LANES).any():
            fixed = -1
        return cls(np.concatenate(ranks) * tile, group, tile, planes, depths, found, cuts[1], fixed)


def _copied(places: np.ndarray) -> Group:
    """A group of columns that are not of a variable's rows, and delivered as they are."""
    count = len(places)
    return Group(
        rows=-1, features=np.arange(count), places=places, shift=np.zeros((count, 1, 1)),
        factor=np.ones((count, 1, 1)), divide=np.zeros(count, np.bool_), sentinel=np.zeros(1), can_miss=False,
        fill=None, copies=True, whole=False,
    )  # fmt: skip


def _rising(offsets: np.ndarray) -> bool:
    return int(offsets[-1] - offsets[0]) == len(offsets) - 1


def _address_in(out: Mapping[str, np.ndarray], name: str) -> int:
    if not out[name].flags.c_contiguous:
        raise ValueError("arrays that are gathered into must be C-contiguous")
    return address_of(out[name])
