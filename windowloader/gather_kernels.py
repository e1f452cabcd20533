"""The loops that copy, scale and cast rows into batches.

In: a flat source and steps through it, counted in elements; where each window's first row lies; a flat output with
the steps of its layout. Out: batch positions ``[begin, end)`` of the output, written. Never allocates more than a
tile, never holds the GIL, never contracts ``(x - shift) * factor`` into a fused operation.

Three shapes of loops, from the most to the least special:

``runs``     runs of the source go to runs of the output; ``pairs``, ``triples``: with values of the row beside each
``blocks``   the same bits, by runs; ``copy``: the same bits, any steps
``tiles``    anything else: a tile of nodes is scaled into a small scratch, and its words go where they belong

``seen`` and ``observed`` write the masks of runs and of anything; ``spread`` writes what is the same for all nodes.
Inner loops run over slices, whose indices numba knows to be inside: only so does it vectorise them. They stand in the
kernels themselves: a slice handed to another function is counted, atomically, which costs more than a short row.
Arguments that may be None (``half``: the source's words are float16; ``to_half``, ``to_brain``: the output's are
float16, bfloat16; ``divide``; ``fill``) choose code when compiled, not when run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from .half_kernels import decode_float16, to_bfloat16, to_float16
from .jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["TILE", "blocks", "copy", "observed", "pairs", "runs", "seen", "spread", "tiles", "triples"]

TILE = 1024  # nodes at a time where their words wait in a scratch, or words are copied one by one
WIDE = 16384  # nodes at a time whose own statistics stay in the second-level cache from row to row


@kernel
def _scaled(raw: Any, half: Any, shift: float, factor: float, divide: Any, sentinel: Any, fill: Any) -> float:
    """One value; ``half``, ``divide`` and ``fill`` are None where they do not apply, and then cost nothing."""
    x = raw if half is None else decode_float16(raw)
    value = (np.float64(x) - shift) * factor if divide is None else (np.float64(x) - shift) / factor
    if fill is None:
        return value
    return fill if (x != x) | (x == sentinel) else value  # NaN


@kernel
def _word(value: float, cast: Any, half: Any, brain: Any) -> Any:
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
    shift: Floats, factor: Floats, divide: Any, sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, at: int, out_batch: int, out_row: int, table: Any, place: int,
) -> None:  # fmt: skip
    """Scale runs of ``width`` elements; ``table`` and ``place`` go unused.

    ``shift`` and ``factor`` have shape (1 | entities, 1 | period | width); a period is repeated along the run.
    """
    sent = sentinel[0]
    wide = shift.shape[1] > 1
    repeats = shift.shape[1] < width
    tile = width if not wide else shift.shape[1] if repeats else WIDE
    cast = out.dtype.type
    for b in range(begin, end):
        e = entity[b] if shift.shape[0] > 1 else 0
        m0, q0 = shift[e, 0], factor[e, 0]
        for n0 in range(0, width, tile):
            n1 = min(n0 + tile, width)
            a = 0 if repeats else n0
            for i in range(offsets.size):
                r = origin + (first[b] + offsets[i]) * row_step
                o = at + b * out_batch + i * out_row
                s = source[r + n0 : r + n1]
                d = out[o + n0 : o + n1]
                if wide:
                    m, q = shift[e, a : a + s.size], factor[e, a : a + s.size]
                    for j in range(s.size):
                        d[j] = _word(
                            _scaled(s[j], half, m[j], q[j], divide, sent, fill), cast, to_half, to_brain
                        )
                else:
                    for j in range(s.size):
                        d[j] = _word(_scaled(s[j], half, m0, q0, divide, sent, fill), cast, to_half, to_brain)


@kernel
def pairs(
    source: Any, half: Any, origin: int, row_step: int, width: int,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, divide: Any, sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, at: int, out_batch: int, out_row: int, table: Any, place: int,
) -> None:  # fmt: skip
    """Scale runs, and write one value of the row beside each element.

    ``table`` has shape (end - begin, rows, 1), of the output's dtype; a run's elements go to ``place``, 0 or 1.
    """
    sent = sentinel[0]
    head = place == 0
    cast = out.dtype.type
    wide = shift.shape[1] > 1
    for b in range(begin, end):
        e = entity[b] if shift.shape[0] > 1 else 0
        m0, q0 = shift[e, 0], factor[e, 0]
        for n0 in range(0, width, WIDE if wide else width):
            n1 = min(n0 + WIDE, width) if wide else width
            for i in range(offsets.size):
                r = origin + (first[b] + offsets[i]) * row_step
                o = at + b * out_batch + i * out_row
                s = source[r + n0 : r + n1]
                d = out[o + 2 * n0 : o + 2 * n1]
                c = table[b - begin, i, 0]
                if wide:
                    m, q = shift[e, n0:n1], factor[e, n0:n1]
                    for j in range(s.size):
                        v = _word(
                            _scaled(s[j], half, m[j], q[j], divide, sent, fill), cast, to_half, to_brain
                        )
                        d[2 * j] = v if head else c
                        d[2 * j + 1] = c if head else v
                else:
                    for j in range(s.size):
                        v = _word(_scaled(s[j], half, m0, q0, divide, sent, fill), cast, to_half, to_brain)
                        d[2 * j] = v if head else c
                        d[2 * j + 1] = c if head else v


@kernel
def triples(
    source: Any, half: Any, origin: int, row_step: int, width: int,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, divide: Any, sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, at: int, out_batch: int, out_row: int, table: Any, place: int,
) -> None:  # fmt: skip
    """Scale runs, and write two values of the row beside each element: see `pairs`."""
    sent = sentinel[0]
    head, tail = place == 0, place == 2
    cast = out.dtype.type
    wide = shift.shape[1] > 1
    for b in range(begin, end):
        e = entity[b] if shift.shape[0] > 1 else 0
        m0, q0 = shift[e, 0], factor[e, 0]
        for n0 in range(0, width, WIDE if wide else width):
            n1 = min(n0 + WIDE, width) if wide else width
            for i in range(offsets.size):
                r = origin + (first[b] + offsets[i]) * row_step
                o = at + b * out_batch + i * out_row
                s = source[r + n0 : r + n1]
                d = out[o + 3 * n0 : o + 3 * n1]
                c, f = table[b - begin, i, 0], table[b - begin, i, 1]
                if wide:
                    m, q = shift[e, n0:n1], factor[e, n0:n1]
                    for j in range(s.size):
                        v = _word(
                            _scaled(s[j], half, m[j], q[j], divide, sent, fill), cast, to_half, to_brain
                        )
                        d[3 * j] = v if head else c
                        d[3 * j + 1] = c if head else f if tail else v
                        d[3 * j + 2] = v if tail else f
                else:
                    for j in range(s.size):
                        v = _word(_scaled(s[j], half, m0, q0, divide, sent, fill), cast, to_half, to_brain)
                        d[3 * j] = v if head else c
                        d[3 * j + 1] = c if head else f if tail else v
                        d[3 * j + 2] = v if tail else f


@kernel
def _there(raw: Any, half: Any, sentinel: Any) -> Any:
    x = raw if half is None else decode_float16(raw)
    return (x == x) & (x != sentinel)  # NaN


@kernel
def seen(
    source: Any, half: Any, origin: int, row_step: int, width: int,
    first: Ints, offsets: Ints, begin: int, end: int, sentinel: Any,
    out: NDArray[np.uint8], at: int, out_batch: int, out_row: int, group: int, place: int,
) -> None:  # fmt: skip
    """Masks of runs: 1 where the raw value is there, and for each of the ``group - 1`` values of the row beside."""
    sent = sentinel[0]
    one = np.uint8(1)
    head, tail = place == 0, place == 2
    for b in range(begin, end):
        for i in range(offsets.size):
            r = origin + (first[b] + offsets[i]) * row_step
            o = at + b * out_batch + i * out_row
            s = source[r : r + width]
            d = out[o : o + group * width]
            if group == 1:
                for j in range(s.size):
                    d[j] = _there(s[j], half, sent)
            elif group == 2:
                for j in range(s.size):
                    v = np.uint8(_there(s[j], half, sent))
                    d[2 * j] = v if head else one
                    d[2 * j + 1] = one if head else v
            else:
                for j in range(s.size):
                    v = np.uint8(_there(s[j], half, sent))
                    d[3 * j] = v if head else one
                    d[3 * j + 1] = one if head or tail else v
                    d[3 * j + 2] = v if tail else one


@intrinsic
def _move(_: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """``target[to : to + count] = source[at : at + count]`` by the C library, which knows the processor's best way."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointers = [
            builder.gep(
                context.make_array(signature.args[k])(context, builder, values[k]).data, [values[k + 1]]
            )
            for k in (0, 2)
        ]
        size = context.get_abi_sizeof(pointers[0].type.pointee)
        cgutils.raw_memcpy(builder, pointers[0], pointers[1], values[4], size)
        return context.get_dummy_value()

    return types.void(target, to, source, at, count), generate


