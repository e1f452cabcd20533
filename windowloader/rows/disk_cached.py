"""The cached tier once all rows are on this node's disk: windows are indexed in the file, in the order of the stream.

In: the access that a stream has, and the cached sources among its variables. Out: an access that decides at the
beginning of each epoch which of the two it uses. Never changes the order: it is that of the blocks either way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from windowloader.sources.disk_cache_source import CachedSource
from windowloader.util.axes import canonical

from .rows import Piece, RowAccess

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from windowloader.order.shard import Position, Step
    from windowloader.windows.reads import Reads
    from windowloader.windows.window_set import WindowSet

    from .rows import ResidentVariables, RowStream
    from .streamed import StreamAccess

__all__ = ["CachedAccess", "cached_access"]


def cached_access(access: StreamAccess, windows: WindowSet, reads: Reads) -> RowAccess:
    """Let epochs run from the disk cache where every variable that is read step by step is cached.

    Parameters
    ----------
    access : StreamAccess
        Used until all rows are cached.
    windows : WindowSet
    reads : Reads

    Returns
    -------
    RowAccess
        ``access`` itself where a variable is not cached.
    """
    sources = [one.variable.source for one in access.plan.stored]
    streamed = [source for source in sources if isinstance(source, CachedSource)]
    if len(streamed) < len(sources):
        return access
    if access.plan.lanes is not None:
        rows = access.order.grid.begin, access.order.grid.end
    else:
        begin, end = windows.row_range
        rows = np.array([begin], np.int64), np.array([end], np.int64)
    cached = dict(zip(access.others.missing, streamed, strict=True))
    return CachedAccess(access, cached, rows, (int(reads.offsets[0]), int(reads.offsets[-1]) + 1))


class CachedAccess(RowAccess):
    """Rows of a stream, from the disk cache in epochs that begin when it has them all.

    Parameters
    ----------
    access : StreamAccess
        Used until then.
    sources : mapping of int to CachedSource
        By their place in the recipe.
    rows : tuple of ndarray, shape (n,), int64
        First row and end of each range of rows that windows use.
    reach : tuple of int
        First row and end of what a window reads, counted from its start.
    """

    def __init__(
        self,
        access: StreamAccess,
        sources: Mapping[int, CachedSource],
        rows: tuple[np.ndarray, np.ndarray],
        reach: tuple[int, int],
    ) -> None:
        self._access, self.sources, self._rows, self.reach = access, sources, rows, reach

    def stream(self, position: Position) -> RowStream:
        """Rows for an iterator that begins at a position."""
        sources = self.sources.values()
        arrays = [entry.rows for source in sources if (entry := source.entry()) is not None]
        held = len(arrays) == len(sources) and all(source.rows_held(*self._rows) for source in sources)
        if not held or self.variables(arrays) is None:
            return self._access.stream(position)
        self._access.rest()
        return _CachedStream(self)

    def variables(self, arrays: list[np.ndarray]) -> ResidentVariables | None:
        """Return all variables, those of `sources` in these arrays; None where axes cannot be reordered as a view."""
        views = {}
        for array, (place, source) in zip(arrays, self.sources.items(), strict=True):
            view = canonical(array, source.axes)
            if view is None:
                return None
            views[place] = view
        return self._access.others.joined(views)

    def reads_on(self, epoch: int) -> bool:
        """As the stream does."""
        return self._access.reads_on(epoch)

    def close(self) -> None:
        """Close the stream's access; the sources belong to the series."""
        self._access.close()


class _CachedStream:
    """Whole arrays in the disk cache, each window at its start; blocks are verified when they are first used."""

    reads = None

    def __init__(self, access: CachedAccess) -> None:
        self._access = access
        self._kept: tuple[list[np.ndarray], ResidentVariables] | None = None

    def pieces(self, index: int, step: Step, starts: np.ndarray) -> Generator[Piece]:
        """Yield all windows of a batch at once, and again where the files were changed meanwhile."""
        begin, end = (starts + reach for reach in self._access.reach)
        whole = False
        while not whole:
            found = [source.require(begin, end) for source in self._access.sources.values()]
            yield Piece(
                self._variables([entry.rows for entry, _ in found]).beside([], starts), 0, len(starts)
            )
            whole = all(entry.confirm(seen, begin, end) for entry, seen in found)

    def _variables(self, arrays: list[np.ndarray]) -> ResidentVariables:
        kept = self._kept
        if kept is None or any(one is not other for one, other in zip(kept[0], arrays, strict=True)):
            variables = self._access.variables(arrays)
            assert variables is not None  # all entries of an array have one layout
            self._kept = kept = arrays, variables
        return kept[1]

    def fail(self, index: int) -> None:
        """Nothing waits for a batch."""

    def close(self, *, wait: bool = False) -> None:
        """Nothing is kept."""

    def abandon(self) -> None:
        """Nothing is kept."""
