"""What all ways to read a stream share: a reader, its variables, arenas, and windows that are read by themselves.

In: a `ReadPlan`, steps and ranks. Out: the bases of the accesses and streams in ``blocks``, ``preloaded`` and
``direct``. Decides nothing about what is read when.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .arena import Arena
from .block_schedule import lanes_read
from .reader import Job, Reader, ranges_of
from .rows import InTurn, RowAccess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from windowloader.order.lanes import BlockOrder
    from windowloader.order.shard import Steps
    from windowloader.util.ranks import Ranks

    from .read_plan import ReadPlan
    from .rows import ResidentVariables

__all__ = ["StreamAccess", "StreamRows"]


class StreamAccess(RowAccess):
    """Rows that are read from storage, for all iterators of a loader.

    Parameters
    ----------
    plan : ReadPlan
    others : ResidentVariables
        The variables that are not read step by step.
    steps : Steps
    ranks : Ranks
    span : int
        Rows of a window.
    """

    def __init__(
        self, plan: ReadPlan, others: ResidentVariables, *, steps: Steps, ranks: Ranks, span: int
    ) -> None:
        assert plan.choice is not None
        self.plan, self.choice, self.others, self.span = plan, plan.choice, others, span
        self.steps, self.ranks = steps, ranks
        self.reader = Reader(plan.choice.requests)
        # Of no bound method, so that a block cache does not keep the access.
        self.ranges = partial(ranges_of, plan.stored, at=0, limit=plan.choice.requests)
        """``ranges(regions, begin, end, at=row)`` cuts rows of all variables into reads, to ``row`` of regions on."""
        self._lock = threading.Lock()

    @property
    def order(self) -> BlockOrder:
        """The order over blocks."""
        assert self.plan.lanes is not None
        return self.plan.lanes

    @property
    def lanes(self) -> tuple[int, ...]:
        """Lanes that this rank reads."""
        rank, world_size = self.ranks.rank, self.ranks.world_size
        batch = self.steps.batch_per_lane
        return lanes_read(rank, world_size, lanes=self.order.num_lanes, batch_per_lane=batch)

    def new_arena(self, rows: int) -> Arena:
        """Allocate rows of all variables that are read."""
        return Arena([one.variable for one in self.plan.stored], rows)

    def close(self) -> None:
        """Wait until nothing is under way, and release what is kept whole."""
        with self.reader.lock:
            self.reader.drain()
        self.others.close()

    def rest(self, arenas: int = 0) -> None:
        """Release the arenas that no iterator uses, but so many."""


class StreamRows(InTurn):
    """Rows for the steps of one iterator."""

    def __init__(self, access: StreamAccess) -> None:
        super().__init__(access.reader.lock)
        self._stream_access = access

    def await_jobs(self, jobs: list[Job]) -> None:
        """Wait for reads, and count them."""
        try:
            self._stream_access.reader.await_all(jobs)
        finally:
            with self._lock:
                self.reads.add(jobs)

    def read_apart(
        self, starts: NDArray[np.int64], first: NDArray[np.int64], begin: int, stop: int
    ) -> tuple[int, Sequence[np.ndarray]]:
        """Read one window that no block has: what fills the step of a lane that has none, or ended before."""
        access, start = self._stream_access, int(starts[begin])
        end = begin + int(np.argmax(np.append(starts[begin:stop] != start, True)))
        scratch = access.new_arena(access.span)
        job = Job(access.ranges(scratch.regions, start, start + access.span), scratch)
        with self._lock:
            access.reader.submit(job, (-1, 0))
        self.await_jobs([job])
        first[begin:end] = 0
        return end, scratch.regions
