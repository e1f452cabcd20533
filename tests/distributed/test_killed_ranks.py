"""A rank is killed in the middle of an epoch; other numbers of ranks go on from the last checkpoint."""

from __future__ import annotations

import collections
import random

import numpy as np
import pytest
import torch

import windowloader as wl

SPEC = wl.WindowSpec(lookback=4, horizon=3)


@pytest.fixture
def folder(tmp_path):
    import zarr

    values = np.random.default_rng(0).normal(50, 10, size=(150, 3)).astype(np.float32)
    np.save(tmp_path / "speeds.npy", values)
    zarr.create_array(tmp_path / "speeds.zarr", data=values, chunks=(8, 3))
    return tmp_path


class History:
    """What the run that survives has seen: a kill takes back all since the last checkpoint."""

    def __init__(self, folder):
        self.folder = folder
        self.lines = []

    def add(self, ranks):
        self.lines += [line for lines in ranks for line in lines]

    def take_back(self):
        kept = torch.load(self.folder / "run.pt")
        before = {name: (state["epoch"], state["step"]) for name, state in kept.items()}
        count = len(self.lines)
        self.lines = [line for line in self.lines if (line["epoch"], line["step"]) < before[line["name"]]]
        return count - len(self.lines)

    def windows(self, name, epoch):
        chosen = (line for line in self.lines if (line["name"], line["epoch"]) == (name, epoch))
        return collections.Counter(start for line in chosen for start in line["starts"])


def check(history, windows, epochs):
    everything = collections.Counter(windows.starts(np.arange(len(windows))).tolist())
    for name in ("global", "blocks"):
        for epoch in range(epochs):
            assert history.windows(name, epoch) == everything, (name, epoch)


@pytest.fixture
def windows(folder):
    return wl.WindowSet(wl.Series(np.load(folder / "speeds.npy")), SPEC)  # 144


@pytest.mark.campaign
def test_the_surviving_history_is_each_window_once(world, folder, windows):
    history = History(folder)
    history.add(world("rank_training.py", 3, folder, 2, "1:17", dies=1))  # 12 steps an epoch: in the second
    assert history.take_back() > 0
    states = torch.load(folder / "run.pt")
    assert [states[name]["order"] for name in ("global", "blocks")] == ["global-1", "block-1"]
    state = states["global"]
    assert (state["epoch"], state["step"], state["global_batch"]) == (1, 3, 12)
    history.add(world("rank_training.py", 2, folder, 2))
    check(history, windows, 2)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2))
def test_any_history_of_kills(world, folder, windows, seed):
    chance, history = random.Random(seed), History(folder)
    for _ in range(3):
        ranks = chance.choice([1, 2, 3, 4])
        victim, steps = chance.randrange(ranks), chance.randrange(1, 12)
        history.add(world("rank_training.py", ranks, folder, 4, f"{victim}:{steps}", dies=victim))
        if (folder / "run.pt").exists():
            history.take_back()
        else:
            history.lines.clear()
    history.add(world("rank_training.py", chance.choice([1, 2, 3, 4]), folder, 4))
    check(history, windows, 4)
