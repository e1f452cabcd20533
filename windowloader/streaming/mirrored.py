"""The cached tier once everything is on this node: windows are indexed in the mirror, in the order of the stream.

In: the way to the rows that a stream has, and the cached sources among its variables. Out: a way that asks at the
beginning of each epoch which of the two it is. Never changes the order: it is that of the blocks either way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from windowloader.axes import canonical
from windowloader.gathering.rows import Others, Piece

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from windowloader.assembly.variable import Variable
    from windowloader.blocks import BlockAccess
    from windowloader.gather import Recipe
    from windowloader.gathering.rows import RowAccess, RowStream
    from windowloader.shard import Position
    from windowloader.sources.cached import CachedSource
    from windowloader.windows import WindowSet

    from .direct import DirectAccess
    from .reading import Reading

__all__ = ["MirroredAccess", "mirrored"]


def mirrored(
    access: BlockAccess | DirectAccess,
    windows: WindowSet,
    recipe: Recipe,
    reading: Reading,
    views: Mapping[int, np.ndarray],
) -> RowAccess:
    """Let epochs run from mirrors where each variable that is read step by step has one; else ``access`` itself.

    Parameters
    ----------
    access : BlockAccess or DirectAccess
    windows : WindowSet
    recipe : Recipe
    reading : Reading
    views : mapping of int to ndarray
        Variables that are addressable anyway, by their place in the recipe.

    Returns
    -------
    RowAccess
    """
    places = [place for place in range(len(recipe.variables)) if place not in {*views, *reading.held}]
    variables = {place: windows.series.variables[recipe.variables[place]] for place in places}
    if not all(hasattr(variable.source, "rows_held") for variable in variables.values()):
        return access
    if reading.lanes is not None:
        begin, end = reading.lanes.grid.begin, reading.lanes.grid.end
    else:
        begin, end = (np.array([row], np.int64) for row in windows.row_range)
    used = np.unique(np.concatenate([role.offsets for role in recipe.roles]))
    return MirroredAccess(access, variables, views, reading, (begin, end), (int(used[0]), int(used[-1]) + 1))


class MirroredAccess:
    """A stream's rows, from the mirror in epochs that begin when it has them all.

    Parameters
    ----------
    access : BlockAccess or DirectAccess
        What is used until then.
    variables : mapping of int to Variable
        Cached ones, by their place in the recipe.
    views : mapping of int to ndarray
        Addressable ones.
    reading : Reading
        Has those that are held whole.
    rows : tuple of ndarray, shape (n,), int64
        Where ranges of rows that windows use begin, and end.
    reach : tuple of int
        First row and end of what a window reads, counted from its start.
    """

    def __init__(
        self,
        access: BlockAccess | DirectAccess,
        variables: Mapping[int, Variable],
        views: Mapping[int, np.ndarray],
        reading: Reading,
        rows: tuple[np.ndarray, np.ndarray],
        reach: tuple[int, int],
    ) -> None:
        self._access, self._variables, self._views = access, dict(variables), dict(views)
        self._held, self._rows, self._reach = reading.held, rows, reach

    @property
    def _sources(self) -> list[CachedSource]:
        return [variable.source for variable in self._variables.values()]  # type: ignore[misc]

    def stream(self, position: Position) -> RowStream:
        """Rows for an iterator that begins at a position."""
        if not all(source.rows_held(*self._rows) for source in self._sources):
            return self._access.stream(position)
        views = dict(self._views)
        for place, variable in self._variables.items():
            view = canonical(variable.source.mapped(), variable.source.axes)  # type: ignore[attr-defined]
            if view is None:  # axes that cannot be brought together where they lie
                return self._access.stream(position)
            views[place] = view
        self._access.rest()
        return _Mirrored(self._sources, Others(len(views) + len(self._held), views, self._held), self._reach)

    def close(self) -> None:
        """Let go of the stream's own; the sources belong to the series."""
        self._access.close()


class _Mirrored:
    """Whole arrays in mirrors, each window at its start; blocks are compared with their checksums when first used."""

    reads = None

    def __init__(self, sources: list[CachedSource], others: Others, reach: tuple[int, int]) -> None:
        self._sources, self._others, self._reach = sources, others, reach

    def pieces(self, index: int, position: Position, starts: np.ndarray) -> Generator[Piece]:
        """Yield all windows of a batch at once."""
        first, last = self._reach
        for source in self._sources:
            source.require(starts + first, starts + last)
        yield Piece(self._others.beside([], starts), 0, len(starts))

    def fail(self, index: int) -> None:
        """Nobody waits."""

    def close(self, *, wait: bool = False) -> None:
        """Nothing to let go of."""

    def abandon(self) -> None:
        """Nothing to let go of."""
