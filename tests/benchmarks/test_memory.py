"""Private memory of an epoch: a mapped file costs page cache, and the loader its batches."""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import json, sys
import windowloader as wl
from windowloader.util.units import MemoryWatch
import windowloader.loader.loader, windowloader.windows.split, windowloader.batch.kernels
series = wl.open(sys.argv[1], features=["speed"], timestamps=("2018-01-01", "5min"))
spec = wl.WindowSpec(lookback=12, horizon=12, inputs=["speed", "time_of_day"], targets=["speed"])
with MemoryWatch() as watch:
    train, _, _ = wl.split(series, spec, (0.7, 0.1, 0.2))
    scaler = wl.StandardScaler(60.0, 9.0, features=["speed"])
    loader = wl.WindowLoader(train, batch_size=64, shuffle=True, scaler=scaler)
    windows = 0
    for inputs, targets in loader:
        windows += len(inputs)
    batch = inputs[0].nbytes * 64 + targets[0].nbytes * 64
print(json.dumps({"windows": windows, "all": len(train), "grown": watch.grown, "batch": batch}))
"""


@pytest.mark.campaign
@pytest.mark.parametrize("nodes", [2_716, 11_160])
def test_an_epoch_of_a_mapped_file_takes_its_batches_and_little_more(nodes, tmp_path):
    path = tmp_path / "pems.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (105_120, nodes)).flush()  # sparse
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True
    )
    figures = json.loads(found.stdout)
    assert figures["windows"] == figures["all"] > 73_000
    in_flight = 2 + 4 + 2  # the loop holds one and asks for the next; prefetched ones; those being built
    assert figures["grown"] <= 250e6 + in_flight * figures["batch"], figures
    print(f"{nodes} nodes: {figures['grown'] / 1e6:.0f} MB, a batch has {figures['batch'] / 1e6:.0f} MB")


LIMIT = 2 << 30  # bytes of private memory, addressed or not; PGT's array alone has 9.4 GB
STEPS = """
import sys
import windowloader as wl
from windowloader.util.units import MemoryWatch
import windowloader.loader.loader, windowloader.windows.split, windowloader.batch.kernels
series = wl.open(sys.argv[1], features=["speed"], timestamps=("2018-01-01", "5min"))
names = ["speed", "time_of_day"]
spec = wl.WindowSpec(lookback=12, horizon=12, inputs=names, targets=names)
train, _, _ = wl.split(series, spec, (0.7, 0.1, 0.2))
scaler = wl.StandardScaler(60.0, 9.0, features=["speed"])
with MemoryWatch() as watch:
    loader = wl.WindowLoader(train, batch_size=64, shuffle=True, scaler=scaler, steps_per_epoch=200)
    for inputs, targets in loader:
        pass
print(watch.grown)
"""
PGT = """
import sys
from pathlib import Path
import peers
peers.ROOM = float("inf")
next(peers.pgt(Path(sys.argv[1]), 64))
"""


def under_the_limit(code, path):
    """Run it in a process whose private memory the system bounds."""
    bound = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))\n"
    code = f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n{bound}{code}"
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)


@pytest.mark.campaign
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="no limit of private memory here")
def test_the_full_size_runs_where_the_array_of_a_peer_cannot_be_made(tmp_path):
    pytest.importorskip("torch_geometric")
    pytest.importorskip("dask.array")  # PGT's module imports it
    if importlib.util.find_spec("torch_geometric_temporal") is None:
        pytest.skip("PyTorch Geometric Temporal is not installed")
    path = str(tmp_path / "pems.npy")
    np.lib.format.open_memmap(path, "w+", np.float32, (105_120, 11_160)).flush()  # sparse
    ours, theirs = under_the_limit(STEPS, path), under_the_limit(PGT, path)
    assert ours.returncode == 0, ours.stderr
    print(
        f"under {LIMIT / 1e9:.1f} GB: {int(ours.stdout) / 1e6:.0f} MB at most; PGT: {theirs.stderr.splitlines()[-1]}"
    )
    assert int(ours.stdout) < LIMIT
    assert theirs.returncode != 0
    assert "Unable to allocate 8.74 GiB" in theirs.stderr
