"""Engines of HDF5 datasets: mapped where their bytes are the values, by byte ranges in a bucket, else read by h5py.

In: a file's stamp or an object, an open dataset, its description. Out: `MappedSource`, `RangeSource` or `HDF5Source`.
Never chooses a dataset, and never reads values when opening.
"""

from __future__ import annotations

import os
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.axes import default_axes
from windowloader.errors import CorruptDataError, SourceFormatError, SourceNotFoundError, WindowLoaderError

from .base import SlabSource, digest, optional
from .blobs import PAGE, BlobFile, get
from .handles import Stamp
from .hdf5table import filters_of
from .mapped import MappedSource
from .processes import PerProcess
from .region import Region

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .base import Description, Source
    from .blobs import Blob
    from .box import Box
    from .packing import Packing

__all__ = ["HDF5Source", "NotHDF5Error", "open_dataset", "open_file", "opened", "told"]

CACHE_BYTES = 64 << 20  # the most that decoded chunks may take; less, where one row of chunks is less
SIGNATURE = b"\x89HDF\r\n\x1a\n"
OTHER = (b"CDF", b"GRIB", b"version https://git-lfs", b"<")  # has no user's block
FILTERS = {307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstd",
           32017: "SZ", 32026: "Blosc2"}  # fmt: skip


class HDF5Source(SlabSource):
    """A dataset read by h5py.

    Parameters
    ----------
    stamp : Stamp or Blob
        The file, or the object.
    dataset : h5py.Dataset
        The open dataset; nothing of it is kept but its name and form.
    axes, dims, description : optional
        As for `Source`.
    field : str, optional
        Which field of records.
    values : Packing, optional
        How stored numbers become values.
    """

    def __init__(
        self,
        stamp: Stamp | Blob,
        dataset: Any,
        *,
        axes: str | None = None,
        dims: Sequence[str] | None = None,
        description: Description | None = None,
        field: str | None = None,
        values: Packing | None = None,
    ) -> None:
        self._stamp, self._dataset, self._field, self.packing = stamp, dataset.name, field, values
        self._handle: PerProcess[_Opened] = PerProcess()
        kind = dataset.dtype if field is None else dataset.dtype[field]
        self._raw, self._rank = kind.base, dataset.ndim
        self._plugins = ", ".join(FILTERS[number] for number, _ in filters_of(dataset) if number in FILTERS)
        super().__init__(
            "/".join([f"{name_of(stamp)}:{dataset.name.lstrip('/')}", *([field] if field else [])]),
            shape=(*dataset.shape, *kind.shape),
            dtype=values.dtype if values else kind.base,
            axes=axes,
            dims=dims,
            chunks=(*dataset.chunks, *kind.shape) if dataset.chunks else None,
            description=description,
        )
        row = int(np.prod(self.shape[1:])) * dataset.dtype.itemsize
        self._cache = min(max(1 << 20, (self.chunks or (1,))[0] * row), CACHE_BYTES)

    def check(self) -> None:
        """Raise `SourceChangedError` where the file is no longer what was opened."""
        if isinstance(self._stamp, Stamp):
            self._stamp.check()

    def _open(self) -> _Opened:
        self.check()
        file = open_file(self._stamp, cache=self._cache)
        with told(self.name, file, self._stamp):
            return _Opened(file, self._dataset, self._field)

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        index, target = self.slab(start, stop, box), self.as_stored(out)
        with (
            self._handle.held(self._open) as opened,
            told(self.name, opened.file, self._stamp, (start, stop), self._plugins),
        ):
            direct = self.packing is None and self._field is None and target.flags.c_contiguous
            if direct and target.dtype == self._raw:
                opened.values.read_direct(target, index)
            else:
                rank = self._rank  # of the records; a field may have dimensions of its own
                found = opened.values[index[:rank]][(slice(None),) * rank + index[rank:]]
                if self.packing is None:
                    target[...] = found
                else:
                    self.packing.unpack(found, target)
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
        """Name, shape, dtype, and size and time of change of the file, or version of the object."""
        stamp = self._stamp
        place = (stamp.size, stamp.mtime_ns) if isinstance(stamp, Stamp) else (stamp.identity(),)
        return digest(self.axes, self.shape, None, self.dtype.str, self._dataset, self._field, *place)

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._handle.close()


class _Opened:
    """A dataset, or a field of it, and the file it keeps open."""

    def __init__(self, file: Any, dataset: str, field: str | None) -> None:
        self.file = file
        self.values = file[dataset] if field is None else file[dataset].fields(field)
        if file.raw is not None:  # HDF5 must not call an object's methods when the interpreter has ended
            weakref.finalize(self, file.close)

    def close(self) -> None:
        self.file.close()


def name_of(where: Stamp | Blob) -> str:
    """Name of a file or object, for messages."""
    return os.path.basename(where.path) if isinstance(where, Stamp) else where.name


