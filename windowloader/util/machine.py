"""Calls of the C library in compiled code: memcpy, and advice on pages of files.

In: arrays or addresses, and positions in them. Out: bytes copied, pages prefetched. Never checks a position, and never
needs the GIL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from .jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["advise", "count_resident", "move"]

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


move: Any = intrinsic(_move)

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
