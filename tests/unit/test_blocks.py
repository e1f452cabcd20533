"""The streamed tier's parts: the reader's limits and errors, turns of batches, buffers, the arena, and plans."""

from __future__ import annotations

import json
import re
import threading
import warnings

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import ClosedError, MemoryBudgetError, RankError
from windowloader.rows import reader as reader_module
from windowloader.rows.arena import Arena
from windowloader.rows.reader import Job, Pace, Reader, RowRange
from windowloader.rows.row_buffers import RowBuffers, RowBufferSchedule
from windowloader.rows.rows import InTurn
from windowloader.series.variable import Variable
from windowloader.sources import Pending
from windowloader.sources.base import LocalSource


class Gate(Pending):
    """A read that ends when told to."""

    def __init__(self, owner):
        self.owner, self.calls, self.over, self.error = owner, [], False, None

    def add_done_callback(self, call):
        self.calls.append(call)

    def done(self):
        return self.over

    def result(self, timeout=None):
        if self.error:
            raise self.error
        return 0

    def open(self, error=None):
        self.over, self.error = True, error
        for call in self.calls:
            call(self)


class Gated(LocalSource):
    """A source whose reads wait for the test."""

    def __init__(self, rows=100):
        super().__init__("gated", shape=(rows, 2), dtype="f4", axes="tn", chunks=(10, 2))
        self.gates, self.asked = [], threading.Semaphore(0)

    def fingerprint(self):
        return ""

    def submit(self, start, stop, out):
        gate = Gate(self)
        gate.rows = start
        self.gates.append(gate)
        self.asked.release()
        return gate


def job(source, row, requests=1, **more):
    variable = Variable("x", source, ("x",))
    arena = Arena([variable], 10)
    return Job([RowRange(variable, row, row + 10, arena.regions[0], requests=requests)], arena, **more)


def submit(reader, *jobs):
    with reader.lock:
        for need, one in enumerate(jobs):
            reader.submit(one, (need,))


def test_a_reader_hands_over_no_more_than_its_limit_in_the_order_of_need():
    source, reader = Gated(), Reader(2)
    jobs = [job(source, 10 * i) for i in range(5)]
    with reader.lock:
        for need, one in sorted(enumerate(jobs), reverse=True):
            reader.submit(one, (need,))
    for done in range(5):
        source.asked.acquire()
        if done == 1:
            assert len(source.gates) == 2
        if done >= 1:
            source.gates[done - 1].open()
    source.gates[4].open()
    reader.await_all(jobs)
    assert [gate.rows for gate in source.gates] == [0, 10, 20, 30, 40]
    assert reader.most_under_way == 2
    with reader.lock:
        reader.drain()


def pace_after(seconds_of, limit=8, reads=64):
    """Return the pace after reads whose duration is a function of how many are under way."""
    pace, now, under_way = Pace(limit), 0.0, []
    for _ in range(reads):
        while len(under_way) < pace.requests:
            under_way.append(now)
        took = seconds_of(len(under_way))
        departed = under_way.pop(0)
        now = max(now, departed + took)
        pace.note(departed, now, len(under_way) + 1)
    return pace.requests


def test_fewer_requests_share_a_slow_line_and_all_that_are_slow_by_themselves_go_on():
    assert pace_after(lambda under_way: 8.0 * under_way) == 1  # 8 MB at 1 MB/s
    assert pace_after(lambda under_way: 2.0 * under_way) == 4
    assert pace_after(lambda under_way: 16.0) == 8  # 0.5 MB/s for each
    assert pace_after(lambda under_way: 0.1) == 8


def test_a_line_that_gets_fast_again_takes_all_requests_again():
    pace = Pace(8)
    pace.note(0.0, 64.0, 8)
    pace.note(64.0, 96.0, 4)
    assert pace.requests == 2
    for time in range(200, 210):
        pace.note(time, time + 0.1, 1)
    assert pace.requests == 8


def test_what_is_given_up_is_not_read_and_what_is_under_way_ends_first():
    source, reader, ended = Gated(), Reader(1), []
    first, second = (job(source, 10 * i, ended=ended.append) for i in range(2))
    submit(reader, first, second)
    source.asked.acquire()
    with reader.lock:
        reader.drop([first, second])
        assert second.done
        assert not first.done
    source.gates[0].open()
    reader.await_all([first, second])
    assert len(source.gates) == 1
    assert ended == [second, first]


