"""What sources share whose rows must be asked for: checked ranges, handles by process.

In: what a family found out about its store. Out: `RemoteSource` to build on. Never carries a handle over a fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .base import LocalSource
from .processes import PerProcess
from .reads import Done

if TYPE_CHECKING:
    import numpy as np

    from windowloader.source import Pending

__all__ = ["Opened", "RemoteSource"]


class Opened(Protocol):
    """A store as one process has it open."""

    def submit(self, start: int, stop: int, out: np.ndarray) -> Pending:
        """Begin to read rows, which are there."""

    def close(self) -> None:
        """Let go of it."""


class RemoteSource(LocalSource):
    """Base of the sources that ask a store: a family gives `_open`, `requests`, `fingerprint`.

    Opened at the first read, once per process. In a process that was forked after TensorStore was loaded, a read by
    TensorStore is an error.
    """

    cache_bytes: int = 0  # of memory that the store's own cache may take, for plans

    def __init__(self, name: str, **described: Any) -> None:
        super().__init__(name, **described)
        self._process: PerProcess[Opened] = PerProcess()

    def _open(self) -> Opened:
        raise NotImplementedError

    def read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Read rows ``[start, stop)`` into ``out``, any strides; do not use ``out`` again after an error."""
        self.submit(start, stop, out).result()

    def submit(self, start: int, stop: int, out: np.ndarray) -> Pending:
        """Begin to read and return at once; ``out`` must stay alive until the result."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(
                f"rows [{start}, {stop}) were asked of {self.name!r}, which has rows [0, {self.shape[0]})."
            )
        if out.shape != (expected := (stop - start, *self.shape[1:])) or out.dtype != self.dtype:
            raise ValueError(
                f"rows [{start}, {stop}) of {self.name!r} have shape {expected} and dtype {self.dtype}, "
                f"but out has {out.shape} and {out.dtype}."
            )
        return self._process.get(self._open).submit(start, stop, out) if out.size else Done()

    def requests(self, start: int, stop: int) -> np.ndarray:
        """Bytes of each request that reading rows ``[start, stop)`` at once makes, int64, one entry a request."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of handles; a later read opens them again."""
        if (opened := self._process.drop()) is not None:
            opened.close()
