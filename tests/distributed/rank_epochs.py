"""One rank: epochs in every mode, order and tier, errors to the bit, states through every kind of checkpoint.

Run by ``world``: ``rank_epochs.py folder``, with ``speeds.npy`` and ``speeds.zarr`` in it. Prints a JSON line an epoch.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch._dynamo  # DDP and Accelerate would import it in every rank
from accelerate import Accelerator
from torch import distributed
from torch.distributed import checkpoint
from torch.nn.parallel import DistributedDataParallel

import windowloader as wl
from windowloader.adapters.pytorch import ExactError, TorchLoader, ddp_scale


def parts(folder, tier):
    series = wl.open(folder / ("speeds.npy" if tier == "mapped" else "speeds.zarr"))
    return wl.split(series, wl.WindowSpec(lookback=4, horizon=3), (0.7, 0.2, 0.1))


def say(**found):
    print(json.dumps(found), flush=True)


def epochs(folder):
    for tier in ("mapped", "streamed"):
        train = parts(folder, tier)["train"]
        for shuffle in (True, False):
            for uneven in ("exact", "pad", "drop"):
                with TorchLoader(
                    train, batch_size=7, shuffle=shuffle, uneven=uneven, memory="64MiB"
                ) as loader:
                    next(iter(loader))  # a probing iterator shifts nothing
                    loader.set_epoch(1)
                    seen = [
                        [batch.starts.tolist(), batch.weights.tolist(), batch.step_weight] for batch in loader
                    ]
                    say(kind="epoch", tier=tier, shuffle=shuffle, uneven=uneven, seen=seen, steps=len(loader))


def forecast(inputs):
    """What a model may be for errors to the bit: each window by itself, whatever its row."""
    return inputs[:, -1:].expand(-1, 3, -1, -1) * 0.9 + inputs.abs().amax(dim=1, keepdim=True) * 0.1


def errors(folder):
    for batch_size in (8, 5):
        error = ExactError("mae")
        for batch in TorchLoader(parts(folder, "mapped")["val"], batch_size=batch_size, uneven="exact"):
            error.update(forecast(batch.inputs), batch.targets, weights=batch.weights)
        whole = error.over_ranks()
        say(kind="error", batch_size=batch_size, steps=[value.hex() for value in whole.value().tolist()])


def gradients(folder):
    """DDP's gradient of every step against that of the mean over the step's windows."""
    model = DistributedDataParallel(torch.nn.Linear(3, 3, dtype=torch.float64))
    torch.nn.init.constant_(model.module.weight, 0.5)
    torch.nn.init.constant_(model.module.bias, 0.0)
    options = {"uneven": "exact", "dtype": "float64"}
    for batch in TorchLoader(parts(folder, "mapped")["val"], batch_size=8, **options):
        model.zero_grad()
        error = (model(batch.inputs[:, -1, :, 0]) - batch.targets[:, 0, :, 0]).square().mean(1)
        ((error * batch.weights).mean() * ddp_scale(batch)).backward()
        say(kind="gradient", step=batch.step, gradient=model.module.weight.grad.flatten().tolist())


def states(folder, scratch):
    def loader():
        return TorchLoader(
            parts(folder, "mapped")["train"], batch_size=7, shuffle=True, seed=2**70, uneven="exact"
        )

    whole = [batch.starts.tolist() for batch in loader()]
    stopped = loader()
    for _ in zip(range(2), stopped, strict=False):
        pass
    state = stopped.state_dict()
    everywhere = [None] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, state)
    say(kind="states", equal=all(other == state for other in everywhere))

    def goes_on(way, resumed):
        say(kind="resumed", way=way, right=[batch.starts.tolist() for batch in resumed] == whole[2:])

    checkpoint.save({"model": {"w": torch.ones(2)}, "loader": state}, checkpoint_id=scratch / "dcp")
    target = {"model": {"w": torch.zeros(2)}, "loader": loader().state_dict()}
    checkpoint.load(target, checkpoint_id=scratch / "dcp")
    resumed = loader()
    resumed.load_state_dict(target["loader"])
    goes_on("distributed checkpoint, as a dict", resumed)

    checkpoint.save({"loader": stopped}, checkpoint_id=scratch / "stateful")
    resumed = loader()
    checkpoint.load({"loader": resumed}, checkpoint_id=scratch / "stateful")
    goes_on("distributed checkpoint, as a Stateful", resumed)

    if distributed.get_rank() == 0:
        torch.save({"loader": state}, scratch / "one.pt")
    distributed.barrier()
    resumed = loader()
    resumed.load_state_dict(
        torch.load(scratch / "one.pt")["loader"]
    )  # weights_only: plain numbers and strings
    goes_on("torch.save of one rank", resumed)

    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(stopped)
    say(kind="prepared", same=prepared is stopped, ranks=accelerator.num_processes)
    accelerator.register_for_checkpointing(prepared)
    accelerator.save_state(scratch / "accelerate")
    accelerator.wait_for_everyone()
    stopped.set_epoch(7)
    accelerator.load_state(scratch / "accelerate")
    goes_on("Accelerate", stopped)


def main(folder):
    early = wl.WindowLoader(parts(folder, "mapped")["train"])  # made before the group, asked after it
    rank, ranks = int(os.environ.pop("RANK")), int(os.environ["WORLD_SIZE"])  # as in a child of Lightning
    try:
        len(early)
    except wl.WindowLoaderError as error:
        say(kind="half", message=str(error))
    distributed.init_process_group("gloo", init_method=os.environ["RENDEZVOUS"], rank=rank, world_size=ranks)
    say(kind="found", steps=len(early), first=next(iter(early)).starts.tolist()[:2])
    os.environ["RANK"] = str(rank)
    epochs(folder)
    errors(folder)
    if ranks == 2:  # what does not depend on how many there are
        gradients(folder)
        states(folder, Path(os.environ["RENDEZVOUS"].removeprefix("file://")).parent)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
