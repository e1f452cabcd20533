"""How the variables of a series are stored: chunks along time, requests, and cutting a range into requests.

In: a `Variable` that must be read. Out: `Stored`, its `Chunking` and the reads of a range. Never reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.sources.base import complete
from windowloader.streaming.chunking import Chunking
from windowloader.streaming.reader import RowRange

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from windowloader.sources.base import LocalSource

    from .variable import Variable

__all__ = ["Stored", "stored"]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A variable and how it lies in storage.

    Parameters
    ----------
    variable : Variable
    chunking : Chunking
    """

    variable: Variable
    chunking: Chunking

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
        cuts = self.chunking.pieces(begin, end, limit)
        cost = self.chunking.cost(cuts[:-1], cuts[1:])
        columns = (column.tolist() for column in (cuts[:-1], cuts[1:], *cost))
        return [
            RowRange(self.variable, low, high, out[low - begin : high - begin], requests=count, handed=size,
                     chunking=self.chunking)
            for low, high, size, count in zip(*columns, strict=True)
        ]  # fmt: skip


def stored(variable: Variable) -> Stored:
    """Look up how a variable is stored.

    Parameters
    ----------
    variable : Variable
        Of time.

    Returns
    -------
    Stored
    """
    source = complete(variable.source)
    edges = variable.edges()
    inner = source
    while inner.inner is not inner:
        inner = inner.inner
    counted = source.request_counter()
    whole = (
        edges is not None and variable.num_rows == inner.shape[0]
    )  # not a part of the rows, nor joined files
    return Stored(
        variable,
        Chunking(
            edges,
            row_bytes=max(1, variable.row_bytes),
            columns=math.prod(_counts(inner)),
            shards=_shards(inner, edges, variable.num_rows),
            handed_bytes=_handed(inner),
            beyond=-inner.shape[0] % _chunk_rows(inner) if whole else 0,
            piece=inner.piece_rows if counted else None,
            counted=counted,
        ),
    )


def _counts(source: LocalSource, *, inner: bool = False) -> list[int]:
    """Count chunks along each axis but time, of those that are read; with ``inner``, of the chunks of shards."""
    info = source.info
    if info is not None:
        grid = info.chunks if inner else info.shards or info.chunks
        chosen = [source.selection.get(dim) for dim in source.order[1:]]
        return [
            -(-info.shape[dim] // grid[dim]) if picked is None else len(np.unique(picked // grid[dim]))
            for dim, picked in zip(source.order[1:], chosen, strict=True)
        ]
    if source.chunks is None:
        return []
    whole = [slice(0, size) for size in source.shape[1:]]
    # a box is in the stored order
    cuts = whole if source.box is None else [source.box[dim] for dim in source.order[1:]]
    return [
        -(-cut.stop // chunk) - cut.start // chunk for cut, chunk in zip(cuts, source.chunks[1:], strict=True)
    ]


def _handed(source: LocalSource) -> int | None:
    """Count the decoded bytes of a row of whole chunks; None where chunks are not known to be stored whole."""
    info = source.info
    if info is not None:
        chunks, itemsize = [info.chunks[dim] for dim in source.order[1:]], info.itemsize
    elif source.chunks is not None and source.whole_chunks:
        chunks, itemsize = list(source.chunks[1:]), source.dtype.itemsize
    else:
        return None
    size: int = math.prod(_counts(source, inner=True)) * math.prod(chunks) * itemsize
    return max(1, size)


def _chunk_rows(source: LocalSource) -> int:
    """Rows of a chunk that is stored whole even at the end; 1 where that is not known."""
    return 1 if source.chunks is None or _handed(source) is None else max(1, int(source.chunks[0]))


def _shards(source: LocalSource, edges: NDArray[np.int64] | None, rows: int) -> NDArray[np.int64] | None:
    grid = None if source.info is None else source.info.shards
    if grid is None or edges is None or rows != source.shape[0]:
        return None
    return np.append(np.arange(0, rows, grid[source.order[0]], dtype=np.int64), rows)
