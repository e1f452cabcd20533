"""Which windows read too much that is missing.

In: a series, a spec, the starts. Out: the starts that `max_missing` leaves, or the first missing value that a
window reads. Never decides what is missing; `missing` counts that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import MissingDataError, WindowSpecError
from windowloader.sources.mapping import unchanged

from .missing import RowCounts, count_variables
from .sliding import window_sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.series.series import Column, Series
    from windowloader.series.variable import Variable

    from .index import Runs, Starts
    from .spec import WindowSpec

__all__ = ["leave_out", "refuse"]

CHUNK = 1 << 17  # starts looked at together; a multiple of 64


@dataclass(frozen=True, slots=True, eq=False)
class RoleReads:
    """What windows read in one role, as counts of missing values.

    Parameters
    ----------
    name : str
    offsets : ndarray, shape (step,), int64
        Rows from the start.
    columns : sequence of Column
    counts : sequence of (RowCounts, int)
        Of the columns with time that can miss, with the nodes that each count stands for.
    constant : int
        Missing values of every row: those of columns without time.
    cells : int
        Values a window reads in this role.
    """

    name: str
    offsets: np.ndarray
    columns: Sequence[Column]
    counts: Sequence[tuple[RowCounts, int]]
    constant: int
    cells: int

    def per_row(self, start: int, stop: int) -> np.ndarray | None:
        """Count missing values in each row of ``[start, stop)``; None where nothing is missing."""
        out = np.full(stop - start, self.constant, np.int64) if self.constant else None
        for counts, nodes in self.counts:
            found = counts.between(start, stop)
            if found is not None:
                out = found * nodes if out is None else out + found * nodes
        return out

    def per_window(self, start: int, stop: int) -> np.ndarray | None:
        """Count missing values in the windows that start at each row of ``[start, stop)``."""
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        rows = self.per_row(start + first, stop + last)
        return None if rows is None else window_sums(rows, self.offsets - first, stop - start)

    def most(self, share: float) -> int:
        """Most values that may be missing: the largest k with k / cells ≤ share, in float64."""
        k = int(share * self.cells)
        while k < self.cells and (k + 1) / self.cells <= share:
            k += 1
        while k > 0 and k / self.cells > share:
            k -= 1
        return k


def roles_of(series: Series, spec: WindowSpec, columns: Mapping[str, Sequence[Column]]) -> list[RoleReads]:
    """Count what each role of a window can miss; roles that can miss nothing are left out."""
    used = {column.variable for role in columns.values() for column in role}
    tables = count_variables(series, sorted(used))
    roles = []
    for name, chosen in columns.items():
        offsets = spec.input_rows if name == "inputs" else spec.target_rows
        counts, constant = [], 0
        for column in chosen:
            if column.variable not in tables:
                continue
            variable, found = series.variables[column.variable], tables[column.variable][column.feature]
            nodes = 1 if variable.has_nodes else series.num_nodes
            if variable.has_time:
                counts.append((found, nodes))
            else:
                constant += found.total * nodes
        if len(offsets) and (counts or constant):
            cells = len(offsets) * series.num_nodes * len(chosen)
            roles.append(RoleReads(name, offsets, chosen, counts, constant, cells))
    return roles


def leave_out(runs: Runs, roles: Sequence[RoleReads], share: float, num_steps: int) -> Starts:
    """Leave out the windows that miss more than a share of the values of any role."""
    from .bitmap import keep_rows

    words = np.full(-(-num_steps // 64), ~np.uint64(0))
    limits = [role.most(share) for role in roles]
    cut = False
    for start in range(0, num_steps, CHUNK):
        stop = min(start + CHUNK, num_steps)
        kept: np.ndarray | None = None
        for role, limit in zip(roles, limits, strict=True):
            missing = role.per_window(start, stop)
            if missing is not None:
                few = missing <= limit
                kept = few if kept is None else kept & few
        if kept is not None and not kept.all():
            words[start // 64 : -(-stop // 64)] = _pack(kept)
            cut = True
    return keep_rows(runs, words) if cut else runs


def _pack(bits: np.ndarray) -> np.ndarray:
    """Words of 64 bits, the first bit lowest; bits past the end are 0."""
    octets = np.zeros(-(-len(bits) // 64) * 8, np.uint8)
    packed = np.packbits(bits, bitorder="little")
    octets[: len(packed)] = packed
    return octets.view("<u8").astype(np.uint64, copy=False)


def least_missing(runs: Runs, roles: Sequence[RoleReads], num_steps: int) -> float:
    """Share that the most complete window misses in its worst role, for a message."""
    least = 1.0
    for start in range(0, num_steps, CHUNK):
        stop = min(start + CHUNK, num_steps)
        worst = np.zeros(stop - start)
        for role in roles:
            missing = role.per_window(start, stop)
            if missing is not None:
                worst = np.maximum(worst, missing / role.cells)
        begins = runs.counts(start, stop) > 0
        least = min(least, float(worst[begins].min(initial=1.0)))
    return least


def refuse(series: Series, roles: Sequence[RoleReads], starts: Starts) -> None:
    """Raise `MissingDataError` for the first missing value that a window reads."""
    for begin in range(0, series.num_steps, CHUNK):
        end = min(begin + CHUNK, series.num_steps)
        found = []
        for role in roles:
            missing = role.per_row(begin, end)
            if missing is None:
                continue
            rows = np.flatnonzero((missing > 0) & (rows_held(starts, role.offsets, begin, end) > 0))
            if len(rows):
                found.append((begin + int(rows[0]), role))
        if found:
            _raise_first(series, *min(found, key=lambda pair: pair[0]))


def rows_held(starts: Starts, offsets: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Count the windows that hold each row of ``[start, stop)`` at one of the offsets."""
    if len(offsets) == 0:
        return np.zeros(stop - start, np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    begun = starts.counts(start - last, stop - first)  # row r is held by the windows that start at r - offset
    return window_sums(begun, (last - offsets)[::-1], stop - start)


def _raise_first(series: Series, row: int, role: RoleReads) -> None:
    """Find feature and node of the first missing value of a row."""
    from .marks import is_missing, sentinel

    for column in role.columns:
        variable = series.variables[column.variable] if column.variable >= 0 else None
        mark = sentinel(variable.missing, variable.dtype) if variable is not None else None
        if variable is None or mark is None:
            continue
        values = _row(variable, row if variable.has_time else 0)
        nodes = np.flatnonzero(is_missing(values[:, column.feature], mark))
        if len(nodes):
            raise MissingDataError(
                f"{_node(series, int(nodes[0]), all_nodes=not variable.has_nodes)} misses {column.name!r} "
                f"({values[nodes[0], column.feature]}) at {when(series, row)}, which windows read among "
                f"their {role.name}, and on_missing='raise' forbids it. Leave such windows out with "
                "max_missing=0.0, or take masks with on_missing='mask'."
            )


def _row(variable: Variable, row: int) -> np.ndarray:
    view = variable.view()
    if view is not None:
        with unchanged(view):
            return np.array(view[row])
    values = np.empty((1, variable.num_nodes, variable.num_features), variable.dtype)
    variable.read(row, row + 1, values)
    return np.asarray(values[0])


def _node(series: Series, node: int, *, all_nodes: bool) -> str:
    if all_nodes:
        return "every node"
    return f"node {node}" if series.nodes is None else f"node {node} ({series.nodes[node]})"


def when(series: Series, row: int) -> str:
    """Say a row, with its time where it is known."""
    if series.clock is None:
        return f"row {row}"
    return f"row {row} ({series.clock.texts([row])[0]})"


def none_left(spec: WindowSpec, runs: Runs, roles: Sequence[RoleReads], num_steps: int) -> WindowSpecError:
    """Say what `max_missing` would have to be for one window to be left."""
    return WindowSpecError(
        f"max_missing={spec.max_missing} leaves none of {len(runs):,} windows: the most complete misses a "
        f"share of {least_missing(runs, roles, num_steps):.4g}. Allow that, shorten the windows, or choose "
        "features and nodes with series.select(...)."
    )
