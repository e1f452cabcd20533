"""The folder of the disk cache, which the processes of a node share: its entries, its limit, and what is removed when.

In: a folder, a limit, the layout of an array. Out: open entries and a list of them. Never fetches rows. Others may
write to the folder, too: it never follows a symbolic link, and uses and removes only files that belong to this user.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import threading
import time
import warnings
import weakref
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceError, SourceNotFoundError
from windowloader.util.units import format_bytes

from .base import digest
from .disk_cache_entry import FORMAT, HEADER, IN_USE, SLOT, CacheEntry, lock, open_file
from .processes import PerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .disk_cache_entry import CacheLayout

__all__ = ["CachedArray", "DiskCache", "check_folder", "keep", "recall"]

SPARE = 64 << 20  # bytes left free on the device
PATIENCE = 5.0  # seconds to wait for the lock of the folder, whose owner may have been stopped
NAME = re.compile(r"\w+-[0-9a-f]{16}-[0-9a-f]{16}\.rows")
RESULT = re.compile(r"[0-9a-f]{16}\.scan")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedArray:
    """One array of a disk cache.

    Attributes
    ----------
    path : str
        Its file.
    name : str
        Path or URL of the array.
    shape : tuple of int
    dtype : str
    bytes, bytes_held : int
        Size of the whole array, and of the blocks that are there.
    blocks, blocks_held : int
        Number of blocks, and of those that are there.
    used : float
        When it was last opened, seconds since 1970.
    in_use : bool
        Whether a process has it open.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    bytes_held: int
    blocks: int
    blocks_held: int
    used: float
    in_use: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DiskCache:
    """A folder that keeps arrays.

    Parameters
    ----------
    path : str
        Absolute; made when it is first used, for this user alone.
    limit : int, optional
        Bytes that all its arrays may take together. Default: what the device has.
    """

    path: str
    limit: int | None = None

    def open(self, layout: CacheLayout, *, key: str, state: str) -> CacheEntry | None:
        """Open the entry of an array, made if it is not there.

        Parameters
        ----------
        layout : CacheLayout
        key : str
            Same for all states of one array.
        state : str
            Present state of the array; entries of other states are removed.

        Returns
        -------
        CacheEntry or None
            None where the array cannot be kept; a warning says why.
        """
        key = digest(FORMAT, os.geteuid(), key, layout.edges.tobytes())
        words = re.sub(r"\W+", "_", layout.name.rpartition("://")[2], flags=re.ASCII).strip("_")
        path = f"{self.path}/{words[-48:] or 'array'}-{key}-{digest(state)}.rows"
        guard, entries = _OPEN.get(lambda: (threading.Lock(), weakref.WeakValueDictionary()))
        with guard:
            entry = entries.get(path)
            if entry is not None and entry.intact():
                return entry
            try:
                os.makedirs(self.path, 0o700, exist_ok=True)
                with self._locked():
                    for other in self.arrays():
                        if f"-{key}-" in other.path and other.path != path and not other.in_use:
                            _remove(other.path)
                    entry = self._open(path, layout)
            except OSError as error:
                warnings.warn(
                    f"cache_dir={self.path!r} cannot keep {layout.name!r}, which is streamed: {error}. Choose another "
                    "folder, make room ('windowloader cache clear', cache_size=), or leave cache_dir out.",
                    stacklevel=2,
                )
                return None
            entries[path] = entry
            return entry

    def _open(self, path: str, layout: CacheLayout) -> CacheEntry:
        with contextlib.suppress(OSError):  # not there, damaged or not ours: it is made again
            return CacheEntry(path, layout)
        _remove(path)
        self._make_room(layout.nbytes)
        number = open_file(path, os.O_CREAT | os.O_EXCL)
        try:
            os.truncate(number, layout.file_bytes)
            os.pwrite(number, layout.header, 0)
            os.fsync(number)
        finally:
            os.close(number)
        return CacheEntry(path, layout)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from making and removing entries; `OSError` where one does so for too long."""
        number = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise OSError("another process has locked the folder and does not go on") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(number)

    def _make_room(self, size: int) -> None:
        """Remove the arrays that were used longest ago until one fits; `OSError` with the numbers where it does not."""
        others = self.arrays()
        known = {one.path for one in others}
        for path in self._paths():
            if path not in known:  # making it was interrupted, or it is another user's
                with contextlib.suppress(OSError):
                    _remove(path)
        unused = sorted((one for one in others if not one.in_use), key=lambda one: -one.used)
        while True:
            taken = sum(one.bytes for one in others)
            device = os.statvfs(self.path)
            free = max(device.f_bavail * device.f_frsize - SPARE, 0)
            promised = sum(one.bytes - one.bytes_held for one in others if one.in_use)
            if (self.limit is None or size + taken <= self.limit) and size + promised <= free:
                return
            if not unused:
                break
            others.remove(oldest := unused.pop())
            _remove(oldest.path)
        limit = "" if self.limit is None else f", cache_size is {format_bytes(self.limit)}"
        raise OSError(
            f"it takes {format_bytes(size)}, other arrays in use {format_bytes(taken)} and will take "
            f"{format_bytes(promised)} more; {format_bytes(free)} are free{limit}"
        )

    # -- what is there -------------------------------------------------------------------------------------------------

    def _paths(self) -> list[str]:
        return [f"{self.path}/{name}" for name in sorted(os.listdir(self.path)) if NAME.fullmatch(name)]

    def arrays(self) -> list[CachedArray]:
        """List this user's arrays, in the order of their names.

        Raises
        ------
        SourceNotFoundError
            Where there is no such folder.
        """
        if not os.path.isdir(self.path):
            raise SourceNotFoundError(f"cache folder {self.path!r} does not exist.")
        found = [_read_array(path) for path in self._paths()]
        return [array for array in found if array is not None]

    def clear(self, *, name: str = "") -> tuple[list[CachedArray], list[CachedArray]]:
        """Remove the arrays whose name contains ``name``, but those that a process has open; without one, results too.

        Returns
        -------
        removed, kept : list of CachedArray
        """
        removed: list[CachedArray] = []
        kept: list[CachedArray] = []
        try:
            with self._locked():
                for array in self.arrays():
                    if name in array.name:
                        (kept if array.in_use else removed).append(array)
                results = (
                    [] if name else [other for other in os.listdir(self.path) if RESULT.fullmatch(other)]
                )
                for path in [
                    *(array.path for array in removed),
                    *(f"{self.path}/{other}" for other in results),
                ]:
                    with contextlib.suppress(OSError):  # another user's
                        _remove(path)
        except OSError as error:
            raise SourceError(f"{self.path!r} cannot be cleared: {error}.") from error
        return removed, kept


# Open entries by their paths, so that the sources of a process share them; a forked child begins with none.
_OPEN: PerProcess[tuple[threading.Lock, weakref.WeakValueDictionary[str, CacheEntry]]] = PerProcess()


def check_folder(path: str | os.PathLike[str]) -> str:
    """Return a folder's absolute path; `SourceError` for a URL, and where a file of that name is in the way."""
    if "://" in os.fspath(path):
        raise SourceError(f"cache_dir={os.fspath(path)!r} is a URL; a folder on this machine is needed.")
    found = os.path.abspath(os.path.expanduser(os.fspath(path)))
    if os.path.exists(found) and not os.path.isdir(found):
        raise SourceError(f"cache_dir={os.fspath(path)!r} is a file; a folder is needed.")
    return found


