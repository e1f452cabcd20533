"""How the windows of blocks are assigned to turns: sizes and places, by arithmetic.

In: how many windows become possible at each turn, and over how many turns they are assigned. Out: a `Spread`.
Never draws, never knows which window is which: ``lanes`` permutes what is assigned.

The windows of entry ``t`` are cut into ``active`` parts whose sizes differ by at most one; part ``j`` goes
to turn ``t + j``. The longer parts are those with ``(j + 2t) mod active < remainder``: they rotate with
``t``, so that the few windows of sparse blocks do not all come early, and by two and not by one, since then
any ``active`` turns in a row get alike many long parts (part ``j`` of turn ``u`` has ``j + 2t = u + t``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import LoaderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Spread"]


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
