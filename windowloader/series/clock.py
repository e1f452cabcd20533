"""The time of every row, kept as runs, and the clock features made from it.

In: timestamps of the rows, or a start and a frequency. Out: `Clock`: timestamps, clock features and rows by
date. Never stores a timestamp a row where the steps are regular, and never a clock feature.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import FeatureNameError, SeriesError
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
from .runs import find_runs, jumps_of_runs, jumps_of_stamps, rising_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CLOCK_NAMES", "Clock"]

CLOCK_NAMES = tuple(
    f"{clock}{form}"
    for clock in ("time_of_day", "day_of_week", "day_of_year")
    for form in ("", "_sin", "_cos")
)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Clock:
    """Timestamps of rows, as runs of equal steps; made by `from_timestamps`.

    Parameters
    ----------
    rows, times, steps : ndarray, shape (run,), int64
        First row, its nanoseconds since 1970, and nanoseconds from row to row, of each run.
    stamps : ndarray, shape (num_steps,) or (0,), int64
        Nanoseconds of every row where runs would take more memory; then there are no runs.
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
    stamps: np.ndarray
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
            Where entities begin, with 0 and the end: time rises within an entity only.

        Returns
        -------
        Clock

        Raises
        ------
        SeriesError
            Where sizes differ, or time does not rise within an entity; the message has the row and the
            values.

        Examples
        --------
        >>> Clock.from_timestamps(["2012-03-01", "2012-03-02", "2012-03-04"], 3)
        Clock(3 rows, 2012-03-01T00:00:00 … 2012-03-04T00:00:00, 2 runs)
        """
        edges = np.array([0, num_steps], np.int64) if borders is None else np.asarray(borders, np.int64)
        if isinstance(values, tuple) and len(values) == 2 and _is_frequency(values[1]):
            if len(edges) > 2:
                raise SeriesError(
                    f"timestamps={values!r} give one start, but there are {len(edges) - 1} entities, each "
                    "with its own dates. Give an array with the timestamp of every row."
                )
            first, step = moment(values[0]), frequency(values[1])
            if first + step * max(num_steps - 1, 0) >= 2**63:
                raise SeriesError(f"timestamps={values!r} with {num_steps} rows end after the year 2262.")
            return cls(_ints(0), _ints(first), _ints(step), _ints(), num_steps, calendar_of(values[0]))
        if isinstance(values, tuple) and len(values) == 2 and num_steps != 2 and isinstance(values[1], str):
            _refuse_step(values[1])
        stamps, calendar = nanoseconds_of(values), calendar_of(values)
        if len(stamps) != num_steps:
            raise SeriesError(
                f"there are {len(stamps)} timestamps for {num_steps} rows; each row needs one. Is it another axis "
                "that is time (axes=), or a file of other rows?"
            )
        steps = rising_steps(stamps, edges)
        runs = find_runs(steps, num_steps)
        if runs is None:
            return cls(_ints(), _ints(), _ints(), stamps, num_steps, calendar)
        rows = np.array(runs, np.int64)
        inside = np.append(rows[1:], num_steps) - rows > 1
        lengths = np.ones(len(rows), np.int64)
        lengths[inside] = steps[rows[inside]]
        return cls(rows, stamps[rows], lengths, _ints(), num_steps, calendar)

    @property
    def table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """``rows, times, steps, stamps``, as the kernels take them."""
        return self.rows, self.times, self.steps, self.stamps

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.table)

    def nanoseconds(self, rows: Any) -> np.ndarray:
        """Nanoseconds since 1970 of rows, in UTC or in days of the calendar, int64, in the shape of ``rows``."""
        wanted = self._checked(rows)
        if len(self.stamps):
            return np.asarray(self.stamps[wanted])
        run = np.searchsorted(self.rows, wanted, side="right") - 1
        return np.asarray(self.times[run] + (wanted - self.rows[run]) * self.steps[run])

    def timestamps(self, rows: Any) -> np.ndarray:
        """Timestamps of rows, UTC; in a calendar of its own, the dates of the same name.

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
            For a date of the calendar that does not exist, such as 30 February; `texts` has it.
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
        """Timestamps of rows with their zone or calendar, as `from_timestamps` takes them."""
        return Times(self.nanoseconds(rows), self.calendar)

    def texts(self, rows: Any) -> list[str]:
        """Timestamps of rows as ISO text, to the second; in UTC, or in the calendar."""
        if own(self.calendar):
            return [text[:19] for text in dates(self.nanoseconds(rows), self.calendar).tolist()]
        return list(np.datetime_as_string(self.timestamps(rows).astype("datetime64[s]")).tolist())

    def values(self, names: Sequence[str], rows: Any) -> np.ndarray:
        """Clock features of rows, of the local time where there is a time zone.

        Parameters
        ----------
        names : sequence of str
            Of `CLOCK_NAMES`. ``time_of_day`` is the share of the day that has passed (0 ≤ x < 1),
            ``day_of_week`` 0 … 6 from Monday, ``day_of_year`` 1 … 366. ``_sin`` and ``_cos`` run once round a
            day, a week (in steps of a day), a year (from 1 January, of 365 or 366 days).
        rows : array-like of int
            Any shape.

        Returns
        -------
        ndarray, shape of rows and (name,), float64

        Raises
        ------
        FeatureNameError
            For a name that is no clock.
        """
        from .clock_kernels import fill

        for name in names:
            if name not in CLOCK_NAMES:
                raise FeatureNameError(f"{name!r} is no clock; there are {', '.join(CLOCK_NAMES)}.")
        wanted = self._checked(rows)
        out = np.empty((wanted.size, len(names)), np.float64)
        codes = np.array([CLOCK_NAMES.index(name) for name in names], np.int64)
        flat = np.ascontiguousarray(wanted).reshape(-1)
        if own(self.calendar):
            times = self.nanoseconds(flat)
            out[:] = np.stack([clock_values(times, int(code), self.calendar) for code in codes], axis=-1)
        elif self.calendar:
            shown = local(self.nanoseconds(flat), self.calendar)
            fill(out, np.arange(len(flat)), codes, _ints(), _ints(), _ints(), shown)
        else:
            fill(out, flat, codes, *self.table)
        return out.reshape(*wanted.shape, len(names))

    def searchsorted(self, when: Any, side: str = "left", *, start: int = 0, stop: int | None = None) -> int:
        """First row at (``"left"``) or after (``"right"``) a moment.

        Parameters
        ----------
        when : str, datetime64 or datetime
            The moment.
        side : {"left", "right"}
            ``"left"``: first row whose time is ≥ ``when``; ``"right"``: > ``when``.
        start, stop : int
            Search these rows only: those of one entity, where time rises.

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
        if len(self.stamps):
            return start + int(np.searchsorted(self.stamps[start:stop], target))
        low = int(np.searchsorted(self.rows, start, side="right")) - 1
        high = int(np.searchsorted(self.rows, stop))
        run = low + max(int(np.searchsorted(self.times[low:high], target)) - 1, 0)
        row = int(self.rows[run]) + -(-(target - int(self.times[run])) // int(self.steps[run]))
        end = int(self.rows[run + 1]) if run + 1 < len(self.rows) else self.num_steps
        return min(max(row, start), end, stop)

    def slice(self, start: int, stop: int) -> Clock:
        """Return the clock of rows ``[start, stop)``, counted from ``start``."""
        if len(self.stamps):
            return Clock(*self.table[:3], self.stamps[start:stop].copy(), stop - start, self.calendar)
        if start >= stop:
            return Clock(_ints(), _ints(), _ints(), _ints(), 0, self.calendar)
        low = int(np.searchsorted(self.rows, start, side="right")) - 1
        high = int(np.searchsorted(self.rows, stop))
        rows = self.rows[low:high] - start
        times = self.times[low:high].copy()
        times[0] -= int(rows[0]) * int(self.steps[low])  # the first run begins inside
        rows[0] = 0
        return Clock(rows, times, self.steps[low:high].copy(), self.stamps, stop - start, self.calendar)

    def jumps(self, borders: np.ndarray) -> np.ndarray:
        """Rows where time jumps: where a segment begins if none are given.

        A jump is a step under half or over one and a half times the entity's regular step, the median one. So
        a month of 28 days after one of 31 is no jump, a reading left out is, and so is a weekend in daily
        data.

        Parameters
        ----------
        borders : ndarray, shape (entity + 1,), int64
            Where entities begin, with 0 and the end.

        Returns
        -------
        ndarray, shape (jump,), int64
            Rows after a jump, rising; borders are not among them.
        """
        found = [
            self._jumps_within(int(start), int(stop))
            for start, stop in itertools.pairwise(borders)
            if stop - start > 2
        ]
        return np.concatenate(found) if found else _ints()

    def _jumps_within(self, start: int, stop: int) -> np.ndarray:
        """Jumps of one entity: from the runs, so that regular rows cost nothing."""
        if len(self.stamps):
            return start + jumps_of_stamps(self.stamps[start:stop])
        low = int(np.searchsorted(self.rows, start))  # runs never cross an entity's border
        high = int(np.searchsorted(self.rows, stop))
        if high - low == 1:
            return _ints()
        return jumps_of_runs(self.rows[low:high], self.times[low:high], self.steps[low:high], stop)

    def fingerprint(self) -> str:
        """Short text that changes when any timestamp does."""
        digest = hashlib.sha256(f"{self.num_steps}{self.calendar}".encode())
        for array in self.table:
            digest.update(array.astype("<i8").tobytes() + b"|")
        return digest.hexdigest()[:16]

    def _checked(self, rows: Any) -> np.ndarray:
        wanted = np.asarray(rows, np.int64)
        if wanted.size and not (int(wanted.min()) >= 0 and int(wanted.max()) < self.num_steps):
            raise IndexError(f"rows {wanted.min()} … {wanted.max()} are not all in 0 … {self.num_steps - 1}.")
        return wanted

    def __reduce__(self) -> tuple[Any, ...]:
        packed = [pack_integers(array) for array in self.table]
        return _unpacked, (*packed, self.num_steps, *([self.calendar] if self.calendar else []))

    def __repr__(self) -> str:
        if not self.num_steps:
            return "Clock(0 rows)"
        first, last = self.texts([0, self.num_steps - 1])
        kind = "irregular" if len(self.stamps) else f"{len(self.rows)} run{'s' * (len(self.rows) != 1)}"
        return f"Clock({self.num_steps} rows, {first} … {last}{self.told}, {kind})"

    @property
    def told(self) -> str:
        """The time zone or calendar, as it is said after times; empty where there is none."""
        if not self.calendar:
            return ""
        return f" ({self.calendar})" if own(self.calendar) else f" UTC, clocks of {self.calendar}"


def _unpacked(rows: Any, times: Any, steps: Any, stamps: Any, num_steps: int, calendar: str = "") -> Clock:
    first, second, third, fourth = (unpack_integers(packed) for packed in (rows, times, steps, stamps))
    return Clock(first, second, third, fourth, num_steps, calendar)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _refuse_step(freq: str) -> None:
    """Raise where the second of a pair of text is neither a step nor a moment: a misspelt step."""
    try:
        moment(freq)
    except SeriesError:
        frequency(freq)  # which is refused, and says what a step is


def _is_frequency(value: Any) -> bool:
    """Whether the second of two values is a step, not a moment: ("2012-03-01", "5min")."""
    try:
        return frequency(value) > 0
    except SeriesError:
        return False
