"""The starts of windows, stored as what they are: runs of arithmetic, a bitmap, or a list.

In: rows where runs of starts begin and how many each has. Out: `Starts`, numbered in order.
Never stores a number per window unless a subset or repeats ask for one; never knows of data or parts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from windowloader.util.packed import pack_integers, unpack_integers

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Explicit", "Runs", "Starts"]


class Starts(Protocol):
    """Starts of windows by number. Positions handed in are int64 and lie in ``[0, len)``."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    @property
    def rising(self) -> bool:
        """Whether window numbers follow the rows: each start lies after the one before."""

    def __len__(self) -> int: ...

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the starts of windows, int64, in the shape of ``positions``."""

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Count the starts before each row, int64."""

    def slice(self, start: int, stop: int, step: int = 1) -> Starts:
        """Return the windows of numbers ``range(start, stop, step)``, step at least 1."""

    def within(self, begins: np.ndarray, ends: np.ndarray) -> Starts:
        """Return the windows that start in any row range ``[begin, end)``; ranges rise without overlap."""

    def counts(self, start: int, stop: int) -> np.ndarray:
        """Windows that start at each row of ``[start, stop)``, int64; rows outside the series count 0."""

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the starts in order, as stored."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs of starts that lie ``stride`` rows apart: 16 bytes a run, any number of windows.

    Parameters
    ----------
    firsts : ndarray, shape (run,), int64
        First start of each run, rising; a run ends before the next begins.
    cumulative : ndarray, shape (run + 1,), int64
        Windows before each run, and all of them at the end. No run is empty.
    stride : int
        Rows between the starts of a run.

    Examples
    --------
    >>> starts = Runs.of_segments(np.array([0, 10, 30]), span=6, stride=2)
    >>> len(starts), starts(np.arange(len(starts)))
    (11, array([ 0,  2,  4, 10, 12, 14, 16, 18, 20, 22, 24]))
    """

    firsts: np.ndarray
    cumulative: np.ndarray
    stride: int

    @classmethod
    def of_segments(cls, borders: np.ndarray, *, span: int, stride: int) -> Runs:
        """Place windows in each segment ``[borders[i], borders[i + 1])``, aligned to its first row."""
        borders = np.asarray(borders, np.int64)
        return cls.of(borders[:-1], np.maximum(0, (np.diff(borders) - span) // stride + 1), stride)

    @classmethod
    def of(cls, firsts: np.ndarray, counts: np.ndarray, stride: int) -> Runs:
        """Make runs from first starts and counts; empty ones are left out."""
        filled = counts > 0
        cumulative = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts[filled], dtype=np.int64)))
        return cls(np.ascontiguousarray(firsts[filled], np.int64), cumulative, int(stride))

    @property
    def sizes(self) -> np.ndarray:
        """Windows of each run."""
        return np.diff(self.cumulative)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.firsts.nbytes + self.cumulative.nbytes)

    @property
    def rising(self) -> bool:
        """Runs always rise."""
        return True

    def __len__(self) -> int:
        return int(self.cumulative[-1])

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the starts of windows, int64, in the shape of ``positions``."""
        if len(self.firsts) == 1:
            first = int(self.firsts[0])  # plain numbers: a batch asks for its starts
            return np.asarray(positions + first if self.stride == 1 else positions * self.stride + first)
        run = np.searchsorted(self.cumulative, positions, side="right") - 1
        return np.asarray(self.firsts[run] + (positions - self.cumulative[run]) * self.stride)

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Count the starts before each row, int64."""
        rows = np.asarray(rows, np.int64)
        if len(self.firsts) == 0:
            return np.zeros(rows.shape, np.int64)
        run = (
            np.searchsorted(self.firsts, rows, side="left") - 1
        )  # the run whose first start lies before the row
        begun = -(-(rows - self.firsts[run]) // self.stride)
        inside = np.minimum(begun, self.cumulative[run + 1] - self.cumulative[run])
        return np.where(run < 0, 0, self.cumulative[run] + inside)

    def slice(self, start: int, stop: int, step: int = 1) -> Runs:
        """Return the windows of numbers ``range(start, stop, step)``: runs again."""
        begin = np.maximum(self.cumulative[:-1], start)
        number = (
            start - (-(begin - start) // step) * step
        )  # the first wanted number that is not before the run
        counts = -(-(np.minimum(self.cumulative[1:], stop) - number) // step)
        return Runs.of(
            self.firsts + (number - self.cumulative[:-1]) * self.stride, counts, self.stride * step
        )

    def within(self, begins: np.ndarray, ends: np.ndarray) -> Runs:
        """Return the windows that start in any of the row ranges: runs again."""
        low, high = self.rank(begins), self.rank(ends)
        filled = high > low
        low, high = low[filled], high[filled]
        if len(low) == 0:
            return Runs.of(low, low, self.stride)
        # Between neighbouring cuts all windows lie in one run, and either in one range or in none.
        cuts = np.unique(np.concatenate((self.cumulative, low, high)))
        cuts, counts = cuts[:-1], np.diff(cuts)
        piece = np.searchsorted(low, cuts, side="right") - 1
        inside = (piece >= 0) & (cuts < high[piece])
        return Runs.of(self(cuts[inside]), counts[inside], self.stride)

    def counts(self, start: int, stop: int) -> np.ndarray:
        """Windows that start at each row of ``[start, stop)``: 0 or 1."""
        low, high = self.rank(np.array([start, stop]))
        out = np.zeros(stop - start, np.int64)
        out[self(np.arange(low, high)) - start] = 1
        return out

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the runs."""
        return digest("runs", self.stride, self.firsts, self.cumulative)

    def __reduce__(self) -> tuple[Callable[..., Runs], tuple[object, ...]]:
        return _unpack_runs, (pack_integers(self.firsts), pack_integers(self.cumulative), self.stride)


