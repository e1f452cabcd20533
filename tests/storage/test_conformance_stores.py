"""Stores of zarr-python, exceptions from xarray's behaviour, and files that are refused with a reason.

Exceptions, from design: what a file means is xarray's word, but for these.

1. The fill value of a Zarr 2 array marks missing cells only where an attribute (``_FillValue``, ``missing_value``) or
   ``missing="fill_value"`` says so. xarray takes it as a mark always, and zarr-python's default of 0 then makes every
   true 0 (counts at night, dry hours) a NaN, and the first of times counted from 0 a NaT.
2. Stored dtypes stay until the gather, so that a batch of float64 holds what was stored; xarray decodes numbers that
   have a mark to floats at once. The numbers are equal where the dtype that xarray chooses holds them.
3. A list or an array of one number as ``scale_factor`` or ``add_offset`` is that number. xarray makes an array of
   objects of it in Zarr, and takes it as a number in netCDF.
4. A coordinate of the dimension that is time, of numbers without units, gives way to an auxiliary coordinate of dates
   over the same dimension; text in ISO form is taken as times. xarray leaves both as they are.
5. Labels of nodes are whole numbers or text: 11.5 is the label ``"11.5"``, as a header of a table has it.
6. A variable in a group is called by its path, ``met/low/v``; xarray opens one group at a time.
"""

from __future__ import annotations

import warnings

import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from conformance import Expected, Places, by_pandas, by_xarray, holds

import windowloader as wl

ROWS = 9
TIMES = pd.date_range("2000-02-28T20:00", periods=ROWS, freq="h")
VALUES = np.random.default_rng(4).integers(1, 200, (ROWS, 3)) / 4
UNITS = {"units": "hours since 2000-02-28T20:00"}


def dataset(**more) -> xr.Dataset:
    return xr.Dataset({"v": (("time", "x"), VALUES), **more}, {"time": TIMES, "x": [7, 3, 5]})


def expected() -> Expected:
    return by_xarray(dataset()["v"], "time")


