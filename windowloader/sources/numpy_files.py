"""Files of NumPy and of bare numbers: ``.npy`` and raw are mapped, ``.npz`` is read whole.

In: a path, or the URL of an ``.npy`` or raw object, which is read by byte ranges. Out: a source, or arrays no larger
than the file has bytes for, whatever a header says. Never unpickles objects.
"""

from __future__ import annotations

import io
import math
import operator
import os
import reprlib
import zipfile
import zlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError
from windowloader.util.axes import check_dtype, check_shape

from .base import Described, unknown_variable
from .handles import Stamp
from .mapping import Region
from .memory import LoadedSource, MappedSource
from .patterns import is_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .base import Source
    from .remote_objects import RemoteObject

__all__ = [
    "Archive", "check_raw", "list_npz", "open_npy", "open_npz", "open_npz_archive", "open_object", "open_raw",
    "read_npy", "read_npy_header",
]  # fmt: skip

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


def open_npy(
    target: str | os.PathLike[str],
    *,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """Open an ``.npy`` file, memory-mapped, or an object by byte ranges.

    Parameters
    ----------
    target : path or URL
        C and, of files, Fortran order; any byte order.
    axes : str, optional
        One letter an axis.
    storage_options : mapping, optional
        For a URL.

    Raises
    ------
    CorruptDataError
        Where the header is broken or the file shorter than it says.
    SourceFormatError
        Where the values are objects: they are never unpickled.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "speed.npy"
    >>> np.save(path, np.zeros((8, 3), "float32"))
    >>> open_npy(path).shape
    (8, 3)
    """
    if is_url(target):
        return open_object(target, "npy", axes, storage_options)
    stamp = Stamp.of(target)
    with open(stamp.path, "rb") as file:
        try:
            shape, fortran, dtype = read_npy_header(file)
        except ValueError as error:
            raise CorruptDataError(
                f"the header of {stamp.path!r} cannot be read ({error}); the file has {stamp.size} bytes. "
                "Is it an .npy file, and was it copied to its end?"
            ) from error
        offset = file.tell()
    return _open(stamp, shape, dtype, offset, "F" if fortran else "C", axes)


def open_raw(
    target: str | os.PathLike[str],
    *,
    shape: Sequence[int],
    dtype: Any = None,
    offset: int = 0,
    order: str = "C",
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """Open a file of bare numbers, memory-mapped, or an object by byte ranges.

    Parameters
    ----------
    target : path or URL
        The file or object.
    shape : sequence of int
        Its shape; of a file one size may be -1: as many as there are.
    dtype : dtype-like
        As stored, e.g. ``">f4"`` for big-endian float32.
    offset : int
        Bytes before the first value.
    order : {"C", "F"}
        Whether the last or the first axis varies fastest; of an object "C".
    axes : str, optional
        One letter an axis.
    storage_options : mapping, optional
        For a URL.

    Raises
    ------
    CorruptDataError
        Where the file is shorter than the shape needs.
    SourceFormatError
        Where it is longer, or -1 comes out uneven.
    """
    orders = ("C",) if is_url(target) else ("C", "F")
    if order not in orders:
        raise SourceFormatError(f"order={order!r} of {target!r}; it can be {' or '.join(map(repr, orders))}.")
    if is_url(target):
        return open_object(target, "raw", axes, storage_options, shape=shape, dtype=dtype, offset=offset)
    stamp = Stamp.of(target)
    sizes, dtype, offset = check_raw(shape, dtype, offset, stamp.path)
    known = math.prod(size for size in sizes if size != -1)
    left = max(stamp.size - offset, 0) // dtype.itemsize // max(known, 1)
    sizes = tuple(left if size == -1 else size for size in sizes)
    needed = offset + math.prod(sizes) * dtype.itemsize
    if stamp.size > needed:
        raise SourceFormatError(
            f"shape {sizes} of {dtype} at offset {offset} takes {needed} bytes, but {stamp.path!r} has {stamp.size}. "
            "Check shape=, dtype= and offset=; one size may be -1: as many as there are."
        )
    return _open(stamp, sizes, dtype, offset, order, axes)


def _open(
    stamp: Stamp, shape: Sequence[int], dtype: np.dtype, offset: int, order: str, axes: str | None
) -> Source:
    """Map an array of a file; where files cannot be mapped, read it by ranges, as an object in a bucket is."""
    region = Region.packed(stamp, offset=offset, shape=shape, dtype=dtype, order=order)
    if region.mappable:
        return MappedSource(region, axes=axes)
    if order != "C":
        raise SourceFormatError(
            f"{stamp.path!r} cannot be mapped here, and with order={order!r} its rows do not lie together. "
            "Copy it to a disk that maps files, or convert it: `windowloader convert` writes time first."
        )
    url = Path(stamp.path).as_uri()
    return open_object(url, "raw", axes, None, shape=region.shape, dtype=dtype, offset=offset)


def open_object(
    url: Any,
    kind: str,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    shape: Any = None,
    dtype: Any = None,
    offset: int = 0,
) -> Source:
    """Open an array that lies in an object, to be read by byte ranges."""
    from .ranges import RangeSource
    from .remote_objects import get, remote_object

    remote = remote_object(url, storage_options)
    if kind == "npy":
        offset, found, dtype = _npy_header(remote)
    else:
        found, dtype, offset = check_raw(shape, dtype, offset, remote.name)
    stored = np.dtype(dtype)
    end = offset + math.prod(found) * stored.itemsize
    if end > offset:
        get(remote, end - 1, end)  # a truncated object is found out now, not in the middle of an epoch
    source = RangeSource(remote, stored, offset=offset, shape=found, axes=axes or None)
    if (apart := math.prod(found[: source.order[0]])) != 1:
        raise SourceFormatError(
            f"{remote.name!r} has axes={axes!r}: rows of time do not lie together, and each would take {apart} "
            "requests. Convert it: `windowloader convert` writes time first."
        )
    return source


def _npy_header(remote: RemoteObject) -> tuple[int, tuple[int, ...], np.dtype]:
    from .remote_objects import get

    head = get(remote, 0, 12)
    if not head.startswith(np.lib.format.MAGIC_PREFIX):
        raise SourceFormatError(f"{remote.name!r} is no .npy file: it begins with {head[:6]!r}.")
    size = 4 if head[6] > 1 else 2
    length = 8 + size + int.from_bytes(head[8 : 8 + size], "little")
    try:
        shape, fortran, dtype = read_npy_header(io.BytesIO(get(remote, 0, min(length, LONGEST))))
    except ValueError as error:
        raise CorruptDataError(
            f"the header of {remote.name!r} cannot be read ({error}). Is it an .npy file, and was it copied to its end?"
        ) from error
    check_dtype(dtype, remote.name)
    if fortran and len(shape) > 1:
        raise SourceFormatError(
            f"{remote.name!r} is in Fortran order: its rows are scattered. Save np.ascontiguousarray(x) instead."
        )
    return length, shape, dtype


def check_raw(shape: Any, dtype: Any, offset: Any, name: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and offset that describe bare numbers, checked; a size of -1 stays.

    Raises
    ------
    SourceFormatError
        For what is no sequence of sizes, no dtype of numbers, or no number of bytes.
    """
    try:
        sizes, stored, first = tuple(map(operator.index, shape)), np.dtype(dtype), operator.index(offset)
        right = dtype is not None and sizes.count(-1) <= 1 and 0 <= first < 1 << 63
    except (TypeError, ValueError, SyntaxError):
        right = False
    if not right:
        raise SourceFormatError(
            f"{name!r} was given shape={reprlib.repr(shape)}, dtype={reprlib.repr(dtype)} and "
            f"offset={reprlib.repr(offset)}; bare numbers take e.g. shape=(105120, 325), one size of which may be "
            "-1, dtype='<f4' and an offset in bytes of 0 or more."
        )
    check_dtype(stored, name)
    check_shape(tuple(1 if size == -1 else size for size in sizes), stored.itemsize, name)
    return sizes, stored, first


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
