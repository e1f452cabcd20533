"""Arrays that lie in one remote object as plain bytes: ``.npy``, raw, and HDF5/netCDF4 by their chunk table.

In: a URL. Out: `RangeSource`, which asks for the byte ranges that rows lie in, near ones joined. Never reads a
file whole, never through a file object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import digest
from .box import chunk_edges
from .failures import Asked
from .hdf5table import Table, decode_chunk, read_groups
from .mirror_state import place_of
from .processes import PerProcess
from .reads import Progress, Read, lend
from .remote import RemoteSource
from .storage import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .base import Description
    from .blobs import Blob
    from .box import Box
    from .packing import Packing
    from .reads import Pending
    from .remote import Opened

__all__ = ["Chunks", "Place", "RangeSource", "join"]

PART = 8 << 20  # a longer range goes as several requests, which run side by side
GAP = 64 << 10  # bytes read in vain rather than asked for apart: less than a request's latency is worth


@dataclass(frozen=True, slots=True)
class Chunks:
    """Cells of a grid in an object.

    Parameters
    ----------
    table : Table
        Offsets and sizes.
    order : tuple of int
        Stored dimensions in the order of the source.
    """

    table: Table
    order: tuple[int, ...]

    def cells(self, start: int, stop: int) -> np.ndarray:
        """Numbers of the chunks that hold rows, in C order of the grid."""
        chunks = self.table.chunks or self.table.shape
        grid = tuple(-(-size // chunk) for size, chunk in zip(self.table.shape, chunks, strict=True))
        first, chunk = self.order[0], chunks[self.order[0]]
        ranges = [np.arange(size) for size in grid]
        ranges[first] = np.arange(start // chunk, -(-stop // chunk))
        return np.ravel_multi_index(np.meshgrid(*ranges, indexing="ij"), grid).reshape(-1)

    def box(self, cell: int) -> tuple[slice, ...]:
        """Where a chunk lies in the stored array."""
        chunks = self.table.chunks or self.table.shape
        grid = tuple(-(-size // chunk) for size, chunk in zip(self.table.shape, chunks, strict=True))
        at = np.unravel_index(cell, grid)
        return tuple(
            slice(int(place) * chunk, min((int(place) + 1) * chunk, size))
            for place, chunk, size in zip(at, chunks, self.table.shape, strict=True)
        )


def join(offsets: np.ndarray, sizes: np.ndarray, *, gap: int = GAP, part: int = PART) -> list[np.ndarray]:
    """Group ranges into requests: near ones together, up to a size.

    Parameters
    ----------
    offsets, sizes : ndarray, int64
        Ranges.
    gap : int
        Bytes between two that are read in vain at most.
    part : int
        Bytes of a request of several ranges at most.

    Returns
    -------
    list of ndarray
        Positions of the ranges of each request, by rising offset.

    Examples
    --------
    >>> join(np.array([100, 0, 300]), np.array([50, 50, 50]), gap=60)
    [array([1, 0]), array([2])]
    """
    order = np.argsort(offsets, kind="stable")
    first, ends = offsets[order], np.maximum.accumulate((offsets + sizes)[order])
    apart = np.flatnonzero(first[1:] - ends[:-1] > gap) + 1
    groups, at = [], 0
    while at < len(order):
        # Up to the next wide gap, and to the part's size; a range that is larger goes alone.
        wide = (
            int(apart[place])
            if (place := np.searchsorted(apart, at, side="right")) < len(apart)
            else len(order)
        )
        full = int(np.searchsorted(ends, first[at] + part, side="right"))
        end = max(at + 1, min(wide, full))
        groups.append(order[at:end])
        at = end
    return groups


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of the array without asking again.

    Parameters
    ----------
    kind : str
        ``npy``, ``raw`` or ``hdf5``.
    variable : str or None
        Path in the file.
    offset : int
        Of the first value of a contiguous array; -1: chunked.
    dtype : numpy.dtype
        As stored.
    """

    kind: str
    variable: str | None
    offset: int
    dtype: np.dtype


