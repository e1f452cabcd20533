"""The keys of a store: a folder here, a bucket through TensorStore, or a store of zarr-python.

In: a `Location` or a zarr store. Out: small values by key, names of nodes, and the store as zarr-python reads it
(for coordinates, whose types TensorStore lacks). Never reads the array itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from windowloader.errors import SourceError, SourceNotFoundError

from .failures import Asked, explain, explained
from .handles import Stamp
from .processes import tensorstore
from .reads import Progress, wait

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .options import Location

__all__ = ["FolderKeys", "Keys", "StoreKeys", "Value", "ZarrKeys", "keys_of", "open_store"]

NODES = ("zarr.json", ".zarray", "attributes.json")


@dataclass(frozen=True, slots=True)
class Value:
    """Bytes of a key, and what changes when they do (ETag, generation, time of change)."""

    data: bytes
    generation: str


class Keys(Protocol):
    """What metadata are read from."""

    @property
    def name(self) -> str:
        """Path or URL, for messages."""

    def get(self, keys: Sequence[str]) -> list[Value | None]:
        """Values of some keys, asked for at once; None where there is none."""

    def nodes(self) -> list[str]:
        """Paths of all nodes that hold metadata, by listing the store."""

    def zarr(self) -> Any:
        """Return the store as zarr-python takes it."""


@dataclass(frozen=True, slots=True)
class FolderKeys:
    """Keys of a folder on this machine: read without TensorStore, so that a process may still be forked."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def get(self, keys: Sequence[str]) -> list[Value | None]:
        """Values of some keys."""
        return [self._get(self.folder / key) for key in keys]

    def _get(self, path: Path) -> Value | None:
        try:
            # The folder changes when a chunk is replaced: those are written aside and renamed.
            generation = f"{path.stat().st_mtime_ns} {path.parent.stat().st_mtime_ns}"
            Stamp.of(path)  # a pipe would be waited for
            return Value(path.read_bytes(), generation)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise explain(error, Asked(str(path))) from error

    def nodes(self) -> list[str]:
        """Paths of all nodes, without entering the folders of chunks."""
        found = []
        for folder, inner, files in os.walk(self.folder):
            held = set(files).intersection(NODES)
            if held:
                found.append(Path(folder).relative_to(self.folder).as_posix().removeprefix("."))
            inner[:] = [] if any(_is_array(Path(folder, name)) for name in held) else sorted(inner)
        return sorted(found)

    def zarr(self) -> Any:
        """Return zarr-python's store of this folder."""
        from zarr.storage import LocalStore

        return LocalStore(self.folder, read_only=True)


def _is_array(document: Path) -> bool:
    """Whether a node's document is an array's, below which lie chunks and no nodes."""
    text = document.read_bytes()
    marks = {"zarr.json": b'"chunk_grid"', ".zarray": b"", "attributes.json": b'"blockSize"'}
    return marks[document.name] in text and (
        document.name != "zarr.json" or b'"consolidated_metadata"' not in text
    )


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """Keys of a store that TensorStore reads."""

    location: Location

    @property
    def name(self) -> str:
        """The URL."""
        return self.location.url

    def open(self) -> Any:
        """Return TensorStore's key-value store."""
        return open_store(self.location, self.location.store())

    def _wait(self, future: Any, key: str = "") -> Any:
        asked = Asked(self.location.child(key).url)
        limit = self.location.timeout
        progress = Progress(self.location.renew)
        return wait(future, asked, since=time.monotonic(), limit=limit, progress=progress, timeout=None)

    def get(self, keys: Sequence[str]) -> list[Value | None]:
        """Values of some keys, in one round trip.

        A bucket that may be read and not listed answers "forbidden" for a key that is not there: that is an
        error only where no key can be read.
        """
        store = self.open()
        futures = [store.read(key) for key in keys]
        values: list[Value | None] = []
        refused: SourceError | None = None
        for key, future in zip(keys, futures, strict=True):
            try:
                values.append(_value(self._wait(future, key)))
            except PermissionError as error:
                values.append(None)
                refused = error  # type: ignore[assignment]
            except SourceNotFoundError:
                values.append(None)
        if refused is not None and not any(values):
            raise refused
        return values

    def nodes(self) -> list[str]:
        """Paths of all nodes: lists every key, so it is the last resort for a store without consolidated metadata."""
        names = [key.decode() for key in self._wait(self.open().list())]
        return sorted({name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in NODES})

    def check_bucket(self) -> None:
        """Raise where the bucket itself does not exist: a missing key looks alike."""
        if self.location.scheme not in ("s3", "gcs"):
            return
        ts = tensorstore()
        ending = f"{self.location.path.rstrip('/')}/zarr.json"
        store = open_store(self.location, {**self.location.kvstore, "path": ""})
        with contextlib.suppress(PermissionError):  # then what is there cannot be told from what is not
            self._wait(store.list(ts.KvStore.KeyRange(ending, ending + "\0")))

    def zarr(self) -> Any:
        """Return a zarr store that reads through TensorStore, with the same credentials and limits."""
        from .kvzarr import TensorStoreStore

        return TensorStoreStore(self.open(), self.location)


