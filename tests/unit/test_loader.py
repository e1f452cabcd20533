"""Order, position, state, ranks, errors at construction, and that nothing is left running."""

from __future__ import annotations

import gc
import json
import pickle
import threading

import numpy as np
import pytest
import zarr

import windowloader as wl
from windowloader.batch.recipe import Recipe
from windowloader.errors import (
    ClosedError,
    LoaderError,
    MissingDataError,
    RankError,
    StateError,
    WeightsError,
)
from windowloader.loader import pipeline, stats


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(50, 10, size=(300, 7)).astype(np.float32)


@pytest.fixture
def windows(values):
    return wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=4, horizon=3))  # 294 windows


def starts(batches):
    return [batch.starts.tolist() for batch in batches]


def flat(batches):
    return [start for batch in starts(batches) for start in batch]


def test_without_shuffle_windows_come_in_time_order_and_the_last_batch_is_short(windows, values):
    batches = list(wl.WindowLoader(windows, batch_size=50))
    assert [batch.num_windows for batch in batches] == [50, 50, 50, 50, 50, 44]
    assert flat(batches) == list(range(294))
    np.testing.assert_array_equal(batches[2].inputs[7, :, :, 0], values[107:111])
    np.testing.assert_array_equal(batches[2].targets[7, :, :, 0], values[111:114])


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
def test_the_order_does_not_depend_on_threads(windows, threads):
    loader = wl.WindowLoader(
        windows, batch_size=16, shuffle=True, seed=3, threads=threads, prefetch_batches=4
    )
    alone = wl.WindowLoader(windows, batch_size=16, shuffle=True, seed=3, threads=0)
    assert starts(loader) == starts(alone)
    assert sorted(flat(loader)) == list(range(294))


def test_epochs_differ_and_set_epoch_repeats_them(windows):
    loader = wl.WindowLoader(windows, batch_size=32, shuffle=True, seed=5)
    first, second = starts(loader), starts(loader)
    assert first != second
    assert loader.epoch == 2
    loader.set_epoch(0)
    assert starts(loader) == first
    assert starts(loader) == second


def test_seeds_differ(windows):
    one, two = (starts(wl.WindowLoader(windows, shuffle=True, seed=seed)) for seed in (1, 2))
    assert one != two


def test_a_probing_iterator_shifts_nothing(windows):
    loader = wl.WindowLoader(windows, batch_size=32, shuffle=True)
    expected = starts(wl.WindowLoader(windows, batch_size=32, shuffle=True))
    next(iter(loader))
    loader.set_epoch(0)
    assert starts(loader) == expected


def test_an_exhausted_iterator_that_is_asked_again_moves_nothing(windows):
    loader = wl.WindowLoader(windows, batch_size=32, shuffle=True)
    old = iter(loader)
    list(old)
    newer = iter(loader)
    next(newer)
    assert next(old, None) is None
    assert (loader.epoch, loader.state_dict()["step"]) == (1, 1)


def test_two_loops_at_once_see_the_same_epoch(windows):
    loader = wl.WindowLoader(windows, batch_size=32, shuffle=True)
    pairs = list(zip(loader, loader, strict=True))
    assert [a.starts.tolist() for a, _ in pairs] == [b.starts.tolist() for _, b in pairs]
    assert loader.epoch == 1


def test_state_is_what_the_loop_received_whatever_was_prefetched(windows):
    loader = wl.WindowLoader(windows, batch_size=32, shuffle=True, threads=2, prefetch_batches=4)
    iterator = iter(loader)
    for taken in range(1, 6):
        next(iterator)
        assert loader.state_dict()["step"] == taken
    state = json.loads(json.dumps(loader.state_dict()))
    rest = starts(iterator)
    again = wl.WindowLoader(windows, batch_size=32, shuffle=True)
    again.load_state_dict(state)
    assert starts(again) == rest
    assert again.epoch == loader.epoch == 1


def test_state_can_be_asked_for_any_step(windows):
    loader = wl.WindowLoader(windows, batch_size=32, shuffle=True)
    states = []
    iterator = iter(loader)
    for step in range(10):
        states.append(loader.state_dict())
        assert loader.state_dict(step=step) == states[-1]
        next(iterator)
    assert [loader.state_dict(step=step) for step in range(10)] == states
    with pytest.raises(StateError, match="step=11"):
        loader.state_dict(step=11)


