"""Steps made into batches: small ones several at a time, as what a batch costs beside its bytes is then paid once.

In: an `Pipeline`, rows, and tasks in the order of the loop. Out: `Made` batches, in that order. Never knows what the
loop received.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from windowloader.batch.batch import Batch
from windowloader.order.rank_slices import Step

from .stats import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from windowloader.batch.recipe import Recipe
    from windowloader.order.shard import Position, Steps
    from windowloader.rows.rows import Piece, RowStream
    from windowloader.util.ranks import Ranks
    from windowloader.util.threads import WorkerPool

    from .pipeline import Pipeline

__all__ = ["BatchTask", "Made", "grouped", "make", "tasks"]

SHARE_BYTES = 2 << 20  # what a thread takes of another's batch is worth its waking


class BatchTask(NamedTuple):
    """One step of this rank."""

    number: int  # of this iterator
    before: Position
    after: Position
    step: Step
    weight: float  # of the step, over all ranks


class Made(NamedTuple):
    """What came of a task, and when."""

    batch: Any  # a Batch, or what `Pipeline.finish` made of it; None after an error
    after: Position
    timeline: Timeline
    error: BaseException | None = None


def tasks(steps: Steps, ranks: Ranks, full_shape: int, position: Position) -> Iterator[BatchTask]:
    """Yield the steps of this rank from ``position`` to the end of its epoch."""
    rest = steps.rank_rest(position, rank=ranks.rank, world_size=ranks.world_size)
    for index, (before, step, after, weight) in enumerate(rest):
        yield BatchTask(index, before, after, _filled(step, full_shape), weight)


def _filled(step: Step, rows: int) -> Step:
    short = rows - len(step.positions)
    if short <= 0:
        return step
    positions = np.concatenate((step.positions, np.full(short, step.positions[-1])))
    weights = np.concatenate((step.weights, np.zeros(short, np.float32)))
    return Step(positions, weights, step.advance)


def grouped(tasks: Iterable[BatchTask], most: int) -> Iterator[list[BatchTask]]:
    """Yield up to ``most`` tasks at a time, in order; those of a group have equally many windows.

    Examples
    --------
    >>> step = Step(np.array([4, 2]), np.ones(2, np.float32), advance=2)
    >>> [len(group) for group in grouped([BatchTask(k, None, None, step, 2.0) for k in range(5)], 2)]
    [2, 2, 1]
    """
    group: list[BatchTask] = []
    for task in tasks:
        if len(group) == most or (group and len(task.step.positions) != len(group[0].step.positions)):
            yield group
            group = []
        group.append(task)
    if group:
        yield group


def make(engine: Pipeline, stream: RowStream, crew: WorkerPool, group: Sequence[BatchTask]) -> list[Made]:
    """Make the batches of a group of tasks, on any thread.

    An error is that of its own task: those before it are made, the `Made` with the error is the last.
    """
    try:
        return _make_as_one(engine, stream, crew, group)
    except BaseException as error:
        if len(group) == 1 or not isinstance(error, Exception):
            return [_failed(group[0], error)]
    made: list[Made] = []
    for task in group:
        made += make(engine, stream, crew, [task])
        if made[-1].error is not None:
            break
    return made


def _failed(task: BatchTask, error: BaseException) -> Made:
    if isinstance(error, StopIteration):  # a loop would take it for the end of the epoch
        cause, error = error, RuntimeError(f"what makes a batch raised {error!r}")
        error.__cause__ = cause
    return Made(None, task.after, Timeline(), error)


def _make_as_one(
    engine: Pipeline, stream: RowStream, crew: WorkerPool, group: Sequence[BatchTask]
) -> list[Made]:
    """Make all batches of a group in one buffer of the pool."""
    timeline = Timeline()
    windows, recipe = engine.windows, engine.recipe
    numbers = [task.step.positions for task in group]
    # the order knows no others: nothing to check
    starts = windows.index(numbers[0] if len(numbers) == 1 else np.concatenate(numbers))
    pieces = stream.pieces(group[-1].number, group[0].before, starts)
    try:
        if engine.gather is not None:
            arrays = engine.gather(starts, pieces)
        else:
            arrays = engine.pool.lease().carve(recipe.fields(len(starts)))
            for piece in pieces:
                timeline.read = time.perf_counter()
                _fill(recipe, arrays, starts, piece, crew)
    except BaseException:
        pieces.close()  # the error keeps this frame, and so would keep the rows from being released
        stream.fail(group[-1].number)  # or later batches would wait for it
        raise
    arrays |= {"starts": starts, "entities": windows.series.entity_of(starts)}
    made = []
    for task, own in zip(group, _parted(arrays, len(group)), strict=True):
        batch: Any = Batch(
            **own,
            weights=task.step.weights,
            exact=engine.weighted,
            graph=windows.graph_at(own["starts"]),
            epoch=task.before.epoch,
            step=task.before.step,
            step_weight=task.weight,
        )
        if engine.finish is not None:
            timeline.read = timeline.read or time.perf_counter()
            batch = engine.finish(batch)
        made.append(Made(batch, task.after, timeline))
    timeline.done = time.perf_counter()
    return made


def _fill(recipe: Recipe, arrays: dict[str, Any], starts: np.ndarray, piece: Piece, crew: WorkerPool) -> None:
    """Write the windows of a piece, with all hands that are free."""
    hands = crew.hands
    if hands == 1:
        recipe.gather(arrays, starts, piece.rows, begin=piece.begin, end=piece.end)
        return
    parts = _parts(piece, hands, recipe.nbytes(len(starts)) // len(starts), recipe.roles[0].num_nodes)
    fill = partial(recipe.gather, arrays, starts, piece.rows)
    crew.run([partial(fill, begin=begin, end=end, nodes=nodes) for begin, end, nodes in parts])


def _parts(
    piece: Piece, hands: int, window_bytes: int, num_nodes: int
) -> list[tuple[int, int, tuple[int, int] | None]]:
    """Cut a piece for several hands, by windows, and by nodes where those are few: begin, end, nodes or None."""
    count = piece.end - piece.begin
    wanted = min(2 * hands, count * window_bytes // SHARE_BYTES)  # two for each: none waits long for another
    if wanted < 2:
        return [(piece.begin, piece.end, None)]
    windows = [(piece.begin + first, piece.begin + last) for first, last in _cuts(count, min(wanted, count))]
    if count >= wanted:
        return [(*window, None) for window in windows]
    nodes = _cuts(num_nodes, min(-(-wanted // count), num_nodes))
    return [(*window, part) for window in windows for part in nodes]


def _cuts(length: int, parts: int) -> list[tuple[int, int]]:
    return list(pairwise(length * part // parts for part in range(parts + 1)))


def _parted(arrays: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Cut arrays, all with the windows outermost, in ``count`` equal parts."""
    if count == 1:
        yield arrays
        return
    share = len(arrays["starts"]) // count
    for first in range(0, count * share, share):
        yield {name: array[first : first + share] for name, array in arrays.items()}
