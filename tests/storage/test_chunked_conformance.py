"""One suite for every chunked source: file, S3 (moto and static), HTTP, by format and storage."""

import pickle

import numpy as np
import pytest

from windowloader.sources.chunked import list_arrays, open_chunked
from windowloader.sources.selected import SelectedSource

try:
    from windowloader.testing import check_source
except ImportError:
    check_source = None

ROWS, NODES, FEATURES = 50, 13, 2
VALUES = np.random.default_rng(0).normal(size=(ROWS, NODES, FEATURES)).astype("f4")
GRIDS = {
    "node-cut": {"chunks": (7, 5, 2)},
    "one-step": {"chunks": (1, 13, 2)},
    "larger": {"chunks": (64, 16, 4)},
    "sharded": {"chunks": (4, 7, 2), "shards": (16, 14, 2)},
}
FORMS = [("zarr", grid) for grid in GRIDS if grid != "sharded"] + [("zarr3", grid) for grid in GRIDS]
CASES = [pytest.param(form, grid, id=f"{form}-{grid}") for form, grid in FORMS]


def check(source, expected):
    for start, stop in ((0, len(expected)), (3, 4), (6, 22), (len(expected) - 1, len(expected)), (5, 5)):
        backwards = np.full((2 * (stop - start), *expected.shape[1:]), 7, expected.dtype)[::-2]
        pending = source.submit(start, stop, backwards)
        pending.result(timeout=60)
        assert pending.done()
        np.testing.assert_array_equal(backwards, expected[start:stop])
    copied = pickle.loads(pickle.dumps(source))
    rows = np.empty_like(expected[2:9])
    copied.read(2, 9, rows)
    np.testing.assert_array_equal(rows, expected[2:9])
    assert copied.fingerprint() == source.fingerprint()
    edges = source.storage().edges
    assert (edges[0], edges[-1]) == (0, len(expected))
    assert (np.diff(edges) > 0).all()
    assert len(pickle.dumps(source)) < 4096
    with pytest.raises(IndexError, match="rows"):
        source.read(0, len(expected) + 1, np.empty_like(expected))
    source.close()
    source.read(2, 9, rows)
    copied.close()
    source.close()


@pytest.fixture
def store(request, bucket_folder, static, moto, tmp_path):
    """Return a writer of arrays by place: (where TensorStore writes, URL, options)."""

    def place(kind, name):
        if kind == "file":
            return {"driver": "file", "path": f"{tmp_path}/{name}/"}, f"{tmp_path}/{name}", {}
        if kind == "moto":
            kvstore = {
                "driver": "s3",
                "bucket": "bkt",
                "path": f"{name}/",
                "endpoint": moto,
                "aws_region": "us-east-1",
            }
            options = {"endpoint_url": moto, "key": "k", "secret": "s"}
            return kvstore, f"s3://bkt/{name}", options
        kvstore = {"driver": "file", "path": f"{bucket_folder}/bkt/{name}/"}
        if kind == "s3":
            return kvstore, f"s3://bkt/{name}", {"endpoint_url": static.url, "anon": True}
        if kind == "gs":
            return kvstore, f"gs://bkt/{name}", {"endpoint_url": static.url, "anon": True}
        return kvstore, f"{static.url}/bkt/{name}", {}

    return place


@pytest.mark.parametrize("kind", ["file", "s3", "http"])
@pytest.mark.parametrize(("form", "grid"), CASES)
def test_reads_what_was_written(store, write_array, kind, form, grid):
    kvstore, url, options = store(kind, f"{kind}-{form}-{grid}.zarr")
    write_array(kvstore, VALUES, form=form, **GRIDS[grid])
    source = open_chunked(url, storage_options=options)
    assert (source.axes, source.shape, source.dtype) == ("tnf", VALUES.shape, VALUES.dtype)
    assert source.chunks == tuple(GRIDS[grid]["chunks"])
    check(source, VALUES)
    assert list_arrays(url, options) == ()
    if check_source is not None:
        check_source(open_chunked(url, storage_options=options), VALUES, fork=False)


@pytest.mark.parametrize(("form", "grid"), [("zarr", "node-cut"), ("zarr3", "sharded")])
def test_reads_from_a_real_s3_server(store, write_array, form, grid):
    kvstore, url, options = store("moto", f"{form}-{grid}.zarr")
    write_array(kvstore | {"path": kvstore["path"]}, VALUES, form=form, **GRIDS[grid])
    check(open_chunked(url, storage_options={**options, "anon": False}), VALUES)


