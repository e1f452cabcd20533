"""The brute-force model of steps, ranks and histories that every order is held against."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


def model_step(lanes, cursor, b, uneven, drop_last):
    """The list of a step as (window, weight) pairs, lane by lane; None where no step is left."""
    q = min(b, (min if uneven == "drop" else max)(map(len, lanes)) - cursor)
    if q <= 0 or (drop_last and q < b):
        return None
    rows = []
    for lane in lanes:
        real = lane[cursor : cursor + q]
        filler = (lane or max(lanes, key=len))[-1]
        rows += [(window, 1) for window in real] + [(filler, int(uneven == "pad"))] * (q - len(real))
    return rows


def model_ranks(rows, world_size, uneven):
    """The equal slices of a step's list, one a rank."""
    share = -(-len(rows) // world_size)
    rows = rows + [(rows[-1][0], int(uneven == "pad"))] * (share * world_size - len(rows))
    return [rows[rank * share : (rank + 1) * share] for rank in range(world_size)]


def model_pass(lanes, cursor, b, uneven, drop_last):
    """The lists of all steps from a cursor to the end of a pass."""
    steps = []
    while (rows := model_step(lanes, cursor, b, uneven, drop_last)) is not None:
        steps.append(rows)
        cursor += b
    return steps


def model_lanes(order, epoch):
    """What any order gives, as plain lists: the whole sequence of each lane."""
    return [order.lane(epoch, lane, 0, int(n)).tolist() for lane, n in enumerate(order.lane_sizes(epoch))]


@pytest.fixture(scope="session")
def model():
    """``step``, ``ranks`` and ``a_pass`` over lanes of any contents, and ``lanes`` of any order."""
    return SimpleNamespace(step=model_step, ranks=model_ranks, a_pass=model_pass, lanes=model_lanes)
