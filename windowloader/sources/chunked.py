"""Zarr 2 and 3 (sharded too), wherever they are: described by zarr-python and xarray, read by TensorStore.

In: a path, URL or object of zarr-python, and ``storage_options``. Out: `ZarrSource`, many chunks at once, straight
into the caller's array; read by zarr-python where TensorStore does not have the store or a codec, slower by a factor
of 1 to 10. Never keeps chunks; what is kept how long is the plan's.
"""

from __future__ import annotations

import itertools
import os
import warnings
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.errors import SourceFormatError
from windowloader.util.axes import check_dtype

from .base import Source, digest
from .coordinates import dimension_names, time_dimension
from .description import StoreDescription
from .disk_cache_state import address_of, state_of
from .failures import Asked, explained
from .handles import bytes_on_disk
from .options import scheme_of
from .packing import delivered, packing
from .processes import PerProcess, tensorstore
from .ranges import RemoteSource, put
from .reads import Progress, Read, lend
from .remote_objects import pool, renew_pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .options import Location
    from .reads import Pending
    from .storage import Box
    from .zarr_contents import ZarrContents

__all__ = ["ZarrSource", "is_chunked", "list_arrays", "open_chunked"]

SUFFIXES = (".zarr", ".zarr2", ".zarr3")
SHARD_CACHE = 16 << 20  # holds indices of shards, which would be fetched again for every read
AT_ONCE, PIECES = 10, 16  # chunks that zarr-python asks for at a time, and reads at a time at most
TIMEOUT = 300.0  # zarr-python and what lies below have their own retries


