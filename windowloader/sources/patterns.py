"""Patterns of paths and URLs, ``speed_*.nc``: the files that match, in natural order of their names.

In: a pattern, here or in a bucket. Out: paths or URLs. Never opens one.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
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
    from .options import locate, scheme_of, supported

    if scheme_of(pattern) in ("http", "https"):
        raise SourceFormatError(
            f"{hide_secrets(pattern)!r} is a pattern, and web servers do not list their files. Pass a list of URLs."
        )
    if not supported(pattern):
        return _globbed(pattern, storage_options)
    fixed = pattern.partition("*")[0]
    folder = fixed.rpartition("/")[0]
    wanted = pattern[len(folder) + 1 :].split("/")
    found = set()
    for key in _keys(locate(folder, storage_options), fixed[len(folder) + 1 :]):
        names = key.split("/")[: len(wanted)]
        if len(names) == len(wanted) and all(map(fnmatch.fnmatchcase, names, wanted)):
            found.add("/".join([folder, *names]))
    return list(found)


def _keys(location: Any, prefix: str) -> list[str]:
    """Keys of a folder in a bucket that begin with a prefix."""
    from .kvstore import open_store, wait_for
    from .processes import tensorstore

    least = prefix.encode()
    keys = tensorstore().KvStore.KeyRange(least, least + b"\xff" if least else b"")
    return [key.decode() for key in wait_for(open_store(location).list(keys), location)]


def _globbed(pattern: str, storage_options: Mapping[str, Any]) -> list[str]:
    """Match by fsspec, where TensorStore has no such store."""
    import fsspec

    from .blobs import own_headers_stay
    from .failures import Asked, explained

    options = own_headers_stay(storage_options)
    options.pop("timeout", None)

    def listed() -> list[str]:
        system, path = fsspec.core.url_to_fs(pattern, **options)
        return [system.unstrip_protocol(name) for name in system.glob(path)]

    return explained(Asked(hide_secrets(pattern)), listed)
