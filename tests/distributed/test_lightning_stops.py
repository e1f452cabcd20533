"""Lightning runs that stop anywhere and go on: together their batches are those of the run that did not stop.

The matrix is stops × moments of saving × ways to go on × numbers of ranks. The campaigns take a share of it: each stop
once on one rank, some on several, every thirty-second checkpoint; ``EVERY=1`` takes all. The module is also the
program of a rank.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # imports of optional parts of Lightning
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import (
        Callback,
        Checkpoint,
        EarlyStopping,
        ModelCheckpoint,
        OnExceptionCheckpoint,
        Timer,
    )
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from windowloader.adapters.lightning import WindowDataModule

# Lightning's own words about what these tests do on purpose.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}")
    for words in (
        ".*Checkpoint directory .* exists and is not empty",
        ".*LeafSpec.* is deprecated:FutureWarning",
        "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
        ".*was called without a model. The last model of the previous",
        ".*but there is no last checkpoint available",
        "You requested to overfit but enabled train dataloader shuffling",
    )
]

WORLD = int(os.environ.get("WORLD_SIZE", 1)) if __name__ == "__main__" else 1  # Lightning unsets the variable
EVERY = int(os.environ.get("EVERY", 32))
EPOCHS, STEPS, STOP = 3, 9, 13  # 9 steps an epoch; the stop is after the fourth batch of the second
HOOKS = [
    "on_sanity_check_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_exception",
]


def counted(batch):
    """Starts of a batch without its fillers."""
    return batch.starts[batch.weights.numpy() > 0].tolist()


class Model(pl.LightningModule):
    """Keeps the starts of each batch that its training step received."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated, self.in_hand = [], 0, False

    @property
    def done(self):
        """Batches that were done: not the one in whose step a hook is called."""
        return len(self.seen) - self.in_hand

    def training_step(self, batch, batch_idx):
        self.in_hand = True
        self.seen.append(counted(batch))
        return (self.weight * batch.inputs[:, -1:] - batch.targets).abs().mean()

    def validation_step(self, batch, batch_idx):
        self.validated += 1
        self.log("val_loss", 1.0, batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Planner(Model):
    """Asks for the number of steps before Lightning has loaded its counters."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        total = self.trainer.estimated_stepping_batches
        return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=total)]


class Hooks(Callback):
    """Calls ``called`` in every hook."""


def _hook(name):
    def method(self, trainer, model, *_):
        self.called(name, trainer, model)

    return method


for _name in HOOKS:
    setattr(Hooks, _name, _hook(_name))


class Done(Hooks):
    """Tells the model when a batch is done, and each checkpoint how many are; the first callback."""

    def called(self, name, trainer, model):
        if name == "on_train_batch_end":
            model.in_hand = False

    def on_save_checkpoint(self, trainer, model, checkpoint):
        checkpoint["done"] = model.done


class Saver(Hooks):
    """Saves in every hook, each time into the hook's own file."""

    def __init__(self, folder):
        self.folder = folder

    def called(self, name, trainer, model):
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")


class Act(Hooks):
    """Does something once, in one hook, when so many batches are done."""

    def __init__(self, hook, action):
        self.hook, self.action = hook, action

    def called(self, name, trainer, model):
        if name == self.hook and model.done >= STOP and self.action is not None:
            action, self.action = self.action, None
            action(trainer)


class Clock(Timer):
    """``max_time`` by a clock that ticks once a batch."""

    ticks = 0

    def time_elapsed(self, stage="train"):
        return float(self.ticks)

    def on_train_batch_end(self, trainer, model, *rest):
        self.ticks = model.done
        super().on_train_batch_end(trainer, model, *rest)


def acting(hook, action):
    return [Act(hook, action)]


def stop(trainer):
    trainer.should_stop = True


def fail(trainer):
    raise RuntimeError("pulled the plug")


def interrupt(trainer):
    raise KeyboardInterrupt


def terminate(trainer):
    os.kill(os.getpid(), signal.SIGTERM)


# name: (what makes the callbacks, options of the trainer)
STOPS = {
    "max_steps": (list, {"max_steps": STOP}),
    "max_steps at an epoch's end": (list, {"max_steps": 2 * STEPS}),
    "max_epochs": (list, {"max_epochs": 2}),
    "max_time": (lambda: [Clock(timedelta(seconds=STOP))], {}),
    "early stopping": (lambda: [EarlyStopping("val_loss", patience=2)], {"val_check_interval": 4}),
    **{
        f"should_stop in {hook}": (partial(acting, hook, stop), {"val_check_interval": 4})
        for hook in HOOKS[1:-2]
    },
    **{
        f"exception in {hook}": (partial(acting, hook, fail), {"val_check_interval": 4})
        for hook in HOOKS[1:-1]
    },
    **{
        f"interrupt in {hook}": (partial(acting, hook, interrupt), {})
        for hook in ("on_train_batch_start", "on_before_backward", "on_train_batch_end")
    },
    **{
        f"SIGTERM in {hook}": (partial(acting, hook, terminate), {"val_check_interval": 4})
        for hook in (
            "on_train_batch_start",
            "on_train_batch_end",
            "on_validation_end",
            "on_train_epoch_start",
        )
    },
}
VARIANTS = {
    "plain": {},
    "limit": {"limit_train_batches": 7},
    "accumulate": {"accumulate_grad_batches": 2},
    "sanity": {"num_sanity_val_steps": 2},
    "every 5 batches": {"check_val_every_n_epoch": None, "val_check_interval": 5},
}
WAYS = {"epochs": {}, "steps": {"max_steps": 1000}, "longer": {"max_epochs": EPOCHS + 1}}
GROUPS = ("max", "early", "should_stop", "exception", "interrupt", "SIGTERM")
MOVED = ("max", "early", "SIGTERM")  # resumed on another number of ranks


def windows():
    values = np.random.default_rng(0).normal(size=(130, 3)).astype(np.float32)
    return wl.split(wl.Series(values), wl.WindowSpec(lookback=4, horizon=3), (0.7, 0.2, 0.1))


def train_loader(**options):
    return TorchLoader(
        windows()["train"], global_batch_size=10, shuffle=True, seed=1, uneven="exact", **options
    )


def module():
    val = TorchLoader(windows()["val"], global_batch_size=8, uneven="exact")
    return WindowDataModule(train=train_loader(), val=val)


def uninterrupted(variant="plain", epochs=EPOCHS):
    """Starts of each step over all ranks, by an ordinary loop."""
    loader, found = train_loader(rank=0, world_size=1), []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        found += [counted(batch) for batch in loader][: VARIANTS[variant].get("limit_train_batches")]
    return found


def trainer(folder, callbacks=(), **options):
    options = {"num_sanity_val_steps": 0, "max_epochs": EPOCHS, **options}
    return pl.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="auto" if WORLD == 1 else "ddp",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        default_root_dir=folder,
        callbacks=[Done(), *callbacks],
        **options,
    )


