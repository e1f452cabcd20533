"""Statistics of the rows that a window set reads, in one streaming pass per variable.

In: a window set, what to fit, a reducer per column. Out: tables of statistics by feature, or errors that name the value
or the node. Never looks at a row that no window of the set reads, and keeps only two reads in memory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from windowloader.errors import ScalerError
from windowloader.windows.missing import is_missing, sentinel
from windowloader.windows.missing_policy import entity_name, node_name, undeclared_nan
from windowloader.windows.reads import READ_BYTES, row_ranges, rows_in_order
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from windowloader.series.series import Column, Series
    from windowloader.series.variable import Variable

    from .statistics import Reducer

__all__ = ["Fit", "FitOptions", "Per", "Rounding", "Unseen", "Weighting", "reduce_rows"]

Per = Literal["feature", "node", "entity"]
Unseen = Literal["raise", "pooled"]
Weighting = Literal["rows", "windows"]
Rounding = Literal["multiply", "divide"]
CHOICES = {
    "per": ("feature", "node", "entity"),
    "weighting": ("rows", "windows"),
    "unseen": ("raise", "pooled"),
    "rounding": ("multiply", "divide"),
}
GROUP = 256  # rows summed before they join the totals, counted from the set's first row
TILE_BYTES = 4 << 20  # rows as float64 on their way into a reducer


def check_choices(options: object, names: Sequence[str]) -> None:
    """Raise `ScalerError` where an option is none of its choices."""
    for name in names:
        if getattr(options, name) not in CHOICES[name]:
            known = ", ".join(map(repr, CHOICES[name]))
            raise ScalerError(f"{name}={getattr(options, name)!r} is unknown; known are {known}.")


class FitOptions(TypedDict, total=False):
    """The keyword arguments that `Scaler.fit` of every kind takes."""

    features: str | Sequence[str] | None
    per: Per
    weighting: Weighting
    unseen: Unseen
    rounding: Rounding
    progress: Callable[[int, int], object] | None


@dataclass(frozen=True, slots=True)
class Fit:
    """One fit: the user's choices, checked, and the columns they mean.

    Raises
    ------
    ScalerError
        If a choice is unknown, or nothing is left to fit.
    FeatureNameError
        If a feature is not in the series.
    """

    window_set: WindowSet
    features: str | Sequence[str] | None = None
    per: Per = "feature"
    weighting: Weighting = "rows"
    unseen: Unseen = "raise"
    rounding: Rounding = "multiply"
    progress: Callable[[int, int], object] | None = None
    columns: tuple[Column, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_choices(self, tuple(CHOICES))
        if not isinstance(self.window_set, WindowSet):
            raise ScalerError(
                f"a scaler is fitted on a WindowSet, not on a {type(self.window_set).__name__}. Pass the train part of "
                "a split: train, val, test = wl.split(series, spec, (0.7, 0.1, 0.2))."
            )
        if self.unseen == "pooled" and self.per != "entity":
            raise ScalerError(
                f"unseen='pooled' sets how entities without rows are scaled, and per={self.per!r} keeps no statistics "
                "by entity. Pass per='entity', or omit unseen=."
            )
        if self.per == "entity" and self.window_set.series.entity_borders is None:
            raise ScalerError(
                "per='entity' needs a series of entities: open it with entity=…, or give "
                "Series(entities=borders)."
            )
        if not len(self.window_set):
            raise ScalerError("the window set is empty: there is nothing to fit on.")
        object.__setattr__(self, "columns", self._columns())

    def _columns(self) -> tuple[Column, ...]:
        series, spec = self.window_set.series, self.window_set.spec
        if self.features is not None:
            names = (self.features,) if isinstance(self.features, str) else self.features
            columns = series.columns(names)
            for column in columns:
                if not self._has_statistics(column):
                    what = "is a clock" if column.variable < 0 else "has no time axis"
                    raise ScalerError(
                        f"{column.name!r} {what}: it has no statistics to fit, and is not scaled."
                    )
        else:
            roles = [spec.inputs, *([spec.targets] if spec.num_targets else []), spec.future]
            read = [column for names in roles if names != () for column in series.columns(names)]
            columns = tuple(filter(self._has_statistics, read))
        if not columns:
            raise ScalerError("nothing is left to fit: the windows read only clocks and static covariates.")
        return tuple(dict.fromkeys(columns))

    def _has_statistics(self, column: Column) -> bool:
        return column.variable >= 0 and self.window_set.series.variables[column.variable].has_time

    @property
    def missing(self) -> dict[str, float]:
        """What stands for missing, by feature, where it is declared."""
        declared = {c.name: self.window_set.series.variables[c.variable].missing for c in self.columns}
        return {name: float(value) for name, value in declared.items() if value is not None}

    def value_bytes(self) -> int:
        """Bytes of all values that the windows read, at most, as float64, in all reducers."""
        first, last = self.window_set.row_range
        rows = min(last - first, len(self.window_set) * self.window_set.spec.span)
        nodes = sum(self.window_set.series.variables[column.variable].num_nodes for column in self.columns)
        return (2 if self.unseen == "pooled" else 1) * 8 * nodes * rows

    def statistics(self, make: Callable[[int, int, bool], Reducer]) -> dict[str, dict[str, np.ndarray]]:
        """Reduce every column.

        Parameters
        ----------
        make : callable
            ``make(entities, nodes, pooled)`` returns an empty reducer.

        Returns
        -------
        dict of str to dict of str to ndarray, shape (entity or 1, node or 1)
            NaN for entities without rows, unless these take the statistics of all.
        """
        series = self.window_set.series
        borders = series.entity_borders if self.per == "entity" else None
        entities = 1 if borders is None else len(borders) - 1
        reducers: dict[Column, list[Reducer]] = {}
        for column in self.columns:
            nodes = series.variables[column.variable].num_nodes
            reducers[column] = [make(entities, nodes, self.per != "node")]
            if self.unseen == "pooled":
                reducers[column].append(make(1, nodes, True))
        reduce_rows(self.window_set, reducers, weighting=self.weighting, progress=self.progress)
        statistics = {}
        for column, (own, *whole) in reducers.items():
            if not (whole and whole[0].count.all()):
                self._check_counts(column, own.count)
            statistics[column.name] = own.table()
            for every in whole:
                statistics[column.name] = {
                    name: np.where(own.count == 0, every.table()[name], values)
                    for name, values in statistics[column.name].items()
                }
        return statistics

    def _check_counts(self, column: Column, count: np.ndarray) -> None:
        """Refuse statistics without values, but for entities that no window reads."""
        read = np.ones(len(count), bool)
        borders = self.window_set.series.entity_borders
        if len(count) > 1 and borders is not None:
            read = np.diff(self.window_set.index.rank(borders)) > 0
        empty = np.argwhere((count == 0) & read[:, np.newaxis])
        if len(empty):
            places = listed(
                [self.place(int(entity), int(node), count.shape) for entity, node in empty], " at "
            )
            raise ScalerError(
                f"feature {column.name!r} is missing in every row of the window set{places}: there is nothing to fit "
                "on. Leave these out with series.select(…), or fit per='feature'."
            )

    def place(self, entity: int, node: int, shape: tuple[int, ...]) -> str:
        """Name the entity and node of one statistic."""
        series = self.window_set.series
        parts = [entity_name(series, entity)] if shape[0] > 1 else []
        parts += [node_name(series.nodes, node)] if shape[1] > 1 else []
        return ", ".join(parts)


def listed(places: Sequence[str], lead: str = " ") -> str:
    """Join places for a message, the first eight of many; nothing where they have no names."""
    named = [place for place in places if place]
    more = f"; and {len(named) - 8} more" if len(named) > 8 else ""
    return f"{lead}{'; '.join(named[:8])}{more}" if named else ""


def reduce_rows(
    window_set: WindowSet,
    reducers: Mapping[Column, Sequence[Reducer]],
    *,
    weighting: Weighting,
    progress: Callable[[int, int], object] | None = None,
    read_bytes: int = READ_BYTES,
) -> None:
    """Pass every row that the windows read to the reducers, in order, each variable read once.

    Parameters
    ----------
    window_set : WindowSet
        Rows that none of its windows reads are neither counted nor, where whole reads can be left out, read.
    reducers : mapping of Column to sequence of Reducer
        What to do with each column; those of several entities get rows of one entity at a time.
    weighting : {"rows", "windows"}
        A row counts once if any window reads it as input or target, or as often as windows read it as input.
    progress : callable, optional
        Called with (rows done, rows in all).
    read_bytes : int
        Approximate size of a read; changes no result.

    Raises
    ------
    MissingDataError
        At a NaN that is not declared missing.
    ScalerError
        At an infinite value.
    """
    series = window_set.series
    by_variable: dict[int, list[Column]] = {}
    for column in reducers:
        by_variable.setdefault(column.variable, []).append(column)
    first, last = window_set.row_range
    by_entity = any(one.entities > 1 for several in reducers.values() for one in several)
    borders = series.entity_borders if by_entity else None
    for done, (number, columns) in enumerate(by_variable.items()):
        variable = series.variables[number]
        mark = sentinel(variable.missing, variable.dtype)
        mark = None if mark is None else mark.astype(np.float64)
        for start, stop, rows, weights in _weighted_rows(window_set, variable, weighting, read_bytes):
            for begin, end, entity, group in _pieces(start, stop, first, borders, variable.num_nodes):
                inside = slice(begin - start, end - start)
                if not weights[inside].any():
                    continue
                for column in columns:
                    tile = np.ascontiguousarray(rows[inside, :, column.feature], dtype=np.float64)
                    for reducer in reducers[column]:
                        place = entity if reducer.entities > 1 else 0
                        if reducer.add(tile, weights[inside], mark, place, group):
                            _refuse(series, column, tile, weights[inside], mark, begin)
            if progress is not None:
                progress(done * (last - first) + stop - first, (last - first) * len(by_variable))
    for several in reducers.values():
        for reducer in several:
            reducer.finish()


def _weighted_rows(
    window_set: WindowSet, variable: Variable, weighting: Weighting, read_bytes: int
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Yield ranges of rows, their values and how often each row counts, without unread rows at their ends."""
    weights: deque[np.ndarray] = deque()

    def ranges() -> Iterator[tuple[int, int]]:
        for start, stop in row_ranges(variable, *window_set.row_range, read_bytes):
            counts = window_set.row_counts(start, stop, role="inputs" if weighting == "windows" else "all")
            used = np.flatnonzero(counts)
            if len(used):
                low, high = int(used[0]), int(used[-1]) + 1
                counts = counts[low:high] if weighting == "windows" else counts[low:high] > 0
                weights.append(counts.astype(np.float64))
                yield start + low, start + high

    for start, stop, rows in rows_in_order(variable, ranges()):
        yield start, stop, rows, weights.popleft()


