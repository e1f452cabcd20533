"""The folder of mirrors that the processes of a node share: entries, room, what is removed when.

In: a folder, a limit, what an array looks like. Out: opened mirrors, a list of entries. Never fetches, and never
removes what somebody has open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from windowloader.errors import SourceError, SourceNotFoundError
from windowloader.util.units import format_bytes

from .base import digest
from .mirror import Mirror
from .mirror_entry import (
    FORMAT,
    Entry,
    about_of,
    allocated,
    in_use,
    is_left_over,
    is_whole,
    make,
    read_entry,
    remove,
    slug,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .mirror_form import Form

__all__ = ["EntryLease", "MirrorFolder", "check_folder"]

LOCK = "lock"
SPARE = 64 << 20  # left free on the device


@dataclass(frozen=True, slots=True)
class MirrorFolder:
    """A folder of mirrors.

    Parameters
    ----------
    path : str
        Absolute; made when first written to.
    limit : int, optional
        Bytes that all its arrays may take together; None: what the device has.
    """

    path: str
    limit: int | None = None

    # -- opening -------------------------------------------------------------------------------------------------------

    def open(self, form: Form, *, key: str, fingerprint: str) -> EntryLease | None:
        """Open the mirror of an array, made if need be.

        Parameters
        ----------
        form : Form
            What it holds.
        key : str
            Same for all states of one array.
        fingerprint : str
            Of its present state; mirrors of other states are removed.

        Returns
        -------
        Lease or None
            None where the folder is read-only and has nothing of this array.
        """
        key = digest(FORMAT, key, form.edges.tobytes())
        folder = Path(self.path, f"{slug(form.name)}-{key}-{digest(fingerprint)}")
        with _LOCK:
            mirror = _OPEN.get(str(folder))
            if mirror is None or not mirror.intact():  # a lost one is closed by those that still use it
                mirror = self._open(folder, form, key)
                if mirror is None:
                    return None
                _OPEN[str(folder)] = mirror
                _USERS[mirror] = 0
            _USERS[mirror] += 1
        return EntryLease(mirror)

    def _open(self, folder: Path, form: Form, key: str) -> Mirror | None:
        about = about_of(form)
        if not self._writable():
            return Mirror(folder, form, writable=False) if is_whole(folder, form, about) else None
        with self._locked():
            self._sweep()
            for other in Path(self.path).glob(f"*-{key}-*"):
                if other != folder and not in_use(other):
                    remove(other)
            writable = make(folder, form, about)
            mirror = Mirror(folder, form, writable=writable)
            mirror.touch()
            return mirror

    def _writable(self) -> bool:
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as error:
            raise SourceError(f"cache_dir={self.path!r} cannot be made: {error}.") from error
        if not os.path.isdir(self.path):
            raise SourceError(f"cache_dir={self.path!r} is no folder.")
        try:
            os.close(os.open(Path(self.path, LOCK), os.O_RDWR | os.O_CREAT, 0o666))
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from making, measuring or removing entries; the kernel ends it with the process."""
        number = os.open(Path(self.path, LOCK), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(number)

    def _sweep(self) -> None:
        """Remove what an interrupted process left over; under the lock, so nobody is about to make it."""
        for folder in Path(self.path).iterdir():
            if is_left_over(folder):
                remove(folder)

    # -- room ----------------------------------------------------------------------------------------------------------

    def reserve(self, mirror: Mirror) -> None:
        """See that the rest of an array fits, before its first block is fetched; remove what was used longest ago.

        Raises
        ------
        SourceError
            Where it does not fit, with the numbers.
        """
        if mirror.reserved:
            return
        with self._locked():
            others = [
                entry
                for entry in sorted(self.entries(), key=lambda entry: entry.used)
                if entry.path != str(mirror.folder)
            ]
            unused = [entry for entry in others if not entry.in_use]
            while (short := self._short(mirror, others)) and unused:
                oldest = unused.pop(0)
                remove(Path(oldest.path))
                others.remove(oldest)
            if short:
                raise SourceError(short)
        mirror.reserved = True

    def _short(self, mirror: Mirror, others: list[Entry]) -> str:
        """Say what is missing, or nothing."""
        form = mirror.form
        taken = sum(entry.bytes for entry in others)
        if self.limit is not None and form.nbytes + taken > self.limit:
            return (
                f"cache_dir={self.path!r}: the mirror of {form.name!r} takes {format_bytes(form.nbytes)}, other arrays "
                f"in use there {format_bytes(taken)}, and cache_size is {format_bytes(self.limit)}. Raise cache_size, "
                "or leave cache_dir out to stream without a mirror."
            )
        missing = form.nbytes - allocated(mirror.folder)
        promised = sum(entry.bytes - allocated(Path(entry.path)) for entry in others if entry.in_use)
        found = os.statvfs(self.path)
        free = found.f_bavail * found.f_frsize - SPARE
        if missing + promised > free:
            return (
                f"cache_dir={self.path!r} has {format_bytes(max(free, 0))} free, but the mirror of {form.name!r} takes "
                f"{format_bytes(missing)} more"
                + (f" beside {format_bytes(promised)} that others are about to fill" if promised else "")
                + ". Choose another folder, make room ('windowloader cache clear'), or leave cache_dir out."
            )
        return ""

    # -- what is there -------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Look at what is there, in the order of names.

        Raises
        ------
        SourceNotFoundError
            Where there is no such folder.
        """
        if not os.path.isdir(self.path):
            raise SourceNotFoundError(f"{self.path!r} is no folder.")
        found = [read_entry(folder) for folder in sorted(Path(self.path).iterdir()) if folder.is_dir()]
        return [entry for entry in found if entry is not None]

    def clear(self, *, name: str = "") -> tuple[list[Entry], list[Entry]]:
        """Remove the arrays whose name has ``name`` in it, but those that a process has open.

        Returns
        -------
        removed, kept : list of Entry
        """
        removed: list[Entry] = []
        kept: list[Entry] = []
        if self.entries() and not self._writable():
            raise SourceError(f"{self.path!r} is read-only; nothing was removed.")
        if not os.path.exists(Path(self.path, LOCK)):
            return removed, kept
        with self._locked():
            self._sweep()
            for entry in self.entries():
                if name not in entry.name:
                    continue
                if entry.in_use:
                    kept.append(entry)
                else:
                    remove(Path(entry.path))
                    removed.append(entry)
        return removed, kept


class EntryLease:
    """The use of a mirror by one source; the last one to end in a process closes it.

    Parameters
    ----------
    mirror : Mirror
        Opened, and counted.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._end = weakref.finalize(self, _release, mirror, wait=False)
        self._end.atexit = False

    def close(self) -> None:
        """Let go of it."""
        if self._end.detach() is not None:
            _release(self.mirror, wait=True)


_LOCK = threading.RLock()  # entered again where the garbage collector ends a lease
_OPEN: dict[str, Mirror] = {}
_USERS: dict[Mirror, int] = {}
_INHERITED: list[object] = []


def _forked() -> None:
    """Begin anew in a forked child: what the parent has open is kept as it is, with the locks that hang on it."""
    global _LOCK
    _LOCK = threading.RLock()
    _INHERITED.extend([dict(_OPEN), dict(_USERS)])
    _OPEN.clear()
    _USERS.clear()


os.register_at_fork(after_in_child=_forked)


def _release(mirror: Mirror, *, wait: bool) -> None:
    with _LOCK:
        if mirror not in _USERS:  # of the process this one was forked from
            return
        _USERS[mirror] -= 1
        if _USERS[mirror]:
            return
        del _USERS[mirror]
        for key in [key for key, held in _OPEN.items() if held is mirror]:
            del _OPEN[key]
        mirror.close(wait=wait)


def check_folder(path: str | os.PathLike[str]) -> str:
    """Return a folder's absolute path; `SourceError` for a URL, and where a file of that name is in the way."""
    if "://" in os.fspath(path):
        raise SourceError(f"cache_dir={os.fspath(path)!r} is a URL; a folder on this machine is needed.")
    found = os.path.abspath(os.path.expanduser(os.fspath(path)))
    if os.path.exists(found) and not os.path.isdir(found):
        raise SourceError(f"cache_dir={os.fspath(path)!r} is a file; a folder is needed.")
    return found
