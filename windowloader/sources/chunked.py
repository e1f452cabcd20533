"""Zarr 2 and 3 (sharded too), wherever they are: described by zarr-python and xarray, read by TensorStore.

In: a path, URL or object of zarr-python, and ``storage_options``. Out: `ChunkedSource`, many chunks at once, straight
into the caller's array; where TensorStore does not have the store, `ZarrSource`. Never keeps chunks; what is kept how
long is the plan's.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.axes import check_axes, default_axes
from windowloader.errors import SourceChangedError, SourceFormatError

from .base import Described, Source, digest
from .failures import Asked
from .handles import bytes_on_disk
from .mirror_state import place_of, state_of
from .options import scheme_of
from .packing import Packing, delivered, packing
from .processes import tensorstore
from .reads import Progress, Read, lend
from .remote import Opened, RemoteSource
from .traffic import zarr_codecs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import Description
    from .box import Box
    from .options import Location
    from .reads import Pending
    from .zarr_contents import ZarrContents

__all__ = ["ArrayInfo", "ChunkedSource", "is_chunked", "list_arrays", "open_chunked"]

SUFFIXES = (".zarr", ".zarr2", ".zarr3")
SHARD_CACHE = 16 << 20  # keeps indices of shards, which would be fetched again for every read


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """How one array lies in its store.

    Parameters
    ----------
    path : str
        Below the place that was opened; empty where that is the array.
    driver : str
        ``zarr`` or ``zarr3``: TensorStore's words.
    shape : tuple of int
    dtype : numpy.dtype
        As delivered, native byte order.
    chunks : tuple of int
        What is read at once: the inner chunk of a shard.
    shards : tuple of int or None
        What is one object where that is larger than a chunk.
    itemsize : int
        Bytes of a stored number.
    exact : bool
        Whether a chunk's stored size is known: nothing is compressed.
    dims : tuple of str or None
        Names of dimensions, that of time called so.
    identity : str
        Changes when the metadata do.
    fill_value : number or None
        What cells hold that were never written.
    """

    path: str
    driver: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    itemsize: int = 0
    exact: bool = False
    dims: tuple[str, ...] | None = None
    identity: str = ""
    fill_value: Any = None

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk as decoded; with `exact`, about as stored."""
        return math.prod(self.chunks) * self.itemsize


