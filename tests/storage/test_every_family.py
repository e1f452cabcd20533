"""Every family that `wl.open` takes is loaded from: values, plan, stats, resume, selection of nodes, cache on disk."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import windowloader as wl
from windowloader.sources import digest
from windowloader.sources.disk_cache import DiskCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS, NODES = 150, 6
TIMES = pd.date_range("2012-03-01", periods=ROWS, freq="5min", name="time")
NAMES = [f"s{i}" for i in range(NODES)]
VALUES = (np.random.default_rng(8).integers(-4000, 4000, (ROWS, NODES)) / 4).astype("f4")  # exact as text too
OTHERS = VALUES[::-1].copy() * 3
SPEC = {"lookback": 4, "horizon": 2}
SPAN = 6
FRAME = pd.DataFrame(VALUES, TIMES, NAMES)


@dataclass
class Target:
    """What is opened, how, and what must come out."""

    what: Any
    options: dict[str, Any] = field(default_factory=dict)
    features: tuple[np.ndarray, ...] = (VALUES,)  # a [row, node] array each, or [row] for a clock's kind
    inputs: tuple[str, ...] | None = None
    tier: str | None = None


@dataclass
class Place:
    """Where a family puts its files."""

    folder: Path
    bucket: Path
    url: str
    write_array: Callable[..., None]

    def s3(self, name: str, values: np.ndarray = VALUES, **grid: Any) -> tuple[str, dict[str, Any]]:
        self.write_array({"driver": "file", "path": f"{self.bucket}/bkt/{name}/"}, values, **grid)
        return f"s3://bkt/{name}", {"storage_options": {"endpoint_url": self.url, "anon": True}}


@pytest.fixture
def place(tmp_path, bucket_folder, static, write_array):
    (tmp_path / "files").mkdir()
    yield Place(tmp_path / "files", bucket_folder, static.url, write_array)
    fsspec.filesystem("memory").store.clear()


def array(place):
    return Target(VALUES, tier="memory")


def transposed_array(place):
    return Target(np.asfortranarray(VALUES.T), {"axes": "nt"}, tier="memory")


def big_endian_array(place):
    return Target(VALUES.astype(">f4"), tier="memory")


def tensor(place):
    return Target(pytest.importorskip("torch").from_numpy(VALUES.copy()), tier="memory")


def memmap(place):
    return Target(np.load(npy(place).what, mmap_mode="r"), tier="mapped")


def list_of_arrays(place):
    return Target([VALUES[:40], VALUES[40:41], VALUES[41:]], tier="memory")


def mapping_of_arrays(place):
    return Target({"speed": VALUES, "flow": OTHERS}, features=(VALUES, OTHERS), tier="memory")


def list_of_mappings(place):
    parts = [{"speed": VALUES[cut], "flow": OTHERS[cut]} for cut in (slice(0, 70), slice(70, None))]
    return Target(parts, features=(VALUES, OTHERS), tier="memory")


def npy(place):
    np.save(place.folder / "a.npy", VALUES)
    return Target(place.folder / "a.npy", tier="mapped")


def npy_fortran(place):
    np.save(place.folder / "a.npy", np.asfortranarray(VALUES))
    return Target(place.folder / "a.npy", tier="mapped")


def npy_big_endian(place):
    np.save(place.folder / "a.npy", VALUES.astype(">f4"))
    return Target(place.folder / "a.npy", tier="mapped")


def npy_transposed(place):
    np.save(place.folder / "a.npy", VALUES.T.copy())
    return Target(place.folder / "a.npy", {"axes": "nt"}, tier="mapped")


def npy_files(place):
    for number, rows in enumerate(np.array_split(VALUES, 3)):
        np.save(place.folder / f"{number}.npy", rows)
    return Target(str(place.folder / "*.npy"), tier="mapped")


def npy_by_url(place):
    np.save(place.bucket / "bkt" / "family.npy", VALUES)
    return Target(f"{place.url}/bkt/family.npy", tier="streamed")


def npy_in_s3(place):
    np.save(place.bucket / "bkt" / "family.npy", VALUES)
    options = {"storage_options": {"endpoint_url": place.url, "anon": True}}
    return Target("s3://bkt/family.npy", options, tier="streamed")


def raw(place):
    VALUES.tofile(place.folder / "a.bin")
    return Target(place.folder / "a.bin", {"shape": (-1, NODES), "dtype": "f4"}, tier="mapped")


def raw_by_url(place):
    VALUES.tofile(place.bucket / "bkt" / "family.bin")
    return Target(f"{place.url}/bkt/family.bin", {"shape": (ROWS, NODES), "dtype": "f4"}, tier="streamed")


def npz(place):
    np.savez_compressed(place.folder / "a.npz", speed=VALUES, flow=OTHERS)
    options = {"variables": ["speed", "flow"]}
    return Target(place.folder / "a.npz", options, features=(VALUES, OTHERS), tier="memory")


def npz_by_url(place):
    np.savez(place.bucket / "bkt" / "family.npz", speed=VALUES)
    return Target(f"{place.url}/bkt/family.npz")


def hdf5(place, **options):
    with h5py.File(place.folder / "a.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, **options)
    return Target(place.folder / "a.h5", tier="streamed" if options else "mapped")


def hdf5_contiguous(place):
    return hdf5(place)


def hdf5_chunked(place):
    return hdf5(place, chunks=(7, 4), compression="gzip")


def hdf5_files(place):
    for number, rows in enumerate(np.array_split(VALUES, 3)):
        with h5py.File(place.folder / f"{number}.h5", "w") as file:
            file.create_dataset("speed", data=rows, chunks=(7, 4))
    return Target(str(place.folder / "*.h5"), tier="streamed")


def hdf5_by_url(place):
    with h5py.File(place.bucket / "bkt" / "family.h5", "w") as file:
        file.create_dataset("speed", data=VALUES, chunks=(7, 4), compression="gzip")
    return Target(f"{place.url}/bkt/family.h5", tier="streamed")


def frame_group(file, name):
    """Write a frame of pandas' fixed format in one block, as ``to_hdf`` does."""
    group = file.create_group(name)
    group.attrs["pandas_type"] = "frame"
    group.attrs["nblocks"] = 1
    group["axis0"] = np.array(NAMES, "S")
    group["axis1"] = TIMES.to_numpy().astype("datetime64[ns]").view("int64")
    group["axis1"].attrs["kind"] = "datetime64"
    group.create_dataset("block0_values", data=VALUES)
    group["block0_items"] = np.array(NAMES, "S")


