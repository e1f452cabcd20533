"""Byte ranges of one object: through TensorStore where it has the store, else through fsspec.

In: a URL. Out: `RemoteObject.fetch` of a range, checked against the version first seen. Never reads ahead, never
caches: h5py's reads of metadata do both, in `ObjectFile`.
"""

from __future__ import annotations

import gc
import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

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
from .reads import Progress, wait_all

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

__all__ = ["FsspecObject", "ObjectFile", "RemoteObject", "blob_of", "join"]

PAGE = 64 << 10  # of a file over an object: 12 requests for the metadata of five variables, 10 of 1 MiB
KEPT = 1024  # pages
LARGE = 16 << 20
REQUESTS = 16
PART = 8 << 20  # a longer range goes as several requests, which run side by side
GAP = 64 << 10  # bytes read in vain rather than asked for apart: less than a request's latency is worth


class RemoteObject:
    """One object in a store that TensorStore reads.

    Parameters
    ----------
    location : Location
        Of the object.

    Attributes
    ----------
    name : str
        For messages.
    timeout : float
        Seconds without progress after which a read fails.
    location : Location or None
        None where only fsspec knows the store.
    """

    def __init__(self, location: Location) -> None:
        self.location: Any = location
        self.name, self.timeout = location.url, location.timeout
        self._seen = ""  # version; empty until the first answer
        self._process: PerProcess[Any] = PerProcess()

    def _open(self) -> Any:
        return open_store(self.location, {**self.location.kvstore, "path": self.location.path})

    def fetch(self, start: int, stop: int | None) -> Any:
        """Begin to read bytes; a future for `bytes_of`. ``stop=None``: to the end of the object."""
        return self._process.get(self._open).read("", byte_range=slice(start, stop))

    def bytes_of(self, result: Any) -> bytes:
        """Bytes of a future's result; `SourceChangedError` where the object is another than the first seen."""
        if result.state != "value":
            raise SourceNotFoundError(f"{self.name!r}: nothing is there; check the path.")
        self._check(result.stamp.generation)
        return bytes(result.value)

    def _check(self, generation: bytes) -> None:
        version = hashlib.blake2b(generation, digest_size=8).hexdigest()
        if self._seen not in ("", version):
            raise SourceChangedError(
                f"{self.name!r} changed since it was opened (version {self._seen}, now {version}); open it again."
            )
        self._seen = version

    def renew(self) -> None:
        """Keep later requests apart from those that were given up, and which still count against the limit."""
        self._process.drop()
        self.location.renew()

    def identity(self) -> str:
        """Text that changes when the object does; asks for one byte if nothing was read yet."""
        if not self._seen:
            get(self, 0, 1)
        return self._seen


