"""Streams over many epochs: short ones, broken off and gone on; memory that stays where the plan put it.

What needs a process of its own, or long, is a campaign.
"""

from __future__ import annotations

import numpy as np
import pytest

import windowloader as wl

SPEC = wl.WindowSpec(lookback=6, horizon=4)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("windowloader.streaming.grid._BYTES", 1)


def same(one, other):
    assert (one.epoch, one.step) == (other.epoch, other.step)
    for name in ("starts", "inputs", "targets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(("memory", "threads"), [("64MiB", 0), ("64MiB", 2), (6_000, 2)])
@pytest.mark.parametrize("seed", range(2))
def test_short_epochs_broken_off_and_gone_on(
    tmp_path, write_array, small_blocks, monkeypatch, threads, memory, seed
):
    """A history of epochs that end within passes, breaks, jumps and states, against the same one in memory.

    In 6,000 bytes the five active blocks have too few places, and are read again.
    """
    monkeypatch.setattr("windowloader.streaming.budget.RESERVE", 0)
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(720, 3)).astype("f4")
    write_array({"driver": "file", "path": f"{tmp_path}/a.zarr/"}, values, chunks=(40, 3))
    asked = {"batch_size": 16, "shuffle": True, "seed": 2, "steps_per_epoch": int(rng.integers(3, 60))}
    windows = wl.WindowSet(wl.open(tmp_path / "a.zarr"), SPEC)
    stream = wl.WindowLoader(windows, active_blocks=5, memory=memory, threads=threads, **asked)
    twin = wl.WindowLoader(wl.WindowSet(wl.Series(values), SPEC), threads=0, **asked)
    twin.load_state_dict(stream.state_dict())
    with stream, twin:
        state = stream.state_dict()
        for _ in range(8):
            what = rng.integers(0, 6)
            if what == 0:
                epoch = int(rng.integers(0, 9))
                stream.set_epoch(epoch)
                twin.set_epoch(epoch)
            elif what == 1:
                stream.load_state_dict(state)
                twin.load_state_dict(state)
            stop = int(rng.integers(1, 40)) if rng.random() < 0.4 else 10**9
            for count, (one, other) in enumerate(zip(stream, twin, strict=True), start=1):
                same(one, other)
                if count == stop:
                    break
            if rng.random() < 0.3:
                state = stream.state_dict()
            assert stream.epoch == twin.epoch
