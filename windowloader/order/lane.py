"""One lane of one epoch: which block enters at which turn, and which window comes at which place.

In: the tables that ``lanes`` lays out. Out: window numbers of any stretch, in O(log blocks) each. Keeps the
permutations of the active blocks and two or three turns; never anything else per window.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from .permutation import Permutation, Purpose, key

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .grid import Grid, SortedStarts
    from .spread import Spread

T = TypeVar("T")

__all__ = ["Lane", "LanePiece", "LanesOfBlocks"]

_WHOLE = 1 << 16  # windows up to which a turn is made whole and kept; of longer ones, what is asked


@dataclass(frozen=True, slots=True, eq=False)
class LanePiece:
    """The windows of one lane: numbers ``[first, first + size)`` of ``num_windows``, going round.

    Its windows are counted in time order: those that went round come first.
    """

    first: int
    size: int
    num_windows: int

    @property
    def head(self) -> int:
        """How many windows went round the end: the numbers [0, head)."""
        return max(0, self.first + self.size - self.num_windows)

    def rank(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of the lane's windows have a lower number than each of ``numbers``."""
        tail = self.size - self.head
        return np.minimum(numbers, self.head) + np.clip(numbers - self.first, 0, tail)

    def numbers(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the window numbers of the lane's windows ``ranks``."""
        return ranks + np.where(ranks < self.head, 0, self.first - self.head)


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One lane of one epoch: its blocks, when each enters, and its sequence of windows.

    Attributes
    ----------
    epoch, lane, active : int
        ``active`` is how many turns a block stays, at most the number of blocks.
    blocks : ndarray, shape (n,), int64
        The blocks of the grid that its windows touch, in time order.
    begin, end : ndarray, shape (n,), int64
        The rows of each block that its windows use.
    visits : ndarray, shape (n,), int64
        Which of ``blocks`` enters at turn ``t`` (an index into ``blocks``).
    entry : ndarray, shape (n,), int64
        The turn at which each of ``blocks`` enters.
    crossing : ndarray, shape (n,), int64
        How many windows lie in the overlap between a block and the next one in time; the last is 0.
    low : ndarray, shape (n,), int64
        The first, in the lane's count, of the windows that become possible at turn ``t``.
    spread : Spread
        Their numbers, and where turns lie in the sequence.
    """

    epoch: int
    lane: int
    active: int
    blocks: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    visits: NDArray[np.int64]
    entry: NDArray[np.int64]
    crossing: NDArray[np.int64]
    low: NDArray[np.int64]
    spread: Spread
    _piece: LanePiece
    _seed: int
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _turns: OrderedDict[int, NDArray[np.int64]] = field(default_factory=OrderedDict, repr=False)
    _spreads: OrderedDict[int, Permutation] = field(default_factory=OrderedDict, repr=False)

    def __len__(self) -> int:
        return self._piece.size

    @property
    def num_turns(self) -> int:
        """How many turns the sequence has."""
        return self.spread.num_turns

    def windows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the window numbers at ``[start, stop)`` of the sequence.

        Parameters
        ----------
        start, stop : int
            0 ≤ start ≤ stop ≤ len(self).

        Returns
        -------
        ndarray, shape (stop − start,), int64

        Raises
        ------
        IndexError
            Where the stretch is outside the lane.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"lane {self.lane} has {len(self)} windows; [{start}, {stop}) was asked.")
        out = np.empty(stop - start, np.int64)
        borders, at = self.spread.borders, start
        while at < stop:
            turn = int(self.spread.turn_of(at))
            begin, end = int(borders[turn]), min(int(borders[turn + 1]), stop)
            out[at - start : end - start] = self._turn(turn, at - begin, end - begin)
            at = end
        return out

    def _turn(self, turn: int, start: int, stop: int) -> NDArray[np.int64]:
        size = int(self.spread.borders[turn + 1] - self.spread.borders[turn])
        if size > _WHOLE:
            return self._assigned(turn, size, np.arange(start, stop, dtype=np.int64))
        # Two or three turns: the one that is asked, the one before (a batch again), the one ahead.
        whole = self._kept(self._turns, turn, 3, lambda: self._assigned(turn, size, np.arange(size)))
        return whole[start:stop]

    def _assigned(self, turn: int, size: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        entries, begin, sizes = self.spread.assigned(turn)
        ends = np.cumsum(sizes)
        shuffled = Permutation(size, self._key(Purpose.TURN, turn))(positions)
        part = np.searchsorted(ends, shuffled, side="right")
        within = shuffled + (begin + sizes - ends)[part]
        out = np.empty(len(positions), np.int64)
        order = np.argsort(part, kind="stable")
        borders = np.searchsorted(part[order], np.arange(len(entries) + 1))
        for i, entry in enumerate(entries.tolist()):
            mine = order[borders[i] : borders[i + 1]]
            if len(mine):
                out[mine] = self.low[entry] + self._permuted(entry)(within[mine])
        return self._piece.numbers(out)

    def _permuted(self, entry: int) -> Permutation:
        def make() -> Permutation:
            return Permutation(int(self.spread.sizes[entry]), self._key(Purpose.SPREAD, entry))

        return self._kept(self._spreads, entry, self.active + 2, make)

    def _kept(self, kept: OrderedDict[int, T], name: int, most: int, make: Callable[[], T]) -> T:
        """Look up what was made lately; the lock guards the table, not the making."""
        with self._lock:
            if name in kept:
                kept.move_to_end(name)
                return kept[name]
        made = make()
        with self._lock:
            kept[name] = made
            while len(kept) > most:
                kept.popitem(last=False)
        return made

    def _key(self, purpose: Purpose, index: int) -> NDArray[np.uint64]:
        return key(self._seed, epoch=self.epoch, purpose=purpose, lane=self.lane, index=index)


class LanesOfBlocks(Protocol):
    """An order laid out over blocks: what a plan and an executor need of it."""

    @property
    def starts(self) -> SortedStarts:
        """Where its windows start."""
        ...

    @property
    def grid(self) -> Grid:
        """Its blocks."""
        ...

    @property
    def num_lanes(self) -> int:
        """Into how many lanes the windows are assigned."""
        ...

    def sequence(self, epoch: int, lane: int) -> Lane:
        """Return a lane of an epoch."""
        ...
