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
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np

from windowloader.errors import SourceError, WindowLoaderError
from windowloader.hiding import hide_secrets

from .blobs import blob_of, get
from .failures import REDIRECT, Asked, explained
from .memory import ArraySource, LoadedSource
from .options import headers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from windowloader.source import Source

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
        axes = range(len(source.shape))
        whole = ArraySource(
            values,
            axes=source.axes,
            name=hide_secrets(url),
            dims=source.dims,
            labels={axis: labels for axis in axes if (labels := source.labels(axis)) is not None},
            timestamps=source.timestamps(),
        )
        whole.doubts = source.doubts
        source.close()
        return whole


def _whole(url: str, options: dict[str, Any]) -> bytes:
    asked = Asked(hide_secrets(url))
    for _ in range(HOPS):
        try:
            return get(blob_of(url, options), 0, None)
        except SourceError as error:
            if not (url.lower().startswith(WEB) and REDIRECT.search(str(error))):
                raise
        url, options = _followed(url, options, asked)
    raise SourceError(f"{asked}: redirects from one URL to the next, more than {HOPS}. Pass the last one.")


def _followed(url: str, options: dict[str, Any], asked: Asked) -> tuple[str, dict[str, Any]]:
    """Return where a redirect leads, and options: of another host without what was meant for this one."""
    old = urlsplit(url)
    new = urlsplit(explained(asked, lambda: _redirected(url, options)))
    if (new.scheme, new.netloc.rpartition("@")[2]) == (old.scheme, old.netloc.rpartition("@")[2]):
        return new._replace(netloc=old.netloc).geturl(), options
    return new.geturl(), {name: value for name, value in options.items() if name not in OWN}


def _redirected(url: str, options: Mapping[str, Any]) -> str:
    """Return where a web server redirects to: TensorStore tells that it does, and not where."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    headers = {"User-Agent": "windowloader", "Range": "bytes=0-0", **headers_of(options)}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
    request = urllib.request.Request(parts._replace(netloc=host, fragment="").geturl(), headers=headers)
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=float(options.get("timeout", 25.0))):
            pass
    except urllib.error.HTTPError as answer:
        with answer:
            target = urljoin(url, answer.headers.get("Location", ""))
        if answer.code // 100 == 3 and target.lower().startswith(WEB):
            return target
    raise SourceError(
        f"{hide_secrets(url)!r}: the server redirects, and does not say to which URL. Pass that URL."
    )


class _Stay(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect to who asked."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""
