"""What a plan says against what epochs take: steps, windows, bytes, requests, memory; all ranks one after another.

Bytes and requests are counted where they are served, TensorStore's driver of files or a web server, never by what
made the plan.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import windowloader as wl
from windowloader.sources.base import LocalSource
from windowloader.util.units import format_bytes

pytestmark = pytest.mark.usefixtures("by_blocks")  # what they hold is that blocks come and go

ROWS = 2_500  # no multiple of any chunk below: the last one is stored whole all the same
SPEC = wl.WindowSpec(lookback=12, horizon=12)


@pytest.fixture
def one_epoch(monkeypatch):
    """Leave the next epoch alone while one drains; `test_what_is_read_of_the_next_epoch` counts it."""
    monkeypatch.setattr("windowloader.rows.lane_cache.LaneCache._drains", lambda self, lane_pass: False)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)


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
    def write(chunks, rows=ROWS, **options):
        path = tmp_path / "x.zarr"
        write_array(
            {"driver": "file", "path": f"{path}/"}, values[:rows], chunks=chunks, crc=False, **options
        )
        windows = wl.WindowSet(wl.open(path), SPEC)
        windows.read([0])  # metadata are read with the first chunk
        return windows

    return write


def epoch(loader):
    """Go through an epoch; how many steps and rows it had."""
    rows = [len(batch.starts) for batch in loader]
    return len(rows), sum(rows)


def counted(loader):
    """Bytes and requests of the last epoch, as the loader itself counts them."""
    last = loader.stats().epochs[-1]
    return last.read_bytes, last.read_requests


@pytest.mark.filterwarnings("ignore:each epoch reads")
@pytest.mark.usefixtures("one_epoch")
@pytest.mark.parametrize("world", [1, 2, pytest.param(64, marks=pytest.mark.campaign)])
@pytest.mark.parametrize(
    ("chunks", "options", "mode"),
    [
        ((48, 8), {"shuffle": True}, "blocks"),
        ((100, 3), {"shuffle": True, "active_blocks": 2}, "blocks"),  # the last column of chunks is 2 wide
        ((48, 3), {"shuffle": False}, "blocks"),
        ((24, 8), {"shuffle": True, "memory": 22_000}, "halo"),
        ((1, 8), {"shuffle": True}, "direct"),
    ],
)
def test_ranks_stream_what_their_plans_say(store, served, chunks, options, mode, world):
    total, everyone, rows = np.zeros(2, int), np.zeros(2, int), 0
    windows = store(chunks, 630 if mode == "direct" else ROWS)  # each row is a file
    if mode == "direct":
        windows = windows.take(np.random.default_rng(0).permutation(len(windows)))
    if world == 64 and mode == "halo":
        windows = windows.take(range(0, len(windows), 4))
    batch = 2 if world == 64 else 16
    for rank in range(world):
        loader = wl.WindowLoader(windows, batch_size=batch, rank=rank, world_size=world, threads=0, **options)
        with loader:
            plan = loader.plan()
            served()
            done = epoch(loader)
            own = counted(loader)
        got = served()
        assert own == (plan.own.bytes, plan.own.requests)
        assert plan.mode == mode
        assert done == (plan.steps, plan.windows)
        exact = mode != "halo"  # blocks whose halos share a chunk get it once where they ask at the same time
        planned = np.array([plan.own.bytes, plan.own.requests])
        assert (got == planned).all() if exact else (0.75 * planned <= got).all() and (got <= planned).all()
        total, rows = total + got, rows + done[1]
        everyone += planned
    assert tuple(everyone) == (plan.all_ranks.bytes, plan.all_ranks.requests)
    assert (total == everyone).all() if exact else (total <= everyone).all()
    assert rows >= len(windows)


class Counted(LocalSource):
    """Notes what is asked of it; TensorStore would read a chunk once that both epochs ask for at a time."""

    def __init__(self, values):
        super().__init__("counted", shape=(2_496, 8), dtype="f4", axes="tn", chunks=(48, 8))
        self.values, self.log = values, []

    def _read(self, start, stop, out, box=None):
        self.log.append(stop - start)
        out[...] = self.values[start:stop]
        return self.bytes_of(start, stop)


@pytest.mark.parametrize("steps", [1, 20, 100, 155, 170, 400])  # a pass has 155
@pytest.mark.parametrize("options", [{}, {"active_blocks": 3}, {"shuffle": False}])
def test_epochs_that_are_parts_of_passes(values, steps, options):
    source = Counted(values)
    given = {"batch_size": 16, "shuffle": True, "threads": 0, "steps_per_epoch": steps, **options}
    with wl.WindowLoader(wl.WindowSet(wl.Series(source), SPEC), **given) as loader:
        plan = loader.plan()
        assert epoch(loader) == (steps, plan.windows) == (plan.steps, plan.windows)
        own, blocks = counted(loader), loader.stats().epochs[0].read_blocks
        with loader._pipeline.access.reader.lock:
            loader._pipeline.access.reader.drain()
    got, told = sum(source.log) * 32, plan.own.bytes + plan.upcoming.bytes
    assert plan.mode == "blocks"
    assert got == told
    assert own == (plan.own.bytes, plan.own.requests)
    assert blocks == plan.blocks
    assert plan.own.distinct <= plan.own.bytes


def test_what_is_read_of_the_next_epoch(values):
    source = Counted(values)
    with wl.WindowLoader(
        wl.WindowSet(wl.Series(source), SPEC), batch_size=16, shuffle=True, threads=0
    ) as loader:
        epoch(loader)
        epoch(loader)
        plan = loader.plan()  # of the third
        epoch(loader)
        each = [(one.read_bytes, one.read_requests, one.read_blocks) for one in loader.stats().epochs]
        assert each == 3 * [(plan.own.bytes, plan.own.requests, plan.blocks)]
        last = str(loader.stats()).splitlines()[-1]
        assert last.split()[-3:] == [*format_bytes(plan.own.bytes).split(), str(plan.own.requests)]
        assert loader.stats().to_dicts()[0]["read_bytes"] == plan.own.bytes
        with loader._pipeline.access.reader.lock:
            loader._pipeline.access.reader.drain()  # all that was asked for has been read
    assert 0 < plan.upcoming.bytes < plan.own.bytes
    assert sum(source.log) * 32 == 3 * plan.own.bytes + plan.upcoming.bytes
    assert sum(source.log) // 48 == 3 * plan.own.requests + plan.upcoming.requests


def test_what_was_read_ahead_in_vain_counts_where_it_was_given_up(values):
    source = Counted(values)
    windows = wl.WindowSet(wl.Series(source), SPEC)
    with wl.WindowLoader(windows, batch_size=16, shuffle=True, threads=0) as loader:
        for _ in range(2):
            for number, _ in enumerate(loader):
                if number == 3:
                    break
            with loader._pipeline.access.reader.lock:
                loader._pipeline.access.reader.drain()
        loader.set_epoch(0)
        epoch(loader)
        first, second, third = loader.stats().epochs
        plan = loader.plan()  # of the next
        epoch(loader)
        with loader._pipeline.access.reader.lock:
            loader._pipeline.access.reader.drain()
        total = sum(one.read_bytes for one in loader.stats().epochs)
        assert total + plan.upcoming.bytes == sum(source.log) * 32
    assert first.read_blocks > 0
    total = sum(one.read_bytes for one in loader.stats().epochs)
    assert total == sum(source.log) * 32  # closed, with the first blocks of an epoch that never came
    assert (second.epoch, third.epoch) == (0, 0)


def test_a_resumed_epoch_reads_what_the_plan_of_its_state_says(values):
    windows = wl.WindowSet(wl.Series(Counted(values)), SPEC)
    given = {"batch_size": 16, "shuffle": True, "active_blocks": 6}
    with wl.WindowLoader(windows, **given) as loader:
        plan = loader.plan()
        for number, _ in enumerate(loader):
            if number == 80:
                state = loader.state_dict()
                break
    with wl.WindowLoader(windows, **given) as loader:
        loader.load_state_dict(state)
        left = loader.plan(state=state)
        epoch(loader)
        assert counted(loader) == (left.own.bytes, left.own.requests)
        assert loader.stats().epochs[0].read_blocks == left.blocks < plan.blocks
        assert left.sides > 0


@pytest.mark.parametrize("joined", [False, True])
def test_a_disk_cache_counts_what_it_fetched(tmp_path, write_array, values, joined):
    paths = [tmp_path / f"{name}.zarr" for name in ("a", "b")[: 1 + joined]]
    for path in paths:
        write_array({"driver": "file", "path": f"{path}/"}, values, chunks=(48, 8), crc=False)
    uris = [path.as_uri() for path in paths]
    options = {"cache_dir": tmp_path / "cache"}
    windows = wl.WindowSet(wl.open(uris if joined else uris[0], **options), SPEC)
    with wl.WindowLoader(windows, batch_size=16, shuffle=True) as loader:
        plan = loader.plan()
        for _ in range(3):
            epoch(loader)
        each = [(one.read_bytes, one.read_requests) for one in loader.stats().epochs]
    assert each == [(plan.own.bytes, plan.own.requests), (0, 0), (0, 0)]
    again = wl.WindowSet(wl.open(uris if joined else uris[0], **options), SPEC)
    with wl.WindowLoader(again, batch_size=16, shuffle=True) as loader:
        epoch(loader)
        assert counted(loader) == (0, 0)


@pytest.mark.usefixtures("one_epoch")
def test_of_chunks_that_hold_other_nodes_too_all_is_counted(store, served):
    windows = wl.WindowSet(store((48, 4)).series.select(nodes=[5, 6]), SPEC)
    windows.read([0])
    with wl.WindowLoader(windows, batch_size=16, shuffle=True, threads=0) as loader:
        plan = loader.plan()
        served()
        epoch(loader)
    assert served() == (plan.own.bytes, plan.own.requests)
    assert plan.own.bytes == plan.own.distinct == -(-ROWS // 48) * 48 * 4 * 4  # one of two columns of chunks


@pytest.mark.usefixtures("one_epoch")
def test_a_small_variable_is_read_once_and_whole(tmp_path, served, write_array, values):
    day = np.arange(ROWS, dtype=np.float32)
    for name, array, chunks in (("x", values, (48, 8)), ("day", day[:, np.newaxis], (100, 1))):
        place = {"driver": "file", "path": f"{tmp_path}/{name}.zarr/"}
        write_array(place, np.tile(array, (1, 4)) if name == "x" else array, chunks=chunks, crc=False)
    series = wl.open(tmp_path / "x.zarr", covariates={"day": (tmp_path / "day.zarr", "tf")})
    spec = wl.WindowSpec(lookback=12, horizon=12, inputs=[*series.features, "day"])
    windows = wl.WindowSet(series, spec)
    windows.read([0])
    with wl.WindowLoader(windows, batch_size=16, shuffle=True, threads=0) as loader:
        plan = loader.plan()
        served()
        epoch(loader)
        assert counted(loader) == (plan.own.bytes, plan.own.requests)
    assert plan.held == ROWS * 4
    assert served() == (plan.own.bytes, plan.own.requests)


@pytest.mark.usefixtures("one_epoch")
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("shards", [(480, 8), (96, 8)])
def test_a_web_server_is_asked_for_what_plans_of_shards_say(
    static, bucket_folder, write_array, values, shards, world
):
    for rank in range(world):
        name = f"shards-{shards[0]}-{world}-{rank}.zarr"  # its own: storage keeps indexes and small shards
        place = {"driver": "file", "path": f"{bucket_folder}/bkt/{name}/"}
        write_array(place, values, chunks=(24, 8), shards=shards, crc=False)
        windows = wl.WindowSet(wl.open(f"http://127.0.0.1:{static.port}/bkt/{name}"), SPEC)
        with wl.WindowLoader(
            windows, batch_size=16, shuffle=True, threads=0, rank=rank, world_size=world
        ) as loader:
            plan = loader.plan()
            static.clear()
            epoch(loader)
            assert counted(loader) == (plan.own.bytes, plan.own.requests)
        got = [entry for entry in static.data if entry[0] == "GET" and "/c/" in entry[1]]
        indexes = [entry for entry in got if (entry[2] or "").startswith("bytes=-")]  # of 16 bytes a chunk
        assert sum(entry[3] for entry in got if entry not in indexes) == pytest.approx(
            plan.own.bytes, rel=0.02
        )
        assert len(got) == plan.own.requests


def test_shards_that_are_read_directly_are_asked_for_as_planned(static, bucket_folder, write_array, values):
    place = {"driver": "file", "path": f"{bucket_folder}/bkt/direct-shards.zarr/"}
    write_array(place, values, chunks=(1, 8), shards=(96, 8), crc=False)
    windows = wl.WindowSet(wl.open(f"http://127.0.0.1:{static.port}/bkt/direct-shards.zarr"), SPEC)
    with wl.WindowLoader(windows.take(range(2360, -1, -40)), batch_size=4, shuffle=True, threads=0) as loader:
        plan = loader.plan()
        static.clear()
        epoch(loader)
        assert counted(loader) == (plan.own.bytes, plan.own.requests)
    got = [entry for entry in static.data if entry[0] == "GET" and "/c/" in entry[1]]
    assert plan.mode == "direct"
    assert len(got) == plan.own.requests


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world", [1, 2, pytest.param(64, marks=pytest.mark.campaign)])
def test_ranks_touch_the_mapped_rows_that_their_plans_say(tmp_path, values, shuffle, world, monkeypatch):
    np.save(tmp_path / "x.npy", values)
    windows, rows = wl.WindowSet(wl.open(tmp_path / "x.npy"), SPEC), []
    if world == 64:
        windows = windows.take(range(800))
    options = {"batch_size": 2 if world == 64 else 16, "shuffle": shuffle, "world_size": world}
    for rank in range(world):
        with wl.WindowLoader(windows, rank=rank, **options) as loader:
            plan = loader.plan()
            starts = np.concatenate([batch.starts for batch in loader])
        rows.append(np.unique(starts[:, np.newaxis] + np.arange(SPEC.span)))
        assert plan.own.bytes == len(rows[-1]) * 32
        monkeypatch.setattr("windowloader.plan.costs.LOOK", 1000)  # then it is reckoned
        with wl.WindowLoader(windows, rank=rank, **options) as loader:
            assert loader.plan().own.bytes == pytest.approx(len(rows[-1]) * 32, rel=0.1)
        monkeypatch.undo()
    assert plan.tier == "mapped"
    assert plan.all_ranks.bytes == sum(map(len, rows)) * 32
    assert plan.all_ranks.distinct == len(np.unique(np.concatenate(rows))) * 32


GROWTH = """
import gc, json, sys, time
import windowloader as wl
from windowloader.batch import buffers
from windowloader.util.units import MemoryWatch
series = wl.open(sys.argv[1])
windows = wl.WindowSet(series, wl.WindowSpec(lookback=12, horizon=12, stride=int(sys.argv[3])))
with wl.WindowLoader(windows.take(range(40)), batch_size=2) as loader:  # kernels, and the store's code
    for batch in loader:
        pass
