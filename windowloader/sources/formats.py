"""Paths and URLs: which format a file is in, and who opens it.

In: a path or URL with options. Out: a `Source`. Told by its first bytes where a format has such, else by its name.
Never reads more of a file than that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceError, SourceFormatError

from .base import LocalSource
from .foreign import check_answer
from .handles import Stamp

if TYPE_CHECKING:
    from windowloader.source import Source

    from .mapped import MappedSource

__all__ = ["Request", "by_name", "is_url", "list_path", "open_path"]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.

    Parameters
    ----------
    target : object
        What to open.
    variable, axes, storage_options, options
        As for `windowloader.sources.registry.open_source`.
    """

    target: Any
    variable: str | None = None
    axes: str | None = None
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    options: dict[str, Any] = field(default_factory=dict)

    def of(self, target: Any) -> Request:
        """Ask the same of another target."""
        return replace(self, target=target)

    def takes(self, what: str, *names: str) -> None:
        """Raise `SourceFormatError` where there are options that are not among ``names``."""
        unknown = sorted(set(self.options) - set(names))
        if unknown:
            known = f"takes {', '.join(names)}" if names else "takes no options of its own"
            raise SourceFormatError(
                f"{self.target!r} is opened as {what}, which {known}; {unknown} were given."
            )


Opener = Callable[[Request], "Source"]

MAGIC = (
    (b"\x93NUMPY", "npy"), (b"\x89HDF\r\n\x1a\n", "hdf5"), (b"CDF", "netcdf"), (b"PAR1", "table"), (b"ARROW1", "table")
)  # fmt: skip
SUFFIXES = {
    "npy": (".npy",),
    "npz": (".npz",),
    "hdf5": (".h5", ".hdf5", ".hdf", ".he5"),
    "netcdf": (".nc", ".nc4", ".cdf", ".netcdf"),
    "table": (".csv", ".tsv", ".txt", ".parquet", ".pq", ".feather", ".arrow", ".ipc", ".xlsx", ".xls", ".ods"),
}
PACKED = (".gz", ".bz2", ".xz", ".zst")
PICKLED = (
    "Pickles can run code and are never opened. If you trust it, open it yourself (pandas.read_pickle, pickle.load) "
    "and pass the frame or array."
)
ADVICE = {
    ".grib": "Open it by xarray with cfgrib and pass the DataArray, or convert it to netCDF or Zarr.",
    ".grb": "Open it by xarray with cfgrib and pass the DataArray, or convert it to netCDF or Zarr.",
    ".pkl": PICKLED,
    ".pickle": PICKLED,
    ".pt": "Open it by torch.load(..., weights_only=True) and pass the tensor.",
    ".mat": "Open it by scipy.io.loadmat and pass the array, or save it as HDF5 (-v7.3) under the name .h5.",
    ".json": "Build the array from it and pass that.",
}


def is_url(target: Any) -> bool:
    """Whether a path names a place other than this machine's files."""
    return isinstance(target, str) and "://" in target and not target.startswith(("file://", "local://"))


def open_path(request: Request) -> Source:
    """Open a path or URL; see `windowloader.sources.registry.open_source`."""
    if is_url(request.target):
        return _open_url(request)
    request = request.of(_local(request.target))
    if "shape" in request.options:
        return _open_raw(request)
    return OPENERS[_format(request.target)](request)


def format_of(target: Any) -> str | None:
    """Format of a path or URL, as far as that is told without reading it."""
    if is_url(target):
        return by_name(target) or "zarr"
    from .chunked import is_chunked

    path = _local(target)
    return "zarr" if is_chunked(path) else by_name(path)


