"""Parts against models that look at every window, and what parts may share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import SplitError


@st.composite
def problems(draw):
    lookback, horizon, delay = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    if draw(st.booleans()):
        spec = wl.WindowSpec(
            lookback=lookback,
            horizon=horizon,
            delay=delay,
            stride=draw(st.integers(1, 3)),
            dilation=draw(st.integers(1, 2)),
        )
    else:
        spec = wl.WindowSpec(
            input_offsets=sorted(draw(st.sets(st.integers(-8, 0), min_size=1, max_size=4))),
            target_offsets=sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=4))),
        )
    steps = draw(st.integers(3 * spec.span, 3 * spec.span + 90))
    missing = draw(st.booleans())
    values = np.random.default_rng(draw(st.integers(0, 2**32))).random((steps, 1))
    if missing:
        values[values < 0.05] = np.nan
        spec = wl.WindowSpec(
            lookback=lookback, horizon=horizon, delay=delay, max_missing=draw(st.sampled_from([0.0, 0.3]))
        )
    cuts = draw(st.lists(st.integers(1, steps - 1), max_size=3, unique=True))
    series = wl.Series(values, segments=[0, *sorted(cuts), steps], missing=np.nan)
    try:
        windows = wl.WindowSet(series, spec)
    except wl.WindowLoaderError:
        assume(False)
    return windows


def rows_of(windows, role):
    offsets = windows.spec.input_rows if role == "inputs" else windows.spec.target_rows
    return {int(row) for start in windows.starts() for row in start + offsets}


def every_row(start, spec):
    return [*(start + spec.input_rows), *(start + spec.target_rows)]


@settings(max_examples=100)
@given(problems(), st.data(), st.sampled_from(["targets", "rows"]), st.integers(0, 6))
def test_parts_by_rows_hold_what_the_model_holds_and_never_leak(windows, data, by, purge):
    steps, spec = windows.series.num_steps, windows.spec
    borders = sorted(data.draw(st.lists(st.integers(1, steps - 1), min_size=1, max_size=3, unique=True)))
    edges = [0, *borders, steps]
    models = []
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        end = b - purge if k < len(borders) else b
        whole = windows.starts().tolist()
        if by == "rows":
            models.append([s for s in whole if all(a <= row < end for row in every_row(s, spec))])
        else:
            models.append(
                [
                    s
                    for s in whole
                    if all(a <= row < end for row in s + spec.target_rows) and max(every_row(s, spec)) < end
                ]
            )
    if not all(models):
        with pytest.raises(SplitError, match="has no windows"):
            wl.split(windows.series, spec, borders, by=by, purge=purge)
        return
    parts = wl.split(windows.series, spec, borders, by=by, purge=purge)
    assert [part.starts().tolist() for part in parts] == models
    for earlier, later in itertools.combinations(parts, 2):
        seen = rows_of(earlier, "inputs") | rows_of(earlier, "targets")
        assert not seen & rows_of(later, "targets")
        assert max(seen) + purge < min(rows_of(later, "targets"))
        if by == "rows":
            assert max(seen) + purge < min(rows_of(later, "inputs"))
    assert not parts.audit().leaks


@settings(max_examples=60)
@given(problems(), st.sampled_from(["targets", "rows", "windows"]), st.data())
def test_the_audit_finds_exactly_the_rows_that_are_shared(windows, by, data):
    ratios = data.draw(st.sampled_from([(0.5, 0.5), (0.6, 0.2, 0.2), (0.4, 0.3, 0.2, 0.1)]))
    try:
        parts = wl.split(windows, None, ratios, by=by)
    except SplitError:
        assume(False)
    model = {
        (first, one, second, other): shared
        for first, second in itertools.combinations(parts.names, 2)
        for one, other in itertools.product(("inputs", "targets"), repeat=2)
        if (shared := rows_of(parts[first], one) & rows_of(parts[second], other))
    }
    found = {
        (one.first, one.first_role, one.second, one.second_role): {
            row for begin, end in one.ranges for row in range(begin, end)
        }
        for one in parts.audit().shared
    }
    assert found == model
    assert [one.rows for one in parts.audit().shared] == [len(rows) for rows in model.values()]


@settings(max_examples=60)
@given(problems(), st.sampled_from([(0.5, 0.5), (0.7, 0.1, 0.2), (0.6, 0.2, 0.2)]), st.integers(0, 9))
def test_window_numbers_are_cut_as_published(windows, ratios, purge):
    starts, n = windows.starts().tolist(), len(windows)
    train, test = round(n * ratios[0]), round(n * ratios[-1])
    edges = [0, train, n] if len(ratios) == 2 else [0, train, n - test, n]
    models = [starts[a:b] for a, b in itertools.pairwise(edges)]
    models = [
        [s for s in model if k + 1 == len(models) or not models[k + 1] or s < models[k + 1][0] - purge]
        if purge else model
        for k, model in enumerate(models)
    ]  # fmt: skip
    if not all(models):
        with pytest.raises(SplitError, match="has no windows"):
            wl.split(windows, None, ratios, by="windows", purge=purge)
        return
    parts = wl.split(windows, None, ratios, by="windows", purge=purge)
    assert [part.starts().tolist() for part in parts] == models
    if purge >= windows.spec.span - 1:
        assert not parts.audit().shared


@settings(max_examples=60)
@given(
    st.lists(st.integers(6, 30), min_size=2, max_size=5),
    st.lists(st.integers(0, 40), min_size=2, max_size=5),
    st.integers(1, 35),
    st.sampled_from(["targets", "rows"]),
)
def test_entities_are_cut_at_the_same_date_each(lengths, begins, day, by):
    lengths = lengths[: len(begins)]
    borders = np.cumsum([0, *lengths])
    days = np.concatenate([np.arange(n) + b for n, b in zip(lengths, begins, strict=False)])
    stamps = np.datetime64("2024-01-01") + days
    series = wl.Series(np.zeros((borders[-1], 1)), entities=borders, timestamps=stamps)
    spec = wl.WindowSpec(lookback=3, horizon=2)
    when = np.datetime64("2024-01-01") + day
    first = 3 if by == "targets" else 0
    starts = [int(s) for a, b in itertools.pairwise(borders) for s in range(a, b - 4)]
    before = [s for s in starts if days[s + 4] < day]
    after = [s for s in starts if days[s + first] >= day]
    if not (before and after):
        with pytest.raises(SplitError, match="has no windows"):
            wl.split(series, spec, [when], by=by)
        return
    train, test = wl.split(series, spec, [when], by=by)
    assert (train.starts().tolist(), test.starts().tolist()) == (before, after)


@settings(max_examples=60)
@given(
    problems(),
    st.integers(1, 4),
    st.none() | st.integers(1, 20),
    st.none() | st.integers(1, 40),
    st.integers(0, 12),
)
def test_folds_roll_forward(windows, n, test_steps, train_steps, val_steps):
    steps = windows.series.num_steps
    size = test_steps or steps // (n + 1)
    try:
        made = wl.folds(
            windows.series,
            windows.spec,
            n,
            test_steps=test_steps,
            train_steps=train_steps,
            val_steps=val_steps,
        )
    except SplitError:
        return
    assert len(made) == n
    for fold, parts in enumerate(made):
        stop = steps - (n - 1 - fold) * size
        assert rows_of(parts["test"], "targets") <= set(range(stop - size, stop))
        middle = stop - size - val_steps
        begin = 0 if train_steps is None else max(0, middle - train_steps)
        assert rows_of(parts["train"], "targets") <= set(range(begin, middle))
        assert ("val" in parts.names) == (val_steps > 0)
        assert not parts.audit().leaks
