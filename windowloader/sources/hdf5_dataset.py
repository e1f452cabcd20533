"""Engines of HDF5 datasets: mapped where their bytes are the values, by byte ranges in a bucket, else read by h5py.

In: a file's stamp or an object, an open dataset, its description. Out: `MappedSource`, `RangeSource` or `HDF5Source`.
Never chooses a dataset, and never reads values when opening.
"""

from __future__ import annotations

import importlib
import os
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError, SourceNotFoundError, WindowLoaderError
from windowloader.util.axes import default_axes

from .base import SlabSource, digest, optional
from .handles import Stamp
from .hdf5table import filters_of, has_table, table_of
from .mapping import Region
from .memory import MappedSource
from .processes import PerProcess
from .remote_objects import PAGE, ObjectFile, get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .base import Source
    from .box import Box
    from .packing import Packing
    from .remote_objects import RemoteObject

__all__ = ["HDF5Source", "NotHDF5Error", "open_dataset", "open_file", "opened", "told"]

CACHE_BYTES = 64 << 20  # the most that decoded chunks may take; less, where one row of chunks is less
SIGNATURE = b"\x89HDF\r\n\x1a\n"
OTHER = (b"CDF", b"GRIB", b"version https://git-lfs", b"<")  # has no user's block
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
PLUGINS = {307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstd",
           32017: "SZ", 32026: "Blosc2"}  # fmt: skip


class HDF5Source(SlabSource):
    """A dataset read by h5py.

    Parameters
    ----------
    where : Stamp or RemoteObject
        The file, or the object.
    dataset : h5py.Dataset
        The open dataset; nothing of it is kept but its name and form.
    values : Packing, optional
        How stored numbers become values.
    **how
        ``axes``, ``dims`` and ``description``, as for `Source`.
    """

    def __init__(
        self, where: Stamp | RemoteObject, dataset: Any, *, values: Packing | None = None, **how: Any
    ) -> None:
        self._where, self._dataset, self._raw, self.packing = where, dataset.name, dataset.dtype, values
        self._filters = [number for number, _ in filters_of(dataset)]
        self._handle: PerProcess[_Opened] = PerProcess()
        super().__init__(
            full_name(where, dataset),
            shape=dataset.shape,
            dtype=values.dtype if values else dataset.dtype,
            chunks=dataset.chunks,
            **how,
        )
        row = int(np.prod(self.shape[1:])) * dataset.dtype.itemsize
        self._cache = min(max(1 << 20, (self.chunks or (1,))[0] * row), CACHE_BYTES)

    def check(self) -> None:
        """Raise `SourceChangedError` where the file is no longer what was opened."""
        if isinstance(self._where, Stamp):
            self._where.check()

    def _open(self) -> _Opened:
        self.check()
        return _Opened(self.name, self._where, self._dataset, self._cache)

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        index, target = self.slab(start, stop, box), self.as_stored(out)
        with self._handle.held(self._open) as opened:
            plugins = ", ".join(PLUGINS[number] for number in self._filters if number in PLUGINS)
            with told(self.name, opened.file, self._where, (start, stop), plugins):
                direct = self.packing is None and target.dtype == self._raw and target.flags.c_contiguous
                stored = target if direct else np.empty(target.shape, self._raw)
                opened.read(tuple(part.start or 0 for part in index), stored)
            self.check()
        if self.packing is not None:
            self.packing.unpack(stored, target)
        elif not direct:
            target[...] = stored
        return self.bytes_of(start, stop, box)

    def codecs(self) -> list[str]:
        """Names of the filters."""
        return [(FILTERS | PLUGINS).get(number, f"filter {number}") for number in self._filters]

    def stored_bytes(self) -> int | None:
        """Bytes of the dataset's chunks."""
        with open_file(self._where) as file:
            return int(file[self._dataset].id.get_storage_size())

    def fingerprint(self) -> str:
        """Name, shape, dtype, and size and time of change of the file, or version of the object."""
        where = self._where
        place = (where.size, where.mtime_ns) if isinstance(where, Stamp) else (where.identity(),)
        return digest(self.axes, self.shape, None, self.dtype.str, self._dataset, None, *place)

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._handle.close()


