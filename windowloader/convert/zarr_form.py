"""The form of a converted Zarr store: documents of arrays, codecs, coordinates.

In: `ArrayTarget` arrays and a clock. Out: metadata as TensorStore takes them, and a group with coordinates in whatever
store zarr-python writes to. Never writes values.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import ConversionError
from windowloader.series.clock import Clock
from windowloader.util.calendars import Times, own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .targets import ArrayTarget
    from .values import Encoding

__all__ = ["array_spec", "codecs_of", "write_coordinates"]

UNITS = (("days", 86400 * 10**9), ("hours", 3600 * 10**9), ("minutes", 60 * 10**9), ("seconds", 10**9),
         ("milliseconds", 10**6), ("microseconds", 10**3), ("nanoseconds", 1))  # fmt: skip
STAMPS = 1 << 20  # timestamps made at once


def array_spec(
    target: ArrayTarget, encoding: Encoding, compression: str, kvstore: Mapping[str, Any]
) -> dict[str, Any]:
    """TensorStore's specification of an array in a store."""
    return {
        "driver": "zarr3",
        "kvstore": dict(kvstore),
        "metadata": _metadata(target, encoding, compression),
        # Absent chunks are an error to readers, so that a lost one is never taken for zeros.
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
    }


def _metadata(target: ArrayTarget, encoding: Encoding, compression: str) -> dict[str, Any]:
    inner = codecs_of(compression, encoding.dtype)
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


def write_coordinates(store: Any, targets: Sequence[ArrayTarget], clock: Clock | None) -> None:
    """Write labels and times into a group, then the list of all its metadata; may be done again.

    Parameters
    ----------
    store : str or zarr.abc.store.Store
        As zarr-python takes it; the documents of the arrays are there.
    targets : sequence of ArrayTarget
    clock : Clock or None
    """
    import zarr

    group = zarr.open_group(store, mode="a", zarr_format=3)
    labels = {dim: found for target in targets for dim, found in target.labels.items()}
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
