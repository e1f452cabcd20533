"""Byte-range tables: .npy, raw, HDF5 and netCDF4 in a store, joined ranges, damage, change."""

import pickle
import shutil
import subprocess
import sys

import fsspec
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import CorruptDataError, SourceChangedError, SourceFormatError, SourceNotFoundError
from windowloader.sources.mapping import FileMap
from windowloader.sources.netcdf import list_netcdf, open_netcdf
from windowloader.sources.numpy_files import open_npy, open_raw
from windowloader.sources.ranges import Table, read_groups
from windowloader.sources.remote_objects import join

VALUES = np.random.default_rng(3).normal(size=(60, 11)).astype("f4")


@pytest.fixture
def put():
    """Put a file into fsspec's memory store; its URL."""
    system = fsspec.filesystem("memory")

    def put(path, name):
        system.put_file(str(path), f"/ranges/{name}")
        return f"memory://ranges/{name}"

    yield put
    if system.exists("/ranges"):
        system.rm("/ranges", recursive=True)


def check(source, expected):
    for start, stop in ((0, len(expected)), (7, 8), (3, 29)):
        out = np.zeros((stop - start, *expected.shape[1:][:-1], 2 * expected.shape[-1]), expected.dtype)[
            ..., ::2
        ]
        source.submit(start, stop, out).result(timeout=60)
        np.testing.assert_array_equal(out, expected[start:stop])
    copied = pickle.loads(pickle.dumps(source))
    rows = np.empty_like(expected[5:9])
    copied.read(5, 9, rows)
    np.testing.assert_array_equal(rows, expected[5:9])
    assert copied.fingerprint() == source.fingerprint()
    assert len(pickle.dumps(source)) < 4096


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "|i1", "<f8"])
def test_npy(tmp_path, put, dtype):
    values = (VALUES * 20).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    source = open_npy(put(tmp_path / "x.npy", "x.npy"))
    assert (source.axes, source.chunks, source.storage().edges) == ("tn", None, None)
    check(source, values.astype(np.dtype(dtype).newbyteorder("=")))
    assert source.storage().cost([3], [5]) == (2 * 11 * values.itemsize, 1)


def test_raw(tmp_path, put):
    (tmp_path / "x.bin").write_bytes(b"head" + VALUES.tobytes())
    url = put(tmp_path / "x.bin", "x.bin")
    check(open_raw(url, shape=(60, 11), dtype="<f4", offset=4), VALUES)
    with pytest.raises(SourceFormatError, match=r"shape=None.*e\.g\. shape=.*dtype="):
        open_raw(url, shape=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": (7, 4)},
        {"chunks": (60, 11), "compression": "gzip"},
        {"chunks": (1, 11), "compression": "gzip", "shuffle": True},
        {"chunks": (7, 4), "fletcher32": True, "compression": "gzip", "shuffle": True},
        {"chunks": (9, 5), "fletcher32": True},
        {"chunks": (7, 4), "maxshape": (None, None)},
    ],
)
def test_hdf5(tmp_path, put, how):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("inner").create_dataset("speed", data=VALUES, **how)
        file["many"] = [f"s{i}" for i in range(11)]
    source = open_netcdf(put(tmp_path / "x.h5", "x.h5"))
    assert source.chunks == how.get("chunks")
    check(source, VALUES)


def test_hdf5_chunks_that_were_never_written(tmp_path, put):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("speed", VALUES.shape, "f4", chunks=(10, 11), fillvalue=-1)[:10] = VALUES[:10]
    expected = np.full_like(VALUES, -1)
    expected[:10] = VALUES[:10]
    check(open_netcdf(put(tmp_path / "x.h5", "x.h5")), expected)


def test_netcdf4_with_times_and_packing(tmp_path, put):
    xarray = pytest.importorskip("xarray")
    times = np.datetime64("2020-01-01", "ns") + np.arange(60) * np.timedelta64(1, "h")
    data = xarray.Dataset(
        {"t2m": (("time", "station"), VALUES.astype("f8").round(2))},
        coords={"time": times, "station": np.arange(11) * 10},
    )
    packed = {
        "dtype": "int16",
        "scale_factor": 0.01,
        "add_offset": 1.0,
        "_FillValue": -32767,
        "chunksizes": (9, 11),
    }
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf", encoding={"t2m": packed})
    with xarray.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as opened:
        expected = opened.t2m.values
    source = open_netcdf(put(tmp_path / "x.nc", "x.nc"))
    assert (source.axes, source.dtype) == ("tn", expected.dtype)
    check(source, expected)
    np.testing.assert_array_equal(source.timestamps(), times)
    np.testing.assert_array_equal(source.labels(1), np.arange(11) * 10)


