"""The loader against a ten-line NumPy model, to the bit: any spec, segments, missing data, order, ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import windowloader as wl


@st.composite
def cases(draw):
    rows = draw(st.integers(20, 120))
    nodes, features = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    kinds = ["<f4", "<f8", "<f2", "<i2", "<u1", ">f4", ">i4"]
    dtype = np.dtype(draw(st.sampled_from(kinds)))
    seed = draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).integers(0, 60, (rows, nodes, features)).astype(dtype)
    if draw(st.booleans()):
        spec = {
            "lookback": draw(st.integers(1, 6)),
            "horizon": draw(st.integers(0, 5)),
            "delay": draw(st.integers(0, 3)),
            "dilation": draw(st.integers(1, 3)),
        }
        if not spec["horizon"]:
            spec["delay"] = 0  # the delay is part of the span, also where nothing comes after it
        inputs = [i * spec["dilation"] for i in range(spec["lookback"])]
        first = spec["lookback"] + spec["delay"]
        targets = [(first + j) * spec["dilation"] for j in range(spec["horizon"])]
    else:
        back = sorted(draw(st.sets(st.integers(-9, 0), min_size=1, max_size=4)))
        ahead = sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=3)))
        spec = {"input_offsets": back, "target_offsets": ahead}
        anchor = -min(back)
        inputs, targets = [anchor + o for o in back], [anchor + o for o in ahead]
    spec["stride"] = draw(st.integers(1, 3))
    cuts = sorted(draw(st.sets(st.integers(1, rows - 1), max_size=3)))
    return values, spec, inputs, targets, [0, *cuts, rows]


def model_starts(borders, inputs, targets, stride):
    """Every valid start, by trying each row."""
    last = max(inputs + targets)
    return [
        s
        for a, b in itertools.pairwise(borders)
        for s in range(a, b, stride)
        if s + last < b and s + min(inputs) >= a
    ]


ARGUMENTS = st.tuples(
    cases(),
    st.integers(1, 17),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from(["pad", "drop", "exact"]),
    st.sampled_from(["btnf", "bfnt", "nbtf", ("btnf", "bntf"), ("tbfn", "btnf")]),
    st.sampled_from([None, 0.0, 7.0]),
    st.integers(0, 2),
)


@settings(max_examples=20)
@given(ARGUMENTS)
def test_the_loader_yields_what_the_model_yields(arguments):
    compare(*arguments)


@pytest.mark.campaign
@settings(max_examples=200)
@given(ARGUMENTS)
def test_the_loader_yields_what_the_model_yields_at_length(arguments):
    compare(*arguments)


def compare(case, world_size, batch_size, shuffle, uneven, layout, fill, threads):
    values, spec, inputs, targets, borders = case
    expected = model_starts(borders, inputs, targets, spec["stride"])
    assume(expected)
    assume(uneven != "drop" or len(expected) >= world_size)  # else what is dropped may be all there is
    series = wl.Series(values, axes="tnf", segments=borders, missing=7)
    windows = wl.WindowSet(series, wl.WindowSpec(**spec))
    np.testing.assert_array_equal(windows.starts(), expected)
    mean, std = 3.25, 1.7
    scaler = wl.StandardScaler(mean, std, features=series.features)
    native = values.astype(values.dtype.newbyteorder("="))
    scaled = ((native.astype(np.float64) - mean) * (1 / std)).astype(np.float32)
    missing = native == 7
    if fill is not None:
        scaled[missing] = fill
    pair = (layout, layout) if isinstance(layout, str) else layout
    seen, lengths = [], set()
    for rank in range(world_size):
        loader = wl.WindowLoader(
            windows,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=1,
            uneven=uneven,
            layout=layout,
            fill=fill,
            scaler=scaler,
            rank=rank,
            world_size=world_size,
            threads=threads,
            prefetch_batches=2,
        )
        batches = list(loader)
        lengths.add(len(batches))
        for batch in batches:
            seen += [s for s, w in zip(batch.starts.tolist(), batch.weights, strict=True) if w]
            for got, mask, rows, letters in (
                (batch.inputs, batch.input_mask, inputs, pair[0]),
                (batch.targets, batch.target_mask, targets, pair[1]),
            ):
                if not rows:
                    assert got is None
                    continue
                at = batch.starts[:, None] + np.array(rows)
                order = ["btnf".index(letter) for letter in letters]
                np.testing.assert_array_equal(got, scaled[at].transpose(order))
                np.testing.assert_array_equal(mask, ~missing[at].transpose(order))
    assert len(lengths) == 1
    if uneven == "exact":
        assert sorted(seen) == expected
    elif uneven == "pad":
        assert set(seen) == set(expected)
    else:
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(expected)
