"""HDF5 files and objects opened by h5py, and the engines of their datasets.

In: a file's stamp or an object, an open dataset, its description. Out: `HDF5File`; `MappedSource` for a dataset whose
bytes are the values, `RangeSource` in a bucket, else `HDF5Source`. Never chooses a dataset, and never reads values when
opening.
"""

from __future__ import annotations

import importlib
import math
import os
import weakref
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError, SourceNotFoundError, WindowLoaderError
from windowloader.util.axes import default_axes

from .base import optional
from .description import FileSource
from .handles import Stamp
from .mapping import Region
from .memory import MappedSource
from .ranges import CODECS, RangeSource, Table
from .remote_objects import PAGE, MissingPagesError, ObjectFile, Pages, get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .base import Source
    from .remote_objects import RemoteObject

__all__ = ["HDF5File", "HDF5Source", "NotHDF5Error", "open_dataset", "opened"]

T = TypeVar("T")

CACHE_BYTES = 64 << 20  # the most that decoded chunks may take; less, where one row of chunks is less
MOST_CHUNKS = 1 << 24  # of a table
SIGNATURE = b"\x89HDF\r\n\x1a\n"
OTHER = (b"CDF", b"GRIB", b"version https://git-lfs", b"<")  # has no user's block
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
PLUGINS = {307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstd",
           32017: "SZ", 32026: "Blosc2"}  # fmt: skip


class HDF5File:
    """A file or object that h5py opens when it is used.

    Parameters
    ----------
    where : Stamp or RemoteObject
        The file or object.
    cache : int
        Bytes of decoded chunks that HDF5 may keep.

    Attributes
    ----------
    raw : ObjectFile or None
        What h5py reads an object through.

    Raises
    ------
    NotHDF5Error
        If an object is not HDF5.
    """

    def __init__(self, where: Stamp | RemoteObject, *, cache: int = 1 << 20) -> None:
        optional("h5py", extra="netcdf", purpose=f"opening {where.name!r}")
        self.where, self._cache = where, cache
        self.raw = None if isinstance(where, Stamp) else _file_over(where)
        self._file: Any = None
        self._datasets: dict[str, Any] = {}
        self._close: Callable[[], object] = lambda: None

    def use(self, call: Callable[[Any], T], doing: str = "", plugins: str = "") -> T:
        """Return ``call(h5py.File)``, called again after pages that it lacked are fetched.

        Parameters
        ----------
        call : callable
            May be repeated, then with a file opened anew: HDF5 may keep half of an object that it failed to read.
        doing : str
            What is read, for messages; default: metadata.
        plugins : str
            Filters of hdf5plugin that it takes, for messages.

        Raises
        ------
        CorruptDataError
            For whatever h5py or xarray raise on damage.
        SourceFormatError
            If it is not HDF5.
        WindowLoaderError
            If a store failed, or the file changed.
        """
        if self.raw is not None:
            self.raw.begin()
        while True:
            try:
                with self._explained(doing, plugins):
                    self._file = self._file or self._open()
                    found = call(self._file)
                if self.raw is None or self.raw.problem is None:
                    return found
                raise self.raw.problem  # which the call suppressed: what it found is not all
            except WindowLoaderError as error:
                _drop_frames(error)
                if self.raw is None or not isinstance(error, MissingPagesError):
                    raise
                self.close()
                self.raw.fetch_missing()

    def _open(self) -> Any:
        import h5py

        name = self.where.name
        try:
            file = h5py.File(self.raw or name, "r", rdcc_nbytes=self._cache, locking="best-effort")
        except (OSError, RuntimeError) as error:
            if self.raw is not None and self.raw.problem is not None:
                raise
            kind = CorruptDataError if self.raw is not None or h5py.is_hdf5(name) else SourceFormatError
            _drop_frames(error)
            size = self.where.size if isinstance(self.where, Stamp) else self.raw and self.raw.pages.size
            raise kind(f"{name!r}, of {size} bytes, cannot be opened as HDF5: {error}") from None
        # HDF5 must not call an object's methods after the interpreter has ended.
        self._close = weakref.finalize(self, file.close)
        return file

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        self._file, self._datasets = None, {}
        self._close()

    @contextmanager
    def _explained(self, doing: str, plugins: str) -> Iterator[None]:
        """Turn an error of HDF5 into that of the store, of a changed file, or of a damaged one."""
        try:
            yield
        except WindowLoaderError:
            raise
        except Exception as error:
            self.where.check()
            _drop_frames(error)
            if self.raw is not None and self.raw.problem is not None:
                raise self.raw.problem from None
            what = f"{doing or f'the metadata of {self.where.name!r}'} cannot be read"
            if plugins and "filter" in str(error):
                advice = f"Update {plugins} of hdf5plugin, or restore the file, which may be damaged."
                raise SourceFormatError(f"{what}: {error}. {advice}") from None
            raise CorruptDataError(f"{what}: {error}. The file is damaged, or cut short.") from None

    def dataset(self, file: Any, path: str) -> Any:
        """Return the identifier of a dataset; a lookup takes longer than the read of a few rows."""
        if path not in self._datasets:
            self._datasets[path] = file[path].id
        return self._datasets[path]


