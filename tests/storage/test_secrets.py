"""Passwords, signed queries and headers are in no text: not in errors, warnings, reprs, plans, states or caches."""

import json
import logging
import pickle
import shutil
import sys
import threading
import traceback
import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import windowloader as wl
from windowloader.cli import main

VALUES = np.random.default_rng(5).normal(size=(60, 4)).astype("f4")
SECRETS = ("dXNlcjpodXNoUEFTUw==", "hushPASS", "hushSIGN", "hushTOKEN", "hushHEADER", "hushKEY")
QUERY = "X-Amz-Signature=hushSIGN&token=hushTOKEN"
OPTIONS = {
    "headers": {"X-Api-Key": "hushHEADER", "Cookie": "id=hushHEADER"},
    "retries": 1,
    "timeout": 0.5,
}
WIDE = pd.DataFrame(VALUES, columns=list("abcd"))
LONG = pd.DataFrame(
    {
        "meter": np.repeat(["a", "b"], 60),
        "utc": np.tile(pd.date_range("2020", periods=60, freq="h"), 2),
        "kwh": np.arange(120.0),
    }
)


def write_all(folder):
    folder.mkdir(parents=True)
    np.save(folder / "a.npy", VALUES)
    np.save(folder / "b.npy", VALUES)
    np.savez(folder / "a.npz", speed=VALUES)
    WIDE.to_csv(folder / "a.csv", index=False)
    WIDE.to_parquet(folder / "a.parquet")
    LONG.to_csv(folder / "long.csv", index=False)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(10, 4), compression="gzip")
    set_ = xr.Dataset({"speed": (("time", "node"), VALUES)}, {"node": list("abcd")})
    set_.to_netcdf(folder / "a.nc", engine="h5netcdf")
    set_.to_zarr(folder / "two.zarr", zarr_format=2, encoding={"speed": {"chunks": (10, 4)}})
    zarr.save_array(f"{folder}/three.zarr", VALUES, zarr_format=3)


# What is opened and how; a list's names are joined along time.
FAMILIES = {
    "npy": ("a.npy", {}),
    "npz": ("a.npz", {}),
    "csv": ("a.csv", {}),
    "parquet": ("a.parquet", {}),
    "long": ("long.csv", {"entity": "meter", "time": "utc"}),
    "hdf5": ("a.h5", {}),
    "netcdf": ("a.nc", {}),
    "zarr2": ("two.zarr", {"variables": ["speed"]}),
    "zarr3": ("three.zarr", {}),
    "list": (("a.npy", "b.npy"), {}),
}


@pytest.fixture(scope="module", autouse=True)
def folder(bucket_folder):
    folder = bucket_folder / "bkt" / "hidden"
    write_all(folder)
    yield folder
    shutil.rmtree(folder)


def url(port, name, query=QUERY):
    return f"http://user:hushPASS@127.0.0.1:{port}/bkt/hidden/{name}?{query}"


def target_of(port, names):
    return [url(port, name) for name in names] if isinstance(names, tuple) else url(port, names)


def chain(error):
    """Every error behind one, whether a traceback shows it or not."""
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return seen


def texts_of(thing):
    yield repr(thing)
    yield str(thing)
    for name in ("_repr_html_", "to_json"):
        if hasattr(thing, name):
            yield str(getattr(thing, name)())
    if hasattr(thing, "to_dict"):
        yield json.dumps(thing.to_dict(), default=str)