def pandas_hdf5(place):
    with h5py.File(place.folder / "a.h5", "w") as file:
        frame_group(file, "df")
    return Target(place.folder / "a.h5", tier="mapped")


def pandas_hdf5_blocks(place):
    pytest.importorskip("tables")
    FRAME.astype(dict.fromkeys(NAMES[1::2], "f8")).to_hdf(place.folder / "a.h5", key="df")
    return Target(place.folder / "a.h5", tier="memory")


def h5py_dataset(place):
    with h5py.File(hdf5_chunked(place).what) as file:
        return Target(file["speed"])


def csv(place):
    FRAME.to_csv(place.folder / "a.csv")
    return Target(place.folder / "a.csv", tier="memory")


def csv_files(place):
    for number, rows in enumerate(np.array_split(np.arange(ROWS), 3)):
        FRAME.iloc[rows].to_csv(place.folder / f"{number}.csv")
    return Target(str(place.folder / "*.csv"))


def csv_by_url(place):
    FRAME.to_csv(place.bucket / "bkt" / "family.csv")
    return Target(f"{place.url}/bkt/family.csv")


def parquet(place):
    FRAME.to_parquet(place.folder / "a.parquet")
    return Target(place.folder / "a.parquet")


def long_table(place, suffix):
    """One row a reading; the entities lie end to end."""
    halves = [FRAME.iloc[:80], FRAME.iloc[: ROWS - 80]]
    rows = pd.concat([half.reset_index().assign(house=name) for half, name in zip(halves, "ab", strict=True)])
    path = place.folder / f"a.{suffix}"
    (rows.to_csv if suffix == "csv" else rows.to_parquet)(path, index=False)
    options = {"entity": "house", "time": "time"}
    values = np.concatenate([VALUES[:80], VALUES[: ROWS - 80]])
    return Target(path, options, features=tuple(values[:, [node]] for node in range(NODES)), tier="memory")


