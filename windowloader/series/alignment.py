"""Aligns whatever has labels or times to the nodes and the clock of a series, never by position where both have them.

In: sources with labels or timestamps. Out: the same sources, or selections of them. Never copies or reads values, and
never substitutes the nearest label or timestamp for a missing one.
"""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SeriesError, SourceFormatError, SourceNotFoundError
from windowloader.util.axes import sizes
from windowloader.util.labels import find, listed, locate, order, tells

from .variable import Variable, feature_names, missing_of, variables_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.sources import Source

    from .clock import Clock
    from .variable import Opener


__all__ = ["Alignment", "infer_axes", "nodes_of", "open_covariates", "rows", "rows_of"]


def rows(times: np.ndarray | None, wanted: np.ndarray | None, what: str) -> slice | None:
    """Which rows have the timestamps of the series; None for all, or where a side has no timestamps.

    Parameters
    ----------
    times, wanted : ndarray of datetime64[ns], optional
        Of the rows and of the series, in UTC.
    what : str
        What the rows belong to, for the error.

    Raises
    ------
    SeriesError
        Where the wanted timestamps are not one contiguous part of ``times``.

    Examples
    --------
    >>> hours = np.arange("2020-01-01", "2020-01-02", dtype="datetime64[h]").astype("datetime64[ns]")
    >>> rows(hours, hours[3:9], "the covariate")
    slice(3, 9, None)
    """
    if times is None or wanted is None:
        return None
    from windowloader.util.calendars import calendar_of, own

    mine, theirs = own(calendar_of(times)), own(calendar_of(wanted))
    if mine != theirs:
        raise SeriesError(
            f"{what} is in the calendar {mine or 'standard'!r} and the series in {theirs or 'standard'!r}, whose days "
            "are not the same. Convert one, e.g. by convert_calendar of xarray."
        )
    if np.array_equal(times, wanted):
        return None
    size = len(wanted)
    for start in np.flatnonzero(times[: max(len(times) - size + 1, 0)] == wanted[:1]).tolist():
        if np.array_equal(times[start : start + size], wanted):
            return slice(start, start + size)
    absent = wanted[~np.isin(wanted, times)]
    first = ", ".join(np.datetime_as_string(absent[:3], unit="auto"))
    lacks = (
        f"lacks {len(absent)} of {size} timestamps, the first {first}" if first else "has others between them"
    )
    has, wants = (
        f"{len(side)} rows" + "".join(f" from {side[0]} to {side[-1]}" for _ in side[:1])
        for side in (times, wanted)
    )
    raise SeriesError(
        f"{what} and the series disagree on time: it {lacks}. It has {has}, the series {wants}. Bring it to the same "
        "clock, e.g. by reindex of pandas (frame.reindex(times)) or of xarray (array.reindex(time=times)); rows of "
        "other times are never paired."
    )


def _fits(axes: str, shape: tuple[int, ...], num_steps: int, space_shape: tuple[int, ...]) -> bool:
    """Whether an array has time, space or both, each of the sizes of the series."""
    return (
        sizes(axes, shape, "t") in ((), (num_steps,))
        and sizes(axes, shape, "n") in ((), space_shape)
        and ("t" in axes or "n" in axes)
    )