def test_an_error_is_its_jobs_and_the_reader_goes_on():
    source, reader = Gated(), Reader(1)
    first, second = job(source, 0), job(source, 10)
    submit(reader, first, second)
    source.asked.acquire()
    source.gates[0].open(OSError("gone"))
    source.asked.acquire()
    source.gates[1].open()
    with pytest.raises(OSError, match="gone"):
        reader.await_all([first, second])
    assert second.error is None


def test_after_an_error_nothing_more_is_asked_for_until_somebody_had_time_to_give_up():
    source, reader = Gated(), Reader(2)
    jobs = [job(source, 10 * i) for i in range(4)]
    submit(reader, *jobs)
    for _ in range(2):
        source.asked.acquire()
    source.gates[0].open(OSError("gone"))
    with reader.lock:
        reader.lock.wait_for(
            lambda: jobs[0].done
        )  # as the caller that waits for it; then it ends, and gives up the rest
        reader.drop(jobs)
    source.gates[1].open()
    with pytest.raises(OSError, match="gone"):
        reader.await_all(jobs)
    assert len(source.gates) == 2


def test_what_failed_halfway_is_not_waited_for(monkeypatch):
    """A job of several ranges whose first one failed still stands in the queue, and nobody wants it."""
    monkeypatch.setattr(reader_module, "HEAR", threading.TIMEOUT_MAX)
    source, reader = Gated(), Reader(1)
    halves = [job(source, 10 * i).ranges[0] for i in range(2)]
    broken = Job(halves, Arena((), 0))
    submit(reader, broken)
    source.asked.acquire()
    source.gates[0].open(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        reader.await_all([broken])
    with reader.lock:
        reader.drain()
    assert len(source.gates) == 1


def test_a_range_of_more_requests_than_the_limit_goes_alone():
    source, reader = Gated(), Reader(2)
    jobs = [job(source, 0), job(source, 10, requests=5), job(source, 20)]
    submit(reader, *jobs)
    for gate in range(3):
        source.asked.acquire()
        assert len(source.gates) == gate + 1
        source.gates[gate].open()
    reader.await_all(jobs)


def test_batches_are_laid_out_in_turn_and_a_broken_one_stops_those_after_it():
    turns = InTurn(threading.Condition(threading.Lock()))
    seen = []

    def lay(index):
        try:
            turns.await_turn(index)
        except ClosedError:
            seen.append(-index)
            return
        seen.append(index)
        turns.pass_on(index)

    threads = [threading.Thread(target=lay, args=(index,)) for index in (3, 1, 0, 5)]
    for thread in threads:
        thread.start()
    turns.fail(2)
    for thread in threads:
        thread.join()
    assert sorted(seen) == [-5, -3, 0, 1]
    turns.abandon()
    with pytest.raises(ClosedError):
        turns.await_turn(2)


def test_an_arena_holds_aligned_regions_of_all_dtypes():
    sources = [np.zeros((9, 3), dtype) for dtype in ("u1", "f8", "f2")]
    series = wl.Series({"a": sources[0], "b": sources[1], "c": sources[2]})
    arena = Arena(series.variables, 7)
    for region, variable in zip(arena.regions, series.variables, strict=True):
        assert region.shape == (7, 3, 1)
        assert region.dtype == variable.dtype
        assert region.__array_interface__["data"][0] % 64 == 0
        assert region.flags.c_contiguous
        region[...] = 1


def test_row_buffers_share_rows_and_split_batches_that_do_not_fit():
    work = RowBufferSchedule(RowBuffers(rows=10, count=3), np.arange(4), 4)
    starts = np.array([0, 1, 2, 3, 20, 40])
    assert work.fit(starts, 0) == 4
    assert work.fit(starts, 4) == 6
    assert work.lay(starts[:4]).runs() == [(0, 7, 0)]
    assert work.lay(np.array([5, 20])).runs() == [(7, 9, 2), (20, 24, 4)]
    assert work.lay(np.array([4, 19])).runs() == [(19, 20, 4)]
    sparse = RowBufferSchedule(RowBuffers(rows=100, count=1), np.array([0, 30]), 31)
    assert sparse.lay(np.array([5])).runs() == [(5, 6, 0), (35, 36, 30)]
    with pytest.raises(MemoryBudgetError, match="6 rows of 100 bytes"):
        RowBuffers.within(500, row_bytes=100, span=6, windows=3, wanted=4)


class Hidden(Gated):
    """Rows that must be asked for, and are there at once."""

    def __init__(self, values, chunks=(25, 3)):
        LocalSource.__init__(self, "hidden", shape=values.shape, dtype=values.dtype, axes="tn", chunks=chunks)
        self.values, self.log = values, []

    def submit(self, start, stop, out):
        return LocalSource.submit(self, start, stop, out)

    def _read(self, start, stop, out, box=None):
        self.log.append((start, stop))
        out[...] = self.values[start:stop]
        return out.nbytes


@pytest.fixture
def hidden(monkeypatch):
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)
    return Hidden(np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32))


