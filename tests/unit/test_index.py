"""Starts at size: how much they hold, and that large bitmaps and runs are exact."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from windowloader.windows.bitmap import Bitmap, keep_rows
from windowloader.windows.index import Explicit, Runs
from windowloader.windows.sliding import progressions, window_sums


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


@pytest.mark.parametrize("share", [1e-4, 1e-3, 0.2, 0.999])
@pytest.mark.parametrize("stride", [1, 5])
def test_rows_left_out_at_random(share, stride):
    rng = np.random.default_rng(1)
    rows = 200_003
    bits = np.zeros(-(-rows // 64) * 64, bool)
    bits[:rows] = rng.random(rows) >= share
    words = np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64)
    runs = Runs.of_segments(np.array([0, 70_000, 70_003, rows]), span=4, stride=stride)
    model = runs(np.arange(len(runs)))
    model = model[bits[model]]
    kept = keep_rows(runs, words)
    assert isinstance(kept, Runs if share < 0.1 else Bitmap) or share > 0.9
    assert (kept(np.arange(len(kept))) == model).all()
    assert len(kept) == len(model)
    probes = rng.integers(-100, rows + 100, 1000)
    assert (kept.rank(probes) == np.searchsorted(model, probes)).all()
    part = kept.within(np.array([100, 90_000]), np.array([80_000, 150_001]))
    inside = model[((model >= 100) & (model < 80_000)) | ((model >= 90_000) & (model < 150_001))]
    assert (part(np.arange(len(part))) == inside).all()


def test_scattered_starts_take_about_a_bit_a_row():
    rng = np.random.default_rng(2)
    words = rng.integers(0, 2**63, 10_000, dtype=np.uint64)
    kept = keep_rows(Runs.of_segments(np.array([0, 640_000]), span=1, stride=1), words)
    assert isinstance(kept, Bitmap)
    assert kept.nbytes <= 80_000 * 1.13


def test_empty_runs_and_bitmaps():
    none = Runs.of_segments(np.array([0, 5]), span=6, stride=1)
    empty = Bitmap.of_words(0, np.zeros(3, np.uint64))
    for index in (none, empty, Explicit(np.empty(0, np.int64))):
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
    assert index.nbytes == 48  # with the order that counting needed


def test_sums_over_offsets_of_any_form():
    values = np.random.default_rng(3).integers(0, 9, 300)
    for offsets in ([0], [0, 1, 2], [0, 3, 6], [0, 1, 5, 9, 200], [2, 90, 178]):
        model = [values[i + np.array(offsets)].sum() for i in range(100)]
        assert window_sums(values, np.array(offsets), 100).tolist() == model
    assert progressions(np.array([0, 1, 2, 10, 20])) == [(0, 3, 1), (10, 2, 10)]
