"""What is the same for all nodes of a row: clocks, and covariates without nodes, as a small table a batch.

In: starts and rows. Out: `Lines`: values as delivered, and where each window finds its own. These are a column's worth
of numbers where the batch has a node's worth, so plain NumPy makes them; clocks that are kept are looked up where they
are written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from windowloader.windows.missing import is_missing

from .delivery import delivered_dtype
from .roles import cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.rows.strided import Rows
    from windowloader.series.clock import Clock

    from .roles import RowColumn

__all__ = ["KeptClock", "Lines", "RowTable"]

KEPT = 2**18  # values of clocks that are kept, 2 MiB: a year of five-minute steps, twice
WEEK = 7 * 86_400 * 10**9  # nanoseconds
WEEKLY = ("time_of_day", "day_of_week")  # and their sines and cosines: the same every week


class KeptClock:
    """Clocks of all rows of a series, or of a week that repeats: a batch looks them up instead of making them.

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

    __slots__ = ("_of", "_table", "period")

    def __init__(self, clock: Clock, names: tuple[str, ...], num_rows: int, repeats: bool = False) -> None:
        self._of = (clock, names, num_rows, repeats)
        self._table = clock.values(names, np.arange(num_rows))
        self.period = num_rows if repeats else 0

    @classmethod
    def where_small(cls, clock: Clock, names: tuple[str, ...], num_rows: int) -> Clock | KeptClock:
        """Keep the values, or return the clock itself where they would be many."""
        if num_rows * len(names) <= KEPT:
            return cls(clock, names, num_rows)
        period = _period(clock, names)
        return cls(clock, names, period, repeats=True) if 0 < period * len(names) <= KEPT else clock

    def values(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Look up clocks by name, as ``Clock.values`` makes them."""
        kept = self._of[1]
        found = self._table.take(rows % self.period if self.period else rows, axis=0)
        return found if tuple(names) == kept else found[..., [kept.index(name) for name in names]]

    def words(self, names: Sequence[str], dtype: str, beyond: int) -> np.ndarray:
        """Values of all rows as they are delivered, shape (row, name); ``beyond`` a period that many again."""
        wanted = [self._of[1].index(name) for name in names]
        rows = np.arange(len(self._table) + (beyond if self.period else 0)) % len(self._table)
        return np.ascontiguousarray(cast(self._table[rows][:, wanted], dtype))

    def __reduce__(self) -> tuple[type[KeptClock], tuple[Clock, tuple[str, ...], int, bool]]:
        return KeptClock, self._of  # made again: a pickle stays small


def _period(clock: Clock, names: Sequence[str]) -> int:
    """After how many rows the values repeat; 0 where they do not, or not simply."""
    regular = len(clock.rows) == 1 and not clock.calendar
    if not regular or not all(name.startswith(WEEKLY) for name in names):
        return 0
    return WEEK // math.gcd(WEEK, int(clock.steps[0]))


class Lines(NamedTuple):
    """What is the same for all nodes of a row: window b finds that of its step i in line ``first[b] + steps[i]``.

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

    def table(self, begin: int, end: int) -> np.ndarray:
        """Return the lines of some windows, shape (window, step, column)."""
        return np.asarray(self.values[self.first[begin:end, np.newaxis] + self.steps])


@dataclass(frozen=True, slots=True, eq=False)
class RowTable:
    """Values and masks of columns that do not depend on the node; asked with the windows of a batch.

    Parameters
    ----------
    columns : sequence of RowColumn
    clock : Clock, KeptClock or None
    offsets : ndarray, shape (step,), int64
        Rows from a window's start.
    dtype : str
        Delivered.
    """

    columns: Sequence[RowColumn]
    clock: Clock | KeptClock | None
    offsets: np.ndarray
    dtype: str
    _kept: np.ndarray | None = field(init=False, repr=False)
    _period: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        kept, period = None, 0
        clocks = [column.clock for column in self.columns]
        if isinstance(self.clock, KeptClock) and bool(clocks) and all(clocks):
            kept = _as_words(self.clock.words(clocks, self.dtype, int(self.offsets[-1]) + 1))
            period = self.clock.period
        elif not clocks:
            kept = np.empty((0, 0), _as_words(np.empty(0, delivered_dtype(self.dtype))).dtype)
        object.__setattr__(self, "_kept", kept)
        object.__setattr__(self, "_period", period)

    def lines(
        self, starts: np.ndarray, rows: Sequence[Rows], entity: np.ndarray, begin: int, end: int
    ) -> Lines:
        """Values of windows ``[begin, end)`` of a batch.

        Parameters
        ----------
        starts : ndarray, shape (batch,), int64
        rows : sequence of Rows
            As handed to the gather.
        entity : ndarray, shape (batch,), int64
        begin, end : int
        """
        if self._kept is not None:
            return Lines(self._kept, starts % self._period if self._period else starts, self.offsets)
        values = _as_words(cast(self._made(starts, rows, entity, slice(begin, end))[0], self.dtype))
        return self._in_turn(values, len(starts), begin)

    def seen(
        self, starts: np.ndarray, rows: Sequence[Rows], entity: np.ndarray, begin: int, end: int
    ) -> Lines:
        """Say which of the values were observed, uint8."""
        if self._kept is not None:
            shape = (end - begin, len(self.offsets), len(self.columns))
            return self._in_turn(np.ones(shape, np.uint8), len(starts), begin)
        return self._in_turn(self._made(starts, rows, entity, slice(begin, end))[1], len(starts), begin)

    def _in_turn(self, table: np.ndarray, batch: int, begin: int) -> Lines:
        """Lines that lie one after another, those of window ``begin`` first."""
        steps = len(self.offsets)
        flat = np.ascontiguousarray(table).reshape(-1, len(self.columns))
        return Lines(flat, (np.arange(batch) - begin) * steps, np.arange(steps))

    def _made(
        self, starts: np.ndarray, rows: Sequence[Rows], entity: np.ndarray, window: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values, float64, and masks of some windows, shape (window, step, column)."""
        read = starts[window, np.newaxis] + self.offsets
        shape = (*read.shape, len(self.columns))
        values, observed = np.empty(shape, np.float64), np.ones(shape, np.uint8)
        clocks = [column.clock for column in self.columns if column.clock]
        if clocks and self.clock is not None:
            at = [k for k, column in enumerate(self.columns) if column.clock]
            values[..., at] = self.clock.values(clocks, read)
        for k, column in enumerate(self.columns):
            if not column.clock:
                _fill_column(
                    values[..., k],
                    observed[..., k],
                    column,
                    rows[column.rows],
                    self.offsets,
                    entity[window],
                    window,
                )
        return values, observed


def _as_words(values: np.ndarray) -> np.ndarray:
    """Return values as the loops write them: float16 as its bits, bool as bytes."""
    if values.dtype == np.float16:
        return values.view(np.uint16)
    return values.view(np.uint8) if values.dtype == np.bool_ else values


def _fill_column(
    values: np.ndarray,
    observed: np.ndarray,
    column: RowColumn,
    rows: Rows,
    offsets: np.ndarray,
    entity: np.ndarray,
    window: slice,
) -> None:
    raw = rows.base[rows.first[window, np.newaxis] + offsets, 0, column.feature]
    assert column.shift is not None  # a variable's feature has both
    assert column.factor is not None
    whose = (entity if len(column.shift) > 1 else np.zeros_like(entity))[:, np.newaxis]
    moved = raw.astype(np.float64) - column.shift[whose]
    scaled = moved / column.factor[whose] if column.divide else moved * column.factor[whose]
    if column.sentinel is not None:
        gone = is_missing(raw, column.sentinel)
        observed[...] = ~gone
        if column.fill is not None:
            scaled = np.where(gone, column.fill, scaled)
    values[...] = scaled
