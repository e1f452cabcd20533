"""How far forecasts are from what was observed, by step ahead.

In: a window set, forecasters. Out: mean absolute errors in the data's own units, missing targets left out.
Never keeps more forecasts than a picture needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

import windowloader as wl

from .task import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from windowloader.batch.batch import Batch
    from windowloader.windows.window_set import WindowSet

    from .baselines import Forecaster
    from .task import DemoTask

__all__ = ["Kept", "Scores", "score"]


@dataclass(frozen=True, slots=True)
class Kept:
    """Forecasts of the furthest step of the first windows, for a picture.

    Parameters
    ----------
    rows : ndarray, shape (window,), int64
        Rows that were forecast.
    truth : ndarray, shape (window, node), float64
        First feature; NaN where missing.
    forecasts : dict of name to ndarray, shape (window, node)
    """

    rows: np.ndarray
    truth: np.ndarray
    forecasts: dict[str, np.ndarray]


@dataclass(slots=True)
class Scores:
    """Sums of absolute errors by forecaster and step.

    Parameters
    ----------
    horizon : int
    """

    horizon: int
    errors: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    kept: Kept | None = None

    def add(self, name: str, forecast: np.ndarray, truth: np.ndarray, seen: np.ndarray) -> None:
        """Add a batch, shape (node, batch, horizon, feature)."""
        axes = tuple(axis for axis in range(truth.ndim) if axis != truth.ndim - 2)
        error = np.where(seen, np.abs(forecast.astype(np.float64) - truth), 0).sum(axes)
        self.errors[name] = self.errors.get(name, 0) + error
        self.counts[name] = self.counts.get(name, 0) + np.broadcast_to(seen, truth.shape).sum(axes)

    def mae(self, name: str) -> np.ndarray:
        """Mean absolute error by step ahead, shape (horizon,); NaN where no target was observed."""
        count = self.counts[name]
        return np.where(count > 0, self.errors[name] / np.maximum(count, 1), np.nan)


def score(
    task: DemoTask,
    windows: WindowSet,
    forecasters: Mapping[str, Forecaster],
    *,
    batch_size: int = 64,
    keep: int = 0,
) -> Scores:
    """Forecast every window of a set and compare.

    Parameters
    ----------
    task : DemoTask
    windows : WindowSet
        A part of the task.
    forecasters : mapping of name to callable
        Take a `Batch`, return scaled forecasts in its layout.
    batch_size : int
    keep : int
        Of how many windows, the set's first, the furthest forecasts are kept.

    Returns
    -------
    Scores
    """
    scores = Scores(windows.spec.num_targets)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in ("", *forecasters)}
    with wl.WindowLoader(windows, batch_size=batch_size, rank=0, world_size=1, **task.loading()) as loader:
        for batch in loader:
            seen = np.True_ if batch.target_mask is None else batch.target_mask
            truth = _raw(task, batch.targets)
            for name, forecaster in forecasters.items():
                forecast = _raw(task, forecaster(batch))
                scores.add(name, forecast, truth, np.asarray(seen))
                if _wanted(batch, keep, len(loader)):
                    kept[name].append(_furthest(forecast))
            if _wanted(batch, keep, len(loader)):
                kept[""].append(_furthest(np.where(seen, truth, np.nan)))
    if keep:
        joined = {name: np.concatenate(parts)[:keep] for name, parts in kept.items()}
        truth = joined.pop("")
        rows = windows.starts(np.arange(len(truth))) + int(windows.spec.target_rows[-1])
        scores.kept = Kept(rows, truth, joined)
    return scores


def _wanted(batch: Batch, keep: int, steps: int) -> bool:
    return batch.step is not None and batch.step * batch.num_windows < keep and steps > 0


def _raw(task: DemoTask, values: np.ndarray) -> np.ndarray:
    raw: np.ndarray = task.scaler.inverse_transform(values, layout=LAYOUT)
    return raw


def _furthest(values: np.ndarray) -> np.ndarray:
    """Last step, first feature, as (window, node)."""
    last = values[..., -1, 0]
    return last.reshape(-1, last.shape[-1]).T.astype(np.float64)
