"""Tables and archives by URL: retries, limits and errors of streams; redirects and servers without ranges."""

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

import windowloader as wl
from windowloader.errors import SourceError, SourceFormatError, SourceTimeoutError, WindowLoaderError

VALUES = np.random.default_rng(3).normal(size=(60, 4)).astype("f4")
LONG = pd.DataFrame({"id": np.repeat(["a", "b"], 30), "utc": np.tile(pd.date_range("2020", periods=30), 2)})
WHOLE = ("a.csv", "a.csv.gz", "a.npz", "a.parquet", "a.feather", "long.csv")
HOW = {"long.csv": {"entity": "id", "time": "utc"}}


@pytest.fixture(scope="module", autouse=True)
def folder(bucket_folder):
    folder = bucket_folder / "bkt"
    wide = pd.DataFrame(VALUES, columns=list("abcd"))
    wide.to_csv(folder / "a.csv", index=False)
    wide.to_csv(folder / "a.csv.gz", index=False)
    wide.to_parquet(folder / "a.parquet")
    wide.to_feather(folder / "a.feather")
    pd.concat([LONG, wide], axis=1).to_csv(folder / "long.csv", index=False)
    np.savez(folder / "a.npz", VALUES)
    np.save(folder / "a.npy", VALUES)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(20, 4))
    shutil.rmtree(folder / "a.zarr", ignore_errors=True)  # of another module's tests
    zarr.save_array(f"{folder}/a.zarr", VALUES, zarr_format=3)
    return folder


@pytest.fixture(params=["s3", "http"])
def place(request, proxy):
    """Return URL and options of a name."""

    def place(name, **options):
        if request.param == "s3":
            return f"s3://bkt/{name}", {"endpoint_url": proxy.url, "anon": True, **options}
        return f"{proxy.url}/bkt/{name}", options

    return place


def values(name, url, options):
    series = wl.open(url, storage_options=options, **HOW.get(name, {}))
    (variable,) = series.variables
    rows = np.empty(variable.source.shape, variable.source.dtype)
    variable.source.read(0, len(rows), rows)
    variable.source.close()
    return rows.reshape(VALUES.shape)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("fault", [None, "503", "429", "reset", "close", "truncate:100"])
def test_passing_faults_cost_time_and_no_data(place, proxy, name, fault):
    proxy.clear(lambda number, *_: fault if number < 2 else None)
    np.testing.assert_allclose(values(name, *place(name)), VALUES, rtol=1e-6)
    assert len(proxy.log) == 1 + 2 * (fault is not None)


@pytest.mark.parametrize("fault", ["404", "403", "500", "503", "reset", "stall", "truncate:10"])
def test_lasting_faults_are_the_errors_of_streams(place, proxy, fault):
    proxy.clear(lambda *_: fault)
    found = {}
    for name in ("a.npy", *WHOLE):
        url, options = place(name, retries=1, timeout=0.3)
        with pytest.raises(SourceError) as caught:
            values(name, url, options)
        assert url in str(caught.value)
        found[name] = (
            type(caught.value),
            str(caught.value).replace(name, "NAME").partition(" Storage said")[0],
        )
    assert len(set(found.values())) == 1, found
    assert (fault == "stall") == (found["a.csv"][0] is SourceTimeoutError)


@pytest.mark.parametrize("form", ["fixed", "table"])
@pytest.mark.parametrize("dtypes", ["one", "two"])
def test_frames_in_hdf5_are_those_here(place, folder, form, dtypes):
    pytest.importorskip("tables")
    index = pd.date_range("2020-03-28", periods=60, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame(VALUES, index, list("abcd"))
    frame = frame.assign(e=np.arange(60) % 7) if dtypes == "two" else frame
    name = f"{form}-{dtypes}.h5"
    frame.to_hdf(folder / name, key="df", format=form)
    url, options = place(name)
    here, there = wl.open(folder / name, axes="tn"), wl.open(url, axes="tn", storage_options=options)
    for series in (here, there):
        windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0, inputs=["value", "time_of_day"]))
        with wl.WindowLoader(windows, batch_size=60, dtype="float64") as loader:
            inputs = next(iter(loader)).inputs[:, 0]
        np.testing.assert_array_equal(inputs[..., 0], frame)
        np.testing.assert_allclose(inputs[..., 0, 1] * 24, index.hour)
        assert series.nodes.tolist() == list(frame.columns)


