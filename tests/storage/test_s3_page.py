"""The how-to for S3 runs as it stands, against a real S3 server, and so does the demo."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from windowloader.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "s3.md"
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def buckets(moto, write_array):
    """Make what the page speaks of."""
    import boto3
    import zarr

    client = boto3.client(
        "s3", endpoint_url=moto, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    for name in ("traffic", "open-data"):
        client.create_bucket(Bucket=name)
    rng = np.random.default_rng(0)
    values = {
        "traffic/pems.zarr": rng.uniform(20, 70, (300, 8)).astype("f4"),
        "open-data/era5.zarr": rng.normal(size=(96, 5, 7)).astype("f4"),
    }
    for where, array in values.items():
        bucket, _, name = where.partition("/")
        store = {}
        zarr.create_array(
            store, data=array, chunks=(24, *array.shape[1:]), dimension_names=("time", "y", "x")[: array.ndim]
        )
        _upload(client, bucket, name, store)
    store = {}
    rain = zarr.create_array(store, shape=(90, 3), chunks=(30, 3), dtype="f4")
    rain[:30] = 1.5  # the other two chunks hold nothing but the fill value: zarr-python leaves them out
    _upload(client, "traffic", "rain.zarr", store)
    for key in client.list_objects_v2(Bucket="open-data")["Contents"]:
        client.put_object_acl(Bucket="open-data", Key=key["Key"], ACL="public-read")
    client.close()
    return moto


def _upload(client, bucket, name, store):
    for key, value in store.items():
        client.put_object(Bucket=bucket, Key=f"{name}/{key}", Body=value.to_bytes())


def test_the_page_runs(buckets, tmp_path, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_ENDPOINT_URL": buckets,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    printed, ran = "", 0
    text = PAGE.read_text(encoding="utf-8").replace("http://localhost:9000", buckets)
    for block in BLOCK.finditer(text):
        if block["language"] == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(block["text"], str(PAGE), "exec"), names)
            printed, ran = output.getvalue(), ran + 1
        elif block["language"] == "text":
            assert printed.split() == block["text"].split()
        elif block["language"] == "console":
            names["loader"].close()
            names["series"].variables[0].source.close()
            for line in re.findall(r"^\$ windowloader (.*)$", block["text"], re.MULTILINE):
                result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
                assert result.exit_code == 0, result.output
                ran += 1
            assert "removed 1 array" in result.output
    assert ran == len(re.findall(r"^```python$|^\$ windowloader", text, re.MULTILINE)) == 10
    for name in ("series", "public", "sparse"):
        names[name].variables[0].source.close()


@pytest.mark.campaign
@pytest.mark.parametrize("form", ["zarr", "npy"])
def test_the_demo_trains_from_the_bucket_that_the_environment_names(s3, put, form, tmp_path):
    """A process of its own, with what a user would set and nothing else of AWS."""
    pytest.importorskip("torch")
    import zarr

    rng = np.random.default_rng(0)
    day = np.sin(np.arange(600)[:, None] * 2 * np.pi / 288 + np.arange(5))
    speeds = (60 + 8 * day + rng.normal(size=day.shape)).astype("f4")
    if form == "zarr":
        store = {}
        zarr.create_array(store, data=speeds, chunks=(48, 5), dimension_names=("time", "sensor"))
        for key, value in store.items():
            put(f"demo/speed.zarr/{key}", value.to_bytes())
    else:
        np.save(tmp_path / "speed.npy", speeds)
        put("demo/speed.npy", (tmp_path / "speed.npy").read_bytes())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    named = {"AWS_ENDPOINT_URL": s3.url, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    asked = f"--data s3://bkt/demo/speed.{form} --start 2020-01-01 --freq 5min --epochs 1 --steps-per-epoch 6 --json"
    done = subprocess.run(
        [sys.executable, "-c", "from windowloader.cli import app; app()", "demo", *asked.split()],
        env=kept | named, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "streamed" in told["data"]
    assert told["steps"] == 6
    assert told["mae"]["test"]["graph network"]["15 min"] < 3
    asks = [entry for entry in s3.log if entry.method == "GET" and "/demo/speed" in entry.path]
    assert asks
    assert all("/bkt/demo/" in entry.path for entry in s3.log if entry.method == "GET")


FILES = """[default]
aws_access_key_id = {default}
aws_secret_access_key = s
[lab]
aws_access_key_id = {lab}
aws_secret_access_key = s
"""
PLACES = {
    "keys": (
        {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"},
        "not",
        "not",
    ),
    "profile": (
        {"AWS_PROFILE": "lab", "AWS_SHARED_CREDENTIALS_FILE": "{home}/.aws/credentials"},
        "not",
        "mine",
    ),
    "profile at home": ({"AWS_PROFILE": "lab"}, "not", "mine"),
    "default profile": ({}, "mine", "not"),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_variables_that_the_page_names_lead_to_the_bucket(place, static, bucket_folder, tmp_path):
    """Against a server that answers one access key only."""
    named, default, lab = PLACES[place]
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in ("AWS_ENDPOINT_URL", "AWS_REGION", *named))
    np.save(bucket_folder / "bkt" / "private.npy", np.ones((5, 2), "f4"))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(FILES.format(default=default, lab=lab))
    static.key = "mine"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    named = {name: value.format(home=tmp_path) for name, value in named.items()}
    code = "import windowloader as wl; print(wl.open('s3://bkt/private.npy').num_steps)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"HOME": str(tmp_path), "AWS_ENDPOINT_URL": static.url, "AWS_REGION": "us-east-1"} | named,
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5\n"
