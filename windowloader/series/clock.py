"""The time of every row, stored as runs of equal steps; clock features; and where segments begin.

In: timestamps of the rows, or a start and a frequency. Out: `Clock`, which gives timestamps, clock features and rows by
date. Stores no timestamp per row where steps are regular, and no clock feature.
"""

from __future__ import annotations

import hashlib
import itertools
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import FeatureNameError, SeriesError
from windowloader.sources.mapping import release
from windowloader.util.axes import pieces
from windowloader.util.calendars import (
    Times,
    calendar_of,
    clock_values,
    dates,
    frequency,
    local,
    moment,
    moment_of,
    nanoseconds_of,
    own,
)

from .packed import pack_integers, unpack_integers
from .variable import CLOCK_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CLOCK_NAMES", "Clock", "check_borders", "clip_borders"]

PIECE = 1 << 22  # rows whose steps are in memory at once


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Clock:
    """Timestamps of rows, as runs of equal steps; made by `from_timestamps`.

    Parameters
    ----------
    rows, times, steps : ndarray, shape (run,), int64
        First row, its nanoseconds since 1970, and nanoseconds from row to row, of each run.
    num_steps : int
        Rows.
    calendar : str
        The time zone whose local time the clock features are of, ``"Europe/Berlin"``, where times are UTC; or the
        calendar whose days are counted, ``"noleap"``, ``"all_leap"``, ``"360_day"``, ``"julian"``. Empty: UTC.

    Examples
    --------
    >>> clock = Clock.from_timestamps(("2012-03-01", "5min"), 2016)
    >>> clock.timestamps([0, 1])
    array(['2012-03-01T00:00:00.000000000', '2012-03-01T00:05:00.000000000'], dtype='datetime64[ns]')
    >>> clock.values(["time_of_day", "day_of_week"], np.array([144]))  # Thursday noon
    array([[0.5, 3. ]])
    >>> clock.searchsorted("2012-03-02")
    288
    """

    rows: np.ndarray
    times: np.ndarray
    steps: np.ndarray
    num_steps: int
    calendar: str = ""

    @classmethod
    def from_timestamps(cls, values: Any, num_steps: int, borders: np.ndarray | None = None) -> Clock:
        """Take timestamps, or a start and a frequency.

        Parameters
        ----------
        values : array-like of moments, shape (num_steps,), or tuple (start, freq)
            datetime64, ISO strings, datetime, pandas index or series (its time zone is kept), dates of cftime; or e.g.
            ``("2012-03-01", "5min")``.
        num_steps : int
            Rows they must have.
        borders : ndarray, shape (entity + 1,), int64, optional
            Where entities begin, with 0 and the end: time increases within an entity only.

        Returns
        -------
        Clock

        Raises
        ------
        SeriesError
            Where sizes differ, or time does not increase within an entity; the message has the row and the
            values.

        Examples
        --------
        >>> Clock.from_timestamps(["2012-03-01", "2012-03-02", "2012-03-04"], 3)
        Clock(3 rows, 2012-03-01T00:00:00 … 2012-03-04T00:00:00, 2 runs)
        """
        edges = np.array([0, num_steps], np.int64) if borders is None else np.asarray(borders, np.int64)
        if isinstance(values, tuple) and len(values) == 2 and (num_steps != 2 or _is_frequency(values[1])):
            if len(edges) > 2:
                raise SeriesError(
                    f"timestamps={values!r} give one start, but there are {len(edges) - 1} entities, each "
                    "with its own dates. Give an array with the timestamp of every row."
                )
            first, step = moment(values[0]), frequency(values[1])
            if first + step * max(num_steps - 1, 0) >= 2**63:
                raise SeriesError(f"timestamps={values!r} with {num_steps} rows end after the year 2262.")
            return cls(_ints(0), _ints(first), _ints(step), num_steps, calendar_of(values[0]))
        if not isinstance(values, Times):
            values = Times(nanoseconds_of(values), calendar_of(values))
        if len(values) != num_steps:
            raise SeriesError(
                f"there are {len(values)} timestamps for {num_steps} rows; each row needs one. Is it another axis "
                "that is time (axes=), or a file of other rows?"
            )
        found = []
        for first, last in pieces(edges, PIECE):  # no run crosses the border of an entity
            within = edges[first : last + 1]
            found.append(_runs(nanoseconds_of(values[within[0] : within[-1]]), within, len(edges) > 2))
            release(values)
        rows, times, lengths = map(np.concatenate, zip(*found, strict=True))
        return cls(rows, times, lengths, num_steps, values.calendar)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in (self.rows, self.times, self.steps))

    def nanoseconds(self, rows: Any) -> np.ndarray:
        """Nanoseconds since 1970 of rows, in UTC or in days of the calendar, int64, in the shape of ``rows``."""
        wanted = np.asarray(rows, np.int64)
        if wanted.size and not (int(wanted.min()) >= 0 and int(wanted.max()) < self.num_steps):
            raise IndexError(f"rows {wanted.min()} … {wanted.max()} are not all in 0 … {self.num_steps - 1}.")
        run = np.searchsorted(self.rows, wanted, side="right") - 1
        return np.asarray(self.times[run] + (wanted - self.rows[run]) * self.steps[run])

    def timestamps(self, rows: Any) -> np.ndarray:
        """Timestamps of rows, in UTC; for a non-standard calendar, the standard dates of the same name.

        Parameters
        ----------
        rows : array-like of int
            Any shape.

        Returns
        -------
        ndarray, shape of rows, datetime64[ns]

        Raises
        ------
        SeriesError
            For a date of the calendar that does not exist, such as 30 February; see `texts`.
        """
        if not own(self.calendar):
            return self.nanoseconds(rows).view("datetime64[ns]")
        try:
            return dates(self.nanoseconds(rows), self.calendar).astype("datetime64[ns]")
        except ValueError as error:
            raise SeriesError(
                f"the calendar {self.calendar!r} has dates that datetime64 has not ({error}); clock.texts(rows) "
                "writes them."
            ) from error

    def times_of(self, rows: Any) -> Times:
        """Timestamps of rows with their time zone or calendar, as `from_timestamps` accepts them."""
        return Times(self.nanoseconds(rows), self.calendar)

    def texts(self, rows: Any) -> list[str]:
        """Timestamps of rows as ISO text, to the second; in UTC, or in the calendar."""
        if own(self.calendar):
            return [text[:19] for text in dates(self.nanoseconds(rows), self.calendar).tolist()]
        return list(np.datetime_as_string(self.timestamps(rows).astype("datetime64[s]")).tolist())

    def values(self, names: Sequence[str], rows: Any) -> np.ndarray:
        """Clock features of rows, in local time where there is a time zone.

        Parameters
        ----------
        names : sequence of str
            Of `CLOCK_NAMES`. ``time_of_day`` is the elapsed fraction of the day (0 ≤ x < 1), ``day_of_week`` 0 … 6
            from Monday, ``day_of_year`` 1 … 366. ``_sin`` and ``_cos`` have a period of a day, a week (in steps of a
            day), a year (from 1 January, of 365 or 366 days).
        rows : array-like of int
            Any shape.

        Returns
        -------
        ndarray, shape of rows and (name,), float64

        Raises
        ------
        FeatureNameError
            For an unknown name.
        """
        for name in names:
            if name not in CLOCK_NAMES:
                raise FeatureNameError(
                    f"{name!r} is not a clock feature; choose among {', '.join(CLOCK_NAMES)}."
                )
        times, calendar = self.nanoseconds(rows), own(self.calendar)
        if self.calendar and not calendar:
            times = local(times, self.calendar)
        out = np.empty((*times.shape, len(names)), np.float64)
        for place, name in enumerate(names):
            out[..., place] = clock_values(times, CLOCK_NAMES.index(name), calendar)
        return out

    def searchsorted(self, when: Any, side: str = "left", *, start: int = 0, stop: int | None = None) -> int:
        """First row at (``"left"``) or after (``"right"``) a moment.

        Parameters
        ----------
        when : str, datetime64 or datetime
            The moment.
        side : {"left", "right"}
            ``"left"``: first row whose time is ≥ ``when``; ``"right"``: > ``when``.
        start, stop : int
            Search these rows only, e.g. those of one entity, within which time increases.

        Returns
        -------
        int
            From ``start`` to ``stop``.
        """
        stop = self.num_steps if stop is None else stop
        calendar = own(self.calendar)
        target = moment_of(when, calendar) if calendar else moment(when)
        target += side == "right"  # times are whole nanoseconds: > t is ≥ t + 1
        if start >= stop:
            return start
        low, high = self._runs(start, stop)
        run = low + max(int(np.searchsorted(self.times[low:high], target)) - 1, 0)
        row = int(self.rows[run]) + -(-(target - int(self.times[run])) // int(self.steps[run]))
        end = int(self.rows[run + 1]) if run + 1 < len(self.rows) else self.num_steps
        return min(max(row, start), end, stop)

    def slice(self, start: int, stop: int) -> Clock:
        """Return the clock of rows ``[start, stop)``, counted from ``start``."""
        low, high = self._runs(start, stop) if start < stop else (0, 0)
        rows = np.maximum(self.rows[low:high], start)  # the first run may begin before
        times, steps = self.nanoseconds(rows), self.steps[low:high].copy()
        return Clock(rows - start, times, steps, stop - start, self.calendar)

    def _runs(self, start: int, stop: int) -> tuple[int, int]:
        """Range of the runs that have rows in ``[start, stop)``."""
        return int(np.searchsorted(self.rows, start, "right")) - 1, int(np.searchsorted(self.rows, stop))

    def jumps(self, borders: np.ndarray) -> np.ndarray:
        """Rows where time jumps, which is where segments begin unless they are given.

        A jump is a step under half or over one and a half times the entity's median step. So a month of 28 days after
        one of 31 is not a jump; a missing reading is one, and so is a weekend in daily data.

        Parameters
        ----------
        borders : ndarray, shape (entity + 1,), int64
            Where entities begin, with 0 and the end.

        Returns
        -------
        ndarray, shape (jump,), int64
            Rows after a jump, increasing, without the borders.
        """
        found = [_ints()]
        for start, stop in itertools.pairwise(borders.tolist()):
            low, high = self._runs(start, stop)  # no run crosses the border of an entity
            if stop - start <= 2 or high - low == 1:
                continue
            rows, times, within = self.rows[low:high], self.times[low:high], self.steps[low:high]
            inside = np.append(rows[1:], stop) - rows - 1  # steps within each run; one more leads to the next
            between = times[1:] - (times + inside * within)[:-1]
            steps, first = np.concatenate((within, between)), np.concatenate((rows + 1, rows[1:]))
            counts = np.concatenate((inside, np.ones(len(between), np.int64)))
            found.append(_jump_rows(steps, counts, first))
        return np.concatenate(found)

    def fingerprint(self) -> str:
        """Short text that changes when any timestamp does."""
        digest = hashlib.sha256(f"{self.num_steps}{self.calendar}".encode())
        for array in (self.rows, self.times, self.steps, _ints()):
            digest.update(array.astype("<i8").tobytes() + b"|")
        return digest.hexdigest()[:16]

    def __reduce__(self) -> tuple[Any, ...]:
        packed = [pack_integers(array) for array in (self.rows, self.times, self.steps)]
        return _unpacked, (packed, self.num_steps, self.calendar)

    def __repr__(self) -> str:
        if not self.num_steps:
            return "Clock(0 rows)"
        first, last = self.texts([0, self.num_steps - 1])
        runs = f"{len(self.rows)} run{'s' * (len(self.rows) != 1)}"
        return f"Clock({self.num_steps} rows, {first} … {last}{self.calendar_note}, {runs})"

    @property
    def calendar_note(self) -> str:
        """The time zone or calendar, to be shown after timestamps; empty where there is none."""
        if not self.calendar:
            return ""
        return f" ({self.calendar})" if own(self.calendar) else f" UTC, clocks of {self.calendar}"


def _unpacked(packed: Sequence[Any], num_steps: int, calendar: str) -> Clock:
    rows, times, steps = map(unpack_integers, packed)
    return Clock(rows, times, steps, num_steps, calendar)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _is_frequency(value: Any) -> bool:
    """Whether the second of two values is a step, not a moment: ("2012-03-01", "5min")."""
    try:
        return frequency(value) > 0
    except SeriesError:
        return False


def _runs(
    stamps: np.ndarray, borders: np.ndarray, several: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, times and steps of the runs of some entities, of which there may be more."""
    steps = _rising_steps(stamps, borders, several)
    rows = _run_rows(steps, len(stamps))
    inside = np.append(rows[1:], len(stamps)) - rows > 1
    lengths = np.ones(len(rows), np.int64)
    lengths[inside] = steps[rows[inside]]
    return rows + borders[0], stamps[rows], lengths


def _rising_steps(stamps: np.ndarray, borders: np.ndarray, several: bool) -> np.ndarray:
    """Return steps from row to row, 0 at an entity's last; `SeriesError` where time does not increase."""
    steps, first_row = np.diff(stamps), int(borders[0])
    inner = borders[1:-1] - first_row
    crossing = inner[(inner > 0) & (inner < len(stamps))] - 1
    steps[crossing] = 1
    wrong = np.flatnonzero(steps <= 0)
    if wrong.size:
        row = int(wrong[0])
        before, after = stamps[row : row + 2].view("datetime64[ns]")
        how = "repeats" if stamps[row] == stamps[row + 1] else "goes back"
        raise SeriesError(
            f"time {how} from row {first_row + row} ({before}) to row {first_row + row + 1} ({after}); timestamps must "
            f"increase{' within an entity' if several else ''}. There are {wrong.size} such rows. Sort the "
            "rows by time and drop repeats, or, where several series lie end to end, say where each begins: "
            "entities=borders. Local times repeat an hour where summer time ends: convert them to UTC first."
        )
    steps[crossing] = 0
    return steps


def _run_rows(steps: np.ndarray, num_steps: int) -> np.ndarray:
    """Return first rows of runs of equal steps; a step of 0 marks an entity's border, which no run crosses.

    A run reaches as far as its first step repeats. The step to the next run's first row belongs to neither,
    so a gap in regular data costs one run.
    """
    if num_steps < 2:
        return np.arange(num_steps)
    changes = np.flatnonzero((steps[1:] != steps[:-1]) | (steps[1:] == 0)) + 1
    starts = np.concatenate(
        ([0], changes, [len(steps)])
    )  # of groups of equal steps; the last is past the end
    lone = np.append(np.diff(starts) == 1, True)
    border = np.append(steps[starts[:-1]] == 0, False)
    # A group's first step leads from the run before it, unless that step belongs to a group of one or to a border.
    # In a series of groups of one every other step does.
    place = np.arange(len(starts))
    known = np.append(
        -1, np.maximum.accumulate(np.where(lone & ~border, -1, place))[:-1]
    )  # before each group
    leads = ((known >= 0) & ~border[known]).astype(np.int64)
    leads = (leads + place - known - 1) % 2
    return np.asarray((starts + leads)[(leads == 0) | ~lone], np.int64)


def check_borders(borders: Any, num_steps: int, *, what: str) -> np.ndarray:
    """Validate where segments or entities begin.

    Parameters
    ----------
    borders : array-like, shape (part + 1,), integer
        First row of each part, and the end: 0, …, ``num_steps``, increasing.
    num_steps : int
        Number of rows.
    what : str
        Name of the argument, for the error.

    Returns
    -------
    ndarray, shape (part + 1,), int64

    Raises
    ------
    SeriesError
        For anything else; the message says how to convert lengths and pairs.

    Examples
    --------
    >>> check_borders([0, 3, 10], 10, what="segments")
    array([ 0,  3, 10])
    """
    array = np.asarray(borders)
    if array.ndim == 1 and array.size > 1 and array.dtype.kind in "iu":
        array = array.astype(np.int64)
        if array[0] == 0 and array[-1] == num_steps and (np.diff(array) > 0).all():
            return array
    raise SeriesError(
        f"{what}= takes the rows where each begins, and the end: 0, …, {num_steps}, increasing. Found {array.dtype} of "
        f"shape {array.shape}, {reprlib.repr(array.tolist())}. Of lengths make np.append(0, "
        f"np.cumsum(lengths)), of pairs (start, stop) np.append(starts, {num_steps})."
    )


def clip_borders(borders: np.ndarray, rows: slice) -> tuple[np.ndarray, slice]:
    """Return the borders within a slice of rows, relative to its start, and which parts remain.

    Examples
    --------
    >>> clip_borders(np.array([0, 3, 10, 12]), slice(4, 11))
    (array([0, 6, 7]), slice(1, 3, None))
    """
    low = int(np.searchsorted(borders, rows.start, side="right")) - 1
    high = int(np.searchsorted(borders, rows.stop))
    return np.clip(borders[low : high + 1], rows.start, rows.stop) - rows.start, slice(low, high)


def _jump_rows(steps: np.ndarray, counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the rows that follow a jump in time, rising: a step that is far from the median step.

    ``counts`` equal ``steps`` follow each other, and the first of them leads to row ``first``.
    """
    order = np.argsort(steps, kind="stable")
    reached = np.cumsum(counts[order])
    median = int(steps[order][np.searchsorted(reached, (reached[-1] + 1) // 2)])
    far = (steps > median + median // 2) | (steps < median - median // 2)
    lengths = counts[far]
    begins = np.repeat(first[far] - (np.cumsum(lengths) - lengths), lengths)
    return np.sort(begins + np.arange(len(begins)))
