"""What the dimensions of a DataArray are: which one is time, when the rows were, what the others are called.

In: an xarray.DataArray, its times decoded or not. Out: dimension names, timestamps, labels. Never reads values.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from windowloader.axes import TIME_NAMES, dimension_role
from windowloader.clocks.calendars import Times, calendar_of
from windowloader.clocks.moments import nanoseconds_of
from windowloader.errors import SeriesError, SourceFormatError

from .cf import is_text_of_time, times_of

__all__ = ["coordinate_labels", "dimension_names", "time_dimension", "time_values"]


def dimension_names(values: Any, axes: str | None = None) -> tuple[str, ...]:
    """Names of the dimensions, those that CF attributes describe called by what they are, such as ``time``.

    Examples
    --------
    >>> import xarray
    >>> when = ("when", [0, 1], {"units": "hours since 2000-01-01"})
    >>> dimension_names(xarray.DataArray(np.zeros((2, 3)), {"when": when}, ("when", "sensor")))
    ('time', 'sensor')
    """
    time = time_dimension(values, axes)
    return tuple("time" if dim == time else _role(values, name) for dim, name in enumerate(values.dims))


def _role(values: Any, name: Any) -> str:
    if name not in values.coords:
        return str(name)
    coordinate = values.coords[name]
    said = {"dtype": coordinate.dtype.name, **coordinate.encoding, **coordinate.attrs}
    return dimension_role(str(name), said)


def time_dimension(values: Any, axes: str | None = None) -> int | None:
    """Which dimension is time: by the letters given, by its name, or by its coordinate (CF)."""
    if axes is not None:
        return axes.find("t") if "t" in axes else None
    named = [dim for dim, name in enumerate(values.dims) if str(name).lower() in TIME_NAMES]
    along = (
        [] if named else [one.dims[0] for one in values.coords.values() if one.ndim == 1 and _is_time(one)]
    )
    found = named or [dim for dim, name in enumerate(values.dims) if name in along]
    return found[0] if len(found) == 1 else None


def _is_time(coordinate: Any) -> bool:
    said = {**coordinate.encoding, **coordinate.attrs}
    return _holds_times(coordinate) or said.get("axis") == "T" or said.get("standard_name") == "time"


def _holds_times(coordinate: Any) -> bool:
    """Whether the values are times: datetime64, dates of cftime, or numbers since a date."""
    if coordinate.dtype.kind == "O":
        dates = bool(coordinate.size) and hasattr(coordinate.values.flat[0], "isoformat")
        return dates or (coordinate.ndim == 1 and is_text_of_time(coordinate.values))
    if coordinate.dtype.kind in "SUT":
        return is_text_of_time(coordinate.values)
    return coordinate.dtype.kind == "M" or " since " in str(coordinate.attrs.get("units", ""))


def time_values(values: Any, dim: int) -> np.ndarray | None:
    """Timestamps along a dimension of a DataArray.

    Returns
    -------
    ndarray, shape (time,), datetime64[ns], or None
        None where there is no time coordinate, and, with a warning that says why, where datetime64 does not
        have its dates (30 February).
    """
    name = values.dims[dim]
    along = [array for array in values.coords.values() if array.dims == (name,) and _holds_times(array)]
    along.sort(key=lambda array: array.name != name)  # the dimension's own coordinate first
    if not along and name in values.coords and values.coords[name].size:
        along = [values.coords[name]]  # which says what is wrong with it
    if not along:
        return None
    try:
        return _decoded(along[0])
    except SourceFormatError as error:
        warnings.warn(f"the rows of {values.name!r} have no timestamps: {error}", UserWarning, stacklevel=2)
        return None


def _decoded(coordinate: Any) -> np.ndarray | None:
    name = str(coordinate.name)
    if coordinate.dtype.kind == "M":
        index = coordinate.to_index()  # which has the time zone
        return Times(nanoseconds_of(index, name=name), calendar_of(index))
    if coordinate.dtype.kind != "O" or isinstance(coordinate.values[0], str | bytes):
        return times_of(coordinate.values, coordinate.attrs, name=name)
    try:
        return Times(nanoseconds_of(coordinate.values, name=name), calendar_of(coordinate.values))
    except SeriesError as error:
        raise SourceFormatError(f"{error} Pass timestamps= instead.") from error


def coordinate_labels(values: Any, dim: int) -> np.ndarray | None:
    """Labels along a dimension, where it has a coordinate of its own name."""
    name = values.dims[dim]
    if name not in values.coords or values.coords[name].dims != (name,):  # coords[name] would count from 0
        return None
    found = np.asarray(values.coords[name].values)
    if found.dtype.kind != "O":
        return found
    levels = [label if isinstance(label, tuple) else (label,) for label in found]
    return np.array([".".join(map(_text, level)) for level in levels], str)


def _text(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)
