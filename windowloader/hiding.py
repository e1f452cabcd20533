"""URLs as they may be shown: without passwords, and without queries, which may hold signatures.

In: any text. Out: the same text to be shown. `windowloader.errors.WindowLoaderError` passes its messages through it.
"""

from __future__ import annotations

import re

__all__ = ["hide_secrets"]

SCHEME = r"\b(?!(?:file|local):)[a-z][a-z0-9+.-]+:/{1,3}"
INSIDE = r"(?:[^\s'\"<>]|'(?=[\w%&=/+~-]))"  # a quote that ends a name is no part of its URL
# User and password, up to the last @ before the path; a password with an unescaped / ? or # goes up to the last @ of
# all, and is told by a port that is no number. A single word before @ is kept outside the web: abfs://container@account.
USER = re.compile(
    rf"({SCHEME})(?:[^\s/?#]*:[^\s/?#]*@|[^\s/?#:@\[]*:(?!\d*(?:[/?#\s'\"]|$))\S*@)", re.IGNORECASE
)
WEB_USER = re.compile(r"\b(https?:/{1,3})[^\s/?#]*@", re.IGNORECASE)
QUERY = re.compile(rf"({SCHEME}[^\s?'\"<>]*)\?{INSIDE}+", re.IGNORECASE)
PARAMETER = re.compile(
    rf"(?:[?&#]|%3f|%26)[\w.~+-]+(?:=|%3d){INSIDE}*", re.IGNORECASE
)  # also without its URL


def hide_secrets(text: str) -> str:
    """Take passwords and queries out of all URLs in a text.

    Parameters
    ----------
    text : str
        A URL, or a message with any number of them.

    Returns
    -------
    str
        ``https://host/path?…`` for ``https://user:password@host/path?signature=…``.

    Examples
    --------
    >>> hide_secrets("'https://me:hush@host/a.csv?sig=abc' cannot be read")
    "'https://host/a.csv?…' cannot be read"
    >>> hide_secrets("abfs://container@account/a.zarr")
    'abfs://container@account/a.zarr'
    """
    text = WEB_USER.sub(r"\1", USER.sub(r"\1", text))
    return PARAMETER.sub("?…", QUERY.sub(r"\1?…", text))
