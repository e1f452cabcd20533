"""Weather on a grid under Lightning: one step ahead first, then 4, then 12, and resumed wherever it was stopped.

Run: python era5_lightning.py era5.zarr [folder] [epochs]      (without a store, a small one is made)
Again after a crash: stages that are done are loaded, the one under way goes on with the batch that was not done.
"""

import sys
from functools import partial
from pathlib import Path

import lightning
import stand_ins
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import windowloader as wl
from windowloader.adapters.lightning import WindowDataModule
from windowloader.adapters.pytorch import TorchLoader


class Rollout(lightning.LightningModule):
    """One step of six hours, applied to its own forecasts as often as there are targets."""

    def __init__(self, features):
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.step = nn.Sequential(conv(2 * features, 32), nn.GELU(), conv(32, features))

    def training_step(self, batch):
        loss, (past, targets) = 0.0, batch  # (batch, time, feature, latitude, longitude)
        for target in targets.unbind(1):
            forecast = past[:, -1] + self.step(past.flatten(1, 2))
            loss = loss + (forecast - target).square().mean() / targets.shape[1]
            past = torch.cat([past[:, 1:], forecast[:, None]], 1)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(store=None, folder="runs", epochs=1):
    lightning.seed_everything(0, verbose=False)
    series = wl.open(store or stand_ins.weather(), variables=["t", "t2m"])  # t.500, t.850, t2m, on one grid
    model = Rollout(len(series.features))
    for horizon in (1, 4, 12):
        train, _ = wl.split(series, wl.WindowSpec(lookback=2, horizon=horizon), (0.8, 0.2))
        scaler = wl.StandardScaler.fit(train)  # one mean and deviation a level
        loader = TorchLoader(train, batch_size=32, shuffle=True, scaler=scaler, layout="btfn")
        last = Path(folder, f"horizon-{horizon}", "last.ckpt")
        keep = ModelCheckpoint(last.parent, save_last=True, every_n_train_steps=5)
        trainer = lightning.Trainer(max_epochs=int(epochs), callbacks=[keep], logger=False)
        trainer.fit(model, WindowDataModule(train=loader), ckpt_path=last if last.exists() else None)
        trainer.save_checkpoint(last)
        print(f"horizon {horizon}: {trainer.global_step} steps")


if __name__ == "__main__":
    main(*sys.argv[1:])
