"""Chunks that unpack to more than their shape stop at their size: by byte ranges over HTTP, and by zarr-python."""

import bz2
import functools
import gzip
import json
import lzma
import os
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import zarr
from numcodecs import LZ4, Blosc, Zstd

import windowloader as wl
from windowloader.errors import CorruptDataError

ROWS, NODES = 40, 6
VALUES = np.random.default_rng(8).normal(size=(ROWS, NODES)).astype("<f4")
SIZE = 1 << 28

# In a process of its own, whose address space may grow by half of what a chunk unpacks to.
CHILD = """
import resource, sys
import numpy as np, h5py, zarr, fsspec, tensorstore
import windowloader as wl

def load(target):
    series = wl.open(target if "://" in target else zarr.storage.LocalStore(target, read_only=True))
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=2))
    with wl.WindowLoader(windows, batch_size=8, memory="32MiB") as loader:
        return [batch.inputs.copy() for batch in loader]

load(sys.argv[1])  # a sound one first: what is imported and compiled is no chunk's
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {limit}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    load(sys.argv[2])
except wl.WindowLoaderError as error:
    print(type(error).__name__, error)
""".replace("{limit}", str(SIZE // 2))


def opened(sound, target):
    """Return what the child process says of a damaged target, after it read a sound one."""
    environment = {"MALLOC_ARENA_MAX": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, sound, target],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout


@functools.cache
def stream(kind, size=SIZE):
    """Zeros as a codec packs them, made piece by piece."""
    if kind in ("zstd", "blosc", "lz4"):
        whole = np.zeros(size, "u1")
        return bytes({"zstd": Zstd(1), "blosc": Blosc("zstd"), "lz4": LZ4()}[kind].encode(whole))
    made = {"zlib": zlib.compressobj(9), "gzip": zlib.compressobj(9, wbits=31), "bz2": bz2.BZ2Compressor(1)}
    made |= {"lzma": lzma.LZMACompressor(preset=0)}
    piece = bytes(1 << 24)
    return b"".join(made[kind].compress(piece) for _ in range(size >> 24)) + made[kind].flush()


def store(kind, chunk, form):
    """Keys of a store of one chunk."""
    v3 = {"gzip": {"level": 1}, "zstd": {"level": 1, "checksum": False}}
    v3 |= {"blosc": {"cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "typesize": 4, "blocksize": 0}}
    if form == 3:
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": kind, "configuration": v3[kind]},
        ]
        document = {"zarr_format": 3, "node_type": "array", "shape": [ROWS, NODES], "data_type": "float32",
                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [ROWS, NODES]}},
                    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                    "fill_value": 0.0, "codecs": codecs, "attributes": {}}  # fmt: skip
        return {"zarr.json": json.dumps(document).encode(), "c/0/0": chunk}
    options = {
        "zstd": {"level": 1},
        "blosc": {"cname": "zstd", "clevel": 5, "shuffle": 0},
        "lz4": {"acceleration": 1},
    }
    options |= {"lzma": {"format": 1, "check": -1, "preset": None, "filters": None}}
    compressor = {"id": kind, **options.get(kind, {"level": 1})}
    document = {"zarr_format": 2, "shape": [ROWS, NODES], "chunks": [ROWS, NODES], "dtype": "<f4", "order": "C",
                "compressor": compressor, "fill_value": None, "filters": None}  # fmt: skip
    return {".zarray": json.dumps(document).encode(), "0.0": chunk}


def packed(kind, data):
    """Sound bytes as a codec packs them."""
    how = {"zlib": zlib.compress, "gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress}
    how |= {"zstd": Zstd(1).encode, "blosc": Blosc("zstd", shuffle=0).encode, "lz4": LZ4().encode}
    return bytes(how[kind](data))


def written(folder, keys):
    """Write the keys of a store."""
    for key, value in keys.items():
        place = folder / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(value)
    return str(folder)


def by_zarr(folder):
    """Open a store by zarr-python."""
    return wl.open(zarr.storage.LocalStore(folder, read_only=True))


KINDS = [("zlib", 2), ("gzip", 2), ("bz2", 2), ("lzma", 2), ("zstd", 2), ("blosc", 2), ("lz4", 2), ("gzip", 3),
         ("zstd", 3), ("blosc", 3)]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "form"), [*KINDS[:1], *(pytest.param(*one, marks=pytest.mark.campaign) for one in KINDS[1:])]
)
def test_zarr_python_stops_at_a_chunks_size(tmp_path, kind, form):
    sound = written(tmp_path / "sound", store(kind, packed(kind, VALUES.tobytes()), form))
    said = opened(sound, written(tmp_path / "bomb", store(kind, stream(kind), form)))
    assert said.startswith("CorruptDataError")
    assert "decompresses to" in said or "too small" in said


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_sound_chunks_are_read_as_before(tmp_path, kind, form):
    series = by_zarr(written(tmp_path / "a", store(kind, packed(kind, VALUES.tobytes()), form)))
    np.testing.assert_array_equal(
        wl.WindowSet(series, wl.WindowSpec(lookback=40, horizon=0)).read(0).inputs[0, ..., 0], VALUES
    )
    series.variables[0].source.close()
    for broken in (
        packed(kind, VALUES.tobytes())[:-20],
        packed(kind, VALUES.tobytes() + bytes(4)),
        packed(kind, b""),
    ):
        series = by_zarr(written(tmp_path / "b", store(kind, broken, form)))
        with pytest.raises(CorruptDataError):
            wl.WindowSet(series, wl.WindowSpec(lookback=40, horizon=0)).read(0)
        series.variables[0].source.close()


