"""What kernels ask of the processor: the fastest copy there is, and memory before it is needed.

In: arrays and positions in them, inside a kernel. Out: bytes moved, cache lines on their way. Never checks a position.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["LINE", "fetch", "move"]

LINE = 64  # bytes of a cache line
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


def _fetch(_: Any, source: Any, at: Any) -> Any:
    """Ask for the cache line of ``source[at]`` before it is needed; asking for what is not there does no harm."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = _BUILD.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        address = builder.bitcast(builder.gep(data, [values[1]]), byte)
        builder.call(function, [address, word(0), word(3), word(1)])  # to read, and to keep
        return context.get_dummy_value()

    return types.void(source, at), generate


move: Any = intrinsic(_move)
fetch: Any = intrinsic(_fetch)
