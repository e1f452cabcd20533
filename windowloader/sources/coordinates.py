"""The dimensions of a DataArray: which one is time, the timestamps of its rows, the labels of the others.

In: an xarray.DataArray, its times decoded or not. Out: dimension names, timestamps, labels. xarray decodes times; own
arithmetic is used only where it is equal to xarray's. Never reads values.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import MissingExtraError, SeriesError, SourceFormatError
from windowloader.util.axes import TIME_NAMES, dimension_role
from windowloader.util.calendars import DAY, Times, calendar_of, nanoseconds_of, ordinals, own

from .packing import packing, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["coordinate_labels", "dimension_names", "time_dimension", "time_units", "time_values", "times_of"]

log = logging.getLogger("windowloader")

TEXT = "OSUT"  # kinds of dtypes of text and objects


def dimension_names(values: Any, axes: str | None = None) -> tuple[str, ...]:
    """Names of the dimensions, those that CF attributes describe called by what they are, such as ``time``.

    Examples
    --------
    >>> import xarray
    >>> when = ("when", [0, 1], {"units": "hours since 2000-01-01"})
    >>> dimension_names(xarray.DataArray(np.zeros((2, 3)), {"when": when}, ("when", "sensor")))
    ('time', 'sensor')
    """
    time, names = time_dimension(values, axes), [str(name) for name in values.dims]
    for dim, name in enumerate(values.dims):
        if dim == time:
            names[dim] = "time"
        elif (found := values.coords.get(name)) is not None:
            names[dim] = dimension_role(
                str(name), {"dtype": found.dtype.name, **found.encoding, **found.attrs}
            )
    return tuple(names)


def time_dimension(values: Any, axes: str | None = None) -> int | None:
    """Which dimension is time: by the letters given, by its name, or by its coordinate (CF)."""
    if axes is not None:
        return axes.find("t") if "t" in axes else None
    found = [name for name in values.dims if str(name).lower() in TIME_NAMES]
    if not found:
        along = {one.dims[0] for one in values.coords.values() if one.ndim == 1 and _is_time(one)}
        found = [name for name in values.dims if name in along]
    return list(values.dims).index(found[0]) if len(found) == 1 else None


def _is_time(coordinate: Any) -> bool:
    known = {**coordinate.encoding, **coordinate.attrs}
    return _holds_times(coordinate) or known.get("axis") == "T" or known.get("standard_name") == "time"


def _holds_times(coordinate: Any) -> bool:
    """Whether the values are times: datetime64, dates of cftime, text that begins with a date, or numbers since one."""
    if coordinate.dtype.kind not in TEXT:
        return coordinate.dtype.kind == "M" or bool(time_units(coordinate.attrs))
    first = coordinate.values.ravel()[:1].tolist()
    return _are_dates(first) or (coordinate.ndim == 1 and _are_texts_of_dates(first))


def _are_dates(first: list[Any]) -> bool:
    """Whether the first value of a coordinate is a date of cftime or of Python."""
    return any(hasattr(value, "isoformat") for value in first)


def time_values(values: Any, dim: int) -> np.ndarray | None:
    """Timestamps along a dimension of a DataArray.

    Returns
    -------
    ndarray, shape (time,), datetime64[ns], or None
        None if there is no time coordinate, and, with a warning, if datetime64 does not
        have its dates (30 February).
    """
    name = values.dims[dim]
    along = [array for array in values.coords.values() if array.dims == (name,) and _holds_times(array)]
    along.sort(key=lambda array: array.name != name)  # the dimension's own coordinate first
    if not along and name in values.coords and values.coords[name].size:
        along = [values.coords[name]]  # `times_of` warns of what is wrong with it
    if not along:
        return None
    found = along[0]
    index = found.to_index() if found.dtype.kind == "M" else found.values  # an index has the time zone
    try:
        return times_of(index, found.attrs, name=str(found.name))
    except SourceFormatError as error:
        warnings.warn(f"the rows of {values.name!r} have no timestamps: {error}", UserWarning, stacklevel=2)
        return None


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


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def times_of(values: Any, attributes: Mapping[str, Any], *, name: str) -> np.ndarray | None:
    """Return the times of a coordinate; None, with a warning that advises, if it has none.

    Parameters
    ----------
    values : ndarray or pandas.DatetimeIndex, shape (time,)
        As stored, or as xarray decoded them.
    attributes : mapping
        ``units`` such as "hours since 1900-01-01 00:00:00", and perhaps ``calendar``, marks and packing.
    name : str
        For messages.

    Returns
    -------
    ndarray, shape (time,), datetime64[ns], or None
        In a calendar such as noleap, or with a time zone, `Times`. NaT where a value is marked or NaN.

    Raises
    ------
    SourceFormatError
        For dates outside 1678–2262.
    MissingExtraError
        Where a calendar needs cftime, which is not installed.

    Examples
    --------
    >>> times_of(np.array([0, 36]), {"units": "hours since 2000-01-01"}, name="time")
    array(['2000-01-01T00:00:00.000000000', '2000-01-02T12:00:00.000000000'],
          dtype='datetime64[ns]')
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind == "M":  # an index has the time zone
        return Times(nanoseconds_of(values, name=name), calendar_of(values))
    if (units := time_units(attributes)) and values.dtype.kind in "iuf":
        return _since(values, {**attributes, "units": units}, name)
    first = values[:1].tolist() if values.dtype.kind in TEXT else []
    if _are_dates(first):
        try:
            return Times(nanoseconds_of(values, name=name), calendar_of(values))
        except SeriesError as error:
            raise SourceFormatError(f"{error} Pass timestamps= instead.") from error
    if _are_texts_of_dates(first) and (found := _parsed(values, name)) is not None:
        return found
    shown = f", the first {values[0]!r}," if len(values) else ""
    warnings.warn(
        f"the rows have no timestamps: the values of {name!r}{shown} are neither text such as '2012-03-01T00:05' nor "
        "numbers with units such as 'hours since 1900-01-01', so there are no clocks, and windows cross gaps. Say when "
        "the rows were: timestamps=, e.g. ('2012-03-01', '5min').",
        UserWarning,
        stacklevel=2,
    )
    return None


