"""Threads: a pool whose idle threads take parts of a result, and what stops before the interpreter exits.

In: parts of a result, as calls that may run at the same time; functions and their stage of shutdown. Out: all parts
done; the functions called once, in the order of their stages, when the interpreter begins to exit.

A thread of compiled code that asks for the interpreter when it has gone is unwound where it stands, which C++ answers
by aborting the process. So nothing may be under way then: no batch, no read, and nothing of Python's that a store's
threads have yet to release.
"""

from __future__ import annotations

import atexit
import enum
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Stage", "WorkerPool", "at_end", "end_all"]


class _Shares:
    """The parts of one result; all fields change under the pool's lock."""

    __slots__ = ("ended", "error", "parts", "running")

    def __init__(self, parts: Sequence[Callable[[], None]], lock: threading.RLock) -> None:
        self.parts = deque(parts)
        self.running = 0
        self.error: BaseException | None = None
        self.ended = threading.Condition(lock)


class WorkerPool:
    """Threads that share work: idle ones take parts of each other's results. Never starts a thread.

    Parameters
    ----------
    threads : int
        Number of threads in the pool.

    Attributes
    ----------
    lock : threading.RLock
    idle : threading.Condition
        Of that lock. Notify it when there is other work for threads in `help_or_wait`.

    Examples
    --------
    >>> done = []
    >>> WorkerPool(2).run([lambda: done.append(1), lambda: done.append(2)])
    >>> done
    [1, 2]
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        # reentrant: the garbage collector may close an iterator in a thread that has the lock
        self.lock = threading.RLock()
        self.idle = threading.Condition(self.lock)
        self._open: deque[_Shares] = deque()
        self._waiting = 0

    def run(self, parts: Sequence[Callable[[], None]]) -> None:
        """Run all parts, in this thread and in idle ones; return when all have ended.

        The first error is raised after the parts that had begun; the others are not begun.
        """
        if len(parts) < 2:
            for part in parts:
                part()
            return
        shares = _Shares(parts, self.lock)
        with self.lock:
            self._open.append(shares)
            self.idle.notify(len(parts) - 1)
            while self._work(shares):
                pass
            while shares.running:
                shares.ended.wait()
        if shares.error is not None:
            raise shares.error

    def help_or_wait(self) -> None:
        """Run a part of the oldest unfinished result, or wait for a notification. Call it with the lock acquired."""
        if self._open:
            self._work(self._open[0])
            return
        self._waiting += 1
        self.idle.wait()
        self._waiting -= 1

    @property
    def hands(self) -> int:
        """Number of threads that would work on a result now: the caller, and those that wait."""
        return 1 + self._waiting

    def _work(self, shares: _Shares) -> bool:
        """Take a part and run it without the lock; False where none is left."""
        if not shares.parts:
            return False
        part = shares.parts.popleft()
        if not shares.parts:
            self._open.remove(shares)
        shares.running += 1
        self.lock.release()
        error = None
        try:
            part()
        except BaseException as found:
            error = found
        finally:
            del part
            self.lock.acquire()
        if error is not None and shares.error is None:
            shares.error = error
            if shares.parts:
                shares.parts.clear()
                self._open.remove(shares)
        shares.running -= 1
        if not shares.running:
            shares.ended.notify()
        return True


class Stage(enum.IntEnum):
    """Stages of shutdown, in order."""

    CALL_OFF = 0
    """Signal that no more is wanted, without waiting."""
    READS = 1
    """Start no more reads, and fail those that wait for storage."""
    BATCHES = 2
    """Wait for threads that write to batches."""
    LENT = 3
    """Wait for objects that threads of libraries still reference."""


_CALLS: list[tuple[Stage, Callable[[], None]]] = []


def at_end(stage: Stage) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Decorate a function to be called when the interpreter exits, after those of earlier stages.

    Parameters
    ----------
    stage : Stage

    Examples
    --------
    >>> @at_end(Stage.CALL_OFF)
    ... def leave():
    ...     pass
    """

    def register(call: Callable[[], None]) -> Callable[[], None]:
        _CALLS.append((stage, call))
        return call

    return register


@atexit.register
def end_all() -> None:
    """Call the registered functions, once.

    Register this with `atexit` again after importing a library that stops its own threads there: what is registered
    last is called first, and threads that such a library has stopped cannot be waited for.
    """
    calls = sorted(_CALLS, key=lambda entry: entry[0])
    _CALLS.clear()
    for _, call in calls:
        call()