class ZarrSource(RemoteSource):
    """One array of a Zarr store, read by TensorStore; by zarr-python where that does not know the store or a codec.

    Parameters
    ----------
    contents : ZarrContents
        What holds the array.
    path : str
        Of the array in it.
    axes : str or None
        Letters of the stored shape.
    fill_missing, mask_and_scale : bool
        See `open_chunked`.

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
        self, contents: ZarrContents, path: str, *, axes: str | None, fill_missing: bool, mask_and_scale: bool
    ) -> None:
        raw, stored, array = contents.raw(path), contents.arrays[path], contents.array(path)
        name, place = f"{contents.name}/{path}".rstrip("/"), contents.place
        dtype, named = check_dtype(raw.dtype, name), not any("phony_dim_" in str(dim) for dim in raw.dims)
        self.packing = packing(dtype, raw.attrs) if mask_and_scale else None
        super().__init__(
            name,
            shape=raw.shape,
            dtype=self.packing.dtype if self.packing else dtype,
            axes=axes,
            dims=dimension_names(array) if named else contents.dimensions(path),
            chunks=stored.chunks,
            description=StoreDescription(place, path, time_dimension(array, axes)),
        )
        self._process: PerProcess[_TensorStoreRows | _ZarrRows] = PerProcess()
        self.node, self.identity, self.fill_missing = place.node / path, contents.identity(path), fill_missing
        self.location: Location | None = place.location and place.location.child(path)
        self.fill_value = delivered(self.packing, dtype, stored.fill_value)
        self.names = _codecs(stored)
        self.stored_itemsize, self.driver = stored.dtype.itemsize, contents.driver(path)
        self.stored_shape, self.stored_chunks = raw.shape, stored.chunks
        self.objects: tuple[int, ...] = stored.shards or stored.chunks  # what has a key, in the stored order
        self.shards = stored.shards and tuple(stored.shards[dim] for dim in self.order)
        if self.location is not None:
            default = SHARD_CACHE if stored.shards else 0
            self.cache_bytes = default if self.location.cache_bytes is None else self.location.cache_bytes

    def fingerprint(self) -> str:
        """Short text that changes when the metadata do, or a snapshot; on this machine, a chunk in its own folder."""
        snapshot = getattr(getattr(self.node.store, "session", None), "snapshot_id", "")
        return digest(self.shape, str(self.dtype), self.axes, self.identity, str(snapshot))

    def codecs(self) -> list[str]:
        """Names of its codecs, within shards."""
        return self.names

    def stored_bytes(self) -> int | None:
        """Bytes of its folder, on this machine."""
        return bytes_on_disk(str(self.location.local)) if self.location and self.location.local else None

    def address(self) -> str:
        """Endpoint of its bucket, and the query of its URL."""
        return address_of(self.location) if self.location else ""

    def state(self) -> str:
        """Versions of some chunks."""
        return state_of(self.location, self.driver, self.stored_shape, self.objects) if self.location else ""

    def _submit(self, start: int, stop: int, out: np.ndarray, box: Box | None) -> Pending:
        return self._process.get(self._open).submit(start, stop, out, box)

    def _open(self) -> _TensorStoreRows | _ZarrRows:
        if self.location is not None:
            with suppress(SourceFormatError):  # a codec, filter or option that TensorStore does not have
                return _TensorStoreRows(self, self.location)
        return _ZarrRows(self)

    def close(self) -> None:
        """Release handles; a later read opens them again."""
        self._process.drop()

    def rows_of_chunk(self, indices: tuple[int, ...]) -> str:
        """Rows that a chunk or shard holds, for messages."""
        if len(indices) != len(self.objects):
            return ""
        rows = self.objects[self.order[0]]
        first = indices[self.order[0]] * rows
        return f"rows {first}–{min(first + rows, self.shape[0]) - 1}"


class _TensorStoreRows:
    """A source as this process has it open by TensorStore."""

    def __init__(self, source: ZarrSource, location: Location) -> None:
        from .zarr_contents import open_tensorstore

        self.source, self.location, self.ts = source, location, tensorstore(source.name)
        self.progress = Progress(self.renew)
        grids = source.stored_shape, source.stored_chunks, source.objects
        how: Any = {"fill_missing": source.fill_missing, "cache_bytes": source.cache_bytes}
        store = open_tensorstore(location, source.driver, grids, **how)
        if source.packing is None and store.dtype.numpy_dtype != source.dtype:
            store = self.ts.cast(store, source.dtype)
        self.stored = store[self.ts.d[source.order].transpose[:]]
        self.boxed: tuple[Box | None, Any] = (None, self.stored)

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read rows into ``out``, without a copy if stored numbers are the values."""
        boxed = self.boxed
        if boxed[0] is not box:  # callers pass the same box each time
            part = self.stored.oindex[(slice(None), *(box or ()))][self.ts.d[:].translate_to[0]]
            self.boxed = boxed = (box, part)
        view = boxed[1][start:stop][self.ts.d[0].translate_to[0]]
        values = self.source.packing
        into = out if values is None else np.empty(out.shape, self.stored.dtype.numpy_dtype)
        future = self.ts.array(lend(into[...])).write(view)
        future.add_done_callback(lend(self.progress.touch))
        finish = None if values is None else lambda _: values.unpack(into, out)
        asked = Asked(self.source.name, (start, stop), self.source.rows_of_chunk)
        size = self.source.bytes_of(start, stop, box)
        return Read([future], finish, asked, self.location.timeout, self.progress, size)

    def renew(self) -> None:
        """Open the source anew for its next read; reads under way keep this store."""
        self.source._process.drop(self)
        self.location.renew(cache_bytes=self.source.cache_bytes)


