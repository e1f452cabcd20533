"""The loops that write without computing: copies, masks, and what is the same for all nodes.

In and out: as in ``kernels``. ``blocks`` copies runs, ``copy`` words with any steps; ``seen`` and ``observed``
write the masks of runs and of anything; ``spread`` writes what is the same for all nodes or all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.jit import kernel
from windowloader.util.machine import LINE, fetch, move

from .half_kernels import decode_float16

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

__all__ = ["blocks", "copy", "observed", "seen", "spread"]

TILE = 1024  # nodes at a time
FETCHED = 32 * 1024  # bytes of a run that is asked for whole while the one before is copied
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)


@kernel
def blocks(
    source: Any, origin: int, row_step: int, width: int,
    first: Ints, offsets: Ints, begin: int, end: int, out: Any, at: int, out_batch: int, out_row: int,
) -> None:  # fmt: skip
    """Copy runs of ``width`` elements; source and output have words of one size."""
    line = np.uint64(LINE // source.itemsize)
    asked = np.uint64(width if width * source.itemsize <= FETCHED else 0)
    for b in range(begin, end):
        if b + 1 < end:
            r = np.uint64(origin + (first[b + 1] + offsets[0]) * row_step)
            for j in range(np.uint64(0), asked, line):
                fetch(source, r + j)
        for i in range(offsets.size):
            move(
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
    )
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
    count = np.uint64(width)
    for b in range(begin, end):
        for i in range(offsets.size):
            r = np.uint64(origin + (first[b] + offsets[i]) * row_step)
            o = np.uint64(at + b * out_batch + i * out_row)
            if group == 1:
                for j in range(count):
                    out[o + j] = _there(source[r + j], half, sent)
            elif group == 2:
                for j in range(count):
                    v = np.uint8(_there(source[r + j], half, sent))
                    out[o + TWO * j] = v if head else one
                    out[o + TWO * j + ONE] = one if head else v
            else:
                for j in range(count):
                    v = np.uint8(_there(source[r + j], half, sent))
                    out[o + THREE * j] = v if head else one
                    out[o + THREE * j + ONE] = one if head or tail else v
                    out[o + THREE * j + TWO] = v if tail else one


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
