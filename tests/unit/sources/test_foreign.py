"""Files that are not what their name says, and libraries that raise anything at all: errors of the package, always."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import zipfile

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import (
    CorruptDataError,
    CredentialsError,
    GraphError,
    MissingExtraError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourceTimeoutError,
    WindowLoaderError,
)
from windowloader.sources import memory, registry
from windowloader.sources.base import LocalSource
from windowloader.sources.formats import foreign

CSV = b"time,a,b\n2012-03-01 00:00,1.5,2.5\n2012-03-01 00:05,2.5,3.5\n"
PLAIN = (["1", "2"], {"1": 0, "2": 1}, np.eye(2, dtype="f4"))


def parquet() -> bytes:
    import pandas

    stream = io.BytesIO()
    pandas.DataFrame({"a": [1.5, 2.5]}).to_parquet(stream)
    return stream.getvalue()


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.csv", CSV)
    return stream.getvalue()


FOREIGN = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "gzip": (gzip.compress(CSV), "gunzip"),
    "bzip2": (bz2.compress(CSV), "bunzip2"),
    "xz": (lzma.compress(CSV), "unxz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(40)), "unzstd"),
    "zip": (archive(), "zip archive"),
    "parquet": (parquet(), "Parquet"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(60)), "PNG"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(range(60)), "JPEG"),
    "pdf": (b"%PDF-1.7\n" + bytes(range(60)), "PDF"),
    "page": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>", "web page ('Sign in')"),
    "xml": (
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "XML document ('AccessDenied')",
    ),
    "json": (b'{"message": "Not Found"}', '"Not Found"'),
    "zeros": (bytes(3000), "bytes of 0"),
    "pickle": (pickle.dumps(PLAIN, protocol=4), "pickle"),
    "changed pickle": (pickle.dumps(PLAIN, protocol=0).replace(b"\n", b"\r\n"), "line ends"),
    "changed hdf5": (b"\x89HDF\r\r\n\x1a\r\n" + bytes(range(60)), "line ends"),
}
NAMES = ("npy", "npz", "h5", "nc", "csv", "parquet", "zarr", "dat")


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", NAMES)
def test_a_file_that_is_something_else_is_called_what_it_is(kind: str, suffix: str, tmp_path) -> None:
    content, words = FOREIGN[kind]
    file = tmp_path / f"data.{suffix}"
    file.write_bytes(content)
    if (kind, suffix) in {("parquet", "parquet"), ("zip", "npz")}:
        assert foreign(file) is None
        return
    if kind == "zeros" and suffix in ("zarr", "dat"):
        with pytest.raises(WindowLoaderError, match=file.name):  # numbers, perhaps
            wl.open(file)
        return
    if kind == "parquet" and suffix != "csv":  # recognised by its first bytes
        assert wl.open(file).num_steps == 2
        return
    with pytest.raises(SourceFormatError) as caught:
        wl.open(file)
    assert words in str(caught.value)
    assert file.name in str(caught.value)


@pytest.mark.parametrize("kind", sorted(FOREIGN.keys() - {"pickle"}))
@pytest.mark.parametrize("suffix", ["npz", "npy", "csv", "pkl"])
def test_a_graph_that_is_something_else_is_called_what_it_is(kind: str, suffix: str, tmp_path) -> None:
    content, words = FOREIGN[kind]
    file = tmp_path / f"adj.{suffix}"
    file.write_bytes(content)
    with pytest.raises(GraphError, match=f"adj.{suffix}") as caught:
        wl.Graph.load(file)
    assert (kind, suffix) == ("zip", "npz") or words in str(caught.value)


@pytest.mark.parametrize("suffix", [name for name in NAMES if name != "csv"])  # there it is a line of names
@pytest.mark.parametrize("length", [0, 1, 7, 40])
def test_an_empty_or_very_short_file_is_an_error_of_the_package(suffix: str, length: int, tmp_path) -> None:
    file = tmp_path / f"data.{suffix}"
    file.write_bytes(
        (b"\x93NUMPY" if suffix == "npy" else b"\x89HDF\r\n\x1a\n" if suffix == "h5" else b"x" * 50)[:length]
    )
    with pytest.raises(WindowLoaderError, match=f"data.{suffix}"):
        wl.open(file)


def test_sound_files_are_not_foreign(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    np.savez(tmp_path / "a.npz", a=np.zeros((3, 2)))
    (tmp_path / "a.csv").write_bytes(CSV)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV))
    (tmp_path / "adj.pkl").write_bytes(pickle.dumps(PLAIN, protocol=0))
    for file in tmp_path.iterdir():
        assert foreign(file) is None, file
        if file.name == "adj.pkl":
            assert wl.Graph.load(file).num_nodes == 2
        else:
            assert wl.open(file).num_nodes == 2


def named(one: object) -> str:
    return type(one).__name__ if isinstance(one, Exception) else ""


RAISED = [
    (KeyError("shape"), SourceFormatError),
    (TypeError("No NumPy equivalent for TypeTimeID exists"), SourceFormatError),
    (AttributeError("'NoneType' object has no attribute 'shape'"), SourceFormatError),
    (ValueError("something quite new"), SourceFormatError),
    (IndexError("list index out of range"), SourceFormatError),
    (AssertionError(), SourceFormatError),
    (NotImplementedError("compound"), SourceFormatError),
    (OverflowError("Python int too large to convert to C long"), SourceFormatError),
    (ZeroDivisionError("division by zero"), SourceFormatError),
    (RecursionError("maximum recursion depth exceeded"), CorruptDataError),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), CorruptDataError),
    (json.JSONDecodeError("Expecting value", "x", 0), SourceFormatError),
    (EOFError("Compressed file ended before the end-of-stream marker was reached"), CorruptDataError),
    (MemoryError("Unable to allocate 8.00 EiB"), SourceError),
    (RuntimeError("error during blosc decompression: -1"), CorruptDataError),
    (OSError(5, "Input/output error"), SourceError),
    (FileNotFoundError(2, "No such file or directory"), SourceNotFoundError),
    (PermissionError(13, "Permission denied"), CredentialsError),
    (TimeoutError("timed out"), SourceTimeoutError),
    (ImportError("No module named 'hdf5plugin'"), MissingExtraError),
]  # fmt: skip


def refusing(error: Exception):
    def fails(*_arguments: object, **_options: object) -> None:
        raise error

    return fails


@pytest.mark.parametrize(
    ("error", "kind"), RAISED, ids=lambda one: type(one).__name__ if isinstance(one, Exception) else ""
)
def test_what_a_library_raises_while_opening_becomes_an_error_of_the_package(
    error, kind, tmp_path, monkeypatch
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    monkeypatch.setattr("windowloader.sources.numpy_files.open_npy", refusing(error))
    for opened in (wl.open, registry.open_source):
        with pytest.raises(kind, match=r"a\.npy") as caught:
            opened(tmp_path / "a.npy")
        assert type(caught.value) is kind
        assert caught.value.__cause__ is error
        assert type(error).__name__ in str(caught.value)
        assert str(error) in str(caught.value)


@pytest.mark.parametrize("part", ["labels", "timestamps"])
def test_what_a_description_raises_is_wrapped(part: str, monkeypatch) -> None:
    monkeypatch.setattr(memory.ArraySource, part, refusing(KeyError("calendar")))
    with pytest.raises(SourceFormatError, match="KeyError: 'calendar'"):
        wl.open(np.zeros((3, 2)))


@pytest.mark.parametrize(
    "text",
    [
        "GET https://user:hushPASS@host/a.npy",
        "GET https://host/a.npy?X-Amz-Signature=hushSIGN",
        'INTERNAL: x [tensorstore_spec=\'{"headers":["hushHEADER"]}\']',
    ],
)
def test_an_original_that_shows_a_secret_is_left_out(text: str, tmp_path, monkeypatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    monkeypatch.setattr("windowloader.sources.numpy_files.open_npy", refusing(RuntimeError(text)))
    with pytest.raises(WindowLoaderError) as caught:
        wl.open(tmp_path / "a.npy")
    error: BaseException | None = caught.value
    while error is not None:
        assert "hush" not in str(error)
        error = error.__cause__ or error.__context__


def test_a_warning_that_was_made_an_error_stays_one(tmp_path, monkeypatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    monkeypatch.setattr("windowloader.sources.numpy_files.open_npy", refusing(UserWarning("of a library")))
    with pytest.raises(UserWarning, match="of a library"):
        wl.open(tmp_path / "a.npy")


class Broken(LocalSource):
    """A source whose library fails."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("a.h5", shape=(100, 3), dtype="float32")
        self.error = error

    def _read(self, start: int, stop: int, out: np.ndarray, box: object = None) -> None:
        raise self.error

    def fingerprint(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("error during blosc decompression: -1"), CorruptDataError),
        (OSError("Can't synchronously read data (inflate() failed)"), CorruptDataError),
        (OSError("Can't synchronously read data (filter returned failure during read)"), CorruptDataError),
        (EOFError(), CorruptDataError),
        (KeyError("c/0/0"), SourceError),
        (TypeError("'NoneType' object is not subscriptable"), SourceError),
        (OSError(5, "Input/output error"), SourceError),
        (MemoryError(), SourceError),
        (FileNotFoundError(2, "No such file or directory"), SourceNotFoundError),
    ],
    ids=named,
)
def test_what_a_library_raises_in_a_read_has_the_rows(error: Exception, kind: type[Exception]) -> None:
    for read in (Broken(error).read, Broken(error).submit):
        with pytest.raises(kind, match=r"'a\.h5', rows 12–23: ") as caught:
            read(12, 24, np.empty((12, 3), np.float32))
        assert type(caught.value) is kind
        assert caught.value.__cause__ is error


def test_an_interrupt_and_a_wrong_range_pass_a_read() -> None:
    with pytest.raises(KeyboardInterrupt):
        Broken(KeyboardInterrupt()).read(0, 1, np.empty((1, 3), np.float32))
    with pytest.raises(IndexError, match="rows"):
        Broken(RuntimeError()).read(0, 101, np.empty((101, 3), np.float32))
