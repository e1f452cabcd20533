"""Stores as zarr-python takes them: over TensorStore's key-value stores, a folder, fsspec's file systems, references.

In: a `Location`, a URL of fsspec, or any store of zarr-python. Out: stores, read-only. Never keeps chunks. A file of
references to chunks in other files (kerchunk, VirtualiZarr) comes from anywhere, and could have any file of this
machine read, or headers sent to any host: it may name only places that the user named.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.reference import LazyReferenceMapper, ReferenceFileSystem
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from windowloader.errors import CorruptDataError, SourceChangedError, SourceFormatError, hide_secrets

from .failures import Asked
from .handles import Stamp
from .processes import tensorstore
from .remote_objects import list_folder, open_store, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from zarr.core.buffer import Buffer, BufferPrototype

    from .options import Location

__all__ = ["CompleteStore", "check_grids", "fsspec_store", "store_of"]

METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
LOCAL = ("file", "local")
SECRET = ("headers", "client_kwargs")


def store_of(location: Location) -> Any:
    """Return the store of a location; one on this machine is read without TensorStore, so that it may still fork."""
    local = location.local
    return TensorStoreStore(location) if local is None else FolderStore(local, read_only=True)


class FolderStore(LocalStore):  # type: ignore[misc, unused-ignore]
    """A folder on this machine, of files alone: opening a pipe would block."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Buffer | None:
        """Value of a key, or a range of it; None if there is none."""
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
        Why metadata could not be read, if access was denied: a bucket that may not be listed denies access to keys
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

    async def _ask(self, key: str, begin: Callable[[Any], Any]) -> Any:
        """Wait, on a thread, for a request that TensorStore's key-value store begins at once."""
        future, asked = begin(open_store(self.location)), Asked(self.location.child(key).url)
        return await asyncio.to_thread(wait_for, future, self.location, asked)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Value of a key, or a range of it; None if there is none."""
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
        """Return the names directly below a folder: in one request for a thousand if fsspec knows the bucket."""
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        names = await asyncio.to_thread(list_folder, self.location.child(below.rstrip("/")))
        if names is None:
            names = [key.removeprefix(below).partition("/")[0] async for key in self.list_prefix(below)]
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


class CompleteStore(WrapperStore):  # type: ignore[type-arg, misc, unused-ignore]
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


def fsspec_store(url: str, options: Mapping[str, Any]) -> Any:
    """Open a store through fsspec; its references, if it has any, are checked.

    Parameters
    ----------
    url : str
        As fsspec takes it; ``reference://``, or ``reference::`` and the URL of the references.
    options : mapping
        As fsspec takes them, and ``allow_references``: see `References`.

    Returns
    -------
    zarr.storage.FsspecStore

    Raises
    ------
    SourceFormatError
        If references name another place than those that are allowed.
    """
    scheme, _, rest = url.partition(":")
    if scheme != "reference":
        if "reference:" in url:
            raise SourceFormatError(f"{hide_secrets(url)!r}: reference: stands first in a chain.")
        return FsspecStore.from_url(url, storage_options=dict(options), read_only=True)
    options = {"asynchronous": True, **options}
    options["remote_options"] = {"asynchronous": True, **(options.get("remote_options") or {})}
    path = rest[2:].strip("/")
    if rest.startswith(":"):
        path = ""
        options |= {"fo": rest[1:], "target_options": options.pop(rest[1:].partition(":")[0], None)}
    return FsspecStore(References(**options), read_only=True, path=path)


class References(ReferenceFileSystem):  # type: ignore[misc]
    """References that name no place but those that are allowed.

    Parameters
    ----------
    fo : str or mapping
        File of JSON, folder of Parquet, or the references themselves.
    allow_references : bool, str or sequence of str
        Folders and beginnings of URLs that they may name; True: any place.
    **options
        As fsspec takes them. If ``remote_options`` have headers, these are for the hosts that were named alone.

    Raises
    ------
    SourceFormatError
        If references in JSON name another place, with the first.
    """

    cachable = False  # the file may be another by now

    def __init__(self, fo: Any, *, allow_references: bool | str | Sequence[str] = (), **options: Any) -> None:
        self._allowed = [allow_references] if isinstance(allow_references, str) else allow_references or ()
        self._origin, self._scheme = fo if isinstance(fo, str) else "", options.get("remote_protocol")
        remote, found = options.get("remote_options") or {}, fo
        self._secret = any(remote.get(name) for name in SECRET)
        if isinstance(fo, str):
            inner = {**(options.get("target_options") or {}), "protocol": options.get("target_protocol")}
            system, path = fsspec.core.url_to_fs(fo, **inner)
            if ".json" not in path and system.isdir(path):
                found = LazyReferences(path, fs=system, engine="pyarrow")
                found.check = self._check
        super().__init__(found, **options)
        if found is fo:
            for entry in self.references.values():
                self._check(entry)

    def _check(self, entry: Any) -> None:
        """Raise `SourceFormatError` if an entry names a place that is not allowed."""
        url = entry[0] if isinstance(entry, list | tuple) and entry else None
        if not url or not isinstance(url, str) or self._allowed is True:
            return
        scheme, separator, _ = url.partition("://")
        scheme = scheme.lower() if separator else self._scheme or "file"
        local = scheme in LOCAL
        same = not local and _host(url) == _host(self._origin)
        if same or (scheme == self._scheme and not self._secret):
            return
        if any(_below(url, place, local) for place in self._allowed):
            return
        place = os.path.dirname(_path(url)) if local else "://".join(_host(url)) + "/"
        raise SourceFormatError(
            f"the references {hide_secrets(self._origin)!r} name {hide_secrets(url)!r}, which is "
            f"{'a file of this machine' if local else 'on another host'}. If they are meant to, pass "
            f"storage_options={{'allow_references': [{hide_secrets(place)!r}]}}, or True for any place."
        )


class LazyReferences(LazyReferenceMapper):  # type: ignore[misc]
    """References in Parquet, checked as they are read."""

    check: Callable[[Any], None]

    def __getitem__(self, key: str) -> Any:
        entry = super().__getitem__(key)
        self.check(entry)
        return entry


def _host(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()


def _path(url: str) -> str:
    return os.path.realpath(url.partition("://")[2] if "://" in url else url)


def _below(url: str, place: str, local: bool) -> bool:
    if local and ("://" not in place or place.partition("://")[0] in LOCAL):
        return os.path.commonpath([_path(url), _path(place)]) == _path(place)
    return f"{url}/".startswith(place.rstrip("/") + "/") and "/../" not in url


def check_grids(name: str, known: Iterable[Sequence[int]], found: Iterable[Sequence[int]]) -> None:
    """Raise `SourceChangedError` where an array's own metadata have other shapes than those that described it."""
    was, now = ([tuple(map(int, grid)) for grid in grids] for grids in (known, found))
    if was != now:
        raise SourceChangedError(
            f"{name!r} had the shape, chunks and shards {was} when it was opened, and its own metadata say "
            f"{now} now. Open it again; if it was not changed, have its metadata consolidated again."
        )
