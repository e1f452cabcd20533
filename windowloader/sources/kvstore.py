"""Small values by key, through TensorStore: of a bucket, a web server, Google's store or a folder.

In: a `Location`. Out: TensorStore's key-value store, values, names in a folder. Never keeps what it read.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .failures import Asked, explained
from .processes import tensorstore
from .reads import Progress, wait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .options import Location

__all__ = ["check_bucket", "list_folder", "open_store", "wait_for"]

LISTED = ("s3", "gcs")  # by fsspec, where its package is installed


def open_store(location: Location, spec: Mapping[str, Any] | None = None) -> Any:
    """Return TensorStore's key-value store of a location, or of a specification with its credentials and limits."""
    kvstore, spec = tensorstore(location.url).KvStore, dict(spec or location.store())
    opened = explained(Asked(location.url), lambda: kvstore.open(spec, context=location.resources()))
    return wait_for(opened, location)


def wait_for(future: Any, location: Location, asked: Asked | None = None) -> Any:
    """Return what a future of a store has, within the time-out of its location."""
    asked = asked or Asked(location.url)
    return wait(future, asked, limit=location.timeout, progress=Progress(location.renew))


def check_bucket(location: Location) -> None:
    """Raise where the bucket itself does not exist: a missing key looks alike."""
    if location.scheme in LISTED:
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
    if location.scheme not in LISTED:
        return None
    import fsspec

    store, options = location.kvstore, dict(location.options)
    if "endpoint" in store:
        options["endpoint_url"] = store["endpoint"]
    if options.pop("region", store.get("aws_region")):
        options["client_kwargs"] = {"region_name": store["aws_region"]}
    folder = f"{store['bucket']}/{location.path.strip('/')}".rstrip("/")
    try:
        system = fsspec.filesystem(location.scheme, **options, skip_instance_cache=True)
        return [path.removeprefix(f"{folder}/").partition("/")[0] for path in system.ls(folder, detail=False)]
    except FileNotFoundError:
        return []
    except Exception:  # TensorStore lists too, every key, and says what is wrong
        return None
