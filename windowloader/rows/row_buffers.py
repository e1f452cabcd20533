"""Room for rows that are read directly, and which of it holds what, batch after batch.

In: memory, windows of one batch after another. Out: `RowBuffers`, and from `RowBufferSchedule` where each row goes
and which ones must be read. Pure arithmetic, which a plan and the reading itself go through alike; never reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from windowloader.errors import MemoryBudgetError
from windowloader.util.units import format_bytes

from .rows import merge

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Laid", "RowBufferSchedule", "RowBuffers"]

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBuffers:
    """How much room there is for rows that are read directly.

    Parameters
    ----------
    rows : int
        Of a buffer: at least a window's span.
    count : int
        Row buffers.

    Examples
    --------
    >>> RowBuffers.within(1000, row_bytes=10, span=6, windows=8, wanted=4)
    RowBuffers(rows=25, count=4)
    """

    rows: int
    count: int

    @classmethod
    def within(cls, memory: int, *, row_bytes: int, span: int, windows: int, wanted: int) -> RowBuffers:
        """Divide memory into buffers.

        Parameters
        ----------
        memory : int
            Bytes for all of them.
        row_bytes, span : int
            Of a row, all variables together; rows of a window.
        windows : int
            Windows of a batch: no buffer needs to hold more.
        wanted : int
            Batches under way at a time, and one whose rows may be used again.

        Raises
        ------
        MemoryBudgetError
            Where not one window fits.
        """
        held = memory // max(row_bytes, 1)
        if held < span:
            raise MemoryBudgetError(
                f"a window of {span} rows of {row_bytes} bytes is {format_bytes(span * row_bytes)}, and memory= leaves "
                f"{format_bytes(memory)} for it. Pass at least {format_bytes(span * row_bytes - memory)} more, or read "
                "fewer nodes or features."
            )
        count = max(1, min(wanted, held // span))
        return cls(rows=min(windows * span, held // count), count=count)


class Laid(NamedTuple):
    """What a buffer is filled with: rows of some windows, each once."""

    buffer: int
    rows: NDArray[np.int64]
    """Rows of the series, rising."""
    places: NDArray[np.int64]
    """Where each lies on the buffer."""
    first: NDArray[np.int64]
    """Where each window begins on the buffer."""
    wanted: NDArray[np.bool_]
    """Which of ``rows`` no other buffer has."""
    shared: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]
    """Row buffers that have others: which, places there, places here."""
    moved: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Places of rows this buffer already has, and where they move; never further back, so one by one is safe."""

    def runs(self) -> list[tuple[int, int, int]]:
        """Return runs of wanted rows that follow one another, in the series and on the buffer: begin, end, place."""
        rows, places = self.rows[self.wanted], self.places[self.wanted]
        if not len(rows):
            return []
        cuts = np.flatnonzero((np.diff(rows) != 1) | (np.diff(places) != 1)) + 1
        begins, ends = np.append(0, cuts), np.append(cuts, len(rows))
        return [
            (int(rows[begin]), int(rows[end - 1]) + 1, int(places[begin]))
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
        ]


class RowBufferSchedule:
    """Which buffer holds what, batch after batch: arithmetic that a plan and the reading itself go through alike.

    Parameters
    ----------
    buffers : RowBuffers
    offsets : ndarray, int64
        Rows that a window reads, counted from its start.
    span : int

    Examples
    --------
    >>> work = RowBufferSchedule(RowBuffers(rows=6, count=2), np.arange(3), 3)
    >>> work.fit(np.array([0, 1, 2, 9]), 0), work.lay(np.array([0, 1, 2])).runs()
    (3, [(0, 5, 0)])
    >>> work.lay(np.array([3, 4])).runs()
    [(5, 7, 2)]
    """

    def __init__(self, buffers: RowBuffers, offsets: NDArray[np.int64], span: int) -> None:
        self.buffers, self.offsets, self.span = buffers, offsets, span
        self._held = [(_NONE, _NONE)] * buffers.count
        self._next = 0

    def fit(self, starts: NDArray[np.int64], begin: int) -> int:
        """Return up to which window a buffer holds the rows; at least one more than ``begin``."""
        low, high = begin + 1, len(starts)
        while low < high:  # more windows never need fewer rows
            middle = (low + high + 1) // 2
            opens, ends, _ = merge(starts[begin:middle], self.span)
            low, high = (middle, high) if (ends - opens).sum() <= self.buffers.rows else (low, middle - 1)
        return low

    @property
    def upcoming(self) -> int:
        """The buffer that `lay` takes next: the one that was filled longest ago."""
        return self._next

    def lay(self, starts: NDArray[np.int64]) -> Laid:
        """Fill the next buffer with the rows of some windows."""
        opens, _, first = merge(starts, self.span)
        rows = np.unique(starts[:, np.newaxis] + self.offsets)
        shift = np.empty(len(opens), np.int64)
        shift[np.searchsorted(opens, starts, side="right") - 1] = first - starts
        places = rows + shift[np.searchsorted(opens, rows, side="right") - 1]
        buffer, count = self._next, self.buffers.count
        wanted, shared = np.ones(len(rows), np.bool_), []
        for age in range(1, count):
            other = (buffer - age) % count
            has, where = self._held[other]
            if not len(has):
                continue
            at = np.minimum(np.searchsorted(has, rows), len(has) - 1)
            there = wanted & (has[at] == rows)
            if there.any():
                shared.append((other, where[at[there]], places[there]))
                wanted &= ~there
        moved = (_NONE, _NONE)
        has, where = self._held[buffer]
        if len(has):
            at = np.minimum(np.searchsorted(has, rows), len(has) - 1)
            there = wanted & (has[at] == rows) & (where[at] >= places)
            moved = where[at[there]], places[there]
            wanted &= ~there
        self._held[buffer] = (rows, places)
        self._next = (buffer + 1) % count
        return Laid(buffer, rows, places, first, wanted, shared, moved)
