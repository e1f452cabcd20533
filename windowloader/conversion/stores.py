"""Where converted arrays are written, under a temporary name until all is there.

In: `Target` arrays and their values by rows. Out: a Zarr 3 store as xarray opens it, or a ``.npy`` file. What `write`
returns from is on disk. Never shows a result under its final name before `publish`.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from windowloader.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from windowloader.clock import Clock

    from .targets import Target
    from .values import Encoding

__all__ = ["NpyStore", "Store", "ZarrStore", "codecs_of", "exchange"]

UNITS = (("days", 86400 * 10**9), ("hours", 3600 * 10**9), ("minutes", 60 * 10**9), ("seconds", 10**9),
         ("milliseconds", 10**6), ("microseconds", 10**3), ("nanoseconds", 1))  # fmt: skip
STAMPS = 1 << 20  # timestamps made at once


class Store(Protocol):
    """Something that arrays are written to by rows, in any order, by several threads."""

    temporary: Path

    def create(self, encodings: Sequence[Encoding]) -> None:
        """Make the arrays, or open those of a conversion that goes on."""

    def write(self, target: int, start: int, values: np.ndarray) -> None:
        """Write rows; on disk when this returns."""

    def read(self, target: int, start: int, stop: int) -> np.ndarray:
        """Read rows as they are stored."""

    def finish(self, clock: Clock | None) -> None:
        """Add what belongs to the arrays; may be done again."""

    def stored_bytes(self, target: int) -> int:
        """Bytes an array takes on disk."""

    def publish(self, path: Path, *, overwrite: bool = False) -> None:
        """Give the result its name, at once; with ``overwrite``, in the place of what has it."""


class NpyStore:
    """One array in a ``.npy`` file.

    Parameters
    ----------
    temporary : Path
    target : Target
    """

    def __init__(self, temporary: Path, target: Target) -> None:
        self.temporary, self.target = temporary, target
        self._offset = 0

    def create(self, encodings: Sequence[Encoding]) -> None:
        """Write the header, and reserve the room."""
        dtype, shape = encodings[0].dtype, self.target.shape
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        needed = math.prod(shape) * dtype.itemsize
        self.temporary.touch()
        with open(self.temporary, "r+b") as file:
            np.lib.format.write_array_header_2_0(file, header)
            self._offset = file.tell()
            there = os.fstat(file.fileno())
            free = shutil.disk_usage(self.temporary.parent).free
            if needed + self._offset - there.st_blocks * 512 > free:
                raise ConversionError(
                    f"{str(self.temporary.parent)!r} has {free:,} bytes free, and the array takes {needed:,}. Choose "
                    "another place, or a smaller dtype."
                )
            file.truncate(self._offset + needed)

    def write(self, target: int, start: int, values: np.ndarray) -> None:
        """Write rows at their place."""
        del target
        with open(self.temporary, "r+b", buffering=0) as file:
            place, data = self._offset + start * self.target.row_bytes, memoryview(values).cast("B")
            while len(data):
                done = os.pwrite(file.fileno(), data, place)
                place, data = place + done, data[done:]
            os.fdatasync(file.fileno())

    def read(self, target: int, start: int, stop: int) -> np.ndarray:
        """Read rows."""
        del target
        out = np.empty((stop - start, *self.target.shape[1:]), self.target.encoding.dtype)
        with open(self.temporary, "rb", buffering=0) as file:
            file.seek(self._offset + start * self.target.row_bytes)
            into = memoryview(out).cast("B")
            while len(into) and (got := file.readinto(into)):
                into = into[got:]
        return out

    def finish(self, clock: Clock | None) -> None:
        """Do nothing: the file has no room for more."""

    def stored_bytes(self, target: int) -> int:
        """Bytes of the file."""
        del target
        return self.temporary.stat().st_size

    def publish(self, path: Path, *, overwrite: bool = False) -> None:
        """Rename; an error where the name is taken meanwhile, unless that is to be replaced."""
        if overwrite:
            os.replace(self.temporary, path)
            return
        os.link(self.temporary, path)
        self.temporary.unlink()


class ZarrStore:
    """Arrays of a Zarr 3 group, with coordinates.

    Parameters
    ----------
    temporary : Path
    targets : sequence of Target
    codecs : list of dict
        Of `codecs_of`.
    """

    def __init__(self, temporary: Path, targets: Sequence[Target], compression: str) -> None:
        self.temporary, self.targets, self.compression = temporary, tuple(targets), compression
        self._arrays: list[Any] = []

    def create(self, encodings: Sequence[Encoding]) -> None:
        """Make the arrays by TensorStore."""
        from windowloader.sources.processes import tensorstore

        ts = tensorstore()
        for target, encoding in zip(self.targets, encodings, strict=True):
            spec = {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": f"{self.temporary / target.name}/"},
                "metadata": self._metadata(target, encoding),
                # Absent chunks are an error to readers, so that a lost one is never taken for zeros.
                "store_data_equal_to_fill_value": True,
            }
            self._arrays.append(ts.open(spec, create=True, open=True).result())

    def _metadata(self, target: Target, encoding: Encoding) -> dict[str, Any]:
        inner = codecs_of(self.compression, encoding.dtype)
        layout = target.layout
        if layout.shards is not None:
            index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
            sharding = {
                "chunk_shape": layout.chunks, "codecs": inner, "index_codecs": index, "index_location": "end",
            }  # fmt: skip
            inner = [{"name": "sharding_indexed", "configuration": sharding}]
        return {
            "shape": target.shape,
            "data_type": encoding.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": layout.shards or layout.chunks},
            },
            "dimension_names": target.dims,
            "attributes": {**target.attributes, **encoding.attributes()},
            "fill_value": False if encoding.dtype.kind == "b" else 0,
            "codecs": inner,
        }

    def write(self, target: int, start: int, values: np.ndarray) -> None:
        """Write whole chunks or shards, each to a file that is renamed when it is on disk."""
        store = self._arrays[target]
        try:
            store[start : start + len(values)].write(
                values, can_reference_source_data_indefinitely=True
            ).result()
        except ValueError as error:
            raise ConversionError(
                f"rows from {start} cannot be written to {str(self.temporary)!r}: {error}"
            ) from error

    def read(self, target: int, start: int, stop: int) -> np.ndarray:
        """Read rows as they are stored."""
        found: np.ndarray = self._arrays[target][start:stop].read(order="C").result()
        return found

    def finish(self, clock: Clock | None) -> None:
        """Write coordinates and a list of all metadata."""
        import zarr

        group = zarr.open_group(str(self.temporary), mode="a", zarr_format=3)
        labels = {dim: found for target in self.targets for dim, found in target.labels.items()}
        for dim, found in labels.items():
            text = found.dtype.kind in "OUST"
            array = group.create_array(
                dim,
                shape=found.shape,
                dtype="str" if text else found.dtype,
                dimension_names=[dim],
                overwrite=True,
            )
            array[...] = found.astype(object) if text else found
        if clock is not None and clock.num_steps:
            _write_times(group, clock)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # consolidated metadata are no part of the specification, and ignored by others
            zarr.consolidate_metadata(str(self.temporary), zarr_format=3)

    def stored_bytes(self, target: int) -> int:
        """Bytes of the array's files."""
        folder = self.temporary / self.targets[target].name
        return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())

    def publish(self, path: Path, *, overwrite: bool = False) -> None:
        """Rename; an error where the name is taken meanwhile, unless that is to be replaced."""
        self._arrays.clear()
        if overwrite and path.exists():
            exchange(self.temporary, path)
            shutil.rmtree(self.temporary)
            return
        os.rename(self.temporary, path)


