"""Exact errors as metrics of torchmetrics, for Lightning and other loggers.

In: the arguments of `ExactError`. Out: a `torchmetrics.Metric` of the same values. Needs torchmetrics, which the rest
of the torch adapter does not.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torchmetrics import Metric

from windowloader.adapters.torch.exact_error import ExactError

__all__ = ["ExactMAE", "ExactMAPE", "ExactMSE", "ExactMetric", "ExactRMSE"]


class ExactMetric(Metric):
    """A mean error with the same bits on any number of ranks.

    Parameters
    ----------
    kind : {"mae", "mse", "rmse", "mape"}
    layout : str
        Axes of predictions and targets.
    by_step : bool
        Compute a number for each horizon step instead of one.
    **options
        Those of `torchmetrics.Metric`.

    Raises
    ------
    LoaderError
        For an unknown kind or layout.

    Examples
    --------
    >>> metric = ExactMAE()
    >>> metric.update(torch.ones(4, 3, 207, 1), torch.zeros(4, 3, 207, 1))
    >>> metric.compute()
    tensor(1., dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    # states of `ExactError`, concatenated: of one rank, or after a synchronisation of all
    sums: list[torch.Tensor]

    def __init__(
        self,
        kind: Literal["mae", "mse", "rmse", "mape"] = "mae",
        *,
        layout: str = "btnf",
        by_step: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._kind: Literal["mae", "mse", "rmse", "mape"] = kind
        self._layout, self._by_step = layout, by_step
        ExactError(kind, layout=layout)  # checks the arguments
        self.add_state("sums", default=[], dist_reduce_fx="cat")

    def update(
        self, prediction: torch.Tensor, target: torch.Tensor, mask: Any = None, weights: Any = None
    ) -> None:
        """Add a batch, as `ExactError.update` does.

        Parameters
        ----------
        prediction, target : Tensor, axes as ``layout`` says
            In the units of the error.
        mask : Tensor of bool, optional
            ``batch.target_mask``: False where a target is missing.
        weights : Tensor, shape (batch,), optional
            ``batch.weights``: windows of weight 0 do not count.
        """
        error = self._error()
        error.update(prediction, target, mask=mask, weights=weights)
        self.sums = [torch.tensor(error.state(), dtype=torch.float64, device=self.device)]

    def compute(self) -> torch.Tensor:
        """Return the error over all steps, or of each with ``by_step``; float64."""
        error = self._error()
        found = error.value() if self._by_step else error.overall()
        return torch.as_tensor(found, dtype=torch.float64, device=self.device)

    def _error(self) -> ExactError:
        error = ExactError(self._kind, layout=self._layout)
        states: Any = self.sums  # one tensor after a synchronisation, else a list
        for state in [states] if isinstance(states, torch.Tensor) else states:
            error.merge_states(state.tolist())
        return error


class ExactMAE(ExactMetric):
    """Mean absolute error; ``layout``, ``by_step`` and others as of `ExactMetric`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("mae", **options)


class ExactMSE(ExactMetric):
    """Mean squared error; ``layout``, ``by_step`` and others as of `ExactMetric`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("mse", **options)


class ExactRMSE(ExactMetric):
    """Root of the mean squared error; ``layout``, ``by_step`` and others as of `ExactMetric`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("rmse", **options)


class ExactMAPE(ExactMetric):
    """Mean absolute error relative to the target (mask targets of 0); options as of `ExactMetric`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("mape", **options)
