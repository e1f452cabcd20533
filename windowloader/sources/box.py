"""Boxes: parts of the axes after the first, which a source may be asked for beside a range of rows.

In: slices and positions. Out: `Box`, its shape, its chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Box", "box_shape", "chunk_edges", "given", "met", "within"]

Box: TypeAlias = "tuple[slice | NDArray[np.int64], ...]"
"""One for each axis after the first: a slice of step 1 with both ends, or increasing positions."""


def box_shape(box: Box) -> tuple[int, ...]:
    """Sizes of the axes within a box.

    Examples
    --------
    >>> box_shape((slice(2, 5), np.array([0, 7])))
    (3, 2)
    """
    return tuple(part.stop - part.start if isinstance(part, slice) else len(part) for part in box)


def given(box: Box | None) -> tuple[Box, ...]:
    """Arguments that pass a box to a source: none for whole axes, as sources need not accept a box."""
    return () if box is None else (box,)


def within(rows: NDArray[Any], box: Box) -> NDArray[Any]:
    """Part of rows within a box; a view where the box has slices only."""
    rows = rows[:, *(part if isinstance(part, slice) else slice(None) for part in box)]
    for axis, part in enumerate(box, 1):
        if not isinstance(part, slice):
            rows = rows.take(part, axis)
    return rows


def chunk_edges(num_rows: int, chunk: int) -> NDArray[np.int64]:
    """First row of each chunk, and the end.

    Examples
    --------
    >>> chunk_edges(10, 4)
    array([ 0,  4,  8, 10])
    """
    return np.append(np.arange(0, num_rows, max(chunk, 1), dtype=np.int64), np.int64(num_rows))


def met(part: slice | NDArray[np.int64], chunk: int) -> NDArray[np.int64]:
    """Numbers of the chunks along an axis that a part of a box touches."""
    if isinstance(part, slice):
        return np.arange(part.start // chunk, -(-part.stop // chunk))
    return np.unique(part // chunk)
