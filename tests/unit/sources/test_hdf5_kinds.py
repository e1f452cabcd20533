"""HDF5 and netCDF-4 as people have them: the same series here and in a bucket, whatever else is in the file."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import fsspec
import h5py
import numpy as np
import pytest
import xarray as xr

import windowloader as wl
from windowloader.errors import CorruptDataError, SourceFormatError, SourceNotFoundError
from windowloader.sources.hdf5_dataset import HDF5Source
from windowloader.sources.memory import MappedSource
from windowloader.sources.netcdf import FileOpener
from windowloader.sources.processes import opened
from windowloader.sources.ranges import RangeSource
from windowloader.sources.registry import list_variables, open_source
from windowloader.testing import check_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

VALUES = np.arange(60, dtype=np.float32).reshape(12, 5)
TIMES = np.datetime64("2012-03-01", "ns") + np.arange(12) * np.timedelta64(1, "h")
HOURS = {"units": "hours since 2012-03-01"}


@pytest.fixture(params=["here", "bucket"])
def place(request, tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """What opens a file here, and its bytes in a bucket."""
    system = fsspec.filesystem("memory")

    def put(path: Path) -> str:
        if request.param == "here":
            return str(path)
        system.put_file(str(path), f"/kinds/{path.name}")
        return f"memory://kinds/{path.name}"

    yield put
    if system.exists("/kinds"):
        system.rm("/kinds", recursive=True)


def loaded(series: wl.Series) -> np.ndarray:
    """All rows, by the public loader."""
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
    with wl.WindowLoader(windows, batch_size=64, dtype="float64", fill=-1.0) as loader:
        found = np.concatenate([np.array(batch.inputs)[:, 0, :, 0] for batch in loader])
    for variable in series.variables:
        variable.source.close()
    return found


def write(path: Path, fill: Callable[[h5py.File], Any], **how: Any) -> Path:
    with h5py.File(path, "w", **how) as file:
        file["speed"] = VALUES
        fill(file)
    return path


def scales(file: h5py.File, names: tuple[str, ...] = ("time", "x")) -> None:
    for dim, name in enumerate(("time", "x")):
        if name in names:
            file[name] = np.arange(file["speed"].shape[dim])
            file[name].make_scale(name)
            file["speed"].dims[dim].attach_scale(file[name])
    if "time" in names:
        file["time"].attrs.update(HOURS)


def dangling(file: h5py.File) -> None:
    file["soft"], file["external"] = h5py.SoftLink("/nowhere"), h5py.ExternalLink("gone.h5", "/x")


def strange(file: h5py.File) -> None:
    file.create_dataset("ragged", (3,), dtype=h5py.vlen_dtype("i4"))
    file.create_dataset("references", (3,), dtype=h5py.ref_dtype)
    file["records"] = np.zeros(3, [("a", "S4"), ("b", "S2")])
    file["opaque"] = np.zeros(3, "V5")
    file["nothing"] = h5py.Empty("f4")
    file["type"] = np.dtype("f4")
    file["complex"], file["text"] = np.zeros(3, "c8"), "of no use"
    file.create_dataset("words", data=["a", "b"])


def attributes(file: h5py.File) -> None:
    speed = file["speed"]
    speed.attrs["reference"], speed.attrs["nothing"] = file["/"].ref, h5py.Empty("f4")
    speed.attrs["bad text"] = np.bytes_(b"\xff\xfe")
    file.attrs["root"] = file["speed"].ref


def loops(file: h5py.File) -> None:
    file.create_group("g/h")
    file["g/h/up"], file["g/soft"] = file["/"], h5py.SoftLink("/g")


def half_named(file: h5py.File) -> None:
    scales(file, ("time",))


def scale_gone(file: h5py.File) -> None:
    scales(file)
    del file["x"]


def scales_apart(file: h5py.File) -> None:
    for dim, name in enumerate(("time", "x")):
        scale = file.create_dataset(f"scales/{name}", data=np.arange(VALUES.shape[dim]))
        scale.make_scale(name)
        file["speed"].dims[dim].attach_scale(scale)
    file["scales/time"].attrs.update(HOURS)


KINDS = [dangling, strange, attributes, loops, half_named, scale_gone, scales_apart, scales]


@pytest.mark.parametrize("fill", KINDS)
def test_neighbours_do_not_keep_a_dataset_from_being_opened(tmp_path: Path, place, fill) -> None:
    url = place(write(tmp_path / "a.h5", fill))
    series = wl.open(url, variables=["speed"])
    assert (series.clock is not None) == (fill in (half_named, scale_gone, scales_apart, scales))
    if series.clock is not None:
        np.testing.assert_array_equal(series.clock.timestamps(np.arange(12)), TIMES)
    np.testing.assert_array_equal(loaded(series), VALUES)
    assert list_variables(url) == ("speed",)


def test_dimensions_without_names_are_never_joined(tmp_path: Path, place) -> None:
    """h5netcdf gives the same made-up name to all dimensions of one size."""

    def fill(file: h5py.File) -> None:
        file["when"] = np.arange(12)
        file["when"].attrs.update(HOURS)
        file["names"] = np.array([b"a", b"b", b"c", b"d", b"e"])

    source = open_source(place(write(tmp_path / "a.h5", fill)), variable="speed")
    assert source.timestamps() is None
    assert source.labels(1) is None
    source.close()


def test_attributes_of_plain_hdf5_are_those_of_netcdf(tmp_path: Path, place) -> None:
    raw = np.arange(60, dtype="i2").reshape(12, 5)

    def fill(file: h5py.File) -> None:
        for name, how in (("packed", {"chunks": (5, 5), "compression": "gzip"}), ("plain", {})):
            file.create_dataset(name, data=raw, **how)
            file[name].attrs.update({
                "scale_factor": np.array([0.5]), "add_offset": 10.0, "_FillValue": np.array([7], "i2"),
            })  # fmt: skip

    path = write(tmp_path / "a.h5", fill)
    with xr.open_dataset(path, engine="h5netcdf", phony_dims="sort") as dataset:
        expected = dataset["packed"].values
    assert np.isnan(expected[1, 2])
    for name in ("packed", "plain"):
        source = open_source(place(path), variable=name)
        check_source(source, expected, fork=False)


def test_groups_by_path_with_the_coordinates_of_those_above(tmp_path: Path, place) -> None:
    path = tmp_path / "a.nc"
    xr.Dataset(coords={"time": ("time", np.arange(12), HOURS), "x": list("abcde")}).to_netcdf(
        path, engine="h5netcdf"
    )
    for group, factor in (("forecast/surface", 1), ("forecast/top", 2)):
        inner = xr.Dataset({"t2m": (("time", "x"), VALUES * factor), "k": (("time", "x"), VALUES)})
        inner.to_netcdf(path, engine="h5netcdf", mode="a", group=group)
    url = place(path)
    assert list_variables(url) == tuple(
        f"forecast/{at}/{name}" for at in ("surface", "top") for name in ("t2m", "k")
    )
    with pytest.raises(SourceFormatError, match=r"'forecast/surface/t2m'"):
        open_source(url)
    source = open_source(url, variable="/forecast/top/t2m")
    np.testing.assert_array_equal(source.timestamps(), TIMES)
    np.testing.assert_array_equal(source.labels(1), list("abcde"))
    check_source(source, VALUES * 2, timestamps=TIMES, fork=False)


def test_records_by_a_field(tmp_path: Path, place) -> None:
    """As PyTables and NEON's towers write: times are text in a field of their own."""
    records = np.zeros(12, [("date", "S19"), ("mean", "f8"), ("levels", "f4", (3,))])
    records["date"] = np.datetime_as_string(TIMES.astype("M8[s]")).astype("S19")
    records["mean"], records["levels"] = np.arange(12.0), VALUES[:, :3]

    def fill(file: h5py.File) -> None:
        del file["speed"]
        file.create_dataset("tower/flux", data=records, chunks=(5,), compression="gzip")

    url = place(write(tmp_path / "a.h5", fill))
    with pytest.raises(
        SourceFormatError, match=r"one field is opened at a time: \['tower/flux/mean', 'tower/flux/levels'"
    ):
        wl.open(url)
    with pytest.raises(SourceFormatError, match="one field is opened at a time"):
        wl.open(url, variables=["tower/flux"])
    source = open_source(url, variable="tower/flux/mean")
    check_source(source, np.arange(12.0), timestamps=TIMES, fork=False)
    source = open_source(url, variable="tower/flux/levels")
    check_source(source, VALUES[:, :3], timestamps=TIMES, fork=False)