def loader(source, spec=None, **options):
    windows = wl.WindowSet(wl.Series(source), spec or wl.WindowSpec(lookback=4, horizon=2))
    return wl.WindowLoader(windows, **{"batch_size": 8, "shuffle": True, **options})


def test_a_plan_is_a_page_and_a_dict_and_reads_nothing(hidden):
    with loader(hidden) as made:
        plan = made.plan()
        page = str(plan)
        found = json.loads(json.dumps(plan.to_dict()))
    assert hidden.log == []
    assert "block-1" in page
    assert "full permutation" in page
    assert plan.own.bytes == 500 * 24 == found["own"]["bytes"]
    assert plan.own.requests == 20 * 2
    assert plan.memory is not None
    assert found["memory"]["total"] == plan.memory.total
    assert plan.first_seconds(latency=1.0, rate=1e12) == pytest.approx(
        -(-plan.first.requests // plan.at_a_time)
    )
    assert plan.mixing.same_block_pairs > plan.permutation.same_block_pairs
    assert max(value for _, value in plan.resident) <= plan.memory.arena + plan.memory.overlap_buffer


@pytest.mark.usefixtures("by_blocks")
@pytest.mark.parametrize("done", [0, 7])
@pytest.mark.parametrize("batch_size", [1, 8, 100])
def test_a_plan_names_what_the_first_batch_waits_for(hidden, batch_size, done):
    """With one request at a time, in the order of need: the blocks of all turns until that of its last window."""
    with loader(hidden, batch_size=8, active_blocks=8, lanes=1) as made:
        state = {**made.state_dict(step=done)}
    with loader(hidden, batch_size=batch_size, active_blocks=8, threads=0, lanes=1) as made:
        made.load_state_dict(state)
        plan = made.plan(state)
        batches = iter(made)
        next(batches)
        (lane_cache,) = made._pipeline.access._block_caches[0].lane_caches.values()
        entered = lane_cache.present.lane.visits[: lane_cache.present.turn + 1]
        waited = sum(lane_cache.present.schedule.placed[: len(entered)])
        batches.close()
    assert plan.first.requests >= 2 * waited  # a block is two chunks here
    assert plan.first.requests - 2 * waited <= plan.sides
    assert waited > 1 or batch_size == 1


def test_a_plan_for_other_ranks_and_worlds(hidden):
    with loader(hidden) as made:
        plans = [made.plan(rank=rank, world_size=2) for rank in range(2)]
        assert plans[0].steps == plans[1].steps
        assert plans[0].lanes == (0,)
        assert sum(plan.own.bytes for plan in plans) == plans[0].all_ranks.bytes
        with pytest.raises(RankError):
            made.plan(rank=2, world_size=2)


def test_a_plan_where_rows_are_addressable(tmp_path):
    values = np.zeros((100, 3), np.float32)
    with loader(values) as made:
        plan = made.plan()
    assert (plan.tier, plan.mode, plan.own.bytes, plan.memory) == ("memory", "resident", 1200, None)
    np.save(tmp_path / "x.npy", values)
    series = wl.open(tmp_path / "x.npy")
    with wl.WindowLoader(wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=2))) as made:
        assert "page cache" in str(made.plan())


@pytest.mark.usefixtures("by_blocks")
def test_chunks_of_one_row_are_read_in_blocks_each_once(hidden):
    for shuffle in (True, False):
        source = Hidden(hidden.values, (1, 6))
        with loader(source, shuffle=shuffle) as made:
            plan = made.plan()
            assert (plan.mode, plan.own.amplification) == ("blocks", 1.0)
            for _ in made:
                pass
            assert made.stats().epochs[-1].read_requests == plan.own.requests


