"""What is to be forecast: the data opened, split and scaled, in the few calls that any project would make.

In: where the data are, or nothing for the generated ones. Out: a `DemoTask`. Never imports a framework.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import windowloader as wl

from . import generated

if TYPE_CHECKING:
    import os

    from windowloader.series.graph import Graph
    from windowloader.windows.window_set import WindowSet

__all__ = ["CLOCK", "LAYOUT", "DemoTask", "grid_graph", "label", "open_task"]

CLOCK = ("time_of_day", "day_of_week")
LAYOUT = "nbtf"  # nodes first, so that the network's walks along the graph are products of two matrices
LOOKBACK = HORIZON = 12
SPLIT = (0.7, 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class DemoTask:
    """Windows to train and to score on.

    Parameters
    ----------
    train, val, test : WindowSet
    scaler : StandardScaler
        Fitted on train.
    made_up : bool
        The data are generated.
    """

    train: WindowSet
    val: WindowSet
    test: WindowSet
    scaler: wl.StandardScaler
    made_up: bool

    @property
    def series(self) -> wl.Series:
        """What the windows are cut from."""
        return self.train.series

    @property
    def step_seconds(self) -> float | None:
        """Seconds from row to row; None without timestamps."""
        clock = self.series.clock
        if clock is None:
            return None
        return float(np.diff(clock.nanoseconds([0, 1]))[0] / 1e9)

    def loading(self) -> dict[str, Any]:
        """Return what all loaders of this task have in common: scaled, 0 where missing, the clock once a window."""
        return {"scaler": self.scaler, "fill": 0.0, "layout": LAYOUT, "broadcast": False}

    @property
    def data_bytes(self) -> int:
        """Bytes of the series itself, as stored."""
        own = self.series.variables[: self.series.num_own]
        return sum(math.prod(variable.source.shape) * variable.dtype.itemsize for variable in own)

    def materialised_bytes(self, itemsize: int = 4) -> int:
        """Bytes of all inputs and targets of all parts, were they stored as arrays of windows."""
        windows = len(self.train) + len(self.val) + len(self.test)
        steps = self.train.spec.num_inputs + self.train.spec.num_targets
        return windows * steps * self.series.num_nodes * len(self.series.features) * itemsize


def open_task(
    data: str | None = None,
    *,
    adjacency: str | None = None,
    variables: list[str] | None = None,
    timestamps: tuple[str, str] | None = None,
    missing: float = float("nan"),
    fill_missing: bool = False,
    cache_dir: str | os.PathLike[str],
    size: tuple[int, int] = (34_272, 207),
    seed: int = 0,
) -> DemoTask:
    """Open, split, scale.

    Parameters
    ----------
    data : str, optional
        A file, folder or URL that `windowloader.open` takes. None: the generated data set.
    adjacency : str, optional
        A graph that `Graph.load` takes. None: neighbours on the grid where there are two space axes, else no edges.
    variables : list of str, optional
        Arrays of the store.
    timestamps : (start, freq), optional
        Where the file has none.
    missing : float
        What marks a missing reading.
    fill_missing : bool
        Whether chunks that a store lacks hold its fill value.
    cache_dir : path-like
        Where the generated data set is kept.
    size : (steps, nodes)
        Of the generated data set.
    seed : int
        Of the generated data set.

    Returns
    -------
    Task
    """
    if data is None:
        made = generated.generate(cache_dir, steps=size[0], nodes=size[1], seed=seed)
        series = wl.open(
            made.speeds,
            features=["speed"],
            timestamps=(generated.START, generated.STEP),
            missing=0.0,
            graph=made.graph,
        )
    else:
        how: dict[str, Any] = {"variables": variables, "timestamps": timestamps, "missing": missing}
        if fill_missing:
            how["fill_missing"] = True
        series = wl.open(data, graph=adjacency, **how)
        if series.graph is None and len(series.space_shape) == 2:
            series = wl.open(data, graph=grid_graph(*series.space_shape), **how)
    spec = wl.WindowSpec(lookback=LOOKBACK, horizon=HORIZON, future=CLOCK if series.clock is not None else ())
    train, val, test = wl.split(series, spec, SPLIT)
    return DemoTask(train, val, test, wl.StandardScaler.fit(train), data is None)


def grid_graph(rows: int, columns: int) -> Graph:
    """Join each cell of a grid to the four beside it.

    Examples
    --------
    >>> grid_graph(2, 2).edge_index
    array([[0, 2, 0, 1, 1, 3, 2, 3],
           [1, 3, 2, 3, 0, 2, 0, 1]])
    """
    cells = np.arange(rows * columns).reshape(rows, columns)
    pairs = [(cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])]
    ahead = np.concatenate([np.stack([here.ravel(), there.ravel()]) for here, there in pairs], axis=1)
    return wl.Graph(np.concatenate([ahead, ahead[::-1]], axis=1), num_nodes=rows * columns)


def label(steps: int, step_seconds: float | None) -> str:
    """Say how far ahead some steps are.

    Examples
    --------
    >>> label(3, 300.0), label(3, 3600.0), label(3, 86400.0), label(3, None)
    ('15 min', '3 h', '3 days', 'step 3')
    """
    if step_seconds is None:
        return f"step {steps}"
    seconds = steps * step_seconds
    for name, unit in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds % unit == 0 and (name != "h" or seconds > unit) and (name != "days" or seconds > unit):
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:g} s"
