"""A result made by several threads: each part once, everybody waits for all, errors surface, idle threads help."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import windowloader as wl
from windowloader.loader import batching as making
from windowloader.loader import pipeline as engine
from windowloader.loader.prefetch import Ahead
from windowloader.util.threads import WorkerPool


def test_parts_run_at_the_same_time_where_a_thread_has_no_room():
    crew = WorkerPool(3)
    meeting = threading.Barrier(3, timeout=280)  # nobody passes it alone
    threads = set()

    def part():
        threads.add(threading.current_thread().name)
        meeting.wait()

    def make(task):
        while crew.hands < 3:  # the others wait, or are about to
            threading.Event().wait(0.001)
        crew.run([part] * 3)
        return task

    assert list(Ahead(iter(range(5)), make, crew=crew, ahead=1)) == [0, 1, 2, 3, 4]
    assert len(threads) == 3


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 3])
def test_each_part_runs_once_and_results_are_whole(threads, ahead):
    crew = WorkerPool(threads)

    def make(task):
        found = []
        crew.run([lambda number=number: found.append((task, number)) for number in range(7)])
        return sorted(found)

    results = list(Ahead(iter(range(60)), make, crew=crew, ahead=ahead))
    assert results == [[(task, number) for number in range(7)] for task in range(60)]


def test_an_error_of_a_part_is_that_of_its_result_and_the_next_is_made():
    crew = WorkerPool(2)
    ran = []

    def part(number):
        ran.append(number)
        if number == 2:
            raise ValueError("part 2")

    with pytest.raises(ValueError, match="part 2"):
        crew.run([lambda number=number: part(number) for number in range(6)])
    assert ran == [0, 1, 2]  # nobody helped: those after it are not begun
    crew.run([lambda: ran.append("after"), lambda: ran.append("it")])
    assert ran[3:] == ["after", "it"]


def test_an_error_on_another_thread_surfaces_where_the_result_is_made():
    crew = WorkerPool(2)
    both = threading.Barrier(2, timeout=280)
    errors = []

    def part():
        both.wait()
        if threading.current_thread() is not maker:
            raise OSError("the other's part")

    def make(task):
        nonlocal maker
        maker = threading.current_thread()
        while crew.hands < 2:
            threading.Event().wait(0.001)
        try:
            crew.run([part, part])
        except OSError as error:
            errors.append(str(error))
        return task

    maker = None
    assert list(Ahead(iter(range(3)), make, crew=crew, ahead=1)) == [0, 1, 2]
    assert errors == ["the other's part"] * 3


@pytest.mark.parametrize("layout", ["btnf", "tbnf", "bntf"])
@pytest.mark.parametrize("batch", [1, 3, 24])
def test_batches_that_threads_share_are_those_of_one(monkeypatch, layout, batch):
    monkeypatch.setattr(making, "SHARE_BYTES", 1024)
    monkeypatch.setattr(engine, "INLINE_BYTES", 0)
    monkeypatch.setattr(engine, "TOGETHER_BYTES", 0)
    values = np.random.default_rng(1).normal(50, 9, (90, 151)).astype(np.float32)
    values[values < 40] = 0.0
    windows = wl.WindowSet(
        wl.Series(values, missing=0.0, timestamps=("2024-01-01", "1h")),
        wl.WindowSpec(lookback=5, horizon=3, inputs=["value", "time_of_day"], targets=["value"]),
    )
    options = {
        "batch_size": batch, "shuffle": True, "layout": layout, "fill": 0.0,
        "scaler": wl.StandardScaler.fit(windows, per="node"),
    }  # fmt: skip
    cut = []
    parts = making._parts

    def watched(*arguments):
        found = parts(*arguments)
        cut.append(len(found))
        return found

    monkeypatch.setattr(making, "_parts", watched)
    # every thread but the maker counts as idle, so that all batches are cut
    monkeypatch.setattr(WorkerPool, "hands", property(lambda crew: crew.threads or 1))
    shared = list(wl.WindowLoader(windows, **options, threads=3, prefetch_batches=1))
    assert max(cut) == 6
    alone = list(wl.WindowLoader(windows, **options, threads=0))
    assert len(shared) == len(alone)
    for one, other in zip(shared, alone, strict=True):
        for name, array in one.arrays().items():
            np.testing.assert_array_equal(array, getattr(other, name), err_msg=name)


def test_a_piece_is_cut_by_windows_and_by_nodes_where_those_are_few():
    from windowloader.rows.rows import Piece

    size = making.SHARE_BYTES
    assert making._parts(Piece((), 0, 64), 2, size // 64, 100) == [(0, 64, None)]  # small
    assert making._parts(Piece((), 8, 64), 2, size, 100) == [
        (8, 22, None),
        (22, 36, None),
        (36, 50, None),
        (50, 64, None),
    ]
    assert making._parts(Piece((), 0, 1), 2, 9 * size, 100) == [(0, 1, (n, n + 25)) for n in (0, 25, 50, 75)]
    assert making._parts(Piece((), 0, 1), 2, 9 * size, 3) == [(0, 1, (n, n + 1)) for n in (0, 1, 2)]