def savers(folder):
    return [
        Saver(folder / "hooks"),
        ModelCheckpoint(folder / "steps", every_n_train_steps=4, save_top_k=-1, save_last=True),
        ModelCheckpoint(folder / "epochs", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True),
        ModelCheckpoint(folder / "validation", mode="max", save_top_k=-1, save_on_train_epoch_end=False),
        ModelCheckpoint(folder / "time", train_time_interval=timedelta(0)),
        ModelCheckpoint(folder / "failure", every_n_epochs=99, save_on_exception=True),
        OnExceptionCheckpoint(folder / "exception"),
    ]


def run_to_stop(name, folder, variant="plain", model=Model, saving=savers):
    """Run until the stop; return trainer and model."""
    callbacks, options = STOPS[name]
    run = model()
    running = trainer(folder, [*saving(folder), *callbacks()], **(VARIANTS[variant] | options))
    before = signal.getsignal(signal.SIGINT)
    data, ended = module(), True
    try:
        running.fit(run, datamodule=data)
    except (RuntimeError, KeyboardInterrupt, SystemExit, SIGTERMException) as error:
        ended = isinstance(error, RuntimeError) and "pulled the plug" not in str(error)
        if ended:
            raise
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from an interrupt on
    if ended and saving is savers:
        running.save_checkpoint(folder / "after.ckpt")
    return running, run, data