def recall(folder: str, key: str) -> bytes | None:
    """Return what `keep` was given for a key; None where it is not there, or not whole."""
    with contextlib.suppress(OSError), open(open_file(_result(folder, key)), "rb") as file:
        data = file.read()
        if zlib.crc32(data[4:]).to_bytes(4) == data[:4]:
            return data[4:]
    return None


def keep(folder: str, key: str, data: bytes) -> None:
    """Keep a small result, such as that of a scan, if the folder can be written to; it does not count in the limit."""
    path = _result(folder, key)
    with contextlib.suppress(OSError):
        os.makedirs(folder, 0o700, exist_ok=True)
        _remove(path)
        with open(open_file(path, os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(zlib.crc32(data).to_bytes(4) + data)


def _result(folder: str, key: str) -> str:
    return f"{folder}/{digest(FORMAT, os.geteuid(), key)}.scan"


def _remove(path: str) -> None:
    """Remove a file or a link of this user's, if it is there; `OSError` for a folder and what belongs to others."""
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_uid != os.geteuid():
            raise OSError(f"{path} belongs to another user")
        os.unlink(path)


def _read_array(path: str) -> CachedArray | None:
    """Describe an entry; None where it is incomplete, or belongs to another user."""
    try:
        with open(open_file(path, os.O_NOATIME), "rb") as file:
            status = os.fstat(file.fileno())
            about = json.loads(file.read(HEADER))
            table = os.pread(file.fileno(), about["blocks"] * SLOT.itemsize, HEADER + about["bytes"])
            return CachedArray(
                path=path,
                name=about["name"],
                shape=tuple(about["shape"]),
                dtype=np.dtype(about["dtype"]).name,
                bytes=about["bytes"],
                bytes_held=min(max(status.st_blocks * 512 - HEADER, 0), about["bytes"]),
                blocks=about["blocks"],
                blocks_held=int(np.count_nonzero(np.frombuffer(table, SLOT))),
                used=status.st_atime,
                in_use=not lock(file.fileno(), fcntl.F_WRLCK, IN_USE),
            )
    except (OSError, ValueError, KeyError, TypeError):
        return None
