"""Lets memcpy and the loader take turns over the same windows, and compares a plan with what was read.

In: a window set, or the size of a data set in the literature. Out: rows of figures, as JSON and Markdown.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

import windowloader as wl
from windowloader.errors import LoaderError
from windowloader.util.jit import kernel
from windowloader.util.machine import move
from windowloader.util.units import MemoryWatch, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from windowloader.windows.window_set import WindowSet

__all__ = [
    "SIZES",
    "check_plan",
    "find",
    "generate",
    "machine",
    "markdown",
    "measure",
    "memcpy",
    "open_size",
    "turn",
]

SIZES = {
    "metr-la": (34_272, 207),
    "pems-bay": (52_105, 325),
    "pems-all-la": (105_120, 2_716),
    "pems": (105_120, 11_160),
}
ROWS = 2048  # generated at a time
LIMIT_BYTES = 2_000_000_000  # of the array that memcpy reads: larger than any cache
NAMES = {  # what is measured: its title, and the loader's ``threads`` or the number of threads that copy
    "memcpy-1": ("memcpy, 1 thread (the limit)", 1),
    "memcpy-2": ("memcpy, 2 threads", 2),
    "windowloader": ("windowloader", None),
    "windowloader-1": ("windowloader, 1 thread", 0),
    "windowloader-2": ("windowloader, 2 threads", 2),
}


def find(name: str) -> tuple[int, int]:
    """Return steps and nodes of a size by its name, or by its shape.

    Examples
    --------
    >>> find("metr-la"), find("10000x50")
    ((34272, 207), (10000, 50))
    """
    steps, _, nodes = name.partition("x")
    if name in SIZES:
        return SIZES[name]
    if steps.isdigit() and nodes.isdigit() and int(steps) * int(nodes):
        return int(steps), int(nodes)
    raise LoaderError(f"size {name!r}: expected one of {', '.join(SIZES)}, or a shape like 10000x50.")


def generate(size: tuple[int, int], folder: Path) -> Path:
    """Write a ``.npy`` of float32 speeds of some steps and nodes, unless it is there already."""
    steps, nodes = size
    path = folder / f"bench-v1-{steps}x{nodes}.npy"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")  # renamed when complete
    random = np.random.default_rng(0)
    base = random.uniform(50, 68, nodes) + random.normal(0, 2, (ROWS, nodes))
    values = np.lib.format.open_memmap(part, "w+", np.float32, (steps, nodes))
    for start in range(0, steps, ROWS):
        rows = np.arange(start, min(start + ROWS, steps))
        values[rows] = base[: len(rows)] + 8 * np.cos(2 * np.pi * rows / 288)[:, None]
    values.flush()
    part.rename(path)
    return path


def open_size(path: Path) -> tuple[WindowSet, dict[str, Any]]:
    """Return train windows of a generated file (12 → 12 steps of speed and time of day), and loader options."""
    series = wl.open(path, features=["speed"], timestamps=("2012-03-01", "5min"))
    names = ["speed", "time_of_day"]
    spec = wl.WindowSpec(lookback=12, horizon=12, inputs=names, targets=names)
    if series.num_steps < 2 * spec.span:
        raise LoaderError(f"a size of {series.num_steps} steps is too short for windows of {spec.span} rows.")
    train = wl.split(series, spec, (0.7, 0.1, 0.2), by="windows").sets[0]
    return train, {"scaler": wl.StandardScaler(60.0, 9.0, features=["speed"])}


@kernel
def copy_windows(
    source: np.ndarray, starts: np.ndarray, row: int, first: int, inputs: np.ndarray, targets: np.ndarray
) -> None:
    """Copy the inputs and targets of windows to places ``first``, ``first + 1``, … of two arrays."""
    for place in range(len(starts)):
        at, past, ahead = starts[place] * row, inputs.shape[1], targets.shape[1]
        move(inputs.reshape(-1), (first + place) * past, source, at, past)
        move(targets.reshape(-1), (first + place) * ahead, source, at + past, ahead)


def memcpy(
    rows: int, inputs: tuple[int, ...], targets: tuple[int, ...], threads: int = 1
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Copy windows from a ready array into reused buffers: the least that delivering a batch can cost.

    Parameters
    ----------
    rows : int
        Of the ready array.
    inputs, targets : tuple of int
        Shapes of a batch, float32.
    threads : int

    Yields
    ------
    pair of ndarray
    """
    row, span = int(np.prod(inputs[2:])), inputs[1] + targets[1]
    rows = min(rows, max(2 * span, LIMIT_BYTES // (4 * row)))
    source = np.full(rows * row, 0.5, np.float32)
    out = np.zeros(inputs, np.float32), np.zeros(targets, np.float32)
    flat = [part.reshape(len(part), -1) for part in out]
    random, share = np.random.default_rng(0), -(-inputs[0] // threads)
    with ThreadPoolExecutor(threads) as pool:
        while True:
            starts = random.integers(0, rows - span + 1, inputs[0])
            if threads == 1:
                copy_windows(source, starts, row, 0, *flat)
            else:
                pieces = range(0, inputs[0], share)
                work = [
                    pool.submit(copy_windows, source, starts[p : p + share], row, p, *flat) for p in pieces
                ]
                for one in work:
                    one.result()
            yield out


def _batches(windows: WindowSet, options: Mapping[str, Any]) -> Generator[tuple[np.ndarray, np.ndarray]]:
    with wl.WindowLoader(windows, shuffle=True, drop_last=True, rank=0, world_size=1, **options) as loader:
        while True:
            for batch in loader:
                yield batch.inputs, batch.targets


def turn(batches: Iterator[tuple[Any, Any]], seconds: float) -> dict[str, float]:
    """Take batches for some time; return windows, bytes, seconds and seconds of processor time."""
    windows = moved = 0
    began, cpu = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - began) < seconds or not windows:
        inputs, targets = next(batches)
        windows += len(inputs)
        moved += inputs.nbytes + targets.nbytes
    return {"windows": windows, "bytes": moved, "seconds": passed, "cpu": time.process_time() - cpu}


def figures(rounds: Sequence[Mapping[str, float]], limit: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return medians over rounds, and the ratio to the limit of the same round."""
    speeds = [one["windows"] / one["seconds"] for one in rounds]
    limits = [one["windows"] / one["seconds"] for one in limit]
    return {
        "windows_per_second": statistics.median(speeds),
        "gigabytes_per_second": statistics.median(one["bytes"] / one["seconds"] / 1e9 for one in rounds),
        "over_limit": statistics.median(np.divide(speeds, limits).tolist()),
        "cpu_seconds_per_window": statistics.median(one["cpu"] / one["windows"] for one in rounds),
    }


def measure(
    windows: WindowSet,
    *,
    name: str,
    only: Iterable[str] | None = None,
    rounds: int = 5,
    seconds: float = 2.0,
    options: Mapping[str, Any],
    advance: Callable[[str], object] = lambda text: None,
) -> list[dict[str, Any]]:
    """Let memcpy and the loader take turns.

    Parameters
    ----------
    windows : WindowSet
    name : str
        Of the data, for the rows.
    only : iterable of str, optional
        Some of `NAMES`; the limit always runs. None: all.
    rounds : int
        Turns of each.
    seconds : float
        Duration of a turn.
    options : mapping
        Of `WindowLoader`.
    advance : callable
        Called with what is going on.

    Returns
    -------
    list of dict
        The first is the limit. ``over_limit`` is the median of ratios of the same round, ``peak_private_bytes`` the
        private memory that the set-up and a first turn took.
    """
    unknown = set(only or ()) - set(NAMES)
    if unknown:
        raise LoaderError(f"only={sorted(unknown)}: expected some of {', '.join(NAMES)}.")
    chosen = [one for one in NAMES if one == "memcpy-1" or only is None or one in only]
    with contextlib.ExitStack() as stack:
        with contextlib.closing(_batches(windows, options)) as batches:
            shapes = [part.shape for part in next(batches)]
        running: dict[str, Iterator[Any]] = {}
        rows: list[dict[str, Any]] = []
        for one in chosen:
            title, threads = NAMES[one]
            advance(f"{name}: {title}, set up")
            if one.startswith("memcpy"):
                batches = memcpy(windows.series.num_steps, shapes[0], shapes[1], threads or 1)
            else:
                batches = _batches(windows, {**options, "threads": threads})
            running[one] = stack.enter_context(contextlib.closing(batches))
            with MemoryWatch() as watch:
                began = time.perf_counter()
                next(batches)
                setup = time.perf_counter() - began
                turn(batches, min(seconds, 0.5))
            rows.append({"size": name, "name": one, "title": title, "skipped": "", "setup_seconds": setup})
            rows[-1]["peak_private_bytes"] = watch.grown
        turns: list[dict[str, dict[str, float]]] = []
        for number in range(rounds):
            advance(f"{name}: round {number + 1} of {rounds}")
            turns.append({one: turn(batches, seconds) for one, batches in running.items()})
    for row in rows:
        row.update(figures([one[row["name"]] for one in turns], [one["memcpy-1"] for one in turns]))
    return rows


def check_plan(windows: WindowSet, *, options: Mapping[str, Any], steps: int = 200) -> dict[str, list[int]]:
    """Run some steps; return what the plan says and what was measured: bytes, requests and private memory."""
    options = {"rank": 0, "world_size": 1, "shuffle": True, **options}
    with wl.WindowLoader(windows, **options) as loader:
        some = steps if steps < len(loader) else None
    with wl.WindowLoader(windows, steps_per_epoch=some, **options) as loader:
        plan = loader.plan()
        with MemoryWatch() as watch:
            for _ in loader:
                pass
        read = loader.stats().epochs[0]
    return {
        "read_bytes": [plan.own.bytes if plan.at_a_time else 0, read.read_bytes],
        "read_requests": [plan.own.requests if plan.at_a_time else 0, read.read_requests],
        "private_bytes": [plan.private_bytes, watch.grown],
    }


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries."""
    found: dict[str, Any] = {
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
    }
    for package in ("numpy", "numba", "torch", "torch-geometric-temporal", "xbatcher", "grain", "keras"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one table per size.

    Examples
    --------
    >>> row = {"size": "metr-la", "title": "keras", "skipped": "not installed"}
    >>> print(markdown([row]).splitlines()[-1])
    | keras | | left out: not installed | | | | |
    """
    lines: list[str] = []
    for size in dict.fromkeys(row["size"] for row in rows):
        head = [
            "",
            "set-up, s",
            "windows/s",
            "GB/s",
            "of the limit",
            "CPU µs a window",
            "peak private memory",
        ]
        lines += ["", f"### {size}", "", f"| {' | '.join(head)} |".replace("|  |", "| |"), "|---" * 7 + "|"]
        for row in rows:
            if row["size"] != size:
                continue
            if row["skipped"]:
                lines.append(f"| {row['title']} | | left out: {row['skipped']} | | | | |")
                continue
            lines.append(
                f"| {row['title']} | {row['setup_seconds']:.1f} | {row['windows_per_second']:,.0f} | "
                f"{row['gigabytes_per_second']:.2f} | {row['over_limit']:.2f} | "
                f"{row['cpu_seconds_per_window'] * 1e6:,.0f} | {format_bytes(row['peak_private_bytes'])} |"
            )
    return "\n".join(lines).strip()
