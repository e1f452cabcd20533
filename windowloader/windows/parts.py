"""How people say the parts of a split, as numbers.

In: ratios, borders, named ranges, names of entities. Out: names of parts, and the rows or things that each has.
Never looks at windows or values.
"""

from __future__ import annotations

import datetime
import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.errors import SeriesError, SplitError

if TYPE_CHECKING:
    from windowloader.series.series import Series

__all__ = ["Parts", "Regions", "cut", "entity_parts", "row_regions"]

Kind = Literal["ratios", "borders", "ranges", "entities"]
NAMES = {1: ("all",), 2: ("train", "test"), 3: ("train", "val", "test")}
EXAMPLE = (
    "Give ratios (0.7, 0.1, 0.2), borders ('2012-05-01', '2012-06-01') or row numbers, or named ranges "
    "{'train': ('2012-03-01', '2012-05-01'), 'test': ('2012-05-01', None)}."
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts as they were said, told apart by kind.

    Parameters
    ----------
    names : tuple of str
        As given, or train, val, test.
    kind : {"ratios", "borders", "ranges", "entities"}
    values : tuple
        One a part; borders are one fewer.

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
        """Tell ratios, borders, ranges and lists of entities apart; `SplitError` for anything else."""
        if isinstance(parts, Mapping):
            names, values = tuple(str(name) for name in parts), tuple(parts.values())
        elif isinstance(parts, Iterable) and not isinstance(parts, str | bytes):
            names, values = (), tuple(parts)
        else:
            raise SplitError(f"parts={parts!r} are no parts. {EXAMPLE}")
        if not values:
            raise SplitError(f"parts={parts!r} has no parts. {EXAMPLE}")
        kind = _kind(values, named=bool(names))
        if kind == "ratios":
            values = _ratios(values)
        count = len(values) + (kind == "borders")
        default = NAMES.get(count, tuple(f"part {number}" for number in range(count)))
        return cls(names or default, kind, values)


def _kind(values: tuple[Any, ...], *, named: bool) -> Kind:
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) == len(values) and any(isinstance(value, float | np.floating) for value in numbers):
        return "ratios"
    if not named and all(_is_integer(value) or _is_moment(value) for value in values):
        return "borders"
    if all(isinstance(value, slice) or (_is_list(value) and _is_range(value)) for value in values):
        return "ranges"
    if all(_is_list(value) for value in values):
        return "entities"
    raise SplitError(f"parts={values!r} mixes ways to say parts, or uses none that is known. {EXAMPLE}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return _is_number(value) and not isinstance(value, float | np.floating)


def _is_moment(value: object) -> bool:
    return isinstance(value, str | np.datetime64 | datetime.date)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence | np.ndarray | set | frozenset) and not isinstance(value, str | bytes)


def _is_range(value: Any) -> bool:
    """Whether a pair (from, to) could be meant; names of entities are told by ``by="entities"``."""
    return isinstance(value, tuple) and len(value) == 2 and all(
        end is None or _is_integer(end) or _is_moment(end) for end in value
    )  # fmt: skip


def _ratios(values: tuple[Any, ...]) -> tuple[float, ...]:
    ratios = tuple(float(value) for value in values)
    if any(not 0 < ratio <= 1 for ratio in ratios):
        raise SplitError(f"ratios {ratios} must each be above 0 and at most 1.")
    if abs(sum(ratios) - 1) > 1e-6:
        raise SplitError(
            f"ratios {ratios} sum to {sum(ratios):.6g}, not 1. To leave rows out, name ranges: "
            "{'train': (0, 20000), 'test': (24000, None)}."
        )
    return ratios


