"""Machine instructions for kernels: fast copies, non-temporal stores, prefetches, float16, advice on pages of files.

In: arrays or addresses, and positions in them. Out: bytes copied, cache lines and pages prefetched; float16 where the
processor has it. Never checks a position, and never needs the GIL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "HALVES", "LINE", "advise", "claim", "count_resident", "fetch", "move", "narrow", "settle", "stream", "widen"
]  # fmt: skip

LINE = 64  # bytes of a cache line
NEAR = 2  # of 3: a first-level cache has room for few requests, which then wait for each other
HALVES: bool = "+f16c" in cpu_target.target_context.codegen().magic_tuple()[2]
"""Whether `narrow` and `widen` may be compiled: of the features that numba compiles for, which its cache goes by."""
_BUILD: Any = cgutils


def _pointer(context: Any, builder: Any, signature: Any, values: Any, k: int) -> Any:
    """Address of the element ``values[k + 1]`` of the array ``values[k]``."""
    array = context.make_array(signature.args[k])(context, builder, values[k])
    return builder.gep(array.data, [values[k + 1]])


def _move(_: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """``target[to : to + count] = source[at : at + count]`` by the C library's memcpy."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointers = [_pointer(context, builder, signature, values, k) for k in (0, 2)]
        _BUILD.raw_memcpy(builder, *pointers, values[4], context.get_abi_sizeof(pointers[0].type.pointee))
        return context.get_dummy_value()

    return types.void(target, to, source, at, count), generate


def _prefetch(array: Any, at: Any, *, write: bool) -> Any:
    """Prefetch the cache line of ``array[at]`` into the second-level cache."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        called = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = _BUILD.get_or_insert_function(builder.module, called, "llvm.prefetch.p0")
        address = builder.bitcast(_pointer(context, builder, signature, values, 0), byte)
        builder.call(function, [address, word(int(write)), word(NEAR), word(1)])
        return context.get_dummy_value()

    return types.void(array, at), generate


def _fetch(_: Any, source: Any, at: Any) -> Any:
    """Prefetch the cache line of ``source[at]`` for reading; an address outside the array does no harm."""
    return _prefetch(source, at, write=False)


def _claim(_: Any, target: Any, at: Any) -> Any:
    """Prefetch the cache line of ``target[at]`` for writing."""
    return _prefetch(target, at, write=True)


def _stream(_: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """Copy ``count`` cache lines to the aligned ``target[to]`` past the cache; call `settle` after the last."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lines = ir.VectorType(ir.IntType(32), LINE // 4).as_pointer()
        there, here = (
            builder.bitcast(_pointer(context, builder, signature, values, k), lines) for k in (0, 2)
        )
        mark = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        with _BUILD.for_range(builder, values[4]) as loop:
            value = builder.load(builder.gep(here, [loop.index]), align=1)
            store = builder.store(value, builder.gep(there, [loop.index]), align=LINE)
            store.set_metadata("nontemporal", mark)
        return context.get_dummy_value()

    return types.void(target, to, source, at, count), generate


def _settle(_: Any) -> Any:
    """Make non-temporal stores visible to other threads before any later store."""

    def generate(context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _narrow(_: Any, single: Any) -> Any:
    """Bits of a float32 rounded to float16 by the processor: to nearest, ties to even."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.fptrunc(values[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


def _widen(_: Any, word: Any) -> Any:
    """Convert a float16, given by its bits, to float32."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


move: Any = intrinsic(_move)
stream: Any = intrinsic(_stream)
settle: Any = intrinsic(_settle)
fetch: Any = intrinsic(_fetch)
claim: Any = intrinsic(_claim)
narrow: Any = intrinsic(_narrow)
widen: Any = intrinsic(_widen)

_call_madvise: Any = types.ExternalFunction("madvise", types.int32(types.uintp, types.uintp, types.int32))
_call_mincore: Any = types.ExternalFunction("mincore", types.int32(types.uintp, types.uintp, types.voidptr))


@kernel
def advise(
    address: int, begins: NDArray[np.int64], ends: NDArray[np.int64], advice: int, page: int, most: int
) -> int:
    """Call madvise on byte ranges from ``address``, ``most`` bytes a call; return how many calls failed.

    The system silently truncates longer ranges to its own readahead limit.
    """
    refused = 0
    for k in range(begins.size):
        at = (address + begins[k]) // page * page
        end = address + ends[k]
        while at < end:
            refused += _call_madvise(np.uintp(at), np.uintp(min(most, end - at)), np.int32(advice)) != 0
            at += most
    return refused


@kernel
def count_resident(address: int, places: NDArray[np.int64], page: int) -> int:
    """Count the places, in bytes from ``address``, whose page is in memory; −1 where the system does not say."""
    found = 0
    byte = np.zeros(1, np.uint8)
    for k in range(places.size):
        at = (address + places[k]) // page * page
        if _call_mincore(np.uintp(at), np.uintp(page), byte.ctypes) != 0:
            return -1
        found += byte[0] & 1
    return found
