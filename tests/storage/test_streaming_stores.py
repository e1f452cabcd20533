"""Epochs streamed from stores by TensorStore: chunks counted at the server, errors, breaks, epochs, memory."""

from __future__ import annotations

import collections
import gc
import threading

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import ClosedError, SourceError

pytestmark = pytest.mark.usefixtures("by_blocks")  # what these tests hold is that blocks come and go


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)


@pytest.fixture
def values():
    return np.random.default_rng(3).normal(size=(1000, 12)).astype(np.float32)


SPEC = wl.WindowSpec(lookback=6, horizon=4)
OPTIONS = {"batch_size": 16, "shuffle": True, "seed": 4, "active_blocks": 5, "reads_ahead": 4}


def right(batch, values):
    np.testing.assert_array_equal(batch.inputs[..., 0], values[batch.starts[:, None] + np.arange(6)])
    np.testing.assert_array_equal(batch.targets[..., 0], values[batch.starts[:, None] + np.arange(6, 10)])


def chunk_gets(static):
    """How often each chunk was asked of the server."""
    return collections.Counter(path for _, path, *_ in static.log if "/c/" in path)


@pytest.fixture
def url(static, bucket_folder, write_array, values):
    write_array({"driver": "file", "path": f"{bucket_folder}/bkt/stream.zarr/"}, values, chunks=(48, 5))
    return f"http://127.0.0.1:{static.port}/bkt/stream.zarr"


@pytest.fixture
def windows(url):
    return wl.WindowSet(wl.open(url), SPEC)


def test_each_chunk_is_fetched_once_an_epoch_and_the_plan_says_so(static, windows, values, monkeypatch):
    monkeypatch.setattr("windowloader.rows.lane_cache.LaneCache._drains", lambda self, lane_pass: False)
    with wl.WindowLoader(windows, threads=2, prefetch_batches=3, **OPTIONS) as loader:
        plan = loader.plan()
        static.clear()
        assert len(static.log) == 0
        got = []
        for batch in loader:
            right(batch, values)
            got += batch.starts.tolist()
    assert sorted(got) == list(range(len(windows)))
    gets = chunk_gets(static)
    assert set(gets.values()) == {1}
    assert len(gets) == plan.own.requests == 21 * 3
    assert plan.own.amplification == 1.0


def test_a_resumed_epoch_fetches_what_its_plan_says(static, windows, values, monkeypatch):
    monkeypatch.setattr("windowloader.rows.lane_cache.LaneCache._drains", lambda self, lane_pass: False)
    with wl.WindowLoader(windows, threads=0, **OPTIONS) as loader:
        rest, state = [], None
        for batch in loader:
            if batch.step == 30:
                state = loader.state_dict()
            if batch.step > 30:
                rest.append(batch.starts.tolist())
    with wl.WindowLoader(windows, **OPTIONS) as again:
        plan = again.plan(state)
        again.load_state_dict(state)
        static.clear()
        assert [batch.starts.tolist() for batch in again] == rest
    gets = chunk_gets(static)
    assert plan.step == 31
    assert sum(gets.values()) == plan.own.requests
    whole = again._pipeline.reading.choice.grid
    assert plan.blocks <= len(whole) - 30 * 16 // len(windows) * len(whole)


def test_the_next_epoch_is_read_ahead_while_one_drains(static, windows, values):
    with wl.WindowLoader(windows, **OPTIONS) as loader:
        first = [batch.starts.tolist() for batch in loader]
        assert (
            sum(chunk_gets(static).values()) == len(chunk_gets(static)) == 63
        )  # a single pass reads nothing ahead
        second = [batch.starts.tolist() for batch in loader]
        third = [batch.starts.tolist() for batch in loader]
    gets = chunk_gets(static)
    assert min(gets.values()) >= 3
    assert max(gets.values()) <= 4  # the fourth epoch's first blocks
    with wl.WindowLoader(windows, **OPTIONS) as loader:
        assert [b.starts.tolist() for b in loader] == first
        loader.set_epoch(2)  # elsewhere than what was read ahead
        assert [b.starts.tolist() for b in loader] == third
        loader.set_epoch(1)
        assert [b.starts.tolist() for b in loader] == second


def test_breaks_and_two_iterators_at_once(windows, values):
    with wl.WindowLoader(windows, threads=2, **OPTIONS) as loader:
        for _ in range(3):
            for batch in loader:
                right(batch, values)
                break
        first = iter(loader)
        ahead = [next(first).starts.tolist() for _ in range(7)]
        for batch, expected in zip(loader, ahead, strict=False):
            assert batch.starts.tolist() == expected
            right(next(first), values)
        assert len(loader._pipeline.access._block_caches) == 2
        del first
        gc.collect()
        for thread in threading.enumerate():  # those that made batches for it let go of its arena as they end
            if thread.name in ("windowloader-0", "windowloader-1"):
                thread.join(10)
        assert sum(batch.num_windows for batch in loader) == len(windows)
        assert len(loader._pipeline.access._block_caches) == 1


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_comes_at_its_batch_and_leaves_nothing_under_way(bucket_folder, windows, values, threads):
    chunk = bucket_folder / "bkt" / "stream.zarr" / "c" / "10" / "1"
    kept = chunk.read_bytes()
    chunk.unlink()
    with wl.WindowLoader(windows, threads=threads, prefetch_batches=3, **OPTIONS) as loader:
        good = []
        with pytest.raises(SourceError, match="missing|stream.zarr"):
            for batch in loader:
                right(batch, values)
                good.append(batch.starts.tolist())
        assert not loader._pipeline.access.reader._desk.flying
        chunk.write_bytes(kept)
        again = [batch.starts.tolist() for batch in loader]
        assert again[: len(good)] == good
        assert sum(map(len, again)) == len(windows)


