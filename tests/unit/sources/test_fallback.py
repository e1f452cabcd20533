"""Stores that only zarr-python opens: memory, fsspec's schemes, Icechunk, kerchunk."""

import pickle
import subprocess
import sys
import textwrap

import fsspec
import numpy as np
import pytest
import zarr

import windowloader as wl
from windowloader.errors import CorruptDataError, SourceFormatError, SourceNotFoundError
from windowloader.sources.chunked import list_arrays, open_chunked
from windowloader.sources.registry import open_source
from windowloader.testing import check_source

VALUES = np.random.default_rng(5).normal(size=(40, 6)).astype("f4")


def check(source, expected=VALUES):
    out = np.zeros((33, 2 * expected.shape[1]), expected.dtype)[:, ::2]
    source.submit(5, 38, out).result(timeout=60)
    np.testing.assert_array_equal(out, expected[5:38])
    assert (source.storage().edges[0], source.storage().edges[-1]) == (0, len(expected))
    assert source.storage().cost([0], [40]).requests[0] == len(source.storage().edges) - 1


@pytest.mark.parametrize("form", [2, 3])
def test_stores_arrays_and_groups(form):
    store = zarr.storage.MemoryStore()
    group = zarr.create_group(store, zarr_format=form)
    array = group.create_array("inner/speed", data=VALUES, chunks=(7, 6))
    for target, variable in (
        (store, None),
        (store, "inner/speed"),
        (group, None),
        (group["inner"], None),
        (array, None),
    ):
        assert open_source(target, variable=variable).shape == VALUES.shape
        check(open_chunked(target, variable=variable))
    with pytest.raises(SourceNotFoundError, match=r"no array 'flow'"):
        open_chunked(store, variable="flow")
    group.create_array("flow", data=VALUES)
    with pytest.raises(SourceFormatError, match=r"2 arrays.*flow.*inner/speed.*variable="):
        open_chunked(store)


def test_time_last_is_brought_to_the_front():
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, data=VALUES.T.copy(), chunks=(6, 9))
    check(open_chunked(store, axes="nt"))


def test_a_scheme_that_tensorstore_lacks():
    system = fsspec.filesystem("memory")
    root = zarr.open_group("memory://fallback/a.zarr", mode="w")
    root.create_array("speed", data=VALUES, chunks=(7, 6))
    source = open_chunked("memory://fallback/a.zarr")
    check(source)
    check_source(open_chunked("memory://fallback/a.zarr"), VALUES)
    assert list_arrays("memory://fallback/a.zarr") == ("speed",)
    check(pickle.loads(pickle.dumps(source)))
    with pytest.raises(SourceNotFoundError, match=r"no Zarr metadata"):
        open_chunked("memory://fallback/b.zarr")
    system.rm("/fallback", recursive=True)


def test_a_missing_chunk():
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, data=VALUES, chunks=(10, 6))
    del store._store_dict["c/2/0"]
    with pytest.raises(CorruptDataError, match=r"'c/2/0' is missing.*fill_missing=True"):
        open_chunked(store).read(0, 40, np.empty_like(VALUES))
    out = np.empty_like(VALUES)
    open_chunked(store, fill_missing=True).read(0, 40, out)
    assert (out[20:30] == 0).all()


def test_icechunk():
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    zarr.create_array(session.store, name="speed", data=VALUES, chunks=(7, 6))
    session.commit("first")
    source = open_chunked(repository.readonly_session("main").store)
    check(source)
    session = repository.writable_session("main")
    zarr.open_array(session.store, path="speed", mode="r+")[:] = VALUES + 1
    session.commit("second")
    changed = open_chunked(repository.readonly_session("main").store)
    assert changed.fingerprint() != source.fingerprint()


def test_kerchunk_references(tmp_path):
    kerchunk = pytest.importorskip("kerchunk.hdf")
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(10, 6), compression="gzip")
    references = kerchunk.SingleHdf5ToZarr(str(tmp_path / "x.h5"), inline_threshold=0).translate()
    system = fsspec.filesystem("reference", fo=references, remote_protocol="file", asynchronous=True,
                               remote_options={"asynchronous": True})  # fmt: skip
    check(open_chunked(zarr.storage.FsspecStore(system, read_only=True, path=""), variable="speed"))


