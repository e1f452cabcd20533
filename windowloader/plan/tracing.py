"""Traces of an epoch: where in time the rows are that it reads, one after another.

In: a lane's blocks or a rank's steps. Out: `Trace`, a few thousand numbers however long the epoch. Never touches data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .trace import LaneTrace, Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .case import Case

__all__ = ["trace_of"]

LANES = 8  # drawn beside the rank's own
BLOCKS = 1024  # of a lane
STEPS = 96  # looked at where any window may come next


def trace_of(case: Case) -> Trace:
    """Follow the rest of an epoch."""
    num_rows, lanes = case.windows.series.num_steps, case.reading.lanes
    none: NDArray[np.float64] = np.empty(0)
    if lanes is None:
        return Trace(num_rows, (), *_samples(case))
    from windowloader.rows.estimate import lanes_read

    own = lanes_read(
        case.rank, case.world_size, lanes=lanes.num_lanes, batch_per_lane=case.steps.batch_per_lane
    )
    others = [lane for lane in range(lanes.num_lanes) if lane not in own]
    chosen = sorted({*own[:LANES], *others[:: -(-len(others) // LANES) or 1]})
    traces = tuple(_lane(case, lane, own=lane in own) for lane in chosen)
    return Trace(num_rows, traces, none, np.empty(0, np.int64))


def _lane(case: Case, lane: int, *, own: bool) -> LaneTrace:
    assert case.reading.lanes is not None
    sequence = case.reading.lanes.sequence(case.here.pass_number, lane)
    turns = np.arange(len(sequence.visits))
    turns = turns[:: -(-len(turns) // BLOCKS) or 1]
    borders = np.asarray(sequence.spread.borders, np.float64) / max(len(sequence), 1)
    blocks = sequence.visits[turns]
    return LaneTrace(
        lane,
        own,
        sequence.begin[blocks],
        sequence.end[blocks],
        borders[turns],
        borders[np.minimum(turns + sequence.active, len(borders) - 1)],
    )


def _samples(case: Case) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    left = case.steps.left(case.position)
    shares, starts, position, at = [], [], case.position, 0
    for step in (
        np.unique(np.linspace(0, left - 1, min(STEPS, left)).astype(np.int64)).tolist() if left else []
    ):
        position, at = case.steps.advance(position, step - at), step
        found = case.steps.rank_at(position, rank=case.rank, world_size=case.world_size)
        assert found is not None
        some = case.windows.index(found.positions[:16])
        shares.append(np.full(len(some), step / left))
        starts.append(some)
    return np.concatenate([np.empty(0), *shares]), np.concatenate([np.empty(0, np.int64), *starts])
