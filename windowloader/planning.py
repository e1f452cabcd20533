"""From a `Reading` to a `Plan`: bytes, requests, memory over time, mixing, advice.

In: what the loader executes. Out: its numbers. Never touches data; of very long direct epochs a part is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .budget import REQUESTS, RESERVE, default_active
from .chunking import Chunking, total_cost
from .direct import Benchwork, window_rows
from .engine import make_steps
from .errors import RankError
from .forecast import forecast
from .grid import SPANS, block_rows, cut
from .mixing import mixing, mixing_of_permutation
from .plan import Cost, Plan
from .reading import survey
from .residency import Residency
from .tracing import trace_of
from .units import format_bytes

if TYPE_CHECKING:
    from .config import LoaderConfig
    from .engine import Engine
    from .forecast import Forecast
    from .gather import Recipe
    from .grid import Grid
    from .reading import Reading
    from .shard import Position, Steps
    from .state import RunState
    from .windows import WindowSet

__all__ = ["Case", "make_plan", "plan_of"]

RANKS = 16  # ranks whose reads are all counted; of more, this one's are multiplied
LOOK = 1 << 20  # rows of windows of a direct epoch that are looked at
POINTS = 32  # of resident memory over time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """What a plan is made of; see `Engine` for the parts."""

    windows: WindowSet
    recipe: Recipe
    config: LoaderConfig
    reading: Reading
    steps: Steps
    rank: int
    world_size: int
    position: Position
    ahead: int

    @property
    def here(self) -> Position:
        """Where the next step comes from."""
        return self.steps.upcoming(self.position)

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of a row of what is read step by step."""
        return sum(chunking.row_bytes for chunking in self.reading.chunkings)


def plan_of(
    engine: Engine,
    config: LoaderConfig,
    *,
    rank: int,
    world_size: int,
    epoch: int,
    state: RunState | None = None,
) -> Plan:
    """Foretell an epoch of a loader, perhaps as another rank, of another world, or going on from a state.

    Parameters
    ----------
    engine : Engine
        What the loader executes.
    config : LoaderConfig
    rank, world_size, epoch : int
    state : RunState, optional

    Returns
    -------
    Plan

    Raises
    ------
    RankError
        Where the rank is outside the world.
    StateError
        Where the state's order cannot be made here.
    """
    if not 0 <= rank < world_size:
        raise RankError(f"rank {rank} is outside world_size={world_size}. Ranks count from 0.")
    reading, steps = engine.reading, engine.steps
    if state is not None or world_size != engine.ranks.world_size:
        reading = survey(engine.windows, engine.recipe, config, world_size, state)
        steps = make_steps(reading.order, config, world_size)
    position = steps.start(epoch) if state is None else state.position(steps)
    return make_plan(
        Case(
            windows=engine.windows,
            recipe=engine.recipe,
            config=config,
            reading=reading,
            steps=steps,
            rank=rank,
            world_size=world_size,
            position=position,
            ahead=engine.ahead,
        )
    )


