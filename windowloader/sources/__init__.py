"""What a source is, for whoever writes one: an array of rows along time that can be read by row range.

In: nothing; the engines in ``sources/`` derive from it. Out: `Source`, and what its methods return. Never knows of
windows.
"""

from __future__ import annotations

from .base import Source, digest
from .box import Box
from .reads import Pending
from .storage import Storage

__all__ = ["Box", "Pending", "Source", "Storage", "digest"]