def test_reads_a_public_google_bucket(store, write_array):
    kvstore, url, options = store("gs", "public.zarr")
    write_array(kvstore, VALUES, **GRIDS["node-cut"])
    check(open_chunked(url, storage_options=options), VALUES)


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("zarr", ">f4"),
        ("zarr", "<i2"),
        ("zarr3", "float16"),
        ("zarr3", "int8"),
        ("zarr3", "bool"),
        ("zarr3", "bfloat16"),
    ],
)
def test_dtypes(tmp_path, write_array, form, dtype):
    plain = np.dtype(np.float32) if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("=")
    values = (VALUES * 20).astype(plain)
    kvstore = {"driver": "file", "path": f"{tmp_path}/a/"}
    if dtype == "bfloat16":
        import tensorstore as ts

        values = values.astype(ts.bfloat16.numpy_dtype)
    write_array(kvstore, values, form=form, stored=dtype, chunks=(7, 5, 2))
    source = open_chunked(tmp_path / "a")
    assert source.dtype == plain
    check(source, values.astype(plain))


@pytest.mark.parametrize("axes", ["ntf", "nft", "ftn"])
@pytest.mark.parametrize("form", ["zarr3", "zarr"])
def test_time_may_be_any_axis(tmp_path, write_array, axes, form):
    order = ["tnf".index(letter) for letter in axes]
    write_array(
        {"driver": "file", "path": f"{tmp_path}/a/"}, VALUES.transpose(order), form=form, chunks=(4, 5, 2)
    )
    source = open_chunked(tmp_path / "a", axes=axes)
    rest = [letter for letter in axes if letter != "t"]
    assert source.axes == "t" + "".join(rest)
    check(source, VALUES.transpose([0, *("tnf".index(letter) for letter in rest)]))


@pytest.mark.parametrize("grid", ["node-cut", "one-step", "sharded"])
@pytest.mark.parametrize(("start", "stop"), [(0, 50), (3, 4), (6, 22), (0, 16)])
def test_counts_the_requests_and_bytes_the_server_sees(store, static, write_array, grid, start, stop):
    kvstore, url, options = store("s3", f"count-{grid}.zarr")
    write_array(kvstore, VALUES, crc=False, **GRIDS[grid])
    source = open_chunked(url, storage_options=options)
    out = np.empty_like(VALUES[start:stop])
    source.read(0, 1, out[:1])
    source.close()
    source.cache_bytes = 0
    source.read(0, 0, out[:0])
    static.clear()
    source.read(start, stop, out)
    storage, seen = source.storage(), sum(entry[3] for entry in static.data)
    cost = storage.cost([start], [stop])
    assert len(static.data) == cost.requests[0] + len(storage.broken([start], [stop])) * storage.columns
    if grid == "sharded":  # chunks of nothing but padding are not stored: a shard at the rim is shorter
        assert seen <= cost.bytes[0] + 10_000
    else:
        assert seen == cost.bytes[0]
    np.testing.assert_array_equal(out, VALUES[start:stop])
    source.close()


def test_nodes_that_are_taken_read_their_chunks_only(store, static, write_array):
    kvstore, url, options = store("s3", "take.zarr")
    write_array(kvstore, VALUES, chunks=(10, 2, 2), crc=False)
    whole = open_chunked(url, storage_options=options)
    some = SelectedSource(whole, nodes=[9, 1, 0])
    rows = np.empty((20, 3, 2), "f4")
    some.read(5, 25, rows)
    np.testing.assert_array_equal(rows, VALUES[5:25][:, [9, 1, 0]])
    assert len(static.data) == some.storage().cost([5], [25]).requests[0] == 3 * 2
    check(SelectedSource(whole, nodes=slice(3, 8)), VALUES[:, 3:8])
    check(
        SelectedSource(SelectedSource(whole, nodes=slice(3, 8)), nodes=[4, 0], features=[1]),
        VALUES[:, [7, 3]][..., 1:],
    )
    assert some.fingerprint() != whole.fingerprint()
    some.close()
    whole.close()


def test_look_ahead_stays_within_the_request_limit(proxy, bucket_folder, write_array):
    write_array({"driver": "file", "path": f"{bucket_folder}/bkt/limit.zarr/"}, VALUES, chunks=(1, 13, 2))
    source = open_chunked(
        "s3://bkt/limit.zarr", storage_options={"endpoint_url": proxy.url, "anon": True, "request_limit": 5}
    )
    proxy.clear(latency=0.01)
    out = np.empty_like(VALUES)
    pending = [source.submit(row, row + 1, out[row : row + 1]) for row in range(ROWS)]
    for read in pending:
        read.result()
    np.testing.assert_array_equal(out, VALUES)
    assert proxy.most_in_flight == 5
    source.close()
