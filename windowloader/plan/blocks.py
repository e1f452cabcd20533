"""What reading by blocks takes: the half of a plan that the executor of blocks follows.

In: a `Case`. Out: fields of a `Plan`. Arithmetic on the same lanes and schedules; never reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.rows.block_schedule import BlockSchedule, turns_before
from windowloader.rows.budget import REQUESTS
from windowloader.rows.estimate import blocks_read, forecast
from windowloader.sources.storage import total_cost

from .case import advice, held_cost, plus
from .plan import EpochCost

if TYPE_CHECKING:
    from collections.abc import Callable

    from windowloader.rows.estimate import EpochEstimate

    from .case import Case

__all__ = ["POINTS", "by_blocks", "filler_cost", "of_all"]

RANKS = 64  # ranks whose reads are all counted; of more, so many stand for the others
POINTS = 32  # of resident memory over time


def by_blocks(case: Case) -> dict[str, Any]:
    """Estimate the rest of an epoch that is read by blocks.

    Parameters
    ----------
    case : Case

    Returns
    -------
    dict
        Fields of `Plan`.
    """
    held = held_cost(case)
    nothing = EpochCost(bytes=0, requests=0, distinct=0)
    parts = [_stretch(one, nothing if number else held) for number, one in enumerate(case.stretches())]
    found, choice = parts[0], case.reading.choice
    assert choice is not None
    for name in ("own", "all_ranks"):
        found[name] = plus(*(part[name] for part in parts))
    for name in ("blocks", "sides", "side_bytes"):
        found[name] = sum(part[name] for part in parts)
    return {
        **found,
        "mode": choice.mode,
        "active": choice.active,
        "memory": choice.terms,
        "at_a_time": choice.requests,
        "first": _first(case, found["lanes"]),
        "upcoming": parts[-1]["upcoming"],
        "scan_share": min(1.0, choice.requests / REQUESTS) / max(found["own"].amplification, 1.0),
        "advice": tuple(advice(case, found["own"])),
    }


def _stretch(case: Case, held: EpochCost) -> dict[str, Any]:
    """Estimate what is read for a part of a pass, or for all of it."""
    lanes, choice, here = case.reading.lanes, case.reading.choice, case.here
    assert lanes is not None
    assert choice is not None
    slots = choice.places(len(lanes.grid))

    def estimate_epoch(rank: int) -> EpochEstimate:
        return forecast(
            lanes,
            case.reading.storages,
            epoch=here.pass_number,
            slots=slots,
            batch_per_lane=case.steps.batch_per_lane,
            rank=rank,
            world_size=case.world_size,
            cursor=here.cursor,
            end=case.end,
        )

    def cost(found: EpochEstimate) -> EpochCost:
        """Of a rank, with the windows that fill up lanes that have none left."""
        parts = (filler_cost(case, lane) for lane in found.lanes)
        return plus(EpochCost(bytes=found.bytes + found.side_bytes, requests=found.requests + found.side_requests,
                         distinct=0), held, *parts)  # fmt: skip

    found = estimate_epoch(case.rank)
    own = replace(cost(found), distinct=_distinct(case, found) + held.distinct)
    everyone = (
        own if case.world_size == 1 else of_all(case.world_size, lambda rank: cost(estimate_epoch(rank)))
    )
    whole = not here.cursor and case.end is None
    least = found.distinct if whole else min(found.distinct, (own.distinct - held.distinct) * case.world_size)
    return {
        "lanes": found.lanes,
        "own": own,
        "all_ranks": own if case.world_size == 1 else replace(everyone, distinct=least + held.distinct),
        "blocks": found.blocks,
        "slots": slots,
        "sides": found.sides,
        "side_bytes": found.side_bytes,
        "resident": _over_time(case, found.lanes),
        "upcoming": plus(*(_upcoming(case, lane) for lane in found.lanes)),
    }


def of_all(world_size: int, cost: Callable[[int], EpochCost]) -> EpochCost:
    """Add ranks up; of very many, some evenly among them stand for all."""
    ranks = np.unique(
        np.linspace(0, world_size - 1, min(world_size, RANKS)).round().astype(np.int64)
    ).tolist()
    total = plus(*map(cost, ranks))
    times = world_size / len(ranks)
    size, requests, distinct = (round(n * times) for n in (total.bytes, total.requests, total.distinct))
    return EpochCost(bytes=size, requests=requests, distinct=distinct)


def _distinct(case: Case, found: EpochEstimate) -> int:
    """Bytes that a rank must read at least once."""
    lanes = case.reading.lanes
    assert lanes is not None
    ranges = []
    for lane in found.lanes:
        sequence = lanes.sequence(case.here.pass_number, lane)
        read = blocks_read(_schedule(case, lane), case.end)
        ranges.append(np.stack([sequence.begin, sequence.end])[:, read])
    begin, end = np.concatenate([np.empty((2, 0), np.int64), *ranges], axis=1)
    return sum(storage.distinct(begin, end) for storage in case.reading.storages) if len(begin) else 0


def filler_cost(case: Case, lane: int) -> EpochCost:
    """Count the window that fills the last step of a lane that has none left where the run begins."""
    lanes, here = case.reading.lanes, case.here
    assert lanes is not None
    own = lanes.sequence(here.pass_number, lane)
    if here.cursor < len(own) or not case.steps.count(here.pass_number, here.cursor):
        return EpochCost(bytes=0, requests=0, distinct=0)
    if not len(own):
        own = lanes.sequence(here.pass_number, case.steps.order.longest_lane)
    begin = lanes.starts(own.windows(len(own) - 1, len(own)))
    cost = total_cost(case.reading.storages, begin, begin + lanes.grid.span)
    return EpochCost(bytes=int(cost.bytes[0]), requests=int(cost.requests[0]), distinct=0)


def _schedule(case: Case, lane: int, *, ahead: int = 0) -> BlockSchedule:
    lanes, choice = case.reading.lanes, case.reading.choice
    assert lanes is not None
    assert choice is not None
    sequence = lanes.sequence(case.here.pass_number + ahead, lane)
    return BlockSchedule(
        sequence,
        span=lanes.grid.span,
        slots=choice.places(len(lanes.grid)),
        cursor=0 if ahead else min(case.here.cursor, len(sequence)),
    )


def _over_time(case: Case, lanes: tuple[int, ...]) -> tuple[tuple[float, int], ...]:
    """Bytes of rows that are resident at even places of the rest of the epoch."""
    shares = np.linspace(0, 1, POINTS, endpoint=False)
    total = np.zeros(POINTS, np.int64)
    for lane in lanes:
        schedule = _schedule(case, lane)
        size = min(len(schedule.lane), case.end or len(schedule.lane))
        if schedule.first_turn < schedule.lane.num_turns:
            at = schedule.cursor + (max(size - schedule.cursor, 0) * shares).astype(np.int64)
            total += schedule.resident_rows()[schedule.lane.spread.turn_of(at)]
    return tuple(zip(shares.tolist(), (total * case.row_bytes).tolist(), strict=True))


def _first(case: Case, lanes: tuple[int, ...]) -> EpochCost:
    """Count what the first batch waits for: the blocks of all turns up to its last window's, and sides of overlaps."""
    parts = [held_cost(case)]
    step = case.steps.rank_at(case.position, rank=case.rank, world_size=case.world_size)
    if step is None:
        return parts[0]
    for lane in lanes:
        schedule, places = _schedule(case, lane), step.places[step.lanes == lane]
        if not len(places) or places[0] >= len(schedule.lane):
            continue
        last = min(int(places.max()), len(schedule.lane) - 1)
        turn = int(schedule.lane.spread.turn_of(np.array([last]))[0])
        entered = np.arange(min(turn + 1, len(schedule.lane.visits)))
        blocks = schedule.lane.visits[entered[schedule.placed[entered]]]
        parts.append(_first_sides(case, schedule, int(places[0]), last + 1))
        if len(blocks):
            begin, end = schedule.lane.begin[blocks], schedule.lane.end[blocks]
            cost = total_cost(case.reading.storages, begin, end)
            size = int(cost.bytes.sum())
            parts.append(EpochCost(bytes=size, requests=int(cost.requests.sum()), distinct=size))
    return plus(*parts)


def _first_sides(case: Case, schedule: BlockSchedule, begin: int, end: int) -> EpochCost:
    """Count the sides of overlaps that windows ``[begin, end)`` of a resumed lane ask for."""
    assert case.reading.lanes is not None
    block, crosses = schedule.locate(case.reading.lanes.starts(schedule.lane.windows(begin, end)))
    asked = schedule.overlaps[schedule.missing & np.isin(schedule.overlaps, block[crosses])]
    sides = np.array([schedule.side_rows(int(overlap)) for overlap in asked], np.int64).reshape(-1, 2)
    cost = total_cost(case.reading.storages, *sides.T)
    size = int(cost.bytes.sum())
    return EpochCost(bytes=size, requests=int(cost.requests.sum()), distinct=size)


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
    cost = total_cost(case.reading.storages, *read)
    size = int(cost.bytes.sum())
    return EpochCost(bytes=size, requests=int(cost.requests.sum()), distinct=size)
