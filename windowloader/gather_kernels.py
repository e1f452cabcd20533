"""The loops that copy, scale and cast rows into batches.

In: a flat source and steps through it, counted in elements; where each window's first row lies; a flat output with
the steps of its layout. Out: batch positions ``[begin, end)`` of the output, written. Never allocates more than a
tile, never holds the GIL, never contracts ``(x - shift) * factor`` into a fused operation.

Three shapes of loops, from the most to the least special:

``beside``   runs of the source go to runs of the output, alone or with one or two values of the row beside each
``copy``     the same bits, any steps
``columns``  anything else, tile by tile through a small float64 scratch: load, scale, store

and two that read no values: ``observed`` writes masks, ``spread`` what is the same for all nodes of a row.
Inner loops run over slices, whose indices numba knows to be inside: only so does it vectorise them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .half_kernels import decode_float16, encode
from .jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["TILE", "beside", "columns", "copy", "observed", "spread"]

TILE = 1024  # nodes at a time: their scratch, shifts and factors stay in the first-level cache over all rows


@kernel
def _scaled(raw: Any, shift: float, factor: float, sentinel: Any, fill: float | None) -> float:
    value = (np.float64(raw) - shift) * factor
    if fill is None:
        return value
    return fill if (raw != raw) | (raw == sentinel) else value  # noqa: PLR0124 - NaN


@kernel
def _alone(s: Any, d: Any, shift: Floats, factor: Floats, sentinel: Any, fill: float | None) -> None:
    if shift.size == 1:
        m, q = shift[0], factor[0]
        for j in range(s.size):
            d[j] = _scaled(s[j], m, q, sentinel, fill)
    else:
        for j in range(s.size):
            d[j] = _scaled(s[j], shift[j], factor[j], sentinel, fill)


@kernel
def _with_one(
    s: Any, d: Any, c: Any, place: int, shift: Floats, factor: Floats, sentinel: Any, fill: float | None
) -> None:
    first = place == 0
    cast = d.dtype.type
    if shift.size == 1:
        m, q = shift[0], factor[0]
        for j in range(s.size):
            v = cast(_scaled(s[j], m, q, sentinel, fill))
            d[2 * j] = v if first else c
            d[2 * j + 1] = c if first else v
    else:
        for j in range(s.size):
            v = cast(_scaled(s[j], shift[j], factor[j], sentinel, fill))
            d[2 * j] = v if first else c
            d[2 * j + 1] = c if first else v


@kernel
def _with_two(
    s: Any,
    d: Any,
    c: Any,
    e: Any,
    place: int,
    shift: Floats,
    factor: Floats,
    sentinel: Any,
    fill: float | None,
) -> None:
    first, last = place == 0, place == 2
    cast = d.dtype.type
    if shift.size == 1:
        m, q = shift[0], factor[0]
        for j in range(s.size):
            v = cast(_scaled(s[j], m, q, sentinel, fill))
            d[3 * j] = v if first else c
            d[3 * j + 1] = c if first else e if last else v
            d[3 * j + 2] = v if last else e
    else:
        for j in range(s.size):
            v = cast(_scaled(s[j], shift[j], factor[j], sentinel, fill))
            d[3 * j] = v if first else c
            d[3 * j + 1] = c if first else e if last else v
            d[3 * j + 2] = v if last else e


@kernel
def beside(
    source: Any, origin: int, row_step: int, width: int, first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, sentinel: Any, fill: float | None,
    out: Any, at: int, out_batch: int, out_row: int, table: Any, place: int,
) -> None:  # fmt: skip
    """Scale runs of ``width`` elements, each followed or preceded by the row's values from ``table``.

    ``table`` has shape (end - begin, rows, 0 | 1 | 2), of the output's dtype; element j of a run goes to
    ``at + j * (1 + values) + place``. ``shift`` and ``factor`` have shape (1 | entities, 1 | width).
    """
    group = 1 + table.shape[2]
    sent = sentinel[0]
    for b in range(begin, end):
        e = entity[b] if shift.shape[0] > 1 else 0
        for n0 in range(0, width, TILE if shift.shape[1] > 1 else width):
            n1 = min(n0 + TILE, width) if shift.shape[1] > 1 else width
            m = shift[e, n0:n1] if shift.shape[1] > 1 else shift[e]
            q = factor[e, n0:n1] if shift.shape[1] > 1 else factor[e]
            for i in range(offsets.size):
                r = origin + (first[b] + offsets[i]) * row_step
                o = at + b * out_batch + i * out_row
                s = source[r + n0 : r + n1]
                d = out[o + group * n0 : o + group * n1]
                if group == 1:
                    _alone(s, d, m, q, sent, fill)
                elif group == 2:
                    _with_one(s, d, table[b - begin, i, 0], place, m, q, sent, fill)
                else:
                    _with_two(s, d, table[b - begin, i, 0], table[b - begin, i, 1], place, m, q, sent, fill)


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
def _load(
    source: Any, half: Any, at: int, step: int, sentinel: Any, fill: Any, x: Floats, bad: NDArray[np.bool_]
) -> None:
    """Raw values as float64, and, where missing cells are filled, which are missing."""
    if half is None:
        if step == 1:
            s = source[at : at + x.size]
            for j in range(x.size):
                x[j] = np.float64(s[j])
        else:
            for j in range(x.size):
                x[j] = np.float64(source[at + j * step])
    else:
        for j in range(x.size):
            x[j] = decode_float16(source[at + j * step])
    if fill is not None:
        for j in range(x.size):
            # a wide integer is compared as it is: float64 would take its neighbours for the sentinel too
            raw = source[at + j * step] if half is None else x[j]
            bad[j] = (x[j] != x[j]) | (raw == sentinel)


@kernel
def _scale(x: Floats, shift: Floats, factor: Floats, divide: bool) -> None:
    if shift.size == 1:
        m, q = shift[0], factor[0]
        if divide:
            for j in range(x.size):
                x[j] = (x[j] - m) / q
        else:
            for j in range(x.size):
                x[j] = (x[j] - m) * q
    elif divide:
        for j in range(x.size):
            x[j] = (x[j] - shift[j]) / factor[j]
    else:
        for j in range(x.size):
            x[j] = (x[j] - shift[j]) * factor[j]


@kernel
def _store(x: Floats, out: Any, code: Any, at: int, step: int) -> None:
    if code is not None:
        encode(x, out, at, step, code)
    elif step == 1:
        d = out[at : at + x.size]
        for j in range(x.size):
            d[j] = x[j]
    else:
        for j in range(x.size):
            out[at + j * step] = x[j]


@kernel
def columns(
    source: Any, half: Any, origin: int, row_step: int, node_step: int, nodes: int, picks: Ints,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, divide: NDArray[np.bool_], sentinel: Any, fill: float | None,
    out: Any, code: Any, out_batch: int, out_row: int, out_node: int, places: Ints,
) -> None:  # fmt: skip
    """Scale and cast any columns, any steps.

    ``shift``, ``factor``: shape (columns, 1 | entities, 1 | nodes). ``half`` is None unless the source's words are
    float16; ``code`` is None unless the output's are `FLOAT16` or `BFLOAT16`: both choose code when compiled.
    """
    scratch = np.empty(TILE, np.float64)
    missing = np.empty(TILE, np.bool_)
    sent = sentinel[0]
    wide = shift.shape[2] > 1
    for b in range(begin, end):
        e = entity[b] if shift.shape[1] > 1 else 0
        for n0 in range(0, nodes, TILE):
            n1 = min(n0 + TILE, nodes)
            x, bad = scratch[: n1 - n0], missing[: n1 - n0]
            for i in range(offsets.size):
                r = origin + (first[b] + offsets[i]) * row_step + n0 * node_step
                o = b * out_batch + i * out_row + n0 * out_node
                for k in range(picks.size):
                    _load(source, half, r + picks[k], node_step, sent, fill, x, bad)
                    m = shift[k, e, n0:n1] if wide else shift[k, e]
                    q = factor[k, e, n0:n1] if wide else factor[k, e]
                    _scale(x, m, q, divide[k])
                    if fill is not None:
                        for j in range(x.size):
                            x[j] = fill if bad[j] else x[j]
                    _store(x, out, code, o + places[k], out_node)


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
                    if half is None and node_step == 1:
                        s = source[r + picks[k] : r + picks[k] + n1 - n0]
                        if out_node == 1:
                            d = out[o + places[k] : o + places[k] + n1 - n0]
                            for j in range(s.size):
                                d[j] = (s[j] == s[j]) & (s[j] != sent)  # noqa: PLR0124
                        else:
                            for j in range(s.size):
                                out[o + places[k] + j * out_node] = (s[j] == s[j]) & (s[j] != sent)  # noqa: PLR0124
                    else:
                        for j in range(n1 - n0):
                            raw = source[r + picks[k] + j * node_step]
                            x = raw if half is None else decode_float16(raw)
                            out[o + places[k] + j * out_node] = (x == x) & (x != sent)  # noqa: PLR0124


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
