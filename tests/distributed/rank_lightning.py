"""Lightning's own launchers: two processes fit, and resume at step 4; each leaves what it saw in the folder.

Run: ``rank_lightning.py folder number:strategy…``, one fit after another. Number 0 begins, others go on from its
checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import windowloader as wl
from windowloader.adapters.lightning import WindowDataModule
from windowloader.adapters.pytorch import TorchLoader


class Model(pl.LightningModule):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        self.seen.append([batch.epoch, batch.starts.tolist()])
        return (self.weight * inputs[:, -1:] - targets).abs().mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append([batch.starts.tolist(), batch.weights.tolist()])

    def on_fit_end(self):
        found = {"train": self.seen, "val": self.validated}
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(found))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def module():
    values = np.random.default_rng(0).normal(size=(130, 3)).astype(np.float32)
    parts = wl.split(wl.Series(values), wl.WindowSpec(lookback=4, horizon=3), (0.7, 0.2, 0.1))
    return WindowDataModule(
        train=TorchLoader(parts["train"], global_batch_size=10, shuffle=True, seed=1),
        val=TorchLoader(parts["val"], batch_size=4, uneven="exact"),
    )


def fit(folder, number, strategy):
    own = folder / number
    own.mkdir(exist_ok=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        default_root_dir=own,
        callbacks=[ModelCheckpoint(own, every_n_train_steps=4, save_top_k=-1, filename="{step}")],
    )
    checkpoint = None if number == "0" else folder / "0" / "step=4.ckpt"
    trainer.fit(Model(own), datamodule=module(), ckpt_path=checkpoint, weights_only=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for each in sys.argv[2:]:
        fit(Path(sys.argv[1]), *each.split(":"))
