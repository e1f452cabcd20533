"""Lightning: epochs, checkpoints within an epoch, and other features of the trainer."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch

import windowloader as wl
from windowloader.adapters.pytorch import TorchLoader
from windowloader.errors import LoaderError, StateError, WeightsError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # imports of optional parts of Lightning
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, OnExceptionCheckpoint

    from windowloader.adapters.lightning import WindowDataModule

# Lightning's own words about what these tests do on purpose; that a loader cannot resume stays an error.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}")
    for words in (
        ".*Checkpoint directory .* exists and is not empty",
        ".*LeafSpec.* is deprecated:FutureWarning",
        "You defined a `validation_step` but have no `val_dataloader`",
        "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
        ".*was called without a model. The last model of the previous",
        ".*but there is no last checkpoint available",
        "You requested to overfit but enabled train dataloader shuffling",
    )
]


@pytest.fixture(scope="module")
def parts():
    values = np.random.default_rng(0).normal(size=(130, 3)).astype(np.float32)
    return wl.split(wl.Series(values), wl.WindowSpec(lookback=4, horizon=3), (0.7, 0.2, 0.1))


class Model(pl.LightningModule):
    """As anyone would write it; it also keeps what it saw."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.fail_at = fail_at
        self.seen, self.validated, self.epochs, self.types = [], [], [], []

    def loss(self, batch):
        error = (self.weight * batch.inputs[:, -1:] - batch.targets).abs().mean(dim=(1, 2, 3))
        return (error * batch.weights).sum() / batch.weights.sum()

    def training_step(self, batch, batch_idx):
        if self.fail_at == self.global_step:
            raise RuntimeError("pulled the plug")
        inputs, targets = batch
        assert inputs.shape[0] == targets.shape[0] == len(batch.starts)
        self.seen.append(batch.starts.tolist())
        self.epochs.append(batch.epoch)
        self.types.append(inputs.dtype)
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch.starts.tolist())
        self.log("val_loss", self.loss(batch), batch_size=int(batch.weights.sum()))

    def test_step(self, batch, batch_idx):
        self.validated.append(batch.starts.tolist())

    def predict_step(self, batch, batch_idx):
        return batch.starts

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(tmp_path, *, callbacks=(), max_epochs=3, **options):
    options = {"num_sanity_val_steps": 0, **options}
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        default_root_dir=tmp_path,
        max_epochs=max_epochs,
        callbacks=list(callbacks),
        **options,
    )


def train_loader(parts, batch_size=10, **options):
    return TorchLoader(parts["train"], batch_size=batch_size, shuffle=True, seed=1, **options)


def val_loader(parts, **options):
    return TorchLoader(parts["val"], batch_size=8, uneven="exact", **options)


def expected(parts, epochs=3, **options):
    """Batches of some epochs by an ordinary loop."""
    loader, found = train_loader(parts, **options), []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        found += [batch.starts.tolist() for batch in loader]
    return found


@pytest.fixture(params=["module", "loaders"])
def fit(request, parts):
    """Fit with the data module, and with loaders handed to the trainer."""

    def run(trainer, model, loader, val=None, **options):
        if request.param == "module":
            trainer.fit(model, datamodule=WindowDataModule(train=loader, val=val), **options)
        else:
            trainer.fit(model, train_dataloaders=loader, val_dataloaders=val, **options)
        return model

    run.kind = request.param
    return run


def test_epochs_are_those_of_an_ordinary_loop(fit, parts, tmp_path):
    model = fit(trainer(tmp_path), Model(), train_loader(parts), val_loader(parts))
    assert model.seen == expected(parts)
    in_order = [batch.starts.tolist() for batch in val_loader(parts)]
    assert model.validated == in_order * 3


def test_sanity_checks_and_validation_within_an_epoch_do_not_shift_batches(fit, parts, tmp_path):
    train, val = train_loader(parts), val_loader(parts)
    model = fit(
        trainer(tmp_path, num_sanity_val_steps=2, val_check_interval=4, max_epochs=2), Model(), train, val
    )
    assert model.seen == expected(parts, 2)
    in_order = [batch.starts.tolist() for batch in val_loader(parts)]
    assert model.validated == in_order[:2] + in_order * 4