def cut(count: int, ratios: Sequence[float]) -> list[int]:
    """Where ratios cut ``count`` things: first and last part rounded, what is left for the last but one.

    For three parts this is the arithmetic of DCRNN and PGT-I: ``round(n·r0)`` train, ``round(n·r2)`` test, the
    rest val. Halves round to even, as `round` does.

    Returns
    -------
    list of int
        Borders, 0 … ``count``; one may lie before its neighbour if a part is left without anything.

    Examples
    --------
    >>> cut(1993, (0.7, 0.1, 0.2))
    [0, 1395, 1594, 1993]
    """
    sizes = [round(count * ratio) for ratio in ratios]
    rest = max(len(sizes) - 2, 0) if len(sizes) != 2 else 1
    sizes[rest] += count - sum(sizes)
    return [0, *np.cumsum(sizes).tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Rows of each part: ``[begins[part, run], ends[part, run])``, a run for each entity, rising."""

    begins: np.ndarray
    ends: np.ndarray

    def purged(self, purge: int) -> Regions:
        """End each part at least ``purge`` rows before the next one begins."""
        ends = self.ends.copy()
        following = np.full(ends.shape[1], np.iinfo(np.int64).max)
        for part in range(len(ends) - 1, -1, -1):
            ends[part] = np.minimum(ends[part], following - purge)
            used = self.begins[part] < self.ends[part]
            following = np.where(used, self.begins[part], following)
        return Regions(self.begins, np.maximum(self.begins, ends))


def row_regions(series: Series, parts: Parts, rows: tuple[int, int]) -> Regions:
    """Rows of each part, within ``rows`` and within each entity.

    Raises
    ------
    SplitError
        For ratios of entities, dates without timestamps, and parts that overlap or do not follow each other.
    """
    borders = series.entity_borders
    if borders is not None and len(borders) > 2 and parts.kind == "ratios":
        raise SplitError(
            f"ratios {parts.values} cannot cut the rows of {len(borders) - 1} entities, which lie end to end: most "
            "parts would be whole entities. Cut by date, e.g. ('2012-05-01', '2012-06-01'), or say by='entities'."
        )
    first, last = rows
    if parts.kind == "ratios":
        ends = [(first + low, first + high) for low, high in _pairs(cut(last - first, parts.values))]
    elif parts.kind == "borders":
        ends = _pairs([None, *parts.values, None])
    elif parts.kind == "ranges":
        ends = [
            (value.start, value.stop) if isinstance(value, slice) else tuple(value) for value in parts.values
        ]
    else:
        raise SplitError(
            "parts are lists, as of entities. Say by='entities', or give ranges as pairs (from, to)."
        )
    begins = np.stack([_rows_at(series, low, 0) for low, _ in ends])
    stops = np.stack([_rows_at(series, high, 1) for _, high in ends])
    _check_order(parts, begins, stops)
    return Regions(np.clip(begins, first, last), np.clip(stops, first, last))


def _pairs(borders: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(itertools.pairwise(borders))


def _rows_at(series: Series, border: Any, side: int) -> np.ndarray:
    """Row of each entity where a border lies; None: the entity's first (side 0) or its end (side 1)."""
    borders = series.entity_borders if series.entity_borders is not None else np.array([0, series.num_steps])
    low, high = borders[:-1], borders[1:]
    if border is None:
        return high if side else low
    if _is_integer(border):
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
        rows = [
            series.clock.searchsorted(border, start=int(start), stop=int(stop))
            for start, stop in zip(low, high, strict=True)
        ]
    except SeriesError as error:
        raise SplitError(f"parts have {border!r}: {error}") from None
    return np.array(rows, np.int64)


def _check_order(parts: Parts, begins: np.ndarray, ends: np.ndarray) -> None:
    for part, name in enumerate(parts.names):
        if (begins[part] > ends[part]).any():
            hint = ""
            if parts.kind == "borders" and sum(map(_share, parts.values)) == 100:
                hint = f" If shares are meant, they sum to 1: {tuple(value / 100 for value in parts.values)}."
            raise SplitError(
                f"part {name!r} ends before it begins: {_said(parts, part)}. Borders and ranges rise in time.{hint}"
            )
        if part == 0:
            continue
        before = ends[:part].max(axis=0)
        if ((begins[part] < before) & (begins[part] < ends[part])).any():
            raise SplitError(
                f"part {name!r} ({_said(parts, part)}) begins before part {parts.names[part - 1]!r} "
                f"({_said(parts, part - 1)}) ends. Parts must not overlap, and come in order of time: a later one may "
                "look back at an earlier one, never the other way round."
            )


def _share(value: object) -> int:
    return int(value) if _is_integer(value) else 0  # type: ignore[call-overload]


def _said(parts: Parts, part: int) -> str:
    if parts.kind == "borders":
        low, high = _pairs([None, *parts.values, None])[part]
        return f"{low} … {high}"
    return str(parts.values[part])


def entity_parts(series: Series, parts: Parts) -> list[np.ndarray]:
    """Numbers of the entities in each part, rising."""
    if series.entity_borders is None:
        raise SplitError(
            f"by='entities' needs entities, and {series.name!r} has none. Pass entities= when it is opened, or say "
            "by='targets'."
        )
    count = len(series.entity_borders) - 1
    if parts.kind == "ratios":
        return [np.arange(low, high) for low, high in _pairs(cut(count, parts.values))]
    if parts.kind == "borders":
        raise SplitError(
            f"by='entities' takes ratios or a list of entities for each part, not borders {parts.values}."
        )
    known = {name: number for number, name in enumerate(_entity_names(series))}
    chosen = [sorted(_entity_number(name, known, count) for name in value) for value in parts.values]
    owner: dict[int, str] = {}
    for part, numbers in zip(parts.names, chosen, strict=True):
        for number in numbers:
            if number in owner:
                raise SplitError(
                    f"entity {_entity_names(series)[number]!r} is in {owner[number]!r} and in {part!r}. Each belongs "
                    "to one part."
                )
            owner[number] = part
    return [np.array(numbers, np.int64) for numbers in chosen]


def _entity_names(series: Series) -> list[Any]:
    if series.entity_names is not None:
        names: list[Any] = series.entity_names.tolist()
        return names
    return list(range(len(series.entity_borders) - 1)) if series.entity_borders is not None else []


def _entity_number(name: Any, known: dict[Any, int], count: int) -> int:
    key = name.item() if isinstance(name, np.generic) else name
    if key in known:
        return known[key]
    near = difflib.get_close_matches(str(key), [str(one) for one in known], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(repr(one) for one in list(known)[:8]) + (", …" if count > 8 else "")
    raise SplitError(f"{key!r} is none of the {count} entities.{hint} There are {shown}.")
