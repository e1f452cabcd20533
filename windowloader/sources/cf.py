"""Climate and Forecast conventions as xarray reads them: times as numbers since a date, or as text.

In: attributes as netCDF, Zarr and xarray keep them, and stored numbers. Out: datetime64[ns]. xarray decodes; own
arithmetic is used only where it was found equal to xarray's. Never opens a file.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.clocks.calendars import DAY, Times, calendar_of, ordinals, own
from windowloader.errors import MissingExtraError, SeriesError, SourceFormatError

from .base import to_nanoseconds
from .packing import plain, unpacked

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["decode_time", "is_text_of_time", "is_time", "times_of"]

log = logging.getLogger("windowloader")


def is_time(attributes: Mapping[str, Any]) -> bool:
    """Whether the units are those of a time coordinate.

    Examples
    --------
    >>> is_time({"units": "hours since 1900-01-01"}), is_time({"units": "m s-1"})
    (True, False)
    """
    return bool(_units(attributes))


def is_text_of_time(values: Any) -> bool:
    """Whether a coordinate is text that begins with a date, such as ``2000-01-01_00:00:00``.

    Examples
    --------
    >>> is_text_of_time(np.array(["2000-01-01T00:00"])), is_text_of_time(np.array(["north"]))
    (True, False)
    """
    if values.dtype.kind not in "OSUT" or not values.size:
        return False
    first = _texts(values[:1])[0][:10]
    return len(first) == 10 and first[4] + first[7] == "--" and first.replace("-", "").isdigit()


def times_of(values: np.ndarray, attributes: Mapping[str, Any], *, name: str) -> np.ndarray | None:
    """Return the times of a coordinate; None, with a warning that says what to write, where it has none."""
    if values.dtype.kind == "M":
        return to_nanoseconds(values, name)
    if is_time(attributes) and values.dtype.kind in "iuf":
        return decode_time(values, attributes, name=name)
    if is_text_of_time(values) and (found := _times_of_text(values, name)) is not None:
        return found
    first = f", the first {values[0]!r}," if values.size else ""
    warnings.warn(
        f"the rows have no timestamps: the values of {name!r}{first} are neither text such as '2012-03-01T00:05' nor "
        "numbers with units such as 'hours since 1900-01-01', so there are no clocks, and windows cross gaps. Say when "
        "the rows were: timestamps=, e.g. ('2012-03-01', '5min').",
        UserWarning,
        stacklevel=2,
    )
    return None


def _times_of_text(values: np.ndarray, name: str) -> np.ndarray | None:
    """Parse times that are ISO text by pandas, and keep their zone where all have the same."""
    import pandas

    texts = _texts(values)
    try:
        found = pandas.to_datetime(texts, format="ISO8601")
    except ValueError:  # of several zones, or no times
        found = pandas.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    if not isinstance(found, pandas.DatetimeIndex) or found.isna().any():
        return None
    log.info("the times of %r are text, and were read as %s … %s", name, found[0], found[-1])
    zone = calendar_of(found)
    times = to_nanoseconds((found.tz_convert(None) if found.tz else found).to_numpy(), name)
    return Times(times, zone) if zone else times


def _texts(values: np.ndarray) -> list[str]:
    """Text of dates; WRF writes an underscore between day and hour."""
    texts = [
        text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in values.tolist()
    ]
    return [text.strip("\0 ").replace("_", "T") for text in texts]


def _units(attributes: Mapping[str, Any]) -> str:
    """Units of time as xarray reads them, ``hours since 1900-01-01``; empty for others."""
    unit, since, date = (
        str(attributes.get("units", "")).strip().replace(" SINCE ", " since ").partition(" since ")
    )
    return f"{unit.lower()} since {date.strip()}" if since and unit.strip().isalpha() else ""


def decode_time(values: np.ndarray, attributes: Mapping[str, Any], *, name: str = "time") -> np.ndarray:
    """Return times as datetime64[ns], as xarray decodes them.

    Parameters
    ----------
    values : ndarray, shape (time,), integer, floating or datetime64
        As stored.
    attributes : mapping
        ``units`` such as "hours since 1900-01-01 00:00:00", and perhaps ``calendar``, marks and packing.
    name : str
        For messages.

    Returns
    -------
    ndarray, shape (time,), datetime64[ns]
        In a calendar such as noleap, `Times` that count its days. NaT where a value is marked or NaN.

    Raises
    ------
    SourceFormatError
        For units that are no time, or dates outside 1678–2262.
    MissingExtraError
        Where a calendar needs cftime, which is not installed.

    Examples
    --------
    >>> decode_time(np.array([0, 36]), {"units": "hours since 2000-01-01"})
    array(['2000-01-01T00:00:00.000000000', '2000-01-02T12:00:00.000000000'],
          dtype='datetime64[ns]')
    """
    values = np.asarray(values)
    if values.dtype.kind == "M":
        return to_nanoseconds(values, name)
    if not (units := _units(attributes)):
        raise SourceFormatError(
            f"{name!r} has units={attributes.get('units')!r}, which are no times; CF times read 'hours since "
            "1900-01-01'. Pass timestamps= instead."
        )
    _tell_zone(units, name)
    times, calendar = None, own(str(attributes.get("calendar", "standard")))
    said = plain(attributes, values.dtype)
    said |= {"units": units, "calendar": str(attributes.get("calendar", "standard")).lower()}
    if values.dtype.kind in "iu" and len(said) == 2 and len(values) > 4:
        times = _counted(values, said, name)
    if times is None:
        # xarray reads NaN as 0, or refuses all, where cftime decodes.
        known = ~np.isnan(unpacked(values, said))
        times = np.full(values.shape, np.datetime64("NaT", "ns"))
        if known.any():
            times[known] = _moments(values[known], said, name)
    return Times(times, calendar) if calendar else times


def _counted(values: np.ndarray, said: Mapping[str, Any], name: str) -> np.ndarray | None:
    """Count whole numbers of a unit of a day or less from the first; None where the middle or the last disagrees."""
    first = int(values[0])
    try:
        begin, after = _moments(np.array([first, first + 1], np.int64), said, name).view(np.int64).tolist()
        ends = [begin + (int(end) - first) * (after - begin) for end in (values.min(), values.max())]
        if not 0 < after - begin <= DAY or not -(2**63) < min(ends) <= max(ends) < 2**63:
            return None
        times = values.astype(np.int64)
        times -= first  # in place: an axis may have 10^8 rows
        times *= after - begin
        times += begin
        probe = [len(values) // 2, -1]
        agree = np.array_equal(_moments(values[probe], said, name).view(np.int64), times[probe])
    except (SourceFormatError, OverflowError):
        return None
    return times.view("datetime64[ns]") if agree else None


def _moments(values: np.ndarray, said: Mapping[str, Any], name: str) -> np.ndarray:
    """Decode times by xarray, in the days of a calendar of its own where there is one."""
    import xarray

    coder = xarray.coders.CFDatetimeCoder(time_unit="ns")
    variable = xarray.Variable(("time",), values, said)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dates outside 1678–2262, which are told below
            found = xarray.conventions.decode_cf_variable(
                name, variable, decode_times=coder, decode_timedelta=False
            ).values
        if found.dtype.kind == "M":
            return np.asarray(found)
        calendar = own(said["calendar"])
        if calendar:
            return np.asarray(ordinals(found, calendar))
    except SeriesError as error:
        raise SourceFormatError(f"{name!r}: {error} Pass timestamps= instead.") from error
    except Exception as error:
        if importlib.util.find_spec("cftime") is None:
            raise MissingExtraError(
                f"{name!r} has units={said['units']!r} in the calendar {said['calendar']!r}, which needs cftime: "
                "pip install 'windowloader[netcdf]'."
            ) from error
        raise SourceFormatError(
            f"{name!r} has units={said['units']!r} in the calendar {said['calendar']!r}, and xarray cannot decode the "
            f"values {values[:3].tolist()} …: {error} Dates outside 1678–2262 do not fit. Pass timestamps= instead."
        ) from error
    raise SourceFormatError(
        f"{name!r} has dates from {found.min()} to {found.max()}, outside 1678–2262, which datetime64[ns] cannot hold; "
        "pass timestamps= instead."
    )


def _tell_zone(units: str, name: str) -> None:
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
