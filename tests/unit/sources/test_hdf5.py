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
from windowloader.sources.hdf5 import list_hdf5, open_hdf5
from windowloader.sources.hdf5_dataset import HDF5Source
from windowloader.sources.mapped import MappedSource
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
    plain, packed = open_hdf5(path, variable="plain"), open_hdf5(path, variable="/group/packed")
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
    check_source(open_hdf5(path), VALUES, fork=False)
    with h5py.File(path, "w") as file:
        file.create_dataset("unwritten", (4, 3), "f4", fillvalue=7)
    check_source(open_hdf5(path), np.full((4, 3), 7, "f4"), fork=False)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((24, 5), "f4")
        source = write(tmp_path / "part.h5", x=VALUES)
        layout[:12] = h5py.VirtualSource(source, "x", VALUES.shape)
        layout[12:] = h5py.VirtualSource(source, "x", VALUES.shape)
        file.create_virtual_dataset("twice", layout)
    check_source(open_hdf5(path), np.concatenate([VALUES, VALUES]), fork=False)


def test_which_dataset_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", speed=VALUES, g__flow=VALUES, names=np.array([b"a"]), scalar=1.0)
    assert list_hdf5(path) == ("g/flow", "speed") == list_variables(path)
    with pytest.raises(SourceFormatError, match="holds 2 arrays: 'g/flow', 'speed'"):
        open_source(path)
    with pytest.raises(SourceFormatError, match="no variable 'spede'; it holds 'g/flow', 'speed'"):
        open_source(path, variable="spede")
    with pytest.raises(SourceFormatError, match="no variable 'g'"):
        open_source(path, variable="g")
    with pytest.raises(SourceFormatError, match="Text"):
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
    with pytest.raises(MissingExtraError, match=r"pip install 'windowloader\[hdf5\]'"):
        open_source(path)


def write_frame(
    path: Path, blocks: list[tuple[list[Any], np.ndarray]], columns: list[Any], **how: Any
) -> Path:
    """A frame in pandas' fixed format, as PyTables lays it out."""
    kind = how.get("kind", "datetime64")
    times = TIMES.astype(kind if "[" in kind else "M8[ns]").view("i8")
    with h5py.File(path, "w") as file:
        for key, value in (
            ("CLASS", "GROUP"),
            ("PYTABLES_FORMAT_VERSION", "2.1"),
            ("TITLE", ""),
            ("VERSION", "1.0"),
        ):
            file.attrs[key] = np.bytes_(value)
        group = file.create_group("df")
        text = {"CLASS": "GROUP", "TITLE": "", "VERSION": "1.0", "pandas_type": "frame", "encoding": "UTF-8",
                "pandas_version": "0.15.2", "errors": "strict", "axis0_variety": "regular",
                "axis1_variety": "regular"}  # fmt: skip
        for key, value in text.items():
            group.attrs[key] = np.bytes_(value)
        group.attrs["ndim"], group.attrs["nblocks"] = 2, len(blocks)

        def labels(name: str, found: list[Any]) -> None:
            array = np.array(found)
            group[name] = np.char.encode(array) if array.dtype.kind == "U" else array
            group[name].attrs["kind"] = np.bytes_("string" if array.dtype.kind == "U" else "integer")

        labels("axis0", columns)
        group["axis1"] = times
        group["axis1"].attrs["kind"] = np.bytes_(kind)
        group["axis1"].attrs["index_class"] = np.bytes_("datetime")
        group["axis1"].attrs["freq"] = np.void(b"\x80\x04not unpickled")
        for number, (items, values) in enumerate(blocks):
            labels(f"block{number}_items", items)
            group.create_dataset(f"block{number}_values", data=values, **how.get("storage", {}))
            group[f"block{number}_values"].attrs["transposed"] = 1
    return path


