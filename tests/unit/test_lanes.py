"""Block order: golden vectors, what it refuses, and that large orders cost little."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest

from windowloader.errors import LoaderError
from windowloader.order.grid import Grid, cut
from windowloader.order.lane import Spread
from windowloader.order.lanes import BlockOrder, interleaved_runs
from windowloader.sources.storage import Storage
from windowloader.windows.index import Explicit, Runs


def even():
    starts = Runs.of_segments(np.array([0, 800]), span=10, stride=1)
    grid = Grid(np.arange(0, 800, 100), np.arange(100, 900, 100), span=10, rows=40)
    return BlockOrder(starts, grid=grid, active=3, seed=7)


def uneven():
    starts = Runs.of_segments(np.array([0, 333, 340, 1500, 4000]), span=24, stride=3)
    storage = Storage(np.array([0, 120, 240, 500, 900, 901, 1400, 2000, 3000, 4000]), row_bytes=1 << 20)
    return BlockOrder(starts, grid=cut(starts, [storage], span=24, rows=96), active=2, lanes=3, seed=2**100)


def halo():
    starts = Runs.of_segments(np.array([5, 700]), span=50, stride=1)
    grid = cut(starts, [Storage(None, row_bytes=1)], span=50, rows=64)
    return BlockOrder(starts, grid=grid, active=8, lanes=2, rotate=False)


def digest(order, epoch, lane):
    sequence = order.lane(epoch, lane, 0, int(order.lane_sizes(epoch)[lane]))
    return hashlib.blake2b(sequence.astype("<i8").tobytes(), digest_size=8).hexdigest()


GOLDEN = {
    "even": ([84, 71, 3, 33, 88, 72, 74, 57], {(0, 0): "c2d07e3dfc069a2b", (3, 0): "e949e0920b3482cc"}),
    "uneven": (
        [759, 745, 719, 656, 653, 744, 722, 738],
        {
            (0, 0): "ef9b6c706047eff6",
            (0, 1): "08c2ac2333127389",
            (0, 2): "7c9eb8a338a6b2e4",
            (3, 0): "887f26c7deb808dc",
            (3, 1): "ab2a7682da5f5c58",
            (3, 2): "aaa33a49530c9c46",
        },
    ),
    "halo": (
        [321, 320, 268, 288, 264, 282, 310, 278],
        {
            (0, 0): "6cdbed99caccb516",
            (0, 1): "a6161c99d01bed73",
            (3, 0): "344550dc6bcb8458",
            (3, 1): "9ca5bb5d9b7ed64f",
        },
    ),
}


@pytest.mark.parametrize("make", [even, uneven, halo])
def test_sequences_are_those_of_every_release(make):
    order = make()
    found = {(e, lane): digest(order, e, lane) for e in (0, 3) for lane in range(order.num_lanes)}
    head, digests = GOLDEN[make.__name__]
    assert order.lane(0, 0, 0, 8).tolist() == head
    assert found == digests


def test_runs_take_turns_and_go_round():
    visits = interleaved_runs(23, 4, seed=0, epoch=0)
    assert sorted(visits.tolist()) == list(range(23))
    borders = [0, 5, 11, 17, 23]
    for a, b in itertools.pairwise(borders):
        run = [v for v in visits.tolist() if a <= v < b]
        assert all((y - x) % (b - a) == 1 for x, y in itertools.pairwise(run))
    assert len({int(np.searchsorted(borders, v, side="right")) for v in visits[:4]}) == 4
    assert interleaved_runs(0, 0, seed=0, epoch=0).size == 0


def test_epochs_and_seeds_differ_and_sizes_do_not():
    order = uneven()
    assert len({digest(order, epoch, 0) for epoch in range(6)}) == 6
    assert order.lane_sizes(0).tolist() == order.lane_sizes(5).tolist()
    assert order.lane_sizes(0).sum() == order.num_windows == len(order.starts)


def test_parameters_name_the_order():
    order = uneven()
    assert order.name == "block-1"
    assert order.parameters == {
        "lanes": 3,
        "active_blocks": 2,
        "rotate": 1,
        "span": 24,
        "block_rows": 96,
        "chunk_rows": 0,
        "chunk_first": 0,
        "grid": order.grid.hash(),
    }


def test_a_pickled_order_is_the_same_and_small():
    order = uneven()
    before = digest(order, 0, 1)
    packed = pickle.dumps(order)
    assert len(packed) < 2000
    assert digest(pickle.loads(packed), 0, 1) == before


def test_ten_million_windows_in_ten_thousand_blocks_take_no_memory_per_window():
    starts = Runs.of_segments(np.array([0, 10_000_023]), span=24, stride=1)
    grid = cut(starts, [Storage(np.arange(0, 10_001_000, 1000), row_bytes=2000)], span=24, rows=525)
    order = BlockOrder(starts, grid=grid, active=64)
    order.lane(0, 0, 0, 10)  # compiled before memory is counted
    tracemalloc.start()
    found = [order.lane(1, 0, c, c + 64) for c in range(0, 10_000_000, 500_000)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(grid) == 10_000
    assert len(np.unique(np.concatenate(found))) == 20 * 64
    assert peak < 16 << 20


def test_turns_longer_than_are_kept_are_computed_where_asked():
    starts = Runs.of_segments(np.array([0, 600_009]), span=10, stride=1)
    grid = Grid(np.array([0, 300_000]), np.array([300_000, 600_009]), span=10, rows=40)
    order = BlockOrder(starts, grid=grid, active=1)
    whole = order.lane(0, 0, 0, 600_000)
    assert np.array_equal(np.sort(whole), np.arange(600_000))
    assert np.array_equal(order.lane(0, 0, 299_990, 300_010), whole[299_990:300_010])


def test_more_lanes_than_windows_leave_some_empty():
    starts = Runs.of_segments(np.array([0, 12]), span=10, stride=1)
    order = BlockOrder(starts, grid=Grid(np.array([0]), np.array([12]), span=10, rows=40), active=4, lanes=5)
    assert order.lane_sizes(0).tolist() == [0, 1, 0, 1, 1]
    found = [order.lane(0, lane, 0, int(n)).tolist() for lane, n in enumerate(order.lane_sizes(0))]
    assert sorted(sum(found, [])) == [0, 1, 2]
    assert order.sequence(0, 0).num_turns == 0


def test_no_windows_are_an_empty_order():
    starts = Runs.of_segments(np.array([0, 5]), span=10, stride=1)
    order = BlockOrder(starts, grid=cut(starts, [Storage(None, row_bytes=8)], span=10, rows=40), active=4)
    assert order.lane(0, 0, 0, 0).size == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active": 0}, "active=0"),
        ({"lanes": 0}, "at least one lane"),
        ({"seed": -1}, "seed=-1"),
        ({"starts": Explicit(np.array([5, 3, 9]))}, "out of time order"),
    ],
)
def test_refuses_at_construction(change, message):
    order = even()
    arguments = {"starts": order.starts, "grid": order.grid, "active": 3} | change
    with pytest.raises(LoaderError, match=message):
        BlockOrder(arguments.pop("starts"), **arguments)


@pytest.mark.parametrize(
    ("lane", "start", "stop"), [(1, 0, 1), (-1, 0, 1), (0, 5, 4), (0, 0, 792), (0, -1, 3)]
)
def test_stretches_outside_a_lane_are_index_errors(lane, start, stop):
    with pytest.raises(IndexError):
        even().lane(0, lane, start, stop)


def test_parts_differ_by_at_most_one_and_turns_add_up():
    spread = Spread(np.array([7, 0, 3, 12, 5, 5, 1]), active=4)
    parts = np.array([[spread.part(t, j)[1] for j in range(4)] for t in range(7)])
    assert parts.sum(axis=1).tolist() == [7, 0, 3, 12, 5, 5, 1]
    assert (parts.max(axis=1) - parts.min(axis=1)).max() <= 1
    turns = [sum(parts[t, u - t] for t in range(7) if 0 <= u - t < 4) for u in range(10)]
    assert np.diff(spread.borders).tolist() == turns
    assert len({tuple(row) for row in (parts - parts.min(axis=1, keepdims=True))[[0, 2, 4, 5, 6]]}) > 2
    with pytest.raises(LoaderError, match="active=0"):
        Spread(np.array([1]), active=0)
