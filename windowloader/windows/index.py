"""Starts of windows: runs of equally spaced starts, or a list where they are scattered.

In: rows where runs of starts begin, and how many each has. Out: `Starts`, numbered in order. Never knows of data or
parts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from windowloader.series.packed import pack_integers, unpack_integers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Explicit", "Runs", "Starts", "digest", "rows_held", "true_ranges", "window_sums"]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs of starts that lie ``stride`` rows apart: 16 bytes per run, for any number of windows.

    Parameters
    ----------
    firsts : ndarray, shape (run,), int64
        First start of each run, rising; a run ends before the next begins.
    cumulative : ndarray, shape (run + 1,), int64
        Number of windows before each run, and the total at the end. No run is empty.
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
        """Make runs from first starts and counts; empty runs are dropped."""
        filled = counts > 0
        cumulative = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts[filled], dtype=np.int64)))
        return cls(np.ascontiguousarray(firsts[filled], np.int64), cumulative, int(stride))

    @property
    def nbytes(self) -> int:
        """Size in memory in bytes."""
        return int(self.firsts.nbytes + self.cumulative.nbytes)

    @property
    def rising(self) -> bool:
        """Whether window numbers follow the rows: runs always rise."""
        return True

    def __len__(self) -> int:
        return int(self.cumulative[-1])

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the starts of windows, int64, in the shape of ``positions``, which lie in ``[0, len)``."""
        if len(self.firsts) == 1:  # the common case, on the path of every batch
            first = int(self.firsts[0])
            return np.asarray(positions + first if self.stride == 1 else positions * self.stride + first)
        run = np.searchsorted(self.cumulative, positions, side="right") - 1
        return np.asarray(self.firsts[run] + (positions - self.cumulative[run]) * self.stride)

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Count the starts before each row, int64."""
        rows = np.asarray(rows, np.int64)
        if len(self.firsts) == 0:
            return np.zeros(rows.shape, np.int64)
        run = np.searchsorted(self.firsts, rows, side="left") - 1  # the last run that starts before the row
        begun = -(-(rows - self.firsts[run]) // self.stride)
        inside = np.minimum(begun, self.cumulative[run + 1] - self.cumulative[run])
        return np.where(run < 0, 0, self.cumulative[run] + inside)

    def gaps(self, rows: int) -> np.ndarray:
        """Return the numbers of the windows after whose start the next one comes more than ``rows`` later."""
        ends = np.arange(len(self) - 1) if self.stride > rows else self.cumulative[1:-1] - 1
        return np.asarray(ends[self(ends + 1) - self(ends) > rows])

    def slice(self, start: int, stop: int, step: int = 1) -> Runs:
        """Return the windows with numbers ``range(start, stop, step)``, step at least 1."""
        begin = np.maximum(self.cumulative[:-1], start)
        number = start - (-(begin - start) // step) * step  # the first wanted number in the run or after it
        counts = -(-(np.minimum(self.cumulative[1:], stop) - number) // step)
        firsts = self.firsts + (number - self.cumulative[:-1]) * self.stride
        return Runs.of(firsts, counts, self.stride * step)

    def within(self, begins: np.ndarray, ends: np.ndarray) -> Runs:
        """Return the windows that start in any row range ``[begin, end)``; ranges rise without overlap."""
        low, high = self.rank(begins), self.rank(ends)
        filled = high > low
        low, high = low[filled], high[filled]
        if len(low) == 0:
            return Runs.of(low, low, self.stride)
        # Between neighbouring cuts all windows lie in one run, and either in one range or in none.
        cuts = np.sort(np.concatenate((self.cumulative, low, high)), kind="stable")  # merges what is sorted
        cuts, counts = cuts[:-1], np.diff(cuts)
        piece = np.searchsorted(low, cuts, side="right") - 1
        inside = (piece >= 0) & (cuts < high[piece])
        return Runs.of(self(cuts[inside]), counts[inside], self.stride)

    def counts(self, start: int, stop: int) -> np.ndarray:
        """Count the windows that start at each row of ``[start, stop)``, int64; rows may lie outside the series."""
        low, high = self.rank(np.array([start, stop]))
        out = np.zeros(stop - start, np.int64)
        out[self(np.arange(low, high)) - start] = 1
        return out

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits of the runs."""
        return digest("runs", self.stride, self.firsts, self.cumulative)

    def __reduce__(self) -> tuple[Callable[..., Runs], tuple[object, ...]]:
        return _unpack_runs, (pack_integers(self.firsts), pack_integers(self.cumulative), self.stride)


def _unpack_runs(firsts: bytes, cumulative: bytes, stride: int) -> Runs:
    return Runs(unpack_integers(firsts), unpack_integers(cumulative), stride)


