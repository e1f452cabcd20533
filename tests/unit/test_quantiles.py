"""Quantiles: exact ones against NumPy, sketched ones within their error, the same in every run."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import MissingExtraError, ScalerError
from windowloader.scaling.statistics import Missing, Quantiles, SketchedQuantiles, weighted_quantiles

RANKS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 5)), min_size=1, max_size=40))
def test_weights_repeat_values(pairs):
    values = np.array([value for value, _ in pairs])
    weights = np.array([weight for _, weight in pairs], dtype=np.float64)
    expected = np.quantile(np.repeat(values, weights.astype(int)), RANKS)
    np.testing.assert_allclose(weighted_quantiles(values, weights, RANKS), expected, rtol=1e-12, atol=1e-9)


def fill(reducer, values, weights, step):
    for start in range(0, len(values), step):
        reducer.add(values[start : start + step], weights[start : start + step], Missing(skip_nan=True), 0, 0)
    reducer.finish()
    return reducer.quantiles


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("make", [Quantiles, lambda *a: SketchedQuantiles(*a, limit=1 << 24)])
def test_portions_change_no_bit_and_quantiles_are_close(make, pooled):
    rng = np.random.default_rng(0)
    values = rng.gamma(2, size=(20_000, 3))
    values[rng.random(values.shape) < 0.1] = np.nan
    weights = rng.integers(0, 3, 20_000).astype(np.float64)
    found = [fill(make(1, 3, pooled, RANKS[1:4]), values, weights, step) for step in (20_000, 256, 7)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    repeated = np.repeat(values, weights.astype(int), axis=0)
    for node in range(1 if pooled else 3):
        column = repeated.ravel() if pooled else repeated[:, node]
        column = np.sort(column[~np.isnan(column)])
        reached = np.searchsorted(column, found[0][:, 0, node]) / len(column)
        np.testing.assert_allclose(reached, RANKS[1:4], atol=2e-3)


def test_the_limit_decides_and_the_smallest_sketch_is_refused():
    values = np.random.default_rng(1).normal(size=(2000, 50))
    windows = wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=3, horizon=1))
    exact = wl.RobustScaler.fit(windows, per="node", exact_bytes=values.nbytes)
    assert exact.median.tolist() == np.quantile(values, 0.5, axis=0).tolist()
    sketched = wl.RobustScaler.fit(windows, per="node", exact_bytes=values.nbytes - 1)
    assert sketched != exact
    np.testing.assert_allclose(sketched.median, exact.median, atol=0.1)
    with pytest.raises(ScalerError, match="Raise exact_bytes, or pool"):
        wl.RobustScaler.fit(windows, per="node", exact_bytes=100_000)


def test_without_the_library_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "datasketches":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    windows = wl.WindowSet(
        wl.Series(np.random.default_rng(0).normal(size=(500, 4))), wl.WindowSpec(lookback=3, horizon=1)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'windowloader\[quantiles\]'"):
        wl.RobustScaler.fit(windows, exact_bytes="1kB")
    assert wl.RobustScaler.fit(windows).spread > 0
