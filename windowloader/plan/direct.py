"""What reading directly takes: the half of a plan that goes through the buffers as the reading does.

In: a `Case`. Out: fields of a `Plan`. Of very long epochs a part is looked at; never reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.rows.budget import REQUESTS
from windowloader.rows.row_buffers import RowBufferSchedule
from windowloader.sources.storage import total_cost

from .case import LOOK, advice, held_cost, plus, seen_by_all, used
from .plan import EpochCost

if TYPE_CHECKING:
    from .case import Case

__all__ = ["direct"]


def direct(case: Case) -> dict[str, Any]:
    """Estimate the rest of an epoch whose rows are read directly.

    Parameters
    ----------
    case : Case

    Returns
    -------
    dict
        Fields of `Plan`.
    """
    choice, reading = case.reading.choice, case.reading
    assert choice is not None
    found, first, estimated = _follow(case, case.rank)
    begin, end = used(case)
    distinct = sum(storage.distinct(begin, end) for storage in reading.storages)
    part = len(case.steps.order.lane_sizes(0)) > 1 or case.world_size == 1
    held = held_cost(case)
    own = EpochCost(
        bytes=found[0] + held.bytes,
        requests=found[1] + held.requests,
        distinct=min(
            found[0], distinct if not part or case.world_size == 1 else -(-distinct // case.world_size)
        )
        + held.distinct,
    )
    ranks = [own]
    if seen_by_all(case, len(case.reads.offsets)):
        others = [_follow(case, rank)[0] for rank in range(case.world_size) if rank != case.rank]
        ranks += [EpochCost(bytes=some[0], requests=some[1], distinct=0) for some in others]
        ranks += [held] * len(others)
    times = 1 if len(ranks) > 1 else case.world_size
    everyone = EpochCost(
        bytes=times * sum(cost.bytes for cost in ranks),
        requests=times * sum(cost.requests for cost in ranks),
        distinct=distinct + held.distinct,
    )
    return {
        "mode": "direct",
        "lanes": tuple(range(case.steps.order.num_lanes)),
        "own": own,
        "all_ranks": own if case.world_size == 1 else everyone,
        "estimated": estimated,
        "memory": choice.terms,
        "at_a_time": choice.requests,
        "first": plus(first, held),
        "scan_share": min(1.0, choice.requests / REQUESTS) / max(own.amplification, 1.0),
        "advice": tuple(advice(case, own)),
    }


def _follow(case: Case, rank: int) -> tuple[tuple[int, int], EpochCost, bool]:
    """Go through the steps as the reading does: bytes and requests, the first batch's, whether a part was seen."""
    reading = case.reading
    assert reading.buffers is not None
    offsets = case.reads.offsets
    work = RowBufferSchedule(reading.buffers, offsets, case.windows.spec.span)
    left, looked, rows = case.steps.left(case.position), 0, 0
    size = requests = indexes = 0
    first = EpochCost(bytes=0, requests=0, distinct=0)
    position = case.position
    sharded = [storage for storage in reading.storages if storage.shards is not None]
    shards: list[set[int]] = [set() for _ in sharded]  # whose index was read: once, it is kept
    while looked < left and rows < LOOK:
        step = case.steps.rank_at(position, rank=rank, world_size=case.world_size)
        assert step is not None
        starts = case.windows.index(step.positions)
        rows += len(starts) * len(offsets)
        begin = 0
        while begin < len(starts):
            end = work.fit(starts, begin)
            runs = work.lay(starts[begin:end]).runs()
            if runs:
                cost = total_cost(reading.storages, *np.array(runs).T[:2])
                size += int(cost.bytes.sum())
                requests += int(cost.requests.sum())
                for storage, met in zip(sharded, shards, strict=True):
                    broken = set(storage.broken(*np.array(runs).T[:2]).tolist()) - met
                    met |= broken
                    indexes += len(broken) * storage.columns
            begin = end
        looked += 1
        if looked == 1:
            first = EpochCost(bytes=size, requests=requests + indexes, distinct=size)
        position = case.steps.advance(position)
    times = left / max(looked, 1)
    return (round(size * times), round(requests * times) + indexes), first, looked < left
