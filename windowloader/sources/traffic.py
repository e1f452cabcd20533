"""What the metadata of a Zarr array say of its storage: chunks, shards, codecs.

In: an array's grid, a box. Out: its `Storage`, names of codecs. Never asks the store for chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .storage import Storage

if TYPE_CHECKING:
    from .base import Source
    from .box import Box
    from .chunked import ArrayInfo

__all__ = ["zarr_codecs", "zarr_storage"]


def zarr_storage(source: Source, array: ArrayInfo, box: Box | None) -> Storage:
    """Return the storage of a Zarr array, or of what of it lies in a box."""
    return Storage.of_grid(
        source.shape, source.chunks, itemsize=source.dtype.itemsize, stored_itemsize=array.itemsize, box=box,
        shards=source.shards, whole=True,
    )  # fmt: skip


def zarr_codecs(array: Any) -> list[str]:
    """Return the names of the codecs of an array of zarr-python, of those within its shards where it has some."""
    document = array.metadata.to_dict()
    if array.metadata.zarr_format == 3:
        chain = document.get("codecs", [])
        inner = [codec for codec in chain if codec["name"] == "sharding_indexed"]
        chain = inner[0]["configuration"]["codecs"] if inner else chain
    else:
        chain = [*(document.get("filters") or []), document.get("compressor")]
    return [_codec(one) for one in chain if one]


def _codec(codec: dict[str, Any]) -> str:
    settings = codec.get("configuration", codec)
    name = str(codec.get("name", codec.get("id", "?")))
    return f"{name}:{settings['cname']}" if "cname" in settings else name
