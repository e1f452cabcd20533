"""Reads handed to storage a few at a time, in the order of need, on a thread of their own.

In: jobs, each some ranges of rows and arrays to put them in. Out: the same jobs, done or failed, and a call when one
is. Never hands more requests to storage at once than it was told, since what a store has queued cannot be called
back, and never keeps a thread alive that has nothing under way.
"""

from __future__ import annotations

import heapq
import threading
import weakref
from collections import deque
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from windowloader.errors import ClosedError
from windowloader.sources.reads import taken
from windowloader.util.threads import Stage, at_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from windowloader.series.variable import Variable
    from windowloader.sources import Pending
    from windowloader.sources.storage import Storage

    from .arena import Arena

__all__ = ["Job", "Pace", "Reader", "RowRange", "Stored", "ranges_of", "stored"]

LOOK = 1.0  # seconds after which reads that do not end are looked at: their source's own limit is what counts
LONG = 10.0  # seconds of a read after which fewer are handed over at a time, if that makes them faster
HEAR = 1.0  # seconds in which a waiting caller may give up the rest, after a read has failed


@dataclass(frozen=True, slots=True, eq=False)
class RowRange:
    """Rows of a variable, and where they go.

    Parameters
    ----------
    variable : Variable
    begin, end : int
        Rows ``[begin, end)``.
    out : ndarray, shape (end − begin, node | 1, feature)
        Stays untouched by others until the job is done.
    requests : int
        How many requests to storage this is.
    storage : Storage, optional
        How the variable is stored.
    """

    variable: Variable
    begin: int
    end: int
    out: np.ndarray
    requests: int = 1
    storage: Storage | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A variable and how it lies in storage.

    Parameters
    ----------
    variable : Variable
    storage : Storage
    """

    variable: Variable
    storage: Storage

    def ranges(self, begin: int, end: int, out: np.ndarray, limit: int) -> list[RowRange]:
        """Cut rows ``[begin, end)``, which go to ``out``, into reads of at most ``limit`` requests.

        A read that cannot be cut further may have more.
        """
        cuts = self.storage.pieces(begin, end, limit)
        counts = self.storage.cost(cuts[:-1], cuts[1:]).requests
        columns = (column.tolist() for column in (cuts[:-1], cuts[1:], counts))
        return [
            RowRange(self.variable, low, high, out[low - begin : high - begin], requests=count, storage=self.storage)
            for low, high, count in zip(*columns, strict=True)
        ]  # fmt: skip


def ranges_of(
    variables: Sequence[Stored], regions: Sequence[np.ndarray], begin: int, end: int, *, at: int, limit: int
) -> list[RowRange]:
    """Cut rows ``[begin, end)`` of all variables into reads, to row ``at`` of their regions on; see `Stored.ranges`."""
    return [
        part
        for one, region in zip(variables, regions, strict=True)
        for part in one.ranges(begin, end, region[at : at + end - begin], limit)
    ]


def stored(variable: Variable) -> Stored:
    """Look up how a variable of time is stored."""
    return Stored(variable, variable.source.storage())


@dataclass(slots=True, eq=False)
class Job:
    """Ranges that are wanted together.

    Parameters
    ----------
    ranges : sequence of RowRange
    arena : Arena
        What they are read into; it is lost if one fails.
    ended : callable, optional
        ``ended(job)``, on the reader's thread, once no range is under way any more.
    blocks : int
        How many blocks of an order it is: 1, or 0 for other rows.

    Attributes
    ----------
    done : bool
    error : BaseException or None
        What the first range that failed raised.
    counted : bool
        Whether some epoch's `Reads` have it.
    """

    ranges: Sequence[RowRange]
    arena: Arena
    ended: Callable[[Job], None] | None = None
    blocks: int = 0
    done: bool = False
    error: BaseException | None = None
    dropped: bool = False
    counted: bool = False
    fetched: dict[RowRange, list[tuple[int, int]]] = field(default_factory=dict, repr=False)
    """Of ranges that the disk cache answered: the rows that it had to fetch."""
    taken: dict[RowRange, int] = field(default_factory=dict, repr=False)
    """Bytes that reads took from storage."""
    given: int = field(default=0, repr=False)
    """Ranges handed to storage."""
    open: int = field(default=0, repr=False)
    """Ranges under way."""


@dataclass(slots=True, eq=False)
class _Flight:
    job: Job
    range: RowRange
    pending: Pending | None = None
    departed: float = 0.0


class Pace:
    """How many requests are handed to storage at a time, by how long reads take.

    Requests that share a slow line all arrive late, the one that is needed first among them. So their number is halved
    while reads take longer than `LONG`, and doubled again when they are quick. Where halving it does not make them
    faster each is slow by itself, and there are as many as at first.

    Parameters
    ----------
    limit : int
        Requests at a time at most.

    Examples
    --------
    >>> pace = Pace(8)
    >>> pace.note(0.0, 64.0, 8)  # a read took 64 seconds while 8 requests were under way
    >>> pace.requests
    4
    """

    def __init__(self, limit: int) -> None:
        self.limit = self.requests = limit
        self._changed = self._before = 0.0
        self._alone = False  # each is slow by itself

    def note(self, departed: float, landed: float, under_way: int) -> None:
        """Note that a read succeeded, between two times, and how many requests were under way at the end."""
        took = landed - departed
        if departed < self._changed or self._alone:
            return
        if took < LONG / 4:
            self.requests, self._before = min(2 * self.requests, self.limit), 0.0
        elif took < LONG:
            return
        elif 0 < self._before < 4 / 3 * took:
            self.requests, self._alone = self.limit, True
        elif (half := min(self.requests, under_way) // 2) > 0:
            self.requests, self._before, self._changed = half, took, landed


class _Desk:
    """What a reader and its thread share: the thread holds this and not the `Reader`, so that dropping it ends both."""

    def __init__(self, limit: int) -> None:
        self.pace = Pace(limit)
        self.lock = threading.Condition(threading.Lock())
        self.queue: list[tuple[tuple[int, ...], int, Job]] = []
        self.count = 0
        self.flying: dict[_Flight, None] = {}
        self.landed: deque[_Flight] = deque()
        self.under_way = 0  # requests
        self.most = 0
        self.thread: threading.Thread | None = None
        self.running = False
        self.stopped = False
        self.failed = False  # a read did, and others are still under way
        _DESKS.add(self)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while (flight := self.next()) is not None:
            if flight.pending is None:
                self.depart(flight)
            else:
                self.arrive(flight)
            del flight

    def next(self) -> _Flight | None:
        """Wait for something to do: rows that arrived first, then rows to ask for; None where nothing is left."""
        with self.lock:
            while True:
                if self.stopped:
                    self.running = False
                    return None
                if self.landed:
                    return self.landed.popleft()
                if self.failed and not self.flying:
                    self.failed = False
                    self.lock.wait_for(lambda: self.stopped or not self.wanted(), HEAR)
                    continue
                # After a failure nothing new is handed over: the iterator that fails would wait for it in vain.
                if not self.failed and (range_ := self.claim()) is not None:
                    return range_
                if not self.flying:
                    self.running = False
                    self.lock.notify_all()
                    return None
                if not self.lock.wait(LOOK):
                    self.landed.extend(
                        f for f in self.flying if f.pending is not None and f.pending.overdue()
                    )

    def wanted(self) -> bool:
        """Tell whether a job waits for its turn that nobody gave up; one that failed stays in the queue until then."""
        return any(not job.dropped for *_, job in self.queue)

    def claim(self) -> _Flight | None:
        while self.queue and self.queue[0][2].dropped:
            job = heapq.heappop(self.queue)[2]
            self.over(job)
        if not self.queue:
            return None
        job = self.queue[0][2]
        wanted = job.ranges[job.given]
        if self.under_way and self.under_way + wanted.requests > self.pace.requests:
            return None
        job.given += 1
        job.open += 1
        if job.given == len(job.ranges):
            heapq.heappop(self.queue)
        self.under_way += wanted.requests
        self.most = max(self.most, self.under_way)
        return _Flight(job, wanted)

    def depart(self, flight: _Flight) -> None:
        asked = flight.range
        flight.departed = monotonic()
        try:
            flight.pending = asked.variable.submit(asked.begin, asked.end, asked.out)
        except BaseException as error:
            self.settle(flight, error)
            return
        with self.lock:
            self.flying[flight] = None
        flight.pending.add_done_callback(lambda _pending: self.land(flight))

    def land(self, flight: _Flight) -> None:
        """Note that storage is done with a read; called from any thread, storage's own among them."""
        with self.lock:
            self.landed.append(flight)
            self.lock.notify_all()

    def arrive(self, flight: _Flight) -> None:
        with self.lock:
            if self.flying.pop(flight, self) is self:
                return  # overdue, and failed just before it landed
        error: BaseException | None = None
        size = 0
        try:
            name = flight.range.variable.source.name
            size = taken(flight.pending.result(), name)  # type: ignore[union-attr]
        except BaseException as raised:
            error = raised
        self.settle(flight, error, size)

    def settle(self, flight: _Flight, error: BaseException | None, size: int = 0) -> None:
        job = flight.job
        fetched = None if flight.pending is None else flight.pending.fetched
        with self.lock:
            if fetched is not None:
                first, end = flight.range.begin, flight.range.variable.num_rows
                job.fetched[flight.range] = [(max(first + a, 0), min(first + b, end)) for a, b in fetched]
            if size:
                job.taken[flight.range] = size
            if error is None:
                self.pace.note(flight.departed, monotonic(), self.under_way)
            self.under_way -= flight.range.requests
            job.open -= 1
            self.failed = self.failed or error is not None
            job.arena.lost = job.arena.lost or error is not None
            if error is not None and job.error is None:
                job.error = error
                job.dropped = True  # what it still wants in vain
            flight.pending = None
            self.over(job)

    def over(self, job: Job) -> None:
        """End a job of which nothing is under way and nothing more will be; under the lock."""
        if job.open or job.done or not (job.dropped or job.given == len(job.ranges)):
            return
        job.done = True
        # It knows where the rows are, so that memory would wait for a garbage collection.
        ended, job.ended = job.ended, None
        if ended is not None:
            ended(job)
        self.lock.notify_all()

    def give_up(self) -> None:
        """Fail all jobs, with the thread ended; under the lock. What is under way writes to memory that it holds."""
        jobs = [job for *_, job in self.queue] + [flight.job for flight in self.flying]
        self.queue.clear()
        self.flying.clear()
        for job in jobs:
            job.open = 0
            self.refuse(job)

    def refuse(self, job: Job) -> None:
        """Fail a job because the interpreter ends; under the lock."""
        job.dropped = True
        job.error = job.error or ClosedError("the interpreter is ending: nothing is read any more.")
        self.over(job)

    def start(self) -> None:
        """See to it that the thread runs; under the lock."""
        self.lock.notify_all()
        if not self.running and not self.stopped:
            self.running = True
            self.thread = threading.Thread(target=self.run, name="windowloader-reader", daemon=True)
            self.thread.start()


