"""`WindowDataset` under `DataLoader` delivers the batches of a `TorchLoader`, with any number of workers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    SequentialSampler,
    Subset,
)
from torchdata.stateful_dataloader import StatefulDataLoader

import windowloader as wl
from windowloader.adapters.pytorch import TorchBatch, TorchLoader, WindowDataset, WindowSampler
from windowloader.errors import LoaderError, MissingDataError, SourceError

# torchdata itself calls what torch has deprecated
STATEFUL = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
OPTIONS = {"fill": 0.0, "dtype": torch.bfloat16, "layout": ("bfnt", "tbnf"), "broadcast": False}
ORDER = {"batch_size": 40, "shuffle": True, "seed": 9}


def series(**more):
    values = np.random.default_rng(1).normal(5, 2, size=(300, 7)).astype(np.float32)
    values[::13, ::2] = 0.0
    return wl.Series(values, features=["speed"], missing=0.0, timestamps=("2024-01-01", "1h"), **more)


@pytest.fixture
def windows():
    spec = wl.WindowSpec(lookback=4, horizon=3, inputs=["speed", "time_of_day"])
    return wl.WindowSet(series(graph=wl.Graph([[0, 1], [1, 6]])), spec)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for batch, other in zip(found, expected, strict=True):
        assert isinstance(batch, TorchBatch)
        assert list(batch.arrays()) == list(other.arrays())
        for name in [*batch.arrays(), "weights"]:
            one, two = getattr(batch, name), getattr(other, name)
            assert one.dtype == two.dtype, name
            assert torch.equal(one, two), name
        np.testing.assert_array_equal(batch.starts, other.starts)
        np.testing.assert_array_equal(batch.entities, other.entities)
        facts = ("epoch", "step", "exact", "step_weight")
        assert [getattr(batch, fact) for fact in facts] == [getattr(other, fact) for fact in facts]
        if other.graph is not None:
            assert torch.equal(batch.graph.edge_index, other.graph.edge_index)


@pytest.mark.parametrize(
    "context",
    [None, "fork", *(pytest.param(name, marks=pytest.mark.campaign) for name in ("spawn", "forkserver"))],
)
def test_workers_deliver_the_batches_of_a_torch_loader(windows, context):
    dataset = WindowDataset(windows, **OPTIONS)
    loader = DataLoader(
        dataset,
        batch_sampler=WindowSampler(dataset, **ORDER),
        collate_fn=dataset.collate,
        num_workers=2 if context else 0,
        multiprocessing_context=context,
        persistent_workers=context is not None,
    )
    expected = TorchLoader(windows, **OPTIONS, **ORDER)
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        found = list(loader)
        assert_same(found, list(expected))
        if context:  # not copied on the way
            assert {tensor.is_shared() for batch in found for tensor in batch.arrays().values()} == {True}
            tensors = [*found[0].arrays().values(), found[0].weights]
            storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
            assert len(storages) == 1
    del loader


def test_a_batch_is_one_gather_and_samples_are_views_of_it(windows):
    dataset = WindowDataset(windows, layout=("tbnf", "btnf"))
    samples = dataset.__getitems__([5, 3, 290])
    batch = dataset.collate(samples)
    assert batch is samples[0].batch
    assert dataset.collate(list(samples)) is batch
    storage = batch.inputs.untyped_storage().data_ptr()
    for row, (inputs, targets) in enumerate(samples):
        assert inputs.untyped_storage().data_ptr() == storage
        assert torch.equal(inputs, batch.inputs[:, row])
        assert torch.equal(targets, batch.targets[row])


def test_single_windows_are_joined(windows):
    dataset = WindowDataset(windows, **OPTIONS)
    whole = dataset.collate(dataset.__getitems__([7, 7, 0, 12]))
    mixed = [dataset[7], dataset.__getitems__([1, 7])[1], dataset[0], dataset.__getitems__([12, 4])[0]]
    assert_same([dataset.collate(mixed)], [whole])
    backwards = dataset.__getitems__([12, 0])
    assert dataset.collate(backwards[::-1]).starts.tolist() == [0, 12]
    assert_same([dataset.collate(dataset[3])], [dataset.collate(dataset.__getitems__([3]))])


def test_dynamic_edges_belong_to_their_windows():
    steps = [[[t % 7], [(t + 1) % 7]] for t in range(300)]
    windows = wl.WindowSet(
        series(graph=wl.DynamicGraph.from_steps(steps, num_nodes=7)), wl.WindowSpec(lookback=4, horizon=1)
    )
    dataset = WindowDataset(windows)
    whole = dataset.collate(dataset.__getitems__([4, 1, 9]))
    assert_same([dataset.collate([dataset[4], dataset[1], dataset[9]])], [whole])


def test_torchs_own_collation_and_samplers(windows):
    dataset = WindowDataset(windows, fill=0.0)
    expected = list(TorchLoader(windows, fill=0.0, batch_size=50))
    for loader in (
        DataLoader(dataset, batch_size=50),
        DataLoader(dataset, batch_size=50, collate_fn=dataset.collate),
        DataLoader(dataset, batch_sampler=BatchSampler(SequentialSampler(dataset), 50, drop_last=False)),
        DataLoader(Subset(dataset, range(len(dataset))), batch_size=50, collate_fn=dataset.collate),
    ):
        for pair, batch in zip(loader, expected, strict=True):
            assert torch.equal(pair[0], batch.inputs)
            assert torch.equal(pair[1], batch.targets)
    front = WindowDataset(windows, fill=0.0, layout=("tbnf", "btnf"))
    pairs = DataLoader(
        ConcatDataset([front, front]), batch_size=196
    )  # stacked in front, of one gather or of two
    assert torch.equal(
        torch.cat([inputs for inputs, _ in pairs])[294:], torch.cat([b.inputs for b in expected])
    )
    alone = next(iter(DataLoader(dataset, batch_size=None)))
    assert torch.equal(alone[0], expected[0].inputs[0])
    assert sum(1 for _ in dataset) == len(dataset)


@pytest.mark.parametrize("own", [False, True])
def test_a_gather_is_not_copied_by_collation(windows, own, monkeypatch):
    dataset = WindowDataset(windows, fill=0.0)
    monkeypatch.setattr(torch, "stack", lambda *_, **__: pytest.fail("windows were stacked"))
    loader = DataLoader(dataset, batch_size=50, **({"collate_fn": dataset.collate} if own else {}))
    inputs, targets = next(iter(loader))
    assert len(inputs) == len(targets) == 50


def doubled(sample):
    inputs, targets = sample
    return {"x": inputs * 2, "y": targets, "start": int(sample.batch.starts[sample.row])}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("own", [False, True])
def test_a_transform_makes_the_items_as_in_torchs_data_sets(windows, workers, own):
    plain, dataset = WindowDataset(windows, fill=0.0), WindowDataset(windows, fill=0.0, transform=doubled)

    class Torchs(Dataset):  # the same, item by item
        def __len__(self):
            return len(plain)

        def __getitem__(self, index):
            return doubled(plain[index])

    item, other = dataset[5], Torchs()[5]
    assert torch.equal(item["x"], other["x"])
    assert item["start"] == other["start"] == 5
    assert [sample["start"] for sample in dataset.__getitems__([7, 2])] == [7, 2]
    loader = DataLoader(
        dataset,
        batch_size=50,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        **({"collate_fn": dataset.collate} if own else {}),
    )
    for batch, expected in zip(loader, DataLoader(Torchs(), batch_size=50), strict=True):
        assert list(batch) == ["x", "y", "start"]
        assert all(torch.equal(batch[name], expected[name]) for name in batch)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy[9]["start"] == 9


def test_a_transform_in_place_keeps_the_gather(windows):
    def halve(sample):
        sample[0].mul_(0.5)
        return sample

    plain = WindowDataset(windows, fill=0.0)
    dataset = WindowDataset(windows, fill=0.0, transform=halve)
    batch = next(iter(DataLoader(dataset, batch_size=50, collate_fn=dataset.collate)))
    assert isinstance(batch, TorchBatch)
    assert torch.equal(batch.inputs, plain.collate(plain.__getitems__(range(50))).inputs * 0.5)


def test_a_distributed_sampler_cuts_the_windows(windows):
    dataset = WindowDataset(windows)
    seen = []
    for rank in range(3):
        sampler = DistributedSampler(dataset, num_replicas=3, rank=rank, shuffle=True, seed=1)
        loader = DataLoader(dataset, batch_size=16, sampler=sampler, collate_fn=dataset.collate)
        seen += [start for batch in loader for start in batch.starts.tolist()]
    assert sorted(seen) == list(range(294))


@pytest.mark.parametrize("uneven", ["pad", "drop", "exact"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_the_sampler_has_the_ranks_and_weights_of_a_loader(windows, uneven, world_size):
    dataset = WindowDataset(windows)
    for rank in range(world_size):
        order = {**ORDER, "uneven": uneven, "rank": rank, "world_size": world_size}
        sampler = WindowSampler(windows, **order)
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=dataset.collate)
        expected = TorchLoader(windows, **order)
        assert len(sampler) == len(expected)
        for epoch in range(2):
            assert_same(list(loader), list(expected))
            assert sampler.epoch == epoch + 1


@STATEFUL
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_data_loader_resumes_within_an_epoch(windows, workers):
    def make():
        dataset = WindowDataset(windows)
        return StatefulDataLoader(
            dataset,
            batch_sampler=WindowSampler(dataset, **ORDER),
            collate_fn=dataset.collate,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )

    loader = make()
    loader.batch_sampler.set_epoch(3)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    rest = list(iterator)
    other = make()
    other.load_state_dict(state)
    assert_same(list(other), rest)
    assert [batch.epoch for batch in rest] == [3] * 5


@STATEFUL
def test_a_stateful_data_loader_with_its_own_shuffle(windows):
    def make():
        dataset = WindowDataset(windows)
        torch.manual_seed(4)
        return StatefulDataLoader(dataset, batch_size=40, shuffle=True, collate_fn=dataset.collate)

    loader = make()
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    rest = list(iterator)
    other = make()
    other.load_state_dict(state)
    assert_same(list(other), rest)


def test_a_loader_loads_the_state_of_a_sampler(windows):
    sampler = WindowSampler(windows, **ORDER)
    iterator = iter(sampler)
    next(iterator)
    loader = TorchLoader(windows, **ORDER)
    loader.load_state_dict(iterator.state_dict())
    assert [list(step) for step in iterator] == [batch.starts.tolist() for batch in loader]


def test_a_data_set_on_a_mapped_file_pickles_small(tmp_path):
    np.save(tmp_path / "values.npy", np.zeros((5000, 50), np.float32))
    windows = wl.WindowSet(wl.open(tmp_path / "values.npy"), wl.WindowSpec(lookback=12, horizon=12))
    dataset = WindowDataset(windows)
    dataset[0]
    packed = pickle.dumps(dataset)
    assert len(packed) < 4096
    assert torch.equal(pickle.loads(packed)[7][0], dataset[7][0])


@pytest.mark.parametrize("context", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.campaign)])
def test_workers_that_are_not_forked_read_streamed_rows(tmp_path, context):
    zarr = pytest.importorskip("zarr")
    values = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    zarr.create_array(str(tmp_path / "values.zarr"), data=values, chunks=(32, 5))
    windows = wl.WindowSet(wl.open(tmp_path / "values.zarr"), wl.WindowSpec(lookback=4, horizon=2))
    dataset = WindowDataset(windows)
    expected = list(TorchLoader(windows, batch_size=64))  # the store is in use before workers start
    loader = DataLoader(
        dataset,
        batch_sampler=WindowSampler(dataset, batch_size=64),
        collate_fn=dataset.collate,
        num_workers=2,
        multiprocessing_context=context,
    )
    if context == "fork":
        with pytest.raises(SourceError, match=r"values\.zarr.*multiprocessing_context=\"forkserver\""):
            next(iter(loader))
    else:
        assert_same(list(loader), expected)


def test_no_targets_at_horizon_0():
    windows = wl.WindowSet(series(), wl.WindowSpec(lookback=4, horizon=0))
    dataset = WindowDataset(windows)
    assert dataset[3][1] is None
    batch = next(iter(DataLoader(dataset, batch_size=8, collate_fn=dataset.collate)))
    assert batch.targets is None
    assert batch.inputs.shape == (8, 4, 7, 1)


def test_wrong_use_is_refused_at_construction(windows):
    with pytest.raises(LoaderError, match="takes a WindowSet, not ndarray"):
        WindowDataset(np.zeros((3, 2)))
    gaps = np.full((30, 2), np.nan, np.float32)
    with pytest.raises(MissingDataError, match="fill"):
        WindowDataset(wl.WindowSet(wl.Series(gaps, missing=np.nan), wl.WindowSpec(lookback=3, horizon=1)))
    with pytest.raises(LoaderError, match="batch_size"):
        WindowSampler(windows, batch_size=0)
    with pytest.raises(IndexError, match="outside this set"):
        WindowDataset(windows)[294]
    with pytest.raises((TypeError, IndexError), match="integer|number"):
        WindowDataset(windows).__getitems__([1.5])
