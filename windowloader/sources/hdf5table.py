"""Where in an HDF5 or netCDF4 object the bytes of one array lie: h5py reads the metadata once.

In: an object by byte range. Out: `Table`: shape, dtype, filters, and offset and size of every chunk. Never reads
values through h5py.
"""

from __future__ import annotations

import math
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.axes import TIME_NAMES
from windowloader.errors import CorruptDataError, SourceFormatError, WindowLoaderError

from .base import optional, unknown_variable
from .blobs import BlobFile, get
from .bounded import inflate
from .cf import is_time
from .frame_hdf5 import holds_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .blobs import Blob

__all__ = ["Table", "decode_chunk", "read_table"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
GZIP, SHUFFLE, FLETCHER = 1, 2, 3  # numbers of HDF5's own filters
HEAD = 64
MOST = 1 << 24  # chunks of which a table is made
CHECKSUMS = 64  # bytes that filters may add to a chunk before it is compressed


@dataclass(frozen=True, slots=True)
class Table:
    """One array of the file.

    Parameters
    ----------
    path : str
        In the file.
    shape : tuple of int
    dtype : numpy.dtype
        As stored.
    dims : tuple of str or None
    attributes : mapping
    chunks : tuple of int or None
        None: contiguous, at `offset`.
    offset : int
        Of a contiguous array.
    filters : tuple of int
        As applied when written.
    fill_value : object
        Of chunks that were never written.
    offsets, sizes, masks : ndarray, int64
        By chunk, in C order of the grid; offset -1: never written.
    coordinates : mapping of int to (ndarray, mapping)
        Values and attributes of what labels a dimension.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    dims: tuple[str, ...] | None
    attributes: Mapping[str, Any]
    chunks: tuple[int, ...] | None
    offset: int
    filters: tuple[int, ...]
    fill_value: Any
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    masks: np.ndarray = field(repr=False)
    coordinates: Mapping[int, tuple[np.ndarray, Mapping[str, Any]]] = field(repr=False)


def end_of_file(blob: Blob) -> int:
    """Bytes of an HDF5 object as its superblock says: stores answer no question for the size alone."""
    base = 0
    while True:
        head = get(blob, base, base + HEAD)
        if head.startswith(SIGNATURE):
            break
        base = base * 2 or 512  # a user's block may stand before it
        if base > 1 << 20:
            raise SourceFormatError(f"{blob.name!r} is no HDF5 file: it has no HDF5 signature.")
    version = head[8]
    if version < 2:
        width, place = head[13], 24 + (4 if version == 1 else 0)
    else:
        width, place = head[9], 12
    end = place + 2 * width
    return int.from_bytes(head[end : end + width], "little")


def read_table(blob: Blob, variable: str | None) -> Table | None:
    """Read where an array lies.

    Parameters
    ----------
    blob : Blob
        The file.
    variable : str, optional
        Path of the array; needed where several are along time.

    Returns
    -------
    Table or None
        None for a frame of pandas, which is no single array.

    Raises
    ------
    SourceFormatError
        For filters that are not undone here, compact or virtual layouts, or an array that is not there.
    """
    h5py = optional("h5py", extra="hdf5", purpose=f"reading {blob.name!r}")
    with _opened(h5py, blob) as file:
        if holds_frame(file, variable):
            return None
        dataset = _choose(h5py, file, variable, blob.name)
        return _describe(h5py, dataset, blob.name)


@contextmanager
def _opened(h5py: Any, blob: Blob) -> Iterator[Any]:
    """Open the file; what h5py cannot make sense of is damage, what the store said is told as it was."""
    with BlobFile(blob, end_of_file(blob)) as raw:
        try:
            with h5py.File(raw, "r") as file:
                yield file
        except (WindowLoaderError, OSError, RuntimeError) as error:
            problem, raw.problem = raw.problem, None
            if isinstance(error, WindowLoaderError) and problem is None:
                raise
            # The frames of an error hold h5py's access list, and that list the file, unseen by the garbage
            # collector: were they kept, HDF5 would free the list after the interpreter has ended, and crash.
            damage = f"{blob.name!r} is damaged or not written to its end: h5py cannot read its metadata ({error})."
            raise _without_frames(problem or CorruptDataError(damage)) from None


def _without_frames(error: WindowLoaderError) -> WindowLoaderError:
    """Take from an error, and from what caused it, the frames they passed through."""
    links: list[BaseException] = [error]
    for link in links:
        link.__traceback__ = None
        links += [
            more for more in (link.__cause__, link.__context__) if more is not None and more not in links
        ]
    return error


def _candidates(h5py: Any, file: Any) -> list[str]:
    found: list[Any] = []
    file.visititems(lambda _, node: found.append(node) if isinstance(node, h5py.Dataset) else None)
    numbers = [node for node in found if node.dtype.kind in "fiub" and node.ndim and not node.is_scale]
    timed = [node for node in numbers if TIME_NAMES & {dim.lower() for dim in _dims(node) or ()}]
    chosen = timed or [node for node in numbers if node.ndim > 1]
    return [node.name.lstrip("/") for node in chosen]


def _choose(h5py: Any, file: Any, variable: str | None, name: str) -> Any:
    found = _candidates(h5py, file)
    if variable is None:
        if len(found) != 1:
            unknown_variable(name, None, found)
        return file[found[0]]
    if variable not in file or not isinstance(file[variable], h5py.Dataset):
        unknown_variable(name, variable, found)
    return file[variable]


def _dims(dataset: Any) -> tuple[str, ...] | None:
    if dataset.is_scale:
        own = str(dataset.name).rpartition("/")[2]
        return (own,) * int(dataset.ndim)
    names = []
    for dim in dataset.dims:
        label = dim.label or (dim[0].name.rpartition("/")[2] if len(dim) else "")
        names.append(label)
    return tuple(names) if names and all(names) else None


def _describe(h5py: Any, dataset: Any, name: str) -> Table:
    properties = dataset.id.get_create_plist()
    filters = tuple(properties.get_filter(number)[0] for number in range(properties.get_nfilters()))
    layout = properties.get_layout()
    strange = [number for number in filters if number not in (GZIP, SHUFFLE, FLETCHER)]
    if strange or layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED) or properties.get_external_count():
        reason = (
            f"its filters {strange} are not gzip, shuffle or fletcher32"
            if strange
            else "it is compact, virtual or external"
        )
        raise SourceFormatError(
            f"{name!r}: {dataset.name!r} cannot be read by byte ranges, because {reason}. Copy the file here, or "
            "convert it to Zarr with `windowloader convert`."
        )
    if dataset.dtype.kind not in "fiub":
        raise SourceFormatError(
            f"{name!r}: {dataset.name!r} holds {dataset.dtype}; windows are made of numbers."
        )
    dims = _dims(dataset)
    coordinates = _coordinates(dataset)
    if dims and not TIME_NAMES & {dim.lower() for dim in dims}:
        timed = [dim for dim, (_, attributes) in coordinates.items() if is_time(attributes)]
        dims = tuple("time" if timed == [dim] else text for dim, text in enumerate(dims))
    offsets, sizes, masks = _chunk_table(dataset)
    return Table(
        path=dataset.name,
        shape=tuple(dataset.shape),
        dtype=dataset.dtype,
        dims=dims,
        attributes={key: _plain(dataset.attrs[key]) for key in dataset.attrs if key in _KEPT},
        chunks=dataset.chunks,
        offset=-1 if dataset.chunks else _offset(dataset, name),
        filters=filters,
        fill_value=dataset.fillvalue,
        offsets=offsets,
        sizes=sizes,
        masks=masks,
        coordinates=coordinates,
    )


_KEPT = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units", "calendar")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value[0] if isinstance(value, np.ndarray) and value.size == 1 else value


def _offset(dataset: Any, name: str) -> int:
    found = dataset.id.get_offset()
    if found is None:
        raise CorruptDataError(f"{name!r}: {dataset.name!r} was never written: no bytes are stored for it.")
    return int(found)


def _coordinates(dataset: Any) -> dict[int, tuple[np.ndarray, Mapping[str, Any]]]:
    found: dict[int, tuple[np.ndarray, Mapping[str, Any]]] = {}
    for number, dim in enumerate(dataset.dims):
        if len(dim) and dim[0].size == dataset.shape[number]:
            scale = dim[0]
            if b"This is a netCDF dimension but not a netCDF variable" in bytes(scale.attrs.get("NAME", b"")):
                continue
            values = scale.asstr()[...] if scale.dtype.kind == "O" else scale[...]
            found[number] = (values, {key: _plain(scale.attrs[key]) for key in scale.attrs if key in _KEPT})
    return found


def _chunk_table(dataset: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if dataset.chunks is None:
        return (np.empty(0, np.int64),) * 3
    grid = tuple(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if math.prod(grid) > MOST:
        raise CorruptDataError(
            f"{dataset.name!r} of shape {dataset.shape} has {math.prod(grid)} chunks of {dataset.chunks}; {MOST} "
            "are listed at most. If that is not damage, copy it into larger chunks."
        )
    offsets = np.full(grid, -1, np.int64)
    sizes, masks = np.zeros(grid, np.int64), np.zeros(grid, np.int64)

    def note(info: Any) -> None:
        cell = tuple(at // chunk for at, chunk in zip(info.chunk_offset, dataset.chunks, strict=True))
        offsets[cell], sizes[cell], masks[cell] = info.byte_offset, info.size, info.filter_mask

    dataset.id.chunk_iter(note)
    return offsets.reshape(-1), sizes.reshape(-1), masks.reshape(-1)


def decode_chunk(table: Table, stored: bytes | memoryview, mask: int, where: Callable[[], str]) -> np.ndarray:
    """Undo a chunk's filters.

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
    data: Any = stored
    size = int(np.prod(table.chunks or ())) * table.dtype.itemsize
    try:
        for number in range(len(table.filters) - 1, -1, -1):
            if mask >> number & 1:
                continue
            data = _UNDO[table.filters[number]](data, table.dtype.itemsize, size + CHECKSUMS)
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes instead of {size}")  # noqa: TRY301
        return np.frombuffer(data, table.dtype).reshape(table.chunks or ())
    except (zlib.error, ValueError) as error:
        raise CorruptDataError(
            f"{where()}: stored bytes are not what was written ({error}). Restore the file from its origin."
        ) from error


def _unzip(data: Any, itemsize: int, limit: int) -> Any:
    return inflate(data, limit)


def _unshuffle(data: Any, itemsize: int, limit: int) -> Any:
    flat = np.frombuffer(data, np.uint8)
    whole = len(flat) - len(flat) % itemsize
    mixed = flat[:whole].reshape(itemsize, -1).T.tobytes()
    return mixed + flat[whole:].tobytes()


def _unfletcher(data: Any, itemsize: int, limit: int) -> Any:
    body, stored = data[:-4], int.from_bytes(data[-4:], "little")
    if fletcher32(bytes(body)) != stored:
        raise ValueError("its Fletcher checksum does not fit")
    return body


def fletcher32(data: bytes) -> int:
    """HDF5's checksum of a chunk: two sums of big-endian 16-bit words, modulo 65535.

    Examples
    --------
    >>> hex(fletcher32(b"abcde"))
    '0x4ff029c7'
    """
    words = np.frombuffer(data[: len(data) & ~1], ">u2").astype(np.uint64)
    if len(data) & 1:
        words = np.append(words, np.uint64(data[-1] << 8))
    first = second = 0
    for part in range(0, len(words), 1 << 20):  # sums of weights stay within 64 bits
        piece = words[part : part + (1 << 20)]
        weights = np.arange(len(piece), 0, -1, dtype=np.uint64)
        second = (second + first * len(piece) + int((piece * weights).sum())) % 65535
        first = (first + int(piece.sum())) % 65535
    # HDF5 folds carries instead of dividing, which leaves 65535 where a division leaves 0.
    first, second = (total or (65535 if len(words) and words.any() else 0) for total in (first, second))
    return second << 16 | first


_UNDO: dict[int, Callable[[Any, int, int], Any]] = {GZIP: _unzip, SHUFFLE: _unshuffle, FLETCHER: _unfletcher}
