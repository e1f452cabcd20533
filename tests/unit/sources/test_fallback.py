"""Stores that only zarr-python opens: memory, fsspec's schemes, Icechunk, kerchunk."""

import pickle
import subprocess
import sys

import fsspec
import numpy as np
import pytest
import zarr

from windowloader.errors import CorruptDataError, SourceFormatError, SourceNotFoundError
from windowloader.sources.chunked import list_arrays, open_chunked
from windowloader.sources.fallback import is_zarr, open_zarr
from windowloader.testing import check_source

VALUES = np.random.default_rng(5).normal(size=(40, 6)).astype("f4")


def check(source, expected=VALUES):
    out = np.zeros((33, 2 * expected.shape[1]), expected.dtype)[:, ::2]
    source.submit(5, 38, out).result(timeout=60)
    np.testing.assert_array_equal(out, expected[5:38])
    assert (source.storage().edges[0], source.storage().edges[-1]) == (0, len(expected))
    assert len(source.storage().requests(0, 40)) == len(source.storage().edges) - 1


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
        assert is_zarr(target)
        check(open_zarr(target, variable=variable))
    with pytest.raises(SourceNotFoundError, match=r"no array 'flow'"):
        open_zarr(store, variable="flow")
    group.create_array("flow", data=VALUES)
    with pytest.raises(SourceFormatError, match=r"2 arrays.*flow.*inner/speed.*variable="):
        open_zarr(store)


def test_time_last_is_brought_to_the_front():
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, data=VALUES.T.copy(), chunks=(6, 9))
    check(open_zarr(store, axes="nt"))


def test_a_scheme_that_tensorstore_lacks():
    system = fsspec.filesystem("memory")
    root = zarr.open_group("memory://fallback/a.zarr", mode="w")
    root.create_array("speed", data=VALUES, chunks=(7, 6))
    source = open_chunked("memory://fallback/a.zarr")
    check(source)
    check_source(open_chunked("memory://fallback/a.zarr"), VALUES)
    assert list_arrays("memory://fallback/a.zarr") == ("speed",)
    check(pickle.loads(pickle.dumps(source)))
    with pytest.raises(SourceNotFoundError, match=r"no Zarr or N5 metadata"):
        open_chunked("memory://fallback/b.zarr")
    system.rm("/fallback", recursive=True)


def test_a_missing_chunk():
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, data=VALUES, chunks=(10, 6))
    del store._store_dict["c/2/0"]
    with pytest.raises(CorruptDataError, match=r"'c/2/0' is missing.*fill_missing=True"):
        open_zarr(store).read(0, 40, np.empty_like(VALUES))
    out = np.empty_like(VALUES)
    open_zarr(store, fill_missing=True).read(0, 40, out)
    assert (out[20:30] == 0).all()


def test_icechunk():
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    zarr.create_array(session.store, name="speed", data=VALUES, chunks=(7, 6))
    session.commit("first")
    source = open_zarr(repository.readonly_session("main").store)
    check(source)
    session = repository.writable_session("main")
    zarr.open_array(session.store, path="speed", mode="r+")[:] = VALUES + 1
    session.commit("second")
    changed = open_zarr(repository.readonly_session("main").store)
    assert changed.fingerprint() != source.fingerprint()


def test_kerchunk_references(tmp_path):
    kerchunk = pytest.importorskip("kerchunk.hdf")
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(10, 6), compression="gzip")
    references = kerchunk.SingleHdf5ToZarr(str(tmp_path / "x.h5"), inline_threshold=0).translate()
    system = fsspec.filesystem("reference", fo=references, remote_protocol="file", asynchronous=True,
                               remote_options={"asynchronous": True})  # fmt: skip
    check(open_zarr(zarr.storage.FsspecStore(system, read_only=True, path=""), variable="speed"))


def test_the_fallback_knows_nothing_of_what_falls_back_to_it():
    code = "import sys, windowloader.sources.fallback; print('windowloader.sources.chunked' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