class FsspecObject(RemoteObject):
    """An object in a store that only fsspec reads, by its ``cat_file`` in a few threads.

    Parameters
    ----------
    url : str
        As fsspec takes it.
    options : mapping
        As fsspec takes them.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._url, self._options = url, own_headers_stay(options)
        self.name, self.location = hide_secrets(url), None
        self.timeout = float(self._options.pop("timeout", 60.0))
        self._seen, self._process = "", PerProcess()

    def _open(self) -> Any:
        import fsspec

        def opened() -> tuple[Any, str, Any]:
            system, path = fsspec.core.url_to_fs(self._url, **self._options)
            return system, path, system.info(path)

        system, path, info = explained(Asked(self.name), opened)
        marks = (info[key] for key in ("ETag", "etag", "mtime", "created", "size") if key in info)
        self._check(f"{next(marks, '')} {info.get('size')}".encode())
        return system, path

    def fetch(self, start: int, stop: int | None) -> Any:
        """Begin to read bytes."""
        system, path = self._process.get(self._open)
        return pool().submit(self._range, system, path, start, stop)

    def _range(self, system: Any, path: str, start: int, stop: int | None) -> bytes:
        data: bytes = system.cat_file(path, start, stop)
        if stop is not None and len(data) != stop - start:
            raise CorruptDataError(
                f"{self.name!r} ends at byte {start + len(data)}, and bytes {start}–{stop - 1} were asked. It was "
                "not written to its end, or is shorter than its header says."
            )
        return data

    def bytes_of(self, result: Any) -> bytes:
        """Bytes of a result."""
        return bytes(result)

    def renew(self) -> None:
        """Use fresh threads."""
        renew_pool()


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


def blob_of(url: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> RemoteObject:
    """Return the object at a URL.

    Examples
    --------
    >>> type(blob_of("s3://bucket/x.npy")).__name__, type(blob_of("memory://x.npy")).__name__
    ('RemoteObject', 'FsspecObject')
    """
    return RemoteObject(locate(url, options)) if supported(url) else FsspecObject(str(url), options or {})


def get(blob: RemoteObject, start: int, stop: int | None) -> bytes:
    """Read bytes and wait for them; ``stop=None``: to the end of the object."""
    return get_all(blob, [(start, stop)])[0]


def get_all(blob: RemoteObject, ranges: Sequence[tuple[int, int | None]]) -> list[bytes]:
    """Read byte ranges, all at once, and wait for them."""
    futures = [blob.fetch(start, stop) for start, stop in ranges]
    results = wait_all(futures, Asked(blob.name), limit=blob.timeout, progress=Progress(blob.renew))
    return [blob.bytes_of(result) for result in results]


def join(offsets: np.ndarray, sizes: np.ndarray, *, gap: int = GAP, part: int = PART) -> list[np.ndarray]:
    """Group ranges into requests: near ones together, up to a size.

    Parameters
    ----------
    offsets, sizes : ndarray, int64
        Ranges.
    gap : int
        Bytes between two that are read in vain at most.
    part : int
        Bytes of a request of several ranges at most.

    Returns
    -------
    list of ndarray
        Positions of the ranges of each request, by rising offset.

    Examples
    --------
    >>> join(np.array([100, 0, 300]), np.array([50, 50, 50]), gap=60)
    [array([1, 0]), array([2])]
    """
    order = np.argsort(offsets, kind="stable")
    first, ends = offsets[order], np.maximum.accumulate((offsets + sizes)[order])
    wide = np.append(np.flatnonzero(first[1:] - ends[:-1] > gap) + 1, len(order))
    groups, at = [], 0
    while at < len(
        order
    ):  # up to the next wide gap, and to the part's size; a range that is larger goes alone
        full = int(np.searchsorted(ends, first[at] + part, side="right"))
        end = max(at + 1, min(int(wide[np.searchsorted(wide, at, side="right")]), full))
        groups.append(order[at:end])
        at = end
    return groups


class ObjectFile(io.RawIOBase):
    """A file over an object, for libraries that read metadata here and there: pages stay once read.

    Parameters
    ----------
    blob : RemoteObject
        The object.
    size : int
        Its bytes.
    first : bytes
        Its first page, where it is there already.
    """

    def __init__(self, blob: RemoteObject, size: int, first: bytes = b"") -> None:
        self._blob, self._size, self._at, self.name = blob, size, 0, blob.name
        self._pages = {0: first} if len(first) == PAGE else {}
        self.problem: WindowLoaderError | None = None  # h5py reports its own error instead of ours

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
        # h5py holds its lock while it waits here: a thread that answers must not come to close files it is done with.
        collects = gc.isenabled()
        gc.disable()
        try:
            if stop - first > LARGE:  # values: they are not asked for again
                data = get(self._blob, first, stop)
            else:
                self.fetch([(first, stop)])
                whole = b"".join(self._pages[number] for number in _pages(first, stop))
                data = whole[first % PAGE :][: stop - first]
            view[: len(data)] = data
        except WindowLoaderError as error:
            self.problem = error
            raise
        finally:
            if collects:
                gc.enable()
        self._at = stop
        return stop - first

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Read the pages of byte ranges that are not there yet, neighbours by one request, all requests at once."""
        wanted = sorted({page for part in ranges for page in _pages(*part)})[:KEPT]
        while len(self._pages) > KEPT:  # the oldest go
            self._pages.pop(next(iter(self._pages)))
        missing = np.array([page for page in wanted if page not in self._pages], np.int64)
        runs = [missing[group].tolist() for group in join(missing, np.ones_like(missing), gap=0)]
        places = [(run[0] * PAGE, min((run[-1] + 1) * PAGE, self._size)) for run in runs]
        for run, data in zip(runs, get_all(self._blob, places), strict=True):
            for count, page in enumerate(run):
                self._pages[page] = data[count * PAGE : (count + 1) * PAGE]


def _pages(first: int, stop: int) -> range:
    return range(first // PAGE, -(-stop // PAGE))
