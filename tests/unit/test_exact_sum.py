"""Exact sums against rational arithmetic: any order, any split, weights, what is not finite."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.util.exact_sum import ExactMean, ExactSum

numbers = st.floats(min_value=-1e150, max_value=1e150, allow_nan=False)
moderate = st.floats(min_value=-1e60, max_value=1e60).filter(lambda x: x == 0 or abs(x) > 1e-100)


def table(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, np.newaxis]


@settings(max_examples=100, deadline=None)
@given(st.lists(numbers, max_size=40), st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_sum_is_exact_and_its_state_knows_no_order_and_no_split(values, random, ranks):
    together = ExactSum()
    together.add(table(values))
    shuffled = list(values)
    random.shuffle(shuffled)
    parts = [ExactSum() for _ in range(ranks)]
    for value in shuffled:
        parts[random.randrange(ranks)].add([[value]])
    merged = ExactSum()
    for part in parts:
        merged.merge(ExactSum.from_state(part.state()))
    assert together.exact() == sum(map(Fraction, values), Fraction(0))
    assert together.value()[0] == math.fsum(values)
    assert merged.state() == together.state()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(moderate, moderate.map(abs)), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_a_weighted_mean_is_the_exact_one_rounded_once(pairs, random):
    values, weights = ([pair[i] for pair in pairs] for i in (0, 1))
    mean = ExactMean()
    mean.add(table(values), weights=np.array(weights))
    total = sum((Fraction(v) * Fraction(w) for v, w in pairs), Fraction(0))
    whole = sum(map(Fraction, weights), Fraction(0))
    expected = float(total / whole) if whole else math.nan
    np.testing.assert_equal(mean.value()[0], expected)
    random.shuffle(pairs)
    left, right = ExactMean(), ExactMean()
    for value, weight in pairs:
        random.choice((left, right)).add([[value]], weights=[weight])
    left.merge(right)
    assert left.state() == mean.state()


def test_columns_are_kept_apart_and_filled_rows_count_for_nothing():
    mean = ExactMean(2)
    mean.add([[1.0, 2.0], [3.0, 6.0], [math.nan, math.inf]], weights=[1.0, 1.0, 0.0])
    assert mean.value().tolist() == [2.0, 4.0]
    mean.add([[5.0, 1.0]], weights=[[1.0, 0.0]])
    assert mean.value().tolist() == [3.0, 4.0]


def test_sums_taken_elsewhere_are_divided_by_their_counts():
    mean = ExactMean(3)
    mean.add([[6.0, 1.0, 0.0], [2.0, 2.0, 0.0]], counts=[[3, 1, 0], [1, 2, 0]])
    assert mean.value()[:2].tolist() == [2.0, 1.0]
    assert math.isnan(mean.value()[2])
    again = ExactMean.from_state([*mean.state(), 0.0, 0.0])
    assert again.state() == mean.state()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 2.0], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan], math.nan),
    ],
)
def test_what_is_not_finite_shows(values, expected):
    total = ExactSum()
    total.add(table(values))
    np.testing.assert_equal(total.value()[0], expected)
    np.testing.assert_equal(ExactSum.from_state(total.state()).value()[0], expected)


def test_sums_of_different_columns_do_not_merge():
    with pytest.raises(ValueError, match="2 and 3 columns"):
        ExactSum(2).merge(ExactSum(3))
