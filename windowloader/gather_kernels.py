"""The loops that copy, scale and cast rows into batches.

In: a flat source and steps through it, counted in elements; where each window's first row lies; a flat output with
the steps of its layout. Out: batch positions ``[begin, end)`` of the output, written. Never allocates more than a
tile, never holds the GIL, never contracts ``(x - shift) * factor`` into a fused operation.

Three shapes of loops, from the most to the least special:

``runs``     runs of the source go to runs of the output; ``pairs``, ``triples``: with values of the row beside each
``copy``     the same bits, any steps
``columns``  anything else, tile by tile through a small float64 scratch: load, scale, store

``seen`` and ``observed`` write the masks of runs and of anything; ``spread`` writes what is the same for all nodes.
Inner loops run over slices, whose indices numba knows to be inside: only so does it vectorise them. They stand in the
kernels themselves: a slice handed to another function is counted, atomically, which costs more than a short row.
Arguments that may be None (``half``: the source's words are float16; ``to_half``, ``to_brain``: the output's are
float16, bfloat16; ``divide``; ``fill``) choose code when compiled, not when run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .half_kernels import decode_float16, to_bfloat16, to_float16
from .jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["TILE", "columns", "copy", "observed", "pairs", "runs", "seen", "spread", "triples"]

TILE = 1024  # nodes at a time: their scratch, shifts and factors stay in the first-level cache over all rows


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

    ``shift`` and ``factor`` have shape (1 | entities, 1 | width).
    """
    sent = sentinel[0]
    wide = shift.shape[1] > 1
    cast = out.dtype.type
    for b in range(begin, end):
        e = entity[b] if shift.shape[0] > 1 else 0
        m0, q0 = shift[e, 0], factor[e, 0]
        for n0 in range(0, width, TILE if wide else width):
            n1 = min(n0 + TILE, width) if wide else width
            for i in range(offsets.size):
                r = origin + (first[b] + offsets[i]) * row_step
                o = at + b * out_batch + i * out_row
                s = source[r + n0 : r + n1]
                d = out[o + n0 : o + n1]
                if wide:
                    m, q = shift[e, n0:n1], factor[e, n0:n1]
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
        for n0 in range(0, width, TILE if wide else width):
            n1 = min(n0 + TILE, width) if wide else width
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
        for n0 in range(0, width, TILE if wide else width):
            n1 = min(n0 + TILE, width) if wide else width
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


@kernel
def copy(
    source: Any, origin: int, row_step: int, node_step: int, nodes: int, picks: Ints,
    first: Ints, offsets: Ints, begin: int, end: int,
    out: Any, out_batch: int, out_row: int, out_node: int, places: Ints,
) -> None:  # fmt: skip
    """Copy bits: column ``picks[k]`` of the source to ``places[k]`` of the output, both as offsets in elements."""
    for b in range(begin, end):
        for n0 in range(0, nodes, nodes if out_node == 1 and node_step == 1 else TILE):
            n1 = nodes if out_node == 1 and node_step == 1 else min(n0 + TILE, nodes)
            for i in range(offsets.size):
                for k in range(picks.size):
                    r = origin + (first[b] + offsets[i]) * row_step + picks[k]
                    o = b * out_batch + i * out_row + places[k]
                    if out_node == 1 and node_step == 1:
                        out[o + n0 : o + n1] = source[r + n0 : r + n1]
                    else:
                        for n in range(n0, n1):
                            out[o + n * out_node] = source[r + n * node_step]


@kernel
def _load(source: Any, half: Any, at: int, step: int, count: int, scratch: Floats) -> None:
    if half is None:
        x = scratch[:count]
        if step == 1:
            s = source[at : at + count]
            for j in range(count):
                x[j] = np.float64(s[j])
        else:
            for j in range(count):
                x[j] = np.float64(source[at + j * step])
    else:
        for j in range(count):
            scratch[j] = decode_float16(source[at + j * step])


@kernel
def _scale(
    scratch: Floats, count: int, shift: Floats, factor: Floats, k: int, e: int, n0: int, divide: bool
) -> None:
    x = scratch[:count]
    if shift.shape[2] == 1:
        m0, q0 = shift[k, e, 0], factor[k, e, 0]
        if divide:
            for j in range(count):
                x[j] = (x[j] - m0) / q0
        else:
            for j in range(count):
                x[j] = (x[j] - m0) * q0
    else:
        m, q = shift[k, e, n0 : n0 + count], factor[k, e, n0 : n0 + count]
        if divide:
            for j in range(count):
                x[j] = (x[j] - m[j]) / q[j]
        else:
            for j in range(count):
                x[j] = (x[j] - m[j]) * q[j]


