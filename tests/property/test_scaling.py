"""Fitted statistics against NumPy over drawn series, specs, missing patterns and sets of windows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    steps, nodes, features = draw(st.integers(12, 700)), draw(st.integers(1, 70)), draw(st.integers(1, 3))
    values = rng.normal(
        draw(st.sampled_from([0.0, 60.0, -1e5])), draw(st.floats(0.1, 100)), size=(steps, nodes, features)
    )
    values = values.astype(draw(st.sampled_from(["float32", "float64"])))
    missing = draw(st.sampled_from([None, np.nan, -7.0]))
    if missing is not None:
        values[rng.random(values.shape) < 0.2] = missing
    spec = wl.WindowSpec(
        lookback=draw(st.integers(1, 5)),
        horizon=draw(st.integers(0, 3)),
        delay=draw(st.integers(0, 2)),
        stride=draw(st.integers(1, 4)),
    )
    windows = wl.WindowSet(wl.Series(values, missing=missing), spec)
    keep = np.sort(rng.choice(len(windows), size=draw(st.integers(1, len(windows))), replace=False))
    return windows.take(keep), values, missing


def held(windows, weighting):
    """How often each row counts, by the definition."""
    count = np.zeros(windows.series.num_steps, dtype=np.int64)
    for start in windows.starts():
        rows = windows.spec.input_rows
        np.add.at(
            count, start + (rows if weighting == "windows" else np.union1d(rows, windows.spec.target_rows)), 1
        )
    return count if weighting == "windows" else np.minimum(count, 1)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(["feature", "node"]), st.sampled_from(["rows", "windows"]))
def test_fitted_numbers_are_those_of_numpy(case, per, weighting):
    windows, values, missing = case
    used = np.repeat(values.astype(np.float64), held(windows, weighting), axis=0)
    if missing is not None:
        used[np.isnan(used) | (used == missing)] = np.nan
    axes = (0, 1) if per == "feature" else (0,)
    there = (~np.isnan(used)).sum(axis=axes)
    if (there == 0).any():
        with pytest.raises(wl.errors.ScalerError, match="is missing in every row"):
            wl.StandardScaler.fit(windows, per=per, weighting=weighting)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a node seen once is constant
        standard = wl.StandardScaler.fit(windows, per=per, weighting=weighting)
        ranged = wl.MinMaxScaler.fit(windows, per=per, weighting=weighting)
        robust = wl.RobustScaler.fit(windows, per=per, weighting=weighting)
    for feature, name in enumerate(windows.series.features):
        column = used[..., feature]
        over = None if per == "feature" else 0
        level = np.abs(values[np.isfinite(values)]).max()
        expected = {
            "mean": np.nanmean(column, axis=over), "std": np.nanstd(column, axis=over),
            "minimum": np.nanmin(column, axis=over), "maximum": np.nanmax(column, axis=over),
            "median": np.nanquantile(column, 0.5, axis=over),
            "spread": np.nanquantile(column, 0.75, axis=over) - np.nanquantile(column, 0.25, axis=over),
        }  # fmt: skip
        for kind, statistic in expected.items():
            scaler = (
                standard if kind in ("mean", "std") else ranged if kind in ("minimum", "maximum") else robust
            )
            found = getattr(scaler[name], kind)
            np.testing.assert_allclose(found, statistic, rtol=1e-11, atol=1e-12 * level, err_msg=kind)


@settings(max_examples=60, deadline=None)
@given(
    st.permutations("btnf"),
    st.integers(0, 2**32),
    st.sampled_from(["feature", "node", "entity"]),
    st.booleans(),
)
def test_transform_is_the_formula_in_every_layout_and_comes_back(letters, seed, per, divide):
    rng = np.random.default_rng(seed)
    sizes = {"b": 3, "t": 2, "n": 4, "f": 2}
    shape = {"feature": (1, 1), "node": (1, 4), "entity": (5, 1)}[per]
    mean, std = ({f: rng.uniform(0.5, 9, shape) for f in "xy"} for _ in range(2))
    scaler = wl.StandardScaler(mean, std, rounding="divide" if divide else "multiply")
    entities = rng.integers(0, 5, 3) if per == "entity" else None
    plain = rng.normal(50, 20, [sizes[letter] for letter in "btnf"]).astype(np.float32)
    expected = np.empty_like(plain)
    for b in range(3):
        for n in range(4):
            for f, name in enumerate("xy"):
                place = (entities[b] if per == "entity" else 0, n if per == "node" else 0)
                moved = plain[b, :, n, f].astype(np.float64) - mean[name][place]
                s = std[name][place]
                expected[b, :, n, f] = moved / s if divide else moved * (1 / s)
    order = ["btnf".index(letter) for letter in letters]
    layout = "".join(letters)
    found = scaler.transform(plain.transpose(order), layout=layout, entities=entities)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.transpose(order))
    back = scaler.inverse_transform(found, layout=layout, entities=entities)
    np.testing.assert_allclose(back, plain.transpose(order), rtol=1e-5, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["btnf", "bfnt", "tnbf", "fbtn"]),
    st.sampled_from(["feature", "node"]),
    st.sampled_from(["multiply", "divide"]),
)
def test_the_gather_scales_as_transform_does_and_zeros_come_back_by_the_mask(seed, layout, per, rounding):
    rng = np.random.default_rng(seed)
    raw = rng.uniform(1, 70, size=(60, 5, 2)).astype(np.float32)
    raw[rng.random(raw.shape) < 0.15] = 0.0
    windows = wl.WindowSet(wl.Series(raw, missing=0.0), wl.WindowSpec(lookback=4, horizon=3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scaler = wl.StandardScaler.fit(windows, per=per, rounding=rounding)
    some = rng.integers(0, len(windows), 6)
    plain = windows.read(some, layout=layout)
    batch = windows.read(some, scaler=scaler, layout=layout)
    np.testing.assert_array_equal(batch.inputs, scaler.transform(plain.inputs, layout=layout))
    back = scaler.inverse_transform(batch.targets, layout=layout, mask=batch.target_mask)
    np.testing.assert_array_equal(back == 0, plain.targets == 0)
    np.testing.assert_allclose(back, plain.targets, rtol=1e-4)