@contextmanager
def told(
    name: str, file: Any, where: Stamp | Blob, rows: tuple[int, int] | None = None, plugins: str = ""
) -> Iterator[None]:
    """Turn what HDF5 raises on broken chunks into an error with the rows, that the file changed, or what a store said.

    The frames of an error hold h5py's access list, and that list an object, unseen by the garbage collector: were they
    kept, HDF5 would free the list after the interpreter has ended, and crash.
    """
    try:
        yield
    except WindowLoaderError:
        raise
    except Exception as error:  # what h5py, h5netcdf and xarray raise on damage has no limits
        if isinstance(where, Stamp):
            where.check()
        asked = f"rows [{rows[0]}, {rows[1]}) of {name!r} cannot be read" if rows else ""
        damage = f"{name!r} is damaged, or not written to its end: h5py cannot read its metadata ({error})."
        failed: WindowLoaderError = CorruptDataError(f"{asked}: {error}" if rows else damage)
        if plugins and "filter" in str(error):
            failed = SourceFormatError(
                f"{asked} by the filter {plugins} of hdf5plugin: {error}. Stored bytes are damaged, or "
                "of a version that it does not read. Update hdf5plugin, or restore the file from its origin."
            )
        if file.raw is None:
            raise failed from error
        raise _without_frames(file.problem() or failed) from None


def _without_frames(error: WindowLoaderError) -> WindowLoaderError:
    """Take from an error, and from what caused it, the frames they passed through."""
    links: list[BaseException] = [error]
    for link in links:
        link.__traceback__ = None
        links += [
            more for more in (link.__cause__, link.__context__) if more is not None and more not in links
        ]
    return error


def open_file(where: Stamp | Blob, *, cache: int = 1 << 20) -> Any:
    """Open a file or object by h5py for reading.

    Raises
    ------
    CorruptDataError
        Where it is HDF5, but not to its end.
    SourceFormatError
        Where it is no HDF5.
    """
    name = where.path if isinstance(where, Stamp) else where.name
    h5py = optional("h5py", extra="netcdf", purpose=f"opening {name!r}")
    from .hdf5_groups import HDF5File

    if isinstance(where, Stamp):
        try:
            return HDF5File(where.path, rdcc_nbytes=cache, locking="best-effort")
        except OSError as error:
            kind = CorruptDataError if h5py.is_hdf5(where.path) else SourceFormatError
            raise kind(f"{name!r}, of {where.size} bytes, cannot be opened as HDF5: {error}") from error
    raw = BlobFile(where, *_end_of_file(where))
    try:
        return HDF5File(raw, rdcc_nbytes=cache)
    except (OSError, RuntimeError) as error:
        damage = f"{name!r} is damaged or not written to its end: h5py cannot read its metadata ({error})."
        failed = _without_frames(raw.problem or CorruptDataError(damage))
    raw.close()
    raise failed from None


class NotHDF5Error(SourceFormatError):
    """An object is no HDF5 file; its first bytes may tell what it is.

    Parameters
    ----------
    name : str
        Of the object.
    head : bytes
        Its first bytes.
    """

    def __init__(self, name: str, head: bytes) -> None:
        super().__init__(f"{name!r} is no HDF5 file: it has no HDF5 signature, and begins with {head[:8]!r}.")
        self.name, self.head = name, head

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.head)


def _end_of_file(blob: Blob) -> tuple[int, bytes]:
    """Bytes of an HDF5 object as its superblock says, and its first ones; TensorStore tells no sizes of objects."""
    try:
        head = first = get(blob, 0, PAGE)
    except CorruptDataError:  # shorter than that
        head = first = get(blob, 0, 64)
    base = 512
    while not head.startswith(SIGNATURE):  # a user's block may stand before it
        try:
            head = b"" if first.startswith(OTHER) or base > 1 << 20 else get(blob, base, base + 64)
        except CorruptDataError:  # shorter than that
            head = b""
        if not head:
            raise NotHDF5Error(blob.name, first)
        base *= 2
    old = head[8] < 2
    width, place = head[13 if old else 9], (24 + 4 * (head[8] == 1)) if old else 12
    return int.from_bytes(head[place + 2 * width : place + 3 * width], "little"), first


@contextmanager
def opened(stamp: Stamp) -> Iterator[Any]:
    """Open a file for its metadata: what h5py raises of them, which is of many classes, is damage."""
    with open_file(stamp) as file, told(stamp.path, file, stamp):
        yield file


def open_dataset(
    stamp: Stamp | Blob,
    dataset: Any,
    *,
    axes: str | None = None,
    dims: Sequence[str] | None = None,
    description: Description | None = None,
    values: Packing | None = None,
) -> Source:
    """Open a dataset the fastest way its storage allows: mapped or by byte ranges, else by h5py."""
    check_readable(dataset, stamp)
    how: dict[str, Any] = {"axes": axes, "dims": dims, "description": description, "values": values}
    if not isinstance(stamp, Stamp):
        return _in_object(stamp, dataset, how)
    region = map_dataset(stamp, dataset)
    if region is None or not region.mappable:
        return HDF5Source(stamp, dataset, **how)
    return MappedSource(region, name=f"{name_of(stamp)}:{dataset.name.lstrip('/')}", **how)


