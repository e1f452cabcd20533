"""Epochs through the disk cache: the stream's batches, each chunk fetched once a node, later epochs from the map."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from typer.testing import CliRunner

import windowloader as wl
from windowloader import cli
from windowloader.errors import SourceError
from windowloader.rows.disk_cached import CachedAccess
from windowloader.sources.disk_cache_entry import HEADER

ROWS, NODES, SPAN = 4000, 1000, 6
VALUES = np.random.default_rng(3).normal(size=(ROWS, NODES)).astype("f4")
SPEC = {"lookback": 4, "horizon": 2}


@pytest.fixture
def bucket(bucket_folder, write_array, static):
    """Write an array of 40 chunks, 13 blocks, into the bucket; returns the options that open it there."""
    for name in ("epochs.zarr", "faulty.zarr"):
        folder = bucket_folder / "bkt" / name
        if not folder.exists():
            write_array({"driver": "file", "path": f"{folder}/"}, VALUES, chunks=(100, NODES))
    static.clear()
    return {"endpoint_url": static.url, "anon": True}


def open_series(options, cache=None, name="epochs.zarr"):
    return wl.open(f"s3://bkt/{name}", storage_options=options, cache_dir=cache)


def loader_of(series, **options):
    windows = wl.WindowSet(series, wl.WindowSpec(**SPEC))
    return wl.WindowLoader(
        windows, **({"batch_size": 32, "shuffle": True, "seed": 4, "active_blocks": 4} | options)
    )


def epoch_of(loader):
    """Return the starts of an epoch's windows, in order; each batch is held against the array."""
    starts = []
    for batch in loader:
        rows = batch.starts[:, None] + np.arange(SPAN)
        both = np.concatenate([batch.inputs, batch.targets], axis=1)[..., 0]
        np.testing.assert_array_equal(both, VALUES[rows])
        starts.append(batch.starts)
    return np.concatenate(starts)


def chunks_of(log, name="epochs.zarr"):
    # What TensorStore had begun in another test is tried again for a while: those tests have an array of their own.
    return [path for _, path, _, sent in log if sent and f"/{name}/c/" in path]


def close(loader):
    loader.close()
    for variable in loader.windows.series.variables:
        variable.source.close()


def test_the_batches_are_those_of_the_stream_and_chunks_are_fetched_once_in_all_epochs(
    bucket, static, tmp_path
):
    streamed = loader_of(open_series(bucket))
    expected = [epoch_of(streamed) for _ in range(3)]
    close(streamed)
    assert len(chunks_of(static.data)) == 40  # read once a run, and kept
    static.clear()
    series = open_series(bucket, tmp_path)
    assert series.tier == series.select(nodes=[1, 2], time=slice(10, 90)).tier == "cached"
    cached = loader_of(series)
    for starts in expected:
        np.testing.assert_array_equal(epoch_of(cached), starts)
        assert len(chunks_of(static.data)) == 40
    close(cached)
    again = loader_of(open_series(bucket, tmp_path))  # a new process finds it complete
    for starts in expected:
        np.testing.assert_array_equal(epoch_of(again), starts)
    close(again)
    assert len(chunks_of(static.data)) == 40
    assert not np.array_equal(expected[0], expected[1])


def test_later_epochs_are_gathered_from_the_map(bucket, static, tmp_path, monkeypatch):
    loader = loader_of(open_series(bucket, tmp_path))
    epoch_of(loader)
    access = loader._pipeline.access
    assert isinstance(access, CachedAccess)
    monkeypatch.setattr(access._access, "stream", None)  # the stream is not asked any more
    static.clear()
    epoch_of(loader)
    assert static.data == []
    close(loader)


def test_a_state_moves_between_stream_and_disk_cache(bucket, tmp_path):
    one = loader_of(open_series(bucket))
    expected = epoch_of(one)
    one.set_epoch(0)
    iterator = iter(one)
    taken = [next(iterator).starts for _ in range(20)]
    state = one.state_dict()
    close(one)
    other = loader_of(open_series(bucket, tmp_path), seed=99)
    other.load_state_dict(state)
    rest = epoch_of(other)
    np.testing.assert_array_equal(np.concatenate([*taken, rest]), expected)
    close(other)


def test_a_block_that_went_bad_is_fetched_again_in_a_mapped_epoch(bucket, static, tmp_path):
    first = loader_of(open_series(bucket, tmp_path))
    epoch_of(first)
    close(first)
    (path,) = tmp_path.iterdir()
    with open(path, "r+b") as file:
        file.seek(HEADER + 777 * NODES * 4)
        file.write(b"\xff\xff")
    static.clear()
    again = loader_of(open_series(bucket, tmp_path))
    epoch_of(again)
    assert len(chunks_of(static.data)) == 1
    close(again)