def list_path(target: Any, storage_options: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the arrays in a file or store with several; () for a single array."""
    if is_url(target):
        from . import chunked

        return chunked.list_arrays(target, storage_options) if by_name(target) is None else ()
    path = _local(target)
    if os.path.isfile(path) and _by_bytes(path) is None and by_name(path) is None:
        return ()  # raw, or nothing: opening it will tell
    found = _format(path)
    if found == "zarr":
        from . import chunked

        return chunked.list_arrays(path, storage_options)
    if found == "hdf5":
        from .hdf5 import list_hdf5

        return list_hdf5(path)
    if found == "netcdf":
        from .netcdf import list_netcdf

        return list_netcdf(path)
    if found == "npz":
        from .memory import list_npz

        names = list_npz(path)
        return names if len(names) > 1 else ()
    return ()


def _local(target: Any) -> str:
    path: str = os.fspath(target)
    for prefix in ("file://", "local://"):
        path = path.removeprefix(prefix)
    return os.path.expanduser(path)


def by_name(path: str) -> str | None:
    """Format that a name tells."""
    name = path.lower().partition("?")[0]
    for packed in PACKED:
        if name.endswith(packed):
            bare = name.removesuffix(packed)
            return "table" if bare.endswith(SUFFIXES["table"][:3]) else None
    return next((kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes)), None)


def _by_bytes(path: str) -> str | None:
    """Format that the first bytes tell; netCDF 4 is HDF5 that says so."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise SourceError(f"{path!r} cannot be read: {error}") from error
    found = next((kind for magic, kind in MAGIC if head.startswith(magic)), None)
    if found == "hdf5" and by_name(path) != "netcdf":
        from .hdf5_dataset import open_file

        with open_file(Stamp.of(path)) as opened:
            return "netcdf" if "_NCProperties" in opened.attrs else "hdf5"
    return "netcdf" if found == "hdf5" else found


def _commonest(folder: str) -> str:
    """Return the suffix that most files of a folder have, of those that can be opened; else that of netCDF."""
    known = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}
    found = [os.path.splitext(name)[1] for name in sorted(os.listdir(folder))]
    found = [suffix for suffix in found if suffix.lower() in known]
    return max(found, key=found.count, default=".nc")


def _format(path: str) -> str:
    """Format of a local file or folder, else `SourceFormatError`."""
    from .chunked import is_chunked

    if is_chunked(path):
        return "zarr"
    Stamp.of(path)  # nothing there is its own error
    if os.path.isdir(path):
        from .table_files import parquet_files

        if parquet_files(path):
            return "table"
        raise SourceFormatError(
            f"{path!r} is a folder without a Zarr store. For one file a month, list the files or give a pattern, "
            f"e.g. {os.path.join(path, '*' + _commonest(path))!r}."
        )
    found = _by_bytes(path) or by_name(path)
    if found is None:
        suffix = os.path.splitext(path)[1].lower()
        raise SourceFormatError(
            f"{path!r} is in no format that is known by its first bytes or its name. "
            + ADVICE.get(suffix, "If it is bare numbers, give shape= and dtype=; of text, name it .csv.")
            + " What can be opened: .npy, .npz, raw, Zarr, HDF5, netCDF, CSV, Parquet, Feather, Excel."
        )
    return found


def _open_raw(request: Request) -> Source:
    from .mapped import RawSource

    request.takes("bare numbers", "shape", "dtype", "offset", "order")
    if "dtype" not in request.options:
        raise SourceFormatError(
            f"{request.target!r} was given shape= and no dtype=, e.g. dtype='float32' or '>i2'."
        )
    source = RawSource(request.target, axes=request.axes, **request.options)
    return source if source.region.mappable else _in_ranges(request, source, "raw")


def _open_npy(request: Request) -> Source:
    from .mapped import NpySource

    request.takes("an .npy file")
    source = NpySource(request.target, axes=request.axes)
    return source if source.region.mappable else _in_ranges(request, source, "npy")