def make_plan(case: Case) -> Plan:
    """Foretell the rest of an epoch.

    Parameters
    ----------
    case : Case

    Returns
    -------
    Plan
    """
    reading, steps, order = case.reading, case.steps, case.reading.order
    share = -(-steps.global_batch // case.world_size)
    left = steps.left(case.position)
    if reading.choice is None:
        numbers = _resident(case)
    elif reading.lanes is not None:
        numbers = _by_blocks(case)
    else:
        numbers = _direct(case)
    held = sum(one.nbytes for one in reading.held.values())
    grid = _grid(case)
    mixes = {}
    if grid is not None and not order.name.startswith("sequential"):
        asked = {"starts": case.windows.index, "grid": grid, "batch": steps.global_batch}
        epochs = (case.here.pass_number,)
        mixes["mixing"] = mixing(order, epochs=epochs, **asked)  # type: ignore[arg-type]
        mixes["permutation"] = mixing_of_permutation(seed=order.seed, epochs=epochs, **asked)  # type: ignore[arg-type]
    return Plan(
        tier=reading.tier,
        order=order.name,
        parameters=order.parameters,
        reason=reading.reason,
        rank=case.rank,
        world_size=case.world_size,
        epoch=case.position.epoch,
        step=case.position.step,
        steps=left,
        windows=_rows_left(case, left, share),
        held=held,
        budget=case.config.budget,
        batch_bytes=case.recipe.nbytes(share),
        batches_ahead=case.ahead,
        trace=trace_of(case),
        **mixes,
        **numbers,
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
    row_bytes = max(1, sum(case.windows.series.variables[i].row_bytes for i in case.recipe.variables))
    return cut(
        case.windows.index, [Chunking(None, row_bytes=row_bytes)], span=span, rows=block_rows(span, row_bytes)
    )


def _used(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Ranges of the rows that the windows use."""
    if not case.windows.index.rising:
        low, high = case.windows.row_range
        return np.array([low]), np.array([high])
    span = case.windows.spec.span
    grid = cut(case.windows.index, [Chunking(None, row_bytes=1)], span=span, rows=SPANS * span)
    return grid.begin, grid.end


def _resident(case: Case) -> dict[str, Any]:
    begin, end = _used(case)
    row_bytes = sum(case.windows.series.variables[i].row_bytes for i in case.recipe.variables)
    touched = int((end - begin).sum()) * row_bytes
    cost = Cost(bytes=touched, requests=0, distinct=touched)
    return {
        "mode": "resident",
        "lanes": (),
        "own": cost,
        "all_ranks": cost,
        "first": Cost(bytes=0, requests=0, distinct=0),
    }


def _held_cost(case: Case) -> Cost:
    """Read once, with the first batch."""
    held = case.reading.held.values()
    size = sum(one.nbytes for one in held)
    return Cost(bytes=size, requests=len(case.reading.held), distinct=size)


def _plus(*costs: Cost) -> Cost:
    return Cost(
        bytes=sum(cost.bytes for cost in costs),
        requests=sum(cost.requests for cost in costs),
        distinct=sum(cost.distinct for cost in costs),
    )


def _by_blocks(case: Case) -> dict[str, Any]:
    lanes, choice, here = case.reading.lanes, case.reading.choice, case.here
    assert lanes is not None
    assert choice is not None

    def foretell(rank: int) -> Forecast:
        return forecast(
            lanes,
            case.reading.chunkings,
            epoch=here.pass_number,
            slots=choice.places(len(lanes.grid)),
            batch_per_lane=case.steps.batch_per_lane,
            rank=rank,
            world_size=case.world_size,
            cursor=here.cursor,
        )

    found = foretell(case.rank)
    held = _held_cost(case)
    own = _plus(_forecast_cost(case, found), held, *(_filler(case, lane) for lane in found.lanes))
    ranks = [found] if case.world_size == 1 else [foretell(r) for r in range(min(case.world_size, RANKS))]
    times = 1 if case.world_size <= RANKS else case.world_size / RANKS
    everyone = Cost(
        bytes=round(times * sum(f.bytes + f.side_bytes for f in ranks)) + case.world_size * held.bytes,
        requests=round(times * sum(f.requests + f.side_requests for f in ranks))
        + case.world_size * held.requests,
        distinct=(found.distinct if not here.cursor else own.distinct * case.world_size) + held.distinct,
    )
    return {
        "mode": choice.mode,
        "lanes": found.lanes,
        "own": own,
        "all_ranks": own if case.world_size == 1 else everyone,
        "blocks": found.blocks,
        "active": choice.active,
        "slots": choice.places(len(lanes.grid)),
        "again": found.again,
        "sides": found.sides,
        "side_bytes": found.side_bytes,
        "memory": choice.terms,
        "resident": _over_time(case, found.lanes),
        "at_a_time": choice.requests,
        "first": _first(case, found.lanes),
        "scan_share": min(1.0, choice.requests / REQUESTS) / max(own.amplification, 1.0),
        "advice": tuple(_advice(case, own)),
    }


def _forecast_cost(case: Case, found: Forecast) -> Cost:
    lanes = case.reading.lanes
    assert lanes is not None
    ranges = []
    for lane in found.lanes:
        sequence = lanes.sequence(case.here.pass_number, lane)
        residency = _residency(case, lane)
        placed = np.zeros(len(sequence.blocks), np.bool_)
        placed[sequence.visits[residency.placed]] = True
        ranges.append(np.stack([sequence.begin, sequence.end])[:, placed])
    begin, end = np.concatenate([np.empty((2, 0), np.int64), *ranges], axis=1)
    distinct = sum(chunking.distinct(begin, end) for chunking in case.reading.chunkings) if len(begin) else 0
    return Cost(
        bytes=found.bytes + found.side_bytes,
        requests=found.requests + found.side_requests,
        distinct=distinct,
    )


def _filler(case: Case, lane: int) -> Cost:
    """Count the window that fills the last step of a lane that has none left where the run begins."""
    lanes, here = case.reading.lanes, case.here
    assert lanes is not None
    own = lanes.sequence(here.pass_number, lane)
    if here.cursor < len(own) or not case.steps.count(here.pass_number, here.cursor):
        return Cost(bytes=0, requests=0, distinct=0)
    if not len(own):
        own = lanes.sequence(here.pass_number, int(case.steps.order.lane_sizes(here.pass_number).argmax()))
    begin = lanes.starts(own.windows(len(own) - 1, len(own)))
    cost = total_cost(case.reading.chunkings, begin, begin + lanes.grid.span)
    return Cost(bytes=int(cost.bytes[0]), requests=int(cost.requests[0]), distinct=0)


def _residency(case: Case, lane: int) -> Residency:
    lanes, choice = case.reading.lanes, case.reading.choice
    assert lanes is not None
    assert choice is not None
    sequence = lanes.sequence(case.here.pass_number, lane)
    return Residency(
        sequence,
        span=lanes.grid.span,
        slots=choice.places(len(lanes.grid)),
        cursor=min(case.here.cursor, len(sequence)),
    )


def _over_time(case: Case, lanes: tuple[int, ...]) -> tuple[tuple[float, int], ...]:
    """Bytes of rows that are resident at even places of the rest of the epoch."""
    shares = np.linspace(0, 1, POINTS, endpoint=False)
    total = np.zeros(POINTS, np.int64)
    for lane in lanes:
        residency = _residency(case, lane)
        size = len(residency.lane)
        if residency.first_turn < residency.lane.num_turns:
            at = residency.cursor + ((size - residency.cursor) * shares).astype(np.int64)
            total += residency.resident_rows()[residency.lane.deal.turn_of(at)]
    return tuple(zip(shares.tolist(), (total * case.row_bytes).tolist(), strict=True))


def _first(case: Case, lanes: tuple[int, ...]) -> Cost:
    """Count what the first turn of every lane needs."""
    parts = [_held_cost(case)]
    for lane in lanes:
        residency = _residency(case, lane)
        entered = np.arange(min(residency.first_turn + 1, len(residency.lane.visits)))
        blocks = residency.lane.visits[entered[residency.placed[entered]]]
        if len(blocks):
            begin, end = residency.lane.begin[blocks], residency.lane.end[blocks]
            cost = total_cost(case.reading.chunkings, begin, end)
            size = int(cost.bytes.sum())
            parts.append(Cost(bytes=size, requests=int(cost.requests.sum()), distinct=size))
    return _plus(*parts)


def _direct(case: Case) -> dict[str, Any]:
    choice, reading = case.reading.choice, case.reading
    assert choice is not None
    found, first, estimated = _follow(case)
    begin, end = _used(case)
    distinct = sum(chunking.distinct(begin, end) for chunking in reading.chunkings)
    part = len(case.steps.order.lane_sizes(0)) > 1 or case.world_size == 1
    held = _held_cost(case)
    own = Cost(
        bytes=found[0] + held.bytes,
        requests=found[1] + held.requests,
        distinct=min(
            found[0], distinct if not part or case.world_size == 1 else -(-distinct // case.world_size)
        )
        + held.distinct,
    )
    everyone = Cost(
        bytes=own.bytes * case.world_size,
        requests=own.requests * case.world_size,
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
        "first": _plus(first, held),
        "scan_share": min(1.0, choice.requests / REQUESTS) / max(own.amplification, 1.0),
        "advice": tuple(_advice(case, own)),
    }


def _follow(case: Case) -> tuple[tuple[int, int], Cost, bool]:
    """Go through the steps as the reading does: bytes, requests, those of the first batch, whether all were looked at."""
    reading = case.reading
    assert reading.benches is not None
    offsets = window_rows(case.recipe)
    work = Benchwork(reading.benches, offsets, case.windows.spec.span)
    left, looked, rows = case.steps.left(case.position), 0, 0
    size = requests = 0
    first = Cost(bytes=0, requests=0, distinct=0)
    position = case.position
    while looked < left and rows < LOOK:
        step = case.steps.rank_at(position, rank=case.rank, world_size=case.world_size)
        assert step is not None
        starts = case.windows.index(step.positions)
        rows += len(starts) * len(offsets)
        begin = 0
        while begin < len(starts):
            end = work.fit(starts, begin)
            runs = work.lay(starts[begin:end]).runs()
            if runs:
                cost = total_cost(reading.chunkings, *np.array(runs).T[:2])
                size += int(cost.bytes.sum())
                requests += int(cost.requests.sum())
            begin = end
        looked += 1
        if looked == 1:
            first = Cost(bytes=size, requests=requests, distinct=size)
        position = case.steps.advance(position)
    times = left / max(looked, 1)
    return (round(size * times), round(requests * times)), first, looked < left


def _advice(case: Case, own: Cost) -> list[str]:
    choice, span, found = case.reading.choice, case.windows.spec.span, []
    assert choice is not None
    rows = max((chunking.largest for chunking in case.reading.chunkings), default=1)
    if choice.mode == "direct":
        if own.amplification > 1.5:
            found.append(
                f"each row is read {own.amplification:.1f} times. With active_blocks= and a memory that holds the blocks "
                f"each is read once; or rewrite the array in chunks of {SPANS * span} rows or more with "
                "'windowloader convert'."
            )
        return found
    assert choice.grid is not None
    lanes = max(
        1,
        choice.terms.arena // max(1, choice.places(len(choice.grid)) * choice.grid.largest * case.row_bytes),
    )
    per_block = max(
        1, int(total_cost(case.reading.chunkings, choice.grid.begin, choice.grid.end).requests.max())
    )
    best = default_active(len(choice.grid), case.steps.order.num_lanes)
    active = choice.active if case.reading.order.name.startswith("sequential") else max(choice.active, best)
    slots = min(active + -(-2 * REQUESTS // per_block), len(choice.grid))
    chunk = max(chunking.chunk_bytes for chunking in case.reading.chunkings)
    seams = min(3 * active + 1, len(choice.grid) - 1) * 2 * (span - 1) * case.row_bytes
    memory = RESERVE + lanes * (slots * choice.grid.largest * case.row_bytes + seams) + REQUESTS * 2 * chunk
    if memory > case.config.budget and (choice.requests < REQUESTS or choice.active < active):
        gain = "the speed of a plain scan" if choice.requests < REQUESTS else "better mixing"
        found.append(f"memory={format_bytes(memory)!r} would give {gain}, with {active} blocks active.")
    if choice.mode == "halo":
        found.append(f"a memory that holds blocks of {SPANS * span} rows would read each row once.")
    if rows < SPANS * span and per_block > REQUESTS:
        found.append(
            f"a block is {per_block} requests: chunks of {SPANS * span} rows or more would need fewer ('windowloader "
            "convert')."
        )
    return found
