"""The disk cache: the same rows as the source, each block fetched once, changed data never served."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import SourceError
from windowloader.sources import disk_cache, disk_cache_source
from windowloader.sources.disk_cache import DiskCache
from windowloader.sources.disk_cache_entry import HEADER, SLOT
from windowloader.sources.disk_cache_source import CachedSource, cached
from windowloader.sources.memory import ArraySource
from windowloader.sources.registry import open_source
from windowloader.testing import check_source

VALUES = np.random.default_rng(2).normal(size=(43, 12)).astype("f4")


class Counting(ArraySource):
    """An array with chunks that must be read, and counts the rows that were."""

    def __init__(self, values, chunk):
        super().__init__(values)
        self.chunks = None if chunk is None else (chunk, *self.shape[1:])
        self.rows_read = np.zeros(len(values), int)
        self.calls = 0

    def array(self):
        return None

    def read(self, start, stop, out):
        size = super().read(start, stop, out)
        self.rows_read[start:stop] += 1
        self.calls += 1
        return size

    def submit(self, start, stop, out):
        return ArraySource.submit(self, start, stop, out)


def whole(source):
    out = np.empty(source.shape, source.dtype)
    source.read(0, len(out), out)
    return out


def read_and_close(source):
    found = whole(source)
    source.close()
    return found


def entry_of(folder):
    (entry,) = DiskCache(str(folder)).arrays()
    return entry


@pytest.fixture
def store(bucket_folder, write_array, static):
    """Write VALUES as a store in the bucket; returns a function that opens it cached."""

    def store(cache, name="cached.zarr", values=VALUES, **form):
        folder = bucket_folder / "bkt" / name
        shutil.rmtree(folder, ignore_errors=True)
        write_array({"driver": "file", "path": f"{folder}/"}, values, **({"chunks": (5, 12)} | form))
        static.clear()
        return reopen(cache, name)

    def reopen(cache, name="cached.zarr"):
        options = {"endpoint_url": static.url, "anon": True}
        return cached(open_source(f"s3://bkt/{name}", storage_options=options), DiskCache(str(cache)))

    store.again = reopen
    return store


# -- the rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "grid"),
    [
        ("zarr3", {"chunks": (5, 12)}),
        ("zarr3", {"chunks": (5, 12), "shards": (10, 12)}),
        ("zarr", {"chunks": (7, 5)}),
    ],
)
def test_a_store_in_a_bucket_passes_the_suite(store, tmp_path, form, grid):
    source = store(tmp_path / "cache", form=form, **grid)
    other = store(tmp_path / "cache", "other.zarr", values=VALUES[1:], form=form, **grid)
    check_source(source, VALUES, changed=other)
    other.close()


@pytest.mark.parametrize("dtype", [">f4", ">i2", "i8", "u1", "f8", "b1", "f2"])
def test_every_dtype(tmp_path, dtype):
    values = (VALUES * 50).astype(dtype)
    source = CachedSource(Counting(values, 6), DiskCache(str(tmp_path)))
    for _ in range(2):
        np.testing.assert_array_equal(whole(source), values.astype(values.dtype.newbyteorder("=")))
    assert (source.source.rows_read == 1).all()
    assert source.dtype.isnative
    source.close()


@settings(max_examples=25)
@given(
    rows=st.integers(1, 60),
    chunk=st.one_of(st.none(), st.integers(1, 70)),
    cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12),
)
def test_any_ranges_in_any_order_fetch_each_block_once(tmp_path_factory, rows, chunk, cuts):
    values = np.random.default_rng(rows).normal(size=(rows, 3))
    source = CachedSource(Counting(values, chunk), DiskCache(str(tmp_path_factory.mktemp("c"))))
    ranges = [(min(a, b, rows), min(max(a, b), rows)) for a, b in cuts]
    outs = [np.full((stop - start, 3), 7.0) for start, stop in ranges]
    pendings = [source.submit(*asked, out) for asked, out in zip(ranges, outs, strict=True)]
    for (start, stop), out, pending in reversed(list(zip(ranges, outs, pendings, strict=True))):
        pending.result()
        np.testing.assert_array_equal(out, values[start:stop])
    assert source.source.rows_read.max() <= 1
    edges = source.storage().edges
    if edges is not None and ranges:
        touched = np.zeros(rows, bool)
        for start, stop in ranges:
            if start < stop:
                low, high = np.searchsorted(edges, start, "right") - 1, np.searchsorted(edges, stop, "left")
                touched[edges[low] : edges[high]] = True
        np.testing.assert_array_equal(source.source.rows_read == 1, touched)
        begin, end = np.nonzero(touched)[0], np.nonzero(touched)[0] + 1
        assert source.rows_held(begin, end)
        assert touched.all() == source.rows_held([0], [rows])
    source.close()


def test_order_and_state_are_those_of_the_source(tmp_path):
    inner = Counting(VALUES, 6)
    source = CachedSource(inner, DiskCache(str(tmp_path)))
    np.testing.assert_array_equal(source.storage().edges, inner.storage().edges)
    assert source.fingerprint() == inner.fingerprint()
    assert source.array() is None
    source.close()


def test_what_is_addressable_is_left_where_it_lies(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    source = open_source(tmp_path / "a.npy")
    assert cached(source, DiskCache(str(tmp_path / "c"))) is source
    assert not (tmp_path / "c").exists()


def test_files_joined_along_time_are_kept_part_by_part(store, static, tmp_path):
    store(tmp_path / "c", "j1.zarr")
    store(tmp_path / "c", "j2.zarr", values=VALUES + 1)
    options = {"endpoint_url": static.url, "anon": True}
    series = wl.open(
        ["s3://bkt/j1.zarr", "s3://bkt/j2.zarr"], storage_options=options, cache_dir=tmp_path / "c"
    )
    source = series.variables[0].source
    np.testing.assert_array_equal(whole(source), np.concatenate([VALUES, VALUES + 1]))
    fetched = len(static.data)
    np.testing.assert_array_equal(whole(source), np.concatenate([VALUES, VALUES + 1]))
    assert len(static.data) == fetched == 18
    assert len(DiskCache(str(tmp_path / "c")).arrays()) == 2
    source.close()


def test_selected_nodes_have_an_entry_of_their_own_and_fetch_only_their_chunks(store, static, tmp_path):
    store(tmp_path, "nodes.zarr", chunks=(5, 4))
    options = {"endpoint_url": static.url, "anon": True}
    series = wl.open("s3://bkt/nodes.zarr", storage_options=options, cache_dir=tmp_path / "c")
    part = series.select(nodes=[9, 1])
    static.clear()
    for _ in range(2):
        np.testing.assert_array_equal(whole(part.variables[0].source), VALUES[:, [9, 1]])
    assert len(static.data) == 18  # two of three columns of nine chunks, once
    part.variables[0].source.close()
    np.testing.assert_array_equal(whole(series.variables[0].source), VALUES)
    assert len(DiskCache(str(tmp_path / "c")).arrays()) == 2  # neither makes the other invalid
    series.variables[0].source.close()


# -- once a node -------------------------------------------------------------------------------------------------------


def test_threads_fetch_each_block_once(tmp_path):
    source = CachedSource(Counting(VALUES, 3), DiskCache(str(tmp_path)))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: whole(source), range(24)):
            np.testing.assert_array_equal(found, VALUES)
    assert (source.source.rows_read == 1).all()
    source.close()


def test_two_sources_of_one_array_share_an_entry(store, static, tmp_path):
    first, second = store(tmp_path), store.again(tmp_path)
    np.testing.assert_array_equal(whole(first), VALUES)
    first.close()
    np.testing.assert_array_equal(whole(second), VALUES)
    assert len(static.data) == 9
    second.close()


READER = """
import sys, pickle, numpy as np
source = pickle.loads(bytes.fromhex(sys.argv[1]))
expected = np.load(sys.argv[2])
rng = np.random.default_rng(int(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
for start in rng.permutation(len(expected) - 6):
    out = np.empty((7, *expected.shape[1:]), expected.dtype)
    source.read(int(start), int(start) + 7, out)
    assert (out == expected[start : start + 7]).all()
source.close()
print("done", flush=True)
"""


def readers(source, values, tmp_path, count):
    """Start processes that read all rows in orders of their own; they begin at a signal."""
    np.save(tmp_path / "expected.npy", values)
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                READER,
                pickle.dumps(source).hex(),
                str(tmp_path / "expected.npy"),
                str(number),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def start_together(processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def end(process):
    out, _ = process.communicate(timeout=280)
    assert (process.returncode, out) == (0, "done\n")


def test_four_processes_fetch_each_chunk_once(store, static, tmp_path):
    values = np.random.default_rng(5).normal(size=(200, 12)).astype("f4")
    source = store(tmp_path / "c", "four.zarr", values=values, chunks=(4, 12))
    processes = readers(source, values, tmp_path, 4)
    start_together(processes)
    for process in processes:
        end(process)
    asked = [path for _, path, _, _ in static.data]
    assert len(asked) == len(set(asked)) == 50
    assert entry_of(tmp_path / "c").blocks_held == 50


def test_a_process_killed_while_it_fetches_blocks_nobody_and_loses_only_what_was_not_whole(
    store, static, proxy, tmp_path
):
    values = np.random.default_rng(6).normal(size=(200, 12)).astype("f4")
    store(tmp_path / "c", "kill.zarr", values=values, chunks=(4, 12))
    options = {"endpoint_url": proxy.url, "anon": True}
    source = cached(
        open_source("s3://bkt/kill.zarr", storage_options=options), DiskCache(str(tmp_path / "c"))
    )
    stalled = threading.Event()

    def script(number, method, path, headers):
        chunks = [entry for entry in proxy.log if "/c/" in entry.path and entry.method == "GET"]
        if "/c/" in path and method == "GET" and len(chunks) >= 20:
            stalled.set()
            return "stall"
        return None

    proxy.clear(script)
    (victim,) = readers(source, values, tmp_path, 1)
    start_together([victim])
    assert stalled.wait(60)
    victim.kill()
    victim.communicate()
    proxy.settle()
    whole_then = entry_of(tmp_path / "c").blocks_held
    assert 0 < whole_then <= 20
    static.clear()
    proxy.clear()
    proxy.settle()
    processes = readers(source, values, tmp_path, 2)
    start_together(processes)
    for process in processes:
        end(process)
    asked = [entry.path for entry in proxy.log if "/c/" in entry.path and entry.method == "GET"]
    assert len(asked) == len(set(asked)) == 50 - whole_then
    assert entry_of(tmp_path / "c").blocks_held == 50
    assert [str(path) for path in (tmp_path / "c").iterdir()] == [entry_of(tmp_path / "c").path]
    source.close()


HOLDER = """
import pickle, sys
import numpy as np
source = pickle.loads(bytes.fromhex(sys.argv[1]))
source.entry().claim(2, np.array([True, True]))
print("claimed", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end_of_it", ["released", "given up"])
def test_what_another_process_holds_is_waited_for(store, static, tmp_path, monkeypatch, end_of_it):
    source = store(tmp_path)
    if end_of_it == "given up":  # the other process was stopped
        monkeypatch.setattr(disk_cache_source, "PATIENCE", 1.0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, pickle.dumps(source).hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"claimed\n"
    static.clear()
    out = np.empty_like(VALUES)
    pending = source.submit(0, len(VALUES), out)
    with pytest.raises(TimeoutError):
        pending.result(timeout=0.05)
    assert not pending.done()
    if end_of_it == "given up":
        pending.result()
        np.testing.assert_array_equal(out, VALUES)
        source.close()
        assert entry_of(tmp_path).blocks_held == 7
    holder.communicate(b"\n")
    if end_of_it == "released":
        pending.result()
        np.testing.assert_array_equal(out, VALUES)
        assert len(static.data) == 9
    source.close()


def test_a_process_stopped_while_it_fetches_delays_others_for_a_moment_only(
    store, proxy, tmp_path, monkeypatch
):
    monkeypatch.setattr(disk_cache_source, "PATIENCE", 1.0)
    store(tmp_path / "c", "stop.zarr")
    options = {"endpoint_url": proxy.url, "anon": True}
    source = cached(
        open_source("s3://bkt/stop.zarr", storage_options=options), DiskCache(str(tmp_path / "c"))
    )
    stalled = threading.Event()

    def script(number, method, path, headers):
        if "/c/" in path and method == "GET":
            stalled.set()
            return "stall"
        return None

    proxy.clear(script)
    (victim,) = readers(source, VALUES, tmp_path, 1)
    start_together([victim])
    assert stalled.wait(60)
    victim.send_signal(signal.SIGSTOP)
    try:
        proxy.clear()
        np.testing.assert_array_equal(read_and_close(source), VALUES)
        assert len(DiskCache(str(tmp_path / "c")).arrays()) == 1
    finally:
        victim.kill()
        victim.communicate()
    proxy.settle()
    np.testing.assert_array_equal(read_and_close(source), VALUES)
    assert entry_of(tmp_path / "c").blocks_held == 9


def test_a_forked_child_reads_on(store, static, tmp_path):
    source = store(tmp_path)
    out = np.empty((20, 12), "f4")
    source.read(0, 20, out)
    check_source(source, VALUES)  # parts of the nodes have entries of their own
    static.clear()
    child = multiprocessing.get_context("fork").Process(target=whole, args=(source,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads; what may go wrong is the test
        child.start()
    child.join(60)
    assert child.exitcode == 0
    child.close()
    assert not static.data
    source.close()


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.campaign)])
def test_many_kills_at_any_moment_leave_only_whole_blocks(store, static, tmp_path, kills):
    values = np.random.default_rng(7).normal(size=(240 if kills == 5 else 2400, 12)).astype("f4")
    source = store(tmp_path / "c", "kills.zarr", values=values, chunks=(3, 12))
    chance = random.Random(kills)
    begun = 0
    for _ in range(kills):
        (victim,) = readers(source, values, tmp_path, 1)
        start_together([victim])
        begun += chance.randrange(2 * len(values) // 3 // kills)
        while len(static.data) < begun and victim.poll() is None:
            threading.Event().wait(0.001)
        victim.kill()
        victim.communicate()
        begun = len(static.data)
        path = entry_of(tmp_path / "c").path
        kept = np.fromfile(path, "f4", offset=HEADER, count=values.size).reshape(-1, 3, 12)
        held = np.fromfile(path, SLOT, offset=HEADER + values.nbytes) != 0
        np.testing.assert_array_equal(kept[held], values.reshape(-1, 3, 12)[held])
    np.testing.assert_array_equal(whole(source), values)
    source.close()


# -- what is not whole -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [5 * 12 * 4 * 2 + 1, VALUES.nbytes + 2 * 4 + 3], ids=["rows", "checksum"])
def test_a_block_that_is_not_what_was_written_is_fetched_again(store, static, tmp_path, at):
    source = store(tmp_path)
    np.testing.assert_array_equal(whole(source), VALUES)
    source.close()
    path = Path(entry_of(tmp_path).path)
    data = bytearray(path.read_bytes())
    data[HEADER + at] ^= 1  # of block 2
    path.write_bytes(data)
    static.clear()
    again = store.again(tmp_path)
    np.testing.assert_array_equal(whole(again), VALUES)
    assert [path.rpartition("/c/")[2] for _, path, _, _ in static.data] == ["2/0"]
    np.testing.assert_array_equal(whole(again), VALUES)
    assert len(static.data) == 1
    again.close()


@pytest.mark.parametrize(
    "fault", ["cut", "grown", "emptied", "removed", "no header", "half a header", "readable"]
)
def test_an_entry_that_is_not_what_this_cache_made_is_made_anew(store, static, tmp_path, fault):
    source = store(tmp_path)
    whole(source)
    source.close()
    path = Path(entry_of(tmp_path).path)
    data = path.read_bytes()
    if fault == "removed":
        path.unlink()
    elif fault == "readable":
        path.chmod(0o644)
    else:
        path.write_bytes(
            {
                "cut": data[:-20],
                "grown": data + b"\0",
                "emptied": b"",
                "no header": bytes(HEADER) + data[HEADER:],  # as where making it was interrupted
                "half a header": b'{"format"'.ljust(HEADER) + data[HEADER:],
            }[fault]
        )
    static.clear()
    again = store.again(tmp_path)
    np.testing.assert_array_equal(whole(again), VALUES)
    np.testing.assert_array_equal(whole(again), VALUES)
    assert len(static.data) == 9
    assert Path(entry_of(tmp_path).path).stat().st_mode & 0o777 == 0o600
    again.close()


def test_a_failed_fetch_leaves_the_block_to_others(proxy, store, tmp_path):
    store(tmp_path, "fail.zarr")
    options = {"endpoint_url": proxy.url, "anon": True, "retries": 0}
    source = cached(open_source("s3://bkt/fail.zarr", storage_options=options), DiskCache(str(tmp_path)))
    proxy.clear(lambda number, method, path, headers: "503" if path.endswith("/c/3/0") else None)
    with pytest.raises(SourceError, match=r"fail.zarr"):
        whole(source)
    proxy.clear()
    np.testing.assert_array_equal(whole(source), VALUES)
    source.close()


# -- changed data, room ------------------------------------------------------------------------------------------------


def test_changed_data_are_fetched_anew_and_the_old_removed(store, static, tmp_path):
    np.testing.assert_array_equal(whole(first := store(tmp_path)), VALUES)
    first.close()
    changed = store(tmp_path, values=VALUES + 1)  # same shape, same metadata
    np.testing.assert_array_equal(whole(changed), VALUES + 1)
    assert len(static.data) == 9
    changed.close()
    longer = store(tmp_path, values=np.concatenate([VALUES, VALUES]))
    assert len(whole(longer)) == 86
    longer.close()
    assert all(not entry.in_use for entry in DiskCache(str(tmp_path)).arrays())
    assert len(DiskCache(str(tmp_path)).arrays()) <= 2


def test_same_metadata_and_other_chunks_are_told_apart(store, static, bucket_folder, tmp_path):
    np.testing.assert_array_equal(whole(first := store(tmp_path)), VALUES)
    first.close()
    document = bucket_folder / "bkt" / "cached.zarr" / "zarr.json"
    stamp = document.stat()
    store(tmp_path, values=VALUES * 2).close()
    os.utime(
        document, ns=(stamp.st_atime_ns, stamp.st_mtime_ns)
    )  # a bucket's ETag is of the bytes, not of the time
    changed = store.again(tmp_path)
    np.testing.assert_array_equal(whole(changed), VALUES * 2)
    changed.close()


def test_what_does_not_fit_is_streamed_with_a_warning(store, static, tmp_path):
    source = store(tmp_path)
    small = CachedSource(source.source, DiskCache(str(tmp_path), limit=2000))
    with pytest.warns(UserWarning, match=r"is streamed: it takes 2.06 kB.*cache_size is 2 kB"):
        np.testing.assert_array_equal(whole(small), VALUES)
    np.testing.assert_array_equal(whole(small), VALUES)  # warned once
    assert len(static.data) == 18
    small.close()
    source.close()


def test_a_full_disk_is_streamed_past_with_a_warning(store, static, tmp_path, monkeypatch):
    source = store(tmp_path)
    found = os.statvfs(tmp_path)

    class Full:
        f_bavail, f_frsize = 10, found.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda _: Full)
    with pytest.warns(UserWarning, match=r"takes 2.06 kB.*0 B are free.*cache clear"):
        np.testing.assert_array_equal(read_and_close(source), VALUES)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_and_close(source), VALUES)
    assert entry_of(tmp_path).blocks_held == 9


def test_what_was_used_longest_ago_makes_room(store, tmp_path):
    limit = DiskCache(str(tmp_path), limit=5000)
    names = ["lru0.zarr", "lru1.zarr", "lru2.zarr"]
    for number, name in enumerate(names):
        source = CachedSource(store(tmp_path, name).source, limit)
        whole(source)
        source.close()
        for entry in limit.arrays():
            if name in entry.name:
                os.utime(entry.path, (number, number))
    left = sorted(entry.name.rpartition("/")[2] for entry in limit.arrays())
    assert left == ["lru1.zarr", "lru2.zarr"]


def test_what_is_in_use_is_not_removed(store, tmp_path):
    limit = DiskCache(str(tmp_path), limit=3000)
    busy = CachedSource(store(tmp_path, "busy.zarr").source, limit)
    whole(busy)
    other = CachedSource(store(tmp_path, "more.zarr").source, limit)
    with pytest.warns(UserWarning, match=r"other arrays in use 2.06 kB"):
        np.testing.assert_array_equal(whole(other), VALUES)
    np.testing.assert_array_equal(whole(busy), VALUES)
    other.close()
    busy.close()


def test_a_device_that_takes_no_more_ends_the_keeping_and_not_the_reading(store, tmp_path, monkeypatch):
    source = store(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.warns(UserWarning, match="takes no more"):
        np.testing.assert_array_equal(read_and_close(source), VALUES)
    monkeypatch.undo()
    assert entry_of(tmp_path).blocks_held == 0


@pytest.mark.parametrize("made", [False, True])
def test_a_limit_of_file_sizes_ends_the_keeping_and_not_the_reading(store, static, tmp_path, made):
    source = store(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    entry = source.entry() if made else None
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER + 10 * 48 if entry else 1000, before[1]))
    try:
        with pytest.warns(UserWarning, match="takes no more|is streamed"):
            np.testing.assert_array_equal(whole(source), VALUES)
        np.testing.assert_array_equal(whole(source), VALUES)  # warned once
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(static.data) == 18
    source.close()


AS_NOBODY = """
import os, pickle, sys, warnings
import numpy as np, tensorstore
from windowloader.sources import disk_cache, disk_cache_source
source = pickle.loads(bytes.fromhex(sys.argv[1]))
expected = np.load(sys.argv[2])
os.setuid(65534)  # once everything is imported, which that user might not be able to
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        out = np.empty(source.shape, source.dtype)
        source.read(0, len(out), out)
        assert (out == expected).all()
    source.close()
print(sum("is streamed" in str(warning.message) for warning in caught))
"""


@pytest.fixture
def shared():
    """Make a folder that other users can reach, which pytest's own are not."""
    if os.getuid() != 0:
        pytest.skip("makes files of another user: needs root")
    folder = Path(tempfile.mkdtemp(prefix="windowloader-test-"))
    folder.chmod(0o755)
    (folder / "c").mkdir()
    np.save(folder / "expected.npy", VALUES)
    yield folder
    shutil.rmtree(folder)


def read_as_nobody(source, folder):
    command = [sys.executable, "-c", AS_NOBODY, pickle.dumps(source).hex(), str(folder / "expected.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_read_only_folder_is_streamed_past_with_one_warning(store, static, shared):
    source = store(shared / "c")
    read_and_close(source)
    static.clear()
    assert read_as_nobody(source, shared) == 1
    assert len(static.data) == 18
    source.close()


# -- folders that others can write to ----------------------------------------------------------------------------------


def test_two_users_of_one_folder_have_entries_of_their_own(store, static, shared):
    cache = shared / "c"
    cache.chmod(0o1777)
    source = store(cache)
    read_and_close(source)
    static.clear()
    assert read_as_nobody(source, shared) == 0
    assert len(static.data) == 9
    assert sorted(path.stat().st_uid for path in cache.iterdir()) == [0, 65534]
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o600}
    assert len(DiskCache(str(cache)).arrays()) == 1  # those of other users are not looked at
    DiskCache(str(cache)).clear()
    assert [path.stat().st_uid for path in cache.iterdir()] == [65534]
    source.close()


@pytest.mark.parametrize("kind", ["symbolic", "hard", "dangling", "pipe"])
def test_a_planted_name_changes_no_file_of_the_victim(store, tmp_path, kind):
    read_and_close(store(tmp_path / "c"))
    path = Path(entry_of(tmp_path / "c").path)
    victim = tmp_path / "victim"
    victim.write_bytes(path.read_bytes() if kind == "hard" else b"v" * 180)
    victim.chmod(0o600)
    before = victim.read_bytes(), victim.stat().st_mtime_ns
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "hard":
        path.hardlink_to(victim)
    else:
        path.symlink_to(victim if kind == "symbolic" else tmp_path / "absent")
    np.testing.assert_array_equal(read_and_close(store.again(tmp_path / "c")), VALUES)
    assert (victim.read_bytes(), victim.stat().st_mtime_ns) == before
    assert not (tmp_path / "absent").exists()
    assert not path.is_symlink()
    assert entry_of(tmp_path / "c").blocks_held == 9


def test_a_folder_in_the_way_is_streamed_past_and_stays(store, tmp_path):
    read_and_close(store(tmp_path / "c"))
    path = Path(entry_of(tmp_path / "c").path)
    path.unlink()
    path.mkdir()
    (path / "thesis.txt").write_text("somebody's")
    with pytest.warns(UserWarning, match="is streamed"):
        np.testing.assert_array_equal(read_and_close(store.again(tmp_path / "c")), VALUES)
    assert (path / "thesis.txt").read_text() == "somebody's"


def test_an_entry_that_somebody_else_made_is_neither_used_nor_removed(store, tmp_path):
    if os.getuid() != 0:
        pytest.skip("makes files of another user: needs root")
    read_and_close(store(tmp_path / "c"))
    path = Path(entry_of(tmp_path / "c").path)
    path.write_bytes(bytes(path.stat().st_size))
    os.chown(path, 65534, 65534)
    with pytest.warns(UserWarning, match="belongs to another user"):
        np.testing.assert_array_equal(read_and_close(store.again(tmp_path / "c")), VALUES)
    assert not any(path.read_bytes())
    assert DiskCache(str(tmp_path / "c")).clear() == ([], [])
    assert path.exists()


def test_an_entry_filled_for_other_data_is_fetched_again(store, static, tmp_path):
    read_and_close(store(tmp_path / "c"))
    read_and_close(store(tmp_path / "c", "other.zarr", values=VALUES * 2))
    mine, other = DiskCache(str(tmp_path / "c")).arrays()
    header = Path(mine.path).read_bytes()[:HEADER]
    Path(mine.path).write_bytes(header + Path(other.path).read_bytes()[HEADER:])
    np.testing.assert_array_equal(read_and_close(store.again(tmp_path / "c")), VALUES)


def test_what_is_no_entry_is_not_removed(store, tmp_path):
    (tmp_path / "c").mkdir()
    kept = [tmp_path / "c" / name for name in ("thesis.txt", "other.rows")]
    for path in kept:
        path.write_text("somebody's")
    limit = DiskCache(str(tmp_path / "c"), limit=2100)
    for name in ("a.zarr", "b.zarr"):
        read_and_close(CachedSource(store(tmp_path / "c", name).source, limit))
    limit.clear()
    assert sorted((tmp_path / "c").iterdir()) == sorted(kept)


STOPPED = """
import fcntl, os, sys
number = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(number, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.readline()
"""


def test_a_stopped_process_that_locks_the_folder_delays_for_a_moment_only(store, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "PATIENCE", 0.2)
    (tmp_path / "c").mkdir()
    source = store(tmp_path / "c")
    holder = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path / "c")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"locked\n"
    with pytest.warns(UserWarning, match="another process has locked the folder"):
        np.testing.assert_array_equal(read_and_close(source), VALUES)
    holder.communicate(b"\n")
    np.testing.assert_array_equal(read_and_close(store.again(tmp_path / "c")), VALUES)
    assert entry_of(tmp_path / "c").blocks_held == 9
