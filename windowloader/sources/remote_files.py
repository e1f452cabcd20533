"""Files in a bucket or behind a web server that are one array: ``.npy``, raw, HDF5 and netCDF4.

In: a URL and what kind of file it is. Out: a `RangeSource`; headers and tables of chunks are read here, once. Never
reads values.
"""

from __future__ import annotations

import io
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.axes import check_axes, default_axes
from windowloader.errors import CorruptDataError, SourceFormatError

from .blobs import blob_of, get
from .numpy_files import LONGEST, check_raw, read_npy_header
from .ranges import Place, RangeSource

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from .base import Source
    from .blobs import Blob

__all__ = ["open_remote"]


def open_remote(
    url: str | os.PathLike[str],
    *,
    kind: str,
    variable: str | None = None,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
    offset: int = 0,
    mask_and_scale: bool = True,
) -> Source:
    """Open an array that lies in one remote object.

    Parameters
    ----------
    url : str
        ``s3://``, ``gs://``, ``http(s)://``, or what fsspec reads.
    kind : str
        ``npy``, ``raw`` or ``hdf5`` (netCDF4 too).
    variable : str, optional
        Path in an HDF5 file.
    axes : str, optional
        Letters of the stored shape.
    storage_options : mapping, optional
        See `windowloader.sources.options.locate`.
    shape, dtype, offset : optional
        Of a raw file.
    mask_and_scale : bool
        Whether ``scale_factor``, ``add_offset`` and ``_FillValue`` are applied, as xarray does.

    Returns
    -------
    Source

    Raises
    ------
    SourceFormatError
        For another kind, or an order of axes whose rows are scattered over the object.
    SourceNotFoundError, CredentialsError, CorruptDataError
        By what the storage says.

    Examples
    --------
    >>> import fsspec
    >>> with fsspec.open("memory://speed.npy", "wb") as file:
    ...     np.save(file, np.arange(6.0).reshape(3, 2))
    >>> source = open_remote("memory://speed.npy", kind="npy")
    >>> rows = np.empty((1, 2))
    >>> taken = source.read(2, 3, rows)
    >>> rows
    array([[4., 5.]])
    """
    if kind == "hdf5":
        from .hdf5 import open_hdf5

        return open_hdf5(
            url, variable=variable, axes=axes, storage_options=storage_options, mask_and_scale=mask_and_scale
        )
    blob = blob_of(url, storage_options)
    if kind == "npy":
        offset, found, dtype = _npy_header(blob)
    elif kind == "raw":
        if shape is None or dtype is None:
            raise SourceFormatError(
                f"{blob.name!r} is raw: give shape= and dtype=, e.g. shape=(105120, 325), dtype='<f4'."
            )
        found, dtype, offset = check_raw(shape, dtype, offset, blob.name)
    else:
        raise SourceFormatError(
            f"kind={kind!r} of {blob.name!r}; remote objects are read as 'npy', 'raw' or 'hdf5'."
        )
    stored = np.dtype(dtype)
    letters = check_axes(
        axes or default_axes(len(found), None, blob.name), len(found), name=blob.name, need_time=False
    )
    _check_order(letters, found, blob.name)
    end = offset + math.prod(found) * stored.itemsize
    if end > offset:
        get(blob, end - 1, end)  # a truncated object is found out now, not in the middle of an epoch
    return RangeSource(blob, Place(kind, None, offset, stored), shape=found, axes=letters)


def _check_order(axes: str, shape: tuple[int, ...], name: str) -> None:
    if "t" in axes and math.prod(shape[: axes.index("t")]) != 1:
        raise SourceFormatError(
            f"{name!r} has axes={axes!r}: rows of time do not lie together, and each would take "
            f"{math.prod(shape[: axes.index('t')])} requests. Convert it: `windowloader convert` writes time first."
        )


def _npy_header(blob: Blob) -> tuple[int, tuple[int, ...], np.dtype]:
    head = get(blob, 0, 12)
    if not head.startswith(np.lib.format.MAGIC_PREFIX):
        raise SourceFormatError(f"{blob.name!r} is no .npy file: it begins with {head[:6]!r}.")
    long = head[6] > 1
    length = struct.unpack("<I", head[8:12])[0] + 12 if long else struct.unpack("<H", head[8:10])[0] + 10
    try:
        shape, fortran, dtype = read_npy_header(io.BytesIO(get(blob, 0, min(length, LONGEST))))
    except ValueError as error:
        raise CorruptDataError(
            f"the header of {blob.name!r} cannot be read ({error}). Is it an .npy file, and was it copied to its end?"
        ) from error
    if dtype.hasobject:
        raise SourceFormatError(
            f"{blob.name!r} holds Python objects, which are never unpickled; save it as float32."
        )
    if fortran and len(shape) > 1:
        raise SourceFormatError(
            f"{blob.name!r} is in Fortran order: its rows are scattered. Save np.ascontiguousarray(x) instead."
        )
    return length, shape, dtype
