"""Coordinates as files have them: text, packed, unsigned, beside the dimension; as pandas and xarray read them."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl

STORES = ("zarr2", "zarr3", "h5netcdf", "scipy")


def write(
    dataset: xr.Dataset, folder: Path, store: str, encoding: dict[str, dict[str, object]] | None = None
) -> str:
    """Write a dataset, and return its path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # text has no settled form in Zarr 3
        if store.startswith("zarr"):
            path = folder / "a.zarr"
            dataset.to_zarr(path, zarr_format=int(store[-1]), mode="w", encoding=encoding)
        else:
            path = folder / "a.nc"
            dataset.to_netcdf(path, engine=store, encoding=encoding)
    return str(path)


def times(series: wl.Series) -> np.ndarray:
    assert series.clock is not None
    return series.clock.timestamps(np.arange(series.num_steps))


def windows_of(index: pd.DatetimeIndex, span: int) -> int:
    """Windows of a series without more than one missing step in a row: counted one by one."""
    step = np.median(np.diff(index.to_numpy()).astype(np.int64))
    jumps = np.diff(index.to_numpy()).astype(np.int64) > 1.5 * step
    return sum(not jumps[i : i + span - 1].any() for i in range(len(index) - span + 1))


@given(
    store=st.sampled_from(STORES),
    form=st.sampled_from(["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d_%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]),
    kind=st.sampled_from(["U", "S", "O"]),
    gap=st.tuples(st.integers(1, 30), st.integers(0, 20)),
)
@settings(max_examples=10, deadline=None)
def test_times_that_are_text(store: str, form: str, kind: str, gap: tuple[int, int]) -> None:
    index = pd.date_range("2000-02-28", periods=60, freq="h").delete(slice(gap[0], sum(gap)))
    texts = index.strftime(form).to_numpy().astype(object)
    texts = texts if kind == "O" else texts.astype(kind)
    dataset = xr.Dataset(
        {"speed": (("time", "x"), np.zeros((len(index), 3), "f4"))}, {"time": ("time", texts)}
    )
    with tempfile.TemporaryDirectory() as folder:
        if kind == "S" and store == "zarr3":
            return  # has no form that is read again
        for target in (write(dataset, Path(folder), store), dataset):
            series = wl.open(target)
            np.testing.assert_array_equal(times(series), index.to_numpy())
            windows = wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=2))
            assert len(windows) == windows_of(index, 6)
            with wl.WindowLoader(windows, batch_size=16) as loader:
                assert sum(len(batch.inputs) for batch in loader) == len(windows)


def test_times_of_wrf(tmp_path: Path) -> None:
    index = pd.date_range("2000-01-01", periods=9, freq="3h")
    texts = index.strftime("%Y-%m-%d_%H:%M:%S").to_numpy().astype("S19")
    data = {"T2": (("Time", "south_north"), np.zeros((9, 2), "f4")), "Times": ("Time", texts)}
    for store in ("scipy", "h5netcdf"):
        np.testing.assert_array_equal(
            times(wl.open(write(xr.Dataset(data), tmp_path, store))), index.to_numpy()
        )


@pytest.mark.parametrize("store", STORES)
def test_times_of_nemo_stand_beside_their_dimension(store: str, tmp_path: Path) -> None:
    index = pd.date_range("2000-01-16", periods=9, freq="D")
    said = {"standard_name": "time", "units": "seconds since 1900-01-01", "calendar": "gregorian"}
    seconds = (index - pd.Timestamp("1900-01-01")) // pd.Timedelta(seconds=1)
    dataset = xr.Dataset(
        {"sst": (("time_counter", "x"), np.zeros((9, 2)))},
        {"time_counter": np.zeros(9), "time_centered": ("time_counter", np.asarray(seconds, float), said)},
    )
    np.testing.assert_array_equal(times(wl.open(write(dataset, tmp_path, store))), index.to_numpy())


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("values", [np.array(["north", "south"]), np.array([3, 7])])
def test_times_that_are_none_are_told(store: str, values: np.ndarray, tmp_path: Path) -> None:
    dataset = xr.Dataset({"q": (("time", "x"), np.zeros((2, 3)))}, {"time": ("time", values)})
    path = write(dataset, tmp_path, store)
    with pytest.warns(UserWarning, match=r"no timestamps.*'time'.*timestamps="):
        assert wl.open(path).clock is None
    assert wl.open(path, timestamps=("2000-01-01", "1h")).clock is not None  # and no warning


