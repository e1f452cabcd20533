"""What an epoch read, in the units of its plan: to hold `WindowLoader.stats` against `WindowLoader.plan`.

In: jobs, when whoever needed their rows has them, or when they were given up. Out: `ReadCounts`. Counts each job once,
for the epoch that needed it, whenever it was read; what nobody needed counts for the epoch in which it was given up.
Never counts what the disk cache had already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from windowloader.sources.storage import Storage

    from .reader import Job

__all__ = ["ReadCounts"]


@dataclass(slots=True)
class ReadCounts:
    """Bytes, requests and blocks of one iterator.

    Attributes
    ----------
    bytes, requests : int
        Bytes that reads say they took from storage, and requests to it; a shard's index counts as one, once.
    blocks : int
        Blocks, as often as they were read.

    Examples
    --------
    >>> reads = ReadCounts()
    >>> reads.note(80, requests=1)
    >>> reads.bytes, reads.requests
    (80, 1)
    """

    bytes: int = 0
    requests: int = 0
    blocks: int = 0
    _shards: set[tuple[Storage, int]] = field(default_factory=set, repr=False)
    """Those whose index was read."""

    def take(self, other: ReadCounts) -> None:
        """Count what another one did, too."""
        self.bytes += other.bytes
        self.requests += other.requests
        self.blocks += other.blocks
        self._shards |= other._shards

    def settle(self) -> None:
        """Forget which shards were met: the numbers stay."""
        self._shards.clear()

    def note(self, size: int, requests: int) -> None:
        """Count a read that was no job."""
        self.bytes += size
        self.requests += requests

    def add(self, jobs: Iterable[Job]) -> None:
        """Count jobs that are over, each once; under the reader's lock."""
        for job in jobs:
            if job.counted:
                continue
            job.counted = True
            self.blocks += job.blocks
            parts: dict[Storage, list[tuple[int, int]]] = {}
            for one in job.ranges[: job.given]:
                self.bytes += job.taken.get(one, 0)
                if one not in job.fetched:
                    self.requests += one.requests
                    if one.storage is not None and one.storage.shards is not None:
                        parts.setdefault(one.storage, []).append((one.begin, one.end))
                elif one.storage is not None and job.fetched[one]:
                    self.requests += int(one.storage.cost(*np.array(job.fetched[one]).T).requests.sum())
                    parts.setdefault(one.storage, []).extend(job.fetched[one])
            for storage, rows in parts.items():
                self._index(storage, np.array(rows, np.int64))

    def _index(self, storage: Storage, rows: np.ndarray) -> None:
        """Count the indexes of shards that are read in part for the first time."""
        found = {(storage, shard) for shard in storage.broken(*rows.T).tolist()} - self._shards
        self._shards |= found
        self.requests += len(found) * storage.columns
