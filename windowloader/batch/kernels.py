"""Compiled loops that write rows into batches: copies, rows whose nodes touch in the output, and any other layout.

In: addresses of rows and outputs; strides; where each window's first row lies. Out: batch positions ``[begin, end)``
of the output, written. Loops never allocate more than a tile, never hold the GIL and never split a batch over threads.

All loops take the same ten arguments first, then constants that are chosen once per batch size:

source, first      flat rows of a variable, and the row of each window's start
entity             of each window
begin, end         batch positions to write
out, mask          flat output, and its mask
table, lines, line_steps    values per row: window b, step i uses line ``lines[b] + line_steps[i]``

Distances in the source are counted in bytes, those in the output in words. ``to`` and ``far`` are addresses of
distances, as `vectors.convert` takes them. ``known``, ``own``: bytes of statistics per entity and per column.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.jit import kernel

from .vectors import LANES, KernelOptions, convert, copy_bytes, copy_lines, fence, prefetch, transpose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

__all__ = ["copy_runs", "rows_of", "tiles_of"]

AHEAD = 64  # cache lines of the next window that are prefetched
FETCHED = 32 * 1024  # bytes of a run up to which the whole next run is prefetched during a copy


@kernel
def copy_runs(
    source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any, mask: Any,
    table: Any, lines: Ints, line_steps: Ints,
    origin: int, row_step: int, run: int, offsets: Ints, at: int, out_batch: int, out_row: int, around: bool,
) -> None:  # fmt: skip
    """Copy runs of ``run`` bytes; here distances in the output are bytes, too."""
    s0, d0 = source.ctypes.data + origin, out.ctypes.data + at
    asked = run if run <= FETCHED else 0
    for b in range(begin, end):
        if b + 1 < end:
            s = s0 + (first[b + 1] + offsets[0]) * row_step
            for j in range(0, asked, 64):
                prefetch(s + j)
        for i in range(offsets.size):
            s = s0 + (first[b] + offsets[i]) * row_step
            d = d0 + b * out_batch + i * out_row
            if around:
                head = min(run, -d & 63)
                whole = (run - head) // 64
                done = head + 64 * whole
                copy_bytes(d, s, head)
                copy_lines(d + head, s + head, whole)
                copy_bytes(d + done, s + done, run - done)
            else:
                copy_bytes(d, s, run)
    if around:
        fence()


@cache
def rows_of(conversion: KernelOptions) -> Any:
    """Return the loop for outputs in which words of neighbouring nodes touch, alone or all words of a node."""
    c = conversion
    whole, part = c.code, c._replace(tail=True, around=False).code
    stored, size = c.sizes
    around, group = c.around, 1 if c.apart else len(c.words)
    values, far_statistics = sum(word < 0 for word in c.words), 8 if c.statistics == 2 else 0
    packed = stored * c.columns

    @kernel
    def rows(
        source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any, mask: Any,
        table: Any, lines: Ints, line_steps: Ints,
        origin: int, row_step: int, node_step: int, far: int, nodes: int, offsets: Ints,
        shift: int, factor: int, known: int, own: int, sentinel: int, fill: float,
        at: int, out_batch: int, out_row: int, to: int, tile: int,
    ) -> None:  # fmt: skip
        """``tile``: nodes after which statistics repeat."""
        s0, d0, m0, t0 = source.ctypes.data + origin, out.ctypes.data, mask.ctypes.data, table.ctypes.data
        step = packed if packed else node_step
        for b in range(begin, end):
            if b + 1 < end:
                s = s0 + (first[b + 1] + offsets[0]) * row_step
                for j in range(min(AHEAD, nodes * offsets.size * step // 64)):
                    prefetch(s + 64 * j)
            e = entity[b] * known
            for i in range(offsets.size):
                s = s0 + (first[b] + offsets[i]) * row_step
                place = at + b * out_batch + i * out_row
                d, m = d0 + place * size, m0 + place
                row = t0 + (lines[b] + line_steps[i]) * (values * size)
                for n0 in range(0, nodes, tile):
                    left, p, q = min(tile, nodes - n0), shift + e, factor + e
                    head = 0  # nodes before the first cache line
                    if around:
                        while head < LANES and (d + head * group * size) & 63:
                            head += 1
                    skewed = head == LANES  # no word begins a line
                    while left > 0:
                        if head == 0:
                            for _ in range(left // LANES):
                                for j in range(0, LANES * packed, 64):
                                    prefetch(s + AHEAD * 64 + j)
                                convert(
                                    whole, s, node_step, far, d, m, to, LANES, p, q, own, sentinel, fill, row
                                )
                                s, d, m = s + LANES * step, d + LANES * group * size, m + LANES * group
                                p, q = p + LANES * far_statistics, q + LANES * far_statistics
                            left = left % LANES
                        n = min(LANES if head == 0 else head, left)
                        if n > 0:
                            convert(part, s, node_step, far, d, m, to, n, p, q, own, sentinel, fill, row)
                        s, d, m = s + n * step, d + n * group * size, m + n * group
                        p, q, left = p + n * far_statistics, q + n * far_statistics, left - n
                        head = LANES if skewed else 0
        if around:
            fence()

    return rows


@cache
def tiles_of(conversion: KernelOptions, fixed: int) -> Any:
    """Return the loop for any other output: planes of a tile into a scratch buffer, and from there node by node.

    ``fixed``: as in `vectors.transpose`.
    """
    c = conversion
    whole, part = c.code, c._replace(tail=True).code
    stored, size = c.sizes
    values, far_statistics = sum(word < 0 for word in c.words), 8 if c.statistics == 2 else 0
    packed, count = stored * c.columns, len(c.words)

    @kernel
    def tiles(
        source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any, mask: Any,
        table: Any, lines: Ints, line_steps: Ints,
        origin: int, row_step: int, node_step: int, far: int, nodes: int, offsets: Ints,
        shift: int, factor: int, known: int, own: int, sentinel: int, fill: float,
        at: int, out_batch: int, out_row: int, to: int, tile: int,
        out_node: int, group: int, planes: Ints, depths: Ints, places: Ints, cut: int,
    ) -> None:  # fmt: skip
        """Chunks of at most sixteen planes touch in the output: their first plane, depth and place.

        The first ``cut`` chunks are those of ``group`` steps, the others those of the last, shorter group. ``to``:
        for each step of either group, where its planes lie in the scratch buffer.
        """
        s0, d0, t0 = source.ctypes.data + origin, out.ctypes.data, table.ctypes.data
        step = packed if packed else node_step
        pitch = tile * size
        room = np.empty((min(group, offsets.size) * count + LANES) * pitch + 64, np.uint8)
        scratch = (room.ctypes.data + 63) & ~63
        windows, pieces = end - begin, (nodes + tile - 1) // tile
        by_node = (
            out_batch < out_node
        )  # neighbouring words belong to neighbouring windows: stay with these nodes
        for turn in range(windows * pieces):
            b = begin + (turn % windows if by_node else turn // pieces)
            n0 = (turn // windows if by_node else turn % pieces) * tile
            here = min(tile, nodes - n0)
            coming = turn + 1
            next_b = begin + (coming % windows if by_node else coming // pieces)
            next_n = (coming // windows if by_node else coming % pieces) * tile
            e = entity[b] * known + n0 * far_statistics
            for i0 in range(0, offsets.size, group):
                last = i0 > 0 and i0 + group > offsets.size
                for i in range(i0, min(i0 + group, offsets.size)):
                    if packed > 0 and coming < windows * pieces:  # the same row of the next tile
                        s = s0 + (first[next_b] + offsets[i]) * row_step + next_n * step
                        for j in range(0, min(tile, nodes - next_n) * step + 63, 64):
                            prefetch(s + j)
                    s = s0 + (first[b] + offsets[i]) * row_step + n0 * step
                    row = t0 + (lines[b] + line_steps[i]) * (values * size)
                    goal = to + 8 * count * (i - i0 + (group if last else 0))
                    d, p, q = scratch, shift + e, factor + e
                    for _ in range(here // LANES):
                        convert(whole, s, node_step, far, d, d, goal, LANES, p, q, own, sentinel, fill, row)
                        s, d = s + LANES * step, d + LANES * size
                        p, q = p + LANES * far_statistics, q + LANES * far_statistics
                    if here % LANES > 0:
                        convert(
                            part, s, node_step, far, d, d, goal, here % LANES, p, q, own, sentinel, fill, row
                        )
                base = d0 + (at + b * out_batch + i0 * out_row + n0 * out_node) * size
                for j in range(0, here, LANES):
                    d = base + j * out_node * size
                    for z in range(cut if last else 0, places.size if last else cut):
                        transpose(
                            size, fixed, scratch + planes[z] * pitch + j * size, pitch, d + places[z] * size,
                            out_node * size, depths[z], min(LANES, here - j),
                        )  # fmt: skip
        if fixed < 0:
            fence()
        room[0] = 0  # numba frees an array after its last use, and only its address was used above

    return tiles
