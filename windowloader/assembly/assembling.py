"""A series put together from what people hand in: every check that concerns more than one part is here.

In: targets and options of `windowloader.open` and `Series`. Out: the fields of a `Series`. Never reads
values.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.clock import CLOCK_NAMES, Clock
from windowloader.dynamic_graph import DynamicGraph
from windowloader.errors import GraphError, SeriesError
from windowloader.graph import Graph
from windowloader.graphs.files import lists_edges, read_graph, table_edges

from .alignment import Alignment, order
from .covariates import open_covariates
from .entities import check_borders, unite
from .joining import Opener, align_variables, check_named, join_variables
from .labels import as_labels, listed, tells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .variable import Variable

__all__ = ["align_graph", "assemble"]


def assemble(
    target: Any,
    *,
    axes: str | Mapping[str, str] | None,
    variables: str | Sequence[str] | None,
    features: Sequence[str] | Mapping[str, Sequence[str]] | None,
    timestamps: Any,
    covariates: Mapping[str, Any],
    graph: Any,
    segments: Any,
    missing: float | str | Mapping[str, float | str] | None,
    nodes: Any,
    entities: Any,
    entity_names: Any,
    name: str | None,
    opener: Opener,
) -> dict[str, Any]:
    """Open, join, check and align; `Series` says what each argument is. Returns the fields of a `Series`."""
    opened = join_variables(
        target, axes=axes, variables=variables, features=features, missing=missing, opener=opener
    )
    num_steps, num_nodes = opened[0].num_rows, opened[0].num_nodes
    entity_borders = None if entities is None else check_borders(entities, num_steps, what="entities")
    whole = np.unique(np.array([0, num_steps], np.int64)) if entity_borders is None else entity_borders
    clock = None if timestamps is None else Clock.from_timestamps(timestamps, num_steps, entity_borders)
    times = clock.times_of(np.arange(num_steps)) if clock and (covariates or opened[1:]) else None
    labels = None if nodes is None else as_labels(nodes, size=num_nodes, what="nodes")
    alignment = Alignment(alone=not covariates and len(opened) == 1)
    with warnings.catch_warnings():
        if clock is not None:  # timestamps= are the answer to it
            warnings.filterwarnings("ignore", "the rows.* have no timestamps")
        own = align_variables(opened, alignment, labels, times)
    stored = alignment.labels[0] if alignment.labels and len(alignment.labels) == 1 else None
    alignment.settle(labels, times, over=True)
    if labels is None and tells(stored):
        labels = as_labels(stored, size=num_nodes, what="nodes")
    plain = Opener(opener.storage_options, mirrors=opener.mirrors)  # options are about the series' own file
    others = open_covariates(covariates, missing=missing, opener=plain, alignment=alignment)
    _check_names(own, others, missing)
    by_row = {"timestamps=": timestamps, "segments=": segments, "entities=": entities, "graph=": graph}
    _check_moved(alignment.moved, (*own, *others), by_row)
    if clock is None and alignment.times is not None:
        clock = Clock.from_timestamps(alignment.times, num_steps, entity_borders)
    return {
        "name": name if name is not None else opened[0].source.name,
        "variables": (*own, *others),
        "num_steps": num_steps,
        "space_shape": opened[0].space_shape,
        "nodes": labels,
        "features": tuple(feature for variable in own for feature in variable.features),
        "clock": clock,
        "borders": _segments(segments, clock, whole, num_steps),
        "entity_borders": entity_borders,
        "entity_names": _entity_names(entity_names, entity_borders),
        "graph": align_graph(graph, labels, num_nodes, num_steps, stored),
    }


def _check_names(own: tuple[Variable, ...], others: tuple[Variable, ...], missing: Any) -> None:
    """Each name means one thing: a feature, a covariate, a variable or a clock."""
    variables = (*own, *others)
    names = Counter(variable.name for variable in variables)
    features = Counter(feature for variable in variables for feature in variable.features)
    if repeated := sorted(name for name, count in features.items() if count > 1):
        raise SeriesError(
            f"the feature names {listed(repeated)} occur more than once. Name them apart with features=…."
        )
    if clocks := [name for name in (*features, *names) if name in CLOCK_NAMES]:
        raise SeriesError(
            f"{clocks[0]!r} is the name of a clock, which is made from the timestamps and needs no array. "
            "Name the feature or covariate otherwise."
        )
    for one in variables:
        if names[one.name] > 1 or (one.name in features and one.name not in one.features):
            raise SeriesError(
                f"the name {one.name!r} is given to two things. Rename the variable or the covariate."
            )
    check_named("missing", missing, names)


def _check_moved(moved: Sequence[str], variables: tuple[Variable, ...], by_row: Mapping[str, Any]) -> None:
    """Refuse what goes by row beside parts that were put into the order of their times."""
    rows = [name for name, given in by_row.items() if given is not None]
    rows = [name for name in rows if name != "graph=" or isinstance(by_row[name], DynamicGraph)]
    rows += [v.name for v in variables if moved and v.has_time and v.source.timestamps() is None]
    if moved and rows:
        raise SeriesError(
            f"the parts of {', '.join(moved)} are joined by their times, but were given in another order, and "
            f"{listed(rows)} go by row. Give the parts in the order of their times."
        )


def _segments(segments: Any, clock: Clock | None, entities: np.ndarray, num_steps: int) -> np.ndarray:
    """Borders that windows never cross: segments as given, else where time jumps, and entities."""
    if segments is not None:
        return unite(check_borders(segments, num_steps, what="segments"), entities)
    return entities if clock is None else unite(entities, clock.jumps(entities))


def _entity_names(names: Any, borders: np.ndarray | None) -> np.ndarray | None:
    if names is None:
        return None
    if borders is None:
        raise SeriesError(
            "entity_names= were given without entities=: the rows where each begins, and the end."
        )
    return as_labels(names, size=len(borders) - 1, what="entity_names")


def align_graph(
    graph: Any, nodes: np.ndarray | None, num_nodes: int, num_steps: int, stored: np.ndarray | None = None
) -> Graph | DynamicGraph | None:
    """Bring a graph to the nodes of a series.

    Parameters
    ----------
    graph : Graph, DynamicGraph, path, square matrix or None
        Labelled or not.
    nodes : ndarray, shape (num_nodes,), optional
        Labels of the series.
    num_nodes, num_steps : int
        Sizes of the series.
    stored : ndarray, shape (num_nodes,), optional
        Labels in the series' file, where these only count.

    Returns
    -------
    Graph, DynamicGraph or None
        With the series' labels where there are any, its nodes in their order; others are left out.

    Raises
    ------
    GraphError
        Where a node of the series is missing, or a dynamic graph has other steps.
    """
    if graph is None:
        return None
    found = _as_graph(graph, nodes)
    if isinstance(found, DynamicGraph) and found.num_steps != num_steps:
        raise GraphError(
            f"the dynamic graph has {found.num_steps} steps and the series {num_steps}; each row needs its "
            "edges."
        )
    advice = "Choose the nodes of both, by series.select(nodes=...), or pass nodes= if the array's labels are wrong."
    wanted = stored if nodes is None else nodes
    picked = order(found.nodes, wanted, "the graph", "the array", GraphError, advice)
    if picked is not None:
        found = found.select(picked)
        return found if nodes is None else found.resized(num_nodes, nodes)
    if found.num_nodes > num_nodes and not found.sized:
        raise GraphError(
            f"the graph's edges go up to node {found.num_nodes - 1}, and the series has the nodes 0 … {num_nodes - 1}. "
            "Where these are labels (sensor ids), pass nodes=, the labels in the order of the array's columns."
        )
    if found.num_nodes != num_nodes and found.sized:
        raise GraphError(
            f"the graph has {found.num_nodes} nodes and the series {num_nodes}, and without labels on both "
            "there is no telling which are which. Cut one: graph.select(index), series.select(nodes=index)."
        )
    if found.num_nodes == num_nodes and (found.nodes is not None or nodes is None) and found.sized:
        return found
    labels = nodes if found.nodes is None else found.nodes
    return found.resized(num_nodes, labels)


def _as_graph(given: Any, nodes: np.ndarray | None) -> Graph | DynamicGraph:
    """Turn what stands for a graph into one; a list of edges may be written in the series' labels."""
    if isinstance(given, (Graph, DynamicGraph)):
        return given
    stored = isinstance(given, (str, os.PathLike))
    if not stored and not hasattr(given, "shape"):
        raise GraphError(
            f"graph= is a {type(given).__name__}; a Graph, DynamicGraph, path, frame or square matrix is needed. "
            "Edges are given as Graph(edge_index, edge_weight), a matrix in lists as numpy.array(matrix)."
        )
    read = read_graph if stored else table_edges
    if not lists_edges(given):
        return Graph.of(read(given))
    return Graph.of(read(given, nodes=nodes, ends="numbers" if nodes is None else None, more=True))
