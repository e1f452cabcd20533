"""Files whose bytes are the values: mapped read-only, never copied.

In: an ``.npy`` file, a raw file with shape and dtype, or a region another family found (an HDF5 dataset
without filters, a memmap). Out: `NpySource`, `RawSource`, `MappedSource`. Never unpickles.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError

from .base import check_dtype, digest
from .handles import Handle, Stamp
from .memory import AddressableSource
from .npz import read_npy_header
from .region import Region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .base import Description

__all__ = ["MappedSource", "NpySource", "RawSource"]


class MappedSource(AddressableSource):
    """A region of a file, mapped when first used and mapped again where it was pickled to.

    Parameters
    ----------
    region : Region
        Where the values lie.
    axes, dims : optional
        Letters or names of the stored axes.
    name : str, optional
        For messages; default the file's name.
    description : Description, optional
        Labels and timestamps.
    """

    def __init__(
        self,
        region: Region,
        *,
        axes: str | None = None,
        dims: Sequence[str] | None = None,
        name: str | None = None,
        description: Description | None = None,
    ) -> None:
        self.region = region
        self._handle: Handle[np.ndarray] = Handle(survives_fork=True)
        super().__init__(
            name or os.path.basename(region.stamp.path),
            shape=region.shape,
            dtype=region.dtype,
            axes=axes,
            dims=dims,
            description=description,
        )

    @property
    def tier(self) -> str:
        """``"mapped"``, said without mapping it."""
        return "mapped"

    def check(self) -> None:
        """Raise `SourceChangedError` where the file is no longer what was opened."""
        self.region.stamp.check()

    def values(self) -> np.ndarray:
        """Return the map; raises where the file has changed since it was opened."""
        self.check()
        return self._handle.get(self.region.map)

    def fingerprint(self) -> str:
        """Shape, dtype and place, and size and time of change of the file."""
        place = self.region
        return digest(
            self.axes,
            self.shape,
            place.dtype.str,
            place.strides,
            place.offset,
            place.stamp.size,
            place.stamp.mtime_ns,
        )

    def stored_bytes(self) -> int | None:
        """Bytes of the region."""
        return int(self.region.nbytes)

    def close(self) -> None:
        """Let go of the map; views that someone holds stay valid."""
        self._handle.close()


class NpySource(MappedSource):
    """An ``.npy`` file, memory-mapped.

    Parameters
    ----------
    path : path-like
        The file; C and Fortran order, any byte order.
    axes : str, optional
        One letter an axis.

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
    >>> NpySource(path).shape
    (8, 3)
    """

    def __init__(self, path: str | os.PathLike[str], *, axes: str | None = None) -> None:
        super().__init__(_npy_region(Stamp.of(path)), axes=axes)


def _npy_region(stamp: Stamp) -> Region:
    with open(stamp.path, "rb") as file:
        try:
            shape, fortran, dtype = read_npy_header(file)
        except ValueError as error:
            raise CorruptDataError(
                f"the header of {stamp.path!r} cannot be read ({error}); the file has {stamp.size} bytes. "
                "Is it an .npy file, and was it copied to its end?"
            ) from error
        offset = file.tell()
    return Region.packed(stamp, offset=offset, shape=shape, dtype=dtype, order="F" if fortran else "C")


class RawSource(MappedSource):
    """A file of bare numbers, memory-mapped.

    Parameters
    ----------
    path : path-like
        The file.
    shape : sequence of int
        Its shape; one size may be -1: as many as there are.
    dtype : dtype-like
        As stored, e.g. ``">f4"`` for big-endian float32.
    offset : int
        Bytes before the first value.
    order : {"C", "F"}
        Whether the last or the first axis varies fastest.
    axes : str, optional
        One letter an axis.

    Raises
    ------
    CorruptDataError
        Where the file is shorter than the shape needs.
    SourceFormatError
        Where it is longer, or -1 comes out uneven.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        shape: Sequence[int],
        dtype: Any,
        offset: int = 0,
        order: str = "C",
        axes: str | None = None,
    ) -> None:
        stamp = Stamp.of(path)
        if offset < 0 or order not in ("C", "F"):
            raise SourceFormatError(
                f"offset={offset} and order={order!r} of {stamp.path!r}: offset is 0 or more, "
                "order 'C' or 'F'."
            )
        item = check_dtype(np.dtype(dtype), stamp.path).itemsize
        shape = _fill_in(tuple(int(size) for size in shape), (stamp.size - offset) // item, stamp.path)
        region = Region.packed(stamp, offset=offset, shape=shape, dtype=dtype, order=order)
        if stamp.size > offset + region.nbytes:
            raise SourceFormatError(
                f"shape {shape} of {region.dtype} at offset {offset} takes {offset + region.nbytes} bytes, "
                f"but {stamp.path!r} has {stamp.size}. Check shape=, dtype= and offset=; one size "
                "may be -1: as many as there are."
            )
        super().__init__(region, axes=axes)


def _fill_in(shape: tuple[int, ...], count: int, name: str) -> tuple[int, ...]:
    """Replace one -1 by what ``count`` values leave for it."""
    unknown = [dim for dim, size in enumerate(shape) if size == -1]
    if len(unknown) > 1 or any(size < -1 for size in shape):
        raise SourceFormatError(f"shape={shape} of {name!r}: sizes are 0 or more, and one of them may be -1.")
    if not unknown:
        return shape
    rest = int(np.prod([size for size in shape if size != -1]))
    if not rest or count % rest:
        raise SourceFormatError(
            f"shape={shape} of {name!r}: {count} values do not come out even in {rest} each."
        )
    return tuple(count // rest if size == -1 else size for size in shape)
