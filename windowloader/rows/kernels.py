"""The compiled half of ``paging``: furthest next use.

In: which block each window of a stretch needs, which blocks are there. Out: what to read and what to drop
before which window. Never looks at a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from windowloader.util.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def page(
    uses: NDArray[np.int64], count: int, held: NDArray[np.int64], blocks: int, out: NDArray[np.int64]
) -> int:
    """Serve ``uses[:count]``, knowing all of ``uses``, with the places ``held`` (−1: free), which it updates.

    ``uses`` are blocks in [0, blocks), or −1 for nothing. Row ``i`` of ``out`` gets (before which use, block
    to read, block to drop or −1); returns how many rows. Belady 1966.
    """
    never = uses.size
    following = np.empty(uses.size, np.int64)
    upcoming = np.full(blocks, never, np.int64)
    for i in range(uses.size - 1, -1, -1):
        if uses[i] >= 0:
            following[i] = upcoming[uses[i]]
            upcoming[uses[i]] = i
    found = 0
    for i in range(count):
        block = uses[i]
        if block < 0:
            continue
        place, furthest = -1, -1
        for j in range(held.size):
            if held[j] == block:
                place = -2
                break
            when = never + 1 if held[j] < 0 else upcoming[held[j]]
            if when > furthest:
                place, furthest = j, when
        upcoming[block] = following[i]
        if place >= 0:
            out[found, 0], out[found, 1], out[found, 2] = i, block, held[place]
            held[place] = block
            found += 1
    return found