def _drop_frames(error: BaseException | None) -> None:
    """Remove from an error the frames that it passed through.

    They hold h5py's access list, and that list an object, invisible to the garbage collector: if they were kept, HDF5
    would free the list after the interpreter has ended, and crash.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _file_over(remote: RemoteObject) -> ObjectFile:
    """Return a file over an object; those of one object share its pages."""
    pages = _PAGES.get(id(remote))
    if pages is None:
        size, first = _end_of_file(remote)
        pages = _PAGES[id(remote)] = Pages(remote, size)
        if len(first) == PAGE:
            pages[0] = first
    return ObjectFile(pages)


_PAGES: weakref.WeakValueDictionary[int, Pages] = weakref.WeakValueDictionary()  # each refers to its object


class NotHDF5Error(SourceFormatError):
    """An object is not an HDF5 file; `head`, its first bytes, may tell what it is."""

    def __init__(self, message: str, head: bytes = b"") -> None:
        super().__init__(message)
        self.head = head


def _end_of_file(remote: RemoteObject) -> tuple[int, bytes]:
    """Size of an HDF5 object from its superblock, and its first bytes; TensorStore reports no sizes of objects."""
    head = first = _bytes(remote, 0, PAGE) or get(remote, 0, 64)
    base = 512
    while not head.startswith(SIGNATURE):  # a user's block may stand before it
        head = b"" if first.startswith(OTHER) or base > 1 << 20 else _bytes(remote, base, 64)
        if not head:
            raise NotHDF5Error(f"{remote.name!r} is no HDF5 file: it begins with {first[:8]!r}.", first)
        base *= 2
    old = head[8] < 2
    width, place = head[13 if old else 9], (24 + 4 * (head[8] == 1)) if old else 12
    return int.from_bytes(head[place + 2 * width : place + 3 * width], "little"), first


def _bytes(remote: RemoteObject, start: int, size: int) -> bytes:
    """Bytes of an object; none if it is shorter than that."""
    with suppress(CorruptDataError):
        return get(remote, start, start + size)
    return b""


@contextmanager
def opened(stamp: Stamp) -> Iterator[Any]:
    """Open a local file for its metadata, as an h5py.File."""
    file = HDF5File(stamp)
    try:
        found = file.use(lambda one: one)
        with file._explained("", ""):
            yield found
    finally:
        file.close()


class HDF5Source(FileSource):
    """A dataset read by h5py.

    Parameters
    ----------
    where : Stamp or RemoteObject
        The file, or the object.
    dataset : h5py.Dataset
        The open dataset, of which only name and form are kept.
    **how
        ``axes``, ``dims``, ``description`` and ``values``, as for `FileSource`.
    """

    def __init__(self, where: Stamp | RemoteObject, dataset: Any, **how: Any) -> None:
        form = {"shape": dataset.shape, "chunks": dataset.chunks, "stored": dataset.dtype}
        super().__init__(full_name(where, dataset), where, dataset.name, **form, **how)
        self._filters = [number for number, _ in filters_of(dataset)]
        row = math.prod(self.shape[1:]) * dataset.dtype.itemsize
        self._cache = min(max(1 << 20, (self.chunks or (1,))[0] * row), CACHE_BYTES)

    def _open(self) -> HDF5File:
        return HDF5File(self._where, cache=self._cache)

    def _load(
        self, handle: HDF5File, index: tuple[slice, ...], target: np.ndarray | None, doing: str
    ) -> np.ndarray:
        import h5py

        def read(file: Any) -> np.ndarray:  # h5py's own selections take as long as the read of a few rows
            values = handle.dataset(file, self._path)
            space = values.get_space()
            ends = [part.indices(size)[:2] for part, size in zip(index, space.shape, strict=True)]
            shape = tuple(stop - start for start, stop in ends)
            found = np.empty(shape, self._stored) if target is None else target
            space.select_hyperslab(tuple(start for start, _ in ends), shape)
            values.read(h5py.h5s.create_simple(shape), space, found)
            return found

        plugins = ", ".join(PLUGINS[number] for number in self._filters if number in PLUGINS)
        return handle.use(read, doing, plugins)

    def codecs(self) -> list[str]:
        """Names of the filters."""
        return [(FILTERS | PLUGINS).get(number, f"filter {number}") for number in self._filters]

    def stored_bytes(self) -> int | None:
        """Bytes of the dataset's chunks."""
        with self._handle.held(self._open) as handle:
            return int(handle.use(lambda file: file[self._path].id.get_storage_size()))


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

    Raises
    ------
    SourceFormatError
        For a filter that is not installed.
    SourceNotFoundError
        For a virtual dataset whose source is not there.
    """
    offset, name = _offset(dataset), full_name(where, dataset)
    if isinstance(where, Stamp):
        _check_parts(dataset, name)
        if offset is not None:
            link = dataset.file.filename  # another file, where an external link leads there
            stamp = where if link == where.path else Stamp.of(link)
            region = Region.packed(stamp, offset=offset, shape=dataset.shape, dtype=dataset.dtype)
            if region.mappable:
                return MappedSource(region, name=name, **how)
    else:
        axes = how["axes"] or default_axes(dataset.ndim, how["dims"], name, dataset.shape)
        together = "t" not in axes or all(size == 1 for size in dataset.shape[: axes.index("t")])
        table = dataset.chunks and all(number in CODECS for number, _ in filters_of(dataset))
        if table or (offset is not None and together):
            how |= {"axes": axes, "shape": dataset.shape, "chunks": dataset.chunks, "variable": dataset.name}
            reader = partial(read_table, where, dataset.name) if table else None
            return RangeSource(where, dataset.dtype, offset=offset or 0, table=reader, **how)
    _check_filters(dataset, name)
    return HDF5Source(where, dataset, **how)


def full_name(where: Stamp | RemoteObject, dataset: Any) -> str:
    """Name of a dataset, for messages."""
    place = os.path.basename(where.name) if isinstance(where, Stamp) else where.name
    return f"{place}:{dataset.name.lstrip('/')}"


def filters_of(dataset: Any) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return number and settings of the filters of a dataset, in the order in which they were applied."""
    properties = dataset.id.get_create_plist()
    found = [properties.get_filter(place) for place in range(properties.get_nfilters())]
    return tuple((number, tuple(settings)) for number, _, settings, _ in found)


