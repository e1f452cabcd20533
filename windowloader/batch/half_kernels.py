"""Float16 and bfloat16 as bits: numba has no arithmetic for either, so their bits are made and read here.

In: 16-bit words, or float64 values. Out: the other. Rounding is to nearest, ties to even, as IEEE 754 and torch have
it; NaN stays NaN (its payload does not). By the processor where it has float16, by arithmetic where not: the same bits.
Never calls a library routine, so that every loop vectorises.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from windowloader.util.jit import kernel
from windowloader.util.machine import HALVES, narrow, widen

__all__ = ["decode_float16", "to_bfloat16", "to_float16"]

LOW = np.int64((1 << 29) - 1)  # bits of a float64 that a float32 has no room for


@kernel
def _decode_by_arithmetic(word: int) -> float:
    bits = np.int64(word)
    exponent = (bits >> 10) & 31
    mantissa = bits & 1023
    # Float64 keeps 1023 as bias and 42 more bits of mantissa; exponent 31 (inf, NaN) becomes 2047.
    wide = np.int64(2047) if exponent == 31 else exponent + 1008
    normal = np.int64((wide << 52) | (mantissa << 42)).view(np.float64)
    value = np.float64(mantissa) * 2.0**-24 if exponent == 0 else normal
    return -value if bits & 0x8000 else value


@kernel
def _decode_by_processor(word: int) -> float:
    return np.float64(widen(np.uint16(word)))


@kernel
def _round_by_arithmetic(value: float) -> Any:
    bits = np.float64(value).view(np.int64)
    sign = (bits >> 48) & 0x8000
    size = abs(value)
    # Adding 2^(e + 42) leaves room for ten bits below 2^e: the sum is rounded by the processor, to nearest even, and
    # its low bits are the mantissa. 1009 is the smallest normal exponent of float16, below it the spacing is fixed.
    exponent = min(max((bits >> 52) & 2047, np.int64(1009)), np.int64(1039))
    magic = (exponent + 42) << 52
    mantissa = np.float64(size + np.int64(magic).view(np.float64)).view(np.int64) - magic
    word = ((exponent - 1009) << 10) + mantissa
    word = np.int64(0x7C00) if size >= 65520.0 else word
    word = np.int64(0x7E00) if value != value else word  # NaN
    return sign | word


@kernel
def _round_by_processor(value: float) -> Any:
    bits = np.float64(value).view(np.int64)
    # Rounding twice is rounding once if the first goes to odd: what a float32 has no room for is cut off, and its last
    # bit set where that was anything (the sum carries into it), so that no tie comes about that was none.
    odd = (bits | ((bits & LOW) + LOW)) & ~LOW
    single = np.float32(np.int64(odd).view(np.float64))
    word = narrow(single)
    return np.uint16((word | 0x7E00) & 0xFE00) if single != single else word  # NaN


decode_float16 = _decode_by_processor if HALVES else _decode_by_arithmetic
"""Value of a float16 given by its 16 bits, exactly."""
to_float16 = _round_by_processor if HALVES else _round_by_arithmetic
"""Bits of the float16 nearest to a float64: rounded once."""


@kernel
def to_bfloat16(value: float) -> Any:
    """Bits of the bfloat16 nearest to the float32 nearest to a float64, as torch has it."""
    single = np.float32(value)
    bits = np.int64(np.float32(single).view(np.int32)) & 0xFFFFFFFF
    word = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.int64(0x7FC0) if single != single else word  # NaN
