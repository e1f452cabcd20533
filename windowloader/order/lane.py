"""One lane of one epoch: which block enters at which turn, and which window comes at which place.

In: the tables that ``lanes`` lays out. Out: window numbers of any stretch, in O(log blocks) each. Keeps the
permutations of the active blocks and two or three turns; never anything else per window.

A window becomes possible at the turn at which its last block enters. The windows of entry ``t`` are cut into ``active``
parts whose sizes differ by at most one; part ``j`` goes to turn ``t + j``. The longer parts are those with
``(j + 2t) mod active < remainder``: they rotate with ``t``, so that the few windows of sparse blocks do not all come
early, and by two and not by one, since then any ``active`` turns in a row get alike many long parts (part ``j`` of turn
``u`` has ``j + 2t = u + t``).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from windowloader.errors import LoaderError

from .permutation import Permutation, Purpose, key

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray

    from .grid import Grid, SortedStarts

T = TypeVar("T")

__all__ = ["Lane", "LanePiece", "Recent", "Spread"]

_WHOLE = 1 << 16  # windows up to which a turn is made whole and kept; of longer ones, what is asked


class Recent(Generic[T]):
    """What was made lately, by name; all threads share one of each.

    Examples
    --------
    >>> recent = Recent[int]()
    >>> recent.get("a", 2, lambda: 1), recent.get("a", 2, lambda: 2)
    (1, 1)
    """

    def __init__(self) -> None:
        self._lock, self._kept = threading.Lock(), OrderedDict[Any, T]()

    def get(self, name: Hashable, most: int, make: Callable[[], T]) -> T:
        """Return what has a name, made now where it is not among the ``most`` latest; others may make it meanwhile."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        made = make()
        with self._lock:
            made = self._kept.setdefault(name, made)
            while len(self._kept) > most:
                self._kept.popitem(last=False)
        return made


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

    def blocks(self, grid: Grid, starts: SortedStarts) -> NDArray[np.int64]:
        """List the blocks that the lane's windows may touch, rising."""
        found = [np.empty(0, np.int64)]
        for low, high in ((0, self.head), (self.first, min(self.first + self.size, self.num_windows))):
            if low < high:
                first, last = grid.locate(starts(np.array([low, high - 1], np.int64)))[0].tolist()
                found.append(np.arange(first, min(last + 2, len(grid)), dtype=np.int64))
        return np.unique(np.concatenate(found))


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Sizes of parts and turns.

    Parameters
    ----------
    sizes : ndarray, shape (entries,), int64
        Windows that become possible at each turn, none negative.
    active : int
        Over how many turns they are assigned; 0 only without entries.

    Attributes
    ----------
    borders : ndarray, shape (turns + 1,), int64
        Turn ``u`` is the stretch ``[borders[u], borders[u + 1])`` of the sequence.

    Raises
    ------
    LoaderError
        Where there are entries and ``active`` is not positive.

    Examples
    --------
    >>> Spread(np.array([5, 4, 3]), active=2).borders
    array([ 0,  3,  7, 11, 12])
    """

    sizes: NDArray[np.int64]
    active: int = field(kw_only=True)
    borders: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.sizes) and self.active < 1:
            raise LoaderError(f"active={self.active}: windows are assigned over at least one turn.")
        object.__setattr__(self, "borders", np.concatenate([[0], np.cumsum(self._turns())]).astype(np.int64))

    @property
    def num_turns(self) -> int:
        """How many turns there are: one for each entry, and ``active − 1`` in which none enters."""
        return len(self.borders) - 1

    def turn_of(self, positions: Any) -> Any:
        """Return the turn of each position of the sequence.

        Parameters
        ----------
        positions : int or ndarray of int
            Each in [0, windows).

        Returns
        -------
        int or ndarray, int64
        """
        return np.searchsorted(self.borders, positions, side="right") - 1

    def part(self, entries: Any, parts: Any) -> tuple[Any, Any]:
        """Return where parts begin among the windows of their entries, and how long they are.

        Parameters
        ----------
        entries, parts : int or ndarray of int
            ``t`` and ``j``.

        Returns
        -------
        begin, size : int or ndarray, int64
        """
        whole, rest = np.divmod(self.sizes[entries], self.active)
        first = 2 * entries % self.active
        # How many of the numbers [first, first + j) are long: those below x, less those below `first`.
        longer = _below(first + parts, self.active, rest) - _below(first, self.active, rest)
        return parts * whole + longer, whole + ((first + parts) % self.active < rest)

    def assigned(self, turn: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """List the parts assigned to a turn.

        Parameters
        ----------
        turn : int

        Returns
        -------
        entries, begin, size : ndarray, int64
            Part ``i`` is the stretch ``[begin[i], begin[i] + size[i])`` of entry ``entries[i]``'s windows.
        """
        entries = np.arange(max(0, turn - self.active + 1), min(turn + 1, len(self.sizes)), dtype=np.int64)
        begin, size = self.part(entries, turn - entries)
        return entries, begin, size

    def left(self, turn: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """List the entries active at a turn, and how many of their windows come in it or later.

        Parameters
        ----------
        turn : int

        Returns
        -------
        entries, windows : ndarray, int64
        """
        entries, begin, _ = self.assigned(turn)
        return entries, self.sizes[entries] - begin

    def _turns(self) -> NDArray[np.int64]:
        """Sizes of all turns in O(entries): each entry adds to two or three stretches of turns."""
        entries = len(self.sizes)
        if entries == 0:
            return np.empty(0, np.int64)
        t = np.arange(entries, dtype=np.int64)
        whole, rest = np.divmod(self.sizes, self.active)
        change = np.zeros(entries + self.active, np.int64)
        change[:entries] += whole
        change[self.active :] -= whole
        low = -2 * t % self.active  # the first long part; they go round
        over = np.maximum(low + rest - self.active, 0)
        for begin, end in ((low, low + rest - over), (np.zeros_like(low), over)):
            np.add.at(change, t + begin, 1)
            np.add.at(change, t + end, -1)
        return np.cumsum(change)[:-1]


def _below(x: Any, period: int, rest: Any) -> Any:
    """How many y in [0, x) have y mod period < rest."""
    return x // period * rest + np.minimum(x % period, rest)


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

    Without a seed windows come in time order.
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
    _seed: int | None
    _turns: Recent[NDArray[np.int64]] = field(default_factory=Recent, repr=False)
    _spreads: Recent[Permutation] = field(default_factory=Recent, repr=False)

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
        if self._seed is None:
            return self._piece.numbers(np.arange(start, stop, dtype=np.int64))
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
        whole = self._turns.get(turn, 3, lambda: self._assigned(turn, size, np.arange(size)))
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

        return self._spreads.get(entry, self.active + 2, make)

    def _key(self, purpose: Purpose, index: int) -> NDArray[np.uint64]:
        assert self._seed is not None
        return key(self._seed, epoch=self.epoch, purpose=purpose, lane=self.lane, index=index)