class _ZarrRows:
    """A source as this process has it open by zarr-python."""

    def __init__(self, source: ZarrSource) -> None:
        import zarr

        from .bounded import bounded
        from .zarr_stores import CompleteStore, check_grids

        self.source, self.progress = source, Progress(renew_pool)
        node = source.node
        store = node.store if source.fill_missing else CompleteStore(node.store, source.name)
        form: Literal[2, 3] = 3 if source.driver == "zarr3" else 2  # references refuse keys of the other
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # codecs that the format does not settle
            self.array = explained(
                Asked(source.name),
                lambda: bounded(zarr.open_array(store, path=node.path, mode="r", zarr_format=form)),
            )
        grids = source.stored_shape, source.stored_chunks, source.objects
        found = self.array.shape, self.array.chunks, self.array.shards or self.array.chunks
        check_grids(source.name, grids, found)

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read rows: those of many chunks in several pieces, as zarr-python asks for ten chunks at a time."""
        source = self.source
        chunk = source.stored_chunks[source.order[0]]
        edges = [start, *range((start // chunk + 1) * chunk, stop, chunk)]
        requests = int(source.storage(box).cost([start], [stop]).requests[0])
        pieces = min(len(edges), PIECES, -(-requests // AT_ONCE))
        futures = [
            pool().submit(self._read, first, end, out[first - start : end - start], box)
            for first, end in itertools.pairwise([*edges[:: -(-len(edges) // pieces)], stop])
        ]
        for future in futures:
            future.add_done_callback(self.progress.touch)
        size = source.bytes_of(start, stop, box)
        return Read(futures, None, Asked(source.name, (start, stop)), TIMEOUT, self.progress, size)

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None) -> None:
        order = self.source.order
        parts = dict(zip(order, (slice(start, stop), *(box or ())), strict=False))
        index = tuple(parts.get(dim, slice(None)) for dim in range(len(order)))
        rows = np.asarray(self.array.oindex[index]).transpose(order)
        put(self.source.packing, rows, out)


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
        Path of the array below it; needed if several have a time axis.
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
        Depending on the error of the storage.
    SourceFormatError
        If no array, or more than one, is meant.
    AxesError
        If axes cannot be derived from the dimension names.

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
    from .zarr_contents import ZarrContents, place_of

    contents = ZarrContents.of(place_of(target, storage_options), variable)
    if not (path := contents.choose(variable)):
        path, contents = contents.beside()
    return ZarrSource(contents, path, axes=axes, fill_missing=fill_missing, mask_and_scale=mask_and_scale)


def is_chunked(target: str | os.PathLike[str]) -> bool:
    """Whether a path or URL is a Zarr store by its name, or on this machine by its metadata.

    Examples
    --------
    >>> is_chunked("s3://bucket/store.zarr/speed"), is_chunked("gs://bucket/era5"), is_chunked("s3://b/x.npy")
    (True, True, False)
    """
    text = os.fspath(target)
    path = PurePosixPath(text.partition("://")[2].partition("?")[0] or text)
    if any(part.lower().endswith(SUFFIXES) for part in path.parts):
        return True
    if scheme_of(target) in ("", "file", "local"):
        folder = Path(text.removeprefix("file://").removeprefix("local://")).expanduser()
        return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup", ".zmetadata"))
    return not path.suffix


def list_arrays(
    target: Any, storage_options: Mapping[str, Any] | None = None, names: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return paths of the arrays of numbers along time in a store; () if the store is one array.

    Parameters
    ----------
    target : str, path, or zarr Store, Group or Array
        The store.
    storage_options : mapping, optional
        See `windowloader.sources.options.locate`.
    names : sequence of str
        Arrays that are known: nothing else is looked for.

    Returns
    -------
    tuple of str
    """
    if names:
        return tuple(names)
    from .zarr_contents import ZarrContents, place_of

    contents = ZarrContents.of(place_of(target, storage_options))
    return () if contents.single else contents.variables()


def _codecs(array: Any) -> list[str]:
    """Return the names of the codecs of an array of zarr-python, of those within its shards if it has some."""
    if array.metadata.zarr_format == 2:
        found = [codec.get_config() for codec in (*array.filters, *array.compressors)]
    else:
        chain = [codec.to_dict() for codec in (*array.filters, array.serializer, *array.compressors)]
        found = [{"id": one["name"], **one.get("configuration", {})} for one in chain]
    return [f"{one['id']}:{one['cname']}" if "cname" in one else one["id"] for one in found]
