"""Reading in a process that was forked after TensorStore was loaded, through a helper process that was not.

TensorStore's threads do not survive a fork, and it aborts a child that uses it, even with a store opened afresh.
A process that is started anew has no such past: it opens the source from its pickle and sends rows through a
socket. In: a source. Out: its rows, in order of request. Never starts before the first read.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceError

from .box import box_shape
from .failures import Asked
from .processes import PerProcess
from .reads import Progress, Read

if TYPE_CHECKING:
    from collections.abc import Callable

    from .base import Source
    from .box import Box
    from .reads import Pending

__all__ = ["Relayed", "serve"]

FOREVER = 1e6  # the helper has the limits; this side waits for its answer
MAIN = "import sys; sys.path[:] = {path!r}; from windowloader.sources.relay import serve; serve({number})"


class Relayed:
    """A source whose rows come from the helper.

    Parameters
    ----------
    source : Source
        Pickled to the helper.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.helper = _HELPER.get(_Helper)
        self.key = self.helper.open(source)

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read rows."""
        future = self.helper.ask(("read", self.key, start, stop, box), out)
        return Read([future], None, Asked(self.source.name, (start, stop)), FOREVER, Progress(), None)

    def call(self, method: Callable[..., Any], *arguments: object) -> Any:
        """Return what a method of the source's class returns."""
        return self.helper.ask(("call", self.key, method, arguments)).result()

    def close(self) -> None:
        """Close the source in the helper."""
        self.call(type(self.source).close)


class _Helper:
    """The helper process of this process, and the thread that takes its answers in order."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = MAIN.format(path=sys.path, number=theirs.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL
            )
        self.connection = Connection(ours.detach())
        self.lock = threading.Lock()
        self.waiting: deque[tuple[Future[Any], np.ndarray | None]] = deque()
        self.sources = 0
        threading.Thread(target=self._receive, name="windowloader-relay", daemon=True).start()

    def open(self, source: Source) -> int:
        self.sources += 1
        key = self.sources
        self.ask(("open", key, source))
        return key

    def ask(self, request: tuple[Any, ...], out: np.ndarray | None = None) -> Future[Any]:
        future: Future[Any] = Future()
        with self.lock:  # answers come in the order of requests
            self.waiting.append((future, out))
            try:
                self.connection.send(request)
            except OSError as error:
                self.waiting.pop()
                raise self._ended() from error
        return future

    def _receive(self) -> None:
        while True:
            try:
                ok, answer = self.connection.recv()
                future, out = self.waiting.popleft()
                if ok and out is not None:
                    self._receive_rows(out)
            except (EOFError, OSError):
                while self.waiting:
                    self.waiting.popleft()[0].set_exception(self._ended())
                return
            if ok:
                future.set_result(answer)
            else:
                future.set_exception(answer)

    def _receive_rows(self, out: np.ndarray) -> None:
        rows = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
        self.connection.recv_bytes_into(rows.reshape(-1).view(np.uint8))
        if rows is not out:
            out[...] = rows

    def _ended(self) -> SourceError:
        return SourceError(
            "the helper process that reads for this forked process ended (exit status "
            f"{self.process.poll()}). Start workers with multiprocessing_context='spawn' or 'forkserver' to do without."
        )


_HELPER: PerProcess[_Helper] = PerProcess()


def serve(descriptor: int) -> None:
    """Answer requests until the other side is gone; runs in the helper process.

    Parameters
    ----------
    descriptor : int
        Of the socket.
    """
    connection = Connection(descriptor)
    jobs: SimpleQueue[Callable[[], tuple[Any, np.ndarray | None]]] = SimpleQueue()
    threading.Thread(target=_answer, args=(connection, jobs), daemon=True).start()
    sources: dict[int, Source] = {}
    while True:
        try:
            kind, key, *rest = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # nobody waits for reads under way
        jobs.put(_job(sources, kind, key, rest))


def _job(
    sources: dict[int, Source], kind: str, key: int, rest: list[Any]
) -> Callable[[], tuple[Any, np.ndarray | None]]:
    """Begin what was asked and return how to end it: reads overlap, answers keep their order."""
    if kind == "open":
        sources[key] = rest[0]
        return lambda: (None, None)
    source = sources[key]
    if kind == "call":
        return lambda: (rest[0](source, *rest[1]), None)
    start, stop, box = rest
    rows = np.empty((stop - start, *(source.shape[1:] if box is None else box_shape(box))), source.dtype)
    try:
        pending = source.submit(start, stop, rows, box)
    except Exception as error:
        problem = error
        return lambda: _raise(problem)
    return lambda: (pending.result(), rows)


def _raise(error: Exception) -> tuple[Any, None]:
    raise error


def _answer(connection: Connection, jobs: SimpleQueue[Callable[[], tuple[Any, np.ndarray | None]]]) -> None:
    while True:
        job = jobs.get()
        try:
            answer, rows = job()
        except Exception as error:
            connection.send((False, error))
            continue
        connection.send((True, answer))
        if rows is not None:
            connection.send_bytes(rows.reshape(-1).view(np.uint8))
