"""Steps, ranks and state over random histories of kills and restarts, against the brute-force model."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.order.grid import Grid
from windowloader.order.lanes import BlockOrder
from windowloader.order.order import PARAMETERS, GlobalOrder, Order, SequentialOrder
from windowloader.order.shard import Position, Steps
from windowloader.order.state import RunState


@dataclass(frozen=True)
class GivenOrder(Order):
    """Windows in any sequence, under a name that a state knows; each pass turns each lane by one."""

    numbers: tuple[int, ...]
    num_lanes: int
    name = "block-1"
    seed = 3
    grid_hash = "given"

    @property
    def parameters(self):
        return {**PARAMETERS, "lanes": self.num_lanes, "grid": "given"}

    @property
    def num_windows(self):
        return len(self.numbers)

    def _numbers(self, epoch, lane, start, stop):
        first = self.lane_start(lane)
        return np.roll(np.array(self.numbers[first : self.lane_start(lane + 1)], np.int64), epoch)[start:stop]


@dataclass(frozen=True)
class EveryRow:
    """Starts of a series without gaps."""

    count: int
    rising = True

    def __len__(self):
        return self.count

    def __call__(self, positions):
        return np.asarray(positions, np.int64)

    def rank(self, rows):
        return np.clip(rows, 0, self.count)


def blocks(windows, lanes, seed, active):
    """Block order over blocks of 12 rows, windows of 3."""
    begin = np.arange(0, windows + 2, 12)
    grid = Grid(begin, np.minimum(begin + 12, windows + 2), span=3, rows=12)
    return BlockOrder(EveryRow(windows), grid=grid, seed=seed, active=active, lanes=lanes)


@st.composite
def orders(draw):
    """Orders of 1 to 8 lanes: the package's own, and any sequence."""
    kind = draw(st.sampled_from(["global", "sequential", "block", "given"]))
    windows = draw(st.integers(1, 60))
    lanes = draw(st.integers(1, 8))
    if kind == "global":
        return GlobalOrder(windows, seed=draw(st.integers(0, 3)))
    if kind == "sequential":
        return SequentialOrder(windows, num_lanes=lanes)
    if kind == "block":
        return blocks(windows, lanes, seed=draw(st.integers(0, 3)), active=draw(st.integers(1, 4)))
    return GivenOrder(tuple(draw(st.permutations(range(windows)))), lanes)


MODES = st.sampled_from([("pad", False), ("pad", True), ("drop", False), ("drop", True), ("exact", False)])
LIVES = st.lists(  # batch per lane, ranks, steps until the kill
    st.tuples(st.integers(1, 9), st.integers(1, 17), st.integers(0, 6)), min_size=1, max_size=6
)


def reborn(steps, position, steps_then):
    """Save, travel as JSON, load under other steps."""
    state = RunState.of(steps, position, spec="s", data="d")
    return RunState.from_dict(json.loads(json.dumps(state.to_dict()))).position(steps_then)


def pairs(step):
    return [(int(p), int(w)) for p, w in zip(step.positions, step.weights, strict=True)]


def window_at(lanes, lane, place):
    """The window at a place of a lane, beyond its end its last one, of an empty lane the longest's."""
    windows = lanes[lane]
    return windows[min(place, len(windows) - 1)] if windows else max(lanes, key=len)[-1]


