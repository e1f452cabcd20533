"""What windows may miss: those left out for `max_missing`, and errors that name a missing value.

In: a series, a spec, starts. Out: the starts that are left, or an error. Never decides what is missing; `missing`
counts that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import MissingDataError, WindowSpecError

from .index import Explicit, rows_held, true_ranges, window_sums
from .missing import count_variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from windowloader.series.series import Column, Series

    from .index import Runs, Starts
    from .missing import RowCounts
    from .spec import WindowSpec

__all__ = ["entity_name", "leave_out", "node_name", "undeclared_nan"]

CHUNK = 1 << 17  # rows or starts examined together


@dataclass(frozen=True, slots=True, eq=False)
class RoleCounts:
    """Missing values that windows read in one role.

    Parameters
    ----------
    name : str
        Of the role.
    offsets : ndarray, shape (step,), int64
        Rows from the start.
    columns : mapping of str to RowCounts
        Of the columns that miss something, by name.
    cells : int
        Values a window reads in this role.
    """

    name: str
    offsets: np.ndarray
    columns: Mapping[str, RowCounts]
    cells: int

    def per_row(self, start: int, stop: int) -> np.ndarray | None:
        """Count missing values in each row of ``[start, stop)``; None where nothing is missing."""
        parts = [one.between(start, stop) for one in self.columns.values()]
        found = [part for part in parts if part is not None]
        return np.sum(found, axis=0) if found else None

    def share(self, start: int, stop: int) -> np.ndarray | float:
        """Share of missing values in the windows that start at each row of ``[start, stop)``."""
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        rows = self.per_row(start + first, stop + last)
        return 0.0 if rows is None else window_sums(rows, self.offsets - first, stop - start) / self.cells


def leave_out(
    series: Series, spec: WindowSpec, columns: Mapping[str, Sequence[Column]], runs: Runs
) -> Starts:
    """Leave out the windows with more missing than `max_missing`, and refuse missing values for ``on_missing="raise"``.

    Raises
    ------
    WindowSpecError
        If no window is left.
    MissingDataError
        For the first missing value that a window reads, where the spec forbids them.
    """
    roles = _roles(series, spec, columns)
    starts: Starts = runs
    if spec.max_missing is not None:
        allowed = (_worst_share(roles, *chunk) <= spec.max_missing for chunk in _chunks(series))
        ranges = true_ranges(allowed, 0)
        kept = runs.within(ranges[:, 0], ranges[:, 1])
        if len(kept) == 0:
            least = min(
                float(_worst_share(roles, *chunk)[runs.counts(*chunk) > 0].min(initial=1.0))
                for chunk in _chunks(series)
            )
            raise WindowSpecError(
                f"max_missing={spec.max_missing} leaves none of {len(runs):,} windows: the most complete misses a "
                f"share of {least:.4g}. Allow that, shorten the windows, or choose features and nodes with "
                "series.select(...)."
            )
        scattered = kept.nbytes > 8 * len(kept)
        starts = Explicit(kept(np.arange(len(kept)))) if scattered else kept
    if spec.on_missing == "raise":
        _refuse(series, roles, starts)
    return starts


def _chunks(series: Series) -> Iterator[tuple[int, int]]:
    for start in range(0, series.num_steps, CHUNK):
        yield start, min(start + CHUNK, series.num_steps)


def _roles(series: Series, spec: WindowSpec, columns: Mapping[str, Sequence[Column]]) -> list[RoleCounts]:
    """Count what each role of a window misses; roles that miss nothing are left out."""
    tables = count_variables(
        series, sorted({column.variable for role in columns.values() for column in role})
    )
    roles = []
    for name, chosen in columns.items():
        offsets = spec.input_rows if name == "inputs" else spec.target_rows
        found = {}
        for column in chosen:
            if column.variable in tables and (counts := tables[column.variable][column.feature]).total:
                variable = series.variables[column.variable]
                nodes = 1 if variable.has_nodes else series.num_nodes
                found[column.name] = replace(counts, nodes=nodes, has_time=variable.has_time)
        if found:
            roles.append(RoleCounts(name, offsets, found, len(offsets) * series.num_nodes * len(chosen)))
    return roles


def _worst_share(roles: Sequence[RoleCounts], start: int, stop: int) -> np.ndarray:
    """Largest share missing in any role, of the windows that start at each row of ``[start, stop)``."""
    worst = np.zeros(stop - start)
    for role in roles:
        np.maximum(worst, role.share(start, stop), out=worst)
    return worst


def _refuse(series: Series, roles: Sequence[RoleCounts], starts: Starts) -> None:
    """Raise `MissingDataError` for the first missing value that a window reads."""
    for begin, end in _chunks(series):
        found = []
        for role in roles:
            missing = role.per_row(begin, end)
            if missing is not None:
                read = rows_held(starts, role.offsets, begin, end) > 0
                found += [(begin + int(row), role) for row in np.flatnonzero((missing > 0) & read)[:1]]
        if found:
            row, role = min(found, key=lambda pair: pair[0])
            pairs = ((name, counts.between(row, row + 1)) for name, counts in role.columns.items())
            name, count = next((name, int(counts[0])) for name, counts in pairs if counts is not None)
            raise MissingDataError(
                f"{name!r} is missing at {count:,} of {series.num_nodes:,} nodes at {_when(series, row)}, which "
                f"windows read among their {role.name}, and on_missing='raise' forbids it. Leave such windows out with "
                "max_missing=0.0, or take masks with on_missing='mask'."
            )


def undeclared_nan(series: Series, column: Column, row: int | None, node: int) -> MissingDataError:
    """Return the error for a NaN that nothing fills.

    Parameters
    ----------
    series : Series
    column : Column
    row : int or None
        None for a covariate without time.
    node : int
    """
    variable = series.variables[column.variable]
    at = [] if row is None else [_when(series, row)]
    at += [node_name(series.nodes, node)] if variable.has_nodes else []
    where = f"feature {column.name!r}{' at ' if at else ''}{', '.join(at)} is NaN"
    if variable.missing is None:
        return MissingDataError(
            f"{where}, and nothing is declared missing. If NaN stands for missing, open the series with "
            "missing=float('nan'): statistics and masks then leave it out, and batches need fill=0.0 or "
            "WindowSpec(max_missing=0.0). Otherwise repair the data."
        )
    if np.isnan(variable.missing):  # nothing to fill, as the scan found no window that reads one
        return MissingDataError(
            f"{where}, and was not when windows were left out for what they miss: the data changed. Make the window "
            "set again, or pass max_missing=None and fill=0.0."
        )
    return MissingDataError(
        f"{where}, and {variable.missing:g} is declared missing. NaN counts as missing, too, but a batch cannot hold "
        "it: pass fill=0.0, which fills both, or WindowSpec(max_missing=0.0), or repair the data."
    )


def node_name(labels: np.ndarray | Sequence[object] | None, node: int) -> str:
    """Name a node by number, and by label where there are labels."""
    return f"node {node}" if labels is None else f"node {node} ({str(labels[node])!r})"


def entity_name(series: Series, entity: int) -> str:
    """Name an entity by number, and by label where there are labels."""
    names = series.entity_names
    return f"entity {entity}" if names is None else f"entity {entity} ({str(names[entity])!r})"


def _when(series: Series, row: int) -> str:
    """Name a row, with its time where it is known."""
    return f"row {row}" if series.clock is None else f"row {row} ({series.clock.texts([row])[0]})"
