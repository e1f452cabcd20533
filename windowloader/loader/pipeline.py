"""From options to batches: which order, which access to rows, how much is prefetched; and how a step becomes a batch.

In: window set, recipe, config, ranks, and the order of a loaded state. Out: a `Pipeline`, shared by all iterators of a
loader, which builds batches from steps. Small batches are built several per call to amortise fixed overhead.
"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from windowloader.batch.batch import Batch, bfloat16_batch
from windowloader.errors import RankError, StateError
from windowloader.order.shard import make_steps
from windowloader.rows.disk_cached import cached_access
from windowloader.rows.read_plan import plan_reads, warn_of_repeated_reads
from windowloader.rows.rows import ResidentVariables
from windowloader.sources.base import LOCAL_TIERS
from windowloader.util.units import format_bytes

from .stats import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from windowloader.batch.buffers import Buffers
    from windowloader.batch.recipe import Recipe
    from windowloader.order.config import LoaderConfig
    from windowloader.order.shard import Position, Step, Steps
    from windowloader.order.state import RunState
    from windowloader.plan.plan import Plan
    from windowloader.rows.read_plan import ReadPlan
    from windowloader.rows.rows import Piece, RowAccess, RowStream
    from windowloader.rows.streamed import StreamAccess
    from windowloader.util.ranks import Ranks
    from windowloader.windows.window_set import WindowSet

__all__ = ["BatchTask", "Built", "Pipeline", "start_pipeline", "tasks", "warn_of_repeats"]

INLINE_BYTES = 4 << 20  # smaller batches are built in less time than threads take to hand them over
CALL_BYTES = 4 << 20  # of batches built in one call: more would evict each other from the cache
MOST_PER_CALL = 16
LOCAL_PREFETCH = 3  # batches of local rows: two are being built, one waits; more only take memory
MOST_PREFETCH = 4
MOST_THREADS = (
    2  # building batches is bound by memory: more threads only take processors from the training step
)
MOST_TIMES = 4  # the bytes of the array that an epoch in the order of a state may read


class BatchTask(NamedTuple):
    """One step of this rank."""

    number: int  # of this iterator
    step: Step


class Built(NamedTuple):
    """The result of a task, and when it was built."""

    batch: Any  # what `Pipeline.make` made; None after an error
    after: Position
    timeline: Timeline
    windows: int = 0
    nbytes: int = 0
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What all iterators of a loader share: how a step of this rank becomes a batch.

    Parameters
    ----------
    windows : WindowSet
    recipe : Recipe
        How batches look.
    config : LoaderConfig
    reading : ReadPlan
        In which order and from where rows are read, and what memory holds.
    access : RowAccess
        Access to the rows.
    pool : Buffers
        Where batches are built.
    steps : Steps
        Steps and epochs, for all ranks.
    ranks : Ranks
        Which slice of a step is this process's.
    threads, prefetch : int
        Threads that build batches, and how many batches may exist that the loop did not receive.
    batches_per_call : int
        Steps whose batches are built in one call.
    full_shape : int
        Rows that every batch is filled up to, with its last window at weight 0; 0: a short last step stays short.
    weighted : bool
        Whether some row of some batch may have weight 0, so that batches do not unpack as pairs.
    gather : callable, optional
        ``gather(starts, pieces)`` returns the arrays of a batch, in place of the recipe and the pool.
    make : callable
        Called with the fields of each `Batch` by name, in the thread that built its arrays: makes what `Built` holds,
        which an adapter may copy to a device first.
    """

    windows: WindowSet
    recipe: Recipe
    config: LoaderConfig
    reading: ReadPlan
    access: RowAccess
    pool: Buffers
    steps: Steps
    ranks: Ranks
    threads: int
    prefetch: int
    batches_per_call: int = 1
    full_shape: int = 0
    weighted: bool = False
    gather: Callable[[np.ndarray, Iterator[Piece]], dict[str, Any]] | None = None
    make: Callable[..., Any] = Batch

    def check_files(self) -> None:
        """Raise `SourceChangedError` where a local file changed since it was opened."""
        for number in self.recipe.variables:
            self.windows.series.variables[number].source.check()

    def close(self) -> None:
        """Release rows and buffers."""
        self.access.close()
        self.pool.close()

    def groups(self, position: Position) -> Iterator[list[BatchTask]]:
        """Yield the tasks from a position to the end of its epoch, those that are built in one call together."""
        rest = tasks(self.steps, self.ranks, self.full_shape, position)
        for _, alike in groupby(rest, lambda task: len(task.step.positions)):
            while group := list(islice(alike, self.batches_per_call)):
                yield group

    def build(self, stream: RowStream, group: Sequence[BatchTask]) -> list[Built]:
        """Build the batches of a group of tasks, on any thread.

        An error is that of its own task: those before it are built, and the `Built` with the error is the last.
        """
        try:
            return self._build_together(stream, group)
        except Exception as error:
            if len(group) == 1:  # no name here may keep the error: its traceback references this frame
                return [Built(None, group[0].step.after, Timeline(), error=_not_stop(error))]
        built: list[Built] = []
        for task in group:
            built += self.build(stream, [task])
            if built[-1].error is not None:
                break
        return built

    def _build_together(self, stream: RowStream, group: Sequence[BatchTask]) -> list[Built]:
        """Build all batches of a group in one buffer of the pool."""
        timeline, series = Timeline(), self.windows.series
        # positions come from the order: nothing to check
        starts = self.windows.index(np.concatenate([task.step.positions for task in group]))
        last = group[-1].number
        pieces = stream.pieces(last, group[0].step, starts)
        try:
            if self.gather is not None:
                arrays = self.gather(starts, pieces)
            else:
                arrays = self.pool.lease().carve(self.recipe.fields(len(starts)))
                for piece in pieces:
                    timeline.read = time.perf_counter()
                    self.recipe.gather(arrays, starts, piece.rows, begin=piece.begin, end=piece.end)
        except BaseException:
            pieces.close()  # the error references this frame, which would keep the rows
            stream.fail(last)  # later batches would wait for it
            raise
        share, nbytes = (
            len(starts) // len(group),
            sum(array.nbytes for array in arrays.values()) // len(group),
        )
        labelled = series.entity_borders is not None
        entities = series.entity_of(starts) if labelled else np.zeros(len(starts), np.int64)
        arrays |= {"starts": starts, "entities": entities}
        built = []
        for place, task in enumerate(group):
            own = slice(place * share, (place + 1) * share)
            parts = arrays if len(group) == 1 else {name: array[own] for name, array in arrays.items()}
            timeline.read = timeline.read or time.perf_counter()
            batch = self.make(
                **parts,
                weights=task.step.weights,
                exact=self.weighted,
                graph=None if series.graph is None else self.windows.graph_at(parts["starts"]),
                epoch=task.step.before.epoch,
                step=task.step.before.step,
                step_weight=task.step.total_weight,
            )
            built.append(Built(batch, task.step.after, timeline, share, nbytes))
        timeline.done = time.perf_counter()
        return built

    def plan(self, *, rank: int, world_size: int, epoch: int, state: RunState | None = None) -> Plan:
        """Plan an epoch, perhaps as another rank, of another world, or continuing from a state.

        Raises
        ------
        RankError
            Where the rank is outside the world.
        StateError
            Where the state's order cannot be made here.
        """
        from windowloader.plan.case import Case
        from windowloader.plan.planner import make_plan

        if not 0 <= rank < world_size:
            raise RankError(f"rank {rank} is outside world_size={world_size}. Ranks count from 0.")
        reading, steps = self.reading, self.steps
        if state is not None or world_size != self.ranks.world_size:
            reading = plan_reads(self.windows, self.recipe.reads, self.config, world_size, state)
            steps = make_steps(reading.order, self.config, world_size)
        return make_plan(
            Case(
                windows=self.windows,
                reads=self.recipe.reads,
                batch_bytes=self.recipe.nbytes(-(-steps.global_batch // world_size)),
                config=self.config,
                reading=reading,
                steps=steps,
                rank=rank,
                world_size=world_size,
                position=steps.start(epoch) if state is None else state.position(steps),
                ahead=max(
                    self.prefetch, 2 * self.batches_per_call - 1
                ),  # one call's in the loop, one's being built
                loaded=self.access.loaded() if reading is self.reading and rank == self.ranks.rank else None,
                reads_on=self.access.reads_on(epoch if state is None else state.epoch),
            )
        )

    def check_reads(self, state: RunState, order: str, present: Pipeline) -> None:
        """Warn of, or refuse, what the order of a loaded state reads here.

        Parameters
        ----------
        state : RunState
            The state that this pipeline was started with.
        order : {"keep", "next_epoch"}
            Whether its order is that of the whole run, or of the rest of its epoch.

        present : Pipeline
            The one before: an order that stays as it is needs no check.

        Raises
        ------
        StateError
            Where each epoch of an order that is kept reads more than `MOST_TIMES` the array.
        """
        choice, new, old = self.reading.choice, self.reading.order, present.reading.order
        if (new.name, new.parameters, new.seed) == (old.name, old.parameters, old.seed):
            return
        if choice is None or (choice.mode != "direct" and choice.amplification <= MOST_TIMES):
            return
        begin = replace(state, step=0, cursor=0) if order == "keep" else state
        plan = self.plan(
            rank=self.ranks.rank, world_size=self.ranks.world_size, epoch=state.epoch, state=begin
        )
        read = format_bytes(plan.all_ranks.bytes)
        if order == "next_epoch":
            warnings.warn(
                f"this loader cannot hold the order of the state, {state.order!r}: the rest of epoch {state.epoch} is "
                f"read directly, {read} over all ranks. Its own order follows.",
                UserWarning,
                stacklevel=3,
            )
        elif plan.all_ranks.amplification > MOST_TIMES:
            raise StateError(
                f"the state's order is {state.order!r}, a run of another tier or budget: here each epoch of it would "
                f"read {read}, {plan.all_ranks.amplification:.1f} times the array. Pass order='next_epoch' to finish "
                "its epoch so and go on in this loader's own order; give it more memory; or load it where the data are "
                "in memory or a local .npy file."
            )
        else:
            warn_of_repeated_reads(self.reading, self.windows, self.recipe.reads)


def start_pipeline(
    windows: WindowSet,
    recipe: Recipe,
    config: LoaderConfig,
    ranks: Ranks,
    buffers: Callable[[int], Buffers],
    *,
    state: RunState | None = None,
    one_by_one: bool = False,
) -> Pipeline:
    """Make the pipeline of a loader in one process.

    Parameters
    ----------
    windows : WindowSet
    recipe : Recipe
    config : LoaderConfig
    ranks : Ranks
    buffers : callable
        ``buffers(nbytes)`` makes the pool, of memory for so many bytes at a time.
    state : RunState, optional
        Its order, seed and lanes win over the config.
    one_by_one : bool
        Build one batch per call.

    Returns
    -------
    Pipeline

    Raises
    ------
    LoaderError
        Where the lanes do not divide the global batch, or an epoch has no step.
    """
    reading = plan_reads(windows, recipe.reads, config, ranks.world_size, state)
    if state is None:
        warn_of_repeated_reads(reading, windows, recipe.reads)
    steps = make_steps(reading.order, config, ranks.world_size)
    share = -(-steps.global_batch // ranks.world_size)
    batch_bytes, local = max(1, recipe.nbytes(share)), reading.tier in LOCAL_TIERS

    most = LOCAL_PREFETCH if local else MOST_PREFETCH
    prefetch = config.prefetch_batches or max(1, min(most, config.budget // batch_bytes))
    threads = config.threads
    if threads is None:
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
        if batch_bytes < INLINE_BYTES and local and config.prefetch_batches is None:
            threads, prefetch = 0, 1

    per_call = min(CALL_BYTES // batch_bytes, MOST_PER_CALL, config.prefetch_batches or MOST_PER_CALL)
    if one_by_one or reading.choice is not None or not recipe.separable(share):
        per_call = 1  # from storage, or not separable by windows
    per_call = max(1, per_call)
    return Pipeline(
        windows=windows,
        recipe=recipe,
        config=config,
        reading=reading,
        access=_access(windows, recipe, reading, steps, ranks, config.epochs),
        pool=buffers(recipe.nbytes(share * per_call)),
        steps=steps,
        ranks=ranks,
        threads=threads,
        prefetch=prefetch,
        batches_per_call=per_call,
        full_shape=share if config.uneven == "exact" else 0,
        weighted=steps.weighted(ranks.world_size),
        make=bfloat16_batch if recipe.dtype == "bfloat16" else Batch,
    )


def warn_of_repeats(config: LoaderConfig, world_size: int) -> None:
    """Warn where filling each step up to a multiple of the ranks repeats windows at full weight."""
    asked = config.global_batch(world_size)
    repeats = -asked % world_size
    if config.uneven == "pad" and repeats:
        below = asked // world_size * world_size
        nearest = f"{below} or {below + world_size}" if below else str(world_size)
        warnings.warn(
            f"global_batch_size={asked} is not a multiple of {world_size} ranks, and uneven='pad' fills every step: it "
            f"delivers {asked + repeats} windows, {repeats} of them a second time with the weight of the others. Pass "
            f"global_batch_size={nearest}, or uneven='exact' and use batch.weights.",
            UserWarning,
            stacklevel=4,
        )


def _access(
    windows: WindowSet, recipe: Recipe, reading: ReadPlan, steps: Steps, ranks: Ranks, epochs: int | None
) -> RowAccess:
    """Return the access to rows that a read plan asks for."""
    views = {
        place: view
        for place, number in enumerate(recipe.variables)
        if (view := windows.series.variables[number].view()) is not None
    }
    others = ResidentVariables(len(recipe.variables), views, reading.held)
    if reading.choice is None:
        from windowloader.rows.readahead import ReadAhead

        return ReadAhead(others, recipe.reads.offsets, windows.index, steps, ranks)
    shared: dict[str, Any] = {"steps": steps, "ranks": ranks, "span": windows.spec.span}
    if reading.choice.mode == "preloaded":
        from windowloader.rows.preloaded import PreloadedAccess

        return PreloadedAccess(reading, others, **shared)
    access: StreamAccess
    if reading.lanes is not None:
        from windowloader.rows.blocks import BlockAccess

        access = BlockAccess(reading, others, epochs=epochs, **shared)
    else:
        from windowloader.rows.direct import DirectAccess

        access = DirectAccess(reading, others, offsets=recipe.reads.offsets, **shared)
    return cached_access(access, windows, recipe.reads)


def tasks(steps: Steps, ranks: Ranks, full_shape: int, position: Position) -> Iterator[BatchTask]:
    """Yield the steps of this rank from ``position`` to the end of its epoch."""
    rest = steps.rank_rest(position, rank=ranks.rank, world_size=ranks.world_size)
    for number, step in enumerate(rest):
        yield BatchTask(number, step.filled(full_shape))


def _not_stop(error: Exception) -> Exception:
    """Return an error for a loop, which would take StopIteration for the end of the epoch."""
    if not isinstance(error, StopIteration):
        return error
    found = RuntimeError(f"building a batch raised {error!r}")
    found.__cause__ = error
    return found