del loader, batch
gc.collect()
with MemoryWatch() as watch, wl.WindowLoader(windows, shuffle=True, **json.loads(sys.argv[2])) as loader:
    plan, made, lease = loader.plan(), set(), buffers.BufferPool.lease
    buffers.BufferPool.lease = lambda pool: (lambda one: made.add(id(one._memory)) or one)(lease(pool))
    for epoch in range(2):
        for number, batch in enumerate(loader):
            while number == 0 and len(made) <= plan.batches_ahead:  # a slow loop: all are made that may be
                time.sleep(0.001)
print(json.dumps({"grown": watch.grown, "told": plan.private_bytes, "rows": plan.memory.arena if plan.memory else 0}))
"""


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.zarr", {"memory": "1GiB", "active_blocks": 80, "batch_size": 32}),
        ("x.zarr", {"memory": "1GiB", "active_blocks": 60, "batch_size": 32, "rank": 1, "world_size": 2}),
        ("packed.zarr", {"memory": "1GiB", "active_blocks": 80, "batch_size": 32}),
        ("x.npy", {"batch_size": 256}),
        ("x.npy", {"batch_size": 192, "rank": 3, "world_size": 64}),
    ],
)
def test_a_process_grows_as_its_plan_says(tmp_path_factory, name, options):
    path = tmp_path_factory.getbasetemp() / "large" / name
    _make_large(path)
    script = [sys.executable, "-c", GROWTH, str(path), json.dumps(options)]
    script.append("1" if options.get("world_size") == 64 else "8")
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(name, options, {key: f"{value / 2**20:.0f} MiB" for key, value in found.items()})
    if name == "x.npy":
        assert found["grown"] == pytest.approx(found["told"], rel=0.1)
    else:  # chunks under way, and what the allocator keeps of them, are now more, now fewer
        assert found["rows"] > 200 << 20
        assert 0.75 * found["told"] < found["grown"] < 1.1 * found["told"]


def _make_large(path):
    """Write 40,000 steps of 3,000 nodes, 480 MB, once for all tests."""
    import zarr

    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    shape, random = (40_000, 3_000), np.random.default_rng(0)
    if path.suffix == ".npy":
        np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()  # sparse
        return
    compressors = "auto" if path.stem == "packed" else None
    array = zarr.create_array(path, shape=shape, chunks=(288, 3_000), dtype="f4", compressors=compressors)
    for start in range(0, shape[0], 2_880):
        stop = min(start + 2_880, shape[0])
        array[start:stop] = random.integers(0, 1_000, (stop - start, 3_000)).astype(np.float32)
