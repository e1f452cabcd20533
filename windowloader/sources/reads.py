"""A read under way: waiting while something arrives, finishing, and its errors.

In: a future of TensorStore or of a thread pool. Out: a `Pending` of the source protocol. Never waits without end.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import itertools
import math
import os
import socket
import stat
import sys
import time
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from windowloader.errors import CredentialsError, SourceError, SourceTimeoutError, WindowLoaderError
from windowloader.util.threads import Stage, at_end

from .failures import Asked, explained
from .processes import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Done",
    "Pending",
    "Progress",
    "Read",
    "Threaded",
    "begun",
    "in_thread",
    "lend",
    "taken",
    "wait",
    "wait_all",
]

T = TypeVar("T")

PATIENCE = 5.0  # seconds for reads to end when the interpreter does; then TensorStore is abandoned
LOOK = 1.0  # seconds between two looks at what has arrived, while a caller waits
AGAIN = 0.05  # seconds between two looks at least, however many reads ask
STOPPED = 2.0  # seconds without a look after which this process is taken to have been stopped
THREADS = 16  # of the default `submit`
LEAST = 64 << 10  # bytes that must arrive within a store's time-out, or its reads fail: less is a trickle
HANDSHAKE = 16 << 10  # first bytes of a connection, which do not count: TLS takes them before any answer
TCP_INFO = 11
INFO_BYTES = 136  # of Linux' struct tcp_info, up to and including the counter
COUNTER = 128

_LENT: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


def lend(thing: T) -> T:
    """Note an array or a function that threads of TensorStore hold until a read is over, and return it.

    They need the interpreter to release it, so that it must not end before.

    Parameters
    ----------
    thing : object
        The caller keeps no other reference to it.
    """
    _LENT[next(_NUMBERS)] = thing
    return thing


@at_end(Stage.LENT)
def _await_lent() -> None:
    deadline = time.monotonic() + PATIENCE
    while len(_LENT) and time.monotonic() < deadline:
        time.sleep(0.001)


class _Connections:
    """The total, and what each connection had received at the last look, by inode."""

    def __init__(self) -> None:
        self.total = 0
        self.known: dict[int, int] = {}

    def look(self) -> int:
        found = {}
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found[status.st_ino] = max(_received_by(int(name)) - HANDSHAKE, 0)
        self.total += sum(max(count - self.known.get(inode, 0), 0) for inode, count in found.items())
        self.known = found
        return self.total


def _received_by(descriptor: int) -> int:
    """Return the bytes that a TCP connection has received; 0 for other descriptors."""
    # Not `socket.socket(fileno=…)`: with a default timeout set it would make the connection non-blocking.
    info, size = ctypes.create_string_buffer(INFO_BYTES), ctypes.c_uint(INFO_BYTES)
    failed = _LIBRARY.getsockopt(descriptor, socket.IPPROTO_TCP, TCP_INFO, info, ctypes.byref(size))
    known = not failed and size.value == INFO_BYTES
    return int.from_bytes(info.raw[COUNTER:], sys.byteorder) if known else 0


_LIBRARY = ctypes.CDLL(None)
_CONNECTIONS: PerProcess[_Connections] = PerProcess()


def received() -> int:
    """Return the bytes received over all TCP connections of this process since the first call; 0 except on Linux.

    TensorStore reports an answer only when all of it has arrived; the kernel counts bytes before. Traffic of other
    libraries in the process counts too.

    Examples
    --------
    >>> received() <= received()
    True
    """
    return _CONNECTIONS.get(_Connections).look() if sys.platform == "linux" else 0


class Progress:
    """When a store last made progress, over all its reads: a queue behind a slow link is not a stall.

    Progress is a read that succeeds, or `LEAST` bytes that arrive. A read that failed or was given up does
    not count: it would keep the others waiting as long again. Time in which this process was stopped
    (SIGSTOP, a suspended job, a frozen container) does not count.

    Parameters
    ----------
    renew : callable, optional
        Called when a read is given up, or fails by a fault that may pass: the next one must not join its requests,
        which cannot be stopped.
    """

    __slots__ = ("_arrived", "_last", "_looked", "give_up")

    def __init__(self, renew: Callable[[], object] = lambda: None) -> None:
        self._last = self._looked = time.monotonic()
        self._arrived: int | None = None
        self.give_up = renew

    def touch(self, future: Any) -> None:
        """Note that a read is over now, if it succeeded."""
        with contextlib.suppress(BaseException):  # it was cancelled
            if future.exception() is None:
                self._last = time.monotonic()

    def left(self, since: float, limit: float) -> float:
        """Return after how many seconds without progress a read fails; at most 0: it fails now.

        Parameters
        ----------
        since : float
            When it was submitted.
        limit : float
            Seconds that it may wait without progress.
        """
        now = time.monotonic()
        if now - self._looked >= AGAIN:
            arrived = received()
            if self._arrived is None:
                self._arrived = arrived
            if now - self._looked > STOPPED or arrived - self._arrived >= LEAST:
                self._last, self._arrived = now, arrived
            self._looked = now
        return max(since, self._last) + limit - now


class Pending:
    """A read under way. One of your own gives `result`, `done` and `add_done_callback`."""

    __slots__ = ()

    fetched: list[tuple[int, int]] | None = None
    """Of a read through a cache on disk: the rows that storage was asked for, from its first on. None elsewhere."""

    def result(self, timeout: float | None = None) -> int:
        """Wait until the rows stand in ``out``; return the bytes taken, or raise what the read raised."""
        raise NotImplementedError

    def done(self) -> bool:
        """Whether `result` would return at once. Default: it does."""
        return True

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call ``call(self)`` once when `done` has become true, from any thread; at once if it is."""
        call(self)

    def overdue(self) -> bool:
        """Whether it has waited longer than its source allows, so that `result` would raise now."""
        return False


