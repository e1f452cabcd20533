"""One source seen as rows of ``[node, feature]``, whatever the order and number of its axes.

In: a `Source` and names. Out: `Variable`. Never copies what can be viewed, and never reads when built.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from windowloader.errors import SeriesError
from windowloader.sources.base import TIERS
from windowloader.sources.reads import begun, taken
from windowloader.util.axes import canonical, sizes

from .labels import texts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from windowloader.sources import Pending, Source

__all__ = ["Variable", "common_tier", "feature_names"]


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
        return taken(self.source.read(start, stop, self._as_stored(out)), self.source.name)

    def submit(self, start: int, stop: int, out: np.ndarray) -> Pending:
        """Begin `read` and return at once; ``out`` must stay alive until the result."""
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
        Whether the name was chosen by somebody; if not, features that are labelled with words go by those
        alone.

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
