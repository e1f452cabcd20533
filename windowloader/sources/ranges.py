"""Arrays that lie in one remote object as plain bytes: ``.npy``, raw, and HDF5/netCDF-4 by their chunk table.

In: an object and where the array lies in it. Out: `RemoteSource`, the base of the sources that ask a store, and
`RangeSource`, which asks for the byte ranges that rows lie in, near ones joined. Never reads a file whole, never
through a file object; opening reads no values.
"""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError

from .base import Source, digest
from .bounded import decode
from .disk_cache_state import address_of
from .failures import Asked
from .processes import PerProcess
from .reads import Done, Progress, Read, lend
from .remote_objects import GAP, PART, join
from .storage import Storage, chunk_edges

if TYPE_CHECKING:
    from collections.abc import Callable

    from .packing import Packing
    from .reads import Pending
    from .remote_objects import RemoteObject
    from .storage import Box

__all__ = ["CODECS", "RangeSource", "RemoteSource", "Table", "put", "read_groups"]

CODECS = {1: "zlib", 2: "shuffle", 3: "fletcher32", 307: "bz2", 32001: "blosc", 32015: "zstd"}  # of numcodecs


class RemoteSource(Source):
    """Base of the sources that ask a store: a family gives `_submit`, `storage`, `fingerprint`.

    In a process that was forked after TensorStore was loaded, a read by TensorStore is an error.
    """

    cache_bytes: int = 0  # of memory that the store's own cache may take, for plans

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        """Read rows ``[start, stop)`` into ``out``, any strides; do not use ``out`` again after an error."""
        return self.submit(start, stop, out, box).result()

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read and return at once; ``out`` must stay alive until the result."""
        self.check_range(start, stop, out, box)
        if out.dtype != self.dtype:
            raise ValueError(f"rows of {self.name!r} have dtype {self.dtype}, but out has {out.dtype}.")
        return self._submit(start, stop, out, box) if out.size else Done()

    def _submit(self, start: int, stop: int, out: np.ndarray, box: Box | None) -> Pending:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Table:
    """Where in an HDF5 object the chunks of one array lie, and how they are decoded.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        As stored.
    chunks : tuple of int
    filters : tuple of (int, tuple of int)
        Number and settings of each, in the order in which they were applied when written.
    fill_value : object
        Of chunks that were never written.
    offsets, sizes, masks : ndarray, int64
        By chunk, in C order of the grid; offset -1: never written.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    filters: tuple[tuple[int, tuple[int, ...]], ...]
    fill_value: Any
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    masks: np.ndarray = field(repr=False)

    @property
    def grid(self) -> list[int]:
        """Number of chunks along each dimension."""
        return [-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True)]