def test_the_state_after_the_last_batch_yields_nothing_more_of_its_epoch(windows):
    loader = wl.WindowLoader(windows, batch_size=32, uneven="exact", rank=0, world_size=1)
    iterator = iter(loader)
    for _ in range(len(loader)):
        next(iterator)
    state = loader.state_dict()
    assert (state["epoch"], state["cursor"]) == (0, 294)
    again = wl.WindowLoader(windows, batch_size=7, uneven="exact", rank=0, world_size=1)
    again.load_state_dict(state)
    assert list(again) == []
    assert again.epoch == 1
    assert len(list(again)) == 42


def test_a_state_goes_on_with_another_world_size_at_the_same_global_batch(windows):
    loader = wl.WindowLoader(windows, global_batch_size=24, shuffle=True, rank=0, world_size=1)
    iterator = iter(loader)
    for _ in range(4):
        next(iterator)
    state = loader.state_dict()
    rest = starts(iterator)
    ranks = []
    for rank in range(3):
        part = wl.WindowLoader(windows, global_batch_size=24, shuffle=True, rank=rank, world_size=3)
        part.load_state_dict(state)
        ranks.append(starts(part))
    assert [sum(step, []) for step in zip(*ranks, strict=True)] == rest


@pytest.mark.parametrize("options", [{}, {"threads": 2, "prefetch_batches": 3}], ids=["together", "threads"])
def test_a_batch_whose_transform_fails_is_not_received_and_comes_again(windows, options):
    failing = {3, 5}  # batches, counted as they come

    def transform(batch):
        calls.append(batch.starts.tolist())
        if len(calls) in failing:
            raise RuntimeError("pulled the plug")
        return batch.starts.tolist()

    calls: list[list[int]] = []
    expected = starts(wl.WindowLoader(windows, batch_size=50, shuffle=True))
    with wl.WindowLoader(windows, batch_size=50, shuffle=True, transform=transform, **options) as loader:
        iterator = iter(loader)
        received = [next(iterator), next(iterator)]
        with pytest.raises(RuntimeError, match="pulled the plug"):
            next(iterator)
        assert loader.state_dict()["step"] == 2
        other = wl.WindowLoader(windows, batch_size=50, shuffle=True)
        other.load_state_dict(loader.state_dict())
        assert starts(other) == expected[2:]
        received.append(next(iterator))
        with pytest.raises(RuntimeError, match="pulled the plug"):
            next(iterator)
        received += iterator
    assert received == expected
    assert len(calls) == len(expected) + 2
    assert loader.stats().epochs[0].batches == len(expected)


def test_a_state_of_a_full_permutation_on_a_stream_is_refused_with_the_bytes(tmp_path):
    values = np.random.default_rng(1).normal(size=(4000, 50)).astype(np.float32)
    stored = zarr.create_array(tmp_path / "x.zarr", shape=values.shape, chunks=(200, 50), dtype="float32")
    stored[:] = values
    spec = wl.WindowSpec(lookback=4, horizon=3)
    local = wl.WindowLoader(wl.WindowSet(wl.Series(values), spec), batch_size=50, shuffle=True)
    iterator = iter(local)
    for _ in range(len(local) - 1):  # also where little of the epoch is left: the next ones are whole
        next(iterator)
    with wl.WindowLoader(
        wl.WindowSet(wl.open(tmp_path / "x.zarr", axes="tn"), spec), batch_size=50, shuffle=True
    ) as stream:
        with pytest.raises(
            StateError, match=r"'global-1'.*would read 1.. MB, 1..\.. times the array.*next_epoch"
        ):
            stream.load_state_dict(local.state_dict())
        own = starts(stream)
        assert sorted(sum(own, [])) == sorted(sum(starts(local), []))  # nothing was changed by it


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("taken", [0, 3, 5])
def test_a_state_in_another_order_can_be_left_at_the_next_epoch(tmp_path, taken, pickled):
    """The rest of its epoch is that of the run that wrote it, read directly; then the loader's own order follows."""
    values = np.random.default_rng(1).normal(size=(400, 5)).astype(np.float32)
    stored = zarr.create_array(tmp_path / "x.zarr", shape=values.shape, chunks=(20, 5), dtype="float32")
    stored[:] = values
    spec = wl.WindowSpec(lookback=4, horizon=3)
    asked = {"batch_size": 80, "shuffle": True, "rank": 0, "world_size": 1}
    local = wl.WindowLoader(wl.WindowSet(wl.Series(values), spec), seed=9, **asked)
    local.set_epoch(2)
    iterator = iter(local)
    for _ in range(taken):
        next(iterator)
    state = local.state_dict()
    rest = [batch.starts.tolist() for batch in iterator]
    windows = wl.WindowSet(wl.open(tmp_path / "x.zarr", axes="tn"), spec)
    stream, twin = wl.WindowLoader(windows, **asked), wl.WindowLoader(windows, **asked)
    with pytest.raises(LoaderError, match="order='later'"):
        stream.load_state_dict(state, order="later")
    words = r"'global-1': the rest of epoch 2 is read directly, .*B over"
    with pytest.warns(UserWarning, match=words) as warned:
        stream.load_state_dict(state, order="next_epoch")
    assert len(warned) == 1
    if pickled:
        stream = pickle.loads(pickle.dumps(stream))
        with pytest.warns(UserWarning, match=words):
            len(stream)
    assert stream.state_dict() == state
    assert starts(stream) == rest
    twin.set_epoch(3)
    assert (stream.epoch, stream.state_dict()) == (3, twin.state_dict())
    for _ in range(2):
        assert starts(stream) == starts(twin)
    stream.close()
    twin.close()


