"""Rows on a device: batches gathered there equal the host's to the bit, and each row is sent once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader
from windowloader.adapters.torch import rows as torch_rows
from windowloader.errors import LoaderError

ROLES = {
    "own features": {"targets": ["a"]},
    "clocks and covariates": {
        "inputs": ["height", "a", "time_of_day", "rain"], "targets": ["b", "a"], "future": ["rain", "time_of_day_sin"],
    },
    "clocks alone": {"inputs": ["time_of_day"], "targets": ["a"]},
    "other order": {"inputs": ["b", "a"], "targets": ["a", "b"], "dilation": 2, "delay": 3},
    "no targets": {"inputs": ["b"], "horizon": 0},
}  # fmt: skip


def make_series(dtype=np.float32, **more):
    rng = np.random.default_rng(0)
    values = rng.normal(50, 10, size=(300, 6, 2))
    values[rng.random(values.shape) < 0.1] = 0
    rain = rng.normal(size=300).astype(np.float32)
    rain[::7] = 0
    return wl.Series(
        values.astype(dtype),
        features=["a", "b"],
        timestamps=np.datetime64("2024-01-01", "ns") + np.arange(300) * np.timedelta64(5, "m"),
        missing=0.0,
        covariates={"rain": rain, "height": rng.normal(size=6).astype(np.float32)},
        **more,
    )


def assert_equal_bits(windows, device_memory="all", **options):
    host = list(TorchLoader(windows, **options))
    loader = TorchLoader(windows, device="cpu", device_memory=device_memory, **options)
    there = list(loader)
    assert len(there) == len(host) > 0
    for one, two in zip(host, there, strict=True):
        assert list(one.arrays()) == list(two.arrays())
        for name, tensor in one.arrays().items():
            other = getattr(two, name)
            assert (other.dtype, other.shape, other.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
            assert (
                tensor.contiguous().numpy(force=True).tobytes() == other.numpy().tobytes()
                if (tensor.dtype != torch.bfloat16)
                else torch.equal(tensor.view(torch.int16), other.view(torch.int16))
            ), name
        np.testing.assert_array_equal(one.starts, two.starts)
        assert torch.equal(one.weights, two.weights)
    return loader


@pytest.mark.parametrize("roles", ROLES)
@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", pytest.param("float64", marks=pytest.mark.campaign)]
)
def test_every_role_and_dtype(roles, dtype):
    spec = wl.WindowSpec(**{"lookback": 4, "horizon": 3, **ROLES[roles]})
    windows = wl.WindowSet(make_series(), spec)
    scaler = wl.StandardScaler.fit(wl.WindowSet(make_series(), wl.WindowSpec(lookback=4, horizon=3)))
    for broadcast, fill, scale_targets in itertools.product([True, False], [None, 0.5], [True, False]):
        if roles == "clocks alone" and scale_targets is False:
            continue  # the scaler would cover nothing
        options = {"fill": fill, "broadcast": broadcast, "scale_targets": scale_targets, "threads": 0}
        assert_equal_bits(windows, scaler=scaler, dtype=dtype, shuffle=True, batch_size=128, **options)


@pytest.mark.parametrize("layout", ["bfnt", "tbnf", "nftb", ("btfn", "ntbf")])
def test_layouts(layout):
    windows = wl.WindowSet(
        make_series(), wl.WindowSpec(lookback=4, horizon=3, inputs=["a", "b", "time_of_day"])
    )
    assert_equal_bits(windows, layout=layout, batch_size=100)


def test_a_grid_with_several_space_axes():
    values = np.random.default_rng(0).normal(size=(80, 2, 4, 5)).astype(np.float32)
    windows = wl.WindowSet(wl.Series(values, axes="tfnn"), wl.WindowSpec(lookback=3, horizon=2))
    loader = assert_equal_bits(windows, layout="btfn", batch_size=32)
    assert next(iter(loader)).inputs.shape == (32, 3, 2, 4, 5)


@pytest.mark.parametrize(
    "kind", [np.int16, pytest.param(np.uint8, marks=pytest.mark.campaign), np.float16, ">f4"]
)
def test_sources_of_other_dtypes(kind):
    windows = wl.WindowSet(make_series(kind), wl.WindowSpec(lookback=4, horizon=3))
    assert_equal_bits(windows, scaler=wl.MinMaxScaler.fit(windows), fill=0.0)


@pytest.mark.parametrize("kind", ["uint16", "int8", "bool"])
def test_dtypes_that_are_only_copied(kind):
    values = np.random.default_rng(0).integers(0, 2, size=(60, 3)).astype(kind)
    windows = wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=3, horizon=2))
    assert_equal_bits(windows, dtype=kind)


def test_scalers_by_node_and_by_entity():
    series = make_series(entities=[0, 90, 210, 300])
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=3))
    for per in ("node", "entity"):
        assert_equal_bits(windows, scaler=wl.StandardScaler.fit(windows, per=per), shuffle=True)


def test_weights_and_a_part_of_a_split():
    _, part, _ = wl.split(make_series(), wl.WindowSpec(lookback=4, horizon=3), (0.5, 0.3, 0.2))
    loader = assert_equal_bits(part, uneven="exact", rank=1, world_size=3, shuffle=True, batch_size=10)
    begin, end = part.row_range
    assert 0 < begin < end < 300
    assert f"rows {begin} … {end - 1} take" in loader.device_report().note


def test_each_row_is_sent_once(monkeypatch):
    monkeypatch.setattr(torch_rows, "LOADED_BYTES", 1000)  # many pieces
    windows = wl.WindowSet(make_series(), wl.WindowSpec(lookback=12, horizon=12))
    loader = assert_equal_bits(windows, fill=0.0, batch_size=16)
    sent = loader.device_report()
    assert sent.tier == "device"
    assert sent.array_bytes == 300 * 6 * 2 * 4
    assert sent.row_bytes == 300 * 6 * 2 * (4 + 1)  # values once for inputs and targets, and what was seen
    assert sent.moved_bytes == sent.row_bytes + 8 * len(windows)
    for _ in loader:
        pass
    again = loader.device_report()
    assert again.moved_bytes == sent.moved_bytes + 8 * len(windows)
    assert again.moved_per_array == again.moved_bytes / again.array_bytes < 1.6


def test_rows_that_do_not_fit_stay_on_the_host():
    windows = wl.WindowSet(make_series(), wl.WindowSpec(lookback=4, horizon=3))
    with pytest.warns(
        UserWarning, match=r"more than device_memory=10 kB, and that holds 166 rows, where one"
    ):
        loader = assert_equal_bits(windows, device_memory=10_000)
    report = loader.device_report()
    assert report.tier == "host"
    assert "gathered on the host" in report.note
    assert assert_equal_bits(windows, device_memory="20kB").device_report().tier == "device"


def test_device_memory_that_is_not_available_is_refused(monkeypatch):
    windows = wl.WindowSet(make_series(), wl.WindowSpec(lookback=4, horizon=3))
    with pytest.raises(LoaderError, match="device= names none"):
        TorchLoader(windows, device_memory="all")

    def full(*_, **__):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(LoaderError, match="18 kB as float32, which cpu has not free"):
        iter(TorchLoader(windows, device="cpu", device_memory="all"))


def test_a_rank_that_reads_whole_lanes_keeps_only_its_rows(tmp_path):
    zarr = pytest.importorskip("zarr")
    values = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    zarr.create_array(str(tmp_path / "values.zarr"), data=values, chunks=(20, 5))
    windows = wl.WindowSet(wl.open(tmp_path / "values.zarr"), wl.WindowSpec(lookback=4, horizon=2))
    kept = []
    for rank in range(4):
        loader = assert_equal_bits(windows, rank=rank, world_size=4, batch_size=10)
        kept.append(loader.device_report().array_bytes // 20)
        loader.close()
    assert sum(kept) == pytest.approx(400, abs=4 * 6)
    whole = assert_equal_bits(windows, rank=1, world_size=4, batch_size=10, shuffle=True)
    assert whole.device_report().array_bytes == 400 * 20
    whole.close()
