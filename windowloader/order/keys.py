"""Keys of shuffles and draws, and the words that a key gives.

In: a seed, an epoch and what the key is for. Out: pseudo-random words and numbers that are pure functions of them, the
same on every platform and release. Never keeps a generator's state.
"""

from __future__ import annotations

import operator
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import LoaderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GAMMA", "LOW_1", "LOW_2", "MIX_1", "MIX_2", "VERSION", "WORDS", "Purpose", "draw", "key", "word"]

VERSION = 1  # of keys and permutation; another algorithm gets another number, this one stays
WORDS = 1 << 64
GAMMA = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64 (Steele, Lea, Flood 2014)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
LOW_1 = np.uint32(0x7FEB352D)  # lowbias32 (Wellons 2018)
LOW_2 = np.uint32(0x846CA68B)


class Purpose(IntEnum):
    """What a key is for. The numbers are part of the order: never renumbered, only added to."""

    GLOBAL = 0
    """The order of all windows (no lane, no index)."""
    ROTATION = 1
    """σ, where the first lane begins (no lane, no index)."""
    RUN_START = 2
    """The block at which a run starts (index: the run)."""
    ROUND = 3
    """The order of the runs (no index)."""
    SPREAD = 4
    """The order in which a turn's windows are assigned (index: the turn)."""
    TURN = 5
    """The order of the windows assigned to a turn (index: the turn)."""


def key(seed: int, *, epoch: int, purpose: int, lane: int = 0, index: int = 0) -> NDArray[np.uint64]:
    """Derive the key of one shuffle or draw.

    Parameters
    ----------
    seed : int
        The user's seed, 0 ≤ seed < 2^128.
    epoch : int
        The pass over the data that is ordered.
    purpose : int
        A `Purpose`.
    lane, index : int
        What else tells two keys of a purpose apart. Like ``epoch``, each in [0, 2^32).

    Returns
    -------
    ndarray, shape (4,), uint64
        ``SeedSequence(seed, spawn_key=(VERSION, epoch, purpose, lane, index))``'s state, read-only.

    Raises
    ------
    LoaderError
        Where a number is outside its range: NumPy would fold it onto another key.

    Examples
    --------
    >>> key(0, epoch=1, purpose=Purpose.GLOBAL)
    array([...], dtype=uint64)
    """
    seed = operator.index(seed)
    if not 0 <= seed < 1 << 128:
        raise LoaderError(
            f"seed={seed} is outside [0, 2**128). Pass a non-negative seed of at most 128 bits."
        )
    spawn_key = tuple(operator.index(part) for part in (VERSION, epoch, purpose, lane, index))
    if min(spawn_key) < 0 or max(spawn_key) >> 32:
        raise LoaderError(
            f"epoch={epoch}, purpose={purpose}, lane={lane}, index={index}: each must be in [0, 2**32)."
        )
    sequence = np.random.SeedSequence(seed, spawn_key=spawn_key)
    words: NDArray[np.uint64] = sequence.generate_state(4, np.uint64).astype(np.uint64, copy=False)
    words.flags.writeable = False
    return words


def draw(n: int, key: NDArray[np.uint64]) -> int:
    """Draw a number in [0, n), uniform over keys (Lemire 2019, arXiv 1805.10941).

    Parameters
    ----------
    n : int
        How many numbers there are, 1 ≤ n < 2^63.
    key : ndarray, shape (4,), uint64
        From `key`.

    Returns
    -------
    int
        The number.

    Raises
    ------
    LoaderError
        Where ``n`` is outside its range.

    Examples
    --------
    >>> 0 <= draw(10, key(0, epoch=0, purpose=Purpose.ROTATION)) < 10
    True
    """
    n = operator.index(n)
    if not 1 <= n < 1 << 63:
        raise LoaderError(f"cannot draw a number below n={n}: n must be in [1, 2**63).")
    words = [int(part) for part in key]
    i = 0
    while True:
        product = word(words, i) * n
        if (
            product % WORDS >= (WORDS - n) % n
        ):  # else this word belongs to a number that has one word too many
            return product >> 64
        i += 1


def word(key: list[int], i: int) -> int:
    """Word ``i`` of a key: its four words seed four SplitMix64 generators that take turns."""
    x = (key[i & 3] + ((i >> 2) + 1) * int(GAMMA)) % WORDS
    x = ((x ^ (x >> 30)) * int(MIX_1)) % WORDS
    x = ((x ^ (x >> 27)) * int(MIX_2)) % WORDS
    return x ^ (x >> 31)