def _unpack_runs(
    firsts: tuple[int, int, str, bytes], cumulative: tuple[int, int, str, bytes], stride: int
) -> Runs:
    return Runs(unpack_integers(firsts), unpack_integers(cumulative), stride)


class Explicit:
    """Starts as they were listed, in any order, repeats allowed: 8 bytes each.

    Parameters
    ----------
    starts : ndarray, shape (window,), int64

    Examples
    --------
    >>> starts = Explicit(np.array([7, 3, 3]))
    >>> starts(np.array([0, 2])), starts.counts(2, 8)
    (array([7, 3]), array([0, 2, 0, 0, 0, 1]))
    """

    __slots__ = ("_ordered", "_starts")

    def __init__(self, starts: np.ndarray) -> None:
        self._starts = np.ascontiguousarray(starts, np.int64)
        self._starts.flags.writeable = False
        self._ordered: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = {id(array): array.nbytes for array in (self._starts, self._ordered) if array is not None}
        return sum(held.values())

    @property
    def rising(self) -> bool:
        """Whether each start lies after the one before."""
        return bool((np.diff(self._starts) > 0).all())

    def __len__(self) -> int:
        return len(self._starts)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the starts of windows, int64, in the shape of ``positions``."""
        return np.asarray(self._starts[positions])

    def _sorted(self) -> np.ndarray:
        """Return the starts in order of rows; sorted when first asked for, not pickled."""
        if self._ordered is None:
            rises = bool((np.diff(self._starts) >= 0).all())
            self._ordered = self._starts if rises else np.sort(self._starts)
        return self._ordered

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Count the starts before each row, int64, whatever the order of the windows."""
        return np.searchsorted(self._sorted(), rows, side="left")

    def slice(self, start: int, stop: int, step: int = 1) -> Explicit:
        """Return the windows of numbers ``range(start, stop, step)``."""
        return Explicit(self._starts[start:stop:step])

    def within(self, begins: np.ndarray, ends: np.ndarray) -> Explicit:
        """Return the windows that start in any of the row ranges, in their order here."""
        if len(begins) == 0:
            return Explicit(self._starts[:0])
        piece = np.searchsorted(begins, self._starts, side="right") - 1
        return Explicit(self._starts[(piece >= 0) & (self._starts < ends[piece])])

    def counts(self, start: int, stop: int) -> np.ndarray:
        """Windows that start at each row of ``[start, stop)``; repeats count."""
        low, high = self.rank(np.array([start, stop]))
        return np.bincount(self._sorted()[low:high] - start, minlength=stop - start)

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the list."""
        return digest("explicit", self._starts)

    def __reduce__(self) -> tuple[Callable[..., Explicit], tuple[object, ...]]:
        return _unpack_explicit, (pack_integers(self._starts),)


def _unpack_explicit(starts: tuple[int, int, str, bytes]) -> Explicit:
    return Explicit(unpack_integers(starts))


def digest(*parts: object) -> str:
    """16 hexadecimal digits of numbers, text and arrays, in order."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part};".encode())
    return state.hexdigest()