def _in_ranges(request: Request, mapped: MappedSource, kind: str) -> Source:
    """Read a file that cannot be mapped by ranges, as an object in a bucket is."""
    from .remote_files import open_remote

    order = request.options.get("order", "C")
    if order != "C":
        raise SourceFormatError(
            f"{request.target!r} cannot be mapped here, and with order={order!r} its rows do not lie together. "
            "Copy it to a disk that maps files, or convert it: `windowloader convert` writes time first."
        )
    options = {name: value for name, value in request.options.items() if name in ("dtype", "offset")}
    if kind == "raw":
        options["shape"] = mapped.region.shape
    url = Path(request.target).resolve().as_uri()
    found = open_remote(url, kind=kind, axes=request.axes, storage_options=request.storage_options, **options)
    assert found is not None  # None is for frames of pandas
    return found


def _open_npz(request: Request) -> Source:
    from .memory import open_npz

    request.takes("an .npz archive", "member")
    member = request.options.get("member", request.variable)
    return open_npz(request.target, member=member, axes=request.axes)


def _open_hdf5(request: Request) -> Source:
    from .hdf5 import open_hdf5

    request.takes("an HDF5 file", *_table_options())
    return open_hdf5(request.target, variable=request.variable, axes=request.axes, **request.options)


def _open_netcdf(request: Request) -> Source:
    from .netcdf import open_netcdf

    request.takes("a netCDF file")
    return open_netcdf(request.target, variable=request.variable, axes=request.axes)


def _table_options() -> list[str]:
    from .tables import TableOptions

    return [one.name for one in fields(TableOptions) if one.name != "axes"]


def _open_table(request: Request) -> Source:
    from .tables import open_table

    request.takes("a table", *_table_options())
    check_answer(request.target)
    return open_table(request.target, axes=request.axes, **request.options)


def _open_zarr(request: Request) -> Source:
    from .chunked import open_chunked

    request.takes("a Zarr store", "fill_missing", "mask_and_scale")
    return open_chunked(
        request.target,
        variable=request.variable,
        axes=request.axes,
        storage_options=request.storage_options,
        **request.options,
    )


OPENERS: dict[str, Opener] = {
    "npy": _open_npy,
    "npz": _open_npz,
    "hdf5": _open_hdf5,
    "netcdf": _open_netcdf,
    "table": _open_table,
    "zarr": _open_zarr,
}


def _open_url(request: Request) -> Source:
    """Objects that can be read in ranges are; tables and archives are fetched as a whole."""
    found = "raw" if "shape" in request.options else by_name(request.target)
    if found is None:
        return _open_zarr(request)
    if found in ("table", "npz"):
        return _open_fetched(request)
    from .remote_files import open_remote

    own = ("shape", "dtype", "offset", "mask_and_scale")
    request.takes("a remote object", *own, *(_table_options() if found == "hdf5" else ()))
    frame = found == "hdf5" and not set(request.options) <= set(own)  # options that a frame alone takes
    source = None if frame else open_remote(
        request.target,
        kind="hdf5" if found == "netcdf" else found,
        variable=request.variable,
        axes=request.axes,
        storage_options=request.storage_options,
        **request.options,
    )
    return source or _open_fetched(request)


def _open_fetched(request: Request) -> Source:
    """Open a remote table, frame or archive in memory."""
    from .fetching import fetched
    from .memory import ArraySource, LoadedSource

    with fetched(request.target, request.storage_options) as path:
        source = OPENERS[by_name(path) or "table"](replace(request, target=path, storage_options={}))
        labels = {
            axis: found for axis in range(len(source.shape)) if (found := source.labels(axis)) is not None
        }
        rows = source.array() if isinstance(source, LoadedSource) else None
        if rows is None:  # the file that it lies in will be gone
            rows = np.empty(source.shape, source.dtype)
            source.read(0, len(rows), rows)
        whole = ArraySource(
            rows, axes=source.axes, name=request.target, labels=labels, timestamps=source.timestamps()
        )
        whole.doubts = source.doubts if isinstance(source, LocalSource) else ()
        source.close()
        return whole
