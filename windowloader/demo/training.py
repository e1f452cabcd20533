"""Trains a small graph network with `TorchLoader` and scores it beside two baselines.

In: a series. Out: errors, speeds, memory as plain numbers, and some forecasts for a picture. The model is diffusion
both ways along the graph (Li et al. 2018, DCRNN) with embeddings of the node and of the time of day and week (Shao et
al. 2022, STID); any PyTorch model takes its place.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import ProcessException, spawn
from torch.nn.parallel import DistributedDataParallel

import windowloader as wl
from windowloader.adapters.pytorch import ExactError, TorchLoader
from windowloader.util.units import MemoryWatch, private_bytes

from .generated import grid_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from windowloader.windows.window_set import WindowSet

    Forecaster = Callable[[Any], Tensor]
    Result = tuple[dict[str, Any], dict[str, np.ndarray]]

__all__ = ["AVERAGE", "LAST", "MODEL", "DemoTask", "fit", "label", "open_task", "run", "score"]

LOOKBACK = HORIZON = 12
CLOCK = ("time_of_day", "day_of_week")
DAY = 86_400
MODEL, AVERAGE, LAST = "graph network", "historical average", "persistence"
CELLS = 64 * 207  # windows × nodes of a METR-LA batch; batches of larger graphs have fewer windows
ENOUGH = 600  # training steps, if an epoch is short
SHOWN = (3, 6, 12)  # steps ahead in the table
PICTURED = 432  # windows of the test part in the picture
HIDDEN, HARMONICS = 48, 6
LEARNING_RATE = 4e-3


@dataclass(frozen=True, slots=True)
class DemoTask:
    """Windows to train and score on, and how to train.

    Parameters
    ----------
    train, val, test : WindowSet
    scaler : StandardScaler
        Fitted on ``train``.
    graph : Graph or None
    epochs : int
    batch_size : int
        Windows a step, over all ranks.
    steps_per_epoch : int or None
        None: all windows once.
    seed : int
    """

    train: WindowSet
    val: WindowSet
    test: WindowSet
    scaler: wl.StandardScaler
    graph: wl.Graph | None
    epochs: int
    batch_size: int
    steps_per_epoch: int | None
    seed: int

    @property
    def step_seconds(self) -> float | None:
        """Seconds from row to row; None without timestamps."""
        clock = self.train.series.clock
        return None if clock is None else float(np.diff(clock.nanoseconds([0, 1]))[0] / 1e9)

    def loader(self, windows: WindowSet, **options: Any) -> TorchLoader:
        """Return a loader: scaled, 0 where values are missing, the clock once per window."""
        return TorchLoader(windows, scaler=self.scaler, fill=0.0, broadcast=False, **options)

    def train_loader(self) -> TorchLoader:
        """Return the shuffled loader of the train part; it finds its rank itself."""
        size, steps = self.batch_size, self.steps_per_epoch
        return self.loader(
            self.train, global_batch_size=size, steps_per_epoch=steps, shuffle=True, seed=self.seed
        )


def open_task(
    series: wl.Series,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
) -> DemoTask:
    """Split and scale a series, and choose what was not given: smaller batches and more epochs for short data."""
    graph = series.graph if isinstance(series.graph, wl.Graph) else None
    if series.graph is None and len(series.space_shape) == 2:
        graph = grid_graph(*series.space_shape)
    spec = wl.WindowSpec(lookback=LOOKBACK, horizon=HORIZON, future=CLOCK if series.clock is not None else ())
    train, val, test = wl.split(series, spec, (0.7, 0.1, 0.2))
    batch_size = batch_size or int(max(8, min(64, CELLS / series.num_nodes, len(train) / 40)))
    epochs = epochs or max(2, math.ceil(ENOUGH / (steps_per_epoch or math.ceil(len(train) / batch_size))))
    scaler = wl.StandardScaler.fit(train)
    return DemoTask(train, val, test, scaler, graph, epochs, batch_size, steps_per_epoch, seed)


def label(steps: int, step_seconds: float | None) -> str:
    """Write how far ahead some steps are.

    Examples
    --------
    >>> label(3, 300.0), label(3, 3600.0), label(3, 86400.0), label(3, None)
    ('15 min', '3 h', '3 days', 'step 3')
    """
    if step_seconds is None:
        return f"step {steps}"
    seconds = steps * step_seconds
    for name, unit in (("days", DAY), ("h", 3_600)):
        if seconds % unit == 0 and seconds > unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 60:g} min"


class GraphForecaster(nn.Module):
    """Forecasts all features of all nodes as changes from the last reading.

    Parameters
    ----------
    task : DemoTask
    """

    def __init__(self, task: DemoTask) -> None:
        super().__init__()
        series = task.train.series
        features = len(series.features)
        self.transitions = _transitions(task.graph)
        self.past = nn.Linear(2 * LOOKBACK * features, HIDDEN)
        # Without a clock there must be no unused weights: DDP would wait for their gradients.
        timed = series.clock is not None
        self.clock = nn.Linear(2 * HARMONICS + 7, HIDDEN, bias=False) if timed else None
        self.node = nn.Parameter(torch.randn(series.num_nodes, 1, HIDDEN) * 0.2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(HIDDEN * (1 + len(self.transitions)), HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN)
            )
            for _ in range(2)
        )
        self.forecast = nn.Linear(HIDDEN, HORIZON * features)
        nn.init.zeros_(self.forecast.weight)  # so that training begins at persistence

    def forward(self, batch: Any) -> Tensor:
        """Forecast.

        Parameters
        ----------
        batch : Batch
            Scaled inputs, 0 where missing, and their mask; shape (batch, lookback, node, feature).

        Returns
        -------
        Tensor, shape (batch, horizon, node, feature)
            Scaled like the inputs.
        """
        past = torch.cat(_flat(batch.inputs, batch.input_mask), -1).permute(2, 0, 1, 3).flatten(2)
        state = self.past(past) + self.node  # nodes first: diffusion along the graph is one sparse product
        if self.clock is not None:
            time_of_day, day = batch.shared_future[:, 0].unbind(-1)
            angles = 2 * math.pi * time_of_day[:, None] * torch.arange(1, HARMONICS + 1)
            state = state + self.clock(
                torch.cat([angles.sin(), angles.cos(), nn.functional.one_hot(day.long(), 7)], -1)
            )
        for block in self.blocks:
            known = nn.functional.layer_norm(state, [HIDDEN])
            heard = [torch.sparse.mm(matrix, known.flatten(1)).view_as(known) for matrix in self.transitions]
            state = state + block(torch.cat([known, *heard], -1))
        change = self.forecast(nn.functional.layer_norm(state, [HIDDEN])).unflatten(-1, (HORIZON, -1))
        forecast: Tensor = persistence(batch) + change.permute(1, 2, 0, 3)
        return forecast


def _transitions(graph: wl.Graph | None) -> list[Tensor]:
    """Return transition matrices along and against the edges, sparse, shape (node, node), without self-loops."""
    if graph is None:
        return []
    edges, nodes = torch.as_tensor(graph.edge_index), graph.num_nodes
    weight = torch.as_tensor(1.0 if graph.edge_weight is None else graph.edge_weight).float()
    weight = weight * (edges[0] != edges[1])
    found = []
    for ends in (edges, edges.flip(0)):
        share = weight / torch.zeros(nodes).index_add_(0, ends[0], weight).clamp(min=1e-12)[ends[0]]
        found.append(torch.sparse_coo_tensor(ends, share, (nodes, nodes), check_invariants=False).coalesce())
    return found


def _flat(values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return values and mask with all space axes as one, shape (batch, time, node, feature)."""
    values = values.flatten(2, -2)
    return values, torch.ones_like(values, dtype=torch.bool) if mask is None else mask.flatten(2, -2)