def long_csv(place):
    return long_table(place, "csv")


def long_parquet(place):
    return long_table(place, "parquet")


def netcdf3(place):
    dataset().to_netcdf(place.folder / "a.nc", engine="scipy", format="NETCDF3_64BIT")
    return Target(place.folder / "a.nc")


def netcdf4(place):
    dataset().to_netcdf(place.folder / "a.nc", engine="h5netcdf", encoding={"speed": {"_FillValue": None}})
    return Target(place.folder / "a.nc", tier="mapped")


def netcdf4_packed(place):
    packed = {
        "dtype": "i2",
        "scale_factor": 0.25,
        "add_offset": 3.0,
        "chunksizes": (9, 4),
        "_FillValue": -32768,
    }
    dataset().to_netcdf(place.folder / "a.nc", engine="h5netcdf", encoding={"speed": packed})
    return Target(place.folder / "a.nc", tier="streamed")


def netcdf4_by_url(place):
    dataset().to_netcdf(
        place.bucket / "bkt" / "family.nc", engine="h5netcdf", encoding={"speed": {"chunksizes": (9, 4)}}
    )
    return Target(f"{place.url}/bkt/family.nc", tier="streamed")


def dataset(values=VALUES, **more):
    return xr.Dataset({"speed": (("time", "node"), values), **more}, {"time": TIMES, "node": NAMES})


def xarray_in_memory(place):
    return Target(dataset()["speed"], tier="memory")


def xarray_variables(place):
    made = dataset(flow=(("time", "node"), OTHERS))
    return Target(made, {"variables": ["speed", "flow"]}, features=(VALUES, OTHERS), tier="memory")


def xarray_lazy(place):
    dataset().to_netcdf(place.folder / "a.nc", engine="h5netcdf", encoding={"speed": {"chunksizes": (9, 4)}})
    return Target(xr.open_dataset(place.folder / "a.nc", engine="h5netcdf"))


def xarray_dask(place):
    pytest.importorskip("dask")
    return Target(dataset()["speed"].chunk({"time": 40, "node": 4}))


def pandas_frame(place):
    return Target(FRAME, tier="memory")


def polars_frame(place):
    polars = pytest.importorskip("polars")
    return Target(polars.DataFrame({name: VALUES[:, at] for at, name in enumerate(NAMES)}))


def local_store(place, form="zarr3", **grid):
    place.write_array({"driver": "file", "path": f"{place.folder}/a.zarr/"}, VALUES, form=form, **grid)
    return Target(place.folder / "a.zarr", tier="streamed")


def zarr2(place):
    return local_store(place, "zarr", chunks=(11, 4))


def zarr3(place):
    return local_store(place, chunks=(13, NODES))


def zarr_rows(place):
    return local_store(place, chunks=(1, NODES))


def shards(place):
    return local_store(place, chunks=(10, 3), shards=(60, 6))


def zarr_files(place):
    for number, rows in enumerate(np.array_split(VALUES, 3)):
        place.write_array({"driver": "file", "path": f"{place.folder}/{number}.zarr/"}, rows, chunks=(11, 4))
    return Target(str(place.folder / "*.zarr"), tier="streamed")


