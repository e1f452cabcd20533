"""The plan of reads and drops, followed by a plain executor that holds rows as a set per place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.order.grid import Grid
from windowloader.order.lanes import BlockOrder
from windowloader.rows.block_schedule import BlockSchedule, sides_asked


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


@st.composite
def orders(draw):
    span = draw(st.integers(1, 9))
    rows = draw(st.lists(st.integers(max(1, span - 1), 3 * span + 12), min_size=1, max_size=25))
    borders = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    stride = draw(st.sampled_from([1, 1, 2, 5]))
    starts = np.arange(0, max(1, borders[-1] - span + 1), stride)
    starts = starts[starts + span <= borders[-1]]
    if draw(st.booleans()):
        starts = starts[starts % 7 != 3]
    used = [any(s + span > a and s < b for s in starts) for a, b in itertools.pairwise(borders)]
    grid = Grid(borders[:-1][used], borders[1:][used], span=span, rows=4 * span)
    lanes = draw(st.integers(1, 4))
    active = draw(st.one_of(st.integers(1, 6), st.integers(7, 30)))
    return BlockOrder(Sorted(starts), grid=grid, active=active, lanes=lanes, seed=draw(st.integers(0, 3)))


def follow(order, schedule):
    """Execute the plan; check that each window finds its rows; return (submitted, sides read, peaks)."""
    lane, span = schedule.lane, schedule.span
    arena, overlap_buffer, submitted, sides, peak = {}, {}, [], [], 0
    for turn in range(schedule.first_turn, lane.num_turns):
        events = schedule.turn(turn)
        for overlap in events.released.tolist():
            overlap_buffer.pop(overlap, None)
        new = events.submit.tolist()
        if turn == schedule.first_turn:
            arena.update((b, set(range(*schedule.rows(b)))) for b in new)
            assert set(events.enter.tolist()) <= set(arena)
        have = {row for rows in arena.values() for row in rows}
        for overlap in events.saved.tolist() + events.joined.tolist():
            begin, border, end = schedule.overlap_rows(overlap)
            there = have & set(range(begin, end))
            overlap_buffer.setdefault(overlap, set()).update(there)
            if overlap in events.saved.tolist():
                assert there >= set(range(begin, border)) or there >= set(range(border, end))
        for block in events.leave.tolist():
            del arena[block]
        if turn > schedule.first_turn:
            arena.update((b, set(range(*schedule.rows(b)))) for b in new)
        submitted += new
        assert len(arena) <= schedule.slots
        peak = max(peak, len(overlap_buffer))
        assert len(overlap_buffer) <= schedule.overlap_slots()[turn]
        begin = max(int(lane.spread.borders[turn]), schedule.cursor)
        starts = order.starts(lane.windows(begin, max(begin, int(lane.spread.borders[turn + 1]))))
        where, crosses = schedule.locate(starts)
        for start, block, over in zip(starts.tolist(), where.tolist(), crosses.tolist(), strict=True):
            rows = set(range(start, start + span))
            if not over:
                assert rows <= arena[block]
                continue
            if not rows <= overlap_buffer[block]:
                assert schedule.missing[schedule.overlaps.tolist().index(block)]
                overlap_buffer[block].update(range(*schedule.side_rows(block)))
                sides.append(block)
            assert rows <= overlap_buffer[block]
    return submitted, sides, peak


@settings(max_examples=100, deadline=None)
@given(order=orders(), ahead=st.integers(1, 9), epoch=st.integers(0, 2))
def test_windows_find_their_rows_and_each_block_is_read_once(order, ahead, epoch):
    for number in range(order.num_lanes):
        lane = order.sequence(epoch, number)
        schedule = BlockSchedule(lane, span=order.grid.span, slots=lane.active + ahead)
        submitted, sides, peak = follow(order, schedule)
        assert submitted == lane.visits.tolist()
        assert sides == []
        assert peak <= 3 * lane.active + 1


@settings(max_examples=100, deadline=None)
@given(order=orders(), ahead=st.integers(1, 9), epoch=st.integers(0, 2), share=st.floats(0, 1))
def test_a_resumed_run_reads_the_active_blocks_and_missing_sides_only(order, ahead, epoch, share):
    for number in range(order.num_lanes):
        lane = order.sequence(epoch, number)
        cursor = int(share * len(lane))
        schedule = BlockSchedule(lane, span=order.grid.span, slots=lane.active + ahead, cursor=cursor)
        submitted, sides, _ = follow(order, schedule)
        turn = schedule.first_turn
        assert len(set(submitted)) == len(submitted)
        assert all(lane.entry[b] > turn - lane.active for b in submitted)
        assert sum(lane.entry[b] <= turn for b in submitted) <= lane.active
        assert len(set(sides)) == len(sides) <= schedule.missing.sum() <= 3 * lane.active + 1
        assert sorted(sides) == sides_asked(schedule, order.starts).tolist()


@settings(max_examples=100, deadline=None)
@given(
    blocks=st.integers(1, 400),
    active=st.integers(1, 64),
    seed=st.integers(0, 1000),
    lanes=st.sampled_from([1, 1, 3]),
)
def test_open_overlaps_are_bounded_whatever_the_length(blocks, active, seed, lanes):
    borders = np.arange(blocks + 1) * 20
    starts = Sorted(np.arange(borders[-1] - 4))
    grid = Grid(borders[:-1], borders[1:], span=5, rows=20)
    order = BlockOrder(starts, grid=grid, active=active, lanes=lanes, seed=seed)
    for number in range(lanes):
        lane = order.sequence(0, number)
        schedule = BlockSchedule(lane, span=5, slots=lane.active + 4)
        assert schedule.open_overlaps().max() <= 3 * lane.active + 1
        assert schedule.overlap_slots().max() <= 3 * lane.active + 1


@pytest.mark.parametrize(("slots", "cursor"), [(0, 0), (4, -1), (4, 10_000)])
def test_refuses_what_is_outside(slots, cursor):
    grid = Grid(np.array([0, 50]), np.array([50, 100]), span=5, rows=20)
    lane = BlockOrder(Sorted(np.arange(96)), grid=grid, active=2).sequence(0, 0)
    with pytest.raises(ValueError, match="within the lane's 96 windows"):
        BlockSchedule(lane, span=5, slots=slots, cursor=cursor)
