"""A PGT signal cut again at other lags, then trained on twice: in PGT's own loop, and in batches.

Run: python pgt_signal.py [chickenpox.json]      (without a file, or without PGT, a signal of the same form is made)
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

import windowloader as wl
from windowloader.adapters.pgt import from_signal, to_signal
from windowloader.adapters.pytorch import TorchLoader


def lagged_signal(path=None, lags=4):
    """Return what ``ChickenpoxDatasetLoader().get_dataset(lags=4)`` returns."""
    made = {"FX": np.random.default_rng(0).normal(size=(300, 20)).cumsum(0) / 10, "edges": [[0, 1], [1, 0]]}
    made = json.loads(Path(path).read_text()) if path else made
    steps, edges = np.array(made["FX"]), np.array(made["edges"]).T
    features = [steps[i : i + lags].T for i in range(len(steps) - lags)]
    parts = {"edge_index": edges, "edge_weight": np.ones(len(edges[0])), "features": features}
    parts["targets"] = list(steps[lags:])
    try:
        from torch_geometric_temporal.signal import StaticGraphTemporalSignal
    except ImportError:
        return SimpleNamespace(**parts, additional_feature_keys=[])
    return StaticGraphTemporalSignal(**parts)


def main(path=None, lags=8):
    series = from_signal(lagged_signal(path), lagged=True)  # the steps that the snapshots were cut from
    train, _ = wl.split(series, wl.WindowSpec(lookback=int(lags), horizon=1), (0.8, 0.2))
    model = nn.Linear(int(lags), 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def learn(forecast, target):
        loss = (forecast.squeeze(-1) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    snapshots = to_signal(train)  # PGT's loop as it stands; a snapshot is read when its turn comes
    losses = [learn(model(snapshot.x), snapshot.y) for snapshot in snapshots]
    with TorchLoader(train, batch_size=32, shuffle=True, layout=("bnt", "bn")) as loader:
        batched = [learn(model(inputs), targets) for _ in range(3) for inputs, targets in loader]
    print(
        f"{series}: {len(losses)} snapshots, loss {np.mean(losses[-20:]):.3f}; then {batched[-1]:.3f} in batches"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