def test_reads_ranges_of_a_bucket_and_counts_them(tmp_path, put):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(10, 11))
    source = open_netcdf(put(tmp_path / "x.h5", "x.h5"))
    table = source.table()
    lie_together = np.diff(np.sort(table.offsets[:6])).max() == 10 * 11 * 4
    assert lie_together
    cost = source.storage().cost([0, 0], [60, 15])
    assert cost.requests.tolist() == [1, 1]  # neighbours are one request
    assert cost.bytes.tolist() == [60 * 11 * 4, 20 * 11 * 4]


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 40)), max_size=30),
    st.integers(0, 50),
    st.integers(1, 200),
)
@settings(max_examples=60)
def test_joined_ranges_cover_all_and_stay_small(ranges, gap, part):
    offsets = np.array([start for start, _ in ranges], np.int64)
    sizes = np.array([size for _, size in ranges], np.int64)
    groups = join(offsets, sizes, gap=gap, part=part)
    assert sorted(np.concatenate(groups).tolist() if groups else []) == list(range(len(ranges)))
    ends = []
    for group in groups:
        first, last = offsets[group].min(), (offsets + sizes)[group].max()
        assert last - first <= part or len(group) == 1
        wasted = np.ones(last - first, bool)
        for position in group:
            wasted[offsets[position] - first : offsets[position] + sizes[position] - first] = False
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], wasted.astype(int), [0]]))))[::2]
        assert (runs <= gap).all()
        ends.append(first)
    assert ends == sorted(ends)


@pytest.mark.parametrize("filters", [{"compression": "gzip"}, {"fletcher32": True}])
def test_damage_is_found_and_named(tmp_path, put, filters):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("speed", data=VALUES, chunks=(10, 11), **filters)
        info = dataset.id.get_chunk_info(3)
    data = bytearray((tmp_path / "x.h5").read_bytes())
    data[info.byte_offset + 20] ^= 0xFF
    (tmp_path / "x.h5").write_bytes(data)
    source = open_netcdf(put(tmp_path / "x.h5", "x.h5"))
    with pytest.raises(CorruptDataError, match=rf"speed.*rows 30–39, bytes {info.byte_offset}–"):
        source.read(0, 60, np.empty_like(VALUES))


@pytest.mark.parametrize("name", ["x.npy", "x.h5"])
def test_a_file_cut_short_is_found_at_opening(tmp_path, put, name):
    if name == "x.npy":
        np.save(tmp_path / name, VALUES)
    else:
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("speed", data=VALUES)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptDataError, match=name):
        wl.open(put(tmp_path / name, name))


def test_a_failed_opening_does_not_crash_the_process_at_its_end(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("speed", data=VALUES)
    code = (
        "import sys, fsspec, windowloader as wl\n"
        "from windowloader.errors import CorruptDataError\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "kept = []\n"
        "for size in (20, 500, len(data) // 2, len(data) - 1):\n"
        "    fsspec.filesystem('memory').pipe(f'/{size}.h5', data[:size])\n"
        "    try: wl.open(f'memory://{size}.h5')\n"
        "    except CorruptDataError as error: kept.append(error)\n"
        "assert len(kept) == 4, kept\n"
        "sys.last_exc = kept[1]\n"
        "print('told')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.h5")], capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr


HOW = {"chunks": (10, 11)}


