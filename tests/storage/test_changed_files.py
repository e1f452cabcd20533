"""Files that somebody truncates, saves over or replaces while they are read, each case in a process of its own.

A process that a bus error ends fails its case, and so does a batch with other values than the file had when it was
opened. All must end with `SourceChangedError`, or with every batch right where the bytes that are read stay.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

CHILD = r"""
import os, sys, tempfile, threading, time, warnings
import h5py, numpy as np, windowloader as wl
from windowloader.errors import SourceChangedError, SourceNotFoundError

kind, fault, moment = sys.argv[1:4]
ROWS, NODES = 3000, 64 if "threads" not in moment else 600
VALUES = np.arange(ROWS * NODES, dtype="f4").reshape(ROWS, NODES) % 8191
folder = tempfile.mkdtemp(dir=sys.argv[4])
path = os.path.join(folder, "a." + {"raw": "bin", "hdf5": "h5", "chunked": "h5", "netcdf3": "nc", "netcdf4": "nc",
                                    "packed3": "nc", "lazy3": "nc", "frame": "h5"}.get(kind, "npy"))


def write(path, values):
    import xarray as xr
    if kind == "raw":
        values.tofile(path)
    elif kind in ("hdf5", "chunked"):
        with h5py.File(path, "w") as file:
            file.create_dataset("speed", data=values, chunks=(100, NODES) if kind == "chunked" else None)
    elif kind == "frame":
        with h5py.File(path, "w") as file:
            group = file.create_group("df")
            group.attrs.update(pandas_type="frame", nblocks=1)
            group["axis0"] = group["block0_items"] = np.array([f"s{i}" for i in range(NODES)], "S")
            group["block0_values"] = values
    elif kind in ("netcdf3", "netcdf4", "packed3", "lazy3"):
        made = xr.Dataset({"speed": (("time", "node"), values)})
        packed = {"dtype": "i2", "scale_factor": 1.0, "_FillValue": -1}
        made.to_netcdf(path, encoding={"speed": packed if kind == "packed3" else {"_FillValue": None}},
                       engine="h5netcdf" if kind == "netcdf4" else "scipy")
    else:
        np.save(path, {"big_endian": values.astype(">f4"), "fortran": np.asfortranarray(values)}.get(kind, values))


def open_series():
    if kind == "raw":
        return wl.open(path, shape=(ROWS, NODES), dtype="f4")
    if kind == "memmap":
        return wl.open(np.load(path, mmap_mode="r"))
    if kind == "joined":
        return wl.open([path, path])
    if kind == "lazy3":
        import xarray as xr
        return wl.open(xr.open_dataset(path, engine="scipy")["speed"])
    if kind == "nodes":
        return wl.open(path).select(nodes=[5, 1, 3])
    return wl.open(path)


