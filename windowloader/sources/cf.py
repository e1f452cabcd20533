"""Climate and Forecast conventions: times as numbers since a date, values packed by scale and offset.

In: attributes as netCDF, Zarr and xarray keep them, and stored numbers. Out: datetime64[ns]; floating values with
NaN where nothing is. Never opens a file.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.clocks.calendars import Times, ordinals, own
from windowloader.errors import MissingExtraError, SeriesError, SourceFormatError

from .base import to_nanoseconds

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Packing", "decode_time", "is_text_of_time", "is_time", "packing", "times_of", "unpacked"]

UNITS = {"nanosecond": 1, "microsecond": 10**3, "millisecond": 10**6, "second": 10**9, "minute": 60 * 10**9,
         "hour": 3600 * 10**9, "day": 86400 * 10**9}  # fmt: skip
SHORT = {"ns": "nanosecond", "us": "microsecond", "ms": "millisecond", "msec": "millisecond", "s": "second",
         "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "d": "day"}  # fmt: skip
SINCE = re.compile(r"^\s*(\w+)\s+since\s+(.+?)\s*$", re.IGNORECASE)
DATE = re.compile(
    r"^(-?\d{1,4})-(\d{1,2})-(\d{1,2})(?:[T\s]+(\d{1,2})(?::(\d{1,2}))?(?::(\d{1,2})(\.\d*)?)?)?\s*"
    r"(?:Z|UTC|GMT|([+-])(\d{1,2}):?(\d{2})?)?$",
    re.IGNORECASE,
)
SHIFT = re.compile(
    r":\d\d(?:\.\d*)?\s*([+-](?!0{1,2}:?0{0,2}$)\d{1,2}:?(?:\d\d)?)$"
)  # a zone that is not UTC
REAL = ("standard", "gregorian", "proleptic_gregorian")


def is_time(attributes: Mapping[str, Any]) -> bool:
    """Whether the units are those of a time coordinate.

    Examples
    --------
    >>> is_time({"units": "hours since 1900-01-01"}), is_time({"units": "m s-1"})
    (True, False)
    """
    match = SINCE.match(str(attributes.get("units", "")))
    return match is not None and _unit(match.group(1)) is not None


def is_text_of_time(values: Any) -> bool:
    """Whether a coordinate is text that begins with a date, such as ``2000-01-01_00:00:00``.

    Examples
    --------
    >>> is_text_of_time(np.array(["2000-01-01T00:00"])), is_text_of_time(np.array(["north"]))
    (True, False)
    """
    if values.dtype.kind not in "OSUT" or not values.size:
        return False
    return re.match(r"\s*\d{4}-\d\d-\d\d", _texts(values[:1])[0]) is not None


def times_of(values: np.ndarray, attributes: Mapping[str, Any], *, name: str) -> np.ndarray | None:
    """Return the times of a coordinate; None, with a warning that says what to write, where it has none."""
    if values.dtype.kind == "M":
        return to_nanoseconds(values, name)
    if is_time(attributes):
        return decode_time(values, attributes, name=name)
    if is_text_of_time(values):
        import pandas

        found = pandas.to_datetime(_texts(values), format="ISO8601", errors="coerce", utc=True)
        if not found.isna().any():
            return to_nanoseconds(found.tz_convert(None).to_numpy(), name)
    first = f", the first {values[0]!r}," if values.size else ""
    warnings.warn(
        f"the rows have no timestamps: the values of {name!r}{first} are neither text such as '2012-03-01T00:05' nor "
        "numbers with units such as 'hours since 1900-01-01', so there are no clocks, and windows cross gaps. Say when "
        "the rows were: timestamps=, e.g. ('2012-03-01', '5min').",
        UserWarning,
        stacklevel=2,
    )
    return None


def _texts(values: np.ndarray) -> list[str]:
    """Text of dates; WRF writes an underscore between day and hour."""
    texts = [
        text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in values.tolist()
    ]
    return [text.strip("\0 ").replace("_", "T") for text in texts]


def _unit(word: str) -> int | None:
    word = word.lower()
    word = SHORT.get(word, SHORT.get(word.removesuffix("s"), word.removesuffix("s")))
    return UNITS.get(word)


def decode_time(values: np.ndarray, attributes: Mapping[str, Any], *, name: str = "time") -> np.ndarray:
    """Return times as datetime64[ns].

    Parameters
    ----------
    values : ndarray, shape (time,), integer, floating or datetime64
        As stored.
    attributes : mapping
        ``units`` such as "hours since 1900-01-01 00:00:00", and perhaps ``calendar``.
    name : str
        For messages.

    Returns
    -------
    ndarray, shape (time,), datetime64[ns]
        In a calendar such as noleap, `Times` that count its days.

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
        return values.astype("datetime64[ns]")
    units, calendar = str(attributes.get("units", "")), str(attributes.get("calendar", "standard")).lower()
    match = SINCE.match(units)
    size = _unit(match.group(1)) if match else None
    if match is None or size is None:
        raise SourceFormatError(
            f"{name!r} has units={units!r}, which are no times; CF times read 'hours since 1900-01-01'. "
            "Pass timestamps= instead."
        )
    if shift := SHIFT.search(match.group(2)):
        warnings.warn(
            f"the times of {name!r} are {units!r}: they are moments of UTC here, and clocks such as time_of_day are of "
            f"UTC, not of the zone {shift[1]}. For local clocks pass timestamps=, a pandas index with its time zone.",
            UserWarning,
            stacklevel=2,
        )
    if own(calendar):
        return _in_calendar(values, units, size, own(calendar), name)
    origin = _origin(match.group(2))
    # The mixed calendar is Julian before 1582; only a library knows its days.
    if (
        calendar not in REAL
        or origin is None
        or (calendar != "proleptic_gregorian" and origin < -12219292800 * 10**9)
    ):
        return _by_cftime(values, units, calendar, name)
    return _add(values, origin, size, name)


