"""What a series is made of, put side by side: its own variables, and covariates on axes of their own.

In: a target as people have it, covariates, names. Out: `Variable`, aligned to one clock and one space. Never copies or
reads values, and never guesses where two readings are possible.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SeriesError, SourceFormatError, SourceNotFoundError
from windowloader.util.axes import sizes

from .alignment import Alignment, find, fits
from .clock import CLOCK_NAMES
from .labels import listed, tells
from .targets import UNNAMED, Opener, choose
from .variable import Variable, feature_names

if TYPE_CHECKING:
    from windowloader.sources import Source

__all__ = ["check_names", "infer_axes", "open_covariates", "open_sources", "own_variables"]


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
    chosen = choose(target, names, opener)
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
    sources: Mapping[str, Source], alignment: Alignment, *, features: Any, missing: Any
) -> tuple[Variable, ...]:
    """Bring sources to one clock and one space, those of the first, and name their features.

    Raises
    ------
    SeriesError
        Where one lacks a label or timestamp of the first, or differs in rows or space without any; and where names of
        features or marks of missing values do not fit.
    """
    advice = (
        "Variables share one clock and one space. Cut the longer one, e.g. x[:n]; what has no space axis is a "
        "covariate: covariates={…}."
    )
    given = _by_variable(features, sources)
    found = []
    for name, source in sources.items():
        names = given[name] if name in given else feature_names(name, source, named=name != UNNAMED)
        aligned = alignment(source, f"variable {name!r}", advice)
        found.append(Variable(name, aligned, tuple(map(str, names)), missing_of(missing, name, source)))
    return tuple(found)


def open_covariates(
    covariates: Mapping[str, Any], opener: Opener, alignment: Alignment, missing: Any
) -> tuple[Variable, ...]:
    """Open covariates, and bring them to the nodes and the clock of the series.

    Parameters
    ----------
    covariates : mapping of name to target or (target, axes)
        A target is an array, a source or a path.
    opener : Opener
        How to open.
    alignment : Alignment
        The size, nodes and clock of the series.
    missing : mapping of variable to float, optional
        A number alone is about the series' own variables.

    Raises
    ------
    SeriesError
        Where axes or sizes do not fit the series, or labels or timestamps of the series are missing.
    """
    if not isinstance(covariates, Mapping):
        raise SeriesError(
            f"covariates= is a {type(covariates).__name__}; a mapping of name to array is needed."
        )
    marks = missing if isinstance(missing, Mapping) else None
    found = []
    for name, given in covariates.items():
        advice = (
            "A covariate has t, n or both, of the series' sizes. If its columns are features, say so: "
            f"covariates={{{name!r}: (table, 'tf')}}."
        )
        opened = _open_covariate(name, given, opener, alignment)
        source = alignment(opened, f"covariate {name!r}", advice, covariate=True)
        features = feature_names(name, source, named=True)
        found.append(Variable(name, source, features, missing_of(marks, name, source)))
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
    """Names of features by variable: a flat sequence is dealt out in the order of the variables."""
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
    """Return what marks a missing value of one variable; None where nothing does, as NaN in integers."""
    mark = missing.get(name) if isinstance(missing, Mapping) else missing
    if mark is None:
        return None
    if isinstance(mark, str) and mark == "fill_value" and source.fill_value is not None:
        mark = source.fill_value
    if np.ndim(mark) != 0 or np.asarray(mark).dtype.kind not in "fiub":
        raise SeriesError(
            f"missing={mark!r} is no number for {name!r}. Give NaN, a sentinel such as 0.0, 'fill_value' where the "
            "array has one in its store, or a mapping by variable."
        )
    number, dtype = float(mark), source.dtype
    if dtype.kind not in "iub" or math.isnan(number):
        return None if dtype.kind in "iub" else number
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not (number.is_integer() and low <= number <= high):
        raise SeriesError(
            f"missing={number} never occurs in {name!r}, whose values are {dtype} ({low} … {high})."
        )
    return number


def _open_covariate(name: str, given: Any, opener: Opener, alignment: Alignment) -> Source:
    """Open one covariate with the axes it has, is said to have, or can only have."""
    axes: str | None
    match given:
        case tuple((target, str(axes))) if set(axes) <= {*"tnf"}:
            pass
        case _:
            target, axes = given, None
    if isinstance(target, (list, tuple)) and target and isinstance(target[0], (int, float)):
        target = np.asarray(target)
    size = alignment.num_steps, alignment.space_shape
    if isinstance(target, np.ndarray):
        return opener(target, axes=axes or infer_axes(name, target.shape, *size))
    if axes not in (None, "nf"):
        return _named(name, target, axes, opener)
    source: Source | None = None
    with suppress(SourceFormatError):  # a column of text may have the labels of the nodes
        source = _named(name, target, axes, opener)
    if source is None or source.timestamps() is None:
        source = _by_node(target, opener, alignment) or source or _named(name, target, axes, opener)
    if axes is not None or source.axes != "tnf"[: len(source.shape)]:  # dimension names were known
        return source
    shape, known = _known(source, alignment)
    letters = infer_axes(name, shape, *size, known)
    if letters == source.axes:
        return source
    stored = "".join(letter for _, letter in sorted(zip(source.order, letters, strict=True)))
    return _named(name, target, stored, opener)


def _named(name: str, target: Any, axes: str | None, opener: Opener) -> Source:
    """Open the array that has the covariate's name in a store of several, else the only one there is."""
    if opener.variables(target):
        with suppress(SourceFormatError, SourceNotFoundError):
            return opener(target, variable=name, axes=axes)
    return opener(target, axes=axes)


