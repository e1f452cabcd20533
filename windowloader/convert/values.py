"""Conversion of values to another dtype, with the resulting error.

In: values as read, and a dtype to store. Out: stored numbers, and `Loss`, their difference from the values. A value
that would become missing or infinite is an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from windowloader.errors import ConversionError
from windowloader.windows.missing import is_missing, sentinel

__all__ = ["Encoding", "Loss", "encoding_for"]

DTYPES = ("float64", "float32", "float16", "int16")
MARK = -32768  # int16 code of a missing value
CODES = 32767  # largest int16 code
PIECE_VALUES = 1 << 18  # values that are compared at once, in float64


class Loss(NamedTuple):
    """Difference between stored numbers and values.

    Parameters
    ----------
    values : int
        Number of values that are not missing.
    missing : int
        Number of missing values.
    largest : float
        Largest absolute difference.
    square : float
        Sum of the squared differences.
    """

    values: int = 0
    missing: int = 0
    largest: float = 0.0
    square: float = 0.0

    def joined(self, other: Loss) -> Loss:
        """Difference of both together."""
        sums = (self.values + other.values, self.missing + other.missing)
        return Loss(*sums, max(self.largest, other.largest), self.square + other.square)

    @property
    def rms(self) -> float:
        """Root of the mean squared difference."""
        return math.sqrt(self.square / self.values) if self.values else 0.0


@dataclass(frozen=True, slots=True)
class Encoding:
    """How values are stored: cast, or packed as integers with scale and offset.

    Parameters
    ----------
    name : str
        Name of the array, for messages.
    source, dtype : numpy.dtype
        Dtype of the values, and of the stored numbers.
    mark : ndarray, shape (1,), or None
        Value that marks a missing one.
    scale, offset : float or None
        A value is ``stored * scale + offset``; None: stored as it is.
    """

    name: str
    source: np.dtype
    dtype: np.dtype
    mark: np.ndarray | None = None
    scale: float | None = None
    offset: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether values are stored unchanged."""
        return self.source == self.dtype and self.scale is None

    def span(self, values: np.ndarray) -> tuple[float, float]:
        """Smallest and largest value, without missing ones; (inf, -inf) where all are missing."""
        low, high = math.inf, -math.inf
        for part in _parts(values):
            kept = part[~self._absent(part)]
            if kept.size:
                low, high = min(low, float(kept.min())), max(high, float(kept.max()))
        if high == math.inf or low == -math.inf:
            raise ConversionError(f"{self.name!r} holds infinite values, which int16 has no room for.")
        return low, high

    def fitted(self, low: float, high: float) -> Encoding:
        """Return the encoding whose codes cover a range of values."""
        low, high = (low, high) if low <= high else (0.0, 0.0)
        return replace(self, scale=(high / 2 - low / 2) / CODES or 1.0, offset=low / 2 + high / 2)

    def attributes(self) -> dict[str, Any]:
        """Return attributes that readers need (Climate and Forecast conventions)."""
        if self.scale is None:
            return {}
        return {"scale_factor": self.scale, "add_offset": self.offset, "_FillValue": MARK}

    def encode(self, values: np.ndarray, out: np.ndarray) -> Loss:
        """Write ``values`` to ``out``, both C-contiguous and of one shape, and compare.

        Raises
        ------
        ConversionError
            Where a value does not fit, or would be taken for missing.
        """
        return reduce(Loss.joined, map(self._encode, _parts(values), _parts(out)), Loss())

    def _encode(self, part: np.ndarray, into: np.ndarray) -> Loss:
        absent = self._absent(part)
        count = int(np.count_nonzero(absent))
        if self.plain:
            into[...] = part
            return Loss(part.size - count, count)
        exact = part.astype(np.float64)
        if self.scale is None:
            with np.errstate(over="ignore", invalid="ignore"):
                into[...] = part
            back = into.astype(np.float64)
            self._check_marks(part, into, absent)
        else:
            codes = np.rint((exact - self.offset) / self.scale)
            codes[absent] = MARK
            into[...] = codes
            back = codes * self.scale + self.offset
        gap = np.abs(back - exact)[~absent & (back != exact)]
        if not np.isfinite(gap).all():
            worst = exact[~absent][np.argmax(np.abs(exact[~absent]))]
            raise ConversionError(
                f"{self.name!r} holds {worst:g}, which {self.dtype} cannot. Take float32, or int16, which is scaled."
            )
        return Loss(part.size - count, count, float(gap.max(initial=0.0)), float(np.square(gap).sum()))

    def _absent(self, part: np.ndarray) -> np.ndarray:
        found = part != part if self.mark is None else is_missing(part, self.mark)  # NaN
        return np.asarray(found)

    def _check_marks(self, part: np.ndarray, into: np.ndarray, absent: np.ndarray) -> None:
        """Raise where a missing value does not stay missing, or another value becomes missing."""
        if self.mark is None:
            return
        later = is_missing(into, self.mark.astype(self.dtype))
        wrong = np.flatnonzero(later != absent)
        if len(wrong):
            value, stored = part[wrong[0]], into[wrong[0]]
            raise ConversionError(
                f"{self.name!r} marks missing values by {self.mark[0]}, and {value!r} becomes {stored!r} in "
                f"{self.dtype}, which is {'' if later[wrong[0]] else 'not '}that mark. Take float32, or int16, which "
                "marks by NaN."
            )


def encoding_for(name: str, source: np.dtype, asked: str | None, missing: float | None) -> Encoding:
    """Choose how values of one dtype are stored.

    Parameters
    ----------
    name : str
    source : numpy.dtype
    asked : {"float64", "float32", "float16", "int16"}, optional
        None: unchanged. "int16" scales values from their smallest to their largest.
    missing : float, optional
        What marks a missing value.

    Examples
    --------
    >>> stored = encoding_for("speed", np.dtype("f8"), "int16", None).fitted(0.0, 80.0)
    >>> codes = np.empty(2, np.int16)
    >>> stored.encode(np.array([40.0, 80.0]), codes), codes
    (Loss(values=2, missing=0, largest=0.0, square=0.0), array([    0, 32767], dtype=int16))
    """
    mark = sentinel(missing, source)
    if asked is None:
        return Encoding(name, source, source, mark)
    if asked not in DTYPES:
        raise ConversionError(
            f"dtype={asked!r} is unknown. Known are {', '.join(DTYPES)}; None keeps what is there."
        )
    return Encoding(name, source, np.dtype(asked), mark, scale=1.0 if asked == "int16" else None)


def _parts(values: np.ndarray) -> list[np.ndarray]:
    """Return views of pieces that fit in a CPU cache."""
    flat = values.reshape(-1)
    return [flat[start : start + PIECE_VALUES] for start in range(0, flat.size, PIECE_VALUES)]