def _origin(text: str) -> int | None:
    """Nanoseconds from 1970 to a date; a Python integer, since dates before 1678 do not fit 64 bits."""
    match = DATE.match(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    try:
        days = int(np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "D").astype(np.int64))
    except ValueError:
        return None
    nanoseconds = round(float(match.group(7) or 0) * 10**9) if match.group(7) not in (None, ".") else 0
    shift = (int(match.group(9) or 0) * 60 + int(match.group(10) or 0)) * (-1 if match.group(8) == "-" else 1)
    return (((days * 24 + hour) * 60 + minute - shift) * 60 + second) * 10**9 + nanoseconds


def _add(values: np.ndarray, origin: int, size: int, name: str) -> np.ndarray:
    if values.size:
        lowest, highest = (origin + int(float(end) * size) for end in (np.nanmin(values), np.nanmax(values)))
        if lowest <= -(2**63) + size or highest >= 2**63 - size:
            raise SourceFormatError(
                f"{name!r} holds dates outside 1678–2262, which datetime64[ns] cannot; pass timestamps= instead."
            )
    if values.dtype.kind in "iu":
        # A far origin and far values may only fit together: the sum wraps back into 64 bits.
        wrapped = np.array(((origin + 2**63) % 2**64) - 2**63, np.int64)
        with np.errstate(over="ignore"):
            return (values.astype(np.int64) * np.int64(size) + wrapped).view("datetime64[ns]")
    missing = np.isnan(values)
    known = np.where(missing, 0, values).astype(np.float64)
    whole = np.floor(known)
    # Whole units exactly, then the fraction: a product in one float64 would lose microseconds.
    exact = _add(whole.astype(np.int64), origin, size, name).view(np.int64)
    nanoseconds = np.rint((known - whole) * size).astype(np.int64)
    result: np.ndarray = (exact + nanoseconds).view("datetime64[ns]")
    result[missing] = np.datetime64("NaT")
    return result


