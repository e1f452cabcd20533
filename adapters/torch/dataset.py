"""Windows as a map-style data set, for users who keep `torch.utils.data.DataLoader`, and the core's order for it.

In: a window set, how batches should look, how they are ordered. Out: `WindowDataset`, whose samples are views of one
gather, with a collate function that returns that gather; `WindowSampler`, which yields the window numbers of this
rank's steps, so that a ``DataLoader`` delivers the batches of a `TorchLoader`. Works in workers, each of which opens
the rows for itself; not in forked ones where rows are streamed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, default_collate, get_worker_info
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from windowloader.adapters.torch.batch import TorchBatch, batch_axes, graph_of_tensors, shared_arrays
from windowloader.batch.recipe import Recipe
from windowloader.batch.window_reader import WindowReader
from windowloader.errors import LoaderError
from windowloader.loader.pipeline import tasks
from windowloader.order.config import LoaderConfig
from windowloader.order.shard import make_steps
from windowloader.order.state import RunState
from windowloader.rows.read_plan import plan_reads
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.util.ranks import resolve
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Unpack

    from windowloader.batch.window_reader import WindowReadOptions
    from windowloader.loader.options import LoaderOptions
    from windowloader.order.shard import Position, Steps
    from windowloader.util.ranks import Ranks

__all__ = ["Sample", "StepPositions", "WindowDataset", "WindowSampler"]


class StepPositions(list[int]):
    """Window numbers of one step, as `WindowSampler` yields them; ``facts`` are further fields of its `Batch`."""

    def __init__(self, positions: Sequence[int], **facts: Any) -> None:
        super().__init__(positions)
        self.facts = facts


class Sample(tuple[Any, Any]):
    """One window as the pair (inputs, targets).

    Attributes
    ----------
    batch : TorchBatch
        The gather that it is a part of, with masks, starts and everything else.
    row : int
        Its number among the windows of the gather.
    """

    batch: TorchBatch
    row: int


class SampleBatch(Sequence[Sample]):
    """All windows of one gather, in order. Views of the gather are made when a window is asked for."""

    __slots__ = ("_axes", "batch")

    def __init__(self, batch: TorchBatch, axes: dict[str, int]) -> None:
        self.batch, self._axes = batch, axes

    def __len__(self) -> int:
        return self.batch.num_windows

    def __getitem__(self, index: Any) -> Any:
        row = range(len(self))[index]
        if isinstance(row, range):
            return [self[one] for one in row]
        sample = Sample(None if part is None else part.select(axis, row) for part, axis in self._sides())
        sample.batch, sample.row = self.batch, row
        return sample

    def stacked(self) -> list[torch.Tensor | None]:
        """Return inputs and targets with the batch axis first."""
        return [None if part is None else part.movedim(axis, 0).contiguous() for part, axis in self._sides()]

    def _sides(self) -> tuple[tuple[Any, int], tuple[Any, int]]:
        return (self.batch.inputs, self._axes["inputs"]), (self.batch.targets, self._axes.get("targets", 0))


def _stack(samples: Sequence[Sample], *, collate_fn_map: Any = None) -> list[torch.Tensor | None]:
    """Stack samples as torch's own collation does, which calls this: a whole gather is not copied."""
    if isinstance(samples, SampleBatch):
        return samples.stacked()
    sides = zip(*samples, strict=True)
    return [None if side[0] is None else collate(list(side), collate_fn_map=collate_fn_map) for side in sides]


default_collate_fn_map[Sample] = _stack  # how torch's documentation has a type bring its own collation