@pytest.mark.parametrize("kind", ["datetime64", "datetime64[us]", "datetime64[s]"])
def test_pandas_frame_as_metr_la_comes(tmp_path: Path, kind: str) -> None:
    sensors = ["773869", "767541", "767542", "717447", "717446"]
    path = write_frame(tmp_path / "metr-la.h5", [(sensors, VALUES.astype("f8"))], sensors, kind=kind)
    source = open_source(path)
    assert isinstance(source, MappedSource)
    check_source(source, VALUES.astype("f8"), timestamps=TIMES)
    np.testing.assert_array_equal(source.labels(1), sensors)
    assert list_variables(path) == ()
    assert open_source(path, variable="df").shape == (12, 5)
    assert open_source(path, variable="df/block0_values").timestamps() is None


def test_pandas_frame_as_pems_bay_comes(tmp_path: Path) -> None:
    sensors = [400001, 400017, 400030, 400040, 400045]
    path = write_frame(
        tmp_path / "pems-bay.h5", [(sensors, VALUES)], sensors, storage={"chunks": (5, 5), "compression": 4}
    )
    source = open_source(path)
    check_source(source, VALUES, timestamps=TIMES)
    np.testing.assert_array_equal(source.labels(1), sensors)
    np.testing.assert_array_equal(source.storage().edges, [0, 5, 10, 12])


def test_pandas_frame_in_several_blocks(tmp_path: Path) -> None:
    blocks = [(["a", "c"], VALUES[:, [0, 2]].astype("f8")), (["b"], VALUES[:, [1]].astype("i4"))]
    source = open_source(write_frame(tmp_path / "a.h5", blocks, ["a", "b", "c"]))
    check_source(source, VALUES[:, :3].astype("f8"), timestamps=TIMES)
    np.testing.assert_array_equal(source.labels(1), ["a", "b", "c"])


def test_pandas_frame_whose_block_is_in_another_order(tmp_path: Path) -> None:
    source = open_source(write_frame(tmp_path / "a.h5", [(["b", "a"], VALUES[:, :2])], ["a", "b"]))
    check_source(source, VALUES[:, [1, 0]], timestamps=TIMES)


def write_table(path: Path) -> Path:
    """The ``table`` format: one record a row, names of columns as pickled lists."""
    record = np.dtype(
        [("index", "i8"), ("values_block_0", "f4", (3,)), ("values_block_1", "f4", (1,)), ("e", "f4")]
    )
    rows = np.zeros(12, record)
    rows["index"] = TIMES.view("i8")
    rows["values_block_0"], rows["values_block_1"], rows["e"] = (
        VALUES[:, [0, 2, 3]],
        VALUES[:, [1]],
        VALUES[:, 4],
    )
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        group.attrs["pandas_type"] = np.bytes_("frame_table")
        group.attrs["non_index_axes"] = np.bytes_(pickle.dumps([(1, list("abcde"))], protocol=0))
        table = group.create_dataset("table", data=rows, chunks=(8,))
        table.attrs["index_kind"] = np.bytes_("datetime64")
        for field, names in (("values_block_0", ["a", "c", "d"]), ("values_block_1", ["b"]), ("e", ["e"])):
            table.attrs[f"{field}_kind"] = np.bytes_(pickle.dumps(names, protocol=0))
    return path


def test_pandas_table_format(tmp_path: Path) -> None:
    source = open_source(write_table(tmp_path / "a.h5"))
    check_source(source, VALUES, timestamps=TIMES)
    np.testing.assert_array_equal(source.labels(1), list("abcde"))
    np.testing.assert_array_equal(source.storage().edges, [0, 8, 12])


def test_pickled_names_are_read_only_where_they_are_plain(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "went off"),)

    path = write_table(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["df"].attrs["non_index_axes"] = np.bytes_(pickle.dumps(Bomb(), protocol=0))
    source = open_source(path)
    assert source.labels(1) is None
    assert not (tmp_path / "went off").exists()


def test_frame_with_text_beside_numbers_is_refused(tmp_path: Path) -> None:
    path = write_frame(
        tmp_path / "a.h5", [(["a"], VALUES[:, :1]), (["s"], np.full((12, 1), b"x"))], ["a", "s"]
    )
    with pytest.raises(SourceFormatError, match="select_dtypes"):
        open_source(path)
