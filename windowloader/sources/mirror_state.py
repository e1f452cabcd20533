"""What tells one state of stored data from another, beyond its metadata.

In: the location of a store. Out: short texts for a cache on disk: where it is, and in which state. Never reads values.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from .base import digest
from .failures import Asked
from .reads import Progress, wait
from .remote_objects import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .options import Location

__all__ = ["place_of", "state_of"]

SAMPLES = 8  # chunks that are asked for their version
# Parameters of a query that say who asks and until when, and not what: for Azure, where it is signed.
SIGNATURE = re.compile(
    r"x-(?:amz|goog)-.*|(?:.*-)?signature|sig|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|(?:.*[-_])?token",
    re.IGNORECASE,
)
AZURE = (
    "sv",
    "ss",
    "srt",
    "sp",
    "se",
    "st",
    "spr",
    "sip",
    "sr",
    "skoid",
    "sktid",
    "skt",
    "ske",
    "sks",
    "skv",
)
FORMS = {"zarr3": ("c/{/}", "{.}"), "zarr": ("{.}", "{/}")}  # how keys of chunks are written


def place_of(location: Location) -> str:
    """Where a store is that its URL does not say: the endpoint of a bucket, the query of a URL but for signatures."""
    query = parse_qsl(urlsplit(str(location.kvstore.get("base_url", ""))).query, keep_blank_values=True)
    signed = AZURE if "sig" in dict(query) else ()
    asked = [pair for pair in query if pair[0].lower() not in signed and not SIGNATURE.fullmatch(pair[0])]
    return f"{location.kvstore.get('endpoint', '')}{urlencode(asked)}"


def state_of(location: Location, driver: str, shape: Sequence[int], chunks: Sequence[int]) -> str:
    """Return what changes when a store of chunks is written again with the very same metadata.

    Versions (ETag, generation, time of change) of some chunks, evenly spread from the first to the last, asked for at
    once and without their bytes. A chunk between them that alone was replaced is not noticed: nothing short of asking
    for every chunk would. Other sources are one object, whose version is in their fingerprint. ``chunks`` are the
    sizes of what has a key: of shards, where there are any.
    """
    return digest(_versions(location, driver, shape, chunks))


def _versions(location: Location, driver: str, shape: Sequence[int], chunks: Sequence[int]) -> list[bytes]:
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
    total = int(np.prod(counts))
    places: np.ndarray = np.linspace(0, max(total - 1, 0), min(SAMPLES, total)).round().astype(np.int64)
    cells = [np.unravel_index(int(place), counts) for place in places]
    keys = [_key(form, cell) for cell, form in itertools.product(cells, FORMS.get(driver, ()))]
    if location.local is not None:
        return [_local(location.local / key) for key in keys]
    store = open_store(location)
    futures = [store.read(key, byte_range=slice(0, 0)) for key in keys]
    progress = Progress(location.renew)
    return [_version(key, future, location, progress) for key, future in zip(keys, futures, strict=True)]


def _local(path: Path) -> bytes:
    """Version of a file, looked up without TensorStore, so that the process may still be forked."""
    try:
        found = path.stat()
    except OSError:
        return b""
    return f"{found.st_mtime_ns} {found.st_size}".encode()


def _version(key: str, future: Any, location: Any, progress: Progress) -> bytes:
    try:
        found = wait(future, Asked(f"{location.url}/{key}"), limit=location.timeout, progress=progress)
    except PermissionError:  # what a bucket that may not be listed answers for keys that are not there
        return b""
    return bytes(found.stamp.generation) if found.state == "value" else b""


def _key(form: str, cell: Any) -> str:
    for separator in "/.":
        form = form.replace(f"{{{separator}}}", separator.join(str(int(index)) for index in cell))
    return form
