"""Datasets of HDF5 files: mapped where their bytes are the values, else read by h5py.

In: a file's stamp and an open dataset. Out: `MappedSource` or `HDF5Source`. Never chooses a dataset, and never reads
values when opening.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceError, SourceFormatError

from .base import SlabSource, digest, optional
from .handles import Handle, Stamp
from .mapped import MappedSource
from .region import Region

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from windowloader.source import Source

    from .base import Description
    from .box import Box

__all__ = ["HDF5Source", "map_dataset", "open_dataset", "open_file"]

CACHE_BYTES = 64 << 20  # the most that decoded chunks may take; less, where one row of chunks is less


class HDF5Source(SlabSource):
    """A dataset in chunks, read by h5py.

    Parameters
    ----------
    stamp : Stamp
        The file.
    dataset : h5py.Dataset
        The open dataset; nothing of it is kept but its name and form.
    axes, dims, description : optional
        As for `LocalSource`.
    """

    def __init__(
        self,
        stamp: Stamp,
        dataset: Any,
        *,
        axes: str | None = None,
        dims: Sequence[str] | None = None,
        description: Description | None = None,
    ) -> None:
        self._stamp, self._dataset = stamp, dataset.name
        self._handle: Handle[_Opened] = Handle()
        super().__init__(
            f"{os.path.basename(stamp.path)}:{dataset.name.lstrip('/')}",
            shape=dataset.shape,
            dtype=dataset.dtype,
            axes=axes,
            dims=dims,
            chunks=dataset.chunks,
            description=description,
        )
        row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        self._cache = min(max(1 << 20, (self.chunks or (1,))[0] * row), CACHE_BYTES)

    def check(self) -> None:
        """Raise `SourceChangedError` where the file is no longer what was opened."""
        self._stamp.check()

    def _open(self) -> _Opened:
        self.check()
        return _Opened(open_file(self._stamp, cache=self._cache), self._dataset)

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        index, target = self.slab(start, stop, box), self.as_stored(out)
        with self._handle.held(self._open) as opened, _told(self.name, start, stop, self._stamp):
            if target.flags.c_contiguous and target.dtype == self.dtype:
                opened.dataset.read_direct(target, index)
            else:
                target[...] = opened.dataset[index]
            self.check()
        return self.bytes_of(start, stop, box)

    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the dataset."""
        with open_file(self._stamp) as file:
            return {**super().attributes(), **file[self._dataset].attrs}

    def codecs(self) -> list[str]:
        """Names of the filters."""
        with open_file(self._stamp) as file:
            found = file[self._dataset]
            return ["shuffle"] * bool(found.shuffle) + [str(found.compression)] * (
                found.compression is not None
            )

    def stored_bytes(self) -> int | None:
        """Bytes of the dataset's chunks."""
        with open_file(self._stamp) as file:
            return int(file[self._dataset].id.get_storage_size())

    def fingerprint(self) -> str:
        """Name, shape, dtype, and size and time of change of the file."""
        stamp = self._stamp
        return digest(self.axes, self.shape, None, self.dtype.str, self._dataset, stamp.size, stamp.mtime_ns)

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._handle.close()


class _Opened:
    """A dataset and the file it keeps open."""

    def __init__(self, file: Any, dataset: str) -> None:
        self.file, self.dataset = file, file[dataset]

    def close(self) -> None:
        self.file.close()


@contextmanager
def _told(name: str, start: int, stop: int, stamp: Stamp) -> Iterator[None]:
    """Turn what HDF5 raises on broken chunks into an error with the rows, or that the file changed."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        stamp.check()
        raise CorruptDataError(f"rows [{start}, {stop}) of {name!r} cannot be read: {error}") from error


def open_file(stamp: Stamp, *, cache: int = 1 << 20) -> Any:
    """Open a file by h5py for reading.

    Raises
    ------
    CorruptDataError
        Where it is HDF5, but not to its end.
    SourceFormatError
        Where it is no HDF5.
    """
    h5py = optional("h5py", extra="hdf5", purpose=f"opening {stamp.path!r}")
    try:
        return h5py.File(stamp.path, "r", rdcc_nbytes=cache, locking="best-effort")
    except OSError as error:
        kind = CorruptDataError if h5py.is_hdf5(stamp.path) else SourceFormatError
        raise kind(f"{stamp.path!r}, of {stamp.size} bytes, cannot be opened as HDF5: {error}") from error


def open_dataset(
    stamp: Stamp,
    dataset: Any,
    *,
    axes: str | None = None,
    dims: Sequence[str] | None = None,
    description: Description | None = None,
) -> Source:
    """Open a dataset the fastest way its storage allows: mapped, else by h5py."""
    region = map_dataset(stamp, dataset)
    if region is None or not region.mappable:
        return HDF5Source(stamp, dataset, axes=axes, dims=dims, description=description)
    name = f"{os.path.basename(stamp.path)}:{dataset.name.lstrip('/')}"
    return MappedSource(region, axes=axes, dims=dims, name=name, description=description)


def map_dataset(stamp: Stamp, dataset: Any) -> Region | None:
    """Region of a dataset whose bytes lie in the file as they are; None where they must be decoded."""
    import h5py

    simple = dataset.chunks is None and dataset.external is None and not dataset.is_virtual
    if not simple or dataset.file.userblock_size or dataset.dtype.kind not in "fiub":
        return None
    offset = dataset.id.get_offset()  # None: within the header, or never written
    if offset is None or dataset.id.get_type().get_size() != dataset.dtype.itemsize:
        return None
    if dataset.dtype.kind != "b" and dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype):
        return None  # bits in an order of their own
    return Region.packed(stamp, offset=offset, shape=dataset.shape, dtype=dataset.dtype)
