"""Where converted arrays are written: objects below a path or a prefix of a bucket, or one ``.npy`` file.

In: `ArrayTarget` arrays and their values by rows. Out: the objects of a Zarr 3 store, or a file. What `write` returns
from is stored durably. Documents (``zarr.json``) are written by `show` alone, and without them readers find nothing.
Stores are values: each process opens its own.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import ConversionError, CorruptDataError
from windowloader.series.clock import Clock
from windowloader.sources.failures import Asked
from windowloader.sources.reads import Progress, wait
from windowloader.sources.remote_objects import open_store
from windowloader.util.calendars import Times, own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from windowloader.sources.options import Location

    from .targets import ArrayTarget

__all__ = ["DOCUMENT", "NpyStore", "Objects", "ZarrStore", "codecs_of", "show"]

DOCUMENT = "zarr.json"
SLOWEST = 128 << 10  # bytes a second, under which a transfer is taken to stall
LISTED = 600 * SLOWEST  # listing takes one request per thousand keys: as if so many bytes were asked for
UNITS = (("days", 86400 * 10**9), ("hours", 3600 * 10**9), ("minutes", 60 * 10**9), ("seconds", 10**9),
         ("milliseconds", 10**6), ("microseconds", 10**3), ("nanoseconds", 1))  # fmt: skip
STAMPS = 1 << 20  # timestamps made at once


@dataclass(frozen=True, slots=True)
class Objects:
    """Keys below a location.

    Parameters
    ----------
    location : Location
        A folder, or a prefix of a bucket; nothing outside it is touched.
    """

    location: Location

    @property
    def name(self) -> str:
        """The URL."""
        return self.location.url

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values, asked for at once; None where there is none.

        A bucket that may be read and not listed denies access to a key that does not exist: that is an error only
        where no key can be read.
        """
        store = open_store(self.location)
        futures = [store.read(key) for key in keys]
        values: list[bytes | None] = []
        refused: PermissionError | None = None
        for key, future in zip(keys, futures, strict=True):
            try:
                found = self._wait(future, key)
                values.append(bytes(found.value) if found.state == "value" else None)
            except PermissionError as error:
                values.append(None)
                refused = error
        if refused is not None and not any(values):
            raise refused
        return values

    def list(self) -> list[str]:
        """Return all keys, in order."""
        found = self._wait(open_store(self.location).list(), size=LISTED)
        return sorted(key.decode() for key in found)

    def put(self, values: Mapping[str, bytes]) -> None:
        """Write objects, at once; all are kept when this returns."""
        store = open_store(self.location)
        futures = [(key, store.write(key, value)) for key, value in values.items()]
        size = sum(map(len, values.values()))
        for key, future in futures:
            self._wait(future, key, size)

    def delete(self, *keys: str) -> None:
        """Delete objects."""
        store = open_store(self.location)
        for key, future in [(key, store.write(key, None)) for key in keys]:
            self._wait(future, key)

    def clear(self) -> None:
        """Delete all."""
        store = open_store(self.location)
        self._wait(store.delete_range(store.KeyRange()), size=LISTED)

    def copy(self, other: Objects, key: str) -> None:
        """Copy an object to another prefix by way of this machine."""
        value = self.get([key])[0]
        if value is None:
            raise ConversionError(f"{self.location.child(key).url!r} is gone, which was written before.")
        other.put({key: value})

    def _wait(self, future: Any, key: str = "", size: int = 0) -> Any:
        asked = Asked(self.location.child(key).url, doing="written" if key and size else "read")
        limit = self.location.timeout + size / SLOWEST
        return wait(future, asked, since=time.monotonic(), limit=limit, progress=Progress(), timeout=None)


