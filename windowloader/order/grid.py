"""Where a stream is cut into blocks: runs of rows read together, of which a window needs at most two.

In: where windows start, how each variable is stored, rows per block. Out: a `Grid`. Never reads, never
draws, never knows of memory (``budget`` chooses the rows per block, ``lanes`` puts blocks in order).

A block border lies where a chunk ends in storage, so that each chunk belongs to one block. Where variables
are chunked differently, `cuts` offers several grids: borders on edges that all variables share, so that each chunk is
read once; on the edges of one of them; on all edges. Regular edges are arithmetic throughout: what is stored are the
borders of blocks, never those of cells. A chunk that straddles a border is read by both blocks, and
``Storage.cost`` counts it twice; ``budget`` takes the grid that reads least among those that fit. Rows that no window
uses are cut off at a block's ends; a chunk without such rows ends a block; blocks without windows do not exist. Borders
between segments need no cut: no window crosses them, and cutting would read the chunk they lie in twice.

With `Grid.halo` (where four spans of rows do not fit in memory) a window starts in a block of few rows and
the block reads the ``span − 1`` rows behind it as well, so that no window touches two.

An executor needs `Grid.locate`: a window that crosses lies in the overlap between its block and the next,
else in its block alone, ``start − begin[block]`` rows from the block's first.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Protocol

import numpy as np

from windowloader.errors import LoaderError
from windowloader.sources.regular import RegularEdges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from windowloader.sources.regular import Edges
    from windowloader.sources.storage import Storage

__all__ = ["SPANS", "Grid", "SortedStarts", "block_rows", "cut", "cuts"]

SPANS = 4  # spans of rows a block has at least: then at most a quarter of its windows cross into the next
_BYTES = 1 << 20  # bytes a block has at least, so that a request is worth its latency


class SortedStarts(Protocol):
    """Rows where windows start, in time order: what order and grid need to know of a window set."""

    @property
    def rising(self) -> bool:
        """Whether each start lies after the one before; what is not cannot be ordered by blocks."""
        ...

    def __len__(self) -> int:
        """How many windows there are."""
        ...

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the start rows of the windows numbered ``positions``."""
        ...

    def rank(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each row how many windows start before it."""
        ...

    def gaps(self, rows: int) -> NDArray[np.int64]:
        """Return the numbers of the windows after whose start the next one comes more than ``rows`` later."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Blocks in time order: block ``k`` reads the rows ``[begin[k], end[k])``.

    Parameters
    ----------
    begin, end : ndarray, shape (blocks,), int64
        Both rise; blocks overlap only with ``halo``.
    span : int
        Rows of a window.
    rows : int
        Rows asked of a block; a block of one or more long chunks has more, one at a gap may have fewer.
    cells : tuple of int
        Of the edges on which borders may lie: they are ``phase + k·size`` for (size, phase). (0, 0): not regular.

    Examples
    --------
    >>> grid = Grid(np.array([0, 100]), np.array([100, 180]), span=24, rows=96)
    >>> grid.locate([10, 80])
    (array([0, 0]), array([False,  True]))
    """

    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    span: int = field(kw_only=True)
    rows: int = field(kw_only=True)
    cells: tuple[int, int] = field(default=(0, 0), kw_only=True)

    def __post_init__(self) -> None:
        if self.begin.shape != self.end.shape or np.any(self.end <= self.begin):
            raise LoaderError("a grid's blocks must each end after they begin.")
        if np.any(np.diff(self.begin) <= 0) or (not self.halo and np.any(self.begin[1:] < self.end[:-1])):
            raise LoaderError("a grid's blocks must follow one another in time.")

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def halo(self) -> bool:
        """Whether blocks read the rows behind them too, so that no window touches two."""
        return self.rows < SPANS * self.span

    @property
    def largest(self) -> int:
        """Rows of the longest block, which a place in the arena must hold; 0 without blocks."""
        return int((self.end - self.begin).max()) if len(self) else 0

    def hash(self) -> str:
        """Return 16 hex digits that differ where a border differs; part of a run's state."""
        digest = hashlib.blake2b(f"{self.span},{self.rows};".encode(), digest_size=8)
        for rows in (self.begin, self.end):
            digest.update(rows.astype("<i8").tobytes())
        return digest.hexdigest()

    def locate(self, starts: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Find the block each window starts in, and whether it reaches into the next.

        Parameters
        ----------
        starts : array_like of int, shape (n,)
            First rows of windows.

        Returns
        -------
        block : ndarray, shape (n,), int64
        crosses : ndarray, shape (n,), bool
        """
        starts = np.asarray(starts, np.int64)
        block = np.searchsorted(self.begin, starts, side="right") - 1
        return block, starts + self.span > self.end[block]

    def counts(
        self, starts: SortedStarts, blocks: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Count the windows up to blocks: the table that order and plan are made from.

        Parameters
        ----------
        starts : SortedStarts
        blocks : ndarray, shape (n,), int64

        Returns
        -------
        own, inside, end : ndarray, shape (n,), int64
            Windows ``[own[i], inside[i])`` touch only block ``blocks[i]``, ``[inside[i], end[i])`` also the next one.
        """
        own = starts.rank(self.begin[blocks])
        following = np.minimum(blocks + 1, len(self) - 1)
        end = np.where(blocks == following, len(starts), starts.rank(self.begin[following]))
        return own, np.clip(starts.rank(self.end[blocks] - self.span + 1), own, end), end


def block_rows(span: int, row_bytes: int) -> int:
    """Return how many rows a block has at least: four spans, and 1 MiB.

    Parameters
    ----------
    span : int
        Rows of a window.
    row_bytes : int
        Decoded bytes of a row, all variables together.

    Returns
    -------
    int

    Examples
    --------
    >>> block_rows(24, 4 * 207), block_rows(24, 4 * 11_160)
    (1267, 96)
    """
    return max(SPANS * span, -(-_BYTES // row_bytes))


def cut(
    starts: SortedStarts,
    variables: Sequence[Storage],
    *,
    span: int,
    rows: int,
    like: str | tuple[int, int] = "",
) -> Grid:
    """Cut the rows that windows use into blocks of at least ``rows`` rows, on edges of chunks.

    Parameters
    ----------
    starts : SortedStarts
        Where windows start.
    variables : sequence of Storage
        Storage of every variable that is read by blocks; small ones are better held whole and left out.
    span : int
        Rows of a window.
    rows : int
        Rows of a block, as `block_rows` or a run's parameters have it. Under four spans blocks have at most
        so many starts and read their halo.
    like : str or tuple of int
        Of a run that is resumed: `Grid.hash`, for the grid of `cuts` that has it; or `Grid.cells`, whatever the chunks
        of ``variables`` are.

    Returns
    -------
    Grid
        The first of `cuts` where none has that hash.

    Raises
    ------
    LoaderError
        Where ``span`` or ``rows`` is not positive, or nothing is read.

    Examples
    --------
    >>> from windowloader.sources.storage import Storage
    >>> from windowloader.windows.index import Runs
    >>> starts = Runs.of_segments(np.array([0, 1023]), span=24, stride=1)
    >>> storage = Storage(np.array([0, 300, 600, 900, 1200]), row_bytes=4)
    >>> grid = cut(starts, [storage], span=24, rows=96)
    >>> grid.begin.tolist(), grid.end.tolist()
    ([0, 300, 600, 900], [300, 600, 900, 1023])
    """
    if isinstance(like, tuple):
        return next(cuts(starts, variables, span=span, rows=rows, cells=like))
    grids = cuts(starts, variables, span=span, rows=rows)
    first = next(grids)
    return (
        next((grid for grid in grids if grid.hash() == like), first)
        if like not in ("", first.hash())
        else first
    )


def cuts(
    starts: SortedStarts,
    variables: Sequence[Storage],
    *,
    span: int,
    rows: int,
    cells: tuple[int, int] | None = None,
) -> Iterator[Grid]:
    """Yield the grids of `cut`: on edges that all variables share, on those of each, on all edges.

    Parameters
    ----------
    starts, variables, span, rows
        As for `cut`.
    cells : tuple of int, optional
        `Grid.cells` to take in place of the variables' chunks.

    Yields
    ------
    Grid
        At least one; one alone where at most one variable is chunked.
    """
    if span < 1 or rows < 1 or not variables:
        raise LoaderError(f"span={span}, rows={rows}, {len(variables)} variables: each must be at least 1.")
    if len(starts) == 0:
        yield Grid(np.empty(0, np.int64), np.empty(0, np.int64), span=span, rows=rows)
        return
    first, last = (int(row) for row in starts(np.array([0, len(starts) - 1], np.int64)))
    halo = rows < SPANS * span
    reach = 1 if halo else span
    stop = last + reach
    for edges in (
        _cells(variables, first, stop, rows) if cells is None else [RegularEdges(first, stop, *cells)]
    ):
        borders = [
            _few(edges, low, high, rows) if halo else _many(edges, low, high, rows)
            for low, high in _islands(edges, starts, reach)
        ]
        begin = np.concatenate([run[:-1] for run in borders])
        end = np.concatenate([run[1:] for run in borders])
        if halo:  # blocks in which no window starts
            used = starts.rank(end) > starts.rank(begin)
            begin, end = begin[used], end[used]
        regular = (edges.size, edges.phase % edges.size) if isinstance(edges, RegularEdges) else (0, 0)
        yield Grid(*_trim(begin, end, starts, span, halo), span=span, rows=rows, cells=regular)


def _cells(variables: Sequence[Storage], first: int, stop: int, rows: int) -> Iterator[Edges]:
    """Yield the edges on which borders may lie between two rows: several choices, each once."""
    chunked = sorted((v for v in variables if v.edges is not None), key=lambda v: -v.row_bytes)
    own = [_between(v.edges, first, stop) for v in chunked if v.edges is not None]
    if not own:  # any range can be read: cells short enough to leave out what is not used
        yield _between(RegularEdges(first, stop, max(1, rows // 8), first), first, stop)
        return
    seen: list[Edges] = []
    for among, choose in ((own, _shared), *(([edges], _shared) for edges in own), (own, _united)):
        edges = reduce(choose, among)
        if not any(_same(edges, other) for other in seen):
            seen.append(edges)
            yield edges


def _between(edges: Edges, first: int, stop: int) -> Edges:
    """Cut edges off at two rows."""
    if isinstance(edges, RegularEdges):
        edges = replace(edges, first=first, stop=stop)
        return edges if len(edges) > 3 else _regular(np.asarray(edges))
    return _regular(
        np.concatenate([[first], edges[(edges > first) & (edges < stop)], [stop]]).astype(np.int64)
    )


def _regular(edges: NDArray[np.int64]) -> Edges:
    """Say a table of edges as arithmetic, where it is regular."""
    first, inner, stop = int(edges[0]), edges[1:-1], int(edges[-1])
    if len(inner) < 2:
        border = int(inner[0]) if len(inner) else stop
        size = max(border - first, stop - border, 1)
    else:
        border, size = int(inner[0]), int(inner[1] - inner[0])
    found = RegularEdges(first, stop, size, border % size)
    return found if len(found) == len(edges) and np.array_equal(np.asarray(found), edges) else edges


def _same(one: Edges, other: Edges) -> bool:
    if isinstance(one, RegularEdges) and isinstance(other, RegularEdges):
        return (one.size, (one.phase - other.phase) % one.size) == (other.size, 0)
    return len(one) == len(other) and np.array_equal(np.asarray(one), np.asarray(other))


def _shared(one: Edges, other: Edges) -> Edges:
    """Return the edges that both have, between the same two rows."""
    if not (isinstance(one, RegularEdges) and isinstance(other, RegularEdges)):
        return _regular(np.intersect1d(np.asarray(one), np.asarray(other)))
    common = math.gcd(one.size, other.size)
    apart, rest = divmod(other.phase - one.phase, common)
    if rest:
        return _regular(np.array([one.first, one.stop], np.int64))
    period = other.size // common
    phase = one.phase + one.size * (apart * pow(one.size // common, -1, period) % period)
    return _between(replace(one, size=one.size * period, phase=phase), one.first, one.stop)


def _united(one: Edges, other: Edges) -> Edges:
    """Return the edges that either has."""
    return _regular(np.union1d(np.asarray(one), np.asarray(other)))


def _islands(edges: Edges, starts: SortedStarts, reach: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows between cells that no window uses, from the first row that one uses to the last."""
    ends = starts.gaps(reach)
    left, right = edges.searchsorted(starts(ends) + reach), edges.searchsorted(starts(ends + 1), side="right")
    ends = ends[left < right - 1]  # a whole cell lies between
    low = starts(np.append(0, ends + 1))
    high = starts(np.append(ends, len(starts) - 1)) + reach
    yield from zip(low.tolist(), high.tolist(), strict=True)


def _trim(
    begin: NDArray[np.int64], end: NDArray[np.int64], starts: SortedStarts, span: int, halo: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut unused rows off both ends of blocks; with ``halo``, stretch each to the end of its last window."""
    before = starts.rank(begin)
    covered = (before > starts.rank(begin - span + 1)) & (not halo)  # a window from before reaches in
    low = np.where(covered, begin, starts(np.minimum(before, len(starts) - 1)))
    high = starts(starts.rank(end) - 1) + span
    return low, high if halo else np.minimum(high, end)


def _many(edges: Edges, low: int, high: int, rows: int) -> NDArray[np.int64]:
    """Keep edges at least ``rows`` apart, as evenly as they allow; a short rest joins its neighbour."""
    begin, end = int(edges.searchsorted(low, side="right")), int(edges.searchsorted(high))
    if high - low < 2 * rows:
        return np.array([low, high], np.int64)
    if isinstance(edges, RegularEdges):
        long = edges.size >= rows or end - begin < 2
    else:
        long = bool(np.all(np.diff(edges[begin:end]) >= rows))
    if long:  # a chunk is a block; only the ends, cut off, may be short
        inner = edges[begin:end]
        inner = inner[(inner - low >= rows) & (high - inner >= rows)]
    else:
        if isinstance(edges, RegularEdges):
            spread = partial(_spread_evenly, edges, low, high, rows)
        else:
            spread = partial(_spread, np.append(edges[begin:end], high), low, high, rows)
        inner = spread((high - low) // rows)
        again = spread(len(inner) + 1)  # fewer than hoped for: so many, then, but evenly
        inner = again if len(again) == len(inner) else inner
    return np.concatenate([[low], inner, [high]])


def _spread(edges: NDArray[np.int64], low: int, high: int, rows: int, blocks: int) -> NDArray[np.int64]:
    """Choose borders at least ``rows`` apart, each on the first edge after its share of the rows."""
    table, borders = edges.tolist(), [low]
    for i in range(1, blocks):
        wanted = max(borders[-1] + rows, low + i * (high - low) // blocks)
        edge = table[bisect_left(table, wanted)]
        if high - edge < rows:
            break
        borders.append(edge)
    return np.array(borders[1:], np.int64)


def _spread_evenly(edges: RegularEdges, low: int, high: int, rows: int, blocks: int) -> NDArray[np.int64]:
    """Do so for regular edges: each border lies a whole number of cells after the one before, or on its share."""
    number = np.arange(1, blocks, dtype=np.int64)
    wanted = low + number * (high - low) // blocks
    wanted[:1] = np.maximum(wanted[:1], low + rows)
    least = number * (-(-rows // edges.size) * edges.size)
    borders = np.maximum.accumulate(edges[edges.searchsorted(wanted)] - least) + least
    return borders[high - borders >= rows]


def _few(edges: Edges, low: int, high: int, rows: int) -> NDArray[np.int64]:
    """Cut into at most ``rows`` rows each, on an edge where one is near enough."""
    if isinstance(edges, RegularEdges):
        inner = _few_evenly(edges, low, high, rows)
        return np.concatenate([[low], inner[: np.searchsorted(inner, high - rows) + 1], [high]])
    inner = edges[int(edges.searchsorted(low, side="right")) : int(edges.searchsorted(high))]
    table, borders = [low, *inner.tolist(), high], [low]
    while high - borders[-1] > rows:
        edge = table[bisect_right(table, borders[-1] + rows) - 1]
        borders.append(edge if edge > borders[-1] else borders[-1] + rows)
    return np.array([*borders, high], np.int64)


def _few_evenly(edges: RegularEdges, low: int, high: int, rows: int) -> NDArray[np.int64]:
    """Return such borders between regular edges, and perhaps some beyond those that are needed."""
    size = edges.size
    if high - low <= rows:
        return np.empty(0, np.int64)
    if size <= rows:
        begin = low + rows - (low + rows - edges.phase) % size
        return np.arange(begin, high, rows // size * size, dtype=np.int64)
    begin = low + size - (low - edges.phase) % size  # the first edge after `low`
    head = np.arange(low + rows, min(begin, high), rows, dtype=np.int64)
    inner = np.arange(begin, high, size, dtype=np.int64)[:, np.newaxis] + np.arange(0, size, rows)
    return np.concatenate([head, inner.reshape(-1)])
