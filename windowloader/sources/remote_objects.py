"""Objects and small values in remote stores: through TensorStore where it has the store, else through fsspec.

In: a `Location` or a URL. Out: TensorStore's key-value store of a location, names in a folder, and `RemoteObject`,
whose byte ranges are checked against the version first seen. Never reads ahead, never caches: only `ObjectFile` does,
for HDF5's reads of metadata.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import (
    CorruptDataError,
    SourceChangedError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    WindowLoaderError,
    hide_secrets,
)

from .failures import Asked, explained
from .options import Location, locate, supported
from .processes import PerProcess, tensorstore
from .reads import Progress, wait, wait_all

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

__all__ = ["RemoteObject", "get", "join", "list_folder", "open_store", "remote_object", "wait_for"]

LISTED = ("s3", "gcs")  # stores that fsspec lists with a delimiter, where its package is installed
PAGE = 64 << 10  # of a file over an object: 12 requests for the metadata of five variables, 10 of 1 MiB
KEPT = 1024  # pages
LARGE = 16 << 20
REQUESTS = 16
PART = 8 << 20  # a longer range is split into several requests, which run side by side
GAP = 64 << 10  # unneeded bytes that are read rather than asked for apart: cheaper than a request's latency


def open_store(location: Location, spec: Mapping[str, Any] | None = None) -> Any:
    """Return TensorStore's key-value store of a location, or of a specification with its credentials and limits."""
    kvstore, spec = tensorstore(location.url).KvStore, dict(spec or location.store())
    opened = explained(Asked(location.url), lambda: kvstore.open(spec, context=location.resources()))
    return wait_for(opened, location)


def wait_for(future: Any, location: Location, asked: Asked | None = None) -> Any:
    """Return the result of a store's future, within the time-out of its location."""
    asked = asked or Asked(location.url)
    return wait(future, asked, limit=location.timeout, progress=Progress(location.renew))


def check_bucket(location: Location) -> None:
    """Raise if the bucket itself does not exist: a missing key looks alike."""
    if location.scheme in LISTED:
        ending = f"{location.path.rstrip('/')}/zarr.json"
        store = open_store(location, {**location.kvstore, "path": ""})
        with contextlib.suppress(PermissionError):  # absence and denial look alike then
            wait_for(store.list(tensorstore().KvStore.KeyRange(ending, ending + "\0")), location)


def list_folder(location: Location) -> list[str] | None:
    """Return the names directly below a location, listed with a delimiter, which TensorStore does not support.

    Returns
    -------
    list of str or None
        None if the bucket's file system of fsspec is not installed, or does not answer.
    """
    if location.scheme not in LISTED:
        return None
    import fsspec

    store, options = location.kvstore, dict(location.options)
    if "endpoint" in store:
        options["endpoint_url"] = store["endpoint"]
    if options.pop("region", store.get("aws_region")):
        options["client_kwargs"] = {"region_name": store["aws_region"]}
    folder = f"{store['bucket']}/{location.path.strip('/')}".rstrip("/")
    try:
        system = fsspec.filesystem(location.scheme, **options, skip_instance_cache=True)
        return [path.removeprefix(f"{folder}/").partition("/")[0] for path in system.ls(folder, detail=False)]
    except FileNotFoundError:
        return []
    except Exception:  # TensorStore lists too, every key, and reports what is wrong
        return None


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
        None if only fsspec knows the store.
    in_threads : bool
        Whether reads are answered by other Python threads.
    """

    in_threads = False

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
        """Bytes of a future's result; `SourceChangedError` if the object is another than the first seen."""
        if result.state != "value":
            raise SourceNotFoundError(f"{self.name!r}: nothing is there; check the path.")
        self._see(result.stamp.generation)
        return bytes(result.value)

    def _see(self, generation: bytes) -> None:
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

    def check(self) -> None:
        """Each read checks the version."""

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

    in_threads = True

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
        self._see(f"{next(marks, '')} {info.get('size')}".encode())
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
    """Use fresh threads: those of abandoned requests are busy until their library ends them."""
    _POOL.drop()


