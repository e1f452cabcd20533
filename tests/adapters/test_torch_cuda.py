"""Tests that need a GPU: prefetched copies, pinned memory, rows on the device. Skipped without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
OPTIONS = {"batch_size": 64, "shuffle": True, "seed": 5, "fill": 0.0}


@pytest.fixture
def windows():
    values = np.random.default_rng(0).normal(50, 10, size=(2000, 207)).astype(np.float32)
    values[::17, ::3] = 0.0
    series = wl.Series(values, features=["speed"], missing=0.0, timestamps=("2024-01-01", "5min"))
    spec = wl.WindowSpec(lookback=12, horizon=12, inputs=["speed", "time_of_day"])
    return wl.WindowSet(series, spec)


def busy():
    """Keep the current stream busy for a while, so that work queued after it waits."""
    big = torch.randn(4096, 4096, device="cuda")
    for _ in range(8):
        big = big @ big
    return big


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device_memory", [None, "all"])
@pytest.mark.parametrize("pin_memory", [None, False])
def test_batches_equal_the_hosts_to_the_bit(windows, dtype, device_memory, pin_memory):
    scaler = wl.StandardScaler.fit(windows)
    host = TorchLoader(windows, scaler=scaler, dtype=dtype, **OPTIONS)
    there = TorchLoader(
        windows, scaler=scaler, dtype=dtype, device="cuda", device_memory=device_memory,
        pin_memory=pin_memory, **OPTIONS,
    )  # fmt: skip
    kept = []
    for one, two in zip(host, there, strict=True):
        busy()
        assert two.inputs.device == torch.device("cuda", torch.cuda.current_device())
        assert list(one.arrays()) == list(two.arrays())
        kept.append((one, two))
    for one, two in kept:
        for name, tensor in [*one.arrays().items(), ("weights", one.weights)]:
            assert torch.equal(tensor, getattr(two, name).cpu()), name


def test_memory_is_not_reused_before_the_users_own_copies_end(windows):
    host = [batch.inputs.clone() for batch in TorchLoader(windows, **OPTIONS)]
    moved = []
    for inputs, _ in TorchLoader(windows, pin_memory=True, prefetch_batches=4, threads=2, **OPTIONS):
        assert inputs.is_pinned()
        busy()
        moved.append(inputs.to("cuda", non_blocking=True))  # the host's tensor is released at once
    assert all(torch.equal(one, two.cpu()) for one, two in zip(host, moved, strict=True))


def test_device_memory_is_not_reused_before_the_loops_work_ends(windows):
    expected = [batch.targets.clone() for batch in TorchLoader(windows, **OPTIONS)]
    sums = []
    for batch in TorchLoader(windows, device="cuda", **OPTIONS):
        busy()
        sums.append(batch.targets.double().sum())  # queued; the batch is deleted before it ran
        del batch
    for found, targets in zip(sums, expected, strict=True):
        torch.testing.assert_close(found.cpu(), targets.double().sum())


def test_rows_are_sent_once(windows):
    loader = TorchLoader(windows, device="cuda", device_memory="1GiB", **OPTIONS)
    for _ in range(2):
        for batch in loader:
            assert batch.inputs.is_cuda
    report = loader.device_report()
    assert report.tier == "device"
    assert report.moved_bytes == report.row_bytes + 2 * 8 * len(windows)


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_of_a_stream_are_kept_for_a_while(tmp_path, threads):
    zarr = pytest.importorskip("zarr")
    values = np.random.default_rng(0).normal(50, 10, size=(4000, 207)).astype(np.float32)
    zarr.create_array(str(tmp_path / "values.zarr"), data=values, chunks=(100, 207))
    windows = wl.WindowSet(wl.open(tmp_path / "values.zarr"), wl.WindowSpec(lookback=12, horizon=12))
    options = {"batch_size": 32, "shuffle": True, "memory": "1MB", "threads": threads}
    with (
        TorchLoader(windows, **options) as host,
        TorchLoader(windows, device="cuda", device_memory="1200kB", **options) as there,
    ):
        kept = []
        for one, two in zip(host, there, strict=True):
            busy()
            kept.append((one.inputs.clone(), one.targets.clone(), two))
        for inputs, targets, batch in kept:
            assert torch.equal(inputs, batch.inputs.cpu())
            assert torch.equal(targets, batch.targets.cpu())
        report = there.device_report()
    assert report.tier == "kept"
    assert report.moved_per_array < 1.4
