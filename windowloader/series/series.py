"""What windows are cut from: variables over one clock and one space, with their graph.

In: arrays or sources, timestamps, covariates, segments, entities, a graph. Out: `Series`. Never reads values
when built.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import FeatureNameError
from windowloader.util.axes import sizes

from .alignment import Alignment
from .borders import check_borders, check_entities, entity_numbers, unite
from .clock import CLOCK_NAMES, Clock
from .dynamic_graph import DynamicGraph
from .graphs import align_graph
from .joining import check_names, open_covariates, open_sources, own_variables
from .labels import as_labels, listed, tells
from .targets import Opener
from .variable import Variable, common_tier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .graph import Graph

__all__ = ["Column", "Series"]

PACKED = ("borders", "entity_borders")  # in pickles


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
    """Variables over time and nodes, from arrays in hand (`windowloader.open` takes files).

    Parameters
    ----------
    values : array, source, mapping or list
        An array of at least one axis; a mapping of name to array, joined along features, by labels and times; a list
        of either, joined along time, in the order of their times where all have some.
    axes : str or mapping of variable to str, optional
        One letter an axis: ``t`` time, ``n`` space, ``f`` features; default ``tn`` or ``tnf``.
    variables : str or sequence of str, optional
        Which of a mapping, in this order; or the name of a single array.
    features : sequence of str, or mapping of variable to such, optional
        Names of the features; default the variable's name, with the label or number of each where there are
        several.
    timestamps : array-like of moments, or tuple (start, freq), optional
        Time of each row, e.g. ``("2012-03-01", "5min")``; default what the file has. Times become
        UTC; the time zone of a pandas index is kept for the clock features.
    covariates : mapping of name to array or (array, axes)
        Known beside the series, on axes of their own: ``tnf``, ``tn``, ``tf``, ``t``, ``nf``, ``n``. Nodes and rows go
        by labels and times where both sides have some, else by position. Those without time are never scaled.
    graph : Graph, DynamicGraph, path, frame or square matrix, optional
        Brought to the series' nodes where both have labels: re-ordered, others left out.
    segments : array-like of int, shape (segment + 1,), optional
        Rows where segments begin, and the end: ``[0, …, num_steps]``. Windows cross none. Default: where time
        jumps (`Clock.jumps`); ``[0, num_steps]`` for none.
    missing : float, or mapping of variable to float, optional
        What marks a missing value: NaN or a sentinel, or ``"fill_value"``: that of the array in its store. One
        alone is about the series' own variables.
    nodes : array-like, shape (node,), optional
        Labels of the nodes; default what the file has.
    entities : array-like of int, shape (entity + 1,), optional
        Rows where the series of each entity begins, and the end, where several lie end to end.
    entity_names : array-like, shape (entity,), optional
        Their names.
    name : str, optional
        For messages.
    opener : Opener, optional
        How paths are opened, as `windowloader.open` was told.

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
        Rows no window crosses, rising, 0 … num_steps: segments and entities united.
    entity_borders, entity_names : ndarray or None
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
        name: str | None = None,
        opener: Opener | None = None,
    ) -> None:
        opener = opener or Opener()
        sources = open_sources(values, opener, axes=axes, variables=variables)
        called, first = next(iter(sources.items()))
        num_steps, space = first.shape[0], sizes(first.axes, first.shape, "n")
        entity_borders, entity_names = check_entities(entities, entity_names, num_steps)
        whole = np.unique(np.array([0, num_steps], np.int64)) if entity_borders is None else entity_borders
        clock = None if timestamps is None else Clock.from_timestamps(timestamps, num_steps, entity_borders)
        labels = None if nodes is None else as_labels(nodes, size=math.prod(space), what="nodes")
        alignment = Alignment(first, f"variable {called!r}", labels, clock)
        with warnings.catch_warnings():
            if clock is not None:  # timestamps= are the answer to it
                warnings.filterwarnings("ignore", "the rows.* have no timestamps")
            own = own_variables(sources, alignment, features=features, missing=missing)
        stored = alignment.labels[0] if len(space) == 1 else None
        if covariates:
            alignment.settle()
        if labels is None and tells(stored):
            labels = as_labels(stored, size=math.prod(space), what="nodes")
        plain = replace(opener, options={})  # which are about the series' own file
        every = (*own, *open_covariates(covariates, plain, alignment, missing))
        check_names(every, missing)
        by_row = {"timestamps=": timestamps, "segments=": segments, "entities=": entities}
        alignment.check_moved(every, by_row | {"graph=": graph if isinstance(graph, DynamicGraph) else None})
        if clock is None and alignment.times is not None:
            clock = Clock.from_timestamps(alignment.times, num_steps, entity_borders)
        if segments is not None:
            inner = check_borders(segments, num_steps, what="segments")
        else:
            inner = whole if clock is None else clock.jumps(whole)
        self._fill(
            {
                "name": first.name if name is None else name,
                "variables": every,
                "num_steps": num_steps,
                "space_shape": space,
                "nodes": labels,
                "features": tuple(feature for variable in own for feature in variable.features),
                "clock": clock,
                "borders": unite(whole, inner),
                "entity_borders": entity_borders,
                "entity_names": entity_names,
                "graph": align_graph(graph, labels, math.prod(space), num_steps, stored),
            }
        )

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Series:
        """Build from fields that are known to fit."""
        series = object.__new__(cls)
        series._fill(fields)
        return series

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
                    hint += " It has none of the clocks: pass timestamps=, e.g. ('2012-03-01', '5min')."
                raise FeatureNameError(
                    f"{name!r} is no feature, variable, covariate or clock of {self.name!r}.{hint} There are "
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
        from .selection import select

        return select(self, time=time, nodes=nodes, features=features)

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
        return entity_numbers(self.entity_borders, rows)

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
            parts.append(" … ".join(self.clock.texts([0, self.num_steps - 1])) + self.clock.told)
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
