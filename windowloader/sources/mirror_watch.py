"""Looking for blocks that another process fetches: one thread a mirror, while there is something to wait for.

In: reads that wait. Out: they are told to look again, soon at first and then less often. Never spins, and never waits
for what this process itself is doing: that wakes it.
"""

from __future__ import annotations

import threading
from typing import Protocol

from windowloader.errors import ClosedError

__all__ = ["Watch", "Watched"]

SOON, LATE = 0.002, 0.05  # seconds between two looks


class Watched(Protocol):
    """A read that waits for blocks another process fetches."""

    def advance(self) -> bool:
        """Look again; whether there is still something to wait for."""

    def fail(self, error: BaseException) -> None:
        """Give up."""


class Watch:
    """The reads of one mirror that wait for other processes.

    Parameters
    ----------
    changed : Condition
        Notified when a block of this process has moved on; what other processes do shows in the table only.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._reads: list[Watched] = []
        self._running = False
        self._closed = ""

    def add(self, read: Watched) -> None:
        """Let a read look again until it has nothing to wait for."""
        with self._changed:
            self._reads.append(read)
            self._changed.notify_all()
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="windowloader-mirror-watch", daemon=True).start()

    def close(self, why: str, *, wait: bool) -> None:
        """Fail the reads that wait, and end the thread."""
        with self._changed:
            self._closed = why
            self._changed.notify_all()
            while wait and self._running:
                self._changed.wait()

    def _run(self) -> None:
        pause = SOON
        while True:
            with self._changed:
                if not self._reads:
                    self._running = False
                    self._changed.notify_all()
                    return
                if not self._closed:
                    self._changed.wait(pause)
                reads, self._reads, closed = self._reads, [], self._closed
            if closed:
                for read in reads:
                    read.fail(ClosedError(closed))
                continue
            waiting = [read for read in reads if read.advance()]
            pause = SOON if len(waiting) < len(reads) else min(2 * pause, LATE)
            with self._changed:
                self._reads = waiting + self._reads
