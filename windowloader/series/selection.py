"""A part of a series: rows, nodes, features.

In: a series and what stays of it. Out: a series over the same sources, read lazily. Never reads values.
"""

from __future__ import annotations

import reprlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import FeatureNameError, SeriesError
from windowloader.sources.selected import SelectedSource

from .alignment import locate
from .borders import clip_borders
from .dynamic_graph import DynamicGraph
from .labels import listed
from .series import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["select"]


def select(
    series: Series, *, time: Any = None, nodes: Any = None, features: Sequence[str] | None = None
) -> Series:
    """Return a part of a series; `Series.select` says what each argument is."""
    fields = {name: getattr(series, name) for name in Series.__slots__}
    own = series.num_own
    columns = series.columns(features)
    foreign = [column.name for column in columns if not 0 <= column.variable < own]
    if foreign or not columns:
        what = f"{listed(foreign)} are covariates or clocks, which stay" if foreign else "none were named"
        raise FeatureNameError(f"features= chooses among {listed(series.features, 20)}; {what}.")
    rows = None if time is None else _rows(series, time)
    numbers = None if nodes is None else _numbers(series, nodes)
    fields |= {"variables": (), "features": tuple(column.name for column in columns)}
    for place, variable in enumerate(series.variables):
        every = list(range(variable.num_features))
        chosen = [column.feature for column in columns if column.variable == place] if place < own else every
        asked: dict[str, Any] = {
            "rows": rows if variable.has_time else None,
            "nodes": numbers if variable.has_nodes else None,
            "features": chosen if chosen != every else None,
        }
        if chosen and any(index is not None for index in asked.values()):
            source = SelectedSource(variable.source, **asked)
            variable = replace(variable, source=source, features=tuple(variable.features[i] for i in chosen))
        fields["variables"] += (variable,) if chosen else ()
    if rows is not None:
        fields["num_steps"] = rows.stop - rows.start
        fields["borders"] = clip_borders(series.borders, rows)[0]
        fields["clock"] = None if series.clock is None else series.clock.slice(rows.start, rows.stop)
        if series.entity_borders is not None:
            fields["entity_borders"], kept = clip_borders(series.entity_borders, rows)
            fields["entity_names"] = None if series.entity_names is None else series.entity_names[kept]
        if isinstance(series.graph, DynamicGraph):
            fields["graph"] = series.graph.steps(rows.start, rows.stop)
    if numbers is not None:
        fields["space_shape"] = (len(numbers),)
        fields["nodes"] = None if series.nodes is None else series.nodes[numbers]
        fields["graph"] = None if series.graph is None else fields["graph"].select(numbers)
    return Series.of(fields)


def _rows(series: Series, time: Any) -> slice:
    """Rows of a slice of rows or of moments, with both ends."""
    if not isinstance(time, slice) or time.step not in (None, 1):
        raise SeriesError(
            f"time={time!r} is no slice of step 1. Give one of rows, slice(0, 288), or of moments, "
            "slice('2012-03-01', '2012-03-03'); the end is left out. Windows skip rows by WindowSpec(dilation=…)."
        )
    clock, entities = series.clock, series.entity_borders
    if all(end is None or isinstance(end, (int, np.integer)) for end in (time.start, time.stop)):
        start, stop, _ = time.indices(series.num_steps)
    elif clock is None or (entities is not None and len(entities) > 2):
        has = "has no timestamps" if clock is None else "has entities with dates of their own"
        raise SeriesError(
            f"time={time!r} is of moments, and {series.name!r} {has}. Select rows by number, or cut by wl.split."
        )
    else:
        start = 0 if time.start is None else clock.searchsorted(time.start)
        stop = series.num_steps if time.stop is None else clock.searchsorted(time.stop)
    if start >= stop:
        raise SeriesError(f"time={time!r} leaves no row of {series!r}.")
    return slice(start, stop)


def _numbers(series: Series, nodes: Any) -> np.ndarray:
    """Numbers of nodes: integers are positions, a mask or a slice chooses, anything else is labels."""
    places, asked = np.arange(series.num_nodes), f"nodes= of {series.name!r}"
    index = places[nodes] if isinstance(nodes, slice) else np.atleast_1d(np.asarray(nodes))
    if series.nodes is not None and index.size and index.dtype.kind not in "iub":
        return locate(series.nodes, index, repr(series.name), "nodes=")
    if index.dtype == np.bool_ and index.ndim > 1:
        places = places.reshape(series.space_shape)
    try:
        found = places[index if index.size else []]
    except IndexError as error:
        labels = "has no node labels" if series.nodes is None else "has node labels, which are given as text"
        raise SeriesError(
            f"{asked}: {error}. Integers are positions, a mask has the shape {series.space_shape}; the series {labels}."
        ) from error
    wrong = {
        "there is no space axis": not series.space_shape,
        "one dimension is needed": found.ndim != 1,
        "none is left": not found.size,
        "a node is named twice": len(np.unique(found)) < found.size,
    }
    for reason, holds in wrong.items():
        if holds:
            raise SeriesError(f"{asked}, {reprlib.repr(nodes)}: {reason}.")
    return found
