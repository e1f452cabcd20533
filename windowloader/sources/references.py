"""References to chunks in other files (kerchunk, VirtualiZarr): what they may name.

In: a URL of fsspec and its options. Out: a store of zarr-python whose references name only places that the user named.
A file of references comes from anywhere, and could have any file of this machine read, or headers sent to any host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from windowloader.errors import SourceFormatError
from windowloader.hiding import hide_secrets

__all__ = ["OPTION", "open_store"]

OPTION = "allow_references"
LOCAL = ("file", "local")
SECRET = ("headers", "client_kwargs")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Places that references may name.

    Parameters
    ----------
    places : bool or tuple of str
        As the user gave them: folders and beginnings of URLs; True: any.
    origin : str
        URL of the references; empty where they were given as a mapping.
    protocol : str or None
        What the user said they are read by (``remote_protocol``).
    secret : bool
        Whether options have headers, which are for the hosts that were named alone.
    """

    places: bool | tuple[str, ...]
    origin: str
    protocol: str | None
    secret: bool

    def check(self, target: object) -> None:
        """Raise `SourceFormatError` where a reference names another place."""
        url = target if isinstance(target, str) else ""
        scheme, separator, _ = url.partition("://")
        scheme = scheme.lower() if separator else self.protocol or "file"
        local = scheme in LOCAL
        if not url or self.places is True or any(_below(url, place, local) for place in self.places or ()):
            return
        if scheme == self.protocol and not self.secret:
            return
        if not local and _host(url) == _host(self.origin):
            return
        place = os.path.dirname(_path(url)) if local else "://".join(_host(url)) + "/"
        raise SourceFormatError(
            f"the references {hide_secrets(self.origin)!r} name {hide_secrets(url)!r}, which is "
            f"{'a file of this machine' if local else 'on another host'}. If they are meant to, pass "
            f"storage_options={{{OPTION!r}: [{hide_secrets(place)!r}]}}, or True for any place."
        )


def _host(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()


def _path(url: str) -> str:
    return os.path.realpath(url.partition("://")[2] if "://" in url else url)


def _below(url: str, place: str, local: bool) -> bool:
    if local and ("://" not in place or place.partition("://")[0] in LOCAL):
        return os.path.commonpath([_path(url), _path(place)]) == _path(place)
    return f"{url}/".startswith(place.rstrip("/") + "/") and "/../" not in url


def open_store(url: str, options: Mapping[str, Any]) -> Any:
    """Open a store through fsspec; its references, if it has any, are checked.

    Parameters
    ----------
    url : str
        As fsspec takes it.
    options : mapping
        As fsspec takes them, and ``allow_references``: places that references may name.

    Returns
    -------
    zarr.storage.FsspecStore

    Raises
    ------
    SourceFormatError
        Where references in JSON name another place, with the first; those in Parquet are checked as they are read.
    """
    from fsspec.implementations.reference import LazyReferenceMapper, ReferenceFileSystem
    from zarr.storage import FsspecStore

    options = dict(options)
    places = options.pop(OPTION, ())
    if url.startswith("reference:"):
        inner = {"asynchronous": True, **(options.get("remote_options") or {})}
        options = {"skip_instance_cache": True, **options, "remote_options": inner}
    store = FsspecStore.from_url(url, storage_options=options, read_only=True)
    system = store.fs
    if not isinstance(system, ReferenceFileSystem):
        return store
    given = system.storage_options
    allowed = Allowed(
        places if isinstance(places, bool) else (places,) if isinstance(places, str) else tuple(places),
        str(given["fo"]) if isinstance(given.get("fo"), str) else "",
        given.get("remote_protocol"),
        any((given.get("remote_options") or {}).get(name) for name in SECRET),
    )
    found = system.references
    if isinstance(found, LazyReferenceMapper):

        class Checked(LazyReferenceMapper):  # type: ignore[misc]
            """References that are read by and by."""

            def __getitem__(self, key: str) -> Any:
                entry = super().__getitem__(key)
                _check(allowed, entry)
                return entry

        system.references = Checked(found.root, found.fs, cache_size=found.cache_size, engine="pyarrow")
    elif isinstance(found, Mapping):
        for entry in found.values():
            _check(allowed, entry)
    return store


def _check(allowed: Allowed, entry: Any) -> None:
    if not isinstance(entry, str | bytes) and isinstance(entry, list | tuple) and entry:
        allowed.check(entry[0])
