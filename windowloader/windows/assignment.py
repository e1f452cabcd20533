"""Windows dealt to parts: by their rows, their numbers, their entities.

In: a window set, parts as numbers. Out: a window set for each, in order. Never leaves a part empty without saying so.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SplitError

from .parts import cut, entity_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .parts import Parts, Regions
    from .window_set import WindowSet

__all__ = ["by_entities", "by_rows", "by_windows"]


def by_rows(windows: WindowSet, parts: Parts, regions: Regions, by: str) -> Iterator[WindowSet]:
    """Deal by the rows of a window: all of them, or its targets."""
    spec, borders = windows.spec, windows.series.entity_borders
    inputs, targets = spec.input_rows, spec.target_rows
    if by == "targets" and len(targets) == 0:
        raise SplitError(
            "by='targets' goes by target rows, and horizon=0 has none. Say by='rows' or by='windows'."
        )
    low = int(targets[0]) if by == "targets" else 0
    # Nothing of a window lies past its part, inputs neither: a later part's targets are unknown to it.
    high = int(max(inputs[-1], targets[-1])) if len(targets) else int(inputs[-1])
    entity = np.zeros(1, np.int64) if borders is None else borders[:-1]
    for name, begins, ends in zip(parts.names, regions.begins, regions.ends, strict=True):
        # Clipped to the entity, so that the ranges of starts do not overlap; no valid window is lost.
        found = windows.index.within(np.maximum(begins - low, entity), ends - high)
        if len(found) == 0:
            raise _empty(name, begins, ends, high - low + 1, by, windows)
        yield windows.chosen(found, part=name)


def _empty(
    name: str, begins: np.ndarray, ends: np.ndarray, needed: int, by: str, windows: WindowSet
) -> SplitError:
    """Say which rows the part has, and what would help."""
    used = np.flatnonzero(ends > begins)
    spec, series = windows.spec, windows.series
    if len(used) == 0:
        had = f"it has none of the series' rows 0 … {series.num_steps - 1}"
        if series.clock is not None and series.num_steps:
            had += ", " + " … ".join(series.clock.texts([0, series.num_steps - 1]))
    elif len(used) == 1:
        begin, end = int(begins[used[0]]), int(ends[used[0]])
        had = f"its rows {begin} … {end - 1} are {end - begin}"
    else:
        had = f"its longest run of rows, of {len(used)} entities, is {int((ends - begins).max())}"
    if by == "rows" and spec.num_targets:
        targets = int(spec.target_rows[-1] - spec.target_rows[0]) + 1
        advice = f"Say by='targets', for which inputs may reach back and {targets} rows are enough, or "
    else:
        advice = "Shorten the windows, or "
    what = "all rows of a window" if by == "rows" else "the target rows of a window"
    if (ends - begins).max(initial=0) >= needed:
        had += ", where no window fits within a segment or misses little enough"
    return SplitError(
        f"part {name!r} has no windows: by={by!r} puts {what} into it, {needed} rows, and {had}. {advice}give the "
        "part more rows."
    )


def by_windows(windows: WindowSet, parts: Parts, purge: int) -> Iterator[WindowSet]:
    """Deal by window number."""
    borders = windows.series.entity_borders
    if borders is not None and len(borders) > 2 and parts.kind == "ratios":
        raise SplitError(
            f"by='windows' cuts windows in order of rows, and {len(borders) - 1} entities lie end to end: most parts "
            "would be whole entities. Cut by date with by='targets', or say by='entities'."
        )
    numbers = _window_ranges(len(windows), parts)
    for part, (name, (first, stop)) in enumerate(zip(parts.names, numbers, strict=True)):
        if purge and part + 1 < len(numbers) and numbers[part + 1][0] < len(windows):
            if not windows.index.rising:
                raise SplitError(
                    "purge= counts rows between parts, and these windows are not in order of rows."
                )
            later = windows.starts(numbers[part + 1][0])
            stop = min(stop, int(windows.index.rank(later - purge)))
        if stop <= first:
            share = f"{parts.values[part]:g} of {len(windows):,} windows" if parts.kind == "ratios" else "it"
            raise SplitError(
                f"part {name!r} has no windows: {share} comes to {max(stop - first, 0)}"
                f"{f' after purge={purge}' if purge else ''}. Give it a larger share, or say by='targets', which cuts "
                "rows."
            )
        yield windows.chosen(windows.index.slice(first, stop), part=name)


def _window_ranges(count: int, parts: Parts) -> list[tuple[int, int]]:
    if parts.kind == "ratios":
        borders = cut(count, parts.values)
        return list(itertools.pairwise(borders))
    if parts.kind == "borders":
        ends: list[tuple[Any, Any]] = list(zip((0, *parts.values), (*parts.values, count), strict=True))
    elif parts.kind == "ranges":
        pairs = [(one.start, one.stop) if isinstance(one, slice) else one for one in parts.values]
        ends = [(0 if low is None else low, count if high is None else high) for low, high in pairs]
    else:
        raise SplitError("by='windows' takes ratios, or window numbers as borders or ranges.")
    before = 0
    for low, high in ends:
        if not (isinstance(low, int | np.integer) and isinstance(high, int | np.integer)):
            raise SplitError(
                f"by='windows' cuts window numbers, not dates: {low!r} … {high!r}. Say by='targets'."
            )
        if low < before or high > count:
            raise SplitError(
                f"windows {low} … {high} do not follow {before} or end after {count:,}. Numbers rise, without overlap."
            )
        before = max(int(high), before)
    return [(int(low), int(high)) for low, high in ends]


def by_entities(windows: WindowSet, parts: Parts, purge: int) -> Iterator[WindowSet]:
    """Deal whole entities."""
    if purge:
        raise SplitError(
            f"purge={purge} leaves out rows between parts, and entities share none. Leave purge=0."
        )
    chosen = entity_parts(windows.series, parts)
    borders = windows.series.entity_borders
    assert borders is not None  # entity_parts raised
    for name, numbers in zip(parts.names, chosen, strict=True):
        found = windows.index.within(borders[numbers], borders[numbers + 1])
        if len(found) == 0:
            raise SplitError(
                f"part {name!r} has no windows: its {len(numbers)} of {len(borders) - 1} entities have none of "
                f"{windows.spec.span} rows. Give it more entities, or shorten the windows."
            )
        yield windows.chosen(found, part=name)
