"""How much private memory this process holds, watched while something runs.

In: nothing but /proc. Out: bytes at the beginning and at the highest point. Private is what no other process shares:
pages of mapped files are the kernel's cache and do not count.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

__all__ = ["MemoryWatch", "private_bytes"]


def private_bytes() -> int:
    """Return anonymous memory of this process, RssAnon of /proc/self/status; 0 where that is not known."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


class MemoryWatch:
    """Looks every few milliseconds while its block runs.

    Parameters
    ----------
    every : float
        Seconds between looks.

    Attributes
    ----------
    begun, peak : int
        Bytes when the block began, and at the highest point.

    Examples
    --------
    >>> with MemoryWatch() as watch:
    ...     held = bytearray(1 << 24)
    >>> watch.grown >= 0
    True
    """

    def __init__(self, every: float = 0.01) -> None:
        self._every = every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="windowloader-memory-watch", daemon=True)
        self.begun = self.peak = 0

    @property
    def grown(self) -> int:
        """Bytes between the beginning and the highest point."""
        return self.peak - self.begun

    def _look(self) -> None:
        while not self._done.wait(self._every):
            self.peak = max(self.peak, private_bytes())

    def __enter__(self) -> Self:
        self.begun = self.peak = private_bytes()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = max(self.peak, private_bytes())
        self._done.set()
        self._thread.join()
