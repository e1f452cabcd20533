"""How an array lies on disk: codecs and bytes, as files tell.

In: a source. Out: names of codecs, bytes taken. Never reads values, and asks no remote storage for sizes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["codecs", "in_order", "stored_bytes"]


def in_order(source: Any, sizes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Sizes along stored dimensions in the order of a source's axes."""
    return None if sizes is None else tuple(sizes[dim] for dim in source.order)


def codecs(source: Any) -> list[str]:
    """Names of the codecs of a Zarr array or an HDF5 dataset."""
    if hasattr(source, "stored"):
        array = source.stored()
        document, third = array.metadata.to_dict(), array.metadata.zarr_format == 3
        return [_codec(one) for one in _chain(document if third else None, None if third else document)]
    dataset, stamp = getattr(source, "_dataset", None), getattr(source, "_stamp", None)
    if isinstance(dataset, str) and stamp is not None:
        from windowloader.sources.hdf5_dataset import open_file

        with open_file(stamp) as file:
            found = file.get(dataset)
            if found is not None and hasattr(found, "compression"):
                named = ["shuffle"] * bool(found.shuffle)
                return [*named, *([] if found.compression is None else [str(found.compression)])]
    return []


def _chain(third: dict[str, Any] | None, second: dict[str, Any] | None) -> list[dict[str, Any]]:
    if third is not None:
        outer = third.get("codecs", [])
        inner = [codec for codec in outer if codec["name"] == "sharding_indexed"]
        return list(inner[0]["configuration"]["codecs"] if inner else outer)
    if second is not None:
        return [one for one in [*(second.get("filters") or []), second.get("compressor")] if one]
    return []


def _codec(codec: dict[str, Any]) -> str:
    settings = codec.get("configuration", codec)
    name = str(codec.get("name", codec.get("id", "?")))
    return f"{name}:{settings['cname']}" if "cname" in settings else name


def stored_bytes(source: Any) -> int | None:
    """Bytes on disk of one array, where that can be told."""
    parts = getattr(source, "parts", None)
    if parts is not None:
        sizes = [stored_bytes(part) for part in parts]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    region = getattr(source, "region", None)
    stamp = getattr(source, "_stamp", None) or getattr(region, "stamp", None)
    if isinstance(getattr(source, "_dataset", None), str) and stamp is not None:
        return _dataset_bytes(source, stamp)
    place = stamp.path if stamp is not None else source.name
    if os.path.isfile(place):
        return int(region.nbytes) if region is not None else Path(place).stat().st_size
    if os.path.isdir(place):
        return sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    return None


def _dataset_bytes(source: Any, stamp: Any) -> int | None:
    from windowloader.sources.hdf5_dataset import open_file

    with open_file(stamp) as file:
        found = file.get(source._dataset)
        return int(found.id.get_storage_size()) if hasattr(found, "id") and hasattr(found, "chunks") else None
