"""The fixed memory of a stream: one slab, in which each variable has a region of places for rows.

In: variables, how many rows. Out: `Arena`, arrays that are there from the beginning. Never grows, never knows what
lies where: `blocks` and `direct` do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .prefault import touch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.series.variable import Variable

__all__ = ["Arena"]

ALIGNMENT = 64


class Arena:
    """Rows of several variables in one allocation.

    Parameters
    ----------
    variables : sequence of Variable
    rows : int
        Of each variable.

    Attributes
    ----------
    regions : tuple of ndarray, each shape (rows, node | 1, feature)
        One a variable, in its dtype; C-contiguous, aligned to 64 bytes.
    lost : bool
        Whether a read into it failed. Storage may still write the rows of such a read, as a time-out does not stop the
        request. So nothing else is read into its place, and the next iterator takes another arena.

    Examples
    --------
    >>> from windowloader.sources.memory import ArraySource
    >>> from windowloader.series.variable import Variable
    >>> variable = Variable("speed", ArraySource(np.zeros((9, 4), "f4")), ("speed",))
    >>> arena = Arena([variable], rows=5)
    >>> arena.regions[0].shape, arena.nbytes
    ((5, 4, 1), 128)
    """

    def __init__(self, variables: Sequence[Variable], rows: int) -> None:
        shapes = [(rows, variable.num_nodes, variable.num_features) for variable in variables]
        sizes = [
            -(-math.prod(shape) * variable.dtype.itemsize // ALIGNMENT) * ALIGNMENT
            for shape, variable in zip(shapes, variables, strict=True)
        ]
        slab = np.empty(sum(sizes) + ALIGNMENT, np.uint8)
        offset = -slab.__array_interface__["data"][0] % ALIGNMENT
        regions = []
        for shape, variable, size in zip(shapes, variables, sizes, strict=True):
            regions.append(np.ndarray(shape, variable.dtype, buffer=slab, offset=offset))
            offset += size
        self.regions: tuple[np.ndarray, ...] = tuple(regions)
        self.nbytes = sum(sizes)
        self.lost = False
        self._slab = slab

    def release(self) -> None:
        """Release the memory, also where references to the arena remain; reads under way keep theirs."""
        self.regions, self._slab = (), self._slab[:0].copy()

    def touch(self) -> None:
        """Have its pages made while the first requests are on their way; see ``touching``."""
        # All at once, before the first request is out, they took up to a third of the time of a first epoch; by the
        # reads that fill them, still a tenth.
        touch(self._slab, self.regions)
