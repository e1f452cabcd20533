"""Streamed epochs against plain lists: any chunks, budgets, orders, ranks, threads, kills; each chunk counted."""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import LoaderError, MemoryBudgetError
from windowloader.sources import Pending
from windowloader.sources.base import LocalSource

pytestmark = [
    pytest.mark.filterwarnings("ignore:global_batch_size=.* is not a multiple"),
    pytest.mark.filterwarnings("ignore:each epoch reads"),
]

POOL = ThreadPoolExecutor(4)  # its threads live as long as the session, as a store's do


@pytest.fixture(autouse=True, scope="module", params=[True, False], ids=["preloaded", "blocks"])
def small_blocks(request):
    """Blocks of four spans, however few bytes that is; rows that fit in memory stay, or come and go by blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("windowloader.rows.read_plan.PRELOAD", request.param)
        patch.setattr("windowloader.order.grid._BYTES", 1)
        patch.setattr("windowloader.rows.read_plan.HELD_BYTES", 64)
        yield


class Telling(Pending):
    def __init__(self, future):
        self.future = future

    def result(self, timeout=None):
        return self.future.result(timeout)

    def done(self):
        return self.future.done()

    def add_done_callback(self, call):
        self.future.add_done_callback(lambda _: call(self))


class StandIn(LocalSource):
    """An array behind a wall: rows must be asked for, and every chunk that is touched is counted."""

    def __init__(self, values, chunks, mode="at once"):
        super().__init__(
            "stand-in", shape=values.shape, dtype=values.dtype, axes="tnf"[: values.ndim], chunks=chunks
        )
        self.values, self.mode = values, mode
        self.log, self.fail = [], lambda start, stop: False

    def fingerprint(self):
        return "stand-in"

    def _read(self, start, stop, out, box=None):
        self.log.append((start, stop))
        if self.fail(start, stop):
            raise OSError(f"rows {start} to {stop} are out of reach")
        out[...] = self.values[start:stop]
        return self.bytes_of(start, stop)

    def submit(self, start, stop, out):
        if self.mode == "at once":
            return super().submit(start, stop, out)
        future = POOL.submit(self.read, start, stop, out)
        return future if self.mode == "future" else Telling(future)

    def chunk_reads(self):
        """How often each chunk along time was read."""
        step = self.chunks[0]
        return Counter(c for a, b in self.log for c in range(a // step, -(-b // step)))


@st.composite
def cases(draw):
    rows = draw(st.integers(30, 260))
    nodes = draw(st.integers(1, 5))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(rows, nodes)).astype(np.float32)
    chunk = draw(st.one_of(st.just(1), st.integers(2, 40), st.just(400)))
    chunks = None if draw(st.integers(0, 5)) == 0 else (min(chunk, rows), draw(st.integers(1, nodes)))
    spec = wl.WindowSpec(
        lookback=draw(st.integers(1, 5)),
        horizon=draw(st.integers(1, 4)),
        stride=draw(st.sampled_from([1, 1, 2, 7])),
    )
    cuts = sorted(draw(st.sets(st.integers(1, rows - 1), max_size=2)))
    borders = [0, *cuts, rows]
    assume(any(b - a >= spec.span for a, b in itertools.pairwise(borders)))
    options = {
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 9)),
        "uneven": draw(st.sampled_from(["pad", "exact", "drop"])),
        "memory": draw(st.one_of(st.integers(500, 3000), st.integers(3000, 40_000), st.just(1 << 30))),
        "active_blocks": draw(st.sampled_from([None, None, 1, 2, 3, 8])),
        "reads_ahead": draw(st.sampled_from([None, 1, 3])),
        "threads": draw(st.sampled_from([0, 1, 2, 3])),
        "prefetch_batches": draw(st.integers(1, 4)),
    }
    if options["uneven"] != "exact":
        options["drop_last"] = draw(st.booleans())
    world = draw(st.sampled_from([1, 1, 2, 3]))
    lanes = draw(st.sampled_from([None, 1, 2, 4]))
    batch = draw(st.integers(1, 9)) * (lanes or world)
    options.update(lanes=lanes, global_batch_size=batch, world_size=world)
    mode = draw(st.sampled_from(["at once", "future", "telling"]))
    return values, chunks, spec, borders, options, mode


def start(case, **more):
    values, chunks, spec, borders, options, mode = case
    source = StandIn(values, chunks, mode)
    windows = wl.WindowSet(wl.Series(source, segments=borders), spec)
    try:  # lanes of blocks and of single windows differ in length, so that only some memories may make no step
        wl.WindowLoader(windows, **{**options, **more, "rank": 0, "memory": 1 << 30}).close()
        return source, wl.WindowLoader(windows, **{**options, **more})
    except LoaderError as error:
        assume("makes no step" not in str(error))
        raise


def check_batch(batch, rows, values, spec, windows):
    """A batch against (window, weight) pairs."""
    expected = windows.starts(np.array([window for window, _ in rows]))
    assert batch.starts[: len(rows)].tolist() == expected.tolist()
    assert batch.weights[: len(rows)].tolist() == [weight for _, weight in rows]
    for part, offsets in (
        (batch[0] if not batch.exact else batch.inputs, spec.input_rows),
        (batch.targets, spec.target_rows),
    ):
        np.testing.assert_array_equal(part[..., 0], values[batch.starts[:, None] + offsets])


def run_epoch(case, model, rank=0, state=None, stop=None):
    """Go through the rest of an epoch, each batch checked; return (loader, source, batches)."""
    values, _, spec, _, options, _ = case
    source, loader = start(case, rank=rank)
    try:
        if state is not None:
            loader.load_state_dict(state)
        engine = loader._bind()
        choice = engine.reading.choice
        event(f"{engine.reading.order.name} {choice.mode}")
        at = loader._position or engine.steps.start(0)
        lanes = model.lanes(engine.reading.order, at.pass_number)
        b, uneven = engine.steps.batch_per_lane, options["uneven"]
        steps = model.a_pass(lanes, at.cursor, b, uneven, options.get("drop_last", False))
        seen = 0
        for batch, rows in zip(itertools.islice(loader, stop), steps, strict=stop is None):
            mine = model.ranks(rows, options["world_size"], uneven)[rank]
            check_batch(batch, mine, values, spec, loader.windows)
            seen += 1
        state = loader.state_dict()
        most = engine.access.reader.most_under_way
        assert most <= max(engine.reading.choice.requests, engine.reading.storages[0].columns)
    finally:
        loader.close()
    return loader, source, seen, state


CASES = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


def compare(case, model, kill):
    try:
        for rank in range(case[4]["world_size"]):
            _, _, steps, _ = run_epoch(case, model, rank)
            if rank == 0 and steps > 1:
                at = 1 + kill % (steps - 1)
                _, _, _, state = run_epoch(case, model, rank, stop=at)
                run_epoch(case, model, rank, state=state)
    except MemoryBudgetError:
        event("refused: too little memory")
        assert case[4]["memory"] < 1 << 30


@settings(max_examples=12, **CASES)
@given(case=cases(), kill=st.integers(0, 1000))
def test_streamed_epochs_are_those_of_plain_lists(case, kill, model):
    compare(case, model, kill)


@pytest.mark.campaign
@settings(max_examples=250, **CASES)
@given(case=cases(), kill=st.integers(0, 1000))
def test_streamed_epochs_are_those_of_plain_lists_at_length(case, kill, model):
    compare(case, model, kill)


def received(loader):
    """What a loop gets until an error ends it, and that error."""
    found = []
    try:
        for batch in loader:
            found.append((batch.starts.tolist(), batch.weights.tolist(), batch.inputs.tobytes()))  # noqa: PERF401 # it may end early
    except OSError as error:
        return found, error
    return found, None


def through_faults(case, script, rank):
    """An epoch whose reads fail by number: made again after each failure, it goes on as if nothing had been."""
    rank %= case[4]["world_size"]
    _, loader = start(case, rank=rank)
    with loader:
        expected, error = received(loader)
    assert error is None
    numbers, found, state = itertools.count(), [], None
    for _ in range(len(script) + 1):
        source, loader = start(case, rank=rank)
        source.fail = lambda start, stop: next(numbers) in script
        with loader:
            if state is not None:
                loader.load_state_dict(state)
            more, error = received(loader)
            found += more
            if error is None:
                break
            assert "out of reach" in str(error)
            state = loader.state_dict()
            event("went on after a fault")
    assert found == expected


@settings(max_examples=12, **CASES)
@given(case=cases(), script=st.sets(st.integers(0, 9), min_size=1, max_size=4), rank=st.integers(0, 2))
def test_faults_cost_time_and_no_window(case, script, rank):
    try:
        through_faults(case, script, rank)
    except MemoryBudgetError:
        assume(False)


@pytest.mark.campaign
@settings(max_examples=150, **CASES)
@given(case=cases(), script=st.sets(st.integers(0, 40), min_size=1, max_size=8), rank=st.integers(0, 2))
def test_faults_cost_time_and_no_window_at_length(case, script, rank):
    try:
        through_faults(case, script, rank)
    except MemoryBudgetError:
        assume(False)


@pytest.fixture
def one_epoch(monkeypatch):
    """No reads for the epoch after: what is counted belongs to one."""
    monkeypatch.setattr("windowloader.rows.lane_cache.LaneCache._drains", lambda self, lane_pass: False)


def counted(loader, source):
    """Decoded bytes and requests of the reads that reached the source."""
    if not source.log:
        return 0, 0
    cost = loader._pipeline.reading.storages[0].cost(*np.array(source.log).T)
    return int(cost.bytes.sum()), int(cost.requests.sum())


def count(case, kill):
    """Reads at the source against the plan's, of a whole epoch and of one that goes on."""
    options = case[4]
    exactly = options["uneven"] != "drop" and not options.get("drop_last")
    exactly = exactly and (options["lanes"] or options["world_size"]) % options["world_size"] == 0
    for rank in range(options["world_size"]):
        state = None
        for _ in range(2):
            source, loader = start(case, rank=rank)
            plan = loader.plan(state)
            if state is not None:
                loader.load_state_dict(state)
            states = [loader.state_dict() for _ in loader]
            loader.close()
            found = counted(loader, source)
            last = loader.stats().epochs[-1]
            assert (last.read_bytes, last.read_requests) == found
            if exactly and len(states) == plan.steps:
                assert found == (plan.own.bytes, plan.own.requests)
            assert found[0] <= plan.own.bytes
            if plan.mode == "blocks" and state is None and source.chunks is not None:
                assert set(source.chunk_reads().values()) <= {1} or plan.own.amplification > 1
            if not states[:-1]:
                break
            state = states[kill % (len(states) - 1)]


