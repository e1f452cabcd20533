"""One result made by several threads: whoever has nothing of its own to do takes a share.

In: the parts of a result, as calls that may run at the same time. Out: all of them done. Never starts a thread, and
never waits for one that is not at work on a part.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["WorkerPool"]


class _Shares:
    """The parts of one result; all fields change under the crew's lock."""

    __slots__ = ("ended", "error", "parts", "running")

    def __init__(self, parts: Sequence[Callable[[], None]], lock: threading.RLock) -> None:
        self.parts = deque(parts)
        self.running = 0
        self.error: BaseException | None = None
        self.ended = threading.Condition(lock)


class WorkerPool:
    """Threads that help each other.

    Parameters
    ----------
    threads : int
        How many there are.

    Attributes
    ----------
    lock : threading.RLock
    idle : threading.Condition
        Of that lock. To be notified when there is other work for threads in `help_or_wait`.

    Examples
    --------
    >>> done = []
    >>> WorkerPool(2).run([lambda: done.append(1), lambda: done.append(2)])
    >>> done
    [1, 2]
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        # the garbage collector may end the work in a thread that has the lock
        self.lock = threading.RLock()
        self.idle = threading.Condition(self.lock)
        self._open: deque[_Shares] = deque()
        self._waiting = 0

    def run(self, parts: Sequence[Callable[[], None]]) -> None:
        """Run all parts, in this thread and in those that are idle; return once all have ended.

        The first error is raised, after the parts that had begun; others are not begun.
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
        """Run a part of the oldest result that has some left, or wait to be woken. Called with the lock held."""
        if self._open:
            self._work(self._open[0])
            return
        self._waiting += 1
        self.idle.wait()
        self._waiting -= 1

    @property
    def hands(self) -> int:
        """How many threads would work on a result now: the caller, and those that wait."""
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
