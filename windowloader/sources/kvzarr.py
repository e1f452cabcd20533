"""Stores as zarr-python takes them: over TensorStore's key-value stores, over a folder, and one without gaps.

In: a `Location`, or any store of zarr-python. Out: stores, read-only. Never keeps chunks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import LocalStore, WrapperStore

from windowloader.errors import CorruptDataError, SourceFormatError

from .failures import Asked
from .handles import Stamp
from .processes import tensorstore
from .remote_objects import list_folder, open_store, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from zarr.core.buffer import Buffer, BufferPrototype

    from .options import Location

__all__ = ["TensorStoreStore", "Whole", "store_of"]

METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})


def store_of(location: Location) -> Any:
    """Return the store of a location; one on this machine is read without TensorStore, so that it may still fork."""
    return (
        TensorStoreStore(location) if location.local is None else FolderStore(location.local, read_only=True)
    )


class FolderStore(LocalStore):  # type: ignore[misc, unused-ignore]
    """A folder on this machine, of files alone: opening a pipe would wait for who writes."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Buffer | None:
        """Value of a key, or a range of it; None where there is none."""
        if (self.root / key).exists():
            Stamp.of(self.root / key)
        return await super().get(key, prototype, byte_range)  # type: ignore[no-any-return, unused-ignore]


class TensorStoreStore(Store):  # type: ignore[misc, unused-ignore]
    """Keys below a location, read-only, with the credentials, retries and time limits of all other reads.

    Parameters
    ----------
    location : Location
        Where it is.

    Attributes
    ----------
    refused : WindowLoaderError or None
        Why metadata could not be read, where access was denied: a bucket that may not be listed denies access to keys
        that do not exist, too.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, location: Location) -> None:
        super().__init__(read_only=True)
        self.location = location
        self.refused: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorStoreStore) and other.location == self.location

    def __str__(self) -> str:
        return self.location.url

    async def _ask(self, key: str, begin: Callable[[Any], Any]) -> Any:
        """Wait, on a thread, for a request that TensorStore's key-value store begins at once."""
        future, asked = begin(open_store(self.location)), Asked(self.location.child(key).url)
        return await asyncio.to_thread(wait_for, future, self.location, asked)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Value of a key, or a range of it; None where there is none."""
        part = _slice(byte_range)
        try:
            result = await self._ask(key, lambda store: store.read(key, byte_range=part))
        except PermissionError as error:
            if key.rpartition("/")[2] not in METADATA:
                raise
            self.refused = error
            return None
        return prototype.buffer.from_bytes(result.value) if result.state == "value" else None

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Values of several ranges."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        found = await self._ask(key, lambda store: store.read(key, byte_range=slice(0, 0)))
        return bool(found.state == "value")

    def list(self) -> AsyncIterator[str]:
        """Return all keys."""
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Return keys that begin so."""
        if self.location.scheme == "http":
            raise SourceFormatError(
                f"{self.location.url!r} has no consolidated metadata, and a web server does not list what it holds. "
                "Name the arrays: variables=['…'], or have the metadata consolidated (zarr.consolidate_metadata)."
            )
        end = f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}" if prefix else ""
        below = tensorstore().KvStore.KeyRange(prefix, end)
        for key in await self._ask(prefix, lambda store: store.list(below)):
            yield key.decode()

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Return the names directly below a folder: in one request for a thousand where fsspec knows the bucket."""
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        names = await asyncio.to_thread(list_folder, self.location.child(below.rstrip("/")))
        if names is None:
            keys = [key async for key in self.list_prefix(below)]
            names = [key.removeprefix(below).partition("/")[0] for key in keys]
        for name in dict.fromkeys(names):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: the store is read-only."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse: the store is read-only."""
        self._check_writable()


def _slice(request: Any) -> slice | None:
    if isinstance(request, RangeByteRequest):
        return slice(request.start, request.end)
    if isinstance(request, OffsetByteRequest):
        return slice(request.offset, None)
    return slice(-request.suffix, None) if isinstance(request, SuffixByteRequest) else None


class Whole(WrapperStore):  # type: ignore[type-arg, misc, unused-ignore]
    """A store in which no chunk may be absent; zarr-python would take the fill value for it.

    Parameters
    ----------
    store : zarr.abc.store.Store
    name : str
        Of the array, for messages.
    """

    read_only = True  # type: ignore[assignment, unused-ignore]

    def __init__(self, store: Any, name: str) -> None:
        super().__init__(store)
        self.name = name

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Value of a key, which is there unless it is metadata."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None and key.rpartition("/")[2] not in METADATA:
            raise CorruptDataError(
                f"{self.name!r}: chunk {key!r} is missing. If absent chunks mean the fill value, pass "
                "fill_missing=True; else the store is incomplete: write it again."
            )
        return found  # type: ignore[no-any-return, unused-ignore]
