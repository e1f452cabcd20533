"""A read-only store of zarr-python whose bytes come through TensorStore.

In: TensorStore's key-value store, and where it is. Out: what ``zarr.open`` takes, for coordinates of types that
TensorStore lacks (dates, text). Never reads the array itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from .failures import Asked, explain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from zarr.core.buffer import Buffer, BufferPrototype

    from .options import Location

__all__ = ["TensorStoreStore"]


class TensorStoreStore(Store):  # type: ignore[misc, unused-ignore]
    """Keys below a location, read-only.

    Parameters
    ----------
    store : tensorstore.KvStore
        Open.
    location : Location
        Where it is.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, store: Any, location: Location) -> None:
        super().__init__(read_only=True)
        self._kv, self._location = store, location

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorStoreStore) and other._location == self._location

    __hash__ = None  # type: ignore[assignment]

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Value of a key, or a range of it; None where there is none."""
        try:
            result = await self._kv.read(key, byte_range=_slice(byte_range))
            return prototype.buffer.from_bytes(result.value) if result.state == "value" else None
        except ValueError as error:
            found = explain(error, Asked(self._location.child(key).url))
        if isinstance(found, PermissionError | FileNotFoundError):
            return None  # as zarr asks for keys of both formats, and some buckets forbid what is absent
        raise found  # alone: TensorStore's own text has the URL with its query

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Values of several ranges."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        return bool((await self._kv.read(key, byte_range=slice(0, 0))).state == "value")

    async def list(self) -> AsyncIterator[str]:
        """Return all keys."""
        for key in await self._kv.list():
            yield key.decode()

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Return keys that begin so."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Return the names directly below a folder."""
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        seen = set()
        async for key in self.list_prefix(below):
            name = key.removeprefix(below).partition("/")[0]
            if name not in seen:
                seen.add(name)
                yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: the store is read-only."""
        raise NotImplementedError("the store is read-only")

    async def delete(self, key: str) -> None:
        """Refuse: the store is read-only."""
        raise NotImplementedError("the store is read-only")


def _slice(request: Any) -> slice | None:
    if isinstance(request, RangeByteRequest):
        return slice(request.start, request.end)
    if isinstance(request, OffsetByteRequest):
        return slice(request.offset, None)
    if isinstance(request, SuffixByteRequest):
        return slice(-request.suffix, None)
    return None
