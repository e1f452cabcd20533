"""Patterns of paths and URLs, ``speed_*.nc``: the files that match, in natural order of their names.

In: a pattern, here or in a bucket. Out: paths or URLs. Never opens one.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from windowloader.errors import SourceFormatError
from windowloader.hiding import hide_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["is_pattern", "is_url", "matching", "natural"]


def is_url(target: Any) -> bool:
    """Whether a path names a place other than this machine's files."""
    return isinstance(target, str) and "://" in target and not target.startswith(("file://", "local://"))


def is_pattern(target: Any) -> bool:
    """Whether a target is a pattern: of URLs only ``*`` tells, as ``?`` begins a query."""
    if not isinstance(target, str):
        return False
    return "*" in target if is_url(target) else glob.has_magic(target) and not os.path.exists(target)


def natural(name: str) -> tuple[list[int | str], str]:
    """Return what sorts names with their numbers by value: part_2 before part_10.

    Examples
    --------
    >>> sorted(["part_10", "part_2"], key=natural)
    ['part_2', 'part_10']
    """
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def matching(pattern: str, storage_options: Mapping[str, Any]) -> list[str]:
    """Paths or URLs that match, in natural order.

    Raises
    ------
    SourceFormatError
        Where there is none, and for web servers, which list nothing.
    """
    found = _listed(pattern, storage_options) if is_url(pattern) else glob.glob(pattern)
    if not found:
        raise SourceFormatError(f"no file matches {hide_secrets(pattern)!r}.")
    return sorted(found, key=natural)


def _listed(pattern: str, storage_options: Mapping[str, Any]) -> list[str]:
    """Match the objects of a bucket; below one that is a folder, as a Zarr store is, all are one match."""
    import fsspec

    from .failures import Asked, explained
    from .options import locate, scheme_of, supported
    from .processes import tensorstore
    from .remote_objects import open_store, own_headers_stay, wait_for

    def globbed() -> list[str]:
        system, path = fsspec.core.url_to_fs(pattern, **options)
        return [system.unstrip_protocol(name) for name in system.glob(path)]

    if scheme_of(pattern) in ("http", "https"):
        raise SourceFormatError(
            f"{hide_secrets(pattern)!r} is a pattern, and web servers do not list their files. Pass a list of URLs."
        )
    if not supported(pattern):
        options = own_headers_stay(storage_options)
        options.pop("timeout", None)
        return explained(Asked(hide_secrets(pattern)), globbed)
    folder, _, begin = pattern.partition("*")[0].rpartition("/")
    wanted, location = pattern[len(folder) + 1 :], locate(folder, storage_options)
    below = tensorstore().KvStore.KeyRange(begin, f"{begin}\U0010ffff" if begin else "")
    keys = wait_for(open_store(location).list(below), location)
    depth = wanted.count("/") + 1
    found = {"/".join(key.decode().split("/")[:depth]) for key in keys}
    return [f"{folder}/{name}" for name in found if PurePosixPath(name).match(wanted)]
