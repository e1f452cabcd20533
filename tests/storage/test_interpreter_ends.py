"""Scripts that end while reads are under way: the interpreter ends as the script asked, and nothing aborts it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import faulthandler, sys, threading
faulthandler.enable()
import windowloader as wl
windows = wl.WindowSet(wl.open(sys.argv[1]), wl.WindowSpec(lookback=12, horizon=12, stride=6))
loader = wl.WindowLoader(windows, batch_size=16, shuffle=True, memory="64MB")
batches = iter(loader)
how = sys.argv[2]
if how == "at once":
    sys.exit(3)  # the store's library is still being imported, on another thread
next(batches)
if how == "raise":
    raise SystemExit(3)
if how == "thread":
    threading.Thread(target=lambda: list(batches), daemon=True).start()
if how == "dropped":
    del batches
sys.exit(3)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    import tensorstore as ts

    path = tmp_path_factory.mktemp("ends") / "long.zarr"
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}},
              {"name": "gzip", "configuration": {"level": 1}}]  # fmt: skip
    metadata = {
        "shape": [12_000, 1_000],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [288, 1_000]}},
        "codecs": codecs,
    }
    kvstore = {"driver": "file", "path": f"{path}/"}
    array = ts.open({"driver": "zarr3", "kvstore": kvstore, "metadata": metadata, "create": True}).result()
    rows = np.random.default_rng(0).integers(0, 80, (12_000, 1_000)).astype(np.float32)
    array.write(rows).result()
    return path


@pytest.mark.parametrize("how", ["at once", "raise", "thread", "dropped", "held"])
def test_a_script_may_end_while_reads_are_under_way(store, how):
    script = [sys.executable, "-c", SCRIPT, str(store), how]
    both = [subprocess.Popen(script, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [script.communicate(timeout=120)[1] for script in both]
    assert [script.returncode for script in both] == [3, 3]
    assert told == ["", ""]
