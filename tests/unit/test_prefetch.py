"""Prefetching on threads: in order, bounded, errors at their place, nothing left running."""

from __future__ import annotations

import gc
import threading
import traceback
import weakref

import pytest

from windowloader.loader.iteration import Prefetcher


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("windowloader-")]


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 3])
def test_results_come_in_the_order_of_the_tasks(threads, ahead):
    gate = threading.Event()

    def make(n):
        if threads > 1 and ahead > 1 and n == 0:
            gate.wait(10)  # the first result is finished after the second
        elif n == 1:
            gate.set()
        return n * n

    assert list(Prefetcher(iter(range(50)), make, threads=threads, most=ahead)) == [n * n for n in range(50)]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_never_more_results_than_asked_wait_to_be_taken(threads, ahead):
    lock, taken, worst = threading.Lock(), 0, 0

    def make(n):
        nonlocal worst
        with lock:
            worst = max(worst, n + 1 - taken)
        return n

    for result in Prefetcher(iter(range(200)), make, threads=threads, most=ahead):
        with lock:
            taken = result + 1
    # the consumer counts a result as taken a moment after the pipeline does
    assert worst <= ahead + 1


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_surfaces_at_its_result_with_its_traceback(threads):
    def breaks_at_three(n):
        if n == 3:
            raise ValueError("three")
        return n

    results, source = (
        [],
        Prefetcher(iter(range(10)), breaks_at_three, threads=threads, most=4),
    )
    with pytest.raises(ValueError, match="three") as caught:
        results.extend(iter(source))
    assert results == [0, 1, 2]
    assert "breaks_at_three" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert not running()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_the_tasks_comes_after_what_was_before_it(threads):
    def tasks():
        yield 1
        yield 2
        raise KeyError("no third")

    source = Prefetcher(tasks(), lambda n: n, threads=threads, most=4)
    assert [next(source), next(source)] == [1, 2]
    with pytest.raises(KeyError, match="no third"):
        next(source)


def test_dropping_it_early_ends_the_threads():
    source = Prefetcher(iter(range(10**9)), lambda n: n, threads=2, most=2)
    assert next(source) == 0
    threads = running()
    assert len(threads) == 2
    del source
    gc.collect()
    for thread in threads:
        thread.join(10)
    assert not running()


def test_close_waits_for_the_threads_and_is_idempotent():
    source = Prefetcher(iter(range(10**9)), lambda n: n, threads=2, most=2)
    next(source)
    source.close()
    assert not running()
    source.close()
    with pytest.raises(StopIteration):
        next(source)


def test_a_taken_result_is_referenced_nowhere_else():
    class Result:
        pass

    source = Prefetcher(iter(range(3)), lambda _: Result(), threads=2, most=2)
    result = next(source)
    seen = weakref.ref(result)
    del result
    gc.collect()
    assert seen() is None
    source.close()


def test_two_at_once_do_not_disturb_each_other():
    first = Prefetcher(iter(range(100)), lambda n: n, threads=2, most=3)
    second = Prefetcher(iter(range(100)), lambda n: -n, threads=2, most=3)
    assert list(zip(first, second, strict=True)) == [(n, -n) for n in range(100)]


def test_work_that_is_collected_by_a_thread_that_has_its_lock_ends():
    box = []
    collected = threading.Event()

    def tasks():
        yield 0
        source = box.pop()
        source.itself = source  # only the collector ends it, and it runs here, under the lock
        del source
        gc.collect()
        collected.set()
        yield from range(1, 10**9)

    gate = threading.Event()

    def make(task):
        gate.wait(60)
        return task

    box.append(Prefetcher(tasks(), make, threads=1, most=10))
    gate.set()
    assert collected.wait(60)
    while running():
        threading.Event().wait(0.001)