class RangeSource(RemoteSource):
    """An array in one object, read by byte ranges.

    Parameters
    ----------
    remote : RemoteObject
        The object.
    stored : numpy.dtype
        As stored.
    offset : int
        Of the first value, if the array has no chunks.
    variable : str
        Path in an HDF5 file.
    values : Packing or None
        How stored numbers become values.
    table : callable or None
        Returns the `Table` of the chunks; pickles.
    **described
        Shape, axes, chunks and so on, as for `Source`.
    """

    def __init__(
        self,
        remote: RemoteObject,
        stored: np.dtype,
        *,
        offset: int = 0,
        variable: str = "",
        values: Packing | None = None,
        table: Callable[[], Table] | None = None,
        **described: Any,
    ) -> None:
        name = f"{remote.name}/{variable.strip('/')}" if variable else remote.name
        super().__init__(name, dtype=values.dtype if values else stored, **described)
        self.remote, self.packing, self.stored, self.offset = remote, values, stored, offset
        self.identity = remote.identity()
        self.row_bytes = math.prod(self.shape[1:]) * stored.itemsize  # before it is compressed
        self._progress: PerProcess[Progress] = PerProcess()
        self._read_table = table
        self._table: PerProcess[Table] = PerProcess()
        self._groups: PerProcess[tuple[np.ndarray, np.ndarray]] = PerProcess()
        if table is not None:
            self.table()

    def table(self) -> Table:
        """Where the chunks lie; read again in another process, so that a pickle stays small."""
        assert self._read_table is not None
        return self._table.get(self._read_table)

    def storage(self, box: Box | None = None) -> Storage:
        """Ranges of bytes, near ones asked for together; rows are best read a request's worth at a time."""
        groups, before = self._groups.get(self._group)
        return Storage.of_grid(
            self.shape, self.chunks, itemsize=self.dtype.itemsize, box=box, split=True, groups=groups,
            requests_before=before,
        )  # fmt: skip

    def _group(self) -> tuple[np.ndarray, np.ndarray]:
        rows = max(1, PART // max(self.row_bytes, 1))
        if self.chunks and self.shape[0]:
            return read_groups(self.table(), self.order[0], max(1, rows // self.chunks[0]), GAP)
        groups = chunk_edges(max(self.shape[0], 1), rows)
        return groups, np.append(0, np.cumsum(-(-np.diff(groups) * self.row_bytes // PART)))

    def address(self) -> str:
        """Endpoint of its bucket, and the query of its URL."""
        return "" if self.remote.location is None else address_of(self.remote.location)

    def fingerprint(self) -> str:
        """Short text that changes when the object does."""
        return digest(self.shape, str(self.dtype), self.axes, self.identity)

    def _submit(self, start: int, stop: int, out: np.ndarray, box: Box | None) -> Pending:
        if self.chunks is None:
            first, end = (self.offset + row * self.row_bytes for row in (start, stop))
            ranges = [(at, min(at + PART, end)) for at in range(first, end, PART)]

            def finish(data: list[bytes]) -> None:
                put(self.packing, np.frombuffer(b"".join(data), self.stored).reshape(out.shape), out)

        else:
            origins, places = self._chunks(start, stop)
            offsets, sizes, _ = places
            written = np.flatnonzero(offsets >= 0)
            groups = [written[group] for group in join(offsets[written], sizes[written])]
            ends = offsets + sizes
            ranges = [(int(offsets[group].min()), int(ends[group].max())) for group in groups]

            def finish(data: list[bytes]) -> None:
                parts: list[Any] = [None] * len(origins)
                for group, (begin, _), stored in zip(groups, ranges, data, strict=True):
                    for at in group.tolist():
                        parts[at] = memoryview(stored)[offsets[at] - begin :][: sizes[at]]
                for origin, part, offset, mask in zip(origins, parts, offsets, places[2], strict=True):
                    self._put_chunk(origin, part, int(offset), int(mask), start, out)

        progress = self._progress.get(lambda: Progress(self.remote.renew))
        futures = [self.remote.fetch(first, end) for first, end in ranges]
        for future in futures:
            future.add_done_callback(lend(progress.touch))
        size, asked = self.bytes_of(start, stop, box), Asked(self.name, (start, stop))
        return Read(
            futures, lambda results: finish([self.remote.bytes_of(one) for one in results]), asked,
            self.remote.timeout, progress, size,
        )  # fmt: skip

    def _chunks(self, start: int, stop: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """Origins, in the stored array, of the chunks that hold rows; their offsets, sizes and masks."""
        table, rows = self.table(), self.order[0]
        part = [slice(None)] * len(table.grid)
        part[rows] = slice(start // table.chunks[rows], -(-stop // table.chunks[rows]))
        axes = [range(0, size, chunk) for size, chunk in zip(table.shape, table.chunks, strict=True)]
        origins = list(itertools.product(*(axis[some] for axis, some in zip(axes, part, strict=True))))
        found = [
            values.reshape(table.grid)[tuple(part)].ravel()
            for values in (table.offsets, table.sizes, table.masks)
        ]
        return origins, np.array(found)

    def _put_chunk(
        self, origin: tuple[int, ...], data: Any, offset: int, mask: int, start: int, out: np.ndarray
    ) -> None:
        """Decode a chunk, and copy what of it lies in the rows from ``start`` on."""
        table, (row, *rest) = self.table(), [origin[dim] for dim in self.order]
        if data is None:  # never written
            chunk = np.full(table.chunks, table.fill_value, table.dtype)
        else:
            last = min(row + table.chunks[self.order[0]], self.shape[0]) - 1
            where = f"{self.name!r}, rows {row}–{last}, bytes {offset}–{offset + len(data) - 1}"
            chunk = decode_chunk(table, data, mask, where)
        inside = chunk.transpose(self.order)[max(start - row, 0) : start + len(out) - row]
        place = (max(row - start, 0), *rest)
        target = out[tuple(slice(low, low + size) for low, size in zip(place, inside.shape, strict=True))]
        put(
            self.packing, inside[tuple(map(slice, target.shape))], target
        )  # a chunk may reach beyond the array


def put(packing: Packing | None, stored: np.ndarray, out: np.ndarray) -> None:
    """Write the values of stored numbers to ``out``."""
    if packing is None:
        out[...] = stored
    else:
        packing.unpack(stored, out)


def read_groups(table: Table, dim: int, most: int, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Group rows so that any part of a group lies in as many near ranges of bytes as one row of its chunks.

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
    rows = table.grid[dim]
    cells = np.moveaxis(np.arange(math.prod(table.grid)).reshape(table.grid), dim, 0).reshape(rows, -1)
    offsets, sizes = table.offsets[cells], table.sizes[cells]
    alone = _count_ranges(offsets, sizes, gap)
    pairs = _count_ranges(np.hstack([offsets[:-1], offsets[1:]]), np.hstack([sizes[:-1], sizes[1:]]), gap)
    apart = np.flatnonzero((pairs != alone[1:]) | (pairs != alone[:-1])) + 1
    firsts = np.union1d(apart, np.arange(0, rows, most))
    return np.append(firsts * table.chunks[dim], table.shape[dim]), np.append(0, np.cumsum(alone[firsts]))


def _count_ranges(offsets: np.ndarray, sizes: np.ndarray, gap: int) -> np.ndarray:
    """Count near ranges in each row; chunks that were never written have an offset of -1."""
    absent = offsets < 0
    begins = np.where(absent, -gap - 1, offsets)  # apart from all that are there
    order = np.argsort(begins, axis=1, kind="stable")
    first, last = (np.take_along_axis(found, order, axis=1) for found in (begins, begins + sizes * ~absent))
    apart = first[:, 1:] - np.maximum.accumulate(last, axis=1)[:, :-1] > gap
    count: np.ndarray = apart.sum(axis=1) + 1 - absent.any(axis=1)
    return count


def decode_chunk(table: Table, stored: Any, mask: int, where: str) -> np.ndarray:
    """Undo a chunk's filters; none makes more of it than the chunk's size.

    Parameters
    ----------
    table : Table
        Of its array.
    stored : bytes-like
        As in the file.
    mask : int
        Bits of the filters that were left out for it.
    where : str
        Names the chunk in an error.

    Returns
    -------
    ndarray, shape `Table.chunks`
    """
    import numcodecs

    data = stored
    most = math.prod(table.chunks) * table.dtype.itemsize + 4 * len(table.filters)  # for checksums
    try:
        for place, (number, settings) in reversed(list(enumerate(table.filters))):
            if not mask >> place & 1:
                options = {"elementsize": settings[0]} if CODECS[number] == "shuffle" else {}
                data = decode(numcodecs.get_codec({"id": CODECS[number], **options}), data, most)
        return np.frombuffer(data, table.dtype).reshape(table.chunks)
    except (zlib.error, ValueError, RuntimeError, OSError, EOFError, IndexError) as error:
        raise CorruptDataError(
            f"{where}: stored bytes are not what was written ({error}). Restore the object from its origin."
        ) from error
