"""What zarr-python reads: any store it has, any codec, where TensorStore has none.

In: a `Place` and an array in it. Out: `ZarrSource`; rows in a few threads. Slower than TensorStore by a factor of
1 to 10, so only where there is no other way.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .base import digest
from .blobs import pool, renew_pool
from .bounded import bounded
from .failures import Asked, explained
from .packing import delivered
from .reads import Progress, Read
from .remote import RemoteSource
from .traffic import zarr_codecs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import Description
    from .box import Box
    from .chunked import ArrayInfo
    from .packing import Packing
    from .reads import Pending
    from .remote import Opened
    from .zarr_contents import Place

__all__ = ["ZarrRows", "ZarrSource", "is_zarr"]

AT_ONCE, PIECES = 10, 16  # chunks that zarr-python asks for at a time, and reads at a time at most
TIMEOUT = 300.0  # zarr-python and what lies below have their own retries


def is_zarr(target: object) -> bool:
    """Whether this is a store, group or array of zarr-python; does not import it.

    Examples
    --------
    >>> is_zarr("a.zarr")
    False
    """
    if "zarr" not in sys.modules:
        return False
    import zarr
    from zarr.abc.store import Store

    return isinstance(target, Store | zarr.Array | zarr.Group)


class ZarrSource(RemoteSource):
    """One array read by zarr-python.

    Parameters
    ----------
    keys : Place
        Where the store is.
    array : ArrayInfo
        Of the array in it.
    axes : str
        Letters of the stored shape.
    coordinates : Description
        Labels and timestamps.
    values : Packing or None
        How stored numbers become values.
    fill_missing : bool
        Whether absent chunks mean the fill value; else they are an error.
    """

    boxes = "indices"
    padded = True

    def __init__(
        self,
        keys: Place,
        array: ArrayInfo,
        *,
        axes: str,
        coordinates: Description,
        values: Packing | None,
        fill_missing: bool,
    ) -> None:
        super().__init__(
            f"{keys.name}/{array.path}".rstrip("/"),
            shape=array.shape,
            dtype=values.dtype if values else array.dtype,
            axes=axes,
            dims=array.dims,
            chunks=array.chunks,
            description=coordinates,
        )
        self.keys, self.info, self.packing, self.fill_missing = keys, array, values, fill_missing
        self.fill_value = delivered(values, array.dtype, array.fill_value)
        self.stored_itemsize = array.itemsize
        self.shards = array.shards and tuple(array.shards[dim] for dim in self.order)

    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the array in its store."""
        return dict(self.stored().attrs)

    def codecs(self) -> list[str]:
        """Names of its codecs, within shards."""
        return zarr_codecs(self.stored())

    def stored(self, *, whole: bool = False) -> Any:
        """Return the array as zarr-python has it open; with ``whole``, absent chunks are errors."""
        return open_array(
            self.keys.store, f"{self.keys.root}{self.info.path}", self.name, self.info.driver, whole=whole
        )

    def fingerprint(self) -> str:
        """Short text that changes when the metadata do, or the snapshot where the store has them."""
        return digest(self.shape, str(self.dtype), self.axes, self.info.identity, _snapshot(self.keys.store))

    def _open(self) -> Opened:
        return ZarrRows(self)


def open_array(store: Any, path: str, name: str, driver: str, *, whole: bool) -> Any:
    """Return an array of zarr-python.

    Parameters
    ----------
    store : zarr.abc.store.Store
    path : str
        Of the array.
    name : str
        For messages.
    driver : str
        `ArrayInfo.driver`: keys of another format are not tried, which references refuse.
    whole : bool
        Whether absent chunks are errors, rather than the fill value.
    """
    import zarr

    if whole:
        from .kvzarr import Whole

        store = Whole(store, name)
    form: Literal[2, 3] = 3 if driver == "zarr3" else 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # codecs that the format does not settle: nothing a reader can help
        return explained(
            Asked(name),
            lambda: bounded(zarr.open_array(store, path=path.rstrip("/"), mode="r", zarr_format=form)),
        )


class ZarrRows:
    """A source of a Zarr array as this process has it open by zarr-python.

    Parameters
    ----------
    source : ZarrSource or ChunkedSource
    """

    def __init__(self, source: Any) -> None:
        self.source, self.progress = source, Progress(renew_pool)
        self.array = source.stored(whole=not source.fill_missing)

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read rows: those of many chunks in several pieces, as zarr-python asks for ten chunks at a time."""
        cuts, source = self._cuts(start, stop, box), self.source
        futures = [pool().submit(self._rows, first, end, box) for first, end in itertools.pairwise(cuts)]
        for future in futures:
            future.add_done_callback(self.progress.touch)

        def finish(results: list[Any]) -> None:
            for (first, end), rows in zip(itertools.pairwise(cuts), results, strict=True):
                part = out[first - start : end - start]
                if source.packing is None:
                    part[...] = rows
                else:
                    source.packing.unpack(rows, part)

        asked, size = Asked(source.name, (start, stop)), source.bytes_of(start, stop, box)
        return Read(futures, finish, asked, TIMEOUT, self.progress, size)

    def _cuts(self, start: int, stop: int, box: Box | None) -> list[int]:
        """Rows where pieces begin, at edges of chunks, and the end."""
        chunk = self.source.info.chunks[self.source.order[0]]
        edges = [start, *range((start // chunk + 1) * chunk, stop, chunk)]
        requests = int(self.source.storage(box).cost([start], [stop]).requests[0])
        pieces = min(len(edges), PIECES, -(-requests // AT_ONCE))
        return [*edges[:: -(-len(edges) // pieces)], stop]

    def _rows(self, start: int, stop: int, box: Box | None) -> np.ndarray:
        order = self.source.order
        parts: list[Any] = [slice(None)] * len(order)
        for dim, part in zip(order, (slice(start, stop), *(box or ())), strict=False):
            parts[dim] = part
        index = tuple(parts)
        picked = any(not isinstance(part, slice) for part in parts)
        return np.asarray(self.array.oindex[index] if picked else self.array[index]).transpose(order)

    def close(self) -> None:
        """Nothing is held but the store, which is the user's."""


def _snapshot(store: Any) -> str:
    session = getattr(store, "session", None)
    return str(getattr(session, "snapshot_id", ""))
