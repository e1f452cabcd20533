"""PyTorch Lightning: loaders as a data module.

In: a `TorchLoader` a stage. Out: `WindowDataModule`, which says loaders their epoch and keeps their place in
Lightning's checkpoints: the step that was done, not the one that was fetched. Never replaces a sampler, and never asks
a loader anything before Lightning's process group exists.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from windowloader.adapters.pytorch import TorchLoader
from windowloader.batch import Batch
from windowloader.errors import LoaderError, MissingExtraError, StateError
from windowloader.loader import WindowLoader

try:
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.plugins.precision import Precision
    from lightning.pytorch.utilities import rank_zero_info
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "windowloader.adapters.lightning needs lightning, which is not installed: pip install "
        "'windowloader[lightning]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from windowloader.sampler import EpochSampler

__all__ = ["WindowDataModule"]

STAGES = ("train", "val", "test", "predict")


class WindowDataModule(LightningDataModule):  # type: ignore[misc,unused-ignore]  # Lightning is optional, so untyped
    """The loaders of a run, for ``Trainer.fit(model, datamodule=...)``.

    The model stays as it is: batches are those of the loader, moved to the model's device. Windows are dealt to ranks
    by the loaders, so Lightning has no sampler to replace. A checkpoint taken at any step, also by an exception in the
    middle of one, goes on with the batch that was not done; on any number of devices if the loader was given
    ``global_batch_size=``.

    Parameters
    ----------
    train, val, test, predict : TorchLoader, or a list or dict of them, optional
        By stage. A `WindowLoader` does too if its ``transform`` makes tensors.

    Raises
    ------
    LoaderError
        For what is none, such as a ``DataLoader``, which Lightning takes by itself.

    Examples
    --------
    >>> import numpy as np
    >>> import windowloader as wl
    >>> from windowloader.adapters.pytorch import TorchLoader
    >>> series = wl.Series(np.random.default_rng(0).normal(size=(500, 7)))
    >>> train, val, test = wl.split(series, wl.WindowSpec(lookback=12, horizon=3), (0.7, 0.1, 0.2))
    >>> module = WindowDataModule(
    ...     train=TorchLoader(train, batch_size=16, shuffle=True), val=TorchLoader(val, uneven="exact")
    ... )
    >>> module
    WindowDataModule(train=TorchLoader, val=TorchLoader)
    """

    def __init__(self, *, train: Any = None, val: Any = None, test: Any = None, predict: Any = None) -> None:
        super().__init__()
        self._given = dict(zip(STAGES, (train, val, test, predict), strict=True))
        for stage, loaders in self._given.items():
            if loaders is not None:
                _each(loaders, partial(_check, stage))
                # On the instance: Lightning skips a stage whose hook a module does not override.
                setattr(self, f"{stage}_dataloader", partial(self._bound, stage))

    def setup(self, stage: str) -> None:
        """Say who deals windows to ranks; Lightning calls this on each of them."""
        if self.trainer is not None and self.trainer.world_size > 1:
            rank_zero_info(
                f"windowloader deals windows to the {self.trainer.world_size} ranks; "
                "use_distributed_sampler does not apply, no sampler is replaced."
            )

    def _bound(self, stage: str) -> Any:
        assert self.trainer is not None  # only trainers call this
        return _each(
            self._given[cast("Literal['train', 'val', 'test', 'predict']", stage)],
            partial(_BoundLoader, self.trainer, stage),
        )

    def __repr__(self) -> str:
        given = [
            f"{stage}={type(loaders).__name__}"
            for stage, loaders in self._given.items()
            if loaders is not None
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    __str__ = __repr__


class _BoundLoader:
    """A loader as Lightning's loops see it."""

    batch_sampler = None

    def __init__(self, trainer: Any, stage: str, loader: WindowLoader) -> None:
        self._trainer = trainer
        self._stage = stage
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        precision = self._trainer.precision_plugin
        if type(precision).convert_input is Precision.convert_input:
            return iter(self._loader)
        return _Converted(iter(self._loader), precision.convert_input)

    @property
    def sampler(self) -> EpochSampler | None:
        """Lightning says the epoch to this; None where it wants the same batches every epoch."""
        return None if self._trainer.overfit_batches else self._loader.sampler

    def state_dict(self) -> dict[str, Any]:
        """State of the last step that was done: one fetched when an exception came is asked for again."""
        state = self._loader.state_dict()
        behind = _fetched_not_done(self._trainer) if self._stage == "train" else 0
        return self._loader.state_dict(step=int(state["step"]) - behind) if behind else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on; called after Lightning has counted the batches of an epoch, which must then hold for this one."""
        self._loader.load_state_dict(state)
        total = int(state["step"]) + self._loader.steps_left
        if total != len(self._loader) and self._loader.steps_left:
            raise StateError(
                f"the checkpoint is from step {state['step']} at a global batch of {state['global_batch']}; "
                f"with the batch here that epoch would come to {total} steps, but Lightning has counted "
                f"{len(self._loader)} and would end it there. Pass global_batch_size={state['global_batch']} (with "
                "any number of devices), or resume from the end of an epoch."
            )


class _Converted:
    """Iterates batches in the precision of the trainer, wrapped so that Lightning does not walk into them."""

    def __init__(self, batches: Iterator[Any], convert: Callable[[Any], Any]) -> None:
        self._batches = batches
        self._convert = convert

    def __iter__(self) -> _Converted:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        return _Opaque(batch.map(self._convert)) if isinstance(batch, Batch) else batch


class _Opaque:
    """A batch that is no dataclass: Lightning copies dataclasses field by field and refuses frozen ones.

    Its `to`, which Lightning calls next, gives the batch itself.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copies and pickles are of this, not of the batch
            raise AttributeError(name)
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batch)

    def to(self, device: torch.device, **options: bool) -> Any:
        batch: Any = self._batch
        return batch.to(device, **options)


def _each(loaders: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to a loader, or to each of a list or dict of them."""
    if isinstance(loaders, dict):
        return {name: _each(loader, function) for name, loader in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [_each(loader, function) for loader in loaders]
    return function(loaders)


def _check(stage: str, loader: object) -> None:
    if not isinstance(loader, WindowLoader):
        raise LoaderError(
            f"{stage}={type(loader).__name__} is no WindowLoader. Pass a TorchLoader; or give Trainer the "
            f"{type(loader).__name__} by itself, in place of this module."
        )
    if not isinstance(loader, TorchLoader) and loader.transform is None:
        raise LoaderError(
            f"{stage}= is a WindowLoader, whose batches are NumPy arrays, and Lightning needs tensors. Pass a "
            "windowloader.adapters.pytorch.TorchLoader with the same arguments, or a transform= that makes tensors."
        )


def _fetched_not_done(trainer: Any) -> int:
    """Count the batches of this epoch that the training loop has taken from the loader and not finished."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    done: int = loop.epoch_loop.batch_progress.current.processed
    return 0 if fetcher is None else max(0, fetcher.fetched - done)
