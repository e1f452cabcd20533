"""What one lane of one epoch reads, keeps and drops, turn by turn: the plan that an executor follows.

In: a `Lane`, places in the arena, where the run stands. Out: a `BlockSchedule`. Pure arithmetic of O(blocks);
never reads, never sees a window.

How an executor uses it. All block numbers are the lane's (indices into ``lane.blocks``)::

    schedule = Schedule(lane, span=span, slots=slots, cursor=cursor)
    for turn in range(schedule.first_turn, lane.num_turns):
        events = schedule.turn(turn)                  # once the last batch of the turn before is gathered
        free the places of the overlaps events.released
        (first turn: submit events.submit, the rows schedule.rows(block) of each, into free places)
        for block in events.enter: wait for it
        for overlap in events.saved:  copy its rows in events.leave to its place in the overlap buffer
        for overlap in events.joined: copy both sides, as far as they are not there yet, to its place
        free the places of the blocks events.leave; submit the blocks events.submit
        batches of lane.spread.borders[turn : turn + 2]: schedule.locate(starts) says where rows lie

An overlap is named by its earlier block in time; its place in the buffer holds ``overlap_rows(overlap)``: tail and
head of two neighbours next to each other, so that a window across has one source. It is taken when one of
the two leaves with the other yet to come, or else when both are there, and given back when its windows have
been assigned. Every place is filled as soon as it is free, in the order of the visits; places that stay free
while the lane drains (``events.submit`` is empty, ``events.leave`` is not) are for the next epoch's blocks,
in the order of its visits; when its turn comes, what was submitted early is not submitted again.

A run that is resumed at ``cursor`` reads the active blocks again, at once; an overlap in ``missing`` lacks the
side of a block that is gone: ``side_rows(overlap)`` are read when a window first asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from windowloader.errors import LoaderError
from windowloader.order.order import lane_borders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from windowloader.order.grid import SortedStarts
    from windowloader.order.lane import Lane

__all__ = ["BlockSchedule", "Turn", "blocks_read", "lanes_read", "rows_of", "sides_asked", "turns_before"]

_LOOK = 1 << 20  # windows that are looked at to see which sides are asked for
_NONE = np.empty(0, np.int64)


class Turn(NamedTuple):
    """What happens at the start of a turn, in the order in which it must be done."""

    released: NDArray[np.int64]
    """Overlaps whose windows have all been assigned."""
    enter: NDArray[np.int64]
    """The block that must be there now; none while the lane drains."""
    saved: NDArray[np.int64]
    """Overlaps of the leaving block whose other side is yet to come."""
    joined: NDArray[np.int64]
    """Overlaps whose second side entered now."""
    leave: NDArray[np.int64]
    """The block that is not needed any more; none while the lane fills."""
    submit: NDArray[np.int64]
    """Blocks to be read, now that places are free, in the order in which they enter."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockSchedule:
    """The plan of one lane of one epoch.

    Parameters
    ----------
    lane : Lane
        From ``BlockOrder.sequence``.
    span : int
        Rows of a window.
    slots : int
        Places for blocks: ``lane.active`` and as many as are read ahead.
    cursor : int
        Position in the lane's sequence at which the run begins or goes on.

    Attributes
    ----------
    first_turn : int
        The turn that holds ``cursor``; the number of turns where nothing is left.
    ahead : int
        How many blocks beyond the active ones are read or being read.
    placed : ndarray, shape (blocks,), bool
        Whether the block that enters at turn ``t`` is read; not so those a resumed run has done with.
    overlaps : ndarray, shape (s,), int64
        Blocks across whose end at least one of the lane's windows reaches.
    opened, joined, taken, released : ndarray, shape (s,), int64
        Turns at which an overlap's first and second side enter, and from and up to which it has a place.
    missing : ndarray, shape (s,), bool
        Overlaps that a resumed run needs and of which one side is not read again.

    Raises
    ------
    LoaderError
        Where there are fewer places than active blocks and one to come, or ``cursor`` is outside the lane.
    """

    lane: Lane
    span: int = field(kw_only=True)
    slots: int = field(kw_only=True)
    cursor: int = field(default=0, kw_only=True)
    first_turn: int = field(init=False)
    ahead: int = field(init=False)
    placed: NDArray[np.bool_] = field(init=False, repr=False)
    overlaps: NDArray[np.int64] = field(init=False, repr=False)
    opened: NDArray[np.int64] = field(init=False, repr=False)
    joined: NDArray[np.int64] = field(init=False, repr=False)
    taken: NDArray[np.int64] = field(init=False, repr=False)
    released: NDArray[np.int64] = field(init=False, repr=False)
    missing: NDArray[np.bool_] = field(init=False, repr=False)
    _submitted: NDArray[np.int64] = field(init=False, repr=False)
    _index: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lane, blocks = self.lane, len(self.lane.blocks)
        least = min(lane.active + 1, blocks)
        if self.slots < least or not 0 <= self.cursor <= len(lane):
            raise LoaderError(
                f"slots={self.slots}, cursor={self.cursor}: {lane.active} active blocks of {blocks} need at least "
                f"{least} slots, and a position within the lane's {len(lane)} windows."
            )
        overlaps = np.flatnonzero(lane.crossing > 0)
        sides = lane.entry[overlaps], lane.entry[np.minimum(overlaps + 1, blocks - 1)]
        opened, joined = np.minimum(*sides), np.maximum(*sides)
        values = {
            "first_turn": self._turn_at(),
            "ahead": min(self.slots, blocks) - lane.active,
            "overlaps": overlaps,
            "opened": opened,
            "joined": joined,
            "taken": np.minimum(opened + lane.active, joined),
            "released": joined + lane.active,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        placed, missing, live = self._resumed()
        object.__setattr__(self, "placed", placed)
        object.__setattr__(self, "missing", missing)
        object.__setattr__(self, "_submitted", self._reads())
        # What was joined before a resumed run begins is joined again at its first turn.
        late = np.where(live & (joined < self.first_turn), self.first_turn, joined)
        turns = {"taken": self.taken, "joined": late, "released": self.released}
        orders = {name: np.argsort(turn, kind="stable") for name, turn in turns.items()}
        index = {name: (turns[name][order], order) for name, order in orders.items()}
        object.__setattr__(self, "_index", index)

    def turn(self, turn: int) -> Turn:
        """Tell what happens at the start of a turn.

        Parameters
        ----------
        turn : int
            In [first_turn, lane.num_turns).

        Returns
        -------
        Turn
        """
        lane = self.lane
        joined, taken = self._at("joined", turn), self._at("taken", turn)
        first, gone = turn == self.first_turn, turn - lane.active
        submitted = np.arange(0 if first else self._submitted[turn - 1] + 1, self._submitted[turn] + 1)
        return Turn(
            released=_NONE if first else self.overlaps[self._at("released", turn)],
            enter=lane.visits[turn : turn + 1],
            saved=self.overlaps[taken[(self.joined[taken] != turn) & ~self.missing[taken]]],
            joined=self.overlaps[joined],
            leave=lane.visits[gone : gone + 1] if gone >= 0 and not first and self.placed[gone] else _NONE,
            submit=lane.visits[submitted[self.placed[submitted]]],
        )

    def submitted(self, turn: int) -> int:
        """Return how many entries have been asked for once a turn has begun, those that are not read among them."""
        return int(self._submitted[turn]) + 1

    def rows(self, block: int) -> tuple[int, int]:
        """Return the rows ``[begin, end)`` of a block that this lane uses.

        Parameters
        ----------
        block : int

        Returns
        -------
        tuple of int
        """
        return int(self.lane.begin[block]), int(self.lane.end[block])

    def overlap_rows(self, overlap: int) -> tuple[int, int, int]:
        """Return the rows ``[begin, end)`` that windows across an overlap use, and the border among them.

        Parameters
        ----------
        overlap : int
            The earlier of the two blocks.

        Returns
        -------
        begin, border, end : int
        """
        lane, border = self.lane, int(self.lane.end[overlap])
        begin = max(int(lane.begin[overlap]), border - self.span + 1)
        return begin, border, min(int(lane.end[overlap + 1]), border + self.span - 1)

    def side_rows(self, overlap: int) -> tuple[int, int]:
        """Return the rows of a missing overlap's side whose block is gone; of both sides where both are.

        Parameters
        ----------
        overlap : int
            One of ``overlaps[missing]``.

        Returns
        -------
        tuple of int
        """
        begin, border, end = self.overlap_rows(overlap)
        tail, head = self.placed[self.lane.entry[overlap : overlap + 2]]
        return border if tail else begin, border if head else end

    def locate(self, starts: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Find where the rows of windows lie.

        Parameters
        ----------
        starts : array_like of int, shape (n,)
            First rows of windows of this lane.

        Returns
        -------
        block : ndarray, shape (n,), int64
            The block, or the overlap, in which all rows of the window lie.
        crosses : ndarray, shape (n,), bool
            Whether it is the overlap.
        """
        starts = np.asarray(starts, np.int64)
        block = np.searchsorted(self.lane.begin, starts, side="right") - 1
        return block, starts + self.span > self.lane.end[block]

    def open_overlaps(self) -> NDArray[np.int64]:
        """Count the overlaps of which one side has entered and the other not, at every turn.

        Returns
        -------
        ndarray, shape (turns,), int64
        """
        return self._overlap(self.opened, self.joined, 1)

    def overlap_slots(self) -> NDArray[np.int64]:
        """Count the places that overlaps take, at every turn; their maximum is what the overlap buffer must hold.

        Returns
        -------
        ndarray, shape (turns,), int64
        """
        return self._overlap(self.taken, self.released, 1)

    def resident_rows(self) -> NDArray[np.int64]:
        """Count the rows held for blocks and overlaps, at every turn, from the rows themselves.

        Returns
        -------
        ndarray, shape (turns,), int64
            Rows in the arena, those being read into it among them, and in the overlap buffer.
        """
        lane = self.lane
        sizes = (lane.end - lane.begin)[lane.visits]
        t = np.arange(len(sizes), dtype=np.int64)
        since = np.maximum(np.searchsorted(self._submitted, t), self.first_turn)
        rows = self._overlap(since, np.maximum(t + lane.active, since), sizes * self.placed)
        return rows + 2 * (self.span - 1) * self.overlap_slots()

    def _at(self, event: str, turn: int) -> NDArray[np.int64]:
        turns, order = self._index[event]
        return order[np.searchsorted(turns, turn) : np.searchsorted(turns, turn, side="right")]

    def _overlap(
        self, begin: NDArray[np.int64], end: NDArray[np.int64], weight: NDArray[np.int64] | int
    ) -> NDArray[np.int64]:
        turns = self.lane.num_turns
        change = np.zeros(turns + 1, np.int64)
        np.add.at(change, np.minimum(begin, turns), weight)
        np.subtract.at(change, np.minimum(end, turns), weight)
        return np.cumsum(change)[:-1]

    def _turn_at(self) -> int:
        if self.cursor == 0:  # even where no window comes at the first turns
            return 0
        spread = self.lane.spread
        return int(spread.turn_of(self.cursor)) if self.cursor < len(self.lane) else spread.num_turns

    def _resumed(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Mark the blocks that are read, by turn; the overlaps of which a side is gone; those still needed."""
        lane, turn = self.lane, self.first_turn
        needed = np.arange(len(lane.blocks)) >= turn  # what enters now is read whether or not windows come
        if turn < lane.num_turns:
            entries, left = lane.spread.left(turn)
            needed[entries[left > 0]] = True
        live = needed[self.joined]  # an overlap's windows are of the turn that joins it
        return needed, live & ~(needed[self.opened] & needed[self.joined]), live

    def _reads(self) -> NDArray[np.int64]:
        """Up to which entry blocks have been submitted once a turn has begun: as many as there are places."""
        lane = self.lane
        turns = np.arange(lane.num_turns, dtype=np.int64)
        count = np.concatenate([[0], np.cumsum(self.placed)])  # of the entries before t, those with a place
        left = count[np.clip(turns - lane.active + 1, 0, len(lane.blocks))]
        return np.searchsorted(count, left + self.slots, side="right") - 2


def turns_before(schedule: BlockSchedule, end: int | None) -> int:
    """Return how many turns of a lane begin before a place of it; all where ``end`` is None or beyond."""
    lane = schedule.lane
    if end is None or end >= len(lane):
        return lane.num_turns
    return int(lane.spread.turn_of(np.array([end - 1]))[0]) + 1 if end else 0


def blocks_read(schedule: BlockSchedule, end: int | None = None) -> NDArray[np.bool_]:
    """Mark the blocks of a lane that are read for its windows before ``end``; for all of them where it is None."""
    read = np.zeros(len(schedule.lane.blocks), np.bool_)
    last = turns_before(schedule, end)
    read[schedule.lane.visits[:last][schedule.placed[:last]]] = True
    return read


def sides_asked(schedule: BlockSchedule, starts: SortedStarts) -> NDArray[np.int64]:
    """List the missing overlaps of which a window is left: of two joined at once, one may be done.

    Parameters
    ----------
    schedule : BlockSchedule
    starts : SortedStarts

    Returns
    -------
    ndarray, int64
        Some of ``schedule.overlaps[schedule.missing]``; all where they are too many windows to look at.
    """
    lane, turn = schedule.lane, schedule.first_turn
    doubtful = schedule.missing & (schedule.joined <= turn)
    end = int(lane.spread.borders[min(turn + lane.active, lane.num_turns)])
    if not doubtful.any() or end - schedule.cursor > _LOOK:
        return schedule.overlaps[schedule.missing]
    block, crosses = schedule.locate(starts(lane.windows(schedule.cursor, end)))
    asked = np.isin(schedule.overlaps, block[crosses])
    return schedule.overlaps[schedule.missing & (asked | ~doubtful)]


def rows_of(
    starts: SortedStarts, num_lanes: int, lanes: Sequence[int], *, span: int, rotate: bool
) -> tuple[int, int]:
    """Return the rows ``[begin, end)`` that the windows of some of the lanes lie in; of all where lanes rotate."""
    borders = lane_borders(len(starts), num_lanes)
    first, last = (0, len(starts)) if rotate else (int(borders[lanes[0]]), int(borders[lanes[-1] + 1]))
    if first == last:
        return 0, 0
    begin, end = starts(np.array([first, last - 1], np.int64)).tolist()
    return begin, end + span


def lanes_read(rank: int, world_size: int, *, lanes: int, batch_per_lane: int) -> tuple[int, ...]:
    """List the lanes of which a rank gets windows.

    Parameters
    ----------
    rank, world_size : int
    lanes : int
        Into how many lanes the windows are assigned.
    batch_per_lane : int
        Windows of a step from each lane.

    Returns
    -------
    tuple of int
        Whole lanes where ``world_size`` divides ``lanes``; the last, shorter step is looked at too.

    Examples
    --------
    >>> lanes_read(1, 2, lanes=4, batch_per_lane=16), lanes_read(1, 3, lanes=2, batch_per_lane=3)
    ((2, 3), (0, 1))
    """
    batch = np.arange(1, batch_per_lane + 1)
    share, last = (
        -(-lanes * batch // world_size),
        lanes * batch - 1,
    )  # what fills the list up is its last window again
    first = np.minimum(rank * share, last) // batch
    end = np.minimum((rank + 1) * share - 1, last) // batch
    pairs = set(zip(first.tolist(), end.tolist(), strict=True))
    return tuple(sorted({lane for low, high in pairs for lane in range(low, high + 1)}))