def test_limits_and_accumulation(fit, parts, tmp_path):
    loader = train_loader(parts)
    model = fit(trainer(tmp_path, limit_train_batches=3, accumulate_grad_batches=2), Model(), loader)
    steps = len(loader)
    every = expected(parts)
    assert model.seen == [batch for epoch in range(3) for batch in every[epoch * steps : epoch * steps + 3]]


@pytest.mark.parametrize("stop", [1, 4, 8, 9, 10, 13, 18])
def test_a_run_resumed_from_any_step_equals_the_uninterrupted_one(fit, parts, tmp_path, stop):
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=stop, save_top_k=-1, filename="{step}")
    whole = fit(trainer(tmp_path, callbacks=[saving]), Model(), train_loader(parts), val_loader(parts))
    resumed = fit(
        trainer(tmp_path),
        Model(),
        train_loader(parts),
        val_loader(parts),
        ckpt_path=tmp_path / f"step={stop}.ckpt",
        weights_only=False,
    )
    assert len(train_loader(parts)) == 9
    assert whole.seen == expected(parts)
    assert resumed.seen == whole.seen[stop:]


@pytest.mark.parametrize("options", [{}, {"save_on_train_epoch_end": True}], ids=["validation", "epoch"])
def test_a_run_resumed_from_the_end_of_an_epoch_continues_with_the_next(fit, parts, tmp_path, options):
    saving = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}", **options)
    fit(trainer(tmp_path, callbacks=[saving]), Model(), train_loader(parts), val_loader(parts))
    resumed = fit(
        trainer(tmp_path, max_epochs=4),
        Model(),
        train_loader(parts),
        val_loader(parts),
        ckpt_path=tmp_path / "epoch=1.ckpt",
        weights_only=False,
    )
    assert resumed.seen == expected(parts, 4)[18:]


def test_resuming_from_a_checkpoint_at_validation_within_an_epoch(fit, parts, tmp_path):
    saving = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", save_on_train_epoch_end=False)
    options = {"val_check_interval": 4, "accumulate_grad_batches": 2}
    fit(trainer(tmp_path, callbacks=[saving], **options), Model(), train_loader(parts), val_loader(parts))
    kept = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
    assert len(kept) == 6
    for path, stop in zip(kept, (4, 8, 13, 17, 22, 26), strict=True):
        model = fit(
            trainer(tmp_path, **options),
            Model(),
            train_loader(parts),
            val_loader(parts),
            ckpt_path=path,
            weights_only=False,
        )
        assert model.seen == expected(parts)[stop:], path.name


def test_after_an_exception_in_a_step_the_module_resumes_at_that_step(parts, tmp_path):
    module = WindowDataModule(train=train_loader(parts))
    keeping = OnExceptionCheckpoint(tmp_path, filename="broken")
    with pytest.raises(RuntimeError, match="pulled the plug"):
        trainer(tmp_path, callbacks=[keeping]).fit(Model(fail_at=13), datamodule=module)
    model = Model()
    module = WindowDataModule(train=train_loader(parts))
    trainer(tmp_path).fit(model, datamodule=module, ckpt_path=tmp_path / "broken.ckpt", weights_only=False)
    assert model.seen == expected(parts)[13:]


def test_loaders_without_the_module_lose_at_most_the_current_batch(parts, tmp_path):
    """What the module is for: Lightning asks a loader what it gave, not what was done with it."""
    keeping = OnExceptionCheckpoint(tmp_path, filename="broken")
    with pytest.raises(RuntimeError, match="pulled the plug"):
        trainer(tmp_path, callbacks=[keeping]).fit(Model(fail_at=13), train_loader(parts))
    model = Model()
    trainer(tmp_path).fit(model, train_loader(parts), ckpt_path=tmp_path / "broken.ckpt", weights_only=False)
    assert model.seen == expected(parts)[14:]


@pytest.mark.parametrize(
    ("precision", "type_"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)], ids=str
)
def test_the_trainers_precision(parts, tmp_path, precision, type_):
    model = Model()
    module = WindowDataModule(train=train_loader(parts), val=val_loader(parts))
    trainer(tmp_path, precision=precision, max_epochs=1).fit(model, datamodule=module)
    assert set(model.types) == {type_}
    assert model.seen == expected(parts, 1)


