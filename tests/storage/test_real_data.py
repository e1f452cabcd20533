"""Measured data as they are published, through a loader: values, times and labels are xarray's or pandas' own."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conformance import Expected, by_pandas, by_xarray, described, holds, opened

import windowloader as wl


def read(path, name, time="time", **options):
    """Read a variable by xarray."""
    with xr.open_dataset(path, **{"engine": "h5netcdf", **options}) as dataset:
        return by_xarray(dataset[name].load(), time)


def test_era5(data):
    path = data / "era5_uk" / "era5-2mt-2019-03-uk.nc"
    expected = read(path, "t2m")
    assert expected.values.shape == (744, 33, 49, 1)
    assert expected.times[0] == np.datetime64("2019-03-01T00:00")
    holds(path, expected)


def test_era5_as_grib(data, tmp_path):
    pytest.importorskip("cfgrib", reason="GRIB needs cfgrib, eccodes and eccodeslib")
    path = tmp_path / "era5.grib"
    shutil.copyfile(data / "era5_uk" / "era5-2mt-2019-03-uk.grib", path)
    expected = read(path, "t2m", engine="cfgrib", backend_kwargs={"indexpath": ""})
    beside = read(data / "era5_uk" / "era5-2mt-2019-03-uk.nc", "t2m")
    np.testing.assert_array_equal(expected.values, beside.values)
    holds(path, expected)
    assert [one.name for one in tmp_path.iterdir()] == [path.name], "an index beside the user's file"


def test_sea_surface_with_land(data):
    path = data / "iris" / "ostia_monthly.nc"
    expected = read(path, "surface_temperature")
    assert np.isnan(expected.values).sum() == 110970
    holds(path, expected)


def test_a_model_year_of_360_days(data):
    path = data / "iris" / "A1B_north_america.nc"
    expected = read(path, "air_temperature")
    assert (expected.times[0], expected.times[-1]) == ("1860-06-01T00:00:00", "2099-06-01T00:00:00")
    holds(path, expected)
    with opened(path) as series:
        windows = wl.WindowSet(series, wl.WindowSpec(lookback=6, horizon=6))
        assert len(windows) == 240 - 11, "a year of 360 days is no gap"


def test_three_files_are_joined_along_time(data):
    paths = sorted((data / "iris" / "NEMO").glob("*.nc"))
    parts = [read(path, "tos", "time_counter") for path in paths]
    months = [text for part in parts for text in part.times]
    assert [text[:7] for text in months] == ["2015-01", "2015-02", "2015-03"]
    expected = Expected(np.concatenate([part.values for part in parts]), ("tos",), months)
    holds(paths, expected, variables=["tos"])
    for others in (paths[::-1], str(paths[0].parent / "nemo_1m_*.nc")):
        with opened(others, variables=["tos"]) as series:
            described(series, expected)


def test_ett(data):
    path = data / "ett" / "ETTh1.csv"
    frame = pd.read_csv(path, index_col="date", parse_dates=["date"])
    assert frame.shape == (17420, 7)
    table = by_pandas(frame)
    holds(path, Expected(table.values[..., 0][:, :], tuple(frame.columns), table.times), axes="tf")
    holds(frame, Expected(table.values[..., 0][:, :], tuple(frame.columns), table.times), axes="tf")


def test_metr_la(data):
    path = data / "metr_la_week" / "los_speed.csv"
    frame = pd.read_csv(path).set_index(pd.date_range("2012-03-01", periods=2016, freq="5min"))
    assert frame.shape == (2016, 207)
    clock = {"timestamps": ("2012-03-01", "5min")}
    holds(path, by_pandas(frame, "speed"), features=["speed"], graph=path.with_name("adj_mx.pkl"), **clock)
    holds(frame, by_pandas(frame))


@pytest.mark.parametrize("name", ["chickenpox", "pedalme_london", "england_covid", "montevideo_bus"])
def test_pgt(data, name):
    said = json.loads((data / "pgt" / f"{name}.json").read_text())
    if name == "montevideo_bus":
        frame = pd.DataFrame({node["bus_stop"]: node["y"] for node in said["nodes"]})
    else:
        frame = pd.DataFrame(said["FX"] if name == "chickenpox" else said["y" if "y" in said else "X"])
    frame.index = pd.date_range("2010-01-03", periods=len(frame), freq="7D")
    assert len(frame) in (521, 35, 61, 744)
    holds(frame, by_pandas(frame))
    values = frame.to_numpy()
    holds(values, Expected(values.astype("f8")[..., None], ("value",)))
