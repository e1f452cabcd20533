"""What a recipe knows of each role of a batch: which columns come from where, and where they go.

In: what `recipe` resolved. Out: frozen values that the gather reads, and the arrays a batch of some size has.
Never touches rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from windowloader.util.axes import Layout

__all__ = ["ALIGNMENT", "Field", "Group", "Role", "RowColumn", "Static", "cast"]

ALIGNMENT = 64  # of each array in a buffer: a cache line, and the widest vector


@dataclass(frozen=True, slots=True)
class Field:
    """One array of a batch and where it lies in the batch's buffer.

    Parameters
    ----------
    name : str
        ``inputs``, ``targets``, ``future``, their ``…_mask``, ``shared_inputs`` or ``shared_future``.
    shape : tuple of int
        As delivered, space axes apart.
    flat_shape : tuple of int
        The same with all space axes as one.
    dtype : numpy.dtype
        bfloat16 is uint16, its bits.
    offset : int
        Bytes from the buffer's first, a multiple of 64.
    """

    name: str
    shape: tuple[int, ...]
    flat_shape: tuple[int, ...]
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
        Which of the `Rows` handed to the gather: a position in ``Recipe.variables``.
    features : ndarray, shape (column,), int64
        Of the variable.
    places : ndarray, shape (column,), int64
        Columns of the role.
    shift, factor : ndarray, shape (column, 1 | entity, 1 | node), float64
        ``(x - shift) * factor``, or ``/ factor`` where ``divide``; 0 and 1 where nothing scales.
    divide : ndarray, shape (column,), bool
    sentinel : ndarray, shape (1,)
        What stands for missing, in the variable's dtype; meaningless where ``can_miss`` is False.
    can_miss : bool
    fill : float or None
        What a missing cell holds.
    copies : bool
        The delivered bits are the source's.
    whole : bool
        The columns are the variable's features, all and in order, and the role's columns, all and in order.
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
    whole: bool

    def of_nodes(self, first: int, last: int) -> Group:
        """Return the statistics of nodes ``[first, last)``."""
        if self.shift.shape[2] == 1:
            return self
        return replace(self, shift=self.shift[..., first:last], factor=self.factor[..., first:last])


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

    def of_nodes(self, first: int, last: int) -> Static:
        """Return the values of nodes ``[first, last)``."""
        if self.values.shape[2] == 1:
            return self
        return Static(self.values[:, :, first:last], self.observed[:, :, first:last], self.places)


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
        Delivered once a row, at ``shared_places``.
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
        """Columns delivered once a row."""
        return len(self.shared_columns) + len(self.shared_statics)

    @property
    def by_entity(self) -> bool:
        """Whether a column is scaled by other numbers for each entity."""
        columns = self.row_columns + self.shared_columns
        return any(group.shift.shape[1] > 1 for group in self.groups) or any(
            column.shift is not None and len(column.shift) > 1 for column in columns
        )

    @property
    def clocks(self) -> tuple[str, ...]:
        """Names of the clocks."""
        return tuple(column.clock for column in self.row_columns + self.shared_columns if column.clock)

    def arrays(
        self, batch: int, dtype: np.dtype
    ) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...], np.dtype]]:
        """Name, shape, flat shape and dtype of each array that this role has in a batch."""
        steps = len(self.offsets)
        if self.num_features:
            shape = self.layout.shape(batch=batch, steps=steps, space=self.space, features=self.num_features)
            flat = self.layout.flat(
                batch=batch, steps=steps, nodes=self.num_nodes, features=self.num_features
            )
            yield self.name, shape, flat, dtype
            if self.has_mask:
                yield self.mask_name, shape, flat, np.dtype(np.bool_)
        if self.num_shared:
            shared = (batch, steps, self.num_shared)
            yield self.shared_name, shared, shared, dtype

    @property
    def mask_name(self) -> str:
        """``input_mask``, ``target_mask`` or ``future_mask``."""
        return {"inputs": "input_mask", "targets": "target_mask", "future": "future_mask"}[self.name]

    @property
    def shared_name(self) -> str:
        """``shared_inputs`` or ``shared_future``."""
        return f"shared_{self.name}"

    def of_nodes(self, first: int, last: int) -> Role:
        """Return what is written for nodes ``[first, last)``; what is delivered once for all goes with node 0."""
        return replace(
            self,
            num_nodes=last - first,
            groups=tuple(group.of_nodes(first, last) for group in self.groups),
            statics=tuple(static.of_nodes(first, last) for static in self.statics),
            shared_columns=() if first else self.shared_columns,
            shared_statics=() if first else self.shared_statics,
        )

    def steps_between(self, batch: int) -> tuple[int, int, int, int]:
        """Elements between neighbours along batch, step, node and feature in the flat array."""
        size = {"b": batch, "t": len(self.offsets), "n": self.num_nodes, "f": self.num_features}
        between, step = {}, 1
        for letter in reversed(self.layout.letters):
            between[letter] = step
            step *= size[letter]
        return between["b"], between.get("t", 0), between.get("n", 0), between.get("f", 0)


def cast(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float64 values as delivered: rounded once, to nearest even; bfloat16, by way of float32, as bits.

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
