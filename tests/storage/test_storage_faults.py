"""What goes wrong in storage: passing faults cost time and no data, lasting ones are clear errors, nothing hangs."""

import http.server
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

import windowloader as wl
from windowloader.errors import (
    CorruptDataError,
    CredentialsError,
    SourceError,
    SourceNotFoundError,
    SourceTimeoutError,
)
from windowloader.sources.chunked import open_chunked

VALUES = np.random.default_rng(1).normal(size=(40, 12)).astype("f4")
QUICK = {"anon": True, "retries": 2, "region": "us-east-1"}


@pytest.fixture
def put(bucket_folder, write_array):
    """Write VALUES as ``name`` into the bucket and return its folder."""

    def put(name, **form):
        folder = bucket_folder / "bkt" / name
        shutil.rmtree(folder, ignore_errors=True)
        write_array({"driver": "file", "path": f"{folder}/"}, VALUES, **({"chunks": (10, 12)} | form))
        return folder

    return put


def read(source):
    out = np.empty_like(VALUES)
    source.read(0, len(VALUES), out)
    return out


@pytest.mark.parametrize(
    "fault", ["503", pytest.param("500", marks=pytest.mark.campaign), "429", "reset", "close", "truncate:100"]
)
def test_one_request_in_three_may_fail(proxy, put, fault):
    put("third.zarr", chunks=(4, 12))
    proxy.clear(lambda number, *_: fault if number % 3 == 0 else None)
    source = open_chunked("s3://bkt/third.zarr", storage_options={"endpoint_url": proxy.url, "anon": True})
    np.testing.assert_array_equal(read(source), VALUES)
    assert sum(entry.fault is not None for entry in proxy.log) >= 4
    source.close()


@pytest.mark.parametrize("fault", ["503", "reset", "truncate:10"])
def test_a_lasting_fault_is_an_error(proxy, put, fault):
    put("lasting.zarr")
    source = open_chunked("s3://bkt/lasting.zarr", storage_options={"endpoint_url": proxy.url, **QUICK})
    proxy.clear(lambda number, method, path, headers: fault if "/c/" in path else None)
    with pytest.raises(SourceError, match=r"lasting.zarr.*rows 0–39.*[Rr]etr"):
        read(source)
    # Three tries; a connection that is reset when used again is opened anew once within a try.
    assert len([entry for entry in proxy.log if "/c/2/" in entry.path]) <= 6
    proxy.clear()
    np.testing.assert_array_equal(read(source), VALUES)  # the store came back: so does the source
    source.close()


def test_a_stall_is_an_error_and_not_a_hang(proxy, put):
    put("stall.zarr")
    options = {"endpoint_url": proxy.url, **QUICK, "timeout": 0.3}
    source = open_chunked("s3://bkt/stall.zarr", storage_options=options)
    proxy.clear(lambda number, method, path, headers: "stall" if "/c/" in path else None)
    with pytest.raises(SourceTimeoutError, match=r"stall.zarr.*0.3 s.*storage_options"):
        read(source)
    source.close()


def test_a_wait_with_a_limit_ends(proxy, put):
    put("wait.zarr")
    source = open_chunked("s3://bkt/wait.zarr", storage_options={"endpoint_url": proxy.url, **QUICK})
    proxy.clear(latency=0.3)
    out = np.empty_like(VALUES)
    pending = source.submit(0, 40, out)
    assert not pending.done()
    with pytest.raises(TimeoutError):
        pending.result(timeout=0.01)
    pending.result(timeout=60)
    np.testing.assert_array_equal(out, VALUES)
    source.close()


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_refused_connections(scheme):
    with socket.socket() as reserved:  # bound and not listening: refused, and nobody else's
        reserved.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        url, options = (("s3://bkt/a.zarr", {"endpoint_url": endpoint, **QUICK}) if scheme == "s3"
                        else (f"{endpoint}/bkt/a.zarr", {"retries": 2}))  # fmt: skip
        with pytest.raises(SourceError, match=r"a.zarr.*cannot be reached.*endpoint"):
            open_chunked(url, storage_options=options)