def test_reading_over_twice_the_array_is_a_warning_that_says_what_would_do(hidden):
    long = wl.WindowSpec(lookback=24, horizon=12)
    with loader(Hidden(hidden.values, (1, 6)), long, memory=2_000) as made:
        with pytest.warns(
            UserWarning, match=r"each epoch reads \d+\.\d times the bytes of the array"
        ) as caught:
            assert made.plan().own.amplification > 2
        would = str(caught[0].message).split("memory='")[1].split("'")[0]
    with loader(Hidden(hidden.values, (1, 6)), long, memory=would) as made:
        assert made.plan().own.amplification <= 1.02


@pytest.mark.filterwarnings("ignore:each epoch reads")
def test_only_rows_that_windows_read_are_asked_for_directly(hidden):
    source = Hidden(hidden.values, (1, 6))
    spec = wl.WindowSpec(input_offsets=[-200, -28, 0], target_offsets=[1])
    with loader(source, spec, memory=9_000) as made:
        plan = made.plan()
        assert plan.mode == "direct"
        for batch in made:
            rows = batch.starts[:, None] + np.array([0, 172, 200])
            np.testing.assert_array_equal(batch.inputs[..., 0], hidden.values[rows])
    assert sum(stop - start for start, stop in source.log) * 24 == plan.own.bytes
    assert sum(stop - start for start, stop in source.log) <= 4 * 299


def test_rows_of_neighbouring_batches_are_read_once_where_no_block_fits(hidden):
    source = Hidden(hidden.values, (1, 6))
    with loader(source, shuffle=False, memory=1200, threads=0) as made:
        assert made.plan().mode == "direct"
        batches = [batch.starts.tolist() for batch in made]
    assert [start for batch in batches for start in batch] == list(range(495))
    assert sum(stop - start for start, stop in source.log) <= 1.02 * 500


def test_windows_out_of_order_are_read_as_they_come(hidden):
    windows = wl.WindowSet(wl.Series(hidden), wl.WindowSpec(lookback=4, horizon=2)).take([300, 7, 7, 20])
    with wl.WindowLoader(windows, batch_size=3) as made:
        assert [batch.starts.tolist() for batch in made] == [[300, 7, 7], [20]]


def test_a_chunk_larger_than_the_memory_is_an_error_at_once(hidden):
    with pytest.raises(MemoryBudgetError, match="convert"):
        loader(hidden, memory=300, rank=0, world_size=1)


class Streamed(Gated):
    """A store that nothing is read from."""

    tier = "streamed"

    def __init__(self, rows, row_bytes, chunk):
        LocalSource.__init__(
            self, "s", shape=(rows, row_bytes // 4), dtype="f4", axes="tn", chunks=(chunk, row_bytes // 4)
        )


def plan_of(source, world_size, memory, spec):
    windows = wl.WindowSet(wl.Series(source), wl.WindowSpec(lookback=spec[0], horizon=spec[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is read repeatedly: advice is what follows
        options = {"rank": 0, "world_size": world_size, "global_batch_size": 64}
        with wl.WindowLoader(windows, shuffle=True, memory=memory, **options) as loader:
            return loader.plan()


@pytest.mark.parametrize("world_size", [1, 8, 32])
@pytest.mark.parametrize(
    ("chunk", "row_bytes", "memory", "spec"),
    [
        (24, 1 << 20, "256MiB", (2, 4)),
        (24, 1 << 20, "1GiB", (12, 12)),
        (1, 4 << 20, "512MiB", (2, 4)),
        (1, 64 << 20, "1GiB", (6, 6)),
        (200, 1 << 16, "64MiB", (12, 12)),
    ],
)
def test_memory_that_a_plan_advises_never_makes_all_ranks_read_more(
    chunk, row_bytes, memory, spec, world_size
):
    source = Streamed(4000, row_bytes, chunk)
    plan = plan_of(source, world_size, memory, spec)
    for advice in plan.advice:
        for asked in re.findall(r"memory='(\w+)'", advice):
            followed = plan_of(source, world_size, asked, spec)
            if followed.mode != "preloaded":  # which reads nothing in later epochs
                assert followed.all_ranks.bytes <= plan.all_ranks.bytes, advice
            if "read once" in advice or "fewer reads" in advice:
                assert followed.all_ranks.bytes < plan.all_ranks.bytes, advice
