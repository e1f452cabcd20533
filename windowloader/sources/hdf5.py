"""HDF5 files: plain datasets, mapped where their bytes are the values, else read by h5py.

In: a file, perhaps the name of a dataset. Out: `MappedSource` or `HDF5Source`. Frames of pandas are in
frame_hdf5.py. Never reads values when opening, never unpickles.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError

from .base import SlabSource, digest, optional, unknown_variable
from .handles import Handle, Stamp
from .mapped import MappedSource
from .region import Region

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from windowloader.source import Source

    from .base import Description

__all__ = ["HDF5Source", "list_hdf5", "map_dataset", "open_dataset", "open_file", "open_hdf5"]

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

    def _open(self) -> _Opened:
        self._stamp.check()
        return _Opened(open_file(self._stamp, cache=self._cache), self._dataset)

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        index, target = self.slab(start, stop), self.as_stored(out)
        with self._handle.held(self._open) as opened, _told(self.name, start, stop):
            if target.flags.c_contiguous and target.dtype == self.dtype:
                opened.dataset.read_direct(target, index)
            else:
                target[...] = opened.dataset[index]

    def fingerprint(self) -> str:
        """Name, shape, dtype, and size and time of change of the file."""
        stamp = self._stamp
        return digest(
            self.axes, self.shape, self.box, self.dtype.str, self._dataset, stamp.size, stamp.mtime_ns
        )

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
def _told(name: str, start: int, stop: int) -> Iterator[None]:
    """Turn what HDF5 raises on broken chunks into an error with the rows."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CorruptDataError):
            raise
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


def list_hdf5(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the arrays of numbers in a file, and of the frames that pandas wrote; () for a lone frame."""
    from .frame_hdf5 import is_frame

    with open_file(Stamp.of(path)) as file:
        names = _names(file)
        return () if len(names) == 1 and is_frame(file[names[0]]) else names


def _names(file: Any) -> tuple[str, ...]:
    """Frames by their group, datasets by their path; dimension scales only where there is nothing else."""
    from .frame_hdf5 import is_frame

    frames: list[str] = []
    datasets: list[str] = []
    scales: list[str] = []

    def visit(name: str, item: Any) -> None:
        if any(name.startswith(f"{frame}/") for frame in frames):
            return
        if is_frame(item):
            frames.append(name)
        elif getattr(item, "ndim", 0) >= 1 and item.dtype.kind in "fiub":
            (scales if item.is_scale else datasets).append(name)

    file.visititems(visit)
    return tuple(frames + datasets) or tuple(scales)


def open_hdf5(
    path: str | os.PathLike[str], *, variable: str | None = None, axes: str | None = None
) -> Source:
    """Open one array of an HDF5 file.

    Parameters
    ----------
    path : path-like
        The file.
    variable : str, optional
        Path of a dataset in the file, or key of a pandas frame; may be left out where there is one.
    axes : str, optional
        One letter an axis; default from dimension labels, else ``tn`` or ``tnf``.

    Raises
    ------
    SourceFormatError
        Where there are several arrays and none was named, or none of that name; the message lists them.
    """
    from .frame_hdf5 import is_frame, open_frame

    stamp = Stamp.of(path)
    with open_file(stamp) as file:
        names = _names(file)
        asked = variable.strip("/") if variable else names[0] if len(names) == 1 else None
        if asked is None or asked not in file:
            unknown_variable(os.fspath(path), variable, names)
        if is_frame(file[asked]):
            return open_frame(stamp, file[asked], axes=axes)
        if not hasattr(file[asked], "shape"):
            unknown_variable(os.fspath(path), variable, names)
        return open_dataset(stamp, file[asked], axes=axes, dims=_dims(file[asked]))


def _dims(dataset: Any) -> tuple[str, ...] | None:
    names = tuple(dim.label or (dim.keys()[0] if len(dim) else "") for dim in dataset.dims)
    return names if all(names) else None


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
    if region is None:
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