@pytest.mark.parametrize("how", [{}, HOW, HOW | {"compression": "lzf"}, HOW | {"compression": "gzip"}])
def test_no_request_waits_with_the_lock_of_h5py(tmp_path, put, monkeypatch, how):
    """A thread that collects garbage on the way to an answer may free an object of h5py, and needs the lock for it."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("inner")
        group.create_dataset("speed", data=VALUES, **how)
        group["time"] = np.arange(60.0)
        group["sensor"] = [f"s{number}" for number in range(11)]
        group["time"].attrs["units"] = "hours since 2000-01-01"
        for dim, name in enumerate(("time", "sensor")):
            group[name].make_scale()
            group["speed"].dims[dim].attach_scale(group[name])
        for number in range(40):  # pages that lie apart
            file.create_dataset(f"other/{number}", data=np.arange(5000.0)).attrs["text"] = "a" * 5000
    system, asked = type(fsspec.filesystem("memory")), []

    def answer(*arguments, ask=system.cat_file):
        free = h5py._objects.phil.acquire(blocking=False)
        asked.append(free)
        if free:
            h5py._objects.phil.release()
        return ask(*arguments)

    monkeypatch.setattr(system, "cat_file", answer)
    url = put(tmp_path / "x.h5", "x.h5")
    assert "inner/speed" in list_netcdf(url)
    source = open_netcdf(url, variable="inner/speed")
    assert source.dims == ("time", "sensor")
    assert source.labels(1).tolist() == [f"s{number}" for number in range(11)]
    assert source.timestamps()[-1] == np.datetime64("2000-01-03T11")
    check(source, VALUES)
    assert all(asked)
    assert len(asked) < 100


@pytest.mark.parametrize("what", ["link", "storage", "virtual", "scale", "frame"])
def test_an_object_names_no_file_of_this_machine(tmp_path, put, what):
    own = tmp_path / "own.bin"
    np.arange(60.0).tofile(own)
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["x"] = np.arange(60.0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["speed"] = VALUES
        foreign = file.create_group("frame") if what == "frame" else file
        name = {"frame": "block0_values", "scale": "time"}.get(what, "foreign")
        if what == "link":
            foreign[name] = h5py.ExternalLink(str(tmp_path / "own.h5"), "/x")
        elif what == "virtual":
            layout = h5py.VirtualLayout((60,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "own.h5"), "x", (60,))
            foreign.create_virtual_dataset(name, layout)
        else:
            foreign.create_dataset(name, (60,), "f8", external=[(str(own), 0, 480)])
        if what == "scale":
            file["time"].make_scale()
            file["speed"].dims[0].attach_scale(file["time"])
        if what == "frame":
            foreign.attrs["pandas_type"] = np.bytes_(b"frame")
    path, url = name if what != "frame" else "frame", put(tmp_path / "x.h5", "x.h5")
    assert list_netcdf(url) == ("speed",)
    with pytest.raises(SourceFormatError, match=rf"'{path}'.*other files"):
        open_netcdf(url, variable=path)
    source = open_netcdf(url)
    check(source, VALUES)
    assert source.labels(0) is None
    assert source.timestamps() is None


def test_groups_of_rows_are_found_once(tmp_path, put, monkeypatch):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(10, 11))
    source = open_netcdf(put(tmp_path / "x.h5", "x.h5"))
    calls = []
    monkeypatch.setattr(
        "windowloader.sources.ranges.read_groups", lambda *of: calls.append(of) or read_groups(*of)
    )
    assert source.storage().cost([0], [60]) == source.storage().cost([0], [60])
    assert len(calls) == 1


def test_what_cannot_be_read_by_ranges_says_why(tmp_path, put):
    np.save(tmp_path / "f.npy", np.asfortranarray(VALUES))
    with pytest.raises(SourceFormatError, match="Fortran"):
        open_npy(put(tmp_path / "f.npy", "f.npy"))
    np.save(tmp_path / "nt.npy", VALUES.T.copy())
    with pytest.raises(SourceFormatError, match=r"axes='nt'.*convert"):
        open_npy(put(tmp_path / "nt.npy", "nt.npy"), axes="nt")
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(10, 11), compression="lzf")
    check(open_netcdf(put(tmp_path / "z.h5", "z.h5")), VALUES)  # by h5py
    (tmp_path / "t.npy").write_bytes(b"no array at all")
    with pytest.raises(SourceFormatError, match=r"no \.npy file"):
        open_npy(put(tmp_path / "t.npy", "t.npy"))
    with pytest.raises(SourceNotFoundError):
        open_npy("memory://ranges/absent.npy")


def test_an_object_that_changes_is_noticed(tmp_path, monkeypatch):
    """Through TensorStore, on this machine: every answer has the object's version."""

    def refuse(*arguments, **options):
        raise OSError("No such device")

    monkeypatch.setattr(FileMap, "__new__", refuse)  # what cannot be mapped is read by ranges
    np.save(tmp_path / "x.npy", VALUES)
    source = open_npy(tmp_path / "x.npy")
    check(source, VALUES)
    np.save(tmp_path / "y.npy", VALUES + 1)
    shutil.move(tmp_path / "y.npy", tmp_path / "x.npy")
    with pytest.raises(SourceChangedError, match=r"x.npy.*changed since it was opened"):
        source.read(0, 60, np.empty_like(VALUES))
    source.close()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_rows_are_grouped_so_that_all_of_a_group_takes_as_many_requests(data):
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    cells = np.arange(rows * columns).reshape(rows, columns)
    order = data.draw(
        st.sampled_from([cells.ravel(), cells.T.ravel()]) | st.permutations(cells.ravel().tolist())
    )
    sizes = np.array(data.draw(st.lists(st.integers(1, 40), min_size=cells.size, max_size=cells.size)))
    gaps = np.array(
        data.draw(st.lists(st.sampled_from([0, 5, 90]), min_size=cells.size, max_size=cells.size))
    )
    offsets = np.empty(cells.size, np.int64)
    offsets[order] = np.cumsum(gaps + sizes[order]) - sizes[order]
    absent = data.draw(st.lists(st.sampled_from(range(cells.size)), max_size=2))
    offsets[absent], sizes[absent] = -1, 0
    table = Table((rows * 3, columns * 2), np.dtype("f4"), (3, 2), (), 0, offsets, sizes, sizes)
    edges, before = read_groups(table, 0, data.draw(st.integers(1, 9)), 50)
    assert (edges[0], edges[-1]) == (0, rows * 3)
    for first, last, count in zip(edges[:-1] // 3, edges[1:] // 3, np.diff(before), strict=True):
        for low in range(first, last):
            for high in range(low + 1, last + 1):
                found = cells[low:high].ravel()
                found = found[offsets[found] >= 0]
                asked = len(join(offsets[found], sizes[found], gap=50, part=10**9))
                assert asked <= count
                assert asked == count or high - low > 1
