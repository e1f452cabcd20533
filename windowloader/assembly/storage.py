"""How the variables of a series are stored: chunks along time, requests, and cutting a range into requests.

In: a `Variable` that must be read. Out: `Stored`, its `Storage` and the reads of a range. Never reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from windowloader.streaming.reader import RowRange

if TYPE_CHECKING:
    import numpy as np

    from windowloader.sources.storage import Storage

    from .variable import Variable

__all__ = ["Stored", "stored"]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A variable and how it lies in storage.

    Parameters
    ----------
    variable : Variable
    storage : Storage
    """

    variable: Variable
    storage: Storage

    def ranges(self, begin: int, end: int, out: np.ndarray, limit: int) -> list[RowRange]:
        """Cut rows ``[begin, end)`` into reads of at most ``limit`` requests, if one has no more already.

        Parameters
        ----------
        begin, end : int
        out : ndarray, shape (end − begin, node | 1, feature)
            Where they go.
        limit : int

        Returns
        -------
        list of RowRange
        """
        cuts = self.storage.pieces(begin, end, limit)
        counts = self.storage.cost(cuts[:-1], cuts[1:]).requests
        columns = (column.tolist() for column in (cuts[:-1], cuts[1:], counts))
        return [
            RowRange(self.variable, low, high, out[low - begin : high - begin], requests=count, storage=self.storage)
            for low, high, count in zip(*columns, strict=True)
        ]  # fmt: skip


def stored(variable: Variable) -> Stored:
    """Look up how a variable of time is stored."""
    return Stored(variable, variable.source.storage())
