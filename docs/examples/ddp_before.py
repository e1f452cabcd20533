"""DDP as most scripts have it: every window stored, one sampler, one DataLoader a rank.

Run: torchrun --nproc-per-node 2 ddp_before.py speeds.npy
"""

import os
import sys

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def load(path, size):
    """Return batches of (inputs, targets), each (batch, node, step)."""
    speeds = torch.from_numpy(np.load(path))  # (time, node)
    speeds = (speeds - speeds.mean()) / speeds.std()
    windows = speeds.unfold(0, 24, 1)  # (window, node, step)
    dataset = TensorDataset(windows[..., :12].contiguous(), windows[..., 12:].contiguous())
    return DataLoader(dataset, batch_size=size, sampler=DistributedSampler(dataset))


def train(path, checkpoint="run.pt", epochs=2, size=32):
    """Train a small network; go on from a checkpoint where there is one."""
    distributed.init_process_group("gloo")
    torch.manual_seed(0)
    loader = load(path, size)
    network = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 12))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.Adam(model.parameters())
    parts = {"model": model, "optimizer": optimizer}
    first = 0
    if os.path.exists(checkpoint):
        state = torch.load(checkpoint)
        first = state["epoch"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for epoch in range(first, epochs):
        loader.sampler.set_epoch(epoch)
        for step, (inputs, targets) in enumerate(loader, start=1):
            loss = (model(inputs) - targets).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 4 == 0 and distributed.get_rank() == 0:
                print(f"epoch {epoch}, loss {loss.item():.4f}")
                state = {name: part.state_dict() for name, part in parts.items()}
                torch.save({**state, "epoch": epoch}, checkpoint)
    del model, parts  # DDP lets go of the group before it is destroyed: the other way round can hang in gloo
    distributed.destroy_process_group()
    return network


if __name__ == "__main__":
    train(*sys.argv[1:])
