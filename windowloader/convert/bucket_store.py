"""Where converted arrays are written in a bucket: chunks first, their documents last.

In: `ArrayTarget` arrays and their values by rows. Out: objects of a Zarr 3 store. What `write` returns from is in the
bucket. Never writes a document (``zarr.json``) before `show`: without them nothing is found.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from windowloader.errors import ConversionError
from windowloader.sources.failures import Asked
from windowloader.sources.processes import tensorstore
from windowloader.sources.reads import Progress, wait

from .objects import SLOWEST
from .zarr_form import array_spec, write_coordinates

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from windowloader.series.clock import Clock

    from .objects import Objects
    from .targets import ArrayTarget
    from .values import Encoding

__all__ = ["DOCUMENT", "BucketStore"]

DOCUMENT = "zarr.json"


class BucketStore:
    """Arrays of a Zarr 3 group below a prefix, with coordinates.

    Parameters
    ----------
    objects : Objects
        Of the prefix.
    targets : sequence of ArrayTarget
    compression : str
        As `codecs_of` takes it.
    """

    def __init__(self, objects: Objects, targets: Sequence[ArrayTarget], compression: str) -> None:
        self.objects, self.targets, self.compression = objects, tuple(targets), compression
        self._encodings: tuple[Encoding, ...] = ()
        self._arrays: list[Any] = []
        self._documents: dict[str, bytes] = {}

    @property
    def name(self) -> str:
        """The URL."""
        return self.objects.name

    def create(self, encodings: Sequence[Encoding]) -> None:
        """Open the arrays as they will be: nothing is written, nor looked for."""
        self._encodings = tuple(encodings)
        self._arrays.clear()
        for target, encoding in zip(self.targets, encodings, strict=True):
            location = self.objects.below(target.name).location
            spec = array_spec(target, encoding, self.compression, location.store())
            self._arrays.append(
                tensorstore()
                .open(spec, open=True, assume_metadata=True, context=location.resources())
                .result()
            )

    def move(self, objects: Objects) -> None:
        """Take another prefix, where the objects of this one were copied to."""
        self.objects = objects
        self.create(self._encodings)

    def write(self, target: int, start: int, values: np.ndarray) -> int:
        """Encode rows in memory, then put their chunks or shards at once."""
        encoded = self._in_memory(target, create=False)
        try:
            encoded[start : start + len(values)].write(
                values, can_reference_source_data_indefinitely=True
            ).result()
        except ValueError as error:
            raise ConversionError(
                f"rows from {start} cannot be encoded for {self.name!r}: {error}"
            ) from error
        chunks, size = {}, 0
        for key in encoded.kvstore.list().result():
            chunks[key.decode()] = value = encoded.kvstore.read(key).result().value
            encoded.kvstore.write(key, None).result()
            size += len(value)
        self.objects.below(self.targets[target].name).put(chunks)
        return size

    def _in_memory(self, target: int, *, create: bool) -> Any:
        ts = tensorstore()
        spec = array_spec(
            self.targets[target], self._encodings[target], self.compression, {"driver": "memory"}
        )
        return ts.open(
            spec, create=create, open=True, assume_metadata=not create, context=ts.Context()
        ).result()

    def read(self, target: int, start: int, stop: int) -> np.ndarray:
        """Read rows as they are stored."""
        future = self._arrays[target][start:stop].read(order="C")
        size = (stop - start) * self.targets[target].row_bytes
        location = self.objects.location
        found: np.ndarray = wait(
            future,
            Asked(f"{self.name}/{self.targets[target].name}", (start, stop)),
            since=time.monotonic(),
            limit=location.timeout + size / SLOWEST,
            progress=Progress(),
            timeout=None,
        )
        return found

    def finish(self, clock: Clock | None) -> None:
        """Put the chunks of the coordinates, and make all documents, which are kept for `show`."""
        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import MemoryStore

        buffer = default_buffer_prototype().buffer
        held: dict[str, Any] = {}
        for number, target in enumerate(self.targets):
            document = self._in_memory(number, create=True).kvstore.read(DOCUMENT).result().value
            held[f"{target.name}/{DOCUMENT}"] = buffer.from_bytes(document)
        write_coordinates(MemoryStore(held), self.targets, clock)
        made = {key: value.to_bytes() for key, value in held.items()}
        self._documents = {key: value for key, value in made.items() if key.rpartition("/")[2] == DOCUMENT}
        self.objects.put({key: value for key, value in made.items() if key not in self._documents})

    @property
    def root(self) -> bytes:
        """The document of the group."""
        return self._documents[DOCUMENT]

    def show(self) -> None:
        """Put the documents, that of the group last: now the store is there."""
        self.objects.put({key: value for key, value in self._documents.items() if key != DOCUMENT})
        self.objects.put({DOCUMENT: self.root})
