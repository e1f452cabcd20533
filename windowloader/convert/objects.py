"""Objects of a bucket below a prefix, written: put, put only if new, list, delete, with errors that say what to do.

In: a `Location`. Out: `Objects`. Never writes outside its prefix; retries are the store's own.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windowloader.errors import ConversionError
from windowloader.sources.failures import Asked
from windowloader.sources.processes import tensorstore
from windowloader.sources.reads import Progress, wait
from windowloader.sources.remote_objects import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.sources.options import Location

__all__ = ["Objects"]

SLOWEST = 128 << 10  # bytes a second, under which a write is taken to stall
AT_ONCE = 16 << 20  # bytes of objects that are copied at a time, about
MOST = 32
DELETED = 256  # objects that are deleted at a time
LISTED = 600 * SLOWEST  # as if so many bytes were asked for


@dataclass(slots=True, eq=False)
class Objects:
    """Keys below a location.

    Parameters
    ----------
    location : Location
        Of a bucket's prefix; nothing outside it is touched.
    """

    location: Location

    @property
    def name(self) -> str:
        """The URL."""
        return self.location.url

    def below(self, name: str) -> Objects:
        """Return the objects of a folder."""
        return Objects(self.location.child(name))

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values, asked for at once; None where there is none.

        A bucket that may be read and not listed denies access to a key that does not exist: that is an error only
        where no key can be read.
        """
        store = self._open()
        futures = [store.read(key) for key in keys]
        values: list[bytes | None] = []
        refused: PermissionError | None = None
        for key, future in zip(keys, futures, strict=True):
            try:
                found = self._wait(future, key)
                values.append(bytes(found.value) if found.state == "value" else None)
            except PermissionError as error:
                values.append(None)
                refused = error
        if refused is not None and not any(values):
            raise refused
        return values

    def list(self) -> list[str]:
        """Return all keys, in order."""
        # As many requests as there are thousands of keys, of whose progress nothing is told.
        return sorted(key.decode() for key in self._wait(self._open().list(), size=LISTED))

    def put(self, values: Mapping[str, bytes]) -> None:
        """Write objects, at once; all are kept when this returns."""
        store = self._open()
        futures = [(key, store.write(key, value), len(value)) for key, value in values.items()]
        size = sum(map(len, values.values()))
        for key, future, _ in futures:
            self._wait(future, key, size)

    def put_new(self, key: str, value: bytes) -> bool:
        """Write an object unless there is one; whether it was written, or was there just so."""
        store = self._open()
        stamp = self._wait(store.write(key, value, if_equal=_absent()), key, len(value))
        if stamp.generation:
            return True
        return bool(
            self._wait(store.read(key), key).value == value
        )  # an answer was lost, and it was tried again

    def delete(self, *keys: str) -> None:
        """Delete objects."""
        store = self._open()
        for start in range(0, len(keys), DELETED):
            some = keys[start : start + DELETED]
            for key, future in [(key, store.write(key, None)) for key in some]:
                self._wait(future, key)

    def clear(self) -> None:
        """Delete all."""
        self.delete(*self.list())

    def copy(self, keys: Sequence[str], other: Objects) -> None:
        """Copy objects to another prefix by way of this machine, as many at a time as are small."""
        place, largest = 0, AT_ONCE
        while place < len(keys):
            some = keys[place : place + max(1, min(MOST, AT_ONCE // max(largest, 1)))]
            values = {
                key: value for key, value in zip(some, self.get(some), strict=True) if value is not None
            }
            if len(values) < len(some):
                gone = next(key for key in some if key not in values)
                raise ConversionError(f"{self.below(gone).name!r} is gone, which was written before.")
            other.put(values)
            largest = max(map(len, values.values()))
            place += len(some)

    def _open(self) -> Any:
        return open_store(self.location)

    def _wait(self, future: Any, key: str = "", size: int = 0) -> Any:
        asked = Asked(self.location.child(key).url, doing="written" if key and size else "read")
        limit = self.location.timeout + size / SLOWEST
        return wait(future, asked, since=time.monotonic(), limit=limit, progress=Progress(), timeout=None)


@functools.cache
def _absent() -> bytes:
    """Return what TensorStore calls the generation of an object that is not there."""
    ts = tensorstore()
    nothing = ts.KvStore.open({"driver": "memory"}, context=ts.Context()).result()
    return bytes(nothing.read("nothing").result().stamp.generation)
