"""Opens any target: one table of kinds, each with the function of another module that opens it.

In: a path, URL or object, with options. Out: a `Source`. A file is known by its first bytes, else by its name; an
object by its class. To add a kind, add an entry. Modules of formats are imported when a target needs them.
"""

from __future__ import annotations

import importlib
import inspect
import os
from dataclasses import dataclass, fields
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from windowloader.errors import AxesError, SourceError, SourceFormatError, hide_secrets

from .formats import GRIB, PICKLED, by_bytes, by_name, foreign, format_of, is_pattern, is_url, matching
from .handles import Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .base import Source

__all__ = ["Kind", "guarded", "list_variables", "open_source"]

P = ParamSpec("P")
T = TypeVar("T")


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
        Function that lists the variables of a target, and takes ``names``; None where a target is one array.
    marks : tuple of str
        Classes, as ``"package.Class"``, and attributes of its objects: see `_marks`.
    parts : bool
        Whether both functions read objects in buckets in parts, and take ``storage_options``; others are downloaded.
    """

    what: str
    opens: str
    lists: str | None = None
    marks: tuple[str, ...] = ()
    parts: bool = False


FRAMES = ("pandas.DataFrame", "pandas.Series", "to_pandas", "__arrow_c_stream__")
DATASETS = ("xarray.Dataset", "xarray.DataTree")
KINDS = {  # in the order that objects are tested in
    "source": Kind("a windowloader.Source", "registry:open_ready", marks=("windowloader.Source",)),
    "npy": Kind("an .npy file", "numpy_files:open_npy", parts=True),
    "raw": Kind("bare numbers", "numpy_files:open_raw", parts=True),  # chosen by shape=
    "npz": Kind("an .npz archive", "numpy_files:open_npz", "numpy_files:list_npz"),
    "zarr": Kind(
        "a Zarr store",
        "chunked:open_chunked",
        "chunked:list_arrays",
        ("zarr.Store", "zarr.Group"),
        parts=True,
    ),
    "zarr array": Kind("a Zarr array", "chunked:open_chunked", marks=("zarr.Array",)),
    "hdf5": Kind("an HDF5, netCDF or GRIB file", "netcdf:open_netcdf", "netcdf:list_netcdf", parts=True),
    "table": Kind("a table (CSV, Parquet, Feather, Excel)", "tables:open_table"),
    "dataarray": Kind("an xarray DataArray", "netcdf:open_xarray", marks=("xarray.DataArray",)),
    "dataset": Kind("an xarray Dataset or DataTree", "netcdf:open_xarray", "netcdf:list_xarray", DATASETS),
    "frame": Kind("a pandas, polars or Arrow table", "tables:open_frame", marks=FRAMES),
    "array": Kind("an array of NumPy, torch or with __array__", "memory:open_array", marks=("__array__",)),
}
KNOWN = "; ".join(kind.what for kind in KINDS.values())
ADVICE = {  # for files whose first bytes are not those of their name
    **dict.fromkeys(GRIB, "It does not begin as GRIB, which is opened by cfgrib; was it copied to its end?"),
    ".mat": "Open it by scipy.io.loadmat and pass the array, or save it by save(..., '-v7.3').",
    **dict.fromkeys((".pkl", ".pickle"), f"It is {PICKLED}."),
    ".pt": "Open it by torch.load(..., weights_only=True) and pass the tensor.",
    ".json": "Build the array from it and pass that.",
}


def guarded(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function that opens or describes its first argument raise errors of this package alone: see `Guard`."""

    @wraps(function)
    def guard(*given: P.args, **options: P.kwargs) -> T:
        target = given[0] if given else options.get("target")
        path = str(os.fspath(target)) if isinstance(target, str | os.PathLike) else ""
        try:
            return function(*given, **options)
        except Exception:
            from .failures import Asked, Guard

            try:
                with Guard(Asked(path or type(target).__name__, doing="opened")):
                    raise
            except SourceError as found:
                if "://" in path and os.path.basename(path.partition("?")[0].rstrip("/")) not in str(found):
                    raise type(found)(f"{path!r}: {found}") from found.__cause__
                raise

    return guard


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
    source: Source | None = _call(kind, kind.opens, place, storage, how)
    if source is not None:
        return source
    from .fetching import open_fetched

    return open_fetched(place, storage, lambda path: open_source(path, **how))


