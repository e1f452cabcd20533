"""Steps of a pass and of a run: fillers, weights, slices, ends, and what is refused."""

from __future__ import annotations

import time

import numpy as np
import pytest

from windowloader.errors import LoaderError, RankError
from windowloader.order.order import GlobalOrder, SequentialOrder
from windowloader.order.shard import Position, Steps, per_lane


def first_of(steps, rank=0, world_size=1, cursor=0):
    """The step of a rank at a cursor of the first pass."""
    position = Position(epoch=0, step=0, pass_number=0, cursor=cursor)
    return steps.rank_at(position, rank=rank, world_size=world_size)


def test_a_short_lane_is_filled_with_its_last_window():
    steps = Steps(SequentialOrder(7, num_lanes=2), 4, "exact")
    step = first_of(steps)
    assert step.positions.tolist() == [0, 1, 2, 2, 3, 4, 5, 6]
    assert step.weights.tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    assert step.lanes.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert step.places.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert (step.before, step.after) == (steps.start(0), steps.advance(steps.start(0)))
    assert step.total_weight == 7


def test_an_empty_lane_is_filled_from_the_longest():
    step = first_of(Steps(SequentialOrder(2, num_lanes=3), 4, "exact"))
    assert step.positions.tolist() == [0, 0, 1]
    assert step.weights.tolist() == [0, 1, 1]


def test_padding_counts_and_dropping_leaves_out():
    order = SequentialOrder(7, num_lanes=2)
    assert first_of(Steps(order, 4, "pad")).weights.all()
    dropped = Steps(order, 4, "drop")
    assert first_of(dropped).positions.tolist() == [0, 1, 2, 3, 4, 5]
    assert dropped.count(0) == 1
    assert Steps(SequentialOrder(2, num_lanes=3), 4, "drop").count(0) == 0


def test_ranks_beyond_the_list_get_its_last_row():
    steps = Steps(SequentialOrder(5), 8, "exact")
    slices = [first_of(steps, r, 4) for r in range(4)]
    assert [s.positions.tolist() for s in slices] == [[0, 1], [2, 3], [4, 4], [4, 4]]
    assert [s.weights.tolist() for s in slices] == [[1, 1], [1, 1], [1, 0], [0, 0]]
    assert [s.places.tolist() for s in slices] == [[0, 1], [2, 3], [4, 4], [4, 4]]
    assert {s.total_weight for s in slices} == {5}
    padded = Steps(SequentialOrder(5), 8, "pad")
    assert first_of(padded, 3, 4).weights.tolist() == [1, 1]


def test_a_rank_reads_whole_lanes_where_ranks_divide_them():
    order = SequentialOrder(4000, num_lanes=8)
    steps = Steps(order, 10)
    for rank in range(4):
        taken = first_of(steps, rank, 4, cursor=50).positions
        assert taken.min() >= rank * 1000
        assert taken.max() < (rank + 1) * 1000


def test_counts_and_the_end():
    order = GlobalOrder(100, seed=1)
    assert [Steps(order, b).count(0) for b in (1, 30, 100, 101)] == [100, 4, 1, 1]
    assert [Steps(order, b, drop_last=True).count(0) for b in (1, 30, 100, 101)] == [100, 3, 1, 0]
    steps = Steps(order, 30)
    assert [steps.after(0, 0, n) for n in range(5)] == [0, 30, 60, 90, 100]
    assert Steps(order, 30, drop_last=True).after(0, 0, 3) == 100
    assert Steps(SequentialOrder(100, num_lanes=4), 10).after(0, 20) == 100
    assert steps.count(0, 100) == 0
    for ask in (lambda: steps.after(0, 0, 5), lambda: steps.after(0, 100)):
        with pytest.raises(IndexError, match="left"):
            ask()


def test_no_windows_no_steps():
    steps = Steps(GlobalOrder(0), 4)
    assert steps.count(0) == 0
    assert steps.at(steps.start(0)) is None


def test_an_epoch_is_a_pass():
    steps = Steps(GlobalOrder(10, seed=2), 4)
    position = steps.start(3)
    assert position == Position(epoch=3, step=0, pass_number=3, cursor=0)
    assert steps.advance(position, 3) == Position(epoch=3, step=3, pass_number=3, cursor=10)
    assert steps.at(steps.advance(position, 3)) is None
    assert steps.next_epoch(steps.advance(position, 3)) == steps.start(4)
    with pytest.raises(IndexError, match="epoch 3 has 3 left"):
        steps.advance(position, 4)


def test_epochs_of_fixed_steps_cross_passes():
    steps = Steps(GlobalOrder(10, seed=2), 4, steps_per_epoch=5)
    assert steps.start(1) == Position(epoch=1, step=0, pass_number=1, cursor=8)
    end = steps.advance(steps.start(1), 5)
    assert end == Position(epoch=1, step=5, pass_number=3, cursor=4)
    assert steps.at(end) is None
    assert steps.next_epoch(end) == steps.start(2)


