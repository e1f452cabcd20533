"""The folder of the disk cache, which the processes of a node share: its entries, its limit, and what is removed when.

In: a folder, a limit, the layout of an array. Out: open entries and a list of them. Never fetches rows. Others may
write to the folder, too: it never follows a symbolic link, and uses and removes only entries that belong to this user.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import threading
import time
import warnings
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceError, SourceNotFoundError
from windowloader.util.units import format_bytes

from .base import digest
from .disk_cache_entry import ABOUT, FILES, SLOT, CacheEntry, open_file
from .processes import PerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .disk_cache_entry import CacheLayout

__all__ = ["CachedArray", "DiskCache", "check_folder"]

FORMAT = 2
SPARE = 64 << 20  # bytes left free on the device
PATIENCE = 10.0  # seconds to wait for the lock of the folder, whose owner may have been stopped
NAME = re.compile(r"\w+-[0-9a-f]{16}-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedArray:
    """One array of a disk cache.

    Attributes
    ----------
    path : str
        Folder of its entry.
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
        folder = Path(self.path, f"{words[-48:] or 'array'}-{key}-{digest(state)}")
        lock, entries = _OPEN.get(lambda: (threading.Lock(), weakref.WeakValueDictionary()))
        with lock:
            entry = entries.get(str(folder))
            if entry is not None and entry.intact():
                return entry
            try:
                os.makedirs(self.path, 0o700, exist_ok=True)
                with self._locked():
                    for other in Path(self.path).glob(f"*-{key}-*"):
                        array = _read_array(other)
                        if other != folder and (array is None or not array.in_use):
                            _remove(other)
                    entry = self._open(folder, layout)
            except OSError as error:
                warnings.warn(
                    f"cache_dir={self.path!r} cannot keep {layout.name!r}, which is streamed: {error}. Choose another "
                    "folder, make room ('windowloader cache clear', cache_size=), or leave cache_dir out.",
                    stacklevel=2,
                )
                return None
            entries[str(folder)] = entry
            return entry

    def _open(self, folder: Path, layout: CacheLayout) -> CacheEntry:
        if _read_array(folder) is not None:
            with contextlib.suppress(
                OSError
            ):  # a file has another size or is not ours: the entry is made again
                return _open_entry(folder, layout, os.O_RDWR)
        _remove(folder)
        self._make_room(layout.sizes["values"])
        os.mkdir(folder, 0o700)
        return _open_entry(folder, layout, os.O_RDWR | os.O_CREAT | os.O_EXCL)

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
        for other in self._folders():
            if _read_array(other) is None:  # making or removing it was interrupted
                _remove(other)
        others = self.arrays()
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
            _remove(Path(oldest.path))
        limit = "" if self.limit is None else f", cache_size is {format_bytes(self.limit)}"
        raise OSError(
            f"it takes {format_bytes(size)}, other arrays in use {format_bytes(taken)} and will take "
            f"{format_bytes(promised)} more; {format_bytes(free)} are free{limit}"
        )

    # -- what is there -------------------------------------------------------------------------------------------------

    def _folders(self) -> list[Path]:
        return [path for path in sorted(Path(self.path).iterdir()) if NAME.fullmatch(path.name)]

    def arrays(self) -> list[CachedArray]:
        """List this user's arrays, in the order of their names.

        Raises
        ------
        SourceNotFoundError
            Where there is no such folder.
        """
        if not os.path.isdir(self.path):
            raise SourceNotFoundError(f"cache folder {self.path!r} does not exist.")
        found = [_read_array(folder) for folder in self._folders()]
        return [array for array in found if array is not None]

    def clear(self, *, name: str = "") -> tuple[list[CachedArray], list[CachedArray]]:
        """Remove the arrays whose name contains ``name``, but those that a process has open.

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
                        gone = not array.in_use and _remove(Path(array.path))
                        (removed if gone else kept).append(array)
        except OSError as error:
            raise SourceError(f"{self.path!r} cannot be cleared: {error}.") from error
        return removed, kept


# Open entries by their folders, so that the sources of a process share them; a forked child begins with none.
_OPEN: PerProcess[tuple[threading.Lock, weakref.WeakValueDictionary[str, CacheEntry]]] = PerProcess()


def check_folder(path: str | os.PathLike[str]) -> str:
    """Return a folder's absolute path; `SourceError` for a URL, and where a file of that name is in the way."""
    if "://" in os.fspath(path):
        raise SourceError(f"cache_dir={os.fspath(path)!r} is a URL; a folder on this machine is needed.")
    found = os.path.abspath(os.path.expanduser(os.fspath(path)))
    if os.path.exists(found) and not os.path.isdir(found):
        raise SourceError(f"cache_dir={os.fspath(path)!r} is a file; a folder is needed.")
    return found


# -- the folder of an entry --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[int]:
    """Open the folder of an entry; `OSError` unless it belongs to this user, who alone may write to it."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(number)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
            raise OSError(f"{folder} belongs to another user")
        yield number
    finally:
        os.close(number)


def _open_entry(folder: Path, layout: CacheLayout, flags: int) -> CacheEntry:
    """Open or make the files of an entry; `OSError` where one of them is not what this cache made."""
    files: dict[str, int] = {}
    with _inside(folder) as inside, contextlib.ExitStack() as opened:
        for name, size in (layout.sizes | {ABOUT: None}).items():
            files[name] = open_file(inside, name, size, flags)
            opened.callback(os.close, files[name])
        if flags & os.O_CREAT:
            about = {"name": layout.name, "shape": layout.shape, "dtype": layout.dtype.str, "format": FORMAT}
            os.write(files[ABOUT], json.dumps(about).encode())
            os.fsync(files[ABOUT])
        entry = CacheEntry(folder, layout, files)
        opened.pop_all()
    return entry


def _remove(folder: Path) -> bool:
    """Remove an entry, its files by their names: what else may lie there, or behind a link, stays.

    Returns
    -------
    bool
        Whether nothing of that name is left.
    """
    try:
        with _inside(folder) as inside:
            for name in reversed(FILES):  # `ABOUT` first: without it the entry does not exist
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=inside)
        os.rmdir(folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(folder)  # a link or a file in the way; never a folder
    return not os.path.lexists(folder)


def _read_array(folder: Path) -> CachedArray | None:
    """Describe an entry; None where it is incomplete, or belongs to another user."""
    try:
        with _inside(folder) as inside, open(open_file(inside, ABOUT, None, os.O_RDONLY)) as file:
            about = json.load(file)
            used = os.fstat(file.fileno()).st_mtime
            values = os.stat("values", dir_fd=inside, follow_symlinks=False)
            with open(open_file(inside, "blocks", None, os.O_RDONLY), "rb") as blocks:
                table = np.fromfile(blocks, SLOT)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                in_use = False
            except BlockingIOError:
                in_use = True
        return CachedArray(
            path=str(folder),
            name=about["name"],
            shape=tuple(about["shape"]),
            dtype=np.dtype(about["dtype"]).name,
            bytes=values.st_size,
            bytes_held=min(values.st_blocks * 512, values.st_size),
            blocks=len(table),
            blocks_held=int(np.count_nonzero(table)),
            used=used,
            in_use=in_use,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
