"""The layout of an array in storage along its rows, and the cost of reading some of them.

In: a grid of chunks and a box. Out: `Storage`, which counts bytes and requests for ranges of rows before anything is
read. Knows neither windows nor blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from windowloader.errors import LoaderError

from .regular import RegularEdges, longest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from .regular import Edges

__all__ = [
    "Box", "Cost", "Storage", "box_shape", "chunk_edges", "given", "joined", "met", "total_cost", "within",
]  # fmt: skip

Box: TypeAlias = "tuple[slice | NDArray[np.int64], ...]"
"""One for each axis after the first: a slice of step 1 with both ends, or increasing positions."""


def box_shape(box: Box) -> tuple[int, ...]:
    """Sizes of the axes within a box.

    Examples
    --------
    >>> box_shape((slice(2, 5), np.array([0, 7])))
    (3, 2)
    """
    return tuple(part.stop - part.start if isinstance(part, slice) else len(part) for part in box)


def given(box: Box | None) -> tuple[Box, ...]:
    """Arguments that pass a box to a source: none for whole axes, as sources need not accept a box."""
    return () if box is None else (box,)


def within(rows: NDArray[Any], box: Box) -> NDArray[Any]:
    """Part of rows within a box; a view where the box has slices only."""
    rows = rows[:, *(part if isinstance(part, slice) else slice(None) for part in box)]
    for axis, part in enumerate(box, 1):
        if not isinstance(part, slice):
            rows = rows.take(part, axis)
    return rows


def chunk_edges(num_rows: int, chunk: int) -> NDArray[np.int64]:
    """First row of each chunk, and the end.

    Examples
    --------
    >>> chunk_edges(10, 4)
    array([ 0,  4,  8, 10])
    """
    return np.append(np.arange(0, num_rows, max(chunk, 1), dtype=np.int64), np.int64(num_rows))


def met(part: slice | NDArray[np.int64], chunk: int) -> NDArray[np.int64]:
    """Numbers of the chunks along an axis that a part of a box touches."""
    if isinstance(part, slice):
        return np.arange(part.start // chunk, -(-part.stop // chunk))
    return np.unique(part // chunk)


class Cost(NamedTuple):
    """Cost of reading ranges of rows, one number per range."""

    bytes: NDArray[np.int64]
    """Decoded bytes of the chunks that must be read."""
    requests: NDArray[np.int64]
    """Requests to storage, without those for indexes of shards (`Storage.broken`)."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Storage:
    """Layout in storage of an array, or of a box of it, along its rows.

    Parameters
    ----------
    edges : Edges or None
        First row of each chunk, and the end, increasing; None where any range of rows can be read by itself (raw,
        uncompressed contiguous).
    row_bytes : int
        Bytes of a row as it is delivered.
    columns : int
        Chunks, or shards, across the other axes that a row is read from.
    shards : Edges or None
        First row of each shard, and the end: chunks in one shard are fetched by one request.
    read_bytes : int, optional
        Decoded bytes of a row in all chunks that are read, more than ``row_bytes`` where a box is a part of them.
        None: equal.
    bytes_before : ndarray, shape (chunks + 1,), int64, optional
        Decoded bytes of all stored chunks before each edge; None: ``read_bytes`` a row.
    groups : Edges, optional
        First row of each group of rows fetched together, and the end; None: shards, or chunks.
    requests_before : ndarray, int64, optional
        Requests for all groups before each edge; None: ``columns`` per group.
    split : bool
        Whether reads should contain one group each.
    stored_edges : Edges, optional
        First row of each chunk as stored, and the end, which may lie outside the rows of a selection; None: ``edges``.

    Raises
    ------
    LoaderError
        Where edges do not increase, or a number is not positive.

    Examples
    --------
    >>> Storage(np.array([0, 100, 200, 250]), row_bytes=8, columns=2).cost([50], [120])
    Cost(bytes=array([1600]), requests=array([4]))
    """

    edges: Edges | None = field(kw_only=False)
    row_bytes: int
    columns: int = 1
    shards: Edges | None = None
    read_bytes: int = None  # type: ignore[assignment]
    bytes_before: NDArray[np.int64] | None = None
    groups: Edges | None = None
    requests_before: NDArray[np.int64] | None = None
    split: bool = False
    stored_edges: Edges | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.row_bytes < 1 or self.columns < 1:
            raise LoaderError(f"row_bytes={self.row_bytes}, columns={self.columns}: both must be at least 1.")
        for name, edges in (("edges", self.edges), ("shards", self.shards)):
            if isinstance(edges, np.ndarray) and (len(edges) < 2 or np.any(np.diff(edges) <= 0)):
                raise LoaderError(f"{name} of a chunked array must increase from its first row to its end.")
        self._default("read_bytes", self.row_bytes)
        self._default("stored_edges", self.edges)
        if self.stored_edges is not None:
            self._default("groups", self.stored_edges if self.shards is None else self.shards)

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
            Of the whole array, rows first; ``chunks=None``: any range of rows can be read by itself.
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
        edges = RegularEdges(0, shape[0], chunks[0])
        stored = RegularEdges(0, -(-shape[0] // chunks[0]) * chunks[0], chunks[0]) if whole else edges
        if shards is not None:
            more["shards"] = RegularEdges(0, stored.stop, shards[0])
        outer = zip(parts, (shards or chunks)[1:], strict=True)
        columns = max(1, math.prod(len(met(part, chunk)) for part, chunk in outer))
        return cls(edges, columns=columns, read_bytes=max(1, read), stored_edges=stored, **more)

    def of_rows(self, start: int, stop: int, row_bytes: int) -> Storage:
        """Storage of the rows ``[start, stop)``, of ``row_bytes`` each; chunks are still read whole."""
        stored, groups, shards = (
            None if places is None else places - start
            for places in (self.stored_edges, self.groups, self.shards)
        )
        edges: Edges | None = None
        if isinstance(stored, RegularEdges) and start < stop:
            edges = replace(stored, first=0, stop=stop - start)
        elif stored is not None and start < stop:
            edges = _clipped(stored, stop - start)
        return replace(
            self, edges=edges, stored_edges=stored, groups=groups, shards=shards, row_bytes=row_bytes
        )

    @property
    def largest(self) -> int:
        """Rows of the longest chunk; 1 without chunks."""
        return 1 if self.edges is None else longest(self.edges)

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of the largest chunk; of a row without chunks."""
        if self.stored_edges is None:
            largest = self.read_bytes
        elif self.bytes_before is None:
            largest = self.read_bytes * longest(self.stored_edges)
        else:
            largest = int(np.diff(self.bytes_before).max())
        return -(-largest // self.columns)

    def bytes(self, start: int, stop: int) -> int:
        """Count the decoded bytes that reading rows ``[start, stop)`` takes, as `cost` does of many ranges."""
        return int(self.cost(start, stop).bytes)

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
        first, last = np.asarray(begin, np.int64), np.asarray(end, np.int64)
        if self.stored_edges is not None:
            low, high = _touched(self.stored_edges, first, last)
            first, last = self.stored_edges[low], self.stored_edges[high]
        size = (last - first) * self.read_bytes
        if self.stored_edges is not None and self.bytes_before is not None:
            size = self.bytes_before[high] - self.bytes_before[low]
        if self.groups is None:
            return Cost(size, np.full(first.shape, self.columns))
        low, high = _touched(self.groups, first, last)
        if self.requests_before is None:
            return Cost(size, (high - low) * self.columns)
        return Cost(size, self.requests_before[high] - self.requests_before[low])

    def pieces(self, begin: int, end: int, limit: int) -> NDArray[np.int64]:
        """Cut the rows ``[begin, end)`` into reads of at most ``limit`` requests, or of one group.

        Parameters
        ----------
        begin, end, limit : int

        Returns
        -------
        ndarray, int64
            First row of each read, and the end.
        """
        inside: NDArray[np.int64] = np.empty(0, np.int64)
        if self.groups is not None:
            every = 1 if self.split else max(1, limit // self.columns)
            low, high = _touched(self.groups, begin, end)
            inside = self.groups[low + every : high : every]
        return np.concatenate([[begin], inside, [end]])

    def request_bytes(self, rows: int) -> int:
        """Return the most decoded bytes that one request fetches when up to ``rows`` rows are read together."""
        if self.groups is None:
            return self.chunk_bytes
        chunk = 1 if self.stored_edges is None else longest(self.stored_edges)
        most = min(rows + chunk, longest(self.groups)) * self.read_bytes
        return max(self.chunk_bytes, -(-most // (1 if self.split else self.columns)))

    def broken(self, begin: ArrayLike, end: ArrayLike) -> NDArray[np.int64]:
        """List the shards, along time, that a range covers in part; their indexes are read first, one per column."""
        edges, shards = self.stored_edges, self.shards
        if shards is None or edges is None or not np.size(begin):
            return np.empty(0, np.int64)
        first, last = _touched(edges, begin, end)
        one, other = _touched(shards, edges[first], edges[last])
        broken = np.concatenate([one[edges[first] > shards[one]], other[edges[last] < shards[other]] - 1])
        short = len(shards) - 2  # the last one has fewer chunks than others and counts as a part
        numbers = edges.searchsorted(shards[np.array([0, 1, short, short + 1])])
        if numbers[3] - numbers[2] < numbers[1] - numbers[0] and np.any(other > short):
            broken = np.append(broken, short)
        return np.unique(broken)

    def distinct(self, begin: ArrayLike, end: ArrayLike) -> int:
        """Count the decoded bytes of the chunks that contain the rows ``[begin, end)``, each chunk once.

        Parameters
        ----------
        begin, end : array_like of int, shape (n,)
            Ranges of rows, which may overlap.

        Returns
        -------
        int
        """
        first, last = np.asarray(begin, np.int64), np.asarray(end, np.int64)
        if self.stored_edges is not None:
            low, high = _touched(self.stored_edges, first, last)
            first, last = self.stored_edges[low], self.stored_edges[high]
        begins, ends = _united(first, last)
        return int(self.cost(begins, ends).bytes.sum())


def joined(parts: Sequence[Storage], borders: NDArray[np.int64]) -> Storage:
    """Storage of arrays concatenated along rows.

    Parameters
    ----------
    parts : sequence of Storage
        Without empty ones.
    borders : ndarray, shape (parts + 1,), int64
        First row of each, and the end.

    Returns
    -------
    Storage
        Each row of an array without chunks counts as a chunk, if others have chunks.
    """
    chunked = any(part.edges is not None for part in parts)
    edges, groups, sizes, requests = [borders[:1]], [borders[:1]], [borders[:1]], [borders[:1]]
    for part, (low, high) in zip(parts, pairwise(borders.tolist()), strict=True):
        rows = np.array([0, high - low])
        wide = rows if part.groups is None else _clipped(part.groups, high - low)
        own = np.arange(high - low + 1) if chunked and part.edges is None else rows
        own = own if part.edges is None else np.asarray(part.edges)
        edges.append(own[1:] + low)
        groups.append(wide[1:] + low)
        sizes.append(part.cost(own[:-1], own[1:]).bytes)
        requests.append(part.cost(wide[:-1], wide[1:]).requests)
    return Storage(
        np.concatenate(edges) if chunked else None,
        row_bytes=max(part.row_bytes for part in parts),
        columns=max(part.columns for part in parts),
        read_bytes=max(part.read_bytes for part in parts),
        bytes_before=np.cumsum(np.concatenate(sizes)),
        groups=np.concatenate(groups),
        requests_before=np.cumsum(np.concatenate(requests)),
        split=all(part.split for part in parts),
    )


def total_cost(variables: Sequence[Storage], begin: ArrayLike, end: ArrayLike) -> Cost:
    """Add up the cost of the rows ``[begin, end)`` of several variables.

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


def _touched(edges: Edges, begin: ArrayLike, end: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the last edge at or before each begin, and the first at or after each end."""
    return edges.searchsorted(begin, side="right") - 1, edges.searchsorted(end, side="left")


def _united(begin: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Unite ranges that overlap; rising."""
    order = np.argsort(begin, kind="stable")
    begin, reach = begin[order], np.maximum.accumulate(end[order])
    opens = np.append(True, begin[1:] >= reach[:-1])[: len(begin)]
    return begin[opens], reach[np.append(opens[1:], True)[: len(begin)]]


def _clipped(edges: Edges, size: int) -> NDArray[np.int64]:
    """Clip increasing edges to ``[0, size]``, each once."""
    return np.unique(np.clip(np.asarray(edges), 0, size))
