"""The state: flat, short, the same keys always; what it refuses and what it only warns about."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from windowloader.errors import StateError
from windowloader.order.order import PARAMETERS, GlobalOrder, SequentialOrder
from windowloader.order.shard import Position, Steps
from windowloader.order.state import RunState

HASHES = {"spec": "0123456789abcdef", "data": "fedcba9876543210"}


def state_of(steps, count=0, epoch=2, **more):
    return RunState.of(steps, steps.advance(steps.start(epoch), count), **HASHES | more)


def shuffled(**more):
    return state_of(Steps(GlobalOrder(100, seed=7), 32), 2, **more)


def test_travels_as_json_in_about_300_bytes():
    large = Steps(GlobalOrder(10**8, seed=2**100), 64)
    for state in (shuffled(), state_of(large, 1000, stamp="0123456789abcdef")):
        written = json.dumps(state.to_dict())
        assert len(written) < 450
        assert RunState.from_dict(json.loads(written)) == state


def test_is_flat_and_has_the_same_keys_always():
    keys = [
        "format", "order", "lanes", "active_blocks", "rotate", "span", "block_rows", "chunk_rows", "chunk_first",
        "grid", "draws", "sampling", "places", "seed", "epoch", "step", "pass_number", "cursor", "global_batch",
        "windows", "spec", "data", "stamp",
    ]  # fmt: skip
    for state in (shuffled(), shuffled(stamp="s"), state_of(Steps(SequentialOrder(9, num_lanes=3), 2))):
        assert list(state.to_dict()) == keys
        assert {type(value) for value in state.to_dict().values()} == {int, str}


def test_is_the_same_on_all_ranks_for_any_step():
    """Arithmetic: the state of step 2 is what a run that took two steps writes."""
    steps = Steps(GlobalOrder(100, seed=7), 32)
    position = steps.start(2)
    for count in range(5):
        assert state_of(steps, count) == RunState.of(steps, position, **HASHES)
        position = steps.advance(position) if count < 4 else position
    assert state_of(steps, 4).cursor == 100


def test_numbers_may_come_back_as_other_integers():
    state = shuffled()
    travelled = {k: np.int64(v) if isinstance(v, int) else v for k, v in state.to_dict().items()}
    assert RunState.from_dict(travelled) == state
    assert type(RunState.from_dict(travelled).cursor) is int


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cursor": 3.0}, r"cursor=3\.0, which should be int"),
        ({"cursor": None}, "cursor=None, which should be int"),
        ({"data": 5}, "data=5, which should be str"),
        ({"cursor": 101}, r"cursor=101, outside \[0, 100\]"),
        ({"cursor": -1}, "cursor=-1"),
        ({"epoch": -1}, "epoch=-1"),
        ({"pass_number": 2**32}, "pass_number=4294967296"),
        ({"seed": -5}, "seed=-5"),
        ({"global_batch": 0}, "global_batch=0"),
        ({"lanes": 5}, "global_batch=32 in lanes=5"),
        ({"order": "global-9"}, "order 'global-9'; this release has block-1, global-1, sequential-1"),
    ],
)
def test_damaged_values_are_refused(change, words):
    with pytest.raises(StateError, match=words):
        RunState.from_dict(shuffled().to_dict() | change)


def test_other_dicts_are_refused():
    with pytest.raises(StateError, match=r"no 'format'.*_num_yielded"):
        RunState.from_dict({"_num_yielded": 3})
    with pytest.raises(
        StateError, match=r"format 3, this release reads formats 1 and 2.*unknown keys: \['walks'\]"
    ):
        RunState.from_dict(shuffled().to_dict() | {"format": 3, "walks": 3})
    with pytest.raises(StateError, match="format 3"):
        RunState.from_dict(shuffled().to_dict() | {"format": 3})
    short = shuffled().to_dict()
    del short["cursor"]
    with pytest.raises(StateError, match="absent keys: \\['cursor'\\]"):
        RunState.from_dict(short)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "other"}, "the data set.*'fedcba9876543210' in the state, 'other' here"),
        ({"spec": "other"}, "what a window reads.*'0123456789abcdef' in the state, 'other' here"),
        ({"windows": 120}, "number of windows.*100 in the state, 120 here"),
    ],
)
def test_another_run_is_refused_and_named(change, words):
    with pytest.raises(StateError, match=f"{words}.*start anew"):
        shuffled().check(replace(shuffled(), **change))


def test_all_differences_are_named_at_once():
    with pytest.raises(StateError, match=r"data set.*what a window reads.*number of windows"):
        shuffled().check(replace(shuffled(), data="x", spec="y", windows=300))


def test_time_order_and_shuffled_order_do_not_replace_each_other():
    sequential = state_of(Steps(SequentialOrder(100), 32), 2)
    with pytest.raises(StateError, match=r"'sequential-1'.*Pass shuffle=False"):
        sequential.check(shuffled())
    with pytest.raises(StateError, match=r"'global-1'.*Pass shuffle=True"):
        shuffled().check(sequential)


def test_resolved_parameters_seed_and_batch_are_the_states():
    """Nothing of what the order is made of has to be repeated to resume."""
    present = replace(
        shuffled(), order="block-1", seed=1, lanes=8, active_blocks=4, global_batch=64, epoch=0, cursor=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shuffled().check(present)
    assert shuffled().parameters == PARAMETERS
    assert present.parameters == PARAMETERS | {"lanes": 8, "active_blocks": 4}


def test_another_stamp_only_warns():
    state = shuffled(stamp="monday")
    with pytest.warns(UserWarning, match="'monday' there, 'tuesday' here"):
        state.check(shuffled(stamp="tuesday"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.check(shuffled(stamp="monday"))
        state.check(shuffled())
        shuffled().check(state)


def test_goes_on_where_it_stands():
    state = shuffled()
    for batch in (1, 32, 50):
        steps = Steps(GlobalOrder(100, seed=7), batch, "exact")
        assert state.position(steps) == Position(epoch=2, step=2, pass_number=2, cursor=64)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (GlobalOrder(100, seed=8), "seed=7 in the state, 8 here"),
        (GlobalOrder(90, seed=7), "windows=100 in the state, 90 here"),
        (SequentialOrder(100, num_lanes=2), "order='global-1' in the state.*lanes=1 in the state, 2 here"),
    ],
)
def test_another_order_is_refused(order, words):
    with pytest.raises(StateError, match=words):
        shuffled().position(Steps(order, 10))


def test_a_state_of_fixed_steps_needs_them():
    order = GlobalOrder(100, seed=7)
    state = state_of(Steps(order, 32, steps_per_epoch=3), 1)
    assert (state.epoch, state.pass_number) == (2, 1)
    assert state.position(Steps(order, 16, steps_per_epoch=3)).cursor == state.cursor
    with pytest.raises(StateError, match=r"pass 1 of the data in epoch 2.*steps_per_epoch"):
        state.position(Steps(order, 32))
