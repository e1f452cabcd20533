"""Streams whose rows fit in memory: each chunk is asked for once a run, for any chunks, ranks, breaks and tiers."""

from __future__ import annotations

import collections
import itertools
import json
import threading

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import SourceError

ROWS, NODES = 600, 4
OPTIONS = {"batch_size": 16, "shuffle": True, "seed": 4}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)


@pytest.fixture
def values():
    return np.random.default_rng(3).normal(size=(ROWS, NODES)).astype(np.float32)


@pytest.fixture
def stored(static, bucket_folder, write_array, values):
    def write(chunks, name="kept.zarr"):
        write_array({"driver": "file", "path": f"{bucket_folder}/bkt/{name}/"}, values, chunks=chunks)
        return wl.open(f"http://127.0.0.1:{static.port}/bkt/{name}")

    return write


def asked(static):
    return collections.Counter(path for _, path, *_ in static.log if "/c/" in path)


def epoch(loader, values, spec):
    """Go through an epoch, each batch checked; its starts."""
    starts = []
    for batch in loader:
        np.testing.assert_array_equal(batch.inputs[..., 0], values[batch.starts[:, None] + spec.input_rows])
        np.testing.assert_array_equal(batch.targets[..., 0], values[batch.starts[:, None] + spec.target_rows])
        starts += batch.starts.tolist()
    return starts


@pytest.mark.parametrize(("lookback", "horizon"), [(2, 1), (2, 4), (12, 12), (24, 24)])
def test_chunks_of_one_row_are_asked_for_once_a_run(static, stored, values, lookback, horizon):
    spec = wl.WindowSpec(lookback=lookback, horizon=horizon)
    windows = wl.WindowSet(stored((1, NODES)), spec)
    with wl.WindowLoader(windows, **OPTIONS) as loader:
        plan = loader.plan()
        assert (plan.mode, plan.own.requests, plan.own.bytes) == ("preloaded", ROWS, values.nbytes)
        static.clear()
        for number in range(3):
            assert sorted(epoch(loader, values, spec)) == list(range(len(windows)))
            assert len(asked(static)) == sum(asked(static).values()) == ROWS
            last = loader.stats().epochs[-1]
            assert (last.read_bytes, last.read_requests) == ((values.nbytes, ROWS) if number == 0 else (0, 0))
            assert loader.plan().own.bytes == 0


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_rank_asks_for_its_lanes_and_no_more(static, stored, values, world, shuffle):
    spec = wl.WindowSpec(lookback=6, horizon=4)
    windows = wl.WindowSet(stored((24, 3)), spec)
    total, seen = 0, []
    for rank in range(world):
        with wl.WindowLoader(
            windows, rank=rank, world_size=world, **{**OPTIONS, "shuffle": shuffle}
        ) as loader:
            plan = loader.plan()
            static.clear()
            seen += epoch(loader, values, spec)
            assert set(epoch(loader, values, spec)) <= set(seen)
        assert sum(asked(static).values()) == plan.own.requests
        total += plan.own.requests
    assert set(seen) == set(range(len(windows)))
    assert total <= 2 * 25 + 2 * 2 * (world - 1)  # two columns of chunks, and those at the borders of lanes


def test_a_run_that_goes_on_asks_for_what_is_left_then_for_the_rest(static, stored, values):
    spec = wl.WindowSpec(lookback=6, horizon=4)
    windows = wl.WindowSet(stored((24, NODES)), spec)
    with wl.WindowLoader(windows, active_blocks=3, **OPTIONS) as loader:
        whole = epoch(loader, values, spec) + epoch(loader, values, spec)
    with wl.WindowLoader(windows, active_blocks=3, **OPTIONS) as loader:
        first = [batch.starts.tolist() for batch in itertools.islice(loader, 25)]
        state = json.loads(json.dumps(loader.state_dict()))
    assert (state["rotate"], state["chunk_rows"], state["chunk_first"], state["grid"]) == (0, 24, 0, "")
    with wl.WindowLoader(windows, active_blocks=3, **OPTIONS) as loader:
        loader.load_state_dict(state)
        plan = loader.plan(state)
        static.clear()
        rest = epoch(loader, values, spec)
        assert sum(asked(static).values()) == plan.own.requests < 25
        rest += epoch(loader, values, spec)
        assert len(asked(static)) == sum(asked(static).values()) == 25
    assert sum(first, []) + rest == whole


def test_a_state_goes_on_from_a_local_array_and_back(stored, values, tmp_path):
    spec = wl.WindowSpec(lookback=6, horizon=4)
    np.save(tmp_path / "kept.npy", values)
    remote = wl.WindowSet(stored((24, NODES)), spec)
    local = wl.WindowSet(wl.open(tmp_path / "kept.npy"), spec)
    other = wl.WindowSet(stored((50, 2), "other.zarr"), spec)
    with wl.WindowLoader(remote, active_blocks=3, **OPTIONS) as loader:
        expected = epoch(loader, values, spec)
        state = loader.state_dict(step=0)
        states = [loader.state_dict(step=step) for step in range(1, 30)]
    assert state["epoch"] in (0, 1)
    for place, here, there in ((3, local, remote), (17, remote, local), (25, other, local)):
        with wl.WindowLoader(here, **OPTIONS) as loader:
            loader.load_state_dict({**states[place], "epoch": 0, "pass_number": 0})
            got = [batch.starts.tolist() for batch in itertools.islice(loader, 4)]
            middle = loader.state_dict()
        with wl.WindowLoader(there, **OPTIONS) as loader:
            loader.load_state_dict(middle)
            got += [batch.starts.tolist() for batch in loader]
        assert sum(got, []) == expected[16 * (place + 1) :]


def test_breaks_several_iterators_and_threads_share_what_was_read(static, stored, values):
    spec = wl.WindowSpec(lookback=6, horizon=4)
    windows = wl.WindowSet(stored((24, NODES)), spec)
    with wl.WindowLoader(windows, threads=2, prefetch_batches=4, **OPTIONS) as loader:
        expected = epoch(loader, values, spec)
    static.clear()
    with wl.WindowLoader(windows, threads=2, prefetch_batches=4, **OPTIONS) as loader:
        for batch in loader:
            assert batch.starts.tolist() == expected[:16]
            break
        loader.set_epoch(0)
        found = {}

        def go(name):
            found[name] = [batch.starts.tolist() for batch in iterators[name]]

        iterators = {name: iter(loader) for name in "ab"}
        threads = [threading.Thread(target=go, args=name) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(found["a"], []) == sum(found["b"], []) == expected
    assert max(asked(static).values()) == 1


def test_a_chunk_that_fails_is_an_error_and_is_asked_for_again(hidden_chunk, values):
    spec = wl.WindowSpec(lookback=6, horizon=4)
    windows, restore = hidden_chunk
    with wl.WindowLoader(windows, **OPTIONS) as loader:
        with pytest.raises(SourceError):
            epoch(loader, values, spec)
        restore()
        loader.set_epoch(0)
        assert sorted(epoch(loader, values, spec)) == list(range(len(windows)))


@pytest.fixture
def hidden_chunk(stored, bucket_folder, static):
    """Windows over an array of which a chunk is damaged, and how to mend it."""
    series = stored((24, NODES))
    path = bucket_folder / "bkt" / "kept.zarr" / "c" / "7" / "0"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    return wl.WindowSet(series, wl.WindowSpec(lookback=6, horizon=4)), lambda: path.write_bytes(good)
