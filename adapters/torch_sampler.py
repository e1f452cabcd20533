"""The core's order as a batch sampler, so that a `DataLoader` delivers what a `TorchLoader` would.

In: windows, and the arguments of a loader that concern order and ranks. Out: `WindowSampler`, which yields the window
numbers of this rank's steps. Never stores a permutation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from torch.utils.data import Sampler

from windowloader.adapters.torch_dataset import StepPositions, WindowDataset
from windowloader.batch.recipe import Recipe
from windowloader.loader.pipeline import tasks
from windowloader.order.config import LoaderConfig
from windowloader.order.shard import make_steps
from windowloader.order.state import RunState
from windowloader.rows.read_plan import plan_reads
from windowloader.util.ranks import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Unpack

    from windowloader.order.shard import Position, Steps
    from windowloader.util.ranks import Ranks
    from windowloader.windows.window_set import WindowSet

__all__ = ["SamplerOptions", "WindowSampler"]


class SamplerOptions(TypedDict, total=False):
    """The arguments of `WindowLoader` that concern order and ranks."""

    batch_size: int
    shuffle: bool
    seed: int
    rank: int | None
    world_size: int | None
    lanes: int | None
    uneven: Literal["pad", "drop", "exact"]
    drop_last: bool
    global_batch_size: int | None
    steps_per_epoch: int | None
    memory: str | int
    active_blocks: int | None


class WindowSampler(Sampler[list[int]]):
    """Steps of a run, for ``DataLoader(dataset, batch_sampler=…, collate_fn=dataset.collate)``.

    An iterator run to its end sets `epoch` to the next one; as a `DataLoader` with workers asks ahead, call `set_epoch`
    before each epoch. Its iterators have a state, so that torchdata's ``StatefulDataLoader`` resumes within an epoch.

    Parameters
    ----------
    windows : WindowSet or WindowDataset
    **options
        ``batch_size``, ``shuffle``, ``seed``, ``rank``, ``world_size``, ``lanes``, ``uneven``, ``drop_last``,
        ``global_batch_size``, ``steps_per_epoch``, ``memory``, ``active_blocks``, as in `WindowLoader`.

    Raises
    ------
    LoaderError
        As `WindowLoader` does.

    Examples
    --------
    >>> import numpy as np
    >>> import windowloader as wl
    >>> windows = wl.WindowSet(wl.Series(np.zeros((20, 2))), wl.WindowSpec(lookback=3, horizon=2))
    >>> [list(step) for step in WindowSampler(windows, batch_size=8, rank=1, world_size=2)]
    [[8, 9, 10, 11, 12, 13, 14, 15]]
    """

    def __init__(self, windows: WindowSet | WindowDataset, **options: Unpack[SamplerOptions]) -> None:
        self.windows = windows.windows if isinstance(windows, WindowDataset) else windows
        # which variables are read decides the order of streams
        self._recipe = (
            windows.recipe
            if isinstance(windows, WindowDataset)
            else Recipe.compile(windows.series, windows.spec, fill=0.0)
        )
        self.config = LoaderConfig(**options)
        self.epoch = 0
        self._bound: tuple[Steps, Ranks] | None = None

    def bind(self, state: RunState | None = None) -> tuple[Steps, Ranks]:
        """Return steps and ranks; these are found out at the first ``len`` or ``iter``, a state's order wins."""
        if self._bound is None or state is not None:
            config = self.config
            ranks = resolve(config.rank, config.world_size)
            reading = plan_reads(self.windows, self._recipe.reads, config, ranks.world_size, state)
            self._bound = make_steps(reading.order, config, ranks.world_size), ranks
        return self._bound

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iterator goes through."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        steps, _ = self.bind()
        return steps.left(steps.start(0))

    def __iter__(self) -> SamplerIteration:
        steps, _ = self.bind()
        return SamplerIteration(self, steps.start(self.epoch))


class SamplerIteration:
    """One pass over the steps of an epoch; has a state."""

    def __init__(self, sampler: WindowSampler, position: Position) -> None:
        self._sampler = sampler
        self._position = position
        self._labels = (sampler.windows.spec.hash(), sampler.windows.fingerprint())
        self._steps: Iterator[StepPositions] = self._run()

    def _run(self) -> Iterator[StepPositions]:
        steps, ranks = self._sampler.bind()
        share = -(-steps.global_batch // ranks.world_size)
        full = share if self._sampler.config.uneven == "exact" else 0
        for task in tasks(steps, ranks, full, self._position):
            found = StepPositions(task.step.positions.tolist())
            found.weights = task.step.weights
            found.exact = steps.weighted(ranks.world_size)
            found.epoch, found.step = task.before.epoch, task.before.step
            found.step_weight = task.weight
            self._position = task.after
            yield found
        self._sampler.epoch = self._position.epoch + 1

    def __iter__(self) -> SamplerIteration:
        return self

    def __next__(self) -> StepPositions:
        return next(self._steps)

    def _state(self, steps: Steps, position: Position) -> RunState:
        return RunState.of(steps, position, spec=self._labels[0], data=self._labels[1])

    def state_dict(self) -> dict[str, Any]:
        """Describe where the run stands: as `WindowLoader.state_dict`, which takes it, too."""
        steps, _ = self._sampler.bind()
        return {**self._state(steps, self._position).to_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken."""
        loaded = RunState.from_dict(state)
        steps, _ = self._sampler.bind()
        loaded.check(self._state(steps, steps.start(0)))
        steps, _ = self._sampler.bind(loaded)
        self._position = loaded.position(steps)
        self._sampler.epoch = self._position.epoch
        self._steps = self._run()
