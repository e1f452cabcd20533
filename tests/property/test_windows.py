"""Starts, subsets and row counts against models of a few lines."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.windows.index import Explicit, Runs, true_ranges


@st.composite
def specs(draw, horizon_least=0):
    """Specs of all forms, small enough to have windows."""
    stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    form = draw(st.sampled_from(["lengths", "offsets", "inputs", "targets"]))
    offsets = st.lists(st.integers(-9, 0), min_size=1, max_size=5, unique=True).map(sorted)
    later = st.lists(st.integers(1, 9), min_size=1, max_size=5, unique=True).map(sorted)
    lengths = {"lookback": draw(st.integers(1, 6))}
    ahead = {"horizon": draw(st.integers(horizon_least, 5)), "delay": draw(st.integers(0, 4))}
    if form in ("offsets", "inputs"):
        lengths = {"input_offsets": draw(offsets)}
    if form in ("offsets", "targets"):
        ahead = {"target_offsets": draw(later)}
    if form != "offsets":
        ahead["dilation"] = dilation
    return wl.WindowSpec(stride=stride, **lengths, **ahead)


def steps_of(spec):
    """Model: rows of inputs and targets from the last observed row."""
    d = spec.dilation
    inputs = list(spec.input_offsets or [-i * d for i in reversed(range(spec.lookback or 0))])
    targets = list(spec.target_offsets or [(spec.delay + 1 + j) * d for j in range(spec.horizon or 0)])
    return inputs, targets


def starts_of(spec, borders):
    """Model: all starts, segment by segment."""
    inputs, targets = steps_of(spec)
    first, last = min(inputs + targets), max(inputs + targets)
    if not targets:
        last += spec.delay * spec.dilation
    span = last - first + 1
    return [s for a, b in itertools.pairwise(borders) for s in range(a, b - span + 1, spec.stride)]


def borders_of(num_steps):
    return st.lists(st.integers(1, num_steps - 1), max_size=4, unique=True).map(
        lambda cuts: [0, *sorted(cuts), num_steps]
    )


@st.composite
def window_sets(draw, horizon_least=0, most=80):
    spec = draw(specs(horizon_least))
    num_steps = draw(st.integers(spec.span, spec.span + most))
    borders = draw(borders_of(num_steps)) if num_steps > 1 else [0, 1]
    if not starts_of(spec, borders):
        borders = [0, num_steps]
    series = wl.Series(np.zeros((num_steps, 1)), segments=borders)
    return wl.WindowSet(series, spec), borders


@given(specs())
def test_the_rows_of_a_window_are_those_of_the_model(spec):
    inputs, targets = steps_of(spec)
    assert (spec.input_rows - spec.anchor).tolist() == inputs
    assert (spec.target_rows - spec.anchor).tolist() == targets
    assert min([*spec.input_rows, *spec.target_rows]) == 0
    if spec.lookback is not None and spec.horizon is not None:  # the formulas of the documentation
        d = spec.dilation
        assert spec.span == (spec.lookback + spec.delay + spec.horizon - 1) * d + 1
        assert spec.input_rows.tolist() == [i * d for i in range(spec.lookback)]
        assert spec.target_rows.tolist() == [
            (spec.lookback + spec.delay + j) * d for j in range(spec.horizon)
        ]
    elif targets:
        assert spec.span == max(*spec.input_rows, *spec.target_rows) + 1


@settings(max_examples=100)
@given(window_sets(), st.data())
def test_starts_subsets_and_pickles_are_those_of_the_model(made, data):
    windows, borders = made
    model = starts_of(windows.spec, borders)
    assert windows.starts().tolist() == model
    n = len(windows)
    assert n == len(model)
    positions = data.draw(st.lists(st.integers(0, n - 1), max_size=20))
    assert windows.starts(positions).tolist() == [model[p] for p in positions]
    assert windows.take(positions).starts().tolist() == [model[p] for p in positions]
    cut = slice(
        *(data.draw(st.none() | st.integers(-n - 2, n + 2)) for _ in range(2)), data.draw(st.integers(1, 4))
    )
    part = windows.take(cut)
    assert part.starts().tolist() == model[cut]
    assert isinstance(part.index, Runs)
    again = part.take(range(len(part))[:: data.draw(st.integers(1, 3))])
    assert isinstance(again.index, Runs)
    assert pickle.loads(pickle.dumps(again.index)).fingerprint() == again.index.fingerprint()


@settings(max_examples=100)
@given(window_sets(), st.data())
def test_rows_are_counted_as_often_as_windows_hold_them(made, data):
    windows, _ = made
    n = len(windows)
    positions = data.draw(st.none() | st.lists(st.integers(0, n - 1), max_size=20))
    chosen = windows if positions is None else windows.take(positions)
    rows = {
        "inputs": windows.spec.input_rows,
        "targets": windows.spec.target_rows,
        "all": np.union1d(windows.spec.input_rows, windows.spec.target_rows),
    }
    total = windows.series.num_steps
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    for role, offsets in rows.items():
        model = np.zeros(total, np.int64)
        for s in chosen.starts():
            model[s + offsets] += 1
        assert chosen.row_counts(start, stop, role=role).tolist() == model[start:stop].tolist()
    held = np.flatnonzero(chosen.row_counts(0, total, role="all"))
    assert chosen.row_range == ((held[0], held[-1] + 1) if len(held) else (0, 0))


@settings(max_examples=100)
@given(window_sets(), st.data())
def test_each_kind_of_index_behaves_like_a_list(made, data):
    windows, _ = made
    total = windows.series.num_steps
    bits = data.draw(st.lists(st.booleans(), min_size=total, max_size=total).map(np.array))
    model = [s for s in windows.starts().tolist() if bits[s]]
    ranges = true_ranges([bits], 0)
    kept = windows.index.within(ranges[:, 0], ranges[:, 1])
    shuffled = data.draw(st.permutations(model))
    begins = sorted(data.draw(st.lists(st.integers(-3, total), max_size=3, unique=True)))
    ends = [
        data.draw(st.integers(low, high)) for low, high in zip(begins, [*begins[1:], total + 3], strict=False)
    ]
    start = data.draw(st.integers(-5, total))
    stop = data.draw(st.integers(start, total + 5))
    first, last = data.draw(st.integers(0, len(model))), data.draw(st.integers(0, len(model)))
    step = data.draw(st.integers(1, 3))
    for index, listed in (
        (kept, model),
        (Explicit(np.array(model, np.int64)), model),
        (Explicit(np.array(shuffled, np.int64)), shuffled),
    ):
        assert len(index) == len(listed)
        assert index(np.arange(len(listed))).tolist() == listed
        rows = np.arange(-2, total + 3)
        assert index.rank(rows).tolist() == [sum(s < row for s in listed) for row in rows]
        assert (
            index.slice(first, last, step)(np.arange(len(range(first, last, step)))).tolist()
            == listed[first:last:step]
        )
        inside = index.within(np.array(begins, np.int64), np.array(ends, np.int64))
        expected = [s for s in listed if any(a <= s < b for a, b in zip(begins, ends, strict=True))]
        assert inside(np.arange(len(inside))).tolist() == expected
        assert index.counts(start, stop).tolist() == [listed.count(row) for row in range(start, stop)]
        assert index.rising == (sorted(listed) == listed)
        copy = pickle.loads(pickle.dumps(index))
        assert copy.fingerprint() == index.fingerprint()
        assert copy(np.arange(len(copy))).tolist() == listed
