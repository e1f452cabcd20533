"""Streaming from a bucket of 20 ms and 20 MB/s a request: block order against a plain scan, and what others do.

Not part of CI: ``pytest -m measure -s`` prints what it measured. Sides take turns within a round, and what is
compared is their ratio in that round; the median of the rounds is held against the bound. Epochs are those of one
loader, one after another. The first one begins from nothing, as the scans do: its time counts from the opening of the
array on, with memory that was never touched; only kernels were compiled, and connections made, before.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import windowloader as wl

ROWS, NODES, SPAN = 52_105, 2_600, 24
LATENCY, RATE = 0.02, 20e6
ROUNDS = 5
FIRST = 0.8  # of a scan, for a first epoch: it touches its memory, and windows of half the active blocks come last
FORMS = ("chunked", "sharded", "compressed")

pytestmark = [pytest.mark.measure, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A bucket with the array in three forms, 540 MB each, behind a server that keeps a pace."""
    spec = importlib.util.spec_from_file_location(
        "storage_slowserver", Path(__file__).with_name("slowserver.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if module.nginx() is None:
        pytest.skip("measuring needs nginx with Lua (Debian: nginx-light, libnginx-mod-http-lua)")
    folder = Path(os.environ.get("WINDOWLOADER_SPEED_DATA") or tmp_path_factory.mktemp("speed"))
    for form in FORMS:
        write(folder / "bkt" / form, form)
    server = module.Nginx(folder, tmp_path_factory.mktemp("nginx")).start()
    yield server
    server.stop()


def write(path, form):
    """Write random numbers: 181 chunks of 3 MB; shards of 48 rows in 2304; chunks that shrink to a third."""
    import tensorstore as ts

    if path.exists():
        return
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    grid = [288, NODES]
    if form == "sharded":
        inner = {"chunk_shape": [48, NODES], "codecs": codecs}
        codecs, grid = [{"name": "sharding_indexed", "configuration": inner}], [2304, NODES]
    if form == "compressed":
        options = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0}
        codecs = [*codecs, {"name": "blosc", "configuration": options}]
    metadata = {
        "shape": [ROWS, NODES],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": grid}},
        "codecs": codecs,
    }
    kvstore = {"driver": "file", "path": f"{path}/"}
    array = ts.open({"driver": "zarr3", "kvstore": kvstore, "metadata": metadata, "create": True}).result()
    rng = np.random.default_rng(0)
    for begin in range(0, ROWS, grid[0]):
        rows = rng.normal(50, 15, (min(grid[0], ROWS - begin), NODES)).astype("f4")
        array[begin : begin + len(rows)].write(np.round(rows) if form == "compressed" else rows).result()


def open_array(slow, form, **options):
    return wl.open(f"s3://bkt/{form}", storage_options={"endpoint_url": slow.url, "anon": True}, **options)


def loader_of(slow, form, *, memory="256MB", stride=6, active=32, **options):
    # Every sixth window: copying all of them, 13 GB, would take longer than reading 0.54 GB does.
    windows = wl.WindowSet(
        open_array(slow, form, **options), wl.WindowSpec(lookback=12, horizon=12, stride=stride)
    )
    return wl.WindowLoader(windows, batch_size=64, shuffle=True, memory=memory, active_blocks=active)


def scan(slow, form, requests):
    """Seconds to read the array from its first chunk to its last, so many requests at a time, into memory in use."""
    begun = time.perf_counter()
    source = open_array(slow, form).variables[0].source
    edges = source.storage().edges if form != "sharded" else np.append(np.arange(0, ROWS, 288), ROWS)
    gate, free, reads = threading.Semaphore(requests), [], []
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        gate.acquire()
        rows = free.pop() if free else np.empty((288, NODES), "f4")
        read = source.submit(begin, end, rows[: end - begin])
        read.add_done_callback(lambda _, rows=rows: (free.append(rows), gate.release()))
        reads.append(read)
    for read in reads:
        read.result()
    seconds = time.perf_counter() - begun
    source.close()
    return seconds


def epochs(loader, count):
    """Seconds of each epoch; its windows are counted, and not looked at otherwise."""
    seconds = []
    for _ in range(count):
        begun, windows = time.perf_counter(), 0
        for batch in loader:
            windows += batch.num_windows
        seconds.append(time.perf_counter() - begun)
        assert windows >= len(loader.windows)
    return seconds


def cold_epoch(slow, form, **options):
    """Seconds from the opening of the array to the end of a first epoch, and the loader, to go on with."""
    begun = time.perf_counter()
    loader = loader_of(slow, form, **options)
    epochs(loader, 1)
    return time.perf_counter() - begun, loader


def close(loader):
    loader.close()
    loader.windows.series.variables[0].source.close()


def tell(what, **figures):
    print(f"\n{what}: " + ", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


@pytest.mark.parametrize("memory", ["256MB", "512MB"])
@pytest.mark.parametrize("form", FORMS)
def test_block_order_keeps_up_with_a_plain_scan(slow, form, memory):
    slow.pace()
    loader = loader_of(slow, form, memory=memory)
    plan = loader.plan()
    epochs(loader, 1)  # kernels
    close(loader)
    ratios, firsts = [], []
    for _ in range(ROUNDS):
        slow.pace(LATENCY, RATE)
        before = scan(slow, form, plan.at_a_time)
        unique = slow.seen()[1]
        slow.pace(LATENCY, RATE)
        first, loader = cold_epoch(slow, form, memory=memory)
        later = epochs(loader, 3)
        close(loader)
        sent = slow.seen()[1]
        after = scan(slow, form, plan.at_a_time)
        ratios.append((before + after) / 2 / statistics.median(later))
        firsts.append((before + after) / 2 / first)
    # The last epoch has begun to read one more: at most the places of the arena.
    ahead = plan.slots / plan.blocks
    figures = {"later_epochs": np.round(ratios, 3).tolist(), "first_epoch": np.round(firsts, 3).tolist()}
    figures |= {"bytes": round(sent / unique / 4, 3), "requests": plan.at_a_time, "plan": plan.scan_share}
    tell(f"{form} {memory}", **figures)
    assert statistics.median(ratios) >= 0.95
    assert statistics.median(firsts) >= FIRST
    assert sent <= 1.02 * unique * (4 + ahead)


def test_at_64_mb_bytes_and_memory_hold_and_the_plan_names_the_share(slow):
    slow.pace()
    loader = loader_of(slow, "chunked", memory="64MB", active=None)
    plan = loader.plan()
    epochs(loader, 1)
    close(loader)
    slow.pace(LATENCY, RATE)
    full = scan(slow, "chunked", 16)
    unique = slow.seen()[1]
    slow.pace(LATENCY, RATE)
    loader = loader_of(slow, "chunked", memory="64MB", active=None)
    (seconds,) = epochs(loader, 1)
    close(loader)
    sent = slow.seen()[1]
    tell(
        "chunked 64MB",
        predicted=plan.scan_share,
        measured=round(full / seconds, 4),
        bytes=round(sent / unique, 3),
    )
    assert sent <= unique * (1.02 + plan.slots / plan.blocks)
    assert plan.memory.total <= 64e6
    assert full / seconds >= 0.9 * plan.scan_share


def test_a_disk_cache_is_filled_at_the_speed_of_the_stream_and_then_needs_no_server(slow, tmp_path):
    slow.pace()
    loader = loader_of(slow, "chunked", memory="512MB")
    plan = loader.plan()
    epochs(loader, 1)
    close(loader)
    ratios = []
    for number in range(ROUNDS):
        slow.pace(LATENCY, RATE)
        plain = scan(slow, "chunked", plan.at_a_time)
        unique = slow.seen()[1]
        slow.pace(LATENCY, RATE)
        loader = loader_of(slow, "chunked", memory="512MB", cache_dir=tmp_path / str(number))
        filling, *mapped = epochs(loader, 3)
        sent = slow.seen()[1]
        close(loader)
        ratios.append((round(plain / filling, 3), round(plain / statistics.median(mapped), 3)))
        assert sent <= 1.02 * unique
    tell("disk cache", share_of_scan_while_filling_and_mapped=ratios)
    assert statistics.median(mapped for _, mapped in ratios) > 1


# -- what others do, windows a second ----------------------------------------------------------------------------------


def global_order_with_a_cache(slow, share):
    """A full permutation over TensorStore with a cache of decoded chunks; two batches are asked for ahead."""
    import tensorstore as ts

    kvstore = {
        "driver": "s3",
        "bucket": "bkt",
        "path": "chunked/",
        "endpoint": slow.url,
        "aws_region": "us-east-1",
    }
    context = ts.Context({
        "cache_pool": {"total_bytes_limit": int(share * ROWS * NODES * 4)},
        "aws_credentials": {"type": "anonymous"},
        "s3_request_concurrency": {"limit": 16},
    })  # fmt: skip
    array = ts.open({"driver": "zarr3", "kvstore": kvstore}, context=context).result()
    order = np.random.default_rng(0).permutation(ROWS - SPAN)

    def asked(number):
        return [
            array[start : start + SPAN].read() for start in order[64 * number : 64 * number + 64].tolist()
        ]

    ahead = [asked(0), asked(1)]
    begun, count = time.perf_counter(), 12
    for number in range(count):
        ahead.append(asked(number + 2))
        np.stack([future.result() for future in ahead.pop(0)])
    return 64 * count / (time.perf_counter() - begun)


class ZarrWindows:
    """A map-style data set over zarr-python, one window an item, as tutorials have it."""

    def __init__(self, url):
        self.url, self.array = url, None

    def __len__(self):
        return ROWS - SPAN

    def __getitem__(self, start):
        import zarr

        if self.array is None:
            self.array = zarr.open_array(zarr.storage.FsspecStore.from_url(self.url), mode="r")
        return self.array[start : start + SPAN]


def data_loader_over_zarr(slow):
    import torch
    from torch.utils.data import DataLoader

    data = ZarrWindows(f"{slow.url}/bkt/chunked")
    loader = DataLoader(
        data, batch_size=64, shuffle=True, num_workers=0, generator=torch.Generator().manual_seed(0)
    )
    iterator = iter(loader)
    begun, count = time.perf_counter(), 2
    for _ in range(count):
        next(iterator)
    return 64 * count / (time.perf_counter() - begun)


def xbatcher_over_zarr(slow):
    """Windows in order, as xbatcher has them, lazily: neighbouring windows share chunks, and fetch them again."""
    import xarray as xr
    import xbatcher
    import zarr

    store = zarr.storage.FsspecStore.from_url(f"{slow.url}/bkt/chunked")
    array = zarr.open_array(store, mode="r")
    values = xr.Variable(("time", "node"), xr.core.indexing.LazilyIndexedArray(_Adapter(array)))
    batches = xbatcher.BatchGenerator(
        xr.DataArray(values).to_dataset(name="x"), input_dims={"time": SPAN}, input_overlap={"time": SPAN - 6}
    )
    begun, count = time.perf_counter(), 48
    for number in range(count):
        batches[number].load()
    return count / (time.perf_counter() - begun)


def _Adapter(array):
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Adapter(BackendArray):
        shape, dtype = array.shape, array.dtype

        def __getitem__(self, key):
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.BASIC, lambda index: array[index]
            )

    return Adapter()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.leaks
def test_what_others_do_on_the_same_array(slow):
    slow.pace()
    loader = loader_of(slow, "chunked", memory="512MB", stride=1)
    epochs(loader, 1)
    close(loader)
    slow.pace(LATENCY, RATE)
    loader = loader_of(slow, "chunked", memory="512MB", stride=1)
    _, own = epochs(loader, 2)
    close(loader)
    rates = {"block order, all windows copied": (ROWS - SPAN + 1) / own}
    for name, peer in {
        "global order, LRU of 10 %": lambda: global_order_with_a_cache(slow, 0.1),
        "global order, LRU of 50 %": lambda: global_order_with_a_cache(slow, 0.5),
        "DataLoader over zarr-python": lambda: data_loader_over_zarr(slow),
        "xbatcher over zarr-python, in order": lambda: xbatcher_over_zarr(slow),
    }.items():
        slow.pace(LATENCY, RATE)
        rates[name] = peer()
    tell("windows a second", **{f"[{name}]": round(rate) for name, rate in rates.items()})
    best = max(rate for name, rate in rates.items() if not name.startswith("block"))
    assert rates["block order, all windows copied"] > 4 * best
