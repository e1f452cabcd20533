"""What can be opened: a table of families, asked in order.

In: anything. Out: a `Source`. A family is one line: what it is called, how it is told, how it is opened; to add one,
add a line. Modules of formats are imported when a target needs them.
"""

from __future__ import annotations

import os
import reprlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from windowloader.errors import AxesError, SourceFormatError
from windowloader.hiding import hide_secrets
from windowloader.source import Source

from .foreign import guarded
from .formats import Request, format_of, list_path, open_path
from .patterns import is_pattern, matching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Family", "list_variables", "open_source"]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of target.

    Parameters
    ----------
    what : str
        As an error lists it.
    test : callable
        Whether a target is of it.
    open : callable
        Opens one.
    variables : callable
        Lists the variables of one.
    """

    what: str
    test: Callable[[Any], bool]
    open: Callable[[Request], Source]
    variables: Callable[[Any, Mapping[str, Any]], tuple[str, ...]] = field(
        default=lambda _target, _options: ()
    )


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
        What one family takes: ``shape=``, ``dtype=``, ``offset=``, ``order=`` of a raw file, ``member=`` of an
        ``.npz``, ``time=``, ``header=`` … of a table, ``fill_missing=`` of a Zarr store.

    Returns
    -------
    Source

    Raises
    ------
    SourceFormatError
        For a target of no family, with what can be opened, and for options that its family does not take.
    SourceNotFoundError
        Where there is nothing under a path or URL.

    Examples
    --------
    >>> import numpy as np
    >>> open_source(np.zeros((288, 207))).shape
    (288, 207)
    """
    family = _family(target)
    return family.open(Request(target, variable, axes, dict(storage_options or {}), options))


def opens_by_name(target: Any) -> bool:
    """Whether a target is a store whose arrays are opened by name without a list of all there are."""
    if _is_zarr(target):
        return not _is_array(target)
    return _is_path(target) and not is_pattern(target) and format_of(target) == "zarr"


