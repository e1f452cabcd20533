"""Patterns of files here and in buckets: the same files, in the same order."""

import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import windowloader as wl
from windowloader.errors import SourceError, SourceFormatError

NAMES = ("part_1", "part_2", "part_10", "other_3")


@pytest.fixture(scope="module")
def months(tmp_path_factory):
    """Files of 20 rows: CSV and Zarr without times, netCDF with times that fall where their numbers rise."""
    folder = tmp_path_factory.mktemp("months")
    for place, name in enumerate(NAMES):
        values = np.random.default_rng(place).normal(size=(20, 3))
        pd.DataFrame(values, columns=list("abc")).to_csv(folder / f"{name}.csv", index=False)
        times = pd.date_range("2020", periods=200, freq="h")[20 * (9 - place) :][:20]
        data = xr.Dataset({"speed": (("time", "x"), values)}, {"time": times})
        data.to_netcdf(folder / f"{name}.nc", engine="h5netcdf")
        np.save(folder / f"{name}.npy", values)
        (folder / f"{name}-in").mkdir()
        np.save(folder / f"{name}-in" / "values.npy", values)
    return folder


def loaded(series):
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
    with wl.WindowLoader(windows, batch_size=99, dtype="float64") as loader:
        return np.concatenate([np.array(batch.inputs)[:, 0, :, 0] for batch in loader])


PATTERNS = ("part_*.csv", "part_*.npy", "part_*.nc", "*_[12]*.csv", "part_*-in/val*.npy")


@pytest.mark.leaks
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_bucket_and_this_machine_match_alike(months, put, s3, pattern, monkeypatch):
    for path in months.rglob("*.*"):
        put(f"months/{path.relative_to(months)}", path.read_bytes())
        with fsspec.open(f"memory://months/{path.relative_to(months)}", "wb") as file:
            file.write(path.read_bytes())
    here = wl.open(f"{months}/{pattern}")
    options = {"endpoint_url": s3.url, "key": "k", "secret": "s"}
    assert here.num_steps in (40, 60)
    for url, given in ((f"s3://bkt/months/{pattern}", options), (f"memory://months/{pattern}", {})):
        there = wl.open(url, storage_options=given)
        np.testing.assert_array_equal(loaded(there), loaded(here))
        assert (there.clock is None) == (here.clock is None)


@pytest.mark.leaks
def test_long_tables_match_alike(tmp_path, put, s3):
    times = pd.date_range("2020", periods=30, freq="h")
    frame = pd.DataFrame({"id": ["b", "a", "b"] * 10, "utc": times, "v": np.arange(30.0)})
    for name, rows in (("long_2", frame[:20]), ("long_10", frame[20:])):
        rows.to_parquet(tmp_path / f"{name}.parquet")
        put(f"long/{name}.parquet", (tmp_path / f"{name}.parquet").read_bytes())
    options = {"endpoint_url": s3.url, "key": "k", "secret": "s"}
    for target in (f"{tmp_path}/long_*.parquet", "s3://bkt/long/*.parquet"):
        series = wl.open(target, entity="id", time="utc", storage_options=options if "://" in target else {})
        assert series.entity_names.tolist() == ["b", "a"]
        right = np.concatenate([frame[frame["id"] == name]["v"] for name in "ba"])
        windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
        with wl.WindowLoader(windows, batch_size=99, dtype="float64") as loader:
            np.testing.assert_array_equal(next(iter(loader)).inputs.ravel(), right)


def test_what_matches_nothing_and_what_lists_nothing(put, s3):
    options = {"endpoint_url": s3.url, "key": "k", "secret": "s"}
    with pytest.raises(SourceFormatError, match=r"no file matches 's3://bkt/none/\*\.nc'"):
        wl.open("s3://bkt/none/*.nc", storage_options=options)
    with pytest.raises(SourceError, match="absent"):
        wl.open("s3://absent/*.nc", storage_options={**options, "retries": 1})
    with pytest.raises(SourceFormatError, match="web servers do not list their files. Pass a list of URLs"):
        wl.open(f"{s3.url}/bkt/months/*.csv")
