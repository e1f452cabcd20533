"""Files of NumPy and of bare numbers: ``.npy`` and raw are mapped, ``.npz`` is read whole.

In: a path, or the URL of an ``.npy`` or raw object, which is read by byte ranges. Out: a source, or arrays no larger
than the file, whatever a header claims. Never unpickles objects.
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
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError, WindowLoaderError, hide_secrets
from windowloader.util.axes import check_dtype, check_shape

from .base import Described, unknown_variable
from .formats import is_url
from .handles import Stamp
from .mapping import Region
from .memory import LoadedSource, MappedSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .base import Source
    from .remote_objects import RemoteObject

__all__ = ["Archive", "list_npz", "open_npy", "open_npz", "open_npz_archive", "open_raw", "read_npy"]

LONGEST = 10_012  # bytes of the longest header that numpy.lib.format reads, with its prefix
DEFLATED = 1032  # bytes at most that a compressed byte can stand for


class _Form(NamedTuple):
    """Where an array lies in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    order: str = "C"


def _form_of(head: bytes, name: str) -> _Form:
    """Form of an ``.npy`` file by its first bytes; ValueError where they are not a header."""
    file = io.BytesIO(head[:LONGEST])  # a damaged length would have NumPy read up to 4 GiB
    try:
        short = np.lib.format.read_magic(file) == (1, 0)
        # version 3.0 differs from 2.0 in the text encoding alone
        read = np.lib.format.read_array_header_1_0 if short else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        return _Form(check_shape(shape, dtype.itemsize, name), dtype, file.tell(), "F" if fortran else "C")
    except Exception as error:  # any of NumPy's and Python's parsers
        problem = str(error) or type(error).__name__
        raise ValueError(
            f"the header of {name!r}, in {len(head)} bytes, cannot be read: {problem}"
        ) from error


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """Read an array from a file of ``size`` bytes; ValueError where its header asks for more, or for objects."""
    form = _form_of(file.read(LONGEST), "this array")
    needed, rest = math.prod(form.shape) * form.dtype.itemsize, size - form.offset
    if not form.dtype.hasobject and needed > rest:
        raise ValueError(
            f"its header says shape {form.shape} of {form.dtype}, {needed} bytes, and {rest} follow"
        )
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
    try:
        if is_url(target):
            from .remote_objects import get, remote_object

            remote = remote_object(target, storage_options)
            head = get(remote, 0, 12)
            if not head.startswith(np.lib.format.MAGIC_PREFIX):
                raise SourceFormatError(f"{remote.name!r} is no .npy file: it begins with {head[:6]!r}.")
            size = 4 if head[6] > 1 else 2
            length = 8 + size + int.from_bytes(head[8 : 8 + size], "little")
            return _open_remote(remote, _form_of(get(remote, 0, min(length, LONGEST)), remote.name), axes)
        stamp = Stamp.of(target)
        with open(stamp.path, "rb") as file:
            form = _form_of(file.read(LONGEST), stamp.path)
    except ValueError as error:
        if isinstance(error, WindowLoaderError):
            raise
        raise CorruptDataError(f"{error}. Is it an .npy file, and was it copied to its end?") from error
    return _open_local(stamp, form, axes)


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
    form = _checked(shape, dtype, offset, order, hide_secrets(str(target)))
    if is_url(target):
        from .remote_objects import remote_object

        return _open_remote(remote_object(target, storage_options), form, axes)
    stamp, itemsize = Stamp.of(target), form.dtype.itemsize
    known = math.prod(size for size in form.shape if size != -1)
    left = max(stamp.size - form.offset, 0) // itemsize // max(known, 1)
    form = form._replace(shape=tuple(left if size == -1 else size for size in form.shape))
    needed = form.offset + math.prod(form.shape) * itemsize
    if stamp.size > needed:
        raise SourceFormatError(
            f"shape {form.shape} of {form.dtype} at offset {offset} takes {needed} bytes, but {stamp.path!r} has "
            f"{stamp.size}. Check shape=, dtype= and offset=; one size may be -1: as many as there are."
        )
    return _open_local(stamp, form, axes)


def _checked(shape: Any, dtype: Any, offset: Any, order: str, name: str) -> _Form:
    """Form of bare numbers as it was given, checked; a size of -1 stays."""
    try:
        sizes, stored, first = tuple(map(operator.index, shape)), np.dtype(dtype), operator.index(offset)
        right = dtype is not None and sizes.count(-1) <= 1 and 0 <= first < 1 << 63 and order in ("C", "F")
    except (TypeError, ValueError, SyntaxError):
        right = False
    if not right:
        raise SourceFormatError(
            f"{name!r} was given shape={reprlib.repr(shape)}, dtype={reprlib.repr(dtype)}, offset="
            f"{reprlib.repr(offset)} and order={order!r}; bare numbers take e.g. shape=(105120, 325), one size of "
            "which may be -1, dtype='<f4', an offset in bytes of 0 or more, and order 'C' or 'F'."
        )
    check_dtype(stored, name)
    check_shape(tuple(1 if size == -1 else size for size in sizes), stored.itemsize, name)
    return _Form(sizes, stored, first, order)


def _open_local(stamp: Stamp, form: _Form, axes: str | None) -> Source:
    """Map an array of a file; where files cannot be mapped, read it by byte ranges."""
    region = Region.packed(stamp, **form._asdict())
    if region.mappable:
        return MappedSource(region, axes=axes)
    from .remote_objects import remote_object

    return _open_remote(remote_object(Path(stamp.path).as_uri(), None), form, axes)


def _open_remote(remote: RemoteObject, form: _Form, axes: str | None) -> Source:
    """Open an array that is read by byte ranges."""
    from .ranges import RangeSource
    from .remote_objects import get

    name, offset = remote.name, form.offset
    check_dtype(form.dtype, name)
    if form.order == "F" and len(form.shape) > 1:
        raise SourceFormatError(
            f"{name!r} is in Fortran order and cannot be mapped here, so its rows are scattered. Save "
            "np.ascontiguousarray(x), or convert it: `windowloader convert` writes time first."
        )
    end = offset + math.prod(form.shape) * form.dtype.itemsize
    if end > offset:
        get(remote, end - 1, end)  # raises now where the object is truncated, not in the middle of an epoch
    source = RangeSource(remote, form.dtype, offset=offset, shape=form.shape, axes=axes or None)
    if (apart := math.prod(form.shape[: source.order[0]])) != 1:
        raise SourceFormatError(
            f"{name!r} has axes={axes!r}: its rows are scattered, and each would take {apart} requests. Convert it: "
            "`windowloader convert` writes time first."
        )
    return source


class Archive:
    """The arrays of an ``.npz``, each read when asked for."""

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
    """Open an ``.npz``; errors of its libraries become errors of this package.

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
    except WindowLoaderError:
        raise
    except (ValueError, NotImplementedError) as error:
        raise SourceFormatError(f"an array of {os.fspath(path)!r} cannot be opened: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # the last: encrypted
        raise CorruptDataError(
            f"{os.fspath(path)!r} is not a complete .npz archive: {error}. Restore it, or save it again."
        ) from error


def list_npz(path: str | os.PathLike[str], names: Sequence[str] = ()) -> tuple[str, ...]:
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
