"""A part of a series: rows, nodes, features.

In: a series and what stays of it. Out: a series over the same sources, read lazily. Never reads values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.dynamic_graph import DynamicGraph
from windowloader.errors import FeatureNameError, SeriesError
from windowloader.series import Series
from windowloader.sources.selected import SelectedSource

from .alignment import find
from .covariates import StaticSource
from .entities import clip_borders
from .labels import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.source import Source

__all__ = ["select"]


def select(
    series: Series, *, time: Any = None, nodes: Any = None, features: Sequence[str] | None = None
) -> Series:
    """Return a part of a series; `Series.select` says what each argument is."""
    fields = {name: getattr(series, name) for name in Series.__slots__}
    if features is not None:
        _cut_features(fields, series, features)
    if time is not None:
        _cut_time(fields, *_rows(series, time))
    if nodes is not None:
        _cut_nodes(fields, _node_numbers(series, nodes))
    return Series.of(fields)


def _cut_features(fields: dict[str, Any], series: Series, names: Sequence[str]) -> None:
    """Keep some of the series' own features, in the order asked; covariates stay."""
    columns = series.columns(names)
    own = series.variables[: series.num_own]
    foreign = [column.name for column in columns if not 0 <= column.variable < len(own)]
    if foreign or not columns:
        what = (
            f"{listed(foreign)} are covariates or clocks, which stay anyway" if foreign else "none were named"
        )
        raise FeatureNameError(f"features= chooses among {listed(series.features, 20)}; {what}.")
    kept = []
    for place, variable in enumerate(own):
        chosen = [column.feature for column in columns if column.variable == place]
        if chosen == list(range(variable.num_features)):
            kept.append(variable)
        elif chosen:
            source = SelectedSource(variable.source, features=_index(np.array(chosen, np.int64)))
            names_kept = tuple(variable.features[number] for number in chosen)
            kept.append(replace(variable, source=source, features=names_kept))
    fields["variables"] = (*kept, *series.variables[len(own) :])
    fields["features"] = tuple(column.name for column in columns)


def _index(numbers: np.ndarray) -> np.ndarray | slice:
    """Write evenly rising numbers as a slice, which is a view of what is in memory."""
    steps = np.diff(numbers)
    if len(steps) and (steps[0] <= 0 or (steps != steps[0]).any()):
        return numbers
    return slice(int(numbers[0]), int(numbers[-1]) + 1, int(steps[0]) if len(steps) else 1)


def _cut_time(fields: dict[str, Any], start: int, stop: int) -> None:
    """Keep rows [start, stop) of everything that has rows."""
    fields["variables"] = tuple(
        replace(variable, source=SelectedSource(variable.source, rows=slice(start, stop)))
        if variable.has_time
        else variable
        for variable in fields["variables"]
    )
    fields["num_steps"] = stop - start
    fields["borders"] = clip_borders(fields["borders"], start, stop)[0]
    if fields["clock"] is not None:
        fields["clock"] = fields["clock"].slice(start, stop)
    if fields["entity_borders"] is not None:
        fields["entity_borders"], kept = clip_borders(fields["entity_borders"], start, stop)
        if fields["entity_names"] is not None:
            fields["entity_names"] = fields["entity_names"][kept]
    if isinstance(fields["graph"], DynamicGraph):
        fields["graph"] = fields["graph"].steps(start, stop)


def _cut_nodes(fields: dict[str, Any], numbers: np.ndarray) -> None:
    """Keep some nodes, in the order asked; several space axes become one."""
    index = _index(numbers) if len(fields["space_shape"]) == 1 else numbers
    fields["variables"] = tuple(
        replace(variable, source=_of_nodes(variable.source, index)) if variable.has_nodes else variable
        for variable in fields["variables"]
    )
    fields["space_shape"] = (len(numbers),)
    if fields["nodes"] is not None:
        fields["nodes"] = fields["nodes"][numbers]
    if fields["graph"] is not None:
        fields["graph"] = fields["graph"].select(numbers)


