"""Aligns whatever is labelled: by labels and times, never by position where both sides have them.

In: labels or timestamps of two sides. Out: where what is wanted lies, or a selection of a source. Never copies or
reads values, and never takes the nearest label or timestamp for the one that is missing.
"""

from __future__ import annotations

import datetime
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SeriesError
from windowloader.sources.selected import SelectedSource
from windowloader.util.axes import sizes
from windowloader.util.calendars import calendar_of, own

from .labels import counts, keys, listed, tells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.sources import Source

    from .clock import Clock
    from .variable import Variable


__all__ = ["Alignment", "find", "fits", "locate", "order", "rows"]


def find(labels: Any, wanted: Any) -> tuple[np.ndarray, list[str]]:
    """Where each wanted label is, and those that are nowhere.

    Returns
    -------
    found : ndarray, shape (wanted,), int64
        Positions in ``labels``; -1 where there is none.
    missing : list of str

    Examples
    --------
    >>> find(np.array(["a", "b"]), ["b", "c"])
    (array([ 1, -1]), ['c'])
    """
    have, want = keys(labels, wanted)
    place = {key: number for number, key in enumerate(have)}
    found = np.array([place.get(key, -1) for key in want], np.int64)
    return found, [str(key) for key in want if key not in place]


def locate(
    labels: Any, wanted: Any, what: str, whose: str = "the series", error: type = SeriesError, hint: str = ""
) -> np.ndarray:
    """Where each wanted label is among ``labels``.

    Parameters
    ----------
    labels, wanted : array-like, shape (node,)
        Text is compared with numbers as a number (``"0042"`` is 42), with text as it stands. Numbers must be equal.
    what, whose : str
        What ``labels`` and ``wanted`` belong to, for an error.
    error : type
        What to raise.
    hint : str
        What to do, for an error.

    Returns
    -------
    ndarray, shape (wanted,), int64

    Raises
    ------
    SeriesError
        Where a wanted label is missing, or a label is there twice.

    Examples
    --------
    >>> locate(["c", "a", "b"], ["a", "c"], "the covariate").tolist()
    [1, 0]
    """
    have, want = keys(labels, wanted)
    for side, found in ((what, have), (whose, want)):
        if twice := [key for key, times in Counter(found).items() if times > 1]:
            raise error(
                f"the labels {listed(twice)} of {side} repeat, so {what} and {whose} cannot be aligned by label. "
                "Name each once."
            )
    places, missing = find(labels, wanted)
    if missing:
        asked = set(want)
        more = [key for key in have if key not in asked]
        told = f"{len(missing)} only in {whose}: {listed(missing)}"
        told += f"; {len(more)} only in {what}: {listed(more)}" if more else ""
        raise error(
            f"{what} lacks {len(missing)} of the {len(want)} labels of {whose}: {told}.{_nearest(have, want)} {hint}"
        )
    return places


def order(labels: Any, wanted: Any, *told: Any) -> np.ndarray | None:
    """Where each wanted label is among ``labels``, as `locate` finds it; None where nothing has to move.

    That is where both are the same, where a side has no labels, and where one side's labels only count 0, 1, 2 … and
    the other side has none of them.
    """
    if labels is None or wanted is None:
        return None
    have, want = keys(labels, wanted)
    apart = (counts(have) or counts(want)) and set(have).isdisjoint(want)
    return None if have == want or apart else locate(labels, wanted, *told)


def rows(times: np.ndarray | None, wanted: np.ndarray | None, what: str) -> slice | None:
    """Which rows have the timestamps of the series; None for all, or where a side has no timestamps.

    Parameters
    ----------
    times, wanted : ndarray of datetime64[ns], optional
        Of the rows and of the series, in UTC.
    what : str
        Whose rows they are, for an error.

    Raises
    ------
    SeriesError
        Where the wanted timestamps are not one run of ``times``.

    Examples
    --------
    >>> hours = np.arange("2020-01-01", "2020-01-02", dtype="datetime64[h]").astype("datetime64[ns]")
    >>> rows(hours, hours[3:9], "the covariate")
    slice(3, 9, None)
    """
    if times is None or wanted is None:
        return None
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
    raise SeriesError(
        f"{what} and the series disagree on time: it {lacks}. It has {_described(times)}, the series "
        f"{_described(wanted)}. Bring it to the same clock, e.g. by reindex of pandas (frame.reindex(times)) or of "
        "xarray (array.reindex(time=times)); rows of other times are never paired."
    )


