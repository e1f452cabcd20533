"""What the metadata of a Zarr array say of its codecs.

In: an array of zarr-python. Out: names of codecs. Never asks the store for chunks.
"""

from __future__ import annotations

from typing import Any

__all__ = ["zarr_codecs"]


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
