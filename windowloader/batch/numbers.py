"""Float16, bfloat16 and other dtypes to and from float64, sixteen lanes at a time, on any processor.

In: registers. Out: registers; emitted as arithmetic of integers where processors differ.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

__all__ = ["LANES", "filled", "from_float64", "to_float64"]

LANES = 16
_LOW = (1 << 29) - 1  # low bits of a float64's mantissa that a float32 cannot hold
_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))
_F32, _F64 = ir.FloatType(), ir.DoubleType()


def filled(kind: Any, value: float) -> Any:
    """Fill sixteen lanes with a constant."""
    return ir.Constant(ir.VectorType(kind, LANES), [ir.Constant(kind, value)] * LANES)


def _decode_float16(builder: Any, words: Any) -> Any:
    """Float16, given as bits, to float32, exactly."""
    vector, single = (ir.VectorType(kind, LANES) for kind in (_I32, _F32))
    wide = builder.zext(words, vector)
    size = builder.shl(builder.and_(wide, filled(_I32, 0x7FFF)), filled(_I32, 13))
    exponent = builder.and_(size, filled(_I32, 0x7C00 << 13))
    normal = builder.add(size, filled(_I32, 112 << 23))
    special = builder.add(normal, filled(_I32, 112 << 23))  # inf, NaN
    raised = builder.bitcast(builder.add(normal, filled(_I32, 1 << 23)), single)
    small = builder.bitcast(
        builder.fsub(raised, filled(_F32, 2.0**-14)), vector
    )  # no exponent: normalized by the sum
    found = builder.select(builder.icmp_unsigned("==", exponent, filled(_I32, 0x7C00 << 13)), special, normal)
    found = builder.select(builder.icmp_unsigned("==", exponent, filled(_I32, 0)), small, found)
    sign = builder.shl(builder.and_(wide, filled(_I32, 0x8000)), filled(_I32, 16))
    return builder.bitcast(builder.or_(found, sign), single)


def _encode_float16(builder: Any, values: Any) -> Any:
    """Bits of the float16 nearest to a float64, rounded once, ties to even; NaN keeps its sign.

    Two roundings equal one if the first rounds to odd: cut the bits that a float32 cannot hold, and set the last
    remaining bit if any of them was set (the sum carries into it), so that no false tie arises.
    """
    long, vector, single = (ir.VectorType(kind, LANES) for kind in (_I64, _I32, _F32))
    bits = builder.bitcast(values, long)
    sticky = builder.add(builder.and_(bits, filled(_I64, _LOW)), filled(_I64, _LOW))
    odd = builder.and_(builder.or_(bits, sticky), filled(_I64, ~_LOW))
    word = builder.bitcast(builder.fptrunc(builder.bitcast(odd, values.type), single), vector)
    size = builder.and_(word, filled(_I32, 0x7FFFFFFF))
    last = builder.and_(builder.lshr(size, filled(_I32, 13)), filled(_I32, 1))
    normal = builder.add(builder.add(size, filled(_I32, 0xFFF - (112 << 23))), last)
    normal = builder.lshr(normal, filled(_I32, 13))
    half = builder.fadd(
        builder.bitcast(size, single), filled(_F32, 0.5)
    )  # its spacing is that of small float16
    small = builder.sub(builder.bitcast(half, vector), filled(_I32, 0x3F000000))
    found = builder.select(builder.icmp_unsigned("<", size, filled(_I32, 113 << 23)), small, normal)
    over = builder.icmp_unsigned(">=", size, filled(_I32, 143 << 23))
    found = builder.select(over, filled(_I32, 0x7C00), found)
    nan = builder.icmp_unsigned(">", size, filled(_I32, 0x7F800000))
    found = builder.select(nan, filled(_I32, 0x7E00), found)
    sign = builder.and_(builder.lshr(word, filled(_I32, 16)), filled(_I32, 0x8000))
    return builder.trunc(builder.or_(found, sign), ir.VectorType(_I16, LANES))


def _encode_bfloat16(builder: Any, values: Any) -> Any:
    """Bits of the bfloat16 nearest to the float32 nearest to a float64, as in torch."""
    single = builder.fptrunc(values, ir.VectorType(_F32, LANES))
    bits = builder.bitcast(single, ir.VectorType(_I32, LANES))
    last = builder.and_(builder.lshr(bits, filled(_I32, 16)), filled(_I32, 1))
    word = builder.lshr(builder.add(bits, builder.add(last, filled(_I32, 0x7FFF))), filled(_I32, 16))
    nan = builder.fcmp_unordered("uno", single, single)
    return builder.trunc(builder.select(nan, filled(_I32, 0x7FC0), word), ir.VectorType(_I16, LANES))


def to_float64(builder: Any, source: str, raw: Any) -> Any:
    """Convert stored values, exactly where float64 holds them."""
    wide = ir.VectorType(_F64, LANES)
    if source == "float64":
        return raw
    if source in ("float32", "float16"):
        return builder.fpext(raw if source == "float32" else _decode_float16(builder, raw), wide)
    return builder.uitofp(raw, wide) if source[0] in "ub" else builder.sitofp(raw, wide)


def from_float64(builder: Any, out: str, values: Any) -> Any:
    """Round to the words of a dtype."""
    if out == "float64":
        return values
    if out == "float32":
        return builder.fptrunc(values, ir.VectorType(_F32, LANES))
    return (_encode_float16 if out == "float16" else _encode_bfloat16)(builder, values)
