"""PyTorch Lightning: loaders as a data module.

In: a `TorchLoader` for each stage. Out: `WindowDataModule`, which sets the loaders' epoch and keeps their position in
Lightning's checkpoints: that of the last step that was done, not of the last batch that was fetched. Replaces no
sampler, and calls no loader before Lightning's process group exists.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from windowloader.adapters.pytorch import TorchLoader
from windowloader.batch.batch import Batch
from windowloader.errors import LoaderError, MissingExtraError, StateError
from windowloader.loader.loader import WindowLoader

try:
    from lightning.pytorch import Callback, LightningDataModule
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

__all__ = ["WindowDataModule"]

STAGES = ("train", "val", "test", "predict")


class WindowDataModule(LightningDataModule):  # type: ignore[misc,unused-ignore]  # Lightning is optional, so untyped
    """The loaders of a run, for ``Trainer.fit(model, datamodule=...)``.

    The model stays as it is: batches are those of the loader, moved to the model's device. The loaders assign windows
    to ranks, so Lightning replaces no sampler. A checkpoint taken at any step, also by an exception within a step,
    resumes with the batch that was not done; on any number of devices if the loader has ``global_batch_size=``.

    Parameters
    ----------
    train, val, test, predict : TorchLoader, or a list or dict of them, optional
        By stage. A `WindowLoader` is accepted if its ``transform`` makes tensors.

    Raises
    ------
    LoaderError
        For anything else, such as a ``DataLoader``, which Lightning takes without a data module.

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
        self._resume: _Resume | None = None
        self._given = dict(zip(STAGES, (train, val, test, predict), strict=True))
        for stage, loaders in self._given.items():
            if loaders is not None:
                _each(loaders, partial(_check, stage))
                # On the instance: Lightning skips a stage whose hook a module does not override.
                setattr(self, f"{stage}_dataloader", partial(self._bound, stage))

    def setup(self, stage: str) -> None:
        """Log that no sampler is replaced, and register the callback that resumes at the right batch."""
        trainer: Any = self.trainer
        if trainer is None:
            return
        if trainer.world_size > 1:
            rank_zero_info(
                f"windowloader assigns windows to the {trainer.world_size} ranks; "
                "use_distributed_sampler does not apply, no sampler is replaced."
            )
        train: list[WindowLoader] = []
        _each(self._given["train"] or [], train.append)
        if stage != "fit" or not train:
            return
        earlier = next((one for one in trainer.callbacks if isinstance(one, _Resume)), None)
        if earlier is not None and earlier.loaders == train:
            self._resume = earlier
            earlier.prepare(trainer)
            return
        if earlier is not None:
            trainer.callbacks.remove(earlier)
        if self._resume is not None:
            for loader in train:
                loader._rewind()  # another trainer may have left it within an epoch
        self._resume = _Resume(train)
        trainer.callbacks.append(self._resume)

    def _bound(self, stage: str) -> Any:
        assert self.trainer is not None  # only trainers call this
        given = self._given[cast("Literal['train', 'val', 'test', 'predict']", stage)]
        if stage == "train" and self._resume is not None:
            self._resume.bound.clear()
        return _each(given, partial(_BoundLoader, self.trainer, self._resume if stage == "train" else None))

    def __repr__(self) -> str:
        given = [
            f"{stage}={type(loaders).__name__}"
            for stage, loaders in self._given.items()
            if loaders is not None
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    __str__ = __repr__


class _Resume(Callback):  # type: ignore[misc,unused-ignore]
    """Resumes a run at the batch that the states of its training loaders name, and corrects Lightning's counters.

    Lightning counts an epoch as done when its loop ends, also where `max_steps`, `max_time` or `should_stop` ended it,
    and then loads no loader's state. Its counters cannot express that the next epoch has begun and has no batch yet.
    """

    def __init__(self, loaders: list[WindowLoader]) -> None:
        self.loaders = loaders
        self.bound: list[_BoundLoader] = []  # the loaders as this fit's loop has them
        # at the batch where the loop resumes, whatever epoch it sets first
        self._placed: list[WindowLoader] = []

    def stays(self, loader: WindowLoader) -> bool:
        """Return, once, whether a loader was placed at the batch where the run resumes."""
        if loader not in self._placed:
            return False
        self._placed.remove(loader)
        return True

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Load the loaders' states, and correct the counters that Lightning loads next."""
        if trainer.state.fn == "fit" and not trainer.overfit_batches:
            loops = checkpoint["loops"]["fit_loop"]
            self._place(loops, loops["state_dict"].pop("combined_loader", []))

    def prepare(self, trainer: Any) -> None:
        """Prepare another ``fit`` of the same trainer, which resumes where the last one ended."""
        loop = trainer.fit_loop
        if self.bound and loop.epoch_progress.current.started and not trainer.overfit_batches:
            loops = loop.state_dict()
            self._place(loops, [loader.state_dict() for loader in self.bound])
            loop.load_state_dict(loops)

    def _place(self, loops: dict[str, Any], states: list[Mapping[str, Any]]) -> None:
        if not states:
            return
        if len(states) != len(self.loaders):
            raise StateError(
                f"the checkpoint has states of {len(states)} training loaders, and there are {len(self.loaders)} "
                "here. Pass the loaders that the checkpoint was written with."
            )
        longest = min(states, key=lambda state: int(state["epoch"]))  # a shorter one may be in its next round
        epoch, step = int(longest["epoch"]), int(longest["step"])
        batches = loops["epoch_loop.batch_progress"]
        all_done = batches["current"]["processed"] == batches["current"]["ready"]
        if step and batches["is_last_batch"] and all_done:
            epoch, step = epoch + 1, 0
        _count(loops, epoch, within=step > 0)
        for loader, state in zip(self.loaders, states, strict=True):
            loader.load_state_dict(state)
            if step:
                _check_length(loader, state)
            elif loader.epoch == epoch and state["step"]:  # a shorter loader, in its next round
                loader._rewind(loaded=True)
            else:
                loader.set_epoch(epoch)
        self._placed = list(self.loaders)


def _count(loops: dict[str, Any], epoch: int, *, within: bool) -> None:
    """Set the counters of a fit loop: number of epochs done, and whether the next has begun."""
    begun = epoch + within
    for counted in ("total", "current"):
        loops["epoch_progress"][counted].update(ready=begun, started=begun, processed=epoch, completed=epoch)
    batches = loops["epoch_loop.batch_progress"]
    total, current = batches["total"], batches["current"]
    if within:  # totals left by an earlier interruption would hide the position of this one
        before = total["completed"] - current["completed"]
        total.update({name: before + count for name, count in current.items()})
        return
    if current["completed"] < current["processed"]:  # saved before the last batch was counted
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    total.update(dict.fromkeys(total, total["processed"]))
    current.update(dict.fromkeys(current, 0))
    batches["is_last_batch"] = False


def _check_length(loader: WindowLoader, state: Mapping[str, Any]) -> None:
    """Raise StateError for an epoch with another number of steps than Lightning counts for all epochs."""
    total = int(state["step"]) + loader.steps_left
    if total != len(loader) and loader.steps_left:
        raise StateError(
            f"the checkpoint is from step {state['step']} at a global batch of {state['global_batch']}; "
            f"with the batch here that epoch would have {total} steps, but Lightning has counted "
            f"{len(loader)} and would end it there. Pass global_batch_size={state['global_batch']} (with "
            "any number of devices), or resume from the end of an epoch."
        )


class _BoundLoader:
    """A loader as Lightning's loops see it, and the sampler whose epoch they set.

    ``resume`` is None except for training.
    """

    batch_sampler = None

    def __init__(self, trainer: Any, resume: _Resume | None, loader: WindowLoader) -> None:
        self._trainer = trainer
        self._resume = resume
        self._loader = loader
        # the loader's epoch, and its step less the steps that Lightning had done
        self._begun: tuple[int, int] | None = None
        if resume is not None:
            resume.bound.append(self)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """Begin at the first ``next``: Lightning makes iterators before it sets the epoch, and some it never uses."""
        if self._resume is not None:
            state = self._loader.state_dict()
            self._begun = int(state["epoch"]), int(state["step"]) - self._done()
        precision = self._trainer.precision_plugin
        plain = type(precision).convert_input is Precision.convert_input
        for batch in self._loader:
            yield (
                batch
                if plain or not isinstance(batch, Batch)
                else _Opaque(batch.map(precision.convert_input))
            )

    def _done(self) -> int:
        done: int = self._trainer.fit_loop.epoch_loop.batch_progress.current.processed
        return done

    @property
    def sampler(self) -> _BoundLoader:
        """Lightning sets the epoch of this."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, or stay where the run resumes."""
        begun, self._begun = self._begun, None
        if self._resume is not None and self._resume.stays(self._loader):
            return
        if not self._trainer.overfit_batches:
            self._loader.set_epoch(epoch)
        if begun is not None:
            self._loader._rewind()

    def state_dict(self) -> dict[str, Any]:
        """State of the last step that was done: a batch fetched before an exception is fetched again."""
        state = self._loader.state_dict()
        if self._begun is None or self._begun[0] != state["epoch"]:
            return state
        return self._loader.state_dict(step=self._begun[1] + self._done())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume; Lightning calls this where `_Resume` has not."""
        self._loader.load_state_dict(state)
        _check_length(self._loader, state)


class _Opaque:
    """Hides that a batch is a dataclass: Lightning copies dataclasses field by field and refuses frozen ones.

    Its `to`, which Lightning calls next, returns the batch itself.
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
            f"{stage}={type(loader).__name__} is no WindowLoader. Pass a TorchLoader, or pass the "
            f"{type(loader).__name__} to Trainer without this module."
        )
    if not isinstance(loader, TorchLoader) and loader.transform is None:
        raise LoaderError(
            f"{stage}= is a WindowLoader, whose batches are NumPy arrays, and Lightning needs tensors. Pass a "
            "windowloader.adapters.pytorch.TorchLoader with the same arguments, or a transform= that makes tensors."
        )