class RangeSource(RemoteSource):
    """An array in one object, read by byte ranges.

    Parameters
    ----------
    blob : Blob
        The object.
    place : Place
        Where the array lies in it.
    shape : tuple of int
        As stored.
    axes : str
        Letters of the stored shape.
    chunks : tuple of int or None
        Storage grid.
    values : Packing or None
        How stored numbers become values.
    table : Table or None
        Of an HDF5 file, if read already.
    dims, description : optional
        As for `LocalSource`.
    """

    def __init__(
        self,
        blob: Blob,
        place: Place,
        *,
        shape: tuple[int, ...],
        axes: str,
        chunks: tuple[int, ...] | None = None,
        values: Packing | None = None,
        table: Table | None = None,
        dims: Sequence[str] | None = None,
        description: Description | None = None,
    ) -> None:
        name = f"{blob.name}/{place.variable.strip('/')}" if place.variable else blob.name
        super().__init__(
            name,
            shape=shape,
            dtype=values.dtype if values else place.dtype,
            axes=axes,
            dims=dims,
            chunks=chunks,
            description=description,
        )
        self.blob, self.place, self.packing = blob, place, values
        self.identity = blob.identity()
        self._table: PerProcess[Table] = PerProcess()
        if table is not None:
            self._table.get(lambda: table)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as stored, before it is compressed."""
        return math.prod(self.shape[1:]) * self.place.dtype.itemsize

    def table(self) -> Table:
        """Where the chunks lie; read again in another process, so that a pickle stays small."""
        return self._table.get(self._read_table)

    def _read_table(self) -> Table:
        from .hdf5_dataset import open_file, told
        from .hdf5table import table_of

        with open_file(self.blob) as file, told(self.name, file, self.blob):
            return table_of(file[self.place.variable])

    def storage(self, box: Box | None = None) -> Storage:
        """Ranges of bytes, near ones asked for together; rows are best read a request's worth at a time."""
        rows = max(1, PART // max(self.row_bytes, 1))
        if self.chunks and self.shape[0]:
            groups, before = read_groups(self.table(), self.order[0], max(1, rows // self.chunks[0]), GAP)
        else:
            groups = chunk_edges(max(self.shape[0], 1), rows)
            before = np.append(0, np.cumsum(-(-np.diff(groups) * self.row_bytes // PART)))
        return Storage.of_grid(
            self.shape, self.chunks, itemsize=self.dtype.itemsize, box=box, split=True, groups=groups,
            requests_before=before,
        )  # fmt: skip

    def address(self) -> str:
        """Endpoint of its bucket, and the query of its URL."""
        return "" if self.blob.location is None else place_of(self.blob.location)

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Byte ranges of rows of a contiguous array, each at most `PART` long."""
        first = self.place.offset + start * self.row_bytes
        end = self.place.offset + stop * self.row_bytes
        return [(at, min(at + PART, end)) for at in range(first, end, PART)]

    def fingerprint(self) -> str:
        """Short text that changes when the object does."""
        return digest(self.shape, str(self.dtype), self.axes, self.identity)

    def _open(self) -> Opened:
        return _Contiguous(self) if self.place.offset >= 0 else _Chunked(self)


class _Contiguous:
    """Rows one after the other."""

    def __init__(self, source: RangeSource) -> None:
        self.source, self.progress = source, Progress(source.blob.renew)

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read rows."""
        source, blob = self.source, self.source.blob
        futures = [blob.fetch(*part) for part in source.ranges(start, stop)]
        for future in futures:
            future.add_done_callback(lend(self.progress.touch))

        def finish(results: list[Any]) -> None:
            data = [blob.bytes_of(result) for result in results]
            stored = np.frombuffer(data[0] if len(data) == 1 else b"".join(data), source.place.dtype)
            _put(source.packing, stored.reshape(out.shape), out)

        return Read(futures, finish, Asked(source.name, (start, stop)), blob.timeout, self.progress,
                    source.bytes_of(start, stop, box))  # fmt: skip

    def close(self) -> None:
        """Nothing is held."""


class _Chunked:
    """Chunks by their table."""

    def __init__(self, source: RangeSource) -> None:
        self.source, self.progress = source, Progress(source.blob.renew)
        self.table = source.table()
        self.grid = Chunks(self.table, source.order)

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read rows."""
        table, blob = self.table, self.source.blob
        cells = self.grid.cells(start, stop)
        absent = cells[table.offsets[cells] < 0]
        cells = cells[table.offsets[cells] >= 0]
        offsets, sizes = table.offsets[cells], table.sizes[cells]
        groups = join(offsets, sizes)
        firsts = [int(offsets[group].min()) for group in groups]
        ends = [int((offsets + sizes)[group].max()) for group in groups]
        futures = [blob.fetch(first, end) for first, end in zip(firsts, ends, strict=True)]
        for future in futures:
            future.add_done_callback(lend(self.progress.touch))

        def finish(results: list[Any]) -> None:
            for cell in absent:  # never written: HDF5 says what that means
                shape = tuple(part.stop - part.start for part in self.grid.box(int(cell)))
                self._place(int(cell), np.full(shape, table.fill_value, table.dtype), start, stop, out)
            for group, first, result in zip(groups, firsts, results, strict=True):
                data = memoryview(blob.bytes_of(result))
                for position in group.tolist():
                    cell, at = int(cells[position]), int(offsets[position]) - first
                    stored = data[at : at + int(sizes[position])]
                    values = decode_chunk(table, stored, int(table.masks[cell]), self._name(cell))
                    self._place(cell, values, start, stop, out)

        size = self.source.bytes_of(start, stop, box)
        return Read(
            futures, finish, Asked(self.source.name, (start, stop)), blob.timeout, self.progress, size
        )

    def _name(self, cell: int) -> Any:
        def name() -> str:
            rows = self.grid.box(cell)[self.source.order[0]]
            first, size = int(self.table.offsets[cell]), int(self.table.sizes[cell])
            return (
                f"{self.source.name!r}, rows {rows.start}–{rows.stop - 1}, bytes {first}–{first + size - 1}"
            )

        return name

    def _place(self, cell: int, chunk: np.ndarray, start: int, stop: int, out: np.ndarray) -> None:
        """Copy what of a chunk lies in the rows."""
        order = self.source.order
        box = self.grid.box(cell)
        inside = chunk[tuple(slice(0, part.stop - part.start) for part in box)].transpose(order)
        first, end = max(box[order[0]].start, start), min(box[order[0]].stop, stop)
        begin = box[order[0]].start
        target = out[(slice(first - start, end - start), *(box[dim] for dim in order[1:]))]
        _put(self.source.packing, inside[first - begin : end - begin], target)

    def close(self) -> None:
        """Let go of the table."""


def _put(values: Packing | None, stored: np.ndarray, out: np.ndarray) -> None:
    if values is None:
        out[...] = stored
    else:
        values.unpack(stored, out)