def test_going_elsewhere_ends_the_order_of_a_state_and_fixed_steps_cannot_leave_it(windows):
    state = wl.WindowLoader(windows, shuffle=True, seed=11).state_dict()
    loader = wl.WindowLoader(windows, shuffle=True, seed=12)
    loader.load_state_dict(state, order="next_epoch")
    loader.set_epoch(0)
    assert loader.state_dict()["seed"] == 11
    loader.set_epoch(4)
    assert loader.state_dict()["seed"] == 12
    with pytest.raises(LoaderError, match="next_epoch' with steps_per_epoch would leave out windows"):
        wl.WindowLoader(windows, shuffle=True, steps_per_epoch=3).load_state_dict(state, order="next_epoch")


@pytest.mark.parametrize("uneven", ["exact", "pad"])
def test_an_epoch_of_fixed_steps_begins_where_the_one_before_ended_also_with_another_batch(windows, uneven):
    def run(batch_size, epoch, state=None):
        loader = wl.WindowLoader(
            windows, batch_size=batch_size, shuffle=True, steps_per_epoch=3, uneven=uneven
        )
        if state is not None:
            loader.load_state_dict(state)
        loader.set_epoch(epoch)
        iterator = iter(loader)
        seen = sum([next(iterator).starts.tolist() for _ in range(3)], [])
        return seen, loader.state_dict()  # at the end of the epoch, which the iterator did not reach

    first, state = run(10, 0)
    second, _ = run(20, 1, state)
    assert first + second == sum(starts(wl.WindowLoader(windows, batch_size=10, shuffle=True)), [])[:90]


def test_steps_that_repeat_windows_on_some_rank_warn_once(windows):
    def loader(**options):
        return wl.WindowLoader(windows, shuffle=True, rank=0, **options)

    with pytest.warns(UserWarning, match="=10 is not a multiple of 3 .* 2 of them a .*=9 or 12, ") as warned:
        uneven = loader(global_batch_size=10, world_size=3)
    assert len(warned) == 1
    assert {len(batch) for batch in starts(uneven)[:-1]} == {4}
    uneven.load_state_dict(uneven.state_dict())
    with pytest.warns(UserWarning, match="delivers 3 windows, 1 .*Pass global_batch_size=3, or"):
        loader(global_batch_size=2, world_size=3)
    for options in (
        {"global_batch_size": 12, "world_size": 3},
        {"global_batch_size": 10, "world_size": 3, "uneven": "exact"},
        {"global_batch_size": 10, "world_size": 3, "uneven": "drop"},
        {"batch_size": 10, "world_size": 3},
    ):
        list(loader(**options))


def test_the_seed_of_a_state_wins(windows):
    state = wl.WindowLoader(windows, shuffle=True, seed=11).state_dict()
    other = wl.WindowLoader(windows, shuffle=True, seed=12)
    other.load_state_dict(state)
    assert starts(other) == starts(wl.WindowLoader(windows, shuffle=True, seed=11))


