"""Starts that missing data leave scattered: one bit a row, with ranks.

In: words of 64 bits. Out: `Bitmap`, one of the kinds of `Starts`. Never unpacks more than what is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .index import Explicit, Runs, digest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Bitmap", "keep_rows"]

RANK_WORDS = 8  # as in index_kernels, which is not imported before it is needed


@dataclass(frozen=True, slots=True, eq=False)
class Bitmap:
    """One bit a row, with a count every 512 bits: for starts that missing data leave scattered.

    Parameters
    ----------
    first : int
        The row of bit 0.
    words : ndarray, shape (word,), uint64
        Bit ``i`` of word ``w`` is row ``first + 64·w + i``.
    ranks : ndarray, shape (⌈word / 8⌉ + 1,), int64
        Bits set before every eighth word, and all of them at the end.

    Examples
    --------
    >>> starts = Bitmap.of_words(100, np.array([0b1011, 0b1], np.uint64))
    >>> len(starts), starts(np.arange(4))
    (4, array([100, 101, 103, 164]))
    """

    first: int
    words: np.ndarray
    ranks: np.ndarray

    @classmethod
    def of_words(cls, first: int, words: np.ndarray) -> Bitmap:
        """Rank the set bits of ``words``; words without any at both ends are cut off."""
        used = np.flatnonzero(words)
        begin, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        kept = np.ascontiguousarray(words[begin:end])
        blocks = np.zeros(-(-len(kept) // RANK_WORDS), np.int64)
        np.add.at(blocks, np.arange(len(kept)) // RANK_WORDS, np.bitwise_count(kept))
        ranks = np.concatenate((np.zeros(1, np.int64), np.cumsum(blocks, dtype=np.int64)))
        return cls(first + begin * 64, kept, ranks)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.words.nbytes + self.ranks.nbytes)

    @property
    def rising(self) -> bool:
        """Bits always rise."""
        return True

    def __len__(self) -> int:
        return int(self.ranks[-1])

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the starts of windows, int64, in the shape of ``positions``."""
        from .kernels import select_bits

        flat = np.ascontiguousarray(positions, np.int64).reshape(-1)
        out = np.empty(flat.size, np.int64)
        select_bits(self.words, self.ranks, flat, out)
        out += self.first
        return out.reshape(np.shape(positions))

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Count the starts before each row, int64."""
        from .kernels import rank_bits

        bits = np.ascontiguousarray(rows, np.int64).reshape(-1) - self.first
        out = np.empty(bits.size, np.int64)
        rank_bits(self.words, self.ranks, bits, out)
        return out.reshape(np.shape(rows))

    def slice(self, start: int, stop: int, step: int = 1) -> Bitmap | Explicit:
        """Return the windows of numbers ``range(start, stop, step)``: a bitmap where the step is 1."""
        if step > 1 or stop <= start:
            return Explicit(self(np.arange(start, max(start, stop), step)))
        ends = self(np.array([start, stop - 1]))
        return self.within(ends[:1], ends[1:] + 1)

    def within(self, begins: np.ndarray, ends: np.ndarray) -> Bitmap:
        """Return the windows that start in any of the row ranges: a bitmap again."""
        size = 64 * len(self.words)
        kept = np.zeros_like(self.words)
        for begin, end in np.clip(np.stack((begins, ends), axis=-1) - self.first, 0, size).tolist():
            if begin >= end:
                continue
            mask = np.full(-(-end // 64) - begin // 64, ~np.uint64(0))
            mask[0] <<= np.uint64(begin % 64)
            mask[-1] &= ~np.uint64(0) >> np.uint64(-end % 64)
            kept[begin // 64 : -(-end // 64)] |= self.words[begin // 64 : -(-end // 64)] & mask
        return Bitmap.of_words(self.first, kept)

    def counts(self, start: int, stop: int) -> np.ndarray:
        """Windows that start at each row of ``[start, stop)``: 0 or 1."""
        out = np.zeros(stop - start, np.int64)
        begin, end = (
            int(bit) for bit in np.clip([start - self.first, stop - self.first], 0, 64 * len(self.words))
        )
        if begin < end:
            words = self.words[begin // 64 : -(-end // 64)].astype("<u8", copy=False)
            bits = np.unpackbits(words.view(np.uint8), bitorder="little")[begin % 64 :][: end - begin]
            out[begin + self.first - start :][: end - begin] = bits
        return out

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the bits."""
        return digest("bitmap", self.first, self.words.astype("<u8", copy=False))

    def __reduce__(self) -> tuple[Callable[..., Bitmap], tuple[object, ...]]:
        return Bitmap.of_words, (self.first, self.words)


def keep_rows(runs: Runs, words: np.ndarray) -> Runs | Bitmap:
    """Leave out the starts whose bit is not set.

    Parameters
    ----------
    runs : Runs
        The starts.
    words : ndarray, shape (word,), uint64
        Bit ``i`` of word ``w`` is row ``64·w + i``; every start has a bit.

    Returns
    -------
    Runs or Bitmap
        Whichever takes fewer bytes.

    Examples
    --------
    >>> six = Runs.of_segments(np.array([0, 8]), span=3, stride=1)
    >>> keep_rows(six, np.array([0b110111], np.uint64))(np.arange(5))
    array([0, 1, 2, 4, 5])
    """
    from .kernels import kept_runs, set_runs

    none = np.empty(0, np.int64)
    left = kept_runs(runs.firsts, runs.sizes, runs.stride, words, none, none)
    if 16 * left + 8 <= words.nbytes * (1 + 1 / RANK_WORDS):
        firsts, counts = np.empty(left, np.int64), np.empty(left, np.int64)
        kept_runs(runs.firsts, runs.sizes, runs.stride, words, firsts, counts)
        return Runs.of(firsts, counts, runs.stride)
    kept = np.zeros_like(words)
    set_runs(runs.firsts, runs.sizes, runs.stride, words, kept)
    return Bitmap.of_words(0, kept)
