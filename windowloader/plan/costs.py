"""What an epoch reads, one class for each way to have rows: a dry run of the arithmetic that the reading follows.

In: a `Case`. Out: the cost of any rank, and what only some ways have: blocks, memory over time, the first batch. Of
very long epochs a part is looked at. Never reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from windowloader.rows.block_schedule import (
    BlockSchedule,
    blocks_read,
    rows_of,
    sides_asked,
    turns_before,
)
from windowloader.rows.preloaded import blocks_of
from windowloader.rows.row_buffers import RowBufferSchedule
from windowloader.sources.storage import total_cost

from .case import NOTHING, cost_of, plus
from .plan import EpochCost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from windowloader.order.lanes import BlockOrder
    from windowloader.sources.storage import Storage

    from .case import Case

__all__ = ["BlockReads", "Costs", "costs_of", "forecast"]

LOOK = 1 << 20  # rows of windows that are looked at
RANKS = 64  # ranks whose reads are all counted; of more, so many stand for the others
POINTS = 32  # of resident memory over time


class Costs(Protocol):
    """What one way to have rows costs."""

    @property
    def distinct(self) -> int:
        """Bytes that all ranks together must read at least once."""

    def ranks(self) -> NDArray[np.int64]:
        """Ranks that are counted to estimate all."""

    def cost(self, rank: int) -> EpochCost:
        """Count what a rank reads."""

    def fields(self) -> dict[str, Any]:
        """Fields of the `Plan` that only this way has."""


def costs_of(case: Case) -> Costs:
    """Return the costs of the way in which a loader reads."""
    choice = case.reading.choice
    if choice is None:
        return _Resident(case)
    if choice.mode == "preloaded":
        return _Preloaded(case)
    return _Direct(case) if case.reading.lanes is None else _Blocks(case)


def _some(world_size: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, world_size - 1, min(world_size, RANKS)).round().astype(np.int64))


class BlockReads(NamedTuple):
    """What some lanes read: blocks, and sides of overlaps that a resumed run reads when a window asks for them."""

    cost: EpochCost
    blocks: int
    sides: int
    side_bytes: int


def forecast(
    order: BlockOrder,
    storages: Sequence[Storage],
    lanes: Sequence[int],
    *,
    epoch: int,
    slots: int,
    cursor: int = 0,
    end: int | None = None,
) -> BlockReads:
    """Count what some lanes read in a pass, from a place of each to ``end``; None: to the end of the pass."""
    blocks, sides = [np.empty((2, 0), np.int64)], [np.empty((2, 0), np.int64)]
    for number in lanes:
        lane = order.sequence(epoch, number)
        schedule = BlockSchedule(lane, span=order.grid.span, slots=slots, cursor=min(cursor, len(lane)))
        blocks.append(np.stack([lane.begin, lane.end])[:, blocks_read(schedule, end)])
        asked = [schedule.side_rows(int(overlap)) for overlap in sides_asked(schedule, order.starts)]
        sides.append(np.array(asked, np.int64).reshape(-1, 2).T)
    of_blocks, of_sides = np.concatenate(blocks, axis=1), np.concatenate(sides, axis=1)
    side = total_cost(storages, *of_sides)
    more = EpochCost(bytes=int(side.bytes.sum()), requests=int(side.requests.sum()), distinct=0)
    cost = plus(cost_of(storages, of_blocks), more)
    return BlockReads(cost, of_blocks.shape[1], of_sides.shape[1], more.bytes)


def _schedule(case: Case, lane: int, *, ahead: int = 0) -> BlockSchedule:
    sequence = case.lanes.sequence(case.here.pass_number + ahead, lane)
    cursor = 0 if ahead else min(case.here.cursor, len(sequence))
    slots = case.layout.places(len(case.lanes.grid))
    return BlockSchedule(sequence, span=case.lanes.grid.span, slots=slots, cursor=cursor)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Blocks of each lane come and go."""

    case: Case

    @cached_property
    def parts(self) -> list[Case]:
        return self.case.stretches()

    @cached_property
    def distinct(self) -> int:
        grid = self.case.lanes.grid
        used = np.stack([grid.begin, grid.end])
        return len(self.parts) * self.case.cost(used).distinct

    def ranks(self) -> NDArray[np.int64]:
        return _some(self.case.world_size)

    def cost(self, rank: int) -> EpochCost:
        lanes = self.case.lanes_of(rank)
        fillers = (
            part.filler(part.lanes.sequence(part.here.pass_number, lane))
            for part in self.parts
            for lane in lanes
        )
        return plus(*(part.cost for part in self._reads(lanes)), *fillers)

    def _reads(self, lanes: Sequence[int]) -> list[BlockReads]:
        order, storages = self.case.lanes, self.case.reading.storages
        slots = self.case.layout.places(len(order.grid))
        return [
            forecast(
                order, storages, lanes, epoch=part.here.pass_number, slots=slots, cursor=part.here.cursor,
                end=part.end,
            )
            for part in self.parts
        ]  # fmt: skip

    def fields(self) -> dict[str, Any]:
        case, lanes = self.case, self.case.lanes_of(self.case.rank)
        found = self._reads(lanes)
        return {
            "lanes": lanes,
            "blocks": sum(part.blocks for part in found),
            "sides": sum(part.sides for part in found),
            "side_bytes": sum(part.side_bytes for part in found),
            "active": case.layout.active,
            "slots": case.layout.places(len(case.lanes.grid)),
            "resident": self._over_time(lanes),
            "first": plus(*(self._first(lane) for lane in lanes)),
            "upcoming": plus(*(_upcoming(self.parts[-1], lane) for lane in lanes)),
        }

    def _over_time(self, lanes: tuple[int, ...]) -> tuple[tuple[float, int], ...]:
        """Bytes of rows that are resident at even places of the rest of the epoch."""
        shares, first = np.linspace(0, 1, POINTS, endpoint=False), self.parts[0]
        total = np.zeros(POINTS, np.int64)
        for number in lanes:
            schedule = _schedule(first, number)
            lane, begin = schedule.lane, schedule.cursor
            if schedule.first_turn < lane.num_turns:
                size = min(len(lane), first.end or len(lane)) - begin
                turns = lane.spread.turn_of(begin + (max(size, 0) * shares).astype(np.int64))
                total += schedule.resident_rows()[turns]
        row_bytes = sum(storage.row_bytes for storage in self.case.reading.storages)
        return tuple(zip(shares.tolist(), (total * row_bytes).tolist(), strict=True))

    def _first(self, number: int) -> EpochCost:
        """Count what the first batch waits for: the blocks of all turns up to its last window's, and sides."""
        case, schedule = self.case, _schedule(self.case, number)
        step = case.steps.rank_at(case.position, rank=case.rank, world_size=case.world_size)
        places = np.empty(0, np.int64) if step is None else step.places[step.lanes == number]
        lane = schedule.lane
        if not len(places) or places[0] >= len(lane):
            return NOTHING
        last = min(int(places.max()), len(lane) - 1)
        entered = np.arange(min(int(lane.spread.turn_of(last)) + 1, len(lane.visits)))
        blocks = lane.visits[entered[schedule.placed[entered]]]
        block, crosses = schedule.locate(case.lanes.starts(lane.windows(int(places[0]), last + 1)))
        asked = schedule.overlaps[schedule.missing & np.isin(schedule.overlaps, block[crosses])]
        sides = np.array([schedule.side_rows(int(overlap)) for overlap in asked], np.int64).reshape(-1, 2)
        rows = np.stack([lane.begin[blocks], lane.end[blocks]])
        return case.cost(np.concatenate([rows, sides.T], axis=1))