def test_a_state_of_other_data_is_refused(windows, values):
    state = wl.WindowLoader(windows).state_dict()
    other = wl.WindowSet(wl.Series(values[:200]), wl.WindowSpec(lookback=4, horizon=3))
    with pytest.raises(StateError, match="another run"):
        wl.WindowLoader(other).load_state_dict(state)


def test_fixed_steps_cut_the_endless_run_of_passes(windows):
    endless = wl.WindowLoader(windows, batch_size=50, shuffle=True)
    passes = [batch for _ in range(4) for batch in starts(endless)]
    loader = wl.WindowLoader(windows, batch_size=50, shuffle=True, steps_per_epoch=4)
    assert len(loader) == 4
    cut = [starts(loader) for _ in range(5)]
    assert [batch for epoch in cut for batch in epoch] == passes[:20]
    loader.set_epoch(3)
    assert starts(loader) == passes[12:16]
    assert loader.state_dict()["pass_number"] == 2


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_each_step_and_weigh_each_window_once(windows, world_size):
    whole = list(wl.WindowLoader(windows, global_batch_size=30, shuffle=True, rank=0, world_size=1))
    seen = []
    lengths = set()
    for rank in range(world_size):
        loader = wl.WindowLoader(
            windows, global_batch_size=30, shuffle=True, rank=rank, world_size=world_size, uneven="exact"
        )
        lengths.add(len(loader))
        batches = list(loader)
        assert {batch.num_windows for batch in batches} == {-(-30 // world_size)}
        assert all(np.isfinite(batch.inputs).all() for batch in batches)
        seen += [s for batch in batches for s, w in zip(batch.starts, batch.weights, strict=True) if w]
    assert lengths == {len(whole)}
    assert sorted(seen) == list(range(294))


def test_an_exact_batch_does_not_unpack_as_a_pair(windows):
    loader = wl.WindowLoader(windows, uneven="exact", rank=0, world_size=2)
    with pytest.raises(WeightsError, match="batch.weights"):
        for _inputs, _targets in loader:
            pass
    loader.close()


def test_transform_comes_last_in_the_loops_thread_and_touches_no_state(windows):
    threads = set()

    def transform(batch):
        threads.add(threading.current_thread())
        return {"inputs": batch.inputs, "targets": batch.targets}

    loader = wl.WindowLoader(windows, transform=transform, threads=2, prefetch_batches=3)
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    assert set(batches[0]) == {"inputs", "targets"}
    assert threads == {threading.current_thread()}


def test_a_batch_in_use_is_never_overwritten(windows, values):
    loader = wl.WindowLoader(windows, batch_size=16, shuffle=True, threads=2, prefetch_batches=4)
    kept = [(batch.starts, batch.inputs[:, 1:3, ::2], batch.targets) for batch in loader]
    kept += [(batch.starts, batch.inputs[:, 1:3, ::2], batch.targets) for batch in loader]
    for begun, inputs, targets in kept:
        np.testing.assert_array_equal(inputs[..., 0], np.stack([values[s + 1 : s + 3, ::2] for s in begun]))
        np.testing.assert_array_equal(targets[..., 0], np.stack([values[s + 4 : s + 7] for s in begun]))


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("windowloader")]


def test_an_early_break_leaves_nothing_running(windows):
    for _ in wl.WindowLoader(windows, batch_size=2, threads=2, prefetch_batches=2):
        break
    gc.collect()
    for thread in loader_threads():
        thread.join(10)
    assert not loader_threads()


def test_close_ends_everything_and_batches_stay_valid(windows, values):
    loader = wl.WindowLoader(windows, batch_size=8, threads=2, prefetch_batches=2)
    iterator = iter(loader)
    batch = next(iterator)
    loader.close()
    loader.close()
    assert not loader_threads()
    np.testing.assert_array_equal(batch.inputs[3, :, :, 0], values[3:7])
    assert loader.epoch == 0
    with pytest.raises(ClosedError, match="after step 1 of epoch 0"):
        next(iterator)
    with pytest.raises(ClosedError, match="closed"):
        iter(loader)


def test_an_error_in_a_thread_surfaces_at_its_batch(windows, monkeypatch):
    gather = Recipe.gather

    def breaks(self, out, starts, rows, **part):
        if 96 in starts:
            raise OSError("the disk is gone")
        gather(self, out, starts, rows, **part)

    monkeypatch.setattr(Recipe, "gather", breaks)
    loader = wl.WindowLoader(windows, batch_size=32, threads=2, prefetch_batches=4)
    received = []
    iterator = iter(loader)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        for batch in iterator:
            received.append(batch.starts[0])  # noqa: PERF401 - what came before the error counts
    assert received == [0, 32, 64]
    assert any(entry.name == "breaks" for entry in caught.traceback)
    assert loader.state_dict()["step"] == 3
    with pytest.raises(StopIteration):
        next(iterator)
    assert loader.epoch == 0  # an epoch that broke off is not over
    monkeypatch.undo()
    loader.load_state_dict(loader.state_dict())
    assert next(iter(loader)).starts[0] == 96


def test_stats_count_what_the_loop_received(windows):
    loader = wl.WindowLoader(windows, batch_size=50, threads=1)
    delivered = sum(batch.nbytes for batch in loader)
    (epoch,) = loader.stats().epochs
    assert (epoch.batches, epoch.windows, epoch.delivered_bytes) == (6, 294, delivered)
    parts = epoch.waited_read + epoch.waited_assemble + epoch.waited_hand_over
    assert epoch.waited == pytest.approx(parts)
    assert 0 <= epoch.longest_wait <= epoch.waited <= epoch.seconds
    assert (epoch.read_bytes, epoch.read_requests, epoch.read_blocks) == (0, 0, 0)  # the rows are in memory
    assert "from storage" not in str(loader.stats())


def test_stats_keep_the_waits_of_the_last_epochs_and_the_sums_of_many(windows):
    loader = wl.WindowLoader(windows, batch_size=294, threads=0)
    for _ in range(stats.LAST_EPOCHS + 5):
        list(loader)
    found = loader.stats().epochs
    assert [len(epoch.waits) for epoch in found] == [0] * 5 + [1] * stats.LAST_EPOCHS
    assert all(epoch.batches == 1 and 0 < epoch.longest_wait == epoch.waited for epoch in found)
    assert len(loader.stats().to_dicts()) == len(found)


def test_the_memory_of_stats_has_an_end(monkeypatch):
    monkeypatch.setattr(stats, "MOST_EPOCHS", 100)
    history = stats.History()
    for number in range(1000):
        epoch = history.begin(number)
        for _ in range(3):
            epoch.record(0.0, 1.0, stats.Timeline(0.0, 0.5, 1.0), 1, 1)
    found = history.stats().epochs
    assert [epoch.epoch for epoch in found] == list(range(900, 1000))
    assert sum(len(epoch.waits) for epoch in found) == 3 * stats.LAST_EPOCHS


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batchsize": 8}, TypeError, r"unexpected options \['batchsize'\]. It takes .*batch_size"),
        ({"batch_size": 0}, LoaderError, "batch_size=0"),
        ({"batch_size": 2.5}, LoaderError, "batch_size=2.5"),
        ({"threads": -1}, LoaderError, "threads=-1"),
        ({"prefetch_batches": 0}, LoaderError, "prefetch_batches=0"),
        ({"uneven": "maybe"}, LoaderError, "maybe"),
        ({"uneven": "exact", "drop_last": True}, LoaderError, "drop_last"),
        ({"memory": "a lot"}, LoaderError, "a lot"),
        ({"memory": 10}, LoaderError, "Write a unit, as in memory=.10GiB."),
        ({"rank": 5, "world_size": 4}, RankError, "rank 5"),
        ({"seed": -1, "shuffle": True}, LoaderError, "seed"),
        ({"lanes": 5, "batch_size": 64, "rank": 0, "world_size": 1}, LoaderError, "5 lanes"),
        ({"lanes": 5, "shuffle": True, "rank": 0, "world_size": 1}, LoaderError, "5 lanes"),
        ({"drop_last": True, "batch_size": 400}, LoaderError, "294 windows.*batch_size=400"),
        (
            {"drop_last": True, "global_batch_size": 300, "rank": 0, "world_size": 2},
            LoaderError,
            "makes no step: there are 294 windows, a step takes 300 over 2 ranks.*drop_last=False",
        ),
        (
            {"uneven": "drop", "lanes": 300, "batch_size": 300, "rank": 0, "world_size": 1},
            LoaderError,
            "no step.*300 lanes.*uneven='pad'",
        ),
        ({"dtype": "complex64"}, LoaderError, "complex64"),
        ({"layout": "bxnf"}, ValueError, "bxnf"),
    ],
)
def test_wrong_arguments_are_errors_at_construction(windows, options, error, message):
    with pytest.raises(error, match=message):
        wl.WindowLoader(windows, **options)


