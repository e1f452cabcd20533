"""Work done ahead, on threads, handed out in order.

In: an iterator of tasks and a function that makes a result of one. Out: the results, in the order of the tasks.
At most ``ahead`` results exist or are being made that nobody took yet. An error surfaces where its result would have
come, with its own traceback. Never keeps a thread alive that nobody waits for: closing, running to the end, an error
and the garbage collector all end the threads.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from windowloader.util.threads import Stage, at_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from windowloader.util.threads import WorkerPool

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["Ahead"]


PATIENCE = 10.0  # seconds a thread may take to end when the interpreter does

_WORKS: weakref.WeakSet[_Work[Any, Any]] = weakref.WeakSet()
_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@at_end(Stage.CALL_OFF)
def _stop_all() -> None:
    for work in list(_WORKS):
        work.stop()


@at_end(Stage.BATCHES)
def _join_all() -> None:
    """Wait for the threads before the interpreter frees what their compiled loops write to."""
    for thread in list(_THREADS):
        if thread.is_alive():
            thread.join(PATIENCE)


class _Work(Generic[T, R]):
    """What the threads share. They hold this and not the `Ahead`, so that dropping the latter ends them."""

    def __init__(self, tasks: Iterator[T], make: Callable[[T], R], ahead: int, crew: WorkerPool) -> None:
        self.tasks = tasks
        self.make = make
        self.ahead = ahead
        self.again = max(
            1, ahead // 2
        )  # room for so many wakes the threads: to sleep and wake costs a small batch
        self.crew = crew
        self.lock, self.room = crew.lock, crew.idle
        self.ready = threading.Condition(self.lock)
        self.results: dict[int, tuple[R | None, BaseException | None]] = {}
        self.issued = 0
        self.taken = 0
        self.exhausted = False
        self.stopped = False

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            self.results.clear()
            self.room.notify_all()
            self.ready.notify_all()

    def claim(self) -> tuple[int, T] | None:
        """Wait for room, helping others, and take the next task; None when there is nothing more to do."""
        with self.lock:
            while not self.stopped:
                if self.exhausted:
                    return None
                if self.issued - self.taken < self.ahead:
                    return self._issue()
                self.crew.help_or_wait()
            return None

    def _issue(self) -> tuple[int, T] | None:
        try:
            task = next(self.tasks)
        except StopIteration:
            self.exhausted = True
        except BaseException as error:
            self.exhausted = True
            self.results[self.issued] = (None, error)
            self.issued += 1
        else:
            self.issued += 1
            return self.issued - 1, task
        self.ready.notify_all()
        self.room.notify_all()
        return None

    def run(self) -> None:
        while (claimed := self.claim()) is not None:
            index, task = claimed
            try:
                outcome: tuple[R | None, BaseException | None] = (self.make(task), None)
            except BaseException as error:
                outcome = (None, error)
            del task
            with self.lock:
                if not self.stopped:
                    self.results[index] = outcome
                    if index == self.taken:
                        self.ready.notify()
            del outcome  # a thread that waits for room must not hold a result that was taken

    def take(self) -> tuple[R | None, BaseException | None] | None:
        """Wait for the next result in order; None at the end."""
        with self.lock:
            while self.taken not in self.results:
                if self.stopped or (self.exhausted and self.taken >= self.issued):
                    return None
                self.ready.wait()
            outcome = self.results.pop(self.taken)
            self.taken += 1
            if self.issued - self.taken <= self.ahead - self.again:
                self.room.notify(self.again)
            return outcome


class Ahead(Generic[T, R]):
    """Results of ``make`` over ``tasks``, made ahead on threads and taken in order.

    Parameters
    ----------
    tasks : iterator
        Advanced by one thread at a time, under a lock.
    make : callable
        Called with one task, on any of the threads.
    crew : WorkerPool
        Its ``threads`` are started. 0: nothing is made ahead, ``make`` runs in the thread that asks. ``make`` may
        `WorkerPool.run` parts of a result, which threads take that have no room for another.
    ahead : int
        How many results may exist or be under way that were not taken, at least 1.
    name : str
        Of the threads.

    Examples
    --------
    >>> from windowloader.util.threads import WorkerPool
    >>> list(Ahead(iter(range(4)), lambda n: n * n, crew=WorkerPool(2), ahead=3))
    [0, 1, 4, 9]
    """

    def __init__(
        self,
        tasks: Iterator[T],
        make: Callable[[T], R],
        *,
        crew: WorkerPool,
        ahead: int,
        name: str = "windowloader",
    ) -> None:
        self._work: _Work[T, R] = _Work(tasks, make, max(1, ahead), crew)
        self._threads = [
            threading.Thread(target=self._work.run, name=f"{name}-{i}", daemon=True)
            for i in range(crew.threads)
        ]
        weakref.finalize(self, self._work.stop)
        _WORKS.add(self._work)
        _THREADS.update(self._threads)
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Ahead[T, R]:
        return self

    def __next__(self) -> R:
        if not self._threads:
            if self._work.stopped:
                raise StopIteration
            return self._work.make(next(self._work.tasks))
        outcome = self._work.take()
        if outcome is None:
            self.close()
            raise StopIteration
        result, error = outcome
        if error is not None:
            self.close()
            raise error
        return result  # type: ignore[return-value]

    def close(self) -> None:
        """End the threads and wait until they are gone. What was made and not taken is dropped."""
        self._work.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
