"""Memory maps of files that may change while they are read: a changed file raises, with no bus error or wrong values.

In: a `Stamp` and where in its file an array lies. Out: `Region` and its map, a `FileMap`; `unchanged`, the context in
which mapped rows are read. Never copies.

Truncating a file removes its pages from every map of it, and reading a removed page raises SIGBUS. A check before the
read cannot rule that out. Within `unchanged` a handler of SIGBUS therefore replaces removed pages by zeros, and the
check at the end of the context raises. Outside of it the previous handler gets the signal.
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
    "CacheMap", "FileMap", "Region", "files_of", "is_mapped", "mapping_of", "owner_of", "region_of_memmap", "release",
    "unchanged",
]  # fmt: skip

# Constants of 64-bit Linux. On other systems files are checked, but truncation during a read can end the process.
SIGBUS, BUS_ADRERR, SI_TKILL = 7, 2, -6
SA_SIGINFO, SA_NODEFER = 0x4, 0x40000000
MAP_ZEROS = 0x32  # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
CODE_AT, ADDRESS_AT = 8, 16  # in a siginfo_t
SUPPORTED = sys.platform == "linux" and sys.maxsize > 1 << 32


class FileMap(mmap.mmap):
    """A range of a file, mapped read-only, which detects changes of the file.

    Attributes
    ----------
    stamp : Stamp
        The file as it was when opened.
    inode : int
        Of the mapped file; another file of the same name does not affect the map.
    span : tuple of int
        Address of the map, and its end.
    lost : bool
        Whether pages were replaced by zeros.
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
        """Raise `SourceChangedError` where the values may differ from those of the file that was opened.

        A file that replaced it under its name does not affect the map; the next iterator detects it when it starts.
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
        """Whether it can be mapped: not on some file systems, nor beyond a limit of addresses (``ulimit -v``)."""
        try:
            self.map()
        except SourceError:
            raise
        except OSError:
            return False
        return True

    def map(self) -> np.ndarray:
        """Map the region read-only."""
        self.stamp.check()  # reading past the end of a file that shrank is a bus error, not an exception
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)
        begin = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        pages = FileMap.of(self.stamp, self.offset - begin + self.nbytes, begin)
        return np.ndarray(self.shape, self.dtype, pages, self.offset - begin, self.strides)


def owner_of(array: np.ndarray) -> object:
    """Return the object that owns the memory of an array, through any number of views."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base.obj if isinstance(base, memoryview) else base


def is_mapped(array: np.ndarray) -> bool:
    """Whether the memory of an array is a mapped file, through any number of views."""
    return isinstance(owner_of(array), mmap.mmap)


def release(*arrays: np.ndarray) -> None:
    """Drop the pages of mapped arrays from this process; the operating system keeps them while it has memory."""
    for array in arrays:
        if isinstance(owner := owner_of(array), mmap.mmap):
            owner.madvise(mmap.MADV_DONTNEED)


def mapping_of(array: np.ndarray) -> tuple[mmap.mmap, int] | None:
    """Return the map an array lies in, and its offset there in bytes; None for an array in memory."""
    base = owner_of(array)
    if not isinstance(base, mmap.mmap):
        return None
    return base, array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data


def region_of_memmap(array: np.ndarray) -> Region | None:
    """Region of a view of a `numpy.memmap`, so that it pickles as a place and not as bytes; None for other arrays.

    Also None where the values may differ from those of the file (mode ``c``).
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
    """Context in which maps are read: raises at its end where a file has changed.

    Parameters
    ----------
    *arrays : ndarray
        Arrays that are read; those in no `FileMap` cost nothing.
    files : sequence of FileMap
        Maps that are read, where they are known already.
    name : str
        What is read, for a message where the file is not known.

    Raises
    ------
    SourceChangedError
        On entry where a file is shorter than its map, on exit where it changed. What was read must not be used.
    """

    __slots__ = ("_files", "_name", "lost")

    def __init__(
        self, *arrays: np.ndarray, files: Iterable[FileMap] = (), name: str = "a mapped file"
    ) -> None:
        self._files, self._name = (*files, *files_of(arrays)), name
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
            raise SourceChangedError(f"{self._name} was truncated while it was read. Open it again.")

    def fill(self, address: int) -> None:
        """Replace removed pages by zeros."""
        begin = address // mmap.PAGESIZE * mmap.PAGESIZE
        end = begin + mmap.PAGESIZE
        file = next((file for file in self._files if file.span[0] <= address < file.span[1]), None)
        if file is None:
            self.lost = True
        else:
            end, file.lost = -(-file.span[1] // mmap.PAGESIZE) * mmap.PAGESIZE, True
        if _libc().mmap(begin, end - begin, mmap.PROT_READ, MAP_ZEROS, -1, 0) != begin:
            os.abort()  # the same read would fault forever


class _Local(threading.local):
    """Contexts that this thread has entered."""

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


_before = _Action()  # the previous handler
_installed = False
_lock = threading.Lock()


def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return libc


def _on_fault(_signal: int, info: int, _context: int) -> None:
    """Handle SIGBUS. A load of this thread raised it, so that Python code may run here, except that load."""
    scopes = _local.scopes
    code = ctypes.c_int.from_address(info + CODE_AT).value
    if scopes and code == BUS_ADRERR:
        scopes[-1].fill(ctypes.c_uint64.from_address(info + ADDRESS_AT).value)
    elif not (scopes and code == SI_TKILL):  # sent again by faulthandler; the load repeats
        _libc().sigaction(SIGBUS, ctypes.byref(_before), None)
        if code <= 0:  # sent by a process, so that no load repeats
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
