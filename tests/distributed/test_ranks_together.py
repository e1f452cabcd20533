"""Two and four real ranks: who sees what, how many steps, the same error to the bit, the same state everywhere."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch

import windowloader as wl
from windowloader.adapters.pytorch import ExactError, TorchLoader

SPEC = wl.WindowSpec(lookback=4, horizon=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import zarr

    folder = tmp_path_factory.mktemp("speeds")
    values = np.random.default_rng(0).normal(50, 10, size=(150, 3)).astype(np.float32)
    np.save(folder / "speeds.npy", values)
    zarr.create_array(folder / "speeds.zarr", data=values, chunks=(8, 3))
    return folder


@pytest.fixture
def parts(folder):
    return wl.split(wl.Series(np.load(folder / "speeds.npy")), SPEC, (0.7, 0.2, 0.1))


def of_kind(ranks, kind):
    return [[line for line in lines if line["kind"] == kind] for lines in ranks]


def forecast(inputs):
    return inputs[:, -1:].expand(-1, 3, -1, -1) * 0.9 + inputs.abs().amax(dim=1, keepdim=True) * 0.1


def error_of_slices(windows, batch_size, ranks):
    """The error of ranks that run one after another in this process, merged."""
    whole = ExactError("mae")
    for rank in range(ranks):
        own = ExactError("mae")
        options = {"uneven": "exact", "rank": rank, "world_size": ranks}
        for batch in TorchLoader(windows, batch_size=batch_size, **options):
            assert len(batch.weights) == batch_size
            own.update(forecast(batch.inputs), batch.targets, weights=batch.weights)
        whole.merge_states(own.state())
    return [value.hex() for value in whole.value().tolist()]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.campaign)])
def test_ranks_share_every_epoch_step_and_state(world, folder, parts, size):
    ranks = world("rank_epochs.py", size, folder)
    train = parts["train"]
    number = len(train)

    for rank, (half, found) in enumerate(zip(of_kind(ranks, "half"), of_kind(ranks, "found"), strict=True)):
        assert "WORLD_SIZE='" in half[0]["message"]
        assert "RANK is not" in half[0]["message"]
        assert found[0]["steps"] == -(-number // (64 * size))
        first = train.starts(np.arange(number)).tolist()
        share = min(64, -(-number // size))  # one step of the whole set is cut into equal slices
        assert found[0]["first"][0] == first[rank * share]

    epochs = of_kind(ranks, "epoch")
    assert len(epochs[0]) == 12
    for same in zip(*epochs, strict=True):
        uneven = same[0]["uneven"]
        assert len({(epoch["steps"], len(epoch["seen"])) for epoch in same}) == 1
        counted = collections.Counter()
        for steps in zip(*(epoch["seen"] for epoch in same), strict=True):
            weight = 0.0
            for starts, weights, _ in steps:
                assert len(starts) == len(weights) == len(steps[0][0])
                counted.update(start for start, own in zip(starts, weights, strict=True) if own)
                weight += sum(weights)
            assert {step_weight for _, _, step_weight in steps} == {weight}
        everything = set(train.starts(np.arange(number)).tolist())
        if uneven != "drop":
            assert set(counted) == everything
        assert set(counted) <= everything
        if uneven != "pad":
            assert max(counted.values()) == 1

    errors = of_kind(ranks, "error")
    for own in errors[0]:
        assert all(own in lines for lines in errors)
        for other in (1, 2, 3, 5, 8):
            assert error_of_slices(parts["val"], own["batch_size"], other) == own["steps"]

    if size == 2:
        assert of_kind(ranks, "states") == [[{"kind": "states", "equal": True}]] * size
        for resumed in of_kind(ranks, "resumed"):
            assert len(resumed) == 4
            assert all(line["right"] for line in resumed), resumed
        assert of_kind(ranks, "prepared") == [[{"kind": "prepared", "same": True, "ranks": size}]] * size
        check_gradients(of_kind(ranks, "gradient"), parts["val"], size)


def check_gradients(ranks, windows, size):
    number, batch = len(windows), 8 * size
    steps = [range(begin, min(begin + batch, number)) for begin in range(0, number, batch)]
    assert 0 < len(steps[-1]) < batch  # the last step is the one that needs the factor
    weight = torch.full((3, 3), 0.5, dtype=torch.float64, requires_grad=True)
    assert {len(lines) for lines in ranks} == {len(steps)}
    for step, positions in enumerate(steps):
        batch = windows.read(np.array(positions))
        inputs, targets = (torch.from_numpy(np.asarray(part, np.float64)) for part in batch)
        loss = (inputs[:, -1, :, 0] @ weight.T - targets[:, 0, :, 0]).square().mean()
        (right,) = torch.autograd.grad(loss, weight)
        for lines in ranks:
            np.testing.assert_allclose(lines[step]["gradient"], right.flatten().tolist(), rtol=1e-12)
