"""One pass of a loop over a loader: tasks in order, batches made ahead, the position of what the loop received.

In: an `Pipeline` (what is fixed for all iterators of a loader) and a position. Out: an iterator of batches. Never
changes the loader but through its `EpochProgress` and, at the end, the word that the epoch is over.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from windowloader.errors import ClosedError
from windowloader.util.threads import WorkerPool

from .batching import grouped, make, tasks
from .prefetch import Ahead

if TYPE_CHECKING:
    from collections.abc import Callable

    from windowloader.batch.batch import Batch
    from windowloader.order.shard import Position

    from .batching import BatchTask, Made
    from .pipeline import Pipeline
    from .stats import EpochStats

__all__ = ["EpochProgress", "Iteration"]


@dataclass(slots=True)
class EpochProgress:
    """How far the newest iterator's loop is; outlives the iterator, so that a state can be taken after a break."""

    position: Position


class Iteration:
    """Iterates the rest of an epoch from a position; what `WindowLoader.__iter__` returns.

    Parameters
    ----------
    engine : Pipeline
    progress : EpochProgress
        Its position is where this begins; it follows what the loop received.
    deliver : callable
        ``deliver(batch)`` gives what the loop receives (device copy, transform), in the loop's thread.
    finished : callable
        Called once with the position after the last step when the end is reached.
    stats : EpochStats
        What to add the waits to.
    """

    def __init__(
        self,
        engine: Pipeline,
        progress: EpochProgress,
        *,
        deliver: Callable[[Batch], Any],
        finished: Callable[[Position], None],
        stats: EpochStats,
    ) -> None:
        self._progress = progress
        self._deliver = deliver
        self._finished = finished
        self._stats = stats
        self._engine = engine
        self._sizes: dict[int, int] = {}  # bytes of a batch of so many windows
        self._begun: float | None = None
        self._closed = False
        self._over = False
        self._start()

    def _start(self) -> None:
        engine = self._engine
        engine.check_files()
        stream = engine.access.stream(self._progress.position)
        self._stream = stream
        if stream.reads is not None:
            self._stats.follow(stream.reads)
        weakref.finalize(self, stream.abandon)
        crew = WorkerPool(engine.threads)
        work = tasks(engine.steps, engine.ranks, engine.full_shape, self._progress.position)
        self._here: deque[Made] = deque()  # made together with what the loop has
        self._made: Ahead[list[BatchTask], list[Made]] = Ahead(
            grouped(work, engine.together),
            partial(make, engine, stream, crew),
            crew=crew,
            ahead=max(1, engine.ahead // engine.together),
        )

    def uses(self, engine: Pipeline) -> bool:
        """Tell whether it may still ask an engine for batches."""
        return engine is self._engine and not self._over

    def waits(self, progress: EpochProgress | None) -> bool:
        """Tell whether this is the iterator of a progress and was not asked for a batch yet."""
        return progress is self._progress and self._begun is None and not self._closed

    def begin_at(self, position: Position) -> None:
        """Begin elsewhere, which only an iterator that `waits` can."""
        self._stream.close()
        self._made.close()
        self._progress.position = position
        self._stats.epoch = position.epoch
        self._start()

    def __iter__(self) -> Iteration:
        return self

    def __next__(self) -> Any:
        asked = time.perf_counter()
        if self._begun is None:
            self._begun = asked
        try:
            if not self._here:
                self._here.extend(next(self._made))
        except StopIteration:
            self._end(asked)
            raise
        except BaseException:  # an interrupt while it waits
            self._break_off()
            raise
        made = self._here.popleft()
        if made.error is not None:
            self._break_off()
            raise made.error
        got = time.perf_counter()
        batch = made.batch
        windows = batch.num_windows
        size = self._sizes.get(windows)
        if size is None:
            size = self._sizes[windows] = batch.nbytes
        try:
            received = self._deliver(batch)
        except BaseException:  # the loop did not receive it: it is the next one again
            self._here.appendleft(made)
            raise
        self._stats.record(asked, got, made.timeline, windows, size)
        self._stats.seconds = got - self._begun
        self._progress.position = made.after
        return received

    def _break_off(self) -> None:
        self._stream.close(wait=True)  # first: it may be what the threads wait for
        self._made.close()
        self._over = True

    def _end(self, asked: float) -> None:
        """Tell the loader that the epoch is over, if it is: an iterator ends early after an error or `close`."""
        position = self._progress.position
        self._stream.close()
        self._over = True
        if self._engine.steps.left(position) == 0:
            self._stats.seconds = asked - (self._begun or asked)
            self._finished(position)
        elif self._closed:
            raise ClosedError(
                f"the loader was closed after step {position.step} of epoch {position.epoch}; its iterators have no "
                "more batches. Load its state_dict() into a new loader to go on."
            )

    def close(self) -> None:
        """End the work ahead; what was made and not received is dropped."""
        self._closed = True
        self._stream.close()  # first: it may be what the threads wait for
        self._made.close()
        self._here.clear()
        self._over = True
