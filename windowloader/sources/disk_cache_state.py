"""What tells one state of a stored array from another, beyond its metadata: for the disk cache.

In: the location of a store. Out: short texts: where it is, and in which state. Never reads values.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from .base import digest
from .failures import Asked
from .reads import Progress, wait
from .remote_objects import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .options import Location

__all__ = ["address_of", "state_of"]

SAMPLES = 8  # chunks that are asked for their version
# Query parameters that say who asks and until when, and not what: for Azure, where it is signed.
SIGNATURE = re.compile(
    r"x-(?:amz|goog)-.*|(?:.*-)?signature|sig|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|(?:.*[-_])?token",
    re.IGNORECASE,
)
AZURE = [
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
]
# Prefix and separator of chunk keys.
KEYS = {"zarr3": (("c/", "/"), ("", ".")), "zarr": (("", "."), ("", "/"))}


def address_of(location: Location) -> str:
    """Return what a URL does not say of where a store is: a bucket's endpoint, the query without signatures."""
    query = parse_qsl(urlsplit(str(location.kvstore.get("base_url", ""))).query, keep_blank_values=True)
    signed = AZURE if "sig" in dict(query) else ()
    asked = [pair for pair in query if pair[0].lower() not in signed and not SIGNATURE.fullmatch(pair[0])]
    return f"{location.kvstore.get('endpoint', '')}{urlencode(asked)}"


def state_of(location: Location, driver: str, shape: Sequence[int], chunks: Sequence[int]) -> str:
    """Return a text that changes when a store of chunks is written again with the same metadata.

    It is made of the versions (ETag, generation, time of change) of some chunks, evenly spread over the array and
    requested at once, without their bytes. A change of a single chunk between them is not noticed. ``chunks`` are the
    sizes of what has a key: of shards, where there are any.
    """
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
    total = int(np.prod(counts))
    sample = np.linspace(0, max(total - 1, 0), min(SAMPLES, total)).round().astype(np.int64)
    cells = [[str(index) for index in np.unravel_index(place, counts)] for place in sample]
    forms = KEYS.get(driver, ())
    keys = [prefix + between.join(cell) for cell, (prefix, between) in itertools.product(cells, forms)]
    if location.local is not None:  # without TensorStore, so that the process may still be forked
        found = [path.stat() for key in keys if (path := location.local / key).exists()]
        return digest([(status.st_mtime_ns, status.st_size) for status in found])
    store = open_store(location)
    futures = [store.read(key, byte_range=slice(0, 0)) for key in keys]
    progress = Progress(location.renew)
    versions = []
    for key, future in zip(keys, futures, strict=True):
        try:
            read = wait(future, Asked(f"{location.url}/{key}"), limit=location.timeout, progress=progress)
        except PermissionError:  # the answer of a bucket that may not be listed for keys that are not there
            continue
        versions.append((key, bytes(read.stamp.generation) if read.state == "value" else b""))
    return digest(versions)
