"""What opening asks of a bucket: requests and bytes, counted by a proxy in front of a real S3 server."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from conformance import by_xarray, delivered, opened

ROWS = 480
TIMES = pd.date_range("2000-01-01", periods=ROWS, freq="h")


def grid(*names: str) -> xr.Dataset:
    rng = np.random.default_rng(3)
    values = {name: (("time", "lat", "lon"), rng.normal(size=(ROWS, 20, 30)).astype("f4")) for name in names}
    return xr.Dataset(values, {"time": TIMES, "lat": np.linspace(60, 50, 20), "lon": np.linspace(-5, 5, 30)})


@pytest.fixture
def bucket(places, s3):
    """Return a function that puts a path into the bucket, and gives its URL and options behind the proxy."""

    def put(path):
        url, options = places.put("s3", path)
        options["storage_options"] |= {"endpoint_url": s3.url}
        s3.clear()
        return url, options

    return put


def test_a_consolidated_zarr(bucket, s3, tmp_path):
    chunks = {"chunks": (ROWS // 4, 20, 30)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr of consolidated metadata of Zarr 3
        grid("u", "v").to_zarr(tmp_path / "a.zarr", encoding={"u": chunks, "v": chunks})
    url, options = bucket(tmp_path / "a.zarr")
    with opened(url, variables=["u", "v"], **options) as series:
        asked = [(entry.method, entry.path) for entry in s3.log]
        assert (series.features, series.space_shape) == (("u", "v"), (20, 30))
        np.testing.assert_array_equal(series.clock.timestamps(np.arange(ROWS)), TIMES)
    assert len(asked) <= 6, asked
    absent = sum(_absent(tmp_path / "a.zarr", path) for _, path in asked)
    assert absent <= 1, asked


def _absent(folder, path) -> bool:
    """Whether a request was for an object that is not there."""
    inner = path.partition("?")[0].partition("a.zarr/")[2]
    return bool(inner) and not (folder / inner).is_file()


def test_a_netcdf4_of_five_variables(bucket, s3, tmp_path):
    names = ("a", "b", "c", "d", "e")
    how = {"zlib": True, "shuffle": True, "chunksizes": (ROWS // 20, 20, 30)}
    grid(*names).to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding=dict.fromkeys(names, how))
    assert (tmp_path / "a.nc").stat().st_size > 4_000_000
    url, options = bucket(tmp_path / "a.nc")
    with opened(url, variables=list(names), **options) as series:
        asked, sent = [(entry.method, entry.path, entry.range) for entry in s3.log], s3.sent
        assert series.features == names
        np.testing.assert_array_equal(series.clock.timestamps(np.arange(ROWS)), TIMES)
    assert len(asked) <= 13, asked
    assert sent < 2_000_000


def test_times_in_chunks_of_one_row(static, proxy, tmp_path):
    rows = 3000
    folder = static.folder / "bkt" / "conformance" / "rows.zarr"
    group = zarr.create_group(folder)
    attrs = {"units": "hours since 2000-01-01"}
    times = group.create_array(
        "time",
        shape=(rows,),
        dtype="<i8",
        chunks=(1,),
        compressors=None,
        dimension_names=("time",),
        attributes=attrs,
    )
    assert times.nchunks == rows
    (folder / "time" / "c").mkdir()
    for row in range(rows):
        (folder / "time" / "c" / str(row)).write_bytes(row.to_bytes(8, "little"))
    values = np.arange(rows * 2, dtype="f4").reshape(rows, 2)
    group.create_array("v", data=values, chunks=(500, 2), dimension_names=("time", "x"))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of metadata that is not consolidated, of consolidated metadata of Zarr 3
        zarr.consolidate_metadata(folder)
        with xr.open_zarr(folder, chunks=None) as dataset:
            expected = by_xarray(dataset["v"].load(), "time")
    options = {"storage_options": {"endpoint_url": proxy.url, "anon": True, "request_limit": 16}}
    proxy.clear(latency=0.002)
    with opened("s3://bkt/conformance/rows.zarr", segments=[0, rows], **options) as series:
        asked = [entry.path for entry in proxy.log if "/time/c/" in entry.path]
        assert (len(asked), len(set(asked))) == (rows, rows), "each chunk of the times is read once"
        assert proxy.most_in_flight == 16, "as many requests in flight as the store serves"
        delivered(series, expected)
