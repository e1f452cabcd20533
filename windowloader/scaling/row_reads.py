"""The rows a window set holds, read once, in order, with how often each counts.

In: a window set, a variable. Out: portions of rows with weights, as storage likes best to give them. Never keeps
more than two reads, and reads no portion that no window holds.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Literal

import numpy as np

from windowloader.sources.mapping import unchanged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from windowloader.series.variable import Variable
    from windowloader.sources import Pending
    from windowloader.windows.window_set import WindowSet

__all__ = ["READ_BYTES", "Weighting", "row_reads", "row_weights"]

Weighting = Literal["rows", "windows"]

READ_BYTES = 32 << 20  # rows asked of storage at once; two such reads are under way


def row_weights(window_set: WindowSet, start: int, stop: int, weighting: Weighting) -> np.ndarray:
    """How often each row in [start, stop) counts, float64."""
    if weighting == "windows":
        return np.asarray(window_set.row_counts(start, stop, role="inputs")).astype(np.float64)
    return (np.asarray(window_set.row_counts(start, stop, role="all")) > 0).astype(np.float64)


def row_reads(
    window_set: WindowSet, variable: Variable, weighting: Weighting, read_bytes: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Rows of a variable with their weights, in order, in whatever portions storage likes best."""
    view = variable.view()
    held = _held(window_set, variable, weighting, read_bytes, mapped=view is not None)
    if view is not None:
        for start, stop, weights in held:
            with unchanged(view):
                yield start, view[start:stop], weights
        return
    under_way: deque[tuple[int, np.ndarray, np.ndarray, Pending]] = deque()
    try:
        for start, stop, weights in held:
            out = np.empty((stop - start, variable.num_nodes, variable.num_features), dtype=variable.dtype)
            under_way.append((start, out, weights, variable.submit(start, stop, out)))
            if len(under_way) == 2:
                yield _arrived(under_way)
        while under_way:
            yield _arrived(under_way)
    finally:
        for *_, pending in under_way:  # storage may still be writing into these buffers
            with contextlib.suppress(Exception):
                pending.result()


def _arrived(
    under_way: deque[tuple[int, np.ndarray, np.ndarray, Pending]],
) -> tuple[int, np.ndarray, np.ndarray]:
    start, out, weights, pending = under_way[0]
    pending.result()
    under_way.popleft()
    return start, out, weights


def _held(
    window_set: WindowSet, variable: Variable, weighting: Weighting, read_bytes: int, *, mapped: bool
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Ranges to read, cut where storage is cut, without the rows at their ends that nobody holds."""
    first, last = window_set.row_range
    step = max(1, read_bytes // max(1, variable.row_bytes))
    for start, stop in _ranges(first, last, step, None if mapped else variable.source.storage().edges):
        weights = row_weights(window_set, start, stop, weighting)
        counted = np.flatnonzero(weights)
        if len(counted):
            low, high = int(counted[0]), int(counted[-1]) + 1
            yield start + low, start + high, weights[low:high]


def _ranges(first: int, last: int, step: int, edges: np.ndarray | None) -> Iterator[tuple[int, int]]:
    """Cut [first, last) into ranges of about ``step`` rows that end at edges where there are any."""
    start = first
    while start < last:
        stop = min(start + step, last)
        if edges is not None and stop < last:
            before = int(edges[np.searchsorted(edges, stop, side="right") - 1])
            if before > start:  # otherwise one storage cell is more than a read: it is cut
                stop = before
        yield start, stop
        start = stop
