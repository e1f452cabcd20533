"""The compiled half of ``permutation``: a Feistel network with cycle walking.

In: positions, round keys. Out: the permuted numbers, written into an array that is handed in.
Integers of fixed width only, so the numbers are the same on every platform. Never draws a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from windowloader.util.jit import kernel

from .keys import LOW_1, LOW_2, MIX_1, MIX_2

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 1024  # positions evaluated together: the scratch of a call stays in the first-level cache


@kernel
def round_32(
    source: NDArray[np.uint32], target: NDArray[np.uint32], count: int, key: np.uint32, shift: np.uint32
) -> None:
    """One Feistel round over a block, ``target ^= top bits of mix(source + key)``; LLVM vectorises it."""
    for i in range(count):
        x = np.uint32(source[i] + key)
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * LOW_1)
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * LOW_2)
        target[i] ^= np.uint32(x >> shift)


@kernel
def round_64(
    source: NDArray[np.uint64], target: NDArray[np.uint64], count: int, key: np.uint64, shift: np.uint64
) -> None:
    """One Feistel round over a block of 64-bit words."""
    for i in range(count):
        x = source[i] + key
        x = (x ^ (x >> np.uint64(32))) * MIX_1
        x = (x ^ (x >> np.uint64(29))) * MIX_2
        target[i] ^= x >> shift


@kernel
def feistel_32(
    n: int, bits: int, keys: NDArray[np.uint32], positions: NDArray[np.int64], out: NDArray[np.int64]
) -> int:
    """Permute ``positions`` within [0, n), 4096 < n ≤ 2^32; the first bad position, or −1."""
    right_bits = np.uint32(bits - bits // 2)
    left_shift, right_shift = np.uint32(32 - bits // 2), np.uint32(32 - (bits - bits // 2))
    mask = np.uint32((1 << right_bits) - 1)
    left, right = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    where = np.empty(BLOCK, np.int64)
    for begin in range(0, positions.size, BLOCK):
        count = min(BLOCK, positions.size - begin)
        for i in range(count):
            p = positions[begin + i]
            if p < 0 or p >= n:  # its cycle might never come back below n
                return begin + i
            left[i] = np.uint32(p >> right_bits)
            right[i] = np.uint32(p) & mask
            where[i] = begin + i
        while count > 0:
            for r in range(0, keys.size, 2):
                round_32(right, left, count, keys[r], left_shift)
                round_32(left, right, count, keys[r + 1], right_shift)
            again = 0
            for i in range(count):
                x = (np.int64(left[i]) << right_bits) | np.int64(right[i])
                out[where[i]] = x
                # Kept without a branch: values outside [0, n) are compacted and go round again.
                left[again], right[again], where[again] = left[i], right[i], where[i]
                again += int(x >= n)
            count = again
    return -1


@kernel
def feistel_64(
    n: int, bits: int, keys: NDArray[np.uint64], positions: NDArray[np.int64], out: NDArray[np.int64]
) -> int:
    """Permute ``positions`` within [0, n), 2^32 < n < 2^63; the first bad position, or −1."""
    right_bits = np.uint64(bits - bits // 2)
    left_shift, right_shift = np.uint64(64 - bits // 2), np.uint64(64 - (bits - bits // 2))
    mask = (np.uint64(1) << right_bits) - np.uint64(1)
    left, right = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    where = np.empty(BLOCK, np.int64)
    for begin in range(0, positions.size, BLOCK):
        count = min(BLOCK, positions.size - begin)
        for i in range(count):
            p = positions[begin + i]
            if p < 0 or p >= n:
                return begin + i
            left[i] = np.uint64(p) >> right_bits
            right[i] = np.uint64(p) & mask
            where[i] = begin + i
        while count > 0:
            for r in range(0, keys.size, 2):
                round_64(right, left, count, keys[r], left_shift)
                round_64(left, right, count, keys[r + 1], right_shift)
            again = 0
            for i in range(count):
                x = np.int64((left[i] << right_bits) | right[i])
                out[where[i]] = x
                left[again], right[again], where[again] = left[i], right[i], where[i]
                again += int(x >= n)
            count = again
    return -1