class Alignment:
    """The nodes and the clock of a series, to which other sources are aligned.

    Those of the first variable, where it has some, else those of the first source that has; a source without any is
    taken by position.

    Parameters
    ----------
    first : Source
        The first variable; its labels and timestamps are read when needed.
    what : str
        Its name, for errors.
    nodes : ndarray, shape (node,), optional
        Labels that were given: for the case that files have none, and after `settle` in place of theirs.
    clock : Clock, optional
        Likewise.

    Attributes
    ----------
    moved : list of str
        Sources joined along time in another order than they were given in.
    """

    def __init__(self, first: Source, what: str, nodes: np.ndarray | None, clock: Clock | None) -> None:
        self.first, self.nodes, self.clock = first, nodes, clock
        self.num_steps, self.space_shape = first.shape[0], sizes(first.axes, first.shape, "n")
        self.moved = [what] if first.moved else []

    @cached_property
    def labels(self) -> list[np.ndarray | None]:
        """Labels of each space axis."""
        found = [self.first.labels(axis) for axis, letter in enumerate(self.first.axes) if letter == "n"]
        return [self.nodes] if len(found) == 1 and found[0] is None else found

    @cached_property
    def times(self) -> np.ndarray | None:
        """Timestamps of the rows, datetime64[ns]."""
        found = self.first.timestamps()
        return found if found is not None or self.clock is None else self._given_times()

    def _given_times(self) -> np.ndarray | None:
        return None if self.clock is None else self.clock.times_of(np.arange(self.num_steps))

    def settle(self) -> None:
        """Use labels and times that were given in place of those of files, for what is aligned next."""
        if self.nodes is not None and len(self.space_shape) == 1:
            self.labels = [self.nodes]
        self.times = self.times if self.clock is None else self._given_times()

    def align(self, source: Source, what: str, advice: str, *, partial: bool = False) -> Source:
        """Return a source on the nodes and rows of the series: itself, or a selection of it.

        Parameters
        ----------
        source : Source
        what, advice : str
            What it is, and what to do where it does not fit, for the error.
        partial : bool
            Whether it may lack time or space, as covariates do.

        Raises
        ------
        SeriesError
            Where it lacks a label or timestamp of the series, or has none and is of another size.
        """
        if source is self.first:
            return source
        places = [axis for axis, letter in enumerate(source.axes) if letter == "n"]
        spatial = len(places) == len(self.space_shape)
        along = {}
        for number, axis in enumerate(places if spatial else ()):
            have, wanted = source.labels(axis), self.labels[number]
            picked = order(have, wanted, what, "the series", SeriesError, advice)
            if picked is not None:
                along[axis] = picked
            elif tells(have) and not tells(wanted):
                self.labels[number] = have
        times = source.timestamps() if "t" in source.axes else None
        kept = rows(times, self.times, what)
        if source.moved and (times is None or self.times is None):
            self.moved.append(what)
        self.times = times if self.times is None else self.times
        if kept is not None or along:
            from windowloader.sources.selected import SelectedSource

            source = SelectedSource(source, rows=kept, along=along)
        if not (partial or spatial) or not _fits(source.axes, source.shape, self.num_steps, self.space_shape):
            raise SeriesError(
                f"{what} has axes {source.axes!r} and shape {source.shape}, but the series has {self.num_steps} steps "
                f"and space {self.space_shape}. {advice}"
            )
        return source

    def check_moved(self, variables: Sequence[Variable], by_row: Mapping[str, Any]) -> None:
        """Refuse what is given by row beside sources that were sorted by time."""
        if not self.moved:
            return
        given = [name for name, value in by_row.items() if value is not None]
        given += [one.name for one in variables if one.has_time and one.source.timestamps() is None]
        if given:
            raise SeriesError(
                f"the parts of {', '.join(self.moved)} are joined by their times, but were given in another order, and "
                f"{listed(given)} go by row. Give the parts in the order of their times."
            )


