"""Reads windows by number, any number of times: names, loops and row access are resolved once.

In: a window set and how its batches should look. Out: one `Batch` for each list of window numbers. Independent of
orders, epochs and ranks; starts no thread.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.rows.rows import row_access

from .batch import Batch
from .buffers import BufferPool
from .recipe import Recipe
from .roles import WindowReadOptions

if TYPE_CHECKING:
    from typing import Unpack

    from windowloader.windows.window_set import WindowSet

__all__ = ["WindowReadOptions", "WindowReader"]

POOLED_BYTES = 1 << 18  # larger batches would cost page faults each time


def _compiled(windows: WindowSet, options: WindowReadOptions) -> Recipe:
    """Compile a recipe, or take the last one of these windows where the same objects were given."""
    key = [(name, id(value)) for name, value in sorted(options.items())]
    if not windows.compiled or windows.compiled[0] != key:
        recipe = Recipe.compile(windows.series, windows.spec, **options)
        windows.compiled[:] = key, recipe, options  # the last keeps the objects, and so their ids
    found: Recipe = windows.compiled[1]
    return found


class WindowReader:
    """Reads windows by number, in any order and from any thread.

    Parameters
    ----------
    windows : WindowSet
    **options
        As in `WindowSet.read`.

    Attributes
    ----------
    windows : WindowSet
    recipe : Recipe

    Examples
    --------
    >>> import windowloader as wl
    >>> windows = wl.WindowSet(wl.Series(np.arange(20.0).reshape(10, 2)), wl.WindowSpec(lookback=3, horizon=1))
    >>> with WindowReader(windows, dtype="float64") as reader:
    ...     batch = reader.read(np.array([4, 0]))
    >>> batch.inputs[:, :, 0, 0]
    array([[ 8., 10., 12.],
           [ 0.,  2.,  4.]])
    """

    __slots__ = ("_access", "_options", "_pool", "recipe", "windows")

    def __init__(self, windows: WindowSet, **options: Unpack[WindowReadOptions]) -> None:
        self.windows = windows
        self.recipe = _compiled(windows, options)
        self._options = options
        self._pool: BufferPool | None = None
        self._access = row_access(windows.series, self.recipe.variables, windows.spec.span)

    def read(self, positions: np.ndarray, *, graph: bool = True, out: dict[str, Any] | None = None) -> Batch:
        """Read some windows as one batch, which stays valid as long as one of its arrays is referenced.

        Parameters
        ----------
        positions : ndarray of int, shape (batch,)
            Window numbers; repeats are kept.
        graph : bool
            False: deliver no graph, which saves assembling the edges of a dynamic one.
        out : dict of str to ndarray, optional
            The arrays to fill, those of ``recipe.fields``. None: new ones.

        Returns
        -------
        Batch

        Raises
        ------
        IndexError
            For a number outside ``[0, len)``.
        """
        windows = self.windows
        starts = windows.starts(positions)
        arrays = self._arrays(len(starts)) if out is None else out
        for piece in self._access.pieces(starts):
            self.recipe.gather(arrays, starts, piece.rows, begin=piece.begin, end=piece.end)
        return Batch(
            **arrays,
            starts=starts,
            entities=windows.series.entity_of(starts),
            graph=windows.graph_at(starts) if graph else None,
        )

    def _arrays(self, batch: int) -> dict[str, Any]:
        """Memory for a batch, from a pool where it is large."""
        fields, size = self.recipe.fields(batch), self.recipe.nbytes(batch)
        if size < POOLED_BYTES:
            return {field.name: np.empty(field.shape, field.dtype) for field in fields}
        pool = self._pool
        if (
            pool is None or not size <= pool.nbytes < 2 * size
        ):  # a short batch would hold the memory of a whole one
            pool = self._pool = BufferPool(size, keep=4)
        return pool.lease().carve(fields)

    def close(self) -> None:
        """Release the rows; delivered batches stay valid."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._access.close()

    def __enter__(self) -> WindowReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(WindowReader, **self._options), (self.windows,)