def tensorstore(place):
    import tensorstore as ts

    path = f"{zarr3(place).what}/"
    return Target(ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}).result())


def zarr_in_s3(place):
    return Target(*place.s3("family.zarr", chunks=(13, 4)), tier="streamed")


def shards_in_s3(place):
    return Target(*place.s3("family-shards.zarr", chunks=(10, 3), shards=(60, 6)), tier="streamed")


def zarr_by_url(place):
    place.s3("family-url.zarr", chunks=(13, 4))
    return Target(f"{place.url}/bkt/family-url.zarr", tier="streamed")


def zarr_lz4(place):
    lz4 = pytest.importorskip("numcodecs").LZ4()  # which TensorStore does not have
    zarr.create_array(place.folder / "a.zarr", data=VALUES, chunks=(13, 4), zarr_format=2, compressors=lz4)
    return Target(place.folder / "a.zarr", tier="streamed")


def zarr_delta_in_s3(place):
    delta = [pytest.importorskip("numcodecs").Delta("f4")]
    folder = place.bucket / "bkt" / "family-delta.zarr"
    zarr.create_array(folder, data=VALUES, chunks=(13, 4), zarr_format=2, filters=delta, overwrite=True)
    options = {"storage_options": {"endpoint_url": place.url, "anon": True}}
    return Target("s3://bkt/family-delta.zarr", options, tier="streamed")


def filled(store, form=3):
    group = zarr.create_group(store, zarr_format=form)
    group.create_array("speed", data=VALUES, chunks=(25, 4))
    group.create_array("flow", data=OTHERS, chunks=(40, NODES))
    return group


def memory_store(place):
    store = zarr.storage.MemoryStore()
    filled(store, 2)
    return Target(store, {"variables": ["speed"]}, tier="streamed")


def memory_url(place):
    filled("memory://families/a.zarr")
    return Target("memory://families/a.zarr", {"variables": ["speed"]}, tier="streamed")


def zip_store(place):
    with zarr.storage.ZipStore(place.folder / "a.zip", mode="w") as store:
        zarr.create_array(store, data=VALUES, chunks=(25, 4))
    return Target(zarr.storage.ZipStore(place.folder / "a.zip", mode="r"), tier="streamed")


def zarr_object(place):
    return Target(filled(zarr.storage.MemoryStore())["speed"], tier="streamed")


def zarr_group(place):
    group = filled(zarr.storage.MemoryStore())
    return Target(group, {"variables": ["speed", "flow"]}, features=(VALUES, OTHERS), tier="streamed")


def zarr_shards_object(place):
    store = zarr.storage.MemoryStore()
    return Target(zarr.create_array(store, data=VALUES, chunks=(10, 3), shards=(60, 6)), tier="streamed")


def zarr_objects(place):
    cuts = np.array_split(VALUES, 3)
    parts = [zarr.create_array(zarr.storage.MemoryStore(), data=rows, chunks=(11, 4)) for rows in cuts]
    return Target(parts, tier="streamed")


def zarr_transposed(place):
    stored = zarr.create_array(zarr.storage.MemoryStore(), data=VALUES.T.copy(), chunks=(4, 25))
    return Target(stored, {"axes": "nt"}, tier="streamed")


def icechunk(place):
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    zarr.create_array(session.store, name="speed", data=VALUES, chunks=(25, 4))
    session.commit("first")
    return Target(repository.readonly_session("main").store, {"variables": ["speed"]}, tier="streamed")


def kerchunk(place):
    kerchunk = pytest.importorskip("kerchunk.hdf")
    path = str(hdf5_chunked(place).what)
    references = kerchunk.SingleHdf5ToZarr(path, inline_threshold=0).translate()
    system = fsspec.filesystem(
        "reference", fo=references, remote_protocol="file", asynchronous=True,
        remote_options={"asynchronous": True},
    )  # fmt: skip
    store = zarr.storage.FsspecStore(system, read_only=True, path="")
    return Target(store, {"variables": ["speed"]}, tier="streamed")


