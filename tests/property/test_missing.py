"""Which windows are left out for what they miss, against masks made by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import MissingDataError, WindowSpecError


@st.composite
def cases(draw):
    """A series of several variables with holes, and a spec that reads some of them."""
    steps, nodes = draw(st.integers(8, 60)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from([0.0, 0.02, 0.2, 0.6]))
    dtype, mark = draw(
        st.sampled_from(
            [("float32", np.nan), ("float64", 0.0), ("int16", -1.0), ("float16", np.nan), ("float32", -999.9)]
        )
    )
    values = rng.integers(1, 9, (steps, nodes, 2)).astype(dtype)
    holes = rng.random(values.shape) < share
    values[holes] = np.array([mark]).astype(dtype)
    rain = rng.integers(1, 9, (steps, 1)).astype(float)
    dry = rng.random(rain.shape) < share / 2
    rain[dry] = np.nan
    series = wl.Series(
        values, features=["a", "b"], covariates={"rain": (rain, "tf")}, missing={"value": mark, "rain": np.nan},
        timestamps=("2024-01-01", "1h"),
    )  # fmt: skip
    observed = {"a": ~holes[..., 0], "b": ~holes[..., 1], "rain": np.repeat(~dry, nodes, axis=1)}
    observed["time_of_day"] = np.ones((steps, nodes), bool)
    names = st.lists(st.sampled_from(sorted(observed)), min_size=1, max_size=4, unique=True)
    spec = wl.WindowSpec(
        inputs=draw(names), targets=draw(st.sampled_from([["a"], ["b"], ["b", "a"]])),
        future=draw(st.sampled_from([(), ("rain",), ("time_of_day",)])),
        lookback=draw(st.integers(1, 3)), horizon=draw(st.integers(1, 2)), delay=draw(st.integers(0, 1)),
        stride=draw(st.integers(1, 3)), dilation=draw(st.integers(1, 2)),
    )  # fmt: skip
    assume(spec.span <= steps)
    return series, spec, observed


def shares(series, spec, observed, start):
    """Model: share missing of each role of a window."""
    roles = (
        (spec.inputs, spec.input_rows),
        (spec.targets, spec.target_rows),
        (spec.future, spec.target_rows),
    )
    return [
        1 - np.stack([observed[name][start + rows] for name in names]).mean()
        for names, rows in roles
        if names
    ]


def change(spec, **values):
    names = ("inputs", "targets", "future", "lookback", "horizon", "delay", "stride", "dilation")
    return wl.WindowSpec(**{name: getattr(spec, name) for name in names}, **values)


@settings(max_examples=100)
@given(cases(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_windows_with_more_missing_than_allowed_are_left_out(case, most):
    series, spec, observed = case
    every = wl.WindowSet(series, spec).starts().tolist()
    model = [s for s in every if all(share <= most + 1e-12 for share in shares(series, spec, observed, s))]
    spec = change(spec, max_missing=most)
    if not model:
        with pytest.raises(WindowSpecError, match="leaves none"):
            wl.WindowSet(series, spec)
        return
    assert wl.WindowSet(series, spec).starts().tolist() == model


@settings(max_examples=60)
@given(cases())
def test_the_first_missing_value_that_is_read_is_named(case):
    series, spec, observed = case
    roles = (
        (spec.inputs, spec.input_rows),
        (spec.targets, spec.target_rows),
        (spec.future, spec.target_rows),
    )
    holes = [
        row
        for s in wl.WindowSet(series, spec).starts()
        for names, rows in roles
        for name in names
        for row in s + rows
        if not observed[name][row].all()
    ]
    spec = change(spec, on_missing="raise")
    if not holes:
        assert len(wl.WindowSet(series, spec))
        return
    with pytest.raises(MissingDataError, match=rf"at row {min(holes)} \(2024-"):
        wl.WindowSet(series, spec)


@settings(max_examples=60)
@given(cases())
def test_a_scan_counts_what_is_missing(case):
    series, _, observed = case
    found = wl.scan(series)
    for name in found.counts:
        nodes = series.num_nodes if name != "rain" else 1
        assert found.rows(name).tolist() == (~observed[name][:, :nodes]).sum(axis=1).tolist()
        assert found.share[name] == pytest.approx((~observed[name]).mean())
    assert set(found.counts) == {"a", "b", "rain"}