def go_on(folder, path, name, variant="plain", way="epochs", model=Model):
    """Resume from a checkpoint; return the model."""
    kept = {key: value for key, value in STOPS[name][1].items() if key.startswith("val")}
    run = model()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks")
        resumed = trainer(folder, **(VARIANTS[variant] | kept | WAYS[way]))
        resumed.fit(run, datamodule=module(), ckpt_path=path, weights_only=False)
    return run


def checkpoints(folder):
    """Paths of all checkpoints of a run, and how many batches were done at each."""
    paths = sorted(folder.rglob("*.ckpt"))
    return {path: torch.load(path, weights_only=False)["done"] for path in paths}


def resumptions(folder, name):
    """What to resume from after a stop, and how: path, batches done, way; other moments of saving for each stop."""
    cases = [
        (path, done, list(WAYS)[number % len(WAYS)])
        for number, (path, done) in enumerate(checkpoints(folder).items())
    ]
    return cases[list(STOPS).index(name) % EVERY :: EVERY]


def check(seen, done, variant, way, whole):
    """Hold what a resumed run saw to the rest of the run that did not stop."""
    steps = VARIANTS[variant].get("limit_train_batches", STEPS)
    assert seen == whole[done : steps * WAYS[way].get("max_epochs", EPOCHS)]


QUICK = [
    "max_steps",
    "early stopping",
    "should_stop in on_train_epoch_start",
    "exception in on_before_backward",
]


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize("name", QUICK)
def test_a_run_that_stopped_goes_on_with_the_next_batch(name, tmp_path):
    _, model, _ = run_to_stop(name, tmp_path)
    whole = uninterrupted()
    assert model.seen == whole[: len(model.seen)]
    found = checkpoints(tmp_path)
    assert len(found) > 20
    last = "exception/on_exception.ckpt" if "exception" in name else "after.ckpt"
    for file, way in ((last, "epochs"), ("hooks/on_train_epoch_start.ckpt", "steps"), (last, "steps")):
        run = go_on(tmp_path, tmp_path / file, name, way=way)
        check(run.seen, found[tmp_path / file], "plain", way, whole)


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    "name", ["max_steps", "should_stop in on_train_batch_start", "interrupt in on_before_backward"]
)
def test_a_second_fit_goes_on_and_another_trainer_begins(name, tmp_path):
    running, model, data = run_to_stop(name, tmp_path, saving=lambda folder: [])
    done, whole = model.done, uninterrupted()
    assert 0 < done < len(whole)
    running.callbacks[:] = [one for one in running.callbacks if not isinstance(one, (Act, Timer))]
    running.fit_loop.epoch_loop.max_steps = -1
    del model.seen[done:]
    running.fit(model, datamodule=data)
    assert model.seen == whole
    for stopping in ({"max_steps": 3}, {}):  # the second, with loaders that the first left within an epoch
        fresh = Model()
        trainer(tmp_path, **stopping).fit(fresh, datamodule=data)
        assert fresh.seen == whole[: stopping.get("max_steps")]


@pytest.mark.usefixtures("clean_environment")
def test_a_state_that_was_loaded_by_hand_stays(tmp_path):
    data, whole, model = module(), uninterrupted(), Model()
    loader = data._given["train"]
    for _ in zip(range(4), loader, strict=False):
        state = loader.state_dict()
    data = module()
    loader = data._given["train"]
    loader.load_state_dict(state)
    next(iter(loader))  # a look shifts nothing
    trainer(tmp_path).fit(model, datamodule=data)
    assert model.seen == whole[4:]