def open_covariates(
    covariates: Mapping[str, Any], opener: Opener, alignment: Alignment, missing: Any
) -> tuple[Variable, ...]:
    """Open covariates and align them to the nodes and the clock of the series.

    Parameters
    ----------
    covariates : mapping of name to target or (target, axes)
    opener : Opener
        How to open.
    alignment : Alignment
        The size, nodes and clock of the series.
    missing : mapping of variable to float, optional
        A number alone applies to the series' own variables only.

    Raises
    ------
    SeriesError
        Where axes or sizes do not fit the series, or labels or timestamps of the series are missing.
    """
    if not isinstance(covariates, Mapping):
        raise SeriesError(
            f"covariates= is a {type(covariates).__name__}; a mapping of name to array is needed."
        )
    if covariates:
        alignment.settle()
    marks = missing if isinstance(missing, Mapping) else None
    found = []
    for name, given in covariates.items():
        advice = (
            "A covariate has t, n or both, of the series' sizes. If its columns are features, say so: "
            f"covariates={{{name!r}: (table, 'tf')}}."
        )
        opened = _open(name, given, opener, alignment)
        source = alignment.align(opened, f"covariate {name!r}", advice, partial=True)
        features = feature_names(name, source, named=True)
        found.append(Variable(name, source, features, missing_of(marks, name, source)))
    return tuple(found)


def _open(name: str, given: Any, opener: Opener, alignment: Alignment) -> Source:
    """Open one covariate with the axes that it has or is given, or the only ones it can have."""
    target, axes = given, None
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str) and {*given[1]} <= {*"tnf"}:
        target, axes = given
    if isinstance(target, (list, tuple)) and target and isinstance(target[0], (int, float)):
        target = np.asarray(target)
    size = alignment.num_steps, alignment.space_shape
    if isinstance(target, np.ndarray):
        return opener(target, axes=axes or infer_axes(name, target.shape, *size))
    source: Source | None = None
    with suppress(SourceFormatError):  # a column of text may have the labels of the nodes
        source = _named(name, target, axes, opener)
    if axes in (None, "nf") and (source is None or source.timestamps() is None):
        source = _by_node(target, opener, alignment) or source
    source = source or _named(name, target, axes, opener)
    if axes is not None or source.axes != "tnf"[: len(source.shape)]:  # dimension names were known
        return source
    letters, shape = ["?"] * len(source.shape), list(source.shape)  # of each axis, once aligned
    if source.timestamps() is not None:
        letters[0], shape[0] = "t", shape[0] if alignment.times is None else alignment.num_steps
    for axis, wanted in itertools.product(range(letters.count("t"), len(shape)), alignment.labels):
        have = source.labels(axis) if tells(wanted) else None
        if wanted is not None and have is not None and len(find(have, wanted)[1]) < len(wanted):
            letters[axis], shape[axis] = "n", len(wanted)
    axes = infer_axes(name, tuple(shape), *size, "".join(letters))
    if axes == source.axes:
        return source
    stored = "".join(letter for _, letter in sorted(zip(source.order, axes, strict=True)))
    return _named(name, target, stored, opener)


def _named(name: str, target: Any, axes: str | None, opener: Opener) -> Source:
    """Open the array that has the covariate's name in a store of several, else the only one there is."""
    if variables_of(target, None, opener):
        with suppress(SourceFormatError, SourceNotFoundError):
            return opener(target, variable=name, axes=axes)
    return opener(target, axes=axes)


def _by_node(target: Any, opener: Opener, alignment: Alignment) -> Source | None:
    """Open a table without time by the column that has the labels of nodes; None for other targets."""
    from windowloader.sources.table_files import as_table
    from windowloader.sources.tables import open_frame

    nodes = next((labels for labels in alignment.labels if tells(labels)), None)
    table = None if nodes is None else as_table(target, opener.storage_options)
    if nodes is None or table is None or not table.columns.is_unique:
        return None
    for column, values in table.items():
        kind = values.dtype.kind
        counts = len(table) == alignment.num_steps and kind in "iuf" and set(values.diff()[1:]) == {1}
        if kind in "iufOUT" and values.is_unique and not counts:  # of the steps
            missing = len(find(values, nodes)[1])
            if missing == 0 or (kind != "f" and 2 * missing < len(nodes)):  # a few missing ones are an error
                return open_frame(table.set_index(column), axes="nf")
    return None


