"""How an array lies in storage along its rows, and what reading some of them takes.

In: a grid of chunks and a box. Out: `Storage`, which counts bytes and requests of ranges of rows before anything is
read. Never reads; knows neither windows nor blocks.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
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
        Chunks across the other axes that a row lies in, of those that are read; shards, where there are some.
    shards : ndarray, int64, or None
        Rows where a shard begins, likewise: ranges of chunks in one shard are one request.
    read_bytes : int, optional
        Decoded bytes of a row in all chunks that are read: more than ``row_bytes`` where a box takes a part of them.
        None: as many.
    bytes_before : ndarray, shape (chunks + 1,), int64, optional
        Decoded bytes of all chunks before each edge; None: ``read_bytes`` a row.
    groups : ndarray, int64, optional
        Rows where what is asked for together begins; None: shards, or chunks.
    requests_before : ndarray, int64, optional
        Requests for all groups before each one; None: ``columns`` a group.
    count : callable, optional
        ``count(begin, end)`` returns how many requests reading rows of one group makes, where that depends on the rows;
        a read is then best of one group.
    rows : range, optional
        Which stored rows are meant: ``edges`` counts these, the other arrays count all that are stored.
    stored_edges : ndarray, int64, optional
        Stored rows where a chunk begins; None: ``edges``.

    Raises
    ------
    LoaderError
        Where edges do not rise, or a number is not positive.

    Examples
    --------
    >>> Storage(np.array([0, 100, 200, 250]), row_bytes=8, columns=2).cost([50], [120])
    Cost(bytes=array([1600]), requests=array([4]))
    """

    edges: NDArray[np.int64] | None = field(kw_only=False)
    row_bytes: int
    columns: int = 1
    shards: NDArray[np.int64] | None = None
    read_bytes: int = None  # type: ignore[assignment]
    bytes_before: NDArray[np.int64] = None  # type: ignore[assignment]
    groups: NDArray[np.int64] = None  # type: ignore[assignment]
    requests_before: NDArray[np.int64] = None  # type: ignore[assignment]
    count: Callable[[int, int], int] | None = field(default=None, repr=False)
    rows: range | None = None
    stored_edges: NDArray[np.int64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.row_bytes < 1 or self.columns < 1:
            raise LoaderError(f"row_bytes={self.row_bytes}, columns={self.columns}: both must be at least 1.")
        for name, edges in (("edges", self.edges), ("shards", self.shards)):
            if edges is not None and (len(edges) < 2 or np.any(np.diff(edges) <= 0)):
                raise LoaderError(f"{name} of a chunked array must rise from its first row to its end.")
        self._default("read_bytes", self.row_bytes)
        self._default("stored_edges", self.edges)
        if (edges := self.stored_edges) is not None:
            self._default("bytes_before", (edges - edges[0]) * self.read_bytes)
            self._default("groups", edges if self.shards is None else self.shards)
        if self.groups is not None:
            self._default("requests_before", np.arange(len(self.groups)) * self.columns)

    def _default(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

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
        parts = tuple(slice(0, size) for size in shape[1:]) if box is None else box
        values, read = math.prod(box_shape(parts)), stored_itemsize or itemsize
        more["row_bytes"] = max(1, values * itemsize)
        if chunks is None or not shape[0]:
            return cls(None, read_bytes=max(1, values * read), **more)
        for part, size, chunk in zip(parts, shape[1:], chunks[1:], strict=True):
            hit = met(part, chunk)
            read *= len(hit) * chunk if whole else int(np.minimum(chunk, size - hit * chunk).sum())
        edges, read = chunk_edges(shape[0], chunks[0]), max(1, read)
        before = edges * read
        if whole:
            before[-1] = before[-2] + chunks[0] * read
        if shards is not None:
            more["shards"] = chunk_edges(shape[0], shards[0])
        outer = zip(parts, (shards or chunks)[1:], strict=True)
        columns = max(1, math.prod(len(met(part, chunk)) for part, chunk in outer))
        return cls(edges, columns=columns, read_bytes=read, bytes_before=before, **more)

    def of_rows(self, rows: range, row_bytes: int) -> Storage:
        """Storage of some rows, ``row_bytes`` of each; whole chunks are still read, also those between two rows."""
        rows = rows if self.rows is None else self.rows[rows.start : rows.stop : rows.step]
        edges = None if self.stored_edges is None or not rows else _counted(self.stored_edges, rows)
        return replace(self, edges=edges, rows=rows, row_bytes=row_bytes)

    @property
    def largest(self) -> int:
        """Rows of the longest chunk; 1 where any range can be read."""
        return 1 if self.edges is None else int(np.diff(self.edges).max())

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of the largest chunk, which memory must hold at once; a row where there are none."""
        largest = self.read_bytes if self.stored_edges is None else int(np.diff(self.bytes_before).max())
        return -(-largest // self.columns)

    def bytes(self, start: int, stop: int) -> int:
        """Count the decoded bytes that reading rows ``[start, stop)`` takes, as `cost` does of many ranges."""
        start, stop = self._inside(start, stop)
        if self.stored_edges is None:
            return (stop - start) * self.read_bytes
        edges, before = (
            self.stored_edges.data,
            self.bytes_before.data,
        )  # for each read: quicker than NumPy's search
        size: int = before[bisect_left(edges, stop)] - before[bisect_right(edges, start) - 1]
        return size

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
        begin, end = self._inside(np.asarray(begin, np.int64), np.asarray(end, np.int64))
        if self.stored_edges is None:
            size = (end - begin) * self.read_bytes
        else:
            first, last = _touched(self.stored_edges, begin, end)
            size = self.bytes_before[last] - self.bytes_before[first]
            begin, end = self.stored_edges[first], self.stored_edges[last]
        if self.count is not None:
            ranges = zip(begin.tolist(), end.tolist(), strict=True)
            counts = [
                sum(self.count(*cut) for cut in pairwise(self._cuts(*rows, 1).tolist())) for rows in ranges
            ]
            return Cost(size, np.array(counts, np.int64))
        if self.groups is None:
            return Cost(size, np.full(begin.shape, self.columns))
        first, last = _touched(self.groups, begin, end)
        return Cost(size, self.requests_before[last] - self.requests_before[first])

    def _inside(self, begin: Any, end: Any) -> tuple[Any, Any]:
        """Return the stored rows that rows ``[begin, end)`` lie among."""
        if self.rows is None:
            return begin, end
        return self.rows.start + begin * self.rows.step, self.rows.start + (end - 1) * self.rows.step + 1

    def pieces(self, begin: int, end: int, limit: int) -> NDArray[np.int64]:
        """Cut the rows ``[begin, end)`` into reads of at most ``limit`` requests, if one has no more already.

        Parameters
        ----------
        begin, end, limit : int

        Returns
        -------
        ndarray, int64
            Where reads begin, and the end.
        """
        cuts = self._cuts(*self._inside(begin, end), limit)
        return cuts if self.rows is None else _counted(cuts, self.rows)

    def _cuts(self, begin: int, end: int, limit: int) -> NDArray[np.int64]:
        inside: NDArray[np.int64] = np.empty(0, np.int64)
        if self.groups is not None:
            first, last = (
                np.searchsorted(self.groups, begin, "right"),
                np.searchsorted(self.groups, end, "left"),
            )
            inside = self.groups[first:last]
        every = max(1, limit // self.columns) if self.count is None else 1
        return np.concatenate([[begin], inside[every - 1 :: every], [end]])

    def request_bytes(self, rows: int) -> int:
        """Return the decoded bytes that a request brings at most, where at most so many rows are read together."""
        if self.groups is None:
            return self.chunk_bytes
        longest = 1 if self.stored_edges is None else int(np.diff(self.stored_edges).max())
        stored = rows * (self.rows.step if self.rows else 1) + longest
        most = min(stored, int(np.diff(self.groups).max())) * self.read_bytes
        return max(self.chunk_bytes, -(-most // (self.columns if self.count is None else 1)))

    def indexes(self, begin: ArrayLike, end: ArrayLike) -> int:
        """Count the indexes that are read, once, of the shards that the rows ``[begin, end)`` lie in but in part."""
        return len(self.broken(begin, end)) * self.columns

    def broken(self, begin: ArrayLike, end: ArrayLike) -> NDArray[np.int64]:
        """List the shards, along time, of which a range lies in a part; such a one's index is read first."""
        edges, shards = self.stored_edges, self.shards
        if shards is None or edges is None or not np.size(begin):
            return np.empty(0, np.int64)
        first, last = _touched(edges, *self._inside(np.asarray(begin, np.int64), np.asarray(end, np.int64)))
        one, other = _touched(shards, edges[first], edges[last])
        counts = np.diff(np.searchsorted(edges, shards))
        broken = np.concatenate([one[edges[first] > shards[one]], other[edges[last] < shards[other]] - 1])
        short = len(shards) - 2  # at the end: fewer chunks than others, which storage takes for a part
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
        begin, end = self._inside(np.asarray(begin, np.int64), np.asarray(end, np.int64))
        edges, before = self.stored_edges, self.bytes_before
        if edges is None:
            edges = np.unique(np.concatenate([begin, end]))
            before = edges * self.read_bytes
        first, last = _touched(edges, begin, end)
        change = np.bincount(first, minlength=len(edges)) - np.bincount(last, minlength=len(edges))
        return int(np.diff(before)[np.cumsum(change)[:-1] > 0].sum())


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
        Each row of an array without chunks, among others that have some, counts as a chunk.
    """
    rows = np.diff(borders).tolist()
    groups = [
        np.array([0, size]) if part.groups is None else _counted(part.groups, part.rows or range(size))
        for part, size in zip(parts, rows, strict=True)
    ]
    shared: dict[str, Any] = {
        "row_bytes": max(part.row_bytes for part in parts),
        "read_bytes": max(part.read_bytes for part in parts),
        "columns": max(part.columns for part in parts),
        "groups": _along(groups, borders),
    }
    if all(part.count is not None for part in parts):

        def count(begin: int, end: int) -> int:
            place = int(np.searchsorted(borders, begin, side="right")) - 1
            low = int(borders[place])
            return int(parts[place].cost([begin - low], [end - low]).requests[0])

        shared["count"] = count
    else:
        counts = [part.cost(own[:-1], own[1:]).requests for part, own in zip(parts, groups, strict=True)]
        shared["requests_before"] = _summed(counts)
    if all(part.edges is None for part in parts):
        return Storage(None, **shared)
    edges = [
        np.arange(size + 1) if part.edges is None else part.edges
        for part, size in zip(parts, rows, strict=True)
    ]
    sizes = [part.cost(own[:-1], own[1:]).bytes for part, own in zip(parts, edges, strict=True)]
    return Storage(_along(edges, borders), bytes_before=_summed(sizes), **shared)


def _along(edges: Sequence[NDArray[np.int64]], borders: NDArray[np.int64]) -> NDArray[np.int64]:
    found = [own[:-1] + low for own, low in zip(edges, borders, strict=False)]
    return np.append(np.concatenate(found), borders[-1])


def _summed(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.append(0, np.cumsum(np.concatenate(counts)))


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


def _counted(places: NDArray[np.int64], rows: range) -> NDArray[np.int64]:
    """Places between stored rows as counted in some of these, each once."""
    return np.unique(np.clip(-((rows.start - places) // rows.step), 0, len(rows)))
