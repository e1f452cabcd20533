"""Parts of a split as they are given: ratios, borders, ranges or entities.

In: what the user passed, a series. Out: `Parts`, the rows of each part, the entities of each part. Never looks at
windows or values.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.errors import SeriesError, SplitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.series.series import Series

__all__ = ["Parts", "cut", "entity_parts", "refuse_ratios", "row_regions"]

Kind = Literal["ratios", "borders", "ranges", "entities"]
NAMES = {1: ("all",), 2: ("train", "test"), 3: ("train", "val", "test")}
BORDERS = (Integral, str, np.datetime64, datetime.date)
EXAMPLE = (
    "Give ratios (0.7, 0.1, 0.2), borders ('2012-05-01', '2012-06-01') or row numbers, or named ranges "
    "{'train': ('2012-03-01', '2012-05-01'), 'test': ('2012-05-01', None)}."
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts as they were given.

    Parameters
    ----------
    names : tuple of str
        As given, or train, val, test.
    kind : {"ratios", "borders", "ranges", "entities"}
    values : tuple
        One per part; borders are one fewer.

    Examples
    --------
    >>> Parts.of((0.7, 0.1, 0.2)).kind, Parts.of(["2012-05-01"]).names
    ('ratios', ('train', 'test'))
    """

    names: tuple[str, ...]
    kind: Kind
    values: tuple[Any, ...]

    @classmethod
    def of(cls, parts: Any) -> Parts:
        """Find out which kind the parts are of; `SplitError` for anything unknown."""
        if not isinstance(parts, Iterable) or isinstance(parts, str | bytes):
            raise SplitError(f"parts={parts!r} cannot be read as parts. {EXAMPLE}")
        named = isinstance(parts, Mapping)
        values = tuple(parts.values() if isinstance(parts, Mapping) else parts)
        if not values:
            raise SplitError(f"parts={parts!r} has no parts. {EXAMPLE}")
        kind = _kind(values, named=named)
        if kind == "ratios":
            _check_ratios(values)
        count = len(values) + (kind == "borders")
        default = NAMES.get(count, tuple(f"part {number}" for number in range(count)))
        return cls(tuple(map(str, parts)) if named else default, kind, values)

    def ends(self, first: int, last: int) -> list[tuple[Any, Any]]:
        """Return the ends of each part: numbers or dates, None where open; ratios cut ``[first, last)``."""
        if self.kind == "ratios":
            return list(itertools.pairwise(first + border for border in cut(last - first, self.values)))
        if self.kind == "borders":
            return list(itertools.pairwise((None, *self.values, None)))
        if self.kind == "ranges":
            return [(one.start, one.stop) if isinstance(one, slice) else one for one in self.values]
        raise SplitError(
            "parts are lists, as of entities. Say by='entities', or give ranges as pairs (from, to)."
        )

    def check_order(self, begins: np.ndarray, ends: np.ndarray) -> None:
        """Raise `SplitError` where parts overlap or do not follow each other; arrays of shape (part, run)."""
        given = self.values if self.kind != "borders" else self.ends(0, 0)
        for part, name in enumerate(self.names):
            if (begins[part] > ends[part]).any():
                raise SplitError(
                    f"part {name!r} ends before it begins: {given[part]}. Borders and ranges rise in time; ratios sum "
                    "to 1, e.g. (0.7, 0.1, 0.2)."
                )
            before = ends[:part].max(axis=0, initial=0)
            if ((begins[part] < before) & (begins[part] < ends[part])).any():
                raise SplitError(
                    f"part {name!r} ({given[part]}) begins before part {self.names[part - 1]!r} ({given[part - 1]}) "
                    "ends. Parts must not overlap, and come in order of time: a later one may look back at an earlier "
                    "one, never the other way round."
                )


def _kind(values: tuple[Any, ...], *, named: bool) -> Kind:
    if all(isinstance(one, Real) for one in values) and not all(isinstance(one, Integral) for one in values):
        return "ratios"
    if not named and all(isinstance(one, BORDERS) for one in values):
        return "borders"
    if all(isinstance(one, slice) or _is_range(one) for one in values):
        return "ranges"
    if all(isinstance(one, Collection) and not isinstance(one, str | bytes) for one in values):
        return "entities"
    raise SplitError(f"parts={values!r} mixes ways to give parts, or uses an unknown one. {EXAMPLE}")


def _is_range(value: Any) -> bool:
    """Whether a pair (from, to) could be meant; only ``by="entities"`` tells a pair of names from one of dates."""
    ends = value if isinstance(value, tuple) and len(value) == 2 else (0.0,)
    return all(end is None or isinstance(end, BORDERS) for end in ends)


def _check_ratios(ratios: tuple[float, ...]) -> None:
    if any(not 0 < ratio <= 1 for ratio in ratios):
        raise SplitError(f"ratios {ratios} must each be above 0 and at most 1.")
    if abs(sum(ratios) - 1) > 1e-6:
        raise SplitError(
            f"ratios {ratios} sum to {sum(ratios):.6g}, not 1. To leave rows out, name ranges: "
            "{'train': (0, 20000), 'test': (24000, None)}."
        )


