"""Where the rows of a source come from, which decides whether any window may come next.

In: a source. Out: its tier. Never reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .region import is_mapped

if TYPE_CHECKING:
    from windowloader.source import Source

__all__ = ["AT_HAND", "TIERS", "tier_of"]

TIERS = ("memory", "mapped", "cached", "streamed")  # the further, the more it matters which row comes next
AT_HAND = ("memory", "mapped")


def tier_of(source: Source) -> str:
    """Return where the rows of a source come from, one of `TIERS`: what it says, or what its `array` shows.

    Examples
    --------
    >>> import numpy as np
    >>> from windowloader.sources.memory import ArraySource
    >>> turned = ArraySource(np.zeros((4, 2), ">f4"))  # no array of native numbers, and yet at hand
    >>> turned.array() is None, tier_of(turned)
    (True, 'memory')
    """
    said: str | None = getattr(source, "tier", None)
    if said is not None:
        return said
    array = source.array()
    return "streamed" if array is None else "mapped" if is_mapped(array) else "memory"