def test_a_closed_loader_ends_iterators_and_reads(windows):
    loader = wl.WindowLoader(windows, threads=2, **OPTIONS)
    iterator = iter(loader)
    next(iterator)
    loader.close()
    assert not any(thread.name == "windowloader-reader" for thread in threading.enumerate())
    with pytest.raises(ClosedError):
        list(iterator)


def test_one_request_in_three_may_fail_for_an_epoch(proxy, windows, url, values):
    series = wl.open(url.replace(url.split("/")[2], proxy.url.removeprefix("http://")))
    proxy.clear(lambda number, method, path, headers: "503" if number % 3 == 0 and "/c/" in path else None)
    with wl.WindowLoader(windows, **OPTIONS) as plain:
        expected = [batch.starts.tolist() for batch in plain]
    with wl.WindowLoader(wl.WindowSet(series, SPEC), **OPTIONS) as loader:
        found = []
        for batch in loader:
            right(batch, values)
            found.append(batch.starts.tolist())
    assert found == expected
    assert any(entry.fault is not None for entry in proxy.log)


def test_ranks_read_their_lanes_only(static, windows, monkeypatch):
    monkeypatch.setattr("windowloader.rows.lane_cache.LaneCache._drains", lambda self, lane_pass: False)
    seen, total = [], 0
    for rank in range(4):
        static.clear()
        options = OPTIONS | {"active_blocks": 2, "uneven": "exact"}
        with wl.WindowLoader(windows, rank=rank, world_size=4, **options) as loader:
            plan = loader.plan()
            for batch in loader:
                seen += batch.starts[batch.weights > 0].tolist()
        assert sum(chunk_gets(static).values()) == plan.own.requests
        total += plan.own.requests
    assert sorted(seen) == list(range(len(windows)))
    assert total == plan.all_ranks.requests <= 63 + 5 * 3  # a border block of each lane


def test_values_streamed_and_covariates_in_memory_or_held(url, values):
    day = np.arange(1000, dtype=np.float32)
    series = wl.open(url, covariates={"day": (day, "t")})
    spec = wl.WindowSpec(lookback=6, horizon=4, inputs=[*series.features, "day"], targets=series.features)
    with wl.WindowLoader(wl.WindowSet(series, spec), **OPTIONS) as loader:
        for batch in loader:
            np.testing.assert_array_equal(batch.inputs[:, :, 3, 1], (batch.starts[:, None] + np.arange(6)))
            np.testing.assert_array_equal(batch.inputs[..., 0], values[batch.starts[:, None] + np.arange(6)])


@pytest.mark.campaign
def test_private_memory_stays_within_the_budget(tmp_path, write_array):
    """An array three times the budget, five epochs, in a process of its own."""
    import subprocess
    import sys

    values = np.random.default_rng(0).normal(size=(20_000, 2000)).astype(np.float32)
    write_array({"driver": "file", "path": f"{tmp_path}/big.zarr/"}, values, chunks=(288, 2000))
    code = """
import sys, threading
import numpy as np, windowloader as wl
def private():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Private_Dirty"):
            return int(line.split()[1]) * 1024
series = wl.open(sys.argv[1])
windows = wl.WindowSet(series, wl.WindowSpec(lookback=12, horizon=12))
loader = wl.WindowLoader(windows, batch_size=32, shuffle=True, memory=int(sys.argv[2]), prefetch_batches=2)
plan = loader.plan()
next(iter(wl.WindowLoader(windows.take(range(64)), batch_size=32)))   # kernels and the store's code
before, peaks = private(), []
for epoch in range(5):
    peak = 0
    for batch in loader:
        if batch.step % 8 == 0:
            peak = max(peak, private())
    peaks.append(peak - before)
print(plan.memory.total, plan.batch_bytes, *peaks)
"""
    budget = 48 << 20
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, f"{tmp_path}/big.zarr", str(budget)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    total, batch, *peaks = map(int, done.stdout.split())
    print(total, batch, peaks)
    assert total <= budget
    assert max(peaks) <= budget + (64 << 20) + 8 * batch  # batches ahead, in hand, and free slabs of the pool
    assert peaks[-1] <= peaks[1] * 1.1 + (4 << 20)