def cut(count: int, ratios: Sequence[float]) -> list[int]:
    """Cut ``count`` things by ratios: first and last part rounded, the remainder for the last but one.

    For three parts this is the arithmetic of DCRNN and PGT-I: ``round(n·r0)`` train, ``round(n·r2)`` test, the
    rest val. Halves round to even, as `round` does.

    Returns
    -------
    list of int
        Borders, 0 … ``count``; one may lie before its neighbour if nothing is left for a part.

    Examples
    --------
    >>> cut(1993, (0.7, 0.1, 0.2))
    [0, 1395, 1594, 1993]
    """
    sizes = [round(count * ratio) for ratio in ratios]
    rest = max(len(sizes) - 2, 0) if len(sizes) != 2 else 1
    sizes[rest] += count - sum(sizes)
    return [0, *itertools.accumulate(sizes)]


def refuse_ratios(series: Series, parts: Parts) -> None:
    """Raise `SplitError` for ratios of rows where several entities lie end to end."""
    if series.entity_borders is not None and len(series.entity_borders) > 2 and parts.kind == "ratios":
        raise SplitError(
            f"ratios {parts.values} cannot cut the rows of {len(series.entity_borders) - 1} entities, which lie end to "
            "end: most parts would be whole entities. Cut by date, e.g. ('2012-05-01', '2012-06-01'), or say "
            "by='entities'."
        )


def row_regions(
    series: Series, parts: Parts, rows: tuple[int, int], purge: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of each part, within ``rows`` and within each entity.

    Parameters
    ----------
    series : Series
    parts : Parts
    rows : tuple of int
        Range of rows to split.
    purge : int
        Rows at least between the end of a part and the beginning of the next, taken from the earlier one.

    Returns
    -------
    begins, ends : ndarray, shape (part, entity), int64

    Raises
    ------
    SplitError
        For ratios of entities, dates without timestamps, and parts that overlap or do not follow each other.
    """
    refuse_ratios(series, parts)
    pairs = parts.ends(*rows)
    begins = np.stack([_rows_at(series, low, 0) for low, _ in pairs])
    ends = np.stack([_rows_at(series, high, 1) for _, high in pairs])
    parts.check_order(begins, ends)
    begins, ends = np.clip(begins, *rows), np.clip(ends, *rows)
    following = np.full(ends.shape[1], np.iinfo(np.int64).max)
    for part in range(len(ends) - 1, -1, -1):
        ends[part] = np.maximum(begins[part], np.minimum(ends[part], following - purge))
        following = np.where(begins[part] < ends[part], begins[part], following)
    return begins, ends


def _rows_at(series: Series, border: Any, side: int) -> np.ndarray:
    """Row of each entity where a border lies; None: the entity's first (side 0) or its end (side 1)."""
    borders = series.entity_borders if series.entity_borders is not None else np.array([0, series.num_steps])
    low, high = borders[:-1], borders[1:]
    if border is None:
        return high if side else low
    if isinstance(border, Integral):
        row = int(border)
        if not 0 <= row <= series.num_steps:
            raise SplitError(
                f"row {row} is outside the series' {series.num_steps:,} rows; rows count from 0."
            )
        return np.asarray(np.clip(row, low, high))
    if series.clock is None:
        raise SplitError(
            f"{border!r} is a date, and {series.name!r} has no timestamps. Give rows, or timestamps=('2012-03-01', "
            "'5min') when the series is opened."
        )
    try:
        pairs = zip(low.tolist(), high.tolist(), strict=True)
        return np.array([series.clock.searchsorted(border, start=start, stop=stop) for start, stop in pairs])
    except SeriesError as error:
        raise SplitError(f"parts have {border!r}: {error}") from None


def entity_parts(series: Series, parts: Parts) -> list[np.ndarray]:
    """Find the numbers of the entities in each part, rising."""
    if series.entity_borders is None:
        raise SplitError(
            f"by='entities' needs entities, and {series.name!r} has none. Pass entities= when it is opened, or say "
            "by='targets'."
        )
    count = len(series.entity_borders) - 1
    if parts.kind == "ratios":
        return [np.arange(low, high) for low, high in parts.ends(0, count)]
    if parts.kind == "borders":
        raise SplitError(
            f"by='entities' takes ratios or a list of entities per part, not borders {parts.values}."
        )
    names = range(count) if series.entity_names is None else series.entity_names.tolist()
    numbers = dict(zip(names, range(count), strict=True))
    owner = np.full(count, -1)
    for part, wanted in enumerate(map(list, parts.values)):
        found = np.fromiter((numbers.get(name, -1) for name in wanted), np.int64, len(wanted))
        if (absent := found < 0).any():
            shown = ", ".join(map(repr, names[:8])) + (", …" if count > 8 else "")
            raise SplitError(
                f"{wanted[absent.argmax()]!r} is none of the {count} entities. There are {shown}."
            )
        if (twice := owner[found] >= 0).any():
            place = int(twice.argmax())
            first, second = parts.names[owner[found[place]]], parts.names[part]
            raise SplitError(
                f"entity {wanted[place]!r} is in {first!r} and in {second!r}. Each belongs to one part."
            )
        owner[found] = part
    return [np.flatnonzero(owner == part) for part in range(len(parts.names))]
