"""Files that somebody truncates, saves over or replaces while they are read, each case in a process of its own.

A process that a bus error ends fails its case, and so does a batch with other values than the file had when it was
opened. All must end with `SourceChangedError`, or with every batch right where the bytes that are read stay.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pytest

CHILD = r"""
import json, os, sys, tempfile, time, traceback
import h5py, numpy as np, windowloader as wl, xarray as xr
from windowloader.rows import read_plan
from windowloader.errors import SourceChangedError, SourceNotFoundError

ROWS = 3000
SUFFIXES = {"raw": "bin", "hdf5": "h5", "chunked": "h5", "frame": "h5", "netcdf3": "nc", "netcdf4": "nc",
            "packed3": "nc", "lazy3": "nc"}


class Case:
    def __init__(self, kind, fault, moment, delay):
        self.kind, self.fault, self.moment, self.delay = kind, fault, moment, delay
        self.nodes = 600 if "threads" in moment else 64
        self.values = np.arange(ROWS * self.nodes, dtype="f4").reshape(ROWS, self.nodes) % 8191
        self.path = os.path.join(tempfile.mkdtemp(dir=sys.argv[1]), "a." + SUFFIXES.get(kind, "npy"))
        self.truth = np.concatenate([self.values, self.values]) if kind == "joined" else self.values
        self.truth = self.truth[:, [5, 1, 3]] if kind == "nodes" else self.truth

    def write(self, path, values):
        kind = self.kind
        if kind == "raw":
            values.tofile(path)
        elif kind in ("hdf5", "chunked"):
            with h5py.File(path, "w") as file:
                file.create_dataset("speed", data=values, chunks=(100, self.nodes) if kind == "chunked" else None)
        elif kind == "frame":
            with h5py.File(path, "w") as file:
                group = file.create_group("df")
                group.attrs.update(pandas_type="frame", nblocks=1)
                group["axis0"] = group["block0_items"] = np.array([f"s{i}" for i in range(self.nodes)], "S")
                group["block0_values"] = values
        elif kind in ("netcdf3", "netcdf4", "packed3", "lazy3"):
            made = xr.Dataset({"speed": (("time", "node"), values)})
            packed = {"dtype": "i2", "scale_factor": 1.0, "_FillValue": -1}
            made.to_netcdf(path, encoding={"speed": packed if kind == "packed3" else {"_FillValue": None}},
                           engine="h5netcdf" if kind == "netcdf4" else "scipy")
        else:
            forms = {"big_endian": values.astype(">f4"), "fortran": np.asfortranarray(values)}
            np.save(path, forms.get(kind, values))

    def open(self):
        kind, path = self.kind, self.path
        if kind == "raw":
            return wl.open(path, shape=(ROWS, self.nodes), dtype="f4")
        if kind == "memmap":
            return wl.open(np.load(path, mmap_mode="r"))
        if kind == "joined":
            return wl.open([path, path])
        if kind == "lazy3":  # xarray hides the file, so that only reading can notice; rows in memory stay right
            read_plan.PRELOAD = False
            return wl.open(xr.open_dataset(path, engine="scipy")["speed"])
        return wl.open(path).select(nodes=[5, 1, 3]) if kind == "nodes" else wl.open(path)

    def strike(self):
        path, fault = self.path, self.fault
        if fault in ("truncated", "emptied"):
            os.truncate(path, 5000 if fault == "truncated" else 0)
        elif fault in ("saved_over", "shorter"):
            other = path + ".other" + os.path.splitext(path)[1]
            self.write(other, (self.values if fault == "saved_over" else self.values[:100]) + 1)
            with open(path, "wb") as file:  # as another process would: HDF5 refuses what is open here
                file.write(open(other, "rb").read())
        elif fault == "in_place":
            with open(path, "r+b") as file:
                file.seek(os.path.getsize(path) // 2)
                file.write(b"\x01\x02\x03\x04" * 2048)
        elif fault == "renamed":
            other = os.path.join(os.path.dirname(path), "other_" + os.path.basename(path))
            self.write(other, self.values + 1)
            os.replace(other, path)
        elif fault == "removed":
            os.unlink(path)

    def epoch(self, loader, at=None):
        for number, batch in enumerate(loader):
            if not np.array_equal(batch.inputs[..., 0], self.truth[batch.starts[:, None] + np.arange(12)]):
                raise AssertionError("other values, and no error")
            if number == at:
                self.strike()

    def run(self):
        self.write(self.path, self.values)
        os.utime(self.path, (1e9, 1e9))  # long ago: no clock tick hides a change
        moment = self.moment
        series = self.open()
        windows = wl.WindowSet(series, wl.WindowSpec(lookback=12, horizon=1))
        if moment == "opened":
            self.strike()
        options = {"threads": 2, "prefetch_batches": 4} if "threads" in moment else {}
        loader = wl.WindowLoader(windows, batch_size=64, shuffle=moment != "ordered", **options)
        if moment == "made":
            self.strike()
        elif moment in ("first_batch", "ordered", "threads_first"):
            self.epoch(loader, at=0)
        elif moment in ("later_batch", "threads_later"):
            self.epoch(loader, at=5)
        elif moment == "between_epochs":
            self.epoch(loader)
            self.strike()
        elif moment == "scanned":
            self.strike()
            wl.StandardScaler.fit(windows)
        elif moment == "fork":
            self.epoch(loader)
            self.apart(lambda: [self.epoch(loader, at=2), self.epoch(loader)])
        elif "other" in moment:
            self.epoch(loader)
            if os.fork() == 0:
                time.sleep(self.delay)
                self.strike()
                os._exit(0)
            for _ in range(1000):
                self.epoch(loader)
        self.epoch(loader)

    def apart(self, run):
        if (child := os.fork()) == 0:
            os._exit(0 if told(run) else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0, f"the forked process ended with {code}"

    def ended(self):
        return "told" if told(self.run) else "missed"


def told(run):
    try:
        run()
    except (SourceChangedError, SourceNotFoundError) as error:
        assert "a." in str(error) or "'speed'" in str(error), error
        return True
    return False


warm = Case("npy", "none", "ordered", 0.0)
warm.run()
for given in json.loads(sys.argv[2]):
    sys.stdout.flush()
    if os.fork() == 0:
        try:
            print(*given, Case(*given).ended())
        except BaseException:
            print(*given, "raised", traceback.format_exc())
        sys.stdout.flush()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    if code:
        print(*given, "ended with", code)
"""


def ended(folder, cases):
    """Run cases, each in a process of its own; those that did not end as they should."""
    command = [sys.executable, "-c", CHILD, str(folder), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.endswith(" told") for line in lines) == len(cases), done.stdout


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


def test_a_file_that_changes_raises_without_a_bus_error(tmp_path):
    ended(tmp_path, [(*case, 0.0) for case in FEW])


def test_a_file_that_another_process_truncates_while_it_is_read(tmp_path):
    delays = [0.02 + 0.013 * number for number in range(4)]
    moments = itertools.product(["threads_other", "other_process"], delays)
    ended(tmp_path, [("npy", "truncated", moment, delay) for moment, delay in moments])


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_at_every_moment(tmp_path, kind):
    """Every seventh of all faults and moments, other ones for each kind; ``EVERY=1`` takes all."""
    every, faults, moments = int(os.environ.get("EVERY", 7)), FAULTS, MOMENTS
    if (
        kind == "lazy3"
    ):  # xarray does not say which file it has open, and a parent may have its values in memory
        faults, moments = FAULTS[:2], MOMENTS[:-1]
    cases = [(kind, fault, moment, 0.0) for fault, moment in itertools.product(faults, moments)]
    for fault, number in itertools.product(faults, range(4)):
        cases.append((kind, fault, ("other_process", "threads_other")[number % 2], 0.02 + 0.017 * number))
    ended(tmp_path, cases[KINDS.index(kind) % every :: every])
