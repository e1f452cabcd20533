"""One rank of a training run that may be killed: two loaders in step, a checkpoint every third step.

Run by ``world``: ``rank_training.py folder epochs [rank:steps]``; the named rank kills itself after so many steps of
this run. Goes on from ``folder/run.pt`` where there is one. Prints a JSON line a step of what this rank was given.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import zip_longest
from pathlib import Path

import torch
from torch import distributed

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader


def loaders(folder):
    spec = wl.WindowSpec(lookback=4, horizon=3)
    common = {"batch_size": 4, "shuffle": True, "seed": 3, "uneven": "exact", "memory": "64MiB"}
    return {
        "global": TorchLoader(wl.WindowSet(wl.open(folder / "speeds.npy"), spec), **common),
        "blocks": TorchLoader(wl.WindowSet(wl.open(folder / "speeds.zarr"), spec), lanes=2, **common),
    }


def seen(batch):
    return [start for start, own in zip(batch.starts.tolist(), batch.weights.tolist(), strict=True) if own]


def save(folder, found, rank):
    if rank == 0:  # one rank's copy is enough
        torch.save({name: loader.state_dict() for name, loader in found.items()}, folder / "run.tmp")
        (folder / "run.tmp").rename(folder / "run.pt")


def main(folder, epochs, victim=None):
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group("gloo", init_method=os.environ["RENDEZVOUS"], rank=rank, world_size=ranks)
    found = loaders(folder)
    if (folder / "run.pt").exists():
        for name, state in torch.load(folder / "run.pt").items():
            found[name].load_state_dict(state)
    done = 0
    for epoch in range(found["global"].epoch, epochs):
        for loader in found.values():
            loader.set_epoch(epoch)
        for batches in zip_longest(*found.values()):
            distributed.all_reduce(torch.zeros(1))  # the step: every rank takes part, or all fail
            for name, batch in zip(found, batches, strict=True):
                if batch is not None:
                    line = {"name": name, "epoch": epoch, "step": batch.step, "starts": seen(batch)}
                    print(json.dumps(line), flush=True)
            done += 1
            if done % 3 == 0:
                save(folder, found, rank)
            if victim == (rank, done):
                os.kill(os.getpid(), signal.SIGKILL)
    distributed.destroy_process_group()


if __name__ == "__main__":
    _, folder, epochs, *victim = sys.argv
    main(Path(folder), int(epochs), tuple(map(int, victim[0].split(":"))) if victim else None)
