"""Byte ranges of one object: through TensorStore where it has the store, else through fsspec.

In: a URL. Out: `Blob.fetch` of a range, checked against the version first seen. Never reads ahead, never caches:
h5py's reads of metadata do both, in `BlobFile`.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from windowloader.errors import (
    CorruptDataError,
    SourceChangedError,
    SourceFormatError,
    SourceNotFoundError,
    WindowLoaderError,
)
from windowloader.hiding import hide_secrets

from .failures import Asked, explained
from .kvstore import open_store
from .options import Location, locate, supported
from .processes import PerProcess
from .reads import Progress, wait

if TYPE_CHECKING:
    import os

__all__ = ["Blob", "BlobFile", "FsspecBlob", "StoreBlob", "blob_of"]

BLOCK = 1 << 20
REQUESTS = 16


class Blob(Protocol):
    """One object, by byte range."""

    name: str
    timeout: float

    def fetch(self, start: int, stop: int | None) -> Any:
        """Begin to read bytes; a future for `bytes_of`."""

    def bytes_of(self, result: Any) -> bytes:
        """Bytes of a future's result; `SourceChangedError` where the object is another than the first seen."""

    def renew(self) -> None:
        """Keep later requests apart from those that were given up."""

    def identity(self) -> str:
        """Text that changes when the object does; asks for one byte if nothing was read yet."""


def get(blob: Blob, start: int, stop: int | None) -> bytes:
    """Read bytes and wait for them; ``stop=None``: to the end of the object."""
    now, asked = time.monotonic(), Asked(blob.name)
    future = blob.fetch(start, stop)
    return blob.bytes_of(
        wait(future, asked, since=now, limit=blob.timeout, progress=Progress(blob.renew), timeout=None)
    )


class StoreBlob:
    """An object in a store that TensorStore reads.

    Parameters
    ----------
    location : Location
        Of the object.
    seen : str
        Version that it must have; empty: the first that is met.
    """

    def __init__(self, location: Location, seen: str = "") -> None:
        self.location, self.seen = location, seen
        self.name, self.timeout = location.url, location.timeout
        self._store: PerProcess[Any] = PerProcess()

    def _open(self) -> Any:
        folder, _, key = self.location.path.rpartition("/")
        spec = {**self.location.kvstore, "path": f"{folder}/" if folder else ""}
        return open_store(self.location, spec), key

    def fetch(self, start: int, stop: int | None) -> Any:
        """Begin to read bytes."""
        store, key = self._store.get(self._open)
        return store.read(key, byte_range=slice(start, stop))

    def bytes_of(self, result: Any) -> bytes:
        """Bytes of a result, of the version first seen."""
        if result.state != "value":
            raise SourceNotFoundError(f"{self.name!r}: nothing is there; check the path.")
        version = hashlib.blake2b(result.stamp.generation, digest_size=8).hexdigest()
        if self.seen and version != self.seen:
            raise SourceChangedError(
                f"{self.name!r} changed since it was opened (version {self.seen}, now {version}); open it again."
            )
        self.seen = version
        value: bytes = result.value
        return value

    def renew(self) -> None:
        """Use a fresh context, in which requests that were given up do not count against the limit."""
        self._store.drop()
        self.location.renew()

    def identity(self) -> str:
        """Version of the object."""
        if not self.seen:
            get(self, 0, 1)
        return self.seen

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreBlob, (self.location, self.seen)


