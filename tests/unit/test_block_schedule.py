"""The plan of a lane in numbers: memory over time, bytes of a rank, resuming, too few places, budgets."""

from __future__ import annotations

import numpy as np
import pytest

from windowloader.errors import LoaderError, MemoryBudgetError
from windowloader.order.grid import cut
from windowloader.order.lanes import BlockOrder
from windowloader.plan.costs import forecast
from windowloader.rows.block_schedule import BlockSchedule, lanes_read, sides_asked
from windowloader.rows.budget import RESERVE, MemoryTerms, choose, default_active
from windowloader.sources.storage import Storage
from windowloader.util.units import parse_bytes
from windowloader.windows.index import Runs

ROW = 10_400  # the array of the storage experiments: 52,105 rows of 2,600 float32 nodes
ARRAY = Storage(np.append(np.arange(0, 52_105, 288), 52_105), row_bytes=ROW)
STARTS = Runs.of_segments(np.array([0, 52_105]), span=24, stride=1)


def order(active=32, lanes=1, **options):
    return BlockOrder(
        STARTS, grid=cut(STARTS, [ARRAY], span=24, rows=101), active=active, lanes=lanes, **options
    )


def test_each_chunk_is_fetched_once_an_epoch():
    found = forecast(order(), [ARRAY], [0], epoch=0, slots=64)
    assert (found.blocks, found.cost.requests, found.cost.bytes) == (181, 181, 52_105 * ROW)
    assert found.cost.amplification == 1.0
    assert found.sides == 0
    schedule = BlockSchedule(order().sequence(0, 0), span=24, slots=64)
    assert schedule.overlap_slots().max() <= 3 * 32 + 1
    assert schedule.resident_rows().max() <= 64 * 288 + (3 * 32 + 1) * 2 * 23


def share(blocks, storage, rank, epoch):
    """Bytes that a rank of 8 reads, over those of all rows."""
    lanes = lanes_read(rank, 8, lanes=8, batch_per_lane=1)
    assert lanes == (rank,)
    return forecast(blocks, [storage], lanes, epoch=epoch, slots=12).cost.bytes / (52_105 * ROW)


def test_a_rank_reads_its_part_and_the_borders():
    blocks, by_epoch = order(8, 8), []
    for epoch in range(6):
        ranks = [share(blocks, ARRAY, r, epoch) for r in range(8)]
        assert max(ranks) <= (1 + 2 * 8 / 181) / 8  # a border block more or less
        by_epoch.append(np.mean(ranks))
    assert np.mean(by_epoch) <= 1.05 / 8
    raw = Storage(None, row_bytes=ROW)  # without chunks a border block is read in part
    assert sum(share(blocks, raw, r, 1) for r in range(8)) < 1.01


def test_resident_rows_rise_stay_and_fall():
    lane = order().sequence(0, 0)
    schedule = BlockSchedule(lane, span=24, slots=40)
    rows = schedule.resident_rows()
    assert len(rows) == lane.num_turns == 181 + 31
    assert rows[0] == 40 * 288 or rows[0] == 39 * 288 + int((lane.end - lane.begin).min())
    assert rows.max() <= 40 * 288 + schedule.overlap_slots().max() * 46
    assert rows[-1] <= 288 + 46 * schedule.overlap_slots()[-1]


def test_resuming_reads_the_active_blocks_and_sides():
    blocks = order()
    found = forecast(blocks, [ARRAY], [0], epoch=0, slots=64, cursor=26_000)
    turn = int(blocks.sequence(0, 0).spread.turn_of(26_000))
    assert found.blocks == 181 - turn - 1 + 32
    assert 0 < found.sides <= 3 * 32 + 1
    assert found.cost.requests == found.blocks + found.sides
    done = forecast(blocks, [ARRAY], [0], epoch=0, slots=64, cursor=len(STARTS))
    assert (done.blocks, done.cost.bytes, done.sides) == (0, 0, 0)
    schedule = BlockSchedule(blocks.sequence(0, 0), span=24, slots=64, cursor=26_000)
    assert set(sides_asked(schedule, STARTS)) <= set(schedule.overlaps[schedule.missing].tolist())


def test_too_few_places_for_the_active_blocks_are_refused():
    with pytest.raises(LoaderError, match="8 active blocks of 181 need at least 9 slots"):
        BlockSchedule(order(8).sequence(0, 0), span=24, slots=8)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 8, 17])
