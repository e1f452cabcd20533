"""What a series is made of, put side by side: a mapping joins along features, a list along time.

In: a target as people have it: one array, a store and names in it, a mapping of arrays, a list of any. Out: a
tuple of `Variable`, aligned to one clock and one space. Never copies or reads values.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.axes import sizes
from windowloader.errors import SeriesError
from windowloader.source import Source

from .labels import listed
from .variable import Variable, feature_names

if TYPE_CHECKING:
    from windowloader.sources.mirror_folder import MirrorFolder

    from .alignment import Alignment

__all__ = ["Opener", "align_variables", "check_named", "join_variables", "missing_of"]

UNNAMED = "value"
STORES = ("xarray", "h5py", "zarr", "pandas")


@dataclass(frozen=True, slots=True)
class Opener:
    """How sources are opened: what `windowloader.open` was told about storage.

    Parameters
    ----------
    storage_options : mapping
        For the file system or bucket.
    options : mapping
        What a family of sources takes: ``shape=``, ``dtype=``, ``offset=``, ``member=`` …
    mirrors : MirrorFolder, optional
        Where rows of what is opened by path or URL are kept on this node.
    """

    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    mirrors: MirrorFolder | None = None

    def __call__(self, target: Any, *, variable: str | None = None, axes: str | None = None) -> Source:
        """Open one source."""
        if isinstance(target, np.ndarray) and not self.options:
            from windowloader.sources.memory import ArraySource  # in hand: no need to look at formats

            return ArraySource(target, axes=axes)
        from windowloader.sources.registry import open_source

        source = open_source(
            target, variable=variable, axes=axes, storage_options=self.storage_options, **self.options
        )
        if self.mirrors is None:
            return source
        if not _is_stored(target):
            if "t" in source.axes and source.tier == "streamed":
                warnings.warn(
                    f"cache_dir={self.mirrors.path!r} keeps what is opened by path or URL; {source.name!r} was given "
                    f"as an open {type(target).__name__}, and is streamed in every epoch. Give its path or URL.",
                    UserWarning,
                    stacklevel=2,
                )
            return source
        from windowloader.sources.cached import cached

        return cached(source, self.mirrors, options=repr(sorted(self.options.items())))

    def variables(self, target: Any, names: list[str] | None = None) -> tuple[str, ...]:
        """Names of the arrays a store holds; () where the target is one array.

        With ``names``, those that are asked for: opening them says which of them a store does not have, and a store
        that cannot be listed is opened by them.
        """
        first = target[0] if isinstance(target, (list, tuple)) and target else target
        if isinstance(first, (np.ndarray, Source)) or not self.options.keys().isdisjoint(("member", "shape")):
            return ()
        from windowloader.sources.registry import list_variables, opens_by_name

        if names and opens_by_name(first):
            return tuple(names)
        return list_variables(first, storage_options=self.storage_options)


def _is_stored(target: Any) -> bool:
    """Whether a target is named by path or URL: of what is in hand nobody can tell later whether it is the same."""
    parts = target if isinstance(target, (list, tuple)) else [target]
    return bool(parts) and all(isinstance(part, (str, os.PathLike)) for part in parts)


def join_variables(
    target: Any,
    *,
    axes: str | Mapping[str, str] | None,
    variables: str | Sequence[str] | None,
    features: Sequence[str] | Mapping[str, Sequence[str]] | None,
    missing: float | str | Mapping[str, float | str] | None,
    opener: Opener,
) -> tuple[Variable, ...]:
    """Open what a series is made of.

    Parameters
    ----------
    target : object
        As `windowloader.open` takes it.
    axes : str or mapping of variable to str, optional
        One letter an axis.
    variables : str or sequence of str, optional
        Which arrays of a store or mapping, in this order; or the name of a single array.
    features : sequence of str, or mapping of variable to such, optional
        Names of the features.
    missing : float or mapping of variable to float, optional
        What marks a missing value.
    opener : Opener
        How to open.

    Returns
    -------
    tuple of Variable

    Raises
    ------
    SeriesError
        Where names do not fit, or one has no time.
    """
    names = [variables] if isinstance(variables, str) else None if variables is None else list(variables)
    chosen, named = _choose(target, names, opener)
    check_named("axes", axes, chosen)
    check_named("features", features, chosen)
    sources = {
        name: opener(found, variable=inner, axes=axes.get(name) if isinstance(axes, Mapping) else axes)
        for name, (found, inner) in chosen.items()
    }
    for source in sources.values():
        for doubt in source.doubts:
            warnings.warn(doubt, UserWarning, stacklevel=2)
    given_names = _given_features(features, sources)
    joined = tuple(
        Variable(
            name,
            source,
            feature_names(name, source, named=named, given=given_names.get(name)),
            missing_of(missing, name, source),
        )
        for name, source in sources.items()
    )
    for variable in joined:
        if not variable.has_time:
            raise SeriesError(
                f"variable {variable.name!r} has axes {variable.source.axes!r}, without time. What does not "
                f"change is a covariate: covariates={{{variable.name!r}: …}}."
            )
        if 0 in variable.source.shape[1:]:
            raise SeriesError(
                f"variable {variable.name!r} has axes {variable.source.axes!r} and shape {variable.source.shape}: an "
                "axis beside time is empty, so there is nothing to read."
            )
    return joined


def check_named(what: str, given: Any, variables: Collection[str]) -> None:
    """Raise `SeriesError` where a mapping by variable names one that is not there."""
    if isinstance(given, Mapping) and (unknown := [name for name in given if name not in variables]):
        raise SeriesError(f"{what}= names {listed(unknown)}, but the variables are {listed(variables)}.")


def missing_of(
    missing: float | str | Mapping[str, float | str] | None, name: str, source: Source
) -> float | None:
    """Return what marks a missing value of one variable; None where nothing does, as NaN in integers."""
    mark = missing.get(name) if isinstance(missing, Mapping) else missing
    if mark is None:
        return None
    if isinstance(mark, str) and mark == "fill_value":
        mark = source.fill_value
        if mark is None:
            raise SeriesError(
                f"missing='fill_value' asks for the fill value of {name!r}, and {source.name!r} has none. Give NaN or "
                "the number that marks a missing value."
            )
    dtype = source.dtype
    if np.asarray(mark).dtype.kind not in "fiub" or np.ndim(mark) != 0:
        raise SeriesError(
            f"missing={mark!r} is no number. Give NaN, a sentinel such as 0.0, 'fill_value' for that of the array in "
            "its store, or a mapping by variable."
        )
    mark = float(mark)
    if dtype.kind in "iub":
        if math.isnan(mark):
            return None
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if not (mark.is_integer() and low <= mark <= high):
            raise SeriesError(
                f"missing={mark} never occurs in {name!r}, whose values are {dtype} ({low} … {high})."
            )
    return mark


def _choose(
    target: Any, names: list[str] | None, opener: Opener
) -> tuple[dict[str, tuple[Any, str | None]], bool]:
    """Return variables by name, each with target and name in the store; and whether anyone named them."""
    if isinstance(target, (list, tuple)) and target and all(_is_mapping(item) for item in target):
        _check_keys(target)
        target = {name: [item[name] for item in target] for name in target[0]}
    if _is_mapping(target):
        found = [str(name) for name in target]
        asked = found if names is None else names
        _check_known(asked, found, "the mapping")
        return {name: (target[name], None) for name in asked}, True
    stored = opener.variables(target, names)
    if names is None:
        if len(stored) > 1:
            raise SeriesError(
                f"{_called(target)} holds {len(stored)} variables: {listed(stored, 20)}. Say which, e.g. "
                f"variables=[{stored[0]!r}]."
            )
        own = stored[0] if stored else getattr(target, "name", None)
        if not isinstance(own, str) or (not stored and isinstance(target, (Source, os.PathLike))):
            own = UNNAMED
        return {own: (target, stored[0] if stored else None)}, own != UNNAMED
    if not names:
        raise SeriesError("variables=[] leaves nothing to open. Leave it out, or name at least one.")
    if stored:
        _check_known(names, stored, repr(str(target)))
        return {name: (target, name) for name in names}, True
    if len(names) > 1 or isinstance(target, (str, os.PathLike)):
        raise SeriesError(
            f"variables={names} were asked for, but {getattr(target, 'name', type(target).__name__)!r} is a "
            "single array. Name its features with features=[…], or pass a mapping of arrays."
        )
    return {names[0]: (target, None)}, True


def _is_mapping(target: Any) -> bool:
    """Whether a target is a mapping of targets; groups and datasets of libraries are stores instead."""
    return isinstance(target, Mapping) and type(target).__module__.partition(".")[0] not in STORES


def _check_keys(items: Sequence[Mapping[str, Any]]) -> None:
    """Check that a list of mappings has the same variables at every place."""
    for place, item in enumerate(items):
        if set(item) != set(items[0]):
            raise SeriesError(
                f"item {place} of the list has the variables {listed(item)}, the first has "
                f"{listed(items[0])}; what is joined along time holds the same variables throughout."
            )


def _check_known(asked: Sequence[str], found: Sequence[str], where: str) -> None:
    unknown = [name for name in asked if name not in found]
    if unknown or len(set(asked)) < len(asked) or not asked:
        what = "each may be named once" if asked else "there are none"
        what = f"unknown: {listed(unknown)}" if unknown else what
        raise SeriesError(f"variables={list(asked)}: {what}. {where} has {listed(found, 20)}.")


def _given_features(features: Any, sources: Mapping[str, Source]) -> dict[str, Sequence[str]]:
    """Names of features by variable: a flat sequence is dealt out in the order of the variables."""
    if features is None:
        return {}
    if isinstance(features, Mapping):
        return {name: [given] if isinstance(given, str) else list(given) for name, given in features.items()}
    flat = [features] if isinstance(features, str) else [str(feature) for feature in features]
    counts = {name: math.prod(sizes(source.axes, source.shape, "f")) for name, source in sources.items()}
    if len(flat) != sum(counts.values()):
        shapes = ", ".join(f"{name!r} has {source.axes} {source.shape}" for name, source in sources.items())
        raise SeriesError(
            f"features= has {len(flat)} names ({listed(flat)}) for {sum(counts.values())} features: "
            f"{shapes}. Is an axis of features taken for nodes? Say so with axes=, e.g. axes='tf'."
        )
    names = iter(flat)
    return {name: list(itertools.islice(names, count)) for name, count in counts.items()}


def align_variables(
    variables: Sequence[Variable], alignment: Alignment, nodes: np.ndarray | None, times: np.ndarray | None
) -> tuple[Variable, ...]:
    """Bring variables to one clock and one space, those of the first.

    Parameters
    ----------
    variables : sequence of Variable
        At least one, each with time.
    alignment : Alignment
        A new one; it learns the labels and times of the series.
    nodes, times : ndarray, optional
        Labels and timestamps that were given: they say what the first variable does not.

    Raises
    ------
    SeriesError
        Where one lacks a label or timestamp of the first, or differs in rows or space without any.
    """
    first, *others = variables
    alignment.size = first.num_rows, first.space_shape
    aligned: list[Variable] = []
    for variable in variables:
        timed = times is None or bool(others)
        source = alignment(variable.source, f"variable {variable.name!r}", timed=timed)
        aligned.append(replace(variable, source=source))
        if variable is first:
            alignment.settle(nodes, times, over=False)
    for other in aligned[1:]:
        if other.num_rows != first.num_rows:
            raise SeriesError(
                f"variable {other.name!r} has {other.num_rows} rows and {first.name!r} has {first.num_rows}; "
                "variables joined along features share one clock. Cut the longer one, e.g. x[:n]."
            )
        if other.space_shape != first.space_shape:
            raise SeriesError(
                f"variable {other.name!r} has space {other.space_shape} and {first.name!r} has {first.space_shape}; "
                "they are joined along features and share one space. What has no space axis is a covariate: "
                "covariates={…}."
            )
    return tuple(aligned)


def _called(target: Any) -> str:
    """Name something that was opened, in a message."""
    return repr(str(target)) if isinstance(target, (str, os.PathLike)) else f"this {type(target).__name__}"
