"""Buffers that come back by themselves: memory of batches, used again once nobody holds a batch or a view of it.

In: the bytes of a batch. Out: arrays in a slab whose pages were touched before. Never takes back what someone holds,
and never makes anybody wait: who keeps batches gets new slabs.

A buffer that the allocator hands back to the kernel is paid for again page by page, which costs more than to fill it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from windowloader.errors import ClosedError

from .roles import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .roles import Field

__all__ = ["BufferPool", "Buffers", "Carved", "Lease"]


class Carved(Protocol):
    """Memory for one batch."""

    def carve(self, fields: Iterable[Field]) -> dict[str, np.ndarray]:
        """Make the arrays of a batch, by name; each keeps the memory alive."""


class Buffers(Protocol):
    """Where batches are made; adapters have their own (pinned, shared)."""

    def lease(self) -> Carved:
        """Return memory that nobody holds."""

    def close(self) -> None:
        """Let go of what is free."""


class _Slab:
    """Memory for one batch, aligned, and how NumPy is told of it."""

    __slots__ = ("interface", "memory")

    def __init__(self, nbytes: int) -> None:
        # zeros would be mapped lazily, so that the first batch in each slab paid for its pages
        self.memory = np.empty(nbytes + ALIGNMENT, np.uint8)
        self.memory.fill(0)
        address = self.memory.__array_interface__["data"][0]
        aligned = -(-address // ALIGNMENT) * ALIGNMENT
        self.interface = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (aligned, False)}


class _Shelf:
    """Where free slabs lie; outlives the pool in its leases."""

    __slots__ = ("slabs",)

    def __init__(self, keep: int) -> None:
        self.slabs: deque[_Slab] = deque(maxlen=keep)  # a full deque drops its oldest: bounded without a lock


class Lease:
    """The right to a slab, for as long as this object or any array made from it lives.

    NumPy lets the base of a view's view be the owner of the memory, so a finalizer on an array would run while slices
    of it are in use. It stops at an object that is no array: every slice, reshape, memoryview, tensor and DLPack
    capsule keeps this object alive.
    """

    __slots__ = ("__weakref__", "_shelf", "_slab")

    def __init__(self, slab: _Slab, shelf: _Shelf) -> None:
        self._slab = slab
        self._shelf = shelf

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._slab.interface

    def __del__(self) -> None:
        # A finalizer of the weakref module costs more than a small batch. This may run in any thread, and inside the
        # pool's own calls when the garbage collector starts there: so no lock, only a deque's atomic append.
        self._shelf.slabs.append(self._slab)

    def carve(self, fields: Iterable[Field]) -> dict[str, np.ndarray]:
        """Make the arrays of a batch, by name; they share the slab and keep it.

        Parameters
        ----------
        fields : iterable of Field
            Whose offsets and sizes lie within the pool's ``nbytes``.

        Returns
        -------
        dict of str to ndarray
            C-contiguous, aligned to 64 bytes, holding whatever the last batch left.
        """
        whole = np.asarray(self)
        return {
            field.name: np.ndarray(field.shape, field.dtype, buffer=whole, offset=field.offset)
            for field in fields
        }


class BufferPool:
    """Slabs of one size, handed out and, by themselves, handed back.

    Parameters
    ----------
    nbytes : int
        Of a slab.
    keep : int
        How many free slabs are kept at most.

    Examples
    --------
    >>> pool = BufferPool(1024)
    >>> array = np.asarray(pool.lease())
    >>> view = array[::2].reshape(2, 256)
    >>> del array  # the view still holds the memory
    >>> pool.free
    0
    >>> del view
    >>> pool.free
    1
    """

    def __init__(self, nbytes: int, *, keep: int = 8) -> None:
        self.nbytes = int(nbytes)
        self._shelf = _Shelf(keep)
        self._closed = False

    @property
    def free(self) -> int:
        """Slabs that wait to be used."""
        return len(self._shelf.slabs)

    def lease(self) -> Lease:
        """Return a free slab, or a new one; never waits.

        Raises
        ------
        ClosedError
            After `close`.
        """
        if self._closed:
            raise ClosedError("this pool of buffers is closed, as its loader is. Make a new loader.")
        try:
            slab = self._shelf.slabs.pop()  # the newest: the likeliest to be in the cache
        except IndexError:
            slab = _Slab(self.nbytes)
        return Lease(slab, self._shelf)

    def close(self) -> None:
        """Let go of free slabs; those that are held stay valid, and are freed with their last holder."""
        self._closed = True
        self._shelf.slabs = deque(maxlen=0)  # what still comes back is dropped
