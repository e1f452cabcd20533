from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from windowloader.errors import (
    CorruptDataError,
    MissingExtraError,
    SourceChangedError,
    SourceFormatError,
    SourceNotFoundError,
)
from windowloader.sources.hdf5_dataset import HDF5Source
from windowloader.sources.memory import MappedSource
from windowloader.sources.netcdf import list_netcdf, open_netcdf
from windowloader.sources.registry import list_variables, open_source
from windowloader.testing import check_source

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.arange(60, dtype=np.float32).reshape(12, 5)
TIMES = np.datetime64("2012-03-01", "ns") + np.arange(12) * np.timedelta64(5, "m")


def write(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, given in datasets.items():
            file.create_dataset(
                name.replace("__", "/"), **(given if isinstance(given, dict) else {"data": given})
            )
    return path


def test_contiguous_is_mapped_and_chunked_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.h5", plain=VALUES, group__packed={"data": VALUES, "chunks": (4, 5), "shuffle": True}
    )
    plain, packed = open_netcdf(path, variable="plain"), open_netcdf(path, variable="/group/packed")
    assert isinstance(plain, MappedSource)
    np.testing.assert_array_equal(plain.array(), VALUES)
    assert isinstance(packed, HDF5Source)
    assert packed.array() is None
    np.testing.assert_array_equal(packed.storage().edges, [0, 4, 8, 12])
    assert packed.chunks == (4, 5)


def test_what_cannot_be_mapped_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["behind"] = VALUES
    check_source(open_netcdf(path), VALUES, fork=False)
    with h5py.File(path, "w") as file:
        file.create_dataset("unwritten", (4, 3), "f4", fillvalue=7)
    check_source(open_netcdf(path), np.full((4, 3), 7, "f4"), fork=False)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((24, 5), "f4")
        source = write(tmp_path / "part.h5", x=VALUES)
        layout[:12] = h5py.VirtualSource(source, "x", VALUES.shape)
        layout[12:] = h5py.VirtualSource(source, "x", VALUES.shape)
        file.create_virtual_dataset("twice", layout)
    check_source(open_netcdf(path), np.concatenate([VALUES, VALUES]), fork=False)


def test_which_dataset_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", speed=VALUES, g__flow=VALUES, names=np.array([b"a"]), scalar=1.0)
    assert list_netcdf(path) == ("speed", "g/flow") == list_variables(path)
    with pytest.raises(SourceFormatError, match="holds 2 arrays: 'speed', 'g/flow'"):
        open_source(path)
    with pytest.raises(SourceFormatError, match="no variable 'spede'; it holds 'speed', 'g/flow'"):
        open_source(path, variable="spede")
    with pytest.raises(SourceFormatError, match="no variable 'g'"):
        open_source(path, variable="g")
    with pytest.raises(SourceFormatError, match="[Tt]ext"):
        open_source(path, variable="names")
    with pytest.raises(SourceFormatError, match="no array"):
        open_source(write(tmp_path / "empty.h5"))


def test_dimension_labels_give_the_axes(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["v"] = np.zeros((2, 3, 4))
        for number, name in enumerate(("lat", "time", "lon")):
            file["v"].dims[number].label = name
    assert (open_source(path).axes, open_source(path).shape) == ("tnn", (3, 2, 4))


def test_broken_files_say_so(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.h5", x={"data": np.random.default_rng(0).random((200, 50)), "chunks": (50, 50)}
    )
    size = path.stat().st_size
    os.truncate(path, size - 1000)
    with pytest.raises(CorruptDataError, match=f"{size - 1000} bytes"):
        open_source(path)
    (tmp_path / "no.h5").write_bytes(b"nothing")
    with pytest.raises(SourceFormatError, match="HDF5"):
        open_source(tmp_path / "no.h5")
    with pytest.raises(SourceNotFoundError, match="absent"):
        open_source(tmp_path / "absent.h5")


def test_corrupt_chunk_names_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", x={"data": VALUES, "chunks": (4, 5), "fletcher32": True})
    with h5py.File(path) as file:
        place = file["x"].id.get_chunk_info(1).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(place)
        raw.write(b"\xff\xff\xff\xff")
    source = open_source(path)
    source.read(0, 4, np.empty((4, 5), "f4"))
    with pytest.raises(CorruptDataError, match=r"rows \[3, 6\) of 'a.h5:x'"):
        source.read(3, 6, np.empty((3, 5), "f4"))
    source.close()


def test_changed_file_is_noticed_when_opened_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", x={"data": VALUES, "chunks": (4, 5)})
    source = open_source(path)
    data = pickle.dumps(source)
    write(path, x={"data": VALUES[:8], "chunks": (4, 5)})
    with pytest.raises(SourceChangedError, match=r"a\.h5"):
        pickle.loads(data).read(0, 4, np.empty((4, 5), "f4"))


def test_h5py_objects_are_opened_by_their_place(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", g__x=VALUES)
    with h5py.File(path) as file:
        assert list_variables(file) == ("g/x",)
        for item, variable in ((file, None), (file, "g/x"), (file["g"], "x"), (file["g/x"], None)):
            assert open_source(item, variable=variable).shape == (12, 5)


def test_missing_h5py_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "a.h5", x=VALUES)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'windowloader\[netcdf\]'"):
        open_source(path)
