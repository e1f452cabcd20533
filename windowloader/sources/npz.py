"""Arrays of NumPy's own files, read whole.

In: an ``.npy`` or ``.npz`` file. Out: its arrays, no larger than the file has bytes for, whatever a header says. Never
unpickles objects.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError

from .base import check_shape

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Archive", "open_npz_archive", "read_npy", "read_npy_header"]

LONGEST = 10_012  # bytes of a header that numpy.lib.format reads, with what stands before it
DEFLATED = 1032  # bytes at most that a compressed byte can stand for
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
)  # the last for an encrypted member


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

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._members)

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
    except DAMAGED as error:
        raise CorruptDataError(
            f"{os.fspath(path)!r} is no whole .npz archive: {error}. Restore it from its origin, or save it again."
        ) from error
