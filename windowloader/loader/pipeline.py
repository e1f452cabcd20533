"""From arguments to an engine: which order, which way to the rows, how much is made ahead.

In: window set, recipe, config, ranks, and the order of a loaded state. Out: an `Pipeline`, from which every iterator of
a loader makes its batches. Never reads data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windowloader.batch.delivery import as_bfloat16
from windowloader.order.shard import make_steps
from windowloader.rows.disk_cached import cached_access
from windowloader.rows.rows import ResidentVariables
from windowloader.sources.base import LOCAL_TIERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from windowloader.batch.batch import Batch
    from windowloader.batch.buffers import Buffers
    from windowloader.batch.recipe import Recipe
    from windowloader.order.config import LoaderConfig
    from windowloader.order.shard import Steps
    from windowloader.rows.read_plan import ReadPlan
    from windowloader.rows.rows import Piece, RowAccess
    from windowloader.util.ranks import Ranks
    from windowloader.windows.window_set import WindowSet

__all__ = ["Pipeline", "start_pipeline"]

INLINE_BYTES = 4 << 20  # smaller batches are made in less time than threads take to hand them over
TOGETHER_BYTES = 4 << 20  # of small batches that are made as one: more would push each other out of the cache
MOST_TOGETHER = 16
MOST_AHEAD = 4
AHEAD_AT_HAND = 3  # two are being made, one waits: more only take memory
MOST_THREADS = 2  # batches are bound by memory: more threads only take processors from the training step


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What all iterators of a loader share: how a step of this rank becomes a batch.

    Parameters
    ----------
    windows : WindowSet
    recipe : Recipe
        What a batch looks like.
    reading : ReadPlan
        In which order and from where rows are read, and what memory holds.
    access : RowAccess
        The way to the rows.
    pool : Buffers
        Where batches are made.
    steps : Steps
        Steps and epochs, for all ranks.
    ranks : Ranks
        Which slice of a step is this process's.
    threads, ahead : int
        Threads that make batches, and how many batches may be made that the loop did not take.
    together : int
        Steps whose batches are made as one: what a batch costs beside its bytes is paid once for them.
    full_shape : int
        Rows that every batch is filled to, with its last window at weight 0; 0: a short last step stays short.
    weighted : bool
        Whether some row of some batch may have weight 0, so that batches do not unpack as pairs.
    gather : callable, optional
        ``gather(starts, pieces)`` makes the arrays of a batch in place of the recipe, somewhere else than in the pool.
    finish : callable, optional
        Called with each batch in the thread that made it: copies it to a device, or wraps it. What it returns has
        the batch's ``num_windows`` and ``nbytes``.
    """

    windows: WindowSet
    recipe: Recipe
    reading: ReadPlan
    access: RowAccess
    pool: Buffers
    steps: Steps
    ranks: Ranks
    threads: int
    ahead: int
    together: int = 1
    full_shape: int = 0
    weighted: bool = False
    gather: Callable[[np.ndarray, Iterator[Piece]], dict[str, Any]] | None = None
    finish: Callable[[Batch], Any] | None = None

    def reads_on(self, epoch: int) -> bool:
        """Whether blocks of the next epoch are read ahead while this one drains."""
        from windowloader.rows.blocks import BlockAccess

        return isinstance(self.access, BlockAccess) and self.access.reads_on(epoch)

    def loaded(self) -> NDArray[np.bool_] | None:
        """Of preloaded rows, the blocks that are there already."""
        from windowloader.rows.preloaded import PreloadedAccess

        return self.access.there.copy() if isinstance(self.access, PreloadedAccess) else None

    def check_files(self) -> None:
        """Raise `SourceChangedError` where a local file is another than when it was opened."""
        for number in self.recipe.variables:
            self.windows.series.variables[number].source.check()


