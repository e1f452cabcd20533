"""What memory does for a stream: more of it never refuses what less of it did."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from windowloader.errors import MemoryBudgetError
from windowloader.order.grid import SPANS
from windowloader.rows.budget import choose
from windowloader.sources.storage import Storage
from windowloader.windows.index import Runs


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("windowloader.order.grid._BYTES", 1 << 10)
        yield


@st.composite
def cases(draw):
    rows = draw(st.integers(60, 3000))
    span = draw(st.integers(1, 30))
    segments = np.array([0, rows])
    starts = Runs.of_segments(segments, span=span, stride=draw(st.sampled_from([1, 1, 5])))
    variables = []
    for _ in range(draw(st.integers(1, 2))):
        chunk = draw(st.sampled_from([None, 1, 7, 24, 48, 200, 5000]))
        edges = None if chunk is None else np.append(np.arange(0, rows, chunk), rows)
        variables.append(
            Storage(edges, row_bytes=draw(st.sampled_from([4, 32, 1000])), columns=draw(st.integers(1, 3)))
        )
    asked = {
        "span": span,
        "lanes": draw(st.sampled_from([1, 2, 5])),
        "active": draw(st.sampled_from([None, 1, 2, 8, 30])),
        "ahead": draw(st.sampled_from([None, 1, 6])),
    }
    asked["lanes_held"] = draw(st.integers(1, asked["lanes"]))
    return starts, variables, asked


def works(case, memory):
    starts, variables, asked = case
    try:
        found = choose(starts, variables, memory=memory, **asked)
    except MemoryBudgetError:
        return None
    assert found.terms.total <= memory or found.mode == "direct"  # which divides it anew
    return found


def needed(case):
    """The least memory that works, were it so that more always did."""
    low, high = 1, 1 << 34
    assert works(case, high)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if works(case, middle) else (middle + 1, high)
    return low


REFUSED = (
    Runs.of_segments(np.array([0, 2500]), span=24, stride=1),
    [Storage(np.append(np.arange(0, 2500, 24), 2500), row_bytes=32)],
    {"span": 24, "active": 8},
)


@pytest.mark.parametrize("memory", [36_000, 40_000, 44_000, 48_000, 60_000])
def test_what_was_refused_between_two_that_worked(memory):
    assert works(REFUSED, memory)


def check(case, factors):
    least = needed(case)
    memories = sorted({max(1, int(least * factor)) for factor in (*factors, 1)})
    found = [works(case, memory) is not None for memory in memories]
    assert found == sorted(found), dict(zip(memories, found, strict=True))
    assert found[-1]


FACTORS = st.lists(st.floats(0.4, 3.0), min_size=12, max_size=12)


@settings(max_examples=40, deadline=None)
@example(case=REFUSED, factors=np.geomspace(0.5, 2, 24))
@given(case=cases(), factors=FACTORS)
def test_more_memory_never_refuses_what_less_does(case, factors):
    check(case, factors)


@pytest.mark.campaign
@settings(max_examples=300, deadline=None)
@given(case=cases(), factors=FACTORS)
def test_more_memory_never_refuses_what_less_does_at_length(case, factors):
    check(case, factors)


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_what_the_error_says_would_do_does(case):
    """A message that advises a budget advises one that works."""
    starts, variables, asked = case
    for memory in (1, 200, 5_000, 60_000):
        message = ""
        try:
            choose(starts, variables, memory=memory, **asked)
        except MemoryBudgetError as error:
            message = str(error)
        if found := re.search(r"(\d+) bytes would do", message):
            assert works(case, int(found[1])), (memory, message)
        elif found := re.search(r"pass memory=(\d+)", message):
            assert int(found[1]) > memory


def test_blocks_with_a_halo_are_shorter_than_four_spans():
    found = works(REFUSED, 40_000)
    assert found.mode == "halo"
    assert found.grid.rows < SPANS * 24
