"""Arrays of NumPy's own files, read whole.

In: an ``.npy`` or ``.npz`` file. Out: its arrays, no larger than the file has bytes for, whatever a header says; one of
them as a source. Never unpickles objects.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError

from .base import Described, check_shape, unknown_variable
from .handles import Stamp
from .memory import LoadedSource

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Archive", "list_npz", "open_npz", "open_npz_archive", "read_npy", "read_npy_header"]

LONGEST = 10_012  # bytes of a header that numpy.lib.format reads, with what stands before it
DEFLATED = 1032  # bytes at most that a compressed byte can stand for


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, order (whether Fortran's) and dtype, up to the first value; ValueError where there are none."""
    head = io.BytesIO(file.read(LONGEST))  # a damaged length would have NumPy read up to 4 GiB
    try:
        short = np.lib.format.read_magic(head) == (1, 0)
        # version 3.0 differs from 2.0 in the text encoding alone
        read = np.lib.format.read_array_header_1_0 if short else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(head)
    except Exception as error:  # whatever NumPy's and Python's parsers raise
        raise ValueError(str(error) or type(error).__name__) from error
    file.seek(head.tell())
    return check_shape(shape, dtype.itemsize, "this array"), fortran, dtype


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """Read an array from a file of ``size`` bytes; ValueError where its header asks for more, or for objects."""
    shape, _, dtype = read_npy_header(file)
    needed, rest = math.prod(shape) * dtype.itemsize, size - file.tell()
    if not dtype.hasobject and needed > rest:
        raise ValueError(f"its header says shape {shape} of {dtype}, {needed} bytes, and {rest} follow")
    file.seek(0)
    array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


class Archive:
    """The arrays of an ``.npz``, each read when asked for.

    Parameters
    ----------
    members : ZipFile
        The archive.
    """

    def __init__(self, members: zipfile.ZipFile) -> None:
        self._zip = members
        self._members = {name.removesuffix(".npy"): name for name in members.namelist()}
        self.names = list(self._members)

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._zip.getinfo(self._members[name])
        if info.file_size > DEFLATED * info.compress_size + DEFLATED:
            raise ValueError(
                f"{name!r} cannot have {info.file_size} bytes, compressed in {info.compress_size}"
            )
        with self._zip.open(info) as file:
            return read_npy(file, info.file_size)


@contextmanager
def open_npz_archive(path: str | os.PathLike[str]) -> Iterator[Archive]:
    """Open an ``.npz``; what goes wrong with it meanwhile is an error of the source.

    Raises
    ------
    CorruptDataError
        For an archive that is damaged.
    SourceFormatError
        For an array that cannot be read, such as one of objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield Archive(archive)
    except (CorruptDataError, SourceFormatError):
        raise
    except (ValueError, NotImplementedError) as error:
        raise SourceFormatError(f"an array of {os.fspath(path)!r} cannot be opened: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # the last: encrypted
        raise CorruptDataError(
            f"{os.fspath(path)!r} is no whole .npz archive: {error}. Restore it from its origin, or save it again."
        ) from error


def list_npz(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the arrays of an ``.npz``; () where there is one."""
    with open_npz_archive(Stamp.of(path).path) as archive:
        return tuple(archive.names) if len(archive.names) > 1 else ()


def open_npz(
    path: str | os.PathLike[str],
    *,
    member: str | None = None,
    variable: str | None = None,
    axes: str | None = None,
) -> LoadedSource:
    """Open one array of an ``.npz`` archive, in memory.

    Parameters
    ----------
    path : path-like
        The archive.
    member : str, optional
        Which array; may be left out where there is one.
    variable : str, optional
        The same, by the name that all formats have for it.
    axes : str, optional
        One letter an axis.

    Raises
    ------
    SourceFormatError
        Where there are several arrays and none was named, or none of that name; the message lists them.
    """
    stamp, member = Stamp.of(path), member or variable
    with open_npz_archive(stamp.path) as archive:
        found = archive.names
    if member is None and len(found) == 1:
        member = found[0]
    if member is None or member not in found:
        unknown_variable(os.fspath(path), member, found)
    return LoadedSource(stamp, partial(_load, member), what=member, axes=axes)


def _load(member: str, path: str) -> tuple[np.ndarray, Described]:
    with open_npz_archive(path) as archive:
        return archive[member], Described()