def _in_object(blob: Blob, dataset: Any, how: dict[str, Any]) -> Source:
    from .hdf5table import has_table, table_of
    from .ranges import RangeSource

    letters = how["axes"] or default_axes(
        dataset.ndim, how["dims"], f"{blob.name}{dataset.name}", dataset.shape
    )
    scattered = "t" in letters and any(size != 1 for size in dataset.shape[: letters.index("t")])
    offset = _offset(dataset)
    if not has_table(dataset) and (offset is None or scattered):
        return HDF5Source(blob, dataset, **how)
    how = {**how, "axes": letters, "shape": dataset.shape, "chunks": dataset.chunks}
    how |= {
        "offset": offset or 0,
        "variable": dataset.name,
        "table": table_of(dataset) if dataset.chunks else None,
    }
    return RangeSource(blob, dataset.dtype, **how)


def map_dataset(stamp: Stamp, dataset: Any) -> Region | None:
    """Region of a dataset whose bytes lie in the file as they are; None where they must be decoded."""
    offset = _offset(dataset)
    if offset is None:
        return None
    if dataset.file.filename != stamp.path:  # by an external link
        stamp = Stamp.of(dataset.file.filename)
    return Region.packed(stamp, offset=offset, shape=dataset.shape, dtype=dataset.dtype)


def _offset(dataset: Any) -> int | None:
    """Where the values lie as they are; None: in chunks, within the header, in other files, or never written."""
    import h5py

    stored, layout = dataset.id.get_type(), dataset.id.get_create_plist().get_layout()
    if layout != h5py.h5d.CONTIGUOUS or dataset.external is not None or dataset.dtype.kind not in "fiub":
        return None
    if dataset.id.get_storage_size() != dataset.size * dataset.dtype.itemsize:
        return None  # never written: what HDF5 says of the place is no place
    if dataset.dtype.kind != "b" and stored != h5py.h5t.py_create(dataset.dtype):
        return None  # bits in an order of their own
    offset: int | None = dataset.id.get_offset()
    return offset


def check_readable(dataset: Any, where: Stamp | Blob) -> None:
    """Raise for filters that are not installed, and for parts in other files that are not there.

    HDF5 gives fill values in place of the parts of a virtual dataset that it does not find.

    Raises
    ------
    SourceFormatError
        For a filter that hdf5plugin would add, and for an object in a bucket that names files.
    SourceNotFoundError
        For a virtual dataset whose source is not there.
    """
    import h5py

    from .hdf5table import has_table

    name = f"{name_of(where)}:{dataset.name.lstrip('/')}"
    local = isinstance(where, Stamp)
    for number, _ in filters_of(dataset) if local or not has_table(dataset) else ():
        if _available(h5py, number):
            continue
        known = FILTERS.get(number, "unknown here")
        raise SourceFormatError(
            f"{name!r} is compressed by the filter {number} ({known}), which HDF5 does not have here: pip install "
            "hdf5plugin, which is used where it is installed. Or write the file anew with gzip."
        )
    if not local and (dataset.is_virtual or dataset.external):
        raise SourceFormatError(
            f"{name!r} lies in other files, which an object in a bucket may not name. Copy all of them here, "
            "or convert them: `windowloader convert`."
        )
    if dataset.is_virtual:
        _check_sources(h5py, dataset, name)


def _available(h5py: Any, number: int) -> bool:
    if not h5py.h5z.filter_avail(number):
        try:
            import hdf5plugin  # noqa: F401, registers its filters
        except ImportError:
            return False
    return bool(h5py.h5z.filter_avail(number))


def _check_sources(h5py: Any, dataset: Any, name: str, depth: int = 8) -> None:
    folder = os.path.dirname(os.path.abspath(dataset.file.filename))
    for source in dataset.virtual_sources():
        if "%b" in source.file_name:  # as many files as there are
            continue
        paths = [os.path.join(folder, source.file_name), source.file_name]
        paths = [dataset.file.filename] if source.file_name == "." else list(filter(os.path.exists, paths))
        missing = f"one of whose files is not there: {source.file_name!r}"
        for path in paths[:1]:
            with h5py.File(path, "r") as file:
                inner = file.get(source.dset_name)
                missing = (
                    ""
                    if isinstance(inner, h5py.Dataset)
                    else f"and {path!r} has no dataset {source.dset_name!r}"
                )
                if not missing and inner.is_virtual and depth:
                    _check_sources(h5py, inner, name, depth - 1)
        if missing:
            raise SourceNotFoundError(
                f"{name!r} is a virtual dataset, {missing}. HDF5 would give fill values for its rows. Restore the file "
                "beside this one, or write the virtual dataset anew."
            )