@guarded
def list_variables(
    target: Any, *, storage_options: Mapping[str, Any] | None = None, names: Sequence[str] = ()
) -> tuple[str, ...]:
    """Names of the arrays of numbers along time in a file or store of several; () for a single array.

    With ``names``, these where the target has them, which may be no arrays along time.
    """
    storage = dict(storage_options or {})
    if (parts := _parts(target, storage)) is not None:
        return list_variables(parts[0], storage_options=storage, names=names) if parts else ()
    place, within = _place_of(target)
    kind = _kind(place)
    if kind.lists is None or within is not None:
        return ()
    found: tuple[str, ...] | None = _call(kind, kind.lists, place, storage, {"names": names})
    if found is not None:
        return found
    if kind is KINDS["npz"]:  # opening it downloads it, once
        return tuple(names)
    from .fetching import fetched

    with fetched(place, storage) as path:
        return list_variables(path, names=names)


def open_ready(source: Source, *, axes: str | None = None) -> Source:
    """Return a source that is open already."""
    if axes not in (None, source.axes):
        raise AxesError(f"axes={axes!r} were given for {source.name!r}, which is open with {source.axes!r}.")
    return source


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
            raise SourceFormatError("a TensorStore in memory cannot be reopened; pass its path or URL.")
        return _place_of(url, variable)
    return target, variable


def _kind(target: Any, raw: bool = False) -> Kind:
    """Return the kind of a path, URL or object; ``raw``: a file is bare numbers."""
    if isinstance(target, str):
        if raw or not is_url(target):
            return KINDS["raw" if raw else _file_kind(target)]
        named = by_name(target)  # the first bytes of what may be HDF5 are read when it is opened
        return KINDS[str(named.kind) if named else "zarr"]
    marks = _marks(target)
    for kind in KINDS.values():
        if not marks.isdisjoint(kind.marks):
            return kind
    name = f"{type(target).__module__}.{type(target).__qualname__}".removeprefix("builtins.")
    raise SourceFormatError(
        f"{hide_secrets(repr(target))[:80]} is a {name}, which cannot be opened. What can: {KNOWN}; an open h5py or "
        "TensorStore object; a list or pattern of any of these, joined along time. Files are given by path or URL, "
        "lists of numbers as numpy.asarray(numbers)."
    )


def _file_kind(path: str) -> str:
    """Kind of a local file or folder; raises `SourceFormatError` where there is none."""
    if found := format_of(path):
        return str(found.kind)
    from .chunked import is_chunked

    if is_chunked(path):
        return "zarr"
    Stamp.of(path)  # raises where nothing is there
    if os.path.isdir(path):
        return _folder_kind(path)
    suffix, named = os.path.splitext(path)[1].lower(), by_name(path)
    if named is None or suffix in ADVICE:
        raise SourceFormatError(
            f"{path!r} is in no format that is known by its first bytes or its name. "
            + ADVICE.get(suffix, "If it is bare numbers, give shape= and dtype=; of text, name it .csv.")
            + f" What can be opened: {KNOWN}."
        )
    return str(named.kind)


def _folder_kind(path: str) -> str:
    from .table_parquet import parquet_files

    if parquet_files(path):
        return "table"
    suffixes = [os.path.splitext(name)[1] for name in sorted(os.listdir(path)) if by_name(name)]
    common = max(suffixes, key=suffixes.count, default=".nc")
    raise SourceFormatError(
        f"{path!r} is a folder without a Zarr store. For one file a month, list the files or give a pattern, "
        f"e.g. {os.path.join(path, '*' + common)!r}."
    )


def _call(kind: Kind, named: str, place: Any, storage: dict[str, Any], how: dict[str, Any]) -> Any:
    """Call a function of a kind; None where an object has to be downloaded first."""
    if is_url(place) and not kind.parts:
        return None
    call = partial(_function(named), place, **how, **({"storage_options": storage} if kind.parts else {}))
    if not is_url(place) or kind is not KINDS["hdf5"]:
        return call()
    from .hdf5_dataset import NotHDF5Error

    try:
        return call()
    except NotHDF5Error as error:
        found = by_bytes(error.head)
        if found is not None and found.name == "netCDF":
            return None
        if advice := foreign(place, error.head):
            raise SourceFormatError(f"{hide_secrets(place)!r} is {advice}.") from error
        raise


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

        takes += [one.name for one in fields(TableOptions) if one.name not in ("entity", "static")]
    takes = [name for name in takes if name not in ("variable", "axes", "storage_options", "options")]
    unknown = sorted(set(options) - set(takes))
    if unknown:
        raise SourceFormatError(
            f"{hide_secrets(repr(target))[:80]} is opened as {kind.what}, which takes "
            f"{', '.join(takes) or 'no options of its own'}; {unknown} were given."
        )
