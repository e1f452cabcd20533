"""Whose turn it is: the steps of a run, what each rank takes of a step, and where a run stands.

In: an order, a batch size, a number of ranks. Out: any `Step`, of any rank, and positions in the run. Plain arithmetic
on a cursor: the cost of a step is its size, nothing is kept between steps, and no rank can have another number of steps
than its peers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import LoaderError, RankError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .config import LoaderConfig
    from .order import Order

__all__ = ["Position", "Step", "Steps", "check_rank", "make_steps", "per_lane"]

UNEVEN = ("pad", "drop", "exact")
AT_ONCE = 4096  # windows numbered together: so few that the first batch does not wait for them


def per_lane(global_batch: int, num_lanes: int) -> int:
    """Return how many windows of a step each lane gives.

    Parameters
    ----------
    global_batch : int
        Windows of a step over all ranks.
    num_lanes : int
        Lanes of the order.

    Returns
    -------
    int
        ``global_batch / num_lanes``.

    Raises
    ------
    LoaderError
        Where the lanes do not divide the batch; the message names the nearest sizes that would do.

    Examples
    --------
    >>> per_lane(96, 8)
    12
    """
    if global_batch < 1:
        raise LoaderError(f"a global batch of {global_batch} windows has nothing in it. Pass at least 1.")
    if global_batch % num_lanes:
        below = global_batch // num_lanes * num_lanes
        nearest = f"{below} or {below + num_lanes}" if below else str(num_lanes)
        raise LoaderError(
            f"a global batch of {global_batch} windows is not a multiple of the order's {num_lanes} lanes. "
            f"Nearest that would do: {nearest}. Change global_batch_size= (or batch_size=, per rank), "
            "or lanes= in a new run."
        )
    return global_batch // num_lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run stands.

    Parameters
    ----------
    epoch : int
        The epoch as the loop counts it.
    step : int
        Steps done of that epoch.
    pass_number : int
        The pass over the data, which is the order's epoch; equal to ``epoch`` without ``steps_per_epoch``.
    cursor : int
        Windows of each lane done in that pass; ``num_windows`` when the pass is over.

    Examples
    --------
    >>> Position(epoch=1, step=0, pass_number=1, cursor=0).epoch
    1
    """

    epoch: int
    step: int
    pass_number: int
    cursor: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Step:
    """The windows of a step, of all ranks or of one, and where they come from.

    Parameters
    ----------
    positions : ndarray, shape (rows,), int64
        Window numbers.
    weights : ndarray, shape (rows,), float32
        1, or 0 for a row that only fills the shape.
    lanes, places : ndarray, shape (rows,), int64
        The lane of each row, and its place in the lane's sequence. Places at or beyond a lane's size are its last
        window's, or, of an empty lane, the longest's.
    before, after : Position
        Where the run stands before and after the step. The pass of ``before`` is the one its windows come from.
    total_weight : float
        Sum of the weights over all ranks.

    Examples
    --------
    >>> from windowloader.order.order import SequentialOrder
    >>> steps = Steps(SequentialOrder(7, num_lanes=2), 2)
    >>> step = steps.at(steps.start(0))
    >>> step.positions, step.lanes, step.places
    (array([0, 1, 3, 4]), array([0, 0, 1, 1]), array([0, 1, 0, 1]))
    """

    positions: NDArray[np.int64]
    weights: NDArray[np.float32]
    lanes: NDArray[np.int64]
    places: NDArray[np.int64]
    before: Position
    after: Position
    total_weight: float

    def filled(self, rows: int) -> Step:
        """Repeat the last row at weight 0, so that there are ``rows``."""
        present = len(self.positions)
        if rows <= present:
            return self
        taken = np.minimum(np.arange(rows), present - 1)
        weights = self.weights[taken]
        weights[present:] = 0
        return replace(
            self,
            positions=self.positions[taken],
            weights=weights,
            lanes=self.lanes[taken],
            places=self.places[taken],
        )


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a run, for any number of ranks.

    With cursor c a step is, lane by lane, S_l[c … c + q), q = min(b, longest lane − c). A short lane is
    filled with its last window, an empty one with the longest's. Ranks cut the list, filled to a multiple of
    their number with its last window, into equal slices.

    Parameters
    ----------
    order : Order
    batch_per_lane : int
        b; the global batch is b times the lanes (see `per_lane`).
    uneven : {"pad", "drop", "exact"}
        ``"exact"``: what fills has weight 0, so each window counts once. ``"pad"``: weight 1, so each counts
        at least once. ``"drop"``: lanes end with the shortest and what fills has weight 0: at most once.
    drop_last : bool
        Leave out the step with q < b.
    steps_per_epoch : int, optional
        k: epoch e is the steps [e·k, (e + 1)·k) of the endless run of passes. None: an epoch is a pass.

    Raises
    ------
    LoaderError
        For an unknown ``uneven``, a batch below 1, ``"exact"`` with ``drop_last``, and ``steps_per_epoch``
        below 1 or with passes that have no step.

    Examples
    --------
    >>> from windowloader.order.order import SequentialOrder
    >>> steps = Steps(SequentialOrder(7, num_lanes=2), 2, uneven="exact")
    >>> steps.count(0)
    2
    >>> last = steps.at(steps.advance(steps.start(0)))
    >>> last.positions, last.weights
    (array([2, 2, 5, 6]), array([1., 0., 1., 1.], dtype=float32))
    """

    order: Order
    batch_per_lane: int
    uneven: str = "pad"
    drop_last: bool = False
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.uneven not in UNEVEN:
            raise LoaderError(
                f"uneven={self.uneven!r} is not known. Pass one of {', '.join(map(repr, UNEVEN))}."
            )
        if self.batch_per_lane < 1:
            raise LoaderError(f"a batch of {self.batch_per_lane} windows has nothing in it. Pass at least 1.")
        if self.uneven == "exact" and self.drop_last:
            raise LoaderError(
                "uneven='exact' delivers each window once, drop_last=True leaves some out. "
                "Pass drop_last=False, or uneven='drop'."
            )
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise LoaderError(
                f"steps_per_epoch={self.steps_per_epoch} makes no epoch. Pass at least 1, or None."
            )
        if self.steps_per_epoch is not None and self.count(0) == 0:
            raise LoaderError(
                f"steps_per_epoch={self.steps_per_epoch}, but a pass over {self.order.num_windows} windows "
                f"in {self.order.num_lanes} lanes has no step at a global batch of {self.global_batch} with "
                f"uneven={self.uneven!r}, drop_last={self.drop_last}. Make the batch smaller."
            )

    # One pass. Its number is what the order calls the epoch.

    @property
    def global_batch(self) -> int:
        """Windows of a full step over all ranks."""
        return self.batch_per_lane * self.order.num_lanes

    def length(self, epoch: int) -> int:
        """Return the cursor at which a pass ends: the longest lane, the shortest for ``"drop"``."""
        del epoch  # all are alike
        windows, lanes = self.order.num_windows, self.order.num_lanes
        return windows // lanes if self.uneven == "drop" else -(-windows // lanes)

    def count(self, epoch: int, cursor: int = 0) -> int:
        """Return how many steps a pass has left, the same on all ranks and for any number of them."""
        left = max(0, self.length(epoch) - cursor)
        return left // self.batch_per_lane if self.drop_last else -(-left // self.batch_per_lane)

    def after(self, epoch: int, cursor: int, steps: int = 1) -> int:
        """Return the cursor some steps on; IndexError where there are not so many.

        After the last it is ``num_windows``, whatever lanes and batch are: a pass that is over stays over
        when the run goes on with another batch size.
        """
        left = self.count(epoch, cursor)
        if not 0 <= steps <= left:
            raise IndexError(
                f"{steps} steps were asked from cursor {cursor} of pass {epoch}, {left} are left."
            )
        return self.order.num_windows if steps == left else cursor + steps * self.batch_per_lane

    def weighted(self, world_size: int) -> bool:
        """Tell whether a row of some step, from whatever cursor, can have weight 0."""
        if self.uneven != "drop":
            return self.uneven == "exact"
        always_full = self.drop_last and self.global_batch % world_size == 0
        return not (always_full or self.order.num_lanes % world_size == 0)

    def total_weight(self, position: Position, *, world_size: int) -> float:
        """Return the sum of the weights of a step over all ranks, without computing the step; 0.0 at the end."""
        if self.left(position) == 0:
            return 0.0
        here = self.upcoming(position)
        depth = min(self.batch_per_lane, self.length(here.pass_number) - here.cursor)
        windows, lanes = self.order.num_windows, self.order.num_lanes
        if self.uneven == "pad":
            return float(-(-depth * lanes // world_size) * world_size)
        short, longer = windows // lanes - here.cursor, windows % lanes  # so many lanes have one more
        return float((lanes - longer) * min(max(short, 0), depth) + longer * min(max(short + 1, 0), depth))

    # The run: epochs of one pass, or of a fixed number of steps.

    def start(self, epoch: int) -> Position:
        """Return the beginning of an epoch, where a run that had this batch size all along would find it."""
        if self.steps_per_epoch is None:
            return Position(epoch=epoch, step=0, pass_number=epoch, cursor=0)
        # Lane sizes, and so the number of steps, are the same in every pass.
        pass_number, done = divmod(epoch * self.steps_per_epoch, self.count(0))
        return Position(epoch=epoch, step=0, pass_number=pass_number, cursor=self.after(pass_number, 0, done))

    def left(self, position: Position) -> int:
        """Return how many steps the epoch has left."""
        if self.steps_per_epoch is None:
            return self.count(position.pass_number, position.cursor)
        return max(0, self.steps_per_epoch - position.step)

    def at(self, position: Position) -> Step | None:
        """Return the step that comes at a position, L·q rows lane by lane; None where the epoch is over."""
        return self.rank_at(position, rank=0, world_size=1)

    def rank_at(self, position: Position, *, rank: int, world_size: int) -> Step | None:
        """Return one rank's slice of a step, ⌈L·q / world_size⌉ rows, without computing the others'.

        None where the epoch is over; RankError where the rank is outside the world.
        """
        check_rank(rank, world_size)
        if self.left(position) == 0:
            return None
        here = self.upcoming(position)
        epoch, cursor = here.pass_number, here.cursor
        depth = min(self.batch_per_lane, self.length(epoch) - cursor)
        rows = depth * self.order.num_lanes
        share = -(-rows // world_size)
        index = np.arange(rank * share, (rank + 1) * share)
        lanes, places = np.divmod(np.minimum(index, rows - 1), depth)  # beyond the end the last row again
        places += cursor
        weights = np.ones(share, np.float32)
        weights[(index >= rows) | (places >= self.order.lane_size(lanes))] = self._filler_weight
        first, last = int(lanes[0]), int(lanes[-1])
        borders = np.searchsorted(lanes, np.arange(first, last + 2))
        numbers = [
            self._windows(epoch, lane, places[begin:end])
            for lane, (begin, end) in enumerate(pairwise(borders.tolist()), first)
        ]
        return Step(
            positions=np.concatenate(numbers),
            weights=weights,
            lanes=lanes,
            places=places,
            before=here,
            after=self.advance(here),
            total_weight=self.total_weight(here, world_size=world_size),
        )

    def rank_rest(self, position: Position, *, rank: int, world_size: int) -> Iterator[Step]:
        """Yield one rank's steps to the end of the epoch: those of `rank_at`, full ones of a lane many at a time."""
        check_rank(rank, world_size)
        share = -(-self.batch_per_lane // world_size)
        at_once = max(1, min(AT_ONCE // self.batch_per_lane, 64)) if self.order.num_lanes == 1 else 1
        while left := self.left(position):
            here = self.upcoming(position)
            full = (self.length(here.pass_number) - here.cursor) // self.batch_per_lane
            count = min(at_once, left, full)
            if count < 2:
                step = self.rank_at(position, rank=rank, world_size=world_size)
                assert step is not None
                yield step
                position = step.after
                continue
            places = here.cursor + np.arange(count * self.batch_per_lane)
            numbers = self.order.lane(here.pass_number, 0, here.cursor, here.cursor + len(places))
            taken = np.arange(rank * share, (rank + 1) * share)
            weights = np.ones((count, share), np.float32)
            weights[:, taken >= self.batch_per_lane] = self._filler_weight
            taken = np.minimum(taken, self.batch_per_lane - 1)
            numbers, places = (each.reshape(count, -1)[:, taken] for each in (numbers, places))
            weight = float(share * world_size if self.uneven == "pad" else self.batch_per_lane)
            lanes = np.zeros(share, np.int64)
            for k in range(count):
                # What comes after the last is for `advance` to say.
                after = (
                    self.advance(here)
                    if k == count - 1
                    else replace(here, step=here.step + 1, cursor=here.cursor + self.batch_per_lane)
                )
                yield Step(
                    positions=numbers[k],
                    weights=weights[k],
                    lanes=lanes,
                    places=places[k],
                    before=here,
                    after=after,
                    total_weight=weight,
                )
                here = after
            position = here

    def advance(self, position: Position, count: int = 1) -> Position:
        """Return where the run stands some steps on; IndexError where the epoch has not so many left."""
        left = self.left(position)
        if not 0 <= count <= left:
            raise IndexError(f"{count} steps were asked, epoch {position.epoch} has {left} left.")
        here, goal = position, position.step + count
        while here.step < goal:  # once for each pass that is touched
            here = self.upcoming(here)
            taken = min(goal - here.step, self.count(here.pass_number, here.cursor))
            cursor = self.after(here.pass_number, here.cursor, taken)
            here = replace(here, step=here.step + taken, cursor=cursor)
        return here

    def next_epoch(self, position: Position) -> Position:
        """Return the beginning of the next epoch for a run that stands at the end of this one.

        With ``steps_per_epoch`` it goes on from where it is, which after a change of the batch size is not
        where `start` would be.
        """
        if self.steps_per_epoch is None:
            return self.start(position.epoch + 1)
        return replace(position, epoch=position.epoch + 1, step=0)

    def upcoming(self, position: Position) -> Position:
        """Return where the next step comes from: the next pass, where the position's is over."""
        if self.count(position.pass_number, position.cursor):
            return position
        return replace(position, pass_number=position.pass_number + 1, cursor=0)

    @property
    def _filler_weight(self) -> float:
        return 1.0 if self.uneven == "pad" else 0.0

    def _windows(self, epoch: int, lane: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the windows at rising places of a lane, beyond its end its last one again."""
        size = self.order.lane_size(lane)
        if not size:
            lane = self.order.longest_lane
            size = self.order.lane_size(lane)
            places = np.full(len(places), size)
        places = np.minimum(places, size - 1)
        first, last = int(places[0]), int(places[-1])
        return self.order.lane(epoch, lane, first, last + 1)[places - first]


def check_rank(rank: int, world_size: int) -> None:
    """Raise `RankError` where a rank is outside the world."""
    if not 0 <= rank < world_size:
        raise RankError(f"rank {rank} is outside world_size={world_size}. Ranks count from 0.")


def make_steps(order: Order, config: LoaderConfig, world_size: int) -> Steps:
    """Cut an order into steps; LoaderError where its lanes do not divide the global batch, or no step comes out."""
    batch_per_lane = per_lane(config.global_batch(world_size), order.num_lanes)
    steps = Steps(order, batch_per_lane, config.uneven, config.drop_last, config.steps_per_epoch)
    if steps.count(0) == 0:
        lanes = f" in {order.num_lanes} lanes" if order.num_lanes > 1 else ""
        raise LoaderError(
            f"an epoch makes no step: there are {order.num_windows} windows{lanes}, a step takes "
            f"{steps.global_batch} over {world_size} rank{'s' if world_size > 1 else ''}, and drop_last="
            f"{config.drop_last} with uneven={config.uneven!r} leaves out what does not fill it. Make the batch "
            "smaller, or pass drop_last=False and uneven='pad'."
        )
    return steps
