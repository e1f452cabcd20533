"""What is named like a file of data and is none: pipes, sockets, devices, folders, links, unreadable files."""

import os
import socket

import numpy as np
import pytest
import zarr

import windowloader as wl
from windowloader.errors import SourceError, SourceFormatError, SourceNotFoundError, WindowLoaderError

NAMES = ("a.npy", "a.npz", "a.csv", "a.csv.gz", "a.parquet", "a.h5", "a.nc", "a.zarr", "a.bin", "a.dat", "a")
VALUES = np.arange(80, dtype="f4").reshape(40, 2)
RAW = {"shape": (40, 2), "dtype": "<f4"}
LONG = {"entity": "id", "time": "time"}


def ways(path):
    """Each way in which a path is opened."""
    yield lambda: wl.open(path)
    yield lambda: wl.open(path, **RAW)
    yield lambda: wl.open(path, **LONG)
    yield lambda: wl.open([str(path), str(path)])
    yield lambda: wl.open(f"file://{path}")
    yield lambda: wl.open(VALUES, covariates={"other": path})
    yield lambda: wl.open(VALUES, graph=path)
    yield lambda: wl.open({"speed": path, "flow": VALUES})


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_raises_without_waiting(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for way in ways(tmp_path / name):
        with pytest.raises(WindowLoaderError):
            way()
    with pytest.raises(SourceFormatError, match="pipe, socket or device"):
        wl.open(tmp_path / name, **RAW)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
@pytest.mark.parametrize("name", ["a.npy", "a.csv", "a.h5"])
def test_a_link_to_a_device_raises(tmp_path, name, device):
    (tmp_path / name).symlink_to(device)
    for way in ways(tmp_path / name):
        with pytest.raises(WindowLoaderError):
            way()


def test_a_socket_raises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.npy")
        with pytest.raises(SourceFormatError, match="pipe, socket or device"):
            wl.open("a.npy")


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("which", ["document", "attributes"])
def test_pipes_within_a_store(tmp_path, form, which):
    zarr.save_array(tmp_path / "a.zarr", VALUES, zarr_format=form)
    place = (
        tmp_path / "a.zarr" / ("zarr.json" if form == 3 else {"document": ".zarray"}.get(which, ".zattrs"))
    )
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    with pytest.raises(WindowLoaderError):
        wl.open(tmp_path / "a.zarr")


@pytest.mark.parametrize("name", NAMES[:-1])
def test_folders_named_as_files(tmp_path, name):
    (tmp_path / name).mkdir()
    for way in ways(tmp_path / name):
        with pytest.raises(WindowLoaderError):
            way()


def test_links(tmp_path):
    np.save(tmp_path / "real.npy", VALUES)
    (tmp_path / "link.npy").symlink_to(tmp_path / "real.npy")
    (tmp_path / "loop.npy").symlink_to(tmp_path / "loop.npy")
    (tmp_path / "gone.npy").symlink_to(tmp_path / "nothing.npy")
    assert wl.open(tmp_path / "link.npy").num_steps == 40
    with pytest.raises(SourceError, match=r"loop.npy"):
        wl.open(tmp_path / "loop.npy")
    with pytest.raises(SourceNotFoundError, match=r"gone.npy"):
        wl.open(tmp_path / "gone.npy")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", NAMES)
def test_files_that_may_not_be_read(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(320))
    (tmp_path / name).chmod(0)
    for way in ways(tmp_path / name):
        with pytest.raises(WindowLoaderError):
            way()


@pytest.mark.parametrize(
    "name", ["a\0.npy", "x" * 300 + ".npy", "x/" * 3000 + "a.npy", "\udcff.npy", "", ".", "~nobody/a.npy"]
)
def test_invalid_paths_raise(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for way in ways(name):
        with pytest.raises(WindowLoaderError):
            way()
