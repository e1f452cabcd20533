"""Rows that live on a device: all that the windows read, or as many as there is room for.

In: a window set, a recipe, a device; then starts, batch by batch. Out: the arrays of batches on the device. Rows that
all fit are sent once. Otherwise a row is sent when a window first needs it, and those used longest ago are replaced:
where the order stays in one part of the data for a while (blocks, time order), a row is sent about once per epoch.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from windowloader.adapters.torch.batch import batch_axes
from windowloader.adapters.torch.tables import DeviceTables
from windowloader.rows.rows import row_access
from windowloader.rows.strided import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from windowloader.batch.recipe import Recipe
    from windowloader.order.shard import Steps
    from windowloader.rows.rows import Piece
    from windowloader.util.ranks import Ranks
    from windowloader.windows.window_set import WindowSet

__all__ = ["DeviceRows", "Room", "rows_of_rank"]

LOADED_BYTES = 32 * 1024 * 1024  # of rows made on the host before they are sent to the device
EVICTED = 16  # the oldest sixteenth of the rows is replaced at once: finding the oldest scans all places


def rows_of_rank(windows: WindowSet, steps: Steps, ranks: Ranks) -> tuple[int, int]:
    """Return the rows that a rank's windows can read: its lanes' where it reads whole ones in order, else all."""
    order, world = steps.order, ranks.world_size
    sizes = order.lane_sizes(0)
    if world == 1 or not order.name.startswith("sequential") or len(sizes) % world or not sizes.all():
        return windows.row_range
    share = len(sizes) // world
    begin, end = ranks.rank * share, (ranks.rank + 1) * share
    borders = np.concatenate(([0], np.cumsum(sizes)))
    first, last = int(borders[begin]), int(borders[end])
    ends = order.lane(0, begin, 0, 1)[0], order.lane(0, end - 1, sizes[end - 1] - 1, sizes[end - 1])[0]
    if ends != (first, last - 1):  # lanes that are no stretches of time
        return windows.row_range
    return windows.take(range(first, last)).row_range


class Room:
    """Which row of the series is in which place; the rows used longest ago are replaced.

    Parameters
    ----------
    begin, end : int
        Rows of the series that may come.
    places : int

    Examples
    --------
    >>> room = Room(100, 110, places=3)
    >>> room.enter(np.array([100, 101])), room.enter(np.array([101, 105])), room.enter(np.array([107]))
    (array([0, 1]), array([1]), array([0]))
    >>> room.where(np.array([[101, 105], [107, 101]]))
    array([[1, 2],
           [0, 1]], dtype=int32)
    """

    def __init__(self, begin: int, end: int, *, places: int) -> None:
        self.begin, self.places = begin, places
        self._place = np.full(end - begin, -1, np.int32)  # of each row
        self._row = np.full(places, -1, np.int64)  # in each place, counted from ``begin``
        self._used = np.zeros(places, np.int64)  # when
        self._now = 0
        self._free = np.arange(places, dtype=np.int32)

    def enter(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give places to rows, distinct and at most as many as places; return the indices of those that are new.

        The values of new rows must be put into their places now.
        """
        self._now += 1
        own = rows - self.begin
        places = self._place[own]
        self._used[places[places >= 0]] = self._now
        absent = np.flatnonzero(places < 0)
        if len(absent) > len(self._free):
            self._evict(len(absent) - len(self._free))
        given, self._free = self._free[: len(absent)], self._free[len(absent) :]
        self._place[own[absent]] = given
        self._row[given] = own[absent]
        self._used[given] = self._now
        return absent

    def _evict(self, count: int) -> None:
        others = np.flatnonzero((self._used < self._now) & (self._row >= 0))
        most = min(max(count, self.places // EVICTED), len(others))
        oldest = others[np.argpartition(self._used[others], most - 1)[:most]].astype(np.int32)
        self._place[self._row[oldest]] = -1
        self._row[oldest] = -1
        self._free = np.concatenate((self._free, oldest))

    def leave(self, rows: NDArray[np.int64]) -> None:
        """Take out rows whose values did not come."""
        places = self._place[rows - self.begin]
        self._place[rows - self.begin] = -1
        self._row[places] = -1
        self._free = np.concatenate((self._free, places))

    def where(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the places of rows that are there, in the shape of ``rows``."""
        found: NDArray[np.int32] = self._place[rows - self.begin]
        return found


class DeviceRows:
    """Rows ``[begin, end)`` of a window set on a device: all of them, loaded now, or as many as there are places.

    Parameters
    ----------
    windows : WindowSet
    recipe : Recipe
    device : torch.device
    begin, end : int
        Rows of the series that windows read.
    places : int
        At least the rows of one batch.

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
        self, windows: WindowSet, recipe: Recipe, device: torch.device, *, begin: int, end: int, places: int
    ) -> None:
        self._recipe, self._begin = recipe, begin
        self._tables = DeviceTables(recipe, device, places)
        self._room = None if places == end - begin else Room(begin, end, places=places)
        self._row_bytes = self._tables.nbytes // max(1, places)
        self._window = recipe.reads.offsets
        steps = [
            role.offsets if self._room is None else np.searchsorted(self._window, role.offsets)
            for role in recipe.roles
        ]
        self._steps = [torch.from_numpy(one).to(device) for one in steps]
        self._axes = batch_axes(recipe)
        self._lock = threading.Lock()  # batches are made by several threads
        self.moved_bytes = 0
        if self._room is None:
            self._load(windows, end)

    def _load(self, windows: WindowSet, end: int) -> None:
        """Make all rows, a few at a time, and send them."""
        count = max(1, min(end - self._begin, LOADED_BYTES // max(1, self._row_bytes)))
        access = row_access(windows.series, self._recipe.variables, 1)
        try:
            for first in range(self._begin, end, count):
                starts = np.arange(first, min(first + count, end))
                places = slice(first - self._begin, first - self._begin + len(starts))
                for piece in access.pieces(starts):
                    if self._recipe.guard is not None:
                        self._recipe.guard.check_rows(windows, first, piece.rows)
                    self._tables.put(places, starts, piece.rows)
        finally:
            access.close()
        self.moved_bytes = self._tables.nbytes

    def gather(self, starts: NDArray[np.int64], pieces: Iterator[Piece]) -> dict[str, torch.Tensor]:
        """Make the arrays of a batch.

        Parameters
        ----------
        starts : ndarray, shape (batch,), int64
            First rows of windows, in the series.
        pieces : iterator of Piece
            Addresses of their rows on the host; not used where all rows are on the device.

        Returns
        -------
        dict of str to Tensor
            As the core's gather delivers them; queued on the calling thread's stream.
        """
        if self._room is None:
            own = self._tables.to_device(starts - self._begin)
            with self._lock:
                self.moved_bytes += own.nbytes
            return self._tables.gather([own[:, None] + steps for steps in self._steps])
        parts = []
        for piece in pieces:
            with (
                self._lock
            ):  # rows that one batch puts in a place are gathered before another batch replaces them
                parts.append(self._gather_piece(self._room, starts, piece))
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts], self._axes[name]) for name in parts[0]}

    def _gather_piece(self, room: Room, starts: NDArray[np.int64], piece: Piece) -> dict[str, torch.Tensor]:
        if self._recipe.guard is not None:
            entity = self._recipe.entity_of(starts)
            self._recipe.guard.check_batch(starts, piece.rows, entity, piece.begin, piece.end)
        own = starts[piece.begin : piece.end, None] + self._window
        rows, at = np.unique(own, return_index=True)
        absent = room.enter(rows)
        if len(absent):
            window, step = np.divmod(at[absent], len(self._window))
            sources = [
                Rows(one.base, one.first[piece.begin + window] + self._window[step]) for one in piece.rows
            ]
            try:
                self._tables.put(self._tables.to_device(room.where(rows[absent])), rows[absent], sources)
            except BaseException:
                room.leave(rows[absent])
                raise
            self.moved_bytes += len(absent) * self._row_bytes
        places = self._tables.to_device(room.where(own))
        self.moved_bytes += places.nbytes
        return self._tables.gather([places[:, steps] for steps in self._steps])
