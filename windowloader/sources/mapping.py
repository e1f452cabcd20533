"""Maps of files that may change while they are read: a changed file is an error, never a bus error or wrong values.

In: a `Stamp` and where in its file an array lies. Out: `Region` and its map, a `FileMap`; `unchanged`, the context in
which mapped rows are read. Never copies.

Truncating a file takes its pages out of every map of it, and reading one of them raises SIGBUS. No check before the
read can rule that out, so within `unchanged` a handler of SIGBUS puts zeros in place of the pages that are gone, and
the check at the end of the context, which any change of the file fails, raises. Outside of it the signal is left to
whoever handled it before.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceChangedError, SourceError
from windowloader.util.axes import check_dtype, check_shape

from .handles import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

__all__ = [
    "CacheMap", "FileMap", "Region", "files_of", "is_mapped", "mapping_of", "owner_of", "region_of_memmap", "unchanged",
]  # fmt: skip

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
            made = cls._on(file.fileno(), stamp, length, offset)
        made.check()
        return made

    @classmethod
    def _on(cls, descriptor: int, stamp: Stamp, length: int, offset: int) -> Self:
        made = cls(descriptor, length, access=mmap.ACCESS_READ, offset=offset)
        made.stamp, made.inode, made.lost = stamp, os.fstat(descriptor).st_ino, False
        begin = np.frombuffer(made, np.uint8).ctypes.data
        made.span = begin, begin + length
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
    """A map of a file of the disk cache: its readers verify the values, and read again where `lost` is set."""

    @classmethod
    def of_descriptor(cls, descriptor: int, path: str | os.PathLike[str], size: int) -> CacheMap:
        """Map a whole file that is open."""
        return cls._on(descriptor, Stamp(os.fspath(path), size, 0), size, 0)

    def check(self) -> None:
        """Raise nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where in a file an array lies.

    Parameters
    ----------
    stamp : Stamp
        The file as it was when opened.
    offset : int
        Bytes before the first value.
    shape, strides : tuple of int
        As for an ndarray, strides in bytes and never negative.
    dtype : numpy.dtype
        As stored.

    Raises
    ------
    CorruptDataError
        Where the file is shorter than the array needs.
    """

    stamp: Stamp
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def __post_init__(self) -> None:
        check_dtype(self.dtype, self.stamp.path)
        check_shape(self.shape, self.dtype.itemsize, self.stamp.path)
        if self.offset < 0 or self.stamp.size < (needed := self.offset + self.nbytes):
            raise CorruptDataError(
                f"{self.stamp.path!r} is truncated: {self.shape} of {self.dtype} at offset {self.offset} "
                f"needs {needed} bytes, and the file has {self.stamp.size}. Was it copied to its end?"
            )

    @classmethod
    def packed(
        cls, stamp: Stamp, *, offset: int, shape: Sequence[int], dtype: Any, order: str = "C"
    ) -> Region:
        """Region of an array without gaps, in C or Fortran order."""
        dtype = np.dtype(dtype)
        shape = check_shape(shape, dtype.itemsize, stamp.path)
        nearer = [shape[dim + 1 :] if order == "C" else shape[:dim] for dim in range(len(shape))]
        strides = [dtype.itemsize * math.prod(sizes) for sizes in nearer]
        return cls(stamp=stamp, offset=offset, shape=shape, strides=tuple(strides), dtype=dtype)

    @property
    def nbytes(self) -> int:
        """Bytes from the first value to the end of the last."""
        if 0 in self.shape:
            return 0
        steps = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return steps + self.dtype.itemsize

    @property
    def mappable(self) -> bool:
        """Whether it can be mapped: some file systems map nothing, and addresses may be limited (``ulimit -v``)."""
        try:
            self.map()
        except SourceError:
            raise
        except OSError:
            return False
        return True

    def map(self) -> np.ndarray:
        """Map the region read-only."""
        self.stamp.check()  # a page past the end of a file that shrank is a bus error, not an exception
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)
        begin = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        pages = FileMap.of(self.stamp, self.offset - begin + self.nbytes, begin)
        return np.ndarray(self.shape, self.dtype, pages, self.offset - begin, self.strides)


def owner_of(array: np.ndarray) -> object:
    """Return what the memory of an array belongs to, through however many views."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base.obj if isinstance(base, memoryview) else base


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array's memory is a file's, through however many views."""
    return isinstance(owner_of(array), mmap.mmap)


def mapping_of(array: np.ndarray) -> tuple[mmap.mmap, int] | None:
    """Return the map an array lies in, and its offset there in bytes; None for an array in memory."""
    base = owner_of(array)
    if not isinstance(base, mmap.mmap):
        return None
    return base, array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data


def region_of_memmap(array: np.ndarray) -> Region | None:
    """Region of a view of a memmap that someone made, so that it pickles as a place and not as bytes.

    None for anything else, and where the values may differ from the file's (mode ``c``).
    """
    root: Any = array
    while isinstance(root, np.ndarray) and isinstance(root.base, np.ndarray):
        root = root.base
    found = mapping_of(array)
    if found is None or not isinstance(root, np.memmap) or root.filename is None or root.mode == "c":
        return None
    if min(array.strides, default=0) < 0 or not array.size:
        return None
    begin = root.offset - root.offset % mmap.ALLOCATIONGRANULARITY
    stamp = Stamp.of(root.filename)
    return Region(
        stamp=stamp, offset=begin + found[1], shape=array.shape, strides=array.strides, dtype=array.dtype
    )


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
