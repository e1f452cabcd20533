"""Aligns whatever has labels or times to the nodes and the clock of a series, never by position where both have them.

In: sources with labels or timestamps. Out: the same sources, or selections of them. Never copies or reads values, and
never substitutes the nearest label or timestamp for a missing one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SeriesError
from windowloader.sources.selected import SelectedSource
from windowloader.util.axes import sizes
from windowloader.util.calendars import calendar_of, own
from windowloader.util.labels import listed, order, tells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.sources import Source

    from .variable import Variable


__all__ = ["Alignment", "fits", "rows"]


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


def fits(axes: str, shape: tuple[int, ...], num_steps: int, space_shape: tuple[int, ...]) -> bool:
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
        The first variable.
    what : str
        Its name, for errors.
    nodes : ndarray, shape (node,), optional
        Labels that the user gave, for the case that the first variable has none.
    times : ndarray of datetime64[ns], optional
        Timestamps, likewise.

    Attributes
    ----------
    labels : list of ndarray or None
        Labels of each space axis.
    times : ndarray or None
        Timestamps of the rows.
    moved : list of str
        Sources joined along time in another order than they were given in.
    """

    def __init__(self, first: Source, what: str, nodes: np.ndarray | None, times: np.ndarray | None) -> None:
        self.first, self.num_steps = first, first.shape[0]
        self.space_shape = sizes(first.axes, first.shape, "n")
        self.labels = [first.labels(axis) for axis, letter in enumerate(first.axes) if letter == "n"]
        if len(self.labels) == 1 and self.labels[0] is None:
            self.labels = [nodes]
        own_times = first.timestamps()
        self.times = times if own_times is None else own_times
        self.moved = [what] if first.moved else []

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
        part = source if kept is None and not along else SelectedSource(source, rows=kept, along=along)
        if not (partial or spatial) or not fits(part.axes, part.shape, self.num_steps, self.space_shape):
            raise SeriesError(
                f"{what} has axes {part.axes!r} and shape {part.shape}, but the series has {self.num_steps} steps and "
                f"space {self.space_shape}. {advice}"
            )
        return part

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
