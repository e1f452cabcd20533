"""Where bytes are: sources of arrays, read by range of rows.

In: paths, URLs, arrays, stores. Out: `Source`, and what its methods return: `Storage`, `Pending`. Knows nothing of
windows.
"""

from __future__ import annotations

from .base import Source, digest
from .box import Box
from .reads import Pending
from .storage import Storage

__all__ = ["Box", "Pending", "Source", "Storage", "digest"]