def _upcoming(case: Case, lane: int) -> EpochCost:
    """Count what a lane reads ahead of the epoch's end: of its pass, and of the next one while this one drains."""
    here = _schedule(case, lane)
    turns, blocks = turns_before(here, case.end), len(here.lane.blocks)
    read = np.zeros((2, 0), np.int64)
    if turns:
        own, free = np.arange(turns, here.submitted(turns - 1)), here.slots
        if turns < here.lane.num_turns:  # what is there yet
            free -= int(np.count_nonzero(here.placed[max(0, turns - here.lane.active) :]))
        found = here.lane.visits[own[here.placed[own]]] if turns < blocks else own[:0]
        read = np.stack([here.lane.begin[found], here.lane.end[found]])
        if case.reads_on and here.submitted(turns - 1) >= blocks:
            coming = _schedule(case, lane, ahead=1)
            if coming.first_turn < coming.lane.num_turns:
                found = coming.turn(coming.first_turn).submit[: max(free, 0)]
                read = np.concatenate((read, [coming.lane.begin[found], coming.lane.end[found]]), axis=1)
    return case.cost(read)


@dataclass(frozen=True, eq=False)
class _Preloaded:
    """Blocks stay once they are read: only those that no epoch before it needed are read."""

    case: Case

    @cached_property
    def distinct(self) -> int:
        grid = self.case.lanes.grid
        return self.case.cost(np.stack([grid.begin, grid.end])).distinct

    def ranks(self) -> NDArray[np.int64]:
        return _some(self.case.world_size)

    def cost(self, rank: int) -> EpochCost:
        sequences = [
            (part, part.lanes.sequence(part.here.pass_number, lane))
            for part in self.case.stretches()
            for lane in self.case.lanes_of(rank)
        ]
        fillers = (part.filler(lane) for part, lane in sequences if not len(lane))
        return plus(self._cost(self._needed(rank)[0], rank), *fillers)

    def fields(self) -> dict[str, Any]:
        case, grid, rank = self.case, self.case.lanes.grid, self.case.rank
        needed, ahead = self._needed(rank)
        there = np.zeros_like(needed) if case.loaded is None else case.loaded
        step = case.steps.rank_at(case.position, rank=rank, world_size=case.world_size)
        first = np.zeros_like(needed)
        if step is not None:
            first[blocks_of(case.lanes, case.windows.index(step.positions))] = True
        rows, shares = grid.end - grid.begin, np.linspace(0, 1, POINTS, endpoint=False)
        row_bytes = sum(storage.row_bytes for storage in case.reading.storages)
        size = (rows[there].sum() + rows[needed].sum() * np.minimum(1.0, shares + 1 / POINTS)) * row_bytes
        return {
            "lanes": case.lanes_of(rank),
            "blocks": int(needed.sum()),
            "active": case.layout.active,
            "slots": case.layout.slots,
            "resident": tuple(zip(shares.tolist(), size.astype(np.int64).tolist(), strict=True)),
            "first": self._cost(first & ~there, rank),
            "upcoming": self._cost(ahead & ~needed, rank),
        }

    def _needed(self, rank: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Mark the blocks that the rest of the epoch reads, and those that are read ahead of its end besides."""
        case, order = self.case, self.case.lanes
        needed, ahead = np.zeros((2, len(order.grid)), np.bool_)
        for part in case.stretches():
            for number in case.lanes_of(rank):
                lane = order.sequence(part.here.pass_number, number)
                begin, end = min(part.here.cursor, len(lane)), min(part.end or len(lane), len(lane))
                if begin == end and len(lane) and part.steps.count(part.here.pass_number, part.here.cursor):
                    begin = end - 1  # its last window fills up the steps of other lanes
                if end - begin == len(lane):
                    needed[lane.blocks] = True
                elif begin < end:
                    looked = min(begin + LOOK, end)
                    needed[blocks_of(order, order.starts(lane.windows(begin, looked)))] = True
                    first, last = lane.spread.turn_of(np.array([looked, end]) - 1).tolist()
                    if looked < end:  # of the others, all blocks that are active or enter
                        needed[lane.blocks[lane.visits[max(0, first - lane.active) : last + 1]]] = True
                    coming = lane.visits[last + 1 : last + 1 + case.layout.ahead]
                    ahead[lane.blocks[coming]] = True
        there = np.zeros_like(needed) if case.loaded is None else case.loaded
        return needed & ~there, ahead & ~there

    def _cost(self, blocks: NDArray[np.bool_], rank: int) -> EpochCost:
        """Count what blocks cost, as far as their rows are this rank's."""
        order, lanes = self.case.lanes, self.case.lanes_of(rank)
        rotate = bool(self.case.reading.order.parameters["rotate"])
        low, high = rows_of(order.starts, order.num_lanes, lanes, span=order.grid.span, rotate=rotate)
        begin, end = np.maximum(order.grid.begin[blocks], low), np.minimum(order.grid.end[blocks], high)
        return self.case.cost(np.stack([begin, end]))


class _Sampled:
    """What goes step by step: other ranks are looked at where their windows are few, else they read alike."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.left = case.steps.left(case.position)
        self.share = -(-case.steps.global_batch // case.world_size)

    def ranks(self) -> NDArray[np.int64]:
        case = self.case
        few = self.left * case.steps.global_batch * len(case.reads.offsets) <= LOOK
        return _some(case.world_size) if few else np.array([case.rank])

    def starts(self, rank: int) -> Any:
        """Yield the windows' starts of one step after another, until enough rows were looked at."""
        case, seen = self.case, 0
        for step in case.steps.rank_rest(case.position, rank=rank, world_size=case.world_size):
            if seen >= LOOK:
                return
            seen += len(step.positions) * len(case.reads.offsets)
            yield case.windows.index(step.positions)


class _Direct(_Sampled):
    """Rows go straight into buffers."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.distinct = sum(storage.distinct(*case.used()) for storage in case.reading.storages)
        self.first, self.estimated = NOTHING, False

    def cost(self, rank: int) -> EpochCost:
        """Go through the steps as the reading does."""
        case, reading = self.case, self.case.reading
        assert reading.buffers is not None
        work = RowBufferSchedule(reading.buffers, case.reads.offsets, case.windows.spec.span)
        size = requests = indexes = looked = 0
        sharded = [storage for storage in reading.storages if storage.shards is not None]
        shards: list[set[int]] = [set() for _ in sharded]  # whose index was read: once, it is kept
        for starts in self.starts(rank):
            begin = 0
            while begin < len(starts):
                end = work.fit(starts, begin)
                runs = np.array(work.lay(starts[begin:end]).runs(), np.int64).reshape(-1, 3)[:, :2].T
                cost = total_cost(reading.storages, *runs)
                size, requests = size + int(cost.bytes.sum()), requests + int(cost.requests.sum())
                for storage, met in zip(sharded, shards, strict=True):
                    broken = set(storage.broken(*runs).tolist()) - met
                    met |= broken
                    indexes += len(broken) * storage.columns
                begin = end
            looked += 1
            if looked == 1 and rank == case.rank:
                self.first = EpochCost(bytes=size, requests=requests + indexes, distinct=size)
        times = self.left / max(looked, 1)
        self.estimated = self.estimated or looked < self.left
        part = self.distinct
        if case.steps.order.num_lanes > 1:
            part = -(-part // case.world_size)
        size = round(size * times)
        return EpochCost(bytes=size, requests=round(requests * times) + indexes, distinct=min(size, part))

    def fields(self) -> dict[str, Any]:
        lanes = tuple(range(self.case.steps.order.num_lanes))
        return {"lanes": lanes, "first": self.first, "estimated": self.estimated}


class _Resident(_Sampled):
    """Rows are indexed where they lie: those that a rank touches."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        begin, end = case.used()
        self.union = int((end - begin).sum())
        self.row_bytes = sum(case.windows.series.variables[i].row_bytes for i in case.reads.variables)
        self.distinct = self.union * self.row_bytes

    def cost(self, rank: int) -> EpochCost:
        size = self._touched(rank) * self.row_bytes
        return EpochCost(bytes=size, requests=0, distinct=size)

    def _touched(self, rank: int) -> int:
        """Count rows: of very long epochs a part is looked at, or chance does the counting."""
        case, offsets, share = self.case, self.case.reads.offsets, self.left * self.share
        if share >= len(case.windows):  # all of them, or as good as
            return self.union
        if share * len(offsets) > LOOK and not case.reading.order.name.startswith("sequential"):
            missed = (1.0 - share / len(case.windows)) ** case.windows.spec.span  # windows that hold a row
            return min(self.union, round(self.union * (1.0 - missed)))
        rows = [np.unique(starts[:, np.newaxis] + offsets) for starts in self.starts(rank)]
        count = len(np.unique(np.concatenate([np.empty(0, np.int64), *rows])))
        return min(self.union, round(count * self.left / max(len(rows), 1)))

    def fields(self) -> dict[str, Any]:
        return {"lanes": (), "first": NOTHING}