def test_drop_last_finds_out_with_the_ranks_that_no_step_is_left(windows):
    loader = wl.WindowLoader(
        windows, global_batch_size=300, drop_last=True
    )  # in 300 lanes there would be a step
    with pytest.raises(LoaderError, match="makes no step"):
        len(loader)


def test_bfloat16_comes_as_numbers(windows):
    batch = next(iter(wl.WindowLoader(windows, batch_size=4, dtype="bfloat16")))
    exact = next(iter(wl.WindowLoader(windows, batch_size=4)))
    assert batch.inputs.dtype.name == batch.targets.dtype.name == "bfloat16"
    np.testing.assert_allclose(batch.inputs.astype("float32"), exact.inputs, rtol=2**-8)
    assert batch.nbytes == exact.nbytes / 2


def test_nan_without_fill_is_an_error_at_construction(values):
    values[5, 2] = np.nan
    windows = wl.WindowSet(wl.Series(values, missing=np.nan), wl.WindowSpec(lookback=4, horizon=3))
    with pytest.raises(MissingDataError, match=r"fill=0\.0.*max_missing=0\.0"):
        wl.WindowLoader(windows)
    batch = next(iter(wl.WindowLoader(windows, fill=0.0, threads=0)))
    assert np.isfinite(batch.inputs).all()
    assert not batch.input_mask[5, 0, 2, 0]