def strike():
    if fault == "truncated":
        os.truncate(path, 5000)
    elif fault == "emptied":
        os.truncate(path, 0)
    elif fault == "saved_over":
        write(path, VALUES + 1)
    elif fault == "shorter":
        write(path, VALUES[:100] + 1)
    elif fault == "in_place":
        with open(path, "r+b") as file:
            file.seek(os.path.getsize(path) // 2)
            file.write(b"\x01\x02\x03\x04" * 2048)
    elif fault == "renamed":
        other = os.path.join(folder, "other_" + os.path.basename(path))
        write(other, VALUES + 1)
        os.replace(other, path)
    elif fault == "removed":
        os.unlink(path)


def held(batch):
    rows = batch.starts[:, None] + np.arange(12)
    truth = np.concatenate([VALUES, VALUES]) if kind == "joined" else VALUES
    truth = truth[:, [5, 1, 3]] if kind == "nodes" else truth
    if not np.array_equal(batch.inputs[..., 0], truth[rows]):
        print("WRONG VALUES")
        os._exit(3)


def run(loader, at=None):
    for number, batch in enumerate(loader):
        held(batch)
        if number == at:
            strike()


write(path, VALUES)
os.utime(path, (1e9, 1e9))  # long ago: a clock tick cannot hide a change
done = "none"
try:
    series = open_series()
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=12, horizon=1))
    if moment == "opened":
        strike()
    options = {"threads": 2, "prefetch_batches": 4} if "threads" in moment else {}
    loader = wl.WindowLoader(windows, batch_size=64, shuffle=moment != "ordered", **options)
    if moment == "made":
        strike()
    if moment in ("first_batch", "ordered", "threads_first"):
        run(loader, at=0)
    elif moment in ("later_batch", "threads_later"):
        run(loader, at=5)
    elif moment in ("other_process", "threads_other"):
        run(loader)
        if os.fork() == 0:
            time.sleep(float(sys.argv[5]))
            strike()
            os._exit(0)
        for _ in range(10_000):
            run(loader)
            if os.path.exists(path) and fault not in ("renamed", "removed"):
                continue
    elif moment == "between_epochs":
        run(loader)
        strike()
    elif moment == "scanned":
        strike()
        wl.StandardScaler.fit(windows)
    elif moment == "fork":
        run(loader)
        if (child := os.fork()) == 0:
            try:
                run(loader, at=2)
                run(loader)
            except (SourceChangedError, SourceNotFoundError):
                os._exit(0)
            os._exit(4)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            print("child", code)
            os._exit(5)
    done = "epoch"
    run(loader)
    done = "all"
except (SourceChangedError, SourceNotFoundError) as error:
    assert path in str(error) or os.path.basename(path) in str(error), error
    print("told", type(error).__name__, "after", done)
else:
    print("missed")
sys.stdout.flush()
os._exit(0)
"""


def strike(folder, kind, fault, moment, delay=0.0):
    """Run a case; what it printed."""
    command = [sys.executable, "-c", CHILD, kind, fault, moment, str(folder), str(delay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (
        f"{kind} {fault} {moment}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done.stdout.strip()


KINDS = ["npy", "big_endian", "fortran", "nodes", "joined", "memmap", "raw", "hdf5", "chunked", "frame", "netcdf3",
         "packed3", "lazy3", "netcdf4"]  # fmt: skip
FAULTS = ["truncated", "emptied", "saved_over", "shorter", "in_place", "renamed", "removed"]
MOMENTS = ["opened", "made", "first_batch", "later_batch", "ordered", "threads_first", "threads_later",
           "between_epochs", "scanned", "fork"]  # fmt: skip
FEW = [
    ("npy", "truncated", "first_batch"),
    ("npy", "saved_over", "threads_first"),
    ("npy", "in_place", "between_epochs"),
    ("npy", "renamed", "later_batch"),
    ("npy", "emptied", "fork"),
    ("memmap", "saved_over", "later_batch"),
    ("joined", "shorter", "threads_later"),
    ("hdf5", "truncated", "threads_later"),
    ("netcdf3", "truncated", "first_batch"),
    ("raw", "truncated", "scanned"),
]


def check(kind, fault, moment, found):
    assert found.startswith("told"), f"{kind} {fault} {moment}: {found}"


@pytest.mark.parametrize(("kind", "fault", "moment"), FEW)
def test_a_file_that_changes_is_told_of_and_no_bus_error(tmp_path, kind, fault, moment):
    check(kind, fault, moment, strike(tmp_path, kind, fault, moment))


@pytest.mark.parametrize("number", range(3))
def test_a_file_that_another_process_truncates_while_threads_read_it(tmp_path, number):
    found = strike(tmp_path, "npy", "truncated", "threads_other", 0.05 + 0.013 * number)
    check("npy", "truncated", "threads_other", found)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_at_every_moment(tmp_path, kind):
    for fault, moment in itertools.product(FAULTS, MOMENTS):
        check(kind, fault, moment, strike(tmp_path, kind, fault, moment))
    for fault, number in itertools.product(FAULTS, range(4)):
        moment = ("other_process", "threads_other")[number % 2]
        check(kind, fault, moment, strike(tmp_path, kind, fault, moment, 0.02 + 0.017 * number))
