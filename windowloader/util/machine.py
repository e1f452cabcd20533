"""What kernels ask of the machine: fast copies, stores around the cache, memory before it is needed, pages of files.

In: arrays or addresses and positions in them. Out: bytes moved, cache lines and pages on their way; float16 where the
processor has it. Never checks a position, never holds the GIL.
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


def _move(_: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """``target[to : to + count] = source[at : at + count]`` by the C library, which knows the processor's best way."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointers = [
            builder.gep(
                context.make_array(signature.args[k])(context, builder, values[k]).data, [values[k + 1]]
            )
            for k in (0, 2)
        ]
        size = context.get_abi_sizeof(pointers[0].type.pointee)
        _BUILD.raw_memcpy(builder, pointers[0], pointers[1], values[4], size)
        return context.get_dummy_value()

    return types.void(target, to, source, at, count), generate


def _ask(context: Any, builder: Any, kind: Any, array: Any, at: Any, *, write: bool) -> Any:
    """Ask for the cache line of ``array[at]``, to keep it in the second-level cache."""
    data = context.make_array(kind)(context, builder, array).data
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    called = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = _BUILD.get_or_insert_function(builder.module, called, "llvm.prefetch.p0")
    address = builder.bitcast(builder.gep(data, [at]), byte)
    builder.call(function, [address, word(int(write)), word(NEAR), word(1)])
    return context.get_dummy_value()


def _fetch(_: Any, source: Any, at: Any) -> Any:
    """Ask for the cache line of ``source[at]`` before it is read; asking for what is not there does no harm."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _ask(context, builder, signature.args[0], *values, write=False)

    return types.void(source, at), generate


def _claim(_: Any, target: Any, at: Any) -> Any:
    """Ask for the cache line of ``target[at]`` before it is written."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _ask(context, builder, signature.args[0], *values, write=True)

    return types.void(target, at), generate


def _stream(_: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """Copy ``count`` cache lines to ``target[to]``, which begins one, around the cache; `settle` after the last."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lines = ir.VectorType(ir.IntType(32), LINE // 4).as_pointer()
        there, here = (
            builder.bitcast(
                builder.gep(
                    context.make_array(signature.args[k])(context, builder, values[k]).data, [values[k + 1]]
                ),
                lines,
            )
            for k in (0, 2)
        )
        mark = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        with _BUILD.for_range(builder, values[4]) as loop:
            value = builder.load(builder.gep(here, [loop.index]), align=1)
            store = builder.store(value, builder.gep(there, [loop.index]), align=LINE)
            store.set_metadata("nontemporal", mark)
        return context.get_dummy_value()

    return types.void(target, to, source, at, count), generate


def _settle(_: Any) -> Any:
    """Wait until what was written around the cache is seen by other threads, before anything later is."""

    def generate(context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _narrow(_: Any, single: Any) -> Any:
    """Bits of the float16 nearest to a float32, as the processor rounds it: to nearest, ties to even."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.fptrunc(values[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


def _widen(_: Any, word: Any) -> Any:
    """Float32 that a float16, given by its bits, is."""

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
    """Advise the system on byte ranges from ``address``, ``most`` bytes a call; return how many calls it refused.

    The system cuts a longer range at what it would read ahead by itself, without a word.
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