def read_table(where: RemoteObject, path: str) -> Table:
    """Return where the chunks of a dataset lie."""
    file = HDF5File(where)
    try:
        return file.use(lambda opened: _table(opened[path]))
    finally:
        file.close()


def _table(dataset: Any) -> Table:
    how = (dataset.chunks, filters_of(dataset), dataset.fillvalue)
    grid = [-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    if math.prod(grid) > MOST_CHUNKS:
        raise CorruptDataError(
            f"{dataset.name!r} of shape {dataset.shape} has {math.prod(grid)} chunks of {dataset.chunks}, more than "
            f"{MOST_CHUNKS}. If that is not damage, copy it into larger chunks."
        )
    places = np.full((3, *grid), -1, np.int64)
    found: list[Any] = []
    if places.size:
        dataset.id.chunk_iter(found.append)
    for info in found:
        cell = tuple(at // chunk for at, chunk in zip(info.chunk_offset, dataset.chunks, strict=True))
        places[:, *cell] = info.byte_offset, info.size, info.filter_mask
    places[1:, places[0] < 0] = 0
    return Table(tuple(dataset.shape), dataset.dtype, *how, *places.reshape(3, -1))


def _offset(dataset: Any) -> int | None:
    """Where the values lie as they are; None: in chunks, within the header, in other files, or never written."""
    import h5py

    stored, layout = dataset.id.get_type(), dataset.id.get_create_plist().get_layout()
    if layout != h5py.h5d.CONTIGUOUS or dataset.external is not None or dataset.dtype.kind not in "fiub":
        return None
    if dataset.id.get_storage_size() != dataset.size * dataset.dtype.itemsize:
        return None  # never written: the place that HDF5 reports is not one
    if dataset.dtype.kind != "b" and stored != h5py.h5t.py_create(dataset.dtype):
        return None  # bits in an order of their own
    offset: int | None = dataset.id.get_offset()
    return offset


def _check_filters(dataset: Any, name: str) -> None:
    import h5py

    for number, _ in filters_of(dataset):
        if not h5py.h5z.filter_avail(number):
            with suppress(ImportError):
                importlib.import_module("hdf5plugin")  # registers its filters
        if not h5py.h5z.filter_avail(number):
            raise SourceFormatError(
                f"{name!r} is compressed by the filter {number} ({PLUGINS.get(number, 'unknown here')}), which is not "
                "installed: pip install hdf5plugin, or write the file anew with gzip."
            )


def _check_parts(dataset: Any, name: str, depth: int = 8) -> None:
    """Raise if a virtual dataset lacks a part: HDF5 would return fill values for it."""
    import h5py

    here = dataset.file.filename
    for part in dataset.virtual_sources() if dataset.is_virtual and depth else ():
        beside = os.path.join(os.path.dirname(os.path.abspath(here)), part.file_name)
        paths = [here] if part.file_name == "." else [beside, part.file_name]
        path, found = next(filter(os.path.exists, paths), None), "%b" in part.file_name  # a pattern of names
        if path is not None:
            with h5py.File(path, "r") as file:
                if found := part.dset_name in file:
                    _check_parts(file[part.dset_name], name, depth - 1)
        if not found:
            raise SourceNotFoundError(
                f"{name!r} is a virtual dataset, and a part of it is not there: {part.file_name!r} does not exist, or "
                f"has no dataset {part.dset_name!r}. HDF5 would give fill values for its rows. Restore the file, or "
                "write the virtual dataset anew."
            )