@pytest.mark.parametrize("axes", ["tn", "nt"])
def test_values_beside_a_covariate_of_its_own_store(bucket, bucket_folder, write_array, tmp_path, axes):
    values = VALUES[:400, :6]
    stored = values if axes == "tn" else np.ascontiguousarray(values.T)
    for name, data, chunks in (("two.zarr", stored, (6, 25) if axes == "nt" else (25, 6)),
                               ("weather.zarr", values[:, :3] * 2, (40, 3))):  # fmt: skip
        folder = bucket_folder / "bkt" / name
        shutil.rmtree(folder, ignore_errors=True)
        write_array({"driver": "file", "path": f"{folder}/"}, data, chunks=chunks)
    series = wl.open(
        "s3://bkt/two.zarr", axes=axes, storage_options=bucket, cache_dir=tmp_path,
        covariates={"weather": ("s3://bkt/weather.zarr", "tf")},
    )  # fmt: skip
    spec = wl.WindowSpec(lookback=4, horizon=2, inputs=["value", "weather"], targets=["value"])
    loader = wl.WindowLoader(wl.WindowSet(series, spec), batch_size=16, shuffle=True)
    for _ in range(3):
        for batch in loader:
            rows = batch.starts[:, None] + np.arange(4)
            np.testing.assert_array_equal(batch.inputs[..., 0], values[rows])
            np.testing.assert_array_equal(batch.inputs[:, :, 0, 1:], values[rows, :3] * 2)
    close(loader)


def test_axes_that_no_view_brings_together_are_read_from_the_disk_cache_block_by_block(
    bucket, bucket_folder, write_array, static, tmp_path
):
    values = np.random.default_rng(1).normal(size=(200, 3, 4, 5)).astype("f4")
    folder = bucket_folder / "bkt" / "four.zarr"
    shutil.rmtree(folder, ignore_errors=True)
    write_array({"driver": "file", "path": f"{folder}/"}, values, chunks=(20, 3, 4, 5))
    series = wl.open("s3://bkt/four.zarr", axes="tnfn", storage_options=bucket, cache_dir=tmp_path)
    loader = wl.WindowLoader(wl.WindowSet(series, wl.WindowSpec(**SPEC)), batch_size=16, shuffle=True)
    static.clear()
    for _ in range(2):
        for batch in loader:
            rows = values[batch.starts[:, None] + np.arange(4)]
            np.testing.assert_array_equal(batch.inputs, rows.transpose(0, 1, 2, 4, 3))
    assert len(chunks_of(static.data, "four.zarr")) == 10
    close(loader)


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kept"),
    [
        pytest.param("503", False, marks=pytest.mark.campaign),
        pytest.param("503", True, marks=pytest.mark.campaign),
        ("reset", False),
        ("reset", True),
        pytest.param("truncate:100", False, marks=pytest.mark.campaign),
        ("truncate:100", True),
    ],
)
def test_one_request_in_three_fails_for_a_whole_epoch_and_the_batches_are_the_same(
    bucket, proxy, tmp_path, fault, kept
):
    plain = loader_of(open_series(bucket))
    expected = epoch_of(plain)
    close(plain)
    options = {**bucket, "endpoint_url": proxy.url}
    loader = loader_of(open_series(options, tmp_path if kept else None))
    proxy.clear(lambda number, *_: fault if number % 3 == 0 else None)
    np.testing.assert_array_equal(epoch_of(loader), expected)
    assert sum(entry.fault is not None for entry in proxy.log) >= 13
    proxy.clear()
    close(loader)


@pytest.mark.parametrize("kept", [False, True], ids=["streamed", "cached"])
def test_a_lasting_fault_is_an_error_of_the_loop_and_the_loader_can_be_made_again(
    bucket, proxy, tmp_path, kept
):
    options = {**bucket, "endpoint_url": proxy.url, "retries": 1}
    loader = loader_of(open_series(options, tmp_path if kept else None, "faulty.zarr"))
    proxy.clear(lambda number, method, path, headers: "503" if path.endswith("/c/21/0") else None)
    with pytest.raises(SourceError, match=r"faulty.zarr.*rows"):
        epoch_of(loader)
    proxy.clear()
    close(loader)
    again = loader_of(open_series(options, tmp_path if kept else None, "faulty.zarr"))
    assert len(epoch_of(again)) == ROWS - SPAN + 1
    close(again)


