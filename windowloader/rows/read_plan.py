"""How a loader reads: which order, which variables by blocks, how much memory holds what. One answer for all.

In: window set, reads, config, world size, perhaps the state of a run. Out: a `ReadPlan`, from which the engine makes
its access and ``plan`` its numbers. Pure arithmetic: never reads data, the same on all ranks.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import MemoryBudgetError
from windowloader.order.grid import SPANS, cut
from windowloader.order.lanes import BlockOrder
from windowloader.order.order import GlobalOrder, SequentialOrder
from windowloader.order.shard import per_lane
from windowloader.series.variable import common_tier
from windowloader.sources.base import LOCAL_TIERS
from windowloader.sources.storage import total_cost

from .block_schedule import lanes_read, rows_of
from .budget import TWICE, amount_of, choose, preload
from .reader import stored
from .row_buffers import RowBuffers
from .rows import PreloadedVariable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.order.config import LoaderConfig
    from windowloader.order.grid import Grid
    from windowloader.order.order import Order
    from windowloader.order.state import RunState
    from windowloader.series.variable import Variable
    from windowloader.sources.storage import Storage
    from windowloader.windows.reads import Reads
    from windowloader.windows.window_set import WindowSet

    from .budget import BlockLayout
    from .reader import Stored

__all__ = ["ReadPlan", "plan_reads", "warn_of_repeated_reads"]

PRELOAD = True  # keep rows that fit in memory once they are read
HELD_BYTES = 8 << 20  # a variable of no more is small, where another is 16 times as large
HELD_SHARE = 16
_LOOK = 256  # windows looked at to see how often rows are read directly
_BUFFERS = 4  # two batches being made, and the rows of those before


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadPlan:
    """How a loader reads.

    Parameters
    ----------
    order : Order
    tier : str
        "memory", "mapped", "cached" or "streamed": of the variables that the windows read.
    reason : str
        Why this order and this way of reading, for people.
    stored : tuple of Stored
        Variables that are read step by step; none where all rows are addressable.
    held : mapping of int to PreloadedVariable
        Those that are read once and kept whole, by their place in ``reads``: small ones beside a stream, and local ones
        that no view shows.
    choice : BlockLayout or None
        Blocks or direct, with every term of the memory; None where nothing is read step by step.
    lanes : BlockOrder or None
        The order laid out over blocks, where it is read so.
    buffers : RowBuffers or None
        Room for rows that are read directly.
    """

    order: Order
    tier: str
    reason: str
    stored: tuple[Stored, ...] = ()
    held: Mapping[int, PreloadedVariable] = field(default_factory=dict)
    choice: BlockLayout | None = None
    lanes: BlockOrder | None = None
    buffers: RowBuffers | None = None

    @property
    def storages(self) -> tuple[Storage, ...]:
        """Storage of what is read step by step."""
        return tuple(one.storage for one in self.stored)


def plan_reads(
    windows: WindowSet,
    reads: Reads,
    config: LoaderConfig,
    world_size: int,
    state: RunState | None = None,
) -> ReadPlan:
    """Settle how windows are read.

    Parameters
    ----------
    windows : WindowSet
    reads : Reads
    config : LoaderConfig
    world_size : int
    state : RunState, optional
        Of a run that goes on: its order, seed and parameters win.

    Returns
    -------
    ReadPlan

    Raises
    ------
    MemoryBudgetError
        Where one chunk, or blocks that were asked for, are more than the memory.
    LoaderError
        Where the lanes do not divide the global batch.
    """
    if (
        state is None and config.lanes
    ):  # also where one lane will do, so that no run depends on where its data are
        per_lane(config.global_batch(world_size), config.lanes)
    used = [windows.series.variables[number] for number in reads.variables]
    streamed = {place: variable for place, variable in enumerate(used) if variable.view() is None}
    if not streamed:
        return _addressable(windows, used, config, state)
    if common_tier(streamed.values()) in LOCAL_TIERS:
        found = _local(windows, used, streamed, config, world_size, state)
        if found is not None:
            return found
    sizes = {place: variable.num_rows * variable.row_bytes for place, variable in streamed.items()}
    small = min(HELD_BYTES, max(sizes.values()) // HELD_SHARE)
    held = {
        place: PreloadedVariable(variable, *windows.row_range)
        for place, variable in streamed.items()
        if sizes[place] <= small
    }
    read = tuple(stored(variable) for place, variable in streamed.items() if place not in held)
    budget = config.budget - sum(one.nbytes for one in held.values())
    case = _Case(windows, config, world_size, read, budget)
    order, choice, lanes, reason = _streamed(case, state)
    buffers = None
    if lanes is None:
        choice, buffers = case.buffers(choice)
    return ReadPlan(
        order=order, tier=common_tier(streamed.values()), reason=reason, stored=read, held=held,
        choice=choice, lanes=lanes, buffers=buffers,
    )  # fmt: skip


def warn_of_repeated_reads(plan: ReadPlan, windows: WindowSet, reads: Reads) -> None:
    """Warn where an epoch reads over twice the bytes of the array.

    Warns
    -----
    UserWarning
        With the number, and the memory that would do.
    """
    choice = plan.choice
    if choice is None or plan.tier in LOCAL_TIERS or plan.order.name.startswith("sequential"):
        return
    times = choice.amplification if choice.mode != "direct" else _times_read_directly(plan, windows, reads)
    if times > TWICE:
        if choice.once:
            do = f"memory='{amount_of(choice.once)}' would read each row once"
        elif windows.index.rising:
            do = "more memory, or smaller chunks ('windowloader convert'), would read less"
        else:
            do = "windows in time order would be read in blocks, each row once"
        warnings.warn(
            f"each epoch reads {times:.1f} times the bytes of the array: {choice.reason}. {do}. loader.plan() has the "
            "numbers.",
            UserWarning,
            stacklevel=2,
        )


def _times_read_directly(plan: ReadPlan, windows: WindowSet, reads: Reads) -> float:
    """Bytes of all windows in any order, over the bytes that must be read at least once."""
    borders = np.flatnonzero(np.diff(reads.offsets) > 1)
    opens = reads.offsets[np.append(0, borders + 1)]
    closes = reads.offsets[np.append(borders, len(reads.offsets) - 1)] + 1
    numbers = np.unique(np.linspace(0, len(windows) - 1, _LOOK).astype(np.int64))
    starts = windows.index(numbers)
    size = sum(
        int(total_cost(plan.storages, starts + a, starts + b).bytes.sum())
        for a, b in zip(opens, closes, strict=True)
    )
    span, low, high = windows.spec.span, *windows.row_range
    used = cut(windows.index, plan.storages, span=span, rows=SPANS * span) if windows.index.rising else None
    begin, end = ([low], [high]) if used is None else (used.begin, used.end)
    least = sum(storage.distinct(begin, end) for storage in plan.storages)
    return size / len(numbers) * len(windows) / max(least, 1)


def _addressable(
    windows: WindowSet, used: Sequence[Variable], config: LoaderConfig, state: RunState | None
) -> ReadPlan:
    order: Order
    if state is not None and state.order.startswith("block"):
        storages = [stored(variable).storage for variable in used]
        grid = cut(windows.index, storages, span=windows.spec.span, rows=state.block_rows, like=state.borders)
        rotate = bool(state.rotate)
        order = _blocks(windows, grid, state.active_blocks, state.lanes, state.seed, rotate=rotate)
    elif state is not None:
        order = _by_name(state, len(windows))
    elif config.shuffle:
        order = GlobalOrder(len(windows), config.seed)
    else:
        order = SequentialOrder(len(windows), config.lanes or 1)
    reason = "rows are addressable where they lie, so that any window may come next"
    return ReadPlan(order=order, tier=common_tier(used), reason=reason)


def _local(
    windows: WindowSet,
    used: Sequence[Variable],
    apart: Mapping[int, Variable],
    config: LoaderConfig,
    world_size: int,
    state: RunState | None,
) -> ReadPlan | None:
    """Read what lies here and yet is no array: foreign bytes, some nodes of many, several arrays joined along time.

    Any row costs alike, so the order is that of arrays. The rows are kept as an array where half of the memory holds
    them, else each batch brings its own together. None for a run in blocks that goes on, where they are too many.
    """
    found = _addressable(windows, used, config, state)
    held = {place: PreloadedVariable(variable, *windows.row_range) for place, variable in apart.items()}
    if sum(one.nbytes for one in held.values()) <= config.budget // 2:
        why = "rows are brought into one array when first used, so that any window may come next"
        return replace(found, reason=why, held=held)
    if found.order.name.startswith("block"):
        return None
    read = tuple(stored(variable) for variable in apart.values())
    case = _Case(windows, config, world_size, read, config.budget)
    choice, buffers = case.buffers(case.direct())
    why = "rows are read straight into batches from where they lie: as one array they would take half of the memory"
    return replace(found, reason=why, stored=read, choice=choice, buffers=buffers)


def _by_name(state: RunState, windows: int) -> Order:
    if state.order.startswith("global"):
        return GlobalOrder(windows, state.seed)
    return SequentialOrder(windows, state.lanes)


def _blocks(
    windows: WindowSet, grid: Grid, active: int, lanes: int, seed: int, *, rotate: bool = True
) -> BlockOrder:
    return BlockOrder(windows.index, grid=grid, seed=seed, active=active, lanes=lanes, rotate=rotate)


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """What the choice is made from."""

    windows: WindowSet
    config: LoaderConfig
    world_size: int
    read: tuple[Stored, ...]
    budget: int

    def choose(self, lanes: int, **asked: Any) -> BlockLayout:
        """Choose blocks for the rank that reads the most lanes, so that all choose alike."""
        held = max(map(len, self._lanes_of_ranks(lanes)))
        return self._choose(lanes=lanes, lanes_held=held, ahead=self.config.reads_ahead, **asked)

    def preload(self, lanes: int, *, rotate: bool, **asked: Any) -> BlockLayout | None:
        """Lay out rows that stay, for the rank that needs the most of them; None where memory does not hold them."""
        if not PRELOAD or any(
            one.variable.source.tier == "cached" for one in self.read
        ):  # kept on the disk instead
            return None
        index, span = self.windows.index, self.windows.spec.span
        return preload(
            index,
            [one.storage for one in self.read],
            span=span,
            memory=max(1, self.budget),
            held_rows=max(
                end - begin
                for held in self._lanes_of_ranks(lanes)
                for begin, end in [rows_of(index, lanes, held, span=span, rotate=rotate)]
            ),
            lanes=lanes,
            ahead=self.config.reads_ahead,
            **asked,
        )

    def _lanes_of_ranks(self, lanes: int) -> set[tuple[int, ...]]:
        batch, world_size = per_lane(self.config.global_batch(self.world_size), lanes), self.world_size
        return {lanes_read(rank, world_size, lanes=lanes, batch_per_lane=batch) for rank in range(world_size)}

    def direct(self) -> BlockLayout:
        """Read rows straight into batches."""
        return self._choose(direct=True)

    @property
    def holds_a_window(self) -> bool:
        """Whether memory is enough to read rows directly."""
        try:
            self.buffers(self.direct())
        except MemoryBudgetError:
            return False
        return True

    def buffers(self, choice: BlockLayout) -> tuple[BlockLayout, RowBuffers]:
        """Divide memory among buffers and chunks being read: one window first, then half of the rest for each."""
        share = -(-self.config.global_batch(self.world_size) // self.world_size)
        row_bytes = sum(one.storage.row_bytes for one in self.read)
        span = self.windows.spec.span
        chunk = max(
            one.storage.request_bytes(span) for one in self.read
        )  # as it comes, and a part of it decoded
        chunk += max(one.storage.chunk_bytes for one in self.read)
        free = self.budget - choice.terms.reserve
        requests = max(1, min(choice.requests, (free - span * row_bytes) // 2 // chunk))
        in_flight = requests * chunk
        buffers = RowBuffers.within(
            free - in_flight, row_bytes=row_bytes, span=span, windows=share, wanted=_BUFFERS
        )
        arena = buffers.count * buffers.rows * row_bytes
        terms = replace(choice.terms, arena=arena, in_flight=in_flight)
        return replace(choice, terms=terms, requests=requests), buffers

    def _choose(self, **asked: Any) -> BlockLayout:
        return choose(
            self.windows.index,
            [one.storage for one in self.read],
            span=self.windows.spec.span,
            memory=max(1, self.budget),
            **asked,
        )


def _streamed(case: _Case, state: RunState | None) -> tuple[Order, BlockLayout, BlockOrder | None, str]:
    windows, config = case.windows, case.config
    count, lanes = len(windows), config.lanes or case.world_size
    if state is not None:
        lanes = state.lanes
    kind = "block" if config.shuffle else "sequential"
    if state is not None:
        kind = state.order.partition("-")[0]
    if kind == "block" and (state is not None or windows.index.rising):
        asked: dict[str, Any] = {"active": config.active_blocks}
        if state is not None:
            asked = {"active": state.active_blocks, "rows": state.block_rows, "like": state.borders}
        rotate = state is not None and bool(state.rotate)
        choice = case.preload(lanes, rotate=rotate, **asked)
        if choice is None:
            choice, rotate = case.choose(lanes, **asked), state is None or bool(state.rotate)
        if choice.grid is not None:
            seed = config.seed if state is None else state.seed
            order = _blocks(windows, choice.grid, choice.active, lanes, seed, rotate=rotate)
            return order, choice, None if choice.mode == "direct" else order, choice.reason
        return GlobalOrder(count, config.seed), choice, None, choice.reason
    if kind == "sequential":
        in_time = SequentialOrder(count, lanes)
        if windows.index.rising:
            choice = _in_time(case, lanes)
            if choice.mode != "direct" and choice.grid is not None:
                return (
                    in_time,
                    choice,
                    BlockOrder(windows.index, grid=choice.grid, active=1, lanes=lanes, shuffle=False),
                    choice.reason,
                )
            return in_time, choice, None, choice.reason
        return (
            in_time,
            case.direct(),
            None,
            "the windows are not in time order, so rows are read as they come",
        )
    order_ = GlobalOrder(count, config.seed if state is None else state.seed)
    why = "the windows are not in time order" if state is None else "the run goes on in a full permutation"
    return order_, case.direct(), None, f"rows are read straight into batches: {why}"


def _in_time(case: _Case, lanes: int) -> BlockLayout:
    """One block at a time where that fits, whatever the chunks: each row is then read once."""
    preloaded = case.preload(lanes, rotate=False, active=1)
    if preloaded is not None:
        return preloaded
    direct = "rows are read straight into batches: the memory does not hold two blocks"
    try:
        choice = case.choose(lanes, active=1)
    except MemoryBudgetError:
        return replace(case.direct(), reason=direct)  # or an error, where one chunk is too large
    single = all(one.storage.largest == 1 for one in case.read)
    if choice.mode == "halo" and single and case.holds_a_window:
        return replace(
            case.direct(), reason=direct
        )  # which has the rows of the batch before, and reads none twice
    return choice
