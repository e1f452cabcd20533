"""Loaders used by trainers: epochs set through a sampler, copies in other processes, groups made too late."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import ClosedError, RankError


@pytest.fixture
def windows():
    values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    return wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=4, horizon=3))  # 94 windows


def starts(batches):
    return [batch.starts.tolist() for batch in batches]


def epoch_of(windows, epoch, **options):
    loader = wl.WindowLoader(windows, batch_size=10, shuffle=True, **options)
    loader.set_epoch(epoch)
    return starts(loader)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_sampler_takes_an_iterator_along_that_gave_nothing_yet(windows, threads):
    loader = wl.WindowLoader(windows, batch_size=10, shuffle=True, threads=threads, prefetch_batches=3)
    iterator = iter(loader)
    loader.sampler.set_epoch(2)
    assert starts(iterator) == epoch_of(windows, 2)
    assert [epoch.epoch for epoch in loader.stats().epochs] == [2]
    assert loader.epoch == 3


def test_a_sampler_leaves_an_iterator_alone_that_gave_a_batch(windows):
    loader = wl.WindowLoader(windows, batch_size=10, shuffle=True)
    iterator = iter(loader)
    first = next(iterator)
    loader.sampler.set_epoch(2)
    assert starts([first, *iterator]) == epoch_of(windows, 0)


def test_set_epoch_itself_moves_no_iterator(windows):
    loader = wl.WindowLoader(windows, batch_size=10, shuffle=True)
    old = iter(loader)
    loader.set_epoch(1)
    assert starts(loader) == epoch_of(windows, 1)
    assert starts(old) == epoch_of(windows, 0)


def test_a_sampler_with_the_present_epoch_keeps_a_loaded_position(windows):
    loader = wl.WindowLoader(windows, batch_size=10, shuffle=True)
    loader.set_epoch(1)
    for _ in zip(range(4), loader, strict=False):
        pass
    resumed = wl.WindowLoader(windows, batch_size=10, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    iterator = iter(resumed)
    resumed.sampler.set_epoch(1)
    assert starts(iterator) == epoch_of(windows, 1)[4:]


def test_an_iterator_at_the_end_of_an_epoch_is_moved_to_the_next(windows):
    loader = wl.WindowLoader(windows, batch_size=10, shuffle=True)
    iterator = iter(loader)
    for _ in range(len(loader)):
        next(iterator)
    resumed = wl.WindowLoader(windows, batch_size=10, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    iterator = iter(resumed)
    resumed.sampler.set_epoch(1)
    assert starts(iterator) == epoch_of(windows, 1)


def test_loading_a_state_closes_the_iterators_that_run(windows):
    loader = wl.WindowLoader(windows, batch_size=10, shuffle=True)
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(ClosedError, match="after step 1 of epoch 0"):
        next(iterator)
    assert starts(loader) == epoch_of(windows, 0)[1:]


def test_a_pickled_loader_goes_on_where_the_loop_is(windows):
    loader = wl.WindowLoader(windows, batch_size=10, shuffle=True, seed=5)
    loader.set_epoch(3)
    iterator = iter(loader)
    for _ in range(4):
        next(iterator)
    copy = pickle.loads(pickle.dumps(loader))
    assert copy.state_dict() == loader.state_dict()
    assert starts(copy) == epoch_of(windows, 3, seed=5)[4:]
    assert starts(iterator) == epoch_of(windows, 3, seed=5)[4:]


def test_a_pickled_loader_keeps_the_seed_of_a_loaded_state(windows):
    loader = wl.WindowLoader(windows, batch_size=10, shuffle=True)
    loader.load_state_dict(wl.WindowLoader(windows, batch_size=10, shuffle=True, seed=9).state_dict())
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(loader))))
    copy.set_epoch(1)
    assert starts(copy) == epoch_of(windows, 1, seed=9)


def test_a_pickled_loader_finds_its_own_rank(windows, monkeypatch):
    loader = wl.WindowLoader(windows, batch_size=10)
    loader.set_epoch(2)
    assert len(loader) == 10
    copy = pickle.loads(pickle.dumps(loader))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (len(copy), copy.epoch, starts(copy)[0]) == (5, 2, list(range(10, 20)))


def forked(loader, pipe):
    pipe.send((len(loader), starts(loader)))
    pipe.close()


def test_a_forked_loader_has_threads_of_its_own(windows):
    loader = wl.WindowLoader(windows, batch_size=10, threads=2, prefetch_batches=2)
    iterator = iter(loader)
    assert starts([next(iterator)]) == [list(range(10))]
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=forked, args=(loader, there))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        process.start()
    assert here.recv() == (10, epoch_in_order(10)[1:])
    process.join()
    assert process.exitcode == 0
    assert starts(iterator) == epoch_in_order(10)[1:]


def epoch_in_order(size):
    return [list(range(first, min(94, first + size))) for first in range(0, 94, size)]


def group(rank, size):
    return SimpleNamespace(
        distributed=SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: True,
            get_rank=lambda: rank,
            get_world_size=lambda: size,
        )
    )


def test_a_group_made_after_the_first_use_is_an_error_unless_it_agrees(windows, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    loader, given = wl.WindowLoader(windows), wl.WindowLoader(windows, rank=0, world_size=1)
    assert len(loader) == len(given) == 2
    monkeypatch.setitem(sys.modules, "torch", group(0, 1))
    assert len(loader) == 2
    monkeypatch.setitem(sys.modules, "torch", group(0, 2))
    assert len(given) == 2
    for use in (len, iter, wl.WindowLoader.state_dict):
        with pytest.raises(
            RankError, match="first used as rank 0 of 1 .*says rank 0 of 2.*after the process group"
        ):
            use(loader)
