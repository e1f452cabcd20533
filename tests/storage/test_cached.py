"""The mirror on this node: the same rows as the source, each block fetched once, changed data never served."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
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
from windowloader.errors import ClosedError, SourceError
from windowloader.sources import mirror_reads
from windowloader.sources.cached import CachedSource, cached
from windowloader.sources.memory import ArraySource
from windowloader.sources.mirror_folder import MirrorFolder
from windowloader.sources.mirror_form import SLOT
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
    (entry,) = MirrorFolder(str(folder)).entries()
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
        return cached(open_source(f"s3://bkt/{name}", storage_options=options), MirrorFolder(str(cache)))

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
    source = CachedSource(Counting(values, 6), MirrorFolder(str(tmp_path)))
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
    source = CachedSource(Counting(values, chunk), MirrorFolder(str(tmp_path_factory.mktemp("c"))))
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
    source = CachedSource(inner, MirrorFolder(str(tmp_path)))
    np.testing.assert_array_equal(source.storage().edges, inner.storage().edges)
    assert source.fingerprint() == inner.fingerprint()
    assert source.array() is None
    source.close()


def test_what_is_addressable_is_left_where_it_lies(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    source = open_source(tmp_path / "a.npy")
    assert cached(source, MirrorFolder(str(tmp_path / "c"))) is source
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
    assert len(MirrorFolder(str(tmp_path / "c")).entries()) == 2
    source.close()


def test_selected_nodes_have_a_mirror_of_their_own_and_fetch_only_their_chunks(store, static, tmp_path):
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
    assert len(MirrorFolder(str(tmp_path / "c")).entries()) == 2  # neither makes the other invalid
    series.variables[0].source.close()


# -- once a node -------------------------------------------------------------------------------------------------------


def test_threads_fetch_each_block_once(tmp_path):
    source = CachedSource(Counting(VALUES, 3), MirrorFolder(str(tmp_path)))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: whole(source), range(24)):
            np.testing.assert_array_equal(found, VALUES)
    assert (source.source.rows_read == 1).all()
    source.close()


def test_two_sources_of_one_array_share_a_mirror(store, static, tmp_path):
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
    """Start processes that read all rows in orders of their own; they begin when told to."""
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


def told_to_go(processes):
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
    told_to_go(processes)
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
        open_source("s3://bkt/kill.zarr", storage_options=options), MirrorFolder(str(tmp_path / "c"))
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
    told_to_go([victim])
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
    told_to_go(processes)
    for process in processes:
        end(process)
    asked = [entry.path for entry in proxy.log if "/c/" in entry.path and entry.method == "GET"]
    assert len(asked) == len(set(asked)) == 50 - whole_then
    assert entry_of(tmp_path / "c").blocks_held == 50
    assert sorted(path.name for path in Path(entry_of(tmp_path / "c").path).iterdir()) == [
        "about.json", "blocks", "claims", "used", "values",
    ]  # fmt: skip
    source.close()


HOLDER = """
import pickle, sys
source = pickle.loads(bytes.fromhex(sys.argv[1]))
source.mirror().claim(2, 4)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end_of_it", ["released", "closed", "given up"])
def test_what_another_process_holds_is_waited_for(store, static, tmp_path, monkeypatch, end_of_it):
    source = store(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, pickle.dumps(source).hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    static.clear()
    out = np.empty_like(VALUES)
    pending = source.submit(0, len(VALUES), out)
    with pytest.raises(TimeoutError, match="did not arrive within"):
        pending.result(timeout=0.05)
    assert not pending.done()
    if end_of_it == "closed":
        source.close()
        with pytest.raises(ClosedError, match="was closed while rows were waited for"):
            pending.result()
    elif end_of_it == "given up":
        monkeypatch.setattr(mirror_reads, "PATIENCE", 0.0)  # of a process that lives and does nothing
        pending.result()
        np.testing.assert_array_equal(out, VALUES)
        assert entry_of(tmp_path).blocks_held == 7
    holder.communicate(b"\n")
    if end_of_it == "released":
        pending.result()
        np.testing.assert_array_equal(out, VALUES)
        assert len(static.data) == 9
    source.close()


def test_a_forked_child_reads_on(store, static, tmp_path):
    source = store(tmp_path)
    out = np.empty((20, 12), "f4")
    source.read(0, 20, out)
    check_source(source, VALUES)  # parts of the nodes have mirrors of their own
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


def test_many_kills_at_any_moment_leave_only_whole_blocks(store, static, tmp_path):
    values = np.random.default_rng(7).normal(size=(240, 12)).astype("f4")
    source = store(tmp_path / "c", "kills.zarr", values=values, chunks=(3, 12))
    for count in range(1, 6):
        (victim,) = readers(source, values, tmp_path, 1)
        told_to_go([victim])
        while len(static.data) < 12 * count and victim.poll() is None:
            threading.Event().wait(0.001)
        victim.kill()
        victim.communicate()
        entry = entry_of(tmp_path / "c")
        table = np.fromfile(Path(entry.path) / "blocks", SLOT)
        kept = np.fromfile(Path(entry.path) / "values", "f4").reshape(-1, 3, 12)
        held = table["seal"] != 0
        np.testing.assert_array_equal(kept[held], values.reshape(-1, 3, 12)[held])
    np.testing.assert_array_equal(whole(source), values)
    source.close()


# -- what is not whole -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["values", "blocks"])
def test_a_block_that_is_not_what_was_written_is_fetched_again(store, static, tmp_path, what):
    source = store(tmp_path)
    np.testing.assert_array_equal(whole(source), VALUES)
    source.close()
    path = Path(entry_of(tmp_path).path) / what
    data = bytearray(path.read_bytes())
    data[2 * 16 + 3 if what == "blocks" else 5 * 12 * 4 * 2 + 1] ^= 1  # of block 2
    path.write_bytes(data)
    static.clear()
    again = store.again(tmp_path)
    np.testing.assert_array_equal(whole(again), VALUES)
    assert [path.rpartition("/c/")[2] for _, path, _, _ in static.data] == ["2/0"]
    np.testing.assert_array_equal(whole(again), VALUES)
    assert len(static.data) == 1
    again.close()


@pytest.mark.parametrize("what", ["values", "blocks", "claims", "used"])
def test_an_entry_with_a_file_cut_or_removed_is_made_anew(store, static, tmp_path, what):
    source = store(tmp_path)
    whole(source)
    source.close()
    path = Path(entry_of(tmp_path).path) / what
    if path.stat().st_size:
        os.truncate(path, 100)
    else:
        path.unlink()
    static.clear()
    again = store.again(tmp_path)
    np.testing.assert_array_equal(whole(again), VALUES)
    np.testing.assert_array_equal(whole(again), VALUES)
    assert len(static.data) == 9
    again.close()


@pytest.mark.parametrize("left", ["nothing", "about.json"])
def test_an_entry_whose_making_was_interrupted_is_made_anew(store, static, tmp_path, left):
    source = store(tmp_path)
    whole(source)
    source.close()
    about = Path(entry_of(tmp_path).path) / "about.json"
    about.unlink() if left == "nothing" else about.write_text('{"format"')
    assert MirrorFolder(str(tmp_path)).entries() == []
    static.clear()
    again = store.again(tmp_path)
    np.testing.assert_array_equal(whole(again), VALUES)
    assert len(static.data) == 9
    again.close()


def test_a_failed_fetch_leaves_the_block_to_others(proxy, store, tmp_path):
    store(tmp_path, "fail.zarr")
    options = {"endpoint_url": proxy.url, "anon": True, "retries": 0}
    source = cached(open_source("s3://bkt/fail.zarr", storage_options=options), MirrorFolder(str(tmp_path)))
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
    assert all(not entry.in_use for entry in MirrorFolder(str(tmp_path)).entries())
    assert len(MirrorFolder(str(tmp_path)).entries()) <= 2


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


def test_what_does_not_fit_is_refused_before_anything_is_fetched(store, static, tmp_path):
    source = store(tmp_path)
    small = CachedSource(source.source, MirrorFolder(str(tmp_path), limit=2000))
    with pytest.raises(SourceError, match=r"takes 2.06 kB.*cache_size is 2 kB|takes 2.06 kB.*2.00 kB"):
        whole(small)
    assert not static.data
    small.close()
    source.close()


def test_a_full_disk_is_told_with_the_numbers(store, static, tmp_path, monkeypatch):
    source = store(tmp_path)
    found = os.statvfs(tmp_path)

    class Full:
        f_bavail, f_frsize = 10, found.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda _: Full)
    with pytest.raises(SourceError, match=r"has 0 B free.*takes 2.06 kB more.*cache clear"):
        whole(source)
    assert not static.data
    monkeypatch.undo()
    np.testing.assert_array_equal(whole(source), VALUES)
    source.close()


