"""Zarr stores that only zarr-python can open: Icechunk sessions, kerchunk references, fsspec's other schemes.

In: a ``zarr.abc.store.Store``, a zarr Array or Group, or a URL. Out: `ZarrSource`, read by zarr-python in a few
threads. Slower than TensorStore by a factor of 1 to 10, so only where there is no other way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError
from windowloader.hiding import hide_secrets

from .base import digest
from .blobs import own_headers_stay, pool, renew_pool
from .catalog import DOCUMENTS, read_catalog
from .cf import packing
from .failures import Asked, explained
from .keys import ZarrKeys
from .reads import Progress, Read
from .remote import RemoteSource
from .stored_axes import describe
from .traffic import zarr_attributes, zarr_codecs, zarr_storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import Source
    from .box import Box
    from .catalog import ArrayInfo
    from .cf import Packing
    from .reads import Pending
    from .remote import Opened
    from .storage import Storage
    from .stored_axes import Coordinates

__all__ = ["ZarrSource", "is_zarr", "list_zarr", "open_zarr"]

TIMEOUT = 300.0  # zarr-python and what lies below have their own retries


def is_zarr(target: object) -> bool:
    """Whether this is a store, group or array of zarr-python; does not import it.

    Examples
    --------
    >>> is_zarr("a.zarr")
    False
    """
    import sys

    if "zarr" not in sys.modules:
        return False
    import zarr
    from zarr.abc.store import Store

    return isinstance(target, Store | zarr.Array | zarr.Group)


class ZarrSource(RemoteSource):
    """One array read by zarr-python.

    Parameters
    ----------
    keys : ZarrKeys
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
    """

    boxes = "indices"
    tensorstore = False

    def __init__(
        self,
        keys: ZarrKeys,
        array: ArrayInfo,
        *,
        axes: str,
        coordinates: Coordinates,
        values: Packing | None,
        fill_missing: bool,
    ) -> None:
        super().__init__(
            f"{keys.name}/{array.path}".rstrip("/"),
            shape=array.shape,
            dtype=values.dtype if values else array.dtype,
            axes=axes,
            chunks=array.chunks,
            description=coordinates,
        )
        self.keys, self.info, self.packing, self.fill_missing = keys, array, values, fill_missing
        self.shards = array.shards and tuple(array.shards[dim] for dim in self.order)

    def storage(self, box: Box | None = None) -> Storage:
        """Its grid of chunks, in shards where it has some."""
        return zarr_storage(self, self.info, box)

    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the array in its store."""
        return zarr_attributes(self.keys, self.info)

    def codecs(self) -> list[str]:
        """Names of its codecs, within shards."""
        return zarr_codecs(self.keys, self.info)

    def fingerprint(self) -> str:
        """Short text that changes when the metadata do, or the snapshot where the store has them."""
        return digest(self.shape, str(self.dtype), self.axes, self.info.identity, _snapshot(self.keys.store))

    def _open(self) -> Opened:
        return _ZarrArray(self)


class _ZarrArray:
    """A `ZarrSource` as this process has it open."""

    def __init__(self, source: ZarrSource) -> None:
        import zarr

        self.source, self.progress = source, Progress(renew_pool)
        path = f"{source.keys.prefix}{source.info.path}".rstrip("/")
        self.array = explained(
            Asked(source.name), lambda: zarr.open_array(_store(source), path=path, mode="r")
        )

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read rows."""
        future = pool().submit(self._rows, start, stop, box)
        future.add_done_callback(self.progress.touch)

        def finish(results: list[Any]) -> None:
            if self.source.packing is None:
                out[...] = results[0]
            else:
                self.source.packing.unpack(results[0], out)

        asked = Asked(self.source.name, (start, stop))
        size = self.source.bytes_of(start, stop, box)
        return Read([future], finish, asked, TIMEOUT, self.progress, size)

    def _rows(self, start: int, stop: int, box: Box | None) -> np.ndarray:
        order = self.source.order
        parts: list[slice | np.ndarray] = [slice(None)] * len(order)
        for dim, part in zip(order, (slice(start, stop), *(box or ())), strict=False):
            parts[dim] = part
        return np.asarray(self.array.oindex[tuple(parts)]).transpose(order)

    def close(self) -> None:
        """Nothing is held but the store, which is the user's."""