def _in_calendar(values: np.ndarray, units: str, size: int, calendar: str, name: str) -> Times:
    """Return times in a calendar of its own: by arithmetic where that agrees with cftime at three rows, else by it."""
    try:
        [origin] = ordinals(_dates([0], units, calendar, name), calendar).view(np.int64).tolist()
        times = _add(values, origin, size, name)
        known = np.flatnonzero(~np.isnat(times))
        if values.dtype.kind == "f":  # cftime has whole microseconds
            times[known] = ((times[known].view(np.int64) + 500) // 1000 * 1000).view("datetime64[ns]")
        probe = known[[0, len(known) // 2, -1]] if len(known) else known
        if not np.array_equal(times[probe], ordinals(_dates(values[probe], units, calendar, name), calendar)):
            times[known] = ordinals(_dates(values[known], units, calendar, name), calendar)
    except SeriesError as error:
        raise SourceFormatError(f"{name!r}: {error} Pass timestamps= instead.") from error
    return Times(times, calendar)


def _by_cftime(values: np.ndarray, units: str, calendar: str, name: str) -> np.ndarray:
    dates = _dates(values, units, calendar, name)
    return np.array([np.datetime64(date.isoformat(), "ns") for date in dates], "datetime64[ns]")


def _dates(values: Any, units: str, calendar: str, name: str) -> np.ndarray:
    try:
        import cftime
    except ImportError as error:
        raise MissingExtraError(
            f"{name!r} has units={units!r} in the calendar {calendar!r}, which needs cftime: "
            "pip install 'windowloader[netcdf]'."
        ) from error
    try:
        return np.atleast_1d(cftime.num2date(values, units, calendar))
    except (ValueError, OverflowError) as error:
        raise SourceFormatError(
            f"{name!r} has units={units!r} in the calendar {calendar!r}, which cftime does not read ({error}); "
            "pass timestamps= instead."
        ) from error


@dataclass(frozen=True, slots=True)
class Packing:
    """How stored numbers become values: ``stored * scale + offset``, NaN where a marker stands.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the values, floating.
    scale, offset : float or None
        None: not applied.
    markers : tuple of float
        Stored numbers that mean "nothing here".
    view : str
        Type the stored numbers are of by ``_Unsigned``, ``"u1"``; empty: as stored.
    """

    dtype: np.dtype
    scale: float | None
    offset: float | None
    markers: tuple[float, ...]
    view: str = ""

    def unpack(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Write the values of ``stored`` to ``out``, same shape, any strides, dtype `dtype`.

        Examples
        --------
        >>> out = np.empty(2)
        >>> Packing(out.dtype, 0.5, 10.0, (-1,)).unpack(np.array([4, -1], np.int8), out)
        >>> out
        array([12., nan])
        """
        if self.view:
            stored = stored.view(stored.dtype.byteorder + self.view)
        out[...] = stored
        for marker in self.markers:
            if not math.isnan(marker):
                np.copyto(out, np.nan, where=stored == marker)
        if self.scale is not None:
            np.multiply(out, self.dtype.type(self.scale), out=out)
        if self.offset is not None:
            np.add(out, self.dtype.type(self.offset), out=out)


def packing(dtype: np.dtype, attributes: Mapping[str, Any], fill_value: Any = None) -> Packing | None:
    """Return how values are packed, by the rules xarray has, or None where stored numbers are the values.

    Parameters
    ----------
    dtype : numpy.dtype
        As stored.
    attributes : mapping
        ``scale_factor``, ``add_offset``, ``_FillValue``, ``missing_value``, ``_Unsigned``.
    fill_value : number, optional
        The array's own fill value where it stands for ``_FillValue`` (Zarr 2 written by xarray).

    Examples
    --------
    >>> packing(np.dtype("int16"), {"scale_factor": 0.1, "_FillValue": -999}).dtype
    dtype('float64')
    >>> packing(np.dtype("float32"), {"_FillValue": float("nan")}) is None
    True
    """
    scale, offset = (
        _number(attributes.get("scale_factor"), dtype),
        _number(attributes.get("add_offset"), dtype),
    )
    fill, missing = (
        _number(value, dtype)
        for value in (attributes.get("_FillValue", fill_value), attributes.get("missing_value"))
    )
    kind = {("i", "true"): "u", ("u", "false"): "i"}.get((dtype.kind, str(attributes.get("_Unsigned"))), "")
    view = f"{kind}{dtype.itemsize}" if kind else ""
    if view and fill is not None and not math.isnan(fill):
        fill = int(np.array(int(fill)).astype(view))  # the same bits; missing_value is compared as it stands
    markers = tuple(dict.fromkeys(number for number in (fill, missing) if number is not None))
    plain = scale is None and offset is None and all(map(math.isnan, markers))
    if dtype.kind not in "iuf" or (plain and not view):
        return None
    values = np.dtype(view) if plain else np.dtype(_float_type(dtype, scale, offset))
    return Packing(values, _float(scale), _float(offset), markers, view)


def unpacked(values: np.ndarray, attributes: Mapping[str, Any], fill_value: Any = None) -> np.ndarray:
    """Values of a stored coordinate; whole numbers stay so where nothing is packed and none is marked.

    Examples
    --------
    >>> unpacked(np.array([21, 41], np.int16), {"scale_factor": 0.5})
    array([10.5, 20.5])
    """
    packed = packing(values.dtype, attributes, fill_value)
    if packed is None or (
        packed.scale is None
        and packed.offset is None
        and not packed.view
        and not np.isin(values, packed.markers).any()
    ):
        return values
    out = np.empty(values.shape, packed.dtype)
    packed.unpack(values, out)
    return out


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _number(value: Any, dtype: np.dtype) -> Any:
    """One attribute as a number: a scalar, an array of one, text, or xarray's base64 of Zarr 3."""
    if isinstance(value, list | tuple | np.ndarray):
        value = np.asarray(value).reshape(-1)[0] if np.size(value) == 1 else None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                packed = base64.standard_b64decode(value)
                value = struct.unpack("<d" if dtype.kind == "f" else "<q", packed)[0]
            except (ValueError, struct.error):
                return None
    return value if isinstance(value, int | float | np.number) and not isinstance(value, bool) else None


def _float_type(dtype: np.dtype, scale: Any, offset: Any) -> type[np.floating[Any]]:
    """Choose the type values unpack to, as xarray does: what scale and offset ask, float64 where an offset may lose."""
    types = [np.dtype(type(value)) for value in (scale, offset) if value is not None]
    types = [kind if kind.kind == "f" else np.dtype(np.float64) for kind in types]
    if not types:
        small = dtype.itemsize <= 4 if dtype.kind == "f" else dtype.itemsize <= 2
        return np.float32 if small else np.float64
    if offset is not None and (scale is None or types[0] != types[1]):
        return np.float64
    if scale is not None and offset is not None and dtype.kind in "iu" and dtype.itemsize == 4:
        return np.float64
    return np.float32 if types[0] == np.float32 else np.float64