@settings(max_examples=12, **CASES)
@given(case=cases(), kill=st.integers(0, 1000))
def test_reads_are_those_of_the_plan(case, kill, one_epoch):
    try:
        count(case, kill)
    except MemoryBudgetError:
        assume(False)


def count_a_part(case, steps):
    """What an epoch of some steps says it read against its plan: of a pass, or of several."""
    options = {**case[4], "uneven": "pad", "drop_last": False}
    for rank in range(options["world_size"]):
        source, loader = start((*case[:4], options, case[5]), rank=rank, steps_per_epoch=steps)
        with loader:
            plan = loader.plan()
            assert sum(1 for _ in loader) == steps == plan.steps
            last = loader.stats().epochs[-1]
            found = last.read_bytes, last.read_requests
            event(plan.mode)
            assert found[0] <= plan.own.bytes
            # Ranks that share a lane: one of them may not come to the last turn of it.
            if (options["lanes"] or options["world_size"]) % options["world_size"] == 0:
                assert found == (plan.own.bytes, plan.own.requests)
        ahead, _ = counted(loader, source)
        assert ahead >= found[0]


@settings(max_examples=10, **CASES)
@given(case=cases(), steps=st.integers(1, 80))
def test_parts_of_passes_read_what_their_plans_say(case, steps):
    try:
        count_a_part(case, steps)
    except MemoryBudgetError:
        assume(False)


@pytest.mark.campaign
@settings(max_examples=150, **CASES)
@given(case=cases(), steps=st.integers(1, 150))
def test_parts_of_passes_read_what_their_plans_say_at_length(case, steps):
    try:
        count_a_part(case, steps)
    except MemoryBudgetError:
        assume(False)


@pytest.mark.campaign
@settings(max_examples=200, **CASES)
@given(case=cases(), kill=st.integers(0, 1000))
def test_reads_are_those_of_the_plan_at_length(case, kill, one_epoch):
    try:
        count(case, kill)
    except MemoryBudgetError:
        assume(False)
