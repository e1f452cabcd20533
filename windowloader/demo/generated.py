"""A traffic data set of METR-LA's size, generated: commutes, queues that spread along roads, accidents, outages.

In: a folder. Out: a ``.npy`` of speeds and a ``.npz`` of the road graph in it, made once. Never claims to be measured:
the numbers are a toy of traffic, with what makes such data hard (queues that move, days that differ, readings missing).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = ["START", "STEP", "Generated", "generate", "make_graph", "make_speeds"]

START, STEP = "2012-03-01", "5min"  # METR-LA's
DAY = 288
VERSION = 1  # part of the files' names: a changed generator makes new files
# Monday … Sunday: how much of a working day's morning and evening traffic there is.
MORNING = np.array([1.0, 1.05, 1.05, 1.02, 0.9, 0.15, 0.1])
EVENING = np.array([0.95, 1.0, 1.02, 1.08, 1.2, 0.45, 0.3])


@dataclass(frozen=True, slots=True)
class Generated:
    """Where the generated data set lies.

    Parameters
    ----------
    speeds : Path
        ``.npy``, shape (step, node), float32, mph; 0 where a reading is missing.
    graph : Path
        ``.npz`` with ``edge_index`` and ``edge_weight``.
    """

    speeds: Path
    graph: Path


def generate(
    folder: str | os.PathLike[str], *, steps: int = 34_272, nodes: int = 207, seed: int = 0
) -> Generated:
    """Make the data set, or find it made.

    Parameters
    ----------
    folder : path-like
        Made if it is not there.
    steps, nodes : int
        Size; METR-LA's by default, 119 days of 5 minutes.
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
    if made.speeds.exists() and made.graph.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    edge_index, edge_weight, roads = make_graph(nodes, seed=seed)
    speeds = make_speeds(steps, edge_index, edge_weight, roads, seed=seed)
    mine = folder / f".{stem}-{os.getpid()}"  # written aside, then renamed: nobody meets half a file
    np.savez(f"{mine}.npz", edge_index=edge_index, edge_weight=edge_weight)
    np.save(f"{mine}.npy", speeds)
    os.replace(f"{mine}.npz", made.graph)
    os.replace(f"{mine}.npy", made.speeds)
    return made


