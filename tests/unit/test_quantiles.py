"""Quantiles of the rows that windows read, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import ScalerError
from windowloader.scaling.statistics import GroupRuns, Quantiles, weighted_quantiles

RANKS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 5)), min_size=1, max_size=40))
def test_weights_repeat_values(pairs):
    values = np.array([value for value, _ in pairs])
    weights = np.array([weight for _, weight in pairs], dtype=np.float64)
    expected = np.quantile(np.repeat(values, weights.astype(int)), RANKS)
    np.testing.assert_allclose(weighted_quantiles(values, weights, RANKS), expected, rtol=1e-12, atol=1e-9)


def fill(values, weights, step, pooled):
    reducer = Quantiles(1, 3, pooled, RANKS[1:4])
    for start in range(0, len(values), step):
        part = values[start : start + step]
        runs = GroupRuns.of(start, start + len(part), 0, None)
        reducer.add(part, weights[start : start + step], np.array([np.nan]), runs)
    found = reducer.finish()
    return np.stack([found["median"][0], found["spread"][0]])


@pytest.mark.parametrize("pooled", [True, False])
def test_portions_change_no_bit_and_quantiles_are_close(pooled):
    rng = np.random.default_rng(0)
    values = rng.gamma(2, size=(20_000, 3))
    values[rng.random(values.shape) < 0.1] = np.nan
    weights = rng.integers(0, 3, 20_000).astype(np.float64)
    found = [fill(values, weights, step, pooled) for step in (20_000, 256, 7)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    repeated = np.repeat(values, weights.astype(int), axis=0)
    low, median, high = np.nanquantile(repeated, RANKS[1:4], axis=(0, 1) if pooled else 0)
    np.testing.assert_allclose(found[0], np.stack([median, high - low]).reshape(2, -1), rtol=1e-12)


def test_more_values_than_the_limit_are_refused():
    values = np.random.default_rng(1).normal(size=(2000, 50))
    windows = wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=3, horizon=1))
    exact = wl.RobustScaler.fit(windows, per="node", exact_bytes=values.nbytes)
    assert exact.median.tolist() == np.quantile(values, 0.5, axis=0).tolist()
    with pytest.raises(ScalerError, match=r"800 kB, and exact_bytes='100kB' is less.*some of the windows"):
        wl.RobustScaler.fit(windows, exact_bytes="100kB")
    assert wl.RobustScaler.fit(windows.take(slice(None, None, 100)), exact_bytes="100kB").spread > 0