def _iso(value: Any) -> str:
    """Text of a date; WRF writes an underscore between day and hour."""
    return _text(value).strip("\0 ").replace("_", "T")


def _are_texts_of_dates(first: list[Any]) -> bool:
    """Whether the first value of a coordinate is text that begins with a date, such as ``2000-01-01_00:00:00``."""
    day = [_iso(value)[:10] for value in first]
    return any(len(one) == 10 and one[4] + one[7] == "--" and one.replace("-", "").isdigit() for one in day)


def _parsed(values: np.ndarray, name: str) -> np.ndarray | None:
    """Parse times that are ISO text by pandas, and keep their zone where all have the same."""
    import pandas

    texts = [_iso(value) for value in values.tolist()]
    try:
        found = pandas.to_datetime(texts, format="ISO8601")
    except ValueError:  # of several zones, or no times
        found = pandas.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    if not isinstance(found, pandas.DatetimeIndex) or found.isna().any():
        return None
    log.info("the times of %r are text, and were read as %s … %s", name, found[0], found[-1])
    return Times(nanoseconds_of(found, name=name), calendar_of(found))


def time_units(attributes: Mapping[str, Any]) -> str:
    """Units of time as xarray reads them; empty for others.

    Examples
    --------
    >>> time_units({"units": "Hours Since  1900-01-01"}), time_units({"units": "m s-1"})
    ('hours since 1900-01-01', '')
    """
    text = re.sub(r"\s+since\s+", " since ", str(attributes.get("units", "")), flags=re.IGNORECASE)
    unit, since, date = text.partition(" since ")
    return f"{unit.strip().lower()} since {date.strip()}" if since and unit.strip().isalpha() else ""