def infer_axes(
    name: str, shape: tuple[int, ...], num_steps: int, space_shape: tuple[int, ...], known: str = ""
) -> str:
    """Return the only axes that a covariate of some shape can have.

    An axis as long as the series is time, axes of the series' space are space, and at most one other axis is features.
    ``known`` has the letters that labels or times determine, and ``?`` for the others.

    Examples
    --------
    >>> infer_axes("weather", (2016, 3), 2016, (207,))
    'tf'
    >>> infer_axes("altitude", (207,), 2016, (207,))
    'n'
    """
    choices = [letter if letter != "?" else "tnf" for letter in known or "?" * len(shape)]
    every = itertools.product(*choices) if len(shape) <= len(space_shape) + 2 else ()
    fitting = sorted(axes for axes in map("".join, every) if _fits(axes, shape, num_steps, space_shape))
    fewest = min((axes.count("f") for axes in fitting), default=0)
    best = [axes for axes in fitting if axes.count("f") == fewest <= 1]
    if len(best) == 1:
        return best[0]
    raise SeriesError(
        f"covariate {name!r} of shape {shape} {'could be ' + ' or '.join(best) if best else 'fits no reading'}: the "
        f"series has {num_steps} steps and space {space_shape}. Say which letter each axis is: "
        f"covariates={{{name!r}: (array, {(best or ['tf'])[0]!r})}}, of t (time), n (space), f (feature)."
    )


def rows_of(
    time: Any, clock: Clock | None, num_steps: int, entities: np.ndarray | None, name: str
) -> slice | None:
    """Rows that ``time=`` of `Series.select` selects, with both ends; None for all."""
    if time is None:
        return None
    if not isinstance(time, slice) or time.step not in (None, 1):
        raise SeriesError(
            f"time={time!r} must be a slice of step 1: of rows, slice(0, 288), or of times, "
            "slice('2012-03-01', '2012-03-03'); the end is left out. Windows skip rows by WindowSpec(dilation=…)."
        )
    if all(end is None or isinstance(end, (int, np.integer)) for end in (time.start, time.stop)):
        start, stop, _ = time.indices(num_steps)
    elif clock is None or (entities is not None and len(entities) > 2):
        has = "has no timestamps" if clock is None else "has entities with dates of their own"
        raise SeriesError(
            f"time={time!r} is a slice of times, but {name!r} {has}. Select rows by number, or cut by wl.split."
        )
    else:
        start = 0 if time.start is None else clock.searchsorted(time.start)
        stop = num_steps if time.stop is None else clock.searchsorted(time.stop)
    if start >= stop:
        raise SeriesError(f"time={time!r} leaves no row of {name!r}, which has {num_steps}.")
    return slice(start, stop)


def nodes_of(nodes: Any, labels: np.ndarray | None, space_shape: tuple[int, ...], name: str) -> np.ndarray:
    """Positions that ``nodes=`` of `Series.select` selects: integers, a mask or a slice; anything else is labels."""
    places, asked = np.arange(math.prod(space_shape)), f"nodes= of {name!r}"
    index = places[nodes] if isinstance(nodes, slice) else np.atleast_1d(np.asarray(nodes))
    if labels is not None and index.size and index.dtype.kind not in "iub":
        return locate(labels, index, repr(name), "nodes=")
    if index.dtype == np.bool_ and index.ndim > 1:
        places = places.reshape(space_shape)
    try:
        found = places[index if index.size else []]
    except IndexError as error:
        has = "has no node labels" if labels is None else "has node labels, which are given as text"
        raise SeriesError(
            f"{asked}: {error}. Integers are positions, a mask has the shape {space_shape}; the series {has}."
        ) from error
    wrong = {
        "there is no space axis": not space_shape,
        "one dimension is needed": found.ndim != 1,
        "none is left": not found.size,
        "a node is named twice": len(np.unique(found)) < found.size,
    }
    for reason, holds in wrong.items():
        if holds:
            raise SeriesError(f"{asked}, {reprlib.repr(nodes)}: {reason}.")
    return found
