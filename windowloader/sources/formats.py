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

from windowloader.errors import SourceError, SourceFormatError

from .foreign import check_head, check_table, guarded
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

HDF5 = b"\x89HDF\r\n\x1a\n"
MAGIC = ((b"\x93NUMPY", "npy"), (HDF5, "hdf5"), (b"CDF", "netcdf"), (b"GRIB", "netcdf"), (b"PAR1", "table"),
         (b"ARROW1", "table"))  # fmt: skip
SUFFIXES = {
    "npy": (".npy",),
    "npz": (".npz",),
    "hdf5": (".h5", ".hdf5", ".hdf", ".he5"),
    "netcdf": (".nc", ".nc4", ".cdf", ".netcdf", ".nc3"),
    "table": (
        ".csv",
        ".tsv",
        ".txt",
        ".parquet",
        ".pq",
        ".feather",
        ".arrow",
        ".ipc",
        ".xlsx",
        ".xls",
        ".ods",
    ),
}
PACKED = (".gz", ".bz2", ".xz", ".zst")
PICKLED = (
    "Pickles can run code and are never opened. If you trust it, open it yourself (pandas.read_pickle, pickle.load) "
    "and pass the frame or array."
)
GRIB = (".grib", ".grib2", ".grb", ".grb2")
NO_GRIB = "Its first bytes are not those of GRIB, which is opened by cfgrib; was it copied to its end?"
ADVICE = {
    **dict.fromkeys(GRIB, NO_GRIB),
    ".mat": "Open it by scipy.io.loadmat and pass the array, or save it by save(..., '-v7.3').",
    ".pkl": PICKLED,
    ".pickle": PICKLED,
    ".pt": "Open it by torch.load(..., weights_only=True) and pass the tensor.",
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

        found = _of_object(target)
        if found in ("hdf5", "netcdf"):
            return _list_described(target, storage_options)
        return chunked.list_arrays(target, storage_options) if found is None else ()
    path = _local(target)
    if os.path.isfile(path) and _by_bytes(path) is None and by_name(path) is None:
        return ()  # raw, or nothing: opening it will tell
    found = _format(path)
    if found == "zarr":
        from . import chunked

        return chunked.list_arrays(path, storage_options)
    if found in ("hdf5", "netcdf"):
        return _list_described(path, storage_options)
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


def _of_object(url: str) -> str | None:
    """Format that the name of an object tells, of whose first bytes nothing is known yet."""
    name = url.lower().partition("?")[0]
    return "hdf5" if name.endswith(".mat") else "netcdf" if name.endswith(GRIB) else by_name(url)


def _by_bytes(path: str) -> str | None:
    """Format that the first bytes tell; an HDF5 file may begin with a block of its user's, as MATLAB's do."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            found = next((kind for magic, kind in MAGIC if head.startswith(magic)), None)
            for place in (512 << step for step in range(12)) if found is None else ():
                file.seek(place)
                if file.read(8) == HDF5:
                    return "hdf5"
    except OSError as error:
        raise SourceError(f"{path!r} cannot be read: {error}") from error
    return found


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
    return open_remote(url, kind=kind, axes=request.axes, storage_options=request.storage_options, **options)


def _open_npz(request: Request) -> Source:
    from .memory import open_npz

    request.takes("an .npz archive", "member")
    member = request.options.get("member", request.variable)
    return open_npz(request.target, member=member, axes=request.axes)


def _open_hdf5(request: Request) -> Source:
    from .hdf5 import open_hdf5

    request.takes("an HDF5 or netCDF-4 file", "mask_and_scale", *_table_options())
    return open_hdf5(
        request.target,
        variable=request.variable,
        axes=request.axes,
        storage_options=request.storage_options,
        **request.options,
    )


def _open_netcdf(request: Request) -> Source:
    from .netcdf import open_netcdf

    request.takes("a netCDF 3 or GRIB file", "mask_and_scale")
    return open_netcdf(request.target, variable=request.variable, axes=request.axes, **request.options)


def _open_described(request: Request) -> Source:
    """Open an object that is netCDF or HDF5 by its name: HDF5 is read in parts, the others are fetched."""
    from .hdf5_dataset import NotHDF5Error

    try:
        return _open_hdf5(request)
    except NotHDF5Error as error:
        if not error.head.startswith((b"CDF", b"GRIB")):
            check_head(str(request.target), error.head)
            raise
    return _open_fetched(request, _open_netcdf)


def _list_described(target: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the variables of a netCDF, HDF5 or GRIB file or object."""
    from .hdf5 import list_hdf5
    from .hdf5_dataset import NotHDF5Error
    from .netcdf import list_netcdf

    if not is_url(target) and _by_bytes(target) == "netcdf":
        return list_netcdf(target)
    try:
        return list_hdf5(target, options)
    except NotHDF5Error as error:
        if not error.head.startswith((b"CDF", b"GRIB")):
            check_head(target, error.head)
            raise
    from .fetching import fetched

    with fetched(target, options) as path:
        return list_netcdf(path)


def _table_options() -> list[str]:
    from .table_files import TableOptions

    return [one.name for one in fields(TableOptions) if one.name not in ("axes", "entity")]


def _open_table(request: Request) -> Source:
    from .tables import open_table

    request.takes("a table", *_table_options())
    check_table(request.target)
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
    found = "raw" if "shape" in request.options else _of_object(request.target)
    if found is None:
        return _open_zarr(request)
    if found in ("table", "npz"):
        return _open_fetched(request)
    if found in ("hdf5", "netcdf"):
        return _open_described(request)
    from .remote_files import open_remote

    request.takes("a remote object", "shape", "dtype", "offset", "mask_and_scale")
    return open_remote(
        request.target,
        kind=found,
        variable=request.variable,
        axes=request.axes,
        storage_options=request.storage_options,
        **request.options,
    )


def _open_fetched(request: Request, opener: Opener | None = None) -> Source:
    """Open in memory a remote table or archive, or what else cannot be read in parts."""
    from .fetching import open_fetched

    def opened(path: str) -> Source:
        here = replace(request, target=path, storage_options={})
        return guarded(lambda _: (opener or OPENERS[by_name(path) or "table"])(here))(path)

    return open_fetched(request.target, request.storage_options, opened)