@dataclass(slots=True, eq=False)
class Done(Pending):
    """A read that is over: of no rows, or done at once, as local sources answer to ``submit``."""

    taken: int = 0

    def result(self, timeout: float | None = None) -> int:
        """Return at once."""
        return self.taken


@dataclass(slots=True, eq=False)
class Threaded(Pending):
    """A read that a `concurrent.futures.Future` stands for; its result is the bytes taken."""

    future: concurrent.futures.Future[int]

    def result(self, timeout: float | None = None) -> int:
        """Wait, and return the bytes taken."""
        return self.future.result(timeout)

    def done(self) -> bool:
        """Whether it is over."""
        return self.future.done()

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call once the future is done."""
        calls = [call]  # the future and this read refer to each other, and must not keep the rows alive
        self.future.add_done_callback(lambda _: calls.pop()(self))


def begun(pending: object, name: str) -> Pending:
    """Return what ``submit`` of a source returned as a `Pending`; `SourceError` if it is none."""
    if isinstance(pending, Pending):
        return pending
    if isinstance(pending, concurrent.futures.Future):
        return Threaded(pending)
    raise SourceError(
        f"submit() of {name!r} returned {pending!r}; return a windowloader.sources.Pending or a "
        "concurrent.futures.Future whose result is the bytes taken."
    )


_THREADS: PerProcess[concurrent.futures.ThreadPoolExecutor] = PerProcess()


def in_thread(read: Callable[..., int], *arguments: Any) -> Pending:
    """Begin a read on a thread of this process, as sources do without a ``submit`` of their own."""
    threads = _THREADS.get(lambda: concurrent.futures.ThreadPoolExecutor(THREADS))
    return Threaded(threads.submit(read, *arguments))


def taken(result: object, name: str) -> int:
    """Return the bytes that a read reports to have taken; `SourceError` if it reports none."""
    if isinstance(result, int | np.integer):
        return int(result)
    raise SourceError(
        f"read() of {name!r} returned {result!r}; return the bytes that it took from storage, an integer. "
        "LoaderStats reports them."
    )


def wait(future: Any, asked: Asked, **how: Any) -> Any:
    """Return the result of one future; see `wait_all`."""
    return wait_all([future], asked, **how)[0]


def wait_all(
    futures: Sequence[Any],
    asked: Asked,
    *,
    limit: float,
    progress: Progress,
    since: float | None = None,
    timeout: float | None = None,
) -> list[Any]:
    """Return the results of futures.

    Parameters
    ----------
    futures : sequence
        With ``result(timeout)`` that raises TimeoutError, as TensorStore's and concurrent.futures' have.
    asked : Asked
        For messages.
    limit : float
        Seconds without progress of the store, from ``since`` on, after which it fails.
    progress : Progress
        Of the store.
    since : float, optional
        When they were submitted (``time.monotonic``). Default: now.
    timeout : float, optional
        Seconds to wait at most in this call.

    Raises
    ------
    SourceTimeoutError
        After ``timeout``, or ``limit`` without progress.
    WindowLoaderError
        For what the first read that failed raised.
    """
    now, results = time.monotonic(), []
    since, deadline = now if since is None else since, math.inf if timeout is None else now + timeout
    for future in futures:
        while not future.done():
            left, rest = progress.left(since, limit), deadline - time.monotonic()
            if left <= 0 and not future.done():
                future.cancel()
                progress.give_up()
                raise SourceTimeoutError(
                    f"{asked}: for {limit:g} s no read of this store finished, and less than {LEAST >> 10} KiB "
                    "arrived. The connection may be stalled; try again, or where answers do take that long, pass "
                    f"storage_options={{'timeout': {2 * limit:g}}}."
                )
            with contextlib.suppress(Exception):  # also its own error: see below
                future.result(timeout=max(min(left, LOOK, limit / 4, rest), 0.0))
            if rest <= 0 and not future.done():
                raise SourceTimeoutError(
                    f"{asked}: not read within {timeout:g} s; wait for the result again."
                )
        try:
            results.append(explained(asked, partial(future.result, timeout=0)))
        except WindowLoaderError as error:
            if not isinstance(error, CredentialsError):  # may pass: what comes next must not join what failed
                progress.give_up()
            raise
    return results


@dataclass(slots=True, eq=False)
class Read(Pending):
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
    taken : int
        Bytes that it takes.
    """

    futures: list[Any]
    finish: Callable[[list[Any]], None] | None
    asked: Asked
    limit: float
    progress: Progress
    taken: int = 0
    since: float = field(default_factory=time.monotonic)

    def result(self, timeout: float | None = None) -> int:
        """Wait until the rows stand in ``out``; return the bytes taken, or raise what the read raised."""
        how: Any = {"limit": self.limit, "since": self.since, "timeout": timeout}
        results = wait_all(self.futures, self.asked, progress=self.progress, **how)
        if self.finish is not None:
            explained(self.asked, partial(self.finish, results))
        self.finish, self.futures = None, []  # a second call has nothing to do
        return self.taken

    def done(self) -> bool:
        """Whether `result` would not wait for storage."""
        return all(future.done() for future in self.futures)

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call ``call(self)`` once when `done` has become true, from any thread; at once if it is."""
        waiting = next((future for future in self.futures if not future.done()), None)
        if waiting is None:
            call(self)
        else:
            waiting.add_done_callback(lend(lambda _: self.add_done_callback(call)))

    def overdue(self) -> bool:
        """Whether it has waited so long without any progress of its store that `result` would fail now."""
        return not self.done() and self.progress.left(self.since, self.limit) <= 0
