"""storage_options in fsspec's words, as TensorStore's specification."""

import os
import pickle

import pytest

from windowloader.errors import SourceFormatError
from windowloader.sources.options import locate


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE",
                 "AWS_ACCESS_KEY_ID", "STORAGE_EMULATOR_HOST"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.mark.parametrize(
    ("options", "kvstore", "credentials"),
    [
        ({}, {}, "default"),
        ({"anon": True}, {}, "anonymous"),
        ({"profile": "lab"}, {}, "profile"),
        ({"key": "k", "secret": "s"}, {}, None),
        ({"endpoint_url": "http://h:9/"}, {"endpoint": "http://h:9", "aws_region": "us-east-1"}, "default"),
        ({"client_kwargs": {"endpoint_url": "http://h:9", "region_name": "eu-west-1"}},
         {"endpoint": "http://h:9", "aws_region": "eu-west-1"}, "default"),
        ({"region": "eu-north-1"}, {"aws_region": "eu-north-1"}, "default"),
    ],
)  # fmt: skip
def test_s3(options, kvstore, credentials):
    where = locate("s3://bkt/folder/a.zarr", options)
    assert where.kvstore == {"driver": "s3", "bucket": "bkt", **kvstore}
    assert where.store()["path"] == "folder/a.zarr/"
    assert where.context.get("aws_credentials", {}).get("type") == credentials
    assert where.context["s3_request_concurrency"] == {"limit": 32}
    assert pickle.loads(pickle.dumps(where)) == where


def test_the_environment(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all:1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    where = locate("s3://bkt/a")
    assert (where.kvstore["endpoint"], where.kvstore["aws_region"]) == ("http://all:1", "eu-central-1")
    assert where.context["aws_credentials"] == {"type": "default"}  # which asks the environment first
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3:1")
    assert locate("s3://bkt/a").kvstore["endpoint"] == "http://s3:1"
    assert locate("s3://bkt/a", {"endpoint_url": "http://mine:1"}).kvstore["endpoint"] == "http://mine:1"


def test_profiles_say_where_their_files_are(monkeypatch, tmp_path):
    def credentials():
        return locate("s3://bkt/a").context["aws_credentials"]

    keys = tmp_path / "keys"
    keys.write_text("[lab]\naws_access_key_id = k\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    assert credentials() == {"type": "default"}
    monkeypatch.setenv("AWS_PROFILE", "lab")
    files = {"credentials_file": str(keys), "config_file": os.devnull}
    assert credentials() == {"type": "profile", "profile": "lab", **files}
    monkeypatch.delenv("AWS_PROFILE")
    keys.write_text("[default]\naws_access_key_id = k\n")
    assert credentials() == {"type": "profile", "profile": "default", **files}
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "token")  # asked before the files
    assert credentials() == {"type": "default"}
    keys.write_bytes(b"\xff no such file")
    monkeypatch.delenv("AWS_WEB_IDENTITY_TOKEN_FILE")
    assert credentials() == {"type": "default"}


def test_google_and_the_web(monkeypatch):
    assert locate("gs://bkt/a").kvstore == {"driver": "gcs", "bucket": "bkt"}
    public = locate("gs://bkt/a", {"token": "anon"})
    assert (public.kvstore["driver"], public.path) == ("http", "/bkt/a")
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://one:1")
    with pytest.raises(SourceFormatError, match=r"http://two:1.*TENSORSTORE_GCS_HTTP_URL.*http://one:1"):
        locate("gs://bkt/a", {"endpoint_url": "http://two:1"})
    web = locate("https://user:pass@host/a.zarr?signature=x", {"headers": {"X": "y"}})
    assert web.url == "https://host/a.zarr"
    assert web.kvstore["headers"] == ["X: y"]
    assert "signature" not in repr(web)


def test_a_file_takes_what_was_said_of_a_bucket(tmp_path):
    found = locate(tmp_path / "a.zarr", {"endpoint_url": "http://x", "key": "k", "secret": "s", "timeout": 3})
    assert (found.scheme, found.secret, found.timeout) == ("file", "", 3)
    with pytest.raises(SourceFormatError, match=r"endpont_url"):
        locate(tmp_path / "a.zarr", {"endpont_url": "x"})


def test_what_is_not_known_is_refused_with_what_is():
    with pytest.raises(SourceFormatError, match=r"endpont_url .meant: endpoint_url\?.*Known are.*anon"):
        locate("s3://bkt/a", {"endpont_url": "x"})
    with pytest.raises(SourceFormatError, match=r"verify"):
        locate("s3://bkt/a", {"client_kwargs": {"verify": False}})
    with pytest.raises(SourceFormatError, match=r"'key' without 'secret'"):
        locate("s3://bkt/a", {"key": "x"})
    with pytest.raises(SourceFormatError, match=r"request_limit.*above 0"):
        locate("s3://bkt/a", {"request_limit": 0})
    with pytest.raises(SourceFormatError, match=r"scheme 'sftp'"):
        locate("sftp://host/a")