@kernel
def blocks(
    source: Any, origin: int, row_step: int, width: int,
    first: Ints, offsets: Ints, begin: int, end: int, out: Any, at: int, out_batch: int, out_row: int,
) -> None:  # fmt: skip
    """Copy runs of ``width`` elements; source and output have words of one size."""
    for b in range(begin, end):
        for i in range(offsets.size):
            _move(
                out,
                at + b * out_batch + i * out_row,
                source,
                origin + (first[b] + offsets[i]) * row_step,
                width,
            )


@kernel
def copy(
    source: Any, origin: int, row_step: int, node_step: int, nodes: int, picks: Ints,
    first: Ints, offsets: Ints, begin: int, end: int,
    out: Any, out_batch: int, out_row: int, out_node: int, places: Ints,
) -> None:  # fmt: skip
    """Copy bits: column ``picks[k]`` of the source to ``places[k]`` of the output, both as offsets in elements."""
    far, apart = (
        np.uint64(node_step),
        np.uint64(out_node),
    )  # unsigned indices are not checked for being negative
    for b in range(begin, end):
        for n0 in range(0, nodes, TILE):
            count = min(TILE, nodes - n0)
            for i in range(offsets.size):
                for k in range(picks.size):
                    r = np.uint64(origin + (first[b] + offsets[i]) * row_step + n0 * node_step + picks[k])
                    o = np.uint64(b * out_batch + i * out_row + n0 * out_node + places[k])
                    for j in range(np.uint64(count)):
                        out[o + j * apart] = source[r + j * far]


