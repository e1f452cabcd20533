"""What a Zarr store's metadata mean: groups, names, times, packed values; requests of shards."""

import json
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import zarr
from zarr.codecs.numcodecs import LZ4

from windowloader.errors import AxesError, SourceChangedError, SourceFormatError, SourceNotFoundError
from windowloader.series.clock import Clock
from windowloader.sources.chunked import is_chunked, list_arrays, open_chunked
from windowloader.sources.coordinates import times_of

xarray = pytest.importorskip("xarray")
TIMES = np.datetime64("2021-03-01", "ns") + np.arange(30) * np.timedelta64(3, "h")
VALUES = np.random.default_rng(7).normal(20, 5, size=(30, 4)).round(2)


def rows(source):
    out = np.empty(source.shape, source.dtype)
    source.read(0, source.shape[0], out)
    source.close()
    return out


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize(
    "encoding",
    [
        {},
        {"dtype": "int16", "scale_factor": 0.01, "add_offset": 1.5, "_FillValue": -32767},
        {"dtype": "int32", "scale_factor": 0.01, "_FillValue": -1},
        {"dtype": "float32", "_FillValue": -99.0},
        {"dtype": "int16", "_FillValue": 7},
    ],
)
def test_reads_what_xarray_reads(tmp_path, form, consolidated, encoding):
    values = VALUES.copy()
    if encoding:
        values[3, 1] = np.nan
    data = xarray.Dataset(
        {"speed": (("sensor", "time"), values.T), "static": (("sensor",), np.arange(4.0))},
        coords={"time": TIMES, "sensor": np.array([5, 7, 1, 2])},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata of Zarr 3; text
        data.to_zarr(
            tmp_path / "a.zarr", zarr_format=form, consolidated=consolidated, encoding={"speed": encoding}
        )
        with xarray.open_zarr(tmp_path / "a.zarr", consolidated=consolidated) as opened:
            expected = opened.speed.values.T
    source = open_chunked(tmp_path / "a.zarr")
    assert (source.axes, source.dtype) == ("tn", expected.dtype)
    np.testing.assert_array_equal(rows(source), expected)
    np.testing.assert_array_equal(source.timestamps(), TIMES)
    np.testing.assert_array_equal(source.labels(1), [5, 7, 1, 2])
    assert list_arrays(tmp_path / "a.zarr") == ("speed",)
    inner = open_chunked(tmp_path / "a.zarr/speed")
    np.testing.assert_array_equal(inner.timestamps(), TIMES)
    raw = open_chunked(tmp_path / "a.zarr", mask_and_scale=False)
    assert raw.dtype == np.dtype(encoding.get("dtype", "f8"))


def test_a_time_axis_by_another_name_is_told_by_its_coordinate(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    root.create_array("flow", data=VALUES, dimension_names=["when", "gauge"])
    when = root.create_array("when", data=np.arange(30), dimension_names=["when"])
    when.attrs["units"] = "hours since 2021-03-01"
    source = open_chunked(tmp_path / "a.zarr")
    assert source.axes == "tn"
    assert source.timestamps()[1] == np.datetime64("2021-03-01T01")


def test_groups(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    root.create_array("roads/speed", data=VALUES, chunks=(7, 4))
    np.testing.assert_array_equal(rows(open_chunked(tmp_path / "a.zarr")), VALUES)
    root.create_array("roads/flow", data=VALUES + 1)
    root.create_array("roads/names", data=np.array(["a", "b"], dtype=np.dtypes.StringDType()))
    assert list_arrays(tmp_path / "a.zarr") == ("roads/flow", "roads/speed")
    with pytest.raises(SourceFormatError, match=r"2 arrays: 'roads/flow', 'roads/speed'.*variable="):
        open_chunked(tmp_path / "a.zarr")
    np.testing.assert_array_equal(rows(open_chunked(tmp_path / "a.zarr", variable="roads/flow")), VALUES + 1)
    assert open_chunked(tmp_path / "a.zarr/roads", variable="speed").shape == (30, 4)
    with pytest.raises(SourceNotFoundError, match=r"no array 'roads/sped'"):
        open_chunked(tmp_path / "a.zarr", variable="roads/sped")
    with pytest.raises(SourceFormatError, match=r"roads/names.*StringDType.*numbers"):
        open_chunked(tmp_path / "a.zarr", variable="roads/names")
    with pytest.raises(AxesError, match="One letter per axis"):
        open_chunked(tmp_path / "a.zarr", variable="roads/flow", axes="tx")


def test_what_is_chunked(tmp_path):
    zarr.create_array(tmp_path / "plain", data=VALUES)
    assert is_chunked(tmp_path / "plain")
    assert is_chunked("http://host/a.zarr/speed?token=1")
    assert not is_chunked(tmp_path)
    assert not is_chunked("s3://bkt/x.h5")


@pytest.mark.parametrize(
    "calendar", ["standard", "proleptic_gregorian", "noleap", "360_day", "all_leap", "julian"]
)
@pytest.mark.parametrize(
    "units",
    [
        "days since 1900-01-01",
        "hours since 2000-1-1 06:30",
        "seconds since 1970-01-01T00:00:00Z",
        "minutes since 1999-12-30 23:59:30.5",
        "hours since 2000-01-01 00:00 +02:00",
    ],
)
@pytest.mark.parametrize("values", [np.arange(0, 40_000, 997), np.array([0.25, 1.5, 365.125])])
def test_times_as_cftime_has_them(calendar, units, values):
    cftime = pytest.importorskip("cftime")
    dates = cftime.num2date(values, units, calendar)
    told = pytest.warns(UserWarning, match=r"of UTC.*\+02:00.*timestamps=") if "+" in units else nullcontext()
    with told:
        found = times_of(values, {"units": units, "calendar": calendar}, name="time")
    if calendar in ("standard", "proleptic_gregorian"):
        expected = np.array([np.datetime64(date.isoformat(), "ns") for date in dates])
        assert np.abs(found - expected).max() <= np.timedelta64(1, "us")
    else:
        expected = cftime.date2num(dates, "microseconds since 1970-01-01", calendar=calendar)
        np.testing.assert_array_equal(np.asarray(found).view(np.int64), expected * 1000)
        assert Clock.from_timestamps(found, len(values)).texts(np.arange(len(values))) == [
            date.isoformat()[:19] for date in dates
        ]


def test_times_that_are_none():
    with pytest.warns(UserWarning, match=r"no timestamps.*timestamps="):
        assert times_of(np.arange(3), {"units": "m"}, name="time") is None
    with pytest.raises(SourceFormatError, match="1678"):
        times_of(np.array([10**6]), {"units": "days since 2000-01-01"}, name="time")
    for values, since in (([0, 10**6], "2000-02-01"), ([1.5], "0001-01-01"), ([2**62], "2000-01-01")):
        with pytest.raises(SourceFormatError, match=r"1678|360_day.*timestamps="):
            said = {"units": f"days since {since}", "calendar": "360_day"}
            times_of(np.array(values), said, name="time")


def test_metadata_without_a_grid_name_nothing_by_itself(tmp_path):
    (tmp_path / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
    )
    with pytest.raises(SourceFormatError, match="holds no array of numbers"):
        open_chunked(tmp_path)


@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning", "ignore:Numcodecs codecs:UserWarning")
@pytest.mark.parametrize("codec", [False, True])  # the other is read by zarr-python
@pytest.mark.parametrize(("old", "new"), [([10, 4], [20, 4]), ([30, 4], [1, 4])])
def test_consolidated_metadata_that_differ_from_the_arrays_own_are_an_error(tmp_path, old, new, codec):
    """TensorStore reads the array's own, and would take memory for whatever chunk they say."""
    dataset = xarray.Dataset({"speed": (("time", "node"), VALUES)}, {"time": TIMES})
    encoding = {"speed": {"chunks": (10, 4), **({"compressors": [LZ4()]} if codec else {})}}
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=True, encoding=encoding)
    place = tmp_path / "a.zarr" / "speed" / "zarr.json"
    text = json.dumps(json.loads(place.read_text()))
    assert str(old) in text
    place.write_text(text.replace(str(old), str(new)))
    with pytest.raises(SourceChangedError, match=r"own metadata say .*consolidated again"):
        rows(open_chunked(tmp_path / "a.zarr", variable="speed"))