def _of_nodes(source: Source, index: np.ndarray | slice) -> Source:
    """Cut a source to nodes; what has no time stays addressable."""
    part = SelectedSource(source, nodes=index)
    return part if "t" in part.axes or part.array() is not None else StaticSource(part)


def _rows(series: Series, time: Any) -> tuple[int, int]:
    """First and last row of a slice of rows or of moments."""
    if not isinstance(time, slice):
        raise SeriesError(
            f"time={time!r} is no slice. Give one of rows, slice(0, 288), or of moments, "
            "slice('2012-03-01', '2012-03-03'); the end is left out."
        )
    if time.step not in (None, 1):
        raise SeriesError(
            f"time={time!r} has a step. Windows skip rows by WindowSpec(dilation=…) and stride=…."
        )
    ends = (time.start, time.stop)
    if all(end is None or isinstance(end, (int, np.integer)) for end in ends):
        start, stop, _ = time.indices(series.num_steps)
    else:
        start, stop = _dates(series, *ends)
    if start >= stop:
        raise SeriesError(
            f"time={time!r} leaves no row of the {series.num_steps} of {series.name!r}{_reach(series)}."
        )
    return start, stop


def _dates(series: Series, first: Any, last: Any) -> tuple[int, int]:
    """Rows between two moments."""
    if series.clock is None:
        raise SeriesError(
            f"{series.name!r} has no timestamps to find {first!r} … {last!r} by. Select rows by number."
        )
    if series.entity_borders is not None and len(series.entity_borders) > 2:
        raise SeriesError(
            f"the {len(series.entity_borders) - 1} entities of {series.name!r} each have dates of their own, so that a "
            "range of dates is no range of rows. Select rows by number, or cut by dates with wl.split."
        )
    start = 0 if first is None else series.clock.searchsorted(first)
    return start, series.num_steps if last is None else series.clock.searchsorted(last)


def _reach(series: Series) -> str:
    if series.clock is None or not series.num_steps:
        return ""
    first, last = series.clock.texts([0, series.num_steps - 1])
    return f", which reach from {first} to {last}"


def _node_numbers(series: Series, nodes: Any) -> np.ndarray:
    """Numbers of nodes: integers are positions, text is labels."""
    count = series.num_nodes
    if not series.space_shape:
        raise SeriesError(f"{series.name!r} has no space axis to select nodes from.")
    if isinstance(nodes, slice):
        numbers = np.arange(count, dtype=np.int64)[nodes]
    else:
        numbers = _numbers(series, np.atleast_1d(np.asarray(nodes)))
    if not numbers.size:
        raise SeriesError(f"nodes={nodes!r} leaves none of the {count} nodes.")
    if len(np.unique(numbers)) < len(numbers):
        raise SeriesError(f"nodes={nodes!r} names a node twice.")
    return numbers


def _numbers(series: Series, array: np.ndarray) -> np.ndarray:
    count = series.num_nodes
    if array.dtype == np.bool_:
        if array.shape not in ((count,), series.space_shape):
            raise SeriesError(f"the mask of nodes has shape {array.shape}; {series.space_shape} is needed.")
        return np.flatnonzero(array)
    if array.ndim != 1:
        raise SeriesError(f"nodes= has shape {array.shape}; one dimension, or a mask, is needed.")
    array = array if array.size else array.astype(np.int64)
    if array.dtype.kind in "iu":
        if (wrong := array[(array < -count) | (array >= count)]).size:
            raise SeriesError(
                f"node {wrong[0]} is not among the {count} of {series.name!r}. Integers are positions; "
                f"labels are given as text, nodes=['{wrong[0]}']."
            )
        return np.asarray(array, np.int64) % count
    if series.nodes is None:
        raise SeriesError(
            f"{series.name!r} has no node labels to find {listed(array.tolist())} by. Pass nodes=labels."
        )
    found, missing = find(series.nodes, array)
    if missing:
        raise SeriesError(
            f"no nodes of {series.name!r} are labelled {listed(missing)}; it has {listed(series.nodes)}."
        )
    return found