@pytest.mark.campaign
@pytest.mark.parametrize("fault", ["503", "stall", "reset"])
def test_a_lasting_fault_ends_within_thirty_seconds_by_default(bucket, proxy, tmp_path, fault):
    loader = loader_of(open_series({**bucket, "endpoint_url": proxy.url}, tmp_path, "faulty.zarr"))
    proxy.clear(lambda number, method, path, headers: fault if "/c/" in path and method == "GET" else None)
    begun = time.monotonic()
    with pytest.raises(SourceError):
        epoch_of(loader)
    assert time.monotonic() - begun < 30
    proxy.clear()
    close(loader)


# -- processes ---------------------------------------------------------------------------------------------------------

RANK = """
import sys, json
import numpy as np, windowloader as wl
options, cache, rank, world, epochs = json.loads(sys.argv[1])
series = wl.open("s3://bkt/epochs.zarr", storage_options=options, cache_dir=cache)
loader = wl.WindowLoader(wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=2)), batch_size=16, shuffle=True,
                         seed=4, rank=rank, world_size=world)
print("ready", flush=True)
sys.stdin.readline()
found = []
for epoch in range(epochs):
    for batch in loader:
        found += batch.starts.tolist()
        print("batch", float(batch.inputs.sum()), flush=True) if epochs == 1 else None
loader.close()
series.variables[0].source.close()
print(json.dumps(found))
"""


def start_rank(options, cache, rank, world, epochs):
    arguments = json.dumps([options, str(cache), rank, world, epochs])
    return subprocess.Popen(
        [sys.executable, "-c", RANK, arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def go(processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


@pytest.mark.campaign
def test_four_ranks_on_a_node_fetch_each_chunk_once(bucket, static, tmp_path):
    processes = [start_rank(bucket, tmp_path, rank, 4, 2) for rank in range(4)]
    go(processes)
    outs = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    asked = chunks_of(static.data)
    assert len(asked) == len(set(asked)) == 40
    seen = np.bincount(np.concatenate([json.loads(out) for out in outs]))
    assert (seen >= 2).all()  # both epochs, whole


def test_killed_in_its_first_epoch_and_started_again(bucket, static, proxy, tmp_path):
    options = {**bucket, "endpoint_url": proxy.url}
    stalled = threading.Event()

    def script(number, method, path, headers):
        data = [entry for entry in proxy.log if "/c/" in entry.path and entry.method == "GET"]
        if "/c/" in path and method == "GET" and len(data) > 25:
            stalled.set()
            return "stall"
        return None

    proxy.clear(script)
    victim = start_rank(options, tmp_path, 0, 1, 1)
    go([victim])
    assert stalled.wait(60)
    victim.kill()
    victim.communicate()
    proxy.settle()
    (entry,) = json.loads(CliRunner().invoke(cli.app, ["cache", "list", str(tmp_path), "--json"]).output)
    assert 0 < entry["blocks_held"] <= 25
    assert not entry["in_use"]
    proxy.clear()
    proxy.settle()
    loader = loader_of(open_series(options, tmp_path))
    assert len(epoch_of(loader)) == ROWS - SPAN + 1
    asked = [entry.path for entry in proxy.log if "/c/" in entry.path and entry.method == "GET"]
    assert len(asked) == len(set(asked)) == 40 - entry["blocks_held"]
    close(loader)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_lists_and_clears(bucket, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(cli.app, ["cache", *arguments], env={"COLUMNS": "160", "NO_COLOR": "1"})

    loader = loader_of(open_series(bucket, tmp_path))
    epoch_of(loader)
    listed = run("list", str(tmp_path)).output
    assert "s3://bkt/epochs.zarr" in listed
    assert "4,000, 1,000" in listed
    assert "16 MB" in listed
    assert "in use" in listed
    (entry,) = json.loads(run("list", str(tmp_path), "--json").output)
    assert (entry["blocks_held"], entry["bytes"], entry["in_use"]) == (40, 16_000_000, True)
    assert "kept s3://bkt/epochs.zarr: a process has it open" in run("clear", str(tmp_path)).output
    close(loader)
    assert "removed 0 arrays" in run("clear", str(tmp_path), "--name", "other").output
    assert "removed 1 array, 16 MB" in run("clear", str(tmp_path)).output
    assert not list(tmp_path.iterdir())
    assert "holds nothing" in run("list", str(tmp_path)).output
    assert run("list", str(tmp_path / "absent")).exit_code == 1
