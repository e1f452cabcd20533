"""A read under way: waiting with a limit, finishing, and its errors.

In: a future of TensorStore or of a thread pool. Out: a `Pending` of the source protocol. Never waits without end.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import time
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from windowloader.ending import Stage, at_end

from .failures import Asked, explain, explained, stalled

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Done", "Progress", "Read", "lend", "wait"]

T = TypeVar("T")

TIMEOUTS = (TimeoutError, concurrent.futures.TimeoutError)
PATIENCE = (
    5.0  # seconds that reads may take to end when the interpreter does; then TensorStore is left to itself
)

_LENT: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


def lend(thing: T) -> T:
    """Note an array or a function that threads of TensorStore hold until a read is over, and return it.

    They need the interpreter to let go of it, so that it must not end before.

    Parameters
    ----------
    thing : object
        Nobody else's: the caller keeps no reference to it.
    """
    _LENT[next(_NUMBERS)] = thing
    return thing


@at_end(Stage.LENT)
def _await_lent() -> None:
    deadline = time.monotonic() + PATIENCE
    while len(_LENT) and time.monotonic() < deadline:
        time.sleep(0.001)


class Progress:
    """When a read last succeeded, over all reads of a store: a queue behind a slow link is not a stall.

    A read that failed or was given up is no sign of life: counted as one it would keep the others waiting as long
    again.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = time.monotonic()

    def touch(self, future: Any = None) -> None:
        """Note that a read is over now, if it succeeded."""
        if future is None or _succeeded(future):
            self.last = time.monotonic()


def _succeeded(future: Any) -> bool:
    try:
        return future.exception() is None
    except BaseException:  # cancelled
        return False


@dataclass(slots=True)
class Done:
    """A read that is over: of no rows, or done at once, as local sources answer to ``submit``."""

    def result(self, timeout: float | None = None) -> None:
        """Return at once."""

    def done(self) -> bool:
        """Return True."""
        return True


def wait(
    future: Any, asked: Asked, *, since: float, limit: float, progress: Progress, timeout: float | None
) -> Any:
    """Return a future's result.

    Parameters
    ----------
    future : object
        With ``result(timeout)`` that raises TimeoutError, as TensorStore's and concurrent.futures' have.
    asked : Asked
        For messages.
    since : float
        When it was submitted (``time.monotonic``).
    limit : float
        Seconds without any finished read of the store, from ``since`` on, after which it fails.
    progress : Progress
        Of the store.
    timeout : float or None
        Seconds to wait at most in this call.

    Raises
    ------
    SourceTimeoutError
        After ``timeout``, or ``limit`` without progress.
    WindowLoaderError
        For what the read raised.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        now = time.monotonic()
        idle = max(since, progress.last) + limit - now
        left = idle if deadline is None else min(idle, deadline - now)
        try:
            return future.result(timeout=max(left, 0.0))
        except TIMEOUTS as error:
            if future.done() and not isinstance(error, TIMEOUTS):  # pragma: no cover, cannot be
                raise
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise stalled(asked, timeout or 0.0) from None
            if now >= max(since, progress.last) + limit:
                future.cancel()
                raise stalled(asked, limit) from None
        except Exception as error:
            failed = explain(error, asked)
            break
    raise failed  # alone: the library's own text has URLs with their queries


@dataclass(slots=True)
class Read:
    """A read of rows into an array.

    Parameters
    ----------
    futures : list
        All must finish.
    finish : callable or None
        Called once with their results, in the thread that waits; puts rows where they belong.
    asked : Asked
        For messages.
    limit : float
        Seconds without progress after which it fails.
    progress : Progress
        Of the store.
    """

    futures: list[Any]
    finish: Callable[[list[Any]], None] | None
    asked: Asked
    limit: float
    progress: Progress
    since: float = field(default_factory=time.monotonic)
    over: bool = False

    def result(self, timeout: float | None = None) -> None:
        """Wait until the rows stand in ``out``; raise what the read raised."""
        if self.over:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        results = []
        for future in self.futures:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            results.append(
                wait(
                    future,
                    self.asked,
                    since=self.since,
                    limit=self.limit,
                    progress=self.progress,
                    timeout=left,
                )
            )
        if self.finish is not None:
            explained(self.asked, partial(self.finish, results))
        self.over = True
        self.futures = []

    def done(self) -> bool:
        """Whether `result` would not wait for storage."""
        return all(future.done() for future in self.futures)

    def add_done_callback(self, call: Callable[[object], object]) -> None:
        """Call ``call(self)`` once when `done` has become true, from any thread; at once if it is."""
        left = len(self.futures)
        if left == 0:
            call(self)
            return
        counter = itertools.count(1)  # its steps are atomic, whichever threads the futures end in

        def ended(_future: object) -> None:
            if next(counter) == left:
                call(self)

        for future in list(self.futures):
            future.add_done_callback(lend(partial(ended)))

    def overdue(self) -> bool:
        """Whether it has waited so long without any progress of its store that `result` would fail now."""
        last = max(self.since, self.progress.last)
        return not self.done() and time.monotonic() >= last + self.limit
