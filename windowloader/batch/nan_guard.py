"""Refuses NaN in batches unless a fill puts it there.

In: the columns of a recipe that nothing fills, its scaler, and the rows of each batch. Out: `MissingDataError` where a
window reads NaN, `ScalerError` where the scaler has no statistics for a window's entity. Checks stored values, each row
once per loader, so that a batch of known rows costs next to nothing; infinite values are values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import ScalerError
from windowloader.rows.strided import Rows
from windowloader.sources.mapping import is_mapped
from windowloader.windows.index import rows_held
from windowloader.windows.missing_policy import entity_name, undeclared_nan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.series.series import Column, Series
    from windowloader.windows.window_set import WindowSet

__all__ = ["GuardedColumns", "NanGuard"]

WHOLE = 1 << 30  # bytes of an array in memory that are checked when a loader is made, not row by row
LOOK = 1 << 20  # bytes that are checked at a time


@dataclass(slots=True, eq=False)
class GuardedColumns:
    """Columns of one variable that a role reads and that nothing fills.

    Parameters
    ----------
    series : Series
    rows : int
        Which of the `Rows` passed to the gather.
    columns : sequence of Column
        Of one variable.
    offsets : ndarray, shape (step,), int64
        Rows from a window's start at which the role reads them.
    done : bool
        Whether all rows of a loader's windows are known to hold no NaN.
    reach : (int, int), optional
        Those rows: first, and one past the last.
    """

    series: Series
    rows: int
    columns: Sequence[Column]
    offsets: np.ndarray
    done: bool = False
    reach: tuple[int, int] | None = None
    _known: np.ndarray | None = field(default=None, repr=False)  # by row of the series, True: holds no NaN

    def __reduce__(self) -> tuple[Any, ...]:
        return GuardedColumns, (self.series, self.rows, self.columns, self.offsets, self.done, self.reach)

    def check(self, base: np.ndarray, at: np.ndarray, rows: np.ndarray) -> None:
        """Raise `MissingDataError` for the first row with NaN.

        Parameters
        ----------
        base : ndarray, shape (row, node | 1, feature)
        at : ndarray of int64
            Rows of ``base``.
        rows : ndarray of int64, in the same shape
            Rows of the series that they are. Two threads may check the same one.
        """
        if self._known is None:
            self._known = np.zeros(self.series.num_steps, np.bool_)
        new = ~self._known[rows]
        if not new.any():
            return
        rows, first = np.unique(rows[new], return_index=True)
        at = at[new][first]
        features = [column.feature for column in self.columns]
        some: Any = slice(None) if features == list(range(base.shape[2])) else features
        size = max(1, LOOK // max(1, base[:1].nbytes))
        for begin in range(0, len(rows), size):
            values = base[at[begin : begin + size]][..., some]
            if np.isnan(np.max(values)):  # the fastest pass that NaN survives
                row, node, place = (int(i) for i in np.argwhere(np.isnan(values))[0])
                raise undeclared_nan(self.series, self.columns[place], int(rows[begin + row]), node)
        self._known[rows] = True
        self.done = self.reach is not None and bool(self._known[slice(*self.reach)].all())

    def check_rows(self, windows: WindowSet, begin: int, rows: Rows) -> None:
        """Raise `MissingDataError` for NaN in rows ``begin, begin + 1, …`` of the series that windows read."""
        read = np.flatnonzero(rows_held(windows.index, self.offsets, begin, begin + len(rows.first)))
        self.check(rows.base, rows.first[read], begin + read)

    def check_array(self, windows: WindowSet) -> None:
        """Check an array in memory at once; rows of storage are checked when they are first used."""
        first, end = windows.row_range
        first, last = self.reach = (
            first + int(self.offsets[0]),
            end - windows.spec.span + int(self.offsets[-1]) + 1,
        )
        view = self.series.variables[self.columns[0].variable].view()
        if view is None or is_mapped(view) or view[first:last].nbytes > WHOLE:
            return
        rows = max(1, LOOK // view[:1].nbytes)
        for begin in range(first, last, rows):
            part = view[begin : min(begin + rows, last)]
            if np.isnan(np.max(part)):
                self.check_rows(windows, begin, Rows(part, np.arange(len(part))))
        self.done = True


@dataclass(slots=True, eq=False)
class NanGuard:
    """What a recipe must not deliver silently.

    Parameters
    ----------
    series : Series
    columns : sequence of GuardedColumns
    unseen : ndarray of bool, shape (entity,), or None
        Entities that the scaler has no statistics for.
    done : bool
        Whether nothing is left to check.
    """

    series: Series
    columns: Sequence[GuardedColumns]
    unseen: np.ndarray | None
    done: bool = False

    def check_set(self, windows: WindowSet) -> None:
        """Refuse what is known about a loader's windows before the first batch: entities, arrays in memory.

        Raises
        ------
        MissingDataError, ScalerError
        """
        borders = self.series.entity_borders
        if self.unseen is not None and borders is not None:
            counts = {
                int(entity): int(windows.index.counts(borders[entity], borders[entity + 1]).sum())
                for entity in np.flatnonzero(self.unseen)
            }
            if total := sum(counts.values()):
                some = [entity for entity, count in counts.items() if count]
                raise self._no_statistics(some, f"{total:,} of {len(windows):,} windows")
        for columns in self.columns:
            columns.check_array(windows)

    def check_batch(
        self, starts: np.ndarray, rows: Sequence[Rows], entity: np.ndarray, begin: int, end: int
    ) -> None:
        """Check the rows of windows ``[begin, end)`` of a batch.

        Parameters
        ----------
        starts : ndarray, shape (batch,), int64
            First row of each window, in the series.
        rows : sequence of Rows
            As passed to the gather.
        entity : ndarray, shape (batch,), int64
        begin, end : int

        Raises
        ------
        MissingDataError, ScalerError
        """
        if self.unseen is not None and self.unseen[entity[begin:end]].any():
            found = np.unique(entity[begin:end])
            raise self._no_statistics(found[self.unseen[found]].tolist(), "windows of this batch")
        for columns in self.columns:
            if not columns.done:
                own, offsets = rows[columns.rows], columns.offsets
                at = own.first[begin:end, np.newaxis] + offsets
                columns.check(own.base, at, starts[begin:end, np.newaxis] + offsets)
        self.done = self.unseen is None and all(columns.done for columns in self.columns)

    def check_rows(self, windows: WindowSet, begin: int, rows: Sequence[Rows]) -> None:
        """Check rows ``begin, begin + 1, …`` of the series, for all windows of a set that read them.

        Raises
        ------
        MissingDataError
        """
        for columns in self.columns:
            if not columns.done:
                columns.check_rows(windows, begin, rows[columns.rows])

    def _no_statistics(self, entities: Sequence[int], whose: str) -> ScalerError:
        named = ", ".join(entity_name(self.series, entity) for entity in entities[:8])
        more = f" and {len(entities) - 8} more" if len(entities) > 8 else ""
        return ScalerError(
            f"the scaler has no statistics for {named}{more}, which {whose} belong to: the set it was fitted on holds "
            "no rows of theirs. Fit it with unseen='pooled' (they are then scaled by the statistics of all entities "
            "that were seen), or with per='feature'; or leave these windows out."
        )
