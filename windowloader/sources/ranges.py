"""Arrays that lie in one remote object as plain bytes: ``.npy``, raw, and HDF5/netCDF4 by their chunk table.

In: a URL, or an object and where the array lies in it. Out: `RangeSource`, which asks for the byte ranges that rows lie
in, near ones joined. Never reads a file whole, never through a file object; opening reads no values.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import digest
from .box import chunk_edges
from .disk_cache_state import address_of
from .failures import Asked
from .hdf5table import decode_chunk, read_groups
from .processes import PerProcess
from .reads import Progress, Read, lend
from .remote import RemoteSource
from .remote_objects import GAP, PART, join
from .storage import Storage

if TYPE_CHECKING:
    from .box import Box
    from .hdf5table import Table
    from .packing import Packing
    from .reads import Pending
    from .remote_objects import RemoteObject

__all__ = ["RangeSource"]


class RangeSource(RemoteSource):
    """An array in one object, read by byte ranges.

    Parameters
    ----------
    blob : RemoteObject
        The object.
    stored : numpy.dtype
        As stored.
    offset : int
        Of the first value, where the array has no chunks.
    variable : str
        Path in an HDF5 file.
    values : Packing or None
        How stored numbers become values.
    table : Table or None
        Where the chunks lie.
    **described
        Shape, axes, chunks and so on, as for `Source`.
    """

    def __init__(
        self,
        blob: RemoteObject,
        stored: np.dtype,
        *,
        offset: int = 0,
        variable: str = "",
        values: Packing | None = None,
        table: Table | None = None,
        **described: Any,
    ) -> None:
        name = f"{blob.name}/{variable.strip('/')}" if variable else blob.name
        super().__init__(name, dtype=values.dtype if values else stored, **described)
        self.blob, self.variable, self.packing = blob, variable, values
        self.stored, self.offset = stored, offset
        self.identity = blob.identity()
        self.row_bytes = math.prod(self.shape[1:]) * stored.itemsize  # before it is compressed
        self._progress: PerProcess[Progress] = PerProcess()
        self._table: PerProcess[Table] = PerProcess()
        if table is not None:
            self._table.get(lambda: table)

    def table(self) -> Table:
        """Where the chunks lie; read again in another process, so that a pickle stays small."""
        return self._table.get(self._read_table)

    def _read_table(self) -> Table:
        from .hdf5_dataset import open_file, told
        from .hdf5table import table_of

        with open_file(self.blob) as file, told(self.name, file, self.blob):
            return table_of(file[self.variable])

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

    def _ranges(self, start: int, stop: int, chunks: Any) -> list[tuple[int, int, list[int]]]:
        """Where rows lie: beginning and end of each request, and which of the chunks it holds."""
        if chunks is None:
            first, end = (self.offset + row * self.row_bytes for row in (start, stop))
            return [(at, min(at + PART, end), []) for at in range(first, end, PART)]
        _, offsets, sizes, _ = chunks
        written = np.flatnonzero(offsets >= 0)
        groups = [written[group] for group in join(offsets[written], sizes[written])]
        ends = offsets + sizes
        return [(int(offsets[group].min()), int(ends[group].max()), group.tolist()) for group in groups]

    def _chunks(self, start: int, stop: int) -> tuple[Any, ...] | None:
        """Origins, in the stored array, of the chunks that hold rows; their offsets, sizes and masks."""
        if self.chunks is None:
            return None
        table, rows = self.table(), self.order[0]
        grid = [range(0, size, chunk) for size, chunk in zip(table.shape, table.chunks or (), strict=True)]
        part = [slice(None)] * len(grid)
        part[rows] = slice(start // grid[rows].step, -(-stop // grid[rows].step))
        origins = list(itertools.product(*(axis[some] for axis, some in zip(grid, part, strict=True))))
        shape = [len(axis) for axis in grid]
        found = (table.offsets, table.sizes, table.masks)
        return origins, *(values.reshape(shape)[tuple(part)].ravel() for values in found)

    def address(self) -> str:
        """Endpoint of its bucket, and the query of its URL."""
        return "" if self.blob.location is None else address_of(self.blob.location)

    def fingerprint(self) -> str:
        """Short text that changes when the object does."""
        return digest(self.shape, str(self.dtype), self.axes, self.identity)

    def _submit(self, start: int, stop: int, out: np.ndarray, box: Box | None) -> Pending:
        blob, progress = self.blob, self._progress.get(lambda: Progress(self.blob.renew))
        chunks = self._chunks(start, stop)
        ranges = self._ranges(start, stop, chunks)
        futures = [blob.fetch(first, end) for first, end, _ in ranges]
        for future in futures:
            future.add_done_callback(lend(progress.touch))

        def finish(results: list[Any]) -> None:
            data = [blob.bytes_of(result) for result in results]
            if chunks is None:
                self._put(np.frombuffer(b"".join(data), self.stored).reshape(out.shape), out)
            else:
                self._put_chunks(chunks, zip(ranges, data, strict=True), start, stop, out)

        asked = Asked(self.name, (start, stop))
        return Read(futures, finish, asked, blob.timeout, progress, self.bytes_of(start, stop, box))

    def _put_chunks(self, chunks: Any, parts: Any, start: int, stop: int, out: np.ndarray) -> None:
        """Copy what of each chunk lies in the rows."""
        table, (origins, offsets, sizes, masks) = self.table(), chunks

        def put(at: int, chunk: np.ndarray) -> None:
            row, *rest = [origins[at][dim] for dim in self.order]
            inside = chunk.transpose(self.order)[max(start - row, 0) : stop - row]
            place = (max(row - start, 0), *rest)
            target = out[tuple(slice(low, low + size) for low, size in zip(place, inside.shape, strict=True))]
            self._put(inside[tuple(map(slice, target.shape))], target)  # a chunk may reach beyond the array

        for at in np.flatnonzero(offsets < 0).tolist():  # never written: HDF5 says what that means
            put(at, np.full(table.chunks or (), table.fill_value, table.dtype))
        for (first, _, group), data in parts:
            for at in group:
                begin, size, row = int(offsets[at]), int(sizes[at]), origins[at][self.order[0]]
                stored = memoryview(data)[begin - first :][:size]
                last = min(row + (self.chunks or (1,))[0], self.shape[0]) - 1
                where = f"{self.name!r}, rows {row}–{last}, bytes {begin}–{begin + size - 1}"
                put(at, decode_chunk(table, stored, int(masks[at]), partial(str, where)))

    def _put(self, stored: np.ndarray, out: np.ndarray) -> None:
        if self.packing is None:
            out[...] = stored
        else:
            self.packing.unpack(stored, out)
