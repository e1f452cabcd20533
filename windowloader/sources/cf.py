"""Climate and Forecast conventions as xarray reads them: packed values, times as numbers since a date.

In: attributes as netCDF, Zarr and xarray keep them, and stored numbers. Out: values with NaN where a mark stands;
datetime64[ns]. xarray decodes; own arithmetic is used only where it was found equal to xarray's. Never opens a file.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.clocks.calendars import DAY, Times, calendar_of, ordinals, own
from windowloader.errors import MissingExtraError, SeriesError, SourceFormatError

from .base import to_nanoseconds

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PACKED",
    "Packing",
    "decode_time",
    "delivered",
    "is_text_of_time",
    "is_time",
    "packing",
    "times_of",
    "unpacked",
]

MARKS = ("missing_value", "_FillValue")
PACKED = (*MARKS, "scale_factor", "add_offset", "_Unsigned")
BLOCK = 65536  # values decoded at once: what stays in the processor's cache between two steps
PROBES = 16384
log = logging.getLogger("windowloader")


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """How stored numbers become values; made by `packing`.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the values.
    view : str
        Type the stored numbers are of by ``_Unsigned``, ``"u1"``; empty: as stored.
    marks : tuple of numpy scalars
        Values that mean "nothing here", before scaling.
    scale, offset : number or None
        As the attributes have them; their type decides how NumPy rounds.
    work : numpy.dtype
        What is calculated in: `dtype`, except where that is bool.
    attributes : mapping or None
        Where the arithmetic is not equal to xarray's: what xarray is given to decode each block, of the type ``work``.
    """

    dtype: np.dtype
    view: str
    marks: tuple[Any, ...]
    scale: Any
    offset: Any
    work: np.dtype
    attributes: Mapping[str, Any] | None = None

    def unpack(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Write the values of ``stored`` to ``out``, same shape, any strides, dtype `dtype`.

        Examples
        --------
        >>> out = np.empty(2)
        >>> packing(np.dtype("int8"), {"scale_factor": 0.5, "_FillValue": -1}).unpack(np.array([4, -1], np.int8), out)
        >>> out
        array([ 2., nan])
        """
        if self.attributes is not None:
            out[...] = _by_xarray(stored.astype(self.work, copy=False), self.attributes)
        elif stored.size <= BLOCK:
            self._block(stored, out)
        else:
            step = max(1, BLOCK // stored[0].size)
            for start in range(0, len(stored), step):
                self._block(stored[start : start + step], out[start : start + step])

    def _block(self, stored: np.ndarray, out: np.ndarray) -> None:
        if self.view:
            stored = stored.view(stored.dtype.byteorder + self.view)
        values = out if self.dtype.kind != "b" else np.empty(out.shape, self.work)
        with np.errstate(all="ignore"):
            values[...] = stored
            for mark in self.marks:
                np.copyto(values, np.nan, where=values == mark)
            if self.scale is not None:
                np.multiply(values, self.scale, out=values)
            if self.offset is not None:
                np.add(values, self.offset, out=values)
            if values is not out:
                out[...] = values


def packing(
    dtype: np.dtype, attributes: Mapping[str, Any], fill_value: Any = None, *, name: str = "the variable"
) -> Packing | None:
    """Return how values are packed, as xarray decodes them, or None where stored numbers are the values.

    The values are those of `xarray.conventions.decode_cf_variable`, bit for bit: the arithmetic is used where it
    equals xarray's for all numbers of one or two bytes, or for a probe of others, else xarray decodes each block.
    Attributes that are lists or arrays of one are taken as the one they hold, text that writes a number as it.

    Parameters
    ----------
    dtype : numpy.dtype
        As stored.
    attributes : mapping
        ``scale_factor``, ``add_offset``, ``_FillValue``, ``missing_value``, ``_Unsigned``, ``dtype``.
    fill_value : number, optional
        The array's own fill value where it stands for ``_FillValue`` (Zarr 2 written by xarray).
    name : str
        For messages.

    Raises
    ------
    SourceFormatError
        Where xarray cannot decode the attributes.

    Examples
    --------
    >>> packing(np.dtype("int16"), {"scale_factor": 0.1, "_FillValue": -999}).dtype
    dtype('float64')
    >>> packing(np.dtype("float32"), {"_FillValue": float("nan")}) is None
    True
    """
    said = {key: _scalar(attributes[key], dtype) for key in PACKED if attributes.get(key) is not None}
    if "_FillValue" not in said and fill_value is not None:
        said["_FillValue"] = _scalar(fill_value, dtype)
    if attributes.get("dtype") == "bool":
        said["dtype"] = "bool"
    if not said or dtype.kind not in "iufb":
        return None
    sign = {("i", "true"): "u", ("u", "false"): "i"}.get((dtype.kind, str(said.get("_Unsigned"))), "")
    view = f"{sign}{dtype.itemsize}" if sign else ""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter(
                "ignore"
            )  # several marks, and marks that are none, which are taken as meant
            marks = _marks(dtype, view, said)
            probe = _probe(dtype.newbyteorder("="), marks)
            right = _by_xarray(probe.astype(dtype), said)
            work = _by_xarray(probe[:0], {**said, "dtype": ""}).dtype
    except Exception as error:
        raise SourceFormatError(
            f"xarray cannot decode {name!r}, stored as {dtype} with the attributes {said}: {error}. Pass "
            "mask_and_scale=False for the numbers as they are stored."
        ) from error
    if right.dtype == probe.dtype and _same(right, probe):
        return None
    marks = _comparable(marks, work)
    fast = Packing(right.dtype, view, marks, said.get("scale_factor"), said.get("add_offset"), work)
    return fast if _proven(fast, probe, right) else Packing(right.dtype, "", (), None, None, dtype, said)


def unpacked(values: np.ndarray, attributes: Mapping[str, Any], fill_value: Any = None) -> np.ndarray:
    """Values of a stored coordinate; whole numbers stay so where nothing is packed and none is marked.

    Examples
    --------
    >>> unpacked(np.array([21, 41], np.int16), {"scale_factor": 0.5})
    array([10.5, 20.5])
    """
    packed = packing(values.dtype, attributes, fill_value)
    if packed is None:
        return values
    out = np.empty(values.shape, packed.dtype)
    packed.unpack(values, out)
    marked = packed.marks and packed.scale is None and packed.offset is None and not packed.view
    return values if marked and not np.isnan(out).any() else out


def delivered(packed: Packing | None, dtype: np.dtype, fill_value: Any) -> float | None:
    """Value that cells hold which were never written; None where ``fill_value`` is no number.

    Examples
    --------
    >>> delivered(packing(np.dtype("i2"), {"scale_factor": 0.5}), np.dtype("i2"), 8)
    4.0
    """
    number = _scalar(fill_value, dtype)
    if number is None or np.asarray(number).dtype.kind not in "fiub":
        return None
    stored = np.array([number]).astype(dtype.newbyteorder("="))
    out = stored if packed is None else np.empty(1, packed.dtype)
    if packed is not None:
        packed.unpack(stored, out)
    return float(out[0])


def _scalar(value: Any, dtype: np.dtype) -> Any:
    """One attribute: lists and arrays of one as what they hold, text as a number, base64 as xarray writes it."""
    if isinstance(value, list | tuple | np.ndarray) and np.size(value) == 1:
        value = np.reshape(value, -1)[0] if isinstance(value, np.ndarray) else value[0]
    if isinstance(value, str) and value not in ("true", "false"):
        try:
            return float(value)
        except ValueError:
            from xarray.backends.zarr import FillValueCoder

            return FillValueCoder.decode(value, dtype) if dtype.kind == "f" else value
    return value


def _marks(dtype: np.dtype, view: str, said: Mapping[str, Any]) -> tuple[Any, ...]:
    """Values that mean "nothing here", as xarray compares them; of another sign where ``_Unsigned`` says so."""
    marks = [mark for key in MARKS for mark in np.ravel(said.get(key, ())) if mark == mark]
    fill = said.get("_FillValue")
    if view and fill is not None and fill == fill:
        turned = np.array(fill, dtype).view(view) if dtype.kind == "i" else np.array(fill).astype(view)
        marks = [mark for mark in marks if mark != fill] + [
            turned.item() if dtype.kind == "i" else turned[()]
        ]
    return tuple(dict.fromkeys(marks))


def _comparable(marks: tuple[Any, ...], work: np.dtype) -> tuple[Any, ...]:
    """Return marks in the type that is compared, which is faster, without those that no value of it equals."""
    typed = [(mark, work.type(mark)) for mark in marks]
    return tuple(found for mark, found in typed if isinstance(mark, int) or found == mark)


def _probe(dtype: np.dtype, marks: tuple[Any, ...]) -> np.ndarray:
    """All numbers of one or two bytes; of others random bits, usual numbers, the ends, and the marks."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.itemsize <= 2:
        return np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)
    random = np.random.default_rng(0)
    bits = random.integers(0, 256, (PROBES, dtype.itemsize), np.uint8).view(dtype)[:, 0]
    usual = random.normal(0, 300, PROBES).astype(dtype)
    ends = [0, 1] if dtype.kind == "f" else [0, 1, np.iinfo(dtype).min, np.iinfo(dtype).max]
    return np.concatenate(
        (bits, usual, np.array(ends, dtype), *(np.array([mark]).astype(dtype) for mark in marks))
    )


def _by_xarray(stored: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    import xarray

    variable = xarray.Variable([f"axis{axis}" for axis in range(stored.ndim)], stored, attributes)
    decoded = xarray.conventions.decode_cf_variable("values", variable, decode_times=False)
    return np.asarray(decoded.values)


def _proven(packed: Packing, probe: np.ndarray, right: np.ndarray) -> bool:
    out = np.empty(probe.shape, packed.dtype)
    try:
        packed.unpack(probe, out)
    except (TypeError, ValueError, OverflowError):
        return False
    return _same(out, right)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of one dtype have the same bits, NaN being as good as NaN."""
    if one.dtype.kind == "f":
        one, other = (np.where(np.isnan(side), np.array(np.nan, side.dtype), side) for side in (one, other))
    return one.tobytes() == other.tobytes()


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
    if is_time(attributes):
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
    said = {key: _scalar(attributes[key], values.dtype) for key in PACKED if attributes.get(key) is not None}
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
        times = (values.astype(np.int64) - first) * (after - begin) + begin
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
    except (ValueError, TypeError, KeyError, OverflowError) as error:
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
