"""Every local source, over every dtype it can hold, passes the suite that ships in windowloader.testing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from windowloader.sources.joined import join
from windowloader.sources.memory import ArraySource
from windowloader.sources.numpy_files import open_npy, open_raw
from windowloader.sources.registry import open_source
from windowloader.sources.selected import SelectedSource
from windowloader.testing import check_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from windowloader.sources import Source

DTYPES = [
    "b1",
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "f2",
    "f4",
    "f8",
    ">i2",
    ">i8",
    ">f2",
    ">f4",
    ">f8",
]
TIMES = np.datetime64("2019-03-01", "ns") + np.arange(13) * np.timedelta64(1, "h")


def values(dtype: str = "f4", shape: tuple[int, ...] = (13, 4, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("="))


def npy(folder: Path, array: np.ndarray) -> Source:
    np.save(folder / "a.npy", array)
    return open_npy(folder / "a.npy")


def npy_fortran(folder: Path, array: np.ndarray) -> Source:
    return npy(folder, np.asfortranarray(array))


def npy_time_last(folder: Path, array: np.ndarray) -> Source:
    np.save(folder / "a.npy", np.moveaxis(array, 0, -1).copy())
    return open_npy(folder / "a.npy", axes="nft")


def raw(folder: Path, array: np.ndarray) -> Source:
    (folder / "a.bin").write_bytes(b"header!" + array.tobytes())
    return open_raw(folder / "a.bin", shape=(-1, *array.shape[1:]), dtype=array.dtype, offset=7)


def npz(folder: Path, array: np.ndarray) -> Source:
    np.savez(folder / "a.npz", array)
    return open_source(folder / "a.npz")


def hdf5(folder: Path, array: np.ndarray, **options: Any) -> Source:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("speed", data=array, **options)
    return open_source(folder / "a.h5")


def hdf5_chunked(folder: Path, array: np.ndarray) -> Source:
    return hdf5(folder, array, chunks=(5, 2, 3), compression="gzip")


def netcdf(folder: Path, array: np.ndarray) -> Source:
    xr.DataArray(array, dims=("time", "y", "level"), name="t").to_netcdf(folder / "a.nc", engine="h5netcdf")
    return open_source(folder / "a.nc")


def joined(folder: Path, array: np.ndarray) -> Source:
    parts = np.split(array, [1, 1, 6])
    for number, part in enumerate(parts):
        np.save(folder / f"{number}.npy", part)
    return open_source(f"{folder}/*.npy")


FILES: list[Callable[[Path, np.ndarray], Source]] = [
    npy, npy_fortran, npy_time_last, raw, npz, hdf5, hdf5_chunked, joined,
]  # fmt: skip


@pytest.mark.parametrize("family", FILES, ids=lambda family: family.__name__)
def test_files_of_every_dtype(tmp_path: Path, family: Callable[[Path, np.ndarray], Source]) -> None:
    for dtype in DTYPES:
        folder = tmp_path / dtype.replace(">", "big ")
        folder.mkdir()
        array = values(dtype)
        thorough = dtype == "f4"  # a fork and other data do not depend on the dtype
        (folder / "other").mkdir()
        changed = family(folder / "other", values(dtype, (14, 4, 3))) if thorough else None
        check_source(family(folder, array), native(array), changed=changed, fork=thorough)


def test_memory_of_every_dtype() -> None:
    for dtype in DTYPES:
        array = values(dtype)
        source = ArraySource(array, timestamps=TIMES)
        check_source(source, native(array), timestamps=TIMES, changed=ArraySource(values(dtype, seed=1)),
                     pickled_bytes=None, fork=dtype == "f4")  # fmt: skip
        assert (source.array() is None) == (not np.dtype(dtype).isnative)
        turned = ArraySource(np.moveaxis(array, 0, 1), axes="ntf")
        check_source(turned, native(array), pickled_bytes=None, fork=False)


def test_netcdf_of_every_dtype(tmp_path: Path) -> None:
    for dtype in ("i1", "i2", "i4", "f4", "f8"):
        (tmp_path / dtype).mkdir()
        array = values(dtype)
        check_source(netcdf(tmp_path / dtype, array), array, fork=dtype == "f4")


def test_shapes(tmp_path: Path) -> None:
    for shape, axes in (((0, 3), None), ((1, 1), None), ((7,), None), ((5, 2, 3, 4), "tfnn")):
        array = values("f8", shape)
        np.save(tmp_path / "a.npy", array)
        check_source(open_npy(tmp_path / "a.npy", axes=axes), array, fork=False)
        check_source(ArraySource(array, axes=axes), array, pickled_bytes=None, fork=False)


def test_tables(tmp_path: Path) -> None:
    frame = pd.DataFrame(values("f8", (13, 3)), columns=["400001", "400017", "400030"], index=TIMES)
    frame.index.name = "time"
    frame.to_csv(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "a.csv.gz")
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.csv.gz", "a.parquet"):
        source = open_source(tmp_path / name)
        check_source(source, frame.to_numpy(), timestamps=TIMES)
        np.testing.assert_array_equal(source.labels(1), frame.columns.to_numpy(str))
    check_source(open_source(frame), frame.to_numpy(), timestamps=TIMES, pickled_bytes=None)


def test_memory_map_given_by_the_user_pickles_as_its_place(tmp_path: Path) -> None:
    array = values("f4", (4000, 10))
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    check_source(ArraySource(mapped), array)
    check_source(ArraySource(mapped[100:300:2, 1:]), array[100:300:2, 1:])
    check_source(ArraySource(mapped.T, axes="nt"), array)


SELECTIONS: list[dict[str, Any]] = [
    {"rows": slice(2, 11)},
    {"rows": slice(3, 12)},
    {"rows": slice(5, 5)},
    {"nodes": slice(1, 3)},
    {"nodes": [3, 0, 0]},
    {"nodes": [-1]},
    {"nodes": np.array([], int)},
    {"features": [2, 1]},
    {"rows": slice(1, 12), "nodes": [3, 1], "features": slice(None, None, -1)},
    {"nodes": [0, 2, 3], "features": [2]},
]


def selected(array: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    rows = array[how.get("rows", slice(None))]
    return rows[:, how.get("nodes", slice(None))][:, :, how.get("features", slice(None))]


@pytest.mark.parametrize("family", [npy, hdf5_chunked, joined, netcdf], ids=lambda family: family.__name__)
def test_selections(tmp_path: Path, family: Callable[..., Source]) -> None:
    array = values("f4")
    source = family(tmp_path, array)
    for how in SELECTIONS:
        check_source(SelectedSource(source, **how), selected(array, how), fork=False)


def test_selections_of_several_axes_of_one_letter(tmp_path: Path) -> None:
    array = values("f8", (9, 2, 4, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("t", data=array, chunks=(3, 1, 4, 5))
    nodes = [17, 3, 4]
    for source in (open_source(tmp_path / "a.h5", axes="tfnn"), ArraySource(array, axes="tfnn")):
        part = SelectedSource(source, nodes=nodes, features=[1])
        assert part.axes == "tfn"
        check_source(part, array.reshape(9, 2, 20)[:, [1]][:, :, nodes], pickled_bytes=None, fork=False)
    turned = np.ascontiguousarray(array.transpose(0, 2, 1, 3))  # the feature axis between the space axes
    part = SelectedSource(ArraySource(turned, axes="tnfn"), nodes=nodes, features=[1, 0])
    check_source(part, array.reshape(9, 2, 20)[:, [1, 0]][:, :, nodes].transpose(0, 2, 1), pickled_bytes=None,
                 fork=False)  # fmt: skip


def test_joined_over_other_sources_and_dtypes(tmp_path: Path) -> None:
    array = values("f8", (12, 3, 2))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("t", data=array[:7], chunks=(2, 3, 2))
    parts = [open_source(tmp_path / "a.h5"), ArraySource(array[7:9].astype("i4")), ArraySource(array[9:])]
    source = join(parts)
    check_source(source, array)
    np.testing.assert_array_equal(source.storage().edges, [0, 2, 4, 6, *range(7, 13)])
    check_source(SelectedSource(source, rows=slice(5, 11), nodes=[2, 0]), array[5:11][:, [2, 0]])
