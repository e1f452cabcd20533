"""How well an order mixes: three figures, beside those of a full permutation.

In: an order, where windows start, blocks. Out: `Mixing`. Never reads data: it stands in a series that is
hard to mix, a daily and a weekly wave, a trend, and a random level for each block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from windowloader.errors import LoaderError

from .order import GlobalOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .grid import Grid, SortedStarts
    from .order import Order

__all__ = ["Mixing", "mixing", "mixing_of_permutation"]

_DAY = 288  # rows of a day in the stand-in: five-minute data, the field's commonest
_STEPS = 512  # steps looked at, where an epoch has more
_RUNS = 16  # stretches of consecutive steps they are taken from
_LANES = 32  # lanes looked at, where an order has more: they are alike


class Mixing(NamedTuple):
    """Figures of an order; a batch of windows drawn independently has (1 / blocks, 1, 0)."""

    same_block_pairs: float
    """Share of the pairs of windows in a batch that start in the same block."""
    variance: float
    """Variance of the means of batches, over that of means of independent windows."""
    correlation: float
    """Correlation of the means of consecutive batches."""


@dataclass(frozen=True, slots=True, eq=False)
class _Stand:
    """A value for each window, without data."""

    starts: SortedStarts
    grid: Grid
    level: NDArray[np.float64]

    def blocks(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.grid.locate(self.starts(windows))[0]

    def values(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = self.starts(windows)
        waves = np.sin(2 * np.pi * rows / _DAY) + 0.5 * np.sin(2 * np.pi * rows / (7 * _DAY))
        trend = (rows - self.grid.begin[0]) / max(1, int(self.grid.end[-1] - self.grid.begin[0]))
        values: NDArray[np.float64] = waves + trend + self.level[self.grid.locate(rows)[0]]
        return values


def mixing(
    order: Order,
    *,
    starts: SortedStarts,
    grid: Grid,
    batch: int,
    epochs: Sequence[int] = (0,),
    steps: int = _STEPS,
) -> Mixing:
    """Measure how well an order mixes, from at most ``steps`` steps of each epoch.

    Parameters
    ----------
    order : Order
        A ``BlockOrder``, or any other to compare with.
    starts : SortedStarts
        Where its windows start.
    grid : Grid
        Which windows count as of the same block.
    batch : int
        Windows of a step, all lanes together.
    epochs : sequence of int
        Figures are means over them. One epoch's variance is itself uncertain by some tenths.
    steps : int
        How many steps are looked at, in up to 16 stretches; all where an epoch has no more.

    Returns
    -------
    Mixing
        NaN where an epoch has under three whole steps or a batch under two windows.

    Raises
    ------
    LoaderError
        Where ``batch`` is no multiple of the lanes.

    Examples
    --------
    >>> from windowloader.order.grid import Grid
    >>> from windowloader.windows.index import Runs
    >>> from windowloader.order.order import SequentialOrder
    >>> starts = Runs.of_segments(np.array([0, 4023]), span=24, stride=1)
    >>> grid = Grid(np.arange(0, 4000, 500), np.append(np.arange(500, 4000, 500), 4023), span=24, rows=96)
    >>> round(mixing(SequentialOrder(4000), starts=starts, grid=grid, batch=50).same_block_pairs, 3)
    1.0
    """
    lanes = order.num_lanes
    if batch < 1 or batch % lanes:
        raise LoaderError(f"a batch of {batch} windows cannot be divided evenly over {lanes} lanes.")
    level = np.random.Generator(np.random.PCG64(0)).standard_normal(len(grid))
    stand = _Stand(starts, grid, level)
    found = [_epoch(order, stand, batch // order.num_lanes, epoch, steps) for epoch in epochs]
    return Mixing(*np.mean(found, axis=0).tolist())


def mixing_of_permutation(
    *,
    starts: SortedStarts,
    grid: Grid,
    batch: int,
    seed: int = 0,
    epochs: Sequence[int] = (0,),
    steps: int = _STEPS,
) -> Mixing:
    """Measure a full permutation in the same way, to compare with.

    Parameters
    ----------
    starts, grid, batch, epochs, steps
        As for `mixing`.
    seed : int
        Of the permutation.

    Returns
    -------
    Mixing
    """
    order = GlobalOrder(len(starts), seed=seed)
    return mixing(order, starts=starts, grid=grid, batch=batch, epochs=epochs, steps=steps)


def _epoch(order: Order, stand: _Stand, per_lane: int, epoch: int, steps: int) -> tuple[float, float, float]:
    total = int(order.lane_sizes(epoch).min()) // per_lane
    if total < 3 or per_lane * order.num_lanes < 2:
        return (np.nan, np.nan, np.nan)
    runs = [range(total)]
    if total > steps:
        length = -(-steps // _RUNS)
        # In the middle of equal parts, so that the ramps at both ends have the weight they have in the whole.
        begins = [((2 * i + 1) * total // _RUNS - length) // 2 for i in range(_RUNS)]
        runs = [range(begin, begin + length) for begin in begins]
    lanes = np.unique(np.linspace(0, order.num_lanes - 1, min(order.num_lanes, _LANES)).astype(np.int64))
    pairs, means, lagged = [], [], []
    for run in runs:
        windows = _steps(order, epoch, run, per_lane, lanes)
        pairs.append(_pairs(stand.blocks(windows)))
        mean = stand.values(windows).mean(axis=1)
        means.append(mean)
        lagged.append((mean[:-1], mean[1:]))
    every = np.concatenate(means)
    expected = _variance(stand) / (per_lane * len(lanes))
    before, after = (np.concatenate(side) for side in zip(*lagged, strict=True))
    spread = float(every.var())
    correlation = float(np.mean((before - every.mean()) * (after - every.mean()))) / spread if spread else 0.0
    # Pairs of equals lie within lanes; of all pairs, those across lanes are the more, the more lanes there are.
    some, every_row = per_lane * len(lanes), per_lane * order.num_lanes
    alike = float(np.mean(np.concatenate(pairs))) * some * (some - 1) / len(lanes)
    return alike * order.num_lanes / (every_row * (every_row - 1)), spread / expected, correlation


def _steps(
    order: Order, epoch: int, run: range, per_lane: int, lanes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Window numbers that some lanes give to consecutive steps, shape (steps, lanes · per_lane)."""
    found = [
        order.lane(epoch, lane, run.start * per_lane, run.stop * per_lane).reshape(len(run), per_lane)
        for lane in lanes.tolist()
    ]
    return np.concatenate(found, axis=1)


def _pairs(blocks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of the pairs in each row that are equal."""
    batch = blocks.shape[1]
    ordered = np.sort(blocks, axis=1)
    # Of a sorted row, the pairs of equals are, for each place, the equals before it.
    new = np.ones(ordered.shape, np.bool_)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    places = np.arange(batch)
    before = places - np.maximum.accumulate(np.where(new, places, 0), axis=1)
    share: NDArray[np.float64] = before.sum(axis=1) / max(1.0, batch * (batch - 1) / 2)
    return share


def _variance(stand: _Stand) -> float:
    """Variance of the value over all windows, or over as many, evenly spaced, as are cheap."""
    windows = len(stand.starts)
    some = np.unique(np.linspace(0, windows - 1, min(windows, 1 << 17)).astype(np.int64))
    return float(stand.values(some).var()) or 1.0
