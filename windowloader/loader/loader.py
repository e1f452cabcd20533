"""`WindowLoader`: batches of windows in order, for any rank, made ahead, resumable at any step.

In: a `WindowSet` and how its batches should be. Out: an iterable of `Batch`. It owns the position in the run and binds
the rooms together; it computes nothing of a batch itself and imports no framework.
"""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Literal

from windowloader.batch.buffers import BufferPool
from windowloader.batch.recipe import Recipe
from windowloader.errors import ClosedError, LoaderError, StateError
from windowloader.order.config import LoaderConfig
from windowloader.order.state import RunState
from windowloader.rows.read_plan import plan_reads, warn_of_repeated_reads
from windowloader.util.ranks import confirm, resolve
from windowloader.windows.split import Split
from windowloader.windows.window_set import WindowSet

from .iteration import EpochProgress, Iteration
from .pipeline import start_pipeline
from .sampler import EpochSampler
from .stats import History

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from windowloader.batch.batch import Batch
    from windowloader.batch.buffers import Buffers
    from windowloader.order.shard import Position
    from windowloader.plan.plan import Plan
    from windowloader.scaling.scalers import Scaler
    from windowloader.util.ranks import Ranks

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
        Windows a rank and step.
    shuffle : bool
        Another order each epoch, a pure function of (seed, epoch): a permutation of all windows where the data are in
        memory or mapped, block order where they are streamed. False: the order of time.
    seed : int
        What orders are drawn from, the same on all ranks; 0 ≤ seed < 2^128.
    scaler : Scaler, optional
        Applied to what it was fitted on, in inputs, future and (``scale_targets``) targets. Clocks and static
        covariates (those without time) are never scaled.
    scale_targets : bool
        False: targets keep the units of the data.
    fill : float, optional
        What a missing cell holds after scaling. None: the raw value, scaled like any other.
    dtype : str
        Of the batches: "float32", "float64", "float16", "bfloat16" (ml_dtypes' arrays; in the PyTorch adapter tensors).
    layout : str or pair of str
        Order of the axes of inputs (and of targets): b batch, t time, n space, f feature.
    broadcast : bool
        False: what does not depend on the node comes once, as ``batch.shared_inputs`` and ``batch.shared_future``.
    transform : callable, optional
        ``transform(batch)`` is what iteration yields; runs last, in the loop's thread.
    rank, world_size : int, optional
        None: found at the first ``len`` or ``iter`` (torch.distributed, launcher's variables, else 0 of 1).
    lanes : int, optional
        Into how many sequences an epoch is dealt that is streamed, or in time order; must divide the global batch.
        None: the world size for streams, else 1. A shuffle in memory is one sequence, which any ranks can share.
    uneven : {"pad", "drop", "exact"}
        What a step does that does not divide: repeat windows, leave some out, or repeat them at weight 0
        (batches then always have their full shape, and ``batch.weights`` must be used).
    drop_last : bool
        Leave out a last step that is short. An error where no step is left.
    global_batch_size : int, optional
        Windows a step over all ranks, instead of ``batch_size`` a rank.
    steps_per_epoch : int, optional
        Epoch e is steps [e·k, (e + 1)·k) of the endless run of passes over the windows.
    memory : str or int
        Budget of this process for what is read and made ahead, e.g. "1GiB".
    active_blocks : int, optional
        Streams: how many blocks are mixed at a time.
    reads_ahead : int, optional
        Streams: how many blocks are read ahead.
    prefetch_batches : int, optional
        How many batches are made ahead. None: 3 of rows at hand, up to 4 of streams, fewer where they would exceed
        ``memory``, at least 1. Small batches of rows at hand are made several at a time, up to so many.
    threads : int, optional
        That make batches, large ones together. None: up to 2, or none where batches are small. 0: none.

    Raises
    ------
    LoaderError
        Arguments that do not fit, with what to do; no window or no step to load.
    MissingDataError
        NaN marks missing values and there is no ``fill``; or an array in memory holds NaN that is not declared
        missing. Rows that are stored are looked at when they come into use, and a batch that would deliver NaN raises
        this in its place.
    ScalerError, AxesError
        A scaler of other features, nodes or entities; windows of entities that it has no statistics for; a layout
        that does not fit.
    MemoryBudgetError
        Streams: ``memory`` under what one chunk or window needs; the message names how much would do.
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

    def __init__(
        self,
        windows: WindowSet,
        *,
        batch_size: int = 64,
        shuffle: bool = False,
        seed: int = 0,
        scaler: Scaler | None = None,
        scale_targets: bool = True,
        fill: float | None = None,
        dtype: str = "float32",
        layout: str | tuple[str, str] = "btnf",
        broadcast: bool = True,
        transform: Callable[[Batch], Any] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        lanes: int | None = None,
        uneven: Literal["pad", "drop", "exact"] = "pad",
        drop_last: bool = False,
        global_batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        memory: str | int = "1GiB",
        active_blocks: int | None = None,
        reads_ahead: int | None = None,
        prefetch_batches: int | None = None,
        threads: int | None = None,
    ) -> None:
        self._config = LoaderConfig(
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            lanes=lanes,
            uneven=uneven,
            drop_last=drop_last,
            global_batch_size=global_batch_size,
            steps_per_epoch=steps_per_epoch,
            memory=memory,
            active_blocks=active_blocks,
            reads_ahead=reads_ahead,
            prefetch_batches=prefetch_batches,
            threads=threads,
        )
        if not isinstance(windows, WindowSet):
            raise _no_windows(windows)
        if transform is not None and not callable(transform):
            raise LoaderError(
                f"transform={transform!r} is not callable. Pass a function of a batch, or None."
            )
        if len(windows) == 0:
            raise LoaderError(f"{windows!r} has no window, so there is nothing to load.")
        if drop_last and global_batch_size is None and len(windows) < self._config.batch_size:
            raise LoaderError(  # with any number of ranks; other cases are found when that number is known
                f"drop_last=True leaves nothing to load: there are {len(windows)} windows, and "
                f"batch_size={batch_size} a rank. Make the batch smaller, or pass drop_last=False."
            )
        self._windows = windows
        self._recipe = Recipe.compile(
            windows.series,
            windows.spec,
            scaler=scaler,
            scale_targets=scale_targets,
            fill=fill,
            dtype=dtype,
            layout=layout,
            broadcast=broadcast,
        )
        self._recipe.check(windows)
        self._transform = transform
        self._epoch = 0
        self._position: Position | None = (
            None  # where the next iterator begins; None: at the epoch's beginning
        )
        self._newest: EpochProgress | None = None
        self._began: Position | None = None  # where the newest iterator began
        self._ranks: Ranks | None = None
        self._engine: Pipeline | None = None
        self._iterations: weakref.WeakSet[Iteration] = weakref.WeakSet()
        self._history = History()
        self._replaced: list[Pipeline] = []
        self._closed = False
        self._process = os.getpid()  # the engine's threads and locks live in one process
        self._loaded = False  # whether order and seed are a state's
        self._pending: dict[str, int | str] | None = None  # a state that came along from another process
        if rank is not None and world_size is not None:
            self._bind()  # nothing has to be found out, so wrong arguments are errors now

    # -- what is fixed at the first len or iter ------------------------------------------------------------------------

    def _bind(self) -> Pipeline:
        if self._closed:
            raise ClosedError("this loader was closed. Make a new one; its state_dict() can be loaded there.")
        if self._process != os.getpid():  # forked
            self.__setstate__(self.__getstate__())
        if self._engine is not None and self._ranks is not None:
            confirm(self._ranks)
        if self._engine is None:
            config = self._config
            self._ranks = resolve(config.rank, config.world_size)
            _warn_of_repeats(config, self._ranks.world_size)
            self._engine = self._start(self._ranks)
            if self._pending is not None:
                asked = self._epoch
                self.load_state_dict(self._pending)
                self.set_epoch(asked)
        return self._engine

    def _start(self, ranks: Ranks, state: RunState | None = None) -> Pipeline:
        reading = plan_reads(self._windows, self._recipe.reads, self._config, ranks.world_size, state)
        warn_of_repeated_reads(reading, self._windows, self._recipe.reads)
        return start_pipeline(
            self._windows,
            self._recipe,
            self._config,
            ranks,
            reading,
            self._buffers,
            one_by_one=self._one_by_one,
        )

    @property
    def _one_by_one(self) -> bool:
        return False

    def _buffers(self, nbytes: int) -> Buffers:
        return BufferPool(nbytes)

    # -- iteration -----------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that the next iterator runs through, or that was begun last."""
        return self._epoch

    @property
    def windows(self) -> WindowSet:
        """The windows it loads."""
        return self._windows

    @property
    def transform(self) -> Callable[[Batch], Any] | None:
        """What iteration passes batches through, last."""
        return self._transform

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing changes if it is the present one.

        Parameters
        ----------
        epoch : int
            From 0.

        Raises
        ------
        LoaderError
            If it is none, or negative.
        """
        if not hasattr(epoch, "__index__") or epoch < 0:
            raise LoaderError(f"epoch {epoch!r} is no number of an epoch. They count from 0.")
        follows = self._config.steps_per_epoch and epoch == self._epoch + 1
        if follows and self._engine is not None and not self._closed and self.steps_left == 0:
            # From the cursor: with another batch size the number of steps before does not say where it begins.
            self._finished(self._here())
        elif epoch != self._epoch:
            self._epoch, self._position, self._newest, self._began = int(epoch), None, None, None

    def _rewind(self, *, loaded: bool = False) -> None:
        """Go back to the epoch's beginning from where a loop has been or, with ``loaded``, where a state was loaded."""
        if loaded or self._newest is not None:
            self._position, self._newest, self._began = None, None, None

    @property
    def sampler(self) -> EpochSampler:
        """For loops that call ``loader.sampler.set_epoch(epoch)``, as torch's DistributedSampler taught them."""
        return EpochSampler(self._move_waiting)

    @property
    def batch_sampler(self) -> None:
        """None: where there is a sampler, trainers look for this too."""

    def _move_waiting(self, epoch: int) -> None:
        """Go to an epoch, and take the newest iterator along if its loop has not asked it for a batch yet."""
        progress = self._newest
        waiting = next((it for it in self._iterations if it.waits(progress)), None)
        if epoch == self._epoch or waiting is None or progress is None:
            self.set_epoch(epoch)
            return
        self.set_epoch(epoch)
        self._began = self._position or self._bind().steps.start(self._epoch)
        self._newest = progress
        waiting.begin_at(self._began)

    def __len__(self) -> int:
        """Return the steps of a whole epoch, the same on all ranks."""
        steps = self._bind().steps
        return steps.left(steps.start(0))

    @property
    def steps_left(self) -> int:
        """Steps that the present epoch has left, after those that the loop received."""
        return self._bind().steps.left(self._here())

    def __iter__(self) -> Iteration:
        _refuse_worker()
        engine = self._bind()
        self._let_go()
        self._began = self._position or engine.steps.start(self._epoch)
        progress = EpochProgress(self._began)
        stats = self._history.begin(progress.position.epoch)
        self._newest = progress
        iteration = Iteration(engine, progress, deliver=self._deliver, finished=self._finished, stats=stats)
        self._iterations.add(iteration)
        return iteration

    def _deliver(self, batch: Batch) -> Any:
        if self._transform is None:
            return batch
        made = self._transform(batch)
        if made is None:
            raise LoaderError("transform returned None for a batch. Return what the loop is to receive.")
        return made

    def _finished(self, position: Position) -> None:
        self._let_go()
        following = self._bind().steps.next_epoch(position)
        self._epoch, self._position, self._newest, self._began = following.epoch, following, None, None

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self, *, step: int | None = None) -> dict[str, int | str]:
        """Describe where the run stands: what the loop received, whatever was made ahead.

        Parameters
        ----------
        step : int, optional
            Steps done of the present epoch, for loops that take a batch ahead. None: those of the newest iterator.

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

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken: in any process, of any rank and world size, at any batch of the same lanes.

        Parameters
        ----------
        state : mapping
            From `state_dict`. Its order, seed and lanes win over this loader's arguments.

        Raises
        ------
        StateError
            If it belongs to other data, other windows or another kind of order, or if reading in its order takes more
            than 4 times the bytes of this loader's own: a full permutation, on a stream.
        LoaderError
            If its lanes do not divide this loader's global batch.
        """
        loaded = RunState.from_dict(state)
        loaded.check(self._describe(self._bind().steps.start(0)))
        assert self._ranks is not None
        assert self._engine is not None
        present = self._engine.reading
        if present.choice is not None and present.order.name != loaded.order:
            from .plans import refuse_costly

            refuse_costly(self._engine, self._config, loaded)
        engine = self._start(self._ranks, loaded)
        position = loaded.position(engine.steps)
        self._replaced.append(self._engine)
        self._engine, self._loaded, self._pending = engine, True, None
        self._let_go()
        self._epoch, self._position, self._newest, self._began = position.epoch, position, None, position

    def _let_go(self) -> None:
        """Let go of what was there before a state was loaded, once no iterator uses it any more."""
        for engine in list(self._replaced):
            if not any(iteration.uses(engine) for iteration in list(self._iterations)):
                self._replaced.remove(engine)
                engine.access.close()
                engine.pool.close()

    def _at(self, step: int) -> Position:
        """Position after ``step`` steps of the present epoch, from where its newest iterator began."""
        steps = self._bind().steps
        base = self._began or steps.start(self._epoch)
        if not base.step <= step <= base.step + steps.left(base):
            raise StateError(
                f"step={step} is outside epoch {base.epoch}, whose iterator runs from step {base.step} "
                f"to {base.step + steps.left(base)}."
            )
        return steps.advance(base, step - base.step)

    def _describe(self, position: Position) -> RunState:
        return RunState.of(
            self._bind().steps,
            position,
            spec=self._windows.spec.hash(),
            data=self._windows.fingerprint(),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments and where the run stands, for another process: it finds its own rank."""
        gone = dict.fromkeys(
            ("_engine", "_ranks", "_newest", "_began", "_position", "_iterations", "_process")
        )
        return {**self.__dict__, **gone, "_history": History(), "_replaced": [], "_pending": self._to_carry()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _iterations=weakref.WeakSet(), _process=os.getpid())

    def _to_carry(self) -> dict[str, int | str] | None:
        """Describe where the run stands; None where the arguments and the epoch say it all."""
        if self._engine is None:
            return self._pending
        steps = self._engine.steps
        position = self._newest.position if self._newest else self._position or steps.start(self._epoch)
        if position == steps.start(self._epoch) and not self._loaded:
            return None  # the other process may choose lanes by its own world size
        return RunState.of(
            steps, position, spec=self._windows.spec.hash(), data=self._windows.fingerprint()
        ).to_dict()

    # -- what will happen ----------------------------------------------------------------------------------------------

    def plan(
        self,
        state: Mapping[str, Any] | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> Plan:
        """Foretell an epoch, without touching data: order, bytes, requests, memory, mixing.

        Parameters
        ----------
        state : mapping, optional
            From `state_dict`: what a run that goes on there will take. None: the present epoch, from its beginning.
        rank, world_size : int, optional
            Of another rank or world than this process's.

        Returns
        -------
        Plan
            ``print`` it; ``to_dict()`` for JSON. This loader executes the same numbers.

        Raises
        ------
        StateError, LoaderError, RankError
            As `load_state_dict`, and for a rank outside the world.
        """
        from .plans import plan_of

        engine, ranks = self._bind(), self._ranks
        assert ranks is not None
        loaded = None if state is None else RunState.from_dict(state)
        if loaded is not None:
            loaded.check(self._describe(engine.steps.start(0)))
        world = ranks.world_size if world_size is None else world_size
        if rank is None:
            rank = ranks.rank if world == ranks.world_size else 0
        return plan_of(engine, self._config, rank=rank, world_size=world, epoch=self._epoch, state=loaded)

    # -- what happened -------------------------------------------------------------------------------------------------

    def stats(self) -> LoaderStats:
        """Return how the epochs of this process went: windows a second, what the loop waited for, what was read."""
        return self._history.stats()

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all work ahead and let go of the data; batches in hand stay valid. Closing twice does nothing."""
        for iteration in list(self._iterations):
            iteration.close()
        self._let_go()
        if self._engine is not None and not self._closed:
            self._engine.access.close()
            self._engine.pool.close()
        self._closed = True

    def __enter__(self) -> WindowLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._windows!r}, batch_size={self._config.batch_size}, epoch={self._epoch})"


def _warn_of_repeats(config: LoaderConfig, world_size: int) -> None:
    """Warn where filling each step up to a multiple of the ranks repeats windows that count again."""
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


def _no_windows(given: object) -> LoaderError:
    """Say what a loader takes."""
    if isinstance(given, Split):
        names = ", ".join(given.names)
        return LoaderError(
            f"a loader takes one WindowSet, and this is a split into {names}. Unpack it: {names} = wl.split(...), then "
            f"WindowLoader({given.names[0]})."
        )
    return LoaderError(
        f"a loader takes a WindowSet, not {type(given).__name__}. Make one with wl.split(series, spec, (0.7, 0.1, "
        "0.2)) or wl.WindowSet(series, spec)."
    )


def _refuse_worker() -> None:
    """Raise in a DataLoader's worker: there the loader would deliver every batch once a worker."""
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is not None and torch_data.get_worker_info() is not None:
        raise LoaderError(
            "a WindowLoader was iterated inside a DataLoader worker: each worker would deliver every batch again. "
            "Use WindowLoader by itself (it makes batches ahead on threads), or give the DataLoader a "
            "windowloader.adapters.pytorch.WindowDataset."
        )