@dataclass(frozen=True, slots=True)
class NpyStore:
    """One array in a ``.npy`` file.

    Parameters
    ----------
    path : Path
    """

    path: Path
    checked = False  # whether what `read` returns is known to be what was written

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def create(self, target: ArrayTarget) -> None:
        """Write the header, and reserve the space."""
        header = self._header(target)
        size = len(header) + target.shape[0] * target.row_bytes
        self.path.touch()
        with open(self.path, "r+b") as file:
            file.write(header)
            file.truncate(size)
            try:
                with contextlib.suppress(AttributeError):  # of another system
                    os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise ConversionError(
                    f"{self.name!r} takes {size:,} bytes, which cannot be reserved: {error.strerror}. Choose another "
                    "place, or a smaller dtype."
                ) from error

    def _header(self, target: ArrayTarget) -> bytes:
        descr = np.lib.format.dtype_to_descr(target.encoding.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": target.shape}
        np.lib.format.write_array_header_2_0(written := io.BytesIO(), header)
        return written.getvalue()

    def write(self, target: ArrayTarget, start: int, values: np.ndarray) -> int:
        """Write rows at their place."""
        with open(self.path, "r+b") as file:
            file.seek(len(self._header(target)) + start * target.row_bytes)
            file.write(memoryview(values).cast("B"))
            file.flush()
            os.fdatasync(file.fileno())
        return values.nbytes

    def read(self, target: ArrayTarget, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Read rows, and the bytes they take."""
        shape, place = (stop - start, *target.shape[1:]), len(self._header(target)) + start * target.row_bytes
        found = np.fromfile(self.path, target.encoding.dtype, math.prod(shape), offset=place).reshape(shape)
        return found, found.nbytes

    def finish(self, targets: Sequence[ArrayTarget], clock: Clock | None) -> dict[str, bytes]:
        """Return no documents: the file holds values alone."""
        return {}


@dataclass(frozen=True, slots=True)
class ZarrStore:
    """Arrays of a Zarr 3 group, with coordinates.

    Parameters
    ----------
    objects : Objects
        Where it is.
    compression : str
        As `codecs_of` takes it.
    """

    objects: Objects
    compression: str
    checked = True

    @property
    def name(self) -> str:
        """The path or URL."""
        return self.objects.name

    def _array(self, target: ArrayTarget, objects: dict[str, Any]) -> Any:
        """Return an array whose objects are in memory."""
        import zarr
        from zarr.storage import MemoryStore

        encoding = target.encoding
        return zarr.create_array(
            MemoryStore(objects),
            name=target.name,
            shape=target.shape,
            dtype=encoding.dtype,
            chunks=target.layout.chunks,
            shards=target.layout.shards,
            compressors=codecs_of(self.compression, encoding.dtype),
            fill_value=False if encoding.dtype.kind == "b" else 0,
            attributes={**target.attributes, **encoding.attributes()},
            dimension_names=target.dims,
            # Absent chunks are an error to readers, so that a lost one is never taken for zeros.
            config={"write_empty_chunks": True},
        )

    def write(self, target: ArrayTarget, start: int, values: np.ndarray) -> int:
        """Encode rows in memory, then write their chunks or shards at once."""
        objects: dict[str, Any] = {}
        self._array(target, objects)[start : start + len(values)] = values
        chunks = _split(objects)[0]
        self.objects.put(chunks)
        return sum(map(len, chunks.values()))

    def read(self, target: ArrayTarget, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Read rows as they are stored, and the bytes they take; `CorruptDataError` where a chunk is not whole."""
        from zarr.core.buffer import default_buffer_prototype

        sizes = target.layout.shards or target.layout.chunks
        rows = range(start // sizes[0], -(-stop // sizes[0]))
        others = [range(-(-size // step)) for size, step in zip(target.shape[1:], sizes[1:], strict=True)]
        keys = ["/".join((target.name, "c", *map(str, place))) for place in itertools.product(rows, *others)]
        objects: dict[str, Any] = {}
        encoded = self._array(target, objects)
        found = self.objects.get(keys)
        for key, value in zip(keys, found, strict=True):
            if value is None:
                raise CorruptDataError(f"{self.name!r}: {key!r} is missing.")
            objects[key] = default_buffer_prototype().buffer.from_bytes(value)
        try:
            return np.asarray(encoded[start:stop]), sum(len(value) for value in found if value is not None)
        except (ValueError, RuntimeError) as error:
            raise CorruptDataError(f"{self.name!r}: rows from {start} cannot be decoded: {error}") from error

    def finish(self, targets: Sequence[ArrayTarget], clock: Clock | None) -> dict[str, bytes]:
        """Write the chunks of the coordinates, and return all documents, for `show`."""
        from zarr.storage import MemoryStore

        objects: dict[str, Any] = {}
        for target in targets:
            self._array(target, objects)
        _write_coordinates(MemoryStore(objects), targets, clock)
        chunks, documents = _split(objects)
        self.objects.put(chunks)
        return documents


def show(objects: Objects, documents: Mapping[str, bytes]) -> None:
    """Write documents, that of the group last."""
    for root in (False, True):
        objects.put({key: value for key, value in documents.items() if (key == DOCUMENT) is root})


def _split(objects: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Chunks and documents of a store in memory."""
    chunks: dict[str, bytes] = {}
    documents: dict[str, bytes] = {}
    for key, value in objects.items():
        (documents if key.rpartition("/")[2] == DOCUMENT else chunks)[key] = value.to_bytes()
    return chunks, documents


def _write_coordinates(store: Any, targets: Sequence[ArrayTarget], clock: Clock | None) -> None:
    """Write labels and times into a group in memory, then the list of all its metadata."""
    import zarr

    group = zarr.open_group(store, mode="a", zarr_format=3)
    labels = {dim: found for target in targets for dim, found in target.labels.items()}
    for dim, found in labels.items():
        text = found.dtype.kind in "OUST"
        array = group.create_array(
            dim, shape=found.shape, dtype="str" if text else found.dtype, dimension_names=[dim]
        )
        array[...] = found.astype(object) if text else found
    if clock is not None and clock.num_steps:
        _write_times(group, clock)
    with warnings.catch_warnings():
        # Consolidated metadata are no part of the specification, and ignored by others.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store, zarr_format=3)


def _write_times(group: Any, clock: Clock) -> None:
    """Write times as whole numbers since the first, in the coarsest unit that is exact, as xarray does."""
    first = int(clock.nanoseconds([0])[0])
    origin = first - first % 10**9
    step = first - origin
    for start in range(0, clock.num_steps, STAMPS):
        rows = np.arange(start, min(start + STAMPS, clock.num_steps))
        step = math.gcd(step, int(np.gcd.reduce(clock.nanoseconds(rows) - origin)))
    unit, size = next((unit, size) for unit, size in UNITS if step % size == 0)
    whole = Clock.from_timestamps(Times(np.array([origin]), clock.calendar), 1)
    since = whole.texts([0])[0].replace("T", " ")
    calendar = own(clock.calendar) or "proleptic_gregorian"
    array = group.create_array(
        "time", shape=(clock.num_steps,), dtype="int64", chunks=(min(clock.num_steps, STAMPS),),
        dimension_names=["time"], attributes={"units": f"{unit} since {since}", "calendar": calendar},
    )  # fmt: skip
    for start in range(0, clock.num_steps, STAMPS):
        rows = np.arange(start, min(start + STAMPS, clock.num_steps))
        array[start : start + len(rows)] = (clock.nanoseconds(rows) - origin) // size


def codecs_of(compression: str, dtype: np.dtype) -> list[Any]:
    """Codecs of a chunk's bytes: compression and a checksum.

    Parameters
    ----------
    compression : str
        "none", "lz4", "zstd" (by Blosc, bytes shuffled) or "gzip", with a level if wanted: "zstd:9".
    dtype : numpy.dtype

    Examples
    --------
    >>> [type(codec).__name__ for codec in codecs_of("lz4", np.dtype("f4"))]
    ['BloscCodec', 'Crc32cCodec']
    """
    from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec

    name, _, level = compression.partition(":")
    known = {"none": 0, "lz4": 5, "zstd": 3, "gzip": 5}
    if name not in known or (level and not (level.isdigit() and int(level) <= 9)):
        raise ConversionError(
            f"compression={compression!r} is unknown. Known are none, lz4, zstd, gzip, with a level of 1 to 9 if "
            "wanted: 'zstd:9'."
        )
    strength = int(level or known[name])
    if name == "none":
        return [Crc32cCodec()]
    if name == "gzip":
        return [GzipCodec(level=strength), Crc32cCodec()]
    shuffle: Any = "shuffle" if dtype.itemsize > 1 else "noshuffle"
    blosc = BloscCodec(cname=name, clevel=strength, shuffle=shuffle, typesize=dtype.itemsize)  # type: ignore[arg-type]
    return [blosc, Crc32cCodec()]
