"""How well block order mixes, beside a full permutation, and that bad orders are seen to be bad."""

from __future__ import annotations

import numpy as np
import pytest

from windowloader.errors import LoaderError
from windowloader.order.grid import cut
from windowloader.order.lanes import BlockOrder
from windowloader.order.mixing import mixing, mixing_of_permutation
from windowloader.order.order import SequentialOrder
from windowloader.rows.budget import default_active
from windowloader.sources.storage import Storage
from windowloader.windows.index import Runs

STARTS = Runs.of_segments(np.array([0, 52_105]), span=24, stride=1)
GRID = cut(
    STARTS, [Storage(np.append(np.arange(0, 52_105, 288), 52_105), row_bytes=10_400)], span=24, rows=101
)


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_quarter_of_the_blocks_mixes_within_the_bounds(lanes):
    given = {"starts": STARTS, "grid": GRID, "batch": 64, "steps": 1000}
    active = default_active(len(GRID), lanes)
    own, full = [], []
    for seed in range(12):
        order = BlockOrder(STARTS, grid=GRID, active=active, lanes=lanes, seed=seed)
        own.append(mixing(order, **given))
        full.append(mixing_of_permutation(seed=seed, **given))
    own, full = np.mean(own, axis=0), np.mean(full, axis=0)
    assert own[0] <= 4 * full[0]
    assert own[1] <= 2 * full[1]
    assert full[0] == pytest.approx(1 / 181, rel=0.05)
    assert full[1] == pytest.approx(1, abs=0.1)
    assert abs(full[2]) < 0.05


def test_order_in_time_is_seen_to_be_bad():
    found = mixing(SequentialOrder(len(STARTS)), starts=STARTS, grid=GRID, batch=64)
    assert found.same_block_pairs > 0.8
    assert found.variance > 30
    assert found.correlation > 0.5


def test_more_active_blocks_mix_better():
    orders = [BlockOrder(STARTS, grid=GRID, active=m) for m in (4, 16, 64, 181)]
    found = [mixing(o, starts=STARTS, grid=GRID, batch=64, epochs=(0, 1)) for o in orders]
    assert found == sorted(found, reverse=True)
    assert [f.variance for f in found] == sorted((f.variance for f in found), reverse=True)


def test_sampled_steps_agree_with_all():
    order = BlockOrder(STARTS, grid=GRID, active=46)
    every = mixing(order, starts=STARTS, grid=GRID, batch=64, steps=10**6)
    some = mixing(order, starts=STARTS, grid=GRID, batch=64, steps=256)
    assert some.same_block_pairs == pytest.approx(every.same_block_pairs, rel=0.1)
    assert some.variance == pytest.approx(every.variance, rel=0.4)


def test_what_cannot_be_measured():
    order = BlockOrder(STARTS, grid=GRID, active=8, lanes=3)
    with pytest.raises(LoaderError, match="3 lanes"):
        mixing(order, starts=STARTS, grid=GRID, batch=64)
    assert np.isnan(mixing(order, starts=STARTS, grid=GRID, batch=51_000)).all()
