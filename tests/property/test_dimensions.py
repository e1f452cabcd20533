"""What dimensions are by their names and CF attributes: time, space, features; forecasts are refused."""

from __future__ import annotations

import tempfile
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import AxesError, SourceFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

TIME = pd.date_range("2020-01-01", periods=9, freq="h")
#: name of a dimension, attributes of its coordinate, its letter
KNOWN = (
    ("latitude", {"units": "degrees_north"}, "n"),
    ("lon", {"standard_name": "longitude"}, "n"),
    ("band", {"units": "degrees_east"}, "n"),
    ("station", {}, "n"),
    ("x", {"axis": "X"}, "n"),
    ("level", {}, "f"),
    ("z", {"axis": "Z"}, "f"),
    ("p", {"positive": "down"}, "f"),
    ("member", {}, "f"),
    ("realization", {}, "f"),
    ("e", {"standard_name": "realization"}, "f"),
    ("quantile", {}, "f"),
)


def stores(dataset: xr.Dataset, folder: str) -> Iterator[Any]:
    """Yield the dataset, and the same in files."""
    yield dataset
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_netcdf(f"{folder}/a.nc", engine="h5netcdf")
        dataset.to_zarr(f"{folder}/a.zarr", zarr_format=3)
    yield f"{folder}/a.nc"
    yield f"{folder}/a.zarr"


@given(
    others=st.lists(st.sampled_from(KNOWN), min_size=1, max_size=3, unique_by=str), place=st.integers(0, 3)
)
@settings(max_examples=8, deadline=None)
def test_roles_of_dimensions(others: list[tuple[str, dict[str, str], str]], place: int) -> None:
    dims = [name for name, _, _ in others]
    dims.insert(min(place, len(others)), "time")
    sizes = {"time": 9} | {name: 2 + number for number, (name, _, _) in enumerate(others)}
    coordinates = {name: (name, np.arange(sizes[name]) * 1.5, said) for name, said, _ in others}
    values = np.arange(np.prod([sizes[dim] for dim in dims]), dtype="f4").reshape(
        [sizes[dim] for dim in dims]
    )
    array = xr.DataArray(values, {"time": TIME, **coordinates}, dims, name="v")
    space = [name for name, _, letter in others if letter == "n"]
    features = [name for name, _, letter in others if letter == "f"]
    expected = array.transpose("time", *space, *features).values.reshape(9, -1)
    with tempfile.TemporaryDirectory() as folder:
        for target in stores(array.to_dataset(), folder):
            series = wl.open(target)
            assert series.space_shape == tuple(sizes[name] for name in space)
            windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
            with wl.WindowLoader(windows, batch_size=9, broadcast=True) as loader:
                [batch] = list(loader)
                np.testing.assert_array_equal(np.array(batch.inputs).reshape(9, -1), expected)


@pytest.mark.parametrize(
    ("dims", "coordinate"),
    [
        (("time", "step", "x"), np.arange(4) * np.timedelta64(1, "h")),
        (("time", "prediction", "x"), np.arange(4) * np.timedelta64(1, "h")),
        (("time", "lead", "x"), ("lead", np.arange(4), {"standard_name": "forecast_period"})),
        (("time", "x", "forecast_hour"), np.arange(4)),
        (("forecast_reference_time", "forecast_period", "x"), np.arange(4)),
    ],
)
def test_forecasts_are_refused(dims: tuple[str, ...], coordinate: Any, tmp_path: Any) -> None:
    lead = next(dim for dim in dims if dim not in ("time", "x", "forecast_reference_time"))
    sizes = {dims[0]: 9, lead: 4, "x": 3}
    coordinates = {dims[0]: TIME, lead: coordinate}
    values = np.arange(9 * 4 * 3.0).reshape([sizes[dim] for dim in dims])
    dataset = xr.DataArray(values, coordinates, dims, name="v").to_dataset()
    for target in stores(dataset, str(tmp_path)):
        with pytest.raises((AxesError, SourceFormatError), match=r"forecasts.*isel\(") as told:
            wl.open(target)
        assert lead == "prediction" or f"isel({lead}=0)" in str(told.value)
        letters = "".join({dims[0]: "t", "x": "n"}.get(dim, "f") for dim in dims)
        assert len(wl.open(target, axes=letters).features) == 4
    for number, one in enumerate((dataset.isel({lead: 2}), dataset.isel({lead: [2]}))):
        (tmp_path / str(number)).mkdir()
        for target in stores(one, str(tmp_path / str(number))):
            series = wl.open(target)
            assert (series.num_steps, series.space_shape, len(series.features)) == (9, (3,), 1)
            np.testing.assert_array_equal(series.clock.timestamps(np.arange(9)), TIME.to_numpy())


def test_lead_times_are_never_space() -> None:
    array = xr.DataArray(np.zeros((9, 4, 2)), {"time": TIME}, ("time", "step", "x"))
    with pytest.raises(AxesError, match=r"'step' for space"):
        wl.open(array, axes="tnn")


def test_rows_and_columns_of_images_are_space() -> None:
    array = xr.DataArray(np.zeros((9, 4, 5, 2)), {"time": TIME}, ("time", "height", "width", "channel"))
    assert wl.open(array).space_shape == (4, 5)
    assert wl.open(array.isel(width=0)).space_shape == ()
