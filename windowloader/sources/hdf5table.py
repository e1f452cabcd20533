"""Where in an HDF5 or netCDF-4 object the chunks of one array lie, and how they are decoded.

In: an open dataset, the bytes of a chunk. Out: `Table`: shape, dtype, filters, offset and size of every chunk; values.
Never reads values through h5py.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError

from .bounded import decode

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Table", "decode_chunk", "filters_of", "has_table", "read_groups", "table_of"]

MOST = 1 << 24  # chunks of which a table is made
CODECS = {1: "zlib", 2: "shuffle", 3: "fletcher32", 307: "bz2", 32001: "blosc", 32015: "zstd"}  # of numcodecs


@dataclass(frozen=True, slots=True)
class Table:
    """One array of the file.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        As stored.
    chunks : tuple of int or None
        None: contiguous.
    filters : tuple of (int, tuple of int)
        Number and settings of each, in the order in which they were applied when written.
    fill_value : object
        Of chunks that were never written.
    offsets, sizes, masks : ndarray, int64
        By chunk, in C order of the grid; offset -1: never written.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...] | None
    filters: tuple[tuple[int, tuple[int, ...]], ...]
    fill_value: Any
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    masks: np.ndarray = field(repr=False)


def has_table(dataset: Any) -> bool:
    """Whether the chunks of a dataset can be read without HDF5: `decode_chunk` has all its filters."""
    return dataset.chunks is not None and all(number in CODECS for number, _ in filters_of(dataset))


def filters_of(dataset: Any) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return number and settings of the filters of a dataset, in the order in which they were applied."""
    properties = dataset.id.get_create_plist()
    found = [properties.get_filter(place) for place in range(properties.get_nfilters())]
    return tuple((number, tuple(settings)) for number, _, settings, _ in found)


def read_groups(table: Table, dim: int, most: int, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Group rows so that whatever is read of a group lies in as many near ranges of bytes as one row of its chunks.

    Parameters
    ----------
    table : Table
    dim : int
        The stored dimension of the rows.
    most : int
        Chunks along it that a group may have.
    gap : int
        Bytes between near ranges at most.

    Returns
    -------
    edges : ndarray, int64
        Rows where a group begins, and the end.
    before : ndarray, int64
        Ranges before each of them.
    """
    chunks = table.chunks or table.shape
    grid = [-(-size // chunk) for size, chunk in zip(table.shape, chunks, strict=True)]
    cells = np.moveaxis(np.arange(math.prod(grid)).reshape(grid), dim, 0).reshape(grid[dim], -1)
    offsets, sizes = table.offsets[cells], table.sizes[cells]
    alone = _ranges(offsets, sizes, gap)
    pairs = _ranges(np.hstack([offsets[:-1], offsets[1:]]), np.hstack([sizes[:-1], sizes[1:]]), gap)
    apart = np.flatnonzero((pairs != alone[1:]) | (pairs != alone[:-1])) + 1
    firsts = np.union1d(apart, np.arange(0, grid[dim], most))
    return np.append(firsts * chunks[dim], table.shape[dim]), np.append(0, np.cumsum(alone[firsts]))


def _ranges(offsets: np.ndarray, sizes: np.ndarray, gap: int) -> np.ndarray:
    """Count near ranges in each row; chunks that were never written have an offset of -1."""
    absent = offsets < 0
    begins = np.where(absent, -gap - 1, offsets)  # apart from all that are there
    order = np.argsort(begins, axis=1, kind="stable")
    first, last = (np.take_along_axis(found, order, axis=1) for found in (begins, begins + sizes * ~absent))
    apart = first[:, 1:] - np.maximum.accumulate(last, axis=1)[:, :-1] > gap
    count: np.ndarray = apart.sum(axis=1) + 1 - absent.any(axis=1)
    return count


def table_of(dataset: Any) -> Table:
    """Return where the chunks of an open dataset lie."""
    grid = tuple(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if math.prod(grid) > MOST:
        raise CorruptDataError(
            f"{dataset.name!r} of shape {dataset.shape} has {math.prod(grid)} chunks of {dataset.chunks}, of which "
            f"{MOST} are listed at most. If that is not damage, copy it into larger chunks."
        )
    offsets, sizes, masks = np.full(grid, -1, np.int64), np.zeros(grid, np.int64), np.zeros(grid, np.int64)

    def note(info: Any) -> None:
        cell = tuple(at // chunk for at, chunk in zip(info.chunk_offset, dataset.chunks, strict=True))
        offsets[cell], sizes[cell], masks[cell] = info.byte_offset, info.size, info.filter_mask

    if offsets.size:
        dataset.id.chunk_iter(note)
    places = (offsets.reshape(-1), sizes.reshape(-1), masks.reshape(-1))
    how = (dataset.chunks, filters_of(dataset), dataset.fillvalue)
    return Table(tuple(dataset.shape), dataset.dtype, *how, *places)


def decode_chunk(table: Table, stored: bytes | memoryview, mask: int, where: Callable[[], str]) -> np.ndarray:
    """Undo a chunk's filters; none makes more of it than the chunk's size.

    Parameters
    ----------
    table : Table
        Of its array.
    stored : bytes or memoryview
        As in the file.
    mask : int
        Bits of the filters that were left out for it.
    where : callable
        Names the chunk in an error.

    Returns
    -------
    ndarray, shape `Table.chunks`
    """
    import numcodecs

    data: Any = stored
    most = math.prod(table.chunks or ()) * table.dtype.itemsize + 4 * len(table.filters)  # for checksums
    try:
        for place, (number, settings) in reversed(list(enumerate(table.filters))):
            if not mask >> place & 1:
                options = {"elementsize": settings[0]} if CODECS[number] == "shuffle" else {}
                codec = numcodecs.get_codec({"id": CODECS[number], **options})
                data = decode(codec, data, most)
        return np.frombuffer(data, table.dtype).reshape(table.chunks or ())
    except (zlib.error, ValueError, RuntimeError, OSError, EOFError, IndexError) as error:
        raise CorruptDataError(
            f"{where()}: stored bytes are not what was written ({error}). Restore the file from its origin."
        ) from error
