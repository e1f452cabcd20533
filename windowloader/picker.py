"""Windows by number, again and again: everything that can be settled is settled once.

In: a window set and how its batches should look. Out: one `Batch` for each list of window numbers. Knows of no order,
no epochs and no ranks, and starts no thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from .batch import Batch
from .gather import Recipe
from .rows import row_access

if TYPE_CHECKING:
    from typing import Unpack

    from .scaler import Scaler
    from .windows import WindowSet

__all__ = ["PickOptions", "Picker"]


class PickOptions(TypedDict, total=False):
    """How batches look: the arguments that `WindowSet.read` shares with `WindowLoader`."""

    scaler: Scaler | None
    scale_targets: bool
    fill: float | None
    dtype: str
    layout: str | tuple[str, str]
    broadcast: bool


class Picker:
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
    >>> with Picker(windows, dtype="float64") as picker:
    ...     batch = picker.read(np.array([4, 0]))
    >>> batch.inputs[:, :, 0, 0]
    array([[ 8., 10., 12.],
           [ 0.,  2.,  4.]])
    """

    __slots__ = ("_access", "_options", "recipe", "windows")

    def __init__(self, windows: WindowSet, **options: Unpack[PickOptions]) -> None:
        self.windows = windows
        self.recipe = Recipe.compile(windows.series, windows.spec, **options)
        self._options = options
        self._access = row_access(windows.series, self.recipe.variables, windows.spec.span)

    def read(self, positions: np.ndarray, *, graph: bool = True) -> Batch:
        """Read some windows as one batch of new arrays.

        Parameters
        ----------
        positions : ndarray of int, shape (batch,)
            Window numbers; repeats are kept.
        graph : bool
            False: the batch comes without a graph, which for a dynamic one saves putting its edges together.

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
        arrays: dict[str, Any] = {
            part.name: np.empty(part.shape, part.dtype) for part in self.recipe.fields(len(starts))
        }
        for piece in self._access.pieces(starts):
            self.recipe.gather(arrays, starts, piece.rows, begin=piece.begin, end=piece.end)
        return Batch(
            **arrays,
            starts=starts,
            entities=windows.series.entity_of(starts),
            graph=windows.graph_at(starts) if graph else None,
        )

    def close(self) -> None:
        """Let go of the rows."""
        self._access.close()

    def __enter__(self) -> Picker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.windows, self._options)


def _rebuilt(windows: WindowSet, options: PickOptions) -> Picker:
    return Picker(windows, **options)
