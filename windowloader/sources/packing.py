"""Packed values as xarray decodes them: scale, offset, marks, and the sign of ``_Unsigned``.

In: attributes as netCDF, Zarr and xarray keep them, and stored numbers. Out: values with NaN where a mark stands.
Arithmetic is used only where it was found equal to xarray's; else xarray decodes. Never opens a file.
"""

from __future__ import annotations

import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Packing", "delivered", "packing", "plain", "unpacked"]

MARKS = ("missing_value", "_FillValue")
PACKED = (*MARKS, "scale_factor", "add_offset", "_Unsigned")
BLOCK = 65536  # values decoded at once: what stays in the processor's cache between two steps
PROBES = 16384


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


def packing(dtype: np.dtype, attributes: Mapping[str, Any], *, name: str = "the variable") -> Packing | None:
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
    said = plain(attributes, dtype)
    if str(attributes.get("dtype")) == "bool":
        said["dtype"] = "bool"
    if not said or dtype.kind not in "iufb":
        return None
    sign = {("i", "true"): "u", ("u", "false"): "i"}.get((dtype.kind, str(said.get("_Unsigned"))), "")
    view = f"{sign}{dtype.itemsize}" if sign else ""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # several marks, and marks that are none, are taken as meant
            marks = _marks(dtype, view, said)
            probe = _probe(dtype.newbyteorder("="), marks)
            right = _by_xarray(probe.astype(dtype), said)
            work = _by_xarray(probe[:0], {**said, "dtype": ""}).dtype
            marks = _comparable(marks, work)
    except Exception as error:
        raise SourceFormatError(
            f"xarray cannot decode {name!r}, stored as {dtype} with the attributes {said}: {error}. Pass "
            "mask_and_scale=False for the numbers as they are stored."
        ) from error
    if right.dtype == probe.dtype and _same(right, probe):
        return None
    fast = Packing(right.dtype, view, marks, said.get("scale_factor"), said.get("add_offset"), work)
    return fast if _proven(fast, probe, right) else Packing(right.dtype, "", (), None, None, dtype, said)


def unpacked(values: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Values of a stored coordinate; whole numbers stay so where nothing is packed and none is marked.

    Examples
    --------
    >>> unpacked(np.array([21, 41], np.int16), {"scale_factor": 0.5})
    array([10.5, 20.5])
    """
    packed = packing(values.dtype, attributes)
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
    number = plain({"_FillValue": fill_value}, dtype).get("_FillValue")
    if np.asarray(number).dtype.kind not in "fiub":
        return None
    stored = np.array([number]).astype(dtype.newbyteorder("="))
    out = stored if packed is None else np.empty(1, packed.dtype)
    if packed is not None:
        packed.unpack(stored, out)
    return float(out[0])


def plain(attributes: Mapping[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """Attributes of marks and packing: lists and arrays of one as what they hold, text as the number it writes."""
    said = {}
    for key in PACKED:
        value = attributes.get(key)
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        elif isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        if isinstance(value, str) and key != "_Unsigned":
            value = _number(value, dtype)
        if value is not None:
            said[key] = value
    return said


def _number(text: str, dtype: np.dtype) -> Any:
    """Read a number that is written as text, or in base64 as xarray writes marks to Zarr 3; other text stays."""
    with suppress(ValueError):
        return float(text)
    if dtype.kind == "f":
        from xarray.backends.zarr import FillValueCoder

        with suppress(ValueError, struct.error):
            return FillValueCoder.decode(text, dtype)
    return text


def _marks(dtype: np.dtype, view: str, said: Mapping[str, Any]) -> tuple[Any, ...]:
    """Values that mean "nothing here", as xarray compares them; of another sign where ``_Unsigned`` says so."""
    marks = [mark for key in MARKS for mark in np.ravel(said.get(key, ()))]
    marks = [
        mark for mark in marks if np.asarray(mark).dtype.kind in "iufb" and mark == mark
    ]  # not text, not NaN
    fill = said.get("_FillValue")
    if view and fill is not None and fill == fill:
        turned = np.array(fill, dtype).view(view) if dtype.kind == "i" else np.array(fill).astype(view)
        turned = turned.item() if dtype.kind == "i" else turned[()]
        marks = [*(mark for mark in marks if mark != fill), turned]
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
    marked = [np.array([mark]).astype(dtype) for mark in marks]
    return np.concatenate((bits, usual, np.array(ends, dtype), *marked))


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
