"""`WindowLoader`: batches of windows in order, for any rank, prefetched, resumable at any step.

In: a `WindowSet` and how its batches should be. Out: an iterable of `Batch`. Owns the position in the run; it computes
nothing of a batch itself and imports no framework.
"""

from __future__ import annotations

import operator
import os
import weakref
from typing import TYPE_CHECKING, Any, Literal

from windowloader.batch.buffers import BufferPool
from windowloader.batch.recipe import Recipe
from windowloader.errors import ClosedError, LoaderError, StateError
from windowloader.order.state import RunState
from windowloader.util.ranks import confirm, resolve

from .iteration import EpochProgress, EpochSampler, Iteration, refuse_worker
from .options import LoaderOptions, check_windows, sorted_options
from .pipeline import start_pipeline, warn_of_repeats
from .stats import History

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    from windowloader.batch.batch import Batch
    from windowloader.batch.buffers import Buffers
    from windowloader.order.shard import Position, Steps
    from windowloader.plan.plan import Plan
    from windowloader.util.ranks import Ranks
    from windowloader.windows.window_set import WindowSet

    from .pipeline import Pipeline
    from .stats import LoaderStats

__all__ = ["WindowLoader"]


class WindowLoader:
    """Batches of windows, built at run time from where the data is.

    Parameters
    ----------
    windows : WindowSet
        What `split` returns, or ``WindowSet(series, spec)``.
    batch_size : int
        Windows per rank and step. Default 64.
    shuffle : bool
        Use another order each epoch, a pure function of (seed, epoch): a permutation of all windows where the data
        are in memory or mapped, block order where they are streamed. Default False: the order of time.
    seed : int
        Seed of the orders, the same on all ranks; 0 ≤ seed < 2^128. Default 0.
    scaler : Scaler, optional
        Applied to the features it was fitted on, in inputs, future and (``scale_targets``) targets. Clocks and static
        covariates (those without time) are never scaled.
    scale_targets : bool
        False: targets keep the units of the data. Default True.
    fill : float, optional
        What a missing cell holds after scaling. None: the raw value, scaled like any other.
    dtype : str
        Of the batches: "float32" (default), "float64", "float16" or "bfloat16" (arrays of ml_dtypes' type; tensors in
        the PyTorch adapter); or an integer dtype where values are only copied.
    layout : str or pair of str
        Order of the axes of inputs (and of targets): b batch, t time, n space, f feature. Default "btnf".
    broadcast : bool
        False: deliver columns that do not depend on the node once, as ``batch.shared_inputs`` and
        ``batch.shared_future``. Default True.
    transform : callable, optional
        ``transform(batch)`` is what iteration yields; runs last, in the loop's thread.
    rank, world_size : int, optional
        None: found at the first ``len`` or ``iter`` (torch.distributed, the launcher's variables, else 0 of 1).
    lanes : int, optional
        Number of sequences that an epoch is spread over if it is streamed, or in time order; must divide the global
        batch. None: the world size for streams, else 1. A shuffle in memory is one sequence, which any ranks can share.
    uneven : {"pad", "drop", "exact"}
        What to do where ranks do not divide a step: repeat windows (default), leave some out, or repeat them with
        weight 0 (batches then always have their full shape, and ``batch.weights`` must be used).
    drop_last : bool
        Leave out a short last step. An error where no step is left. Default False.
    global_batch_size : int, optional
        Windows per step over all ranks, instead of ``batch_size`` per rank.
    steps_per_epoch : int, optional
        Epoch e is steps [e·k, (e + 1)·k) of the endless run of passes over the windows.
    epochs : int, optional
        How many epochs will be iterated, so that nothing is read ahead for a further one. None: unknown.
    memory : str or int
        Budget of this process for rows and prefetched batches. Default "1GiB".
    active_blocks : int, optional
        Streams: number of blocks that are mixed at a time.
    reads_ahead : int, optional
        Streams: number of blocks that are read ahead.
    prefetch_batches : int, optional
        Number of batches to prefetch. None: 3 for in-memory and memory-mapped data, up to 4 when streaming, fewer where
        they would exceed ``memory``, at least 1. Small batches of local rows are built several per call, up to so many.
    threads : int, optional
        Threads that build batches. None: up to 2, or none where batches are small. 0: none.

    Raises
    ------
    LoaderError
        Arguments that do not fit, with what to do; no window or no step to load.
    MissingDataError
        NaN marks missing values and there is no ``fill``; or an array in memory holds NaN that is not declared
        missing. Stored rows are checked when they are first used: the batch that would deliver NaN raises this.
    ScalerError, AxesError
        A scaler of other features, nodes or entities; windows of entities that it has no statistics for; a layout
        that does not fit.
    MemoryBudgetError
        Streams: ``memory`` is less than one chunk or window needs; the message names how much would do.
    RankError
        A rank outside the world; at the first ``len`` or ``iter`` also where a launcher set half of its variables.

    Examples
    --------
    >>> import numpy as np
    >>> import windowloader as wl
    >>> series = wl.Series(np.arange(40.0).reshape(20, 2))
    >>> windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=2))
    >>> loader = wl.WindowLoader(windows, batch_size=4, shuffle=True, seed=1)
    >>> for inputs, targets in loader:
    ...     pass
    >>> inputs.shape, targets.shape, len(loader), loader.epoch
    ((4, 3, 2, 1), (4, 2, 2, 1), 4, 1)
    """

    def __init__(self, windows: WindowSet, **options: Unpack[LoaderOptions]) -> None:
        delivery, self._transform, self._config = sorted_options(type(self).__name__, dict(options))
        check_windows(windows, self._config)
        self._windows = windows
        self._recipe = Recipe.compile(windows.series, windows.spec, **delivery)
        self._recipe.check(windows)
        self._history, self._closed = History(), False
        self._state: dict[str, int | str] | None = None  # to load when the pipeline is made, after a pickle
        self._loaded = False  # whether order and seed are those of a state
        self._last: int | None = None  # the last epoch in a state's order, before this loader's own follows
        self._move(0, None)
        self._unbind()
        if self._config.rank is not None and self._config.world_size is not None:
            self._bind()  # everything is known, so wrong arguments are errors now

    def _move(self, epoch: int, position: Position | None) -> None:
        """Let the next iterator begin at a position; None: at the beginning of the epoch."""
        if self._last not in (None, epoch):
            self._leave_order()
            position = None
        self._epoch = epoch
        self._position = position
        self._newest: EpochProgress | None = None

    def _unbind(self) -> None:
        """Have no pipeline: its threads and locks live in one process."""
        self._pipeline: Pipeline | None = None
        self._iterations: weakref.WeakSet[Iteration] = weakref.WeakSet()
        self._process = os.getpid()

    def _leave_order(self) -> None:
        """Let go of the order of a state: the next pipeline has this loader's own."""
        self._last, self._loaded, self._state = None, False, None
        self._close_iterations()
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = None

    def _bind(self) -> Pipeline:
        if self._closed:
            raise ClosedError("this loader was closed. Make a new one; its state_dict() can be loaded there.")
        if self._process != os.getpid():  # forked
            self.__setstate__(self.__getstate__())
        if self._pipeline is not None:
            confirm(self._pipeline.ranks)
            return self._pipeline
        ranks = resolve(self._config.rank, self._config.world_size)
        warn_of_repeats(self._config, ranks.world_size)
        self._pipeline = self._start(ranks)
        if self._state is not None:
            asked = self._epoch
            self.load_state_dict(self._state, order="keep" if self._last is None else "next_epoch")
            self.set_epoch(asked)
        return self._pipeline

    def _start(self, ranks: Ranks, state: RunState | None = None) -> Pipeline:
        parts = self._windows, self._recipe, self._config, ranks, self._buffers
        return start_pipeline(*parts, state=state, one_by_one=self._one_by_one)

    @property
    def _one_by_one(self) -> bool:
        return False

    def _buffers(self, nbytes: int) -> Buffers:
        return BufferPool(nbytes)

    @property
    def epoch(self) -> int:
        """The epoch that the next iterator runs through, or that began last."""
        return self._epoch

    @property
    def windows(self) -> WindowSet:
        """The windows it loads."""
        return self._windows

    @property
    def transform(self) -> Callable[[Batch], Any] | None:
        """Function that batches pass through last."""
        return self._transform

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing changes if it is the current one.

        Parameters
        ----------
        epoch : int
            From 0.

        Raises
        ------
        LoaderError
            If it is not an integer, or negative.
        """
        try:
            number = operator.index(epoch)
        except TypeError:
            number = -1
        if number < 0:
            raise LoaderError(f"epoch must be an integer >= 0, got {epoch!r}.")
        follows = self._config.steps_per_epoch and number == self._epoch + 1
        if follows and self._pipeline is not None and not self._closed and self.steps_left == 0:
            # From the cursor: with another batch size the number of steps before does not say where it begins.
            self._finished(self._here())
        elif number != self._epoch:
            self._move(number, None)

    def _rewind(self, *, loaded: bool = False) -> None:
        """Go back to the epoch's beginning from where a loop has been or, with ``loaded``, where a state was loaded."""
        if loaded or self._newest is not None:
            self._move(self._epoch, None)

    @property
    def sampler(self) -> EpochSampler:
        """For scripts that call ``loader.sampler.set_epoch(epoch)``, as for a DistributedSampler."""
        return EpochSampler(self._move_waiting)

    def _move_waiting(self, epoch: int) -> None:
        """Go to an epoch, and move the newest iterator along if its loop has not asked it for a batch yet."""
        before, progress = self._epoch, self._newest
        waiting = next((it for it in self._iterations if it.waits(progress)), None)
        self.set_epoch(epoch)
        if waiting is not None and self._epoch != before:
            self._newest = progress
            waiting.begin_at(self._position or self._bind().steps.start(self._epoch))

    @property
    def batch_sampler(self) -> None:
        """None: trainers that look for a sampler look for this, too."""

    def __len__(self) -> int:
        """Return the steps of a whole epoch, the same on all ranks."""
        steps = self._bind().steps
        return steps.left(steps.start(0))

    @property
    def steps_left(self) -> int:
        """Steps that are left of the current epoch, after those that the loop received."""
        return self._bind().steps.left(self._here())

    def __iter__(self) -> Iteration:
        refuse_worker()
        pipeline = self._bind()
        began = self._position or pipeline.steps.start(self._epoch)
        self._newest = EpochProgress(began, began)
        stats = self._history.begin(began.epoch)
        iteration = Iteration(
            pipeline, self._newest, deliver=self._deliver, finished=self._finished, stats=stats
        )
        self._iterations.add(iteration)
        return iteration

    def _deliver(self, batch: Batch) -> Any:
        if self._transform is None:
            return batch
        received = self._transform(batch)
        if received is None:
            raise LoaderError("transform returned None for a batch. Return what the loop is to receive.")
        return received

    def _finished(self, position: Position) -> None:
        following = self._bind().steps.next_epoch(position)
        self._move(following.epoch, following)

    def state_dict(self, *, step: int | None = None) -> dict[str, int | str]:
        """Describe the position of the run: what the loop received, whatever was prefetched.

        Parameters
        ----------
        step : int, optional
            Steps done of the current epoch, for loops that fetch a batch in advance. None: of the newest iterator.

        Returns
        -------
        dict
            Flat, about 300 bytes as JSON, equal on all ranks after equal numbers of batches.

        Raises
        ------
        StateError
            If the epoch has not so many steps.
        """
        position = self._here() if step is None else self._at(step)
        return self._describe(position).to_dict()

    def _here(self) -> Position:
        steps = self._bind().steps
        return self._newest.position if self._newest else self._position or steps.start(self._epoch)

    def load_state_dict(
        self, state: Mapping[str, Any], order: Literal["keep", "next_epoch"] = "keep"
    ) -> None:
        """Continue from a state: in any process, of any rank and world size, with any batch size of the same lanes.

        Iterators that are running are closed.

        Parameters
        ----------
        state : mapping
            From `state_dict`. Its order, seed and lanes win over this loader's arguments.
        order : {"keep", "next_epoch"}
            ``"keep"``: go on in its order. ``"next_epoch"``: finish its epoch, then go on in this loader's own order;
            where memory does not hold its blocks the rest is read directly, with a warning that names the bytes.

        Raises
        ------
        StateError
            If it belongs to other data, other windows or another kind of order; or if an epoch of an order that is
            kept reads more than 4 times the array: a full permutation, on a stream.
        LoaderError
            If its lanes do not divide this loader's global batch, for an unknown ``order``, or for ``"next_epoch"``
            with ``steps_per_epoch``.
        """
        if order not in ("keep", "next_epoch"):
            raise LoaderError(f"order={order!r} is not known. Pass 'keep' or 'next_epoch'.")
        if order == "next_epoch" and self._config.steps_per_epoch:
            raise LoaderError(
                "order='next_epoch' with steps_per_epoch would leave out windows: an epoch ends within a pass over the "
                "data. Pass order='keep', or leave out steps_per_epoch."
            )
        loaded = RunState.from_dict(state)
        present = self._bind()
        loaded.check(self._describe(present.steps.start(0)))
        pipeline = self._start(present.ranks, loaded)
        position = loaded.position(pipeline.steps)
        pipeline.check_reads(loaded, order, present)
        self._close_iterations()
        present.close()
        self._pipeline, self._loaded, self._state, self._last = pipeline, True, None, None
        self._move(position.epoch, position)
        self._last = position.epoch if order == "next_epoch" else None

    def _at(self, step: int) -> Position:
        """Position after ``step`` steps of the current epoch, from where its newest iterator began."""
        steps = self._bind().steps
        base = self._newest.began if self._newest else self._here()
        if not base.step <= step <= base.step + steps.left(base):
            raise StateError(
                f"step={step} is outside epoch {base.epoch}, whose iterator runs from step {base.step} "
                f"to {base.step + steps.left(base)}."
            )
        return steps.advance(base, step - base.step)

    def _describe(self, position: Position, steps: Steps | None = None) -> RunState:
        windows, steps = self._windows, steps or self._bind().steps
        return RunState.of(steps, position, spec=windows.spec.hash(), data=windows.fingerprint())

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments and the position of the run, for another process: it finds its own rank."""
        state = self._state
        if self._pipeline is not None:
            # with nothing but the epoch to carry, the other process may choose lanes by its own world size
            steps, position = self._pipeline.steps, self._position
            position = self._newest.position if self._newest else position or steps.start(self._epoch)
            moved = self._loaded or position != steps.start(self._epoch)
            state = self._describe(position, steps).to_dict() if moved else None
        gone = dict.fromkeys(("_pipeline", "_newest", "_position", "_iterations", "_process"))
        return {**self.__dict__, **gone, "_history": History(), "_state": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._unbind()

    def plan(
        self,
        state: Mapping[str, Any] | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> Plan:
        """Estimate an epoch without reading data: order, bytes, requests, memory, mixing.

        Parameters
        ----------
        state : mapping, optional
            From `state_dict`: what a run that continues there will read. None: the current epoch, from its beginning.
        rank, world_size : int, optional
            Of another rank or world than this process's.

        Returns
        -------
        Plan
            ``print`` it; ``to_dict()`` for JSON. The numbers are those that this loader executes.

        Raises
        ------
        StateError, LoaderError, RankError
            As `load_state_dict`, and for a rank outside the world.
        """
        pipeline = self._bind()
        loaded = None if state is None else RunState.from_dict(state)
        if loaded is not None:
            loaded.check(self._describe(pipeline.steps.start(0)))
        world = pipeline.ranks.world_size if world_size is None else world_size
        if rank is None:
            rank = pipeline.ranks.rank if world == pipeline.ranks.world_size else 0
        return pipeline.plan(rank=rank, world_size=world, epoch=self._epoch, state=loaded)

    def stats(self) -> LoaderStats:
        """Return statistics of this process's epochs: windows per second, waits of the loop, reads."""
        return self._history.stats()

    def close(self) -> None:
        """End prefetching and release the data; delivered batches stay valid. Closing twice does nothing."""
        self._close_iterations()
        if self._pipeline is not None and not self._closed:
            self._pipeline.close()
        self._closed = True

    def _close_iterations(self) -> None:
        for iteration in list(self._iterations):
            iteration.close()
        self._iterations.clear()

    def __enter__(self) -> WindowLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._windows!r}, batch_size={self._config.batch_size}, epoch={self._epoch})"
