"""The loops that copy, scale and cast rows into batches.

In: a flat source and steps through it, counted in elements; where each window's first row lies; a flat output with
the steps of its layout. Out: batch positions ``[begin, end)`` of the output, written. Never allocates more than a
tile, never holds the GIL, never contracts ``(x - shift) * factor`` into a fused operation.

Two shapes of loops, from the most to the least special:

``runs``     runs of the source go to runs of the output; ``pairs``, ``triples``: with values of the row beside each
``tiles``    anything else: a tile of nodes is scaled into a small scratch, and its words go where they belong

Indices are unsigned: numba would look whether others are negative, and then neither vectorise the loop nor hurry.
Slices would be as fast, but each is counted, atomically, which costs more than a short row.
Arguments that may be None (``half``: the source's words are float16; ``to_half``, ``to_brain``: the output's are
float16, bfloat16; ``divide``; ``fill``) choose code when compiled, not when run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.jit import kernel
from windowloader.util.machine import LINE, fetch

from .half_kernels import decode_float16, to_bfloat16, to_float16

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["TILE", "pairs", "runs", "scaled", "tiles", "triples", "word"]

TILE = 1024  # nodes at a time where their words wait in a scratch, or words are copied one by one
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)
WIDE = 16384  # nodes at a time whose own statistics stay in the second-level cache from row to row


@kernel
def scaled(raw: Any, half: Any, shift: float, factor: float, divide: Any, sentinel: Any, fill: Any) -> float:
    """One value; ``half``, ``divide`` and ``fill`` are None where they do not apply, and then cost nothing."""
    x = raw if half is None else decode_float16(raw)
    value = (np.float64(x) - shift) * factor if divide is None else (np.float64(x) - shift) / factor
    if fill is None:
        return value
    return fill if (x != x) | (x == sentinel) else value  # NaN


@kernel
def word(value: float, cast: Any, half: Any, brain: Any) -> Any:
    """Make the word that is stored; ``half``, ``brain`` are None unless words are float16, bfloat16."""
    if half is not None:
        return cast(to_float16(value))
    if brain is not None:
        return cast(to_bfloat16(value))
    return cast(value)


@kernel
def runs(
    source: Any, half: Any, origin: int, row_step: int, width: int,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, known: int, divide: Any, sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, at: int, out_batch: int, out_row: int,
    table: Any, lines: Ints, line_steps: Ints, place: int, ahead: int,
) -> None:  # fmt: skip
    """Scale runs of ``width`` elements; ``table``, ``lines`` and ``place`` go unused.

    ``shift`` and ``factor`` have ``known`` numbers for each entity, or once: 1, one for each element of a run, or a
    period, repeated along the run. ``ahead``: how many rows before its turn a row is asked for; 0: that is left to
    the processor, which does it well along long rows only.
    """
    sent = sentinel[0]
    cast = out.dtype.type
    repeats = known < width
    tile = width if known == 1 else known if repeats else WIDE
    line, whole = np.uint64(LINE // source.itemsize), np.uint64(width)
    later, next_row = begin + ahead // offsets.size, ahead % offsets.size
    for b in range(begin, end):
        e = entity[b] * known if shift.size > known else 0
        m0, q0 = shift[e], factor[e]
        for n0 in range(0, width, tile):
            a = np.uint64(e if repeats else e + n0)
            count = np.uint64(min(tile, width - n0))
            for i in range(offsets.size):
                if ahead > 0 and n0 == 0 and later < end:
                    r = np.uint64(origin + (first[later] + offsets[next_row]) * row_step)
                    for j in range(np.uint64(0), whole, line):
                        fetch(source, r + j)
                    next_row += 1
                    if next_row == offsets.size:
                        later, next_row = later + 1, 0
                r = np.uint64(origin + (first[b] + offsets[i]) * row_step + n0)
                o = np.uint64(at + b * out_batch + i * out_row + n0)
                if known > 1:
                    for j in range(count):
                        x, m, q = source[r + j], shift[a + j], factor[a + j]
                        v = word(scaled(x, half, m, q, divide, sent, fill), cast, to_half, to_brain)
                        out[o + j] = v
                else:
                    for j in range(count):
                        v = word(
                            scaled(source[r + j], half, m0, q0, divide, sent, fill), cast, to_half, to_brain
                        )
                        out[o + j] = v


@kernel
def pairs(
    source: Any, half: Any, origin: int, row_step: int, width: int,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, known: int, divide: Any, sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, at: int, out_batch: int, out_row: int,
    table: Any, lines: Ints, line_steps: Ints, place: int, ahead: int,
) -> None:  # fmt: skip
    """Scale runs, and write one value of the row beside each element: see `runs`.

    ``table`` has shape (line, 1), of the output's dtype, and line ``lines[b] + line_steps[i]`` is that of a window's
    step; a run's elements go to ``place``, 0 or 1.
    """
    sent = sentinel[0]
    head = place == 0
    cast = out.dtype.type
    repeats = known < width
    tile = width if known == 1 else known if repeats else WIDE
    line, whole = np.uint64(LINE // source.itemsize), np.uint64(width)
    later, next_row = begin + ahead // offsets.size, ahead % offsets.size
    for b in range(begin, end):
        e = entity[b] * known if shift.size > known else 0
        m0, q0 = shift[e], factor[e]
        for n0 in range(0, width, tile):
            a = np.uint64(e if repeats else e + n0)
            count = np.uint64(min(tile, width - n0))
            for i in range(offsets.size):
                if ahead > 0 and n0 == 0 and later < end:
                    r = np.uint64(origin + (first[later] + offsets[next_row]) * row_step)
                    for j in range(np.uint64(0), whole, line):
                        fetch(source, r + j)
                    next_row += 1
                    if next_row == offsets.size:
                        later, next_row = later + 1, 0
                r = np.uint64(origin + (first[b] + offsets[i]) * row_step + n0)
                o = np.uint64(at + b * out_batch + i * out_row + 2 * n0)
                c = table[np.uint64(lines[b] + line_steps[i]), 0]
                if known > 1:
                    for j in range(count):
                        x, m, q = source[r + j], shift[a + j], factor[a + j]
                        v = word(scaled(x, half, m, q, divide, sent, fill), cast, to_half, to_brain)
                        out[o + TWO * j] = v if head else c
                        out[o + TWO * j + ONE] = c if head else v
                else:
                    for j in range(count):
                        v = word(
                            scaled(source[r + j], half, m0, q0, divide, sent, fill), cast, to_half, to_brain
                        )
                        out[o + TWO * j] = v if head else c
                        out[o + TWO * j + ONE] = c if head else v


@kernel
def triples(
    source: Any, half: Any, origin: int, row_step: int, width: int,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, known: int, divide: Any, sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, at: int, out_batch: int, out_row: int,
    table: Any, lines: Ints, line_steps: Ints, place: int, ahead: int,
) -> None:  # fmt: skip
    """Scale runs, and write two values of the row beside each element: see `pairs`."""
    sent = sentinel[0]
    head, tail = place == 0, place == 2
    cast = out.dtype.type
    repeats = known < width
    tile = width if known == 1 else known if repeats else WIDE
    line, whole = np.uint64(LINE // source.itemsize), np.uint64(width)
    later, next_row = begin + ahead // offsets.size, ahead % offsets.size
    for b in range(begin, end):
        e = entity[b] * known if shift.size > known else 0
        m0, q0 = shift[e], factor[e]
        for n0 in range(0, width, tile):
            a = np.uint64(e if repeats else e + n0)
            count = np.uint64(min(tile, width - n0))
            for i in range(offsets.size):
                if ahead > 0 and n0 == 0 and later < end:
                    r = np.uint64(origin + (first[later] + offsets[next_row]) * row_step)
                    for j in range(np.uint64(0), whole, line):
                        fetch(source, r + j)
                    next_row += 1
                    if next_row == offsets.size:
                        later, next_row = later + 1, 0
                r = np.uint64(origin + (first[b] + offsets[i]) * row_step + n0)
                o = np.uint64(at + b * out_batch + i * out_row + 3 * n0)
                t = np.uint64(lines[b] + line_steps[i])
                c, f = table[t, 0], table[t, 1]
                if known > 1:
                    for j in range(count):
                        x, m, q = source[r + j], shift[a + j], factor[a + j]
                        v = word(scaled(x, half, m, q, divide, sent, fill), cast, to_half, to_brain)
                        out[o + THREE * j] = v if head else c
                        out[o + THREE * j + ONE] = c if head else f if tail else v
                        out[o + THREE * j + TWO] = v if tail else f
                else:
                    for j in range(count):
                        v = word(
                            scaled(source[r + j], half, m0, q0, divide, sent, fill), cast, to_half, to_brain
                        )
                        out[o + THREE * j] = v if head else c
                        out[o + THREE * j + ONE] = c if head else f if tail else v
                        out[o + THREE * j + TWO] = v if tail else f


@kernel
def tiles(
    source: Any, half: Any, origin: int, row_step: int, node_step: int, nodes: int, picks: Ints, dense: bool,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, known: int, divide: Any, sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, out_batch: int, out_row: int, out_node: int, places: Ints,
    table: Any, lines: Ints, line_steps: Ints, row_places: Ints, tile: int, ahead: int,
) -> None:  # fmt: skip
    """Scale and cast any columns, any steps, and write values of the row beside them.

    ``dense``: the columns are neighbours, node after node. ``shift``, ``factor``: by entity or once, then by node and
    column (column and node unless dense) for all nodes or those of one ``tile``: ``known`` numbers.
    """
    sent = sentinel[0]
    cast = out.dtype.type
    features = picks.size
    words = np.empty(tile * features, out.dtype)
    far, apart = np.uint64(node_step), np.uint64(out_node)
    windows, pieces = end - begin, (nodes + tile - 1) // tile
    by_node = out_batch < out_node  # neighbouring words belong to neighbouring windows: stay with these nodes
    line, whole = np.uint64(LINE // source.itemsize), np.uint64(nodes * features)
    later, next_row = begin + ahead // offsets.size, ahead % offsets.size
    for turn in range(windows * pieces):
        b = begin + (turn % windows if by_node else turn // pieces)
        n0 = (turn // windows if by_node else turn % pieces) * tile
        count = np.uint64(min(tile, nodes - n0))
        e = entity[b] * known if shift.size > known else 0
        a = n0 if known == nodes * features else 0
        for i in range(offsets.size):
            if ahead > 0 and n0 == 0 and later < end:
                p = np.uint64(origin + (first[later] + offsets[next_row]) * row_step + picks[0])
                for j in range(np.uint64(0), whole, line):
                    fetch(source, p + j)
                next_row += 1
                if next_row == offsets.size:
                    later, next_row = later + 1, 0
            r = origin + (first[b] + offsets[i]) * row_step + n0 * node_step
            for k in range(1 if dense else features):
                p = np.uint64(r + picks[k])
                x = np.uint64(k) * count
                y = np.uint64(e + a * features if dense else e + k * (known // features) + a)
                if dense or node_step == 1:
                    for j in range(count * np.uint64(features) if dense else count):
                        v = scaled(source[p + j], half, shift[y + j], factor[y + j], divide, sent, fill)
                        words[x + j] = word(v, cast, to_half, to_brain)
                else:
                    for j in range(count):
                        v = scaled(source[p + j * far], half, shift[y + j], factor[y + j], divide, sent, fill)
                        words[x + j] = word(v, cast, to_half, to_brain)
            o = b * out_batch + i * out_row + n0 * out_node
            next_node = np.uint64(features if dense else 1)
            for k in range(features):
                p = np.uint64(o + places[k])
                x = np.uint64(k) if dense else np.uint64(k) * count
                for j in range(count):
                    out[p + j * apart] = words[x + j * next_node]
            for k in range(row_places.size):
                p, c = np.uint64(o + row_places[k]), table[np.uint64(lines[b] + line_steps[i]), k]
                for j in range(count):
                    out[p + j * apart] = c
