"""Variables: sources seen as rows of ``[node, feature]``, opened from whatever users pass.

In: an array, a store and names in it, a mapping of arrays, a list of any, and the options of `Series`. Out: `Variable`.
Never copies what can be viewed, and reads no values when built.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from windowloader.errors import SeriesError
from windowloader.sources.base import TIERS, Source
from windowloader.util.axes import canonical, sizes
from windowloader.util.labels import listed, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from windowloader.sources import Pending
    from windowloader.sources.disk_cache import DiskCache

__all__ = [
    "CLOCK_NAMES",
    "Opener",
    "Variable",
    "check_names",
    "common_tier",
    "feature_names",
    "missing_of",
    "open_sources",
    "own_variables",
    "variables_of",
]

CLOCK_NAMES = tuple(
    f"{clock}{form}"
    for clock in ("time_of_day", "day_of_week", "day_of_year")
    for form in ("", "_sin", "_cos")
)
UNNAMED = "value"  # an array without a name
STORES = ("xarray", "h5py", "zarr", "pandas")


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Variable:
    """One source as canonical rows.

    Parameters
    ----------
    name : str
        What it is called in a series.
    source : Source
        Axes of t, n and f; without t it is the same at every row, without n at every node.
    features : tuple of str
        A name for each feature.
    missing : float, optional
        What marks a missing value: NaN or a sentinel; None: nothing is declared missing.

    Examples
    --------
    >>> from windowloader.sources.memory import ArraySource
    >>> variable = Variable("t", ArraySource(np.zeros((9, 2, 33, 49)), axes="tfnn"), ("t.500", "t.850"))
    >>> variable.num_rows, variable.num_nodes, variable.num_features
    (9, 1617, 2)
    >>> variable.view().shape
    (9, 1617, 2)
    """

    name: str
    source: Source
    features: tuple[str, ...]
    missing: float | None = None

    def __post_init__(self) -> None:
        if len(self.features) != self.num_features:
            raise SeriesError(
                f"variable {self.name!r} has {self.num_features} features (axes {self.source.axes!r}, shape "
                f"{self.source.shape}), but {len(self.features)} names: {', '.join(self.features[:8])}."
            )

    @property
    def has_time(self) -> bool:
        """Whether values change from row to row."""
        return "t" in self.source.axes

    @property
    def has_nodes(self) -> bool:
        """Whether values differ from node to node."""
        return "n" in self.source.axes

    @property
    def num_rows(self) -> int:
        """Rows along time; 1 without a time axis."""
        return self.source.shape[0] if self.has_time else 1

    @property
    def space_shape(self) -> tuple[int, ...]:
        """Sizes of the space axes; () without any."""
        return sizes(self.source.axes, self.source.shape, "n")

    @property
    def num_nodes(self) -> int:
        """Points in space; 1 without a space axis."""
        return math.prod(self.space_shape)

    @property
    def num_features(self) -> int:
        """Features; 1 without a feature axis."""
        return math.prod(sizes(self.source.axes, self.source.shape, "f"))

    @property
    def dtype(self) -> np.dtype:
        """What rows are delivered in."""
        return self.source.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.num_nodes * self.num_features * self.dtype.itemsize

    def view(self) -> np.ndarray | None:
        """Look at all rows where they lie; what has no time is small, and read whole when first looked at.

        Returns
        -------
        ndarray, shape (row or 1, node or 1, feature), any strides, or None
            In memory or mapped; None where rows must be read.
        """
        array = self.source.array()
        view = None if array is None else canonical(array, self.source.axes)
        return _read_once(self) if view is None and not self.has_time else view

    def read(self, start: int, stop: int, out: np.ndarray) -> int:
        """Read rows ``[start, stop)`` into ``out``, shape (row, node or 1, feature); return the bytes taken."""
        from windowloader.sources.reads import taken

        return taken(self.source.read(start, stop, self._as_stored(out)), self.source.name)

    def submit(self, start: int, stop: int, out: np.ndarray) -> Pending:
        """Begin `read` and return at once; ``out`` must stay alive until the result."""
        from windowloader.sources.reads import begun

        return begun(self.source.submit(start, stop, self._as_stored(out)), self.source.name)

    def _as_stored(self, out: np.ndarray) -> np.ndarray:
        """View canonical rows in the source's axes: splitting an axis never copies, whatever its stride."""
        axes, shape = self.source.axes, self.source.shape
        apart = out.reshape(out.shape[0], *sizes(axes, shape, "n"), *sizes(axes, shape, "f"), copy=False)
        order = [place for letter in "tnf" for place, axis in enumerate(axes) if axis == letter]
        return apart.transpose(np.argsort(order))


