"""Accelerate: a prepared loader is the loader itself, kept in its checkpoints. Two ranks: see tests/distributed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from accelerate import Accelerator


@pytest.fixture
def windows():
    values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    return wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=4, horizon=3))


def loader_of(windows):
    return TorchLoader(windows, batch_size=10, shuffle=True)


def test_prepare_wraps_the_model_and_leaves_the_loader(windows):
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(4, 3)
    loader = loader_of(windows)
    prepared, wrapped, optimizer = accelerator.prepare(loader, model, torch.optim.SGD(model.parameters()))
    assert prepared is loader
    seen = []
    for inputs, targets in prepared:
        seen.append(inputs)
        loss = (wrapped(inputs[..., 0].mT).mT - targets[..., 0]).abs().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    assert len(seen) == len(loader) == 10


def test_a_registered_loader_resumes_from_the_checkpoint(windows, tmp_path):
    accelerator = Accelerator(cpu=True)
    loader = loader_of(windows)
    whole = [batch.starts.tolist() for batch in loader_of(windows)]
    accelerator.register_for_checkpointing(loader)
    for _ in zip(range(4), loader, strict=False):
        pass
    accelerator.save_state(tmp_path / "run")
    loader.set_epoch(5)
    accelerator.load_state(tmp_path / "run")
    assert [batch.starts.tolist() for batch in loader] == whole[4:]
    assert loader.epoch == 1
