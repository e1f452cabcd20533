"""Values that are the same for all nodes of a row (clocks, covariates without nodes), as a small table per batch.

In: starts and rows. Out: `Lines`: values as delivered, and where each window finds its own. The table has one number
where the batch has one per node, so plain NumPy computes it; kept clocks are looked up where they are written.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from windowloader.windows.missing import is_missing

from .roles import as_words, cast, delivered_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.rows.strided import Rows
    from windowloader.series.clock import Clock

    from .roles import RowColumn

__all__ = ["KeptClock", "Lines", "RowTable"]

WEEK = 7 * 86_400 * 10**9  # nanoseconds
WEEKLY = ("time_of_day", "day_of_week")  # and their sines and cosines: the same every week
KEPT = 2**20  # clock values that are kept (8 MiB): ten years of five-minute steps


class KeptClock:
    """Clock values of all rows of a series, or of a week that repeats: looked up instead of computed.

    Parameters
    ----------
    clock : Clock
    names : tuple of str
    num_rows : int
        Of the series, or after which values repeat.
    repeats : bool

    Examples
    --------
    >>> from windowloader.series.clock import Clock
    >>> clock = Clock.from_timestamps(("2024-01-01", "6h"), 8, np.array([0, 8]))
    >>> KeptClock(clock, ("time_of_day",), 8).values(["time_of_day"], np.array([[1, 2]])).tolist()
    [[[0.25], [0.5]]]
    """

    __slots__ = ("_of", "_table", "repeats")

    def __init__(self, clock: Clock, names: tuple[str, ...], num_rows: int, repeats: bool = False) -> None:
        self._of, self.repeats = (clock, names, num_rows, repeats), repeats
        self._table = clock.values(names, np.arange(num_rows))

    @classmethod
    def where_small(cls, clock: Clock, names: tuple[str, ...], num_rows: int) -> Clock | KeptClock:
        """Keep the values, or return the clock itself where they would be many."""
        if num_rows * len(names) <= KEPT:
            return cls(clock, names, num_rows)
        regular = (
            len(clock.rows) == 1 and not clock.calendar and all(name.startswith(WEEKLY) for name in names)
        )
        period = WEEK // math.gcd(WEEK, int(clock.steps[0])) if regular else 0
        return cls(clock, names, period, repeats=True) if 0 < period * len(names) <= KEPT else clock

    def values(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Look up clocks by name, as ``Clock.values`` computes them."""
        found = self._table.take(rows % len(self._table) if self.repeats else rows, axis=0)
        return found if tuple(names) == self._of[1] else np.asarray(found[..., self._columns(names)])

    def words(self, names: Sequence[str], dtype: str) -> np.ndarray:
        """Values of all rows as they are delivered, shape (row, name)."""
        return np.ascontiguousarray(as_words(cast(self._table[:, self._columns(names)], dtype)))

    def _columns(self, names: Sequence[str]) -> list[int]:
        return [self._of[1].index(name) for name in names]

    def __reduce__(self) -> tuple[type[KeptClock], tuple[Clock, tuple[str, ...], int, bool]]:
        return KeptClock, self._of  # computed again: a pickle stays small


class Lines(NamedTuple):
    """A table whose line ``first[b] + steps[i]`` holds the row values of step i of window b.

    Parameters
    ----------
    values : ndarray, shape (line, column)
        Words as delivered: float16 by its bits, bool as bytes.
    first : ndarray, shape (batch,), int64
    steps : ndarray, shape (step,), int64
    """

    values: np.ndarray
    first: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, table: np.ndarray, batch: int, begin: int) -> Lines:
        """Lines of a table of shape (window, step, column), whose first window is number ``begin`` of the batch."""
        steps = table.shape[1]
        flat = np.ascontiguousarray(table).reshape(-1, table.shape[2])
        return cls(flat, (np.arange(batch) - begin) * steps, np.arange(steps))

    @classmethod
    def constant(cls, values: np.ndarray, batch: int, steps: int) -> Lines:
        """Repeat the first line of ``values`` for all windows and steps."""
        return cls(values, np.zeros(batch, np.int64), np.zeros(steps, np.int64))

    def table(self, begin: int, end: int) -> np.ndarray:
        """Return the lines of some windows, shape (window, step, column)."""
        return np.asarray(self.values[self.first[begin:end, np.newaxis] + self.steps])