def test_ranks_read_every_lane(world_size):
    found = [lanes_read(r, world_size, lanes=4, batch_per_lane=6) for r in range(world_size)]
    assert set().union(*found) == set(range(4))
    if 4 % world_size == 0:
        assert all(len(lanes) == 4 // world_size for lanes in found)


def test_a_budget_takes_places_first_then_active_blocks():
    large = choose(STARTS, [ARRAY], span=24, memory=1 << 30)
    assert (large.mode, large.active, large.slots, large.requests) == ("blocks", 46, 46 + 32, 16)
    asked = choose(STARTS, [ARRAY], span=24, memory=400 << 20, active=32)
    assert asked.active == 32
    assert asked.slots > 32
    small = choose(STARTS, [ARRAY], span=24, memory=96 << 20)
    assert 8 <= small.active < 46
    assert small.slots >= small.active + 1
    tiny = choose(STARTS, [ARRAY], span=24, memory=40 << 20)
    assert 2 <= tiny.active < 8
    for choice, memory in ((large, 1 << 30), (asked, 400 << 20), (small, 96 << 20), (tiny, 40 << 20)):
        assert choice.terms.total <= memory
        assert choice.amplification == 1.0


@pytest.mark.parametrize("requests", [13, 14, 16])
def test_memory_for_twice_the_requests_ahead_and_under_way_holds_overlaps_and_the_stores_own_too(requests):
    """Blocks active and twice as many ahead as requests, each of which may take its chunk twice: what is promised."""
    choice = choose(STARTS, [ARRAY], span=24, memory=(32 + 4 * requests) * ARRAY.chunk_bytes, active=32)
    assert choice.requests >= requests
    assert choice.slots - choice.active >= choice.requests


def test_active_blocks_of_a_resumed_run_are_kept_or_rows_are_read_directly():
    choice = choose(STARTS, [ARRAY], span=24, memory=400 << 20, active=32, rows=101)
    assert (choice.mode, choice.active) == ("blocks", 32)
    kept = choose(STARTS, [ARRAY], span=24, memory=128 << 20, active=32, rows=101)
    assert (kept.mode, kept.active, kept.grid.hash()) == ("direct", 32, choice.grid.hash())


def test_large_rows_get_fewer_active_blocks_then_blocks_with_a_halo():
    starts = Runs.of_segments(np.array([0, 5000]), span=6, stride=1)
    rows = [Storage(None, row_bytes=83 << 20)]
    choice = choose(starts, rows, span=6, memory=20 << 30)
    assert (choice.mode, choice.amplification) == ("blocks", 1.0)
    assert 2 <= choice.active < 8
    choice = choose(starts, rows, span=6, memory=5 << 30)
    assert choice.mode == "halo"
    assert choice.grid.rows < 24
    assert choice.terms.total <= 5 << 30
    assert choice.amplification == pytest.approx(1 + 5 / choice.grid.rows, rel=0.02)


def test_chunks_of_one_row_are_read_in_blocks_and_tiny_budgets_directly():
    rows = Storage(np.arange(0, 1001), row_bytes=100 << 20)
    starts = Runs.of_segments(np.array([0, 1000]), span=6, stride=1)
    choice = choose(starts, [rows], span=6, memory=24 << 30)
    assert (choice.mode, choice.amplification) == ("blocks", 1.0)
    choice = choose(starts, [rows], span=6, memory=1 << 29)
    assert (choice.mode, choice.grid, choice.active) == ("direct", None, 0)
    assert choice.terms.total <= 1 << 29
    assert choose(STARTS, [Storage(None, row_bytes=ROW)], span=24, memory=1 << 19).mode == "direct"


def test_a_single_active_block_is_used_only_where_all_else_reads_over_twice_the_array():
    starts = Runs.of_segments(np.array([0, 48_000]), span=6, stride=1)
    chunks = [Storage(np.arange(0, 48_001, 24), row_bytes=100 << 20)]  # 2.3 GiB a chunk
    choice = choose(starts, chunks, span=6, memory=24 << 30)
    assert (choice.mode, choice.amplification) == ("blocks", 1.0)
    assert choice.active >= 2
    choice = choose(starts, chunks, span=6, memory=16 << 30)
    assert (choice.mode, choice.active, choice.amplification) == ("blocks", 1, 1.0)


def test_budgets_that_cannot_be_are_errors_that_say_what_would_do():
    long = Storage(np.array([0, 60_000]), row_bytes=ROW)
    with pytest.raises(MemoryBudgetError, match=r"convert") as caught:
        choose(STARTS, [long], span=24, memory=64 << 20)
    assert str(60_000 * ROW) in str(caught.value)
    would = parse_bytes(str(caught.value).split("pass memory='")[1].split("'")[0])
    assert choose(STARTS, [long], span=24, memory=would).terms.total <= would
    with pytest.raises(MemoryBudgetError, match="would do") as caught:
        choose(STARTS, [ARRAY], span=24, memory=12 << 20, active=16)
    would = parse_bytes(str(caught.value).split("' would do")[0].split("'")[-1])
    assert choose(STARTS, [ARRAY], span=24, memory=would, active=16).active == 16


def test_defaults_and_terms():
    assert [default_active(n) for n in (1, 5, 20, 181, 10_000)] == [1, 5, 8, 46, 64]
    terms = MemoryTerms(arena=1, overlap_buffer=2, in_flight=3)
    assert terms.total == 6 + RESERVE
