"""Covariates: what goes along with a series on axes of its own.

In: arrays or files over time, nodes or both, with axes given or told by their labels, times and shape. Out:
`Variable`, aligned to the series. Never guesses where two readings are possible.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.axes import check_axes, sizes
from windowloader.errors import SeriesError, SourceFormatError, SourceNotFoundError
from windowloader.sources.base import SourceOver

from .alignment import find
from .joining import Opener, missing_of
from .labels import tells
from .variable import Variable, feature_names

if TYPE_CHECKING:
    from windowloader.source import Source
    from windowloader.sources.box import Box

    from .alignment import Alignment

__all__ = ["StaticSource", "infer_axes", "open_covariates"]


def open_covariates(
    covariates: Mapping[str, Any],
    *,
    missing: float | str | Mapping[str, float | str] | None,
    opener: Opener,
    alignment: Alignment,
) -> tuple[Variable, ...]:
    """Open covariates, and bring them to the nodes and the clock of the series.

    Parameters
    ----------
    covariates : mapping of name to target or (target, axes)
        A target is an array, a source or a path.
    missing : mapping of variable to float, optional
        A number alone is about the series' own variables.
    opener : Opener
        How to open.
    alignment : Alignment
        The size, nodes and clock of the series.

    Returns
    -------
    tuple of Variable

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
    opened = []
    for name, given in covariates.items():
        target, axes = given if _with_axes(given) else (given, None)
        source = _open(name, target, axes, opener, alignment)
        advice = f"If its columns are features, say so: covariates={{{name!r}: (table, 'tf')}}."
        source = alignment(source, f"covariate {name!r}", advice=advice)
        _check_sizes(name, source, *alignment.size)
        features = feature_names(name, source, named=True)
        variable = Variable(name, source, features, missing_of(marks, name, source))
        if not variable.has_time and variable.view() is None:
            variable = replace(variable, source=StaticSource(source))
        opened.append(variable)
    return tuple(opened)


def _with_axes(given: Any) -> bool:
    """Whether a covariate came as (target, axes), rather than as a list along time."""
    return (
        isinstance(given, tuple)
        and len(given) == 2
        and isinstance(given[1], str)
        and len(given[1]) > 0
        and set(given[1]) <= set("tnf")
    )


def _open(name: str, target: Any, axes: str | None, opener: Opener, alignment: Alignment) -> Source:
    """Open one covariate with the axes it has, is said to have, or can only have."""
    if axes not in (None, "nf"):
        return _named(name, target, axes, opener)
    if isinstance(target, (list, tuple)) and target and isinstance(target[0], (int, float)):
        target = np.asarray(target)
    if isinstance(target, np.ndarray):
        return opener(target, axes=axes or infer_axes(name, target.shape, *alignment.size))
    nodes = next((labels for labels in alignment.labels or () if tells(labels)), None)
    source: Source | None = None
    with suppress(SourceFormatError):  # a column of text may have the labels of the nodes
        source = _named(name, target, axes, opener)
    if source is None or source.timestamps() is None:
        table = None if nodes is None else _by_node(target, nodes, alignment.size[0], opener)
        source = table or source or _named(name, target, axes, opener)
    if axes is not None or source.axes != "tnf"[: len(source.shape)]:  # dimension names were known
        return source
    known, shape = alignment.known(source)
    letters = infer_axes(name, shape, *alignment.size, known)
    if letters == source.axes:
        return source
    return _named(
        name, target, "".join(letter for _, letter in sorted(zip(source.order, letters, strict=True))), opener
    )


def _by_node(target: Any, nodes: np.ndarray, steps: int, opener: Opener) -> Source | None:
    """Open a table without time, of which a column has the labels of nodes, by that column; None for other targets.

    A column that counts the ``steps`` of the series is no such column.
    """
    from windowloader.sources.table_files import as_table
    from windowloader.sources.tables import find_time, open_frame

    table = as_table(target, opener.storage_options)
    if table is None or table.index.dtype.kind == "M" or not table.columns.is_unique:
        return None
    if find_time(table) is not None:
        return None
    for column, values in table.items():
        kind = values.dtype.kind
        counts = len(table) == steps and kind in "iuf" and set(values.diff()[1:]) == {1}
        if kind not in "iufOUT" or counts or not values.is_unique:
            continue
        missing = len(find(values, nodes)[1])
        if missing == 0 or (kind != "f" and 2 * missing < len(nodes)):  # a few missing ones are an error
            return open_frame(table.set_index(column), axes="nf")
    return None


def _named(name: str, target: Any, axes: str | None, opener: Opener) -> Source:
    """Open the array that has the covariate's name in a store of several, else the only one there is."""
    if opener.variables(target):
        with suppress(SourceFormatError, SourceNotFoundError):
            return opener(target, variable=name, axes=axes)
    return opener(target, axes=axes)


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
    space = "n" * len(space_shape)
    orders = {
        "".join(order)
        for letters in ("t", "t" + space, space, "tf", "t" + space + "f", space + "f")
        for order in itertools.permutations(letters)
    }
    orders = {axes for axes in orders if all(a in ("?", b) for a, b in zip(known, axes, strict=False))}
    fitting = sorted(axes for axes in orders if _fits(axes, shape, num_steps, space_shape))
    fullest = max((axes.count("n") + axes.count("t") for axes in fitting), default=0)
    fitting = [axes for axes in fitting if axes.count("n") + axes.count("t") == fullest]
    if len(fitting) == 1:
        return fitting[0]
    many = f"could be {' or '.join(fitting)}" if fitting else "fits no reading"
    raise SeriesError(
        f"covariate {name!r} of shape {shape} {many}: the series has {num_steps} steps and space "
        f"{space_shape}. Say which letter each axis is: "
        f"covariates={{{name!r}: (array, {(fitting or ['tf'])[0]!r})}}, of t (time), n (space), f (feature)."
    )


def _fits(axes: str, shape: tuple[int, ...], num_steps: int, space_shape: tuple[int, ...]) -> bool:
    return (
        len(axes) == len(shape)
        and sizes(axes, shape, "t") in ((), (num_steps,))
        and sizes(axes, shape, "n") in ((), space_shape)
        and ("t" in axes or "n" in axes)
    )


def _check_sizes(name: str, source: Source, num_steps: int, space_shape: tuple[int, ...]) -> None:
    check_axes(source.axes, len(source.shape), name=name, need_time=False)
    if _fits(source.axes, source.shape, num_steps, space_shape):
        return
    raise SeriesError(
        f"covariate {name!r} has axes {source.axes!r} and shape {source.shape}, but the series has "
        f"{num_steps} steps and space {space_shape}. A covariate has t, n or both, of these sizes; other "
        "axes are f."
    )


class StaticSource(SourceOver):
    """A source without time, read whole when first needed: attributes of nodes are small.

    Parameters
    ----------
    source : Source
        Without ``t``; its first axis, whatever it is, is read as rows.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, shape=source.shape, dtype=source.dtype, axes=source.axes)
        self.source = source
        self._values: np.ndarray | None = None

    def array(self) -> np.ndarray | None:
        """Return the values, read once a process."""
        if self._values is None:
            values = np.empty(self.shape, self.dtype)
            self.source.read(0, self.shape[0], values)
            self._values = values
        return self._values

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        """Copy a part of the values."""
        return self.source.read(start, stop, out)

    def close(self) -> None:
        """Let go of the values and the file."""
        self._values = None
        self.source.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_values": None}  # pickles small; read again where it arrives
