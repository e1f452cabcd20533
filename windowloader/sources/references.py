"""References to chunks in other files (kerchunk, VirtualiZarr): what they may name.

In: a URL of fsspec and its options. Out: a store of zarr-python whose references name only places that the user named.
A file of references comes from anywhere, and could have any file of this machine read, or headers sent to any host.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.reference import LazyReferenceMapper, ReferenceFileSystem

from windowloader.errors import SourceFormatError
from windowloader.hiding import hide_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


class Lazy(LazyReferenceMapper):  # type: ignore[misc]
    """References in Parquet, checked as they are read."""

    allowed: Allowed

    def __getitem__(self, key: str) -> Any:
        entry = super().__getitem__(key)
        _check(self.allowed, entry)
        return entry


class References(ReferenceFileSystem):  # type: ignore[misc]
    """References that name no place but those that are allowed.

    Parameters
    ----------
    fo : str or mapping
        File of JSON, folder of Parquet, or the references themselves.
    allow_references : bool, str or sequence of str
        Folders and beginnings of URLs that they may name.
    **options
        As fsspec takes them.

    Raises
    ------
    SourceFormatError
        Where references in JSON name another place, with the first.
    """

    cachable = False  # the file may be another by now

    def __init__(self, fo: Any, *, allow_references: bool | str | Sequence[str] = (), **options: Any) -> None:
        places = (allow_references,) if isinstance(allow_references, str) else allow_references
        remote = options.get("remote_options") or {}
        allowed = Allowed(
            places if isinstance(places, bool) else tuple(places),
            fo if isinstance(fo, str) else "",
            options.get("remote_protocol"),
            any(remote.get(name) for name in SECRET),
        )
        found = fo
        if isinstance(fo, str):
            inner = {**(options.get("target_options") or {}), "protocol": options.get("target_protocol")}
            system, path = fsspec.core.url_to_fs(fo, **inner)
            if ".json" not in path and system.isdir(path):
                found = Lazy(path, fs=system, engine="pyarrow")
                found.allowed = allowed
        super().__init__(found, **options)
        if found is fo:
            for entry in self.references.values():
                _check(allowed, entry)


def _check(allowed: Allowed, entry: Any) -> None:
    if isinstance(entry, list | tuple) and entry:
        allowed.check(entry[0])


def open_store(url: str, options: Mapping[str, Any]) -> Any:
    """Open a store through fsspec; its references, if it has any, are checked.

    Parameters
    ----------
    url : str
        As fsspec takes it; ``reference://``, or ``reference::`` and the URL of the references.
    options : mapping
        As fsspec takes them, and ``allow_references``: see `References`.

    Returns
    -------
    zarr.storage.FsspecStore

    Raises
    ------
    SourceFormatError
        Where references name another place than those that are allowed.
    """
    from zarr.storage import FsspecStore

    scheme, _, rest = url.partition(":")
    if scheme != "reference":
        if "reference:" in url:
            raise SourceFormatError(f"{hide_secrets(url)!r}: reference: stands first in a chain.")
        return FsspecStore.from_url(url, storage_options=dict(options), read_only=True)
    options = {"asynchronous": True, **options}
    options["remote_options"] = {"asynchronous": True, **(options.get("remote_options") or {})}
    if rest.startswith(":"):
        options |= {"fo": rest[1:], "target_options": options.pop(rest[1:].partition(":")[0], None)}
    return FsspecStore(
        References(**options), read_only=True, path="" if rest[:1] == ":" else rest[2:].strip("/")
    )