def open_store(location: Location, spec: Mapping[str, Any]) -> Any:
    """Return TensorStore's key-value store of a specification, with the credentials and limits of a location."""
    asked, kvstore = Asked(location.url), tensorstore().KvStore
    future = explained(asked, lambda: kvstore.open(dict(spec), context=location.resources()))
    since, limit, progress = time.monotonic(), location.timeout, Progress(location.renew)
    return wait(future, asked, since=since, limit=limit, progress=progress, timeout=None)


def _value(result: Any) -> Value | None:
    if result.state != "value":
        return None
    generation = hashlib.blake2b(result.stamp.generation, digest_size=8).hexdigest()
    return Value(bytes(result.value), generation)


@dataclass(frozen=True, slots=True)
class ZarrKeys:
    """Keys of a store of zarr-python: Icechunk sessions, kerchunk references, memory, fsspec."""

    store: Any
    name: str
    prefix: str = ""

    def get(self, keys: Sequence[str]) -> list[Value | None]:
        """Values of some keys."""
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        async def values() -> list[Any]:
            await self.store._ensure_open()  # a zip archive opens its file only when it is told to
            prototype = default_buffer_prototype()
            # zarr-python opens no N5, and strict stores refuse keys that are not Zarr's.
            return [
                None if key.endswith(NODES[2]) else await self.store.get(f"{self.prefix}{key}", prototype)
                for key in keys
            ]

        found = explained(Asked(self.name), lambda: sync(values()))
        return [
            None if buffer is None else Value(data := buffer.to_bytes(), _digest(data)) for buffer in found
        ]

    def nodes(self) -> list[str]:
        """Paths of all nodes, by listing the store."""
        from zarr.core.sync import sync

        async def names() -> list[str]:
            return [key async for key in self.store.list_prefix(self.prefix)]

        listed = explained(Asked(self.name), lambda: sync(names()))
        inside = (key.removeprefix(self.prefix) for key in listed)
        return sorted({key.rpartition("/")[0] for key in inside if key.rpartition("/")[2] in NODES})

    def zarr(self) -> Any:
        """Return the store, at this prefix."""
        from zarr.storage import StorePath

        return StorePath(self.store, self.prefix.rstrip("/")) if self.prefix else self.store


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def keys_of(location: Location) -> FolderKeys | StoreKeys:
    """Keys below a location.

    Examples
    --------
    >>> from windowloader.sources.options import locate
    >>> type(keys_of(locate("folder/a.zarr"))).__name__, type(keys_of(locate("s3://b/a.zarr"))).__name__
    ('FolderKeys', 'StoreKeys')
    """
    return StoreKeys(location) if location.local is None else FolderKeys(location.local)
