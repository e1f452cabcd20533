"""Block order against a plain model of its definition, over uneven blocks, lanes, strides and gaps."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.order.grid import Grid
from windowloader.order.lanes import BlockOrder
from windowloader.order.permutation import Permutation, Purpose, draw, key


class Sorted:
    rising = True

    def __init__(self, starts):
        self.starts = np.asarray(starts, np.int64)

    def __len__(self):
        return len(self.starts)

    def __call__(self, positions):
        return self.starts[positions]

    def rank(self, rows):
        return np.searchsorted(self.starts, rows, side="left")


def permuted(items, seed, epoch, purpose, lane, index=0):
    table = Permutation(len(items), key(seed, epoch=epoch, purpose=purpose, lane=lane, index=index))
    return [items[int(i)] for i in table(np.arange(len(items)))]


def model(starts, blocks, span, seed, epoch, m, lanes, rotate):
    """Yield of each lane the turns, as lists of window numbers, and the block that enters at each turn."""
    windows = len(starts)
    sigma = (
        draw(windows, key(seed, epoch=epoch, purpose=Purpose.ROTATION))
        if lanes > 1 and rotate and windows
        else 0
    )
    touched = {
        w: [k for k, (a, b) in enumerate(blocks) if a < s + span and s < b] for w, s in enumerate(starts)
    }
    for lane in range(lanes):
        numbers = [
            (sigma + i) % windows for i in range(lane * windows // lanes, (lane + 1) * windows // lanes)
        ]
        mine = sorted({k for w in numbers for k in touched[w]})
        n, active = len(mine), min(m, len(mine))
        runs = [mine[i * n // active : (i + 1) * n // active] for i in range(active)]
        starting = [
            draw(len(run), key(seed, epoch=epoch, purpose=Purpose.RUN_START, lane=lane, index=w))
            for w, run in enumerate(runs)
        ]
        visits = [
            runs[w][(starting[w] + r) % len(runs[w])]
            for r in range(max(map(len, runs), default=0))
            for w in permuted(list(range(active)), seed, epoch, Purpose.ROUND, lane)
            if r < len(runs[w])
        ]
        turns = [[] for _ in range(n + active - 1)] if n else []
        for t in range(n):
            home = [w for w in sorted(numbers) if max(visits.index(k) for k in touched[w]) == t]
            home = permuted(home, seed, epoch, Purpose.SPREAD, lane, t)
            for j in range(active):
                size = len(home) // active + ((j + 2 * t) % active < len(home) % active)
                begin = sum(
                    len(home) // active + ((i + 2 * t) % active < len(home) % active) for i in range(j)
                )
                turns[t + j] += home[begin : begin + size]
        yield (
            visits,
            [permuted(turn, seed, epoch, Purpose.TURN, lane, u) for u, turn in enumerate(turns)],
        )


@st.composite
def cases(draw):
    """Blocks that a window touches at most two of, some apart, and starts with strides and gaps."""
    span = draw(st.integers(1, 9))
    blocks, row = [], draw(st.integers(0, 5))
    for _ in range(draw(st.integers(1, 14))):
        rows = draw(st.integers(max(1, span - 1), 4 * span + 20))
        blocks.append((row, row + rows))
        row += rows + draw(st.sampled_from([0, 0, 0, 3]))
    fits = [
        s
        for k, (a, b) in enumerate(blocks)
        for s in range(a, b)
        if s + span <= (blocks[k + 1][1] if blocks[k + 1 : k + 2] and blocks[k + 1][0] == b else b)
    ]
    stride = draw(st.sampled_from([1, 1, 2, 7]))
    kept = [s for s in fits[::stride] if draw(st.integers(0, 9)) or stride > 1]
    used = [(a, b) for a, b in blocks if any(a < s + span and s < b for s in kept)]
    return kept, used, span


def make(case, **options):
    starts, blocks, span = case
    begin, end = np.array(blocks, np.int64).reshape(-1, 2).T
    return BlockOrder(
        Sorted(starts), grid=Grid(begin.copy(), end.copy(), span=span, rows=4 * span), **options
    )


PARAMETERS = {
    "m": st.one_of(st.integers(1, 5), st.integers(6, 40)),
    "lanes": st.integers(1, 8),
    "rotate": st.booleans(),
    "seed": st.sampled_from([0, 5, 2**127]),
    "epoch": st.integers(0, 3),
}


@settings(max_examples=100, deadline=None)
@given(case=cases(), **PARAMETERS)
def test_agrees_with_the_model(case, m, lanes, rotate, seed, epoch):
    order = make(case, active=m, lanes=lanes, rotate=rotate, seed=seed)
    expected = list(model(*case, seed, epoch, m, lanes, rotate))
    sizes = order.lane_sizes(epoch)
    for lane, (visits, turns) in enumerate(expected):
        sequence = order.sequence(epoch, lane)
        assert sequence.blocks[sequence.visits].tolist() == visits
        assert np.diff(sequence.spread.borders).tolist() == [len(turn) for turn in turns]
        flat = [w for turn in turns for w in turn]
        assert order.lane(epoch, lane, 0, int(sizes[lane])).tolist() == flat
        middle = len(flat) // 3
        assert order.lane(epoch, lane, middle, 2 * middle).tolist() == flat[middle : 2 * middle]


@settings(max_examples=50, deadline=None)
@given(case=cases(), **PARAMETERS)
def test_each_window_comes_once_while_its_blocks_are_there(case, m, lanes, rotate, seed, epoch):
    order = make(case, active=m, lanes=lanes, rotate=rotate, seed=seed)
    starts, _, span = case
    seen = []
    for lane in range(lanes):
        sequence = order.sequence(epoch, lane)
        entry = dict(zip(sequence.blocks.tolist(), sequence.entry.tolist(), strict=True))
        rows = dict(
            zip(
                sequence.blocks.tolist(),
                zip(sequence.begin.tolist(), sequence.end.tolist(), strict=True),
                strict=True,
            )
        )
        for position, window in enumerate(order.lane(epoch, lane, 0, len(sequence)).tolist()):
            turn = int(sequence.spread.turn_of(position))
            block, crosses = (int(x) for x in order.grid.locate(starts[window]))
            touched = [block, block + 1] if crosses else [block]
            assert 0 <= turn - max(entry[k] for k in touched) < sequence.active
            assert rows[touched[0]][0] <= starts[window]
            assert starts[window] + span <= rows[touched[-1]][1]
            seen.append(window)
    assert sorted(seen) == list(range(len(starts)))
