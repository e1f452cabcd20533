"""What a Zarr store says of its arrays, wherever it lies: in how many requests, and the same everywhere."""

import json
import pickle
import shutil
import sys

import numcodecs
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import CredentialsError, SourceFormatError, SourceNotFoundError
from windowloader.sources.chunked import list_arrays, open_chunked

TIMES = pd.date_range("2000-01-01", periods=60, freq="h")
VALUES = np.random.default_rng(3).normal(size=(60, 2, 3))
pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")


def era(**more):
    variables = {name: (("time", "lat", "lon"), VALUES * scale) for name, scale in (("t2m", 1), ("tp", 2))}
    coordinates = {"time": TIMES, "lat": [10.0, 20.0], "lon": [1.0, 2.0, 3.0]}
    return xr.Dataset({**variables, **more}, coordinates)


@pytest.fixture
def bucket(bucket_folder):
    """Write a Dataset into the bucket's folder; returns its name."""

    def write(name, dataset, **options):
        shutil.rmtree(bucket_folder / "bkt" / name, ignore_errors=True)
        dataset.to_zarr(bucket_folder / "bkt" / name, **options)
        return name

    return write


@pytest.fixture
def moved(put, bucket_folder):
    """Copy a store from the bucket's folder into the real S3 server."""

    def copy(name):
        for file in (bucket_folder / "bkt" / name).rglob("*"):
            if file.is_file():
                put(str(file.relative_to(bucket_folder / "bkt")), file.read_bytes())
        return f"s3://bkt/{name}"

    return copy


def rows(source):
    out = np.empty(source.shape, source.dtype)
    source.read(0, source.shape[0], out)
    source.close()
    return out


@pytest.mark.parametrize(("form", "consolidated", "most", "absent"), [
    (3, True, 4, 0), (2, True, 5, 1), (3, False, 9, 0), (2, False, 18, 4),
])  # fmt: skip
def test_two_variables_are_described_in_few_requests(
    bucket, moved, bucket_folder, s3, form, consolidated, most, absent
):
    name = f"few{form}{consolidated}.zarr"
    url = moved(bucket(name, era(), zarr_format=form, consolidated=consolidated))
    s3.clear()
    options = {"endpoint_url": s3.url, "key": "k", "secret": "s"}
    series = wl.open(url, variables=["t2m", "tp"], storage_options=options)
    asked = [entry.path.partition("?")[0].removeprefix("/") for entry in s3.log]
    assert not [entry for entry in s3.log if "list-type" in entry.path]  # the variables were named
    assert len(asked) == len(set(asked)) <= most
    assert len([path for path in asked if not (bucket_folder / path).exists()]) <= absent
    np.testing.assert_array_equal(series.clock.timestamps(np.arange(60)), TIMES)
    assert series.features == ("t2m", "tp")


def test_a_store_without_consolidated_metadata_is_listed_folder_by_folder(bucket, moved, s3, monkeypatch):
    url = moved(bucket("listed.zarr", era(), zarr_format=3, consolidated=False))
    s3.clear()
    options = {"endpoint_url": s3.url, "key": "k", "secret": "s"}
    assert list_arrays(url, options) == ("t2m", "tp")
    listings = [entry.path for entry in s3.log if "list-type" in entry.path]
    assert len(listings) == 1
    assert "delimiter=%2F" in listings[0]
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    assert list_arrays(url, options) == ("t2m", "tp")


def test_a_web_server_lists_nothing_and_is_asked_by_name(bucket, static):
    url = f"{static.url}/bkt/{bucket('named.zarr', era(), zarr_format=3, consolidated=False)}"
    with pytest.raises(SourceFormatError, match=r"named.zarr.*does not list.*variables=\["):
        wl.open(url)
    series = wl.open(url, variables=["tp"])
    np.testing.assert_array_equal(rows(series.variables[0].source), 2 * VALUES)
    np.testing.assert_array_equal(series.clock.timestamps(np.arange(60)), TIMES)
    with pytest.raises(SourceNotFoundError, match="no array 'pt'"):
        wl.open(url, variables=["pt"])


