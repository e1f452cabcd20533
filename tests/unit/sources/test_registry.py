from __future__ import annotations

import gzip
import inspect
import subprocess
import sys
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pandas as pd
import pytest

from windowloader.errors import AxesError, SourceFormatError, SourceNotFoundError
from windowloader.sources import registry
from windowloader.sources.memory import ArraySource
from windowloader.sources.registry import Kind, list_variables, open_source

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.arange(12.0).reshape(4, 3)


def test_errors_for_unknown_targets_list_what_can_be_opened() -> None:
    for target in (object(), 3, {"a": 1}, None, [1.0, 2.0]):
        with pytest.raises(
            SourceFormatError, match=r"cannot be opened. What can: .*\.npy.*Zarr.*HDF5.*Parquet.*list"
        ):
            open_source(target)


def test_an_open_source_is_returned() -> None:
    source = ArraySource(VALUES)
    assert open_source(source) is source
    assert open_source(source, axes="tn") is source
    with pytest.raises(AxesError, match="open with 'tn'"):
        open_source(source, axes="tf")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.pkl", "Pickles can run code"),
        ("a.grib", "cfgrib"),
        ("a.pt", "weights_only=True"),
        ("a.mat", "loadmat"),
        ("a.bin", "shape= and dtype="),
    ],
)
def test_unknown_files_get_advice(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04something")
    with pytest.raises(SourceFormatError, match=message):
        open_source(tmp_path / name)
    with pytest.raises(SourceFormatError, match=message):
        list_variables(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    for name in ("a.npy", "a.csv", "a.nc", "a", "a.npz"):
        with pytest.raises(SourceNotFoundError, match="does not exist"):
            open_source(tmp_path / name)
    with pytest.raises(SourceFormatError, match="no file matches"):
        open_source(f"{tmp_path}/*.nc")
    with pytest.raises(SourceFormatError, match=r"folder without a Zarr.*\*\.nc"):
        open_source(tmp_path)


def test_first_bytes_count_more_than_the_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    (tmp_path / "a.npy").rename(tmp_path / "a.dat")
    assert open_source(tmp_path / "a.dat").shape == (4, 3)


def test_forms_of_a_path(tmp_path: Path, monkeypatch) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("a.npy", tmp_path / "a.npy", f"file://{tmp_path}/a.npy", "~/a.npy", f"{tmp_path}/[a].npy"):
        assert open_source(path).shape == (4, 3)


def test_options_of_another_family_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    for target in (tmp_path / "a.npy", VALUES, ArraySource(VALUES)):
        with pytest.raises(SourceFormatError, match=r"\['memer'\] were given"):
            open_source(target, memer="x")
    with pytest.raises(SourceFormatError, match="bare numbers, which takes shape, dtype, offset, order"):
        open_source(tmp_path / "a.npy", shape=(4, 3), dtype="f8", member="x")


def test_lists_of_anything_join(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    source = open_source([VALUES, tmp_path / "a.npy", pd.DataFrame(VALUES)])
    assert source.shape == (12, 3)
    assert open_source([VALUES.T, VALUES.T], axes="nt").shape == (8, 3)


def test_remote_tables_and_archives_are_fetched(tmp_path: Path) -> None:
    with fsspec.open("memory://r/a.csv.gz", "wb") as file:
        file.write(gzip.compress(b"time,a,b\n2020-01-01,1,2\n2020-01-02,3,4\n"))
    with fsspec.open("memory://r/a.npz", "wb") as file:
        np.savez(file, x=VALUES)
    table = open_source("memory://r/a.csv.gz")
    np.testing.assert_array_equal(table.array(), [[1, 2], [3, 4]])
    assert list(table.labels(1)) == ["a", "b"]  # type: ignore[arg-type]
    assert table.timestamps()[1] == np.datetime64("2020-01-02")  # type: ignore[index]
    np.testing.assert_array_equal(open_source("memory://r/a.npz").array(), VALUES)
    with pytest.raises(SourceNotFoundError, match="b.csv"):
        open_source("memory://r/b.csv")


def test_remote_npy_and_zarr_are_opened(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    with fsspec.open("memory://r/a.npy", "wb") as file:
        np.save(file, VALUES)
    zarr.save_array(str(tmp_path / "a.zarr"), VALUES)
    array = zarr.open_array(str(tmp_path / "a.zarr"), mode="r")
    for target in ("memory://r/a.npy", tmp_path / "a.zarr", array):
        source = open_source(target)
        out = np.empty((2, 3))
        source.read(1, 3, out)
        np.testing.assert_array_equal(out, VALUES[1:3])
        source.close()
        assert list_variables(target) == ()


def test_tensorstore_is_opened_by_its_place(tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(tmp_path / "a.zarr")}}
    store = tensorstore.open(spec, create=True, dtype="float64", shape=[4, 3]).result()
    store.write(VALUES).result()
    source = open_source(store)
    out = np.empty((4, 3))
    source.read(0, 4, out)
    np.testing.assert_array_equal(out, VALUES)
    source.close()
    with pytest.raises(SourceFormatError, match="pass its path or URL"):
        open_source(tensorstore.array(VALUES))


@pytest.mark.parametrize("name", registry.KINDS)
def test_every_kind_names_functions_that_take_what_it_says(name: str) -> None:
    kind = registry.KINDS[name]
    opens = inspect.signature(registry._function(kind.opens)).parameters
    assert "axes" in opens
    assert ("storage_options" in opens) >= kind.parts
    if kind.lists is not None:
        assert "variable" in opens
        lists = inspect.signature(registry._function(kind.lists)).parameters
        assert ("storage_options" in lists) >= kind.parts


def test_a_kind_is_one_entry(monkeypatch) -> None:
    class Lidar:
        rows = VALUES

    lidar = Kind("a Lidar", "registry:open_lidar", marks=(f"{__name__.partition('.')[0]}.Lidar",))
    monkeypatch.setattr(
        registry, "open_lidar", lambda one, axes: ArraySource(one.rows, axes=axes), raising=False
    )
    monkeypatch.setitem(registry.KINDS, "lidar", lidar)
    assert open_source([Lidar(), Lidar()]).shape == (8, 3)
    with pytest.raises(SourceFormatError, match=r"as a Lidar, which takes no options of its own; \['time'\]"):
        open_source(Lidar(), time="day")


def test_opening_an_array_imports_no_format(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    code = (
        "import sys, numpy; from windowloader.sources.registry import open_source; open_source(numpy.zeros((3, 2)));"
        f"open_source({str(tmp_path / 'a.npy')!r}); open_source({str(tmp_path / '*.npy')!r});"
        "print([m for m in ('torch', 'pandas', 'xarray', 'h5py', 'zarr', 'tensorstore', 'numba') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=280
    )
    assert found.stdout.strip() == "[]"


def test_opening_an_npy_file_loads_few_files_of_the_package(tmp_path: Path) -> None:
    """Tables, Zarr, HDF5 and netCDF are imported by the targets that need them, pandas and xarray with them."""
    np.save(tmp_path / "a.npy", VALUES)
    code = (
        f"import sys, windowloader; windowloader.open({str(tmp_path / 'a.npy')!r});"
        "print(*[m for m in sys.modules if m.startswith('windowloader') or m in ('pandas', 'xarray', 'fsspec')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=280
    )
    loaded = set(found.stdout.split())
    assert loaded.isdisjoint(("pandas", "xarray", "fsspec"))
    own = {"registry", "formats", "handles", "mapping", "memory", "numpy_files"}
    formats = (
        "tables",
        "table_",
        "frame_",
        "unpickle",
        "chunked",
        "hdf5",
        "netcdf",
        "zarr",
        "ranges",
        "remote",
    )
    assert {f"windowloader.sources.{name}" for name in own} <= loaded
    assert not [name for name in loaded if name.removeprefix("windowloader.sources.").startswith(formats)]
    assert len(loaded) <= 19
