"""Blocks: what they hold, where they end, what reading them costs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.errors import LoaderError
from windowloader.order.grid import SPANS, Grid, block_rows, cut, cuts
from windowloader.sources.storage import Storage, total_cost
from windowloader.windows.index import Explicit, Runs


def every(rows, span, stride=1):
    return Runs.of_segments(np.array([0, rows]), span=span, stride=stride)


def edges(*lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@st.composite
def cases(draw):
    span = draw(st.integers(1, 12))
    total = draw(st.integers(span, 400))
    lengths = st.lists(st.integers(1, 90), min_size=1, max_size=60)
    chunked = [
        Storage(edges(*draw(lengths), total), row_bytes=draw(st.integers(1, 9)))
        for _ in range(draw(st.integers(0, 2)))
    ]
    free = [Storage(None, row_bytes=3)] * (not chunked or draw(st.booleans()))
    holes = draw(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 150)), max_size=3))
    starts = [s for s in range(total - span + 1) if not any(a <= s < a + n for a, n in holes)]
    rows = draw(st.sampled_from([SPANS * span, SPANS * span + 37, 1 + span // 2]))
    return Explicit(np.array(starts, np.int64)), [*chunked, *free], span, rows


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_blocks_hold_all_windows_and_nothing_else(case):
    starts, variables, span, rows = case
    grid = cut(starts, variables, span=span, rows=rows)
    numbers = starts(np.arange(len(starts)))
    touched = [[k for k in range(len(grid)) if s < grid.end[k] and s + span > grid.begin[k]] for s in numbers]
    assert {k for blocks in touched for k in blocks} == set(range(len(grid)))
    used = {row for s in numbers.tolist() for row in range(s, s + span)}
    held = {row for a, b in zip(grid.begin.tolist(), grid.end.tolist(), strict=True) for row in range(a, b)}
    assert used <= held
    assert all(
        a in used and b - 1 in used for a, b in zip(grid.begin.tolist(), grid.end.tolist(), strict=True)
    )
    own, inside, end = grid.counts(starts, np.arange(len(grid)))
    assert [*own[:1], *end[-1:]] == ([0, len(starts)] if len(starts) else [])
    assert own[1:].tolist() == end[:-1].tolist()
    where, crosses = grid.locate(numbers)
    for window, (block, over) in enumerate(zip(where.tolist(), crosses.tolist(), strict=True)):
        assert (inside if over else own)[block] <= window < (end if over else inside)[block]
        assert numbers[window] >= grid.begin[block]
        assert numbers[window] + span <= grid.end[block + over]
        if over:
            assert grid.end[block] == grid.begin[block + 1]
    if grid.halo:
        assert not crosses.any()
        assert grid.largest <= rows + span - 1
    else:
        assert all(len(blocks) <= 2 for blocks in touched)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_borders_lie_on_edges_that_all_variables_share(case):
    starts, variables, span, _ = case
    grid = cut(starts, variables, span=span, rows=SPANS * span)
    inner = [b for a, b in zip(grid.end[:-1], grid.begin[1:], strict=True) if a == b]
    for variable in variables:
        if variable.edges is not None:
            assert set(inner) <= set(variable.edges.tolist())
            assert variable.cost(grid.begin, grid.end).bytes.sum() == variable.distinct(grid.begin, grid.end)
    whole = np.diff(np.concatenate([[-1], np.flatnonzero(grid.begin[1:] != grid.end[:-1]), [len(grid) - 1]]))
    if len(grid) > 1 and set(whole) != {1}:  # a block shorter than asked stands alone, or at a gap
        short = np.flatnonzero(grid.end - grid.begin < SPANS * span)
        gaps = np.concatenate([[True], grid.begin[1:] != grid.end[:-1], [True]])
        assert all(gaps[k] or gaps[k + 1] for k in short)


def test_a_long_chunk_is_a_block_and_short_ones_are_joined_evenly():
    grid = cut(
        every(52_105, 24),
        [Storage(np.append(np.arange(0, 52_105, 288), 52_105), row_bytes=10_400)],
        span=24,
        rows=block_rows(24, 10_400),
    )
    assert len(grid) == 181
    assert grid.largest == 288
    grid = cut(every(2600, 24), [Storage(np.arange(0, 2601, 26), row_bytes=10_400)], span=24, rows=101)
    assert set((grid.end - grid.begin).tolist()) == {104}
    grid = cut(every(1000, 24), [Storage(np.arange(0, 1008, 24), row_bytes=10_400)], span=24, rows=101)
    assert (grid.end - grid.begin).min() >= 101
    assert grid.largest <= 144  # what is left over goes round, instead of doubling the last


def test_arrays_without_chunks_are_cut_to_size():
    grid = cut(every(10_000, 12), [Storage(None, row_bytes=828)], span=12, rows=block_rows(12, 828))
    assert block_rows(12, 828) == 1267
    assert len(grid) == 7
    assert (grid.end - grid.begin).min() >= 1267
    assert grid.largest < 1600


def test_rows_without_windows_are_cut_off_and_unused_chunks_never_read():
    starts = Runs.of_segments(np.array([130, 480, 1500, 1990]), span=10, stride=1).within(
        np.array([0, 1500]), np.array([480, 2000])
    )
    variable = Storage(np.arange(0, 2001, 100), row_bytes=8)
    grid = cut(starts, [variable], span=10, rows=40)
    assert grid.begin[0] == 130
    assert grid.end[-1] == 1990
    assert not any(grid.begin[k] < 1500 and grid.end[k] > 500 for k in range(len(grid)))
    assert variable.cost(grid.begin, grid.end).requests.sum() == 9


def test_segments_inside_a_chunk_do_not_read_it_twice():
    variable = Storage(np.arange(0, 1001, 100), row_bytes=8)
    starts = Runs.of_segments(np.array([0, 150, 450, 1000]), span=10, stride=1)
    grid = cut(starts, [variable], span=10, rows=40)
    assert len(grid) == 10
    assert variable.cost(grid.begin, grid.end).requests.sum() == 10


def test_grids_of_variables_with_other_chunks_lie_on_shared_edges_then_on_those_of_each_then_on_all():
    heavy, light = (
        Storage(np.arange(0, 9001, 100), row_bytes=100),
        Storage(np.arange(0, 9001, 250), row_bytes=1),
    )
    shared, one, other, both = cuts(every(9000, 10), [light, heavy], span=10, rows=125)
    assert shared.begin.tolist() == list(range(0, 9000, 500))
    assert set(one.begin.tolist()) <= set(range(0, 9000, 100))
    assert set(other.begin.tolist()) <= set(range(0, 9000, 250))
    assert len(both) > len(shared)
    assert cut(every(9000, 10), [light, heavy], span=10, rows=125).hash() == shared.hash()
    assert cut(every(9000, 10), [light, heavy], span=10, rows=125, like=both.hash()).hash() == both.hash()
    assert light.cost(shared.begin, shared.end).bytes.sum() == light.distinct(shared.begin, shared.end)
    assert light.cost(one.begin, one.end).bytes.sum() > light.distinct(one.begin, one.end)


def test_costs_count_chunks_columns_shards_and_their_indexes():
    variable = Storage(np.arange(0, 101, 10), row_bytes=4, columns=3, shards=np.array([0, 50, 100]))
    cost = variable.cost([5, 45, 10], [15, 55, 20])
    assert cost.bytes.tolist() == [80, 80, 40]
    assert cost.requests.tolist() == [3, 6, 3]
    assert variable.broken([5, 10], [15, 20]).tolist() == [0]
    assert variable.broken([5, 45], [15, 55]).tolist() == [0, 1]
    assert Storage(None, row_bytes=4).distinct([0, 5], [10, 20]) == 80
    assert total_cost([variable, Storage(None, row_bytes=1)], [0], [10]).requests.tolist() == [4]


def test_the_hash_tells_grids_apart():
    grid = Grid(np.array([0, 100]), np.array([100, 200]), span=10, rows=40)
    others = [
        Grid(np.array([0, 100]), np.array([100, 201]), span=10, rows=40),
        Grid(np.array([0, 100]), np.array([100, 200]), span=9, rows=40),
        Grid(np.array([0, 100]), np.array([100, 200]), span=10, rows=41),
    ]
    assert len(grid.hash()) == 16
    assert len({grid.hash(), *(other.hash() for other in others)}) == 4
    assert grid.hash() == Grid(np.array([0, 100]), np.array([100, 200]), span=10, rows=40).hash()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grid(np.array([0, 50]), np.array([60, 100]), span=10, rows=40),
        lambda: Grid(np.array([5]), np.array([5]), span=10, rows=40),
        lambda: Storage(np.array([0, 10, 10]), row_bytes=1),
        lambda: Storage(None, row_bytes=0),
        lambda: cut(every(100, 10), [], span=10, rows=40),
    ],
)
def test_refuses_what_cannot_be(make):
    with pytest.raises(LoaderError):
        make()


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 90),
    span=st.integers(1, 12),
    more=st.sampled_from([-1, 0, 37]),
    lengths=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    shift=st.integers(0, 90),
)
def test_blocks_of_regular_chunks_are_those_of_their_table(size, span, more, lengths, shift):
    """One chunk apart, between two islands of windows, makes the table irregular and no other block."""
    low, rows = shift + lengths[0] + span, max(1, SPANS * span + more)
    gap = (-(-low // size) + 1) * size
    total = gap + 3 * size + lengths[1] + span
    starts = Runs.of_segments(np.array([0, total]), span=span, stride=1).within(
        np.array([shift, gap + 2 * size]), np.array([low - span + 1, total])
    )
    regular = Storage.of_grid((total, 2), (size, 2), itemsize=4)
    table = np.unique(np.append(np.asarray(regular.edges), gap + size // 2))
    grids = [
        cut(starts, [storage], span=span, rows=rows)
        for storage in (regular, Storage(table, row_bytes=regular.row_bytes))
    ]
    assert grids[0].begin.tolist() == grids[1].begin.tolist()
    assert grids[0].end.tolist() == grids[1].end.tolist()
    assert grids[0].cells[0] == size or len(regular.edges) < 4


def test_a_hundred_million_chunks_take_no_memory_each():
    rows = 10**8
    starts = Runs.of_segments(np.array([0, rows]), span=24, stride=1)
    tracemalloc.start()
    storage = Storage.of_grid((rows, 20_000), (1, 20_000), itemsize=4)
    grid = cut(starts, [storage], span=24, rows=block_rows(24, 20_000) * 100)
    assert storage.cost(grid.begin, grid.end).bytes.sum() == storage.distinct(grid.begin, grid.end)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(grid) == 10_416
    assert peak < 4 << 20


def test_a_million_edges_are_cheap():
    storage = Storage(np.arange(0, 24_000_001, 24), row_bytes=10_400)
    grid = cut(every(24_000_000, 6), [storage], span=6, rows=24)
    assert 999_000 < len(grid) <= 1_000_000
    grid = cut(every(24_000_000, 24), [storage], span=24, rows=101)
    assert len(grid) == 200_000
