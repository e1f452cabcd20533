"""Own headers stay with the host they were given for, whichever library asks: redirects, references to others."""

import json
import pickle

import h5py
import numpy as np
import pandas as pd
import pytest

import windowloader as wl
from windowloader.errors import SourceError, SourceFormatError

VALUES = np.random.default_rng(4).normal(size=(60, 4)).astype("f4")
SENT = {"Authorization": "Bearer own", "Cookie": "id=own"}
SPEC = wl.WindowSpec(lookback=3, horizon=2)
NAMES = ("a.npy", "a.h5", "a.csv", "a.npz", "a.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("redirected")
    frame = pd.DataFrame(VALUES, columns=list("abcd"))
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_parquet(folder / "a.parquet")
    np.savez(folder / "a.npz", VALUES)
    np.save(folder / "a.npy", VALUES)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(20, 4))
    return folder


def load(target, **options):
    """Iterate a loader over a series and return the first window of each batch."""
    series = wl.open(target, **options)
    windows = wl.WindowSet(series, SPEC)
    with wl.WindowLoader(windows, batch_size=20) as loader:
        found = [batch.inputs[0] for batch in loader]
    for variable in series.variables:
        variable.source.close()
    return np.stack(found)


EXPECTED = np.stack([VALUES[start : start + 3] for start in (0, 20, 40)])[..., None]


def files_of(folder):
    def answer(path):
        place = folder / path.partition("?")[0].lstrip("/")
        return (200, {}, place.read_bytes()) if place.is_file() else (404, {}, b"")

    return answer


def leaked(server, *names):
    return [(path, name) for path, headers in server.seen for name in names if name in headers]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", [302, 307])
def test_what_fsspec_reads_takes_no_headers_to_another_host(web, folder, name, code):
    last = web(files_of(folder))
    first = web(lambda path: (code, {"Location": f"{last.url}{path}"}, b""))
    options = {
        "http": {"headers": SENT},
        "simplecache": {"cache_storage": str(folder / f"kept-{name}-{code}")},
    }
    np.testing.assert_allclose(
        load(f"simplecache::{first.url}/{name}", storage_options=options), EXPECTED, rtol=1e-6
    )
    assert first.seen
    assert {headers["authorization"] for _, headers in first.seen} == {"Bearer own"}
    assert last.seen
    assert not leaked(last, "authorization", "cookie")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["auth", "cookies"])
def test_what_a_session_of_fsspec_would_send_on_is_refused(web, folder, name, what):
    """aiohttp sends a session's password and cookies to whatever host it is led to."""
    server = web(files_of(folder))
    options = {"http": {"client_kwargs": {what: {"id": "own"}}}}
    with pytest.raises(SourceFormatError, match=rf"'{what}'.*redirect"):
        load(f"simplecache::{server.url}/{name}", storage_options=options)
    assert not server.seen


def references(path, chunk=20 * 4 * 4, **more):
    array = {"zarr_format": 2, "shape": [60, 4], "chunks": [20, 4], "dtype": "<f4", "compressor": None,
             "fill_value": None, "filters": None, "order": "C"}  # fmt: skip
    inner = {".zgroup": json.dumps({"zarr_format": 2}), "speed/.zarray": json.dumps(array)}
    inner |= {f"speed/{number}.0": [path, number * chunk, chunk] for number in range(3)}
    return {"version": 1, **more, "refs": inner}


@pytest.fixture
def bytes_at(folder):
    (folder / "a.bin").write_bytes(VALUES.tobytes())
    return folder / "a.bin"


