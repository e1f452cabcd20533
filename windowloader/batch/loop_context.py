"""What loops are chosen by: how the rows of a source lie, and how the words of an output do.

In: a role, strides, statistics. Out: values that ``loops`` and ``node_words`` bind into loops. Never touches a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.rows.strided import BufferLayout

    from .roles import Group, Role

__all__ = ["BatchPart", "Loop", "LoopContext", "rows_ahead", "sentinel_of", "statistics"]

FETCH = 8192  # bytes that are asked for before their turn
SHORT = 3072  # bytes of a row up to which they are: along longer ones the processor does it by itself


@dataclass(frozen=True, slots=True, eq=False)
class BatchPart:
    """What all loops of one batch share.

    Parameters
    ----------
    values, first : sequence of ndarray
        Flat rows of each variable, and in which row each window begins.
    entity : ndarray, shape (batch,), int64
    """

    values: Sequence[np.ndarray]
    first: Sequence[np.ndarray]
    entity: np.ndarray


Loop = Callable[[BatchPart, int, int, Any, Any], None]
"""``loop(part, begin, end, out, lines)``: ``lines`` has what is the same for all nodes."""


@dataclass(frozen=True, slots=True, eq=False)
class LoopContext:
    """A role's output, and what it is written from.

    Parameters
    ----------
    role : Role
    kinds : sequence of BufferLayout
        Of all variables.
    steps : tuple of int
        Elements between neighbours along batch, step, node and feature.
    words : tuple of (bool or None)
        Whether the output's words are float16, bfloat16.
    itemsize : int
    batch : int
    """

    role: Role
    kinds: Sequence[BufferLayout]
    steps: tuple[int, int, int, int]
    words: tuple[bool | None, bool | None]
    itemsize: int
    batch: int


def statistics(
    group: Group, nodes: int, *, repeats: int = 1, dense: bool = True
) -> tuple[np.ndarray, np.ndarray, int]:
    """Shifts and factors of nodes as flat arrays, node by node or column by column, and how many an entity."""
    flat = []
    for values in (group.shift, group.factor):
        wide = np.broadcast_to(values, (*values.shape[:2], nodes)).transpose(
            1, *((2, 0) if dense else (0, 2))
        )
        flat.append(np.tile(wide.reshape(values.shape[1], -1), (1, repeats)).reshape(-1))
    return flat[0], flat[1], nodes * len(group.places) * repeats


def rows_ahead(kind: BufferLayout, elements: int) -> int:
    """How many rows before its turn a row is asked for: `FETCH` bytes."""
    row = elements * kind.dtype.itemsize
    return min(-(-FETCH // row), 64) if row <= SHORT else 0


def sentinel_of(kind: BufferLayout, group: Group) -> np.ndarray:
    """Return the sentinel as the loops compare it: in the words of the source, but float16 by value."""
    if kind.half is not None:
        return group.sentinel.astype(np.float64)
    return group.sentinel.view(kind.dtype)