def test_overfitting_sees_the_same_batches_every_epoch(parts, tmp_path):
    model = Model()
    trainer(tmp_path, overfit_batches=2).fit(model, datamodule=WindowDataModule(train=train_loader(parts)))
    assert model.seen == expected(parts)[:2] * 3


def test_testing_and_predicting(parts, tmp_path):
    module = WindowDataModule(test=TorchLoader(parts["test"], batch_size=4), predict=val_loader(parts))
    model, lightning = Model(), trainer(tmp_path)
    lightning.test(model, datamodule=module, verbose=False)
    assert sum(model.validated, []) == parts["test"].starts(np.arange(len(parts["test"]))).tolist()
    found = lightning.predict(model, datamodule=module)
    assert [batch.tolist() for batch in found] == [batch.starts.tolist() for batch in val_loader(parts)]


def test_several_loaders_of_a_stage(parts, tmp_path):
    class Two(Model):
        def training_step(self, batch, batch_idx):
            self.seen.append({name: part.starts.tolist() for name, part in batch.items()})
            return self.loss(batch["a"]) + self.loss(batch["b"])

    def module():
        return WindowDataModule(train={"a": train_loader(parts), "b": train_loader(parts, batch_size=20)})

    saving = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = Two()
    trainer(tmp_path, callbacks=[saving], max_epochs=2).fit(whole, datamodule=module())
    longer, shorter = expected(parts, 2), expected(parts, 2, batch_size=20)
    assert [seen["a"] for seen in whole.seen] == longer
    assert [seen["b"] for seen in whole.seen][:5] == shorter[:5]
    for step in (
        3,
        5,
        7,
        9,
        12,
    ):  # in the shorter's first round, at its end, in its second, at the epoch's end
        resumed = Two()
        trainer(tmp_path, max_epochs=2).fit(
            resumed, datamodule=module(), ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=False
        )
        assert resumed.seen == whole.seen[step:], step


def test_another_global_batch_is_refused_within_an_epoch_and_accepted_at_its_end(parts, tmp_path):
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    trainer(tmp_path, callbacks=[saving]).fit(Model(), datamodule=WindowDataModule(train=train_loader(parts)))

    def resume(step):
        model = Model()
        trainer(tmp_path).fit(
            model,
            datamodule=WindowDataModule(train=train_loader(parts, batch_size=30)),
            ckpt_path=tmp_path / f"step={step}.ckpt",
            weights_only=False,
        )
        return model.seen

    assert len(train_loader(parts, batch_size=30)) == 3
    with pytest.raises(
        StateError, match="would have 7 steps, but Lightning has counted 3 .*global_batch_size=10 "
    ):
        resume(6)
    assert resume(9) == expected(parts, batch_size=30)[3:]


def test_other_objects_than_loaders_are_refused(parts):
    with pytest.raises(
        LoaderError, match="train=DataLoader is no WindowLoader.*DataLoader to Trainer without"
    ):
        WindowDataModule(train=torch.utils.data.DataLoader(torch.zeros(3)))
    with pytest.raises(LoaderError, match="val= is a WindowLoader, whose batches are NumPy.*TorchLoader"):
        WindowDataModule(val=wl.WindowLoader(parts["val"]))
    WindowDataModule(val=[wl.WindowLoader(parts["val"], transform=lambda batch: torch.tensor(batch.inputs))])


def test_an_exact_mean_needs_its_batch_size(parts, tmp_path):
    class Careless(Model):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.loss(batch))

    with pytest.raises(WeightsError, match="batch.weights"):
        trainer(tmp_path).validate(Careless(), datamodule=WindowDataModule(val=val_loader(parts)))


def test_a_module_pickles_and_calls_no_loader_before_it_is_used(parts, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # a child of Lightning before its group exists
    module = WindowDataModule(train=train_loader(parts), val=[val_loader(parts)])
    copy = pickle.loads(pickle.dumps(module))
    assert repr(copy) == "WindowDataModule(train=TorchLoader, val=list)"
    assert not hasattr(copy, "hparams") or not copy.hparams
