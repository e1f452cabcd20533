"""PyTorch: batches as tensors on any device, and windows as a map-style data set.

In: the arguments of `WindowLoader`, and a device. Out: `TorchLoader`, an iterable of batches whose arrays are tensors
over the same memory (no copy), or prefetched copies on the device. What a batch is, and its order, comes from the core.
Also here: `WindowDataset` and `WindowSampler` for `torch.utils.data.DataLoader`, `ExactError` and `ddp_scale` for runs
of several ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from windowloader.errors import MissingExtraError

try:
    import torch  # noqa: TC002  # not for typing: without it the message below says what to install
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "windowloader.adapters.pytorch needs torch, which is not installed: pip install 'windowloader[torch]'"
    ) from error

from windowloader.adapters.torch.batch import TorchBatch, TorchGraph
from windowloader.adapters.torch.dataset import WindowDataset, WindowSampler
from windowloader.adapters.torch.device import Destination, DeviceReport
from windowloader.adapters.torch.exact_error import ExactError, ddp_scale
from windowloader.loader.loader import WindowLoader

if TYPE_CHECKING:
    from typing import Unpack

    from windowloader.batch.buffers import Buffers
    from windowloader.loader.iteration import Iteration
    from windowloader.loader.options import LoaderOptions
    from windowloader.loader.pipeline import Pipeline
    from windowloader.order.state import RunState
    from windowloader.util.ranks import Ranks
    from windowloader.windows.window_set import WindowSet

__all__ = [
    "DeviceReport",
    "ExactError",
    "TorchBatch",
    "TorchGraph",
    "TorchLoader",
    "WindowDataset",
    "WindowSampler",
    "ddp_scale",
]


class TorchLoader(WindowLoader):
    """A `WindowLoader` whose batches hold tensors: `TorchBatch`.

    Parameters
    ----------
    windows : WindowSet
    device : torch.device, str or int, optional
        Where batches are delivered; "cuda" is resolved to an index in the thread that iterates first. None: host
        memory. ``starts`` and ``entities`` stay on the host.
    pin_memory : bool, optional
        Make batches in pinned memory. None: where the device is a CUDA one. True without a CUDA device warns and uses
        plain memory, as ``DataLoader`` does.
    device_memory : str or int, optional
        Keep the rows that the windows read on the device, scaled and cast: a number of bytes they may take, or "all".
        Where they need more, as many as fit are kept for a while, if the order is by blocks or in time order; in any
        other order batches are gathered on the host, with a warning. Batches are the same to the bit.
    **options
        Those of `WindowLoader`. ``dtype`` may also be "bfloat16" or a ``torch.dtype``; ``transform`` comes last, after
        the copy to the device.

    Raises
    ------
    LoaderError
        For a device that this torch cannot use, and as `WindowLoader` does.

    Examples
    --------
    >>> import numpy as np
    >>> import windowloader as wl
    >>> windows = wl.WindowSet(wl.Series(np.arange(40.0).reshape(20, 2)), wl.WindowSpec(lookback=3, horizon=2))
    >>> for inputs, targets in TorchLoader(windows, batch_size=8, dtype="bfloat16"):
    ...     print(inputs.dtype, tuple(inputs.shape), tuple(targets.shape))
    torch.bfloat16 (8, 3, 2, 1) (8, 2, 2, 1)
    torch.bfloat16 (8, 3, 2, 1) (8, 2, 2, 1)
    """

    def __init__(
        self,
        windows: WindowSet,
        *,
        device: torch.device | str | int | None = None,
        pin_memory: bool | None = None,
        device_memory: str | int | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        self._destination: Destination | None = None
        self._asked: dict[str, Any] = {
            "device": device,
            "pin_memory": pin_memory,
            "device_memory": device_memory,
        }
        super().__init__(windows, **options)
        self._to()

    def _to(self) -> Destination:
        """Return where batches go; the core's constructor already asks for it if ranks are given."""
        if self._destination is None:
            self._destination = Destination(windows=self._windows, recipe=self._recipe, **self._asked)
        return self._destination

    def _buffers(self, nbytes: int) -> Buffers:
        return self._to().buffers(nbytes) if self._to().pinned else super()._buffers(nbytes)

    @property
    def _one_by_one(self) -> bool:
        return self._to().one_by_one

    def _start(self, ranks: Ranks, state: RunState | None = None) -> Pipeline:
        return self._to().place(super()._start(ranks, state))

    def __iter__(self) -> Iteration:
        self._bind()
        self._to().load()  # in the loop's thread, whose current device is the one that is meant
        return super().__iter__()

    def device_report(self) -> DeviceReport:
        """Return where rows live, and how many bytes went to the device so far."""
        self._bind()
        return self._to().report()

    def _deliver(self, batch: Any) -> Any:
        return super()._deliver(self._to().finish(batch))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_destination": None}  # belongs to this process
