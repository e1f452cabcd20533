"""The how-to for S3 runs as it stands, against a real S3 server."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
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
    assert ran == len(re.findall(r"^```python$|^\$ windowloader", text, re.MULTILINE)) == 9
    for name in ("series", "public", "sparse"):
        names[name].variables[0].source.close()