@pytest.mark.campaign
def test_lasting_faults_end_within_thirty_seconds_by_default(proxy, put):
    faults, options = ("503", "stall", "reset"), {"endpoint_url": proxy.url, "anon": True}
    for fault in faults:
        put(f"lasts-{fault}.zarr")
    sources = [open_chunked(f"s3://bkt/lasts-{fault}.zarr", storage_options=options) for fault in faults]
    proxy.clear(lambda number, method, path, headers: next(f for f in faults if f"lasts-{f}.zarr" in path))

    def failing(source):
        begun = time.monotonic()
        with pytest.raises(SourceError):
            read(source)
        return time.monotonic() - begun

    with ThreadPoolExecutor(3) as together:  # they wait, nearly all of the time
        assert max(together.map(failing, sources)) < 30
    for source in sources:
        source.close()


@pytest.mark.campaign
def test_a_passing_stall_is_cut_and_tried_again(proxy, put):
    put("passing.zarr")
    source = open_chunked("s3://bkt/passing.zarr", storage_options={"endpoint_url": proxy.url, "anon": True})
    proxy.clear({1: "stall", 3: "stall"})
    np.testing.assert_array_equal(read(source), VALUES)
    source.close()


def test_credentials(static, put):
    put("private.zarr")
    static.key = "right"
    endpoint = {"endpoint_url": static.url}
    source = open_chunked(
        "s3://bkt/private.zarr", storage_options={**endpoint, "key": "right", "secret": "x"}
    )
    np.testing.assert_array_equal(read(source), VALUES)
    source.close()
    with pytest.raises(CredentialsError, match=r"private.zarr.*credentials are wrong.*InvalidAccessKeyId"):
        open_chunked("s3://bkt/private.zarr", storage_options={**endpoint, "key": "wrong", "secret": "x"})
    with pytest.raises(CredentialsError, match=r"absent or not enough.*anon"):
        open_chunked("s3://bkt/private.zarr", storage_options={**endpoint, "anon": True})


def test_credentials_from_the_environment(static, put, monkeypatch):
    put("private.zarr")
    static.key = "fromenv"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fromenv")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", static.url)
    source = open_chunked("s3://bkt/private.zarr")
    np.testing.assert_array_equal(read(source), VALUES)
    source.close()


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers everything as a service of objects does that will not: the server's ``refusal`` is (status, code)."""

    def do_GET(self):
        status, code = self.server.refusal
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No.</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def refusing():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["a.zarr", "a.npy", "a.h5"])
@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (301, "PermanentRedirect", r"another region; pass storage_options=\{'region'"),
        (400, "AuthorizationHeaderMalformed", r"another region; pass storage_options=\{'region'"),
        (400, "ExpiredToken", "credentials have expired"),
        (403, "InvalidAccessKeyId", "credentials are wrong"),
    ],
)
@pytest.mark.leaks  # TensorStore keeps its connections
def test_a_wrong_region_and_expired_credentials(refusing, name, status, code, advice):
    refusing.refusal = status, code
    options = {"endpoint_url": f"http://127.0.0.1:{refusing.server_port}", "key": "k", "secret": "s"}
    with pytest.raises(CredentialsError, match=rf"{name}.*{advice}"):
        wl.open(f"s3://bkt/{name}", storage_options=options)


@pytest.fixture
def era(bucket_folder):
    """Write VALUES with labels as ``name`` into the bucket and return the name."""

    def write(name):
        data = xr.Dataset({"speed": (("time", "node"), VALUES)}, {"node": np.arange(12)})
        data.to_zarr(bucket_folder / "bkt" / name, zarr_format=3, consolidated=False, mode="w")
        return name

    return write