class WindowDataset(Dataset[Sample]):
    """Windows by number.

    Pass `collate` to the `DataLoader`: batches are then `TorchBatch`, gathered in one pass and sent from workers in one
    piece of shared memory. Without it they are the pairs that torch's own collation stacks. Workers of a streamed
    series need ``multiprocessing_context="forkserver"`` or ``"spawn"``: a read in a forked worker is a `SourceError`.

    Parameters
    ----------
    windows : WindowSet
    transform : callable, optional
        Called with every `Sample`; its result is the item, as in torchvision's data sets. For a transform of whole
        batches use `TorchLoader`.
    **options
        ``scaler``, ``scale_targets``, ``fill``, ``dtype``, ``layout``, ``broadcast``, as in `TorchLoader`.

    Raises
    ------
    LoaderError, MissingDataError, ScalerError, AxesError
        As `WindowLoader` does, at construction.

    Examples
    --------
    >>> import windowloader as wl
    >>> from torch.utils.data import DataLoader
    >>> windows = wl.WindowSet(wl.Series(np.arange(40.0).reshape(20, 2)), wl.WindowSpec(lookback=3, horizon=2))
    >>> dataset = WindowDataset(windows)
    >>> for inputs, targets in DataLoader(dataset, batch_size=8, shuffle=True, collate_fn=dataset.collate):
    ...     print(tuple(inputs.shape), tuple(targets.shape))
    (8, 3, 2, 1) (8, 2, 2, 1)
    (8, 3, 2, 1) (8, 2, 2, 1)
    """

    def __init__(
        self,
        windows: WindowSet,
        *,
        transform: Callable[[Sample], Any] | None = None,
        **options: Unpack[WindowReadOptions],
    ) -> None:
        if not isinstance(windows, WindowSet):
            raise LoaderError(
                f"a WindowDataset takes a WindowSet, not {type(windows).__name__}. Make one with "
                "wl.split(series, spec, (0.7, 0.1, 0.2)) or wl.WindowSet(series, spec)."
            )
        self.windows = windows
        self._options, self._transform = options, transform
        self._reader: _Reader | None = None
        self.recipe.check(windows)  # refuses what cannot be read, at construction

    @property
    def recipe(self) -> Recipe:
        """How rows become batches."""
        return self._own().windows.recipe

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, position: int) -> Any:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> Sequence[Any]:
        """Read some windows: the pairs of one gather. `DataLoader` calls this with the windows of a batch."""
        reader = self._own()
        # torch's collation of what a transform returns brings its own shared memory
        shared = self._transform is None and get_worker_info() is not None
        samples = SampleBatch(reader.read(positions, shared=shared), reader.axes)
        return samples if self._transform is None else [self._transform(sample) for sample in samples]

    def collate(self, samples: Any) -> Any:
        """Make a batch of samples: the gather that they came from, if they are all of one and in order.

        Parameters
        ----------
        samples : sequence of Sample
            From `__getitems__`, or single windows from anywhere, which are copied together.

        Returns
        -------
        TorchBatch
            Of items that a transform made: what torch's own collation returns.
        """
        if isinstance(samples, SampleBatch):
            return samples.batch
        if isinstance(samples, Sample):
            samples = [samples]
        if not all(isinstance(sample, Sample) for sample in samples):
            return default_collate(samples)
        whole: TorchBatch = samples[0].batch
        if [(id(sample.batch), sample.row) for sample in samples] == [
            (id(whole), row) for row in range(whole.num_windows)
        ]:
            return whole
        return self._own().join(samples)

    def _own(self) -> _Reader:
        """Return the reader of this process: after a fork or a spawn a new one."""
        if self._reader is None or self._reader.process != os.getpid():
            self._reader = _Reader(WindowReader(self.windows, **self._options))
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __repr__(self) -> str:
        return f"WindowDataset({self.windows!r})"


class _Reader:
    """Reads windows as batches of tensors, in one process."""

    def __init__(self, windows: WindowReader) -> None:
        self.process = os.getpid()
        self.windows = windows
        self.axes = batch_axes(windows.recipe)
        graph = windows.windows.series.graph
        self._dynamic = isinstance(graph, DynamicGraph)
        self._graph = None if isinstance(graph, DynamicGraph) else graph_of_tensors(graph)

    def _graph_at(self, starts: np.ndarray | None) -> Any:
        """Return the static graph as tensors, converted once, or the edges of windows."""
        if not self._dynamic or starts is None:
            return self._graph
        return graph_of_tensors(self.windows.windows.graph_at(starts))

    def read(self, positions: Sequence[int], *, shared: bool) -> TorchBatch:
        """Gather some windows; ``shared``: into memory that the main process can map, as torch's collation does."""
        numbers, recipe = np.array(positions, ndmin=1), self.windows.recipe
        out = shared_arrays(recipe, len(numbers)) if shared else None
        batch = self.windows.read(numbers, graph=False, out=out)
        facts: dict[str, Any] = {"weights": np.ones(len(numbers), np.float32)}
        if isinstance(positions, StepPositions):
            facts |= {name: value for name, value in positions.facts.items() if value is not None}
        if out is not None:
            out["weights"][:] = facts["weights"]
            facts["weights"] = out["weights"]
        graph = self._graph_at(batch.starts)
        return TorchBatch.of(batch, bfloat16=recipe.dtype == "bfloat16", graph=graph, **facts)

    def join(self, samples: Sequence[Sample]) -> TorchBatch:
        """Copy windows of several gathers together."""
        first = samples[0].batch
        arrays: dict[str, Any] = {}
        for name in [*first.arrays(), "weights"]:
            axis = self.axes[name]
            rows = [getattr(sample.batch, name).narrow(axis, sample.row, 1) for sample in samples]
            arrays[name] = torch.cat(rows, axis)
        starts = np.array([sample.batch.starts[sample.row] for sample in samples])  # type: ignore[index]
        entities = self.windows.windows.series.entity_of(starts)
        return replace(first, **arrays, starts=starts, entities=entities, graph=self._graph_at(starts))


