"""Where the rows of a source come from, which decides whether any window may come next.

In: nothing. Out: the words for it, nearest first. Never reads.
"""

from __future__ import annotations

__all__ = ["AT_HAND", "TIERS"]

TIERS = ("memory", "mapped", "cached", "streamed")  # the further, the more it matters which row comes next
AT_HAND = ("memory", "mapped")
