"""The loop that writes past the cache: for batches that would not stay in it.

In and out: as in ``kernels``, where the output of a role is one stretch. A store into a line that is not in the cache
reads that line first, a third of all traffic of a large batch; whole lines that are written around the cache are not
read. Values are computed into a scratch that stays in the first-level cache, and leave it line by line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.jit import kernel
from windowloader.util.machine import LINE, fetch, settle, stream

from .kernels import ONE, THREE, TWO, scaled, word

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["flows"]

PATCH = 512  # elements of a run at a time, with one or two values beside each
LONGEST = 1024  # of them, where statistics repeat
AHEAD = 4096  # bytes of the source that are asked for before their turn


@kernel
def flows(
    source: Any, half: Any, origin: int, row_step: int, width: int,
    first: Ints, offsets: Ints, entity: Ints, begin: int, end: int,
    shift: Floats, factor: Floats, known: int, divide: Any, sentinel: Any, fill: float | None,
    out: Any, to_half: Any, to_brain: Any, at: int, out_batch: int,
    table: Any, lines: Ints, line_steps: Ints, place: int, others: int,
) -> None:  # fmt: skip
    """Scale runs of ``width`` elements, with 0, 1 or 2 values (``others``) of the row beside each: see `kernels`."""
    sent = sentinel[0]
    cast = out.dtype.type
    repeats = known < width
    tile = known if repeats and known > 1 else PATCH
    head, tail = place == 0, place == 2
    group, full = 1 + others, np.uint64(LINE // out.itemsize)
    scratch = np.empty(group * LONGEST + LINE, out.dtype)
    goal, held = np.uint64(at + begin * out_batch), np.uint64(0)
    lead = (
        full - (np.uint64(out.ctypes.data // out.itemsize) + goal) % full
    ) % full  # words before a whole line
    line, far = np.uint64(LINE // source.itemsize), np.uint64(AHEAD // source.itemsize)
    for b in range(begin, end):
        e = entity[b] * known if shift.size > known else 0
        m0, q0 = shift[e], factor[e]
        for i in range(offsets.size):
            start = origin + (first[b] + offsets[i]) * row_step
            for n0 in range(0, width, tile):
                count = np.uint64(min(tile, width - n0))
                r, a, h = np.uint64(start + n0), np.uint64(e if repeats else e + n0), held
                for j in range(np.uint64(0), count, line):
                    fetch(source, r + far + j)
                if others > 0:
                    t = np.uint64(lines[b] + line_steps[i])
                    c, f = table[t, 0], table[t, others - 1]
                if others == 0 and known == 1:
                    for j in range(count):
                        v = scaled(source[r + j], half, m0, q0, divide, sent, fill)
                        scratch[h + j] = word(v, cast, to_half, to_brain)
                elif others == 0:
                    for j in range(count):
                        v = scaled(source[r + j], half, shift[a + j], factor[a + j], divide, sent, fill)
                        scratch[h + j] = word(v, cast, to_half, to_brain)
                elif others == 1 and known == 1:
                    for j in range(count):
                        x = scaled(source[r + j], half, m0, q0, divide, sent, fill)
                        v = word(x, cast, to_half, to_brain)
                        scratch[h + TWO * j] = v if head else c
                        scratch[h + TWO * j + ONE] = c if head else v
                elif others == 1:
                    for j in range(count):
                        x = scaled(source[r + j], half, shift[a + j], factor[a + j], divide, sent, fill)
                        v = word(x, cast, to_half, to_brain)
                        scratch[h + TWO * j] = v if head else c
                        scratch[h + TWO * j + ONE] = c if head else v
                elif known == 1:
                    for j in range(count):
                        x = scaled(source[r + j], half, m0, q0, divide, sent, fill)
                        v = word(x, cast, to_half, to_brain)
                        scratch[h + THREE * j] = v if head else c
                        scratch[h + THREE * j + ONE] = c if head else f if tail else v
                        scratch[h + THREE * j + TWO] = v if tail else f
                else:
                    for j in range(count):
                        x = scaled(source[r + j], half, shift[a + j], factor[a + j], divide, sent, fill)
                        v = word(x, cast, to_half, to_brain)
                        scratch[h + THREE * j] = v if head else c
                        scratch[h + THREE * j + ONE] = c if head else f if tail else v
                        scratch[h + THREE * j + TWO] = v if tail else f
                held += np.uint64(group) * count
                skip = min(lead, held)
                for j in range(skip):
                    out[goal + j] = scratch[j]
                whole = (held - skip) // full
                stream(out, goal + skip, scratch, skip, whole)
                done = skip + whole * full
                lead, goal, held = lead - skip, goal + done, held - done
                for j in range(held):
                    scratch[j] = scratch[done + j]
    for j in range(held):
        out[goal + j] = scratch[j]
    settle()
