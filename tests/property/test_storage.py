"""`Storage` against a count of every chunk: any grid, box, shards, rows of it, arrays joined."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from windowloader.sources.regular import RegularEdges, longest
from windowloader.sources.storage import Storage, joined


@given(data=st.data(), first=st.integers(-20, 20), rows=st.integers(1, 60), size=st.integers(1, 70))
def test_regular_edges_are_their_table(data, first, rows, size):
    stop, phase = first + rows, data.draw(st.integers(-30, 30))
    edges = RegularEdges(first, stop, size, phase)
    table = [first, *(row for row in range(first + 1, stop) if (row - phase) % size == 0), stop]
    assert np.asarray(edges).tolist() == table
    assert (len(edges), longest(edges)) == (len(table), max(np.diff(table)))
    assert [edges[i].item() for i in (0, -1)] == [first, stop]
    assert edges[1:-1].tolist() == table[1:-1]
    asked = np.arange(first - 3, stop + 4)
    for side in ("left", "right"):
        assert edges.searchsorted(asked, side).tolist() == np.searchsorted(table, asked, side).tolist()
    assert np.asarray(edges - 7).tolist() == [row - 7 for row in table]


@st.composite
def parts_of_axes(draw, size):
    first = draw(st.integers(0, size - 1))
    if draw(st.booleans()):
        return slice(first, draw(st.integers(first + 1, size)))
    return np.array(sorted(draw(st.sets(st.integers(0, size - 1), min_size=1))), np.int64)


@st.composite
def arrays(draw, sizes=None):
    """Shape, chunks, box, whether chunks beyond the end are whole."""
    sizes = sizes or draw(st.lists(st.integers(1, 9), max_size=2))
    shape = (draw(st.integers(1, 30)), *sizes)
    chunks = tuple(draw(st.integers(1, size + 2)) for size in shape)
    box = tuple(draw(parts_of_axes(size)) for size in sizes) if draw(st.booleans()) else None
    return shape, chunks, box, draw(st.booleans())


def chunks_met(case, start, stop):
    """Bytes of every chunk that rows of the box touch, one entry a chunk."""
    shape, chunks, box, whole = case
    places = [np.arange(start, stop)]
    for axis, size in enumerate(shape[1:]):
        part = slice(0, size) if box is None else box[axis]
        places.append(np.arange(part.start, part.stop) if isinstance(part, slice) else part)
    cells = itertools.product(*(sorted(set((p // c).tolist())) for p, c in zip(places, chunks, strict=True)))
    sizes = []
    for cell in cells:
        sides = zip(cell, chunks, shape, strict=True)
        sizes.append(4 * math.prod(c if whole else min(c, size - at * c) for at, c, size in sides))
    return sizes


def of(case):
    shape, chunks, box, whole = case
    return Storage.of_grid(shape, chunks, itemsize=4, box=box, whole=whole)


@given(data=st.data(), case=arrays())
def test_bytes_and_requests_are_those_of_the_chunks(data, case):
    start = data.draw(st.integers(0, case[0][0] - 1))
    stop = data.draw(st.integers(start + 1, case[0][0]))
    storage, expected = of(case), chunks_met(case, start, stop)
    cost = storage.cost([start], [stop])
    assert (cost.bytes[0], cost.requests[0]) == (sum(expected), len(expected))
    assert storage.bytes(start, stop) == sum(expected)
    assert storage.distinct([start], [stop]) == sum(expected)
    assert storage.chunk_bytes >= max(chunks_met(case, 0, case[0][0])) // max(1, storage.columns)
    some = storage.of_rows(start, stop, storage.row_bytes)
    first = data.draw(st.integers(0, stop - start - 1))
    last = data.draw(st.integers(first + 1, stop - start))
    expected = chunks_met(case, start + first, start + last)
    cost = some.cost([first], [last])
    assert (cost.bytes[0], cost.requests[0]) == (sum(expected), len(expected))
    assert some.bytes(first, last) == some.distinct([first], [last]) == sum(expected)
    cuts = some.pieces(first, last, storage.columns)
    assert (cuts[0], cuts[-1]) == (first, last)
    assert some.cost(cuts[:-1], cuts[1:]).requests.max() <= storage.columns


@given(data=st.data(), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=2))
def test_joined_arrays_cost_the_sum_of_their_parts(data, sizes):
    cases = data.draw(st.lists(arrays(sizes), min_size=1, max_size=4))
    cases = [(shape, chunks, None, whole) for shape, chunks, _, whole in cases]
    free = [data.draw(st.booleans()) for _ in cases]  # not in chunks
    parts = [
        Storage.of_grid(case[0], None, itemsize=4) if apart else of(case)
        for case, apart in zip(cases, free, strict=True)
    ]
    borders = np.append(0, np.cumsum([case[0][0] for case in cases]))
    start = data.draw(st.integers(0, int(borders[-1]) - 1))
    stop = data.draw(st.integers(start + 1, int(borders[-1])))
    size = 0
    for case, apart, low in zip(cases, free, borders.tolist(), strict=False):
        first, last = max(start - low, 0), min(stop - low, case[0][0])
        if first < last:
            row = 4 * math.prod(sizes)
            size += (last - first) * row if apart else sum(chunks_met(case, first, last))
    storage = joined(parts, borders)
    assert storage.cost([start], [stop]).bytes[0] == storage.bytes(start, stop) == size