@dataclass(frozen=True, slots=True, eq=False)
class Explicit:
    """A list of starts, in any order and with repeats: 8 bytes per window, 16 where they do not rise.

    Parameters
    ----------
    starts : ndarray, shape (window,), int64

    Examples
    --------
    >>> starts = Explicit(np.array([7, 3, 3]))
    >>> starts(np.array([0, 2])), starts.counts(2, 8)
    (array([7, 3]), array([0, 2, 0, 0, 0, 1]))
    """

    starts: np.ndarray
    rising: bool = field(init=False)
    _sorted: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        starts = np.ascontiguousarray(self.starts, np.int64)
        steps = np.diff(starts)
        object.__setattr__(self, "starts", starts)
        object.__setattr__(self, "rising", bool((steps > 0).all()))
        object.__setattr__(self, "_sorted", starts if (steps >= 0).all() else np.sort(starts))

    def __len__(self) -> int:
        return len(self.starts)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the starts of windows, int64, in the shape of ``positions``, which lie in ``[0, len)``."""
        return np.asarray(self.starts[positions])

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Count the starts before each row, int64, whatever the order of the windows."""
        return np.searchsorted(self._sorted, rows, side="left")

    def gaps(self, rows: int) -> np.ndarray:
        """Return the numbers of the windows after whose start the next one comes more than ``rows`` later."""
        return np.flatnonzero(np.diff(self.starts) > rows)

    def slice(self, start: int, stop: int, step: int = 1) -> Explicit:
        """Return the windows with numbers ``range(start, stop, step)``, step at least 1."""
        return Explicit(self.starts[start:stop:step])

    def within(self, begins: np.ndarray, ends: np.ndarray) -> Explicit:
        """Return the windows that start in any row range ``[begin, end)``, in their order here."""
        if len(begins) == 0:
            return Explicit(self.starts[:0])
        piece = np.searchsorted(begins, self.starts, side="right") - 1
        return Explicit(self.starts[(piece >= 0) & (self.starts < ends[piece])])

    def counts(self, start: int, stop: int) -> np.ndarray:
        """Count the windows that start at each row of ``[start, stop)``, int64, repeats included."""
        low, high = self.rank(np.array([start, stop]))
        return np.bincount(self._sorted[low:high] - start, minlength=stop - start)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits of the list."""
        return digest("explicit", self.starts)

    def __reduce__(self) -> tuple[Callable[..., Explicit], tuple[object, ...]]:
        return _unpack_explicit, (pack_integers(self.starts),)


def _unpack_explicit(starts: bytes) -> Explicit:
    return Explicit(unpack_integers(starts))


Starts: TypeAlias = Runs | Explicit


def digest(*parts: object) -> str:
    """Return 16 hexadecimal digits of numbers, text and arrays, in order."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part};".encode())
    return state.hexdigest()


def true_ranges(pieces: Iterable[np.ndarray], first: int) -> np.ndarray:
    """Find the ranges of rows in which a condition holds.

    Parameters
    ----------
    pieces : iterable of ndarray of bool
        The condition, row by row, in consecutive pieces that are not empty.
    first : int
        Number of the first row.

    Returns
    -------
    ndarray, shape (range, 2), int64
        Ranges ``[begin, end)``, rising.

    Examples
    --------
    >>> true_ranges([np.array([False, True]), np.array([True, False, True])], 10)
    array([[11, 13],
           [14, 15]])
    """
    edges, before, row = [np.empty(0, np.int64)], False, first
    for piece in pieces:
        edges.append(np.flatnonzero(np.diff(piece, prepend=before)) + row)
        before, row = bool(piece[-1]), row + len(piece)
    if before:
        edges.append(np.array([row]))
    return np.concatenate(edges).reshape(-1, 2)


def window_sums(values: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
    """Sum the values at ``i + offsets`` for each i in ``[0, size)``.

    Parameters
    ----------
    values : ndarray, shape (row,), int64
        At least up to row ``size + offsets[-1]``.
    offsets : ndarray, shape (step,), int64
        Rising, at least 0.
    size : int

    Returns
    -------
    ndarray, shape (size,), int64

    Examples
    --------
    >>> window_sums(np.array([1, 2, 3, 4, 5]), np.array([0, 2]), 3)
    array([4, 6, 8])
    """
    out = np.zeros(size, np.int64)
    gaps = np.diff(offsets)
    step = int(gaps.min(initial=np.iinfo(np.int64).max))
    for run in np.split(offsets, np.flatnonzero(gaps != step) + 1):
        if len(run) == 1:
            out += values[run[0] : run[0] + size]
        elif len(run):  # equal steps: differences of running sums along every step-th row
            read = values[run[0] : run[-1] + size]
            sums = np.zeros((-(-len(read) // step) + 1) * step, np.int64)
            sums[step : step + len(read)] = read
            np.cumsum(sums.reshape(-1, step), axis=0, out=sums.reshape(-1, step))
            out += sums[len(run) * step :][:size] - sums[:size]
    return out


def rows_held(starts: Starts, offsets: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Count the windows that read each row of ``[start, stop)`` at one of the offsets from their start."""
    if len(offsets) == 0:
        return np.zeros(stop - start, np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    begun = starts.counts(start - last, stop - first)  # row r is read by the windows that start at r - offset
    return window_sums(begun, (last - offsets)[::-1], stop - start)
