"""Compiling ahead: what it leaves in the cache, from two processes at once, and where nothing can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import windowloader as wl
from windowloader.errors import LoaderError
from windowloader.warmup import cache_folder, warm_up

FIRST = """
import time; begun = time.perf_counter()
import numpy as np, windowloader as wl
values = np.arange(30_000, dtype="float32").reshape(6000, 5)
series = wl.Series(values, features=["speed"], timestamps=("2024-01-01", "5min"), missing={missing})
spec = wl.WindowSpec(lookback=12, horizon=12, inputs=["speed", "time_of_day"], targets=["speed"])
windows = wl.WindowSet(series, spec)
scaler = wl.StandardScaler.fit(windows)
loader = wl.WindowLoader(windows, shuffle=True, scaler=scaler, fill={fill}, rank=0, world_size=1)
inputs, targets = next(iter(loader))
took = time.perf_counter() - begun
import gc, numba
functions = [f for f in gc.get_objects() if isinstance(f, numba.core.registry.CPUDispatcher)]
print(inputs.shape[0], sum(sum(f.stats.cache_misses.values()) for f in functions), took)
loader.close()
"""
SEVERAL = {  # two features and a clock, of many nodes
    "values = np.arange(30_000, dtype=\"float32\").reshape(6000, 5)":
        "values = np.arange(480_000, dtype=\"float32\").reshape(6000, 40, 2)",
    "features=[\"speed\"]": "axes=\"tnf\", features=[\"speed\", \"flow\"]",
    "inputs=[\"speed\", \"time_of_day\"], targets=[\"speed\"]":
        "inputs=[\"speed\", \"flow\", \"time_of_day\"], targets=[\"speed\", \"flow\"]",
}  # fmt: skip


def run(code, folder, **more):
    """What a fresh process prints, with its kernels kept in a folder."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), **more}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def first_batch(missing=None, fill=None, *, several=False):
    code = FIRST.format(missing=missing, fill=fill)
    for one, other in SEVERAL.items() if several else ():
        assert one in code
        code = code.replace(one, other)
    return code


def test_it_says_what_it_compiled():
    kinds = list(warm_up(["float32"], ["float32"], missing=False))
    assert [(kind.source, kind.dtype, kind.missing) for kind in kinds] == [("float32", "float32", False)]
    assert kinds[0].seconds > 0
    assert os.path.isdir(cache_folder())


@pytest.mark.parametrize("wrong", [{"sources": ["complex64"]}, {"dtypes": ["int8"]}])
def test_a_dtype_that_is_none_is_refused(wrong):
    with pytest.raises(LoaderError, match=r"complex64|int8.*float32"):
        list(warm_up(**wrong))


@pytest.mark.campaign
def test_first_batches_compile_nothing_after_it(tmp_path):
    run("from windowloader.warmup import warm_up; list(warm_up())", tmp_path)
    for code in (first_batch(), first_batch(0.0, 0.0), first_batch(0.0), first_batch(several=True)):
        windows, compiled, _ = run(code, tmp_path)
        assert (windows, compiled) == ("64", "0")
    tmp_path.chmod(0o555)  # root writes all the same, but nothing is left to write
    assert run(first_batch(), tmp_path)[1] == "0"


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["kernels.py", "vectors.py", "numbers.py"])
def test_a_changed_file_of_the_kernels_compiles_them_anew(tmp_path, name):
    package = tmp_path / "windowloader"
    shutil.copytree(
        Path(wl.__file__).parent, package, ignore=shutil.ignore_patterns("adapters", "__pycache__")
    )
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    counts = [run(first_batch(), tmp_path / "cache", **environment)[1] for _ in range(2)]
    with (package / "batch" / name).open("a") as file:
        file.write("# another release\n")
    counts.append(run(first_batch(), tmp_path / "cache", **environment)[1])
    assert counts[1] == "0"
    assert int(counts[0]) > int(counts[2]) > 0  # what is not of a batch stays


@pytest.mark.campaign
def test_two_processes_warm_one_cache_up_at_once(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    code = "from windowloader.warmup import warm_up; list(warm_up(['float32'], ['float32'], missing=False))"
    ranks = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [rank.wait(timeout=280) for rank in ranks] == [0, 0]
    assert run(first_batch(), tmp_path)[0] == "64"


@pytest.mark.measure
def test_the_first_batch_comes_soon_after_the_start(tmp_path):
    """With kernels cached, within four times what importing numba and one compiled addition cost by themselves."""
    run("from windowloader.warmup import warm_up; list(warm_up(missing=False))", tmp_path)
    alone = "import numba; numba.njit(lambda x: x + 1)(1)"
    ratios = []
    for _ in range(5):
        begun = time.perf_counter()
        run(alone, tmp_path)
        reference = time.perf_counter() - begun
        begun = time.perf_counter()
        run(first_batch(), tmp_path)
        ratios.append((time.perf_counter() - begun) / reference)
    assert sorted(ratios)[2] < 4, ratios
