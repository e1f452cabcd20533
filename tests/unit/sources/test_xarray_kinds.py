"""Other forms of netCDF, and what users of xarray hand over: values and times as xarray has them, by a loader."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import windowloader as wl
from windowloader.errors import AxesError, CorruptDataError, MissingExtraError
from windowloader.sources.memory import ArraySource, MappedSource
from windowloader.sources.netcdf import XarraySource
from windowloader.sources.registry import list_variables, open_source
from windowloader.testing import check_source

if TYPE_CHECKING:
    from pathlib import Path

TIMES = pd.date_range("2019-03-01", periods=8, freq="h")
VALUES = np.random.default_rng(0).normal(size=(8, 3, 4)).astype("f4")


def grid(**more: Any) -> xr.Dataset:
    coords = {"time": TIMES, "lat": [50.0, 50.5, 51.0], "lon": np.arange(4.0)}
    dims = ("time", "lat", "lon")
    return xr.Dataset({"t2m": (dims, VALUES), "tp": (dims, VALUES + 1), **more}, coords)


def loaded(series: wl.Series) -> np.ndarray:
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
    with wl.WindowLoader(windows, batch_size=64, dtype="float64", fill=-1.0) as loader:
        found = np.concatenate([np.array(batch.inputs)[:, 0, ..., 0] for batch in loader])
    for variable in series.variables:
        variable.source.close()
    return found


PACKED = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 1.0, "_FillValue": -32767}


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT"])
@pytest.mark.parametrize("unlimited", [(), ("time",)])
def test_netcdf_3_is_mapped_here_and_the_same_in_a_bucket(tmp_path: Path, form: str, unlimited) -> None:
    """Records of several variables take turns in a file; packed values are unpacked as they are read."""
    dataset = grid()
    dataset["tp"][2, 1, 1] = np.nan
    dataset.to_netcdf(
        tmp_path / "a.nc", engine="scipy", format=form, unlimited_dims=unlimited, encoding={"tp": PACKED}
    )
    system = fsspec.filesystem("memory")
    system.put_file(str(tmp_path / "a.nc"), "/forms/a.nc")
    with xr.open_dataset(tmp_path / "a.nc", engine="scipy") as opened:
        expected = {name: opened[name].values for name in ("t2m", "tp")}
    for url, kind in ((tmp_path / "a.nc", MappedSource), ("memory://forms/a.nc", ArraySource)):
        assert list_variables(url) == ("t2m", "tp")
        for name, values in expected.items():
            source = open_source(url, variable=name)
            assert isinstance(source, kind)
            assert source.dtype == values.dtype
            check_source(
                source, values, timestamps=TIMES.to_numpy().astype("M8[ns]"), fork=False, pickled_bytes=None
            )
            np.testing.assert_array_equal(source.labels(1), [50, 50.5, 51])
        series = wl.open(url, variables=["tp"], missing=float("nan"))
        np.testing.assert_array_equal(loaded(series), np.nan_to_num(expected["tp"].astype("f8"), nan=-1.0))
    system.rm("/forms", recursive=True)


def test_damaged_netcdf_3_and_netcdf_of_64_bit_data(tmp_path: Path, monkeypatch) -> None:
    grid().to_netcdf(tmp_path / "a.nc", engine="scipy")
    whole = (tmp_path / "a.nc").read_bytes()
    for size in (5, 40, 200, len(whole) - 100):
        (tmp_path / "cut.nc").write_bytes(whole[:size])
        with pytest.raises(CorruptDataError, match=r"cut\.nc"):
            open_source(tmp_path / "cut.nc", variable="tp")
    monkeypatch.setitem(sys.modules, "netCDF4", None)
    (tmp_path / "five.nc").write_bytes(b"CDF\x05" + whole[4:])
    with pytest.raises(MissingExtraError, match="64-bit data.*netCDF4"):
        open_source(tmp_path / "five.nc")


def test_grib_names_what_opens_it(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.anything").write_bytes(b"GRIB" + bytes(200))
    monkeypatch.setitem(sys.modules, "cfgrib", None)
    with pytest.raises(MissingExtraError, match=r"windowloader\[grib\]"):
        open_source(tmp_path / "a.anything")


# -- objects of xarray -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_a_tree_by_path(tmp_path: Path, lazy: bool) -> None:
    tree = xr.DataTree.from_dict({
        "/": xr.Dataset(coords={"time": TIMES}),
        "/surface": xr.Dataset({"t": (("time", "x"), VALUES[:, 0])}, {"x": list("abcd")}),
        "/top/high": xr.Dataset({"t": (("time", "x"), VALUES[:, 1])}),
    })  # fmt: skip
    if lazy:
        tree.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        tree = xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf", cache=False)
    assert list_variables(tree) == ("surface/t", "top/high/t")
    for variable, row in (("surface/t", 0), ("top/high/t", 1)):
        source = open_source(tree, variable=variable)
        times = TIMES.to_numpy().astype("M8[ns]")
        check_source(source, VALUES[:, row], timestamps=times, pickled_bytes=None, fork=False)
    assert open_source(tree["surface"]).labels(1).tolist() == list("abcd")
    np.testing.assert_array_equal(loaded(wl.open(tree, variables=["top/high/t"])), VALUES[:, 1])
    tree.close()


def test_levels_of_an_index_are_labels() -> None:
    stacked = grid()["t2m"].stack(node=("lat", "lon"))
    source = open_source(stacked)
    assert source.labels(1)[:2].tolist() == ["50.0.0.0", "50.0.1.0"]
    check_source(
        source, VALUES.reshape(8, 12), pickled_bytes=None, fork=False, timestamps=source.timestamps()
    )
    assert loaded(wl.open(stacked)).shape == (8, 12)


def test_a_time_zone_is_kept() -> None:
    times = TIMES.tz_localize("Europe/Berlin")
    for target in (grid().assign_coords(time=times), grid().assign_coords(time=times)["t2m"]):
        series = wl.open(target, **({} if isinstance(target, xr.DataArray) else {"variables": ["t2m"]}))
        assert series.clock.calendar == "Europe/Berlin"
        found = series.clock.timestamps(np.arange(8))
        np.testing.assert_array_equal(found, times.tz_convert(None).to_numpy().astype("M8[ns]"))


def test_dask_and_raw_and_sliced_and_named_oddly(tmp_path: Path) -> None:
    pytest.importorskip("dask")
    dataset = grid().chunk(time=3)
    source = open_source(dataset, variable="tp")
    assert isinstance(source, XarraySource)
    np.testing.assert_array_equal(source.storage().edges, [0, 3, 6, 8])
    check_source(source, VALUES + 1, pickled_bytes=None, timestamps=source.timestamps(), fork=False)
    odd = grid().rename(t2m="a/b")
    np.testing.assert_array_equal(open_source(odd, variable="a/b").array(), VALUES)
    np.testing.assert_array_equal(open_source(grid()["t2m"].rename("time")).array(), VALUES)
    np.testing.assert_array_equal(open_source(grid()["t2m"].rename(None)).array(), VALUES)
    grid().to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"tp": PACKED})
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf", decode_cf=False, cache=False) as raw:
        later = raw["t2m"].isel(time=slice(2, None), lat=[2, 0])
        times = TIMES.to_numpy().astype("M8[ns]")
        check_source(
            open_source(later), VALUES[2:, [2, 0]], pickled_bytes=None, timestamps=times[2:], fork=False
        )


def test_forecasts_are_asked_about() -> None:
    steps = pd.to_timedelta(np.arange(3), unit="h")
    dims = ("time", "lead", "x")
    archive = xr.Dataset({"t": (dims, np.zeros((8, 3, 2)))}, {"time": TIMES, "lead": steps})
    for name in ("lead", "step", "prediction_timedelta", "anything"):
        with pytest.raises(AxesError, match=r"forecasts.*isel\("):
            open_source(archive.rename(lead=name))
    assert open_source(archive.isel(lead=1)).shape == (8, 2)
    assert open_source(archive, axes="tfn").shape == (8, 3, 2)


def test_times_along_a_dimension_of_another_name(tmp_path: Path) -> None:
    """CF's discrete samples: time is a coordinate of the dimension obs."""
    dataset = xr.Dataset(
        {"speed": (("obs", "station"), VALUES[:, 0], {"coordinates": "time name"})},
    )
    dataset["time"] = ("obs", np.arange(8), {"units": "hours since 2019-03-01", "standard_name": "time"})
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert list_variables(tmp_path / "a.nc") == ("speed",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_source(tmp_path / "a.nc")
    assert source.axes == "tn"
    np.testing.assert_array_equal(source.timestamps(), TIMES.to_numpy().astype("M8[ns]"))


def test_periods_begin_when_their_timestamps_say() -> None:
    months = pd.period_range("2000-01", periods=8, freq="M")
    kinds = pd.CategoricalIndex(["a", "b", "a"])
    array = xr.DataArray(VALUES[:, :, 0], {"time": months, "kind": kinds}, ("time", "kind"), name="speed")
    series = wl.open(array)
    assert series.clock is not None
    found = series.clock.timestamps(np.arange(8))
    np.testing.assert_array_equal(found, months.to_timestamp().to_numpy().astype("M8[ns]"))
    assert open_source(array).labels(1).tolist() == ["a", "b", "a"]  # type: ignore[union-attr]
