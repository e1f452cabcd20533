"""Train from a bucket, without a copy on disk: memory stays within a budget, and a stopped run goes on.

Run: python s3_stream.py s3://bucket/speeds.zarr [state.json]      (AWS_ENDPOINT_URL for another store than AWS)
"""

import json
import sys
from pathlib import Path

import torch

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader


def main(url, kept="state.json", epochs=1, memory="64MiB"):
    series = wl.open(url)
    train, _ = wl.split(series, wl.WindowSpec(lookback=12, horizon=12), (0.9, 0.1))
    scaler = wl.StandardScaler.fit(train)  # one pass over the bucket
    model = torch.nn.Linear(12, 12)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with TorchLoader(
        train, batch_size=64, shuffle=True, scaler=scaler, layout="bnt", memory=memory
    ) as loader:
        state = json.loads(Path(kept).read_text()) if Path(kept).exists() else loader.state_dict()
        loader.load_state_dict(state)
        print(loader.plan(state))  # bytes, requests and memory, before anything is read
        while loader.epoch < int(epochs):
            for step, (inputs, targets) in enumerate(loader, start=1):
                loss = (model(inputs) - targets).abs().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % 10 == 0:
                    Path(kept).write_text(
                        json.dumps(loader.state_dict())
                    )  # in real life with the model's weights
            print(f"epoch {loader.epoch - 1}: loss {loss.item():.3f}")
        print(loader.stats())  # what the loop waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
