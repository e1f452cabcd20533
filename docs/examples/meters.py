"""200 meters of different lengths in one table, weather known ahead, each meter scaled by its own mean and deviation.

Run: python meters.py meters.parquet [epochs]      (columns meter, utc, load, temperature; without, some are made)
"""

import sys
from functools import partial

import stand_ins
import torch
from torch import nn

import windowloader as wl
from windowloader.adapters.pytorch import ExactError, TorchLoader


class Forecaster(nn.Module):
    """Two days of load and weather, and tomorrow's weather, to tomorrow's load."""

    def __init__(self, past=2, ahead=3, width=64):
        super().__init__()
        self.past = nn.GRU(past, width, batch_first=True)
        self.ahead = nn.GRU(ahead, width, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, inputs, future):
        state = self.past(inputs)[1]
        return self.out(self.ahead(future, state)[0]).squeeze(-1)


def main(table=None, epochs=1):
    table = table or stand_ins.readings()
    series = wl.open(table, entity="meter", time="utc")  # sorted; no window crosses two meters
    ahead = ["temperature", "time_of_day_sin", "time_of_day_cos"]
    roles = {"inputs": ["load", "temperature"], "future": ahead, "targets": ["load"]}
    spec = wl.WindowSpec(lookback=48, horizon=24, **roles)
    train, test = wl.split(series, spec, {"train": (None, "2024-01-09"), "test": ("2024-01-09", None)})
    scaler = wl.StandardScaler.fit(train, per="entity")
    options = {"batch_size": 256, "scaler": scaler, "layout": ("btf", "bt")}
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with TorchLoader(train, shuffle=True, **options) as loader:
        for _ in range(int(epochs)):
            for batch in loader:
                loss = (model(batch.inputs, batch.future) - batch.targets).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    error = ExactError("mape", layout="bt")
    with TorchLoader(test, **options) as batches, torch.inference_mode():
        for batch in batches:
            raw = partial(scaler["load"].inverse_transform, layout="bt", entities=batch.entities)
            error.update(raw(model(batch.inputs, batch.future)), raw(batch.targets))
    print(f"{len(series.entity_names)} meters, {len(train):,} windows: {error.overall():.1%} off on average")


if __name__ == "__main__":
    main(*sys.argv[1:])