@pytest.mark.parametrize("steps", [600, pytest.param(3000, marks=pytest.mark.campaign)])
def test_a_time_axis_of_many_chunks_is_read_once_and_all_at_once(bucket, proxy, steps):
    times = pd.date_range("2000-01-01", periods=steps, freq="h")
    data = xr.Dataset({"speed": (("time", "node"), np.zeros((steps, 2)))}, {"time": times})
    encoding = {"time": {"chunks": (1,)}, "speed": {"chunks": (steps, 2)}}
    name = bucket("many.zarr", data, zarr_format=3, consolidated=True, encoding=encoding)
    proxy.clear(latency=0.02)
    series = wl.open(f"s3://bkt/{name}", storage_options={"endpoint_url": proxy.url, "anon": True})
    np.testing.assert_array_equal(series.clock.timestamps(np.arange(steps)), times)
    asked = [entry.path for entry in proxy.log if "/time/c/" in entry.path]
    assert sorted(asked) == sorted(f"/bkt/{name}/time/c/{row}" for row in range(steps))
    assert proxy.most_in_flight == 32


@pytest.mark.parametrize("chunks", [60, 7])
def test_a_coordinate_that_may_not_be_read_is_an_error(bucket, proxy, chunks):
    encoding = {"time": {"chunks": (chunks,)}}
    name = bucket(f"closed{chunks}.zarr", era(), zarr_format=3, consolidated=True, encoding=encoding)
    proxy.clear(lambda number, method, path, headers: "403" if "/time/c/" in path else None)
    options = {"endpoint_url": proxy.url, "anon": True, "retries": 2}
    with pytest.raises(CredentialsError, match=rf"closed{chunks}.zarr/time.*anon"):
        wl.open(f"s3://bkt/{name}", variables=["t2m"], storage_options=options)


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_metadata_that_may_not_be_listed_are_taken_for_absent(
    bucket, proxy, bucket_folder, form, consolidated
):
    """A bucket that may be read and not listed answers 403 for keys that do not exist."""
    name = bucket(f"unlisted{form}{consolidated}.zarr", era(), zarr_format=form, consolidated=consolidated)
    proxy.clear(
        lambda number, method, path, headers: None if (bucket_folder / path.lstrip("/")).is_file() else "403"
    )
    options = {"endpoint_url": proxy.url, "anon": True, "retries": 2}
    series = wl.open(f"s3://bkt/{name}", variables=["t2m"], storage_options=options)
    np.testing.assert_array_equal(rows(series.variables[0].source), VALUES)
    with pytest.raises(CredentialsError, match="nothing.zarr"):
        wl.open("s3://bkt/nothing.zarr", variables=["t2m"], storage_options=options)


