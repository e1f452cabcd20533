"""Small values by key, through TensorStore: of a bucket, a web server, Google's store or a folder.

In: a `Location`. Out: TensorStore's key-value store, values, names in a folder. Never keeps what it read.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from typing import TYPE_CHECKING, Any

from windowloader.errors import SourceError, SourceNotFoundError

from .failures import Asked, explained
from .processes import tensorstore
from .reads import Progress, wait

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .options import Location

__all__ = ["check_bucket", "list_folder", "open_store", "read_keys", "wait_for"]


def open_store(location: Location, spec: Mapping[str, Any] | None = None) -> Any:
    """Return TensorStore's key-value store of a location, or of a specification with its credentials and limits."""
    asked, kvstore, spec = (
        Asked(location.url),
        tensorstore(location.url).KvStore,
        dict(spec or location.store()),
    )
    future = explained(asked, lambda: kvstore.open(spec, context=location.resources()))
    return wait_for(future, location, asked)


def wait_for(future: Any, location: Location, asked: Asked | None = None) -> Any:
    """Return what a future of a store has, within the time-out of its location."""
    asked = asked or Asked(location.url)
    since, limit, progress = time.monotonic(), location.timeout, Progress(location.renew)
    return wait(future, asked, since=since, limit=limit, progress=progress, timeout=None)


def read_keys(location: Location, keys: Sequence[str]) -> list[bytes | None]:
    """Return the values of some keys, asked for at once; None where there is none.

    A bucket that may be read and not listed denies access to a key that does not exist: that is an error only where
    no key can be read.
    """
    store = open_store(location)
    futures = [store.read(key) for key in keys]
    values: list[bytes | None] = []
    refused: SourceError | None = None
    for key, future in zip(keys, futures, strict=True):
        try:
            found = wait_for(future, location, Asked(location.child(key).url))
            values.append(bytes(found.value) if found.state == "value" else None)
        except PermissionError as error:
            values.append(None)
            refused = error  # type: ignore[assignment]
        except SourceNotFoundError:
            values.append(None)
    if refused is not None and not any(values):
        raise refused
    return values


def check_bucket(location: Location) -> None:
    """Raise where the bucket itself does not exist: a missing key looks alike."""
    if location.scheme not in ("s3", "gcs"):
        return
    ending = f"{location.path.rstrip('/')}/zarr.json"
    store = open_store(location, {**location.kvstore, "path": ""})
    with contextlib.suppress(PermissionError):  # then what is there cannot be told from what is not
        one = tensorstore().KvStore.KeyRange(ending, ending + "\0")
        wait_for(store.list(one), location, Asked(location.url))


def list_folder(location: Location) -> list[str] | None:
    """Return the names directly below a location, asked with a delimiter, which TensorStore does not have.

    Returns
    -------
    list of str or None
        None where the bucket's file system of fsspec is not installed, or does not answer.
    """
    module, name = {"s3": ("s3fs", "S3FileSystem"), "gcs": ("gcsfs", "GCSFileSystem")}.get(
        location.scheme, ("", "")
    )
    if not module:
        return None
    folder = f"{location.kvstore['bucket']}/{location.path.strip('/')}".rstrip("/")
    try:
        system = getattr(importlib.import_module(module), name)(**location.options, skip_instance_cache=True)
        return [path.removeprefix(f"{folder}/").partition("/")[0] for path in system.ls(folder, detail=False)]
    except FileNotFoundError:
        return []
    except Exception:  # TensorStore lists too, every key, and says what is wrong
        return None