class Seen:
    """Everything that was said, and whether a secret is in it."""

    def __init__(self, caplog, capfd):
        self.texts, self.caplog, self.capfd = [], caplog, capfd
        caplog.set_level(logging.DEBUG)

    def add(self, *things):
        for thing in things:
            self.texts.extend(texts_of(thing))

    def run(self, action):
        """Run it and return its error, if any."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.add(action())
                failed = None
            except Exception as error:
                failed = error
                self.texts.append("".join(traceback.format_exception(error)))
                for one in chain(error):
                    self.texts += [str(one), repr(one), repr(pickle.loads(pickle.dumps(error)))]
        self.texts += [str(warning.message) for warning in caught]
        return failed

    def check(self):
        said = self.capfd.readouterr()
        # What fsspec's own loggers say at DEBUG, once somebody turns them on, is not in our hands.
        records = [
            record for record in self.caplog.records if record.name[:6] != "fsspec" or record.levelno > 10
        ]
        records = [record.getMessage() for record in records]
        for text in (*self.texts, *records, said.out, said.err):
            for secret in SECRETS:
                assert secret not in text, text


@pytest.fixture
def seen(caplog, capfd):
    return Seen(caplog, capfd)


def use(target, cache_dir=None, **how):
    """Open, plan, iterate; everything that has a text is returned."""
    series = wl.open(target, storage_options=OPTIONS, cache_dir=cache_dir, **how)
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=2))
    with wl.WindowLoader(windows, batch_size=8) as loader:
        found = [series, windows, loader, loader.plan(), *(variable.source for variable in series.variables)]
        for batch in loader:
            found.append(batch)
            break
        found += [
            loader.stats(),
            loader.state_dict(),
            series.fingerprint(),
            pickle.loads(pickle.dumps(series)),
        ]
        found += [loader.dataset if hasattr(loader, "dataset") else None]
    [variable.source.close() for variable in series.variables]
    return [text for thing in found for text in texts_of(thing)]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_opened_shows_no_secret(family, proxy, seen, tmp_path):
    names, how = FAMILIES[family]
    assert seen.run(lambda: use(target_of(proxy.port, names), **how)) is None
    assert seen.run(lambda: use(target_of(proxy.port, names), tmp_path / "cache", **how)) is None
    for path in tmp_path.rglob("*"):
        seen.texts += [str(path), path.read_text() if path.suffix == ".json" else ""]
    seen.check()


@pytest.mark.parametrize("fault", ["404", "403", "500", "302", "stall", "close", "corrupt:3", "truncate:20"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_fails_shows_no_secret(family, fault, proxy, seen):
    names, how = FAMILIES[family]
    proxy.clear(lambda *_: fault)
    failed = seen.run(lambda: use(target_of(proxy.port, names), **how))
    assert isinstance(failed, wl.WindowLoaderError) or fault == "corrupt:3", failed
    documents = ("json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
    proxy.clear(
        lambda _, method, path, headers: None if path.partition("?")[0].endswith(documents) else fault
    )
    if fault != "stall":  # the coordinates of a store that stalls are waited for by TensorStore's own limits
        failed = seen.run(lambda: use(target_of(proxy.port, names), **how))
        assert failed is None or isinstance(failed, wl.WindowLoaderError), failed
    proxy.clear()
    seen.check()


MISTAKES = {
    "no such variable": ("two.zarr", {"variables": ["nothing"]}),
    "no such array": ("a.h5", {"variables": ["nothing"]}),
    "no such member": ("a.npz", {"member": "nothing"}),
    "no such column": ("a.csv", {"columns": ["nothing"]}),
    "no such entity": ("a.csv", {"entity": "nothing", "time": "utc"}),
    "no such option": ("a.npy", {"nothing": 1}),
    "wrong axes": ("a.npy", {"axes": "tnnf"}),
    "wrong order": ("a.npy", {"axes": "nt"}),
    "wrong features": ("a.npy", {"features": ["a"], "axes": "tf"}),
    "no graph": ("a.npy", {"graph": "http://user:hushPASS@127.0.0.1:1/adj.pkl?sig=hushSIGN"}),
    "no covariate": ("a.npy", {"covariates": {"x": "http://user:hushPASS@127.0.0.1:1/x.csv?sig=hushSIGN"}}),
    "no folder": ("a.npy", {"cache_dir": "http://user:hushPASS@127.0.0.1:1/?sig=hushSIGN"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_shows_no_secret(mistake, proxy, seen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, how = MISTAKES[mistake]
    assert isinstance(seen.run(lambda: use(url(proxy.port, name), **how)), wl.WindowLoaderError)
    assert not list(tmp_path.rglob("*hush*"))
    seen.check()


@pytest.mark.parametrize(
    "target",
    [
        "http://user:hush/PASS@127.0.0.1:1/a.npy",
        "http://user:hush#PASS@127.0.0.1:1/a.csv",
        "http://user:[hushPASS@127.0.0.1:1/a.zarr",
        "http://hushTOKEN@127.0.0.1:1/a.zarr",
        "s3://hushKEY:hushPASS@bkt/a.npy",
        "s3://bkt/a.csv?X-Amz-Signature=hushSIGN",
        "gs://user:hushPASS@bkt/a.zarr",
        "sftp://user:hushPASS@127.0.0.1/a.npy",
        "abfs://container@account/a.csv?sig=hushSIGN",
        "simplecache::http://user:hushPASS@127.0.0.1:1/a.npy?sig=hushSIGN",
        "simplecache::http://user:hushPASS@127.0.0.1:1/a.zarr?sig=hushSIGN",
        "nothing://user:hushPASS@127.0.0.1/a.npy?sig=hushSIGN",
        ["http://user:hushPASS@127.0.0.1:1/a.npy?sig=hushSIGN", 3.0],
    ],
)
def test_a_wrong_url_shows_no_secret(target, seen):
    quick = {"retries": 0} if "http:" in str(target)[:9] else {}
    for options in ({}, {"entity": "meter", "time": "utc"}):
        failed = seen.run(lambda options=options: wl.open(target, storage_options=quick, **options))
        assert isinstance(failed, wl.WindowLoaderError), failed
    for text in seen.texts:
        assert "PASS" not in text
    seen.check()


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": "Bearer hushTOKEN\n"}},
        {"headers": {"a b": "hushTOKEN"}},
        {"client_kwargs": {"headers": {"X": "hushTOKEN\r"}}},
        {"headres": {"X": "hushTOKEN"}},
    ],
)
def test_a_wrong_option_shows_no_secret(options, proxy, seen):
    for name in ("a.npy", "a.csv", "three.zarr"):
        failed = seen.run(
            lambda name=name: wl.open(f"{proxy.url}/bkt/hidden/{name}", storage_options=options)
        )
        assert isinstance(failed, wl.errors.SourceFormatError)
    token = {"token": f"{SECRETS[3]}"}  # a traceback prints the lines of this file
    failed = seen.run(lambda: wl.open("gs://bkt/a.npy", storage_options=token))
    assert isinstance(failed, wl.errors.SourceFormatError)
    seen.check()


@pytest.mark.parametrize("fault", [None, "403", "500", "301"])
def test_keys_of_a_bucket_are_not_shown(fault, proxy, seen, tmp_path):
    endpoint = f"http://user:hushPASS@127.0.0.1:{proxy.port}"
    keys = {
        "key": "hushKEY",
        "secret": "hushPASS",
        "token": "hushTOKEN",
        "retries": 1,
        "endpoint_url": endpoint,
    }
    proxy.clear(lambda *_: fault)
    for name in ("a.npy", "a.csv", "two.zarr"):
        how = {"storage_options": keys, "cache_dir": tmp_path / "cache"}
        failed = seen.run(lambda name=name, how=how: wl.open(f"s3://bkt/hidden/{name}", **how))
        assert (failed is None) == (fault is None)
        failed = seen.run(
            lambda: wl.convert(np.zeros((9, 2)), "s3://bkt/hidden/made.zarr", storage_options=keys)
        )
        assert failed is not None  # the server takes no writes
    seen.check()


@pytest.mark.parametrize("fault", [None, "404", "403", "500"])
def test_commands_show_no_secret(fault, proxy, seen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    proxy.clear(lambda _, method, path, headers: fault if "/c/" in path else None)
    target = url(proxy.port, "three.zarr")
    made = str(tmp_path / "made.zarr")
    own = ["--option", f"headers={json.dumps(OPTIONS['headers'])}", "--option", "retries=1"]
    commands = [
        ["inspect", target, *own],
        ["plan", target, "--lookback", "3", "--horizon", "2", *own],
        ["stats", target, "--json", *own],
        ["convert", target, made, *own],
        ["inspect", url(proxy.port, "nothing.csv")],
    ]
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # the command line sets it for its process
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["windowloader", *command])
        with pytest.raises(SystemExit):
            main()
        seen.check()
    for path in tmp_path.rglob("*"):  # the result, or the journal of what was not finished
        held = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
        assert not [secret for secret in SECRETS if secret.encode() in held]
    assert list(tmp_path.iterdir())


def test_an_open_tensorstore_shows_no_secret(proxy, seen):
    ts = pytest.importorskip("tensorstore")
    base = f"http://user:hushPASS@127.0.0.1:{proxy.port}?{QUERY}"
    kvstore = {"driver": "http", "base_url": base, "path": "/bkt/hidden/three.zarr/"}
    kvstore["headers"] = ["X-Api-Key: hushHEADER"]
    found = ts.open({"driver": "zarr3", "kvstore": kvstore}).result()
    assert seen.run(lambda: use(found)) is None
    seen.check()
