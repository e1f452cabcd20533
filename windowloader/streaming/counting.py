"""What an epoch read, in the units of its plan: to hold `WindowLoader.stats` against `WindowLoader.plan`.

In: jobs, when whoever needed their rows has them, or when they were given up. Out: `Reads`. Counts each job once, for
the epoch that needed it, whenever it was read; what nobody needed counts for the epoch in which it was given up. Never
counts what a mirror had already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .chunking import Chunking, Cost
    from .reader import Job

__all__ = ["Reads"]


@dataclass(slots=True)
class Reads:
    """Bytes, requests and blocks of one iterator.

    Attributes
    ----------
    bytes, requests : int
        Decoded bytes that storage handed out, and requests to it; a shard's index counts as one, once.
    blocks : int
        Blocks, as often as they were read.

    Examples
    --------
    >>> from windowloader.streaming.chunking import Chunking
    >>> reads = Reads()
    >>> reads.note(Chunking(np.array([0, 10, 20]), row_bytes=8).cost([5], [10]))
    >>> reads.bytes, reads.requests
    (80, 1)
    """

    bytes: int = 0
    requests: int = 0
    blocks: int = 0
    _shards: set[tuple[Chunking, int]] = field(default_factory=set, repr=False)
    """Those whose index was read."""

    def take(self, other: Reads) -> None:
        """Count what another one did, too."""
        self.bytes += other.bytes
        self.requests += other.requests
        self.blocks += other.blocks
        self._shards |= other._shards

    def settle(self) -> None:
        """Forget which shards were met: the numbers stay."""
        self._shards.clear()

    def note(self, cost: Cost) -> None:
        """Count reads that were no jobs."""
        self.bytes += int(np.sum(cost.bytes))
        self.requests += int(np.sum(cost.requests))

    def add(self, jobs: Iterable[Job]) -> None:
        """Count jobs that are over, each once; under the reader's lock."""
        for job in jobs:
            if job.counted:
                continue
            job.counted = True
            self.blocks += job.blocks
            parts: dict[Chunking, list[tuple[int, int]]] = {}
            for one in job.ranges[: job.given]:
                if one not in job.fetched:
                    self.bytes += one.handed
                    self.requests += one.requests
                    if one.chunking is not None and one.chunking.shards is not None:
                        parts.setdefault(one.chunking, []).append((one.begin, one.end))
                elif one.chunking is not None and job.fetched[one]:
                    self.note(one.chunking.cost(*np.array(job.fetched[one]).T))
                    parts.setdefault(one.chunking, []).extend(job.fetched[one])
            for chunking, rows in parts.items():
                self._index(chunking, np.array(rows, np.int64))

    def _index(self, chunking: Chunking, rows: np.ndarray) -> None:
        """Count the indexes of shards that are read in part for the first time."""
        found = {(chunking, shard) for shard in chunking.broken(*rows.T).tolist()} - self._shards
        self._shards |= found
        self.requests += len(found) * chunking.columns