def fits(axes: str, shape: tuple[int, ...], num_steps: int, space_shape: tuple[int, ...]) -> bool:
    """Whether an array has time, space or both, each of the sizes of the series."""
    return (
        len(axes) == len(shape)
        and sizes(axes, shape, "t") in ((), (num_steps,))
        and sizes(axes, shape, "n") in ((), space_shape)
        and ("t" in axes or "n" in axes)
    )


class Alignment:
    """The nodes and the clock of a series, to which everything that has labels or times is brought.

    Those of the first variable, where it has some; else the first that it meets. What has none is taken by position.

    Parameters
    ----------
    first : Source
        Its labels and timestamps are read when something else is aligned.
    what : str
        What it is, for an error.
    nodes : ndarray, shape (node,), optional
        Labels that were given: they count where files have none, and after `settle` in place of theirs.
    clock : Clock, optional
        Likewise.

    Attributes
    ----------
    num_steps : int
    space_shape : tuple of int
    moved : list of str
        What was joined along time in another order than it was given in, and sets the order of the rows.
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
        return (
            found
            if found is not None or self.clock is None
            else self.clock.times_of(np.arange(self.num_steps))
        )

    def settle(self) -> None:
        """Take labels and times that were given in place of those of files."""
        if self.nodes is not None and len(self.space_shape) == 1:
            self.labels = [self.nodes]
        if self.clock is not None:
            self.times = self.clock.times_of(np.arange(self.num_steps))

    def __call__(self, source: Source, what: str, advice: str, *, covariate: bool = False) -> Source:
        """Return a source on the nodes and rows of the series: itself, or a selection of it.

        Parameters
        ----------
        source : Source
        what, advice : str
            What it is, and what to do where it does not fit, for an error.
        covariate : bool
            Whether it may lack the time or the space of the series.

        Raises
        ------
        SeriesError
            Where it lacks a label or timestamp of the series, or has none and is of another size.
        """
        if source is self.first:
            return source
        places = [axis for axis, letter in enumerate(source.axes) if letter == "n"]
        along = {}
        for number, axis in enumerate(places) if len(places) == len(self.space_shape) else ():
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
        part = source if kept is None and not along else SelectedSource(source, rows=kept, along=along)
        spaced = covariate or len(places) == len(self.space_shape)
        if not (spaced and fits(part.axes, part.shape, self.num_steps, self.space_shape)):
            raise SeriesError(
                f"{what} has axes {part.axes!r} and shape {part.shape}, but the series has {self.num_steps} steps and "
                f"space {self.space_shape}. {advice}"
            )
        return part

    def check_moved(self, variables: Sequence[Variable], by_row: Mapping[str, Any]) -> None:
        """Refuse what goes by row beside parts that were put into the order of their times."""
        if not self.moved:
            return
        given = [name for name, value in by_row.items() if value is not None]
        given += [one.name for one in variables if one.has_time and one.source.timestamps() is None]
        if given:
            raise SeriesError(
                f"the parts of {', '.join(self.moved)} are joined by their times, but were given in another order, and "
                f"{listed(given)} go by row. Give the parts in the order of their times."
            )


def _nearest(have: list[Any], want: list[Any]) -> str:
    """Say how near the first missing number is to one that is there: equal in less precision, perhaps."""
    numbers = {key for key in have if not isinstance(key, str)}
    missing = next((key for key in want if not isinstance(key, str) and key not in numbers), None)
    if missing is None or not numbers:
        return ""
    near = min(numbers, key=lambda key: abs(key - missing))
    return f" {missing!r} is nearest to {near!r}, {abs(near - missing):.3g} apart; numbers match where they are equal."


def _described(times: np.ndarray) -> str:
    """Rows, step and ends of timestamps, for a message."""
    if len(times) < 2:
        return f"{len(times)} rows"
    step = datetime.timedelta(microseconds=float(np.median(np.diff(times).astype(np.int64))) / 1e3)
    return f"{len(times)} rows of {step} from {times[0]} to {times[-1]}"
