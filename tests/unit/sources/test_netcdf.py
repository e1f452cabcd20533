from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

from windowloader.errors import (
    AxesError,
    CorruptDataError,
    MissingExtraError,
    SeriesError,
    SourceFormatError,
)
from windowloader.series.clock import Clock
from windowloader.sources.hdf5_dataset import HDF5Source
from windowloader.sources.memory import ArraySource, MappedSource
from windowloader.sources.netcdf import XarraySource
from windowloader.sources.registry import list_variables, open_source
from windowloader.testing import check_source

if TYPE_CHECKING:
    from pathlib import Path

TIMES = np.datetime64("2019-03-01", "ns") + np.arange(8) * np.timedelta64(1, "h")


def grid(dtype: str = "f4") -> xr.Dataset:
    values = np.arange(8 * 3 * 4).reshape(8, 3, 4).astype(dtype)
    coords = {"time": TIMES, "lat": np.array([50.0, 50.5, 51.0]), "lon": np.arange(4.0)}
    return xr.Dataset({"t2m": (("time", "lat", "lon"), values)}, coords)


def test_era5(data: Path) -> None:
    path = data / "era5_uk" / "era5-2mt-2019-03-uk.nc"
    source = open_source(path)
    with xr.open_dataset(path) as dataset:
        check_source(source, dataset["t2m"].values, timestamps=dataset["time"].values.astype("M8[ns]"))
        np.testing.assert_array_equal(source.labels(1), dataset["latitude"].values)
    assert (source.axes, source.shape) == ("tnn", (744, 33, 49))
    assert list_variables(path) == ("t2m",)


def test_iris(data: Path) -> None:
    path = data / "iris" / "ostia_monthly.nc"
    with xr.open_dataset(path) as dataset:
        expected, times = dataset["surface_temperature"].values, dataset["time"].values.astype("M8[ns]")
    assert np.isnan(expected).sum() == 110970
    source = open_source(path)
    check_source(source, expected, timestamps=times)
    np.testing.assert_array_equal(source.storage().edges, np.arange(55))


def test_dates_of_a_model_that_are_real_are_given(data: Path) -> None:
    source = open_source(data / "iris" / "A1B_north_america.nc")
    assert source.shape == (240, 37, 49)
    clock = Clock.from_timestamps(source.timestamps(), 240)
    assert clock.texts([0, 239]) == ["1860-06-01T00:00:00", "2099-06-01T00:00:00"]
    assert clock.calendar == "360_day"
    assert len(clock.rows) == 1  # a year is 360 days


def test_dates_of_a_calendar_of_its_own_are_kept(tmp_path: Path) -> None:
    said = {"units": "days since 2001-02-01", "calendar": "360_day"}
    dataset = grid().assign_coords(time=("time", np.arange(25, 33), said))
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    source = open_source(tmp_path / "a.nc")
    assert source.axes == "tnn"
    with xr.open_dataset(tmp_path / "a.nc") as decoded:
        for found in (source, open_source(decoded["t2m"].load())):
            clock = Clock.from_timestamps(found.timestamps(), 8)
            assert clock.texts(np.arange(8)) == [date.isoformat() for date in decoded["time"].values]
    assert clock.texts([4]) == ["2001-02-30T00:00:00"]
    with pytest.raises(SeriesError, match=r"360_day.*texts"):
        clock.timestamps([4])


def test_nemo_one_month_a_file(data: Path) -> None:
    folder = data / "iris" / "NEMO"
    paths = sorted(folder.glob("*.nc"))
    source = open_source(paths, variable="tos")
    expected = []
    for path in paths:
        with xr.open_dataset(path, decode_times=False) as dataset:
            expected.append(dataset["tos"].values)
    check_source(source, np.concatenate(expected), timestamps=source.timestamps())
    np.testing.assert_array_equal(source.storage().edges, [0, 1, 2, 3])
    months = Clock.from_timestamps(source.timestamps(), 3).timestamps([0, 1, 2]).astype("M8[M]")
    np.testing.assert_array_equal(months, np.arange("2015-01", "2015-04", dtype="M8[M]"))
    assert open_source(f"{folder}/nemo_1m_*.nc", variable="tos").shape == (3, 330, 360)
    assert list_variables(paths) == list_variables(f"{folder}/*.nc") == ("tos",)


def test_stored_as_they_are_they_are_mapped_or_read_by_h5py(tmp_path: Path) -> None:
    grid().to_netcdf(tmp_path / "plain.nc", engine="h5netcdf")
    grid().to_netcdf(
        tmp_path / "zip.nc", engine="h5netcdf", encoding={"t2m": {"zlib": True, "chunksizes": (2, 3, 4)}}
    )
    plain, packed = open_source(tmp_path / "plain.nc"), open_source(tmp_path / "zip.nc")
    assert isinstance(plain, MappedSource)
    assert isinstance(packed, HDF5Source)
    for source in (plain, packed):
        check_source(source, grid()["t2m"].values, timestamps=TIMES, fork=False)
        np.testing.assert_array_equal(source.labels(1), [50, 50.5, 51])


