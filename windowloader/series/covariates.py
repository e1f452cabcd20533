"""Covariates: arrays on axes of their own, beside the series' variables.

In: arrays, paths, frames. Out: `Variable`, aligned to the nodes and the clock of the series. Never guesses where an
array can be read in two ways.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SeriesError, SourceFormatError, SourceNotFoundError
from windowloader.util.labels import find, tells

from .alignment import fits
from .joining import missing_of, variables_of
from .variable import Variable, feature_names

if TYPE_CHECKING:
    from windowloader.sources import Source

    from .alignment import Alignment
    from .joining import Opener

__all__ = ["infer_axes", "open_covariates"]


def open_covariates(
    covariates: Mapping[str, Any], opener: Opener, alignment: Alignment, missing: Any
) -> tuple[Variable, ...]:
    """Open covariates and align them to the nodes and the clock of the series.

    Parameters
    ----------
    covariates : mapping of name to target or (target, axes)
    opener : Opener
        How to open.
    alignment : Alignment
        The size, nodes and clock of the series.
    missing : mapping of variable to float, optional
        A number alone applies to the series' own variables only.

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
        opened = _open(name, given, opener, alignment)
        source = alignment.align(opened, f"covariate {name!r}", advice, partial=True)
        features = feature_names(name, source, named=True)
        found.append(Variable(name, source, features, missing_of(marks, name, source)))
    return tuple(found)


def _open(name: str, given: Any, opener: Opener, alignment: Alignment) -> Source:
    """Open one covariate with the axes that it has or is given, or the only ones it can have."""
    target, axes = given, None
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str) and {*given[1]} <= {*"tnf"}:
        target, axes = given
    if isinstance(target, (list, tuple)) and target and isinstance(target[0], (int, float)):
        target = np.asarray(target)
    size = alignment.num_steps, alignment.space_shape
    if isinstance(target, np.ndarray):
        return opener(target, axes=axes or infer_axes(name, target.shape, *size))
    source: Source | None = None
    with suppress(SourceFormatError):  # a column of text may have the labels of the nodes
        source = _named(name, target, axes, opener)
    if axes in (None, "nf") and (source is None or source.timestamps() is None):
        source = _by_node(target, opener, alignment) or source
    source = source or _named(name, target, axes, opener)
    if axes is not None or source.axes != "tnf"[: len(source.shape)]:  # dimension names were known
        return source
    letters, shape = ["?"] * len(source.shape), list(source.shape)  # of each axis, once aligned
    if source.timestamps() is not None:
        letters[0], shape[0] = "t", shape[0] if alignment.times is None else alignment.num_steps
    for axis, wanted in itertools.product(range(letters.count("t"), len(shape)), alignment.labels):
        have = source.labels(axis) if tells(wanted) else None
        if wanted is not None and have is not None and len(find(have, wanted)[1]) < len(wanted):
            letters[axis], shape[axis] = "n", len(wanted)
    axes = infer_axes(name, tuple(shape), *size, "".join(letters))
    if axes == source.axes:
        return source
    stored = "".join(letter for _, letter in sorted(zip(source.order, axes, strict=True)))
    return _named(name, target, stored, opener)


def _named(name: str, target: Any, axes: str | None, opener: Opener) -> Source:
    """Open the array that has the covariate's name in a store of several, else the only one there is."""
    if variables_of(target, None, opener):
        with suppress(SourceFormatError, SourceNotFoundError):
            return opener(target, variable=name, axes=axes)
    return opener(target, axes=axes)


def _by_node(target: Any, opener: Opener, alignment: Alignment) -> Source | None:
    """Open a table without time by the column that has the labels of nodes; None for other targets."""
    from windowloader.sources.table_files import as_table
    from windowloader.sources.tables import open_frame

    nodes = next((labels for labels in alignment.labels if tells(labels)), None)
    table = None if nodes is None else as_table(target, opener.storage_options)
    if nodes is None or table is None or not table.columns.is_unique:
        return None
    for column, values in table.items():
        kind = values.dtype.kind
        counts = len(table) == alignment.num_steps and kind in "iuf" and set(values.diff()[1:]) == {1}
        if kind in "iufOUT" and values.is_unique and not counts:  # of the steps
            missing = len(find(values, nodes)[1])
            if missing == 0 or (kind != "f" and 2 * missing < len(nodes)):  # a few missing ones are an error
                return open_frame(table.set_index(column), axes="nf")
    return None


def infer_axes(
    name: str, shape: tuple[int, ...], num_steps: int, space_shape: tuple[int, ...], known: str = ""
) -> str:
    """Return the only axes that a covariate of some shape can have.

    An axis as long as the series is time, axes of the series' space are space, and at most one other axis is features.
    ``known`` has the letters that labels or times determine, and ``?`` for the others.

    Examples
    --------
    >>> infer_axes("weather", (2016, 3), 2016, (207,))
    'tf'
    >>> infer_axes("altitude", (207,), 2016, (207,))
    'n'
    """
    choices = [letter if letter != "?" else "tnf" for letter in known or "?" * len(shape)]
    every = itertools.product(*choices) if len(shape) <= len(space_shape) + 2 else ()
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