def _by_node(target: Any, opener: Opener, alignment: Alignment) -> Source | None:
    """Open a table without time, of which a column has the labels of nodes, by that column; None for other targets.

    A column that counts the steps of the series is no such column.
    """
    from windowloader.sources.table_files import as_table
    from windowloader.sources.tables import open_frame

    nodes = next((labels for labels in alignment.labels if tells(labels)), None)
    table = None if nodes is None else as_table(target, opener.storage_options)
    if nodes is None or table is None or not table.columns.is_unique:
        return None
    for column, values in table.items():
        kind = values.dtype.kind
        steps = len(table) == alignment.num_steps and kind in "iuf" and set(values.diff()[1:]) == {1}
        if kind in "iufOUT" and values.is_unique and not steps:
            missing = len(find(values, nodes)[1])
            if missing == 0 or (kind != "f" and 2 * missing < len(nodes)):  # a few missing ones are an error
                return open_frame(table.set_index(column), axes="nf")
    return None


def _known(source: Source, alignment: Alignment) -> tuple[tuple[int, ...], str]:
    """Shape once aligned, and the letters of axes that times or labels tell, ``?`` for the others."""
    letters, shape = ["?"] * len(source.shape), list(source.shape)
    timed = source.timestamps() is not None
    if timed:
        letters[0], shape[0] = "t", shape[0] if alignment.times is None else alignment.num_steps
    for axis in range(int(timed), len(shape)):
        have = source.labels(axis)
        for wanted in alignment.labels if have is not None else ():
            if tells(wanted) and len(find(have, wanted)[1]) < len(wanted):
                letters[axis], shape[axis] = "n", len(wanted)
    return tuple(shape), "".join(letters)


def infer_axes(
    name: str, shape: tuple[int, ...], num_steps: int, space_shape: tuple[int, ...], known: str = ""
) -> str:
    """Axes that a covariate of some shape can only have.

    An axis as long as the series is time, axes of the series' space are space, and one other axis is
    features. ``known`` has the letters that labels or times tell, and ``?`` for the others.

    Examples
    --------
    >>> infer_axes("weather", (2016, 3), 2016, (207,))
    'tf'
    >>> infer_axes("altitude", (207,), 2016, (207,))
    'n'
    """
    letters = [letter if letter != "?" else "tnf" for letter in known or "?" * len(shape)]
    every = itertools.product(*letters) if len(shape) <= len(space_shape) + 2 else ()
    fitting = sorted(axes for axes in map("".join, every) if fits(axes, shape, num_steps, space_shape))
    fewest = min((axes.count("f") for axes in fitting), default=0)
    best = [axes for axes in fitting if axes.count("f") == fewest <= 1]
    if len(best) == 1:
        return best[0]
    raise SeriesError(
        f"covariate {name!r} of shape {shape} {'could be ' + ' or '.join(best) if best else 'fits no reading'}: the "
        f"series has {num_steps} steps and space {space_shape}. Say which letter each axis is: "
        f"covariates={{{name!r}: (array, {(best or ['tf'])[0]!r})}}, of t (time), n (space), f (feature)."
    )
