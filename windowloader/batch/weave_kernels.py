"""The loops for several words a node: values that lie beside each other, and values of the row among them.

In and out: as in ``kernels``. Values are computed where they lie beside each other in a scratch that stays in the
first-level cache, and take their places from there, sixteen words at a time. ``weaving`` makes loops for outputs in
which a node's words of one row touch; ``turning`` for those in which its rows do. Each is compiled for its pattern.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.jit import kernel
from windowloader.util.machine import LINE, claim, fetch

from .kernels import WIDE, scaled, word
from .shuffles import LANES, split, turn, weave

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["turning", "weaving"]


@cache
def weaving(pattern: int, choice: int) -> Any:
    """Return the loop that writes, node by node, the words that a `shuffles.pattern_of` says.

    ``choice``: the pattern of the columns that are wanted, where those are not all; 0 where they are.
    """

    @kernel
    def weaves(
        source: Any, half: Any, origin: int, row_step: int, columns: int, nodes: int, picks: Ints,
        first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
        shift: Floats, factor: Floats, known: int, divide: Any, sentinel: Any, fill: float | None,
        out: Any, to_half: Any, to_brain: Any, out_batch: int, out_row: int, words: Ints,
        table: Any, lines: Ints, line_steps: Ints, tile: int, ahead: int,
    ) -> None:  # fmt: skip
        """Scale the ``picks`` of each node's ``columns``; its word k is that of pick ``words[k]``, or −1 − the row's.

        ``shift``, ``factor``: by entity or once, then by node and pick, for all nodes or those of one ``tile``:
        ``known`` numbers.
        """
        sent = sentinel[0]
        cast = out.dtype.type
        far, given, group, lanes = (
            np.uint64(columns), np.uint64(picks.size), np.uint64(words.size), np.uint64(LANES)
        )  # fmt: skip
        values = np.empty(tile * picks.size, out.dtype)
        raw = np.empty(tile * picks.size if choice else 0, source.dtype)
        # nodes whose own statistics stay near from row to row
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
                        if choice:
                            if count < lanes:
                                for n in range(count):
                                    for k in range(picks.size):
                                        raw[n * given + np.uint64(k)] = source[
                                            r + n * far + np.uint64(picks[k])
                                        ]
                            else:
                                for block in range((count + lanes - np.uint64(1)) // lanes):
                                    at = min(block * lanes, count - lanes)
                                    weave(raw, at * given, source, r + at * far, beside, choice)
                            for j in range(count * given):
                                v = scaled(raw[j], half, shift[a + j], factor[a + j], divide, sent, fill)
                                values[j] = word(v, cast, to_half, to_brain)
                        else:
                            for j in range(count * given):
                                v = scaled(
                                    source[r + j], half, shift[a + j], factor[a + j], divide, sent, fill
                                )
                                values[j] = word(v, cast, to_half, to_brain)
                        if count < lanes:
                            for n in range(count):
                                for k in range(words.size):
                                    own = values[n * given + np.uint64(max(words[k], 0))]
                                    out[o + n * group + np.uint64(k)] = beside[k] if words[k] < 0 else own
                            continue
                        for block in range((count + lanes - np.uint64(1)) // lanes):
                            at = min(block * lanes, count - lanes)  # the last may write some words again
                            weave(out, o + at * group, values, at * given, beside, pattern)

    return weaves


@cache
def turning(columns: int) -> Any:
    """Return the loop that writes several rows of a node beside each other, from sources with so many columns."""
    step = np.uint64(columns)

    @kernel
    def turns(
        source: Any, half: Any, origin: int, row_step: int, nodes: int, picks: Ints,
        first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
        shift: Floats, factor: Floats, known: int, divide: Any, sentinel: Any, fill: float | None,
        out: Any, to_half: Any, to_brain: Any, out_batch: int, depth: int, panels: Ints, rows: Ints, row_rows: Ints,
        row_panels: Ints, table: Any, lines: Ints, line_steps: Ints, tile: int,
    ) -> None:  # fmt: skip
        """Fill panels of ``depth`` rows, and turn them.

        A panel's words lie at ``panels[p]`` of each window, ``depth`` of a node beside each other. Column
        ``picks[k]`` in step i is row ``rows[i, k]``, counted through all panels. Value k of the row is
        ``row_rows[i, k]``, or has a panel of its own at ``row_panels[k]``: one of the two is empty. ``shift``,
        ``factor``: by entity or once, then by column and node, for all nodes or those of one ``tile``: ``known``
        numbers.
        """
        sent = sentinel[0]
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
                share = (count * deep + np.uint64(offsets.size - 1)) // np.uint64(offsets.size)
                for i in range(offsets.size):
                    if n0 + tile < nodes or b + 1 < end:  # the same row of what comes next
                        coming, m = (b, n0 + tile) if n0 + tile < nodes else (b + 1, 0)
                        r = np.uint64(origin + (first[coming] + offsets[i]) * row_step + m * columns)
                        for j in range(np.uint64(0), np.uint64(min(tile, nodes - m) * columns), line):
                            fetch(source, r + j)
                    for panel in range(panels.size):  # words go here and there: each would wait for its line
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
                            for block in range((count + lanes - np.uint64(1)) // lanes):
                                at = min(block * lanes, count - lanes)
                                split(raw, at, room, source, r + at * step, columns)
                    for k in range(picks.size):
                        o = np.uint64(rows[i, k]) * room
                        y = np.uint64(
                            e + k * (known // picks.size) + (n0 if known == nodes * picks.size else 0)
                        )
                        if columns > 1:
                            p = np.uint64(picks[k]) * room
                            for j in range(count):
                                v = scaled(raw[p + j], half, shift[y + j], factor[y + j], divide, sent, fill)
                                values[o + j] = word(v, cast, to_half, to_brain)
                        else:
                            for j in range(count):
                                v = scaled(
                                    source[r + j], half, shift[y + j], factor[y + j], divide, sent, fill
                                )
                                values[o + j] = word(v, cast, to_half, to_brain)
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
                    for block in range((count + lanes - np.uint64(1)) // lanes):
                        at = min(block * lanes, count - lanes)
                        for quad in range((depth + 3) // 4):
                            four = np.uint64(min(4 * quad, depth - 4))
                            turn(out, o + at * deep + four, deep, values, w + four * room + at, room)
            for panel in range(row_panels.size):
                for i in range(depth):
                    value = table[np.uint64(lines[b] + line_steps[i]), panel]
                    for node in range(LANES):
                        stamp[node * depth + i] = value
                o, size = np.uint64(b * out_batch + row_panels[panel]), np.uint64(nodes) * deep
                for j in range(np.uint64(0), size, lanes * deep):
                    for k in range(min(lanes * deep, size - j)):
                        out[o + j + k] = stamp[k]

    return turns