@kernel
def _fill(
    source: Any, half: Any, at: int, step: int, count: int, sentinel: Any, fill: float, scratch: Floats
) -> None:
    """Put ``fill`` where the raw value is missing: compared as it is, since float64 rounds wide integers."""
    for j in range(count):
        raw = source[at + j * step] if half is None else decode_float16(source[at + j * step])
        scratch[j] = fill if (raw != raw) | (raw == sentinel) else scratch[j]  # NaN


@kernel
def _store(scratch: Floats, count: int, out: Any, half: Any, brain: Any, at: int, step: int) -> None:
    cast = out.dtype.type
    if step == 1:
        x, d = scratch[:count], out[at : at + count]
        for j in range(count):
            d[j] = _word(x[j], cast, half, brain)
    else:
        for j in range(count):
            out[at + j * step] = _word(scratch[j], cast, half, brain)


@kernel
def columns(
    source: Any, half: Any, origin: int, row_step: int, node_step: int, nodes: int, picks: Ints,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, divide: NDArray[np.bool_], sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, out_batch: int, out_row: int, out_node: int, places: Ints,
) -> None:  # fmt: skip
    """Scale and cast any columns, any steps.

    ``shift``, ``factor``: shape (columns, 1 | entities, 1 | nodes).
    """
    scratch = np.empty(TILE, np.float64)
    sent = sentinel[0]
    for b in range(begin, end):
        e = entity[b] if shift.shape[1] > 1 else 0
        for n0 in range(0, nodes, TILE):
            count = min(TILE, nodes - n0)
            for i in range(offsets.size):
                r = origin + (first[b] + offsets[i]) * row_step + n0 * node_step
                o = b * out_batch + i * out_row + n0 * out_node
                for k in range(picks.size):
                    _load(source, half, r + picks[k], node_step, count, scratch)
                    _scale(scratch, count, shift, factor, k, e, n0, divide[k])
                    if fill is not None:
                        _fill(source, half, r + picks[k], node_step, count, sent, fill, scratch)
                    _store(scratch, count, out, to_half, to_brain, o + places[k], out_node)


@kernel
def observed(
    source: Any, half: Any, origin: int, row_step: int, node_step: int, nodes: int, picks: Ints,
    first: Ints, offsets: Ints, begin: int, end: int, sentinel: Any,
    out: NDArray[np.uint8], out_batch: int, out_row: int, out_node: int, places: Ints,
) -> None:  # fmt: skip
    """Write 1 where the raw value is there, 0 where it is the sentinel or NaN."""
    sent = sentinel[0]
    for b in range(begin, end):
        for n0 in range(0, nodes, TILE):
            n1 = min(n0 + TILE, nodes)
            for i in range(offsets.size):
                r = origin + (first[b] + offsets[i]) * row_step + n0 * node_step
                o = b * out_batch + i * out_row + n0 * out_node
                for k in range(picks.size):
                    for j in range(n1 - n0):
                        raw = source[r + picks[k] + j * node_step]
                        out[o + places[k] + j * out_node] = _there(raw, half, sent)


@kernel
def spread(
    table: Any, begin: int, end: int, rows: int, nodes: int,
    out: Any, out_batch: int, out_row: int, out_node: int, places: Ints,
) -> None:  # fmt: skip
    """Write ``table``, shape (end - begin | 1, rows | 1, nodes | 1, columns), for every window, row and node."""
    windows, steps, wide = table.shape[0] > 1, table.shape[1] > 1, table.shape[2] > 1
    for b in range(begin, end):
        for i in range(rows):
            t = table[b - begin if windows else 0, i if steps else 0]
            for k in range(places.size):
                o = b * out_batch + i * out_row + places[k]
                if wide:
                    for n in range(nodes):
                        out[o + n * out_node] = t[n, k]
                elif out_node == 1:
                    out[o : o + nodes] = t[0, k]
                else:
                    value = t[0, k]
                    for n in range(nodes):
                        out[o + n * out_node] = value
