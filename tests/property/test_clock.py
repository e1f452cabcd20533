"""Clocks against pandas: any date, any pattern of gaps, any entities."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.series.clock import CLOCK_NAMES, Clock
from windowloader.series.packed import pack_integers, unpack_integers

SECOND = 10**9
YEAR_1700, YEAR_2200 = -8520 * 10**6 * SECOND, 7258 * 10**6 * SECOND


@st.composite
def stamps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds of rows, and borders of entities, from regular to wild."""
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    rows = []
    for size in sizes:
        first = draw(st.integers(YEAR_1700, YEAR_2200))
        step = draw(st.sampled_from([1, 7, SECOND, 300 * SECOND, 3600 * SECOND, 86400 * SECOND]))
        kind = draw(st.sampled_from(["regular", "gaps", "wild", "two rates"]))
        steps = np.full(size - 1, step, np.int64)
        if kind == "gaps":
            holes = draw(st.lists(st.integers(1, 9), min_size=size - 1, max_size=size - 1))
            steps *= np.where(np.array(holes, np.int64) > 7, holes, 1).astype(np.int64)
        elif kind == "wild":
            steps = np.array(
                draw(st.lists(st.integers(1, 10**15), min_size=size - 1, max_size=size - 1)), np.int64
            )
        elif kind == "two rates":
            steps[size // 2 :] *= 3
        rows.append(first + np.concatenate(([0], np.cumsum(steps))).astype(np.int64))
    return np.concatenate(rows), np.cumsum([0, *sizes])


def brute_jumps(values: np.ndarray, borders: np.ndarray) -> list[int]:
    found = []
    for start, stop in itertools.pairwise(borders):
        steps = np.diff(values[start:stop])
        if len(steps) > 1:
            regular = sorted(steps)[(len(steps) - 1) // 2]
            found += [
                start + 1 + i
                for i, s in enumerate(steps)
                if s > regular + regular // 2 or s < regular - regular // 2
            ]
    return found


@settings(max_examples=80, deadline=None)
@given(stamps(), st.data())
def test_a_clock_is_the_timestamps_it_was_given(
    case: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    values, borders = case
    clock = Clock.from_timestamps(values.view("datetime64[ns]"), len(values), borders)
    rows = np.arange(len(values))
    np.testing.assert_array_equal(clock.nanoseconds(rows), values)
    np.testing.assert_array_equal(clock.jumps(borders), brute_jumps(values, borders))
    again = pickle.loads(pickle.dumps(clock))
    np.testing.assert_array_equal(again.nanoseconds(rows[::-1].reshape(-1, 1)), values[::-1].reshape(-1, 1))
    assert again.fingerprint() == clock.fingerprint()

    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    part = clock.slice(start, stop)
    assert part.num_steps == stop - start
    np.testing.assert_array_equal(part.nanoseconds(np.arange(stop - start)), values[start:stop])

    entity = data.draw(st.integers(0, len(borders) - 2))
    low, high = int(borders[entity]), int(borders[entity + 1])
    low = data.draw(st.integers(low, high))
    near = int(data.draw(st.sampled_from(values.tolist()))) + data.draw(st.integers(-2, 2))
    for side in ("left", "right"):
        expected = low + np.searchsorted(values[low:high], near, side=side)
        assert clock.searchsorted(np.datetime64(near, "ns"), side, start=low, stop=high) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(YEAR_1700, YEAR_2200), min_size=1, max_size=40, unique=True))
def test_clock_features_are_those_of_pandas(moments: list[int]) -> None:
    values = np.array(sorted(moments), np.int64).view("datetime64[ns]")
    clock = Clock.from_timestamps(values, len(values))
    found = clock.values(CLOCK_NAMES, np.arange(len(values)))
    index = pd.DatetimeIndex(values)
    midnight = index.normalize()
    day = (index - midnight) / pd.Timedelta(days=1)
    year = (index.day_of_year - 1) / np.where(index.is_leap_year, 366, 365)
    plain = {"time_of_day": day, "day_of_week": index.day_of_week, "day_of_year": index.day_of_year}
    turns = {"time_of_day": day, "day_of_week": index.day_of_week / 7, "day_of_year": year}
    for place, name in enumerate(CLOCK_NAMES):
        if name in plain:
            np.testing.assert_array_equal(found[:, place], np.asarray(plain[name], np.float64), err_msg=name)
        else:
            clock_name, _, form = name.rpartition("_")
            expected = getattr(np, form)(2 * np.pi * np.asarray(turns[clock_name], np.float64))
            np.testing.assert_allclose(found[:, place], expected, rtol=0, atol=4e-16, err_msg=name)
    assert ((found[:, 0] >= 0) & (found[:, 0] < 1)).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_packed_integers_come_back(values: list[int]) -> None:
    array = np.array(values, np.int64)
    np.testing.assert_array_equal(unpack_integers(pack_integers(array)), array)


@pytest.mark.parametrize("gaps", [0, 100, 10_000])
def test_a_pickled_clock_takes_few_bytes_a_gap(gaps: int) -> None:
    rng = np.random.default_rng(0)
    steps = np.full(1_000_000, 300 * SECOND)
    steps[rng.choice(len(steps), gaps, replace=False)] *= rng.integers(2, 400, gaps)
    clock = Clock.from_timestamps(np.cumsum(steps).view("datetime64[ns]"), len(steps))
    assert clock.nbytes <= 24 * (gaps + 1)
    assert len(pickle.dumps(clock)) < 1000 + 8 * gaps