def test_a_loader_takes_windows(values):
    with pytest.raises(LoaderError, match="WindowSet"):
        wl.WindowLoader(wl.Series(values))


def test_small_batches_built_in_one_call_are_those_built_alone(windows, monkeypatch):
    for layout in ("btnf", "bntf", "tbnf", ("btnf", "bnft")):
        options = {"batch_size": 32, "shuffle": True, "uneven": "exact", "layout": layout, "seed": 3}
        monkeypatch.setattr(pipeline, "MOST_PER_CALL", 1)
        alone = list(wl.WindowLoader(windows, **options))
        monkeypatch.setattr(pipeline, "MOST_PER_CALL", 4)
        loader = wl.WindowLoader(windows, **options)
        together = list(loader)
        assert loader._bind().batches_per_call == (1 if layout == "tbnf" else 4)
        assert len(alone) == len(together) == 10
        for one, other in zip(alone, together, strict=True):
            assert (one.epoch, one.step, one.step_weight) == (other.epoch, other.step, other.step_weight)
            for name in ("inputs", "targets", "starts", "entities", "weights"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
                assert getattr(other, name).flags.c_contiguous
            assert other.inputs.ctypes.data % 64 == other.targets.ctypes.data % 64 == 0


def test_batches_whose_arrays_would_not_be_aligned_are_built_alone(windows):
    assert wl.WindowLoader(windows, batch_size=5)._bind().batches_per_call == 1
    assert wl.WindowLoader(windows, batch_size=16)._bind().batches_per_call > 1
    assert wl.WindowLoader(windows, batch_size=16, prefetch_batches=3)._bind().batches_per_call == 3


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_among_batches_built_together_is_that_of_its_own(windows, monkeypatch, threads):
    gather = Recipe.gather

    def breaks(self, out, starts, rows, **part):
        if 96 in starts:
            next(iter(()))  # a StopIteration must not look like the end
        gather(self, out, starts, rows, **part)

    monkeypatch.setattr(Recipe, "gather", breaks)
    iterator = iter(wl.WindowLoader(windows, batch_size=32, threads=threads))
    assert [next(iterator).starts[0] for _ in range(3)] == [0, 32, 64]
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(iterator)


def test_what_was_built_together_is_not_delivered_after_close(windows, values):
    loader = wl.WindowLoader(windows, batch_size=32)
    iterator = iter(loader)
    kept = next(iterator)
    loader.close()
    with pytest.raises(ClosedError, match="after step 1 of epoch 0"):
        next(iterator)
    np.testing.assert_array_equal(kept.inputs[0, :, :, 0], values[:4])
