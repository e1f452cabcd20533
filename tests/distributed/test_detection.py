"""A loader asks who it is at its first len or iter, not before, and once."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import LoaderError, RankError

LAUNCHERS = {
    "torchrun": {"RANK": "1", "WORLD_SIZE": "3"},
    "srun": {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "64", "SLURM_STEP_ID": "0"},
    "mpirun": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3"},
    "mpiexec": {"PMI_RANK": "1", "PMI_SIZE": "3"},
}
pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture(autouse=True)
def no_process_group(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.fixture
def windows():
    return wl.WindowSet(wl.Series(np.zeros((96, 2), np.float32)), wl.WindowSpec(lookback=4, horizon=3))  # 90


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("first", [len, iter])
def test_at_the_first_use_and_then_for_good(windows, monkeypatch, launcher, first):
    loader = wl.WindowLoader(windows, batch_size=10)
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    first(loader)
    for name in LAUNCHERS[launcher]:
        monkeypatch.delenv(name)
    assert len(loader) == 3
    assert next(iter(loader)).starts.tolist() == list(range(10, 20))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_half_of_what_a_launcher_sets_is_an_error_at_the_first_use(windows, monkeypatch, launcher):
    size, rest = list(LAUNCHERS[launcher])[1], list(LAUNCHERS[launcher].items())[1:]
    for name, value in rest:
        monkeypatch.setenv(name, value)
    loader = wl.WindowLoader(windows)
    for use in (len, iter, wl.WindowLoader.state_dict):
        with pytest.raises(RankError, match=f"{size}='3' is set but .* is not.*Lightning.*Pass rank="):
            use(loader)
    monkeypatch.setenv(next(iter(LAUNCHERS[launcher])), "2")  # once it is there
    assert next(iter(loader)).starts[0] == 60  # 90 windows are one step of three slices


def test_arguments_say_it_all_and_at_once(windows, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    loader = wl.WindowLoader(windows, batch_size=10, rank=1, world_size=2)
    assert next(iter(loader)).starts[0] == 10
    with pytest.raises(RankError, match="rank 2 is outside world_size=2"):
        wl.WindowLoader(windows, rank=2, world_size=2)


def test_a_rank_outside_its_world(windows, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RankError, match="rank 3 is outside world_size=3 .from RANK and WORLD_SIZE"):
        len(wl.WindowLoader(windows))


def test_lanes_that_do_not_divide_the_global_batch(windows):
    with pytest.raises(LoaderError, match="30 windows is not a multiple of .* 4 lanes.*28 or 32"):
        wl.WindowLoader(windows, batch_size=10, rank=0, world_size=3, lanes=4)