@guarded
def list_variables(target: Any, *, storage_options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Names of the arrays of numbers along time in a file or store of several; () for a single array."""
    return _family(target).variables(target, dict(storage_options or {}))


def _family(target: Any) -> Family:
    for family in FAMILIES:
        if family.test(target):
            return family
    known = "; ".join(family.what for family in FAMILIES)
    home = type(target).__module__
    name = type(target).__qualname__ if home == "builtins" else f"{home}.{type(target).__qualname__}"
    advice = (
        " Lists of numbers: numpy.asarray(numbers)." if isinstance(target, (list, tuple, int, float)) else ""
    )
    raise SourceFormatError(
        f"{_Short().repr(target)} is a {name}, which cannot be opened. What can: {known}.{advice}"
    )


class _Short(reprlib.Repr):
    """Cuts long texts, and URLs in them only after what may be secret is out."""

    def repr_str(self, x: str, level: int) -> str:
        """Cut a text."""
        return super().repr_str(hide_secrets(x), level)


def _from(package: str, *names: str) -> Callable[[Any], bool]:
    """Tell the classes of a package by name, which needs no import of it."""

    def test(target: Any) -> bool:
        return package in sys.modules and any(
            kind.__module__.partition(".")[0] == package and (not names or kind.__name__ in names)
            for kind in type(target).__mro__
        )

    return test


_is_pandas = _from("pandas", "DataFrame", "Series")
_is_zarr = _from("zarr", "Array", "Group", "Store")


def _is_array(target: Any) -> bool:
    return hasattr(target, "__array__") and hasattr(target, "shape")


def _open_ready(request: Request) -> Source:
    request.takes("a source")
    source: Source = request.target
    if request.axes not in (None, source.axes):
        raise AxesError(
            f"axes={request.axes!r} were given for {source.name!r}, which is open with {source.axes!r}."
        )
    return source


def _open_array(request: Request) -> Source:
    from .memory import ArraySource

    request.takes("an array")
    return ArraySource(request.target, axes=request.axes)


def _open_list(request: Request) -> Source:
    from .joined import join

    variable, axes, storage = request.variable, request.axes, request.storage_options
    return join(
        [
            open_source(part, variable=variable, axes=axes, storage_options=storage, **request.options)
            for part in request.target
        ]
    )


def _open_xarray(request: Request) -> Source:
    from .netcdf import open_xarray

    request.takes("an xarray object")
    return open_xarray(request.target, variable=request.variable, axes=request.axes)


def _list_xarray(target: Any, _options: Mapping[str, Any]) -> tuple[str, ...]:
    from .netcdf import list_xarray

    return list_xarray(target) if hasattr(target, "data_vars") else ()  # a DataArray is one


def _open_pandas(request: Request) -> Source:
    from .table_columns import as_frame
    from .tables import open_frame

    request.takes("a pandas frame", "time", "time_unit", "time_format", "columns")
    frame = as_frame(request.target)
    return open_frame(frame, axes=request.axes, **request.options)


def _open_h5py(request: Request) -> Source:
    from .hdf5 import open_hdf5

    request.takes("an h5py object")
    item, inner = request.target, request.variable
    path = item.name.rstrip("/") + (f"/{inner}" if inner else "")
    return open_hdf5(item.file.filename, variable=path or None, axes=request.axes)


def _list_h5py(target: Any, _options: Mapping[str, Any]) -> tuple[str, ...]:
    from .hdf5 import list_hdf5

    return list_hdf5(target.filename) if hasattr(target, "filename") else ()


def _open_zarr(request: Request) -> Source:
    from .chunked import open_chunked

    request.takes("a Zarr object", "fill_missing", "mask_and_scale")
    return open_chunked(request.target, variable=request.variable, axes=request.axes, **request.options)


def _list_zarr(target: Any, options: Mapping[str, Any]) -> tuple[str, ...]:
    from .chunked import list_arrays

    return list_arrays(target, options)


def _open_tensorstore(request: Request) -> Source:
    spec = request.target.spec().to_json()
    store = spec.get("kvstore", {})
    place = store if isinstance(store, str) else _url(store)
    if place is None:
        raise SourceFormatError(
            f"a TensorStore over {store.get('driver')!r} cannot be opened again elsewhere; pass its path or URL."
        )
    return open_path(request.of(place))


def _url(store: Mapping[str, Any]) -> str | None:
    """Path or URL of a TensorStore key-value store."""
    path = str(store.get("path", ""))
    if store.get("driver") == "file":
        return path
    schemes = {"s3": "s3", "gcs": "gs"}
    if store.get("driver") in schemes:
        return f"{schemes[store['driver']]}://{store['bucket']}/{path}"
    if store.get("driver") != "http":
        return None
    base = urlsplit(str(store["base_url"]))
    return base._replace(path=f"{base.path}{path}").geturl()


def _is_path(target: Any) -> bool:
    return isinstance(target, str | os.PathLike)


FAMILIES: tuple[Family, ...] = (
    Family(
        "an object of a class derived from windowloader.Source",
        lambda target: isinstance(target, Source),
        _open_ready,
    ),
    Family(
        "a path or URL with * for files that follow one another in time",
        is_pattern,
        lambda request: _open_list(request.of(matching(request.target, request.storage_options))),
        lambda target, options: list_path(matching(target, options)[0], options),
    ),
    Family(
        "a path or URL: .npy, .npz, raw with shape= and dtype=, Zarr 2 and 3, HDF5, netCDF, CSV, Parquet, Feather, "
        "Excel",
        _is_path,
        open_path,
        list_path,
    ),
    Family(
        "an xarray DataArray, Dataset or DataTree",
        _from("xarray", "DataArray", "Dataset", "DataTree"),
        _open_xarray,
        _list_xarray,
    ),
    Family("a pandas DataFrame or Series", _is_pandas, _open_pandas),
    Family(
        "a polars or Arrow table",
        lambda target: hasattr(target, "to_pandas") or hasattr(target, "__arrow_c_stream__"),
        _open_pandas,
    ),
    Family("a Zarr array, group or store", _is_zarr, _open_zarr, _list_zarr),
    Family("a TensorStore", _from("tensorstore", "TensorStore"), _open_tensorstore),
    Family("an h5py Dataset, Group or File", _from("h5py", "Dataset", "Group"), _open_h5py, _list_h5py),
    Family("an array of NumPy, torch or anything with __array__", _is_array, _open_array),
    Family(
        "a list of any of these, joined along time",
        lambda target: (
            isinstance(target, list | tuple) and not any(isinstance(part, int | float) for part in target)
        ),
        _open_list,
        lambda target, options: _family(target[0]).variables(target[0], options) if target else (),
    ),
)
