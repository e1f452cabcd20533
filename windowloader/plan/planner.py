"""From a `ReadPlan` to a `Plan`: bytes, requests, memory over time, mixing, advice, and where rows are read when.

In: what the loader executes. Out: its numbers. Never touches data; of very long direct epochs a part is looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import MemoryBudgetError
from windowloader.order.grid import SPANS, block_rows, cut
from windowloader.order.mixing import mixing, mixing_of_permutation
from windowloader.rows.budget import REQUESTS, amount_of, default_active, memory_for
from windowloader.rows.read_plan import plan_reads
from windowloader.sources.storage import Storage, total_cost

from .case import plus
from .costs import costs_of
from .plan import EpochCost, LaneTrace, Plan, Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from windowloader.order.grid import Grid

    from .case import Case
    from .costs import Costs

__all__ = ["make_plan"]

TRACED_LANES = 8  # drawn beside the rank's own
TRACED_BLOCKS = 1024  # of a lane
TRACED_STEPS = 96  # looked at where any window may come next
TWICE_READ = 1.5  # times that a row is read directly beyond which longer chunks are advised


def make_plan(case: Case) -> Plan:
    """Estimate the rest of an epoch.

    Parameters
    ----------
    case : Case

    Returns
    -------
    Plan
    """
    reading, steps, order = case.reading, case.steps, case.reading.order
    choice, costs, held = reading.choice, costs_of(case), case.held_cost()
    own = plus(costs.cost(case.rank), held)
    everyone = own if case.world_size == 1 else plus(_of_all(costs, case.world_size), held)
    everyone = replace(everyone, bytes=everyone.bytes + (case.world_size - 1) * held.bytes)
    everyone = replace(everyone, requests=everyone.requests + (case.world_size - 1) * held.requests)
    numbers = costs.fields()
    numbers["first"] = plus(numbers["first"], held)
    if choice is not None:
        numbers |= {
            "memory": choice.terms,
            "at_a_time": choice.requests,
            "scan_share": min(1.0, choice.requests / REQUESTS) / max(own.amplification, 1.0),
            "advice": tuple(_advice(case, everyone)),
        }
    grid = _grid(case)
    if grid is not None and not order.name.startswith("sequential"):
        asked: Any = {"starts": case.windows.index, "grid": grid, "batch": steps.global_batch}
        asked["epochs"] = (case.here.pass_number,)
        numbers["mixing"] = mixing(order, **asked)
        numbers["permutation"] = mixing_of_permutation(seed=order.seed, **asked)
    left = steps.left(case.position)
    return Plan(
        tier=reading.tier,
        mode="resident" if choice is None else choice.mode,
        order=order.name,
        parameters=order.parameters,
        reason=reading.reason,
        rank=case.rank,
        world_size=case.world_size,
        epoch=case.position.epoch,
        step=case.position.step,
        steps=left,
        windows=_rows_left(case, left, -(-steps.global_batch // case.world_size)),
        own=own,
        all_ranks=everyone,
        held=sum(one.nbytes for one in reading.held.values()),
        budget=case.config.budget,
        batch_bytes=case.batch_bytes,
        batches_ahead=case.ahead,
        trace=_trace(case),
        **numbers,
    )


def _of_all(costs: Costs, world_size: int) -> EpochCost:
    """Add ranks up; of very many, some stand for all."""
    ranks = costs.ranks().tolist()
    total, times = plus(*map(costs.cost, ranks)), world_size / len(ranks)
    distinct = min(round(total.distinct * times), costs.distinct)
    return EpochCost(
        bytes=round(total.bytes * times), requests=round(total.requests * times), distinct=distinct
    )


def _rows_left(case: Case, left: int, share: int) -> int:
    """Rows of the rank's batches; only the last step of a pass can be shorter."""
    steps, here, rows = case.steps, case.here, 0
    while left:
        count = steps.count(here.pass_number, here.cursor)
        taken = min(left, count)
        rows += taken * share
        if taken == count:
            short = (steps.length(here.pass_number) - here.cursor) % steps.batch_per_lane
            if short and not steps.drop_last:
                rows += -(-short * steps.order.num_lanes // case.world_size) - share
        left -= taken
        if left:
            here = steps.upcoming(steps.advance(here, taken))
    return rows


def _grid(case: Case) -> Grid | None:
    """Blocks to measure mixing by: those that are read, else such as would be."""
    if case.reading.lanes is not None:
        return case.reading.lanes.grid
    if not case.windows.index.rising or len(case.windows) < 2:
        return None
    span = case.windows.spec.span
    row_bytes = max(1, sum(case.windows.series.variables[i].row_bytes for i in case.reads.variables))
    rows = block_rows(span, row_bytes)
    return cut(case.windows.index, [Storage(None, row_bytes=row_bytes)], span=span, rows=rows)


# -- advice ------------------------------------------------------------------------------------------------------------


def _advice(case: Case, everyone: EpochCost) -> list[str]:
    """Say what budget or storage would be better for all ranks together."""
    choice, span = case.layout, case.windows.spec.span
    found: list[str] = []
    if choice.mode == "preloaded":
        return found
    again = everyone.amplification if choice.mode == "direct" else choice.amplification
    gain = _gain(case, choice.once)
    if gain:
        found.append(f"memory={amount_of(choice.once)!r} would give {gain}.")
    elif again > TWICE_READ:
        found.append(
            f"each row is read {again:.1f} times: chunks of {SPANS * span} rows or more ('windowloader convert') would "
            "be read once."
        )
    if choice.mode == "direct" or choice.grid is None:
        return found
    storages, grid = case.reading.storages, choice.grid
    per_block = max(1, int(total_cost(storages, grid.begin, grid.end).requests.max(initial=1)))
    if not found:
        lanes = max(len(case.lanes_of(rank)) for rank in (0, case.world_size - 1, case.rank))
        best = default_active(len(grid), case.steps.order.num_lanes)
        in_time = case.reading.order.name.startswith("sequential")
        active = choice.active if in_time else max(choice.active, best)
        slots = min(active + -(-2 * REQUESTS // per_block), len(grid))
        memory = memory_for(grid, storages, span=span, lanes_held=lanes, active=active, slots=slots)
        if memory > case.config.budget and (gain := _gain(case, memory)):
            found.append(f"memory={amount_of(memory)!r} would give {gain}.")
    if per_block > REQUESTS and max(storage.largest for storage in storages) < SPANS * span:
        found.append(
            f"a block is {per_block} requests: chunks of {SPANS * span} rows or more would need fewer ('windowloader "
            "convert')."
        )
    return found


def _gain(case: Case, memory: int) -> str:
    """Say what more memory would bring, by the plan that a loader would make with it; nothing where none."""
    if memory <= case.config.budget:
        return ""
    try:
        config = replace(case.config, memory=amount_of(memory))
        better = plan_reads(case.windows, case.reads, config, case.world_size).choice
    except MemoryBudgetError:
        return ""
    own = case.layout
    assert better is not None
    if better.amplification > own.amplification:
        return ""
    if better.amplification < own.amplification:
        return "each row read once" if better.amplification <= 1.02 else "fewer reads"
    if better.requests > own.requests:
        return "the speed of a plain scan" if better.requests >= REQUESTS else "more requests at a time"
    return "better mixing" if better.active > own.active else ""


# -- where rows are read when ------------------------------------------------------------------------------------------


def _trace(case: Case) -> Trace:
    """Follow the rest of an epoch."""
    num_rows, lanes = case.windows.series.num_steps, case.reading.lanes
    if lanes is None:
        return Trace(num_rows, (), *_samples(case))
    own = case.lanes_of(case.rank)
    others = [lane for lane in range(lanes.num_lanes) if lane not in own]
    chosen = sorted({*own[:TRACED_LANES], *others[:: -(-len(others) // TRACED_LANES) or 1]})
    traces = tuple(_lane(case, lane, own=lane in own) for lane in chosen)
    return Trace(num_rows, traces, np.empty(0), np.empty(0, np.int64))


def _lane(case: Case, number: int, *, own: bool) -> LaneTrace:
    lane = case.lanes.sequence(case.here.pass_number, number)
    turns = np.arange(len(lane.visits))
    turns = turns[:: -(-len(turns) // TRACED_BLOCKS) or 1]
    borders = np.asarray(lane.spread.borders, np.float64) / max(len(lane), 1)
    blocks = lane.visits[turns]
    leave = borders[np.minimum(turns + lane.active, len(borders) - 1)]
    return LaneTrace(number, own, lane.begin[blocks], lane.end[blocks], borders[turns], leave)


def _samples(case: Case) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    left, position, at = case.steps.left(case.position), case.position, 0
    shares, starts = [np.empty(0)], [np.empty(0, np.int64)]
    looked = np.unique(np.linspace(0, left - 1, min(TRACED_STEPS, left)).astype(np.int64)).tolist()
    for step in looked:
        position, at = case.steps.advance(position, step - at), step
        found = case.steps.rank_at(position, rank=case.rank, world_size=case.world_size)
        assert found is not None
        starts.append(case.windows.index(found.positions[:16]))
        shares.append(np.full(len(starts[-1]), step / left))
    return np.concatenate(shares), np.concatenate(starts)