@pytest.fixture
def hdf5(bucket_folder):
    """Write an HDF5 file whose first chunk is replaced by other compressed bytes."""

    def write(name, chunk=None, **how):
        with h5py.File(bucket_folder / "bkt" / name, "w") as file:
            array = file.create_dataset(
                "speed", (ROWS, NODES), "f4", chunks=(20, NODES), compression="gzip", **how
            )
            array[...] = VALUES
            if chunk is not None:
                array.id.write_direct_chunk((0, 0), chunk)

    return write


@pytest.mark.parametrize(
    "how", [{"shuffle": True}, pytest.param({"fletcher32": True}, marks=pytest.mark.campaign)]
)
def test_hdf5_over_http_stops_at_a_chunks_size(static, hdf5, how):
    """3 MB became 6 GB."""
    hdf5("sound.h5", **how)
    hdf5("bomb.h5", stream("zlib"), **how)
    said = opened(f"{static.url}/bkt/sound.h5", f"{static.url}/bkt/bomb.h5")
    assert said.startswith("CorruptDataError")
    assert "stored bytes are not what was written" in said


@pytest.mark.campaign
@pytest.mark.parametrize(("kind", "form"), [("zlib", 2), ("gzip", 3), ("zstd", 3)])
def test_tensorstore_stops_at_a_chunks_size(static, bucket_folder, kind, form):
    for name, chunk in (("sound", packed(kind, VALUES.tobytes())), ("bomb", stream(kind))):
        written(bucket_folder / "bkt" / f"{name}-{kind}{form}.zarr", store(kind, chunk, form))
    base = f"{static.url}/bkt"
    said = opened(f"{base}/sound-{kind}{form}.zarr", f"{base}/bomb-{kind}{form}.zarr")
    assert said.startswith("CorruptDataError"), said


@pytest.mark.campaign
def test_an_archive_stops_at_what_its_header_says(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (ROWS, NODES)}
        )
        for _ in range(SIZE >> 24):
            file.write(bytes(1 << 24))
    np.savez(tmp_path / "sound.npz", VALUES)
    said = opened((tmp_path / "sound.npz").as_uri(), (tmp_path / "bomb.npz").as_uri())
    assert said == ""  # only the array that the header describes is read


def test_zarr_shards_are_bounded_too(tmp_path):
    shards = {"chunks": (5, NODES), "shards": (20, NODES), "compressors": zarr.codecs.GzipCodec()}
    memory = zarr.storage.MemoryStore()
    zarr.create_array(memory, data=VALUES, **shards)
    series = wl.open(memory)
    np.testing.assert_array_equal(
        wl.WindowSet(series, wl.WindowSpec(lookback=40, horizon=0)).read(0).inputs[0, ..., 0], VALUES
    )
