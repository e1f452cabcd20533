"""The same values from every kind of source give the same batches, to the bit."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import windowloader as wl

ROWS, NODES = 240, 6
TIMES = pd.date_range("2012-03-01", periods=ROWS, freq="5min")


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(8).integers(0, 70, (ROWS, NODES)).astype(np.float32)


def npy(folder, values):
    np.save(folder / "a.npy", values)
    return folder / "a.npy", {}


def fortran(folder, values):
    np.save(folder / "a.npy", np.asfortranarray(values))
    return folder / "a.npy", {}


def big_endian(folder, values):
    np.save(folder / "a.npy", values.astype(">f4"))
    return folder / "a.npy", {}


def transposed(folder, values):
    np.save(folder / "a.npy", np.ascontiguousarray(values.T))
    return folder / "a.npy", {"axes": "nt"}


def raw(folder, values):
    values.tofile(folder / "a.bin")
    return folder / "a.bin", {"shape": (ROWS, NODES), "dtype": "float32"}


def npz(folder, values):
    np.savez(folder / "a.npz", speed=values)
    return folder / "a.npz", {"member": "speed"}


def hdf5(folder, values):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("speed", data=values, chunks=(7, 4), compression="gzip")
    return folder / "a.h5", {}


def csv(folder, values):
    pd.DataFrame(values, TIMES.rename("time"), [f"s{i}" for i in range(NODES)]).to_csv(folder / "a.csv")
    return folder / "a.csv", {}


def parquet(folder, values):
    pd.DataFrame(values, TIMES.rename("time"), [f"s{i}" for i in range(NODES)]).to_parquet(
        folder / "a.parquet"
    )
    return folder / "a.parquet", {}


def netcdf(folder, values):
    array = xr.DataArray(values, {"time": TIMES}, ("time", "node"), name="speed")
    array.to_netcdf(folder / "a.nc", engine="h5netcdf")
    return folder / "a.nc", {}


def data_array(folder, values):
    return xr.DataArray(values, {"time": TIMES}, ("time", "node"), name="speed"), {}


def zarr2(folder, values):
    zarr.create_array(folder / "a.zarr", data=values, chunks=(11, 4), zarr_format=2)
    return folder / "a.zarr", {}


def zarr3(folder, values):
    zarr.create_array(folder / "a.zarr", data=values, chunks=(13, NODES), zarr_format=3)
    return folder / "a.zarr", {}


def sharded(folder, values):
    zarr.create_array(folder / "a.zarr", data=values, chunks=(10, 3), shards=(60, 6), zarr_format=3)
    return folder / "a.zarr", {}


def months(folder, values):
    parts = []
    for number, (begin, end) in enumerate([(0, 100), (100, 101), (101, ROWS)]):
        parts.append(folder / f"{number}.npy")
        np.save(parts[-1], values[begin:end])
    return parts, {}


KINDS = [
    npy, fortran, big_endian, transposed, raw, npz, hdf5, csv, parquet,
    netcdf, data_array, zarr2, zarr3, sharded, months,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_do_not_depend_on_where_the_values_lie(kind, shuffle, values, tmp_path):
    target, options = kind(tmp_path, values)
    series = wl.open(target, missing=0, timestamps=("2012-03-01", "5min"), **options)
    spec = wl.WindowSpec(lookback=5, horizon=3, stride=2, inputs=[*series.features, "time_of_day"])
    windows = wl.WindowSet(series, spec)
    scaler = wl.StandardScaler.fit(windows)
    seen = values[values != 0].astype(np.float64)
    assert scaler.mean == pytest.approx(seen.mean(), rel=1e-12)
    scaled = ((values.astype(np.float64) - scaler.mean) * (1 / scaler.std)).astype(np.float32)
    scaled[values == 0] = 0
    clock = (np.arange(ROWS) % 288 / 288).astype(np.float32)
    starts = []
    with wl.WindowLoader(windows, batch_size=16, shuffle=shuffle, scaler=scaler, fill=0.0) as loader:
        for batch in loader:
            rows = batch.starts[:, None] + np.arange(5)
            np.testing.assert_array_equal(batch.inputs[..., 0], scaled[rows])
            np.testing.assert_array_equal(batch.inputs[..., 1], np.repeat(clock[rows][..., None], NODES, -1))
            np.testing.assert_array_equal(batch.input_mask[..., 0], values[rows] != 0)
            np.testing.assert_array_equal(
                batch.targets[..., 0], scaled[batch.starts[:, None] + np.arange(5, 8)]
            )
            starts += batch.starts.tolist()
    assert sorted(starts) == list(range(0, ROWS - 7, 2))