def _since(values: np.ndarray, attributes: Mapping[str, Any], name: str) -> np.ndarray:
    """Decode numbers since a date."""
    _warn_of_zone(attributes["units"], name)
    calendar = str(attributes.get("calendar", "standard")).lower()
    found = plain(attributes, values.dtype)
    whole = values.dtype.kind in "iu" and not found and len(values) > 4
    found |= {"units": attributes["units"], "calendar": calendar}
    times = _counted(values, found, name) if whole else None
    if times is None:  # xarray reads NaN as 0, or refuses all if cftime decodes
        packed = packing(values.dtype, found)
        known = ~np.isnan(packed.values(values) if packed else values)
        times = np.full(values.shape, np.datetime64("NaT", "ns"))
        if known.any():
            times[known] = _moments(values[known], found, name)
    return Times(times, own(calendar)) if own(calendar) else times


def _counted(values: np.ndarray, attributes: Mapping[str, Any], name: str) -> np.ndarray | None:
    """Count whole numbers of a unit of a day or less from the first; None where the middle or the last disagrees."""
    first = int(values[0])
    try:
        begin, after = (
            _moments(np.array([first, first + 1], np.int64), attributes, name).view(np.int64).tolist()
        )
        step = after - begin
        ends = [begin + (int(end) - first) * step for end in (values.min(), values.max())]
        if not 0 < step <= DAY or not -(2**63) < min(ends) <= max(ends) < 2**63:
            return None
        times = values.astype(np.int64)
        times -= first  # in place: an axis may have 10^8 rows
        times *= step
        times += begin
        probe = [len(values) // 2, -1]
        agree = np.array_equal(_moments(values[probe], attributes, name).view(np.int64), times[probe])
    except (SourceFormatError, OverflowError):
        return None
    return times.view("datetime64[ns]") if agree else None


def _moments(values: np.ndarray, attributes: Mapping[str, Any], name: str) -> np.ndarray:
    """Decode times by xarray, in the days of a calendar of its own where there is one."""
    import xarray

    coder = xarray.coders.CFDatetimeCoder(time_unit="ns")
    what = f"{name!r} has units={attributes['units']!r} in the calendar {attributes['calendar']!r}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dates outside 1678–2262, an error below
            variable = xarray.Variable(("time",), values, attributes)
            found = xarray.conventions.decode_cf_variable(
                name, variable, decode_times=coder, decode_timedelta=False
            ).values
        if found.dtype.kind == "M":
            return np.asarray(found)
        if calendar := own(attributes["calendar"]):
            return np.asarray(ordinals(found, calendar))
    except SeriesError as error:
        raise SourceFormatError(f"{name!r}: {error} Pass timestamps= instead.") from error
    except Exception as error:
        if importlib.util.find_spec("cftime") is None:
            raise MissingExtraError(
                f"{what}, which needs cftime: pip install 'windowloader[netcdf]'."
            ) from error
        raise SourceFormatError(
            f"{what}, and xarray cannot decode the values {values[:3].tolist()} …: {error} Dates outside 1678–2262 do "
            "not fit. Pass timestamps= instead."
        ) from error
    raise SourceFormatError(
        f"{name!r} has dates from {found.min()} to {found.max()}, outside 1678–2262, which datetime64[ns] cannot hold; "
        "pass timestamps= instead."
    )


def _warn_of_zone(units: str, name: str) -> None:
    """Warn where the date of the units is of a zone that is not UTC."""
    import pandas

    try:
        shift = pandas.Timestamp(units.partition(" since ")[2]).strftime("%z")
    except ValueError:
        return
    if shift.strip("+-0"):
        warnings.warn(
            f"the times of {name!r} are {units!r}: they are moments of UTC here, and clocks such as time_of_day are of "
            f"UTC, not of the zone {shift[:3]}:{shift[3:]}. For local clocks pass timestamps=, a pandas index with its "
            "time zone.",
            UserWarning,
            stacklevel=2,
        )
