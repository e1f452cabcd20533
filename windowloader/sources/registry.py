"""What can be opened: one table of kinds, each with the function of another module that opens it.

In: a path, URL or object, with options. Out: a `Source`. A file is known by its first bytes, else by its name; an
object by its class. To add a kind, add an entry. Modules of formats are imported when a target needs them.
"""

from __future__ import annotations

import importlib
import inspect
import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from windowloader.errors import AxesError, SourceFormatError
from windowloader.hiding import hide_secrets

from .foreign import check_head, check_table, guarded
from .handles import Stamp
from .patterns import is_pattern, is_url, matching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .base import Source

__all__ = ["Kind", "by_name", "list_variables", "open_source"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of target.

    Parameters
    ----------
    what : str
        Name in messages.
    opens : str
        Function that opens a target, as ``"module:function"``. Takes ``axes``, and ``variable`` where there is
        ``lists``; its other keyword arguments are the options of the kind.
    lists : str, optional
        Function that lists the variables of a target; None where a target is one array.
    marks : tuple of str
        Classes, as ``"package.Class"``, and attributes of its objects: see `_marks`.
    magic : tuple of bytes
        First bytes of its files.
    suffixes : tuple of str
        Ends of the names of its files.
    parts : bool
        Whether both read objects in buckets in parts, and take ``storage_options``; others are downloaded first.
    """

    what: str
    opens: str
    lists: str | None = None
    marks: tuple[str, ...] = ()
    magic: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()
    parts: bool = False


HDF5 = b"\x89HDF\r\n\x1a\n"
GRIB = (".grib", ".grib2", ".grb", ".grb2")
NETCDF = (".nc", ".nc4", ".cdf", ".netcdf", ".nc3", *GRIB)
TEXT = (".csv", ".tsv", ".txt")
PACKED = tuple(name + packed for name in TEXT for packed in (".gz", ".bz2", ".xz", ".zst"))
TABLE = (*TEXT, *PACKED, ".parquet", ".pq", ".feather", ".arrow", ".ipc", ".xlsx", ".xls", ".ods")
FRAMES = ("pandas.DataFrame", "pandas.Series", "to_pandas", "__arrow_c_stream__")
KINDS = {  # in the order that objects are tested in
    "source": Kind(
        "an object derived from windowloader.Source", "registry:open_ready", marks=("windowloader.Source",)
    ),
    "npy": Kind(
        "an .npy file", "numpy_files:open_npy", magic=(b"\x93NUMPY",), suffixes=(".npy",), parts=True
    ),
    "raw": Kind("bare numbers", "numpy_files:open_raw", parts=True),  # told by shape=
    "npz": Kind("an .npz archive", "numpy_files:open_npz", "numpy_files:list_npz", suffixes=(".npz",)),
    "zarr": Kind(
        "a Zarr store",
        "chunked:open_chunked",
        "chunked:list_arrays",
        marks=("zarr.Store", "zarr.Group"),
        parts=True,
    ),
    "zarr array": Kind("a Zarr array", "chunked:open_chunked", marks=("zarr.Array",)),
    "hdf5": Kind(
        "an HDF5 or netCDF-4 file",
        "netcdf:open_netcdf",
        "netcdf:list_netcdf",
        magic=(HDF5,),
        suffixes=(".h5", ".hdf5", ".hdf", ".he5", ".mat"),
        parts=True,
    ),
    "netcdf": Kind(
        "a netCDF 3 or GRIB file", "netcdf:open_netcdf", "netcdf:list_netcdf", (), (b"CDF", b"GRIB"), NETCDF
    ),
    "table": Kind(
        "a table (CSV, Parquet, Feather, Excel)",
        "tables:open_table",
        magic=(b"PAR1", b"ARROW1"),
        suffixes=TABLE,
    ),
    "dataarray": Kind("an xarray DataArray", "netcdf:open_xarray", marks=("xarray.DataArray",)),
    "dataset": Kind(
        "an xarray Dataset or DataTree",
        "netcdf:open_xarray",
        "netcdf:list_xarray",
        ("xarray.Dataset", "xarray.DataTree"),
    ),
    "frame": Kind("a pandas, polars or Arrow table", "registry:open_any_frame", marks=FRAMES),
    "array": Kind(
        "an array of NumPy, torch or anything with __array__", "memory:open_array", marks=("__array__",)
    ),
}
KNOWN = "; ".join(kind.what for kind in KINDS.values())
PICKLED = (
    "Pickles can run code and are never opened. If you trust it, open it yourself (pandas.read_pickle, pickle.load) "
    "and pass the frame or array."
)
NO_GRIB = "Its first bytes are not those of GRIB, which is opened by cfgrib; was it copied to its end?"
ADVICE = {  # for files whose first bytes are not those of their name
    **dict.fromkeys(GRIB, NO_GRIB),
    ".mat": "Open it by scipy.io.loadmat and pass the array, or save it by save(..., '-v7.3').",
    ".pkl": PICKLED,
    ".pickle": PICKLED,
    ".pt": "Open it by torch.load(..., weights_only=True) and pass the tensor.",
    ".json": "Build the array from it and pass that.",
}


@guarded
def open_source(
    target: Any,
    *,
    variable: str | None = None,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Source:
    """Open one array, wherever it is.

    Parameters
    ----------
    target : object
        A path or URL (with ``*`` for several files, in natural order of their names), an array of NumPy, torch,
        xarray, Zarr, TensorStore, h5py or pandas, a `Source`; a list of these is joined along time, in the order of
        their times where all have some.
    variable : str, optional
        Which array of a file or store with several.
    axes : str, optional
        One letter an axis: ``t`` time, ``n`` space, ``f`` feature.
    storage_options : mapping, optional
        For buckets and web servers.
    **options
        Of the kind: ``shape=``, ``dtype=``, ``offset=``, ``order=`` of a raw file, ``member=`` of an ``.npz``,
        ``time=``, ``header=`` … of a table, ``fill_missing=`` of a Zarr store.

    Returns
    -------
    Source

    Raises
    ------
    SourceFormatError
        For a target of no kind, with what can be opened, and for options that its kind does not take.
    SourceNotFoundError
        Where there is nothing under a path or URL.

    Examples
    --------
    >>> import numpy as np
    >>> open_source(np.zeros((288, 207))).shape
    (288, 207)
    """
    storage = dict(storage_options or {})
    parts = _parts(target, storage)
    if parts is not None:
        from .joined import join

        how = {"variable": variable, "axes": axes, "storage_options": storage, **options}
        return join([open_source(part, **how) for part in parts])
    place, variable = _place_of(target, variable)
    kind = _kind(place, "shape" in options)
    _check_options(place, kind, options)
    how = {"axes": axes, **options, **({"variable": variable} if kind.lists else {})}
    source: Source | None = _read(kind, kind.opens, place, storage, how)
    if source is not None:
        return source
    from .fetching import open_fetched

    return open_fetched(place, storage, lambda path: open_source(path, **how))


@guarded
def list_variables(
    target: Any, *, storage_options: Mapping[str, Any] | None = None, names: Sequence[str] = ()
) -> tuple[str, ...]:
    """Names of the arrays of numbers along time in a file or store of several; () for a single array.

    With ``names``, these where the target is a Zarr store, which opens arrays by name without a list of all there are.
    """
    storage = dict(storage_options or {})
    if (parts := _parts(target, storage)) is not None:
        return list_variables(parts[0], storage_options=storage, names=names) if parts else ()
    place, within = _place_of(target)
    kind = _kind(place)
    if kind.lists is None or within is not None:
        return ()
    if names and kind is KINDS["zarr"]:
        return tuple(names)
    found: tuple[str, ...] | None = _read(kind, kind.lists, place, storage, {})
    if found is not None:
        return found
    if kind is KINDS["npz"]:  # opening it downloads it, once
        return ()
    from .fetching import fetched

    with fetched(place, storage) as path:
        return list_variables(path)


def open_ready(source: Source, *, axes: str | None = None) -> Source:
    """Return a source that is open already."""
    if axes not in (None, source.axes):
        raise AxesError(f"axes={axes!r} were given for {source.name!r}, which is open with {source.axes!r}.")
    return source


def open_any_frame(
    target: Any,
    *,
    axes: str | None = None,
    time: Any = None,
    time_unit: Any = None,
    time_format: Any = None,
    columns: Any = None,
) -> Source:
    """Open a frame of pandas, or of what turns into one."""
    from .table_columns import as_frame
    from .tables import open_frame

    options = {"time": time, "time_unit": time_unit, "time_format": time_format, "columns": columns}
    return open_frame(as_frame(target), axes=axes, **options)


def by_name(path: str) -> str | None:
    """Kind of file that a name tells.

    Examples
    --------
    >>> by_name("pems.csv.gz"), by_name("https://host/pems.npy?version=2"), by_name("pems")
    ('table', 'npy', None)
    """
    name = path.lower().partition("?")[0]
    return next((key for key, kind in KINDS.items() if name.endswith(kind.suffixes)), None)


def _parts(target: Any, storage_options: Mapping[str, Any]) -> list[Any] | None:
    """Return the files or objects that are joined along time; None for a single target."""
    if is_pattern(target):
        return matching(target, storage_options)
    if isinstance(target, list | tuple) and not any(isinstance(part, int | float) for part in target):
        return list(target)
    return None


def _place_of(target: Any, variable: str | None = None) -> tuple[Any, str | None]:
    """Return where a target lies, if it says so, and which variable it is; else the target itself."""
    if isinstance(target, str | os.PathLike):
        path = os.fspath(target)
        if not is_url(path):
            path = os.path.expanduser(path.removeprefix("file://").removeprefix("local://"))
        return path, variable
    marks = _marks(target)
    if not marks.isdisjoint(("h5py.Group", "h5py.Dataset")):
        path = target.name.rstrip("/") + (f"/{variable}" if variable else "")
        return target.file.filename, path or None
    if "tensorstore.TensorStore" in marks:
        url = "memory:" if target.kvstore is None else target.kvstore.url
        if url.startswith("memory:"):
            raise SourceFormatError(
                "a TensorStore in memory cannot be opened elsewhere; pass its path or URL."
            )
        return _place_of(url, variable)
    return target, variable


def _kind(target: Any, raw: bool = False) -> Kind:
    """Return the kind of a path, URL or object; ``raw``: a file is bare numbers."""
    if isinstance(target, str):
        name = "raw" if raw else by_name(target) or "zarr" if is_url(target) else _format(target)
        return KINDS["hdf5" if name == "netcdf" and is_url(target) else name]  # its first bytes will tell
    marks = _marks(target)
    for kind in KINDS.values():
        if not marks.isdisjoint(kind.marks):
            return kind
    name = f"{type(target).__module__}.{type(target).__qualname__}".removeprefix("builtins.")
    advice = (
        " Lists of numbers: numpy.asarray(numbers)." if isinstance(target, list | tuple | int | float) else ""
    )
    raise SourceFormatError(
        f"{hide_secrets(repr(target))[:80]} is a {name}, which cannot be opened. What can: {KNOWN}; an open h5py or "
        "TensorStore object; a list or pattern of any of these, joined along time. Files are given by path or URL."
        f"{advice}"
    )


def _format(path: str) -> str:
    """Return the kind of a local file or folder, else raise `SourceFormatError`."""
    from .chunked import is_chunked

    if is_chunked(path):
        return "zarr"
    Stamp.of(path)  # nothing there is its own error
    if os.path.isdir(path):
        from .table_files import parquet_files

        if parquet_files(path):
            return "table"
        suffixes = [os.path.splitext(name)[1] for name in sorted(os.listdir(path)) if by_name(name)]
        common = max(suffixes, key=suffixes.count, default=".nc")
        raise SourceFormatError(
            f"{path!r} is a folder without a Zarr store. For one file a month, list the files or give a pattern, "
            f"e.g. {os.path.join(path, '*' + common)!r}."
        )
    suffix = os.path.splitext(path)[1].lower()
    found = _by_bytes(path) or (None if suffix in ADVICE else by_name(path))
    if found is None:
        raise SourceFormatError(
            f"{path!r} is in no format that is known by its first bytes or its name. "
            + ADVICE.get(suffix, "If it is bare numbers, give shape= and dtype=; of text, name it .csv.")
            + f" What can be opened: {KNOWN}."
        )
    return found


def _by_bytes(path: str) -> str | None:
    """Kind that the first bytes tell; an HDF5 file may begin with a block of its user's, as MATLAB's do."""
    with open(path, "rb") as file:
        head = file.read(8)
        found = next((key for key, kind in KINDS.items() if head.startswith(kind.magic)), None)
        for place in (512 << step for step in range(12)) if found is None else ():
            file.seek(place)
            if file.read(8) == HDF5:
                return "hdf5"
    return found


def _read(kind: Kind, named: str, place: Any, storage: dict[str, Any], how: dict[str, Any]) -> Any:
    """Call a function of a kind; None where it can only read a file, and the object is to be downloaded."""
    if is_url(place) and not kind.parts:
        return None
    if kind is KINDS["table"]:
        check_table(place)
    try:
        return _function(named)(place, **how, **({"storage_options": storage} if kind.parts else {}))
    except SourceFormatError as error:
        if kind is not KINDS["hdf5"] or not is_url(place):
            raise
        from .hdf5_dataset import NotHDF5Error

        if not isinstance(error, NotHDF5Error):
            raise
        if not error.head.startswith(KINDS["netcdf"].magic):
            check_head(place, error.head)
            raise
    return None


def _function(named: str) -> Callable[..., Any]:
    """Return the function that is named as ``"module:function"``."""
    module, _, name = named.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f".{module}", __package__), name)
    return found


def _marks(target: Any) -> set[str]:
    """Return the classes of an object, which need not be imported to be known, and the attributes that mark a kind."""
    classes = {f"{one.__module__.partition('.')[0]}.{one.__name__}" for one in type(target).__mro__}
    attributes = ("__array__", "__arrow_c_stream__", "to_pandas")
    return classes.union(name for name in attributes if hasattr(target, name))


def _check_options(target: Any, kind: Kind, options: Mapping[str, Any]) -> None:
    """Raise `SourceFormatError` for options that a kind does not take; ``**options`` are those of tables."""
    if not options:
        return
    takes = list(inspect.signature(_function(kind.opens)).parameters)[1:]
    if "options" in takes:
        from .table_files import TableOptions

        takes += [one.name for one in fields(TableOptions) if one.name != "entity"]
    takes = [name for name in takes if name not in ("variable", "axes", "storage_options", "options")]
    unknown = sorted(set(options) - set(takes))
    if unknown:
        raise SourceFormatError(
            f"{target!r} is opened as {kind.what}, which takes {', '.join(takes) or 'no options of its own'}; "
            f"{unknown} were given."
        )