def remote_object(url: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> RemoteObject:
    """Return the object at a URL.

    Examples
    --------
    >>> type(remote_object("s3://bucket/x.npy")).__name__, type(remote_object("memory://x.npy")).__name__
    ('RemoteObject', 'FsspecObject')
    """
    return RemoteObject(locate(url, options)) if supported(url) else FsspecObject(str(url), options or {})


def get(remote: RemoteObject, start: int, stop: int | None) -> bytes:
    """Read bytes and wait for them; ``stop=None``: to the end of the object."""
    return get_all(remote, [(start, stop)])[0]


def get_all(remote: RemoteObject, ranges: Sequence[tuple[int, int | None]]) -> list[bytes]:
    """Read byte ranges, all at once, and wait for them."""
    futures = [remote.fetch(start, stop) for start, stop in ranges]
    results = wait_all(futures, Asked(remote.name), limit=remote.timeout, progress=Progress(remote.renew))
    return [remote.bytes_of(result) for result in results]


def join(offsets: np.ndarray, sizes: np.ndarray, *, gap: int = GAP, part: int = PART) -> list[np.ndarray]:
    """Group ranges into requests: near ones together, up to a size.

    Parameters
    ----------
    offsets, sizes : ndarray, int64
        Ranges.
    gap : int
        Unneeded bytes between two ranges of a group at most.
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
    while at < len(order):  # up to the next wide gap and the part's size; a larger range is a group by itself
        full = int(np.searchsorted(ends, first[at] + part, side="right"))
        end = max(at + 1, min(int(wide[np.searchsorted(wide, at, side="right")]), full))
        groups.append(order[at:end])
        at = end
    return groups


class MissingPagesError(SourceError):
    """A read of an `ObjectFile` needs pages that must be fetched first."""


class Pages(dict[int, bytes]):
    """Pages of an object by number, which stay once fetched.

    Parameters
    ----------
    remote : RemoteObject
        The object.
    size : int
        Its bytes.
    """

    def __init__(self, remote: RemoteObject, size: int) -> None:
        self.remote, self.size = remote, size

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> dict[int, bytes]:
        """Return the pages of byte ranges; missing ones are fetched, neighbours in one request, all at once."""
        found, missing = self.known(ranges)
        numbers = np.array(missing, np.int64)
        runs = [numbers[group].tolist() for group in join(numbers, np.ones_like(numbers), gap=0)]
        places = [(run[0] * PAGE, min((run[-1] + 1) * PAGE, self.size)) for run in runs]
        for run, data in zip(runs, get_all(self.remote, places), strict=True):
            for count, page in enumerate(run):
                self[page] = found[page] = data[count * PAGE : (count + 1) * PAGE]
        return found

    def known(self, ranges: Iterable[tuple[int, int]]) -> tuple[dict[int, bytes], list[int]]:
        """Return the pages of byte ranges, and the numbers of those that are missing."""
        wanted = {page for first, stop in ranges for page in range(first // PAGE, -(-stop // PAGE))}
        found = {page: data for page in sorted(wanted) if (data := self.get(page)) is not None}
        return found, sorted(wanted - found.keys())


class ObjectFile(io.RawIOBase):
    """A file over the pages of an object, for HDF5's reads of metadata.

    h5py holds its global lock while HDF5 reads. TensorStore answers without another Python thread. fsspec does not: a
    garbage collection in its thread may wait for that lock, to free an object of h5py, and neither would go on. So what
    fsspec reads is never waited for here: a read of pages that are not there fails, and `fetch_missing` fetches them
    when the lock is free.

    Parameters
    ----------
    pages : Pages
        Of the object; several files may share them.
    """

    def __init__(self, pages: Pages) -> None:
        self.pages, self.name, self._at = pages, pages.remote.name, 0
        self._missing: list[tuple[int, int]] = []
        self.problem: WindowLoaderError | None = None  # h5py reports its own error instead of ours

    def begin(self) -> None:
        """Forget an earlier problem, and all pages if there are too many."""
        self.problem = None
        if len(self.pages) > KEPT:
            self.pages.clear()

    def tell(self) -> int:
        """Position."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position."""
        self._at = offset + (0, self._at, self.pages.size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read on from the position."""
        view = memoryview(buffer).cast("B")
        first, stop = self._at, max(min(self._at + len(view), self.pages.size), self._at)
        try:
            view[: stop - first] = self._read(first, stop)
        except WindowLoaderError as error:
            self.problem = error
            raise
        self._at = stop
        return stop - first

    def _read(self, first: int, stop: int) -> bytes:
        if self.pages.remote.in_threads:
            found, missing = self.pages.known([(first, stop)])
            if missing:
                self._missing.append((first, stop))
                raise MissingPagesError(f"{self.name!r}: bytes {first}–{stop - 1} were not fetched.")
        elif stop - first > LARGE:  # values: they are not asked for again
            return get(self.pages.remote, first, stop)
        else:
            found = self.pages.fetch([(first, stop)])
        return b"".join(found[page] for page in sorted(found))[first % PAGE :][: stop - first]

    def fetch_missing(self) -> None:
        """Fetch what reads lacked; call it without h5py's lock."""
        missing, self._missing, self.problem = self._missing, [], None
        self.pages.fetch(missing)