class _Opened:
    """A dataset, and the file it keeps open."""

    def __init__(self, name: str, where: Stamp | RemoteObject, dataset: str, cache: int) -> None:
        import h5py

        self.file, self.simple = open_file(where, cache=cache), h5py.h5s.create_simple
        weakref.finalize(self, self.file.close)  # HDF5 must not call an object when the interpreter has ended
        with told(name, self.file, where):
            self.values = self.file[dataset].id

    def read(self, first: tuple[int, ...], out: np.ndarray) -> None:
        """Read what begins at an index; h5py's own selections take as long as the read of a few rows."""
        space = self.values.get_space()
        space.select_hyperslab(first, out.shape)
        self.values.read(self.simple(out.shape), space, out)

    def close(self) -> None:
        self.file.close()


def full_name(where: Stamp | RemoteObject, dataset: Any) -> str:
    """Name of a dataset, for messages."""
    return f"{os.path.basename(where.path) if isinstance(where, Stamp) else where.name}:{dataset.name.lstrip('/')}"


@contextmanager
def told(
    name: str, file: Any, where: Stamp | RemoteObject, rows: tuple[int, int] | None = None, plugins: str = ""
) -> Iterator[None]:
    """Turn what HDF5 raises on damage into an error with the rows, that the file changed, or what a store said."""
    try:
        yield
    except WindowLoaderError:
        raise
    except Exception as error:  # what h5py, h5netcdf and xarray raise on damage has no limits
        if isinstance(where, Stamp):
            where.check()
        _without_frames(error)
        if file.raw is not None and file.raw.problem is not None:
            raise file.raw.problem from None
        if rows is None:
            raise CorruptDataError(
                f"{name!r} is damaged, or not written to its end: h5py cannot read its metadata ({error})."
            ) from None
        asked = f"rows [{rows[0]}, {rows[1]}) of {name!r} cannot be read"
        if plugins and "filter" in str(error):
            raise SourceFormatError(
                f"{asked} by the filter {plugins} of hdf5plugin: {error}. Stored bytes are damaged, or "
                "of a version that it does not read. Update hdf5plugin, or restore the file from its origin."
            ) from None
        raise CorruptDataError(f"{asked}: {error}") from None


