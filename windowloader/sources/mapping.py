"""Maps of files that may change while they are read: a changed file is an error, never a bus error or wrong values.

In: a `Stamp` and a range of its file. Out: `FileMap`, and `unchanged`, the context in which mapped rows are read.

Truncating a file takes its pages out of every map of it, and reading one of them raises SIGBUS. No check before the
read can rule that out, so within `unchanged` a handler of SIGBUS puts zeros in place of the pages that are gone, and
the check at the end of the context, which any change of the file fails, raises. Outside of it the signal is left to
whoever handled it before.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceChangedError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from .handles import Stamp

__all__ = ["CacheMap", "FileMap", "files_of", "owner_of", "unchanged"]

# Of Linux, the same on all its 64-bit machines. Elsewhere files are checked, and a read at the moment of truncation
# can still end the process.
SIGBUS, BUS_ADRERR, SI_TKILL = 7, 2, -6
SA_SIGINFO, SA_NODEFER = 0x4, 0x40000000
MAP_ZEROS = 0x32  # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
CODE_AT, ADDRESS_AT = 8, 16  # in a siginfo_t
SUPPORTED = sys.platform == "linux" and sys.maxsize > 1 << 32


class FileMap(mmap.mmap):
    """A range of a file, mapped read-only, which can tell whether the file is still what was opened.

    Attributes
    ----------
    stamp : Stamp
        The file as it was when opened.
    inode : int
        Of the file that is mapped; a file of the same name that has another one does not touch the map.
    span : tuple of int
        Address of the map, and its end.
    lost : bool
        Whether zeros have taken the place of pages.
    """

    stamp: Stamp
    inode: int
    span: tuple[int, int]
    lost: bool

    @classmethod
    def of(cls, stamp: Stamp, length: int, offset: int) -> FileMap:
        """Map ``length`` bytes from ``offset``, a multiple of the granularity."""
        with open(stamp.path, "rb") as file:
            made = cls(file.fileno(), length, access=mmap.ACCESS_READ, offset=offset)
            found = os.fstat(file.fileno())
        made.stamp, made.inode, made.lost = stamp, found.st_ino, False
        begin = np.frombuffer(made, np.uint8).ctypes.data
        made.span = begin, begin + length
        made.check()
        return made

    def check(self) -> None:
        """Raise `SourceChangedError` where values may be others than those of the file that was opened.

        A file that replaced it under its name leaves the map as it was: opening the next iterator tells of that.
        """
        stamp = self.stamp
        size = self.size()  # of the file that is mapped
        if not self.lost and size == stamp.size:
            try:
                found = os.stat(stamp.path)
            except OSError:  # removed: the map keeps the bytes
                return
            if found.st_ino != self.inode or found.st_mtime_ns == stamp.mtime_ns:
                return
        raise SourceChangedError(
            f"{stamp.path!r} changed while it was read: it had {stamp.size} bytes when it was opened and has {size} "
            "now, or was written in place. Write new data to another file and rename it; open it again to read it."
        )


class CacheMap(FileMap):
    """A map of a file of the disk cache: whoever reads it compares the values, and reads again where `lost` is set."""

    def check(self) -> None:
        """Raise nothing."""


def owner_of(array: np.ndarray) -> object:
    """Return what the memory of an array belongs to, through however many views."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base.obj if isinstance(base, memoryview) else base


def files_of(arrays: Iterable[np.ndarray]) -> tuple[FileMap, ...]:
    """Return the maps that some arrays lie in, each once."""
    found = {id(owner): owner for array in arrays if isinstance(owner := owner_of(array), FileMap)}
    return tuple(found.values())


class unchanged:  # noqa: N801, used as contexts are
    """Context in which maps are read: at its end, a file that changed meanwhile or before raises.

    Parameters
    ----------
    *arrays : ndarray
        What is read; those that lie in no `FileMap` cost nothing.
    files : sequence of FileMap
        Maps that are read, where they are known.

    Raises
    ------
    SourceChangedError
        On entry where a file is shorter than its map, on exit where it changed. What was read must not be used.
    """

    __slots__ = ("_files", "lost")

    def __init__(self, *arrays: np.ndarray, files: Iterable[FileMap] = ()) -> None:
        self._files = (*files, *files_of(arrays))
        self.lost = False

    def __enter__(self) -> unchanged:
        for file in self._files:
            if file.size() != file.stamp.size:
                file.check()
        _install()
        _local.scopes.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _local.scopes.remove(self)
        for file in self._files:
            file.check()
        if self.lost:
            raise SourceChangedError("a mapped file was truncated while it was read. Open it again.")

    def fill(self, address: int) -> None:
        """Put zeros where pages are gone."""
        begin = address // mmap.PAGESIZE * mmap.PAGESIZE
        end = begin + mmap.PAGESIZE
        file = next((file for file in self._files if file.span[0] <= address < file.span[1]), None)
        if file is None:
            self.lost = True
        else:
            end, file.lost = -(-file.span[1] // mmap.PAGESIZE) * mmap.PAGESIZE, True
        if _libc().mmap(begin, end - begin, mmap.PROT_READ, MAP_ZEROS, -1, 0) != begin:
            os.abort()  # the same read would fault for ever


class _Local(threading.local):
    """Contexts that this thread is in."""

    def __init__(self) -> None:
        self.scopes: list[unchanged] = []


_local = _Local()


# -- the handler -------------------------------------------------------------------------------------------------------


class _Action(ctypes.Structure):
    """The C library's ``struct sigaction``."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_before = _Action()  # what handled the signal before
_installed = False
_lock = threading.Lock()


def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return libc


def _on_fault(_signal: int, info: int, _context: int) -> None:
    """Answer SIGBUS. It is raised by a load of this very thread, so anything may be called here but that load."""
    scopes = _local.scopes
    code = ctypes.c_int.from_address(info + CODE_AT).value
    if scopes and code == BUS_ADRERR:
        scopes[-1].fill(ctypes.c_uint64.from_address(info + ADDRESS_AT).value)
    elif not (scopes and code == SI_TKILL):  # faulthandler passes a fault on so; the load comes again
        _libc().sigaction(SIGBUS, ctypes.byref(_before), None)
        if code <= 0:  # sent by somebody: no load that comes again
            os.kill(os.getpid(), SIGBUS)


_CALLED = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(_on_fault)


def _install() -> None:
    """Handle SIGBUS in this process and its forked children, once."""
    global _installed
    if _installed or not SUPPORTED:
        return
    with _lock:
        if not _installed:
            own = _Action(handler=ctypes.cast(_CALLED, ctypes.c_void_p), flags=SA_SIGINFO | SA_NODEFER)
            _libc().sigaction(SIGBUS, ctypes.byref(own), ctypes.byref(_before))
            _installed = True
