"""Where arrays lie, and how large the processor's cache is.

In: an array, or nothing. Out: an address, a size. Needs no compiled code.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["address_of", "second_level_cache"]

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN = 1 << 20  # bytes, where the system does not say


def address_of(array: np.ndarray) -> int:
    """Address of an array's first element."""
    return int(array.__array_interface__["data"][0])


@cache
def second_level_cache() -> int:
    """Bytes of a core's second-level cache."""
    for folder in CACHES.glob("index*"):
        try:
            level, size = ((folder / name).read_text().strip() for name in ("level", "size"))
        except OSError:
            continue
        if level == "2" and size[:-1].isdigit() and size[-1] in "KM":
            return int(size[:-1]) << (10 if size[-1] == "K" else 20)
    return UNKNOWN
