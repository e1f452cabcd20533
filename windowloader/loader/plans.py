"""Plans of a loader's epochs: what it executes, or would as another rank or from a state.

In: an engine. Out: a `Plan`, from ``plan/``. Never reads data.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from windowloader.errors import RankError, StateError
from windowloader.order.shard import make_steps
from windowloader.plan.case import Case
from windowloader.plan.planner import make_plan
from windowloader.rows.read_plan import plan_reads
from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from windowloader.order.config import LoaderConfig
    from windowloader.order.state import RunState
    from windowloader.plan.plan import Plan

    from .pipeline import Pipeline

__all__ = ["plan_of", "refuse_costly"]

MOST_TIMES = 4  # the bytes of the loader's own order that a state's may take


def plan_of(
    engine: Pipeline,
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
    engine : Pipeline
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
        reading = plan_reads(engine.windows, engine.recipe.reads, config, world_size, state)
        steps = make_steps(reading.order, config, world_size)
    position = steps.start(epoch) if state is None else state.position(steps)
    return make_plan(
        Case(
            windows=engine.windows,
            reads=engine.recipe.reads,
            batch_bytes=engine.recipe.nbytes(-(-steps.global_batch // world_size)),
            config=config,
            reading=reading,
            steps=steps,
            rank=rank,
            world_size=world_size,
            position=position,
            loaded=engine.loaded() if reading is engine.reading and rank == engine.ranks.rank else None,
            reads_on=engine.reads_on(position.epoch),
            ahead=max(engine.ahead, 2 * engine.together - 1),  # one lot in the loop, one made
        )
    )


def refuse_costly(engine: Pipeline, config: LoaderConfig, state: RunState) -> None:
    """Refuse a state whose order takes far more reading here than the loader's own.

    Parameters
    ----------
    engine : Pipeline
        In the loader's own order.
    config : LoaderConfig
    state : RunState

    Raises
    ------
    StateError
        Where an epoch in the state's order reads more than `MOST_TIMES` the bytes of one in the loader's.
    """
    ranks = engine.ranks
    start = replace(state, step=0, cursor=0)
    asked, own = (
        plan_of(
            engine, config, rank=ranks.rank, world_size=ranks.world_size, epoch=state.epoch, state=one
        ).own.bytes
        for one in (start, None)
    )
    if asked > MOST_TIMES * own:
        raise StateError(
            f"the state's order is {state.order!r}, a run of another tier or budget: here each epoch of it would read "
            f"{format_bytes(asked)}, where this loader's own order {engine.reading.order.name!r} reads "
            f"{format_bytes(own)}. "
            "Load it where the data are in memory or a local .npy file, or start anew without it."
        )
