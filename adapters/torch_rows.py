"""Rows that all live on a device, sent once.

In: a recipe, a window set, a device; then starts, batch by batch. Out: the arrays of batches on the device. A batch
sends its starts. Never decides which windows a batch has.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from windowloader.adapters.torch_tables import DeviceTables
from windowloader.rows.rows import row_access

if TYPE_CHECKING:
    from collections.abc import Iterator

    from windowloader.batch.recipe import Recipe
    from windowloader.order.shard import Steps
    from windowloader.rows.rows import Piece
    from windowloader.util.ranks import Ranks
    from windowloader.windows.window_set import WindowSet

__all__ = ["DeviceRows", "rows_of_rank"]

PIECE = 32 * 1024 * 1024  # bytes made on the host before they go to the device


def rows_of_rank(windows: WindowSet, steps: Steps, ranks: Ranks) -> tuple[int, int]:
    """Return the rows that a rank's windows can read: its lanes' where it reads whole ones in order, else all.

    Parameters
    ----------
    windows : WindowSet
    steps : Steps
    ranks : Ranks

    Returns
    -------
    begin, end : int
    """
    order, world = steps.order, ranks.world_size
    sizes = order.lane_sizes(0)
    if world == 1 or not order.name.startswith("sequential") or len(sizes) % world or not sizes.all():
        return windows.row_range
    share = len(sizes) // world
    borders = np.concatenate(([0], np.cumsum(sizes)))
    first, last = int(borders[ranks.rank * share]), int(borders[(ranks.rank + 1) * share])
    lanes = (ranks.rank * share, (ranks.rank + 1) * share - 1)
    ends = order.lane(0, lanes[0], 0, 1)[0], order.lane(0, lanes[1], sizes[lanes[1]] - 1, sizes[lanes[1]])[0]
    if ends != (first, last - 1):  # lanes that are no stretches of time
        return windows.row_range
    return windows.take(range(first, last)).row_range


class DeviceRows:
    """Rows ``[begin, end)`` of a window set on a device.

    Parameters
    ----------
    windows : WindowSet
    recipe : Recipe
        What batches look like.
    device : torch.device
    begin, end : int
        Rows of the series.

    Attributes
    ----------
    moved_bytes : int
        Sent to the device so far.

    Raises
    ------
    LoaderError
        Where the device has not enough memory.
    """

    def __init__(
        self, windows: WindowSet, recipe: Recipe, device: torch.device, *, begin: int, end: int
    ) -> None:
        self.begin, self.end = begin, end
        self._tables = DeviceTables(recipe, device, end - begin)
        self._offsets = [torch.from_numpy(role.offsets).to(device) for role in recipe.roles]
        self._load(windows, recipe)
        self._lock = threading.Lock()
        self.moved_bytes = self._tables.nbytes

    def _load(self, windows: WindowSet, recipe: Recipe) -> None:
        """Make the rows piece by piece, and copy them."""
        row_bytes = max(1, self._tables.tables.nbytes(1))
        piece = max(1, min(self.end - self.begin, PIECE // row_bytes))
        access = row_access(windows.series, recipe.variables, 1)
        try:
            for first in range(self.begin, self.end, piece):
                starts = np.arange(first, min(first + piece, self.end))
                place = slice(first - self.begin, first - self.begin + len(starts))
                for part in access.pieces(starts):  # one: all at once
                    if recipe.guard is not None:
                        recipe.guard.check_rows(windows, first, part.rows)
                    self._tables.put(place, starts, part.rows)
        finally:
            access.close()

    def gather(self, starts: np.ndarray, pieces: Iterator[Piece]) -> dict[str, torch.Tensor]:
        """Make the arrays of a batch.

        Parameters
        ----------
        starts : ndarray, shape (batch,), int64
            First rows of windows, in the series.
        pieces : iterator of Piece
            Not looked at.

        Returns
        -------
        dict of str to Tensor
            As the core's gather delivers them; queued on the calling thread's stream.
        """
        del pieces
        own = self._tables.to_device(starts - self.begin)
        with self._lock:  # batches are made by several threads
            self.moved_bytes += own.nbytes
        places = [own[:, None] + offsets for offsets in self._offsets]
        return self._tables.deliver([self._tables.pick(places)])
