"""Files of the disk cache that are truncated, replaced, removed or filled with garbage while a loader reads them.

Every batch stays right, and no bus error ends the process: the cache is dropped, and its rows are fetched again.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import zarr

CHILD = r"""
import json, os, shutil, sys, tempfile, threading, warnings
import numpy as np, windowloader as wl
from windowloader.sources.disk_cache import DiskCache

store, cases = sys.argv[1], json.loads(sys.argv[2])
VALUES = np.load(sys.argv[3])


def strike(cache, fault):
    (entry,) = DiskCache(cache).arrays()
    path = entry.path
    size = os.path.getsize(path)
    if fault == "truncated":
        os.truncate(path, 4096)
    elif fault == "emptied":
        os.truncate(path, 0)
    elif fault == "emptied and restored":
        os.truncate(path, 0)
        os.truncate(path, size)
    elif fault == "grown":
        os.truncate(path, size + 4096)
    elif fault == "garbage":
        with open(path, "r+b") as file:
            file.write(os.urandom(size))
    elif fault == "replaced":
        with open(path + "2", "wb") as file:
            file.write(os.urandom(size))
        os.replace(path + "2", path)
    elif fault == "removed":
        os.unlink(path)
    elif fault == "folder removed":
        shutil.rmtree(cache)


def epoch(loader, at=None, action=None):
    starts = []
    for number, batch in enumerate(loader):
        rows = batch.starts[:, None] + np.arange(6)
        assert np.array_equal(batch.inputs[..., 0], VALUES[rows]), f"other values in batch {number}"
        starts += batch.starts.tolist()
        if number == at:
            action()
    assert sorted(starts) == list(range(len(VALUES) - 5))


def opened(cache, shape):
    windows = wl.WindowSet(wl.open(store, cache_dir=cache), wl.WindowSpec(lookback=6, horizon=0))
    return windows, wl.WindowLoader(windows, batch_size=32, shuffle=True, active_blocks=3, **shape)


def case(fault, moment):
    cache = tempfile.mkdtemp()
    shape = {"threads": 2} if "threads" in moment else {"threads": 0, "prefetch_batches": 1}
    windows, loader = opened(cache, shape)
    with loader:
        action = lambda: strike(cache, fault)
        if "filling" in moment:
            epoch(loader, 30, action)
        elif "mapped" in moment:
            epoch(loader)
            epoch(loader, 10, action)
        elif "other" in moment:
            epoch(loader)
            beside = threading.Timer(0.005, action)
            beside.start()
            epoch(loader)
            beside.join()
        else:
            epoch(loader)
            action()
        epoch(loader)
        epoch(loader)
    windows.series.variables[0].source.close()
    windows, loader = opened(cache, shape)  # blocks that were lost are fetched again
    with loader:
        epoch(loader)
    windows.series.variables[0].source.close()
    (entry,) = DiskCache(cache).arrays()
    assert entry.blocks_held == entry.blocks, entry
    shutil.rmtree(cache)


for given in cases:
    print(*given, flush=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case(*given)
    texts = {str(one.message) for one in caught}
    assert all("dropped and fetched again" in text for text in texts), texts
    if given[0] not in ("garbage", "emptied and restored") and "filling" not in given[1]:
        assert texts, "nothing was said"
print("all right")
"""

FAULTS = [
    "truncated",
    "emptied",
    "emptied and restored",
    "grown",
    "garbage",
    "replaced",
    "removed",
    "folder removed",
]
MOMENTS = ["filling", "mapped", "between", "filling threads", "mapped threads", "other threads"]
FEW = [
    ("truncated", "mapped"),
    ("garbage", "mapped threads"),
    ("emptied and restored", "between"),
    ("replaced", "mapped threads"),
    ("emptied", "filling threads"),
    ("removed", "between"),
]


@pytest.fixture
def run(tmp_path):
    values = np.random.default_rng(0).normal(size=(2_000, 40)).astype("f4")
    np.save(tmp_path / "values.npy", values)
    zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(50, 40))

    def cases(given):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "a.zarr"), json.dumps(given)]
        done = subprocess.run(
            [*command, str(tmp_path / "values.npy")],
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.stdout.endswith("all right\n")

    return cases


def test_what_somebody_did_to_the_cache_changes_no_batch(run):
    run(FEW)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_the_cache_at_every_moment(run, fault):
    run([(fault, moment) for moment in MOMENTS])