def filled(store, form=3):
    """Write to any store by xarray."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata of Zarr 3
        dataset().to_zarr(store, zarr_format=form, mode="w", encoding={"v": {"chunks": (4, 2)}})


@pytest.mark.parametrize("form", [2, 3])
def test_a_store_in_memory(form):
    store = zarr.storage.MemoryStore()
    filled(store, form)
    holds(store, expected())
    holds(store, expected(), variables=["v"])
    holds(zarr.open_group(store, mode="r"), expected())


@pytest.mark.parametrize("form", [2, 3])
def test_a_zip(tmp_path, form):
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        filled(store, form)
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="r") as store:
        holds(store, expected())


def test_a_scheme_of_fsspec():
    filled("memory://conformance/a.zarr")
    holds("memory://conformance/a.zarr", expected())
    fsspec.filesystem("memory").store.clear()


def test_icechunk():
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    filled(session.store)
    session.commit("first")
    holds(repository.readonly_session("main").store, expected())


@pytest.mark.parametrize("packed", [False, True])
def test_kerchunk(tmp_path, packed):
    kerchunk = pytest.importorskip("kerchunk.hdf")
    how = {"zlib": True, "shuffle": True, "chunksizes": (4, 2), "_FillValue": np.nan}
    if packed:
        how |= {"dtype": "i2", "scale_factor": 0.25, "_FillValue": -1}
    dataset().to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"v": how})
    references = kerchunk.SingleHdf5ToZarr(str(tmp_path / "a.nc"), inline_threshold=0).translate()
    system = fsspec.filesystem(
        "reference",
        fo=references,
        remote_protocol="file",
        asynchronous=True,
        remote_options={"asynchronous": True},
    )
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as opened:
        right = by_xarray(opened["v"].load(), "time")
    holds(zarr.storage.FsspecStore(system, read_only=True, path=""), right)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("where", Places.ALL)
@pytest.mark.parametrize("form", ["netcdf4", "netcdf3", "zarr2", "zarr3"])
def test_written_by_xarray_with_an_encoding(places, tmp_path, form, where, packed):
    path = tmp_path / ("a.zarr" if form.startswith("zarr") else "a.nc")
    how = {"dtype": "i2", "scale_factor": 0.25, "add_offset": 10.0, "_FillValue": -32768} if packed else {}
    one = dataset()
    one["v"][2:4, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata of Zarr 3
        if form.startswith("zarr"):
            one.to_zarr(path, zarr_format=int(form[-1]), encoding={"v": how})
        else:
            one.to_netcdf(path, engine="scipy" if form == "netcdf3" else "h5netcdf", encoding={"v": how})
    target, options = places.put(where, path)
    if form == "zarr2" and packed:  # exception 1: xarray writes the mark as the array's fill value alone
        options["missing"] = "fill_value"
    holds(target, by_xarray(one["v"], "time"), **options)


def test_exception_1_a_fill_value_of_zarr_2_is_a_mark_only_where_it_is_said_so(tmp_path):
    counts = np.array([[0, 2], [1, 0], [4, 0], [0, 7], [3, 3]], "i4")
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    group.create_array("v", data=counts, chunks=(2, 2), attributes={"_ARRAY_DIMENSIONS": ["time", "x"]})
    assert group["v"].fill_value == 0
    path = tmp_path / "a.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that is not consolidated
        with xr.open_zarr(path, chunks=None, consolidated=False) as opened:
            theirs = by_xarray(opened["v"].load(), "time")
    np.testing.assert_array_equal(np.isnan(theirs.values[..., 0]), counts == 0)  # as xarray has it
    holds(path, Expected(counts[..., None].astype("f8"), ("v",)))
    holds(path, theirs, missing="fill_value")


def test_exception_2_stored_dtypes_stay_until_the_gather(tmp_path):
    big = np.array([[2**24 + 1, 5], [7, 2**24 + 3], [9, 11], [13, 15]], "i4")
    xr.Dataset({"v": (("time", "x"), big)}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    holds(tmp_path / "a.nc", Expected(big[..., None].astype("f8"), ("v",)))


def test_exception_3_an_array_of_one_number_is_a_number(tmp_path):
    raw = np.arange(10, dtype="i2").reshape(5, 2)
    for form in (2, 3):
        said = {"scale_factor": [0.5], "add_offset": [1.0]}
        names = {"dimension_names": ("time", "x")} if form == 3 else {}
        if form == 2:
            said["_ARRAY_DIMENSIONS"] = ["time", "x"]
        group = zarr.create_group(tmp_path / f"{form}.zarr", zarr_format=form)
        group.create_array("v", data=raw, attributes=said, fill_value=None if form == 2 else 0, **names)
        holds(tmp_path / f"{form}.zarr", Expected((raw * 0.5 + 1)[..., None], ("v",)))


@pytest.mark.parametrize("where", Places.ALL)
def test_nan_among_the_attributes_of_zarr_3(places, tmp_path, where):
    one = dataset()
    one["v"][2, 1] = np.nan
    one["v"].attrs["missing_value"] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata of Zarr 3
        one.to_zarr(tmp_path / "a.zarr", zarr_format=3)
    target, options = places.put(where, tmp_path / "a.zarr")
    holds(target, by_xarray(one["v"], "time"), **options)


@pytest.mark.parametrize("where", Places.ALL)
@pytest.mark.parametrize("form", ["netcdf4", "zarr2", "zarr3"])
def test_no_rows_are_an_error(places, tmp_path, form, where):
    empty = xr.Dataset(
        {"v": (("time", "x"), np.zeros((0, 3), "f4"))}, {"time": ("time", np.zeros(0, "i4"), UNITS)}
    )
    path = tmp_path / ("a.nc" if form == "netcdf4" else "a.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata of Zarr 3
        if form == "netcdf4":
            empty.to_netcdf(path, engine="h5netcdf", unlimited_dims=["time"])
        else:
            empty.to_zarr(path, zarr_format=int(form[-1]))
    target, options = places.put(where, path)
    with pytest.raises(wl.errors.WindowLoaderError, match=r"\b(no|0) (rows|steps|windows)\b"):
        wl.WindowSet(wl.open(target, **options), wl.WindowSpec(lookback=2, horizon=1))


@pytest.mark.parametrize(
    ("where", "there"),
    [("disk", True), ("disk", False), ("s3", True), ("http", False)],
)
def test_virtual_datasets_need_their_sources(places, tmp_path, where, there):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["data"] = VALUES[:5]
    with h5py.File(tmp_path / "rest.h5", "w") as file:
        file["data"] = VALUES[5:]
    layout = h5py.VirtualLayout((ROWS, 3), "f8")
    layout[:5] = h5py.VirtualSource("part.h5", "data", (5, 3))
    layout[5:] = h5py.VirtualSource("rest.h5", "data", (4, 3))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("v", layout, fillvalue=0)
    if not there:
        (tmp_path / "rest.h5").unlink()
    target, options = places.put(where, tmp_path / "a.h5")
    right = Expected(VALUES[..., None], ("v",))
    if there and where == "disk":
        holds(target, right)
        return
    with pytest.raises(wl.errors.WindowLoaderError, match="rest" if where == "disk" else "other files"):
        holds(target, right, **options)


def test_a_multiindex_of_nodes():
    stacked = dataset().expand_dims(level=[1, 2]).stack(node=("level", "x"))["v"]
    right = by_xarray(stacked.transpose("time", "node"), "time")
    holds(stacked, Expected(right.values, ("v",), right.times))


def test_a_multiindex_of_rows():
    stacked = dataset()["v"].stack(row=("time", "x"))
    with pytest.raises(wl.errors.WindowLoaderError, match="row"):
        wl.open(stacked)
    frame = dataset()["v"].to_dataframe()
    holds(frame, by_pandas(frame["v"].unstack("x")))