def test_secrets_are_not_shown(static, put, era):
    put("private.zarr")
    static.key = "right"
    options = {"endpoint_url": static.url, "key": "right", "secret": "hush"}
    source = open_chunked("s3://bkt/private.zarr", storage_options=options)
    assert "hush" not in f"{source!r} {source.location!r} {source.name} {source.fingerprint()}"
    source = open_chunked(f"s3://bkt/{era('labelled.zarr')}", storage_options=options)
    assert "hush" not in f"{source.description!r} {source.description.__dict__!r}"
    assert source.labels(1).tolist() == list(range(12))
    source.close()


def test_buckets_and_arrays_that_are_not_there(static, put):
    put("there.zarr")
    options = {"endpoint_url": static.url, "anon": True}
    with pytest.raises(SourceNotFoundError, match=r"bucket does not exist"):
        open_chunked("s3://nobucket/a.zarr", storage_options=options)
    with pytest.raises(SourceNotFoundError, match=r"nothere.zarr.*no Zarr metadata"):
        open_chunked("s3://bkt/nothere.zarr", storage_options=options)
    with pytest.raises(SourceNotFoundError, match=r"no Zarr metadata"):
        open_chunked(f"{static.url}/bkt/nothere.zarr")
    with pytest.raises(SourceNotFoundError, match=r"no array 'speed'"):
        open_chunked("s3://bkt/there.zarr", variable="speed", storage_options=options)


@pytest.mark.parametrize("form", ["zarr", "zarr3"])
def test_a_missing_chunk(static, put, form):
    folder = put("missing.zarr", form=form)
    (folder / ("c/2/0" if form == "zarr3" else "2.0")).unlink()
    for url, options in (("s3://bkt/missing.zarr", {"endpoint_url": static.url, "anon": True}), (folder, {})):
        source = open_chunked(url, storage_options=options)
        with pytest.raises(
            CorruptDataError, match=r"missing.zarr.*chunk 2, 0; rows 20–29.*fill_missing=True"
        ):
            read(source)
        np.testing.assert_array_equal(read_rows(source, 0, 20), VALUES[:20])
        source.close()
        sparse = open_chunked(url, storage_options=options, fill_missing=True)
        expected = VALUES.copy()
        expected[20:30] = 0
        np.testing.assert_array_equal(read(sparse), expected)
        sparse.close()


def read_rows(source, start, stop):
    out = np.empty((stop - start, VALUES.shape[1]), "f4")
    source.read(start, stop, out)
    return out


@pytest.mark.parametrize("shards", [None, (20, 12)])
def test_a_flipped_byte_is_found_by_its_checksum(proxy, put, shards):
    put("flipped.zarr", shards=shards)
    source = open_chunked("s3://bkt/flipped.zarr", storage_options={"endpoint_url": proxy.url, **QUICK})
    proxy.clear(lambda number, method, path, headers: "corrupt:50" if "/c/1/0" in path else None)
    with pytest.raises(CorruptDataError, match=r"flipped.zarr.*rows 0–39.*chunk 1, 0; rows [12]0–[13]9"):
        read(source)
    source.close()


@pytest.mark.parametrize("form", ["zarr", "zarr3"])
def test_a_chunk_cut_short(put, form):
    folder = put("cut.zarr", form=form)
    file = folder / {"zarr": "1.0", "zarr3": "c/1/0"}[form]
    file.write_bytes(file.read_bytes()[:100])
    source = open_chunked(folder)
    with pytest.raises(CorruptDataError, match=r"cut.zarr.*not what was written"):
        read(source)
    source.close()


def test_metadata_cut_short(put):
    folder = put("half.zarr")
    file = folder / "zarr.json"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"metadata.*JSON"):
        open_chunked(folder)


def test_a_store_replaced_by_another_shape(put, write_array):
    from windowloader.errors import SourceChangedError

    folder = put("other.zarr")
    source = open_chunked(folder)
    before = source.fingerprint()
    write_array({"driver": "file", "path": f"{folder}/"}, VALUES[:20], chunks=(10, 12))
    with pytest.raises(SourceChangedError, match=r"shape.*\(40, 12\).*\(20, 12\).*Open it again"):
        read(source)
    assert open_chunked(folder).fingerprint() != before
