"""Stores as zarr-python takes them: one whose bytes come through TensorStore, one whose metadata are in memory.

In: a `Location`, or any store of zarr-python. Out: stores, small values by key. Never keeps chunks.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import LocalStore, WrapperStore

from windowloader.errors import CorruptDataError, SourceFormatError

from .failures import Asked
from .handles import Stamp
from .kvstore import list_folder, open_store
from .processes import PerProcess, tensorstore
from .reads import Progress, lend, wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from zarr.core.buffer import Buffer, BufferPrototype

    from windowloader.errors import WindowLoaderError

    from .options import Location

__all__ = ["METADATA", "Documents", "TensorStoreStore", "Whole", "run", "store_of"]

METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'


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
        self.refused: WindowLoaderError | None = None
        self._opened: PerProcess[Any] = PerProcess()
        self._progress: PerProcess[Progress] = PerProcess()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorStoreStore) and other.location == self.location

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.location.url

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "refused": None}

    def connect(self) -> Any:
        """Return TensorStore's key-value store."""
        return self._opened.get(lambda: open_store(self.location))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Value of a key, or a range of it; None where there is none."""
        try:
            result = await self._wait(self.connect().read(key, byte_range=_slice(byte_range)), key)
        except PermissionError as error:
            if key.rpartition("/")[2] not in METADATA:
                raise
            self.refused = error  # type: ignore[assignment]
            return None
        return prototype.buffer.from_bytes(result.value) if result.state == "value" else None

    async def _wait(self, future: Any, key: str) -> Any:
        progress = self._progress.get(lambda: Progress(self._renew))
        future.add_done_callback(lend(progress.touch))
        asked, limit = Asked(self.location.child(key).url), self.location.timeout
        since = time.monotonic()
        return await asyncio.to_thread(
            wait, future, asked, since=since, limit=limit, progress=progress, timeout=None
        )

    def _renew(self) -> None:
        self._opened.drop()
        self.location.renew()

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Values of several ranges."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        return bool(
            (await self._wait(self.connect().read(key, byte_range=slice(0, 0)), key)).state == "value"
        )

    async def list(self) -> AsyncIterator[str]:
        """Return all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Return keys that begin so."""
        if self.location.scheme == "http":
            raise SourceFormatError(
                f"{self.location.url!r} has no consolidated metadata, and a web server does not list what it holds. "
                "Name the arrays: variables=['…'], or have the metadata consolidated (zarr.consolidate_metadata)."
            )
        whole = tensorstore().KvStore.KeyRange(
            prefix, f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}" if prefix else ""
        )
        for key in await self._wait(self.connect().list(whole), prefix):
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
        raise NotImplementedError("the store is read-only")

    async def delete(self, key: str) -> None:
        """Refuse: the store is read-only."""
        raise NotImplementedError("the store is read-only")


def _slice(request: Any) -> slice | None:
    if isinstance(request, RangeByteRequest):
        return slice(request.start, request.end)
    if isinstance(request, OffsetByteRequest):
        return slice(request.offset, None)
    if isinstance(request, SuffixByteRequest):
        return slice(-request.suffix, None)
    return None


class Documents(WrapperStore):  # type: ignore[type-arg, misc, unused-ignore]
    """A store whose metadata are in memory: it is never asked for them, nor listed.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where chunks are.
    documents : mapping of str to bytes
        By key.
    """

    read_only = True  # type: ignore[assignment, unused-ignore]

    def __init__(self, store: Any, documents: Mapping[str, bytes]) -> None:
        super().__init__(store)
        self.documents = documents

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Metadata from memory, all else from the store."""
        if key.rpartition("/")[2] not in METADATA:
            return await self._store.get(key, prototype, byte_range)  # type: ignore[no-any-return, unused-ignore]
        found = self.documents.get(key)
        return None if found is None else prototype.buffer.from_bytes(found)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override, unused-ignore]
        """Return the names directly below a folder."""
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        keys = (key.removeprefix(below) for key in self.documents if key.startswith(below))
        for name in dict.fromkeys(key.partition("/")[0] for key in keys):
            yield name


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


class _Runner(Documents):
    """Does something with a store when it is asked for its root, so where zarr-python reads it."""

    def __init__(self, store: Any, work: Callable[[Any, Any], Awaitable[Any]]) -> None:
        super().__init__(store, {})
        self.work, self.result = work, None
        self.error: Exception | None = None

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Do it, and answer with an empty group."""
        try:
            self.result = await self.work(self._store, prototype)
        except Exception as error:  # zarr-python would take some for a group that is not there
            self.error = error
        return prototype.buffer.from_bytes(GROUP)


def run(store: Any, work: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    """Return what ``await work(store, prototype)`` returns in the event loop of zarr-python, to which stores belong.

    Examples
    --------
    >>> async def names(store, prototype):
    ...     return [name async for name in store.list_dir("")]
    >>> store = zarr.storage.MemoryStore()
    >>> array = zarr.create_array(store, name="speed", shape=3, dtype="f4")
    >>> sorted(run(store, names))
    ['speed', 'zarr.json']
    """
    runner = _Runner(store, work)
    zarr.open_group(runner, mode="r", zarr_format=3, use_consolidated=False)
    if runner.error is not None:
        raise runner.error
    return runner.result