def test_far_epochs_cost_nothing():
    """A million steps on is arithmetic over passes, not over steps."""
    steps = Steps(GlobalOrder(10**9, seed=2), 1, steps_per_epoch=10**9)
    assert steps.advance(steps.start(7), 10**9 - 1).cursor == 10**9 - 1
    assert Steps(GlobalOrder(10**12), 64).advance(steps.start(0), 10**10).step == 10**10


def test_weighted_tells_whether_weights_matter():
    lanes = SequentialOrder(100, num_lanes=4)
    assert not Steps(lanes, 3, "pad").weighted(7)
    assert Steps(lanes, 3, "exact").weighted(1)
    assert [Steps(lanes, 3, "drop").weighted(r) for r in (1, 2, 3, 4, 8)] == [False, False, True, False, True]
    assert [Steps(lanes, 6, "drop", True).weighted(r) for r in (3, 5, 8, 16)] == [False, True, False, True]


def test_the_nearest_batches_are_named():
    assert per_lane(96, 8) == 12
    with pytest.raises(LoaderError, match=r"100 .* 8 lanes.*\b96 or 104\b"):
        per_lane(100, 8)
    with pytest.raises(LoaderError, match=r"Nearest that would do: 8\."):
        per_lane(5, 8)
    with pytest.raises(LoaderError, match="global batch of 0"):
        per_lane(0, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"uneven": "keep"}, "'keep' is not known.*'pad', 'drop', 'exact'"),
        ({"batch_per_lane": 0}, "batch of 0"),
        ({"uneven": "exact", "drop_last": True}, "each window once.*drop_last=False"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0"),
        (
            {"steps_per_epoch": 5, "drop_last": True, "batch_per_lane": 11},
            "10 windows .* no step at .* batch of 11",
        ),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments, words):
    with pytest.raises(LoaderError, match=words):
        Steps(**{"order": GlobalOrder(10), "batch_per_lane": 2} | arguments)


def test_ranks_outside_the_world_are_refused():
    steps = Steps(GlobalOrder(10), 2)
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(RankError, match=f"rank {rank} is outside world_size={world}"):
            first_of(steps, rank, world)


def test_a_rank_computes_only_its_slice():
    asked = []

    class Counting(SequentialOrder):
        def lane(self, epoch, lane, start, stop):
            asked.append(stop - start)
            return super().lane(epoch, lane, start, stop)

    first_of(Steps(Counting(10**6, num_lanes=4), 1000), 5, 16)
    assert sum(asked) == 250


@pytest.mark.campaign
def test_a_step_costs_its_size_wherever_it_is():
    """The last step of 10^9 windows costs what the first costs: nothing is walked or stored."""
    steps = Steps(GlobalOrder(10**9, seed=1), 64)

    def fastest(cursor):
        times = []
        for _ in range(200):
            begin = time.perf_counter()
            first_of(steps, cursor=cursor)
            times.append(time.perf_counter() - begin)
        return min(times)

    fastest(0)
    assert fastest(10**9 - 64) < 3 * fastest(0)


def test_positions_are_arrays_of_the_promised_types():
    step = first_of(Steps(GlobalOrder(10), 4))
    assert (step.positions.dtype, step.weights.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize(
    "order", [GlobalOrder(101, 5), SequentialOrder(101), SequentialOrder(101, num_lanes=2)]
)
@pytest.mark.parametrize(
    "kind",
    [
        ("pad", False, None),
        ("drop", False, None),
        ("exact", False, None),
        ("pad", True, None),
        ("pad", False, 37),
    ],
)
def test_the_rest_of_an_epoch_is_its_steps_one_by_one(order, kind):
    uneven, drop_last, steps_per_epoch = kind
    for batch, world, begin in [(4, 1, 0), (4, 3, 5), (7, 4, 2), (1, 1, 0), (200, 3, 0)]:
        if steps_per_epoch is not None and batch == 200:
            continue
        steps = Steps(order, batch, uneven, drop_last, steps_per_epoch)
        if steps.left(steps.start(1)) < begin:
            continue
        position = steps.advance(steps.start(1), begin)
        for rank in range(world):
            here, seen = position, 0
            for step in steps.rank_rest(position, rank=rank, world_size=world):
                one = steps.rank_at(here, rank=rank, world_size=world)
                for name in ("positions", "weights", "lanes", "places"):
                    found, expected = getattr(step, name), getattr(one, name)
                    np.testing.assert_array_equal(found, expected)
                    assert found.dtype == expected.dtype
                assert (step.before, step.after) == (one.before, one.after)
                assert step.total_weight == one.total_weight == steps.total_weight(here, world_size=world)
                here, seen = steps.advance(here), seen + 1
                assert step.after == here
            assert (seen, steps.left(here)) == (steps.left(position), 0)