def test_an_array_with_an_unknown_codec_hides_nothing_but_itself(tmp_path):
    era().to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    file = tmp_path / "a.zarr" / "tp" / "zarr.json"
    document = json.loads(file.read_text())
    document["codecs"].append({"name": "acme.secret", "configuration": {}})
    file.write_text(json.dumps(document))
    for _ in range(2):
        assert list_arrays(tmp_path / "a.zarr") == ("t2m",)
        series = wl.open(tmp_path / "a.zarr")
        np.testing.assert_array_equal(rows(series.variables[0].source), VALUES)
        np.testing.assert_array_equal(series.clock.timestamps(np.arange(60)), TIMES)
        with pytest.raises(SourceFormatError, match=r"a.zarr/tp.*acme.secret.*codec"):
            wl.open(tmp_path / "a.zarr", variables=["tp"])
        document = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
        inner = {
            path.parent.name: json.loads(path.read_text())
            for path in (tmp_path / "a.zarr").glob("*/zarr.json")
        }
        document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": inner}
        (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_coordinates_are_those_of_the_groups_above(tmp_path, form, consolidated):
    tree = xr.DataTree.from_dict({
        "/": xr.Dataset(coords={"time": TIMES, "node": [7, 5]}),
        "/forecast/surface": xr.Dataset({"t2m": (("time", "node"), VALUES[..., 0])}),
        "/other": xr.Dataset({"t2m": (("time", "node"), VALUES[..., 1])}),
    })  # fmt: skip
    tree.to_zarr(tmp_path / "a.zarr", zarr_format=form, consolidated=consolidated)
    assert list_arrays(tmp_path / "a.zarr") == ("forecast/surface/t2m", "other/t2m")
    for path, values in (("forecast/surface/t2m", VALUES[..., 0]), ("other/t2m", VALUES[..., 1])):
        series = wl.open(tmp_path / "a.zarr", variables=[path])
        np.testing.assert_array_equal(rows(series.variables[0].source), values)
        np.testing.assert_array_equal(series.clock.timestamps(np.arange(60)), TIMES)
        assert [int(node) for node in series.nodes] == [7, 5]
    with pytest.raises(SourceNotFoundError, match="no array 'forecast/t2m'"):
        wl.open(tmp_path / "a.zarr", variables=["forecast/t2m"])


def test_a_fill_value_of_zarr_2_marks_what_is_missing_but_for_0(tmp_path):
    counts = np.array([[0, 2, 0, 4], [5, -1, 0, 7]] * 30, "i4")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for name, fill, said in (("zero", 0, None), ("mark", -1, None), ("said", 0, 7), ("null", None, None)):
        array = group.create_array(name, data=counts, chunks=(10, 4), fill_value=fill)
        array.attrs["_ARRAY_DIMENSIONS"] = ["time", "node"]
        if said is not None:
            array.attrs["_FillValue"] = said
    marked = {"zero": None, "mark": -1, "said": 7, "null": None}
    for name, mark in marked.items():
        source = open_chunked(tmp_path / "a.zarr", variable=name)
        expected = counts if mark is None else np.where(counts == mark, np.nan, counts)
        np.testing.assert_array_equal(rows(source), expected)
        assert source.dtype == expected.dtype


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_a_mark_given_as_an_attribute_is_read_as_xarray_writes_it_and_as_people_do(tmp_path, form, dtype):
    values = np.array([[0, 2], [5, -9]] * 30, dtype)
    data = xr.Dataset({"speed": (("time", "node"), np.where(values == -9, np.nan, values))}, {"time": TIMES})
    data.to_zarr(
        tmp_path / "a.zarr",
        zarr_format=form,
        consolidated=False,
        encoding={"speed": {"dtype": dtype, "_FillValue": -9}},
    )
    group = zarr.open_group(tmp_path / "a.zarr", mode="r+")
    array = group.create_array(
        "plain", data=values, **({"dimension_names": ["time", "node"]} if form == 3 else {})
    )
    array.attrs.update({"_FillValue": -9, **({} if form == 3 else {"_ARRAY_DIMENSIONS": ["time", "node"]})})
    for name in ("speed", "plain"):
        source = open_chunked(tmp_path / "a.zarr", variable=name)
        np.testing.assert_array_equal(rows(source), data.speed.values)
        np.testing.assert_array_equal(source.timestamps(), TIMES)


def test_arrays_without_names_and_of_another_size_are_arrays_all_the_same(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("time", data=np.arange(60), dimension_names=["time"]).attrs["units"] = (
        "hours since 2000-01-01"
    )
    group.create_array("speed", data=VALUES[..., 0], dimension_names=["time", "node"])
    group.create_array("bare", data=VALUES[..., 1])
    group.create_array("daily", data=VALUES[:3, :, 1], dimension_names=["time", "node"])
    assert list_arrays(tmp_path / "a.zarr") == ("speed",)
    source = open_chunked(tmp_path / "a.zarr", variable="speed")
    np.testing.assert_array_equal(source.timestamps(), TIMES)
    np.testing.assert_array_equal(rows(open_chunked(tmp_path / "a.zarr", variable="bare")), VALUES[..., 1])
    assert open_chunked(tmp_path / "a.zarr", variable="daily").shape == (3, 2)


def test_a_description_pickles_small_and_opens_the_store_anew(bucket, static):
    name = bucket("pickled.zarr", era(), zarr_format=3, consolidated=True)
    source = open_chunked(
        f"s3://bkt/{name}", variable="t2m", storage_options={"endpoint_url": static.url, "anon": True}
    )
    np.testing.assert_array_equal(source.timestamps(), TIMES)
    packed = pickle.dumps(source)
    assert len(packed) < 4096
    copied = pickle.loads(packed)
    np.testing.assert_array_equal(copied.timestamps(), TIMES)
    np.testing.assert_array_equal(copied.labels(2), [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(rows(copied), VALUES)


def test_zarr_python_asks_for_many_chunks_at_once(bucket, proxy):
    data = xr.Dataset({"speed": (("time", "node"), VALUES[..., 0])}, {"time": TIMES})
    name = bucket(
        "flight.zarr", data, zarr_format=3, consolidated=True, encoding={"speed": {"chunks": (1, 2)}}
    )
    store = zarr.storage.FsspecStore.from_url(f"{proxy.url}/bkt/{name}", read_only=True)
    source = open_chunked(store, variable="speed")
    proxy.clear(latency=0.05)
    np.testing.assert_array_equal(rows(source), VALUES[..., 0])
    assert len([entry for entry in proxy.log if "/speed/c/" in entry.path]) == 60
    assert proxy.most_in_flight > 20


DTYPES = ["f4", "f8", ">f4", "f2", "i1", "u1", "i2", ">i2", "u2", "i4", "u4", "i8", "bool"]


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_engines_read_what_xarray_reads(tmp_path, data):
    """By path through TensorStore or, for some codecs, zarr-python; by store through zarr-python."""
    draw, form = data.draw, data.draw(st.sampled_from([2, 3]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    dims = draw(st.permutations(["time", "lat", "lon"]))
    sizes = {"time": draw(st.integers(1, 30)), "lat": 3, "lon": 4}
    shape = [sizes[dim] for dim in dims]
    chunks = tuple(draw(st.integers(1, size + 1)) for size in shape)
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 120, shape).astype(dtype)
    options = {"chunks": chunks, "fill_value": draw(st.sampled_from([0, None] if form == 2 else [0]))}
    if form == 3 and draw(st.booleans()):
        options |= {"shards": tuple(2 * chunk for chunk in chunks)}
    if form == 2:
        codec = [
            None,
            numcodecs.Zlib(),
            numcodecs.Blosc(),
            numcodecs.LZ4(),
            numcodecs.Zstd(),
            numcodecs.LZMA(),
        ]
        options["compressors"] = draw(st.sampled_from(codec))
        options["filters"] = draw(st.sampled_from([None, [numcodecs.Shuffle(dtype.itemsize)]]))
        options["order"] = draw(st.sampled_from("CF"))
    else:
        codecs = zarr.codecs
        codec = [
            None,
            codecs.GzipCodec(),
            codecs.ZstdCodec(checksum=True),
            codecs.BloscCodec(),
            codecs.Crc32cCodec(),
        ]
        options["compressors"] = draw(st.sampled_from(codec))
        options["dimension_names"] = dims
    folder = tmp_path / f"{draw(st.uuids())}.zarr"
    group = zarr.open_group(folder, mode="w", zarr_format=form)
    array = group.create_array("speed", shape=shape, dtype=dtype, **options)
    array[...] = values
    packed = dtype.kind in "iu" and draw(st.booleans())
    array.attrs.update({"scale_factor": 0.5} if packed else {})
    lat = group.create_array(
        "lat", data=np.array([10, 30, 20], "i2"), **({} if form == 2 else {"dimension_names": ["lat"]})
    )
    lat.attrs["scale_factor"] = 0.25
    if form == 2:
        array.attrs["_ARRAY_DIMENSIONS"], lat.attrs["_ARRAY_DIMENSIONS"] = dims, ["lat"]
    order = [dims.index("time"), *(dim for dim in range(3) if dims[dim] != "time")]
    with xr.open_zarr(folder, consolidated=False, chunks=None) as opened:
        right = np.transpose(opened.speed.values, order)
        right = (
            values.transpose(order) * 0.5 if form == 2 and packed else right
        )  # where xarray makes each 0 a NaN
        right = values.transpose(order) if form == 2 and not packed else right
    place = [dims[dim] for dim in order].index("lat")
    for target in (folder, zarr.storage.LocalStore(folder, read_only=True)):
        source = open_chunked(target, variable="speed", fill_missing=True)
        np.testing.assert_array_equal(rows(source), right)
        assert source.dtype == right.dtype.newbyteorder("=")
        np.testing.assert_array_equal(source.labels(place), [2.5, 7.5, 5.0])


@pytest.mark.parametrize("form", [2, 3])
def test_a_single_array_keeps_its_marks_and_packing(tmp_path, form):
    values = np.where(VALUES[..., 0] > 1, np.nan, VALUES[..., 0].round(2))
    encoding = {"speed": {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -99}}
    data = xr.Dataset({"speed": (("time", "node"), values)})
    data.to_zarr(tmp_path / "a.zarr", zarr_format=form, consolidated=False, encoding=encoding)
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False, chunks=None) as opened:
        right = opened.speed.values
    assert np.isnan(right).any()
    for target, variable in (("a.zarr", None), ("a.zarr", "speed"), ("a.zarr/speed", None)):
        np.testing.assert_array_equal(rows(open_chunked(tmp_path / target, variable=variable)), right)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("shape", 0), -5),
        (("shape", 0), 2**70),
        (("chunk_grid", "configuration", "chunk_shape", 0), 0),
        (("chunk_grid", "configuration", "chunk_shape", 0), 2**70),
        (("attributes",), "text"),
        (("codecs",), []),
        (("data_type",), "acme"),
        (("node_type",), 3),
    ],
)
@pytest.mark.parametrize("shards", [None, (20, 4)])
def test_damaged_metadata_are_an_error_that_names_the_array(tmp_path, at, value, shards):
    zarr.create_array(tmp_path / "a.zarr", data=VALUES[..., 0], chunks=(10, 2), shards=shards)
    file = tmp_path / "a.zarr" / "zarr.json"
    document = inner = json.loads(file.read_text())
    for step in at[:-1]:
        inner = inner[step]
    inner[at[-1]] = value
    file.write_text(json.dumps(document))
    with pytest.raises(SourceFormatError, match="a.zarr"):
        wl.open(tmp_path / "a.zarr")


@pytest.mark.parametrize(("form", "most"), [(2, 11), (3, 4)])
def test_a_lone_array_is_labelled_in_few_requests(bucket, moved, s3, form, most):
    """Its own metadata and those of its dimensions beside it; nothing of the folder."""
    name = bucket(f"lone{form}.zarr", era(), zarr_format=form, consolidated=False)
    url = f"{moved(name)}/t2m"
    s3.clear()
    options = {"endpoint_url": s3.url, "key": "k", "secret": "s"}
    source = open_chunked(url, storage_options=options)
    asked = [entry.path.partition("?")[0] for entry in s3.log]
    assert len(asked) == len(set(asked)) <= most, asked
    np.testing.assert_array_equal(source.timestamps(), TIMES)
    np.testing.assert_array_equal(source.labels(2), [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(rows(source), VALUES)