class RowTable:
    """Values and masks of columns that do not depend on the node.

    Parameters
    ----------
    columns : sequence of RowColumn
    clock : Clock, KeptClock or None
    offsets : ndarray, shape (step,), int64
        Rows from a window's start.
    dtype : str
        Delivered.

    Attributes
    ----------
    kept : ndarray or None
        Line n has the values of row n of the series, where they are kept.
    """

    def __init__(
        self, columns: Sequence[RowColumn], clock: Clock | KeptClock | None, offsets: np.ndarray, dtype: str
    ) -> None:
        self._columns, self._clock, self._offsets, self._dtype = columns, clock, offsets, dtype
        self.kept: np.ndarray | None = None
        clocks = [column.clock for column in columns]
        if not clocks:
            self.kept = as_words(np.empty((0, 0), delivered_dtype(dtype)))
        elif all(clocks) and isinstance(clock, KeptClock) and not clock.repeats:
            self.kept = clock.words(clocks, dtype)

    def lines(
        self, starts: np.ndarray, rows: Sequence[Rows], entity: np.ndarray, begin: int, end: int
    ) -> Lines:
        """Values of windows ``[begin, end)`` of a batch.

        Parameters
        ----------
        starts : ndarray, shape (batch,), int64
        rows : sequence of Rows
            As passed to the gather.
        entity : ndarray, shape (batch,), int64
        begin, end : int
        """
        if self.kept is not None:
            return Lines(self.kept, starts, self._offsets)
        window = slice(begin, end)
        read = starts[window, np.newaxis] + self._offsets
        values = np.empty((*read.shape, len(self._columns)), np.float64)
        for k, column in enumerate(self._columns):
            if column.clock:
                assert self._clock is not None
                values[..., k] = self._clock.values([column.clock], read)[..., 0]
            else:
                values[..., k] = _scaled(column, self._raw(column, rows, window), entity[window])
        return Lines.of(as_words(cast(values, self._dtype)), len(starts), begin)

    def seen(self, starts: np.ndarray, rows: Sequence[Rows], begin: int, end: int) -> Lines:
        """Say which of the values were observed, uint8."""
        if all(column.sentinel is None for column in self._columns):
            return Lines.constant(np.ones((1, len(self._columns)), np.uint8), len(starts), len(self._offsets))
        window = slice(begin, end)
        observed = np.ones((end - begin, len(self._offsets), len(self._columns)), np.uint8)
        for k, column in enumerate(self._columns):
            if column.sentinel is not None:
                observed[..., k] = ~is_missing(self._raw(column, rows, window), column.sentinel)
        return Lines.of(observed, len(starts), begin)

    def _raw(self, column: RowColumn, rows: Sequence[Rows], window: slice) -> np.ndarray:
        own = rows[column.rows]
        return np.asarray(own.base[own.first[window, np.newaxis] + self._offsets, 0, column.feature])


def _scaled(column: RowColumn, raw: np.ndarray, entity: np.ndarray) -> np.ndarray:
    assert column.shift is not None  # a variable's feature has both
    assert column.factor is not None
    whose = (entity if len(column.shift) > 1 else np.zeros_like(entity))[:, np.newaxis]
    moved = raw.astype(np.float64) - column.shift[whose]
    scaled = moved / column.factor[whose] if column.divide else moved * column.factor[whose]
    if column.sentinel is None or column.fill is None:
        return np.asarray(scaled)
    return np.where(is_missing(raw, column.sentinel), column.fill, scaled)
