"""The one keyed permutation that every shuffle of the package uses.

In: how many numbers, a key. Out: the number at each position, the same on every platform and release. Never stores a
permutation of more than 2^16 numbers.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import LoaderError

from .keys import GAMMA, LOW_1, LOW_2, MIX_1, MIX_2, WORDS, Purpose, draw, key, word

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

__all__ = ["SMALL", "Permutation", "Purpose", "draw", "key"]

SMALL = 4096  # up to here Fisher–Yates, which is uniform; above, Feistel
TABLE = 1 << 16  # up to here kept as a table of at most 128 KiB
COMPILED = 1 << 20  # from here on the Feistel network is compiled, which takes a second
CALLS = 5000  # calls of smaller ones by NumPy after which it is compiled too: by then they have taken as long
_BLOCK = 4096  # positions that NumPy evaluates together: more do not stay in the cache
_U32 = np.uint64(0xFFFFFFFF)
_calls = itertools.count()


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
            rounds = [word(words, i) for i in range(8 if n <= 1 << 16 else 6)]
            narrow = np.array([part & 0xFFFFFFFF for part in rounds], np.uint32)
            object.__setattr__(self, "_rounds", narrow if n <= 1 << 32 else np.array(rounds, np.uint64))
        if SMALL < n <= TABLE:
            table = np.empty(n, np.uint16)
            for begin in range(0, n, _BLOCK):  # temporaries of a block, not of all numbers
                table[begin : begin + _BLOCK] = self._walked(np.arange(begin, min(begin + _BLOCK, n)))
            object.__setattr__(self, "_table", table)

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
    drawn = (word(parts, i) for i in itertools.count())
    found = [next(x for x in drawn if x * n % WORDS >= (WORDS - n) % n) for n in bounds.tolist()]
    return np.array(found, np.uint64)


def _feistel(n: int) -> Callable[..., int]:
    from .kernels import feistel_32, feistel_64

    kernel: Callable[..., int] = feistel_32 if n <= 1 << 32 else feistel_64
    return kernel