# -- order ------------------------------------------------------------------------------------------------------------


class WindowSampler(Sampler[list[int]]):
    """Steps of a run, for ``DataLoader(dataset, batch_sampler=…, collate_fn=dataset.collate)``.

    An iterator that ends sets `epoch` to the next one. A `DataLoader` with workers prefetches, so call `set_epoch`
    before each epoch. Iterators have a state, so that torchdata's ``StatefulDataLoader`` resumes within an epoch.

    Parameters
    ----------
    windows : WindowSet or WindowDataset
    **options
        Those of `WindowLoader` that concern order and ranks: ``batch_size``, ``shuffle``, ``seed``, ``rank``,
        ``world_size``, ``lanes``, ``uneven``, ``drop_last``, ``global_batch_size``, ``steps_per_epoch``, ``memory``,
        ``active_blocks``.

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

    def __init__(self, windows: WindowSet | WindowDataset, **options: Unpack[LoaderOptions]) -> None:
        given: Any = options
        self.config = LoaderConfig(**given)
        # the order of a stream depends on which variables are read
        if isinstance(windows, WindowDataset):
            self.windows, self._recipe = windows.windows, windows.recipe
        else:
            self.windows = windows
            self._recipe = Recipe.compile(windows.series, windows.spec, fill=0.0)
        self.epoch = 0
        self._bound: tuple[Steps, Ranks] | None = None

    def bind(self, state: RunState | None = None) -> tuple[Steps, Ranks]:
        """Return steps and ranks, which are found at the first ``len`` or ``iter``; the order of a state wins."""
        if self._bound is None or state is not None:
            ranks = resolve(self.config.rank, self.config.world_size)
            reading = plan_reads(self.windows, self._recipe.reads, self.config, ranks.world_size, state)
            self._bound = make_steps(reading.order, self.config, ranks.world_size), ranks
        return self._bound

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        steps, _ = self.bind()
        return steps.left(steps.start(0))

    def __iter__(self) -> SamplerIteration:
        steps, _ = self.bind()
        return SamplerIteration(self, steps.start(self.epoch))


class SamplerIteration:
    """One pass over the steps of an epoch, with a state."""

    def __init__(self, sampler: WindowSampler, position: Position) -> None:
        self._sampler, self._position = sampler, position
        self._labels = {"spec": sampler.windows.spec.hash(), "data": sampler.windows.fingerprint()}
        self._steps = self._run()

    def _run(self) -> Iterator[StepPositions]:
        steps, ranks = self._sampler.bind()
        share = -(-steps.global_batch // ranks.world_size)
        full = share if self._sampler.config.uneven == "exact" else 0
        for task in tasks(steps, ranks, full, self._position):
            self._position = task.step.after
            yield StepPositions(
                task.step.positions.tolist(),
                weights=task.step.weights,
                exact=steps.weighted(ranks.world_size),
                epoch=task.step.before.epoch,
                step=task.step.before.step,
                step_weight=task.step.total_weight,
            )
        self._sampler.epoch = self._position.epoch + 1

    def __iter__(self) -> SamplerIteration:
        return self

    def __next__(self) -> StepPositions:
        return next(self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Describe where the run stands, as `WindowLoader.state_dict`; a loader can load it."""
        steps, _ = self._sampler.bind()
        return {**RunState.of(steps, self._position, **self._labels).to_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a state was taken."""
        loaded = RunState.from_dict(state)
        steps, _ = self._sampler.bind()
        loaded.check(RunState.of(steps, steps.start(0), **self._labels))
        steps, _ = self._sampler.bind(loaded)
        self._position = loaded.position(steps)
        self._sampler.epoch = self._position.epoch
        self._steps = self._run()
