"""Scans for missing values: kept with the disk cache, and shared by ranks: each chunk is fetched once in all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import windowloader as wl
from windowloader.sources.disk_cache import DiskCache, keep, recall
from windowloader.windows import missing

ROWS, NODES, CHUNK = 2000, 30, 50
VALUES = np.random.default_rng(0).integers(1, 70, (ROWS, NODES)).astype("f4")
VALUES[np.random.default_rng(1).random(VALUES.shape) < 0.002] = 0
SPEC = {"lookback": 3, "horizon": 2, "max_missing": 0.0}
COMPLETE = [start for start in range(ROWS - 4) if (VALUES[start : start + 5] != 0).all()]


@pytest.fixture
def bucket(bucket_folder, write_array, static, monkeypatch):
    """Write VALUES into the bucket; returns the options that open them there."""
    folder = bucket_folder / "bkt" / "scan.zarr"
    shutil.rmtree(folder, ignore_errors=True)
    write_array({"driver": "file", "path": f"{folder}/"}, VALUES, chunks=(CHUNK, NODES))
    static.clear()
    monkeypatch.setattr(missing, "_kept", {})
    return {"endpoint_url": static.url, "anon": True}


def chunks_of(static):
    """Chunks that were sent: not requests for their version alone."""
    return sorted(path for _, path, _, sent in static.log if sent and "/scan.zarr/c/" in path)


def starts_of(options, cache, **more):
    series = wl.open("s3://bkt/scan.zarr", storage_options=options, cache_dir=cache, missing=0.0, **more)
    starts = wl.WindowSet(series, wl.WindowSpec(**SPEC)).starts().tolist()
    for variable in series.variables:
        variable.source.close()
    return starts


@pytest.fixture
def scanned(bucket, static, tmp_path):
    """A folder with a scan, and no rows; returns the file of the scan."""
    assert starts_of(bucket, tmp_path) == COMPLETE
    assert len(chunks_of(static)) == len(set(chunks_of(static))) == ROWS // CHUNK
    (rows,) = tmp_path.glob("*.rows")
    rows.unlink()
    missing._kept.clear()
    static.clear()
    (scan,) = tmp_path.glob("*.scan")
    return scan


def test_a_second_open_does_not_scan(scanned, bucket, static, tmp_path):
    assert starts_of(bucket, tmp_path) == COMPLETE
    assert chunks_of(static) == []
    assert scanned.stat().st_mode & 0o777 == 0o600
    DiskCache(str(tmp_path)).clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["cut", "flipped", "emptied", "link", "readable"])
def test_a_scan_that_is_not_what_was_written_is_made_again(scanned, bucket, static, tmp_path, fault):
    data, victim = scanned.read_bytes(), tmp_path / "victim"
    victim.write_bytes(data)
    if fault == "link":
        scanned.unlink()
        scanned.symlink_to(victim)
    elif fault == "readable":
        scanned.chmod(0o644)
    else:
        broken = {"cut": data[:-3], "flipped": data[:-1] + bytes([data[-1] ^ 1]), "emptied": b""}
        scanned.write_bytes(broken[fault])
    assert starts_of(bucket, tmp_path) == COMPLETE
    assert len(chunks_of(static)) == ROWS // CHUNK
    assert victim.read_bytes() == data
    assert not scanned.is_symlink()
    assert scanned.read_bytes() == data


def test_changed_data_are_scanned_again(scanned, bucket, bucket_folder, write_array, tmp_path):
    folder = bucket_folder / "bkt" / "scan.zarr"
    shutil.rmtree(folder)
    write_array({"driver": "file", "path": f"{folder}/"}, np.maximum(VALUES, 1), chunks=(CHUNK, NODES))
    assert len(starts_of(bucket, tmp_path)) == ROWS - 4


def test_other_nodes_are_another_scan(scanned, bucket, tmp_path):
    series = wl.open("s3://bkt/scan.zarr", storage_options=bucket, cache_dir=tmp_path, missing=0.0)
    part = series.select(nodes=[3, 5])
    found = wl.scan(part)
    assert found.missing["value"] == int((VALUES[:, [3, 5]] == 0).sum())
    part.variables[0].source.close()


def test_a_folder_that_cannot_be_written_to_keeps_no_scan():
    keep("/proc/windowloader", "key", b"data")
    assert recall("/proc/windowloader", "key") is None


RANKS = """
import datetime, json, os, signal, sys
import torch.distributed as dist
import windowloader as wl
from windowloader.windows import missing