def fit(
    task: DemoTask,
    *,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    advance: Callable[[int, int, float], object] = lambda epoch, step, loss: None,
) -> nn.Module:
    """Train the network.

    Parameters
    ----------
    task : DemoTask
    wrap : callable
        Wraps the model, e.g. in ``DistributedDataParallel``.
    advance : callable
        Called after each step with (epoch, step, mean loss of the epoch so far).
    """
    torch.manual_seed(task.seed)
    model = GraphForecaster(task)
    trained = wrap(model)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    with task.train_loader() as loader:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, LEARNING_RATE, total_steps=task.epochs * len(loader), pct_start=0.2
        )
        for epoch in range(task.epochs):
            loader.set_epoch(epoch)
            total = 0.0
            for step, batch in enumerate(loader, start=1):
                targets, mask = _flat(batch.targets, batch.target_mask)
                loss = ((trained(batch) - targets).abs() * mask).sum() / mask.sum().clamp(min=1)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(trained.parameters(), 3.0)
                optimiser.step()
                schedule.step()
                total += loss.item()
                advance(epoch, step, total / step)
    return model


def _load_once(task: DemoTask) -> float:
    """Iterate one epoch without a model; return windows per second."""
    with task.train_loader() as loader:
        for _ in loader:
            pass
        return loader.stats().epochs[0].windows_per_second