@pytest.mark.parametrize("how", ["plain", "file", "relative", "template", "parquet"])
def test_references_to_local_files_need_the_users_word(bytes_at, tmp_path, monkeypatch, how):
    monkeypatch.chdir(bytes_at.parent)
    path = {"file": bytes_at.as_uri(), "relative": "a.bin"}.get(how, str(bytes_at))
    document = references(path)
    if how == "template":
        document = references("{{u}}", templates={"u": path})
    (tmp_path / "a.json").write_text(json.dumps(document))
    target = str(tmp_path / "a.json")
    if how == "parquet":
        target = _as_parquet(document, tmp_path / "a.parq")
    with pytest.raises(SourceFormatError, match=r"a\.bin'.*a file of this machine.*allow_references"):
        load("reference://", storage_options={"fo": target})
    elsewhere = {"fo": target, "allow_references": [str(tmp_path)]}
    with pytest.raises(SourceFormatError, match=r"a file of this machine"):
        load("reference://", storage_options=elsewhere)
    for word in (
        {"allow_references": [str(bytes_at.parent)]},
        {"allow_references": True},
        {"remote_protocol": "file"},
    ):
        options = {"fo": target, **word}
        np.testing.assert_array_equal(load("reference://", storage_options=options), EXPECTED)
    series = pickle.loads(pickle.dumps(wl.open("reference://", storage_options=options)))
    np.testing.assert_array_equal(wl.WindowSet(series, SPEC).read(0).inputs, EXPECTED[:1])


def _as_parquet(document, folder):
    (folder / "speed").mkdir(parents=True)
    inner = document["refs"]
    metadata = {key: json.loads(value) for key, value in inner.items() if isinstance(value, str)}
    (folder / ".zmetadata").write_text(json.dumps({"metadata": metadata, "record_size": 10}))
    path, offset, size = zip(*[value for value in inner.values() if isinstance(value, list)], strict=True)
    frame = pd.DataFrame({"path": path, "offset": offset, "size": size, "raw": [None] * 3})
    frame.to_parquet(folder / "speed" / "refs.0.parq")
    return str(folder)


def test_a_place_is_no_beginning_of_another_and_links_lead_out_of_none(bytes_at, tmp_path):
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "link.bin").symlink_to(bytes_at)
    for path in (f"{inside}/../a.bin", f"{tmp_path}/data2/a.bin", str(inside / "link.bin")):
        with pytest.raises(SourceFormatError, match="a file of this machine"):
            load("reference://", storage_options={"fo": references(path), "allow_references": str(inside)})


def test_references_keep_to_the_host_they_come_from(web, bytes_at):
    def answer(path):
        if path == "/a.json":
            return 200, {}, json.dumps(references(names[0])).encode()
        return 200, {}, bytes_at.read_bytes()  # a server that ignores ranges is told by its length

    names = [""]
    home, other = web(answer), web(answer)
    names[0] = f"{other.url}/a.bin"
    url = f"reference::{home.url}/a.json"
    with pytest.raises(SourceFormatError, match=r"a.bin' *.*on another host.*allow_references"):
        load(url)
    assert not other.seen
    with pytest.raises(SourceError):
        load(url, storage_options={"allow_references": [other.url]})
    assert other.seen


def test_headers_go_to_no_other_host_of_references(web, bytes_at):
    body = bytes_at.read_bytes()
    other = web(lambda path: (200, {}, body))
    fo = references(f"{other.url}/a.bin")
    options = {"fo": fo, "remote_protocol": "http", "remote_options": {"headers": SENT}}
    with pytest.raises(SourceFormatError, match=r"on another host.*allow_references"):
        load("reference://", storage_options=options)
    last = web(lambda path: (206, {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}, body))
    first = web(lambda path: (302, {"Location": f"{last.url}{path}"}, b""))
    fo = references(f"{first.url}/a.bin")
    options = {**options, "fo": fo, "allow_references": [first.url]}
    with pytest.raises(SourceError):  # a chunk is not the whole file: what matters is what was asked
        load("reference://", storage_options=options)
    assert {headers["authorization"] for _, headers in first.seen} == {"Bearer own"}
    assert last.seen
    assert not leaked(last, "authorization", "cookie")
    own = {"remote_options": {"headers": {"X-Api-Key": "own"}}}
    with pytest.raises(SourceFormatError, match=r"'x-api-key'.*redirect"):
        load("reference://", storage_options={**options, **own})
