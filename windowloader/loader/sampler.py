"""What loops written for torch's samplers look for on a loader: something with `set_epoch`.

In: a loader. Out: `EpochSampler`. Never samples: the order is the loader's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EpochSampler"]


class EpochSampler:
    """Stands where a ``DistributedSampler`` would, so that ``loader.sampler.set_epoch(epoch)`` works.

    Unlike `WindowLoader.set_epoch` it takes along an iterator that gave no batch yet, as torch's samplers do: some
    trainers make the iterator first and say the epoch afterwards.

    Parameters
    ----------
    move : callable
        ``move(epoch)`` of the loader.

    Examples
    --------
    >>> import numpy as np
    >>> import windowloader as wl
    >>> windows = wl.WindowSet(wl.Series(np.arange(40.0).reshape(20, 2)), wl.WindowSpec(lookback=3, horizon=2))
    >>> loader = wl.WindowLoader(windows, batch_size=4, shuffle=True)
    >>> iterator = iter(loader)
    >>> loader.sampler.set_epoch(3)
    >>> next(iterator).epoch
    3
    """

    __slots__ = ("_move",)

    def __init__(self, move: Callable[[int], None]) -> None:
        self._move = move

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing changes if it is the present one."""
        self._move(epoch)
