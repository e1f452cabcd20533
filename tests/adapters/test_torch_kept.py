"""Rows kept on a device for a while: the bits of the host, each row sent about once, no more than there is room for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader
from windowloader.adapters.torch_kept import KeptRows, Room
from windowloader.adapters.torch_tables import DeviceTables

ROWS, NODES = 2000, 40


@pytest.fixture
def values():
    found = np.random.default_rng(0).normal(50, 10, size=(ROWS, NODES)).astype(np.float32)
    found[::17, ::3] = 0.0
    return found


@pytest.fixture
def store(tmp_path, values):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(str(tmp_path / "values.zarr"), data=values, chunks=(50, NODES))
    return tmp_path / "values.zarr"


def windows_of(target, **more):
    given = {"missing": 0.0, "timestamps": ("2024-01-01", "5min"), "features": ["speed"], **more}
    series = wl.Series(target, **given) if isinstance(target, np.ndarray) else wl.open(target, **given)
    spec = wl.WindowSpec(lookback=6, horizon=4, inputs=["speed", "time_of_day"], targets=["speed"])
    return wl.WindowSet(series, spec)


def assert_same(windows, epochs=1, *, device_memory, **options):
    """Compare with the host's batches; return the loader, closed."""
    with (
        TorchLoader(windows, **options) as host,
        TorchLoader(windows, device="cpu", device_memory=device_memory, **options) as there,
    ):
        for _ in range(epochs):
            pairs = 0
            for one, two in zip(host, there, strict=True):
                np.testing.assert_array_equal(one.starts, two.starts)
                assert list(one.arrays()) == list(two.arrays())
                for name, tensor in one.arrays().items():
                    other = getattr(two, name)
                    assert other.dtype == tensor.dtype
                    assert torch.equal(tensor, other), name
                pairs += 1
            assert pairs == len(host)
        return there.device_report()


@given(
    places=st.integers(5, 30),
    asked=st.lists(st.sets(st.integers(100, 139), min_size=1, max_size=5), min_size=1, max_size=40),
    failing=st.sets(st.integers(0, 39)),
)
def test_room_is_what_a_dictionary_would_say(places, asked, failing):
    room = Room(100, 140, places=places)
    there: dict[int, int] = {}
    for turn, rows in enumerate(map(sorted, asked)):
        numbers = np.array(rows)
        absent = room.enter(numbers)
        where = room.where(numbers)
        assert len(set(where.tolist())) == len(rows)
        assert (where >= 0).all()
        assert (where < places).all()
        new = {rows[i] for i in absent.tolist()}
        for row, place in zip(rows, where.tolist(), strict=True):
            if row not in new:
                assert there[row] == place  # its values still lie there
        there = {row: place for row, place in there.items() if place not in set(where.tolist())}
        if turn in failing and new:
            room.leave(numbers[absent])
        there |= {
            row: place
            for row, place in zip(rows, where.tolist(), strict=True)
            if not (turn in failing and row in new)
        }


def test_what_was_used_longest_ago_gives_way():
    room = Room(0, 100, places=32)
    for row in range(32):
        room.enter(np.array([row]))
    room.enter(np.arange(16, 32))
    assert len(room.enter(np.arange(50, 60))) == 10
    assert len(room.enter(np.arange(16, 32))) == 0


@pytest.mark.parametrize("options", [
    {"shuffle": True}, {}, {"shuffle": True, "dtype": "bfloat16", "threads": 2, "prefetch_batches": 4},
    {"shuffle": True, "layout": ("tbnf", "bfnt")}, {"broadcast": False, "fill": 0.0},
    {"shuffle": True, "uneven": "exact", "rank": 1, "world_size": 3}, {"shuffle": True, "dtype": "float16"},
])  # fmt: skip
def test_a_stream_has_the_hosts_bits(store, options):
    windows = windows_of(store)
    scaler = wl.StandardScaler.fit(windows)
    report = assert_same(
        windows, 2, device_memory="140kB", memory="200kB", batch_size=30, scaler=scaler, **options
    )
    assert report.tier == "kept"
    assert report.row_bytes <= 140_000


