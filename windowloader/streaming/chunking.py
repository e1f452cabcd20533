"""How a variable lies in storage along time, and what reading some of its rows costs.

In: the edges of chunks, bytes of a row. Out: bytes and requests of ranges of rows, counted before anything
is read. Never reads; knows neither windows nor blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from windowloader.errors import LoaderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Chunking", "Cost", "total_cost"]


class Cost(NamedTuple):
    """What reading ranges of rows costs, one number a range."""

    bytes: NDArray[np.int64]
    """Decoded bytes that storage must hand out: rows rounded to whole chunks."""
    requests: NDArray[np.int64]
    """Requests to storage; a shard's index is not among them (`Chunking.indexes`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunking:
    """How one variable lies in storage along time.

    Parameters
    ----------
    edges : ndarray, shape (chunks + 1,), int64, or None
        Rows where a chunk begins, with the first row and the end, rising; None where every range of rows
        can be read by itself (raw, uncompressed contiguous).
    row_bytes : int
        Decoded bytes of a row, of the nodes and features that are read.
    columns : int
        Chunks across nodes and features that a row lies in, of those that are read.
    shards : ndarray, int64, or None
        Rows where a shard begins, likewise: ranges of chunks in one shard are one request.
    handed_bytes : int, optional
        Decoded bytes of a row in whole chunks, which is what storage hands out: more than ``row_bytes`` where some
        nodes are read of chunks that hold others too, and where chunks reach beyond the array. None: as many.
    beyond : int
        Rows by which the last chunk reaches beyond the end; they are stored, and read.
    piece : int, optional
        Of an object that is read by byte ranges: rows that are asked for together at most, where chunks are no longer.
    counted : callable, optional
        Of such an object: ``counted(begin, end)`` is how many requests it makes of rows that are asked for together.

    Raises
    ------
    LoaderError
        Where edges do not rise, or a number is not positive.

    Examples
    --------
    >>> Chunking(np.array([0, 100, 200, 250]), row_bytes=8, columns=2).cost([50], [120])
    Cost(bytes=array([1600]), requests=array([4]))
    """

    edges: NDArray[np.int64] | None
    row_bytes: int = field(kw_only=True)
    columns: int = field(default=1, kw_only=True)
    shards: NDArray[np.int64] | None = field(default=None, kw_only=True)
    handed_bytes: int | None = field(default=None, kw_only=True)
    beyond: int = field(default=0, kw_only=True)
    piece: int | None = field(default=None, kw_only=True)
    counted: Callable[[int, int], int] | None = field(default=None, kw_only=True, repr=False)
    _counts: dict[tuple[int, int], int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.row_bytes < 1 or self.columns < 1:
            raise LoaderError(f"row_bytes={self.row_bytes}, columns={self.columns}: both must be at least 1.")
        for name, edges in (("edges", self.edges), ("shards", self.shards)):
            if edges is None:
                continue
            if len(edges) < 2 or np.any(np.diff(edges) <= 0):
                raise LoaderError(f"{name} of a chunked variable must rise from its first row to its end.")

    @property
    def largest(self) -> int:
        """Rows of the longest chunk; 1 where any range can be read."""
        return 1 if self.edges is None else int(np.diff(self.edges).max())

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of the largest chunk, which memory must hold at once; a row where there are none."""
        return -(-self.largest * self._handed // self.columns)

    @property
    def _handed(self) -> int:
        return self.row_bytes if self.handed_bytes is None else self.handed_bytes

    def cost(self, begin: ArrayLike, end: ArrayLike) -> Cost:
        """Count what reading the rows ``[begin, end)`` costs.

        Parameters
        ----------
        begin, end : array_like of int, shape (n,)
            Ranges of rows, none of them empty.

        Returns
        -------
        Cost
            Arrays of shape (n,), int64.
        """
        begin, end = np.asarray(begin, np.int64), np.asarray(end, np.int64)
        if self.edges is None:
            requests = (
                self._count(begin, end) if self.counted else np.full(begin.shape, self.columns, np.int64)
            )
            return Cost((end - begin) * self._handed, requests)
        first, last = _touched(self.edges, begin, end)
        rows = self.edges[last] - self.edges[first] + self.beyond * (last == len(self.edges) - 1)
        if self.counted:
            return Cost(rows * self._handed, self._count(self.edges[first], self.edges[last]))
        if self.shards is not None:
            first, last = _touched(self.shards, begin, end)
        return Cost(rows * self._handed, (last - first) * self.columns)

    def _count(self, begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ask the source, for each piece once."""
        assert self.counted is not None
        found = np.zeros(begin.shape, np.int64)
        for place, rows in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            if rows not in self._counts:
                cuts = self.pieces(*rows, 1).tolist()
                number = sum(self.counted(*piece) for piece in pairwise(cuts))
                if self.edges is None:  # any range may come, and few come again
                    found[place] = number
                    continue
                self._counts[rows] = number
            found[place] = self._counts[rows]
        return found

    def pieces(self, begin: int, end: int, limit: int) -> NDArray[np.int64]:
        """Cut the rows ``[begin, end)`` into reads of at most ``limit`` requests, if one has no more already.

        Of an object read by byte ranges into reads of at most `piece` rows, or one chunk's, whatever the limit.

        Parameters
        ----------
        begin, end, limit : int

        Returns
        -------
        ndarray, int64
            Where reads begin, and the end.
        """
        edges = self.edges if self.shards is None else self.shards
        if edges is None:
            return np.append(np.arange(begin, end, self.piece or end - begin, dtype=np.int64), end)
        inside = edges[np.searchsorted(edges, begin, side="right") : np.searchsorted(edges, end, side="left")]
        if self.piece is None:
            every = max(1, limit // self.columns)
            return np.concatenate([[begin], inside[every - 1 :: every], [end]]).astype(np.int64)
        cuts, at = [begin], int(np.searchsorted(edges, begin, side="right")) - 1
        while True:
            at = max(at + 1, int(np.searchsorted(edges, edges[at] + self.piece, side="right")) - 1)
            if at >= len(edges) or edges[at] >= end:
                return np.array([*cuts, end], np.int64)
            cuts.append(int(edges[at]))

    def request_bytes(self, rows: int) -> int:
        """Return the decoded bytes that a request brings at most, where at most so many rows are read together."""
        if self.piece is not None:
            return (
                min(rows + (self.largest if self.edges is not None else 0), max(self.piece, self.largest))
                * self._handed
            )
        if self.shards is None:
            return self.chunk_bytes
        return -(-min(rows + self.largest, int(np.diff(self.shards).max())) * self._handed // self.columns)

    def indexes(self, begin: ArrayLike, end: ArrayLike) -> int:
        """Count the indexes that are read, once, of the shards that the rows ``[begin, end)`` lie in but in part."""
        return len(self.broken(begin, end)) * self.columns

    def broken(self, begin: ArrayLike, end: ArrayLike) -> NDArray[np.int64]:
        """List the shards, along time, of which a range lies in a part; such a one's index is read first."""
        if self.shards is None or self.edges is None or not np.size(begin):
            return np.empty(0, np.int64)
        first, last = _touched(self.edges, np.asarray(begin, np.int64), np.asarray(end, np.int64))
        one, other = _touched(self.shards, self.edges[first], self.edges[last])
        counts = np.diff(np.searchsorted(self.edges, self.shards))
        broken = np.concatenate([one[self.edges[first] > self.shards[one]],
                                 other[self.edges[last] < self.shards[other]] - 1])  # fmt: skip
        short = len(self.shards) - 2  # at the end: fewer chunks than others, which storage takes for a part
        if counts[short] < counts[0] and np.any(other > short):
            broken = np.append(broken, short)
        return np.unique(broken)

    def distinct(self, begin: ArrayLike, end: ArrayLike) -> int:
        """Count the decoded bytes that must be read at least once to have the rows ``[begin, end)``.

        Parameters
        ----------
        begin, end : array_like of int, shape (n,)
            Ranges of rows, which may overlap.

        Returns
        -------
        int
        """
        edges = np.unique(np.concatenate([begin, end])) if self.edges is None else self.edges
        if len(edges) < 2:
            return 0
        rows = np.diff(edges)
        rows[-1] += self.beyond
        return int(rows[_covered(edges, begin, end)].sum()) * self._handed


def total_cost(variables: Sequence[Chunking], begin: ArrayLike, end: ArrayLike) -> Cost:
    """Add up what the rows ``[begin, end)`` of several variables cost.

    Parameters
    ----------
    variables : sequence of Chunking
    begin, end : array_like of int, shape (n,)

    Returns
    -------
    Cost

    Examples
    --------
    >>> total_cost([Chunking(None, row_bytes=4), Chunking(None, row_bytes=8)], [0], [10])
    Cost(bytes=array([120]), requests=array([2]))
    """
    parts = [variable.cost(begin, end) for variable in variables]
    shape = np.shape(begin)
    zero = np.zeros(shape, np.int64)
    return Cost(sum((p.bytes for p in parts), zero), sum((p.requests for p in parts), zero))


def _touched(
    edges: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.searchsorted(edges, begin, side="right") - 1, np.searchsorted(edges, end, side="left")


def _covered(edges: NDArray[np.int64], begin: ArrayLike, end: ArrayLike) -> NDArray[np.bool_]:
    first, last = _touched(edges, np.asarray(begin, np.int64), np.asarray(end, np.int64))
    change = np.bincount(first, minlength=len(edges)) - np.bincount(last, minlength=len(edges))
    covered: NDArray[np.bool_] = np.cumsum(change)[:-1] > 0
    return covered
