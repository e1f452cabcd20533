"""What windows are cut from: variables over one clock and one space, with their graph.

In: arrays or sources, timestamps, covariates, segments, entities, a graph. Out: `Series`, a frozen value. Reads no
values. What a plain array does not need (clock, alignment, graphs) is imported on first use.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from windowloader.errors import FeatureNameError, SeriesError
from windowloader.util.axes import sizes
from windowloader.util.labels import as_labels, listed, tells

from .alignment import Alignment, nodes_of, open_covariates, rows_of
from .variable import CLOCK_NAMES, Opener, Variable, check_names, common_tier, open_sources, own_variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .clock import Clock
    from .dynamic_graph import DynamicGraph
    from .graph import Graph

__all__ = ["Column", "Series"]

PACKED = ("borders", "entity_borders")  # compressed in pickles


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a batch: a feature of a variable, or a clock.

    Parameters
    ----------
    name : str
    variable : int
        Index into ``series.variables``; -1: a clock.
    feature : int
        Index into that variable's features; for a clock into ``clock.CLOCK_NAMES``.
    """

    name: str
    variable: int
    feature: int


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Series:
    """Variables over time and nodes, from arrays in memory or open sources (`windowloader.open` also takes files).

    Parameters
    ----------
    values : array, source, mapping or list
        An array of at least one axis; a mapping of name to array, joined along features, by labels and times; a list
        of either, joined along time, in the order of their times where all have some.
    axes, variables, features, timestamps, covariates, graph, segments, missing, nodes : optional
        See `windowloader.open`.
    entities : array-like of int, shape (entity + 1,), optional
        Rows where the series of each entity begins, and the end, where several lie end to end.
    entity_names : array-like, shape (entity,), optional
        Their names.
    static : mapping of str to array-like, shape (entity,), optional
        What does not change within an entity: numbers or text, such as a tariff.
    name : str, optional
        For messages.
    opener : Opener, optional
        Storage options, as `windowloader.open` passes them on.

    Attributes
    ----------
    variables : tuple of Variable
        The series' own first, then the covariates.
    num_steps, num_nodes : int
        Rows along time; points in space, 1 without a space axis.
    space_shape : tuple of int
        Sizes of the space axes, e.g. (207,) or (33, 49); () without any.
    nodes : ndarray, shape (num_nodes,), or None
    features : tuple of str
        The series' own, by default inputs and targets.
    clock : Clock or None
    borders : ndarray, int64
        Rows that no window crosses, increasing, 0 … num_steps: of segments and entities.
    entity_borders, entity_names : ndarray or None
    static : dict of str to ndarray, shape (entity,)
    graph : Graph, DynamicGraph or None

    Raises
    ------
    SeriesError
        Where sizes, names, labels or timestamps do not fit.
    GraphError
        Where the graph's nodes are not the series'.
    AxesError
        Where axes do not fit the array.

    Examples
    --------
    >>> values = np.zeros((2016, 207, 1))
    >>> series = Series(values, features=["speed"], timestamps=("2012-03-01", "5min"), missing=0.0)
    >>> series
    Series('array': 2016 steps × 207 nodes, features speed; 2012-03-01T00:00:00 … 2012-03-07T23:55:00; memory)
    >>> series.columns(["speed", "time_of_day"])[1]
    Column(name='time_of_day', variable=-1, feature=0)
    """

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
    static: Mapping[str, np.ndarray]
    graph: Graph | DynamicGraph | None

    def __init__(
        self,
        values: Any,
        *,
        axes: str | Mapping[str, str] | None = None,
        variables: str | Sequence[str] | None = None,
        features: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        timestamps: Any = None,
        covariates: Mapping[str, Any] = {},
        graph: Any = None,
        segments: Any = None,
        missing: float | str | Mapping[str, float | str] | None = None,
        nodes: Any = None,
        entities: Any = None,
        entity_names: Any = None,
        static: Mapping[str, Any] = {},
        name: str | None = None,
        opener: Opener | None = None,
    ) -> None:
        opener = opener or Opener()
        sources = open_sources(values, opener, axes=axes, variables=variables)
        called, first = next(iter(sources.items()))
        num_steps, space = first.shape[0], sizes(first.axes, first.shape, "n")
        num_nodes = math.prod(space)
        entities = None if entities is None else _borders(entities, num_steps, "entities")
        whole = np.unique(np.array([0, num_steps], np.int64)) if entities is None else entities
        if entity_names is not None:
            if entities is None:
                raise SeriesError(
                    "entity_names= were given without entities=: where each begins, and the end."
                )
            entity_names = as_labels(entity_names, size=len(whole) - 1, what="entity_names")
        fixed = {name: np.asarray(found) for name, found in static.items()}
        if wrong := [name for name, found in fixed.items() if found.shape != (len(whole) - 1,)]:
            raise SeriesError(
                f"static= has {len(whole) - 1} values of each, one an entity; not so: {listed(wrong)}."
            )
        clock = None if timestamps is None else _clock(timestamps, num_steps, entities)
        labels = None if nodes is None else as_labels(nodes, size=num_nodes, what="nodes")
        alignment = Alignment(first, f"variable {called!r}", labels, clock)
        with warnings.catch_warnings():
            if clock is not None:  # timestamps= answer it
                warnings.filterwarnings("ignore", "the rows.* have no timestamps")
            own = own_variables(sources, alignment.align, features=features, missing=missing)
        stored = alignment.labels[0] if len(space) == 1 else None
        if labels is None and tells(stored):
            labels = as_labels(stored, size=num_nodes, what="nodes")
        plain = replace(opener, options={})  # these belong to the series' own file
        every = (*own, *open_covariates(covariates, plain, alignment, missing))
        check_names(every, missing)
        by_row = {"timestamps=": timestamps, "segments=": segments, "entities=": entities}
        alignment.check_moved(every, by_row | {"graph=": graph if _is_dynamic(graph) else None})
        if clock is None and alignment.times is not None:
            clock = _clock(alignment.times, num_steps, entities)
        inner = whole if clock is None else clock.jumps(whole)
        if segments is not None:
            inner = _borders(segments, num_steps, "segments")
        if graph is not None:
            from .dynamic_graph import align_graph

            graph = align_graph(graph, labels, num_nodes, num_steps, stored)
        self._fill(
            {
                "name": first.name if name is None else name,
                "variables": every,
                "num_steps": num_steps,
                "space_shape": space,
                "nodes": labels,
                "features": tuple(feature for variable in own for feature in variable.features),
                "clock": clock,
                "borders": np.union1d(whole, inner),
                "entity_borders": entities,
                "entity_names": entity_names,
                "static": fixed,
                "graph": graph,
            }
        )

    def _fill(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def num_nodes(self) -> int:
        """Points in space; 1 without a space axis."""
        return int(np.prod(self.space_shape, dtype=np.int64))

    @property
    def num_own(self) -> int:
        """How many of `variables` are the series' own; the covariates follow."""
        return sum(not {*variable.features}.isdisjoint(self.features) for variable in self.variables)

    @property
    def tier(self) -> str:
        """Where rows come from.

        Returns
        -------
        str
            ``"memory"``, ``"mapped"``, ``"cached"`` (kept on this node as it comes) or ``"streamed"``: of the variables
            that change with time, the last of these.
        """
        return common_tier(self.variables)

    def columns(self, names: Sequence[str] | None = None) -> tuple[Column, ...]:
        """Look up names.

        Parameters
        ----------
        names : sequence of str, optional
            Each a feature, a variable or covariate (all its features), or a clock; None: the series' own
            features.

        Returns
        -------
        tuple of Column

        Raises
        ------
        FeatureNameError
            For a name that is none of these (the nearest is named), one given twice, or a clock without
            timestamps.
        """
        asked = self.features if names is None else (names,) if isinstance(names, str) else tuple(names)
        known: dict[str, list[Column]] = {}
        for place, variable in enumerate(self.variables):
            columns = [Column(name, place, number) for number, name in enumerate(variable.features)]
            known |= {variable.name: columns} | {column.name: [column] for column in columns}
        if self.clock is not None:
            known |= {name: [Column(name, -1, number)] for number, name in enumerate(CLOCK_NAMES)}
        found: list[Column] = []
        for name in asked:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                if self.clock is None:
                    hint += " It has no timestamps for clock features: pass timestamps=, e.g. ('2012-03-01', '5min')."
                raise FeatureNameError(
                    f"{name!r} is not a feature, variable, covariate or clock of {self.name!r}.{hint} There are "
                    f"{listed(known, 20)}."
                )
            found.extend(known[name])
        repeated = [column.name for place, column in enumerate(found) if column in found[:place]]
        if repeated:
            raise FeatureNameError(
                f"{listed(repeated)} was asked for twice, in {list(asked)}. Name each once."
            )
        return tuple(found)

    def select(self, *, time: Any = None, nodes: Any = None, features: Sequence[str] | None = None) -> Series:
        """Return a part of the series, without reading.

        Parameters
        ----------
        time : slice, optional
            Of rows, ``slice(0, 288)``, or of moments, ``slice("2012-03-01", "2012-03-03")``; the end is left
            out.
        nodes : int, label, slice, bool mask or sequence of int or labels, optional
            The nodes that stay, in this order; several space axes become one. The graph is cut to them.
        features : sequence of str, optional
            The series' own features that stay, in this order; covariates stay.

        Returns
        -------
        Series

        Raises
        ------
        SeriesError
            Where nothing is left, or what is asked for is not there.

        Examples
        --------
        >>> series = Series(np.arange(12.0).reshape(4, 3), nodes=["a", "b", "c"])
        >>> part = series.select(time=slice(1, 3), nodes=["a", "c"])
        >>> part.variables[0].view()[:, :, 0]
        array([[3., 5.],
               [6., 8.]])
        """
        columns = self.columns(features)
        foreign = [column.name for column in columns if not 0 <= column.variable < self.num_own]
        if foreign or not columns:
            what = f"{listed(foreign)} are covariates or clocks, which stay" if foreign else "none were named"
            raise FeatureNameError(f"features= chooses among {listed(self.features, 20)}; {what}.")
        rows = rows_of(time, self.clock, self.num_steps, self.entity_borders, self.name)
        numbers = None if nodes is None else nodes_of(nodes, self.nodes, self.space_shape, self.name)
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["features"] = tuple(column.name for column in columns)
        fields["variables"] = tuple(self._parts(columns, rows, numbers))
        if rows is not None:
            from .clock import clip_borders

            fields["num_steps"] = rows.stop - rows.start
            fields["borders"] = clip_borders(self.borders, rows)[0]
            fields["clock"] = None if self.clock is None else self.clock.slice(rows.start, rows.stop)
            if self.entity_borders is not None:
                fields["entity_borders"], kept = clip_borders(self.entity_borders, rows)
                fields["entity_names"] = None if self.entity_names is None else self.entity_names[kept]
                fields["static"] = {name: found[kept] for name, found in self.static.items()}
            if _is_dynamic(self.graph):
                fields["graph"] = self.graph.steps(rows.start, rows.stop)
        if numbers is not None:
            fields["space_shape"] = (len(numbers),)
            fields["nodes"] = None if self.nodes is None else self.nodes[numbers]
            fields["graph"] = None if self.graph is None else fields["graph"].select(numbers)
        part = object.__new__(Series)
        part._fill(fields)
        return part

    def _parts(
        self, columns: Sequence[Column], rows: slice | None, nodes: np.ndarray | None
    ) -> Iterator[Variable]:
        """Variables cut to rows, nodes and columns; those without a column are left out, covariates stay."""
        from windowloader.sources.selected import SelectedSource

        for place, variable in enumerate(self.variables):
            every = list(range(variable.num_features))
            chosen = [column.feature for column in columns if column.variable == place]
            chosen = chosen if place < self.num_own else every
            asked: dict[str, Any] = {
                "rows": rows if variable.has_time else None,
                "nodes": nodes if variable.has_nodes else None,
                "features": chosen if chosen != every else None,
            }
            if chosen and any(index is not None for index in asked.values()):
                source = SelectedSource(variable.source, **asked)
                variable = replace(
                    variable, source=source, features=tuple(variable.features[i] for i in chosen)
                )
            if chosen:
                yield variable

    def fingerprint(self) -> str:
        """Short text that changes when the data do: sources, names, clock, borders. Reads no values.

        What a source answers for: files by size and time of change, arrays in memory by a sample of their
        values. The graph is not part of it.
        """
        digest = hashlib.sha256()
        for variable in self.variables:
            part = (variable.name, variable.features, repr(variable.missing), variable.source.axes)
            digest.update(repr((part, variable.source.fingerprint())).encode())
        digest.update(repr((self.features, self.clock.fingerprint() if self.clock else None)).encode())
        for borders in (self.borders, self.entity_borders):
            digest.update(b"|" if borders is None else borders.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def entity_of(self, rows: Any) -> np.ndarray:
        """Entity of each row, int64, in the shape of ``rows``; 0 where there are no entities."""
        wanted = np.asarray(rows, np.int64)
        if self.entity_borders is None:
            return np.zeros(wanted.shape, np.int64)
        return np.asarray(np.searchsorted(self.entity_borders, wanted, side="right") - 1, np.int64)

    def __getstate__(self) -> dict[str, Any]:
        from .packed import pack_integers

        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {name: pack_integers(fields[name]) for name in PACKED if fields[name] is not None}

    def __setstate__(self, fields: dict[str, Any]) -> None:
        from .packed import unpack_integers

        packed = {name: fields[name] for name in PACKED if fields[name] is not None}
        self._fill(fields | {name: unpack_integers(found) for name, found in packed.items()})

    def __repr__(self) -> str:
        space = " × ".join(str(size) for size in self.space_shape) or "1"
        parts = [f"features {', '.join(self.features[:6])}{', …' if len(self.features) > 6 else ''}"]
        others = [variable.name for variable in self.variables[self.num_own :]]
        if others:
            parts[0] += f"; covariates {', '.join(others)}"
        if self.clock is not None and self.num_steps:
            parts.append(" … ".join(self.clock.texts([0, self.num_steps - 1])) + self.clock.calendar_note)
        if self.entity_borders is not None:
            parts.append(f"{len(self.entity_borders) - 1} entities")
        if len(self.borders) > 2:
            parts.append(f"{len(self.borders) - 1} segments")
        if self.graph is not None:
            parts.append(f"{self.graph.edge_index.shape[1]} edges")
        return (
            f"Series({self.name!r}: {self.num_steps} steps × {space} nodes, {'; '.join([*parts, self.tier])})"
        )

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        from windowloader.view.notebook import series_html

        return series_html(self)


def _clock(timestamps: Any, num_steps: int, entities: np.ndarray | None) -> Clock:
    from .clock import Clock

    return Clock.from_timestamps(timestamps, num_steps, entities)


def _borders(borders: Any, num_steps: int, what: str) -> np.ndarray:
    from .clock import check_borders

    return check_borders(borders, num_steps, what=what)


def _is_dynamic(graph: Any) -> TypeGuard[DynamicGraph]:
    """Whether a graph has edges of each step."""
    if graph is None:
        return False
    from .dynamic_graph import DynamicGraph

    return isinstance(graph, DynamicGraph)
