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
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np

from windowloader.errors import SourceError, WindowLoaderError, hide_secrets

from .base import Described
from .failures import REDIRECT, Asked, explained
from .memory import ArraySource, LoadedSource
from .remote_objects import get, remote_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from windowloader.sources import Source

    from .options import Location

__all__ = ["fetched", "open_fetched"]

WEB = ("http://", "https://")
AGENT = {"User-Agent": "windowloader"}


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
        As for streams; errors of the body name the URL in place of the file.
    """
    shown = hide_secrets(url)
    data = _whole(url, storage_options or {})
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


def _whole(url: str, options: Mapping[str, Any]) -> bytes:
    """Fetch an object, from where redirects lead if a web server redirects."""
    remote = remote_object(url, options)
    try:
        return get(remote, 0, None)
    except SourceError as error:
        if not (url.lower().startswith(WEB) and REDIRECT.search(str(error)) and remote.location):
            raise
    return explained(Asked(remote.name), lambda: _redirected(url, remote.location))


def _redirected(url: str, location: Location) -> bytes:
    """Fetch what a web server redirects to; TensorStore does not say where that is."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    headers = dict(line.split(": ", 1) for line in location.kvstore.get("headers", ()))
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
    place = parts._replace(netloc=host, fragment="").geturl()
    request = urllib.request.Request(place, headers={**AGENT, **headers})
    try:
        with urllib.request.build_opener(_OwnHeadersStay).open(request, timeout=location.timeout) as answer:
            data: bytes = answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise SourceError(
            f"{location.url!r}: the server redirects, and what it leads to cannot be fetched ({error}). Pass the URL "
            "of the data itself."
        ) from None
    return data


class _OwnHeadersStay(urllib.request.HTTPRedirectHandler):
    """Follows redirects between web servers; another host gets no headers that were meant for this one."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request for where a redirect leads."""
        if not newurl.lower().startswith(WEB):
            raise urllib.error.HTTPError(req.full_url, code, "not to a web server", headers, fp)
        followed = super().redirect_request(req, fp, code, msg, headers, newurl)
        if followed is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            followed.headers = {name.capitalize(): value for name, value in AGENT.items()}
        return followed
