"""Byte ranges of one object: through TensorStore where it has the store, else through fsspec.

In: a URL. Out: `Blob.fetch` of a range, checked against the version first seen. Never reads ahead, never caches:
h5py's reads of metadata do both, in `BlobFile`.
"""

from __future__ import annotations

import gc
import hashlib
import io
import itertools
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
    from collections.abc import Iterable, Sequence

__all__ = ["Blob", "BlobFile", "FsspecBlob", "StoreBlob", "blob_of"]

PAGE = 64 << 10  # of a file over an object: 12 requests for the metadata of five variables, 10 of 1 MiB
KEPT = 1024  # pages
LARGE = 16 << 20
REQUESTS = 16


class Blob(Protocol):
    """One object, by byte range."""

    name: str
    timeout: float

    @property
    def location(self) -> Location | None:
        """Of the store that has it, where we know it."""

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
    return get_all(blob, [(start, stop)])[0]


def get_all(blob: Blob, ranges: Sequence[tuple[int, int | None]]) -> list[bytes]:
    """Read byte ranges, all at once, and wait for them."""
    now, asked, progress = time.monotonic(), Asked(blob.name), Progress(blob.renew)
    futures = [blob.fetch(start, stop) for start, stop in ranges]
    limit = blob.timeout
    return [
        blob.bytes_of(wait(future, asked, since=now, limit=limit, progress=progress, timeout=None))
        for future in futures
    ]


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
        self.location: Location | None = None  # fsspec knows it
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
    """A file over an object, for libraries that read metadata here and there: pages stay once read.

    Parameters
    ----------
    blob : Blob
        The object.
    size : int
        Its bytes.
    first : bytes
        Its first page, where it is there already.
    """

    def __init__(self, blob: Blob, size: int, first: bytes = b"") -> None:
        self._blob, self._size, self._at, self.name = blob, size, 0, blob.name
        self._pages = {0: first} if len(first) == PAGE else {}
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
        first, stop = self._at, max(min(self._at + len(view), self._size), self._at)
        collecting = gc.isenabled()
        gc.disable()  # a thread that reads for us could free objects of h5py, and wait for the lock that we hold
        try:
            if stop - first > LARGE:  # values: they are not asked for again
                view[: stop - first] = get(self._blob, first, stop)
            else:
                self.fetch([(first, stop)])
                for number in range(first // PAGE, -(-stop // PAGE)):
                    page, begin = self._pages[number], number * PAGE
                    here, end = max(first, begin), min(stop, begin + len(page))
                    view[here - first : end - first] = page[here - begin : end - begin]
        except WindowLoaderError as error:
            self.problem = error
            raise
        finally:
            if collecting:
                gc.enable()
        self._at = stop
        return stop - first

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Read the pages of byte ranges that are not there yet, neighbours by one request, all requests at once."""
        wanted = sorted({page for first, stop in ranges for page in range(first // PAGE, -(-stop // PAGE))})[
            :KEPT
        ]
        missing = [page for page in wanted if page not in self._pages]
        while len(self._pages) > KEPT:  # the oldest go
            self._pages.pop(next(iter(self._pages)))
        runs = [
            [page for _, page in group]
            for _, group in itertools.groupby(enumerate(missing), lambda found: found[1] - found[0])
        ]
        places = [(run[0] * PAGE, min((run[-1] + 1) * PAGE, self._size)) for run in runs]
        for run, (first, stop), data in zip(runs, places, get_all(self._blob, places), strict=True):
            if len(data) != stop - first:
                raise CorruptDataError(
                    f"{self._blob.name!r} ends at byte {first + len(data)}, and has {self._size} bytes by its own "
                    "account. It was not written to its end."
                )
            for count, page in enumerate(run):
                self._pages[page] = data[count * PAGE : (count + 1) * PAGE]