class ChunkedSource(RemoteSource):
    """One array of a Zarr store, read by TensorStore; by zarr-python where that does not know its codec.

    Parameters
    ----------
    location : Location
        Of the store.
    array : ArrayInfo
        Of the array in it.
    axes : str
        Letters of the stored shape.
    coordinates : Description
        Labels and timestamps.
    values : Packing or None
        How stored numbers become values.
    fill_missing : bool
        Whether absent chunks mean the fill value; else they are an error.

    Examples
    --------
    >>> import tempfile, zarr
    >>> folder = tempfile.mkdtemp() + "/speed.zarr"
    >>> zarr.save_array(folder, np.arange(24, dtype="f4").reshape(6, 4), zarr_format=3)
    >>> source = open_chunked(folder)
    >>> source.axes, source.shape, source.dtype
    ('tn', (6, 4), dtype('float32'))
    >>> rows = np.empty((2, 4), "f4")
    >>> taken = source.read(1, 3, rows)
    >>> rows[0]
    array([4., 5., 6., 7.], dtype=float32)
    """

    boxes = "indices"
    padded = True

    def __init__(
        self,
        location: Location,
        array: ArrayInfo,
        *,
        axes: str,
        coordinates: Description,
        values: Packing | None,
        fill_missing: bool,
    ) -> None:
        where = location.child(array.path)
        super().__init__(
            where.url,
            shape=array.shape,
            dtype=values.dtype if values else array.dtype,
            axes=axes,
            dims=array.dims,
            chunks=array.chunks,
            description=coordinates,
        )
        self.location, self.info = where, array
        self.stored_itemsize = array.itemsize
        self.shards = array.shards and tuple(array.shards[dim] for dim in self.order)
        self.packing = values
        self.fill_value = delivered(values, array.dtype, array.fill_value)
        self.fill_missing = fill_missing
        default = SHARD_CACHE if array.shards else 0
        self.cache_bytes = default if location.cache_bytes is None else location.cache_bytes

    def fingerprint(self) -> str:
        """Short text that changes when the metadata do, or, on this machine, a chunk in the array's own folder."""
        return digest(self.shape, str(self.dtype), self.axes, self.info.identity, [])

    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the array in its store."""
        return dict(self.stored().attrs)

    def codecs(self) -> list[str]:
        """Names of its codecs, within shards."""
        return zarr_codecs(self.stored())

    def stored_bytes(self) -> int | None:
        """Bytes of its folder, on this machine."""
        return None if self.location.local is None else bytes_on_disk(str(self.location.local))

    def address(self) -> str:
        """Endpoint of its bucket, and the query of its URL."""
        return place_of(self.location)

    def state(self) -> str:
        """Versions of some chunks."""
        return state_of(self.location, self.info)

    def stored(self, *, whole: bool = False) -> Any:
        """Return the array as zarr-python has it open; with ``whole``, absent chunks are errors."""
        from .fallback import open_array
        from .kvzarr import store_of

        return open_array(store_of(self.location), "", self.name, self.info.driver, whole=whole)

    def _open(self) -> Opened:
        try:
            return _Store(self)
        except SourceFormatError:  # a codec, filter or option of a codec that TensorStore does not have
            from .fallback import ZarrRows

            return ZarrRows(self)

    def rows_of_chunk(self, indices: tuple[int, ...]) -> str:
        """Rows that a chunk or shard holds, for messages."""
        grid = self.info.shards or self.info.chunks
        if len(indices) != len(grid):
            return ""
        first = indices[self.order[0]] * grid[self.order[0]]
        return f"rows {first}–{min(first + grid[self.order[0]], self.shape[0]) - 1}"


class _Store:
    """A `ChunkedSource` as this process has it open."""

    def __init__(self, source: ChunkedSource) -> None:
        from .zarr_contents import open_tensorstore

        self.source = source
        self.ts = tensorstore(source.name)
        self.progress = Progress(self.renew)
        form = 3 if source.info.driver == "zarr3" else 2
        store = open_tensorstore(
            source.location, form, fill_missing=source.fill_missing, cache_bytes=source.cache_bytes
        )
        self.stored = self._checked(store)
        self.boxed: tuple[Box | None, Any] = (None, self._arranged(None))

    def _checked(self, store: Any) -> Any:
        info = self.source.info
        if tuple(store.shape) != info.shape:
            raise SourceChangedError(
                f"{self.source.name!r} had shape {info.shape} when it was opened and has {tuple(store.shape)} now; "
                "open it again."
            )
        stored = self.source.packing is None and store.dtype.numpy_dtype != self.source.dtype
        return self.ts.cast(store, self.source.dtype) if stored else store

    def _arranged(self, box: Box | None) -> Any:
        """Select, then bring the rows to the front."""
        store, order = self.stored, self.source.order
        for dim, part in zip(order[1:], box or (), strict=False):
            if isinstance(part, slice):
                store = store[self.ts.d[dim][part]][self.ts.d[dim].translate_to[0]]
            else:
                store = store[self.ts.d[dim].oindex[part]]
        return store[self.ts.d[tuple(order)].transpose[:]]

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read rows into ``out``, without a copy between where stored numbers are the values."""
        boxed = self.boxed
        if boxed[0] is not box:  # whoever reads a part asks for the same one each time
            self.boxed = boxed = (box, self._arranged(box))
        view = boxed[1][start:stop][self.ts.d[0].translate_to[0]]
        values = self.source.packing
        into = out if values is None else np.empty(out.shape, self.stored.dtype.numpy_dtype)
        future = self.ts.array(lend(into[...])).write(view)
        future.add_done_callback(lend(self.progress.touch))
        finish = None if values is None else lambda _: values.unpack(into, out)
        asked = Asked(self.source.name, (start, stop), self.source.rows_of_chunk)
        size = self.source.bytes_of(start, stop, box)
        return Read([future], finish, asked, self.source.location.timeout, self.progress, size)

    def renew(self) -> None:
        """Have the source opened anew for its next read; what is under way stays with this store."""
        self.source._process.drop(self)
        self.source.location.renew(cache_bytes=self.source.cache_bytes)

    def close(self) -> None:
        """Let go of the store; reads under way keep what they need."""
        self.stored, self.boxed = None, (None, None)


