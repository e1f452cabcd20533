"""What the metadata of a Zarr array say of its storage: requests, codecs, attributes.

In: an array's grid, a box, a range of rows. Out: its `Storage`, one number of bytes a request. Never asks the store for
chunks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .box import met
from .storage import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .base import Source
    from .box import Box
    from .chunked import ArrayInfo

__all__ = ["chunk_requests", "zarr_codecs", "zarr_storage"]

INDEX_ENTRY, INDEX_CHECK = 16, 4  # a shard's index: offset and length of each chunk, and a checksum


def zarr_storage(source: Source, array: ArrayInfo, box: Box | None) -> Storage:
    """Return the storage of a Zarr array, or of what of it lies in a box."""
    whole = tuple(array.shape[dim] for dim in source.order)
    chosen = {} if box is None else dict(zip(source.order[1:], box, strict=True))

    def asked(start: int, stop: int) -> NDArray[np.int64]:
        return chunk_requests(array, source.order, chosen, start, stop)

    return Storage.of_grid(
        whole, source.chunks, itemsize=source.dtype.itemsize, stored_itemsize=array.itemsize, box=box,
        shards=source.shards, whole=True, asked=asked, exact=array.exact,
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


def chunk_requests(
    array: ArrayInfo,
    order: Sequence[int],
    selection: Mapping[int, slice | NDArray[np.int64]],
    start: int,
    stop: int,
) -> np.ndarray:
    """Return the bytes of each request that one read of rows makes.

    A chunk is one request; of a shard, its index is one (once while it stays in the cache), each run of
    neighbouring chunks is one, and a shard that is wanted whole is one without its index. Bytes are as stored where
    nothing is compressed (`ArrayInfo.exact`; without a checksum's 4 bytes a chunk), else as decoded.

    Parameters
    ----------
    array : ArrayInfo
        In the order of storage.
    order : sequence of int
        Stored dimensions in the order of the source, the rows first.
    selection : mapping of int to slice or ndarray
        Positions along stored dimensions, where not all are wanted.
    start, stop : int
        Rows.

    Returns
    -------
    ndarray, int64
        One entry a request.

    Examples
    --------
    >>> from windowloader.sources.chunked import ArrayInfo
    >>> array = ArrayInfo("zarr3", (9, 4), 4, (3, 2))
    >>> chunk_requests(array, (0, 1), {}, 0, 4)
    array([24, 24, 24, 24])
    """
    if stop <= start:
        return np.empty(0, np.int64)
    touched = []
    for dim, (size, chunk) in enumerate(zip(array.shape, array.chunks, strict=True)):
        if dim == order[0]:
            touched.append(np.arange(start // chunk, (stop - 1) // chunk + 1))
        elif dim in selection:
            touched.append(met(selection[dim], chunk))
        else:
            touched.append(np.arange(-(-size // chunk)))
    if array.shards is None:
        return np.full(math.prod(map(len, touched)), array.chunk_bytes, np.int64)
    return _shard_requests(array, touched)


def _shard_requests(array: ArrayInfo, touched: list[np.ndarray]) -> np.ndarray:
    per_shard = [outer // inner for outer, inner in zip(array.shards or (), array.chunks, strict=True)]
    num_inner, size = math.prod(per_shard), array.chunk_bytes
    cells = np.stack(np.meshgrid(*touched, indexing="ij"), -1).reshape(-1, len(touched))
    grid = [-(-whole // outer) for whole, outer in zip(array.shape, array.shards or (), strict=True)]
    shard = np.ravel_multi_index(tuple((cells // per_shard).T), grid)
    inner = np.ravel_multi_index(tuple((cells % per_shard).T), per_shard)
    sequence = np.lexsort((inner, shard))
    shard, inner = shard[sequence], inner[sequence]
    fresh = np.append(True, (np.diff(shard) != 0) | (np.diff(inner) != 1))
    runs = np.diff(np.append(np.flatnonzero(fresh), len(inner)))
    index = num_inner * INDEX_ENTRY + INDEX_CHECK
    whole = runs == num_inner
    partial = np.unique(shard[fresh][~whole])
    ranges = np.where(whole, runs * size + index, runs * size)
    return np.concatenate([np.full(len(partial), index), ranges]).astype(np.int64)