def test_a_single_array_finds_what_labels_it_in_a_folder_without_metadata(tmp_path):
    options = {"dimension_names": ["time", "node"]}
    zarr.create_array(tmp_path / "speed", data=VALUES, **options)
    zarr.create_array(tmp_path / "node", data=np.array([4, 2, 9, 7, 1, 3]), dimension_names=["node"])
    source = open_chunked(tmp_path / "speed")
    for one in (source, pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(one.labels(1), [4, 2, 9, 7, 1, 3])
        assert one.timestamps() is None
    check(source)
    with pytest.raises(SourceNotFoundError, match=r"no array 'flow': it is a single array.*features="):
        open_chunked(tmp_path / "speed", variable="flow")


def test_zarr_python_reads_what_tensorstore_refuses_and_only_what_is_asked(tmp_path):
    lz4 = pytest.importorskip("numcodecs").LZ4()
    zarr.create_array(tmp_path / "a.zarr", data=VALUES, chunks=(7, 2), zarr_format=2, compressors=lz4)
    np.testing.assert_array_equal(rows_of(open_chunked(tmp_path / "a.zarr")), VALUES)
    source, box = open_chunked(tmp_path / "a.zarr"), (np.array([1, 5]),)
    (tmp_path / "a.zarr" / "0.1").unlink()  # of nodes that were not asked for
    rows = np.empty((9, 2), "f4")
    source.read(4, 13, rows, box)
    np.testing.assert_array_equal(rows, VALUES[4:13][:, [1, 5]])
    (tmp_path / "a.zarr" / "1.2").unlink()
    with pytest.raises(CorruptDataError, match=r"a.zarr.*'1.2' is missing"):
        source.read(4, 13, rows, box)


@pytest.mark.parametrize(("url", "form"), [("memory://fallback/b.zarr", 2), ("zip://::{folder}/b.zip", 3)])
def test_urls_that_fsspec_reads(tmp_path, url, form):
    target = url.format(folder=tmp_path)
    if url.startswith("zip"):
        with zarr.storage.ZipStore(tmp_path / "b.zip", mode="w") as store:
            zarr.create_array(store, name="speed", data=VALUES, zarr_format=form)
    else:
        zarr.create_array(target, name="speed", data=VALUES, zarr_format=form)
    np.testing.assert_array_equal(rows_of(open_chunked(target, variable="speed")), VALUES)
    assert list_arrays(target) == ("speed",)


def rows_of(source):
    out = np.empty(source.shape, source.dtype)
    source.read(0, source.shape[0], out)
    return out


FORK = """
    import os
    import numpy as np, zarr
    from windowloader.sources.chunked import open_chunked
    store = zarr.storage.MemoryStore()
    values = np.arange(120.0).reshape(40, 3)
    zarr.create_array(store, name="speed", data=values, chunks=(4, 3))
    source = open_chunked(store, variable="speed")
    def check():
        out = np.empty_like(values)
        source.read(0, 40, out)
        assert (out == values).all()
    check()
    pid = os.fork()
    if pid == 0:
        check()
        assert (np.asarray(open_chunked(store, variable="speed").shape) == (40, 3)).all()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    check()
"""


def test_a_store_is_read_in_a_forked_process():
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORK)], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("form", [2, 3])
def test_a_single_array_has_the_axes_that_its_dimensions_are_named_after(tmp_path, form):
    grid = np.zeros((6, 2, 3))
    store = zarr.storage.MemoryStore()
    for target in (tmp_path / "a.zarr", store):
        named = {"dimension_names": ["time", "lat", "lon"]} if form == 3 else {}
        array = zarr.create_array(target, data=grid, zarr_format=form, **named)
        if form == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = ["time", "lat", "lon"]
        source = open_chunked(target)
        assert (source.axes, source.dims) == ("tnn", ("time", "lat", "lon"))


def test_an_array_in_hand_is_called_as_variables_say():
    array = zarr.create_array(zarr.storage.MemoryStore(), data=VALUES)
    assert wl.open(array, variables=["speed"]).features == ("speed",)
