"""Global and sequential order: names, parameters, lanes, and numbers that must never change."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from windowloader.errors import LoaderError
from windowloader.order.order import ORDERS, PARAMETERS, GlobalOrder, SequentialOrder, lane_borders


def everything(order, epoch=0):
    lanes = [order.lane(epoch, lane, 0, int(size)) for lane, size in enumerate(order.lane_sizes(epoch))]
    return np.concatenate(lanes)


def test_names_and_parameters_are_what_a_state_keeps():
    assert GlobalOrder(10).name == "global-1"
    assert SequentialOrder(10).name == "sequential-1"
    assert {GlobalOrder(1).name, SequentialOrder(1).name} < set(ORDERS)
    assert GlobalOrder(10, seed=4).parameters == PARAMETERS
    assert SequentialOrder(10, num_lanes=3).parameters == PARAMETERS | {"lanes": 3}
    assert (GlobalOrder(10, seed=4).seed, SequentialOrder(10).seed) == (4, 0)


def test_parameters_are_a_copy():
    order = GlobalOrder(10)
    order.parameters["lanes"] = 5
    assert order.parameters == PARAMETERS
    assert PARAMETERS["lanes"] == 1


@pytest.mark.parametrize(
    "order",
    [GlobalOrder(0), GlobalOrder(1), GlobalOrder(5000, 3), SequentialOrder(17, 5), SequentialOrder(3, 8)],
)
def test_an_epoch_is_every_window_once(order):
    for epoch in range(3):
        assert np.array_equal(np.sort(everything(order, epoch)), np.arange(order.num_windows))
        assert len(order.lane_sizes(epoch)) == order.num_lanes
        assert order.lane_sizes(epoch).dtype == everything(order, epoch).dtype == np.int64


def test_any_stretch_is_a_piece_of_the_whole():
    for order in (GlobalOrder(10_000, seed=2), GlobalOrder(300, seed=2), SequentialOrder(1000, num_lanes=7)):
        for lane, size in enumerate(order.lane_sizes(1)):
            whole = order.lane(1, lane, 0, int(size))
            for start, stop in ((0, 0), (0, 1), (5, 99), (int(size) - 3, int(size)), (int(size), int(size))):
                assert np.array_equal(order.lane(1, lane, start, stop), whole[start:stop])


def test_stretches_outside_are_refused():
    for order in (GlobalOrder(10), SequentialOrder(10, num_lanes=2)):
        for lane, start, stop in ((0, -1, 2), (0, 3, 2), (0, 0, 11), (2, 0, 0), (-1, 0, 1)):
            with pytest.raises(IndexError, match="lane"):
                order.lane(0, lane, start, stop)


def test_sequential_lanes_are_contiguous_and_differ_by_one():
    order = SequentialOrder(23, num_lanes=4)
    assert everything(order).tolist() == list(range(23))
    assert order.lane_sizes(0).tolist() == [5, 6, 6, 6]


def test_lane_borders_do_not_overflow():
    borders = lane_borders(2**62, 1000)
    assert borders[-1] == 2**62
    assert np.ptp(np.diff(borders)) <= 1


def test_seeds_and_epochs_make_other_orders():
    orders = {
        tuple(everything(GlobalOrder(50, seed), epoch)) for seed in (0, 1, 5, 2**127) for epoch in range(5)
    }
    assert len(orders) == 20


def test_frozen_order():
    """What a resumed run under a later release must find."""
    assert everything(GlobalOrder(12, seed=1), epoch=2).tolist() == [8, 11, 10, 3, 1, 7, 6, 9, 5, 4, 2, 0]
    assert GlobalOrder(10**8, seed=1).lane(2, 0, 99_999_996, 10**8).tolist() == [
        88861245,
        34924914,
        1509685,
        47646179,
    ]


def test_threads_and_copies_agree():
    order = GlobalOrder(100_000, seed=9)
    expected = [order.lane(e, 0, 0, 1000) for e in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda e: order.lane(e, 0, 0, 1000), range(12)))
    copied = pickle.loads(pickle.dumps(order))
    assert copied == order
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert np.array_equal(copied.lane(3, 0, 0, 1000), expected[3])


def test_bad_arguments_are_refused_at_construction():
    with pytest.raises(LoaderError, match="seed=-1"):
        GlobalOrder(10, seed=-1)
    with pytest.raises(LoaderError, match=r"2\*\*128"):
        GlobalOrder(10, seed=2**128)
    with pytest.raises(LoaderError, match="-1 windows"):
        GlobalOrder(-1)
    with pytest.raises(LoaderError, match="0 lanes"):
        SequentialOrder(10, num_lanes=0)
