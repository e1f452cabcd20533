"""Scripts that end while reads are under way: the interpreter ends as the script asked, and nothing aborts it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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

LOADED_ON_A_THREAD = """
import sys, threading
from windowloader.sources.processes import tensorstore
class Note:
    def find_spec(self, name, path=None, target=None):
        if name == "tensorstore":
            loaders.append(threading.current_thread())
loaders = []
sys.meta_path.insert(0, Note())
thread = threading.Thread(target=tensorstore)
thread.start()
thread.join()
assert [loader is threading.main_thread() or loader.is_alive() for loader in loaders] == [True]
"""
READS_GO_ON = """
import time
import windowloader.sources.reads as reads
reads.PATIENCE = 0
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.5)  # while the interpreter is being finalised
slow = Slow()
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


HOWS = ["at once", "raise", "thread", "dropped", "held"]


def ends(code, *arguments):
    """Run a script to its end; return its exit status and what it wrote to stderr."""
    script = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(script, stderr=subprocess.PIPE, text=True, timeout=280, check=False)
    return done.returncode, done.stderr


@contextmanager
def busy_processors():
    """Keep two processors busy meanwhile."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize("how", HOWS)
def test_a_script_may_end_while_reads_are_under_way(store, how):
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: ends(SCRIPT, store, how), range(2))) == [(3, "")] * 2


def test_the_thread_that_loads_tensorstore_lives_as_long_as_the_process():
    """TensorStore takes it for the main thread: with its id another one would abort the process at the end."""
    assert ends(LOADED_ON_A_THREAD) == (0, "")


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", HOWS)
def test_scripts_end_as_they_asked_on_a_busy_machine(store, how):
    """As they are, and with reads that go on while the interpreter is finalised: 2 of each."""
    codes = [SCRIPT, READS_GO_ON + SCRIPT] * 2
    with busy_processors(), ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda code: ends(code, store, how), codes))
    print(f"{how}: {ended.count((3, ''))} of {len(codes)} scripts ended as they asked")
    assert set(ended) == {(3, "")}