def test_a_batch_that_comes_in_pieces(store, monkeypatch):
    pick, pieces = KeptRows._pick, []
    monkeypatch.setattr(
        KeptRows, "_pick", lambda rows, starts, piece: pieces.append(piece) or pick(rows, starts, piece)
    )
    windows = windows_of(store)
    options = {"memory": "60kB", "batch_size": 150, "shuffle": True, "active_blocks": 2}
    assert assert_same(windows, device_memory="390kB", **options).tier == "kept"
    assert len(pieces) > -(-len(windows) // 150)


def test_in_time_order_each_row_is_sent_once(values):
    windows = windows_of(values)
    report = assert_same(windows, device_memory="100kB", batch_size=32)
    row_bytes = (
        NODES * (4 + 1) + 4
    )  # values and what was seen, once for inputs and targets, and the time of day
    places = 4 * 10 * len(windows)  # where the rows of a window lie, for each step
    assert report.moved_bytes == ROWS * row_bytes + places


def test_in_block_order_each_row_is_sent_about_once(store):
    windows = windows_of(store)
    report = assert_same(windows, device_memory="220kB", memory="200kB", batch_size=32, shuffle=True)
    row_bytes = NODES * (4 + 1) + 4
    sent = (report.moved_bytes - 4 * 10 * len(windows)) / (ROWS * row_bytes)
    assert 1 <= sent < 1.25  # on the host a window's ten rows go for each window


def test_the_cached_tier(store, tmp_path):
    windows = windows_of(store, cache_dir=tmp_path / "cache")
    report = assert_same(windows, 3, device_memory="140kB", memory="200kB", batch_size=30, shuffle=True)
    assert report.tier == "kept"


def test_a_run_goes_on_in_the_middle(store):
    windows = windows_of(store)
    options = {"memory": "200kB", "batch_size": 30, "shuffle": True}
    with TorchLoader(windows, **options) as host:
        expected = [batch.inputs.clone() for batch in host]
    with TorchLoader(windows, device="cpu", device_memory="140kB", **options) as first:
        taken = iter(first)
        found = [next(taken).inputs for _ in range(7)]
        state = first.state_dict()
    with TorchLoader(windows, device="cpu", device_memory="140kB", **options) as second:
        second.load_state_dict(state)
        found += [batch.inputs for batch in second]
    assert len(found) == len(expected)
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_two_iterators_at_once(store):
    windows = windows_of(store)
    options = {"memory": "200kB", "batch_size": 30, "shuffle": True}
    with TorchLoader(windows, **options) as host:
        expected = [batch.inputs.clone() for batch in host]
    with TorchLoader(windows, device="cpu", device_memory="80kB", **options) as loader:
        for one, two, right in zip(iter(loader), iter(loader), expected, strict=False):
            assert torch.equal(one.inputs, right)
            assert torch.equal(two.inputs, right)


def test_rows_that_did_not_come_are_sent_again(values, monkeypatch):
    windows = windows_of(values)
    put, calls = DeviceTables.put, []

    def failing(self, *given):
        calls.append(given)
        if len(calls) == 5:
            raise RuntimeError("the device is gone")
        put(self, *given)

    monkeypatch.setattr(DeviceTables, "put", failing)
    with TorchLoader(windows, device="cpu", device_memory="100kB", batch_size=32, threads=1) as loader:
        with pytest.raises(RuntimeError, match="the device is gone"):
            list(loader)
        found = [batch.inputs for batch in loader]
    with TorchLoader(windows, batch_size=32) as host:
        expected = [batch.inputs.clone() for batch in host]
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_an_order_that_goes_anywhere_stays_on_the_host(values):
    with pytest.warns(UserWarning, match="an order that may go anywhere"):
        report = assert_same(windows_of(values), device_memory="200kB", batch_size=32, shuffle=True)
    assert report.tier == "host"
