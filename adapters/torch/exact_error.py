"""Errors of a whole evaluation with the same bits on any number of ranks, and the loss scale of short steps.

In: predictions and targets, batch by batch, on any device. Out: errors by horizon step, rounded once. No sum depends on
the order of batches, ranks or threads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import distributed

from windowloader.errors import LoaderError
from windowloader.util.exact_sum import ExactMean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.batch.batch import Batch

__all__ = ["ExactError", "ddp_scale", "window_sums"]

Kind = Literal["mae", "mse", "rmse", "mape"]
KINDS = ("mae", "mse", "rmse", "mape")


def window_sums(values: torch.Tensor) -> torch.Tensor:
    """Add up the last axis by halves: one fixed tree of additions.

    ``torch.sum`` may add a row in another order at another place in the batch or on another device; this does not.

    Parameters
    ----------
    values : Tensor, shape (..., cell), float64

    Returns
    -------
    Tensor, shape (...)

    Examples
    --------
    >>> window_sums(torch.arange(10.0, dtype=torch.float64).reshape(2, 5))
    tensor([10., 35.], dtype=torch.float64)
    """
    while (width := values.shape[-1]) > 1:
        half = -(-width // 2)
        folded = values[..., :half].clone()
        folded[..., : width - half] += values[..., half:]
        values = folded
    return values[..., 0] if values.shape[-1] else values.sum(-1)


class ExactError:
    """A mean error by horizon step: one float64 sum and count per window and step, added exactly, rounded once.

    With a loader of ``uneven="exact"`` it is bit-equal on any number of ranks of one batch size, where the model's
    output for a window does not depend on the window's row in the batch.

    Parameters
    ----------
    kind : {"mae", "mse", "rmse", "mape"}
    layout : str
        Axes of predictions and targets, as in `WindowLoader`.

    Raises
    ------
    LoaderError
        For an unknown kind, or a layout without b.

    Examples
    --------
    >>> error = ExactError("mae")
    >>> target = torch.zeros(4, 3, 207, 1)
    >>> error.update(target + torch.tensor([1.0, 2.0, 3.0])[:, None, None], target)
    >>> error.value(), error.overall()
    (array([1., 2., 3.]), 2.0)
    """

    def __init__(self, kind: Kind = "mae", *, layout: str = "btnf") -> None:
        if kind not in KINDS:
            raise LoaderError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
        if "b" not in layout or set(layout) - set("btnf"):
            raise LoaderError(f"layout must consist of b, t, n and f and have b, got {layout!r}.")
        self.kind: Kind = kind
        self.layout = layout
        self._mean: ExactMean | None = None  # its columns are known at the first update

    def update(
        self, prediction: torch.Tensor, target: torch.Tensor, *, mask: Any = None, weights: Any = None
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        prediction, target : Tensor, one shape, in the layout
            In the units of the error: invert the scaling before.
        mask : Tensor of bool, in that shape, optional
            ``batch.target_mask``: cells where it is False do not count.
        weights : Tensor, shape (batch,), optional
            ``batch.weights``: rows of weight 0 are ignored, and may be NaN.

        Raises
        ------
        LoaderError
            Where shapes differ.
        """
        if prediction.shape != target.shape or (mask is not None and mask.shape != target.shape):
            shapes = [tuple(part.shape) for part in (prediction, target, mask) if part is not None]
            raise LoaderError(
                f"prediction, target and mask have the shapes {shapes}. They must be equal: broadcasting would "
                "repeat cells. Reshape the prediction to the target's layout."
            )
        with torch.no_grad():
            errors = self._errors(prediction.detach().double(), target.detach().double())
            seen = torch.ones_like(errors) if mask is None else mask.double()
            sums = window_sums(self._by_step(torch.where(seen != 0, errors, 0.0)))
            counts = window_sums(self._by_step(seen))
        if self._mean is None:
            self._mean = ExactMean(sums.shape[1])
        factor = None if weights is None else torch.as_tensor(weights).detach().double().cpu().numpy()
        self._mean.add(sums.cpu().numpy(), factor, counts=counts.cpu().numpy())

    def _errors(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        difference = prediction - target
        if self.kind in ("mse", "rmse"):
            return difference * difference
        return difference.abs() / target.abs() if self.kind == "mape" else difference.abs()

    def _by_step(self, values: torch.Tensor) -> torch.Tensor:
        """Bring cells to (batch, step, cell)."""
        batch, step = _axis(self.layout, "b", values.ndim), _axis(self.layout, "t", values.ndim)
        if step is None:
            return values.movedim(batch or 0, 0).reshape(values.shape[batch or 0], 1, -1)
        moved = values.movedim((batch or 0, step), (0, 1))
        return moved.reshape(*moved.shape[:2], -1)

    def merge(self, other: ExactError) -> None:
        """Add the sums of another error."""
        if other._mean is None:
            return
        if self._mean is None:
            self._mean = ExactMean(other._mean.columns)
        self._mean.merge(other._mean)

    def value(self) -> np.ndarray:
        """Return the error of each horizon step, shape (step,), float64; NaN without observed values."""
        mean = np.empty(0) if self._mean is None else self._mean.value()
        return np.sqrt(mean) if self.kind == "rmse" else mean

    def overall(self) -> float:
        """Return the error over all steps together; NaN without observed values."""
        mean = math.nan if self._mean is None else self._mean.overall()
        return math.sqrt(mean) if self.kind == "rmse" else mean

    def state(self) -> list[float]:
        """Return the state as a list of float64: its length, then the sums."""
        parts = [] if self._mean is None else self._mean.state()
        return [float(len(parts)), *parts]

    def merge_states(self, states: Sequence[float]) -> None:
        """Add concatenated states."""
        at = 0
        while at < len(states):
            length = int(states[at])
            if length:
                other = ExactError(self.kind, layout=self.layout)
                other._mean = ExactMean.from_state(states[at + 1 : at + 1 + length])
                self.merge(other)
            at += 1 + length

    def over_ranks(self, group: Any = None) -> ExactError:
        """Return the error over all ranks, the same on each; every rank of the group must call it.

        Parameters
        ----------
        group : ProcessGroup, optional
            None: the default one; without one the error of this process.
        """
        parts: list[Any] = [self]
        if distributed.is_available() and distributed.is_initialized():
            parts = [None] * distributed.get_world_size(group)
            distributed.all_gather_object(parts, self, group=group)
        whole = ExactError(self.kind, layout=self.layout)
        for part in parts:
            whole.merge(part)
        return whole


def _axis(layout: str, letter: str, ndim: int) -> int | None:
    """Axis of a letter where ``n`` may stand for several axes."""
    if letter not in layout:
        return None
    place = layout.index(letter)
    before_space = "n" not in layout or place < layout.index("n")
    return place if before_space else place + ndim - len(layout)


def ddp_scale(batch: Batch, *, world_size: int | None = None) -> float:
    """Return the factor that makes DDP's average of gradients the gradient of the mean over a step's windows.

    DDP averages the gradients of R ranks as if each had as many windows. With B rows on this rank (those of weight 0
    included) and a weight of N over all ranks, the loss whose gradients average to that of the mean over N windows is::

        loss = (loss_per_window * batch.weights).mean() * ddp_scale(batch)      # R * B / N

    It is 1.0 in every full step, and differs in the last of ``uneven="exact"`` and "drop". A rank whose rows all have
    weight 0 contributes nothing, and still takes part.

    Parameters
    ----------
    batch : Batch
        Of a loader.
    world_size : int, optional
        Ranks that DDP averages over, which are the loader's. None: those of the default process group, else 1.

    Returns
    -------
    float

    Raises
    ------
    LoaderError
        For a batch that is no loader's, such as one of `WindowSet.read`.

    Examples
    --------
    >>> import windowloader as wl
    >>> windows = wl.WindowSet(wl.Series(np.zeros((14, 2))), wl.WindowSpec(lookback=3, horizon=2))  # 10 windows
    >>> loader = wl.WindowLoader(windows, batch_size=4, uneven="exact", rank=1, world_size=2)
    >>> [(batch.weights.tolist(), ddp_scale(batch, world_size=2)) for batch in loader]
    [([1.0, 1.0, 1.0, 1.0], 1.0), ([1.0, 0.0, 0.0, 0.0], 4.0)]
    """
    if batch.step_weight is None:
        raise LoaderError("this batch comes from no step of a loader, so its scale is unknown.")
    if world_size is None:
        known = distributed.is_available() and distributed.is_initialized()
        world_size = distributed.get_world_size() if known else 1
    return world_size * batch.num_windows / batch.step_weight if batch.step_weight else 0.0