@pytest.mark.usefixtures("clean_environment")
def test_a_model_that_asks_how_many_steps_there_are(tmp_path):
    _, model, _ = run_to_stop("max_steps", tmp_path, model=Planner)
    assert model.seen == uninterrupted()[:STOP]
    for file in ("hooks/on_train_batch_end.ckpt", "after.ckpt"):
        assert go_on(tmp_path, tmp_path / file, "max_steps", model=Planner).seen == uninterrupted()[STOP:]


@pytest.mark.usefixtures("clean_environment")
def test_epochs_that_a_hook_cuts_short_are_over(tmp_path):
    class Cutting(Model):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 4 else None

    run = Cutting()
    saving = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    trainer(tmp_path, [saving]).fit(run, datamodule=module())
    whole = uninterrupted()
    assert run.seen == [batch for epoch in range(EPOCHS) for batch in whole[epoch * STEPS :][:4]]
    for way in ("epochs", "steps"):
        assert (
            go_on(tmp_path, tmp_path / "epoch=0.ckpt", "max_epochs", way=way, model=Cutting).seen
            == run.seen[4:]
        )


def stops_of(groups, share, shares):
    """Names of stops: one of several shares, or all."""
    names = [name for name in STOPS if name.startswith(groups)]
    return names if EVERY == 1 else names[share :: min(shares, len(names))]


@pytest.mark.campaign
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_stop_and_checkpoint(variant, tmp_path):
    whole, count = uninterrupted(variant, EPOCHS + 1), 0
    names = stops_of(GROUPS, list(VARIANTS).index(variant), len(VARIANTS))
    for name in names:
        folder = tmp_path / name.replace(" ", "_")
        _, model, _ = run_to_stop(name, folder, variant)
        assert model.seen == whole[: len(model.seen)], name
        for path, done, way in resumptions(folder, name):
            run = go_on(folder, path, name, variant, way)
            check(run.seen, done, variant, way, whole)
            count += 1
    assert count > 20 * len(names) // EVERY
    print(f"{variant}: {len(names)} stops, {count} resumed, all as uninterrupted")


@pytest.mark.campaign
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("ranks", "then", "groups"),
    [(2, 2, GROUPS), (3, 3, GROUPS), (2, 3, MOVED), (3, 1, MOVED), (1, 2, MOVED)],
    ids=lambda value: None if isinstance(value, int) else "all" if value == GROUPS else "moved",
)
def test_every_stop_and_checkpoint_on_ranks(ranks, then, groups, world, tmp_path):
    whole, count = uninterrupted(epochs=EPOCHS + 1), 0

    def over_ranks(ranks, names, phase):
        for told in zip(*world("test_lightning_stops.py", ranks, tmp_path, phase, *names), strict=True):
            assert len({json.dumps(own["case"]) for own in told}) == 1
            steps = [sum(parts, []) for parts in zip(*(own["seen"] for own in told), strict=True)]
            yield *told[0]["case"], steps

    names = stops_of(groups, ranks + then, 10)
    for some in (names[at : at + 4] for at in range(0, len(names), 4)):
        for name, seen in over_ranks(ranks, some, "stop"):
            assert seen == whole[: len(seen)], name
        for _, done, way, seen in over_ranks(then, some, "resume"):
            check(seen, done, "plain", way, whole)
            count += 1
    assert count > 20 * len(names) // EVERY
    print(f"{ranks} ranks then {then}: {len(names)} stops, {count} resumed, all as uninterrupted")


def rank(root, phase, names):
    """Run to all these stops, or resume from all their checkpoints, as one rank."""
    for name in names:
        folder = root / name.replace(" ", "_")
        if phase == "stop":
            _, model, _ = run_to_stop(name, folder)
            print(json.dumps({"case": [name], "seen": model.seen}), flush=True)
            continue
        for path, done, way in resumptions(folder, name):
            model = go_on(folder, path, name, way=way)
            print(json.dumps({"case": [name, done, way], "seen": model.seen}), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rank(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