def _without_frames(error: BaseException | None) -> None:
    """Take from an error the frames that it passed through.

    They hold h5py's access list, and that list an object, unseen by the garbage collector: were they kept, HDF5 would
    free the list after the interpreter has ended, and crash.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def open_file(where: Stamp | RemoteObject, *, cache: int = 1 << 20) -> Any:
    """Open a file or object by h5py for reading; ``raw`` is what it reads an object through, else None.

    Raises
    ------
    CorruptDataError
        Where it is HDF5, but not to its end.
    SourceFormatError
        Where it is no HDF5.
    """
    name = where.path if isinstance(where, Stamp) else where.name
    h5py = optional("h5py", extra="netcdf", purpose=f"opening {name!r}")
    size, first = (where.size, b"") if isinstance(where, Stamp) else _end_of_file(where)
    raw = None if isinstance(where, Stamp) else ObjectFile(where, size, first)
    try:
        file = h5py.File(raw or name, "r", rdcc_nbytes=cache, locking="best-effort")
    except (OSError, RuntimeError) as error:
        _without_frames(error)
        if raw is not None and raw.problem is not None:
            raise raw.problem from None
        kind = CorruptDataError if raw is not None or h5py.is_hdf5(name) else SourceFormatError
        raise kind(f"{name!r}, of {size} bytes, cannot be opened as HDF5: {error}") from None
    file.raw = raw
    return file


class NotHDF5Error(SourceFormatError):
    """An object is no HDF5 file; `head`, its first bytes, may tell what it is."""

    head = b""


def _end_of_file(blob: RemoteObject) -> tuple[int, bytes]:
    """Bytes of an HDF5 object as its superblock says, and its first ones; TensorStore tells no sizes of objects."""
    head = first = _bytes(blob, 0, PAGE) or get(blob, 0, 64)
    base = 512
    while not head.startswith(SIGNATURE):  # a user's block may stand before it
        head = b"" if first.startswith(OTHER) or base > 1 << 20 else _bytes(blob, base, 64)
        if not head:
            error = NotHDF5Error(
                f"{blob.name!r} is no HDF5 file: it has no HDF5 signature, and begins with {first[:8]!r}."
            )
            error.head = first
            raise error
        base *= 2
    old = head[8] < 2
    width, place = head[13 if old else 9], (24 + 4 * (head[8] == 1)) if old else 12
    return int.from_bytes(head[place + 2 * width : place + 3 * width], "little"), first


def _bytes(blob: RemoteObject, start: int, size: int) -> bytes:
    """Bytes of an object; none where it is shorter than that."""
    with suppress(CorruptDataError):
        return get(blob, start, start + size)
    return b""


@contextmanager
def opened(stamp: Stamp) -> Iterator[Any]:
    """Open a file for its metadata: what h5py raises of them, which is of many classes, is damage."""
    with open_file(stamp) as file, told(stamp.path, file, stamp):
        yield file


def open_dataset(where: Stamp | RemoteObject, dataset: Any, **how: Any) -> Source:
    """Open a dataset the fastest way its storage allows: mapped or by byte ranges, else by h5py.

    Parameters
    ----------
    where : Stamp or RemoteObject
        The file, or the object.
    dataset : h5py.Dataset
        Open.
    **how
        ``axes``, ``dims``, ``description`` and ``values``, as for the sources.
    """
    from .ranges import RangeSource

    check_readable(dataset, where)
    offset = _offset(dataset)
    if isinstance(where, Stamp) and offset is not None:
        link = dataset.file.filename  # another file, where an external link leads there
        stamp = where if link == where.path else Stamp.of(link)
        region = Region.packed(stamp, offset=offset, shape=dataset.shape, dtype=dataset.dtype)
        if region.mappable:
            return MappedSource(region, name=full_name(where, dataset), **how)
    if not isinstance(where, Stamp):
        axes = how["axes"] or default_axes(
            dataset.ndim, how["dims"], full_name(where, dataset), dataset.shape
        )
        together = "t" not in axes or all(size == 1 for size in dataset.shape[: axes.index("t")])
        if has_table(dataset) or (offset is not None and together):
            how = {**how, "axes": axes, "shape": dataset.shape, "chunks": dataset.chunks}
            how["table"] = table_of(dataset) if dataset.chunks else None
            return RangeSource(where, dataset.dtype, offset=offset or 0, variable=dataset.name, **how)
    return HDF5Source(where, dataset, **how)


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


def check_readable(dataset: Any, where: Stamp | RemoteObject) -> None:
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

    name, local = full_name(where, dataset), isinstance(where, Stamp)
    for number, _ in filters_of(dataset) if local or not has_table(dataset) else ():
        if not h5py.h5z.filter_avail(number):
            with suppress(ImportError):
                importlib.import_module("hdf5plugin")  # registers its filters
        if not h5py.h5z.filter_avail(number):
            raise SourceFormatError(
                f"{name!r} is compressed by the filter {number} ({PLUGINS.get(number, 'unknown here')}), which HDF5 "
                "does not have here: pip install hdf5plugin, which is used where it is installed. Or write the file "
                "anew with gzip."
            )
    if not local and (dataset.is_virtual or dataset.external):
        raise SourceFormatError(
            f"{name!r} lies in other files, which an object in a bucket may not name. Copy all of them here, "
            "or convert them: `windowloader convert`."
        )
    if missing := _missing(dataset) if dataset.is_virtual else "":
        raise SourceNotFoundError(
            f"{name!r} is a virtual dataset, {missing}. HDF5 would give fill values for its rows. Restore the file "
            "beside this one, or write the virtual dataset anew."
        )


def _missing(dataset: Any, depth: int = 8) -> str:
    """Say which part of a virtual dataset is not there; empty where all are."""
    import h5py

    here = dataset.file.filename
    for source in dataset.virtual_sources():
        if "%b" in source.file_name:  # as many files as there are
            continue
        beside = os.path.join(os.path.dirname(os.path.abspath(here)), source.file_name)
        paths = [here] if source.file_name == "." else [beside, source.file_name]
        path = next(filter(os.path.exists, paths), None)
        if path is None:
            return f"one of whose files is not there: {source.file_name!r}"
        with h5py.File(path, "r") as file:
            inner = file.get(source.dset_name)
            if not isinstance(inner, h5py.Dataset):
                return f"and {path!r} has no dataset {source.dset_name!r}"
            if inner.is_virtual and depth and (missing := _missing(inner, depth - 1)):
                return missing
    return ""
