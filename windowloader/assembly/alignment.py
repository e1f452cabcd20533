"""Aligns whatever is labelled: by labels and times, never by position where both sides have them.

In: labels or timestamps of two sides. Out: where what is wanted lies, or a selection of a source. Never copies or
reads values, and never takes the nearest label or timestamp for the one that is missing.
"""

from __future__ import annotations

import datetime
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.clocks.calendars import calendar_of, own
from windowloader.errors import SeriesError
from windowloader.sources.selected import SelectedSource

from .labels import counts, keys, listed, tells

if TYPE_CHECKING:
    from windowloader.source import Source


__all__ = ["Alignment", "find", "locate", "order", "rows"]


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
    labels: Any,
    wanted: Any,
    what: str,
    whose: str = "the series",
    error: type = SeriesError,
    advice: str = "",
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
    advice : str
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
            f"{what} lacks {len(missing)} of the {len(want)} labels of {whose}: {told}.{_nearest(have, want)} {advice}"
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


class Alignment:
    """The nodes and the rows of a series, to which everything that has labels or times is brought.

    The first labels and times that it meets are those of the series; what has none is taken by position.

    Parameters
    ----------
    alone : bool
        Whether there is but one thing to bring: then labels of a grid need not be read.

    Attributes
    ----------
    labels : list of (ndarray or None)
        Of each space axis.
    times : ndarray of datetime64[ns] or None
    size : tuple of (int, tuple of int)
        Rows, and sizes of the space axes, of the first variable.
    moved : list of str
        What was joined along time in another order than it was given in, and sets the order of the rows.
    """

    def __init__(self, *, alone: bool = False) -> None:
        self.alone = alone
        self.labels: list[np.ndarray | None] | None = None
        self.times: np.ndarray | None = None
        self.size: tuple[int, tuple[int, ...]] = (0, ())
        self.moved: list[str] = []

    def settle(self, labels: np.ndarray | None, times: np.ndarray | None, *, over: bool) -> None:
        """Take labels and times that were given, in place of those of files (``over``) or where there are none."""
        if labels is not None and self.labels and len(self.labels) == 1 and (over or self.labels[0] is None):
            self.labels = [labels]
        if times is not None and (over or self.times is None):
            self.times = times

    def __call__(self, source: Source, what: str, *, timed: bool = True, advice: str = "") -> Source:
        """Return a source on the nodes and rows of the series: itself, or a selection of it.

        Parameters
        ----------
        source : Source
        what : str
            What it is, for an error.
        timed : bool
            Whether its timestamps count.
        advice : str
            What to do where labels differ, for an error.

        Raises
        ------
        SeriesError
            Where it lacks a label or timestamp of the series.
        """
        places = [axis for axis, letter in enumerate(source.axes) if letter == "n"]
        unread = self.alone and len(places) > 1
        found = [None if unread else source.labels(axis) for axis in places]
        if self.labels is None:
            self.labels = list(found)
        along = {}
        if len(found) == len(self.labels):
            for number, axis in enumerate(places):
                have, wanted = found[number], self.labels[number]
                picked = order(have, wanted, what, "the series", SeriesError, advice)
                if picked is not None:
                    along[axis] = picked
                elif have is not None and tells(have) and not tells(wanted):
                    self.labels[number] = have
        times = source.timestamps() if timed and "t" in source.axes else None
        if source.moved and (times is None or self.times is None):
            self.moved.append(what)
        kept = rows(times, self.times, what)
        self.times = times if self.times is None else self.times
        return source if kept is None and not along else SelectedSource(source, rows=kept, along=along)

    def known(self, source: Source) -> tuple[str, tuple[int, ...]]:
        """Letters of the axes that times or labels tell, ``?`` for the others, and the shape once aligned."""
        letters, shape = ["?"] * len(source.shape), list(source.shape)
        timed = "t" in source.axes and source.timestamps() is not None
        if timed:
            letters[0], shape[0] = "t", shape[0] if self.times is None else len(self.times)
        for axis in range(int(timed), len(shape)):
            have = source.labels(axis)
            for wanted in self.labels or ():
                if have is not None and tells(wanted) and len(find(have, wanted)[1]) < len(wanted):
                    letters[axis], shape[axis] = "n", len(wanted)
        return "".join(letters), tuple(shape)


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
