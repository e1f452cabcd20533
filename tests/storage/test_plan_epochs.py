"""What a plan says against what epochs take: steps, windows, bytes, requests, memory; all ranks one after another.

Bytes and requests are counted by whoever serves them, TensorStore's driver of files or a web server, never by what
made the plan.
"""

from __future__ import annotations

import numpy as np
import pytest

import windowloader as wl

ROWS = 2_500  # no multiple of any chunk below: the last one is stored whole all the same
SPEC = wl.WindowSpec(lookback=12, horizon=12)


@pytest.fixture
def one_epoch(monkeypatch):
    """Leave the next epoch alone while one drains; `test_what_is_read_of_the_next_epoch` counts it."""
    monkeypatch.setattr("windowloader.streaming.course.Course._drains", lambda self, passage: False)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("windowloader.streaming.grid._BYTES", 1)


@pytest.fixture(scope="session")
def values():
    return np.random.default_rng(0).normal(size=(ROWS, 8)).astype(np.float32)


@pytest.fixture
def served():
    """Count bytes and reads of TensorStore's driver for files since the last call."""
    import tensorstore as ts

    def now():
        found = {
            metric["name"].rpartition("/")[2]: metric["values"][0].get("value") or 0
            for metric in ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/")
            if metric["values"]
        }
        return np.array([found.get("bytes_read", 0), found.get("read", 0)])

    last = now()

    def since():
        nonlocal last
        before, last = last, now()
        return tuple((last - before).tolist())

    return since


@pytest.fixture
def store(tmp_path, write_array, values):
    def write(chunks, **options):
        path = tmp_path / "x.zarr"
        write_array({"driver": "file", "path": f"{path}/"}, values, chunks=chunks, crc=False, **options)
        windows = wl.WindowSet(wl.open(path), SPEC)
        windows.read([0])  # metadata are read with the first chunk
        return windows

    return write


def epoch(loader):
    """Go through an epoch; how many steps and rows it had."""
    rows = [len(batch.starts) for batch in loader]
    return len(rows), sum(rows)


@pytest.mark.usefixtures("one_epoch")
@pytest.mark.parametrize("world", [1, 2, 64])
@pytest.mark.parametrize(
    ("chunks", "options", "mode"),
    [
        ((48, 8), {"shuffle": True}, "blocks"),
        ((100, 3), {"shuffle": True, "active_blocks": 2}, "blocks"),  # the last column of chunks is 2 wide
        ((48, 3), {"shuffle": False}, "blocks"),
        ((24, 8), {"shuffle": True, "memory": 22_000}, "halo"),
        ((24, 8), {"shuffle": True, "active_blocks": 8, "memory": 68_000}, "blocks"),  # read again and again
        ((1, 8), {"shuffle": True}, "direct"),
    ],
)
def test_ranks_stream_what_their_plans_say(store, served, chunks, options, mode, world):
    windows, total, rows = store(chunks), np.zeros(2, int), 0
    if world == 64 and mode != "blocks":
        windows = windows.take(range(0, len(windows), 4))
    batch = 2 if world == 64 else 16
    for rank in range(world):
        loader = wl.WindowLoader(windows, batch_size=batch, rank=rank, world_size=world, threads=0, **options)
        with loader:
            plan = loader.plan()
            served()
            done = epoch(loader)
        got = served()
        assert plan.mode == mode
        assert done == (plan.steps, plan.windows)
        assert got == (plan.own.bytes, plan.own.requests)
        total, rows = total + got, rows + done[1]
    assert tuple(total) == (plan.all_ranks.bytes, plan.all_ranks.requests)
    assert rows >= len(windows)
