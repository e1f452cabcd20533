"""Values of a variable, as a sample shows them: missing, zero, smallest, largest, mean.

In: a variable, and whether to look at all of it. Out: `ValueReport` a feature. Never holds more than a piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.sources.mapping import unchanged
from windowloader.windows.missing import sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from windowloader.series.variable import Variable

__all__ = ["ValueReport", "look", "places"]

SAMPLES = 16  # places of a series that are looked at
SAMPLE_BYTES = 64 << 20  # of one variable
PIECE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueReport:
    """Values of one feature, as far as they were looked at.

    Attributes
    ----------
    feature : str
    rows : int
        Looked at.
    missing : float
        Share of values that are NaN or the declared mark.
    zeros : float
        Share of values that are 0 and not missing.
    low, high, mean : float
        Of values that are not missing; NaN without any.
    """

    feature: str
    rows: int
    missing: float
    zeros: float
    low: float
    high: float
    mean: float


def places(variable: Variable, full: bool) -> list[tuple[int, int]]:
    """Rows to look at: all, or runs at even distances."""
    rows, size = variable.num_rows, max(variable.row_bytes, 1)
    piece = max(1, PIECE_BYTES // size)
    if full or rows * size <= SAMPLE_BYTES:
        return [(start, min(start + piece, rows)) for start in range(0, rows, piece)]
    count = max(1, min(SAMPLES, SAMPLE_BYTES // size))
    length = max(1, SAMPLE_BYTES // size // count)
    starts = np.unique(np.linspace(0, rows - length, count).astype(np.int64))
    return [(int(start), int(start) + length) for start in starts]


def _pieces(variable: Variable, full: bool) -> Iterator[np.ndarray]:
    view = variable.view()
    for start, stop in places(variable, full):
        if view is not None:
            with unchanged(view):
                yield view[start:stop]
        else:
            out = np.empty((stop - start, variable.num_nodes, variable.num_features), variable.dtype)
            variable.read(start, stop, out)
            yield out


def look(variable: Variable, full: bool, advance: Callable[[int], object]) -> Iterator[ValueReport]:
    """Look at the values of a variable's features; ``advance`` is called with the bytes of each piece."""
    mark = sentinel(variable.missing, variable.dtype)
    count = variable.num_features
    missing, zeros, total = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    rows = 0
    for piece in _pieces(variable, full):
        rows += len(piece)
        absent = piece != piece  # NaN
        if mark is not None:
            absent = absent | (piece == mark[0])
        missing += absent.sum((0, 1))
        zeros += ((piece == 0) & ~absent).sum((0, 1))
        total += np.where(absent, 0.0, piece.astype(np.float64)).sum((0, 1))
        low = np.minimum(low, np.where(absent, np.inf, piece).min((0, 1), initial=np.inf))
        high = np.maximum(high, np.where(absent, -np.inf, piece).max((0, 1), initial=-np.inf))
        advance(len(piece) * variable.row_bytes)
    cells = rows * variable.num_nodes
    for place, feature in enumerate(variable.features):
        kept = cells - int(missing[place])
        yield ValueReport(
            feature=feature,
            rows=rows,
            missing=int(missing[place]) / max(cells, 1),
            zeros=int(zeros[place]) / max(cells, 1),
            low=float(low[place]) if kept else math.nan,
            high=float(high[place]) if kept else math.nan,
            mean=float(total[place]) / kept if kept else math.nan,
        )
