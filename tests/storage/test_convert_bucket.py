"""Conversion into a bucket of a real S3 server: whole or not there, whatever is killed on the way."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from typer.testing import CliRunner

import windowloader as wl
from windowloader.cli import app
from windowloader.convert import places, stores
from windowloader.convert.conversion import convert
from windowloader.errors import (
    ConversionError,
    CredentialsError,
    MemoryBudgetError,
    SourceError,
    SourceNotFoundError,
)

SPEED = np.random.default_rng(0).uniform(1, 80, (500, 7))
CLOCK = ("2012-03-01", "5min")


class Bucket:
    """The bucket ``bkt``, its keys below a folder of the test's own."""

    def __init__(self, client, endpoint: str, folder: str) -> None:
        self.client, self.folder = client, folder
        self.options = {"endpoint_url": endpoint, "key": "k", "secret": "s"}

    def url(self, name: str) -> str:
        return f"s3://bkt/{self.folder}/{name}"

    def open(self, name: str, **options) -> wl.Series:
        return wl.open(self.url(name), storage_options=self.options, **options)

    def tree(self, name: str = "") -> dict[str, bytes]:
        """Objects by key, below the folder; of one of its folders with ``name``, which ends in a slash."""
        prefix = f"{self.folder}/{name}"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bkt", Prefix=prefix)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        bodies = [self.client.get_object(Bucket="bkt", Key=key)["Body"].read() for key in keys]
        return {key.removeprefix(prefix): body for key, body in zip(keys, bodies, strict=True)}

    def put(self, name: str, body: bytes) -> None:
        self.client.put_object(Bucket="bkt", Key=f"{self.folder}/{name}", Body=body)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket="bkt", Key=f"{self.folder}/{name}")


@pytest.fixture
def bucket(moto, request):
    import boto3

    client = boto3.client(
        "s3", endpoint_url=moto, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    made = Bucket(client, moto, f"convert-{abs(hash(request.node.name))}")
    yield made
    for key in made.tree():  # the server keeps large objects in open files
        client.delete_object(Bucket="bkt", Key=f"{made.folder}/{key}")
    client.close()


def series_of(values: np.ndarray = SPEED, **options) -> wl.Series:
    options.setdefault("timestamps", CLOCK)
    return wl.Series(values, **options)


def values_of(series: wl.Series) -> np.ndarray:
    source = series.variables[0].source
    out = np.empty(source.shape, source.dtype)
    source.read(0, len(out), out)
    source.close()
    return out


def batches(series: wl.Series) -> list[np.ndarray]:
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=5, horizon=3))
    with wl.WindowLoader(windows, batch_size=32) as loader:
        return [np.array(inputs) for inputs, _ in loader]


# -- what is made ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [False, 100])
@pytest.mark.parametrize("dtype", [None, "int16"])
def test_a_bucket_holds_what_a_folder_would(bucket, tmp_path, shards, dtype):
    series = series_of(nodes=[f"s{number}" for number in range(7)])
    form = {"chunks": 50, "shards": shards, "dtype": dtype}
    here = convert(series, tmp_path / "a.zarr", **form)
    there = convert(series, bucket.url("a.zarr"), storage_options=bucket.options, **form)
    assert (there.checksum, there.arrays) == (here.checksum, here.arrays)
    assert there.path == bucket.url("a.zarr")
    found = bucket.tree("a.zarr/")
    files = {
        file.relative_to(tmp_path / "a.zarr").as_posix(): file.read_bytes()
        for file in (tmp_path / "a.zarr").rglob("*")
        if file.is_file()
    }
    assert found.keys() == files.keys()
    for key, body in files.items():
        assert json.loads(found[key]) == json.loads(body) if key.endswith(".json") else found[key] == body
    assert bucket.tree("a.zarr.partial/") == {}