class Readings(wl.Source):
    """A user's own: an SQLite table, derived from the base."""

    def __init__(self, path, **described):
        self.path = path
        super().__init__(str(path), shape=(ROWS, NODES), dtype="f4", axes="tn", **described)

    def read(self, start, stop, out):
        with sqlite3.connect(self.path) as base:
            rows = base.execute("select * from r where rowid > ? and rowid <= ?", (start, stop)).fetchall()
        base.close()
        out[...] = rows
        return self.bytes_of(start, stop)

    def fingerprint(self):
        return digest(self.path.stat().st_mtime_ns)


def readings(place):
    with sqlite3.connect(place.folder / "r.db") as base:
        base.execute(f"create table r ({', '.join(NAMES)})")
        base.executemany(f"insert into r values ({', '.join('?' * NODES)})", VALUES.tolist())
    base.close()
    return place.folder / "r.db"


def users_own(place):
    return Target(Readings(readings(place)), tier="streamed")


def users_own_chunked(place):
    return Target(Readings(readings(place), chunks=(30, NODES)), tier="streamed")


class Bare(wl.Source):
    """A user's own that gives nothing but its rows."""

    def __init__(self):
        super().__init__("bare", shape=(ROWS, NODES), dtype="f4", chunks=(30, NODES))

    def read(self, start, stop, out):
        out[...] = VALUES[start:stop]
        return self.bytes_of(start, stop)


def users_bare(place):
    return Target(Bare(), tier="streamed")


def variables_of_all_kinds(place):
    what = {
        "speed": zarr3(place).what,
        "flow": filled(zarr.storage.MemoryStore())["flow"],
        "count": npy(place).what,
        "own": Bare(),
    }
    return Target(what, features=(VALUES, OTHERS, VALUES, VALUES), tier="streamed")


def covariates(place):
    store = zarr.create_array(zarr.storage.MemoryStore(), data=OTHERS[:, :2].copy(), chunks=(40, 2))
    height = zarr.create_array(zarr.storage.MemoryStore(), data=VALUES[0].copy(), chunks=(4,))
    given = {"weather": (store, "tf"), "height": (height, "n"), "more": (npy(place).what, "tn")}
    features = (
        VALUES,
        *(np.repeat(OTHERS[:, [at]], NODES, 1) for at in range(2)),
        np.repeat(VALUES[:1], ROWS, 0),
        VALUES,
    )
    inputs = ("value", "weather", "height", "more")
    return Target(zarr3(place).what, {"covariates": given}, features, inputs=inputs, tier="streamed")


FAMILIES = [
    array, transposed_array, big_endian_array, tensor, memmap, list_of_arrays, mapping_of_arrays, list_of_mappings,
    npy, npy_fortran, npy_big_endian, npy_transposed, npy_files, npy_by_url, npy_in_s3, raw, raw_by_url, npz,
    npz_by_url, hdf5_contiguous, hdf5_chunked, hdf5_files, hdf5_by_url, pandas_hdf5, pandas_hdf5_blocks, csv,
    csv_files, csv_by_url, parquet, long_csv, long_parquet, netcdf3, netcdf4, netcdf4_packed, netcdf4_by_url,
    xarray_in_memory, xarray_variables, xarray_lazy, xarray_dask, pandas_frame, polars_frame, zarr2, zarr3, zarr_rows,
    shards, zarr_files, tensorstore, zarr_in_s3, shards_in_s3, zarr_by_url, zarr_lz4, zarr_delta_in_s3,
    memory_store, memory_url, zip_store,
    zarr_object, zarr_group, zarr_shards_object, zarr_objects, zarr_transposed, icechunk, kerchunk, users_own,
    users_own_chunked, users_bare, variables_of_all_kinds, covariates,
]  # fmt: skip


