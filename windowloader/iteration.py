"""One pass of a loop over a loader: tasks in order, batches made ahead, the position of what the loop received.

In: an `Engine` (what is fixed for all iterators of a loader) and a position. Out: an iterator of batches. Never
changes the loader but through its `Progress` and, at the end, the word that the epoch is over.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .batch import Batch
from .errors import ClosedError
from .prefetch import Ahead
from .rank_slices import Step
from .stats import EpochStats, Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .engine import Engine
    from .gathering.rows import RowStream
    from .ranks import Ranks
    from .shard import Position, Steps

__all__ = ["Iteration", "Progress"]


@dataclass(slots=True)
class Progress:
    """How far the newest iterator's loop is; outlives the iterator, so that a state can be taken after a break."""

    position: Position


class Task(NamedTuple):
    """One step of this rank."""

    number: int  # of this iterator
    before: Position
    after: Position
    step: Step
    weight: float  # of the step, over all ranks


class Made(NamedTuple):
    """A batch made ahead, and when."""

    batch: Any  # a Batch, or what `Engine.finish` made of it
    after: Position
    timeline: Timeline


def tasks(steps: Steps, ranks: Ranks, full_shape: int, position: Position) -> Iterator[Task]:
    """Yield the steps of this rank from ``position`` to the end of its epoch."""
    rest = steps.rank_rest(position, rank=ranks.rank, world_size=ranks.world_size)
    for index, (before, step, after, weight) in enumerate(rest):
        yield Task(index, before, after, _filled(step, full_shape), weight)


def _filled(step: Step, rows: int) -> Step:
    short = rows - len(step.positions)
    if short <= 0:
        return step
    positions = np.concatenate((step.positions, np.full(short, step.positions[-1])))
    weights = np.concatenate((step.weights, np.zeros(short, np.float32)))
    return Step(positions, weights, step.advance)


def make(engine: Engine, stream: RowStream, task: Task) -> Made:
    """Make the batch of a task: on any thread, into a buffer of the pool."""
    timeline = Timeline()
    step, windows, recipe = task.step, engine.windows, engine.recipe
    starts = windows.index(step.positions)  # the order knows no others: nothing to check
    pieces = stream.pieces(task.number, task.before, starts)
    try:
        if engine.gather is not None:
            arrays = engine.gather(starts, pieces)
        else:
            arrays = engine.pool.lease().carve(recipe.fields(len(starts)))
            for piece in pieces:
                timeline.read = time.perf_counter()
                recipe.gather(arrays, starts, piece.rows, begin=piece.begin, end=piece.end)
    except BaseException:
        stream.fail(task.number)  # or later batches would wait for it
        raise
    batch: Any = Batch(
        **arrays,
        starts=starts,
        entities=windows.series.entity_of(starts),
        weights=step.weights,
        exact=engine.weighted,
        graph=windows.graph_at(starts),
        epoch=task.before.epoch,
        step=task.before.step,
        step_weight=task.weight,
    )
    if engine.finish is not None:
        timeline.read = timeline.read or time.perf_counter()
        batch = engine.finish(batch)
    timeline.done = time.perf_counter()
    return Made(batch, task.after, timeline)


class Iteration:
    """Iterates the rest of an epoch from a position; what `WindowLoader.__iter__` returns.

    Parameters
    ----------
    engine : Engine
    progress : Progress
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
        engine: Engine,
        progress: Progress,
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
        stream = engine.access.stream(self._progress.position)
        self._stream = stream
        if (
            reads := getattr(stream, "reads", None)
        ) is not None:  # where rows are addressable, nothing is read
            self._stats.follow(reads)
        weakref.finalize(self, stream.abandon)
        self._made: Ahead[Task, Made] = Ahead(
            tasks(engine.steps, engine.ranks, engine.full_shape, self._progress.position),
            partial(make, engine, stream),
            threads=engine.threads,
            ahead=engine.ahead,
        )

    def uses(self, engine: Engine) -> bool:
        """Tell whether it may still ask an engine for batches."""
        return engine is self._engine and not self._over

    def waits(self, progress: Progress | None) -> bool:
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
            made = next(self._made)
        except StopIteration:
            self._end(asked)
            raise
        except BaseException:
            self._stream.close(wait=True)
            self._over = True
            raise
        got = time.perf_counter()
        batch = made.batch
        windows = batch.num_windows
        size = self._sizes.get(windows)
        if size is None:
            size = self._sizes[windows] = batch.nbytes
        self._stats.record(asked, got, made.timeline, windows, size)
        self._stats.seconds = got - self._begun
        received = self._deliver(batch)
        self._progress.position = made.after
        return received

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
        self._over = True
