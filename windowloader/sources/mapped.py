"""Files whose bytes are the values: mapped read-only, never copied.

In: an ``.npy`` file, a raw file with shape and dtype, or a region another family found (an HDF5 dataset
without filters, a memmap). Out: `NpySource`, `RawSource`, `MappedSource`. Never unpickles.
"""

from __future__ import annotations

import math
import operator
import os
import reprlib
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError

from .base import check_dtype, check_shape, digest
from .box import within
from .handles import Stamp
from .mapping import unchanged
from .memory import AddressableSource
from .npz import read_npy_header
from .processes import PerProcess
from .region import Region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .base import Description
    from .box import Box
    from .packing import Packing

__all__ = ["MappedSource", "NpySource", "RawSource", "check_raw"]


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
    values : Packing, optional
        How stored numbers become values.
    """

    def __init__(
        self,
        region: Region,
        *,
        axes: str | None = None,
        dims: Sequence[str] | None = None,
        name: str | None = None,
        description: Description | None = None,
        values: Packing | None = None,
    ) -> None:
        self.region, self.packing = region, values
        self._handle: PerProcess[np.ndarray] = PerProcess(survives_fork=True)
        super().__init__(
            name or os.path.basename(region.stamp.path),
            shape=region.shape,
            dtype=values.dtype if values else region.dtype,
            axes=axes,
            dims=dims,
            description=description,
        )

    def array(self) -> np.ndarray | None:
        """Return a read-only view, or None where stored bytes are not the values."""
        return None if self.packing else super().array()

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        if self.packing is None:
            return super()._read(start, stop, out, box)
        rows = self._rows_first()[start:stop]
        with unchanged(rows):
            self.packing.unpack(rows if box is None else within(rows, box), out)
        return out.nbytes

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
            *([self.dtype.str] if self.packing else []),
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
        if order not in ("C", "F"):
            raise SourceFormatError(f"order={order!r} of {stamp.path!r}: the order is 'C' or 'F'.")
        shape, dtype, offset = check_raw(shape, dtype, offset, stamp.path)
        shape = _fill_in(shape, (stamp.size - offset) // dtype.itemsize, stamp.path)
        region = Region.packed(stamp, offset=offset, shape=shape, dtype=dtype, order=order)
        if stamp.size > offset + region.nbytes:
            raise SourceFormatError(
                f"shape {shape} of {region.dtype} at offset {offset} takes {offset + region.nbytes} bytes, "
                f"but {stamp.path!r} has {stamp.size}. Check shape=, dtype= and offset=; one size "
                "may be -1: as many as there are."
            )
        super().__init__(region, axes=axes)


def check_raw(shape: Any, dtype: Any, offset: Any, name: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and offset that describe bare numbers, checked; a size of -1 stays.

    Raises
    ------
    SourceFormatError
        For what is no sequence of sizes, no dtype of numbers, or no number of bytes.
    """
    try:
        sizes = tuple(operator.index(size) for size in shape)
        stored, first = np.dtype(dtype), operator.index(offset)
    except (TypeError, ValueError, SyntaxError):
        stored, first = None, -1
    if stored is None or dtype is None or not 0 <= first < 1 << 63:
        raise SourceFormatError(
            f"{name!r} was given shape={reprlib.repr(shape)}, dtype={reprlib.repr(dtype)} and "
            f"offset={reprlib.repr(offset)}; bare numbers take e.g. shape=(105120, 325), dtype='<f4' and an offset in "
            "bytes of 0 or more."
        )
    check_dtype(stored, name)
    check_shape(tuple(1 if size == -1 else size for size in sizes), stored.itemsize, name)
    return sizes, stored, first


def _fill_in(shape: tuple[int, ...], count: int, name: str) -> tuple[int, ...]:
    """Replace one -1 by what ``count`` values leave for it."""
    unknown = [dim for dim, size in enumerate(shape) if size == -1]
    if len(unknown) > 1:
        raise SourceFormatError(f"shape={shape} of {name!r}: sizes are 0 or more, and one of them may be -1.")
    if not unknown:
        return shape
    rest = math.prod(size for size in shape if size != -1)
    if not rest or count % rest:
        raise SourceFormatError(
            f"shape={shape} of {name!r}: {count} values do not come out even in {rest} each."
        )
    return tuple(count // rest if size == -1 else size for size in shape)
