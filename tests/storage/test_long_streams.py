"""Streams over many epochs: short ones, broken off and gone on; memory that stays where the plan put it.

What needs a process of its own, or long, is a campaign.
"""

from __future__ import annotations

import collections
import json
import statistics
import subprocess
import sys

import numpy as np
import pytest

import windowloader as wl

SPEC = wl.WindowSpec(lookback=6, horizon=4)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)


def same(one, other):
    assert (one.epoch, one.step) == (other.epoch, other.step)
    for name in ("starts", "inputs", "targets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(("memory", "threads"), [("64MiB", 0), ("64MiB", 2), (8_000, 2)])
@pytest.mark.parametrize("seed", range(2))
def test_short_epochs_broken_off_and_gone_on(
    tmp_path, write_array, small_blocks, monkeypatch, threads, memory, seed
):
    """A history of epochs that end within passes, breaks, jumps and states, against the same one in memory.

    In 6,000 bytes the five active blocks have too few places, and are read again.
    """
    monkeypatch.setattr("windowloader.rows.budget.RESERVE", 0)
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(720, 3)).astype("f4")
    write_array({"driver": "file", "path": f"{tmp_path}/a.zarr/"}, values, chunks=(40, 3))
    asked = {"batch_size": 16, "shuffle": True, "seed": 2, "steps_per_epoch": int(rng.integers(3, 60))}
    windows = wl.WindowSet(wl.open(tmp_path / "a.zarr"), SPEC)
    stream = wl.WindowLoader(windows, active_blocks=5, memory=memory, threads=threads, **asked)
    twin = wl.WindowLoader(wl.WindowSet(wl.Series(values), SPEC), threads=0, **asked)
    twin.load_state_dict(stream.state_dict())
    with stream, twin:
        state = stream.state_dict()
        for _ in range(8):
            what = rng.integers(0, 6)
            if what == 0:
                epoch = int(rng.integers(0, 9))
                stream.set_epoch(epoch)
                twin.set_epoch(epoch)
            elif what == 1:
                stream.load_state_dict(state)
                twin.load_state_dict(state)
            stop = int(rng.integers(1, 40)) if rng.random() < 0.4 else 10**9
            for count, (one, other) in enumerate(zip(stream, twin, strict=True), start=1):
                same(one, other)
                if count == stop:
                    break
            if rng.random() < 0.3:
                state = stream.state_dict()
            assert stream.epoch == twin.epoch


MEASURED = """
import json, sys
import numpy as np
import windowloader as wl
from windowloader.util.units import MemoryWatch, private_bytes

url, options = sys.argv[1], json.loads(sys.argv[2])
epochs, variables, active = (options.pop(name, None) for name in ("epochs", "variables", "active"))
if options.pop("alone", False):  # no epoch is read ahead, so that requests can be counted
    from windowloader.rows.lane_cache import LaneCache
    LaneCache._drains = lambda lane_cache, lane_pass: False
spec = wl.WindowSpec(**options.pop("spec"))
small = wl.Series(np.zeros((90, 2), "f4"))
wl.WindowSet(small, spec).read([0])
import tensorstore
imports = private_bytes()
windows = wl.WindowSet(wl.open(url, variables=variables), spec)
told = {"imports": imports, "peaks": [], "after": [], "requests": 0}
with wl.WindowLoader(windows, shuffle=True, active_blocks=active, **options) as loader:
    plan = loader.plan()
    for epoch in range(epochs):
        held, seen = None, 0
        told["requests"] += loader.plan().own.requests
        with MemoryWatch(every=0.004) as watch:
            for held in loader:
                seen += held.num_windows
        assert seen == len(windows) == plan.windows
        held = None
        told["peaks"].append(watch.peak - imports)
        told["after"].append(private_bytes() - imports)
    access = loader._pipeline.access
    buffers = getattr(access, "_block_caches", None)
    told["under_way"] = access.reader.most_under_way
    if buffers is not None:
        (block_cache,) = buffers
        told["arena"] = sum(region.nbytes for region in block_cache.memory.arena.regions)
print(json.dumps(told | {"plan": plan.to_dict()}))
"""


