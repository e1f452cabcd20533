"""Removes secrets from URLs: passwords, and queries, which may contain signatures.

In: any text. Out: the text without them. `windowloader.errors.WindowLoaderError` passes its messages through it.
"""

from __future__ import annotations

import re

__all__ = ["hide_secrets"]

SCHEME = r"\b(?!(?:file|local):)[a-z][a-z0-9+.-]+:/{1,3}"
INSIDE = r"(?:[^\s'\"<>]|'(?=[\w%&=/+~-]))"  # a quote that ends a name does not belong to its URL
# User and password, up to the last @ before the path; a password with an unescaped / ? or # goes up to the last @ of
# all, and is recognised by a port that is not a number. A single word before @ stays outside the web: abfs://container@account.
USER = re.compile(
    rf"({SCHEME})(?:[^\s/?#]*:[^\s/?#]*@|[^\s/?#:@\[]*:(?!\d*(?:[/?#\s'\"]|$))\S*@)", re.IGNORECASE
)
WEB_USER = re.compile(r"\b(https?:/{1,3})[^\s/?#]*@", re.IGNORECASE)
QUERY = re.compile(rf"({SCHEME}[^\s?'\"<>]*)\?{INSIDE}+", re.IGNORECASE)
PARAMETER = re.compile(
    rf"(?:[?&#]|%3f|%26)[\w.~+-]+(?:=|%3d){INSIDE}*", re.IGNORECASE
)  # also without its URL


def hide_secrets(text: str) -> str:
    """Remove passwords and queries from all URLs in a text.

    Parameters
    ----------
    text : str
        A URL, or a message with any number of URLs.

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