def _rank(rank: int, ranks: int, folder: str, task: DemoTask) -> None:
    """Be one of several processes that train; the first one scores and saves the result."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=ranks)
    try:
        if rank == 0:
            torch.save(_run(task, wrap=DistributedDataParallel, ranks=ranks), f"{folder}/result")
        else:
            _load_once(task)
            fit(task, wrap=DistributedDataParallel)
    finally:
        distributed.destroy_process_group()


def persistence(batch: Any) -> Tensor:
    """Forecast each node's last observed reading, or 0 (the mean), shape (batch, horizon, node, feature)."""
    inputs, observed = _flat(batch.inputs, batch.input_mask)
    steps = torch.arange(1, LOOKBACK + 1, dtype=torch.int32).view(-1, 1, 1)
    return inputs.gather(1, (observed * steps).argmax(1, keepdim=True)).expand(-1, HORIZON, -1, -1)


def historical_average(task: DemoTask) -> Forecaster:
    """Average each node over the train part by time of the week, or of the day if it is shorter than two weeks."""
    series, seconds = task.train.series, task.step_seconds
    per_day = int(DAY // seconds) if seconds is not None and seconds <= DAY / 2 else 0
    weekly = per_day > 0 and task.train.row_range[1] >= 14 * per_day

    def slots(batch: Any) -> Tensor:
        if not per_day:
            return torch.zeros(batch.targets.shape[:2], dtype=torch.int64)
        time_of_day, day = batch.shared_future.unbind(-1)
        found: Tensor = (time_of_day * per_day).round().long() % per_day
        return found + per_day * day.long() if weekly else found

    shape = (7 * max(per_day, 1), series.num_nodes, len(series.features))
    total, count = torch.zeros((2, *shape), dtype=torch.float64)
    with task.loader(task.train, batch_size=256, rank=0, world_size=1) as loader:
        for batch in loader:
            for sums, values in zip((total, count), _flat(batch.targets, batch.target_mask), strict=True):
                sums.index_add_(0, slots(batch)[:, 0], values[:, 0].double())  # a missing target is 0
    overall = total.sum(0) / count.sum(0).clamp(min=1)
    table = torch.where(count > 0, total / count.clamp(min=1), overall).float()
    return lambda batch: table[slots(batch)]


def score(
    task: DemoTask, windows: WindowSet, forecasters: Mapping[str, Forecaster], *, keep: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Forecast all windows and compare with what was observed.

    Parameters
    ----------
    task : DemoTask
    windows : WindowSet
    forecasters : mapping of name to callable
        Take a batch and return scaled forecasts, shape (batch, horizon, node, feature).
    keep : int
        Number of windows, from the first, whose last-step forecasts are kept.

    Returns
    -------
    errors : dict of forecaster to ndarray, shape (horizon,)
        Mean absolute errors in the units of the data, missing targets left out; NaN without any target.
    kept : dict of forecaster to ndarray, shape (window, node)
        First feature of the last step; "observed" is the truth, NaN where missing.
    """
    errors = {name: ExactError("mae") for name in forecasters}
    kept: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode(), task.loader(windows, batch_size=64, rank=0, world_size=1) as loader:
        for step, batch in enumerate(loader):
            targets, seen = _flat(batch.targets, batch.target_mask)
            truth = task.scaler.inverse_transform(targets)
            found = {"observed": torch.where(seen, truth, torch.nan)}
            for name, forecaster in forecasters.items():
                found[name] = task.scaler.inverse_transform(forecaster(batch))
                errors[name].update(found[name], truth, mask=seen)
            for name, values in found.items() if step * 64 < keep else ():
                kept.setdefault(name, []).append(values[:, -1, :, 0].double().numpy())
    joined = {name: np.concatenate(parts)[:keep] for name, parts in kept.items()}
    return {name: error.value() for name, error in errors.items()}, joined


def run(task: DemoTask, *, ranks: int = 1, **options: Any) -> Result:
    """Load, train and score.

    Parameters
    ----------
    task : DemoTask
    ranks : int
        Number of processes that train, joined by gloo; windows per second are those of all.
    **options
        ``advance`` of `fit`, for one rank.

    Returns
    -------
    figures : dict
        ``data``, ``edges``, ``windows`` by part, ``epochs``, ``batch_size``, ``steps``, ``mae`` by part, forecaster
        and time ahead, ``curves`` (test errors at every step ahead), ``loading_windows_per_second`` (the loader
        alone), ``training_windows_per_second``, ``training_seconds``, and ``memory`` in bytes: ``data`` (the array),
        ``imports`` (private memory before loading), ``loading`` and ``training`` (how far it grew above that at most),
        ``windows_float32`` and ``windows_float64`` (all windows, if they were stored).
    forecasts : dict
        Of the first test windows, see `score`.
    """
    if ranks == 1:
        return _run(task, **options)
    with tempfile.TemporaryDirectory(prefix="windowloader-") as folder:
        try:
            spawn(_rank, (ranks, folder, task), nprocs=ranks)  # type: ignore[no-untyped-call]
        except ProcessException as error:
            raise wl.errors.LoaderError(f"a rank failed: {str(error).strip().splitlines()[-1]}") from error
        found: Result = torch.load(f"{folder}/result", weights_only=False)
        return found


def _run(
    task: DemoTask, *, ranks: int = 1, wrap: Any = lambda model: model, advance: Any = lambda *_: None
) -> Result:
    series = task.train.series
    with task.train_loader() as loader:
        steps = task.epochs * len(loader)
        next(iter(loader))  # compiles kernels
    imports = private_bytes()
    with MemoryWatch() as loading:
        alone = _load_once(task)
    began = time.perf_counter()
    with MemoryWatch() as training:
        model = fit(task, wrap=wrap, advance=advance)
    seconds = time.perf_counter() - began
    forecasters: dict[str, Forecaster] = {LAST: persistence, AVERAGE: historical_average(task)}
    forecasters[MODEL] = model
    val, _ = score(task, task.val, forecasters)
    test, kept = score(task, task.test, forecasters, keep=PICTURED)
    times = {label(count, task.step_seconds): count - 1 for count in SHOWN}

    def at_times(errors: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        return {
            name: {time: float(error[at]) for time, at in times.items()} for name, error in errors.items()
        }

    parts = {"train": task.train, "val": task.val, "test": task.test}
    own = series.variables[: series.num_own]
    cells = sum(map(len, parts.values())) * (LOOKBACK + HORIZON) * series.num_nodes * len(series.features)
    figures = {
        "data": repr(series),
        "edges": 0 if task.graph is None else int(task.graph.edge_index.shape[1]),
        "windows": {name: len(part) for name, part in parts.items()},
        "epochs": task.epochs,
        "batch_size": task.batch_size,
        "steps": steps,
        "mae": {"val": at_times(val), "test": at_times(test)},
        "curves": {name: error.tolist() for name, error in test.items()},
        "loading_windows_per_second": alone * ranks,
        "training_windows_per_second": steps * task.batch_size / seconds,
        "training_seconds": seconds,
        "memory": {
            "data": sum(math.prod(variable.source.shape) * variable.dtype.itemsize for variable in own),
            "imports": imports,
            "loading": max(0, loading.peak - imports),
            "training": max(0, training.peak - imports),
            "windows_float32": 4 * cells,
            "windows_float64": 8 * cells,
        },
    }
    return figures, kept