def _pieces(
    start: int, stop: int, first: int, borders: np.ndarray | None, nodes: int
) -> Iterator[tuple[int, int, int, int]]:
    """Cut a read at groups, entities and where a tile would grow too large: (begin, end, entity, group)."""
    rows = max(1, TILE_BYTES // (8 * nodes))
    begin = start
    while begin < stop:
        group = (begin - first) // GROUP
        end = min(stop, first + (group + 1) * GROUP, begin + rows)
        entity = 0
        if borders is not None:
            entity = int(np.searchsorted(borders, begin, side="right")) - 1
            end = min(end, int(borders[entity + 1]))
        yield begin, end, entity, group
        begin = end


def _refuse(
    series: Series, column: Column, tile: np.ndarray, weights: np.ndarray, mark: np.ndarray | None, begin: int
) -> None:
    """Raise for the first cell that is neither finite nor missing."""
    bad = ~np.isfinite(tile) & (weights > 0)[:, np.newaxis]
    if mark is not None:
        bad &= ~is_missing(tile, mark)
    row, node = (int(i) for i in np.argwhere(bad)[0])
    if np.isnan(tile[row, node]):
        raise undeclared_nan(series, column, begin + row, node)
    where = f"feature {column.name!r} at row {begin + row}, {node_name(series.nodes, node)}"
    raise ScalerError(
        f"{where} is {tile[row, node]}: no mean, range or spread can be taken over infinite values. Repair the data, "
        "or declare the value missing."
    )
