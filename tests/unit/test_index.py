"""Starts at scale: their size in memory, and exact results for large sets."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import windowloader as wl
from windowloader.windows.index import Explicit, Runs, window_sums


def test_a_hundred_million_windows_with_ten_thousand_gaps_take_less_than_a_megabyte():
    rng = np.random.default_rng(0)
    borders = np.unique(np.concatenate(([0, 100_300_000], rng.choice(100_300_000, 10**4, replace=False))))
    runs = Runs.of_segments(borders, span=24, stride=1)
    assert len(runs) > 10**8
    assert runs.nbytes < 10**6
    assert len(pickle.dumps(runs)) < 4096 + 16 * 10**4
    positions = rng.integers(0, len(runs), 1000)
    starts = runs(positions)
    assert (runs.rank(starts) == positions).all()
    segment = np.searchsorted(borders, starts, side="right") - 1
    assert (starts + 24 <= borders[segment + 1]).all()


@pytest.mark.parametrize("share", [1e-4, 0.2, 0.7])
@pytest.mark.parametrize("stride", [1, 5])
def test_windows_left_out_at_random(share, stride):
    rng = np.random.default_rng(1)
    values = np.where(rng.random((200_003, 1)) < share, np.nan, 1.0)
    series = wl.Series(values, segments=[0, 70_000, 70_003, 200_003], missing=np.nan)
    spec = {"lookback": 3, "horizon": 1, "stride": stride}
    model = wl.WindowSet(series, wl.WindowSpec(**spec)).starts()
    model = model[np.isfinite(values[:, 0])[model[:, np.newaxis] + np.arange(4)].all(axis=1)]
    kept = wl.WindowSet(series, wl.WindowSpec(**spec, max_missing=0.0)).index
    assert isinstance(kept, Runs) == (share * stride < 0.5)
    assert (kept(np.arange(len(kept))) == model).all()
    assert len(kept) == len(model)
    probes = rng.integers(-100, 200_103, 1000)
    assert (kept.rank(probes) == np.searchsorted(model, probes)).all()
    part = kept.within(np.array([100, 90_000]), np.array([80_000, 150_001]))
    inside = model[((model >= 100) & (model < 80_000)) | ((model >= 90_000) & (model < 150_001))]
    assert (part(np.arange(len(part))) == inside).all()


def test_empty_runs_and_lists():
    none = Runs.of_segments(np.array([0, 5]), span=6, stride=1)
    for index in (none, Explicit(np.empty(0, np.int64))):
        assert len(index) == 0
        assert index.rank(np.array([0, 9])).tolist() == [0, 0]
        assert index.counts(-2, 3).tolist() == [0] * 5
        assert len(index.slice(0, 0)) == 0
        assert len(index.within(np.array([0]), np.array([9]))) == 0
        assert len(pickle.loads(pickle.dumps(index))) == 0


def test_repeats_are_kept_and_counted():
    index = Explicit(np.array([5, 5, 2]))
    assert not index.rising
    assert index.counts(0, 6).tolist() == [0, 0, 1, 0, 0, 2]


def test_sums_over_offsets_of_any_form():
    values = np.random.default_rng(3).integers(0, 9, 300)
    for offsets in ([0], [0, 1, 2], [0, 3, 6], [0, 1, 5, 9, 200], [2, 90, 178]):
        model = [values[i + np.array(offsets)].sum() for i in range(100)]
        assert window_sums(values, np.array(offsets), 100).tolist() == model
