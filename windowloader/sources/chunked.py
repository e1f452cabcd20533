"""Zarr 2, Zarr 3 (sharded too) and N5, on this machine, in S3, in Google's store or behind a web server.

In: a path or URL and ``storage_options``. Out: `ChunkedSource`, read by TensorStore: many chunks at once, straight
into the caller's array. Never keeps chunks; what is kept how long is the plan's.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceChangedError, SourceFormatError

from .base import Source, digest
from .catalog import ArrayInfo, read_catalog
from .cf import Packing, packing
from .failures import Asked, explained
from .handles import bytes_on_disk
from .keys import keys_of
from .mirror_state import place_of, state_of
from .options import locate, scheme_of, supported
from .processes import forked_after_use, tensorstore
from .reads import Progress, Read, lend, wait
from .remote import Opened, RemoteSource
from .stored_axes import Coordinates, describe
from .traffic import zarr_attributes, zarr_codecs, zarr_storage

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from .box import Box
    from .options import Location
    from .reads import Pending
    from .storage import Storage

__all__ = ["ChunkedSource", "is_chunked", "list_arrays", "open_chunked"]

SUFFIXES = (".zarr", ".zarr2", ".zarr3", ".n5")
SHARD_CACHE = 16 << 20  # keeps indices of shards, which would be fetched again for every read


class ChunkedSource(RemoteSource):
    """One array of a Zarr or N5 store, read by TensorStore.

    Parameters
    ----------
    location : Location
        Of the store.
    array : ArrayInfo
        Of the array in it.
    axes : str
        Letters of the stored shape.
    coordinates : Coordinates
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

    def __init__(
        self,
        location: Location,
        array: ArrayInfo,
        *,
        axes: str,
        coordinates: Coordinates,
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
        self.location = where
        self.info = replace(array, attributes={})  # read already; a pickle stays small
        self.shards = array.shards and tuple(array.shards[dim] for dim in self.order)
        self.coordinates = coordinates
        self.packing = values
        self.fill_missing = fill_missing
        default = SHARD_CACHE if array.shards else 0
        self.cache_bytes = default if location.cache_bytes is None else location.cache_bytes

    def storage(self, box: Box | None = None) -> Storage:
        """Its grid of chunks, in shards where it has some; chunks without anything in the box are never read."""
        return zarr_storage(self, self.info, box)

    def fingerprint(self) -> str:
        """Short text that changes when the metadata do, or, on this machine, a chunk in the array's own folder."""
        return digest(self.shape, str(self.dtype), self.axes, self.info.identity, [])

    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the array in its store."""
        return zarr_attributes(self.coordinates.keys, self.info)

    def codecs(self) -> list[str]:
        """Names of its codecs, within shards."""
        return zarr_codecs(self.coordinates.keys, self.info)

    def stored_bytes(self) -> int | None:
        """Bytes of its folder, on this machine."""
        return None if self.location.local is None else bytes_on_disk(str(self.location.local))

    def url(self) -> str | None:
        """URL of the array."""
        return self.location.url

    def address(self) -> str:
        """Endpoint of its bucket, and the query of its URL."""
        return place_of(self.location)

    def state(self) -> str:
        """Versions of some chunks."""
        return "" if forked_after_use() else state_of(self.location, self.info)

    def _open(self) -> Opened:
        return _Store(self)

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
        self.source = source
        self.ts = tensorstore()
        self.progress = Progress(self.renew)
        info, location = source.info, source.location
        spec = {
            "driver": info.driver,
            "kvstore": location.store(),
            "recheck_cached_metadata": "open",
            "recheck_cached_data": "open",
            "fill_missing_data_reads": source.fill_missing,
        }
        context = location.resources(cache_bytes=source.cache_bytes)
        asked = Asked(source.name)
        store = wait(
            explained(asked, lambda: self.ts.open(spec, read=True, context=context)),
            asked,
            since=time.monotonic(),
            limit=location.timeout,
            progress=self.progress,
            timeout=None,
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
    target: str | os.PathLike[str],
    *,
    variable: str | None = None,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    fill_missing: bool = False,
    mask_and_scale: bool = True,
) -> Source:
    """Open one array of a Zarr or N5 store.

    Parameters
    ----------
    target : str or path
        Of the store, a group in it, or the array; schemes that TensorStore lacks go through zarr-python and fsspec.
    variable : str, optional
        Path of the array below it; needed where several have a time axis.
    axes : str, optional
        Letters of the stored shape; default: by dimension names, else ``tn`` or ``tnf``.
    storage_options : mapping, optional
        See `windowloader.sources.options.locate`.
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
    """
    if not supported(target):
        from .fallback import open_zarr

        return open_zarr(target, variable=variable, axes=axes, storage_options=storage_options,
                         fill_missing=fill_missing, mask_and_scale=mask_and_scale)  # fmt: skip
    location = locate(target, storage_options)
    keys = keys_of(location)
    catalog = read_catalog(keys, variable)
    array = catalog.choose(variable)
    letters, coordinates = describe(keys, catalog, array, axes)
    if catalog.single and array.dims:  # coordinates lie beside it, if anywhere
        coordinates = replace(coordinates, keys=keys_of(location.parent()), paths=array.dims)
    return ChunkedSource(
        location,
        array,
        axes=letters,
        coordinates=coordinates,
        values=packing(_known(array), array.attributes, array.fill_value) if mask_and_scale else None,
        fill_missing=fill_missing,
    )


def _known(array: ArrayInfo) -> np.dtype:
    if array.dtype is None:  # pragma: no cover, `Catalog.choose` refuses it
        raise SourceFormatError(f"{array.path!r} holds no numbers.")
    return array.dtype


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
            (folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup", "attributes.json")
        )
    return not path.suffix


def list_arrays(
    target: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Return paths of the arrays of numbers along time in a store; () where the store is one array.

    Parameters
    ----------
    target : str or path
        Of the store.
    storage_options : mapping, optional
        See `windowloader.sources.options.locate`.

    Returns
    -------
    tuple of str
    """
    if not supported(target):
        from .fallback import list_zarr

        return list_zarr(target, storage_options)
    catalog = read_catalog(keys_of(locate(target, storage_options)))
    return () if catalog.single else catalog.variables()
