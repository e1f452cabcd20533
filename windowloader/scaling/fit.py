"""Statistics of the rows that a window set reads, in one streaming pass per variable, here or on many workers.

In: a window set, what to fit, a reducer per column. Out: `Part` of a range of rows, and tables of statistics by feature
of all parts, or errors that name the value or the node. Never looks at a row that no window of the set reads, and keeps
only two reads in memory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import numpy as np

from windowloader.errors import ScalerError
from windowloader.sources.executors import check_executor, run
from windowloader.windows.index import digest
from windowloader.windows.missing import is_missing, sentinel
from windowloader.windows.missing_policy import entity_name, node_name, undeclared_nan
from windowloader.windows.reads import READ_BYTES, row_ranges, rows_in_order
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from windowloader.series.series import Column, Series
    from windowloader.series.variable import Variable

    from .statistics import Reducer

    Make = Callable[[int, int, bool], Reducer]  # of entities, nodes, and whether nodes are pooled
    Columns = dict[Column, list[Reducer]]

__all__ = ["Fit", "FitOptions", "Part", "Per", "Rounding", "Unseen", "Weighting"]

Per = Literal["feature", "node", "entity"]
Unseen = Literal["raise", "pooled"]
Weighting = Literal["rows", "windows"]
Rounding = Literal["multiply", "divide"]
CHOICES = {"per": Per, "weighting": Weighting, "unseen": Unseen, "rounding": Rounding}
NAMED = 8  # places in a message
PIECE_BYTES = 16 << 20  # rows that a worker gets, at least
MOST_PIECES = 64


def check_choices(options: object, names: Iterable[str] = tuple(CHOICES)) -> None:
    """Raise `ScalerError` where an option is none of its choices."""
    for name in names:
        known, found = get_args(CHOICES[name]), getattr(options, name)
        if found not in known:
            raise ScalerError(f"{name}={found!r} is unknown; known are {', '.join(map(repr, known))}.")


class FitOptions(TypedDict, total=False):
    """The keyword arguments of `Scaler.fit`; the last four belong to one kind each."""

    features: str | Sequence[str] | None
    per: Per
    weighting: Weighting
    unseen: Unseen
    rounding: Rounding
    progress: Callable[[int, int], object] | None
    executor: Executor | None
    epsilon: float
    feature_range: tuple[float, float]
    quantile_range: tuple[float, float]
    exact_bytes: str | int


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Statistics of some rows of a window set, for `Scaler.merge`; pickles.

    Attributes
    ----------
    fit : str
        Digest of the window set and the options.
    start, stop : int
        The rows.
    """

    fit: str
    start: int
    stop: int
    columns: Columns = field(repr=False)


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
    executor: Executor | None = None
    columns: tuple[Column, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_choices(self)
        check_executor(self.executor)
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

    def partial(self, make: Make, rows: slice | range | tuple[int, int]) -> Part:
        """Reduce a range of rows, which ends where groups of 256 do.

        Parameters
        ----------
        make : callable
            Returns an empty reducer.
        rows : slice, range or pair of int
        """
        from .statistics import GROUP

        start, stop = self._bounds(rows)
        first, last = self.window_set.row_range
        for row in (start, stop):
            if not first <= row <= last or ((row - first) % GROUP and row != last):
                below = min(max(row - (row - first) % GROUP, first), last)
                raise ScalerError(
                    f"rows {start} … {stop} end at {row}, within a group of {GROUP} rows that are summed together. "
                    f"Groups are counted from the set's first row: take {below} or {min(below + GROUP, last)}, "
                    f"between {first} and {last}."
                )
        columns = self._reducers(make)
        self._reduce(columns, start, stop)
        return Part(self.digest(), start, stop, columns)

    def _reduce(self, reducers: Columns, begin: int, end: int) -> None:
        """Pass rows that the windows read to the reducers, in order, each variable read once."""
        from .statistics import GroupRuns

        series, first = self.window_set.series, self.window_set.row_range[0]
        by_variable: dict[int, list[Column]] = {}
        for column in reducers:
            by_variable.setdefault(column.variable, []).append(column)
        every = [one for several in reducers.values() for one in several]
        for done, (number, columns) in enumerate(by_variable.items()):
            variable = series.variables[number]
            mark = sentinel(variable.missing, variable.dtype)
            for start, stop, rows, weights in self._weighted_rows(variable, begin, end):
                runs = {
                    by_entity: GroupRuns.of(start, stop, first, series.entity_borders if by_entity else None)
                    for by_entity in {one.entities > 1 for one in every}
                }
                for column in columns:
                    values = rows[:, :, column.feature]
                    for reducer in reducers[column]:
                        if reducer.add(values, weights, mark, runs[reducer.entities > 1]):
                            _refuse(series, column, values, weights, mark, start)
                if self.progress is not None:
                    self.progress(done * (end - begin) + stop - begin, (end - begin) * len(by_variable))

    def _weighted_rows(
        self, variable: Variable, begin: int, end: int
    ) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Yield ranges of rows, their values and how often each row counts, without unread rows at their ends."""
        weights: deque[np.ndarray] = deque()
        by_windows = self.weighting == "windows"

        def ranges() -> Iterator[tuple[int, int]]:
            for start, stop in row_ranges(variable, begin, end, READ_BYTES):
                counts = self.window_set.row_counts(start, stop, role="inputs" if by_windows else "all")
                used = np.flatnonzero(counts)
                if len(used):
                    low, high = int(used[0]), int(used[-1]) + 1
                    some = counts[low:high] if by_windows else counts[low:high] > 0
                    weights.append(some.astype(np.float64))
                    yield start + low, start + high

        for start, stop, rows in rows_in_order(variable, ranges()):
            yield start, stop, rows, weights.popleft()

    def _bounds(self, rows: slice | range | tuple[int, int]) -> tuple[int, int]:
        first, last = self.window_set.row_range
        ends = (rows.start, rows.stop) if isinstance(rows, slice | range) else rows
        if len(ends) != 2 or (isinstance(rows, slice | range) and rows.step not in (None, 1)):
            raise ScalerError(f"rows={rows!r}: a range of rows is asked for, e.g. slice(0, 25_600).")
        return first if ends[0] is None else int(ends[0]), last if ends[1] is None else int(ends[1])

    def parts(self, make: Make) -> list[Part]:
        """Reduce all rows, by the executor if there is one."""
        first, last = self.window_set.row_range
        if self.executor is None:
            return [self.partial(make, (first, last))]
        step = self._piece_rows()
        pieces = [(start, min(start + step, last)) for start in range(first, last, step)]
        work = partial(Fit.partial, replace(self, progress=None, executor=None), make)
        done, parts = 0, []
        for (start, stop), part in run(work, pieces, executor=self.executor, at_once=len(pieces)):
            parts.append(part)
            done += stop - start
            if self.progress is not None:
                self.progress(done, last - first)
        return parts

    def _piece_rows(self) -> int:
        """Rows of a worker's piece: groups of a whole branch of the tree, several chunks of storage."""
        from .statistics import GROUP

        first, last = self.window_set.row_range
        variables = self.window_set.series.variables
        read = [variables[number] for number in {column.variable for column in self.columns}]
        chunk = max((one.source.storage().largest for one in read if one.view() is None), default=1)
        row = max(sum(one.row_bytes for one in read), 1)
        least = max((last - first) // MOST_PIECES, PIECE_BYTES // row, 4 * chunk)
        return GROUP << max(0, (least - 1) // GROUP).bit_length()

    def digest(self) -> str:
        """Digest of what is fitted, and how."""
        return digest(
            self.window_set.fingerprint(), self.window_set.series.name, self.per, self.weighting, self.unseen,
            *(column.name for column in self.columns),
        )  # fmt: skip

    def _reducers(self, make: Make) -> Columns:
        series = self.window_set.series
        borders = series.entity_borders if self.per == "entity" else None
        entities = 1 if borders is None else len(borders) - 1
        reducers: Columns = {}
        for column in self.columns:
            nodes = series.variables[column.variable].num_nodes
            reducers[column] = [make(entities, nodes, self.per != "node")]
            if self.unseen == "pooled":
                reducers[column].append(make(1, nodes, True))
        return reducers

    def merged(self, make: Make, parts: Sequence[Part]) -> dict[str, dict[str, np.ndarray]]:
        """Statistics of parts that hold all rows, each once.

        Returns
        -------
        dict of str to dict of str to ndarray, shape (entity or 1, node or 1)
            NaN for entities without rows, unless these take the statistics of all.
        """
        parts = sorted(parts, key=lambda part: part.start)
        self._check_parts(parts)
        statistics = {}
        for column, (own, *whole) in self._reducers(make).items():
            for part in parts:
                for reducer, other in zip((own, *whole), part.columns[column], strict=True):
                    reducer.merge(other)
            table = own.finish()
            every = [one.finish() for one in whole]
            if not (whole and whole[0].count.all()):
                self._check_counts(column, own.count)
            for pooled in every:
                table = {name: np.where(own.count == 0, pooled[name], found) for name, found in table.items()}
            statistics[column.name] = table
        return statistics

    def _check_parts(self, parts: Sequence[Part]) -> None:
        own = self.digest()
        if any(part.fit != own for part in parts):
            raise ScalerError(
                "the parts are of another window set or of other options. Give merge and fit_partial the same."
            )
        first, last = self.window_set.row_range
        ends = [(first, first), *((part.start, part.stop) for part in parts), (last, last)]
        for (_, end), (begin, _) in pairwise(ends):
            if end != begin:
                what = "are in no part" if end < begin else "are in two parts"
                raise ScalerError(
                    f"rows {min(end, begin)} … {max(end, begin) - 1} {what}. Each row of the set, {first} … "
                    f"{last - 1}, belongs to one."
                )

    def _check_counts(self, column: Column, count: np.ndarray) -> None:
        """Refuse statistics without values, but for entities that no window reads."""
        read = np.ones(len(count), bool)
        borders = self.window_set.series.entity_borders
        if len(count) > 1 and borders is not None:
            read = np.diff(self.window_set.index.rank(borders)) > 0
        empty = np.argwhere((count == 0) & read[:, np.newaxis])
        if len(empty):
            named = [self.place(int(entity), int(node), count.shape) for entity, node in empty[:NAMED]]
            raise ScalerError(
                f"feature {column.name!r} is missing in every row of the window set"
                f"{listed(named, len(empty), ' at ')}: there is nothing to fit on. Leave these out with "
                "series.select(…), or fit per='feature'."
            )

    def place(self, entity: int, node: int, shape: tuple[int, ...]) -> str:
        """Name the entity and node of one statistic."""
        series = self.window_set.series
        parts = [entity_name(series, entity)] if shape[0] > 1 else []
        parts += [node_name(series.nodes, node)] if shape[1] > 1 else []
        return ", ".join(parts)


def listed(places: Sequence[str], count: int, lead: str = " ") -> str:
    """Join the first places of ``count`` for a message; nothing where they have no names."""
    named = [place for place in places if place][:NAMED]
    more = f"; and {count - len(named)} more" if count > len(named) else ""
    return f"{lead}{'; '.join(named)}{more}" if named else ""


def _refuse(
    series: Series, column: Column, rows: np.ndarray, weights: np.ndarray, mark: np.ndarray | None, begin: int
) -> None:
    """Raise for the first cell that is neither finite nor missing."""
    bad = ~np.isfinite(rows) & (weights > 0)[:, np.newaxis]
    if mark is not None:
        bad &= ~is_missing(rows, mark)
    row, node = (int(i) for i in np.argwhere(bad)[0])
    if np.isnan(rows[row, node]):
        raise undeclared_nan(series, column, begin + row, node)
    where = f"feature {column.name!r} at row {begin + row}, {node_name(series.nodes, node)}"
    raise ScalerError(
        f"{where} is {rows[row, node]}: no mean, range or spread can be taken over infinite values. Repair the data, "
        "or declare the value missing."
    )
