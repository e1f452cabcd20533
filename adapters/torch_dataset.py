"""Windows as a map-style data set, for people who keep `torch.utils.data.DataLoader`.

In: a window set and how batches should be. Out: per-window pairs that are views of one gather, and a collate function
that hands that gather out. Works in workers, each of which opens the rows for itself; not in forked ones where rows are
streamed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate, get_worker_info

from windowloader.adapters.torch_batch import TorchBatch, graph_of_tensors
from windowloader.adapters.torch_buffers import TorchBuffers, shared_memory
from windowloader.batch.batch import Batch
from windowloader.batch.buffers import BufferPool
from windowloader.batch.recipe import Recipe
from windowloader.errors import LoaderError
from windowloader.rows.rows import row_access
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

    from windowloader.scaling.scalers import Scaler

__all__ = ["RecipeOptions", "Sample", "StepPositions", "WindowDataset"]


class RecipeOptions(TypedDict, total=False):
    """How batches should be: arguments that `WindowLoader` has, too."""

    scaler: Scaler | None
    scale_targets: bool
    fill: float | None
    dtype: Any
    layout: str | tuple[str, str]
    broadcast: bool


class StepPositions(list[int]):
    """Window numbers of one step, as `WindowSampler` yields them, with what else a batch says about its step."""

    weights: np.ndarray | None = None
    exact: bool = False
    epoch: int | None = None
    step: int | None = None
    step_weight: float | None = None


class Sample(tuple[Any, Any]):
    """One window as the pair (inputs, targets).

    Attributes
    ----------
    batch : TorchBatch
        The gather that it is a part of: masks, starts and all else.
    row : int
        Which of its windows this is.
    """

    batch: TorchBatch
    row: int

    @classmethod
    def of(cls, batch: TorchBatch, row: int, axes: dict[str, int]) -> Sample:
        """Take one window of a gather."""
        pair = (getattr(batch, name) for name in ("inputs", "targets"))
        sample = cls(
            None if array is None else array.select(axes[name], row)
            for name, array in zip(("inputs", "targets"), pair, strict=True)
        )
        sample.batch, sample.row = batch, row
        return sample


class SampleDataset(list[Sample]):
    """All windows of one gather, in order."""

    batch: TorchBatch


class WindowDataset(Dataset[Sample]):
    """Windows by number.

    Give `collate` to the `DataLoader`: batches are then `TorchBatch`, gathered in one pass in the worker and handed
    over without another copy. Without it they are the pairs that torch's own collation stacks. Workers of a streamed
    series need ``multiprocessing_context="forkserver"`` or ``"spawn"``: a read in a forked worker is a `SourceError`.

    Parameters
    ----------
    windows : WindowSet
    transform : callable, optional
        Called with every `Sample`; what it returns is the item, as in torchvision's data sets. For a transform of whole
        batches take `TorchLoader`.
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
        **options: Unpack[RecipeOptions],
    ) -> None:
        if not isinstance(windows, WindowSet):
            raise LoaderError(
                f"a WindowDataset takes a WindowSet, not {type(windows).__name__}. Make one with "
                "wl.split(series, spec, (0.7, 0.1, 0.2)) or wl.WindowSet(series, spec)."
            )
        self._state = (windows, options, transform)
        self._reader: _WorkerReader | None = _WorkerReader(windows, options)  # refuses what cannot be, now
        self._reader.recipe.check(windows)

    @property
    def windows(self) -> WindowSet:
        """The windows it reads."""
        return self._state[0]

    @property
    def recipe(self) -> Recipe:
        """How rows become batches."""
        return self._here().recipe

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, position: int) -> Any:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Read some windows: the pairs of one gather. `DataLoader` calls this with the windows of a batch."""
        batch = self._here().read(positions)
        samples = SampleDataset(Sample.of(batch, row, self._here().axes) for row in range(batch.num_windows))
        samples.batch = batch
        transform = self._state[2]
        return samples if transform is None else [transform(sample) for sample in samples]

    def collate(self, samples: Any) -> Any:
        """Make a batch of samples: the gather that they came from, if they are all of one and in order.

        Parameters
        ----------
        samples : sequence of Sample
            What `__getitems__` returned, or single windows from anywhere; those are copied together.

        Returns
        -------
        TorchBatch
            Of what a transform made in place of samples: what torch's own collation makes.
        """
        if isinstance(samples, SampleDataset):
            return samples.batch
        if isinstance(samples, Sample):
            samples = [samples]
        if not all(isinstance(sample, Sample) for sample in samples):
            return default_collate(samples)
        whole = samples[0].batch
        if [(id(sample.batch), sample.row) for sample in samples] == [
            (id(whole), row) for row in range(whole.num_windows)
        ]:
            found: TorchBatch = whole
            return found
        return self._here().join(samples)

    def _here(self) -> _WorkerReader:
        """Return what reads in this process: after a fork or a spawn it is made again."""
        if self._reader is None or self._reader.process != os.getpid():
            self._reader = _WorkerReader(*self._state[:2])
        return self._reader

    def __getstate__(self) -> tuple[WindowSet, RecipeOptions, Callable[[Sample], Any] | None]:
        return self._state

    def __setstate__(self, state: tuple[WindowSet, RecipeOptions, Callable[[Sample], Any] | None]) -> None:
        self._state, self._reader = state, None

    def __repr__(self) -> str:
        return f"WindowDataset({self.windows!r})"


class _WorkerReader:
    """What one process needs to read windows."""

    def __init__(self, windows: WindowSet, options: RecipeOptions) -> None:
        self.process = os.getpid()
        self.windows = windows
        self.recipe = Recipe.compile(windows.series, windows.spec, **options)
        self.axes = _batch_axes(self.recipe)
        self._rows = row_access(windows.series, self.recipe.variables, windows.spec.span)
        self._pool = BufferPool(0)
        graph = windows.series.graph
        self._graph = None if isinstance(graph, DynamicGraph) else graph_of_tensors(graph)

    def read(self, positions: Sequence[int]) -> TorchBatch:
        """Gather some windows; in a worker, into memory that the main process can map."""
        windows = self.windows
        numbers = np.asarray(positions, dtype=np.int64).reshape(-1)
        starts = windows.starts(numbers)
        arrays: dict[str, Any] = self._buffers(len(starts)).lease().carve(self.recipe.fields(len(starts)))
        known = _of_step(positions)
        weights = np.ones(len(starts), np.float32) if known["weights"] is None else known["weights"]
        for piece in self._rows.pieces(starts):
            self.recipe.gather(arrays, starts, piece.rows, begin=piece.begin, end=piece.end)
        edges = windows.graph_at(starts) if self._graph is None else None
        batch = Batch(
            **arrays,
            starts=starts,
            entities=windows.entities(numbers),
            **{**known, "weights": weights},
        )
        graph = self._graph if edges is None else graph_of_tensors(edges)
        return TorchBatch.of(batch, bfloat16=self.recipe.dtype == "bfloat16", graph=graph)

    def _buffers(self, rows: int) -> BufferPool | TorchBuffers:
        nbytes = self.recipe.nbytes(rows)
        if get_worker_info() is not None:
            return TorchBuffers(nbytes, shared_memory)
        if (
            not nbytes <= self._pool.nbytes < 2 * nbytes
        ):  # a run has two batch sizes; single windows come anew
            self._pool = BufferPool(nbytes)
        return self._pool

    def join(self, samples: Sequence[Sample]) -> TorchBatch:
        """Copy windows of several gathers together."""
        first = samples[0].batch

        def rows(name: str) -> list[Any]:
            return [getattr(sample.batch, name).narrow(self.axes[name], sample.row, 1) for sample in samples]

        arrays: dict[str, Any] = {
            name: torch.cat(rows(name), self.axes[name]) for name in [*first.arrays(), "weights"]
        }
        starts = np.array([sample.batch.starts[sample.row] for sample in samples])  # type: ignore[index]
        graph = first.graph if self._graph is not None else graph_of_tensors(self.windows.graph_at(starts))
        return replace(
            first, **arrays, starts=starts, entities=self.windows.series.entity_of(starts), graph=graph
        )


def _of_step(positions: Sequence[int]) -> dict[str, Any]:
    names = ("weights", "exact", "epoch", "step", "step_weight")
    return {name: getattr(positions, name, getattr(StepPositions, name)) for name in names}


def _batch_axes(recipe: Recipe) -> dict[str, int]:
    """Which axis of each array of a batch counts the windows."""
    found = {"weights": 0}
    for role in recipe.roles:
        before = role.layout.letters[: role.layout.letters.index("b")]
        axis = sum(len(role.space) if letter == "n" else 1 for letter in before)
        found |= {role.name: axis, role.mask_name: axis, role.shared_name: 0}
    return found
