"""How an array lies in storage along its rows, and what reading some of them takes.

In: a grid of chunks and a box. Out: `Storage`, which counts bytes and requests of ranges of rows before anything is
read. Never reads; knows neither windows nor blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from windowloader.errors import LoaderError

from .box import box_shape, chunk_edges, met

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from .box import Box

__all__ = ["Cost", "Storage", "joined", "total_cost"]


class Cost(NamedTuple):
    """What reading ranges of rows costs, one number a range."""

    bytes: NDArray[np.int64]
    """Decoded bytes of the chunks that must be read."""
    requests: NDArray[np.int64]
    """Requests to storage; a shard's index is not among them (`Storage.indexes`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """How an array, or the part of it within a box, lies in storage along its rows.

    Parameters
    ----------
    edges : ndarray, shape (chunks + 1,), int64, or None
        Rows where a chunk begins, with the first row and the end, rising; None where every range of rows
        can be read by itself (raw, uncompressed contiguous).
    row_bytes : int
        Decoded bytes of a row as it is delivered.
    columns : int
        Chunks across the other axes that a row lies in, of those that are read.
    shards : ndarray, int64, or None
        Rows where a shard begins, likewise: ranges of chunks in one shard are one request.
    handed_bytes : int, optional
        Decoded bytes of a row in all chunks that are read: more than ``row_bytes`` where a box takes a part of them.
        None: as many.
    sizes : ndarray, shape (chunks,), int64, optional
        Decoded bytes of all chunks between two edges; None: ``handed_bytes`` a row.
    counts : ndarray, shape (chunks,), int64, optional
        Requests for them, where it is not ``columns`` everywhere.
    rates : ndarray, shape (chunks,), int64, optional
        Decoded bytes of a row between two edges where any range of rows there is read by itself; 0 elsewhere.
    step : int
        Stored rows from one to the next, where some are read in vain and there are no ``edges``.
    piece : int, optional
        Rows that are best read together at most, where chunks are no longer; None: as many as are asked for.
    asked : callable, optional
        ``asked(begin, end)`` returns the bytes of each request that reading rows at once makes, an int64 array. With
        ``piece`` it counts the requests, without it only `requests` asks it.
    exact : bool
        Whether ``asked`` knows bytes as stored; else they are as decoded.

    Raises
    ------
    LoaderError
        Where edges do not rise, or a number is not positive.

    Examples
    --------
    >>> Storage(np.array([0, 100, 200, 250]), row_bytes=8, columns=2).cost([50], [120])
    Cost(bytes=array([1600]), requests=array([4]))
    """

    edges: NDArray[np.int64] | None
    row_bytes: int = field(kw_only=True)
    columns: int = field(default=1, kw_only=True)
    shards: NDArray[np.int64] | None = field(default=None, kw_only=True)
    handed_bytes: int | None = field(default=None, kw_only=True)
    sizes: NDArray[np.int64] | None = field(default=None, kw_only=True)
    counts: NDArray[np.int64] | None = field(default=None, kw_only=True)
    rates: NDArray[np.int64] | None = field(default=None, kw_only=True)
    step: int = field(default=1, kw_only=True)
    piece: int | None = field(default=None, kw_only=True)
    asked: Callable[[int, int], NDArray[np.int64]] | None = field(default=None, kw_only=True, repr=False)
    exact: bool = field(default=False, kw_only=True)
    _bytes: NDArray[np.int64] = field(init=False, repr=False)
    """Bytes before each edge."""
    _requests: NDArray[np.int64] = field(init=False, repr=False)
    """Requests before each edge, where ``counts`` says them."""
    _found: dict[tuple[int, int], int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.row_bytes < 1 or self.columns < 1:
            raise LoaderError(f"row_bytes={self.row_bytes}, columns={self.columns}: both must be at least 1.")
        for name, edges in (("edges", self.edges), ("shards", self.shards)):
            if edges is None:
                continue
            if len(edges) < 2 or np.any(np.diff(edges) <= 0):
                raise LoaderError(f"{name} of a chunked array must rise from its first row to its end.")
        before = np.zeros(1, np.int64)
        if self.edges is not None:
            before = (self.edges - self.edges[0]) * self._handed
            if self.sizes is not None:
                before = np.append(0, np.cumsum(self.sizes, dtype=np.int64))
        object.__setattr__(self, "_bytes", before)
        counts = () if self.counts is None else self.counts
        object.__setattr__(self, "_requests", np.append(0, np.cumsum(counts, dtype=np.int64)))

    @classmethod
    def of_grid(
        cls,
        shape: Sequence[int],
        chunks: Sequence[int] | None,
        *,
        itemsize: int,
        stored_itemsize: int | None = None,
        box: Box | None = None,
        shards: Sequence[int] | None = None,
        whole: bool = False,
        **more: Any,
    ) -> Storage:
        """Storage of an array in equal chunks.

        Parameters
        ----------
        shape, chunks : sequence of int
            Of the whole array, rows first; ``chunks=None``: every range of rows is read by itself.
        itemsize : int
            Bytes of a value as it is delivered.
        stored_itemsize : int, optional
            As it is stored; default the same.
        box : tuple of slice or ndarray, optional
            What is read of the axes after the first; None: all.
        shards : sequence of int, optional
            Sizes of a shard, likewise.
        whole : bool
            Whether a chunk that reaches beyond the array is stored, and read, whole.
        more :
            Of `Storage`.

        Returns
        -------
        Storage

        Examples
        --------
        >>> Storage.of_grid((250, 40), (100, 10), itemsize=4, box=(np.array([3, 8]),)).cost([0], [250])
        Cost(bytes=array([10000]), requests=array([3]))
        """
        stored = stored_itemsize or itemsize
        sizes = tuple(shape[1:]) if box is None else box_shape(box)
        row_bytes = max(1, math.prod(sizes) * itemsize)
        if chunks is None or not shape[0]:
            return cls(None, row_bytes=row_bytes, handed_bytes=max(1, math.prod(sizes) * stored), **more)
        parts = [slice(0, size) for size in shape[1:]] if box is None else box
        axes = list(zip(parts, shape[1:], chunks[1:], strict=True))
        handed = stored
        for part, size, chunk in axes:
            hit = met(part, chunk)
            handed *= len(hit) * chunk if whole else int(np.minimum(chunk, size - hit * chunk).sum())
        grid = chunks if shards is None else shards
        columns = math.prod(len(met(part, outer)) for part, outer in zip(parts, grid[1:], strict=True))
        edges = chunk_edges(shape[0], chunks[0])
        rows = np.diff(edges)
        if whole:
            rows[-1] = chunks[0]
        more["shards"] = None if shards is None else chunk_edges(shape[0], shards[0])
        return cls(edges, row_bytes=row_bytes, columns=max(1, columns), handed_bytes=max(1, handed),
                   sizes=rows * handed, **more)  # fmt: skip

    def of_rows(self, rows: range, row_bytes: int) -> Storage:
        """Storage of some rows, ``row_bytes`` of each, for which whole chunks are still read."""
        shared: dict[str, Any] = {
            "row_bytes": row_bytes,
            "counts": None,
            "shards": None,
            "asked": None,
            "sizes": None,
        }
        if self.asked is not None:
            asked = self.asked
            shared["asked"] = lambda begin, end: asked(rows[begin], rows[end - 1] + 1)
        if self.edges is None:
            return replace(self, handed_bytes=self._handed * rows.step, step=rows.step, **shared)
        if len(rows) == self.edges[-1]:
            return replace(self, row_bytes=row_bytes)
        inside = np.clip(
            -((rows.start - self.edges) // rows.step), 0, len(rows)
        )  # the first row kept after each
        kept = np.flatnonzero(np.diff(inside))
        if not len(kept):
            return replace(self, edges=None, **shared)
        shared["sizes"] = np.diff(self._bytes)[kept]
        if self.rates is not None:
            shared["rates"] = self.rates[kept] * rows.step
            shared["sizes"] = np.where(
                shared["rates"], np.diff(inside)[kept] * shared["rates"], shared["sizes"]
            )
        shared["counts"] = None if self.counts is None else self.counts[kept]
        return replace(self, edges=np.append(inside[kept], len(rows)), handed_bytes=self._handed, **shared)

    @property
    def largest(self) -> int:
        """Rows of the longest chunk; 1 where any range can be read."""
        return 1 if self.edges is None else int(np.diff(self.edges).max())

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of the largest chunk, which memory must hold at once; a row where there are none."""
        largest = self._handed if self.edges is None else int(np.diff(self._bytes).max())
        return -(-largest // self.columns)

    @property
    def _handed(self) -> int:
        return self.row_bytes if self.handed_bytes is None else self.handed_bytes

    def bytes(self, start: int, stop: int) -> int:
        """Count the decoded bytes that reading rows ``[start, stop)`` takes, as `cost` does of many ranges."""
        if self.edges is None or self.rates is not None:
            return int(self._size(np.array([start]), np.array([stop]))[0])
        first = np.searchsorted(self.edges, start, side="right") - 1
        return int(self._bytes[np.searchsorted(self.edges, stop, side="left")] - self._bytes[first])

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
        size = self._size(begin, end)
        if self.edges is None:
            return Cost(size, self._count(begin, end) if self.piece else np.full(begin.shape, self.columns))
        first, last = _touched(self.edges, begin, end)
        if self.piece:
            return Cost(size, self._count(self.edges[first], self.edges[last]))
        if self.counts is not None:
            return Cost(size, self._requests[last] - self._requests[first])
        if self.shards is not None:
            first, last = _touched(self.shards, begin, end)
        return Cost(size, (last - first) * self.columns)

    def _size(self, begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.edges is None:
            between = (self.step - 1) * (
                self._handed // self.step
            )  # rows left out after the last are not read
            return (end - begin) * self._handed - between
        first, last = _touched(self.edges, begin, end)
        size: NDArray[np.int64] = self._bytes[last] - self._bytes[first]
        if self.rates is not None:
            size -= (begin - self.edges[first]) * self.rates[first]
            size -= (self.edges[last] - end) * self.rates[last - 1]
        return size

    def requests(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the bytes of each request that reading rows ``[start, stop)`` at once makes, int64."""
        if self.asked is not None:
            return self.asked(start, stop)
        if stop <= start:
            return np.empty(0, np.int64)
        size, count = (int(found[0]) for found in self.cost([start], [stop]))
        return np.full(count, size // count, np.int64)

    def _count(self, begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ask the source, for each piece once."""
        assert self.asked is not None
        found = np.zeros(begin.shape, np.int64)
        for place, rows in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            if rows not in self._found:
                cuts = self.pieces(*rows, 1).tolist()
                number = sum(len(self.asked(*piece)) for piece in pairwise(cuts))
                if self.edges is None:  # any range may come, and few come again
                    found[place] = number
                    continue
                self._found[rows] = number
            found[place] = self._found[rows]
        return found

    def pieces(self, begin: int, end: int, limit: int) -> NDArray[np.int64]:
        """Cut the rows ``[begin, end)`` into reads of at most ``limit`` requests, if one has no more already.

        Where rows are best read in pieces, into reads of at most `piece` rows, or one chunk's, whatever the limit.

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
        size = np.diff(edges) * self._handed if self.edges is None else np.diff(self._bytes)
        return int(size[_covered(edges, begin, end)].sum())


def joined(parts: Sequence[Storage], borders: NDArray[np.int64]) -> Storage:
    """Storage of arrays one after another.

    Parameters
    ----------
    parts : sequence of Storage
        Of those that have rows.
    borders : ndarray, shape (parts + 1,), int64
        Where the rows of each begin, and the end.

    Returns
    -------
    Storage
        The rows of an array without chunks, among others that have some, stand between two edges.
    """
    shared: dict[str, Any] = {
        "row_bytes": max(part.row_bytes for part in parts),
        "handed_bytes": max(part._handed for part in parts),
        "columns": max(part.columns for part in parts),
    }
    asked = [part.asked for part in parts if part.asked is not None]
    if len(asked) == len(parts):
        shared["piece"] = parts[0].piece
        shared["asked"] = lambda begin, end: np.concatenate([
            one(max(begin, low) - low, min(end, high) - low)
            for one, (low, high) in zip(asked, pairwise(borders.tolist()), strict=True)
            if begin < high and low < end
        ])  # fmt: skip
    if all(part.edges is None for part in parts):
        return Storage(None, **shared)
    edges, sizes, counts, rates = [], [], [], []
    for part, (low, high) in zip(parts, pairwise(borders), strict=True):
        own = np.array([0, high - low]) if part.edges is None else part.edges
        edges.append(own[:-1] + low)
        free = np.full(len(own) - 1, part._handed if part.edges is None else 0, np.int64)
        rates.append(free if part.rates is None else part.rates)
        sizes.append(np.diff(own) * part._handed if part.edges is None else np.diff(part._bytes))
        counts.append(np.full(len(own) - 1, part.columns) if part.counts is None else part.counts)
    return Storage(np.append(np.concatenate(edges), borders[-1]), sizes=np.concatenate(sizes),
                   counts=np.concatenate(counts), rates=np.concatenate(rates) if any(map(np.any, rates)) else None,
                   **shared)  # fmt: skip


def total_cost(variables: Sequence[Storage], begin: ArrayLike, end: ArrayLike) -> Cost:
    """Add up what the rows ``[begin, end)`` of several variables cost.

    Parameters
    ----------
    variables : sequence of Storage
    begin, end : array_like of int, shape (n,)

    Returns
    -------
    Cost

    Examples
    --------
    >>> total_cost([Storage(None, row_bytes=4), Storage(None, row_bytes=8)], [0], [10])
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
