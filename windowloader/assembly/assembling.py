"""A series put together from what people hand in: every check that concerns more than one part is here.

In: targets and options of `windowloader.open` and `Series`. Out: the fields of a `Series`. Never reads
values.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from windowloader.clock import CLOCK_NAMES, Clock
from windowloader.dynamic_graph import DynamicGraph
from windowloader.errors import GraphError, SeriesError
from windowloader.graph import Graph
from windowloader.graphs.edges import order_of
from windowloader.graphs.files import lists_edges

from .covariates import open_covariates
from .entities import check_borders, unite
from .joining import Opener, join_variables
from .labels import as_labels, listed, texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .variable import Variable

__all__ = ["Fields", "align_graph", "assemble"]


class Fields(TypedDict):
    """What a `Series` holds."""

    name: str
    variables: tuple[Variable, ...]
    num_steps: int
    space_shape: tuple[int, ...]
    nodes: np.ndarray | None
    features: tuple[str, ...]
    clock: Clock | None
    borders: np.ndarray
    entity_borders: np.ndarray | None
    entity_names: np.ndarray | None
    graph: Graph | DynamicGraph | None


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
    missing: float | Mapping[str, float] | None,
    nodes: Any,
    entities: Any,
    entity_names: Any,
    name: str | None,
    opener: Opener,
) -> Fields:
    """Open, join, check and align; `Series` says what each argument is."""
    own = join_variables(
        target, axes=axes, variables=variables, features=features, missing=missing, opener=opener
    )
    first = own[0]
    num_steps, space_shape = first.num_rows, first.space_shape
    others = open_covariates(
        covariates, num_steps=num_steps, space_shape=space_shape, missing=missing, opener=_plain(opener)
    )
    _check_names(own, others, missing)
    entity_borders = None if entities is None else check_borders(entities, num_steps, what="entities")
    whole = np.unique(np.array([0, num_steps], np.int64)) if entity_borders is None else entity_borders
    clock = _clock(timestamps, (*own, *others), num_steps, entity_borders)
    labels = _node_labels(nodes, own, first.num_nodes)
    return Fields(
        name=name if name is not None else first.source.name,
        variables=(*own, *others),
        num_steps=num_steps,
        space_shape=space_shape,
        nodes=labels,
        features=tuple(feature for variable in own for feature in variable.features),
        clock=clock,
        borders=_segments(segments, clock, whole, num_steps),
        entity_borders=entity_borders,
        entity_names=_entity_names(entity_names, entity_borders),
        graph=align_graph(graph, labels, first.num_nodes, num_steps),
    )


def _plain(opener: Opener) -> Opener:
    """Open covariates: ``shape=`` and the like are about the series' own file."""
    return Opener(opener.storage_options, mirrors=opener.mirrors)


def _check_names(own: tuple[Variable, ...], others: tuple[Variable, ...], missing: Any) -> None:
    """Each name means one thing: a feature, a covariate, a variable or a clock."""
    variables = (*own, *others)
    features = [feature for variable in variables for feature in variable.features]
    repeated = sorted({feature for feature in features if features.count(feature) > 1})
    if repeated:
        raise SeriesError(
            f"the feature names {listed(repeated)} occur more than once. Name them apart with features=…."
        )
    clocks = [name for name in (*features, *(variable.name for variable in variables)) if name in CLOCK_NAMES]
    if clocks:
        raise SeriesError(
            f"{clocks[0]!r} is the name of a clock, which is made from the timestamps and needs no array. "
            "Name the feature or covariate otherwise."
        )
    home = {feature: variable.name for variable in variables for feature in variable.features}
    for place, variable in enumerate(variables):
        taken = home.get(variable.name, variable.name)
        if taken != variable.name or variable.name in [other.name for other in variables[:place]]:
            raise SeriesError(
                f"the name {variable.name!r} is given to two things. Rename the variable or the covariate."
            )
    unknown = [name for name in missing if name not in home.values()] if hasattr(missing, "keys") else []
    if unknown:
        raise SeriesError(
            f"missing= names {listed(unknown)}, but the variables are {listed(dict.fromkeys(home.values()))}."
        )


def _clock(
    timestamps: Any, variables: tuple[Variable, ...], num_steps: int, entity_borders: np.ndarray | None
) -> Clock | None:
    """Clock from what was given, else from the first variable whose file has timestamps."""
    if timestamps is None:
        for variable in variables:
            timestamps = variable.source.timestamps() if variable.has_time else None
            if timestamps is not None:
                break
        else:
            return None
    return Clock.from_timestamps(timestamps, num_steps, entity_borders)


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


def _node_labels(nodes: Any, own: tuple[Variable, ...], num_nodes: int) -> np.ndarray | None:
    """Labels as given, else as the file has them along its one space axis.

    Labels of a file that repeat, or only count 0, 1, 2 …, tell nothing and are not taken for labels.
    """
    if nodes is not None:
        return as_labels(nodes, size=num_nodes, what="nodes")
    for variable in own:
        places = [place for place, axis in enumerate(variable.source.axes) if axis == "n"]
        found = variable.source.labels(places[0]) if len(places) == 1 else None
        if found is None:
            continue
        names = texts(np.asarray(found).tolist())
        if len(set(names)) == len(names) == num_nodes and names != [
            str(number) for number in range(num_nodes)
        ]:
            return as_labels(found, size=num_nodes, what="nodes")
    return None


def align_graph(
    graph: Any, nodes: np.ndarray | None, num_nodes: int, num_steps: int
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

    Returns
    -------
    Graph, DynamicGraph or None
        With the series' labels where there are any, its nodes in their order.

    Raises
    ------
    GraphError
        Where the nodes are not the same, or a dynamic graph has other steps.
    """
    if graph is None:
        return None
    found = _as_graph(graph, nodes)
    if isinstance(found, DynamicGraph) and found.num_steps != num_steps:
        raise GraphError(
            f"the dynamic graph has {found.num_steps} steps and the series {num_steps}; each row needs its "
            "edges."
        )
    if found.nodes is not None and nodes is not None:
        if found.num_nodes == num_nodes and texts(found.nodes.tolist()) == texts(nodes.tolist()):
            return found
        return found.select(order_of(found.nodes, nodes)).resized(num_nodes, nodes)
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
    if isinstance(given, (str, os.PathLike)):
        if not lists_edges(given):
            return Graph.load(given)
        return Graph.load(given, ends="numbers") if nodes is None else Graph.load(given, nodes=nodes)
    if not hasattr(given, "shape"):
        raise GraphError(
            f"graph= is a {type(given).__name__}; a Graph, DynamicGraph, path or square matrix is needed. "
            "Edges are given as Graph(edge_index, edge_weight), a matrix in lists as numpy.array(matrix)."
        )
    return Graph.from_dense(given)
