"""PyTorch: batches as tensors, and windows as a map-style data set.

In: what `WindowLoader` takes, and a device. Out: `TorchLoader`, an iterable of batches whose arrays are tensors over
the same memory (no copy), or copies on the device. It binds: what a batch is, and its order, comes from the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from windowloader.loader import WindowLoader

if TYPE_CHECKING:
    from typing import Unpack

    from windowloader.batch import Batch
    from windowloader.config import LoaderOptions
    from windowloader.windows import WindowSet

__all__ = ["TorchLoader"]


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Wrap an array as a tensor over the same memory; bits of bfloat16 become that type."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


class TorchLoader(WindowLoader):
    """A `WindowLoader` whose batches hold tensors.

    Parameters
    ----------
    windows : WindowSet
    device : torch.device or str, optional
        Where batches are delivered; resolved to an index in the thread that iterates first. None: host memory.
    **options
        Those of `WindowLoader`; ``dtype`` may also be "bfloat16" or a ``torch.dtype``.
    """

    def __init__(
        self,
        windows: WindowSet,
        *,
        device: torch.device | str | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(windows, **options)
        self._device = None if device is None else torch.device(device)

    def _deliver(self, batch: Batch) -> Any:
        tensors = batch.map(as_tensor)
        if self._device is not None:
            device = self._device
            tensors = tensors.map(lambda tensor: tensor.to(device, non_blocking=True))
        return super()._deliver(tensors)
