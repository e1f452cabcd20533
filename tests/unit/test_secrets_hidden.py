"""What is shown of URLs: in names, in messages, in a library's text."""

from __future__ import annotations

import pickle

import pytest

from windowloader import errors
from windowloader.errors import hide_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:hush@host/a.csv?sig=hush", "https://host/a.csv?…"),
        ("https://host/a.csv?hush", "https://host/a.csv?…"),
        ("https://hush@host:8080/a.csv", "https://host:8080/a.csv"),
        ("https://user:h/us#h?@host/a.csv", "https://host/a.csv"),
        ("https://user:h@u@sh@host/a@b.csv", "https://host/a@b.csv"),
        ("https://user:hu'sh@host/a.csv", "https://host/a.csv"),
        ("https:/user:hush@host/a.csv?sig=hush", "https:/host/a.csv?…"),
        ("HTTPS://user:hush@HOST/A?SIG=hush", "HTTPS://HOST/A?…"),
        ("sftp://user:hush@host/a.npy", "sftp://host/a.npy"),
        ("simplecache::https://user:hush@host/a?sig=hush", "simplecache::https://host/a?…"),
        ("'https://host/a?sig=hush', rows 0–8: gone", "'https://host/a?…', rows 0–8: gone"),
        ("https://a:hush@b/?x=hush https://c:hush@d/?y=hush", "https://b/?… https://d/?…"),
        ("no such file: /a.csv?X-Amz-Signature=hush&b=hush", "no such file: /a.csv?…"),
        ("Error reading s3://b/a%3Fsig%3Dhush", "Error reading s3://b/a?…"),
    ],
)
def test_secrets_are_taken_out(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown
    assert hide_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "abfs://container@account/a.zarr",
        "s3://bucket/year=2020/a@b.npy",
        "http://[::1]:8080/a@b",
        "http://host:8080/a@b",
        "file:///tmp/a?b.npy",
        "was 's3://bucket/a' meant? Then pass storage_options={'anon': True}.",
        "/tmp/what?.npy and a=b",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert hide_secrets(text) == text


@pytest.mark.parametrize("name", errors.__all__)
def test_no_error_shows_a_secret(name: str) -> None:
    error = getattr(errors, name)("'https://me:hush@host/a?sig=hush' is gone")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert str(one) == "'https://host/a?…' is gone"
        assert "hush" not in repr(one)
