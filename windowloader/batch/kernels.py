"""Compiled loops that scale, cast, copy and mask rows into batches.

In: a flat source and strides through it, counted in elements; where each window's first row lies; a flat output with
the strides of its layout. Out: batch positions ``[begin, end)`` of the output, written. Loops never allocate more than
a tile, never hold the GIL and never contract ``(x - shift) * factor`` into a fused operation.

All loops that write batches take the same nine arguments first, then constants that are chosen once per batch size:

source, first      flat rows of a variable, and the row of each window's start
entity             of each window
begin, end         batch positions to write
out                flat output
table, lines, line_steps    values per row: window b, step i uses line ``lines[b] + line_steps[i]``

``how`` holds the arguments of `element` that select code at compile time.
Indices are unsigned: numba handles negative signed indices, which prevents vectorisation.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.jit import kernel
from windowloader.util.machine import HALVES, LINE, fetch, move, narrow, settle, stream, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = [
    "TILE", "WIDE", "copy_runs", "decode_float16", "element", "scale_runs", "spread", "stream_runs", "tiles",
    "to_bfloat16", "to_float16",
]  # fmt: skip

TILE = 1024  # nodes per tile where words pass through a scratch buffer
WIDE = 16384  # nodes per tile whose own statistics stay in the second-level cache between rows
FETCHED = 32 * 1024  # bytes of a run up to which the whole next run is prefetched during a copy
PATCH, LONGEST = 512, 1024  # elements of a run per flush of `stream_runs`, and where statistics repeat
AHEAD = 4096  # bytes that `stream_runs` prefetches ahead
LOW = np.int64((1 << 29) - 1)  # low bits of a float64's mantissa that a float32 cannot hold


# -- float16 and bfloat16 as bits: numba has no arithmetic for either ------------------------------------------------


@kernel
def _decode_by_arithmetic(word: int) -> float:
    bits = np.int64(word)
    exponent = (bits >> 10) & 31
    mantissa = bits & 1023
    # Float64 has bias 1023 and 42 more bits of mantissa; exponent 31 (inf, NaN) becomes 2047.
    wide = np.int64(2047) if exponent == 31 else exponent + 1008
    normal = np.int64((wide << 52) | (mantissa << 42)).view(np.float64)
    value = np.float64(mantissa) * 2.0**-24 if exponent == 0 else normal
    return -value if bits & 0x8000 else value


@kernel
def _decode_by_processor(word: int) -> float:
    return np.float64(widen(np.uint16(word)))


@kernel
def _round_by_arithmetic(value: float) -> Any:
    bits = np.float64(value).view(np.int64)
    sign = (bits >> 48) & 0x8000
    size = abs(value)
    # Adding 2^(e + 42) leaves ten bits below 2^e, so the processor rounds the sum to nearest even and its low bits are
    # the mantissa. 1009 is the smallest normal exponent of float16, below which the spacing is fixed.
    exponent = min(max((bits >> 52) & 2047, np.int64(1009)), np.int64(1039))
    magic = (exponent + 42) << 52
    mantissa = np.float64(size + np.int64(magic).view(np.float64)).view(np.int64) - magic
    word = ((exponent - 1009) << 10) + mantissa
    word = np.int64(0x7C00) if size >= 65520.0 else word
    word = np.int64(0x7E00) if value != value else word  # NaN
    return sign | word


@kernel
def _round_by_processor(value: float) -> Any:
    bits = np.float64(value).view(np.int64)
    # Two roundings equal one if the first rounds to odd: cut the bits that a float32 cannot hold, and set the last
    # remaining bit if any of them was set (the sum carries into it), so that no false tie arises.
    odd = (bits | ((bits & LOW) + LOW)) & ~LOW
    single = np.float32(np.int64(odd).view(np.float64))
    word = narrow(single)
    return np.uint16((word | 0x7E00) & 0xFE00) if single != single else word  # NaN


decode_float16 = _decode_by_processor if HALVES else _decode_by_arithmetic
"""Value of a float16 given by its 16 bits, exactly."""
to_float16 = _round_by_processor if HALVES else _round_by_arithmetic
"""Bits of the float16 nearest to a float64, rounded once, ties to even; NaN stays NaN."""


@kernel
def to_bfloat16(value: float) -> Any:
    """Bits of the bfloat16 nearest to the float32 nearest to a float64, as in torch."""
    single = np.float32(value)
    bits = np.int64(np.float32(single).view(np.int32)) & 0xFFFFFFFF
    word = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.int64(0x7FC0) if single != single else word  # NaN


# -- one element -------------------------------------------------------------------------------------------------------


@kernel
def _scaled(raw: Any, half: Any, shift: float, factor: float, divide: Any, sentinel: Any, fill: Any) -> float:
    x = raw if half is None else decode_float16(raw)
    value = (np.float64(x) - shift) * factor if divide is None else (np.float64(x) - shift) / factor
    if fill is None:
        return value
    return fill if (x != x) | (x == sentinel) else value  # NaN


@kernel
def _word(value: float, cast: Any, half: Any, brain: Any) -> Any:
    if half is not None:
        return cast(to_float16(value))
    if brain is not None:
        return cast(to_bfloat16(value))
    return cast(value)


@kernel
def _observed(raw: Any, half: Any, sentinel: Any) -> Any:
    x = raw if half is None else decode_float16(raw)
    return np.uint8((x == x) & (x != sentinel))  # NaN


@kernel
def element(
    raw: Any, shift: float, factor: float, cast: Any,
    half: Any, divide: Any, sentinel: Any, fill: Any, to_half: Any, to_brain: Any, mask: Any, copy: Any,
) -> Any:  # fmt: skip
    """Scale and cast one value, with ``mask`` say whether it was observed, or with ``copy`` return its bits.

    None for ``half`` (the source is float16), ``divide``, ``fill``, ``to_half`` and ``to_brain`` (the output is
    float16, bfloat16), ``mask`` and ``copy`` removes the code at compile time.
    """
    if copy is not None:
        return raw
    if mask is not None:
        return _observed(raw, half, sentinel)
    return _word(_scaled(raw, half, shift, factor, divide, sentinel, fill), cast, to_half, to_brain)


# -- loops -------------------------------------------------------------------------------------------------------------


def _places(others: int, place: int) -> tuple[Any, ...]:
    """Words per element, and the places of the element and of up to two values of its row."""
    return np.uint64(1 + others), np.uint64(place), np.uint64(place == 0), np.uint64(1 if place == 2 else 2)


@cache
def scale_runs(others: int, place: int, each: bool) -> Any:
    """Return the loop that scales runs of the source to runs of the output.

    Parameters
    ----------
    others : int
        Values of the row written beside each element: 0, 1 or 2.
    place : int
        Position of the element among them.
    each : bool
        Whether statistics differ along a run. ``shift`` and ``factor`` have ``known`` numbers for each entity, or
        once: 1, one for each element of a run, or a period that repeats along the run.
    """
    group, own, near, far = _places(others, place)

    @kernel
    def runs(
        source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any,
        table: Any, lines: Ints, line_steps: Ints,
        origin: int, row_step: int, width: int, offsets: Ints, shift: Floats, factor: Floats, known: int, how: Any,
        at: int, out_batch: int, out_row: int, ahead: int,
    ) -> None:  # fmt: skip
        """``ahead``: how many rows in advance to prefetch; 0 leaves it to the processor (best for long rows)."""
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
                    o = np.uint64(at + b * out_batch + i * out_row) + group * np.uint64(n0)
                    if others > 0:
                        t = np.uint64(lines[b] + line_steps[i])
                        c, f = table[t, 0], table[t, others - 1]
                    for j in range(count):
                        m, q = (shift[a + j], factor[a + j]) if each else (m0, q0)
                        out[o + group * j + own] = element(source[r + j], m, q, cast, *how)
                        if others > 0:
                            out[o + group * j + near] = c
                        if others > 1:
                            out[o + group * j + far] = f

    return runs


@cache
def stream_runs(others: int, place: int, each: bool) -> Any:
    """Return the loop that does as `scale_runs` into one contiguous stretch, with non-temporal stores.

    An ordinary store to a line outside the cache reads that line first, a third of all traffic of a large batch.
    Values are computed into a scratch buffer in the first-level cache and leave it line by line.
    """
    group, own, near, far = _places(others, place)

    @kernel
    def streams(
        source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any,
        table: Any, lines: Ints, line_steps: Ints,
        origin: int, row_step: int, width: int, offsets: Ints, shift: Floats, factor: Floats, known: int, how: Any,
        at: int, out_batch: int, out_row: int, apart: bool,
    ) -> None:  # fmt: skip
        """``apart``: each row is a stretch of its own."""
        cast = out.dtype.type
        repeats = known < width
        tile = known if repeats and known > 1 else PATCH
        full = np.uint64(LINE // out.itemsize)
        scratch = np.empty(group * LONGEST + LINE, out.dtype)
        base = np.uint64(out.ctypes.data // out.itemsize)
        goal, kept, lead = np.uint64(0), np.uint64(0), np.uint64(0)
        line, ahead = np.uint64(LINE // source.itemsize), np.uint64(AHEAD // source.itemsize)
        for b in range(begin, end):
            e = entity[b] * known if shift.size > known else 0
            m0, q0 = shift[e], factor[e]
            for i in range(offsets.size):
                if apart or (i == 0 and b == begin):
                    for j in range(kept):
                        out[goal + j] = scratch[j]
                    goal, kept = np.uint64(at + b * out_batch + i * out_row), np.uint64(0)
                    lead = (full - (base + goal) % full) % full  # words before the first whole line
                start = origin + (first[b] + offsets[i]) * row_step
                if others > 0:
                    t = np.uint64(lines[b] + line_steps[i])
                    c, f = table[t, 0], table[t, others - 1]
                for n0 in range(0, width, tile):
                    count = np.uint64(min(tile, width - n0))
                    r, a, h = np.uint64(start + n0), np.uint64(e if repeats else e + n0), kept
                    for j in range(np.uint64(0), count, line):
                        fetch(source, r + ahead + j)
                    for j in range(count):
                        m, q = (shift[a + j], factor[a + j]) if each else (m0, q0)
                        scratch[h + group * j + own] = element(source[r + j], m, q, cast, *how)
                        if others > 0:
                            scratch[h + group * j + near] = c
                        if others > 1:
                            scratch[h + group * j + far] = f
                    kept += group * count
                    skip = min(lead, kept)
                    for j in range(skip):
                        out[goal + j] = scratch[j]
                    whole = (kept - skip) // full
                    stream(out, goal + skip, scratch, skip, whole)
                    done = skip + whole * full
                    lead, goal, kept = lead - skip, goal + done, kept - done
                    for j in range(kept):
                        scratch[j] = scratch[done + j]
        for j in range(kept):
            out[goal + j] = scratch[j]
        settle()

    return streams


@kernel
def tiles(
    source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any, table: Any, lines: Ints, line_steps: Ints,
    origin: int, row_step: int, node_step: int, nodes: int, picks: Ints, dense: bool, offsets: Ints,
    shift: Floats, factor: Floats, known: int, how: Any,
    out_batch: int, out_row: int, out_node: int, places: Ints, row_places: Ints, tile: int, ahead: int,
) -> None:  # fmt: skip
    """Scale any columns to any strides, and write values of the row beside them.

    A tile of nodes is scaled into a scratch buffer, from which words go to their places. ``dense``: the columns are
    neighbours, node after node. ``shift``, ``factor``: by entity or once, then by node and column (column and node
    unless dense) for all nodes or for one ``tile``: ``known`` numbers.
    """
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
                        words[x + j] = element(source[p + j], shift[y + j], factor[y + j], cast, *how)
                else:
                    for j in range(count):
                        words[x + j] = element(source[p + j * far], shift[y + j], factor[y + j], cast, *how)
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


@kernel
def copy_runs(
    source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any, table: Any, lines: Ints, line_steps: Ints,
    origin: int, row_step: int, width: int, offsets: Ints, at: int, out_batch: int, out_row: int,
) -> None:  # fmt: skip
    """Copy runs of ``width`` elements; source and output have words of one size."""
    line = np.uint64(LINE // source.itemsize)
    asked = np.uint64(width if width * source.itemsize <= FETCHED else 0)
    for b in range(begin, end):
        if b + 1 < end:
            r = np.uint64(origin + (first[b + 1] + offsets[0]) * row_step)
            for j in range(np.uint64(0), asked, line):
                fetch(source, r + j)
        o = at + b * out_batch
        for i in range(offsets.size):
            move(out, o + i * out_row, source, origin + (first[b] + offsets[i]) * row_step, width)


@kernel
def spread(
    source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any, table: Any, lines: Ints, line_steps: Ints,
    nodes: int, by_node: bool, out_batch: int, out_row: int, out_node: int, places: Ints,
) -> None:  # fmt: skip
    """Write each row's line of ``table`` for every node or, ``by_node``, its line n for node n in every row."""
    apart = np.uint64(out_node)
    for b in range(begin, end):
        for i in range(line_steps.size):
            t = np.uint64(lines[b] + line_steps[i])
            for k in range(places.size):
                o = np.uint64(b * out_batch + i * out_row + places[k])
                if by_node:
                    for n in range(np.uint64(nodes)):
                        out[o + n * apart] = table[n, k]
                elif out_node == 1:
                    out[o : o + np.uint64(nodes)] = table[t, k]
                else:
                    value = table[t, k]
                    for n in range(np.uint64(nodes)):
                        out[o + n * apart] = value
