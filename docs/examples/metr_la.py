"""Graph WaveNet's loop on METR-LA as published: a pandas HDF5 file, DCRNN's graph, 0 where nothing was measured.

Run: python metr_la.py metr-la.h5 adj_mx.pkl [epochs]      (without files, small ones are made)
"""

import sys
from functools import partial

import stand_ins
import torch
from torch import nn

import windowloader as wl
from windowloader.adapters.pytorch import ExactError, TorchLoader


class GatedGraphNet(nn.Module):
    """A gated temporal convolution, then one step along the roads and one along a learned graph."""

    def __init__(self, roads, width=16):
        super().__init__()
        self.register_buffer("roads", roads / roads.sum(1, keepdim=True).clamp(min=1))
        self.ends = nn.Parameter(torch.randn(2, len(roads), 8))
        self.gate = nn.Conv2d(2, 2 * width, (1, 12))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv2d(3 * width, 64, 1), nn.ReLU(), nn.Conv2d(64, 12, 1))

    def forward(self, x):  # (batch, feature, node, time), as Graph WaveNet has it
        hidden = nn.functional.glu(self.gate(x), dim=1)
        learned = (self.ends[0] @ self.ends[1].T).relu().softmax(1)
        mixed = [torch.einsum("ij,bcjt->bcit", graph, hidden) for graph in (self.roads, learned)]
        return self.out(torch.cat([hidden, *mixed], 1)).squeeze(-1)  # (batch, time, node)


def main(speeds=None, roads=None, epochs=2):
    speeds, roads = (speeds, roads) if speeds else stand_ins.traffic()
    series = wl.open(speeds, features=["speed"], missing=0.0, graph=roads)
    spec = wl.WindowSpec(lookback=12, horizon=12, inputs=["speed", "time_of_day"], targets=["speed"])
    train, val, _ = wl.split(series, spec, (0.7, 0.1, 0.2))
    scaler = wl.StandardScaler.fit(train)  # zeros are left out
    options = {"scaler": scaler, "fill": 0.0, "layout": ("bfnt", "btn")}
    model = GatedGraphNet(torch.from_numpy(series.graph.dense()).float())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with TorchLoader(train, shuffle=True, **options) as loader, TorchLoader(val, **options) as held_out:
        for epoch in range(int(epochs)):
            for batch in loader:
                loss = (model(batch.inputs) - batch.targets).abs()[batch.target_mask].mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            error = ExactError("mae", layout="btn")
            for batch in held_out:
                raw = partial(scaler.inverse_transform, layout="btn")
                error.update(raw(model(batch.inputs)), raw(batch.targets), mask=batch.target_mask)
            print(f"epoch {epoch}: {error.overall():.2f} mph; in an hour {error.value()[-1]:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
