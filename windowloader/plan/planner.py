"""From a `ReadPlan` to a `Plan`: bytes, requests, memory over time, mixing, advice.

In: what the loader executes. Out: its numbers. Never touches data; of very long direct epochs a part is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from windowloader.order.grid import block_rows, cut
from windowloader.order.mixing import mixing, mixing_of_permutation
from windowloader.sources.storage import Storage

from .blocks import by_blocks
from .case import Case, seen_by_all, used
from .direct import direct
from .plan import EpochCost, Plan
from .preloaded import preloaded
from .resident import touched
from .tracing import trace_of

if TYPE_CHECKING:
    from windowloader.order.grid import Grid

__all__ = ["make_plan"]


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
    share = -(-steps.global_batch // case.world_size)
    left = steps.left(case.position)
    if reading.choice is None:
        numbers = _resident(case)
    elif reading.choice.mode == "preloaded":
        numbers = preloaded(case)
    elif reading.lanes is not None:
        numbers = by_blocks(case)
    else:
        numbers = direct(case)
    held = sum(one.nbytes for one in reading.held.values())
    grid = _grid(case)
    mixes: dict[str, Any] = {}
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
        batch_bytes=case.batch_bytes,
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
    row_bytes = max(1, sum(case.windows.series.variables[i].row_bytes for i in case.reads.variables))
    return cut(
        case.windows.index, [Storage(None, row_bytes=row_bytes)], span=span, rows=block_rows(span, row_bytes)
    )


def _resident(case: Case) -> dict[str, Any]:
    row_bytes = sum(case.windows.series.variables[i].row_bytes for i in case.reads.variables)
    begin, end = used(case)
    union = int((end - begin).sum())
    own = touched(case, case.rank, union)
    if case.world_size == 1:
        everyone = own
    elif seen_by_all(case, len(case.reads.offsets)):
        everyone = sum(touched(case, rank, union) for rank in range(case.world_size))
    else:
        everyone = own * case.world_size
    return {
        "mode": "resident",
        "lanes": (),
        "own": EpochCost(bytes=own * row_bytes, requests=0, distinct=own * row_bytes),
        "all_ranks": EpochCost(
            bytes=everyone * row_bytes, requests=0, distinct=min(union, everyone) * row_bytes
        ),
        "first": EpochCost(bytes=0, requests=0, distinct=0),
    }