_DESKS: weakref.WeakSet[_Desk] = weakref.WeakSet()


@at_end(Stage.READS)
def _leave() -> None:
    """End the threads, and wake up callers that wait for reads that will not come."""
    desks = list(_DESKS)
    for desk in desks:
        with desk.lock:
            desk.stopped = True
            desk.lock.notify_all()
    for desk in desks:
        if desk.thread is not None:
            desk.thread.join()
        with desk.lock:
            desk.give_up()


class Reader:
    """Reads jobs in the order of need, at most ``limit`` requests at a time.

    Parameters
    ----------
    limit : int
        Requests handed to storage at a time; a range of more requests goes alone.

    Attributes
    ----------
    lock : Condition
        Guards the jobs; notified when one ends. ``ended`` is called with it held, and must not wait.
    """

    def __init__(self, limit: int) -> None:
        self._desk = _Desk(limit)
        self.lock = self._desk.lock

    @property
    def most_under_way(self) -> int:
        """The most requests that were handed to storage at a time."""
        return self._desk.most

    def submit(self, job: Job, need: tuple[int, ...]) -> None:
        """Ask for a job; under `lock`.

        Parameters
        ----------
        job : Job
        need : tuple of int
            Jobs of a lower one are handed over first.
        """
        desk = self._desk
        desk.count += 1
        if not job.ranges:
            desk.over(job)
            return
        if desk.stopped:
            desk.refuse(job)
            return
        heapq.heappush(desk.queue, (need, desk.count, job))
        desk.start()

    def drop(self, jobs: Sequence[Job]) -> None:
        """Give up jobs: what was not handed over is not read, and they end when the rest has; under `lock`."""
        for job in jobs:
            job.dropped = True
        gone = {job for job in jobs if job.given < len(job.ranges)}
        desk = self._desk
        desk.queue = [entry for entry in desk.queue if entry[2] not in gone]
        heapq.heapify(desk.queue)
        for job in jobs:
            desk.over(job)

    def await_all(self, jobs: Sequence[Job]) -> None:
        """Wait until all of some jobs are over, then raise what the first one that failed raised; takes `lock`."""
        if not jobs:
            return
        with self.lock:
            while not all(job.done for job in jobs):
                self.lock.wait()
        error = next((job.error for job in jobs if job.error is not None), None)
        if error is not None:
            raise error

    def drain(self) -> None:
        """Wait until nothing is under way; under `lock`. Jobs that were not dropped are read first."""
        while self._desk.running:
            self.lock.wait()
