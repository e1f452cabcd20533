"""Files whose bytes are the values: mapped read-only, never copied.

In: an ``.npy`` file, a raw file with shape and dtype, or a region that another module found (an HDF5 dataset without
filters). Out: `MappedSource`; a `RangeSource` of what cannot be mapped. Never unpickles.
"""

from __future__ import annotations

import math
import operator
import os
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError

from .base import check_dtype, check_shape, digest
from .handles import Stamp
from .memory import AddressableSource
from .npz import read_npy_header
from .patterns import is_url
from .region import Region

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .base import Source
    from .packing import Packing

__all__ = ["MappedSource", "check_raw", "open_npy", "open_raw"]


class MappedSource(AddressableSource):
    """A region of a file, mapped when first used and mapped again where it was pickled to.

    Parameters
    ----------
    region : Region
        Where the values lie.
    name : str, optional
        For messages; default the file's name.
    values : Packing, optional
        How stored numbers become values.
    **array
        ``axes``, ``dims`` and ``description``, as for `Source`.
    """

    region: Region

    def __init__(
        self, region: Region, *, name: str | None = None, values: Packing | None = None, **array: Any
    ) -> None:
        name, dtype = name or os.path.basename(region.stamp.path), values.dtype if values else region.dtype
        super().__init__(name, region=region, packing=values, shape=region.shape, dtype=dtype, **array)

    def fingerprint(self) -> str:
        """Shape, dtype and place, and size and time of change of the file."""
        place, stamp = self.region, self.region.stamp
        packed = [self.dtype.str] if self.packing else []
        where = place.dtype.str, place.strides, place.offset, stamp.size, stamp.mtime_ns
        return digest(self.axes, self.shape, *where, *packed)

    def stored_bytes(self) -> int | None:
        """Bytes of the region."""
        return int(self.region.nbytes)


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
        from .remote_files import open_remote

        return open_remote(target, kind="npy", axes=axes, storage_options=storage_options)
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
        from .remote_files import open_remote

        how = {"shape": shape, "dtype": dtype, "offset": offset}
        return open_remote(target, kind="raw", axes=axes, storage_options=storage_options, **how)
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
    from .remote_files import open_remote

    url = Path(stamp.path).as_uri()
    return open_remote(url, kind="raw", axes=axes, shape=region.shape, dtype=dtype, offset=offset)


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
