from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import (
    CorruptDataError,
    SourceChangedError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
)
from windowloader.sources.mapping import FileMap, mapping_of
from windowloader.sources.numpy_files import open_npy, open_raw
from windowloader.sources.registry import open_source

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.save(tmp_path / "speed.npy", np.arange(60, dtype=np.float32).reshape(20, 3))
    return tmp_path / "speed.npy"


def test_map_is_shared_and_read_only(path: Path) -> None:
    array = open_npy(path).array()
    assert array is not None
    assert not array.flags.writeable
    pages, offset = mapping_of(array[2:]) or (None, 0)
    assert pages is not None
    assert offset == 128 + 2 * 12


@pytest.mark.parametrize("keep", [0, 5, 40, 127, 130, 367])
def test_truncated_file_is_found_at_opening(path: Path, keep: int) -> None:
    os.truncate(path, keep)
    with pytest.raises(CorruptDataError, match=rf"\b{keep}\b") as caught:
        open_source(path)
    assert "speed.npy" in str(caught.value)
    if keep > 128:
        assert "368" in str(caught.value)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "went off"),)

    np.save(tmp_path / "o.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(SourceFormatError, match="unpickled"):
        open_source(tmp_path / "o.npy")
    assert not (tmp_path / "went off").exists()


def test_file_that_disappears_is_named(path: Path) -> None:
    source = open_npy(path)
    source.array()
    path.unlink()
    for use in (source.array, lambda: source.read(0, 1, np.empty((1, 3), np.float32))):
        with pytest.raises(SourceNotFoundError, match=r"speed\.npy.*gone"):
            use()
    with pytest.raises(SourceError, match=r"speed\.npy"):
        open_npy(path)


def test_file_that_changes_is_an_error_and_no_bus_error(path: Path) -> None:
    source = open_npy(path)
    source.array()
    data = pickle.dumps(source)
    os.truncate(path, 200)
    with pytest.raises(SourceChangedError, match="368 bytes then and 200 now"):
        source.array()
    with pytest.raises(SourceChangedError, match="Open it again"):
        pickle.loads(data).read(0, 1, np.empty((1, 3), np.float32))


def test_rewritten_file_of_the_same_size_is_another(path: Path) -> None:
    source = open_npy(path)
    before = source.fingerprint()
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(SourceChangedError):
        source.array()
    assert open_npy(path).fingerprint() != before


def test_spawned_process_opens_it_again_from_anywhere(path: Path, monkeypatch) -> None:
    monkeypatch.chdir(path.parent)
    data = pickle.dumps(open_npy("speed.npy"))  # a relative path must not stay one
    code = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).array().sum())"
    found = subprocess.run(
        [sys.executable, "-c", code, data.hex()], cwd="/", capture_output=True, check=True, timeout=280
    )
    assert float(found.stdout) == 60 * 59 / 2


def test_raw_checks_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(np.arange(12, dtype=">i2").tobytes())
    source = open_source(tmp_path / "a.bin", shape=(-1, 3), dtype=">i2")
    assert source.shape == (4, 3)
    assert source.array() is None
    with pytest.raises(CorruptDataError, match="needs 30 bytes, and the file has 24"):
        open_raw(tmp_path / "a.bin", shape=(5, 3), dtype="i2")
    with pytest.raises(SourceFormatError, match="takes 18 bytes, but"):
        open_raw(tmp_path / "a.bin", shape=(3, 3), dtype="i2")
    with pytest.raises(SourceFormatError, match="takes 20 bytes, but"):
        open_raw(tmp_path / "a.bin", shape=(-1, 5), dtype="i2")
    with pytest.raises(SourceFormatError, match="one size of which may be -1"):
        open_raw(tmp_path / "a.bin", shape=(-1, -1), dtype="i2")
    with pytest.raises(SourceFormatError, match="dtype="):
        open_source(tmp_path / "a.bin", shape=(4, 3))
    with pytest.raises(SourceFormatError, match="unpickled"):
        open_raw(tmp_path / "a.bin", shape=(3,), dtype="O")


def test_fortran_order_raw(tmp_path: Path) -> None:
    values = np.arange(24, dtype="f4").reshape(4, 3, 2)
    (tmp_path / "a.bin").write_bytes(values.tobytes(order="F"))
    np.testing.assert_array_equal(
        open_raw(tmp_path / "a.bin", shape=(4, 3, 2), dtype="f4", order="F").array(), values
    )


def test_large_region_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype="f4", shape=(100_000, 2000))
    source = open_npy(path)
    out = np.empty((2, 2000), "f4")
    source.read(99_998, 100_000, out)
    assert not out.any()


@pytest.fixture
def unmappable(monkeypatch):
    """A file system that maps nothing, as some in user space, or a limit of addresses."""

    def refuse(*arguments, **options):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(FileMap, "__new__", refuse)


@pytest.mark.parametrize("form", ["npy", "raw", "hdf5"])
@pytest.mark.usefixtures("unmappable")
def test_what_cannot_be_mapped_is_read_by_ranges(tmp_path: Path, form: str) -> None:
    values = np.random.default_rng(0).random((300, 5), np.float32)
    if form == "npy":
        np.save(tmp_path / "x.npy", values)
        series = wl.open(tmp_path / "x.npy")
    elif form == "hdf5":
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["speed"] = values
        series = wl.open(tmp_path / "x.h5")
    else:
        (tmp_path / "x.bin").write_bytes(bytes(8) + values.tobytes())
        series = wl.open(tmp_path / "x.bin", shape=(-1, 5), dtype="f4", offset=8)
    assert series.tier == "streamed"
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=2))
    seen = []
    with wl.WindowLoader(windows, batch_size=16, shuffle=True) as loader:
        for batch in loader:
            np.testing.assert_array_equal(batch.inputs[..., 0], values[batch.starts[:, None] + np.arange(4)])
            seen += batch.starts.tolist()
    assert sorted(seen) == list(range(295))


@pytest.mark.usefixtures("unmappable")
def test_what_can_neither_be_mapped_nor_read_by_ranges_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(4 * 60))
    with pytest.raises(SourceFormatError, match="cannot be mapped here"):
        wl.open(tmp_path / "x.bin", shape=(12, 5), dtype="f4", order="F")