class FsspecBlob:
    """An object in a store that only fsspec reads, by its ``cat_file`` in a few threads.

    Parameters
    ----------
    url : str
        As fsspec takes it.
    options : mapping
        As fsspec takes them.
    seen : str
        Version that it must have; empty: the one at the first opening.
    """

    def __init__(self, url: str, options: Mapping[str, Any], seen: str = "") -> None:
        self.url, self.options, self.seen = url, own_headers_stay(options), seen
        self.timeout = float(self.options.pop("timeout", 60.0))
        self.name = hide_secrets(url)
        self._process: PerProcess[_Open] = PerProcess()

    def _open(self) -> _Open:
        import fsspec

        def opened() -> tuple[Any, str, Any]:
            system, path = fsspec.core.url_to_fs(self.url, **self.options)
            return system, path, system.info(path)

        system, path, info = explained(Asked(self.name), opened)
        version = str(
            next((info[key] for key in ("ETag", "etag", "mtime", "created", "size") if key in info), "")
        )
        version = hashlib.blake2b(f"{version} {info.get('size')}".encode(), digest_size=8).hexdigest()
        if self.seen and version != self.seen:
            raise SourceChangedError(f"{self.name!r} changed since it was opened; open it again.")
        self.seen = version
        return _Open(system, path)

    def fetch(self, start: int, stop: int | None) -> Any:
        """Begin to read bytes."""
        opened = self._process.get(self._open)
        return pool().submit(self._range, opened, start, stop)

    def _range(self, opened: _Open, start: int, stop: int | None) -> bytes:
        data: bytes = opened.system.cat_file(opened.path, start, stop)
        if stop is not None and len(data) != stop - start:
            raise CorruptDataError(
                f"{self.name!r} ends at byte {start + len(data)}, and bytes {start}–{stop - 1} were asked. It was "
                "not written to its end, or is shorter than its header says."
            )
        return data

    def bytes_of(self, result: Any) -> bytes:
        """Bytes of a result."""
        value: bytes = result
        return value

    def renew(self) -> None:
        """Use fresh threads."""
        renew_pool()

    def identity(self) -> str:
        """Version of the object."""
        self._process.get(self._open)
        return self.seen

    def __reduce__(self) -> tuple[Any, ...]:
        return FsspecBlob, (self.url, {**self.options, "timeout": self.timeout}, self.seen)


@dataclass(frozen=True, slots=True)
class _Open:
    system: Any
    path: str


def own_headers_stay(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return options for fsspec; refuse headers that its web client would send to the host of a redirect too.

    Raises
    ------
    SourceFormatError
        For headers other than those that it keeps to the host they were meant for.
    """
    for nested in (found := dict(options or {})).values():
        if isinstance(nested, Mapping):
            own_headers_stay(nested)
    foreign = sorted(set(map(str.lower, found.get("headers") or ())) - {"authorization", "cookie"})
    foreign += sorted({"auth", "cookies"} & set(found.get("client_kwargs") or ()))
    if foreign:
        raise SourceFormatError(
            f"storage_options has the headers {foreign}, which fsspec would send on to any host that a redirect names. "
            "Give Authorization or Cookie, or open the https:// URL itself, without a chain."
        )
    return found


_POOL: PerProcess[ThreadPoolExecutor] = PerProcess()


def pool() -> ThreadPoolExecutor:
    """Threads of this process for libraries that only wait: their number bounds requests in flight."""
    return _POOL.get(lambda: ThreadPoolExecutor(REQUESTS, thread_name_prefix="fsspec-windowloader"))


def renew_pool() -> None:
    """Use fresh threads: those of requests that were given up are busy until their library ends them."""
    _POOL.drop()


def blob_of(url: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Blob:
    """Return the object at a URL.

    Examples
    --------
    >>> type(blob_of("s3://bucket/x.npy")).__name__, type(blob_of("memory://x.npy")).__name__
    ('StoreBlob', 'FsspecBlob')
    """
    if supported(url):
        return StoreBlob(locate(url, options))
    return FsspecBlob(str(url), options or {})


class BlobFile(io.RawIOBase):
    """A file over an object, for libraries that read metadata here and there: blocks stay once read.

    Parameters
    ----------
    blob : Blob
        The object.
    size : int
        Its bytes.
    """

    def __init__(self, blob: Blob, size: int) -> None:
        self._blob, self._size, self._at = blob, size, 0
        self._blocks: dict[int, bytes] = {}
        self.problem: WindowLoaderError | None = None  # h5py reports its own error instead of ours

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Position."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read on from the position."""
        view = memoryview(buffer).cast("B")
        stop = min(self._at + len(view), self._size)
        if (count := stop - self._at) <= 0:
            return 0
        for number in range(self._at // BLOCK, -(-stop // BLOCK)):
            block = self._block(number)
            first, last = max(self._at, number * BLOCK), min(stop, number * BLOCK + len(block))
            view[first - self._at : last - self._at] = block[first - number * BLOCK : last - number * BLOCK]
        self._at += count
        return count

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            while len(self._blocks) > 64:  # the oldest goes: metadata of one array rarely take as much
                self._blocks.pop(next(iter(self._blocks)))
            first, stop = number * BLOCK, min((number + 1) * BLOCK, self._size)
            try:
                found = get(self._blob, first, stop)
                if len(found) != stop - first:
                    raise CorruptDataError(
                        f"{self._blob.name!r} ends at byte {first + len(found)}, and has {self._size} bytes by its own "
                        "account. It was not written to its end."
                    )
                self._blocks[number] = found
            except WindowLoaderError as error:
                self.problem = error
                raise
        return self._blocks[number]
