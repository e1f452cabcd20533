"""Generates traffic data of METR-LA's size: rush hours, queues that spread upstream, accidents, outages.

In: a folder. Out: a ``.npy`` of speeds and a ``.npz`` of the road graph in it. The values are synthetic, with what
makes such data hard: moving queues, days that differ, missing readings.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import windowloader as wl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.random import Generator

__all__ = ["START", "STEP", "Generated", "generate", "grid_graph", "make_graph", "make_speeds"]

START, STEP = "2012-03-01", "5min"  # METR-LA's
DAY = 288
VERSION = 2  # in the file names: a changed generator writes new files


@dataclass(frozen=True, slots=True)
class Generated:
    """Files of a generated data set.

    Parameters
    ----------
    speeds : Path
        ``.npy``, shape (step, node), float32, miles per hour; 0 for a missing reading.
    graph : Path
        ``.npz`` with ``edge_index`` and ``edge_weight``.
    """

    speeds: Path
    graph: Path


def generate(
    folder: str | os.PathLike[str], *, steps: int = 34_272, nodes: int = 207, seed: int = 0
) -> Generated:
    """Write the data set, unless it is there already.

    Parameters
    ----------
    folder : path-like
        Created if it does not exist.
    steps, nodes : int
        Size; default: METR-LA's, 119 days of 5 minutes.
    seed : int

    Returns
    -------
    Generated

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = generate(folder, steps=600, nodes=20)
    ...     np.load(made.speeds, mmap_mode="r").shape
    (600, 20)
    """
    folder = Path(folder)
    stem = f"traffic-v{VERSION}-{steps}x{nodes}-seed{seed}"
    made = Generated(folder / f"{stem}.npy", folder / f"{stem}-graph.npz")
    if not made.speeds.exists() or not made.graph.exists():
        folder.mkdir(parents=True, exist_ok=True)
        edge_index, edge_weight, roads = make_graph(nodes, seed=seed)
        part = (
            folder / f".{stem}-{os.getpid()}"
        )  # renamed when complete, so that no process reads half a file
        np.savez(f"{part}.npz", edge_index=edge_index, edge_weight=edge_weight)
        np.save(f"{part}.npy", make_speeds(steps, edge_index, edge_weight, roads, seed=seed))
        os.replace(f"{part}.npz", made.graph)
        os.replace(f"{part}.npy", made.speeds)
    return made


def make_graph(nodes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place sensors along crossing freeways and connect each to those a few kilometres downstream.

    Parameters
    ----------
    nodes : int
        Number of sensors.
    seed : int

    Returns
    -------
    edge_index : ndarray, shape (2, edge), int64
        From a sensor to one downstream.
    edge_weight : ndarray, shape (edge,), float32
        ``exp(-(distance / 3 km)²)`` where at least 0.1 (Li et al. 2018, DCRNN).
    roads : ndarray, shape (node,), int64
        Carriageway of each sensor; 2k and 2k + 1 are the two directions of a freeway.
    """
    rng = np.random.default_rng([seed, 1])
    roads = np.sort(np.arange(nodes) % max(2, 2 * round(nodes / 34)))
    along = rng.uniform(-15, 15, nodes)
    along = along[np.lexsort((along, roads))]  # rising in the direction of travel
    angle = 2 * np.pi * (roads // 2) / (roads.max() + 1) + np.pi * (roads % 2)
    centre = rng.uniform(-8, 8, (nodes, 2))[roads // 2]
    places = centre + along[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    straight = np.linalg.norm(places[:, None] - places, axis=-1)
    crossing = (straight < 1.0) & (roads[:, None] // 2 != roads // 2)
    downstream = (along[:, None] <= along) & (roads[:, None] == roads)
    distance = np.where(downstream, straight, np.where(crossing, straight + 0.5, np.inf))
    weight = np.exp(-((distance / 3.0) ** 2))
    weight[weight < 0.1] = 0
    edge_index = np.stack(np.nonzero(weight)).astype(np.int64)
    return edge_index, weight[tuple(edge_index)].astype(np.float32), roads


def make_speeds(
    steps: int, edge_index: np.ndarray, edge_weight: np.ndarray, roads: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Simulate speeds: queues form by demand and accidents, and spread to the sensors upstream.

    Parameters
    ----------
    steps : int
        Of 5 minutes.
    edge_index, edge_weight, roads
        From `make_graph`.
    seed : int

    Returns
    -------
    ndarray, shape (step, node), float32
        Miles per hour; 0 for a missing reading, about 8 % of them.
    """
    rng = np.random.default_rng([seed, 2])
    nodes = len(roads)
    spread = np.zeros((nodes, nodes), np.float32)
    spread[edge_index[0], edge_index[1]] = edge_weight
    np.fill_diagonal(spread, 0)
    spread *= 0.48 / np.maximum(spread.sum(1, keepdims=True), 1e-6)
    np.fill_diagonal(spread, 0.4)
    queue = _demand(rng, steps, roads)
    for place in _episodes(rng, steps, nodes, count=1 + steps * nodes // (DAY * 15), length=12):  # accidents
        queue[place] += rng.uniform(0.2, 0.6)
    for step in range(1, steps):
        queue[step] += spread @ queue[step - 1]
    slow = queue**2 / (queue**2 + 0.6**2)
    speeds = rng.normal(64, 2.5, nodes) * (1 - 0.8 * slow) + rng.normal(0, 1.3, (steps, nodes))
    speeds = np.clip(speeds, 3, 70).astype(np.float32)
    speeds[rng.random((steps, nodes), dtype=np.float32) < 0.02] = 0
    for place in _episodes(rng, steps, nodes, count=steps * nodes // 4_000, length=220):  # outages
        speeds[place] = 0
    return speeds


def _episodes(rng: Generator, steps: int, nodes: int, *, count: int, length: int) -> Iterator[Any]:
    """Yield random places of the array: some steps of one sensor each."""
    for begin, node in rng.integers((steps, nodes), size=(count, 2)).tolist():
        yield slice(begin, begin + 3 + int(rng.exponential(length))), node


def _demand(rng: Generator, steps: int, roads: np.ndarray) -> np.ndarray:
    """Return the demand at each step and sensor: by time of day and week, on days and roads that differ."""
    day, hour = np.divmod(np.arange(steps), DAY)
    working = (day + 3) % 7 < 5  # 2012-03-01 was a Thursday
    size, shift = rng.normal(0, (0.45, 0.6), (roads.max() + 1, day[-1] + 1, 2)).transpose(2, 1, 0)[:, day]
    peak = np.where(np.arange(roads.max() + 1) % 2, 17.4, 7.9)
    rush = np.exp(-(((hour[:, None] / 12 - peak - shift) / 1.4) ** 2)) * np.where(working, 1.0, 0.25)[:, None]
    demand = 0.02 + 0.14 * np.exp(size) * rush
    return np.asarray(demand[:, roads] * rng.gamma(4, 0.25, len(roads)), np.float32)


def grid_graph(rows: int, columns: int) -> wl.Graph:
    """Connect each cell of a grid to the four beside it.

    Examples
    --------
    >>> grid_graph(2, 2).edge_index
    array([[0, 2, 0, 1, 1, 3, 2, 3],
           [1, 3, 2, 3, 0, 2, 0, 1]])
    """
    cells = np.arange(rows * columns).reshape(rows, columns)
    pairs = [(cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])]
    edges = np.concatenate([np.stack([here.ravel(), there.ravel()]) for here, there in pairs], axis=1)
    return wl.Graph(np.concatenate([edges, edges[::-1]], axis=1), num_nodes=rows * columns)
