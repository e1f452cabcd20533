"""What a forecast has to beat: the last reading, and the average at that time of the week.

In: batches as the loader delivers them, scaled, nodes first. Out: forecasts in the same units and layout.
Never sees a row after the train part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import windowloader as wl

from .task import CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from windowloader.batch.batch import Batch

    from .task import DemoTask

    Forecaster = Callable[[Batch], np.ndarray]

__all__ = ["HistoricalAverage", "Persistence"]

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Persistence:
    """Each node's last observed reading, for all steps to come; where a window has none, the mean.

    Parameters
    ----------
    horizon : int
    """

    horizon: int

    def __call__(self, batch: Batch) -> np.ndarray:
        """Forecast a batch; shape (node, batch, horizon, feature)."""
        inputs = batch.inputs
        axis = inputs.ndim - 2
        if batch.input_mask is None:
            last = inputs[..., -1:, :]
        else:
            steps = np.arange(1, inputs.shape[axis] + 1)[:, None]
            newest = (batch.input_mask * steps).argmax(axis=axis, keepdims=True)
            last = np.take_along_axis(inputs, newest, axis=axis)
        return np.repeat(last, self.horizon, axis=axis)


@dataclass(frozen=True, slots=True)
class HistoricalAverage:
    """Each node's average over the train part, by time of the week; by time of day if that is under two weeks.

    Parameters
    ----------
    table : ndarray, shape (slot, node…, feature), float64
        Scaled.
    per_day : int
        Slots of a day; 0: one slot for all times.
    """

    table: np.ndarray
    per_day: int

    @classmethod
    def fit(cls, task: DemoTask) -> HistoricalAverage:
        """Average over the rows that the train windows hold, read once, in batches of rows."""
        rows = task.train.row_range[1]
        series = task.series.select(time=slice(0, rows))
        seconds = task.step_seconds
        per_day = int(DAY // seconds) if seconds is not None and seconds <= DAY / 2 else 0
        weekly = bool(per_day and rows >= 14 * per_day)
        clock = CLOCK if per_day else ()
        each = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0, inputs=(*series.features, *clock)))
        average = cls(
            np.zeros((per_day * (7 if weekly else 1) or 1, *series.space_shape, len(series.features))),
            per_day,
        )
        total, count = np.zeros_like(average.table), np.zeros_like(average.table)
        with wl.WindowLoader(each, batch_size=256, rank=0, world_size=1, **task.loading()) as loader:
            for batch in loader:
                values = np.moveaxis(batch.inputs[..., 0, :], -2, 0).astype(np.float64)
                seen = 1.0 if batch.input_mask is None else np.moveaxis(batch.input_mask[..., 0, :], -2, 0)
                slot = (
                    average.slots(batch.shared_inputs[:, 0]) if per_day else np.zeros(len(values), np.int64)
                )
                np.add.at(total, slot, values * seen)
                np.add.at(count, slot, np.broadcast_to(seen, values.shape))
        overall = total.sum(0) / np.maximum(count.sum(0), 1)  # for times at which a node was never seen
        average.table[:] = np.where(count > 0, total / np.maximum(count, 1), overall)
        return average

    def slots(self, clock: np.ndarray) -> np.ndarray:
        """Rows of the table at some times, from (time of day, day of week); shape (…,), int64."""
        slot: np.ndarray = np.rint(clock[..., 0] * self.per_day).astype(np.int64) % self.per_day
        if len(self.table) > self.per_day:
            slot += self.per_day * clock[..., 1].astype(np.int64)
        return slot

    def __call__(self, batch: Batch) -> np.ndarray:
        """Forecast a batch; shape (node, batch, horizon, feature)."""
        if self.per_day:
            found = self.table[self.slots(batch.shared_future)]
        else:
            windows, steps = batch.targets.shape[-3:-1]
            found = np.broadcast_to(self.table[0], (windows, steps, *self.table.shape[1:]))
        return np.moveaxis(found, (0, 1), (-3, -2))
