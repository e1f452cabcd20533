"""Compares windowloader with the loaders that a user would pick instead, each in a process of its own, in turns.

    python tests/benchmarks/peers.py --size metr-la --size pems-bay --out FOLDER   # measure, write tables and pictures
    python tests/benchmarks/peers.py --page PAGE --out FOLDER                      # draw the tables of a page again

All deliver batches of 12 → 12 steps of (speed, time of day), z-scored, float32 unless the name says otherwise, in
random order. Peers are called as their documentation shows.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from windowloader.bench import measure
from windowloader.util.units import MemoryWatch, format_bytes, parse_bytes

LOOKBACK = HORIZON = 12
SPAN = LOOKBACK + HORIZON
ROOM = 11_000_000_000  # bytes that a case may take
TOGETHER = 12_000_000_000  # bytes that waiting processes may take together
LIMIT = "memcpy-1"
CASES = {}  # name: (title, modules, function)


class Unavailable(Exception):  # noqa: N818
    """Why a case cannot run; printed in its row."""


def case(name, title, *modules):
    """Register a function ``(path, batch)`` that yields (inputs, targets) without end."""

    def add(function):
        CASES[name] = title, modules, function
        return function

    return add


# -- what cases begin with -------------------------------------------------------------------------------------------


def need(amount, what):
    if amount > ROOM:
        raise Unavailable(f"{what} would take {amount / 1e9:.0f} GB")


def ready(path, dtype="float32"):
    """Return the z-scored array with its time of day, shape (time, node, 2), in memory."""
    raw = np.load(path, mmap_mode="r")
    need(raw.size * 2 * np.dtype(dtype).itemsize, "the ready array")
    train = raw[: int(len(raw) * 0.7) : 7]
    mean, std = train.mean(dtype=np.float64), train.std(dtype=np.float64)
    values = np.empty((*raw.shape, 2), dtype)
    for start in range(0, len(raw), 4096):
        rows = np.arange(start, min(start + 4096, len(raw)))
        values[rows, :, 0] = (raw[rows] - mean) / std
        values[rows, :, 1] = (rows % 288 / 288)[:, None]
    return values


def train_windows(values):
    return round((len(values) - SPAN + 1) * 0.7)


def starts_of(values, batch):
    """Yield full batches of shuffled starts of the train windows, without end."""
    while True:
        starts = np.random.default_rng().permutation(train_windows(values))
        for at in range(0, len(starts) - batch + 1, batch):
            yield starts[at : at + batch]


def forever(batches):
    while True:
        yield from batches


def halves(windows):
    return windows[:, :LOOKBACK], windows[:, LOOKBACK:]


# -- the cases -------------------------------------------------------------------------------------------------------


def add_own():
    def copying(threads):
        def run(path, batch):
            steps, nodes = np.load(path, mmap_mode="r").shape
            shape = (batch, LOOKBACK, nodes, 2)
            return measure.memcpy(steps, shape, shape, threads)

        return run

    def loading(threads):
        def run(path, batch):
            windows, options = measure.open_size(path)
            return measure._batches(windows, {**options, "batch_size": batch, "threads": threads})

        return run

    for name, (title, threads) in measure.NAMES.items():
        case(name, title, "numba")((copying if name.startswith("memcpy") else loading)(threads))


add_own()


@case("numpy-take", "NumPy take(out=), ready array")
def numpy_take(path, batch):
    values = ready(path)
    out = [np.zeros((batch, LOOKBACK, *values.shape[1:]), np.float32) for _ in range(2)]
    for starts in starts_of(values, batch):
        rows = starts[:, None] + np.arange(LOOKBACK)
        np.take(values, rows, axis=0, out=out[0], mode="clip")
        np.take(values, rows + LOOKBACK, axis=0, out=out[1], mode="clip")
        yield out


@case("torch-index", "torch advanced index, ready tensor", "torch")
def torch_index(path, batch):
    import torch

    values = torch.from_numpy(ready(path))
    for starts in starts_of(values, batch):
        rows = torch.from_numpy(starts)[:, None] + torch.arange(LOOKBACK)
        yield values[rows], values[rows + LOOKBACK]


@case("materialised", "materialised windows")
def materialised(path, batch):
    values = ready(path)
    need(train_windows(values) / 0.7 * SPAN * values[0].nbytes, "all windows")
    view = np.lib.stride_tricks.sliding_window_view(values, SPAN, axis=0)
    stored = np.ascontiguousarray(np.moveaxis(view, -1, 1))
    for starts in starts_of(values, batch):
        yield stored[starts, :LOOKBACK], stored[starts, LOOKBACK:]


def pgt(path, batch, dtype="float32"):
    """Import the module from its file: importing the package asks for torch-sparse.

    With one thread of torch and without workers, which made it slower.
    """
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)

    package = importlib.util.find_spec("torch_geometric_temporal")
    if package is None:
        raise Unavailable("torch-geometric-temporal is not installed")
    file = Path(package.origin).parent / "signal" / "index_dataset.py"
    spec = importlib.util.spec_from_file_location("pgt_index_dataset", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = ready(path, dtype)
    dataset = module.IndexDataset(np.arange(train_windows(values)), values, HORIZON)
    yield from forever(DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True))


case("pgt-float32", "PGT IndexDataset + DataLoader, float32", "torch.utils.data", "dask.array")(pgt)


@case("pgt-float64", "PGT IndexDataset + DataLoader, as shipped (float64)", "torch.utils.data", "dask.array")
def pgt64(path, batch):
    return pgt(path, batch, "float64")


@case("xbatcher", "xbatcher + DataLoader", "torch.utils.data", "xarray", "xbatcher")
def xbatcher(path, batch):
    import xarray as xr
    from torch.utils.data import DataLoader
    from xbatcher import BatchGenerator
    from xbatcher.loaders.torch import MapDataset

    values = xr.DataArray(ready(path), dims=("time", "node", "feature"))
    sizes = {"time": SPAN, "node": values.shape[1], "feature": 2}
    generator = BatchGenerator(values, sizes, input_overlap={"time": SPAN - 1}, preload_batch=False)
    loader = DataLoader(MapDataset(generator), batch_size=batch, shuffle=True, drop_last=True)
    yield from map(halves, forever(loader))


@case("grain", "grain MapDataset", "grain")
def grain(path, batch):
    import grain

    values = ready(path)
    data = grain.MapDataset.range(train_windows(values)).shuffle(seed=0)
    data = data.map(lambda s: (values[s : s + LOOKBACK], values[s + LOOKBACK : s + SPAN]))
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)  # the default of 16 threads was slower
    yield from forever(data.batch(batch, drop_remainder=True).to_iter_dataset(options))


@case("keras", "keras timeseries_dataset_from_array", "tensorflow", "keras")
def keras(path, batch):
    from keras.utils import timeseries_dataset_from_array

    values = ready(path)
    need(4 * values.nbytes, "three copies of the array")
    end = round(len(values) * 0.7)
    options = {"batch_size": batch, "shuffle": True, "seed": 0, "end_index": end}
    data = timeseries_dataset_from_array(values, None, SPAN, **options)
    yield from (halves(windows) for windows in map(np.asarray, forever(data)) if len(windows) == batch)


@case("tsl", "tsl SpatioTemporalDataset + StaticGraphLoader", "tsl.data.loader")
def tsl(path, batch):
    from tsl.data import SpatioTemporalDataset
    from tsl.data.loader import StaticGraphLoader

    values = ready(path)
    dataset = SpatioTemporalDataset(
        target=values[: round(len(values) * 0.7)], window=LOOKBACK, horizon=HORIZON
    )
    loader = StaticGraphLoader(dataset, batch_size=batch, shuffle=True, drop_last=True)
    yield from ((one.input.x, one.target.y) for one in forever(loader))


# -- turns of processes ----------------------------------------------------------------------------------------------


def worker(name, path, batch):
    """Set a case up; then run it for as many seconds as each line of standard input says. Prints lines of JSON."""
    _, modules, function = CASES[name]
    try:
        for module in modules:
            importlib.import_module(module)
        with MemoryWatch(0.02) as watch:
            began = time.perf_counter()
            batches = function(Path(path), int(batch))
            next(batches)
            print(json.dumps({"setup": time.perf_counter() - began}), flush=True)
            for line in sys.stdin:
                print(json.dumps({**measure.turn(batches, float(line)), "peak": watch.grown}), flush=True)
    except Exception as error:
        reason = (
            str(error) if isinstance(error, Unavailable | ImportError) else f"{type(error).__name__}: {error}"
        )
        print(json.dumps({"skipped": reason}), flush=True)


class Worker:
    """A process that waits for its turn."""

    def __init__(self, size, name, path, batch):
        self.row = {"size": size, "name": name, "title": CASES[name][0], "skipped": ""}
        command = [sys.executable, __file__, "--worker", name, str(path), str(batch)]
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}  # spinning threads slow the others
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        self.rounds = []
        self.row["setup_seconds"] = self.answer().get("setup", 0.0)

    def answer(self):
        line = self.process.stdout.readline()
        found = json.loads(line) if line else {"skipped": f"ended with code {self.process.wait()}"}
        self.row["skipped"] = found.get("skipped", "")
        return found

    def turn(self, seconds):
        if not self.row["skipped"]:
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
            found = self.answer()
            self.rounds += [found] if "windows" in found else []

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.terminate()
        self.process.wait()


def run(size, path, names, *, batch=64, rounds=5, seconds=2.0):
    """Let cases take turns, beside the limit; returns rows as `windowloader.bench.measure.measure` does."""
    others = [name for name in CASES if name != LIMIT and name in names]
    together = max(1, TOGETHER // (8 * int(np.prod(measure.find(size)))))
    found = []
    for at in range(0, max(len(others), 1), together):
        workers = []
        try:
            workers += [Worker(size, name, path, batch) for name in (LIMIT, *others[at : at + together])]
            for _ in range(rounds):
                for one in workers:
                    one.turn(seconds)
        finally:
            for one in workers:
                one.end()
        for one in workers:
            if not one.row["skipped"]:
                one.row |= measure.figures(one.rounds, workers[0].rounds)
                one.row["peak_private_bytes"] = max(turn["peak"] for turn in one.rounds)
        found += [one.row for one in workers[bool(found) :]]
    return found


# -- pictures --------------------------------------------------------------------------------------------------------


def bars_of(text):
    """Return what tables of a page say: size, title, ratio to the limit, bytes; None where a case was left out."""
    found, size = [], ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("#"):
            size = line.strip("# ")
        elif len(cells) == 7 and re.search(r"\w", cells[0]):
            ratio, peak = (float(cells[4]), float(parse_bytes(cells[6]))) if cells[6] else (None, None)
            found.append([size, cells[0], ratio, peak])
    return found


def shown(picture):
    """Return what a picture was drawn from, which it carries."""
    from PIL import Image

    with Image.open(picture) as image:
        return json.loads(image.info["Description"])


def draw(bars, folder):
    """Draw throughput against the limit, and memory on a logarithmic scale."""
    from windowloader.view.pictures import new, tidy

    sizes = list(dict.fromkeys(bar[0] for bar in bars))
    titles = list(dict.fromkeys(bar[1] for bar in bars))[::-1]
    for name, label, value_of in (
        ("throughput", "windows a second over one thread's memcpy of the same bytes", lambda bar: bar[2]),
        ("memory", "peak private memory above imports, bytes", lambda bar: bar[3]),
    ):
        figure = new(3.2 * len(sizes) + 2.2, 0.36 * len(titles) + 1.4)
        for axis, size in zip(
            figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0], sizes, strict=True
        ):
            tidy(axis, title=size)
            for bar in bars:
                value, place = value_of(bar), titles.index(bar[1])
                if bar[0] == size and value is not None:
                    color = "#d9480f" if bar[1].startswith("windowloader") else "#adb5bd"
                    axis.barh(place, value, color=color)
                    text = f" {value:.2f}" if name == "throughput" else f" {format_bytes(value)}"
                    axis.text(value, place, text, va="center", fontsize=7)
            axis.margins(x=0.25)
            axis.set_xscale("linear" if name == "throughput" else "log")
            axis.set_yticks(range(len(titles)), titles, fontsize=8)
        figure.supxlabel(label, fontsize=9)
        figure.savefig(
            Path(folder) / f"bench-{name}.png", dpi=130, metadata={"Description": json.dumps(bars)}
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", action="append", help=f"{', '.join(measure.SIZES)}, or a shape like 10000x50"
    )
    parser.add_argument("--only", action="append", choices=list(CASES), default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache/windowloader/bench")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--worker", nargs=3)
    asked = parser.parse_args()
    if asked.worker:
        return worker(*asked.worker)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.page:
        return draw(bars_of(asked.page.read_text(encoding="utf-8")), asked.out)
    rows = []
    for size in asked.size or ["metr-la"]:
        path = measure.generate(measure.find(size), asked.cache_dir)
        rows += run(size, path, asked.only or CASES, rounds=asked.rounds, seconds=asked.seconds)
    table = measure.markdown(rows)
    (asked.out / "bench.md").write_text(table + "\n", encoding="utf-8")
    (asked.out / "bench.json").write_text(
        json.dumps({"machine": measure.machine(), "results": rows}, indent=1)
    )
    draw(bars_of(table), asked.out)
    print(table)
    return None


if __name__ == "__main__":
    main()
