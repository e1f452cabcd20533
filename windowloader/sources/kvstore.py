"""Small values by key, through TensorStore: of a bucket, a web server, Google's store or a folder.

In: a `Location`. Out: TensorStore's key-value store, values, names in a folder. Never keeps what it read.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from windowloader.errors import SourceNotFoundError

from .failures import Asked, explained
from .processes import tensorstore
from .reads import Progress, wait

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .options import Location

__all__ = ["check_bucket", "list_folder", "open_store", "read_keys", "wait_for"]

SYSTEMS = {"s3": ("s3fs", "S3FileSystem"), "gcs": ("gcsfs", "GCSFileSystem")}


def open_store(location: Location, spec: Mapping[str, Any] | None = None) -> Any:
    """Return TensorStore's key-value store of a location, or of a specification with its credentials and limits."""
    kvstore, spec = tensorstore(location.url).KvStore, dict(spec or location.store())
    opened = explained(Asked(location.url), lambda: kvstore.open(spec, context=location.resources()))
    return wait_for(opened, location)


def wait_for(future: Any, location: Location) -> Any:
    """Return what a future of a store has, within the time-out of its location."""
    return wait(future, Asked(location.url), limit=location.timeout, progress=Progress(location.renew))


def read_keys(location: Location, keys: Sequence[str]) -> list[bytes | None]:
    """Return the values of some keys, asked for at once; None where there is none.

    A bucket that may be read and not listed denies access to a key that does not exist: that is an error only where
    no key can be read.
    """
    store = open_store(location)
    futures = [store.read(key) for key in keys]
    values: list[bytes | None] = []
    refused: OSError | None = None
    for key, future in zip(keys, futures, strict=True):
        try:
            found = wait_for(future, location.child(key))
            values.append(bytes(found.value) if found.state == "value" else None)
        except (PermissionError, SourceNotFoundError) as error:
            values.append(None)
            refused = error
    if refused is not None and not any(values):
        raise refused
    return values


def check_bucket(location: Location) -> None:
    """Raise where the bucket itself does not exist: a missing key looks alike."""
    if location.scheme in SYSTEMS:
        ending = f"{location.path.rstrip('/')}/zarr.json"
        store = open_store(location, {**location.kvstore, "path": ""})
        with contextlib.suppress(PermissionError):  # then what is there cannot be told from what is not
            wait_for(store.list(tensorstore().KvStore.KeyRange(ending, ending + "\0")), location)


def list_folder(location: Location) -> list[str] | None:
    """Return the names directly below a location, asked with a delimiter, which TensorStore does not have.

    Returns
    -------
    list of str or None
        None where the bucket's file system of fsspec is not installed, or does not answer.
    """
    if location.scheme not in SYSTEMS:
        return None
    module, name = SYSTEMS[location.scheme]
    store, options = location.kvstore, dict(location.options)
    if "endpoint" in store:
        options["endpoint_url"] = store["endpoint"]
    if options.pop("region", store.get("aws_region")):
        options["client_kwargs"] = {"region_name": store["aws_region"]}
    folder = f"{store['bucket']}/{location.path.strip('/')}".rstrip("/")
    try:
        system = getattr(importlib.import_module(module), name)(**options, skip_instance_cache=True)
        return [path.removeprefix(f"{folder}/").partition("/")[0] for path in system.ls(folder, detail=False)]
    except FileNotFoundError:
        return []
    except Exception:  # TensorStore lists too, every key, and says what is wrong
        return None
