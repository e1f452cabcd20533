"""The compiled half of the index: rank and select on a bitmap, runs of set bits, sums over rows of windows.

In: words of 64 bits, tables, row numbers. Out: numbers, written into arrays that are handed in. Never
allocates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from windowloader.util.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_WORDS = 8  # words a rank covers: 1/8 of the bitmap's memory, and at most eight counts a select
PAIRS = np.uint64(0x5555555555555555)
FOURS = np.uint64(0x3333333333333333)
BYTES = np.uint64(0x0F0F0F0F0F0F0F0F)
ONES = np.uint64(0x0101010101010101)
ONE = np.uint64(1)


@kernel
def bits_set(word: np.uint64) -> np.int64:
    """Set bits of a word, summed side by side (Knuth, TAOCP 7.1.3)."""
    x = word - ((word >> ONE) & PAIRS)
    x = (x & FOURS) + ((x >> np.uint64(2)) & FOURS)
    x = (x + (x >> np.uint64(4))) & BYTES
    return np.int64((x * ONES) >> np.uint64(56))


@kernel
def select_bits(words: NDArray[np.uint64], ranks: NDArray[np.int64], positions: NDArray[np.int64],
                out: NDArray[np.int64]) -> None:  # fmt: skip
    """Bit number of the ``positions``-th set bits, counted from 0.

    ``ranks[k]`` counts the set bits before word ``k·BLOCK_WORDS``; one more entry holds them all.
    """
    for i in range(positions.size):
        p = positions[i]
        low, high = 0, ranks.size - 1
        while high - low > 1:  # ranks[low] <= p < ranks[high] stays true
            middle = (low + high) >> 1
            if ranks[middle] <= p:
                low = middle
            else:
                high = middle
        left = p - ranks[low]
        w = low * BLOCK_WORDS
        count = bits_set(words[w])
        while left >= count:
            left -= count
            w += 1
            count = bits_set(words[w])
        word = words[w]
        for _ in range(left):
            word &= word - ONE  # drops the lowest set bit
        lowest = word & (~word + ONE)
        out[i] = w * 64 + bits_set(lowest - ONE)


@kernel
def rank_bits(words: NDArray[np.uint64], ranks: NDArray[np.int64], bits: NDArray[np.int64],
              out: NDArray[np.int64]) -> None:  # fmt: skip
    """Count the set bits before each bit number, which may lie outside the bitmap."""
    for i in range(bits.size):
        bit = min(max(bits[i], 0), words.size * 64)
        w = bit >> 6
        block = w // BLOCK_WORDS
        total = ranks[block]
        for k in range(block * BLOCK_WORDS, w):
            total += bits_set(words[k])
        rest = bit & 63
        if rest:
            total += bits_set(words[w] & ((ONE << np.uint64(rest)) - ONE))
        out[i] = total


@kernel
def set_runs(firsts: NDArray[np.int64], counts: NDArray[np.int64], stride: int, keep: NDArray[np.uint64],
             words: NDArray[np.uint64]) -> None:  # fmt: skip
    """Set the bits of runs of starts that are also set in ``keep``."""
    for run in range(firsts.size):
        row = firsts[run]
        for _ in range(counts[run]):
            w = row >> 6
            words[w] |= keep[w] & (ONE << np.uint64(row & 63))
            row += stride


@kernel
def kept_runs(firsts: NDArray[np.int64], counts: NDArray[np.int64], stride: int, keep: NDArray[np.uint64],
              kept_firsts: NDArray[np.int64], kept_counts: NDArray[np.int64]) -> int:  # fmt: skip
    """Cut runs of starts where a bit of ``keep`` is not set; the number of runs that are left.

    They are written as far as there is room: called with empty arrays it counts.
    """
    found = 0
    for run in range(firsts.size):
        first, count = firsts[run], counts[run]
        i = 0
        while i < count:
            row = first + i * stride
            w = row >> 6
            if stride == 1 and keep[w] == 0:
                i += 64 - (row & 63)
                continue
            if not (keep[w] >> np.uint64(row & 63)) & ONE:
                i += 1
                continue
            begin = i
            while i < count:
                row = first + i * stride
                w = row >> 6
                if stride == 1 and ~keep[w] == 0:
                    i += 64 - (row & 63)
                elif (keep[w] >> np.uint64(row & 63)) & ONE:
                    i += 1
                else:
                    break
            i = min(i, count)
            if found < kept_firsts.size:
                kept_firsts[found] = first + begin * stride
                kept_counts[found] = i - begin
            found += 1
    return found


@kernel
def slide(values: NDArray[np.int64], first: int, count: int, step: int, out: NDArray[np.int64],
          part: NDArray[np.int64]) -> None:  # fmt: skip
    """Add ``sum(values[i + first + j·step] for j < count)`` to each ``out[i]``, a few operations each.

    ``part`` is scratch of the size of ``out``: a sum follows from the one ``step`` rows before it.
    """
    last = first + (count - 1) * step
    for i in range(out.size):
        if i < step:
            total = np.int64(0)
            for j in range(count):
                total += values[i + first + j * step]
        else:
            total = part[i - step] + values[i + last] - values[i + first - step]
        part[i] = total
        out[i] += total