def make_graph(nodes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay sensors along freeways that cross, and weigh how near each is to the next ones downstream.

    Parameters
    ----------
    nodes : int
        Sensors.
    seed : int

    Returns
    -------
    edge_index : ndarray, shape (2, edge), int64
        From a sensor to one downstream of it.
    edge_weight : ndarray, shape (edge,), float32
        ``exp(-(distance / scale)²)``, those of at least 0.1 (Li et al. 2018, DCRNN).
    roads : ndarray, shape (node,), int64
        Which carriageway a sensor is on; even and odd ones run in opposite directions.
    """
    rng = np.random.default_rng([seed, 1])
    count = max(2, 2 * round(nodes / 34))
    roads = np.sort(np.arange(nodes) % count)
    places = np.empty((nodes, 2))
    for pair in range(count // 2):
        middle, angle = rng.uniform(-8, 8, 2), np.pi * (pair + rng.uniform(-0.2, 0.2)) / (count // 2)
        ahead = np.array([np.cos(angle), np.sin(angle)])
        for side in (0, 1):
            on = np.flatnonzero(roads == 2 * pair + side)
            along = np.sort(rng.uniform(-15, 15, len(on))) * (1 - 2 * side)
            places[on] = middle + np.outer(along, ahead) + (side - 0.5) * 0.05 * ahead[::-1] * [-1, 1]
    distance = _road_distances(places, roads)
    near = np.exp(-((distance / 3.0) ** 2))
    near[near < 0.1] = 0
    edge_index = np.stack(np.nonzero(near)).astype(np.int64)
    return edge_index, near[tuple(edge_index)].astype(np.float32), roads


def _road_distances(places: np.ndarray, roads: np.ndarray) -> np.ndarray:
    """Kilometres to drive from each sensor to each: along carriageways, changing where they cross."""
    straight = np.linalg.norm(places[:, None] - places[None], axis=-1)
    distance = np.where((straight < 1.0) & (roads[:, None] // 2 != roads // 2), straight + 0.5, np.inf)
    following = np.flatnonzero(roads[:-1] == roads[1:])
    distance[following, following + 1] = straight[following, following + 1]
    np.fill_diagonal(distance, 0)
    for via in range(len(places)):  # Floyd and Warshall
        np.minimum(distance, distance[:, via, None] + distance[via], out=distance)
    return distance


def make_speeds(
    steps: int, edge_index: np.ndarray, edge_weight: np.ndarray, roads: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Drive: queues arise where demand is high or an accident is, and spread to the sensors upstream.

    Parameters
    ----------
    steps : int
        Of 5 minutes.
    edge_index, edge_weight, roads
        From `make_graph`.
    seed : int

    Returns
    -------
    ndarray, shape (steps, node), float32
        Miles an hour; 0 where a reading is missing, about 8 % of them.
    """
    rng = np.random.default_rng([seed, 2])
    nodes = len(roads)
    spread = np.zeros((nodes, nodes), np.float32)
    spread[edge_index[0], edge_index[1]] = edge_weight
    np.fill_diagonal(spread, 0)
    spread = 0.45 * np.eye(nodes, dtype=np.float32) + 0.55 * spread / np.maximum(
        spread.sum(1, keepdims=True), 1e-6
    )
    arising = _demand(rng, steps, roads) + _accidents(rng, steps, nodes)
    queue = np.zeros((steps, nodes), np.float32)
    now = np.zeros(nodes, np.float32)
    for step in range(steps):
        now = 0.88 * (spread @ now) + arising[step]
        queue[step] = now
    slow = queue**2 / (queue**2 + 0.6**2)
    free = rng.normal(64, 2.5, nodes).astype(np.float32)
    speeds = free * (1 - 0.8 * slow) + rng.normal(0, 1.3, (steps, nodes)).astype(np.float32)
    speeds = np.clip(speeds, 3, 70)
    speeds[_outages(rng, steps, nodes)] = 0
    return speeds.astype(np.float32)


def _demand(rng: Generator, steps: int, roads: np.ndarray) -> np.ndarray:
    """Return what arises each step at each sensor by the time of day and week, on days that differ."""
    nodes, days = len(roads), -(-steps // DAY)
    weekday = (np.arange(days) + 3) % 7  # 2012-03-01 was a Thursday
    hour = np.arange(DAY) / 12
    inward = (roads % 2 == 0).astype(np.float32)
    place = rng.gamma(4, 0.25, nodes).astype(np.float32)  # bottlenecks differ
    demand = np.zeros((days, DAY, nodes), np.float32)
    for factor, peak, width, share in (
        (MORNING, 7.9, 1.1, 0.25 + 0.75 * inward),
        (EVENING, 17.4, 1.5, 1 - 0.75 * inward),
    ):
        size = factor[weekday] * rng.lognormal(-0.1, 0.45, days)
        shift = rng.normal(0, 0.6, (days, roads.max() + 1))[:, roads]  # a road's rush hour is early or late
        bump = np.exp(-(((hour[None, :, None] - peak - shift[:, None]) / width) ** 2))
        demand += 0.14 * size[:, None, None] * bump * share * place
    noon = np.exp(-(((hour - 13) / 4) ** 2))[None, :, None]
    demand += 0.02 * noon * place
    demand = demand.reshape(-1, nodes)[:steps]
    demand *= _drift(rng, steps, roads)
    return demand


def _drift(rng: Generator, steps: int, roads: np.ndarray) -> np.ndarray:
    """Return what multiplies a road's demand: rain, events, chance; lasts some hours."""
    drift = np.zeros((steps, roads.max() + 1), np.float32)
    noise = np.asarray(rng.normal(0, 0.09, drift.shape))
    for step in range(1, steps):
        drift[step] = 0.98 * drift[step - 1] + noise[step]
    return np.exp(drift - 0.1)[:, roads]


def _accidents(rng: Generator, steps: int, nodes: int) -> np.ndarray:
    """About one accident a day for 15 sensors, each a queue that arises for an hour or so."""
    found = np.zeros((steps, nodes), np.float32)
    for _ in range(max(1, steps * nodes // (DAY * 15))):
        begin, length = int(rng.integers(steps)), int(rng.gamma(3, 4)) + 2
        found[begin : begin + length, rng.integers(nodes)] += rng.uniform(0.2, 0.6)
    return found


def _outages(rng: Generator, steps: int, nodes: int) -> np.ndarray:
    """Which readings are missing: single ones, a sensor's for hours, all sensors' now and then."""
    missing = rng.random((steps, nodes), dtype=np.float32) < 0.015
    for _ in range(steps * nodes // 4_000):
        begin, length = int(rng.integers(steps)), int(rng.exponential(220)) + 3
        missing[begin : begin + length, rng.integers(nodes)] = True
    for begin in rng.integers(steps, size=max(1, steps // 3_000)):
        missing[begin : begin + int(rng.exponential(50))] = True
    return missing