@pytest.mark.parametrize("name", WHOLE)
def test_damage_names_the_url(place, folder, name):
    damaged = folder / f"damaged-{name}"
    damaged.write_bytes((folder / name).read_bytes()[:50][::-1])
    url, options = place(damaged.name)
    with pytest.raises(wl.WindowLoaderError) as caught:
        wl.open(url, storage_options=options, **HOW.get(name, {}))
    assert url in str(caught.value)
    assert "/tmp" not in str(caught.value)


SENT = {"Authorization": "Bearer own", "X-Api-Key": "own", "Cookie": "id=own"}


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_for_what_is_fetched_whole(web, folder, code):
    last = web(lambda path: (200, {}, (folder / path.partition("?")[0][1:]).read_bytes()))
    first = web(lambda path: (code, {"Location": f"{last.url}{path}?sig=new"}, b"moved"))
    options = {"headers": SENT, "retries": 1}
    for name in WHOLE:
        url = f"http://user:password@{first.url[7:]}/{name}"
        np.testing.assert_allclose(values(name, url, options), VALUES, rtol=1e-6)
    assert {headers["x-api-key"] for _, headers in first.seen} == {"own"}
    assert len(last.seen) == len(WHOLE)
    for path, headers in last.seen:
        assert path.endswith("?sig=new")
        assert not {"authorization", "x-api-key", "cookie"} & set(headers)


def test_own_headers_stay_with_a_redirect_within_the_host(web, folder):
    def answer(path):
        if path == "/last.csv":
            return 200, {}, (folder / "a.csv").read_bytes()
        return 302, {"Location": "/b.csv" if path == "/a.csv" else f"{server.url}/last.csv"}, b""

    server = web(answer)
    url = f"http://user:password@{server.url[7:]}/a.csv"
    np.testing.assert_allclose(values("a.csv", url, {"headers": {"X-Api-Key": "own"}}), VALUES, rtol=1e-6)
    assert [path for path, _ in server.seen] == ["/a.csv", "/a.csv", "/b.csv", "/last.csv"]
    for _, headers in server.seen:
        assert headers["x-api-key"] == "own"
        assert headers["authorization"] == "Basic dXNlcjpwYXNzd29yZA=="


def test_a_redirect_of_a_bucket_is_named(proxy):
    proxy.clear(lambda *_: "307")
    with pytest.raises(SourceError, match=r"a.csv.*redirects to another URL"):
        wl.open("s3://bkt/a.csv", storage_options={"endpoint_url": proxy.url, "anon": True, "retries": 1})


@pytest.mark.parametrize("location", ["/a.csv", "", "ftp://127.0.0.1/a.csv", "file:///etc/passwd"])
def test_a_redirect_that_leads_nowhere_is_an_error(web, location):
    server = web(lambda path: (302, {"Location": location}, b""))
    with pytest.raises(SourceError, match=r"a.csv.*redirect"):
        wl.open(f"{server.url}/a.csv")


@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.zarr"])
def test_a_redirect_of_a_stream_is_named(web, folder, name):
    last = web(lambda path: (200, {}, (folder / path[1:]).read_bytes()))
    first = web(lambda path: (302, {"Location": f"{last.url}{path}"}, b""))
    with pytest.raises(SourceError, match=rf"{name}.*redirects to another URL.*HTTP code 302"):
        wl.open(f"{first.url}/{name}", storage_options={"headers": SENT})
    assert not last.seen


def test_a_server_that_ignores_ranges(web, folder):
    server = web(lambda path: (200, {}, (folder / path[1:]).read_bytes()))
    for name in ("a.npy", "a.h5"):
        with pytest.raises(SourceError, match=rf"{name}.*ignores Range"):
            wl.open(f"{server.url}/{name}")
    for name in WHOLE:
        np.testing.assert_allclose(values(name, f"{server.url}/{name}", {}), VALUES, rtol=1e-6)