@kernel
def tiles(
    source: Any, half: Any, origin: int, row_step: int, node_step: int, nodes: int, picks: Ints, dense: bool,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, divide: Any, sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, out_batch: int, out_row: int, out_node: int, places: Ints,
    table: Any, row_places: Ints, tile: int,
) -> None:  # fmt: skip
    """Scale and cast any columns, any steps, and write values of the row beside them.

    ``dense``: the columns are neighbours, node after node. ``shift``, ``factor``: shape (1 | entities, node, column),
    or (1 | entities, column, node) unless dense, flat from the second axis; nodes are all, or those of one ``tile``.
    """
    sent = sentinel[0]
    cast = out.dtype.type
    features = picks.size
    words = np.empty(tile * features, out.dtype)
    known = shift.shape[1] // features  # nodes that have statistics of their own
    far, apart = (
        np.uint64(node_step),
        np.uint64(out_node),
    )  # unsigned indices are not checked for being negative
    windows, pieces = end - begin, (nodes + tile - 1) // tile
    by_node = out_batch < out_node  # neighbouring words belong to neighbouring windows: stay with these nodes
    for turn in range(windows * pieces):
        b = begin + (turn % windows if by_node else turn // pieces)
        n0 = (turn // windows if by_node else turn % pieces) * tile
        count = min(tile, nodes - n0)
        e = entity[b] if shift.shape[0] > 1 else 0
        a = n0 if known == nodes else 0
        for i in range(offsets.size):
            r = origin + (first[b] + offsets[i]) * row_step + n0 * node_step
            if dense:
                s = source[r + picks[0] : r + picks[0] + count * features]
                x = words[: s.size]
                m, q = shift[e, a * features :][: s.size], factor[e, a * features :][: s.size]
                for j in range(s.size):
                    x[j] = _word(_scaled(s[j], half, m[j], q[j], divide, sent, fill), cast, to_half, to_brain)
            else:
                for k in range(features):
                    p = np.uint64(r + picks[k])
                    x = words[k * count : (k + 1) * count]
                    m, q = shift[e, k * known + a :][:count], factor[e, k * known + a :][:count]
                    for j in range(x.size):
                        raw = source[p + np.uint64(j) * far]
                        x[j] = _word(
                            _scaled(raw, half, m[j], q[j], divide, sent, fill), cast, to_half, to_brain
                        )
            o = b * out_batch + i * out_row + n0 * out_node
            for k in range(features):
                p = np.uint64(o + places[k])
                y = words[k:] if dense else words[k * count :]
                next_node = np.uint64(features if dense else 1)
                for j in range(np.uint64(count)):
                    out[p + j * apart] = y[j * next_node]
            for k in range(row_places.size):
                p, c = np.uint64(o + row_places[k]), table[b - begin, i, k]
                for j in range(np.uint64(count)):
                    out[p + j * apart] = c


@kernel
def observed(
    source: Any, half: Any, origin: int, row_step: int, node_step: int, nodes: int, picks: Ints,
    first: Ints, offsets: Ints, begin: int, end: int, sentinel: Any,
    out: NDArray[np.uint8], out_batch: int, out_row: int, out_node: int, places: Ints,
) -> None:  # fmt: skip
    """Write 1 where the raw value is there, 0 where it is the sentinel or NaN."""
    sent = sentinel[0]
    far, apart = np.uint64(node_step), np.uint64(out_node)
    for b in range(begin, end):
        for n0 in range(0, nodes, TILE):
            count = min(TILE, nodes - n0)
            for i in range(offsets.size):
                for k in range(picks.size):
                    r = np.uint64(origin + (first[b] + offsets[i]) * row_step + n0 * node_step + picks[k])
                    o = np.uint64(b * out_batch + i * out_row + n0 * out_node + places[k])
                    for j in range(np.uint64(count)):
                        out[o + j * apart] = _there(source[r + j * far], half, sent)


@kernel
def spread(
    table: Any, begin: int, end: int, rows: int, nodes: int,
    out: Any, out_batch: int, out_row: int, out_node: int, places: Ints,
) -> None:  # fmt: skip
    """Write ``table``, shape (end - begin | 1, rows | 1, nodes | 1, columns), for every window, row and node."""
    windows, steps, wide = table.shape[0] > 1, table.shape[1] > 1, table.shape[2] > 1
    apart = np.uint64(out_node)
    for b in range(begin, end):
        for i in range(rows):
            t = table[b - begin if windows else 0, i if steps else 0]
            for k in range(places.size):
                o = b * out_batch + i * out_row + places[k]
                if wide:
                    for n in range(nodes):
                        out[np.uint64(o) + np.uint64(n) * apart] = t[n, k]
                elif out_node == 1:
                    out[o : o + nodes] = t[0, k]
                else:
                    value = t[0, k]
                    for n in range(np.uint64(nodes)):
                        out[np.uint64(o) + n * apart] = value
