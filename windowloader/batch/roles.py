"""What a recipe knows of each role of a batch: how it is delivered, which columns come from where, where they go.

In: what `compiling` resolved. Out: frozen values that the gather reads, and the arrays of a batch of some size. Never
touches rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

import numpy as np

from windowloader.errors import AxesError, LoaderError, ScalerError
from windowloader.util.axes import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from windowloader.scaling.affine import Affine

__all__ = [
    "ALIGNMENT", "FLOATS", "WORDS", "Delivery", "Field", "Group", "HasAffine", "Role", "RowColumn", "Static",
    "WindowReadOptions", "as_words", "cast", "delivered_dtype",
]  # fmt: skip

ALIGNMENT = 64  # of each array in a buffer: a cache line, and the widest vector
FLOATS = ("float32", "float64", "float16", "bfloat16")
WORDS: dict[np.dtype, np.dtype] = {
    np.dtype(np.float16): np.dtype(np.uint16),
    np.dtype(np.bool_): np.dtype(np.uint8),
}
"""Types that numba has no arithmetic for, and what they are viewed as."""


@runtime_checkable
class HasAffine(Protocol):
    """A fitted scaler."""

    def affine(self, name: str) -> Affine | None:
        """Return shift and factor of a column; None where it is not scaled."""


class WindowReadOptions(TypedDict, total=False):
    """How batches look: the arguments that `WindowSet.read` shares with `WindowLoader`."""

    scaler: HasAffine | None
    scale_targets: bool
    fill: float | None
    dtype: Any  # a name; adapters also take their framework's dtypes
    layout: str | tuple[str, str]
    broadcast: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delivery:
    """`WindowReadOptions`, checked.

    Parameters
    ----------
    scaler : HasAffine, optional
        Clocks and covariates without time are never scaled.
    scale_targets : bool
        False: targets keep the units of the data.
    fill : float, optional
        What a missing cell holds after scaling. None: the raw value, scaled like any other.
    dtype : str
        Of `FLOATS`, or an integer or bool dtype's name for values that are only copied.
    layout : str or pair of str
        Axes of inputs and future, and of targets.
    broadcast : bool
        False: columns that do not depend on the node are delivered once per row, in ``shared_inputs`` and
        ``shared_future``.

    Raises
    ------
    ScalerError, LoaderError, AxesError
    """

    scaler: HasAffine | None = None
    scale_targets: bool = True
    fill: float | None = None
    dtype: Any = "float32"
    layout: str | tuple[str, str] = "btnf"
    broadcast: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.scaler, type) or not (self.scaler is None or isinstance(self.scaler, HasAffine)):
            raise ScalerError(
                f"scaler={self.scaler!r} is not a fitted scaler. Pass what StandardScaler.fit(train) returns, or "
                "StandardScaler(mean, std) for known numbers."
            )
        name = str(self.dtype).removeprefix("torch.")
        if name != "bfloat16":
            try:
                found = np.dtype(self.dtype if isinstance(self.dtype, (type, np.dtype)) else name)
            except TypeError:
                found = np.dtype(np.void)
            name = found.name
            if name not in FLOATS and found.kind not in "iub":
                raise LoaderError(
                    f"dtype={self.dtype!r} is not supported. Pass {', '.join(FLOATS)}, or an integer dtype."
                )
        object.__setattr__(self, "dtype", name)
        if self.fill is not None:
            try:
                object.__setattr__(self, "fill", float(self.fill))
            except (TypeError, ValueError):
                raise LoaderError(
                    f"fill={self.fill!r} must be a number: what a missing cell holds after scaling (0.0 is the mean "
                    "of a StandardScaler)."
                ) from None
            if name not in FLOATS:
                raise LoaderError(
                    f"fill={self.fill} needs a floating dtype, and dtype={name!r} only copies values."
                )
        if not isinstance(self.layout, str) and len(self.layout) != 2:
            raise AxesError(
                f"layout={self.layout!r} must be a string or a pair of strings (inputs, targets)."
            )

    @property
    def layouts(self) -> tuple[Layout, Layout]:
        """Of inputs and future, and of targets."""
        pair = (self.layout, self.layout) if isinstance(self.layout, str) else self.layout
        return Layout(pair[0]), Layout(pair[1])


@dataclass(frozen=True, slots=True)
class Field:
    """One array of a batch and where it lies in the batch's buffer.

    Parameters
    ----------
    name : str
        ``inputs``, ``targets``, ``future``, their ``…_mask``, ``shared_inputs`` or ``shared_future``.
    shape : tuple of int
        As delivered, space axes apart.
    dtype : numpy.dtype
        bfloat16 is uint16, its bits.
    offset : int
        Bytes from the buffer's first, a multiple of 64.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The columns of a role that come from one variable, by node.

    Parameters
    ----------
    rows : int
        Which of the `Rows` passed to the gather: a position in ``Recipe.variables``.
    features : ndarray, shape (column,), int64
        Of the variable.
    places : ndarray, shape (column,), int64
        Columns of the role.
    shift, factor : ndarray, shape (column, 1 | entity, 1 | node), float64
        ``(x - shift) * factor``, or ``/ factor`` where ``divide``; 0 and 1 where nothing scales.
    divide : ndarray, shape (column,), bool
        The same for all columns.
    sentinel : ndarray, shape (1,)
        Marks missing cells, in the variable's dtype; meaningless where ``can_miss`` is False.
    can_miss : bool
    fill : float or None
        What a missing cell holds.
    copies : bool
        The delivered bits are the source's.
    """

    rows: int
    features: np.ndarray
    places: np.ndarray
    shift: np.ndarray
    factor: np.ndarray
    divide: np.ndarray
    sentinel: np.ndarray
    can_miss: bool
    fill: float | None
    copies: bool


@dataclass(frozen=True, slots=True, eq=False)
class RowColumn:
    """A column that is the same for all nodes of a row: a clock, or one feature of a variable without nodes.

    Parameters
    ----------
    clock : str
        Name of the clock; empty for a variable's feature.
    rows, feature : int
        Which of the `Rows`, and which feature of it.
    shift, factor : ndarray, shape (1 | entity,), float64
    divide : bool
    sentinel : ndarray, shape (1,), or None
        None where nothing can be missing.
    fill : float or None
    """

    clock: str = ""
    rows: int = -1
    feature: int = -1
    shift: np.ndarray | None = None
    factor: np.ndarray | None = None
    divide: bool = False
    sentinel: np.ndarray | None = None
    fill: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Static:
    """Columns without time, as delivered: ``values`` and ``observed``, shape (1, 1, 1 | node, column)."""

    values: np.ndarray
    observed: np.ndarray
    places: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Role:
    """One role of a batch: ``inputs``, ``targets`` or ``future``.

    Parameters
    ----------
    name : str
    offsets : ndarray, shape (step,), int64
        Rows from a window's start.
    layout : Layout
    space : tuple of int
        Sizes of the space axes.
    num_nodes, num_features : int
        Of the array; ``num_features`` counts what is delivered by node.
    groups : tuple of Group
    statics : tuple of Static
    row_columns : tuple of RowColumn
        Written for every node, at ``row_places``.
    shared_columns : tuple of RowColumn
        Delivered once per row, at ``shared_places``.
    shared_statics : tuple of (int, ndarray)
        Place and delivered value of columns with neither time nor node.
    has_mask : bool
    """

    name: str
    offsets: np.ndarray
    layout: Layout
    space: tuple[int, ...]
    num_nodes: int
    num_features: int
    groups: tuple[Group, ...]
    statics: tuple[Static, ...]
    row_columns: tuple[RowColumn, ...]
    row_places: np.ndarray
    shared_columns: tuple[RowColumn, ...]
    shared_places: np.ndarray
    shared_statics: tuple[tuple[int, np.ndarray], ...]
    has_mask: bool

    @property
    def num_shared(self) -> int:
        """Columns delivered once per row."""
        return len(self.shared_columns) + len(self.shared_statics)

    @property
    def clocks(self) -> tuple[str, ...]:
        """Names of the clocks."""
        return tuple(column.clock for column in self.row_columns + self.shared_columns if column.clock)

    def arrays(self, batch: int, dtype: np.dtype) -> Iterator[tuple[str, tuple[int, ...], np.dtype]]:
        """Name, shape and dtype of each array that this role has in a batch."""
        steps = len(self.offsets)
        if self.num_features:
            shape = self.layout.shape(batch=batch, steps=steps, space=self.space, features=self.num_features)
            yield self.name, shape, dtype
            if self.has_mask:
                yield self.mask_name, shape, np.dtype(np.bool_)
        if self.num_shared:
            yield self.shared_name, (batch, steps, self.num_shared), dtype

    @property
    def mask_name(self) -> str:
        """``input_mask``, ``target_mask`` or ``future_mask``."""
        return f"{self.name.removesuffix('s')}_mask"

    @property
    def shared_name(self) -> str:
        """``shared_inputs`` or ``shared_future``."""
        return f"shared_{self.name}"

    def strides(self, batch: int) -> tuple[int, int, int, int]:
        """Elements between neighbours along batch, step, node and feature in the flat array."""
        size = {"b": batch, "t": len(self.offsets), "n": self.num_nodes, "f": self.num_features}
        between, step = {}, 1
        for letter in reversed(self.layout.letters):
            between[letter] = step
            step *= size[letter]
        return between["b"], between.get("t", 0), between.get("n", 0), between.get("f", 0)


def delivered_dtype(dtype: str) -> np.dtype:
    """NumPy's dtype of a gathered array; bfloat16 is gathered as its bits."""
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def as_words(values: np.ndarray) -> np.ndarray:
    """View values as numba can read and write them: float16 as its bits, bool as bytes."""
    return np.asarray(values.view(WORDS.get(values.dtype, values.dtype)))


def cast(values: np.ndarray, dtype: str) -> np.ndarray:
    """Cast float64 values as delivered: rounded once, to nearest even; bfloat16, by way of float32, as bits.

    Examples
    --------
    >>> [hex(bits) for bits in cast(np.array([1.0, 3.14159]), "bfloat16")]
    ['0x3f80', '0x4049']
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "bfloat16":
            return values.astype(dtype)
        single = values.astype(np.float32)
    bits = single.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(single), np.uint64(0x7FC0), rounded).astype(np.uint16)