def test_what_was_written_streams_the_same_batches(bucket):
    made = convert(series_of(), bucket.url("a.zarr"), chunks=50, storage_options=bucket.options)
    opened = bucket.open("a.zarr")
    assert opened.tier == "streamed"
    np.testing.assert_array_equal(
        opened.clock.timestamps(np.arange(500)), series_of().clock.timestamps(np.arange(500))
    )
    for ours, theirs in zip(batches(opened), batches(series_of()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    opened.variables[0].source.close()
    assert made.resumed_bytes == 0


def test_xarray_opens_it(bucket, tmp_path):
    import xarray

    convert(
        series_of(nodes=np.arange(7) * 10), bucket.url("a.zarr"), chunks=50, storage_options=bucket.options
    )
    for key, body in bucket.tree("a.zarr/").items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(body)
    with xarray.open_zarr(tmp_path, chunks=None) as dataset:
        np.testing.assert_array_equal(dataset["value"].values, SPEED)
        np.testing.assert_array_equal(dataset["node"].values, np.arange(7) * 10)


def test_the_command_takes_the_options_of_the_source_or_its_own(bucket, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", SPEED)
    wide = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    typed = [f"--option={key}={value}" for key, value in bucket.options.items()]
    first = CliRunner().invoke(
        app, ["convert", str(tmp_path / "a.npy"), bucket.url("a.zarr"), *typed], env=wide
    )
    assert first.exit_code == 0, first.output
    assert bucket.url("a.zarr") in first.output
    for name, value in {"AWS_ENDPOINT_URL": bucket.options["endpoint_url"], "AWS_ACCESS_KEY_ID": "k"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    again = CliRunner().invoke(  # from the bucket, and into it by options of its own
        app,
        [
            "convert",
            bucket.url("a.zarr"),
            bucket.url("b.zarr"),
            *[option.replace("--option", "--to-option") for option in typed],
            "--json",
        ],
        env=wide,
    )
    assert again.exit_code == 0, again.output
    np.testing.assert_array_equal(values_of(bucket.open("b.zarr")), SPEED)
    wrong = CliRunner().invoke(
        app, ["convert", str(tmp_path / "a.npy"), "s3://bkt/c.zarr", "--to-option", "x"]
    )
    assert wrong.exit_code == 2


# -- whole or not there ----------------------------------------------------------------------------------------------


class Stop(Exception):  # noqa: N818
    pass


def stopped_at(count: int, monkeypatch) -> None:
    """Let the bucket change no more from the count-th change on."""
    left = count

    def watched(method):
        def change(*arguments):
            nonlocal left
            left -= 1
            if left <= 0:
                raise Stop
            return method(*arguments)

        return change

    for name in ("put", "delete", "clear"):
        monkeypatch.setattr(stores.Objects, name, watched(getattr(stores.Objects, name)))


FORM = {"chunks": 200, "memory": "120kB", "threads": 1}  # three pieces


@pytest.mark.campaign  # every change of the bucket, once the last
def test_at_no_moment_is_half_of_it_found(bucket, monkeypatch):
    """Every change of the bucket is once the last one; what is found then is nothing or all of it."""
    whole = convert(series_of(), bucket.url("whole.zarr"), storage_options=bucket.options, **FORM)
    stops = 0
    for count in range(1, 100):
        name = f"a{count}.zarr"
        with monkeypatch.context() as patched:
            stopped_at(count, patched)
            try:
                convert(series_of(), bucket.url(name), storage_options=bucket.options, **FORM)
            except Stop:
                stops += 1
            else:
                break
        found = None
        with contextlib.suppress(SourceNotFoundError):
            found = bucket.open(name)
        if found is not None:
            np.testing.assert_array_equal(values_of(found), SPEED)  # all was done but to remove the mark
            with pytest.raises(ConversionError, match="exists"):
                convert(series_of(), bucket.url(name), storage_options=bucket.options, **FORM)
        else:
            made = convert(series_of(), bucket.url(name), storage_options=bucket.options, **FORM)
            assert (made.checksum, made.arrays) == (whole.checksum, whole.arrays)
        assert bucket.tree(f"{name}/") == bucket.tree("whole.zarr/")
        assert bucket.tree(f"{name}.partial/") == {}
    assert stops >= 8


@pytest.mark.campaign
def test_what_is_replaced_stays_until_the_new_one_is_whole(bucket, monkeypatch):
    """Every change is once the last: the old store, none, or the new one, and never a mixture."""
    old, states = np.zeros((300, 2)), []
    for count in range(1, 100):
        name = f"r{count}.zarr"
        convert(series_of(old), bucket.url(name), chunks=50, storage_options=bucket.options)
        with monkeypatch.context() as patched:
            stopped_at(count, patched)
            try:
                convert(series_of(), bucket.url(name), overwrite=True, storage_options=bucket.options, **FORM)
            except Stop:
                pass
            else:
                break
        try:
            found = values_of(bucket.open(name))
        except SourceNotFoundError:
            states.append("gone")
        else:
            states.append("new" if found.shape == SPEED.shape else "old")
            np.testing.assert_array_equal(found, SPEED if states[-1] == "new" else old)
        convert(series_of(), bucket.url(name), overwrite=True, storage_options=bucket.options, **FORM)
        np.testing.assert_array_equal(values_of(bucket.open(name)), SPEED)
        assert bucket.tree(f"{name}.partial/") == {}
    order = sorted(states, key=["old", "gone", "new"].index)
    assert states == order
    assert set(states) == {"old", "gone", "new"}
    assert states.count("old") >= 3


def test_names_that_are_taken_are_left_alone(bucket):
    convert(series_of(), bucket.url("a.zarr"), storage_options=bucket.options)
    before = bucket.tree()
    with pytest.raises(ConversionError, match=r"a.zarr' exists.*--overwrite"):
        convert(series_of(SPEED + 1), bucket.url("a.zarr"), storage_options=bucket.options)
    with pytest.raises(ConversionError, match="would be replaced by what is made from it"):
        convert(bucket.open("a.zarr"), bucket.url("a.zarr"), overwrite=True, storage_options=bucket.options)
    assert bucket.tree() == before
    bucket.put("notes/kept.txt", b"mine")
    for overwrite in (True, False):
        with pytest.raises(
            ConversionError, match=r"holds 1 objects that no conversion wrote, 'kept.txt' first"
        ):
            convert(series_of(), bucket.url("notes"), overwrite=overwrite, storage_options=bucket.options)
    assert bucket.tree() == before | {"notes/kept.txt": b"mine"}


def test_a_store_made_by_somebody_else_meanwhile_is_not_mixed_with(bucket, monkeypatch):
    show = places.BucketDestination.publish

    def late(self, *arguments, **options):
        bucket.put("a.zarr/zarr.json", b"{}")
        show(self, *arguments, **options)

    monkeypatch.setattr(places.BucketDestination, "publish", late)
    with pytest.raises(ConversionError, match="made by another program"):
        convert(series_of(), bucket.url("a.zarr"), storage_options=bucket.options)
    monkeypatch.undo()
    convert(series_of(), bucket.url("a.zarr"), restart=True, overwrite=True, storage_options=bucket.options)
    np.testing.assert_array_equal(values_of(bucket.open("a.zarr")), SPEED)


# -- kills, faults, two at once --------------------------------------------------------------------------------------

CONVERT = """
import json, os, signal, sys, threading, time
from windowloader.convert import stores
from windowloader.convert.conversion import convert
import windowloader as wl

source, url, options, dtype, after, delay = sys.argv[1:7]
left = int(after)

def end():
    begun = time.perf_counter()
    while time.perf_counter() - begun < float(delay):
        pass
    os.kill(os.getpid(), signal.SIGKILL)

def watched(method):
    def change(*arguments):
        global left
        left -= 1
        if left == 0:  # at any moment from here: before, within and after what is written
            threading.Thread(target=end, daemon=True).start()
        return method(*arguments)
    return change

stores.Objects.put = watched(stores.Objects.put)
series = wl.open(source, timestamps=("2012-03-01", "5min"))
made = convert(series, url, dtype=dtype or None, chunks=16, shards=64, memory="900kB", threads=2,
               storage_options=json.loads(options))
print(json.dumps(made.to_dict()))
"""


def run(source, url: str, options: dict, dtype: str, after: int = 0, delay: float = 0) -> dict | None:
    """What was made, or None where the process was killed."""
    given = [source, url, json.dumps(options), dtype, str(after), str(delay)]
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, *given], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return json.loads(done.stdout) if done.stdout else None


def kill_and_resume(bucket: Bucket, folder, dtype: str, *, kills: int, seed: int) -> None:
    np.save(folder / "source.npy", np.random.default_rng(seed).normal(60, 9, (4096, 120)).astype("f4"))
    chance = random.Random(seed)
    whole = run(folder / "source.npy", bucket.url("whole.zarr"), bucket.options, dtype)
    assert whole is not None
    killed = 0
    while killed < kills:
        after, delay = chance.randint(1, 4), chance.uniform(0, 0.02)
        done = run(folder / "source.npy", bucket.url("killed.zarr"), bucket.options, dtype, after, delay)
        killed += done is None
        if "zarr.json" not in (there := bucket.tree("killed.zarr/")):
            with pytest.raises(SourceNotFoundError):
                bucket.open("killed.zarr")
            continue
        # It was over before the signal came, but perhaps for the mark: begin anew.
        kept = {key: body for key, body in there.items() if not key.startswith(".windowloader")}
        assert kept == bucket.tree("whole.zarr/")
        for key in there:
            bucket.remove(f"killed.zarr/{key}")
    made = run(folder / "source.npy", bucket.url("killed.zarr"), bucket.options, dtype)
    assert made is not None
    assert made["checksum"] == whole["checksum"]
    assert made["arrays"] == whole["arrays"]
    assert bucket.tree("killed.zarr/") == bucket.tree("whole.zarr/")
    assert bucket.tree("killed.zarr.partial/") == {}


@pytest.mark.campaign
def test_killed_twice_and_resumed_it_is_the_same(bucket, tmp_path):
    kill_and_resume(bucket, tmp_path, "float16", kills=2, seed=0)


@pytest.mark.campaign
@pytest.mark.parametrize("dtype", ["", "int16"])
def test_killed_often_and_resumed_it_is_the_same(bucket, tmp_path, dtype):
    kill_and_resume(bucket, tmp_path, dtype, kills=int(os.environ.get("KILLS", "50")), seed=1)


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_what_breaks_in_the_bucket_meanwhile_is_found_and_written_again(bucket, damage):
    def progress(phase: str, _done: int, _total: int) -> None:
        if phase == "check":
            raise Stop

    form = {"chunks": 16, "compression": "none", "storage_options": bucket.options}
    with pytest.raises(Stop):
        convert(series_of(), bucket.url("a.zarr"), progress=progress, **form)
    chunk = bytearray(bucket.tree("a.zarr/")["value/c/3/0"])
    chunk[-9] ^= 1
    if damage == "gone":
        bucket.remove("a.zarr/value/c/3/0")
    else:
        bucket.put("a.zarr/value/c/3/0", bytes(chunk if damage == "flip" else chunk[:-7]))
    convert(series_of(), bucket.url("a.zarr"), **form)
    np.testing.assert_array_equal(values_of(bucket.open("a.zarr")), SPEED)


def test_faults_that_pass_cost_time_and_nothing_else(bucket, s3):
    """Every fifth answer of the server is an error."""
    options = {**bucket.options, "endpoint_url": s3.url}
    s3.clear(lambda number, *_: "503" if number % 5 == 4 else None)
    made = convert(series_of(), bucket.url("a.zarr"), chunks=16, storage_options=options)
    assert any(entry.fault and entry.method == "PUT" for entry in s3.log)
    np.testing.assert_array_equal(values_of(bucket.open("a.zarr")), SPEED)
    assert made.resumed_bytes == 0


def test_a_conversion_of_something_else_is_not_gone_on_with(bucket, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Stop):
        stopped_at(4, patched)
        convert(series_of(), bucket.url("a.zarr"), storage_options=bucket.options, **FORM)
    left = bucket.tree("a.zarr/")
    assert left
    with pytest.raises(ConversionError, match="other data or other settings.*--restart"):
        convert(series_of(SPEED[:77]), bucket.url("a.zarr"), storage_options=bucket.options)
    made = convert(series_of(SPEED[:77]), bucket.url("a.zarr"), restart=True, storage_options=bucket.options)
    assert made.resumed_bytes == 0
    np.testing.assert_array_equal(values_of(bucket.open("a.zarr")), SPEED[:77])
    assert len(bucket.tree("a.zarr/value/c/")) == 1


# -- what cannot be --------------------------------------------------------------------------------------------------


def test_what_keeps_it_from_the_bucket_is_told_and_not_tried_again(bucket, static, tmp_path):
    np.save(tmp_path / "a.npy", SPEED)
    static.key = "somebody"
    cases = {
        ("s3://nowhere/a.zarr", bucket.options["endpoint_url"]): (
            SourceNotFoundError,
            "bucket does not exist",
        ),
        ("s3://bkt/a.zarr", static.url): (CredentialsError, "credentials are wrong"),
    }
    for (url, endpoint), (kind, message) in cases.items():
        with pytest.raises(kind, match=message):
            convert(series_of(), url, storage_options={**bucket.options, "endpoint_url": endpoint})
    assert len(static.log) < 4
    unreachable = {**bucket.options, "endpoint_url": "http://127.0.0.1:9", "retries": 1}
    with pytest.raises(SourceError, match="cannot be reached"):
        convert(series_of(), "s3://bkt/a.zarr", storage_options=unreachable)


def test_keys_by_value_are_not_sent_to_processes_and_nothing_is_begun(bucket):
    with ProcessPoolExecutor(1) as pool, pytest.raises(CredentialsError, match="not sent to other processes"):
        convert(series_of(), bucket.url("a.zarr"), executor=pool, storage_options=bucket.options)
    assert bucket.tree() == {}


def test_memory_that_does_not_hold_a_shard_is_refused_before_anything_is_there(bucket):
    wide = np.zeros((64, 1 << 18))
    with pytest.raises(MemoryBudgetError, match="64 at a time"):
        convert(wide, bucket.url("a.zarr"), chunks=64, memory="300MiB", storage_options=bucket.options)
    assert bucket.tree() == {}


VIRTUAL = """
import json, sys
import numpy as np
from windowloader.convert.conversion import convert
from windowloader.sources.base import LocalSource

ROW = np.random.default_rng(0).normal(60, 9, 10_000).astype("f4")

class Virtual(LocalSource):
    def _read(self, start, stop, out, box=None):
        out[...] = ROW
        out[:, 0] = np.arange(start, stop) % 1000
        return out.nbytes

    def fingerprint(self):
        return "virtual"

source = Virtual("virtual", shape=(int(sys.argv[3]), len(ROW)), dtype="f4", axes="tn")
convert(source, sys.argv[1], compression="none", memory="700MiB", storage_options=json.loads(sys.argv[2]))
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024)
"""


@pytest.mark.campaign
def test_more_than_a_gigabyte_takes_the_memory_it_was_given(bucket):
    done = subprocess.run(
        [sys.executable, "-c", VIRTUAL, bucket.url("a.zarr"), json.dumps(bucket.options), "30000"],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    assert int(done.stdout) < 700 << 20