def real(rows):
    return Counter(window for window, weight in rows if weight)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same windows, of an array in memory and of a store."""
    values = np.random.default_rng(1).normal(size=(303, 2)).astype(np.float32)
    path = tmp_path_factory.mktemp("store") / "x.zarr"
    zarr.create_array(path, shape=values.shape, chunks=(10, 2), dtype="float32")[:] = values
    spec = wl.WindowSpec(lookback=2, horizon=2)
    return wl.WindowSet(wl.Series(values), spec), wl.WindowSet(wl.open(path, axes="tn"), spec)


HISTORIES = {
    "order": orders(),
    "mode": MODES,
    "lives": LIVES,
    "epoch": st.integers(0, 3),
    "other": st.integers(1, 17),
}


@settings(max_examples=100, deadline=None)
@given(**HISTORIES)
def test_histories_agree_with_the_model(model, order, mode, lives, epoch, other):
    check_history(model, order, mode, lives, epoch, other)


@pytest.mark.campaign
@settings(max_examples=600, deadline=None)
@given(**HISTORIES)
def test_many_histories_agree_with_the_model(model, order, mode, lives, epoch, other):
    check_history(model, order, mode, lives, epoch, other)


def check_history(model, order, mode, lives, epoch, other):
    uneven, drop_last = mode
    lanes = model.lanes(order, epoch)
    seen, cursor = Counter(), 0
    steps = Steps(order, lives[0][0], uneven, drop_last)
    position = steps.start(epoch)
    for life, (b, world, until) in enumerate(lives):
        then = Steps(order, b, uneven, drop_last)
        position = reborn(steps, position, then)
        steps = then
        expected = model.a_pass(lanes, cursor, b, uneven, drop_last)
        assert steps.left(position) == len(expected)
        until = len(expected) if life == len(lives) - 1 else min(until, len(expected))
        for rows in expected[:until]:
            whole = steps.at(position)
            assert pairs(whole) == rows
            slices = [steps.rank_at(position, rank=r, world_size=world) for r in range(world)]
            assert [pairs(s) for s in slices] == model.ranks(rows, world, uneven)
            for one in slices:
                assert one.positions.dtype == np.int64
                assert one.weights.dtype == np.float32
                assert (one.before, one.after) == (whole.before, whole.after)
                places = zip(one.lanes, one.places, strict=True)
                assert one.positions.tolist() == [window_at(lanes, *place) for place in places]
                assert steps.weighted(world) or one.weights.all()
            delivered = [pair for one in slices for pair in pairs(one)]
            elsewhere = [
                pair
                for r in range(other)
                for pair in pairs(steps.rank_at(position, rank=r, world_size=other))
            ]
            if uneven == "pad":  # the surplus, which depends on the ranks, repeats windows of the step
                assert set(real(delivered)) == set(real(elsewhere)) == set(real(rows))
                assert real(delivered) >= real(rows)
            else:
                assert real(delivered) == real(elsewhere) == real(rows)
            seen += real(delivered)
            cursor = whole.places.max() + 1
            position = steps.advance(position)
        if expected and until == len(expected):  # what is over stays over, whatever batch comes
            cursor = order.num_windows
        assert position.cursor == cursor
    assert steps.at(position) is None
    everything = Counter(range(order.num_windows))
    if uneven == "exact":
        assert seen == everything
    elif uneven == "drop":
        shortest = min(map(len, lanes))
        kept = Counter(window for lane in lanes for window in lane[:shortest])
        assert seen <= kept if drop_last else seen == kept
    elif not drop_last:
        assert seen >= everything


@settings(max_examples=100, deadline=None)
@given(order=orders(), mode=MODES, b=st.integers(1, 9), k=st.integers(1, 25), first=st.integers(0, 4))
def test_fixed_steps_cut_the_endless_run_of_passes(model, order, mode, b, k, first):
    uneven, drop_last = mode
    if not Steps(order, b, uneven, drop_last).count(0):
        return
    steps = Steps(order, b, uneven, drop_last, steps_per_epoch=k)
    endless = []
    while len(endless) < (first + 3) * k:
        a_pass = len(endless) // steps.count(0)
        endless += model.a_pass(model.lanes(order, a_pass), 0, b, uneven, drop_last)
    position = steps.start(first)
    for epoch in range(first, first + 3):
        begin = steps.start(epoch)
        assert (position.epoch, position.step) == (begin.epoch, begin.step) == (epoch, 0)
        for step in range(k):
            assert steps.left(position) == k - step
            assert pairs(steps.at(position)) == endless[epoch * k + step]
            assert pairs(steps.at(steps.advance(begin, step))) == endless[epoch * k + step]
            position = reborn(steps, steps.advance(position), steps)
            assert position == steps.advance(begin, step + 1)
        assert steps.at(position) is None
        position = steps.next_epoch(position)
        assert steps.at(position) is not None
        assert pairs(steps.at(position)) == pairs(steps.at(steps.start(epoch + 1)))


@settings(max_examples=50, deadline=None)
@given(order=orders(), lives=LIVES, k=st.integers(1, 25))
def test_passes_are_whole_whatever_the_epochs_and_batches(order, lives, k):
    """Fixed steps, killed and restarted with other batches: each finished pass has each window once."""
    seen: dict[int, Counter] = {}
    steps = Steps(order, lives[0][0], "exact", steps_per_epoch=k)
    position = steps.start(0)
    for b, world, until in lives:
        then = Steps(order, b, "exact", steps_per_epoch=k)
        position = reborn(steps, position, then)
        steps = then
        for _ in range(until * 4):
            if not steps.left(position):
                position = steps.next_epoch(position)
            before = position
            position = steps.advance(position)
            ranks = [steps.rank_at(before, rank=r, world_size=world) for r in range(world)]
            seen.setdefault(position.pass_number, Counter()).update(
                sum((real(pairs(s)) for s in ranks), Counter())
            )
    for number, windows in seen.items():
        whole = number < position.pass_number or position.cursor == order.num_windows
        assert windows == Counter(range(order.num_windows)) if whole else max(windows.values()) == 1


@settings(max_examples=100, deadline=None)
@given(order=orders(), b=st.integers(1, 9), count=st.integers(0, 80), cursor=st.integers(0, 60))
def test_many_steps_at_once_are_as_many_steps(order, b, count, cursor):
    steps = Steps(order, b, "pad", steps_per_epoch=100)
    position = walked = Position(epoch=1, step=3, pass_number=2, cursor=min(cursor, order.num_windows))
    for _ in range(count):
        walked = steps.advance(walked)
    assert steps.advance(position, count) == walked


@settings(max_examples=25, deadline=None)
@given(
    taken=st.integers(0, 9),
    batches=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seeds=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    lanes=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
    streamed=st.booleans(),
    epoch=st.integers(0, 2),
)
def test_a_loader_finishes_the_epoch_of_a_state_and_goes_on_in_its_own_order(
    model, stores, taken, batches, seeds, lanes, streamed, epoch
):
    local, stream = stores
    asked = {"shuffle": True, "uneven": "exact", "rank": 0, "world_size": 1}
    first, second = (
        asked | {"batch_size": 12 * b, "seed": seed, "lanes": n}
        for b, seed, n in zip(batches, seeds, lanes, strict=True)
    )
    with (
        wl.WindowLoader(stream if streamed else local, active_blocks=2, **first) as writer,
        wl.WindowLoader(stream, **second) as reader,
        wl.WindowLoader(stream, **second) as twin,
    ):
        writer.set_epoch(epoch)
        iterator = iter(writer)
        for _ in range(min(taken, len(writer))):
            next(iterator)
        state = writer.state_dict()
        order = writer._bind().steps.order
        depth = second["batch_size"] // order.num_lanes
        expected = model.a_pass(model.lanes(order, epoch), state["cursor"], depth, "exact", False)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            reader.load_state_dict(state, order="next_epoch")
        assert len(warned) == (order.name == "global-1")
        found = [Counter(batch.starts[batch.weights > 0].tolist()) for batch in reader]
        assert found == [real(rows) for rows in expected]
        twin.set_epoch(epoch + 1)
        assert reader.state_dict() == twin.state_dict()
        assert [batch.starts.tolist() for batch in reader] == [batch.starts.tolist() for batch in twin]
