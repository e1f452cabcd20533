"""Where the rows of a source come from, which decides whether any window may come next.

In: nothing. Out: the words for it, nearest first. Never reads.
"""

from __future__ import annotations

__all__ = ["LOCAL_TIERS", "TIERS"]

TIERS = ("memory", "mapped", "cached", "streamed")  # the further, the more it matters which row comes next
LOCAL_TIERS = ("memory", "mapped")
