"""The cached tier once everything is on this node: windows are indexed in the mirror, in the order of the stream.

In: the way to the rows that a stream has, and the cached sources among its variables. Out: a way that asks at the
beginning of each epoch which of the two it is. Never changes the order: it is that of the blocks either way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from windowloader.sources.cached import CachedSource
from windowloader.util.axes import canonical

from .rows import Piece, ResidentVariables

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from windowloader.order.shard import Position
    from windowloader.series.variable import Variable
    from windowloader.sources.mirror import Mirror
    from windowloader.windows.reads import Reads
    from windowloader.windows.window_set import WindowSet

    from .blocks import BlockAccess
    from .direct import DirectAccess
    from .preloaded import PreloadedAccess
    from .read_plan import ReadPlan
    from .rows import RowAccess, RowStream

__all__ = ["MirroredAccess", "mirrored"]


def mirrored(
    access: BlockAccess | DirectAccess | PreloadedAccess,
    windows: WindowSet,
    reads: Reads,
    reading: ReadPlan,
    views: Mapping[int, np.ndarray],
) -> RowAccess:
    """Let epochs run from mirrors where each variable that is read step by step has one; else ``access`` itself.

    Parameters
    ----------
    access : BlockAccess, DirectAccess or PreloadedAccess
    windows : WindowSet
    reads : Reads
    reading : ReadPlan
    views : mapping of int to ndarray
        Variables that are addressable anyway, by their place in ``reads``.

    Returns
    -------
    RowAccess
    """
    places = [place for place in range(len(reads.variables)) if place not in {*views, *reading.held}]
    variables = {place: windows.series.variables[reads.variables[place]] for place in places}
    if not all(isinstance(variable.source, CachedSource) for variable in variables.values()):
        return access
    if reading.lanes is not None:
        begin, end = reading.lanes.grid.begin, reading.lanes.grid.end
    else:
        begin, end = (np.array([row], np.int64) for row in windows.row_range)
    used = reads.offsets
    return MirroredAccess(access, variables, views, reading, (begin, end), (int(used[0]), int(used[-1]) + 1))


class MirroredAccess:
    """A stream's rows, from the mirror in epochs that begin when it has them all.

    Parameters
    ----------
    access : BlockAccess, DirectAccess or PreloadedAccess
        What is used until then.
    variables : mapping of int to Variable
        Cached ones, by their place in ``reads``.
    views : mapping of int to ndarray
        Addressable ones.
    reading : ReadPlan
        Has those that are held whole.
    rows : tuple of ndarray, shape (n,), int64
        Where ranges of rows that windows use begin, and end.
    reach : tuple of int
        First row and end of what a window reads, counted from its start.
    """

    def __init__(
        self,
        access: BlockAccess | DirectAccess | PreloadedAccess,
        variables: Mapping[int, Variable],
        views: Mapping[int, np.ndarray],
        reading: ReadPlan,
        rows: tuple[np.ndarray, np.ndarray],
        reach: tuple[int, int],
    ) -> None:
        self._access, self._variables, self._views = access, dict(variables), dict(views)
        self._held, self._rows, self.reach = reading.held, rows, reach

    @property
    def sources(self) -> list[CachedSource]:
        """Cached ones."""
        return [variable.source for variable in self._variables.values()]  # type: ignore[misc]

    def stream(self, position: Position) -> RowStream:
        """Rows for an iterator that begins at a position."""
        if not all(source.rows_held(*self._rows) for source in self.sources):
            return self._access.stream(position)
        mirrors = [source.mirror() for source in self.sources]
        others = self.others(mirrors)
        if others is None:  # removed this moment, or axes that cannot be brought together where they lie
            return self._access.stream(position)
        self._access.rest()
        return _Mirrored(self, mirrors, others)

    def others(self, mirrors: Sequence[Mirror | None]) -> ResidentVariables | None:
        """Return all variables, the cached ones where these mirrors have them; None where one is no view."""
        views: dict[int, np.ndarray | None] = dict(self._views)
        for mirror, (place, variable) in zip(mirrors, self._variables.items(), strict=True):
            views[place] = None if mirror is None else canonical(mirror.rows, variable.source.axes)
        found = {place: view for place, view in views.items() if view is not None}
        return (
            ResidentVariables(len(views) + len(self._held), found, self._held)
            if len(found) == len(views)
            else None
        )

    def close(self) -> None:
        """Let go of the stream's own; the sources belong to the series."""
        self._access.close()


class _Mirrored:
    """Whole arrays in mirrors, each window at its start; blocks are compared with their checksums when first used."""

    reads = None

    def __init__(
        self, access: MirroredAccess, mirrors: Sequence[Mirror | None], others: ResidentVariables
    ) -> None:
        self._access = access
        self._kept = mirrors, others

    def pieces(self, index: int, position: Position, starts: np.ndarray) -> Generator[Piece]:
        """Yield all windows of a batch at once, and again where somebody changed the mirror meanwhile."""
        begin, end = (starts + reach for reach in self._access.reach)
        whole = False
        while not whole:
            found = [source.require(begin, end) for source in self._access.sources]
            yield Piece(self._others([mirror for mirror, _ in found]).beside([], starts), 0, len(starts))
            whole = all(mirror.unwritten(seen) or mirror.has(begin, end) for mirror, seen in found)

    def _others(self, mirrors: list[Mirror]) -> ResidentVariables:
        """Return all variables; mirrors that were dropped are others now."""
        kept, others = self._kept
        if kept != mirrors:
            found = self._access.others(mirrors)
            assert found is not None  # one form, one layout
            self._kept = mirrors, others = mirrors, found
        return others

    def fail(self, index: int) -> None:
        """Nobody waits."""

    def close(self, *, wait: bool = False) -> None:
        """Nothing to let go of."""

    def abandon(self) -> None:
        """Nothing to let go of."""