def _store(source: ZarrSource) -> Any:
    """Return the store; one that refuses absent chunks, which zarr-python fills in, unless they are meant."""
    if source.fill_missing:
        return source.keys.store
    from zarr.storage import WrapperStore

    class Whole(WrapperStore):  # type: ignore[type-arg, misc, unused-ignore]
        """A store in which no chunk may be absent."""

        async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
            found = await super().get(key, *arguments, **options)
            if found is None and key.rpartition("/")[2] not in DOCUMENTS:
                raise CorruptDataError(
                    f"{source.name!r}: chunk {key!r} is missing. If absent chunks mean the fill value, pass "
                    "fill_missing=True; else the store is incomplete: write it again."
                )
            return found

    return Whole(source.keys.store)


def _snapshot(store: Any) -> str:
    session = getattr(store, "session", None)
    return str(getattr(session, "snapshot_id", ""))


def _keys(target: Any, storage_options: Mapping[str, Any] | None) -> ZarrKeys:
    import zarr
    from zarr.abc.store import Store

    if isinstance(target, zarr.Array | zarr.Group):
        path = target.store_path
        prefix = f"{path.path}/" if path.path else ""
        return ZarrKeys(path.store, str(path).rstrip("/"), prefix)
    if isinstance(target, Store):
        name = str(target).rstrip("/")
        return ZarrKeys(target, f"<{type(target).__name__}>" if " object at " in name else name)
    from zarr.storage import FsspecStore

    options = own_headers_stay(storage_options)
    store = explained(
        Asked(str(target)),
        lambda: FsspecStore.from_url(str(target), storage_options=options, read_only=True),
    )
    return ZarrKeys(store, hide_secrets(str(target)).rstrip("/"))


def open_zarr(
    target: Any,
    *,
    variable: str | None = None,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    fill_missing: bool = False,
    mask_and_scale: bool = True,
) -> Source:
    """Open one array of a store through zarr-python.

    Parameters
    ----------
    target : zarr Store, Group or Array, or URL
        What holds it.
    variable, axes, fill_missing, mask_and_scale :
        See `windowloader.sources.chunked.open_chunked`.
    storage_options : mapping, optional
        For fsspec, with a URL.

    Returns
    -------
    Source

    Raises
    ------
    SourceNotFoundError, SourceFormatError, AxesError
        As `windowloader.sources.chunked.open_chunked`.

    Examples
    --------
    >>> import zarr
    >>> store = zarr.storage.MemoryStore()
    >>> array = zarr.create_array(store, name="speed", data=np.arange(6.0).reshape(3, 2))
    >>> source = open_zarr(store, variable="speed")
    >>> rows = np.empty((1, 2))
    >>> taken = source.read(2, 3, rows)
    >>> rows
    array([[4., 5.]])
    """
    keys = _keys(target, storage_options)
    catalog = read_catalog(keys, variable)
    array = catalog.choose(variable)
    if array.dtype is None:  # pragma: no cover, `Catalog.choose` refuses it
        raise SourceFormatError(f"{keys.name!r} holds no numbers.")
    letters, coordinates = describe(keys, catalog, array, axes)
    values = packing(array.dtype, array.attributes, array.fill_value) if mask_and_scale else None
    return ZarrSource(
        keys, array, axes=letters, coordinates=coordinates, values=values, fill_missing=fill_missing
    )


def list_zarr(target: Any, storage_options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Return paths of the arrays of numbers along time; () where the store is one array."""
    catalog = read_catalog(_keys(target, storage_options))
    return () if catalog.single else catalog.variables()