@pytest.mark.parametrize("size", [0, 512, 2048])
def test_a_block_before_the_file_and_matlab(tmp_path: Path, place, size: int) -> None:
    path = tmp_path / "m.mat"
    with h5py.File(path, "w", userblock_size=size) as file:
        file.create_dataset("speed", data=VALUES.T).attrs["MATLAB_class"] = np.bytes_("double")
        file.create_dataset("name", data=np.zeros((9, 1), "u2")).attrs["MATLAB_class"] = np.bytes_("char")
        file.create_dataset("none", data=np.zeros(2, "u8")).attrs["MATLAB_empty"] = np.uint8(1)
        file["#refs#/a"] = VALUES
    if size:
        with open(path, "r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    url = place(path if size else path.rename(tmp_path / "m.h5"))
    with pytest.warns(UserWarning, match=r"'speed' of .* MATLAB.*12 × 5.*axes='tn'"):
        series = wl.open(url)
    np.testing.assert_array_equal(loaded(series), VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(loaded(wl.open(url, axes="nt")), VALUES.T)


def test_a_virtual_dataset_is_whole_or_an_error(tmp_path: Path) -> None:
    write(tmp_path / "part.h5", lambda file: None)
    layout = h5py.VirtualLayout((24, 5), "f4")
    for part in range(2):
        layout[12 * part : 12 * part + 12] = h5py.VirtualSource(
            "part.h5" if part else "other.h5", "speed", (12, 5)
        )
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("all", layout, fillvalue=0)
    with pytest.raises(SourceNotFoundError, match=r"other\.h5"):
        wl.open(tmp_path / "v.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["flow"] = VALUES
    with pytest.raises(SourceNotFoundError, match=r"other\.h5.*no dataset 'speed'"):
        wl.open(tmp_path / "v.h5")
    write(tmp_path / "other.h5", lambda file: None)
    np.testing.assert_array_equal(loaded(wl.open(tmp_path / "v.h5")), np.concatenate([VALUES, VALUES]))


def test_an_object_may_not_name_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(240))
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("speed", (12, 5), "f4", external=[(str(secret), 0, 240)])
    system = fsspec.filesystem("memory")
    system.put_file(str(tmp_path / "e.h5"), "/kinds/e.h5")
    with pytest.raises(SourceFormatError, match="may not name"):
        open_source("memory://kinds/e.h5")
    system.rm("/kinds", recursive=True)
    check_source(open_source(tmp_path / "e.h5"), np.zeros((12, 5), "f4"), fork=False)


def test_a_dataset_behind_a_link_is_mapped_in_its_own_file(tmp_path: Path) -> None:
    write(tmp_path / "other.h5", lambda file: None)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["zeros"] = np.zeros((200, 5), "f4")
        file["linked"] = h5py.ExternalLink("other.h5", "/speed")
    np.testing.assert_array_equal(loaded(wl.open(tmp_path / "a.h5", variables=["linked"])), VALUES)


def test_a_coordinate_that_cannot_be_read_is_left_out_and_told(tmp_path: Path, place) -> None:
    path = tmp_path / "a.nc"
    xr.Dataset(
        {"speed": (("time", "x"), VALUES)},
        {"time": ("time", np.arange(12), HOURS), "x": np.arange(5.0)},
    ).to_netcdf(path, engine="h5netcdf", encoding={"x": {"fletcher32": True, "chunksizes": (5,)}})
    with h5py.File(path) as file:
        damaged = file["x"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[damaged] ^= 0xFF
    path.write_bytes(data)
    url = place(path)
    with pytest.warns(UserWarning, match="coordinate 'x' of .* cannot be read and is left out"):
        source = open_source(url)
    assert source.labels(1) is None
    check_source(source, VALUES, timestamps=TIMES, fork=False)


# -- filters and layouts -----------------------------------------------------------------------------------------------

ENGINES = {
    "contiguous": ({}, MappedSource, RangeSource),
    "big-endian": ({"dtype": ">f4"}, MappedSource, RangeSource),
    "gzip": ({"chunks": (5, 2), "compression": "gzip", "shuffle": True}, HDF5Source, RangeSource),
    "checked": ({"chunks": (5, 2), "fletcher32": True, "compression": 4}, HDF5Source, RangeSource),
    "lzf": ({"chunks": (5, 2), "compression": "lzf"}, HDF5Source, HDF5Source),
    "scale-offset": ({"chunks": (5, 2), "scaleoffset": 2}, HDF5Source, HDF5Source),
    "growing": ({"chunks": (5, 2), "maxshape": (None, 5)}, HDF5Source, RangeSource),
    "bool": ({"dtype": "?"}, MappedSource, RangeSource),
}


@pytest.mark.parametrize("name", ENGINES)
def test_each_layout_is_read_by_its_engine(tmp_path: Path, place, name: str) -> None:
    how, here, there = ENGINES[name]
    values = VALUES > 9 if name == "bool" else VALUES
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("speed", data=values, **how)
    url = place(tmp_path / "a.h5")
    source = open_source(url)
    assert type(source) is (there if "://" in url else here)
    check_source(source, values, fork=False)


def test_what_is_compact_or_was_never_written(tmp_path: Path, place) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file.create_dataset("unwritten", (12, 5), "f4", fillvalue=7)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        compact = h5py.h5d.create(
            file.id, b"compact", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((12, 5)), plist
        )
        compact.write(h5py.h5s.ALL, h5py.h5s.ALL, VALUES)
    url = place(tmp_path / "a.h5")
    check_source(open_source(url, variable="unwritten"), np.full((12, 5), 7, "f4"), fork=False)
    check_source(open_source(url, variable="compact"), VALUES, fork=False)


def raw_chunk(path: Path, number: int, chunk: bytes, settings: tuple[int, ...] = ()) -> Path:
    """A dataset of one chunk, as stored, by a filter that h5py cannot write here.

    Filters that are loaded already refuse foreign settings, so the number is written in afterwards.
    """
    unknown = 40009
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(VALUES.shape)
        plist.set_filter(unknown, h5py.h5z.FLAG_OPTIONAL, settings)
        space = h5py.h5s.create_simple(VALUES.shape)
        dataset = h5py.h5d.create(file.id, b"speed", h5py.h5t.IEEE_F32LE, space, plist)
        dataset.write_direct_chunk((0, 0), chunk)
    written = path.read_bytes()
    old, new = (one.to_bytes(2, "little") for one in (unknown, number))
    assert written.count(old) == 1 + chunk.count(old)
    path.write_bytes(written.replace(old, new, 1))
    return path


def chunks(data: bytes) -> dict[int, bytes]:
    numcodecs = pytest.importorskip("numcodecs")
    return {
        1: numcodecs.Zlib().encode(data),
        307: numcodecs.BZ2().encode(data),
        32001: bytes(numcodecs.Blosc("lz4", shuffle=1).encode(np.frombuffer(data, "f4"))),
        32015: bytes(numcodecs.Zstd().encode(data)),
    }


@pytest.mark.parametrize("number", [1, 307, 32001, 32015])
def test_filters_are_undone_in_a_bucket_and_stop_at_the_size_of_a_chunk(tmp_path: Path, number: int) -> None:
    system = fsspec.filesystem("memory")
    bomb = chunks(bytes(64 << 20))[number]
    small = chunks(VALUES.tobytes())[number]
    for name, chunk in (("good", small), ("bomb", bomb), ("cut", small[: len(small) // 2])):
        raw_chunk(tmp_path / f"{name}.h5", number, chunk, (4,))
        system.put_file(str(tmp_path / f"{name}.h5"), f"/kinds/{name}.h5")
    check_source(open_source("memory://kinds/good.h5"), VALUES, fork=False)
    for name in ("bomb", "cut"):
        with pytest.raises(CorruptDataError, match="speed.*rows 0–11"):
            open_source(f"memory://kinds/{name}.h5").read(0, 12, np.empty_like(VALUES))
    system.rm("/kinds", recursive=True)


@pytest.mark.parametrize("number", [32004, 32015, 32026])
def test_a_filter_that_is_not_installed_is_named(tmp_path: Path, number: int, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)  # another test may have loaded it
    with pytest.raises(SourceFormatError, match=rf"filter {number} .*pip install hdf5plugin"):
        open_source(raw_chunk(tmp_path / "a.h5", number, bytes(64)))


def test_hdf5plugin_is_used_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    chunk = chunks(VALUES.tobytes())[32015]
    check_source(open_source(raw_chunk(tmp_path / "a.h5", 32015, chunk, (3,))), VALUES, fork=False)
    source = open_source(raw_chunk(tmp_path / "b.h5", 32015, chunk[:4] + bytes(60), (3,)))
    with pytest.raises(SourceFormatError, match=r"rows \[0, 12\) .*Zstd of hdf5plugin.*damaged"):
        source.read(0, 12, np.empty_like(VALUES))
    source.close()


# -- what is not what its name says ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n", "git lfs"),
        (b"\x1f\x8b" + bytes(99), "gzip"),
        (b"<!DOCTYPE html><title>Log in</title>" + bytes(99), "web page"),
        (b"\x0e\x03\x13\x01" + bytes(99), "HDF 4"),
        (b"MATLAB 5.0 MAT-file" + bytes(600), "loadmat"),
        (b"nothing that is known" + bytes(99), "HDF5|netCDF"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.h5", "a.nc"])
def test_other_bytes_are_told(tmp_path: Path, place, head: bytes, told: str, name: str) -> None:
    (tmp_path / name).write_bytes(head)
    url = place(tmp_path / name)
    for ask in (open_source, list_variables):
        with pytest.raises(SourceFormatError, match=told):
            ask(url)


@pytest.mark.parametrize("name", ["a.npz", "a.csv"])
def test_other_bytes_under_names_of_archives_and_text(tmp_path: Path, name: str) -> None:
    heads = {
        b"version https://git-lfs.github.com/spec/v1\noid": "git lfs",
        b"\x1f\x8b": "gzip",
        b"PAR1": "Parquet",
    }
    for head, told in heads.items():
        (tmp_path / name).write_bytes(head + bytes(64))
        with pytest.raises(SourceFormatError, match=told):
            wl.open(tmp_path / name)


def test_h5py_files_over_objects_are_closed_before_the_interpreter_ends(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(5, 2), compression="lzf")
    code = (
        "import sys, fsspec, numpy as np\n"
        "from windowloader.sources.registry import open_source\n"
        "fsspec.filesystem('memory').put_file(sys.argv[1], '/a.h5')\n"
        "source = open_source('memory://a.h5')\n"
        "out = np.empty((12, 5), 'f4')\n"
        "source.read(0, 12, out)\n"
        "print(out.sum())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.h5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (0, f"{VALUES.sum()}\n"), done.stderr


def test_a_broken_name_beside_them_takes_nothing_from_other_variables(tmp_path: Path) -> None:
    """Text along a dimension in characters, a dimension without a variable, and a coordinate of the group above."""
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(tmp_path / "a.nc", "w") as file:
        for name, size in (("time", None), ("station", 5), ("letters", 3)):
            file.createDimension(name, size)
        file.createVariable("time", "f8", ("time",)).units = HOURS["units"]
        file["time"][:] = np.arange(12)
        names = np.array([b"abc", b"de", b"f", b"g", b"h"], "S3")
        file.createVariable("station", "S1", ("station", "letters"))[:] = netcdf.stringtochar(names)
        inner = file.createGroup("deep")
        inner.createDimension("none", 5)
        for place, dims in ((file, ("time", "station")), (inner, ("time", "none"))):
            place.createVariable("speed", "f4", dims)[:] = VALUES
    for broken in (False, True):
        if broken:
            with h5py.File(tmp_path / "a.nc", "a") as file:
                file["gone"] = file["deep/gone"] = h5py.SoftLink("/nowhere")
        assert list_variables(tmp_path / "a.nc") == ("speed", "deep/speed")
        for name, labels in (("speed", names), ("deep/speed", None)):
            source = open_source(tmp_path / "a.nc", variable=name)
            check_source(source, VALUES, timestamps=TIMES, fork=False)
            np.testing.assert_array_equal(source.labels(1), labels)


def test_a_variable_is_as_long_as_its_unlimited_dimension(tmp_path: Path) -> None:
    hours = np.arange(5.0)
    with h5py.File(tmp_path / "a.nc", "w") as file:
        time = file.create_dataset("time", data=hours, maxshape=(None,), chunks=(5,))
        time.attrs.update(HOURS)
        time.make_scale("time")
        short = file.create_dataset("short", data=np.ones((3, 2), "f4"), maxshape=(None, 2), fillvalue=-1)
        short.dims[0].attach_scale(time)
    source = open_source(tmp_path / "a.nc", variable="short")
    assert source.dims is not None
    assert source.dims[0] == "time"
    assert len(source.timestamps()) == 5
    for start, stop in ((0, 5), (2, 4), (4, 5)):
        rows = np.empty((stop - start, 2), "f4")
        source.read(start, stop, rows)
        np.testing.assert_array_equal(
            rows, np.where(np.arange(start, stop) < 3, 1, -1)[:, None] + np.zeros((1, 2))
        )
    source.close()


def test_a_coordinate_of_several_dimensions_has_their_names(tmp_path: Path) -> None:
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", 6)
        file.createDimension("station", 3)
        file.createVariable("station", "f4", ("station", "time"))[:] = np.arange(18.0).reshape(3, 6)
        file.createVariable("speed", "f4", ("time", "station"))[:] = np.arange(18.0).reshape(6, 3)
    with opened(FileOpener.of(tmp_path / "a.nc", None)) as contents:
        assert {name: one.dims for name, one in contents.groups[""].variables.items()} == {
            "station": ("station", "time"),
            "speed": ("time", "station"),
        }


def test_an_array_without_time_is_opened_by_its_name_beside_others(tmp_path: Path, place) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["plain"], file["timed"] = VALUES, VALUES + 1
        file["timed"].dims[0].label = "time"
    url = place(tmp_path / "a.h5")
    assert list_variables(url) == ("timed",)
    np.testing.assert_array_equal(loaded(wl.open(url, variables=["plain"])), VALUES)
    with pytest.raises(wl.errors.SeriesError, match=r"unknown: 'absent'.*It has 'timed'"):
        wl.open(url, variables=["absent"])
