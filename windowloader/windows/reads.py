"""`Reads`: what the windows of a set read, whatever is made of it.

In: what a recipe was compiled to. Out: variables and row offsets, from which ``rows/`` knows what must be in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Reads"]


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