def test_packed_values_are_decoded_as_they_are_read(tmp_path: Path) -> None:
    dataset = grid("f8")
    dataset["t2m"][2, 1, 1] = np.nan
    how = {
        "dtype": "int16",
        "scale_factor": 0.5,
        "add_offset": 10.0,
        "_FillValue": -32768,
        "chunksizes": (3, 3, 4),
    }
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"t2m": how})
    source = open_source(tmp_path / "a.nc")
    assert isinstance(source, HDF5Source)
    with xr.open_dataset(tmp_path / "a.nc") as decoded:
        check_source(source, decoded["t2m"].values, timestamps=TIMES)
    np.testing.assert_array_equal(source.storage().edges, [0, 3, 6, 8])


def test_netcdf_3(tmp_path: Path) -> None:
    grid().to_netcdf(tmp_path / "a.nc", engine="scipy")
    check_source(open_source(tmp_path / "a.nc"), grid()["t2m"].values, timestamps=TIMES)


def test_time_is_found_by_cf_wherever_it_lies(tmp_path: Path) -> None:
    dataset = grid().rename(time="when").transpose("lat", "when", "lon")
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    source = open_source(tmp_path / "a.nc")
    assert (source.axes, source.shape) == ("tnn", (8, 3, 4))
    check_source(source, grid()["t2m"].values, timestamps=TIMES, fork=False)
    with pytest.raises(AxesError, match="axes="):
        open_source(dataset.drop_vars("when")["t2m"])
    assert open_source(dataset.drop_vars("when")["t2m"], axes="ntn").shape == (8, 3, 4)


def test_which_variable_is_asked_for(tmp_path: Path) -> None:
    dataset = grid().assign(d2m=grid()["t2m"], land=(("lat", "lon"), np.ones((3, 4))))
    dataset["edges"] = (("time", "b"), np.ones((8, 2)))
    dataset["lat"].attrs["bounds"] = "edges"
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert list_variables(tmp_path / "a.nc") == list_variables(dataset) == ("t2m", "d2m")
    with pytest.raises(SourceFormatError, match="holds 2 arrays: 't2m', 'd2m'"):
        open_source(tmp_path / "a.nc")
    with pytest.raises(SourceFormatError, match="no variable 't2'; it holds 't2m', 'd2m'"):
        open_source(dataset, variable="t2")
    assert open_source(tmp_path / "a.nc", variable="land", axes="nn").axes == "nn"


def test_xarray_in_memory_is_not_copied() -> None:
    array = grid()["t2m"]
    source = open_source(array)
    assert isinstance(source, ArraySource)
    assert np.shares_memory(source.array(), array.values)  # type: ignore[arg-type]
    check_source(source, array.values, timestamps=TIMES, pickled_bytes=None, fork=False)


def test_xarray_on_disk_is_read_by_rows(tmp_path: Path) -> None:
    grid().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "a.nc", cache=False) as dataset:
        source = open_source(dataset)
        assert isinstance(source, XarraySource)
        check_source(source, grid()["t2m"].values, timestamps=TIMES, pickled_bytes=None)
        later = open_source(dataset["t2m"].isel(time=slice(3, None)))
        check_source(later, grid()["t2m"].values[3:], timestamps=TIMES[3:], pickled_bytes=None, fork=False)
        assert later.fingerprint() != source.fingerprint()


def test_only_the_rows_asked_for_are_read(tmp_path: Path, monkeypatch) -> None:
    how = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1, "chunksizes": (1, 3, 4)}
    grid().to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"t2m": how})
    with xr.open_dataset(tmp_path / "a.nc", cache=False) as dataset:
        source = open_source(dataset)
        monkeypatch.setattr(xr.Variable, "load", lambda *_: pytest.fail("loaded as a whole"))
        read = []
        values = property(lambda self: read.append(self.shape) or np.asarray(self._data))
        monkeypatch.setattr(xr.Variable, "values", values)
        source.read(2, 4, np.empty((2, 3, 4), source.dtype))
        assert read == [(2, 3, 4)]
        source.close()


def test_broken_and_missing(tmp_path: Path, monkeypatch) -> None:
    grid().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    whole = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "short.nc").write_bytes(whole[:-500])
    with pytest.raises(CorruptDataError, match=r"short\.nc"):
        open_source(tmp_path / "short.nc")
    (tmp_path / "no.nc").write_bytes(b"nothing at all")
    with pytest.raises(SourceFormatError, match=r"no\.nc"):
        open_source(tmp_path / "no.nc")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"windowloader\[netcdf\]"):
        open_source(tmp_path / "a.nc")


def test_no_time_coordinate_is_no_warning(tmp_path: Path) -> None:
    source = open_source(grid().drop_vars("time"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source.timestamps() is None
        assert pickle.loads(pickle.dumps(source)).timestamps() is None