options, folder, ranks, what = json.loads(sys.argv[1])
SPEC = json.loads(sys.argv[2])


def run(rank):
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=ranks,
                            timeout=datetime.timedelta(seconds=120))
    missing.READ_BYTES = 1  # a chunk at a time
    if what == "forked" and (child := os.fork()):
        os.waitpid(child, 0)
        os._exit(0)
    if what == "killed":
        store = dist.distributed_c10d._get_default_store()
        if rank == 1:
            missing._count = lambda *_: (store.set("taken", ""), os.kill(os.getpid(), signal.SIGKILL))
        else:
            store.get("taken")  # rank 1 has a share
            store.set_timeout(datetime.timedelta(seconds=1))
    series = wl.open("s3://bkt/scan.zarr", storage_options=options, missing=0.0)
    if what == "apart" and rank != 1:
        return "none"
    try:
        found = wl.WindowSet(series, wl.WindowSpec(**SPEC)).starts().tolist()
        return [found, wl.scan(series).missing]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


children = []
for rank in range(ranks):
    child = os.fork()
    if child == 0:
        found = run(rank)
        with open(f"{folder}/{rank}.json", "w") as file:
            json.dump(found, file)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


def run_ranks(options, folder, ranks, what="together"):
    """Run ranks; returns what each found, None for one that ended before."""
    command = [sys.executable, "-W", "ignore", "-c", RANKS, json.dumps([options, str(folder), ranks, what])]
    subprocess.run([*command, json.dumps(SPEC)], check=True, timeout=240)
    files = [Path(folder, f"{rank}.json") for rank in range(ranks)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def test_four_ranks_fetch_each_chunk_once_in_all_and_have_the_same_index(bucket, static, tmp_path):
    found = run_ranks(bucket, tmp_path, 4)
    assert found == [[COMPLETE, {"value": int((VALUES == 0).sum())}]] * 4
    assert len(chunks_of(static)) == len(set(chunks_of(static))) == ROWS // CHUNK


@pytest.mark.campaign
def test_a_rank_that_scans_alone_waits_for_nobody(bucket, static, tmp_path):
    found = run_ranks(bucket, tmp_path, 3, "apart")
    assert found == ["none", [COMPLETE, {"value": int((VALUES == 0).sum())}], "none"]
    assert len(chunks_of(static)) == ROWS // CHUNK


@pytest.mark.campaign
def test_a_child_that_a_rank_forked_scans_by_itself(bucket, static, tmp_path):
    found = run_ranks(bucket, tmp_path, 2, "forked")
    assert found == [[COMPLETE, {"value": int((VALUES == 0).sum())}]] * 2
    assert len(chunks_of(static)) == 2 * ROWS // CHUNK


def test_an_error_on_one_rank_reaches_all(bucket, proxy, tmp_path):
    proxy.clear(lambda number, method, path, headers: "403" if path.endswith("/c/21/0") else None)
    found = run_ranks({**bucket, "endpoint_url": proxy.url}, tmp_path, 3)
    proxy.clear()
    assert all("scan.zarr" in text for text in found), found
    assert sum(text.startswith("RankError: another rank failed") for text in found) == 2


def test_a_rank_that_dies_ends_the_others_at_the_time_out_of_the_group(bucket, tmp_path):
    found = run_ranks(bucket, tmp_path, 3, "killed")
    assert found[1] is None
    assert all(found[rank].startswith("RankError: a rank that shares this work did not") for rank in (0, 2))
