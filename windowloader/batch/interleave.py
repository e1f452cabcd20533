"""Compiled loops for outputs in which several words of a node touch: those of one row, or those of all rows.

In and out: as in ``kernels``. Values are computed in a scratch buffer in the first-level cache, in the order of the
source, and written to their places by shuffles of whole registers, where a plain loop would move words one by one.
`interleaving` makes loops for outputs where a node's words of one row touch, `transposing` for those where its rows do.
Shuffles read and write sixteen words at a time, whatever is used of them, and check no position.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from windowloader.util.jit import kernel
from windowloader.util.machine import LINE, claim, fetch

from .kernels import WIDE, element

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["LANES", "MOST", "ROW_VALUE", "interleaving", "pattern_of", "transposing"]

LANES = 16  # words at a time: one register, or a few
MOST = 8  # words per node, on either side
ROW_VALUE = 15  # in a pattern: the word is a value of the row
_DIGIT = 4  # bits


def pattern_of(columns: int, words: Sequence[int]) -> int:
    """Encode what `interleave` does to the ``columns`` values of each node.

    Parameters
    ----------
    columns : int
        Values per node, at most `MOST`.
    words : sequence of int
        For each word of the node, which value, or `ROW_VALUE`; at most `MOST`.

    Returns
    -------
    int

    Examples
    --------
    >>> hex(pattern_of(2, [1, 0, ROW_VALUE]))
    '0xf0132'
    """
    digits = [columns, len(words), *words]
    return sum(digit << (_DIGIT * place) for place, digit in enumerate(digits))


# -- shuffles ----------------------------------------------------------------------------------------------------------


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any, lanes: int) -> tuple[Any, int]:
    """Address of ``array[at]`` as that of ``lanes`` words, and the bytes of a word."""
    data = context.make_array(kind)(context, builder, array).data
    words = ir.VectorType(data.type.pointee, lanes)
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    return builder.bitcast(builder.gep(data, [at]), words.as_pointer()), size


def _load(context: Any, builder: Any, kind: Any, array: Any, at: Any, count: int, apart: Any) -> list[Any]:
    """Load ``count`` registers, ``apart`` words from each other."""
    found = []
    for _number in range(count):
        pointer, size = _pointer(context, builder, kind, array, at, LANES)
        found.append(builder.load(pointer, align=size))
        at = builder.add(at, apart)
    return found


def _store(
    context: Any, builder: Any, kind: Any, array: Any, at: Any, registers: Iterable[Any], apart: Any
) -> None:
    """Store registers, ``apart`` words from each other, each once it is made: few have to be kept."""
    for register in registers:
        pointer, size = _pointer(context, builder, kind, array, at, register.type.count)
        builder.store(register, pointer, align=size)
        at = builder.add(at, apart)


def _shuffled(builder: Any, low: Any, high: Any, lanes: Sequence[int]) -> Any:
    """Lanes of two registers, counted through both."""
    word = ir.IntType(32)
    mask = ir.Constant(ir.VectorType(word, len(lanes)), [ir.Constant(word, lane) for lane in lanes])
    return builder.shuffle_vector(low, high, mask)


def _gathered(builder: Any, registers: Sequence[Any], wanted: Sequence[tuple[int, int]]) -> Any:
    """Lanes of any registers, each wanted as (register, lane), by as few shuffles of two as possible."""
    first, *others = dict.fromkeys(register for register, _ in wanted)
    lanes = [lane if register == first else 0 for register, lane in wanted]
    found, low = registers[first], registers[first]
    if not others:
        return _shuffled(builder, found, found, lanes)
    for other in others:
        lanes = [
            LANES + lane if register == other else kept
            for (register, lane), kept in zip(wanted, lanes, strict=True)
        ]
        found = _shuffled(builder, low, registers[other], lanes)
        low, lanes = found, list(range(LANES))  # what is there stays in place
    return found


def _interleave(_: Any, out: Any, to: Any, values: Any, at: Any, beside: Any, pattern: Any) -> Any:
    """Write the words of sixteen nodes from ``out[to]`` on: values from ``values[at]`` on, and those of the row.

    ``beside[k]`` is every node's word k where the pattern says so.
    """
    if not isinstance(pattern, types.IntegerLiteral):
        return None  # only as a compile-time constant
    columns, count, *words = ((pattern.literal_value >> (_DIGIT * place)) & 15 for place in range(2 + MOST))

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        lanes = context.get_constant(types.uint64, LANES)
        own = _load(context, builder, kinds[2], given[2], given[3], columns, lanes)
        own += _load(context, builder, kinds[4], given[4], context.get_constant(types.intp, 0), 1, lanes)

        def registers() -> Iterator[Any]:
            for first in range(0, LANES * count, LANES):
                wanted = []  # register and lane of each word
                for node, word in (divmod(number, count) for number in range(first, first + LANES)):
                    row_value = words[word] == ROW_VALUE
                    wanted.append(
                        (columns, word) if row_value else divmod(node * columns + words[word], LANES)
                    )
                yield _gathered(builder, own, wanted)

        _store(context, builder, kinds[0], given[0], given[1], registers(), lanes)
        return context.get_dummy_value()

    return types.void(out, to, values, at, beside, pattern), generate


def _split(_: Any, out: Any, to: Any, apart: Any, values: Any, at: Any, columns: Any) -> Any:
    """Write each column of sixteen nodes, from ``values[at]`` on, to a row of its own, ``apart`` from the next."""
    if not isinstance(columns, types.IntegerLiteral):
        return None
    width = columns.literal_value

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        lanes = context.get_constant(types.uint64, LANES)
        own = _load(context, builder, kinds[3], given[3], given[4], width, lanes)
        found = (
            _gathered(builder, own, [divmod(node * width + column, LANES) for node in range(LANES)])
            for column in range(width)
        )
        _store(context, builder, kinds[0], given[0], given[1], found, given[2])
        return context.get_dummy_value()

    return types.void(out, to, apart, values, at, columns), generate


def _transpose(_: Any, out: Any, to: Any, apart: Any, values: Any, at: Any, row: Any) -> Any:
    """Transpose four rows of sixteen words, ``row`` apart, into sixteen of four, ``apart`` from each other."""
    four = range(4)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        rows = _load(context, builder, kinds[3], given[3], given[4], 4, given[5])
        low = [4 * quad + lane for quad in four for lane in (0, LANES, 1, LANES + 1)]
        high = [lane + 2 for lane in low]
        firsts = [_shuffled(builder, rows[0], rows[1], lanes) for lanes in (low, high)]
        seconds = [_shuffled(builder, rows[2], rows[3], lanes) for lanes in (low, high)]
        near = [4 * quad + lane for quad in four for lane in (0, 1, LANES, LANES + 1)]
        far = [lane + 2 for lane in near]
        nodes = [
            _shuffled(builder, firsts[half], seconds[half], lanes) for half in (0, 1) for lanes in (near, far)
        ]
        quads = [[4 * quad + lane for lane in four] for quad in four]
        found = (
            _shuffled(builder, nodes[node % 4], nodes[node % 4], quads[node // 4]) for node in range(LANES)
        )
        _store(context, builder, kinds[0], given[0], given[1], found, given[2])
        return context.get_dummy_value()

    return types.void(out, to, apart, values, at, row), generate


interleave: Any = intrinsic(prefer_literal=True)(_interleave)
split: Any = intrinsic(prefer_literal=True)(_split)
transpose: Any = intrinsic(_transpose)


# -- loops -------------------------------------------------------------------------------------------------------------


@cache
def interleaving(pattern: int, choice: int) -> Any:
    """Return the loop that writes, node by node, the words that a `pattern_of` says.

    ``choice``: the pattern of the columns that are wanted, where those are not all; 0 where they are.
    """

    @kernel
    def interleaved(
        source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any,
        table: Any, lines: Ints, line_steps: Ints,
        origin: int, row_step: int, columns: int, nodes: int, picks: Ints, offsets: Ints,
        shift: Floats, factor: Floats, known: int, how: Any,
        out_batch: int, out_row: int, words: Ints, tile: int, ahead: int,
    ) -> None:  # fmt: skip
        """Scale the ``picks`` of each node's ``columns``; its word k is that of pick ``words[k]``, or −1 − the row's.

        ``shift``, ``factor``: by entity or once, then by node and pick, for all nodes or for one ``tile``: ``known``
        numbers.
        """
        cast = out.dtype.type
        far, given, group, lanes = (
            np.uint64(columns), np.uint64(picks.size), np.uint64(words.size), np.uint64(LANES)
        )  # fmt: skip
        values = np.empty(tile * picks.size, out.dtype)
        raw = np.empty(tile * picks.size if choice else 0, source.dtype)
        # nodes whose own statistics stay in the cache between rows
        wide = tile * max(1, WIDE // (tile * picks.size))
        beside = np.zeros(LANES, out.dtype)
        line, whole = np.uint64(LINE // source.itemsize), np.uint64(nodes * columns)
        later, next_row = begin + ahead // offsets.size, ahead % offsets.size
        for b in range(begin, end):
            e = entity[b] * known if shift.size > known else 0
            for w0 in range(0, nodes, wide):
                for i in range(offsets.size):
                    if ahead > 0 and w0 == 0 and later < end:
                        r = np.uint64(origin + (first[later] + offsets[next_row]) * row_step)
                        for j in range(np.uint64(0), whole, line):
                            fetch(source, r + j)
                        next_row += 1
                        if next_row == offsets.size:
                            later, next_row = later + 1, 0
                    for k in range(words.size):
                        if words[k] < 0:
                            beside[k] = table[np.uint64(lines[b] + line_steps[i]), -1 - words[k]]
                    row = origin + (first[b] + offsets[i]) * row_step
                    for n0 in range(w0, min(w0 + wide, nodes), tile):
                        a = np.uint64(e + (n0 * picks.size if known == nodes * picks.size else 0))
                        count = np.uint64(min(tile, nodes - n0))
                        r = np.uint64(row + n0 * columns)
                        o = np.uint64(b * out_batch + i * out_row) + np.uint64(n0) * group
                        blocks = (count + lanes - np.uint64(1)) // lanes
                        if choice:
                            if count < lanes:
                                for n in range(count):
                                    for k in range(picks.size):
                                        raw[n * given + np.uint64(k)] = source[
                                            r + n * far + np.uint64(picks[k])
                                        ]
                            else:
                                for block in range(blocks):
                                    at = min(block * lanes, count - lanes)
                                    interleave(raw, at * given, source, r + at * far, beside, choice)
                            for j in range(count * given):
                                values[j] = element(raw[j], shift[a + j], factor[a + j], cast, *how)
                        else:
                            for j in range(count * given):
                                values[j] = element(source[r + j], shift[a + j], factor[a + j], cast, *how)
                        if count < lanes:
                            for n in range(count):
                                for k in range(words.size):
                                    own = values[n * given + np.uint64(max(words[k], 0))]
                                    out[o + n * group + np.uint64(k)] = beside[k] if words[k] < 0 else own
                            continue
                        for block in range(blocks):
                            at = min(block * lanes, count - lanes)  # the last may write some words again
                            interleave(out, o + at * group, values, at * given, beside, pattern)

    return interleaved


@cache
def transposing(columns: int) -> Any:
    """Return the loop that writes several rows of a node beside each other, from sources with so many columns."""
    step = np.uint64(columns)

    @kernel
    def transposed(
        source: Any, first: Ints, entity: Ints, begin: int, end: int, out: Any,
        table: Any, lines: Ints, line_steps: Ints,
        origin: int, row_step: int, nodes: int, picks: Ints, offsets: Ints,
        shift: Floats, factor: Floats, known: int, how: Any,
        out_batch: int, depth: int, panels: Ints, rows: Ints, row_rows: Ints, row_panels: Ints, tile: int,
    ) -> None:  # fmt: skip
        """Fill panels of ``depth`` rows, and transpose them.

        A panel's words lie at ``panels[p]`` of each window, ``depth`` of a node beside each other. Column
        ``picks[k]`` in step i is row ``rows[i, k]``, counted through all panels. Value k of the row is
        ``row_rows[i, k]``, or has a panel of its own at ``row_panels[k]``: one of the two is empty. ``shift``,
        ``factor``: by entity or once, then by column and node, for all nodes or for one ``tile``: ``known`` numbers.
        """
        cast = out.dtype.type
        room, deep, lanes = np.uint64(tile), np.uint64(depth), np.uint64(LANES)
        values = np.empty(panels.size * depth * tile, out.dtype)
        raw = np.empty(tile * columns if columns > 1 else 0, source.dtype)
        stamp = np.empty(LANES * depth if row_panels.size else 0, out.dtype)
        line, out_line = np.uint64(LINE // source.itemsize), np.uint64(LINE // out.itemsize)
        for b in range(begin, end):
            e = entity[b] * known if shift.size > known else 0
            for n0 in range(0, nodes, tile):
                count = np.uint64(min(tile, nodes - n0))
                blocks = (count + lanes - np.uint64(1)) // lanes
                share = (count * deep + np.uint64(offsets.size - 1)) // np.uint64(offsets.size)
                for i in range(offsets.size):
                    if n0 + tile < nodes or b + 1 < end:  # prefetch the same row of the next tile
                        coming, m = (b, n0 + tile) if n0 + tile < nodes else (b + 1, 0)
                        r = np.uint64(origin + (first[coming] + offsets[i]) * row_step + m * columns)
                        for j in range(np.uint64(0), np.uint64(min(tile, nodes - m) * columns), line):
                            fetch(source, r + j)
                    for panel in range(panels.size):  # stores are scattered: each would wait for its line
                        o = np.uint64(b * out_batch + panels[panel] + n0 * depth) + np.uint64(i) * share
                        for j in range(np.uint64(0), share, out_line):
                            claim(out, o + j)
                    r = np.uint64(origin + (first[b] + offsets[i]) * row_step + n0 * columns)
                    if columns > 1:
                        if count < lanes:
                            for n in range(count):
                                for k in range(step):
                                    raw[k * room + n] = source[r + n * step + k]
                        else:
                            for block in range(blocks):
                                at = min(block * lanes, count - lanes)
                                split(raw, at, room, source, r + at * step, columns)
                    for k in range(picks.size):
                        o = np.uint64(rows[i, k]) * room
                        own = n0 if known == nodes * picks.size else 0
                        y = np.uint64(e + k * (known // picks.size) + own)
                        if columns > 1:
                            p = np.uint64(picks[k]) * room
                            for j in range(count):
                                values[o + j] = element(raw[p + j], shift[y + j], factor[y + j], cast, *how)
                        else:
                            for j in range(count):
                                values[o + j] = element(
                                    source[r + j], shift[y + j], factor[y + j], cast, *how
                                )
                    for k in range(row_rows.shape[1]):
                        value = table[np.uint64(lines[b] + line_steps[i]), k]
                        o = np.uint64(row_rows[i, k]) * room
                        for j in range(count):
                            values[o + j] = value
                for panel in range(panels.size):
                    o = np.uint64(b * out_batch + panels[panel] + n0 * depth)
                    w = np.uint64(panel * depth) * room
                    if depth < 4 or count < lanes:
                        for n in range(count):
                            for k in range(deep):
                                out[o + n * deep + k] = values[w + k * room + n]
                        continue
                    # the last of each may write some words again
                    for block in range(blocks):
                        at = min(block * lanes, count - lanes)
                        for quad in range((depth + 3) // 4):
                            four = np.uint64(min(4 * quad, depth - 4))
                            transpose(out, o + at * deep + four, deep, values, w + four * room + at, room)
            for panel in range(row_panels.size):
                for i in range(depth):
                    value = table[np.uint64(lines[b] + line_steps[i]), panel]
                    for node in range(LANES):
                        stamp[node * depth + i] = value
                o, size = np.uint64(b * out_batch + row_panels[panel]), np.uint64(nodes) * deep
                for j in range(np.uint64(0), size, lanes * deep):
                    for k in range(min(lanes * deep, size - j)):
                        out[o + j + k] = stamp[k]

    return transposed