def start_pipeline(
    windows: WindowSet,
    recipe: Recipe,
    config: LoaderConfig,
    ranks: Ranks,
    reading: ReadPlan,
    buffers: Callable[[int], Buffers],
    *,
    one_by_one: bool = False,
) -> Pipeline:
    """Bind the rooms together for one process.

    Parameters
    ----------
    windows : WindowSet
    recipe : Recipe
    config : LoaderConfig
    ranks : Ranks
    reading : ReadPlan
        From `reading.survey`, which looks at a loaded state too.
    buffers : callable
        ``buffers(nbytes)`` makes the pool, of memory for so many bytes at a time.
    one_by_one : bool
        Never make several batches as one.

    Returns
    -------
    Pipeline

    Raises
    ------
    LoaderError
        Where the lanes do not divide the global batch, or an epoch has no step.
    """
    steps = make_steps(reading.order, config, ranks.world_size)
    share = -(-steps.global_batch // ranks.world_size)
    threads, ahead = work_ahead(recipe.nbytes(share), reading.tier, config)
    together = 1 if one_by_one else made_together(recipe, share, reading, config)
    return Pipeline(
        windows=windows,
        recipe=recipe,
        reading=reading,
        access=_access(windows, recipe, reading, steps, ranks, config.epochs),
        pool=buffers(recipe.nbytes(share * together)),
        steps=steps,
        ranks=ranks,
        threads=threads,
        ahead=ahead,
        together=together,
        full_shape=share if config.uneven == "exact" else 0,
        weighted=steps.weighted(ranks.world_size),
        finish=as_bfloat16 if recipe.dtype == "bfloat16" else None,
    )


def _access(
    windows: WindowSet, recipe: Recipe, reading: ReadPlan, steps: Steps, ranks: Ranks, epochs: int | None
) -> RowAccess:
    """Return the way to the rows that a reading has."""
    views = {
        place: view
        for place, number in enumerate(recipe.variables)
        if (view := windows.series.variables[number].view()) is not None
    }
    others = ResidentVariables(len(recipe.variables), views, reading.held)
    if reading.choice is None:
        from windowloader.rows.readahead import ReadAhead

        return ReadAhead(others, recipe.reads.offsets, windows.index, steps, ranks)
    access: RowAccess
    if reading.lanes is not None and reading.choice.mode == "preloaded":
        from windowloader.rows.preloaded import PreloadedAccess

        access = PreloadedAccess(
            reading.stored, others, order=reading.lanes, choice=reading.choice, steps=steps, ranks=ranks
        )
        return cached_access(access, windows, recipe.reads, reading, views)
    if reading.lanes is not None:
        from windowloader.rows.blocks import BlockAccess

        access = BlockAccess(
            reading.stored,
            others,
            order=reading.lanes,
            choice=reading.choice,
            steps=steps,
            ranks=ranks,
            epochs=epochs,
        )
        return cached_access(access, windows, recipe.reads, reading, views)
    from windowloader.rows.direct import DirectAccess

    assert reading.buffers is not None
    access = DirectAccess(
        reading.stored,
        others,
        choice=reading.choice,
        buffers=reading.buffers,
        offsets=recipe.reads.offsets,
        span=windows.spec.span,
    )
    return cached_access(access, windows, recipe.reads, reading, views)


def made_together(recipe: Recipe, rows: int, reading: ReadPlan, config: LoaderConfig) -> int:
    """Decide how many steps' batches are made as one.

    Parameters
    ----------
    recipe : Recipe
    rows : int
        Windows of one rank's full batch.
    reading : ReadPlan
    config : LoaderConfig

    Returns
    -------
    int
        1 where batches are large, read from storage, or cannot be cut apart.
    """
    most = min(TOGETHER_BYTES // max(1, recipe.nbytes(rows)), MOST_TOGETHER)
    if config.prefetch_batches is not None:
        most = min(most, config.prefetch_batches)
    if most < 2 or reading.choice is not None or not recipe.separable(rows):
        return 1
    return most


def work_ahead(batch_bytes: int, tier: str, config: LoaderConfig) -> tuple[int, int]:
    """Decide how many threads make batches, and how many batches are made ahead.

    Parameters
    ----------
    batch_bytes : int
        Of one rank's full batch.
    tier : str
        "memory", "mapped", "cached" or "streamed".
    config : LoaderConfig

    Returns
    -------
    threads, ahead : int
    """
    most = AHEAD_AT_HAND if tier in LOCAL_TIERS else MOST_AHEAD
    ahead = config.prefetch_batches or max(1, min(most, config.budget // max(1, batch_bytes)))
    if config.threads is not None:
        return config.threads, ahead
    if batch_bytes < INLINE_BYTES and tier in LOCAL_TIERS and config.prefetch_batches is None:
        return 0, 1
    return min(MOST_THREADS, len(os.sched_getaffinity(0))), ahead