def test_a_query_tells_one_array_from_another_in_the_cache(web, tmp_path):
    """The server has no ETags, and the arrays have the same form."""
    for place, name in enumerate("ab"):
        zarr.save_array(f"{tmp_path}/{name}.zarr", VALUES + place, zarr_format=3)

    def answer(path):
        path, _, query = path.partition("?")
        found = tmp_path / f"{query[4]}.zarr" / path.partition(".zarr/")[2]
        return (200, {}, found.read_bytes()) if found.is_file() else (404, {}, b"")

    server = web(answer)
    for query in ("set=a", "set=b", "set=a&X-Amz-Signature=x", "set=b&sv=2&sig=y", "set=a&Expires=9&token=z"):
        server.seen.clear()
        (variable,) = wl.open(f"{server.url}/x.zarr?{query}", cache_dir=tmp_path / "cache").variables
        rows = np.empty((60, 4), "f4")
        variable.source.read(0, 60, rows)
        variable.source.close()
        np.testing.assert_array_equal(rows, VALUES + "ab".index(query[4]))
        fetched = [path for path, _ in server.seen if "/c/" in path]
        assert bool(fetched) == (len(query) == 5), query  # another signature is no other array


def test_fsspec_is_given_no_headers_that_it_would_send_on(proxy):
    for name in ("a.npy", "a.csv", "a.zarr"):
        options = {"https": {"headers": {"X-Api-Key": "own"}}, "http": {"headers": {"X-Api-Key": "own"}}}
        with pytest.raises(wl.errors.SourceFormatError, match=r"'x-api-key'.*redirect"):
            wl.open(f"simplecache::{proxy.url}/bkt/{name}", storage_options=options)


@pytest.mark.parametrize("ids", [["403", "401", "402", "9"], ["c", "a", "b", "x"]])
def test_a_static_table_goes_by_its_column_of_labels(ids, folder, place):
    """The same as from a file here: rows by the labels of the nodes, whatever their order."""
    table = pd.DataFrame({"sensor": ids, "lanes": [3, 1, 2, 9], "limit": [30.5, 10.5, 20.5, 90.5]})
    table.to_csv(folder / f"static-{ids[0]}.csv", index=False)
    url, options = place(f"static-{ids[0]}.csv")
    nodes = sorted(ids[:3])
    series = wl.open({"speed": VALUES[:, :3]}, nodes=nodes, covariates={"road": url}, storage_options=options)
    found = series.variables[1].view()
    np.testing.assert_array_equal(found[0], [[1, 10.5], [2, 20.5], [3, 30.5]])


FOREIGN = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "page": (b"<!DOCTYPE html><html><title>Sign in</title></html>", "web page ('Sign in')"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", ["csv", "npz", "parquet"])
def test_a_file_that_is_something_else_is_called_what_it_is(kind, suffix, folder, place):
    content, words = FOREIGN[kind]
    (folder / f"{kind}.{suffix}").write_bytes(content)
    url, options = place(f"{kind}.{suffix}")
    with pytest.raises(SourceFormatError) as caught:
        wl.open(url, storage_options=options)
    assert words in str(caught.value)
    assert url in str(caught.value)


@pytest.mark.parametrize("suffix", ["npy", "zarr", "h5", "nc"])
def test_a_page_in_place_of_what_is_read_in_ranges_is_an_error_with_its_url(suffix, folder, place):
    file = folder / f"page.{suffix}" / "zarr.json" if suffix == "zarr" else folder / f"page.{suffix}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(FOREIGN["page"][0] * 200)
    url, options = place(f"page.{suffix}")
    with pytest.raises(WindowLoaderError) as caught:
        wl.open(url, storage_options=options)
    assert url in str(caught.value)


def test_one_of_several_arrays_of_an_archive(place, folder):
    np.savez(folder / "two.npz", speed=VALUES, flow=VALUES + 1)
    url, options = place("two.npz")
    series = wl.open(url, variables=["flow"], storage_options=options)
    np.testing.assert_array_equal(series.variables[0].source.array(), VALUES + 1)