def test_what_was_used_longest_ago_makes_room(store, tmp_path):
    limit = MirrorFolder(str(tmp_path), limit=5000)
    names = ["lru0.zarr", "lru1.zarr", "lru2.zarr"]
    for number, name in enumerate(names):
        source = CachedSource(store(tmp_path, name).source, limit)
        whole(source)
        source.close()
        for entry in limit.entries():
            if name in entry.name:
                os.utime(Path(entry.path) / "used", (number, number))
    left = sorted(entry.name.rpartition("/")[2] for entry in limit.entries())
    assert left == ["lru1.zarr", "lru2.zarr"]


def test_what_is_in_use_is_not_removed(store, tmp_path):
    limit = MirrorFolder(str(tmp_path), limit=3000)
    busy = CachedSource(store(tmp_path, "busy.zarr").source, limit)
    whole(busy)
    other = CachedSource(store(tmp_path, "more.zarr").source, limit)
    with pytest.raises(SourceError, match=r"other arrays in use there 2.06 kB"):
        whole(other)
    np.testing.assert_array_equal(whole(busy), VALUES)
    other.close()
    busy.close()


def test_a_device_that_takes_no_more_ends_the_keeping_and_not_the_reading(store, tmp_path, monkeypatch):
    source = store(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(UserWarning, match="takes no more"):
        np.testing.assert_array_equal(read_and_close(source), VALUES)
    monkeypatch.undo()
    assert entry_of(tmp_path).blocks_held == 0


AS_NOBODY = """
import os, pickle, sys, warnings
import numpy as np, tensorstore
from windowloader.sources import mirror_reads, remote
source = pickle.loads(bytes.fromhex(sys.argv[1]))
expected = np.load(sys.argv[2])
os.setuid(65534)  # once everything is imported, which that user might not be able to
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    out = np.empty(source.shape, source.dtype)
    source.read(0, len(out), out)
    assert (out == expected).all()
    source.close()
print(len([w for w in caught if "read-only" in str(w.message)]))
"""


@pytest.mark.parametrize("held", ["half", "nothing"])
def test_a_read_only_folder_gives_what_it_has(store, static, request, held):
    if os.getuid() != 0:
        pytest.skip("makes files of another user: needs root")
    tmp_path = Path(
        tempfile.mkdtemp(prefix="windowloader-test-")
    )  # pytest's own folders are closed to others
    request.addfinalizer(lambda: shutil.rmtree(tmp_path))
    tmp_path.chmod(0o755)
    cache = tmp_path / "c"
    cache.mkdir()
    source = store(cache)
    if held == "half":
        out = np.empty((20, 12), "f4")
        source.read(0, 20, out)
        source.close()
    np.save(tmp_path / "expected.npy", VALUES)
    static.clear()
    command = [sys.executable, "-c", AS_NOBODY, pickle.dumps(source).hex(), str(tmp_path / "expected.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == (held == "nothing")
    assert len(static.data) == (5 if held == "half" else 9)
    source.close()