def exchange(one: Path, other: Path) -> None:
    """Let two folders change names, at once where the system can (Linux), else by way of a third name."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call is not None and call(here, os.fsencode(one), here, os.fsencode(other), swap) == 0:
        return
    aside = other.with_name(f"{other.name}.replaced")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def _write_times(group: Any, clock: Clock) -> None:
    """Write times as whole numbers since the first, in the coarsest unit that is exact, as xarray does."""
    first = int(clock.nanoseconds([0])[0])
    origin = first - first % 10**9
    step = first - origin
    for start in range(0, clock.num_steps, STAMPS):
        rows = np.arange(start, min(start + STAMPS, clock.num_steps))
        step = math.gcd(step, int(np.gcd.reduce(clock.nanoseconds(rows) - origin)))
    unit, size = next((unit, size) for unit, size in UNITS if step % size == 0)
    since = str(np.datetime64(origin, "ns").astype("datetime64[s]")).replace("T", " ")
    array = group.create_array(
        "time", shape=(clock.num_steps,), dtype="int64", chunks=(min(clock.num_steps, STAMPS),),
        dimension_names=["time"], attributes={"units": f"{unit} since {since}", "calendar": "proleptic_gregorian"},
        overwrite=True,
    )  # fmt: skip
    for start in range(0, clock.num_steps, STAMPS):
        rows = np.arange(start, min(start + STAMPS, clock.num_steps))
        array[start : start + len(rows)] = (clock.nanoseconds(rows) - origin) // size


def codecs_of(compression: str, dtype: np.dtype) -> list[dict[str, Any]]:
    """Codecs of a chunk: bytes, compression, a checksum.

    Parameters
    ----------
    compression : str
        "none", "lz4", "zstd" (by Blosc, bytes shuffled) or "gzip", with a level if wanted: "zstd:9".
    dtype : numpy.dtype

    Examples
    --------
    >>> [codec["name"] for codec in codecs_of("lz4", np.dtype("f4"))]
    ['bytes', 'blosc', 'crc32c']
    """
    name, _, level = compression.partition(":")
    known: Mapping[str, int] = {"none": 0, "lz4": 5, "zstd": 3, "gzip": 5}
    if name not in known or (level and not (level.isdigit() and int(level) <= 9)):
        raise ConversionError(
            f"compression={compression!r} is unknown. Known are none, lz4, zstd, gzip, with a level of 1 to 9 if "
            "wanted: 'zstd:9'."
        )
    strength = int(level or known[name])
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if name == "gzip":
        codecs.append({"name": "gzip", "configuration": {"level": strength}})
    elif name != "none":
        shuffle = "shuffle" if dtype.itemsize > 1 else "noshuffle"
        blosc = {
            "cname": name,
            "clevel": strength,
            "shuffle": shuffle,
            "typesize": dtype.itemsize,
            "blocksize": 0,
        }
        codecs.append({"name": "blosc", "configuration": blosc})
    return [*codecs, {"name": "crc32c"}]
