"""Keys, and the one keyed permutation that every shuffle of the package uses.

In: a seed, an epoch and what the key is for. Out: pseudo-random numbers and permutations that are pure
functions of them, the same on every platform and release. Never stores a permutation of more than 4096
numbers, never keeps a generator's state.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import LoaderError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

__all__ = ["SMALL", "VERSION", "Permutation", "Purpose", "draw", "key"]

VERSION = 1  # of keys and permutation; another algorithm gets another number, this one stays
SMALL = 4096  # up to here Fisher–Yates, which is uniform; above, Feistel
TABLE = 1 << 16  # up to here kept as a table of at most 128 KiB
COMPILED = 1 << 20  # from here on the Feistel network is compiled, which takes a second
CALLS = 5000  # calls of smaller ones by NumPy after which it is compiled too: by then they have taken as long
_BLOCK = 8192  # positions that NumPy evaluates together: more do not stay in the cache
_U32 = np.uint64(0xFFFFFFFF)
GAMMA = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64 (Steele, Lea, Flood 2014)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
LOW_1 = np.uint32(0x7FEB352D)  # lowbias32 (Wellons 2018)
LOW_2 = np.uint32(0x846CA68B)
_U64 = 1 << 64
_calls = itertools.count()
_U32 = np.uint64(0xFFFFFFFF)


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
        product = _word(words, i) * n
        if product % _U64 >= (_U64 - n) % n:  # else this word belongs to a number that has one word too many
            return product >> 64
        i += 1


@dataclass(frozen=True, slots=True, eq=False)
class Permutation:
    """The keyed permutation of 0 … n − 1, evaluated where it is asked.

    Parameters
    ----------
    n : int
        How many numbers are permuted, 0 ≤ n < 2^63.
    key : ndarray, shape (4,), uint64
        From `key`.

    Raises
    ------
    LoaderError
        Where ``n`` is outside its range.

    Notes
    -----
    Up to 4096 numbers: a Fisher–Yates shuffle. Above: a Feistel network on max(2, ⌈log2 n⌉) bits,
    8 rounds up to 2^16 and 6 above, iterated while its value is ≥ n (Black and Rogaway 2002); nothing is kept
    but the round keys, and up to 2^16 numbers the table.

    Examples
    --------
    >>> shuffled = Permutation(100_000_000, key(0, epoch=0, purpose=Purpose.GLOBAL))
    >>> shuffled([0, 1, 2]).shape
    (3,)
    """

    n: int
    key: NDArray[np.uint64] = field(repr=False)
    _table: NDArray[np.uint16] | None = field(init=False, repr=False, default=None)
    _rounds: NDArray[Any] | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        n = operator.index(self.n)
        if not 0 <= n < 1 << 63:
            raise LoaderError(f"cannot permute n={n} numbers: n must be in [0, 2**63).")
        object.__setattr__(self, "n", n)
        if n <= SMALL:
            object.__setattr__(self, "_table", _shuffled(n, self.key))
        else:
            words = [int(part) for part in self.key]
            rounds = [_word(words, i) for i in range(8 if n <= 1 << 16 else 6)]
            narrow = np.array([part & 0xFFFFFFFF for part in rounds], np.uint32)
            object.__setattr__(self, "_rounds", narrow if n <= 1 << 32 else np.array(rounds, np.uint64))
        if SMALL < n <= TABLE:
            object.__setattr__(self, "_table", self._walked(np.arange(n)).astype(np.uint16))

    def __call__(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Return the numbers at ``positions``.

        Parameters
        ----------
        positions : array_like of int, any shape
            Each in [0, n).

        Returns
        -------
        ndarray, int64, shape of ``positions``

        Raises
        ------
        IndexError
            Where a position is outside [0, n).
        """
        where = np.ascontiguousarray(positions, dtype=np.int64)  # 0-d becomes (1,): reshaped at the end
        flat = where.reshape(-1)
        out = np.empty(flat.size, np.int64)
        bad = -1
        if self._table is None and (self.n >= COMPILED or next(_calls) >= CALLS):
            if not flat.flags.writeable:  # another type to numba, which would compile the kernel once more
                flat = flat.copy()
            bad = _feistel(self.n)(self.n, (self.n - 1).bit_length(), self._rounds, flat, out)
        elif flat.size and (flat.min() < 0 or flat.max() >= self.n):
            bad = int(np.flatnonzero((flat < 0) | (flat >= self.n))[0])
        else:
            out[:] = self._walked(flat) if self._table is None else self._table[flat]
        if bad >= 0:
            raise IndexError(f"position {flat[bad]} is outside the permutation of {self.n} numbers.")
        return out.reshape(np.shape(positions))

    def _walked(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Permute positions without the compiled kernel; equal to it to the bit."""
        out = np.empty_like(positions)
        for begin in range(0, len(positions), _BLOCK):
            some = self._mixed(positions[begin : begin + _BLOCK])
            while len(outside := np.flatnonzero(some >= self.n)):
                some[outside] = self._mixed(some[outside])
            out[begin : begin + _BLOCK] = some
        return out

    def _mixed(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Permute the numbers of as many bits as n − 1 has."""
        assert self._rounds is not None
        bits = (self.n - 1).bit_length()
        right_bits = bits - bits // 2
        target, source = (numbers >> right_bits).astype(np.uint32), numbers.astype(np.uint32)
        source &= np.uint32((1 << right_bits) - 1)
        for i, part in enumerate(self._rounds):
            x = source + part
            x ^= x >> np.uint32(16)
            x *= LOW_1
            x ^= x >> np.uint32(15)
            x *= LOW_2
            target ^= x >> np.uint32(32 - (right_bits if i % 2 else bits // 2))
            target, source = source, target
        return (target.astype(np.int64) << right_bits) | source


def _word(key: list[int], i: int) -> int:
    """Word ``i`` of a key: its four words seed four SplitMix64 generators that take turns."""
    x = (key[i & 3] + ((i >> 2) + 1) * int(GAMMA)) % _U64
    x = ((x ^ (x >> 30)) * int(MIX_1)) % _U64
    x = ((x ^ (x >> 27)) * int(MIX_2)) % _U64
    return x ^ (x >> 31)


def _shuffled(n: int, key: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Shuffle 0 … n − 1, n ≤ `SMALL`, by Fisher–Yates with Lemire's draws."""
    bounds = np.arange(n, 1, -1, dtype=np.uint64)
    i = np.arange(len(bounds), dtype=np.uint64)
    words = np.asarray(key)[i & np.uint64(3)] + ((i >> np.uint64(2)) + np.uint64(1)) * GAMMA
    words = (words ^ (words >> np.uint64(30))) * MIX_1
    words = (words ^ (words >> np.uint64(27))) * MIX_2
    words ^= words >> np.uint64(31)
    if np.any(words * bounds < (np.uint64(0) - bounds) % bounds):  # about once in 10^12 shuffles
        words = _accepted(bounds, key)
    # The high 64 bits of the products in two 32-bit steps, exact for bounds up to 2^32.
    low = ((words & _U32) * bounds) >> np.uint64(32)
    chosen = ((words >> np.uint64(32)) * bounds + low) >> np.uint64(32)
    numbers = list(range(n))
    for last, other in zip(range(n - 1, 0, -1), chosen.tolist(), strict=True):
        numbers[last], numbers[other] = numbers[other], numbers[last]
    return np.array(numbers, np.uint16)


def _accepted(bounds: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a word for each bound, without those whose low half belongs to a number that has one word too many."""
    parts = [int(part) for part in key]
    drawn = (_word(parts, i) for i in itertools.count())
    found = [next(x for x in drawn if x * n % _U64 >= (_U64 - n) % n) for n in bounds.tolist()]
    return np.array(found, np.uint64)


def _feistel(n: int) -> Callable[..., int]:
    from .kernels import feistel_32, feistel_64

    kernel: Callable[..., int] = feistel_32 if n <= 1 << 32 else feistel_64
    return kernel
