"""Daily cases of regions between which people travel: another graph every day, in each window its own days' edges.

Run: python mobility.py england_covid.json [epochs]      (PGT's file; without it, a small one is made)
"""

import json
import sys
from pathlib import Path

import numpy as np
import stand_ins
import torch
from torch import nn

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader


class Recurrent(nn.Module):
    """A GRU over the days of a window, whose input is a region's cases and those that travellers bring."""

    def __init__(self, width=32):
        super().__init__()
        self.cell, self.out = nn.GRUCell(2, width), nn.Linear(width, 1)

    def forward(self, inputs, graph):  # (batch, time, node)
        state = None
        for day, cases in enumerate(inputs.unbind(1)):
            cases = cases.reshape(-1)  # node n of window w is w · nodes + n, as in the edges
            (source, target), trips = graph.step(day)
            brought = torch.zeros_like(cases).index_add_(0, target, cases[source] * trips)
            state = self.cell(torch.stack([cases, brought], 1), state)
        return self.out(state).view(len(inputs), -1)

    def error(self, batch):
        return (self(batch.inputs, batch.graph) - batch.targets[:, 0]).square().mean()


def main(path=None, epochs=3):
    made = json.loads(Path(path or stand_ins.mobility()).read_text())
    pairs, trips = (made["edge_mapping"][name].values() for name in ("edge_index", "edge_weight"))
    days = zip(map(np.transpose, pairs), (np.log1p(trip, dtype="f4") / 100 for trip in trips), strict=True)
    graph = wl.DynamicGraph.from_steps(days)
    series = wl.Series(np.array(made["y"], "f4"), timestamps=("2020-03-03", "1D"), graph=graph)
    train, test = wl.split(series, wl.WindowSpec(lookback=7, horizon=1), (0.8, 0.2))
    options = {"batch_size": 8, "scaler": wl.StandardScaler.fit(train, per="node"), "layout": "btn"}
    model = Recurrent()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with TorchLoader(train, shuffle=True, **options) as loader, TorchLoader(test, **options) as unseen:
        for epoch in range(int(epochs)):
            for batch in loader:
                optimizer.zero_grad()
                model.error(batch).backward()
                optimizer.step()
            print(f"epoch {epoch}: {np.mean([model.error(batch).item() for batch in unseen]):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