def open_chunked(
    target: Any,
    *,
    variable: str | None = None,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    fill_missing: bool = False,
    mask_and_scale: bool = True,
) -> Source:
    """Open one array of a Zarr store.

    Parameters
    ----------
    target : str, path, or zarr Store, Group or Array
        The store, a group in it, or the array; what TensorStore lacks is read through zarr-python and fsspec.
    variable : str, optional
        Path of the array below it; needed where several have a time axis.
    axes : str, optional
        Letters of the stored shape; default: by dimension names, else ``tn`` or ``tnf``.
    storage_options : mapping, optional
        See `windowloader.sources.options.locate`; for other schemes, fsspec's.
    fill_missing : bool
        Whether absent chunks mean the fill value (sparse stores); else they are an error.
    mask_and_scale : bool
        Whether ``scale_factor``, ``add_offset`` and ``_FillValue`` are applied, as xarray does.

    Returns
    -------
    Source

    Raises
    ------
    SourceNotFoundError, CredentialsError, SourceTimeoutError, SourceError
        By what the storage says.
    SourceFormatError
        Where no array, or more than one, is meant.
    AxesError
        Where axes cannot be told from the dimension names.

    Examples
    --------
    >>> import zarr
    >>> store = zarr.storage.MemoryStore()
    >>> array = zarr.create_array(store, name="speed", data=np.arange(6.0).reshape(3, 2))
    >>> source = open_chunked(store, variable="speed")
    >>> rows = np.empty((1, 2))
    >>> taken = source.read(2, 3, rows)
    >>> rows
    array([[4., 5.]])
    """
    from .zarr_contents import ZarrContents, dimensions, place_of

    contents = ZarrContents.of(place_of(target, storage_options), variable)
    path = contents.choose(variable)
    if not path and dimensions(contents.arrays[""]):
        above, name = contents.place.parent(contents.form)  # its coordinates lie beside it, if anywhere
        beside = ZarrContents.of(above, name) if name else contents
        path, contents = (name, beside) if len(beside.arrays) > 1 else (path, contents)
    return _source(contents, path, axes=axes, fill_missing=fill_missing, mask_and_scale=mask_and_scale)


def _source(
    contents: ZarrContents, path: str, *, axes: str | None, fill_missing: bool, mask_and_scale: bool
) -> RemoteSource:
    from .coordinates import dimension_names, time_dimension
    from .description import StoreDescription
    from .fallback import ZarrSource
    from .zarr_contents import attributes_of, dimensions

    place, array = contents.place, contents.arrays[path]
    dims = dimensions(array)
    coordinates: Description = Described()
    if contents.described(path):
        described = contents.array(path)
        dims = dimension_names(described)
        coordinates = StoreDescription(place, path, time_dimension(described, axes))
    info = _info(contents, path, dims)
    name = f"{place.name}/{path}".rstrip("/")
    letters = axes or default_axes(len(info.shape), dims, name, info.shape)
    check_axes(letters, len(info.shape), name=name, need_time=False)
    values = packing(info.dtype, attributes_of(array)) if mask_and_scale else None
    if place.location is None:
        return ZarrSource(
            place, info, axes=letters, coordinates=coordinates, values=values, fill_missing=fill_missing
        )
    return ChunkedSource(
        place.location, info, axes=letters, coordinates=coordinates, values=values, fill_missing=fill_missing
    )


def _info(contents: ZarrContents, path: str, dims: tuple[str, ...] | None) -> ArrayInfo:
    """Describe how an array lies, by zarr-python's own metadata."""
    array = contents.arrays[path]
    kinds = {type(codec).__name__ for codec in (*array.filters, *array.compressors)}
    return ArrayInfo(
        path,
        "zarr3" if contents.form == 3 else "zarr",
        tuple(array.shape),
        contents.dtype(path),
        tuple(array.chunks),
        array.shards and tuple(array.shards),
        array.dtype.itemsize,
        kinds <= {"TransposeCodec", "Crc32cCodec"},
        dims,
        contents.identity(path),
        array.fill_value,
    )


def is_chunked(target: str | os.PathLike[str]) -> bool:
    """Whether a path or URL is meant for this module: told by its name, and on this machine by its metadata.

    Examples
    --------
    >>> is_chunked("s3://bucket/store.zarr/speed"), is_chunked("gs://bucket/era5"), is_chunked("s3://b/x.npy")
    (True, True, False)
    """
    path = PurePosixPath(str(target).partition("://")[2].partition("?")[0] or str(target))
    if any(part.lower().endswith(SUFFIXES) for part in path.parts):
        return True
    if scheme_of(target) in ("", "file", "local"):
        folder = Path(str(target).removeprefix("file://").removeprefix("local://")).expanduser()
        return any(
            os.path.isfile(folder / name) for name in ("zarr.json", ".zarray", ".zgroup", ".zmetadata")
        )
    return not path.suffix


def list_arrays(target: Any, storage_options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Return paths of the arrays of numbers along time in a store; () where the store is one array.

    Parameters
    ----------
    target : str, path, or zarr Store, Group or Array
        The store.
    storage_options : mapping, optional
        See `windowloader.sources.options.locate`.

    Returns
    -------
    tuple of str
    """
    from .zarr_contents import ZarrContents, place_of

    contents = ZarrContents.of(place_of(target, storage_options))
    return () if contents.single else contents.variables()
