"""Where bytes are: sources of arrays, read by range of rows.

In: paths, URLs, arrays, stores. Out: `Source`, and what its methods return: `Storage`, `Pending`. Knows nothing of
windows.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Source, digest
    from .reads import Pending
    from .storage import Box, Storage

__all__ = ["Box", "Pending", "Source", "Storage", "digest"]

_HOMES = {"Box": "box", "Pending": "reads", "Source": "base", "Storage": "storage", "digest": "base"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