def loader_of(series, target, shuffle, **options):
    spec = wl.WindowSpec(**SPEC, inputs=target.inputs)
    return wl.WindowLoader(
        wl.WindowSet(series, spec), batch_size=16, shuffle=shuffle, seed=3, dtype="float64", **options
    )


def held(batch, truth):
    """Hold a batch to NumPy; return its starts."""
    rows = batch.starts[:, None] + np.arange(SPAN)
    for found, expected in ((batch.inputs, truth[rows[:, :4]]), (batch.targets, truth[rows[:, 4:]])):
        expected = expected[..., : found.shape[-1]]  # covariates are no targets
        np.testing.assert_array_equal(found, expected.reshape(found.shape))  # a table has no axis of nodes
    return batch.starts.tolist()


def epoch(loader, truth):
    return [held(batch, truth) for batch in loader]


def load(series, target, truth, shuffle):
    """Two epochs beside plan and stats; then one that is broken off and resumed by another loader."""
    with loader_of(series, target, shuffle) as loader:
        plan = loader.plan()
        epochs = [epoch(loader, truth), epoch(loader, truth)]
        agrees(loader, plan)
    everything = sorted(start for starts in epochs[0] for start in starts)
    assert everything == sorted(start for starts in epochs[1] for start in starts)
    assert len(everything) == len(loader.windows) == len(set(everything))
    assert shuffle == (epochs[0] != epochs[1])
    with loader_of(series, target, shuffle) as loader:
        taken = [held(batch, truth) for _, batch in zip(range(3), loader, strict=False)]
        state = loader.state_dict()
    assert taken == epochs[0][:3]
    with loader_of(series, target, shuffle) as loader:
        loader.load_state_dict(state)
        plan = loader.plan(state=state)
        assert epoch(loader, truth) == epochs[0][plan.step :]
        agrees(loader, plan)


def agrees(loader, plan):
    """Hold the first epoch's stats to its plan."""
    assert f"{plan.steps}" in str(plan)
    first = loader.stats().epochs[0]
    assert (first.batches, first.windows) == (plan.steps, plan.windows)
    read = (plan.own.bytes, plan.own.requests) if plan.mode != "resident" else (0, 0)
    assert (first.read_bytes, first.read_requests) == read


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_family_is_loaded_from(family, place):
    target = family(place)
    series = wl.open(target.what, **target.options)
    assert target.tier in (None, series.tier)
    truth = np.stack(target.features, -1).astype(np.float64)
    for shuffle in (False, True):
        load(series, target, truth, shuffle)
    nodes = [4, 1] if series.space_shape else [0]
    part = series.select(time=slice(3, 110), nodes=nodes if series.space_shape else None)
    load(part, target, truth[3:110, nodes], shuffle=True)
    for one in (*series.variables, *part.variables):
        one.source.close()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_folder_for_the_cache_keeps_what_is_streamed_or_says_that_it_does_not(family, place, tmp_path):
    target = family(place)
    opened = wl.open(target.what, **target.options).variables
    tiers = [one.source.tier for one in opened if one.has_time]
    named = isinstance(target.what, (str, os.PathLike))
    in_hand = ("streamed" in tiers and not named) or "covariates" in target.options
    with (
        pytest.warns(UserWarning, match="cache_dir=.* Give its path") if in_hand else contextlib.nullcontext()
    ):
        series = wl.open(target.what, cache_dir=tmp_path / "cache", **target.options)
    truth = np.stack(target.features, -1).astype(np.float64)
    for shuffle in (True, False):
        with loader_of(series, target, shuffle) as loader:
            for _ in range(2):
                epoch(loader, truth)
    for one in series.variables:
        one.source.close()
    if named and tiers == ["streamed"]:
        assert series.tier == "cached"
        kept = DiskCache(str(tmp_path / "cache")).arrays()
        assert sum(one.blocks_held for one in kept) == sum(one.blocks for one in kept) > 0
