"""What sources share whose rows must be asked for: checked ranges, handles by process.

In: what a family found out about its store. Out: `RemoteSource` to build on. Never carries a handle over a fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .base import Source
from .processes import PerProcess
from .reads import Done

if TYPE_CHECKING:
    import numpy as np

    from .box import Box
    from .reads import Pending

__all__ = ["Opened", "RemoteSource"]


class Opened(Protocol):
    """A store as one process has it open."""

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read rows, which are there."""

    def close(self) -> None:
        """Let go of it."""


class RemoteSource(Source):
    """Base of the sources that ask a store: a family gives `_open`, `storage`, `fingerprint`.

    Opened at the first read, once per process. In a process that was forked after TensorStore was loaded, a read by
    TensorStore is an error.
    """

    cache_bytes: int = 0  # of memory that the store's own cache may take, for plans

    def __init__(self, name: str, **described: Any) -> None:
        super().__init__(name, **described)
        self._process: PerProcess[Opened] = PerProcess()

    def _open(self) -> Opened:
        raise NotImplementedError

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        """Read rows ``[start, stop)`` into ``out``, any strides; do not use ``out`` again after an error."""
        return self.submit(start, stop, out, box).result()

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read and return at once; ``out`` must stay alive until the result."""
        self.check_range(start, stop, out, box)
        if out.dtype != self.dtype:
            raise ValueError(f"rows of {self.name!r} have dtype {self.dtype}, but out has {out.dtype}.")
        return self._submit(start, stop, out, box) if out.size else Done()

    def _submit(self, start: int, stop: int, out: np.ndarray, box: Box | None) -> Pending:
        return self._process.get(self._open).submit(start, stop, out, box)

    def close(self) -> None:
        """Let go of handles; a later read opens them again."""
        if (opened := self._process.drop()) is not None:
            opened.close()
