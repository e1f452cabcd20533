"""The training loop, as anyone would write it around a `TorchLoader`.

In: a task. Out: a fitted model, and a forecaster made of it. Imports torch; never computes a batch.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from windowloader.adapters.pytorch import TorchLoader

from .model import GraphForecaster, diffusion

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from windowloader.batch.batch import Batch

    from .task import DemoTask

__all__ = ["Fitted", "Settings", "build", "fit", "load_once", "settle"]

CELLS = 64 * 207  # windows × nodes of a step, METR-LA's; batches of larger graphs are smaller
ENOUGH = 600  # steps that the network needs where an epoch is short


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to train.

    Parameters
    ----------
    epochs : int
    batch_size : int
        Windows a step, of all ranks together.
    steps_per_epoch : int, optional
        None: all windows once.
    learning_rate : float
        Highest of a one-cycle schedule.
    hidden, blocks : int
        Size of the network.
    seed : int
        Of the order and the first weights.
    """

    epochs: int
    batch_size: int
    steps_per_epoch: int | None = None
    learning_rate: float = 4e-3
    hidden: int = 48
    blocks: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model and how it went.

    Parameters
    ----------
    model : GraphForecaster
    losses : tuple of float
        Mean absolute error of the scaled targets, an epoch.
    windows, steps : int
        That it was trained on, repeats counted.
    seconds : float
    """

    model: nn.Module
    losses: tuple[float, ...]
    windows: int
    steps: int
    seconds: float

    def __call__(self, batch: Batch) -> np.ndarray:
        """Forecast a batch of NumPy arrays; scaled, shape (node…, batch, horizon, feature)."""
        self.model.eval()
        with torch.inference_mode():
            forecast = self.model(*_arguments(batch.map(torch.from_numpy)))
        found: np.ndarray = forecast.numpy().reshape(batch.targets.shape)
        return found


def settle(
    task: DemoTask,
    *,
    epochs: int | None,
    batch_size: int | None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
) -> Settings:
    """Choose what was not asked for: batches by the size of the graph, two epochs or as many as make 600 steps."""
    if batch_size is None:
        batch_size = min(64, max(8, 2 ** round(math.log2(CELLS / task.series.num_nodes))))
        batch_size = min(batch_size, max(8, 2 ** int(math.log2(len(task.train) / 40 + 1))))
    if epochs is None:
        epochs = max(2, math.ceil(ENOUGH / (steps_per_epoch or math.ceil(len(task.train) / batch_size))))
    return Settings(epochs=epochs, batch_size=batch_size, steps_per_epoch=steps_per_epoch, seed=seed)


def train_loader(task: DemoTask, settings: Settings) -> TorchLoader:
    """Return the loader of the train part, shuffled, as tensors."""
    return TorchLoader(
        task.train,
        global_batch_size=settings.batch_size,
        shuffle=True,
        seed=settings.seed,
        steps_per_epoch=settings.steps_per_epoch,
        **task.loading(),
    )


def load_once(task: DemoTask, settings: Settings) -> float:
    """Run through the windows of an epoch without a model; return windows a second."""
    with train_loader(task, settings) as loader:
        for _ in loader:
            pass
        return loader.stats().epochs[0].windows_per_second


def build(task: DemoTask, settings: Settings) -> GraphForecaster:
    """Build the network for a task, the same one for the same seed."""
    torch.manual_seed(settings.seed)
    graph, spec = task.series.graph, task.train.spec
    walks = diffusion(graph.edge_index, graph.edge_weight, graph.num_nodes) if graph is not None else ()
    return GraphForecaster(
        num_nodes=task.series.num_nodes,
        num_features=len(task.series.features),
        lookback=spec.num_inputs,
        horizon=spec.num_targets,
        walks=walks,
        timed=task.series.clock is not None,
        hidden=settings.hidden,
        blocks=settings.blocks,
    )


def fit(
    task: DemoTask,
    settings: Settings,
    *,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    advance: Callable[[int, int, float], object] = lambda epoch, step, loss: None,
) -> Fitted:
    """Train.

    Parameters
    ----------
    task : DemoTask
    settings : Settings
    wrap : callable
        Takes the model, returns what is trained, e.g. ``DistributedDataParallel``: the loader finds its rank itself.
    advance : callable
        Called after each step with (epoch, step, mean loss of the epoch so far).

    Returns
    -------
    Fitted
    """
    model = build(task, settings)
    trained = wrap(model)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=settings.learning_rate, weight_decay=1e-2)
    losses, windows, steps, began = [], 0, 0, time.perf_counter()
    with train_loader(task, settings) as loader:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, total_steps=settings.epochs * len(loader), pct_start=0.2
        )
        for epoch in range(settings.epochs):
            loader.set_epoch(epoch)
            trained.train()
            total = 0.0
            for step, batch in enumerate(loader, start=1):
                loss = _masked_mae(trained(*_arguments(batch)), batch.targets, batch.target_mask)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(trained.parameters(), 3.0)
                optimiser.step()
                schedule.step()
                total += float(loss.detach())
                windows, steps = windows + batch.num_windows, steps + 1
                advance(epoch, step, total / step)
            losses.append(total / step)
    return Fitted(model, tuple(losses), windows, steps, time.perf_counter() - began)


def _arguments(batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return what the model takes: all space axes as one, and the clock of the first step to forecast."""
    inputs = batch.inputs.flatten(0, batch.inputs.ndim - 4)
    mask = torch.ones((), dtype=torch.bool) if batch.input_mask is None else batch.input_mask
    clock = None if batch.shared_future is None else batch.shared_future[:, 0]
    return inputs, mask.expand_as(batch.inputs).reshape(inputs.shape), clock


def _masked_mae(forecast: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
    error = (forecast.view_as(targets) - targets).abs()
    if mask is None:
        return error.mean()
    return (error * mask).sum() / mask.sum().clamp(min=1)
