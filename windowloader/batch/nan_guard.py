"""No NaN reaches a batch unless a fill puts it there: the one place that says so.

In: the columns of a recipe that nothing fills, its scaler, and the rows of each batch. Out: `MissingDataError` where a
window reads NaN, `ScalerError` where the scaler has no statistics for a window's entity. Looks at stored values, each
row once for a loader, so that a batch of known rows costs next to nothing; infinite values are values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import ScalerError
from windowloader.rows.strided import StridedBuffer
from windowloader.sources.mapping import mapping_of
from windowloader.windows.missing_policy import entity_name, undeclared_nan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from windowloader.errors import MissingDataError
    from windowloader.rows.strided import BufferLayout, Rows
    from windowloader.scaling.affine import Affine
    from windowloader.series.series import Column, Series
    from windowloader.windows.window_set import WindowSet

__all__ = ["GuardedColumns", "NanGuard", "unusable", "watch"]

AT_ONCE = 1 << 30  # bytes of an array in memory that are looked at when a loader is made, not row by row
LOOK = 1 << 20  # of them at a time


@dataclass(slots=True, eq=False)
class GuardedColumns:
    """Columns of one variable that are read at the same offsets and that nothing fills.

    Parameters
    ----------
    rows : int
        Which of the `Rows` handed to the gather.
    variable : int
        Which variable of the series.
    columns : sequence of Column
    offsets : ndarray, shape (step,), int64
        Rows from a window's start at which any role reads them.
    done : bool
        Whether all rows of a loader's windows are known to hold no NaN.
    reach : (int, int), optional
        Those rows: first, and one past the last.
    """

    rows: int
    variable: int
    columns: Sequence[Column]
    offsets: np.ndarray
    done: bool = False
    reach: tuple[int, int] | None = None
    _known: np.ndarray | None = field(default=None, repr=False)  # by row of the series, 1: holds no NaN
    _left: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64), repr=False)  # rows not known
    _runs: tuple[BufferLayout, np.ndarray, int, int] | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return GuardedColumns, (self.rows, self.variable, self.columns, self.offsets, self.done, self.reach)

    @property
    def features(self) -> np.ndarray:
        """Which features of the variable they are."""
        return np.array([column.feature for column in self.columns], np.int64)

    def find(
        self, series: Series, flat: StridedBuffer, first: np.ndarray, starts: np.ndarray, offsets: np.ndarray,
        begin: int, end: int,
    ) -> tuple[int, int] | None:  # fmt: skip
        """Return window and step of the first row with NaN among windows ``[begin, end)``."""
        from .nan_kernels import first_nan

        if self._known is None:
            self._known = np.zeros(series.num_steps, np.uint8)
            first_row, end_row = self.reach or (0, series.num_steps)
            self._left[0] = end_row - first_row
        if self._runs is None or self._runs[0] != flat.kind:
            self._runs = flat.kind, *self._runs_of(flat.kind, series.variables[self.variable].num_nodes)
        kind, runs, width, step = self._runs
        found = first_nan(
            flat.values, kind.half, kind.origin, kind.steps[0], runs, width, step, first, starts, offsets,
            begin, end, self._known, self._left,
        )  # fmt: skip
        if found >= 0:
            return divmod(found, len(offsets))
        if self._left[0] <= 0 and self.reach is not None:
            self._left[0] = np.count_nonzero(self._known[slice(*self.reach)] == 0)
            self.done = not self._left[0]
        return None

    def _runs_of(self, kind: BufferLayout, nodes: int) -> tuple[np.ndarray, int, int]:
        """Say where the columns lie in a row: elements before each run, elements of a run, and between two of them."""
        _, step, feature_step = kind.steps
        runs = self.features * feature_step
        if (
            feature_step == 1 and step == len(runs) and (np.diff(runs) == 1).all()
        ):  # all features of each node
            return runs[:1], nodes * step, 1
        return runs, nodes, step


@dataclass(frozen=True, slots=True, eq=False)
class NanGuard:
    """What a recipe must not deliver in silence.

    Parameters
    ----------
    series : Series
    watched : sequence of GuardedColumns
    unseen : ndarray of bool, shape (entity,), or None
        Entities that the scaler has no statistics for.
    """

    series: Series
    watched: Sequence[GuardedColumns]
    unseen: np.ndarray | None

    def check_set(self, windows: WindowSet) -> None:
        """Refuse what is known of a loader's windows before the first batch: entities, arrays in memory.

        Raises
        ------
        MissingDataError, ScalerError
        """
        if self.unseen is not None:
            self._check_entities(windows)
        from windowloader.rows.strided import Rows

        first, last = windows.row_range
        for one in self.watched:
            one.reach = first, last
            view = self.series.variables[one.variable].view()
            if view is None or mapping_of(view) is not None or view[first:last].nbytes > AT_ONCE:
                continue  # stored rows are looked at when they come into use
            rows = max(1, LOOK // view[:1].nbytes)
            for begin in range(first, last, rows):
                part = view[begin : min(begin + rows, last)]
                if np.isnan(np.max(part)):  # the fastest pass that NaN survives
                    self._check_rows(one, windows, begin, Rows(part, np.arange(len(part))))
            one.done = True

    def check_batch(
        self, starts: np.ndarray, rows: Sequence[Rows], entity: np.ndarray, begin: int, end: int,
        flats: Sequence[StridedBuffer],
    ) -> None:  # fmt: skip
        """Look at the rows of windows ``[begin, end)`` of a batch.

        Parameters
        ----------
        starts : ndarray, shape (batch,), int64
            First row of each window, in the series.
        rows : sequence of Rows
            As handed to the gather.
        entity : ndarray, shape (batch,), int64
        begin, end : int
        flats : sequence of StridedBuffer
            Of the rows.

        Raises
        ------
        MissingDataError, ScalerError
        """
        if self.unseen is not None and self.unseen[entity[begin:end]].any():
            found = np.unique(entity[begin:end])
            raise self._no_statistics(found[self.unseen[found]].tolist(), "windows of this batch")
        for one in self.watched:
            if one.done:
                continue
            own = rows[one.rows]
            at = one.find(self.series, flats[one.rows], own.first, starts, one.offsets, begin, end)
            if at is not None:
                offset = int(one.offsets[at[1]])
                raise self._error(one, int(starts[at[0]]) + offset, own.base[own.first[at[0]] + offset])

    def check_rows(self, windows: WindowSet, begin: int, rows: Sequence[Rows]) -> None:
        """Look at rows ``begin, begin + 1, …`` of the series, for all windows of a set that read them.

        Raises
        ------
        MissingDataError
        """
        for one in self.watched:
            if not one.done:
                self._check_rows(one, windows, begin, rows[one.rows])

    def _check_rows(self, one: GuardedColumns, windows: WindowSet, begin: int, rows: Rows) -> None:
        from windowloader.windows.index import rows_held

        read = np.flatnonzero(rows_held(windows.index, one.offsets, begin, begin + len(rows.first)))
        first = rows.first[read]
        at = one.find(
            self.series, StridedBuffer.of(rows.base), first, begin + read, np.zeros(1, np.int64), 0, len(read)
        )
        if at is not None:
            raise self._error(one, begin + int(read[at[0]]), rows.base[first[at[0]]])

    def _error(self, one: GuardedColumns, row: int, values: np.ndarray) -> MissingDataError:
        node, place = (int(i) for i in np.argwhere(np.isnan(values[:, one.features]))[0])
        return undeclared_nan(self.series, one.columns[place], row, node)

    def _check_entities(self, windows: WindowSet) -> None:
        assert self.unseen is not None
        borders = self.series.entity_borders
        assert borders is not None
        held = [
            (int(entity), int(windows.index.counts(borders[entity], borders[entity + 1]).sum()))
            for entity in np.flatnonzero(self.unseen)
        ]
        count = sum(number for _, number in held)
        if count:
            entities = [entity for entity, number in held if number]
            raise self._no_statistics(entities, f"{count:,} of {len(windows):,} windows")

    def _no_statistics(self, entities: Sequence[int], whose: str) -> ScalerError:
        named = ", ".join(entity_name(self.series, entity) for entity in entities[:8])
        more = f" and {len(entities) - 8} more" if len(entities) > 8 else ""
        return ScalerError(
            f"the scaler has no statistics for {named}{more}, which {whose} belong to: the set it was fitted on holds "
            "no rows of theirs. Fit it with unseen='pooled' (they are then scaled by the statistics of all entities "
            "that were seen), or with per='feature'; or leave these windows out."
        )


def unusable(affine: Affine) -> np.ndarray:
    """Say which statistics, shape (entity or 1, node or 1), would make NaN of some value, infinite ones included."""
    bad = ~np.isfinite(affine.shift) | ~np.isfinite(affine.factor) | (affine.factor == 0)
    return np.asarray(bad)


def watch(
    columns: Iterable[tuple[Column, np.ndarray]], rows: Mapping[int, int]
) -> tuple[GuardedColumns, ...]:
    """Bring together what nothing fills.

    Parameters
    ----------
    columns : iterable of (Column, ndarray)
        Each with the offsets at which a role reads it; columns may come several times.
    rows : mapping of int to int
        Which of the `Rows` handed to the gather are those of a variable of the series.

    Returns
    -------
    tuple of GuardedColumns
    """
    read: dict[tuple[int, int], tuple[Column, np.ndarray]] = {}
    for column, offsets in columns:
        key = column.variable, column.feature
        both = np.union1d(read[key][1], offsets) if key in read else offsets
        read[key] = column, both
    alike: dict[tuple[int, bytes], list[tuple[Column, np.ndarray]]] = {}
    for key in sorted(read):
        alike.setdefault((key[0], read[key][1].tobytes()), []).append(read[key])
    return tuple(
        GuardedColumns(rows[variable], variable, tuple(column for column, _ in found), found[0][1])
        for (variable, _), found in alike.items()
    )