_READ: WeakKeyDictionary[Variable, np.ndarray] = WeakKeyDictionary()


def _read_once(variable: Variable) -> np.ndarray:
    """Canonical values of a variable without time, kept as long as it is."""
    if variable not in _READ:
        source = variable.source
        values = np.empty(source.shape, source.dtype)
        source.read(0, source.shape[0], values)
        order = np.argsort([axis == "f" for axis in source.axes], kind="stable")
        _READ[variable] = values.transpose(order).reshape(1, variable.num_nodes, variable.num_features)
    return _READ[variable]


def common_tier(variables: Iterable[Variable]) -> str:
    """Tier of several variables: of those that change with time, the one whose rows are furthest away."""
    tiers = [variable.source.tier for variable in variables if variable.has_time]
    return max(tiers, key=TIERS.index, default="memory")


def feature_names(name: str, source: Source, *, named: bool) -> tuple[str, ...]:
    """Names for the features of a variable.

    Parameters
    ----------
    name : str
        The variable's.
    source : Source
        Labels along its feature axes are used.
    named : bool
        Whether the name was chosen by the user; if not, features that are labelled with words are named by
        those alone.

    Returns
    -------
    tuple of str
        ``name`` for a single feature, else ``name.500``, after the label or the number of each.
    """
    places = [place for place, axis in enumerate(source.axes) if axis == "f"]
    labels = [source.labels(place) for place in places]
    parts = [
        texts((np.arange(source.shape[place]) if found is None else found).tolist())
        for place, found in zip(places, labels, strict=True)
    ]
    words = len(places) == 1 and labels[0] is not None and labels[0].dtype.kind in "OUST"
    if words and not named and not any(part.replace(".", "").isdigit() for part in parts[0]):
        return tuple(parts[0])
    if math.prod(map(len, parts)) == 1:
        return (name,)
    return tuple(".".join((name, *combination)) for combination in itertools.product(*parts))


@dataclass(frozen=True, slots=True)
class Opener:
    """How sources are opened: the storage options of `windowloader.open`.

    Parameters
    ----------
    storage_options : mapping
        For the file system or bucket.
    options : mapping
        Options of a kind of source: ``shape=``, ``dtype=``, ``offset=``, ``member=`` …
    cache : DiskCache, optional
        Where rows of what is opened by path or URL are kept on this node.
    """

    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    cache: DiskCache | None = None

    def __call__(self, target: Any, *, variable: str | None = None, axes: str | None = None) -> Source:
        """Open one source."""
        from windowloader.sources.registry import open_source

        how: Any = {"storage_options": self.storage_options, **self.options}
        source = open_source(target, variable=variable, axes=axes, **how)
        if self.cache is None:
            return source
        parts = target if isinstance(target, (list, tuple)) else [target]
        if parts and all(isinstance(part, (str, os.PathLike)) for part in parts):
            from windowloader.sources.disk_cache_source import cached

            return cached(source, self.cache, options=repr(sorted(self.options.items())))
        if "t" in source.axes and source.tier == "streamed":  # an open object cannot be identified later
            warnings.warn(
                f"cache_dir={self.cache.path!r} keeps what is opened by path or URL; {source.name!r} was given "
                f"as an open {type(target).__name__}, and is streamed in every epoch. Give its path or URL.",
                UserWarning,
                stacklevel=2,
            )
        return source