@given(
    zarr_format=st.sampled_from([2, 3]),
    scale=st.sampled_from([None, 0.5, 0.125, 2.0]),
    offset=st.sampled_from([None, 10.0, -0.25]),
    kind=st.sampled_from(["i1", "i2", "i4", "u2"]),
    fill=st.sampled_from([None, 99]),
)
@settings(max_examples=20, deadline=None)
def test_packed_coordinates(
    zarr_format: int, scale: float | None, offset: float | None, kind: str, fill: int | None
) -> None:
    said = {"scale_factor": scale, "add_offset": offset, "_FillValue": fill}
    said = {key: value for key, value in said.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
        for name, data, more in (
            ("time", np.arange(1, 41).astype(kind), {"units": "minutes since 2000-01-01", **said}),
            ("lat", np.array([5, 7, 11, 120]).astype(kind), said),
            ("speed", np.zeros((40, 4), "f4"), {}),
        ):
            dims = ["time", "lat"][: data.ndim] if name != "lat" else ["lat"]
            named = {"dimension_names": dims} if zarr_format == 3 else {}
            array = group.create_array(name, data=data, **named)
            array.attrs.update({**more, **({} if named else {"_ARRAY_DIMENSIONS": dims})})
        series = wl.open(folder)
        with xr.open_dataset(folder, engine="zarr", consolidated=False) as right:
            expected = right["time"].values.astype("M8[ns]")
            np.testing.assert_array_equal(times(series), expected)
            assert [float(label) for label in series.nodes] == right["lat"].values.tolist()


@given(
    zarr_format=st.sampled_from([2, 3]),
    signed=st.sampled_from([1, 2, 4]),
    scale=st.sampled_from([None, 0.5]),
    fill=st.sampled_from([None, -1, 3]),
    said=st.sampled_from(["true", "false"]),
    missing=st.sampled_from([None, 7]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_unsigned_numbers(
    zarr_format: int,
    signed: int,
    scale: float | None,
    fill: int | None,
    said: str,
    missing: int | None,
    seed: int,
) -> None:
    """Whole numbers whose sign an attribute turns."""
    letter = "i" if said == "true" else "u"
    raw = np.random.default_rng(seed).integers(0, 256, (30, 4 * signed), dtype="u1").view(f"{letter}{signed}")
    raw[0, 0] = -1 if letter == "i" else 255
    more = {"_Unsigned": said, "scale_factor": scale, "missing_value": missing}
    if said == "true":  # xarray refuses a mark of the other sign
        more["_FillValue"] = fill
    more = {key: value for key, value in more.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
        named = {"dimension_names": ["time", "x"]} if zarr_format == 3 else {"fill_value": None}
        array = group.create_array("CMI", data=raw, **named)
        array.attrs.update({**more, **({"_ARRAY_DIMENSIONS": ["time", "x"]} if zarr_format == 2 else {})})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two marks, which is meant
            with xr.open_dataset(folder, engine="zarr", consolidated=False) as right:
                expected = right["CMI"].values
        series = wl.open(folder, missing=float("nan") if expected.dtype.kind == "f" else None)
        windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
        with wl.WindowLoader(windows, batch_size=8, dtype="float64", fill=-7.5) as loader:
            found = np.concatenate([np.array(batch.inputs)[:, 0, :, 0] for batch in loader])
        np.testing.assert_array_equal(found, np.nan_to_num(expected.astype(float), nan=-7.5))
