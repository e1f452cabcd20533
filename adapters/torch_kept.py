"""Rows that come to a device when a window first needs them, and stay while there is room.

In: the pieces of a batch, as the core's tiers hand them out. Out: its arrays, on the device. Where the order keeps to a
part of the data for a while (blocks, time order), a row crosses the bus about once an epoch, not once for each window
that has it. Never decides an order, and never holds more rows than it was given room for.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from windowloader.adapters.torch_tables import DeviceTables
from windowloader.rows.strided import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from windowloader.batch.recipe import Recipe
    from windowloader.rows.rows import Piece

__all__ = ["KeptRows", "Room"]

EVICTED = 16  # the oldest sixteenth of the rows goes at once: looking for the oldest takes a look at all


class Room:
    """Which row of the series lies in which place; the ones used longest ago give way.

    Parameters
    ----------
    begin, end : int
        Rows of the series that may come.
    places : int
        How many there is room for.

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
        """Give places to rows; return which of them were not there yet, by their number in ``rows``.

        Parameters
        ----------
        rows : ndarray, shape (row,), int64
            Distinct, at most as many as there are places.

        Returns
        -------
        ndarray of int64
            Their values must be put into their places now.
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
        """Take rows out again whose values did not come."""
        places = self._place[rows - self.begin]
        self._place[rows - self.begin] = -1
        self._row[places] = -1
        self._free = np.concatenate((self._free, places))

    def where(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the places of rows that are there, in the shape of ``rows``."""
        found: NDArray[np.int32] = self._place[rows - self.begin]
        return found


class KeptRows:
    """Rows of a window set on a device, as many as there is room for.

    Parameters
    ----------
    recipe : Recipe
        What batches look like.
    device : torch.device
    begin, end : int
        Rows of the series that windows read.
    places : int
        Rows that there is room for; at least those of one batch.

    Attributes
    ----------
    moved_bytes : int
        Sent to the device so far.

    Raises
    ------
    LoaderError
        Where the device has not enough memory.
    """

    def __init__(self, recipe: Recipe, device: torch.device, *, begin: int, end: int, places: int) -> None:
        self._recipe = recipe
        self._tables = DeviceTables(recipe, device, places)
        self._room = Room(begin, end, places=places)
        self._window = recipe.reads.offsets
        self._steps = [
            torch.from_numpy(np.searchsorted(self._window, role.offsets)).to(device) for role in recipe.roles
        ]
        self._row_bytes = self._tables.tables.nbytes(1)
        self._lock = threading.Lock()
        self.moved_bytes = 0

    def gather(self, starts: NDArray[np.int64], pieces: Iterator[Piece]) -> dict[str, torch.Tensor]:
        """Make the arrays of a batch.

        Parameters
        ----------
        starts : ndarray, shape (batch,), int64
            First rows of windows, in the series.
        pieces : iterator of Piece
            Where their rows lie on the host.

        Returns
        -------
        dict of str to Tensor
            As the core's gather delivers them; queued on the calling thread's stream.
        """
        picked = []
        for piece in pieces:
            with self._lock:  # what one batch puts in a place must be picked before another one's takes it
                picked.append(self._pick(starts, piece))
        return self._tables.deliver(picked)

    def _pick(self, starts: NDArray[np.int64], piece: Piece) -> list[dict[str, torch.Tensor]]:
        if self._recipe.guard is not None:
            entity = self._recipe.entity_of(starts)
            self._recipe.guard.check_batch(starts, piece.rows, entity, piece.begin, piece.end)
        own = starts[piece.begin : piece.end]
        rows, at = np.unique(own[:, None] + self._window, return_index=True)
        absent = self._room.enter(rows)
        if len(absent):
            window, step = np.divmod(at[absent], len(self._window))
            sources = [
                Rows(one.base, one.first[piece.begin + window] + self._window[step]) for one in piece.rows
            ]
            places = self._tables.to_device(self._room.where(rows[absent]))
            try:
                self._tables.put(places, rows[absent], sources)
            except BaseException:
                self._room.leave(rows[absent])
                raise
            self.moved_bytes += len(absent) * self._row_bytes
        wanted = self._tables.to_device(self._room.where(own[:, None] + self._window))
        self.moved_bytes += wanted.nbytes
        return self._tables.pick([wanted[:, steps] for steps in self._steps])
