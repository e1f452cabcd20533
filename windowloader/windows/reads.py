"""What windows read, and rows of a variable read in order.

In: what a recipe was compiled to; a variable and ranges of rows. Out: `Reads`, from which ``rows/`` knows what must be
in memory; rows, one read ahead of their use, for scans and statistics.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.sources.mapping import unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from windowloader.series.variable import Variable
    from windowloader.sources import Pending

__all__ = ["READ_BYTES", "Reads", "row_ranges", "rows_in_order"]

READ_BYTES = 32 << 20  # size of one read; two are under way


@dataclass(frozen=True, slots=True, eq=False)
class Reads:
    """What each window reads.

    Parameters
    ----------
    variables : tuple of int
        Positions in ``series.variables``, in the order in which their rows are handed over.
    offsets : ndarray, shape (row,), int64
        Rows that any variable is read at, counted from the first of the window, rising.
    """

    variables: tuple[int, ...]
    offsets: NDArray[np.int64]


def row_ranges(variable: Variable, start: int, stop: int, read_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut rows ``[start, stop)`` into reads of about ``read_bytes`` that end where chunks end, if there are chunks."""
    step = max(1, read_bytes // max(1, variable.row_bytes))
    edges = variable.source.storage().edges if variable.view() is None else None
    while start < stop:
        end = min(start + step, stop)
        if edges is not None and end < stop:
            last, following = (edges.searchsorted(row, side="right") for row in (end, start))
            end = min(int(edges[max(last - 1, following)]), stop)  # a chunk larger than a read is read whole
        yield start, end
        start = end


def rows_in_order(
    variable: Variable, ranges: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield ``(start, stop, rows)`` for each range, while the next range is being read.

    Rows have shape (row, node or 1, feature) and are valid until the next are asked for: they are views where the
    variable is in memory or mapped.
    """
    view = variable.view()
    if view is not None:
        for start, stop in ranges:
            with unchanged(view):
                yield start, stop, view[start:stop]
        return
    reads: deque[tuple[int, int, np.ndarray, Pending]] = deque()
    try:
        for start, stop in ranges:
            out = np.empty((stop - start, variable.num_nodes, variable.num_features), variable.dtype)
            reads.append((start, stop, out, variable.submit(start, stop, out)))
            if len(reads) == 2:
                yield _finish(reads)
        while reads:
            yield _finish(reads)
    finally:  # storage may still be writing to these arrays
        for *_, pending in reads:
            with contextlib.suppress(Exception):
                pending.result()


def _finish(reads: deque[tuple[int, int, np.ndarray, Pending]]) -> tuple[int, int, np.ndarray]:
    start, stop, rows, pending = reads.popleft()
    pending.result()
    return start, stop, rows
