"""References to chunks in other files (kerchunk, VirtualiZarr): what they may name.

In: a URL of fsspec and its options. Out: a store of zarr-python whose references name only places that the user named.
A file of references comes from anywhere, and could have any file of this machine read, or headers sent to any host.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.reference import LazyReferenceMapper, ReferenceFileSystem

from windowloader.errors import SourceFormatError
from windowloader.hiding import hide_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["open_store"]

LOCAL = ("file", "local")
SECRET = ("headers", "client_kwargs")


class Lazy(LazyReferenceMapper):  # type: ignore[misc]
    """References in Parquet, checked as they are read."""

    check: Callable[[Any], None]

    def __getitem__(self, key: str) -> Any:
        entry = super().__getitem__(key)
        self.check(entry)
        return entry


class References(ReferenceFileSystem):  # type: ignore[misc]
    """References that name no place but those that are allowed.

    Parameters
    ----------
    fo : str or mapping
        File of JSON, folder of Parquet, or the references themselves.
    allow_references : bool, str or sequence of str
        Folders and beginnings of URLs that they may name; True: any place.
    **options
        As fsspec takes them. Where ``remote_options`` have headers, these are for the hosts that were named alone.

    Raises
    ------
    SourceFormatError
        Where references in JSON name another place, with the first.
    """

    cachable = False  # the file may be another by now

    def __init__(self, fo: Any, *, allow_references: bool | str | Sequence[str] = (), **options: Any) -> None:
        self._allowed = [allow_references] if isinstance(allow_references, str) else allow_references or ()
        self._origin, self._scheme = fo if isinstance(fo, str) else "", options.get("remote_protocol")
        remote, found = options.get("remote_options") or {}, fo
        self._secret = any(remote.get(name) for name in SECRET)
        if isinstance(fo, str):
            inner = {**(options.get("target_options") or {}), "protocol": options.get("target_protocol")}
            system, path = fsspec.core.url_to_fs(fo, **inner)
            if ".json" not in path and system.isdir(path):
                found = Lazy(path, fs=system, engine="pyarrow")
                found.check = self._check
        super().__init__(found, **options)
        if found is fo:
            for entry in self.references.values():
                self._check(entry)

    def _check(self, entry: Any) -> None:
        """Raise `SourceFormatError` where an entry names a place that is not allowed."""
        url = entry[0] if isinstance(entry, list | tuple) and entry else None
        if not url or not isinstance(url, str) or self._allowed is True:
            return
        scheme, separator, _ = url.partition("://")
        scheme = scheme.lower() if separator else self._scheme or "file"
        local = scheme in LOCAL
        same = not local and _host(url) == _host(self._origin)
        if same or (scheme == self._scheme and not self._secret):
            return
        if any(_below(url, place, local) for place in self._allowed):
            return
        place = os.path.dirname(_path(url)) if local else "://".join(_host(url)) + "/"
        raise SourceFormatError(
            f"the references {hide_secrets(self._origin)!r} name {hide_secrets(url)!r}, which is "
            f"{'a file of this machine' if local else 'on another host'}. If they are meant to, pass "
            f"storage_options={{'allow_references': [{hide_secrets(place)!r}]}}, or True for any place."
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
