"""Where in a file an array lies, and the map of it.

In: a file, an offset, a shape, strides and a dtype. Out: `Region` and its map. Never copies.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceError

from .base import check_dtype, check_shape
from .handles import Stamp
from .mapping import FileMap, owner_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Region", "is_mapped", "mapping_of", "region_of_memmap"]


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
        check_dtype(dtype, stamp.path)
        shape = check_shape(shape, dtype.itemsize, stamp.path)
        strides = [dtype.itemsize] * len(shape)
        dims = range(len(shape) - 2, -1, -1) if order == "C" else range(1, len(shape))
        for dim in dims:
            near = dim + 1 if order == "C" else dim - 1
            strides[dim] = strides[near] * shape[near]
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