def _choose(target: Any, names: list[str] | None, opener: Opener) -> dict[str, tuple[Any, str | None]]:
    """Choose variables by name: the target of each, and its name in a store.

    Parameters
    ----------
    target : object
        As `windowloader.open` takes it.
    names : list of str, optional
        Which, in this order; or the name of a single array.
    opener : Opener
        To list stores.

    Raises
    ------
    SeriesError
        Where a name is not there, or none was given and there are several.
    """
    if isinstance(target, (list, tuple)) and target and all(_is_mapping(item) for item in target):
        for place, item in enumerate(target):
            if set(item) != set(target[0]):
                raise SeriesError(
                    f"item {place} of the list has the variables {listed(item)}, the first has {listed(target[0])}; "
                    "what is joined along time holds the same variables throughout."
                )
        target = {name: [item[name] for item in target] for name in target[0]}
    by_path = isinstance(target, (str, os.PathLike))
    called = repr(str(target)) if by_path else f"this {type(target).__name__}"
    found: dict[str, tuple[Any, str | None]] = {}
    if _is_mapping(target):
        found = {str(name): (part, None) for name, part in target.items()}
    elif stored := variables_of(target, names, opener):
        if names is None and len(stored) > 1:
            raise SeriesError(
                f"{called} holds {len(stored)} variables: {listed(stored, 20)}. Say which, e.g. "
                f"variables=[{stored[0]!r}]."
            )
        found = {name: (target, name) for name in stored}
    elif names is None or (len(names) == 1 and not by_path):
        own = UNNAMED if isinstance(target, (Source, os.PathLike)) else getattr(target, "name", UNNAMED)
        found = {names[0] if names else own if isinstance(own, str) else UNNAMED: (target, None)}
    asked = list(found) if names is None else names
    unknown = [name for name in asked if name not in found]
    if unknown or len(set(asked)) < len(asked) or not asked:
        single = "is a single array: name its features with features=[…], or pass a mapping of arrays"
        raise SeriesError(
            f"variables={asked} of {called}: name one or more, each once; unknown: {listed(unknown)}. It "
            f"{f'has {listed(found, 20)}' if found else single}."
        )
    return {name: found[name] for name in asked}


def variables_of(target: Any, names: list[str] | None, opener: Opener) -> tuple[str, ...]:
    """Names of the arrays in a store, or ``names`` where it opens arrays without a list; () for a single array."""
    from windowloader.sources.registry import list_variables

    if not opener.options.keys().isdisjoint(("member", "shape")):
        return ()
    first = target[0] if isinstance(target, (list, tuple)) and target else target
    return list_variables(first, storage_options=opener.storage_options, names=names or ())


def _is_mapping(target: Any) -> bool:
    """Whether a target is a mapping of targets; groups and datasets of libraries are stores instead."""
    return isinstance(target, Mapping) and type(target).__module__.partition(".")[0] not in STORES


def open_sources(
    target: Any, opener: Opener, *, axes: Any, variables: str | Sequence[str] | None
) -> dict[str, Source]:
    """Open a series' own variables, by name.

    Raises
    ------
    SeriesError
        Where names do not fit, or a variable has no time or an empty axis beside it.
    """
    names = [variables] if isinstance(variables, str) else None if variables is None else list(variables)
    chosen = _choose(target, names, opener)
    _check_known("axes", axes, chosen)
    sources = {
        name: opener(found, variable=inner, axes=axes.get(name) if isinstance(axes, Mapping) else axes)
        for name, (found, inner) in chosen.items()
    }
    for name, source in sources.items():
        for doubt in source.doubts:
            warnings.warn(doubt, UserWarning, stacklevel=2)
        has = f"variable {name!r} has axes {source.axes!r} and shape {source.shape}"
        if "t" not in source.axes:
            raise SeriesError(
                f"{has}, without time. What does not change is a covariate: covariates={{{name!r}: …}}."
            )
        if 0 in source.shape[1:]:
            raise SeriesError(f"{has}: an axis beside time is empty, so there is nothing to read.")
    return sources


