"""Where batches go: a device as the user named it, resolved when the loop begins.

In: what was asked for. Out: a device with an index, and the `Copies` that lead there. Never touches a device before
the loop begins, so that a process may still fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from windowloader.adapters.torch_buffers import TorchBuffers
from windowloader.adapters.torch_copies import Copies, CudaStream
from windowloader.dynamic_graph import DynamicGraph
from windowloader.errors import LoaderError

if TYPE_CHECKING:
    from windowloader.adapters.torch_batch import TorchBatch
    from windowloader.adapters.torch_copies import OnItsWay
    from windowloader.batch import Batch
    from windowloader.series import Series

__all__ = ["Destination", "check_device", "resolve_device"]


def check_device(device: torch.device | str | int | None) -> torch.device | None:
    """Read what the user named; LoaderError for no device, or one that this torch was not built for.

    Examples
    --------
    >>> check_device("cpu")
    device(type='cpu')
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise LoaderError(
            f"device={device!r} names none: {str(error).splitlines()[0]} Pass 'cuda', 'cuda:1', 'cpu', or None."
        ) from error
    if found.type == "cuda" and not _built():
        raise LoaderError(
            f"device={device!r}, but this torch was built without CUDA. Install one with it, or pass device=None."
        )
    return found


def _built() -> bool:
    return bool(torch.backends.cuda.is_built())  # type: ignore[no-untyped-call]


def resolve_device(device: torch.device | None) -> torch.device | None:
    """Give a device the index that is current in the calling thread: other threads have another one."""
    index: int | None = None if device is None else device.index  # torch's annotation leaves out None
    if device is None or device.type != "cuda" or index is not None:
        return device
    if not torch.cuda.is_available():
        raise LoaderError("device='cuda' was asked for, and torch finds no CUDA device in this process.")
    return torch.device("cuda", torch.cuda.current_device())


class Destination:
    """Where the batches of a loader go. Threads hold this, never the loader.

    Parameters
    ----------
    device : torch.device, str, int or None
    pin_memory : bool or None
        None: where the device is a CUDA one.
    series : Series
        For its static graph.
    bfloat16 : bool
        Whether arrays of uint16 are bits of bfloat16.

    Raises
    ------
    LoaderError
        For a device that cannot be, or pinned memory without CUDA.
    """

    def __init__(
        self,
        device: torch.device | str | int | None,
        *,
        pin_memory: bool | None,
        series: Series,
        bfloat16: bool = False,
    ) -> None:
        self.asked = check_device(device)
        cuda = self.asked is not None and self.asked.type == "cuda"
        self.pinned = cuda if pin_memory is None else bool(pin_memory)
        if self.pinned and not _built():
            raise LoaderError(
                "pin_memory=True, but this torch was built without CUDA, so nothing can be pinned. "
                "Leave pin_memory= out."
            )
        self._graph = None if isinstance(series.graph, DynamicGraph) else series.graph
        self._bfloat16 = bfloat16
        self._copies: Copies | None = None

    @property
    def copies(self) -> Copies:
        """The way there; resolves the device when first asked for, in the thread that asks."""
        if self._copies is None:
            device = resolve_device(self.asked)
            self._copies = Copies(
                device,
                stream=CudaStream(device) if device is not None and device.type == "cuda" else None,
                pinned=self.pinned,
                bfloat16=self._bfloat16,
                graph=self._graph,
            )
        return self._copies

    def buffers(self, nbytes: int) -> TorchBuffers:
        """Pinned memory for batches."""
        return TorchBuffers(nbytes, self._pinned_bytes)

    def _pinned_bytes(self, nbytes: int) -> torch.Tensor:
        device = self.copies.device
        # a thread's present device is 0 until told otherwise, and pinning would make a context there
        with torch.cuda.device(device if device is not None and device.type == "cuda" else -1):
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def start(self, batch: Batch) -> TorchBatch | OnItsWay:
        """Wrap a batch and begin to copy it; in the thread that made it."""
        return self.copies.start(batch)
