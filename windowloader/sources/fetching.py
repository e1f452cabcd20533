"""Tables and archives behind a URL: fetched whole, by the engine, retries, limits and errors of streams.

In: a URL and ``storage_options``. Out: a file that exists while it is parsed. Follows redirects of web servers, which
are good for one download; own headers and passwords stay with the host that they were given for.
"""

from __future__ import annotations

import base64
import os
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np

from windowloader.errors import SourceError, WindowLoaderError
from windowloader.hiding import hide_secrets

from .base import Described
from .failures import REDIRECT, Asked, explained
from .memory import ArraySource, LoadedSource
from .remote_objects import get, remote_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from windowloader.sources import Source

    from .options import Location

__all__ = ["fetched", "open_fetched"]

HOPS = 5  # redirects that are followed, one after the other
WEB = ("http://", "https://")
OWN = ("headers", "client_kwargs")  # options that are meant for one host


@contextmanager
def fetched(url: str, storage_options: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Fetch an object to a temporary file of its name, which the body of the ``with`` statement parses.

    Parameters
    ----------
    url : str
        Of the object.
    storage_options : mapping, optional
        See `windowloader.sources.options.locate`.

    Yields
    ------
    str
        Path of the file.

    Raises
    ------
    SourceError
        As for streams, by what the storage says; errors of the body name the URL in place of the file.
    """
    shown = hide_secrets(url)
    data = _whole(url, dict(storage_options or {}))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, shown.partition("?")[0].rstrip("/").rpartition("/")[2])
        with open(path, "wb") as file:
            file.write(data)
        del data
        try:
            yield path
        except WindowLoaderError as error:
            raise type(error)(str(error).replace(path, shown)) from None


def open_fetched(
    url: str, storage_options: Mapping[str, Any] | None, opener: Callable[[str], Source]
) -> Source:
    """Open in memory what cannot be read in parts: ``opener`` opens the file of the object."""
    with fetched(url, storage_options) as path:
        source = opener(path)
        values = source.array() if isinstance(source, LoadedSource) else None
        if values is None:  # the file that it lies in will be gone
            values = np.empty(source.shape, source.dtype)
            source.read(0, len(values), values)
        whole = ArraySource(values, axes=source.axes, name=hide_secrets(url), dims=source.dims)
        labels = {axis: found for axis in range(values.ndim) if (found := source.labels(axis)) is not None}
        whole.description, whole.doubts = Described(labels, source.timestamps()), source.doubts
        source.close()
        return whole


def _whole(url: str, options: dict[str, Any], hops: int = HOPS) -> bytes:
    """Fetch an object, from where redirects lead; another host gets nothing that was meant for this one."""
    remote = remote_object(url, options)
    try:
        return get(remote, 0, None)
    except SourceError as error:
        if not (hops and url.lower().startswith(WEB) and REDIRECT.search(str(error)) and remote.location):
            raise
    old, new = (
        urlsplit(url),
        urlsplit(explained(Asked(remote.name), partial(_redirected, url, remote.location))),
    )
    if (new.scheme, new.netloc.rpartition("@")[2]) == (old.scheme, old.netloc.rpartition("@")[2]):
        return _whole(new._replace(netloc=old.netloc).geturl(), options, hops - 1)
    theirs = {name: value for name, value in options.items() if name not in OWN}
    return _whole(new.geturl(), theirs, hops - 1)


def _redirected(url: str, location: Location) -> str:
    """Return where a web server redirects to: TensorStore tells that it does, and not where."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    headers = dict(line.split(": ", 1) for line in location.kvstore.get("headers", ()))
    headers = {"User-Agent": "windowloader", "Range": "bytes=0-0", **headers}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
    request = urllib.request.Request(parts._replace(netloc=host, fragment="").geturl(), headers=headers)
    target = ""
    try:
        urllib.request.build_opener(_Stay).open(request, timeout=location.timeout).close()
    except urllib.error.HTTPError as answer:
        with answer:
            if answer.code // 100 == 3:
                target = urljoin(url, answer.headers.get("Location", ""))
    if target.lower().startswith(WEB):
        return target
    raise SourceError(
        f"{location.url!r}: the server redirects, and does not say to which URL. Pass that URL."
    )


class _Stay(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect to who asked."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""