def own_variables(
    sources: Mapping[str, Source], align: Callable[[Source, str, str], Source], *, features: Any, missing: Any
) -> tuple[Variable, ...]:
    """Align sources to the clock and the space of the first, and name their features.

    Raises
    ------
    SeriesError
        Where one does not fit the first, or names of features or marks of missing values do not fit.
    """
    advice = (
        "Variables share one clock and one space. Cut the longer one, e.g. x[:n]; what has no space axis is a "
        "covariate: covariates={…}."
    )
    given = _by_variable(features, sources)
    found = []
    for name, source in sources.items():
        names = given[name] if name in given else feature_names(name, source, named=name != UNNAMED)
        aligned = align(source, f"variable {name!r}", advice)
        found.append(Variable(name, aligned, tuple(map(str, names)), missing_of(missing, name, source)))
    return tuple(found)


def check_names(variables: Sequence[Variable], missing: Any) -> None:
    """Check that each name means one thing: a feature, a covariate, a variable or a clock."""
    names = [name for one in variables for name in (*one.features, *({one.name} - set(one.features)))]
    if repeated := [name for name, count in Counter([*names, *CLOCK_NAMES]).items() if count > 1]:
        raise SeriesError(
            f"the names {listed(repeated)} occur more than once; clocks such as time_of_day are made from the "
            "timestamps and need no array. Name features apart with features=…, or rename the variable or covariate."
        )
    _check_known("missing", missing, [one.name for one in variables])


def _check_known(what: str, given: Any, variables: Collection[str]) -> None:
    """Raise `SeriesError` where a mapping by variable names one that is not there."""
    if isinstance(given, Mapping) and (unknown := [name for name in given if name not in variables]):
        raise SeriesError(f"{what}= names {listed(unknown)}, but the variables are {listed(variables)}.")


def _by_variable(features: Any, sources: Mapping[str, Source]) -> Mapping[str, Sequence[str]]:
    """Names of features by variable; a flat sequence is assigned in the order of the variables."""
    _check_known("features", features, sources)
    if features is None:
        return {}
    if isinstance(features, Mapping):
        return {name: [given] if isinstance(given, str) else given for name, given in features.items()}
    flat = [features] if isinstance(features, str) else list(features)
    counts = {name: math.prod(sizes(source.axes, source.shape, "f")) for name, source in sources.items()}
    if len(flat) != sum(counts.values()):
        shapes = ", ".join(f"{name!r} has {source.axes} {source.shape}" for name, source in sources.items())
        raise SeriesError(
            f"features= has {len(flat)} names ({listed(flat)}) for {sum(counts.values())} features: "
            f"{shapes}. Is an axis of features taken for nodes? Say so with axes=, e.g. axes='tf'."
        )
    names = iter(flat)
    return {name: list(itertools.islice(names, count)) for name, count in counts.items()}


def missing_of(missing: Any, name: str, source: Source) -> float | None:
    """Return the value that marks a missing cell of one variable; None where there is none, as NaN in integers."""
    mark = missing.get(name) if isinstance(missing, Mapping) else missing
    if mark is None:
        return None
    if isinstance(mark, str) and mark == "fill_value" and source.fill_value is not None:
        mark = source.fill_value
    if np.ndim(mark) != 0 or np.asarray(mark).dtype.kind not in "fiub":
        raise SeriesError(
            f"missing={mark!r} is not a number for {name!r}. Give NaN, a sentinel such as 0.0, 'fill_value' where the "
            "array has one in its store, or a mapping by variable."
        )
    number, dtype = float(mark), source.dtype
    if dtype.kind == "f":
        return number
    if math.isnan(number):
        return None
    with np.errstate(invalid="ignore"):
        stored = np.float64(number).astype(dtype)
    if number != stored:
        raise SeriesError(f"missing={number} never occurs in {name!r}, whose values are {dtype}.")
    return number
