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

from .alignment import locate
from .borders import clip_borders
from .labels import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.series import Column

    from .variable import Variable

__all__ = ["select"]


def select(
    series: Series, *, time: Any = None, nodes: Any = None, features: Sequence[str] | None = None
) -> Series:
    """Return a part of a series; `Series.select` says what each argument is."""
    fields = {name: getattr(series, name) for name in Series.__slots__}
    columns = series.columns() if features is None else _columns(series, features)
    rows = None if time is None else _rows(series, time)
    numbers = None if nodes is None else _numbers(series, nodes)
    parts = []
    for place, variable in enumerate(series.variables):
        chosen = [column.feature for column in columns if column.variable == place]
        if place >= series.num_own:
            chosen = list(range(variable.num_features))
        if chosen:
            parts.append(_part(variable, rows, numbers, chosen))
    fields |= {"variables": tuple(parts), "features": tuple(column.name for column in columns)}
    if rows is not None:
        start, stop = rows.start, rows.stop
        fields["num_steps"] = stop - start
        fields["borders"] = clip_borders(series.borders, start, stop)[0]
        fields["clock"] = None if series.clock is None else series.clock.slice(start, stop)
        if series.entity_borders is not None:
            fields["entity_borders"], kept = clip_borders(series.entity_borders, start, stop)
            fields["entity_names"] = None if series.entity_names is None else series.entity_names[kept]
        if isinstance(series.graph, DynamicGraph):
            fields["graph"] = series.graph.steps(start, stop)
    if numbers is not None:
        fields["space_shape"] = (len(numbers),)
        fields["nodes"] = None if series.nodes is None else series.nodes[numbers]
        fields["graph"] = None if series.graph is None else fields["graph"].select(numbers)
    return Series.of(fields)


def _part(variable: Variable, rows: slice | None, nodes: np.ndarray | None, features: list[int]) -> Variable:
    """Cut a variable along the axes that it has; features stay where they are all wanted in their order."""
    asked: dict[str, Any] = {}
    if rows is not None and variable.has_time:
        asked["rows"] = rows
    if nodes is not None and variable.has_nodes:
        asked["nodes"] = nodes
    if features != list(range(variable.num_features)):
        asked["features"] = features
    names = tuple(variable.features[number] for number in features)
    return (
        replace(variable, source=SelectedSource(variable.source, **asked), features=names)
        if asked
        else variable
    )


def _columns(series: Series, names: Sequence[str]) -> tuple[Column, ...]:
    """Look up some of the series' own features, in the order asked."""
    columns = series.columns(names)
    foreign = [column.name for column in columns if not 0 <= column.variable < series.num_own]
    if foreign or not columns:
        what = (
            f"{listed(foreign)} are covariates or clocks, which stay anyway" if foreign else "none were named"
        )
        raise FeatureNameError(f"features= chooses among {listed(series.features, 20)}; {what}.")
    return columns


def _rows(series: Series, time: Any) -> slice:
    """Rows of a slice of rows or of moments, with both ends."""
    if not isinstance(time, slice) or time.step not in (None, 1):
        raise SeriesError(
            f"time={time!r} is no slice of step 1. Give one of rows, slice(0, 288), or of moments, "
            "slice('2012-03-01', '2012-03-03'); the end is left out. Windows skip rows by WindowSpec(dilation=…)."
        )
    reach = ""
    if series.clock is not None and series.num_steps:
        reach = ", which reach from {} to {}".format(*series.clock.texts([0, series.num_steps - 1]))
    if all(end is None or isinstance(end, (int, np.integer)) for end in (time.start, time.stop)):
        start, stop, _ = time.indices(series.num_steps)
    elif series.clock is None:
        raise SeriesError(f"{series.name!r} has no timestamps to find {time!r} by. Select rows by number.")
    elif series.entity_borders is not None and len(series.entity_borders) > 2:
        raise SeriesError(
            f"the {len(series.entity_borders) - 1} entities of {series.name!r} each have dates of their own, so that a "
            "range of dates is no range of rows. Select rows by number, or cut by dates with wl.split."
        )
    else:
        start = 0 if time.start is None else series.clock.searchsorted(time.start)
        stop = series.num_steps if time.stop is None else series.clock.searchsorted(time.stop)
    if start >= stop:
        raise SeriesError(f"time={time!r} leaves no row of the {series.num_steps} of {series.name!r}{reach}.")
    return slice(start, stop)


def _numbers(series: Series, nodes: Any) -> np.ndarray:
    """Numbers of nodes: integers are positions, anything else but a mask or slice is labels."""
    if not series.space_shape:
        raise SeriesError(f"{series.name!r} has no space axis to select nodes from.")
    asked = f"nodes={nodes!r} of the {series.num_nodes} of {series.name!r}"
    index = nodes if isinstance(nodes, slice) else np.atleast_1d(np.asarray(nodes))
    places = np.arange(series.num_nodes)
    if isinstance(index, np.ndarray):
        if index.size and index.dtype.kind not in "iub":
            if series.nodes is None:
                raise SeriesError(
                    f"{asked}: there are no node labels to find them by. Pass nodes=labels to open."
                )
            return locate(series.nodes, index, repr(series.name), "nodes=")
        index = index if index.size else index.astype(np.int64)
        places = places.reshape(series.space_shape) if index.dtype == np.bool_ and index.ndim > 1 else places
    try:
        found = places[index]
    except IndexError as error:
        raise SeriesError(
            f"{asked}: {error}. Integers are positions, labels are given as text, and a mask has the shape "
            f"{series.space_shape}."
        ) from error
    if found.ndim != 1 or not found.size or len(np.unique(found)) < found.size:
        wrong = (
            "one dimension is needed"
            if found.ndim != 1
            else "a node is there twice"
            if found.size
            else "none is left"
        )
        raise SeriesError(f"{asked}: {wrong}.")
    return found
