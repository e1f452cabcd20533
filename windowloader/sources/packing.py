"""Packed values as xarray decodes them: scale, offset, marks, and the sign of ``_Unsigned``.

In: attributes as netCDF, Zarr and xarray keep them, and stored numbers. Out: values with NaN where a mark stands.
Arithmetic is used only where it was found equal to xarray's; else xarray decodes. Never opens a file.
"""

from __future__ import annotations

import struct
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Packing", "delivered", "packing", "plain"]

MARKS = ("missing_value", "_FillValue")
PACKED = (*MARKS, "scale_factor", "add_offset", "_Unsigned")
BLOCK = 65536  # values decoded at once: what stays in the processor's cache between two steps
PROBES = 16384
ONE_AT_A_TIME = threading.Lock()  # filters of warnings belong to all threads


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """How stored numbers become values; built by `packing`.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the values.
    work : numpy.dtype
        Of the arithmetic: `dtype`, except where that is bool; of the stored numbers, where xarray decodes.
    attributes : mapping
        Marks and packing, as `plain` has them: the type of a number decides how NumPy rounds.
    marks : tuple of numpy scalars, optional
        Values that mark a missing cell, before scaling. None: the arithmetic is not equal to xarray's, which then
        decodes each block.
    """

    dtype: np.dtype
    work: np.dtype
    attributes: Mapping[str, Any]
    marks: tuple[Any, ...] | None = None

    def unpack(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Write the values of ``stored`` to ``out``, same shape, any strides, dtype `dtype`.

        Examples
        --------
        >>> out = np.empty(2)
        >>> packing(np.dtype("int8"), {"scale_factor": 0.5, "_FillValue": -1}).unpack(np.array([4, -1], np.int8), out)
        >>> out
        array([ 2., nan])
        """
        if self.marks is None:
            out[...] = _by_xarray(stored.astype(self.work, copy=False), self.attributes)
            return
        step = max(1, BLOCK * len(stored) // max(1, stored.size))
        for start in range(0, len(stored), step):
            part = out[start : start + step]
            values = part if part.dtype.kind != "b" else np.empty(part.shape, self.work)
            with np.errstate(all="ignore"):
                values[...] = stored[start : start + step]
                for mark in self.marks:
                    np.copyto(values, np.nan, where=values == mark)
                for key, calculate in (("scale_factor", np.multiply), ("add_offset", np.add)):
                    if key in self.attributes:
                        calculate(values, self.attributes[key], out=values)
                if values is not part:
                    part[...] = values

    def values(self, stored: np.ndarray) -> np.ndarray:
        """Return the values of ``stored``."""
        out = np.empty(stored.shape, self.dtype)
        self.unpack(stored, out)
        return out


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
    if not said or dtype.kind not in "iuf":
        return None
    try:
        with np.errstate(all="ignore"):
            marks = [mark for key in MARKS for mark in map(np.asarray, np.ravel(said.get(key, ())))]
            marks = [mark for mark in marks if mark.dtype.kind in "iufb" and mark == mark]  # no text, no NaN
            probe = _probe(dtype.newbyteorder("="), marks)
            right = _by_xarray(probe.astype(dtype), said)
            work = _by_xarray(probe[:0], {**said, "dtype": ""}).dtype
            typed = [(mark.astype(work)[()], mark) for mark in marks]
    except Exception as error:
        raise SourceFormatError(
            f"xarray cannot decode {name!r}, stored as {dtype} with the attributes {said}: {error}. Pass "
            "mask_and_scale=False for the numbers as they are stored."
        ) from error
    if _same(right, probe):
        return None
    equal = tuple(dict.fromkeys(found for found, mark in typed if found == mark))  # no number equals others
    fast = Packing(right.dtype, work, said, equal)
    with suppress(TypeError, ValueError, OverflowError):
        if _same(fast.values(probe), right):
            return fast
    return replace(fast, work=dtype, marks=None)


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
    return float((packed.values(stored) if packed else stored)[0])


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


def _probe(dtype: np.dtype, marks: Sequence[np.ndarray]) -> np.ndarray:
    """All numbers of one or two bytes; of others random bits, usual numbers, the ends, and the marks."""
    unsigned, size = np.dtype(f"u{dtype.itemsize}"), 2 ** (8 * dtype.itemsize)
    if dtype.itemsize <= 2:
        return np.arange(size, dtype=unsigned).view(dtype)
    random = np.random.default_rng(0)
    bits = random.integers(0, size, PROBES, unsigned).view(dtype)
    usual = random.normal(0, 300, PROBES).astype(dtype)
    ends = np.array([0, size // 2 - 1, size // 2, size - 1], unsigned).view(dtype)
    return np.concatenate((bits, usual, ends, *(mark.astype(dtype).reshape(1) for mark in marks)))


def _by_xarray(stored: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    import xarray

    variable = xarray.Variable([f"axis{axis}" for axis in range(stored.ndim)], stored, attributes)
    with ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # several marks, and marks that are none, are taken as meant
        decoded = xarray.conventions.decode_cf_variable("values", variable, decode_times=False)
        return np.asarray(decoded.values)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same dtype and bits, NaN being as good as NaN."""
    if one.dtype == other.dtype and one.dtype.kind == "f":
        one, other = (np.where(np.isnan(side), np.array(np.nan, side.dtype), side) for side in (one, other))
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()
