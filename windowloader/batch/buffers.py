"""Reusable memory for batches: a buffer returns to its pool once nothing references the batch or a view of it.

In: the bytes of a batch. Out: arrays in a buffer whose pages were touched before. A pool never takes back memory that
is in use and never waits: a caller that keeps batches gets new buffers.

Memory that the allocator returns to the kernel costs page faults at the next use, more than filling it.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from windowloader.errors import ClosedError

from .roles import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .roles import Field

__all__ = ["BufferPool", "Buffers", "Lease", "Memory"]


class Memory(Protocol):
    """Memory for one batch."""

    def carve(self, fields: Iterable[Field]) -> dict[str, np.ndarray]:
        """Make the arrays of a batch, by name; each keeps the memory alive."""


class Buffers(Protocol):
    """Where batches are built; adapters have their own (pinned, shared)."""

    def lease(self) -> Memory:
        """Return memory that is not in use."""

    def close(self) -> None:
        """Release free memory."""


class Lease:
    """Owns a buffer as long as this object or any array made from it lives.

    NumPy may make the owner of the memory the base of a view of a view, so a callback on an array could run while
    slices of it are in use. It stops at an object that is not an array: every slice, reshape, memoryview, tensor and
    DLPack capsule keeps this object alive.
    """

    __slots__ = ("__array_interface__", "__weakref__", "_memory")

    def __init__(self, memory: np.ndarray, nbytes: int) -> None:
        self._memory = memory
        aligned = -(-memory.__array_interface__["data"][0] // ALIGNMENT) * ALIGNMENT
        self.__array_interface__ = {
            "version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (aligned, False)
        }  # fmt: skip

    def carve(self, fields: Iterable[Field]) -> dict[str, np.ndarray]:
        """Make the arrays of a batch, by name; they share the buffer and keep it alive.

        Parameters
        ----------
        fields : iterable of Field
            Their offsets and sizes lie within the pool's ``nbytes``.

        Returns
        -------
        dict of str to ndarray
            C-contiguous, aligned to 64 bytes, not cleared.
        """
        whole = np.asarray(self)
        return {
            field.name: np.ndarray(field.shape, field.dtype, buffer=whole, offset=field.offset)
            for field in fields
        }


class BufferPool:
    """Buffers of one size, which return to the pool by themselves.

    Parameters
    ----------
    nbytes : int
        Of a buffer.
    keep : int
        How many free buffers are kept at most.

    Examples
    --------
    >>> pool = BufferPool(1024)
    >>> array = np.asarray(pool.lease())
    >>> view = array[::2].reshape(2, 256)
    >>> del array  # the view still references the memory
    >>> pool.free
    0
    >>> del view
    >>> pool.free
    1
    """

    def __init__(self, nbytes: int, *, keep: int = 8) -> None:
        self.nbytes = int(nbytes)
        self._free: deque[np.ndarray] = deque(
            maxlen=keep
        )  # a full deque drops its oldest: bounded without a lock
        self._leased: dict[weakref.ref[Lease], np.ndarray] = {}
        self._closed = False

    @property
    def free(self) -> int:
        """Buffers that wait to be used."""
        return len(self._free)

    def lease(self) -> Lease:
        """Return a free buffer, or a new one; never waits.

        Raises
        ------
        ClosedError
            After `close`.
        """
        if self._closed:
            raise ClosedError("this pool of buffers is closed, as its loader is. Make a new loader.")
        try:
            memory = self._free.pop()  # the newest is the most likely to be in the cache
        except IndexError:
            memory = np.empty(self.nbytes + ALIGNMENT, np.uint8)
            memory.fill(0)  # np.zeros would map pages lazily, at the cost of the first batch
        lease = Lease(memory, self.nbytes)
        # The callback may run in any thread, and inside the pool's own calls if the garbage collector starts there: so
        # no lock, only atomic operations of dict and deque. weakref.finalize would cost more than a small batch.
        self._leased[weakref.ref(lease, self._take_back)] = memory
        return lease

    def _take_back(self, lease: weakref.ref[Lease]) -> None:
        self._free.append(self._leased.pop(lease))

    def close(self) -> None:
        """Release free buffers; those in use stay valid, and are freed with their last reference."""
        self._closed = True
        self._free = deque(maxlen=0)  # drops what is still returned
