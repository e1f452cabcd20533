"""Memory of batches that torch hands out: pinned for copies to a device, or shared between processes.

In: the bytes of a batch. Out: arrays in a tensor. Never keeps memory itself: torch's own allocator of pinned memory
does, and it alone knows which copies to a device are still under way, those of the user's loop included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from windowloader.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from windowloader.batch.roles import Field

__all__ = ["TorchBuffers", "shared_memory"]


def shared_memory(nbytes: int) -> torch.Tensor:
    """Return bytes that another process can map: a worker's batch then travels without a copy.

    Examples
    --------
    >>> shared_memory(64).is_shared()
    True
    """
    # what torch's own collation does in a worker
    storage = torch.UntypedStorage._new_shared(nbytes)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)


class TorchBuffers:
    """Batches in tensors, one tensor a batch.

    Parameters
    ----------
    nbytes : int
        Of a batch.
    allocate : callable
        ``allocate(nbytes)`` returns a uint8 tensor of one axis, whose first byte is aligned to 64.

    Examples
    --------
    >>> buffers = TorchBuffers(1024, lambda nbytes: torch.empty(nbytes, dtype=torch.uint8))
    >>> type(buffers.lease()).__name__
    'TorchLease'
    """

    def __init__(self, nbytes: int, allocate: Callable[[int], torch.Tensor]) -> None:
        self.nbytes = nbytes
        self._allocate = allocate
        self._closed = False

    def lease(self) -> TorchLease:
        """Return memory that nobody holds.

        Raises
        ------
        ClosedError
            After `close`.
        """
        if self._closed:
            raise ClosedError("these buffers are closed, as their loader is. Make a new loader.")
        return TorchLease(self._allocate(self.nbytes))

    def close(self) -> None:
        """Hand out no more."""
        self._closed = True


class TorchLease:
    """The memory of one batch; arrays made of it keep the tensor alive, and `as_tensor` finds it again."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def carve(self, fields: Iterable[Field]) -> dict[str, np.ndarray]:
        """Make the arrays of a batch, by name."""
        whole = self._tensor.numpy()
        return {
            field.name: np.ndarray(field.shape, field.dtype, buffer=whole, offset=field.offset)
            for field in fields
        }