def measured(url, **options):
    """Run epochs in a process of its own; returns what it told of its private memory (RssAnon)."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", MEASURED, str(url), json.dumps(options)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    plan, peaks = told["plan"], told["peaks"]
    in_flight = plan["batches_ahead"] + 2  # the loop holds one and asks for the next
    told["allowed"] = plan["budget"] + (64 << 20) + in_flight * plan["batch_bytes"]
    terms = {name: round(size / 1e6, 1) for name, size in plan["memory"].items()}
    print(
        f"{plan['mode']}: peaks {[round(peak / 1e6) for peak in peaks]}, after epochs"
        f" {[round(after / 1e6) for after in told['after']]}, of {told['allowed'] / 1e6:.0f} MB above imports"
        f" {told['imports'] / 1e6:.0f} MB; plan {terms} MB, batch {plan['batch_bytes'] / 1e6:.1f} MB"
    )
    return told


def write_long(folder, *, rows, nodes, chunk, packed=False):
    """Write random numbers a chunk at a time; packed ones shrink to a half."""
    import tensorstore as ts

    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if packed:
        codecs.append({"name": "zstd", "configuration": {"level": 1}})
    grid = {"name": "regular", "configuration": {"chunk_shape": [chunk, nodes]}}
    metadata = {"shape": [rows, nodes], "data_type": "float32", "chunk_grid": grid, "codecs": codecs}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}, "metadata": metadata}
    array, rng = ts.open({**spec, "create": True}).result(), np.random.default_rng(0)
    for begin in range(0, rows, chunk):
        values = rng.random((chunk, nodes), dtype="f4")
        array[begin : begin + chunk].write(np.round(values, 2) if packed else values).result()


@pytest.mark.campaign
@pytest.mark.parametrize("where", ["folder", "web"])
def test_twenty_epochs_of_ten_times_the_memory(where, tmp_path, static, bucket_folder):
    """527 MB in chunks of 2.5 MB, budget 48 MiB: from a folder as they are, behind HTTP compressed."""
    shape = {"rows": 59_904, "nodes": 2_200, "chunk": 288}
    if where == "folder":
        write_long(tmp_path / "long.zarr", **shape)
        url = tmp_path / "long.zarr"
    else:
        write_long(bucket_folder / "bkt" / "long.zarr", packed=True, **shape)
        url = f"{static.url}/bkt/long.zarr"
    spec = {"lookback": 12, "horizon": 12, "stride": 12}
    told = measured(url, spec=spec, batch_size=32, memory="48MiB", epochs=20 if where == "folder" else 6)
    plan, peaks = told["plan"], told["peaks"]
    assert plan["own"]["bytes"] == shape["rows"] * shape["nodes"] * 4 > 10 * plan["budget"]
    assert (plan["mode"], plan["own"]["amplification"]) == ("blocks", 1.0)
    assert plan["memory"]["total"] <= plan["budget"]
    assert max(peaks) <= told["allowed"]
    # The allocator keeps a chunk more or less in the arenas of the store's threads: a leak adds up, that does not.
    half, chunk = len(peaks) // 2, shape["chunk"] * shape["nodes"] * 4
    for seen in (peaks, told["after"]):
        assert statistics.median(seen[half:]) <= max(seen[:half]) + 2 * chunk
    assert told["arena"] == plan["memory"]["arena"] + plan["memory"]["overlap_buffer"]
    assert told["under_way"] <= plan["at_a_time"]


@pytest.mark.campaign
def test_what_the_allocator_keeps_of_large_chunks_is_within_the_bound(tmp_path):
    """5.3 GB in chunks of 24 MB, which the allocator takes from its arenas once it has seen some freed."""
    import zarr

    rows, nodes = 2200, 600_000
    array = zarr.create_array(tmp_path / "large.zarr", shape=(rows, nodes), chunks=(10, nodes), dtype="f4")
    for begin in range(0, rows, 10):
        array[begin : begin + 10] = np.full((10, nodes), begin + 1, "f4")
    spec = {"lookback": 1, "horizon": 1, "stride": 5}
    told = measured(tmp_path / "large.zarr", spec=spec, batch_size=8, memory="512MiB", epochs=6)
    assert told["plan"]["mode"] == "blocks"
    assert told["plan"]["own"]["bytes"] > 9.8 * told["plan"]["budget"]
    assert max(told["peaks"]) <= told["allowed"]


@pytest.mark.campaign
def test_rows_of_100_megabytes(tmp_path, static, bucket_folder):
    """Sixteen steps of 25 million nodes, a chunk each that packs to little; windows of 2 + 4 steps, one a batch."""
    import zarr

    rows, nodes = 16, 25_000_000
    array = zarr.create_array(
        bucket_folder / "bkt" / "wide.zarr", shape=(rows, nodes), chunks=(1, nodes), dtype="f4"
    )
    for row in range(rows):
        array[row] = np.full(nodes, row + 1, "f4")
    static.clear()
    told = measured(
        f"{static.url}/bkt/wide.zarr",
        spec={"lookback": 2, "horizon": 4}, batch_size=1, memory="1GiB", prefetch_batches=1, epochs=1,
    )  # fmt: skip
    plan = told["plan"]
    assert plan["mode"] == "direct"
    assert plan["windows"] == rows - 5
    assert max(told["peaks"]) <= told["allowed"]
    gets = [path for _, path, *_ in static.data if "/c/" in path]
    assert len(gets) == plan["own"]["requests"]
    assert plan["own"]["bytes"] == len(gets) * nodes * 4


@pytest.mark.campaign
@pytest.mark.parametrize(("active", "mode"), [(None, "halo"), (2, "halo")])
def test_five_variables_of_a_globe_with_a_chunk_a_step(static, bucket_folder, active, mode):
    """As ERA5 lies in buckets: 0.25 degrees, a chunk an hour and variable; 60 hours, 20.8 MB each."""
    import zarr

    names, hours, grid = ("t2m", "u10", "v10", "msl", "tcwv"), 60, (721, 1440)
    store = bucket_folder / "bkt" / f"globe-{active}.zarr"
    group = zarr.open_group(store, mode="w", zarr_format=2)
    for place, name in enumerate(names):
        array = group.create_array(name, shape=(hours, *grid), chunks=(1, *grid), dtype="f4")
        array.attrs["_ARRAY_DIMENSIONS"] = ["time", "latitude", "longitude"]
        for hour in range(hours):
            array[hour] = np.full(grid, 100 * place + hour + 1, "f4")
    zarr.consolidate_metadata(store)
    static.clear()
    told = measured(
        f"{static.url}/bkt/globe-{active}.zarr", variables=names, active=active,
        spec={"lookback": 2, "horizon": 1}, batch_size=2, memory="1GiB", epochs=2, alone=True,
    )  # fmt: skip
    plan = told["plan"]
    assert plan["mode"] == mode
    assert max(told["peaks"]) <= told["allowed"]
    gets = collections.Counter(path for _, path, *_ in static.data if path.endswith(".0.0"))
    assert len(gets) == hours * len(names)
    assert sum(gets.values()) == told["requests"]
    assert plan["own"]["bytes"] == plan["own"]["requests"] * grid[0] * grid[1] * 4
    if mode == "blocks":
        assert set(gets.values()) == {2}  # once an epoch
