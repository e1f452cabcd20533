"""Compares windowloader with plain PyTorch on the shapes that people train: the benchmark's second table.

    python tests/benchmarks/shapes.py [--only NAME] [--rounds 5] [--seconds 1]

All means of a row run in one process with one thread of PyTorch, in turns; each delivers contiguous float32 batches of
the same shapes from an array in memory that is scaled already, so that only assembling is compared. "Dataset" slices
one window per item in a ``Dataset`` behind a ``DataLoader`` without workers, "index" gathers a batch by advanced
indexing of a tensor, "unfold" takes windows from a view of all windows.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader, WindowDataset
from windowloader.bench.measure import turn

# name: steps, shape after time, lookback, horizon, batch size, order of the axes in batches, shuffle, rows of an entity
ROWS = {
    **{
        f"207 sensors, 12 → 12, {size} a batch": ((34_272, 207, 1), 12, 12, size, "btnf")
        for size in (8, 64, 256, 1024)
    },
    "7 channels, 336 → 96": ((17_420, 7, 1), 336, 96, 32, "btn"),
    "7 channels, 720 → 96": ((17_420, 7, 1), 720, 96, 32, "btn"),
    "321 channels, 336 → 96": ((26_304, 321, 1), 336, 96, 32, "btn"),
    "862 channels, 336 → 96": ((17_544, 862, 1), 336, 96, 32, "btn"),
    "862 channels, 720 → 96, nodes first": ((17_544, 862, 1), 720, 96, 32, "bnt"),
    "grid 32 × 64, 69 variables, 2 → 1, btfn": ((400, 32, 64, 69), 2, 1, 16, "btfn"),
    "grid 32 × 64, 69 variables, 2 → 1, btnf": ((400, 32, 64, 69), 2, 1, 16, "btnf"),
    "grid 181 × 360, 5 variables, 2 → 1, btfn": ((120, 181, 360, 5), 2, 1, 8, "btfn"),
    "grid 181 × 360, 5 variables, 2 → 1, btnf": ((120, 181, 360, 5), 2, 1, 8, "btnf"),
}
METERS = "5,000 ragged meters, 168 → 24"
ORDERED = "207 sensors, 12 → 12, in order"
PLAIN = ("Dataset", "index", "unfold")


def series_of(shape, rows_of=None):
    values = np.random.default_rng(0).random(shape, np.float32)
    segments = None if rows_of is None else np.append(0, np.cumsum(rows_of))
    return values, wl.Series(values, axes="t" + "n" * (len(shape) - 2) + "f", segments=segments)


def placed(values, layout):
    """Return windows (batch, time, space …, feature) in a layout, contiguous."""
    space = tuple(range(2, values.ndim - 1))
    at = {"b": (0,), "t": (1,), "n": space, "f": (values.ndim - 1,)}
    order = [axis for letter in layout for axis in at[letter]]
    if "f" not in layout:
        values, order = values[..., 0], [axis for axis in order if axis < values.ndim - 1]
    return values.permute(order).contiguous()


class Slices(Dataset):
    def __init__(self, values, starts, lookback, horizon, layout):
        self.values, self.starts = torch.from_numpy(values), starts
        self.lookback, self.horizon, self.layout = lookback, horizon, layout

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, number):
        start = self.starts[number]
        middle = start + self.lookback
        parts = self.values[start:middle], self.values[middle : middle + self.horizon]
        return tuple(placed(part[None], self.layout)[0] for part in parts)


def plain(values, starts, lookback, horizon, size, layout, shuffle):
    """Return the plain ways: name to an iterator without end."""
    tensor = torch.from_numpy(values)
    loader = DataLoader(
        Slices(values, starts, lookback, horizon, layout), size, shuffle=shuffle, drop_last=True
    )
    whole = tensor.unfold(0, lookback + horizon, 1).movedim(-1, 1)

    def batches():
        while True:
            order = np.random.default_rng().permutation(starts) if shuffle else starts
            for at in range(0, len(order) - size + 1, size):
                yield torch.from_numpy(order[at : at + size])

    def index():
        ahead = torch.arange(lookback + horizon)
        for chosen in batches():
            rows = chosen[:, None] + ahead
            yield placed(tensor[rows[:, :lookback]], layout), placed(tensor[rows[:, lookback:]], layout)

    def unfold():
        for chosen in batches():
            windows = whole[chosen]
            yield placed(windows[:, :lookback], layout), placed(windows[:, lookback:], layout)

    return {"Dataset": forever(loader), "index": index(), "unfold": unfold()}


def forever(loader):
    while True:
        yield from loader


def pairs(loader):
    for batch in forever(loader):
        yield batch.inputs, batch.targets


def measure(name, rounds, seconds):
    """Return windows per second of each means, medians of turns, and each one's ratio to the best plain way."""
    rows_of = None
    if name == METERS:
        rows_of = np.random.default_rng(1).integers(200, 2_000, 5_000)
        shape, lookback, horizon, size, layout = (int(rows_of.sum()), 1, 1), 168, 24, 256, "btn"
    else:
        shape, lookback, horizon, size, layout = ROWS[name] if name != ORDERED else next(iter(ROWS.values()))
    shuffle = name != ORDERED
    values, series = series_of(shape, rows_of)
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=lookback, horizon=horizon))
    ways = plain(values, windows.starts(), lookback, horizon, size, layout, shuffle)
    options = {"batch_size": size, "layout": layout, "shuffle": shuffle, "drop_last": True}
    loaders = {
        "windowloader": wl.WindowLoader(windows, **options),
        "TorchLoader": TorchLoader(windows, **options),
    }
    dataset = WindowDataset(windows, layout=layout)
    ours = {one: pairs(loader) for one, loader in loaders.items()}
    ours["WindowDataset"] = forever(
        DataLoader(dataset, size, shuffle=shuffle, drop_last=True, collate_fn=lambda items: default(items))
    )
    turns = [  # the first one warms up
        {one: speed(batches, seconds if number else 0.2) for one, batches in (ways | ours).items()}
        for number in range(rounds + 1)
    ]
    for loader in loaders.values():
        loader.close()
    best = [max(one[way] for way in ways) for one in turns[1:]]
    return {
        one: (
            statistics.median(each[one] for each in turns[1:]),
            statistics.median(each[one] / limit for each, limit in zip(turns[1:], best, strict=True)),
        )
        for one in ways | ours
    }


def default(items):
    """Collate as a ``DataLoader`` does by default."""
    found = torch.utils.data.default_collate(items)
    return (found["inputs"], found["targets"]) if isinstance(found, dict) else (found[0], found[1])


def speed(batches, seconds):
    took = turn(batches, seconds)
    return took["windows"] / took["seconds"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*ROWS, METERS, ORDERED]
    parser.add_argument("--only", action="append", choices=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| windows a second | best plain way | WindowLoader | TorchLoader | WindowDataset |\n|---|---|---|---|---|"
    )
    for name in asked.only or names:
        found = measure(name, asked.rounds, asked.seconds)
        best = max(PLAIN, key=lambda way: found[way][0])
        ours = [
            f"{rate:,.0f} ({ratio:.1f} times)" for way, (rate, ratio) in found.items() if way not in PLAIN
        ]
        print(f"| {name} | {found[best][0]:,.0f}, {best} | {' | '.join(ours)} |", flush=True)


if __name__ == "__main__":
    main()
