"""Arenas go as soon as nobody iterates them, without a garbage collection; counted by what is alive."""

from __future__ import annotations

import gc
import time
import weakref

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import ClosedError
from windowloader.rows.arena import Arena

pytestmark = pytest.mark.usefixtures("by_blocks")  # what they hold is that blocks come and go

ROWS = 1000


@pytest.fixture
def url(tmp_path, write_array):
    values = np.random.default_rng(3).normal(size=(ROWS, 12)).astype(np.float32)
    write_array({"driver": "file", "path": f"{tmp_path}/rows.zarr/"}, values, chunks=(48, 12))
    return str(tmp_path / "rows.zarr")


@pytest.fixture
def alive(monkeypatch):
    """Return how many slabs are alive; the garbage collector stands still."""
    slabs, made = [], Arena.__init__

    def note(self, *args, **named):
        made(self, *args, **named)
        slabs.append(weakref.ref(self.regions[0].base))

    monkeypatch.setattr(Arena, "__init__", note)
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)
    gc.collect()
    gc.disable()
    yield lambda: sum(slab() is not None for slab in slabs)
    gc.enable()


def becomes(alive, count):
    """Reads that were given up hold the arena until they have ended, and batches that were begun."""
    deadline = time.monotonic() + 60
    while alive() != count and time.monotonic() < deadline:
        time.sleep(0.001)
    return alive() == count


def loader_of(url, **more):
    windows = wl.WindowSet(wl.open(url, **more), wl.WindowSpec(lookback=6, horizon=4))
    return wl.WindowLoader(windows, batch_size=16, shuffle=True, active_blocks=5, reads_ahead=4)


def test_a_loaded_state_leaves_no_arena_behind(url, alive):
    with loader_of(url) as loader:
        for number, _ in enumerate(loader):
            if number == 9:
                break
        assert becomes(alive, 1)
        state = loader.state_dict()
        loader.load_state_dict(state)
        assert becomes(alive, 0)
        assert sum(batch.num_windows for batch in loader) == ROWS - 9 - 16 * 10
        assert becomes(alive, 1)
    assert becomes(alive, 0)


def test_loading_a_state_closes_a_running_iterator_and_its_arena_goes(url, alive):
    with loader_of(url) as loader:
        batches = iter(loader)
        next(batches)
        loader.load_state_dict(loader.state_dict())
        assert becomes(alive, 0)
        with pytest.raises(ClosedError, match="after step 1 of epoch 0"):
            next(batches)
        for _ in loader:
            assert becomes(alive, 1)
    assert becomes(alive, 0)


def test_of_two_iterators_at_once_one_arena_stays(url, alive):
    with loader_of(url) as loader:
        first, second = iter(loader), iter(loader)
        for _ in zip(first, second, strict=True):
            assert alive() == 2
        assert next(first, None) is None
        assert next(second, None) is None
        assert becomes(alive, 1)
        assert sum(batch.num_windows for batch in loader) == ROWS - 9
        assert becomes(alive, 1)
    assert becomes(alive, 0)


def test_an_epoch_from_a_complete_disk_cache_has_no_arena(url, tmp_path, alive):
    with loader_of(url, cache_dir=tmp_path / "cache") as loader:
        for _ in loader:
            assert becomes(alive, 1)
        batches = iter(loader)
        next(batches)
        assert becomes(alive, 0)
        assert sum(batch.num_windows for batch in batches) == ROWS - 9 - 16
    loader.windows.series.variables[0].source.close()
