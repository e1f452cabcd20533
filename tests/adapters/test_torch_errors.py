"""Exact errors have the same bits on any number of ranks; `ddp_scale` corrects DDP's average."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import distributed

import windowloader as wl
from windowloader.adapters.pytorch import ExactError, TorchLoader, ddp_scale
from windowloader.adapters.torch.exact_error import window_sums
from windowloader.errors import LoaderError

KINDS = ["mae", "mse", "rmse", "mape"]


@pytest.fixture
def windows():
    rng = np.random.default_rng(3)
    values = rng.normal(50, 10, size=(160, 11)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = 0.0
    series = wl.Series(values, missing=0.0)
    return wl.WindowSet(series, wl.WindowSpec(lookback=6, horizon=4))  # 151 windows


def forecast(batch):
    """Forecast each window from its own values alone."""
    return batch.inputs[:, -1:] * torch.tensor([0.9, 0.8, 1.1, 1.3])[:, None, None] + 1 / 3


def evaluate(windows, kind, world_size, batch_size, spoil=False):
    whole = ExactError(kind)
    for rank in range(world_size):
        loader = TorchLoader(windows, batch_size=batch_size, uneven="exact", rank=rank, world_size=world_size)
        part = ExactError(kind)
        for batch in loader:
            made = forecast(batch)
            if spoil:
                made[batch.weights == 0] = math.nan
            part.update(made, batch.targets, mask=batch.target_mask, weights=batch.weights)
        whole.merge_states(part.state())
    return whole


@pytest.mark.parametrize("kind", KINDS)
def test_bit_equal_on_any_number_of_ranks(windows, kind):
    alone = evaluate(windows, kind, 1, 16)
    for world_size in (2, 3, 5, 8):
        found = evaluate(windows, kind, world_size, 16, spoil=True)
        assert found.value().tobytes() == alone.value().tobytes()
        assert found.overall() == alone.overall()
        assert found.state() == alone.state()
    assert evaluate(windows, kind, 1, 151).value().tobytes() == alone.value().tobytes()


def test_the_mean_is_exact_and_rounded_once(windows):
    batch = next(iter(TorchLoader(windows, batch_size=151)))
    errors = (forecast(batch).double() - batch.targets.double()).abs()
    seen = batch.target_mask
    sums = window_sums(torch.where(seen, errors, 0.0)[..., 0])
    expected = [
        float(sum(Fraction(x) for x in column.tolist()) / int(count))
        for column, count in zip(sums.T, seen.sum((0, 2, 3)), strict=True)
    ]
    found = evaluate(windows, "mae", 3, 7)
    assert found.value().tolist() == expected
    every = sum(Fraction(x) for x in sums.reshape(-1).tolist()) / int(seen.sum())
    assert found.overall() == float(every)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 64, 207, 1000])
def test_a_windows_sum_does_not_depend_on_its_row_or_batch(width):
    values = torch.randn(33, 5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(width))
    whole = window_sums(values)
    torch.testing.assert_close(whole, values.sum(-1))
    for row in (0, 1, 16, 32):
        assert torch.equal(window_sums(values[row : row + 1]), whole[row : row + 1])
    order = torch.randperm(33)
    assert torch.equal(window_sums(values[order].permute(1, 0, 2)), whole[order].T)
    assert values.equal(values.clone())


@pytest.mark.parametrize("layout", ["btnf", "bfnt", "tbnf", "nbtf", "fntb"])
def test_layouts_agree(layout):
    prediction, target = torch.randn(2, 6, 4, 3, 2).unbind(0)
    mask = torch.rand(6, 4, 3, 2) > 0.3
    plain = ExactError("mse")
    plain.update(prediction, target, mask=mask)
    order = ["btnf".index(letter) for letter in layout]
    other = ExactError("mse", layout=layout)
    other.update(*(part.permute(order) for part in (prediction, target)), mask=mask.permute(order))
    np.testing.assert_allclose(other.value(), plain.value(), rtol=1e-14)


def test_several_space_axes():
    prediction, target = torch.randn(2, 6, 4, 3, 5, 2).unbind(0)
    flat, apart = ExactError(), ExactError()
    flat.update(prediction.reshape(6, 4, 15, 2), target.reshape(6, 4, 15, 2))
    apart.update(prediction, target)
    assert apart.state() == flat.state()
    moved = ExactError(layout="bfnt")
    moved.update(prediction.permute(0, 4, 2, 3, 1), target.permute(0, 4, 2, 3, 1))
    np.testing.assert_allclose(moved.value(), flat.value(), rtol=1e-14)


def test_weights_other_than_0_and_1_count_exactly():
    target = torch.zeros(3, 1, 1, 1)
    prediction = torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1, 1)
    error = ExactError()
    error.update(prediction, target, weights=torch.tensor([0.1, 0.0, 0.3]))
    weights = [Fraction(float(np.float32(w))) for w in (0.1, 0.3)]
    assert error.value()[0] == float((weights[0] + 4 * weights[1]) / sum(weights))


def test_without_observed_values():
    error = ExactError("rmse")
    assert math.isnan(error.overall())
    assert error.value().size == 0
    error.merge(ExactError("rmse"))
    error.merge_states(error.state() * 3)
    error.update(
        torch.ones(2, 3, 4, 1), torch.zeros(2, 3, 4, 1), mask=torch.zeros(2, 3, 4, 1, dtype=torch.bool)
    )
    assert np.isnan(error.value()).all()


def test_shapes_must_be_equal():
    with pytest.raises(LoaderError, match="must be equal"):
        ExactError().update(torch.zeros(4, 3, 2), torch.zeros(4, 3, 2, 1))
    with pytest.raises(LoaderError, match="'mean'"):
        ExactError("mean")


@pytest.fixture
def group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.leaks
def test_over_ranks_in_a_group_of_one(windows, group):
    error = evaluate(windows, "mae", 2, 16)
    assert error.over_ranks().state() == error.state()
    assert ExactError().over_ranks().state() == [0.0]


def test_over_ranks_without_a_group(windows):
    error = evaluate(windows, "mae", 1, 16)
    assert error.over_ranks().state() == error.state()


@pytest.mark.parametrize("kind", KINDS)
def test_torchmetrics_gives_the_same_numbers(windows, kind):
    pytest.importorskip("torchmetrics")
    from windowloader.adapters import torchmetrics

    expected = evaluate(windows, kind, 1, 16)
    parts = []
    for rank in range(3):
        metric = getattr(torchmetrics, f"Exact{kind.upper()}")(by_step=True)
        for batch in TorchLoader(windows, batch_size=8, uneven="exact", rank=rank, world_size=3):
            now = metric(forecast(batch), batch.targets, batch.target_mask, batch.weights)
            assert now.shape == (4,)
        parts.append(metric)

    def gathered(tensor, group=None):
        assert tensor.equal(torch.cat(parts[0].sums))
        return [torch.cat(part.sums) for part in parts]

    first = torchmetrics.ExactMetric(
        kind, by_step=True, dist_sync_fn=gathered, distributed_available_fn=lambda: True
    )
    first.sums, first._update_count = parts[0].sums, 1
    assert first.compute().numpy().tobytes() == expected.value().tobytes()
    parts[0].reset()
    assert parts[0].sums == []


@pytest.mark.parametrize("uneven", ["pad", "exact", "drop"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_scaled_losses_average_to_the_gradient_of_the_whole_step(windows, uneven, world_size):
    loaders = [
        TorchLoader(windows, batch_size=20, uneven=uneven, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for step in zip(*loaders, strict=True):
        averaged, total, count = 0.0, 0.0, 0.0
        for batch in step:
            slope = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
            errors = (slope * batch.inputs[:, -1:].double() - batch.targets.double()).abs()
            each = errors.mean(tuple(range(1, errors.ndim)))
            ((each * batch.weights).mean() * ddp_scale(batch, world_size=world_size)).backward()
            averaged += slope.grad.item() / world_size
            slope.grad = None
            (each_again,) = torch.autograd.grad(
                ((slope * batch.inputs[:, -1:].double() - batch.targets.double()).abs()
                 .mean(tuple(range(1, errors.ndim))) * batch.weights).sum(), slope
            )  # fmt: skip
            total += each_again.item()
            count += batch.weights.sum().item()
        assert count == step[0].step_weight
        assert averaged == pytest.approx(total / count, rel=1e-12)


def test_scale_requires_a_loaders_batch(windows):
    with pytest.raises(LoaderError, match="no step"):
        ddp_scale(windows.read([0, 1]))
