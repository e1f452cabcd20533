"""One pass of a loop over a loader: batches prefetched on threads, delivered in order, and the position of the loop.

In: a `Pipeline` and a position. Out: an iterator of batches. At most ``prefetch`` results exist or are being built
that the loop did not receive. An error surfaces where its batch would have come, with its own traceback. Closing,
running to the end, an error and the garbage collector all end the threads.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from windowloader.errors import ClosedError, LoaderError
from windowloader.util.threads import Stage, at_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from windowloader.batch.batch import Batch
    from windowloader.order.shard import Position

    from .pipeline import BatchTask, Built, Pipeline
    from .stats import EpochStats

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["EpochProgress", "EpochSampler", "Iteration", "Prefetcher", "refuse_worker"]

PATIENCE = 10.0  # seconds to wait for a thread when the interpreter exits

_QUEUES: weakref.WeakSet[_Queue[Any, Any]] = weakref.WeakSet()


@at_end(Stage.CALL_OFF)
def _stop_all() -> None:
    for queue in list(_QUEUES):
        queue.stop()


@at_end(Stage.BATCHES)
def _join_all() -> None:
    """Wait for the threads before the interpreter frees what their compiled loops write to."""
    for thread in [thread for queue in list(_QUEUES) for thread in queue.threads]:
        thread.join(PATIENCE)


class _Queue(Generic[T, R]):
    """What the threads share. They reference this and not the `Prefetcher`, so that dropping the latter ends them."""

    def __init__(self, tasks: Iterator[T], build: Callable[[T], R], threads: int, most: int) -> None:
        self.tasks, self.build, self.most = tasks, build, most
        # the garbage collector may stop the queue in a thread that has the lock
        self.lock = threading.RLock()
        self.room, self.ready = threading.Condition(self.lock), threading.Condition(self.lock)
        self.results: dict[int, tuple[R | None, BaseException | None]] = {}
        self.issued = self.taken = 0
        self.exhausted = self.stopped = False
        self.threads = [
            threading.Thread(target=self.run, name=f"windowloader-{i}", daemon=True) for i in range(threads)
        ]

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            self.results.clear()
            self.room.notify_all()
            self.ready.notify_all()

    def claim(self) -> tuple[int, T] | None:
        """Wait for room and take the next task; None when there is nothing more to do."""
        with self.lock:
            while not self.stopped and not self.exhausted:
                if self.issued - self.taken >= self.most:
                    self.room.wait()
                    continue
                try:
                    task = next(self.tasks)
                except BaseException as error:
                    self.exhausted = True
                    if not isinstance(error, StopIteration):
                        self.results[self.issued] = None, error
                        self.issued += 1
                    self.room.notify_all()
                    self.ready.notify_all()
                else:
                    self.issued += 1
                    return self.issued - 1, task
            return None

    def run(self) -> None:
        while (claimed := self.claim()) is not None:
            index, task = claimed
            try:
                outcome: tuple[R | None, BaseException | None] = (self.build(task), None)
            except BaseException as error:
                outcome = (None, error)
            del task
            with self.lock:
                if not self.stopped:
                    self.results[index] = outcome
                    if index == self.taken:
                        self.ready.notify()
            del outcome  # a thread that waits for room must not reference a result that was taken

    def take(self) -> tuple[R | None, BaseException | None] | None:
        """Wait for the next result in order; None at the end."""
        with self.lock:
            while self.taken not in self.results:
                if self.stopped or (self.exhausted and self.taken >= self.issued):
                    return None
                self.ready.wait()
            outcome = self.results.pop(self.taken)
            self.taken += 1
            wake = max(
                1, self.most // 2
            )  # threads wake for several tasks: one costs as much as a small batch
            if self.issued - self.taken <= self.most - wake:
                self.room.notify(wake)
            return outcome


class Prefetcher(Generic[T, R]):
    """Results of ``build`` over ``tasks``, computed ahead on threads and taken in order.

    Parameters
    ----------
    tasks : iterator
        Advanced by one thread at a time, under a lock.
    build : callable
        Called with one task, on any of the threads.
    threads : int
        0: nothing is prefetched, ``build`` runs in the thread that asks.
    most : int
        How many results may exist or be under way that were not taken, at least 1.

    Examples
    --------
    >>> list(Prefetcher(iter(range(4)), lambda n: n * n, threads=2, most=3))
    [0, 1, 4, 9]
    """

    def __init__(self, tasks: Iterator[T], build: Callable[[T], R], *, threads: int, most: int) -> None:
        self._queue: _Queue[T, R] = _Queue(tasks, build, threads, max(1, most))
        weakref.finalize(self, self._queue.stop)
        _QUEUES.add(self._queue)
        for thread in self._queue.threads:
            thread.start()

    def __iter__(self) -> Prefetcher[T, R]:
        return self

    def __next__(self) -> R:
        if not self._queue.threads:
            if self._queue.stopped:
                raise StopIteration
            return self._queue.build(next(self._queue.tasks))
        outcome = self._queue.take()
        if outcome is None:
            self.close()
            raise StopIteration
        result, error = outcome
        if error is not None:
            self.close()
            raise error
        return result  # type: ignore[return-value]

    def close(self) -> None:
        """End the threads and wait for them. Results that were not taken are dropped."""
        self._queue.stop()
        for thread in self._queue.threads:
            if thread is not threading.current_thread():
                thread.join()


@dataclass(slots=True)
class EpochProgress:
    """Where an iterator began, and what its loop received; outlives it, so that a state can be taken after a break."""

    began: Position
    position: Position


class Iteration:
    """Iterates the rest of an epoch from a position; what `WindowLoader.__iter__` returns.

    Parameters
    ----------
    pipeline : Pipeline
    progress : EpochProgress
        Its position is where this begins; it follows what the loop received.
    deliver : callable
        ``deliver(batch)`` gives what the loop receives (device copy, transform), in the loop's thread.
    finished : callable
        Called once with the position after the last step when the end is reached.
    stats : EpochStats
        Receives the waits.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        progress: EpochProgress,
        *,
        deliver: Callable[[Batch], Any],
        finished: Callable[[Position], None],
        stats: EpochStats,
    ) -> None:
        self._pipeline = pipeline
        self._progress = progress
        self._deliver = deliver
        self._finished = finished
        self._stats = stats
        self._begun: float | None = None
        self._closed = self._over = False
        self._here: deque[Built] = deque()  # built in one call with what the loop has
        self._start()

    def _start(self) -> None:
        pipeline, position = self._pipeline, self._progress.position
        pipeline.check_files()
        self._stream = stream = pipeline.access.stream(position)
        if stream.reads is not None:
            self._stats.follow(stream.reads)
        weakref.finalize(self, stream.abandon)
        self._prefetcher: Prefetcher[list[BatchTask], list[Built]] = Prefetcher(
            pipeline.groups(position),
            partial(pipeline.build, stream),
            threads=pipeline.threads,
            most=max(1, pipeline.prefetch // pipeline.batches_per_call),
        )

    def waits(self, progress: EpochProgress | None) -> bool:
        """Whether this is the iterator of a progress and was not asked for a batch yet."""
        return progress is self._progress and self._begun is None and not self._closed

    def begin_at(self, position: Position) -> None:
        """Begin elsewhere, which only an iterator that `waits` can."""
        self._stream.close()
        self._prefetcher.close()
        self._progress.began = self._progress.position = position
        self._stats.epoch = position.epoch
        self._start()

    def __iter__(self) -> Iteration:
        return self

    def __next__(self) -> Any:
        asked = time.perf_counter()
        if self._begun is None:
            self._begun = asked
        try:
            if not self._here:
                self._here.extend(next(self._prefetcher))
        except StopIteration:
            self._end(asked)
            raise
        except BaseException:  # an interrupt while it waits
            self._break_off()
            raise
        built = self._here.popleft()
        if built.error is not None:
            self._break_off()
            raise built.error
        got = time.perf_counter()
        try:
            received = self._deliver(built.batch)
        except BaseException:  # the loop did not receive it: it is the next one again
            self._here.appendleft(built)
            raise
        self._stats.record(asked, got, built.timeline, built.windows, built.nbytes)
        self._stats.seconds = got - self._begun
        self._progress.position = built.after
        return received

    def _break_off(self) -> None:
        self._stream.close(wait=True)  # first, as threads may wait for it
        self._prefetcher.close()

    def _end(self, asked: float) -> None:
        """Report the end of the epoch, if it is one: an iterator ends early after an error or `close`."""
        position = self._progress.position
        self._stream.close()
        if self._over:
            return
        if self._pipeline.steps.left(position) == 0:
            self._over = True
            self._stats.seconds = asked - (self._begun or asked)
            self._finished(position)
        elif self._closed:
            raise ClosedError(
                f"the loader was closed, or another state loaded, after step {position.step} of epoch "
                f"{position.epoch}; its iterators have no more batches. Load its state_dict() into a new loader to "
                "continue."
            )

    def close(self) -> None:
        """End prefetching; batches that were not received are dropped."""
        self._closed = True
        self._stream.close()  # first, as threads may wait for it
        self._prefetcher.close()
        self._here.clear()


class EpochSampler:
    """What scripts written for torch's DistributedSampler call: ``loader.sampler.set_epoch(epoch)``.

    Unlike `WindowLoader.set_epoch` it moves an iterator along that gave no batch yet, as torch's samplers do: some
    trainers make the iterator first and set the epoch afterwards.
    """

    def __init__(self, move: Callable[[int], None]) -> None:
        self._move = move

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing changes if it is the current one."""
        self._move(epoch)


def refuse_worker() -> None:
    """Raise in a worker of a DataLoader, where the loader would deliver every batch once per worker."""
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is not None and torch_data.get_worker_info() is not None:
        raise LoaderError(
            "a WindowLoader was iterated inside a DataLoader worker: each worker would deliver every batch again. "
            "Use WindowLoader by itself (it prefetches batches on threads), or give the DataLoader a "
            "windowloader.adapters.pytorch.WindowDataset."
        )
