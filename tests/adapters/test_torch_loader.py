"""`TorchLoader`: the core's batches as tensors, prefetched to a device; memory in use is not overwritten."""

from __future__ import annotations

import gc
import itertools
import pickle
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import windowloader as wl
from windowloader.adapters.pytorch import TorchBatch, TorchLoader
from windowloader.adapters.torch import device as torch_device
from windowloader.adapters.torch.batch import TorchBuffers, as_tensor
from windowloader.batch.roles import Field
from windowloader.errors import LoaderError, WeightsError

GRAPH = wl.Graph([[0, 1, 3], [1, 6, 2]], [0.5, 1.0, 2.0])


@pytest.fixture
def windows():
    values = np.random.default_rng(0).normal(50, 10, size=(300, 7)).astype(np.float32)
    values[::17, ::3] = 0.0
    series = wl.Series(
        values, features=["speed"], missing=0.0, timestamps=("2024-01-01", "5min"), graph=GRAPH
    )
    return wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=3, inputs=["speed", "time_of_day"]))


def same(tensor, array):
    assert tuple(tensor.shape) == array.shape
    np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("threads", [0, 2])
def test_batches_are_the_cores_without_a_copy(windows, device, threads):
    options = {"batch_size": 32, "shuffle": True, "seed": 2, "fill": 0.0, "threads": threads}
    expected = list(wl.WindowLoader(windows, **options))
    found = list(TorchLoader(windows, device=device, **options))
    assert len(found) == len(expected) == 10
    for batch, other in zip(found, expected, strict=True):
        assert list(batch.arrays()) == list(other.arrays())
        for name, tensor in batch.arrays().items():
            same(tensor, getattr(other, name))
        same(batch.weights, other.weights)
        assert isinstance(batch.starts, np.ndarray)
        np.testing.assert_array_equal(batch.starts, other.starts)
        assert (batch.epoch, batch.step, batch.step_weight) == (other.epoch, other.step, other.step_weight)
    wrapped = TorchBatch.of(expected[0])
    assert wrapped.inputs.data_ptr() == expected[0].inputs.__array_interface__["data"][0]


def test_a_loop_over_pairs_len_epochs_and_state(windows):
    loader = TorchLoader(windows, batch_size=50, shuffle=True)
    assert sum(len(inputs) for inputs, _ in loader) == len(windows)
    assert (loader.epoch, len(loader)) == (1, 6)
    loader.set_epoch(4)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    rest = [batch.starts.tolist() for batch in iterator]
    other = TorchLoader(windows, batch_size=50, shuffle=True)
    other.load_state_dict(state)
    assert [batch.starts.tolist() for batch in other] == rest


@pytest.mark.parametrize("letters", list(itertools.permutations("btnf")), ids="".join)
def test_every_layout(windows, letters):
    layout = "".join(letters)
    options = {"batch_size": 200, "layout": layout, "fill": 0.0}
    for batch, other in zip(
        TorchLoader(windows, **options), wl.WindowLoader(windows, **options), strict=True
    ):
        same(batch.inputs, other.inputs)
        same(batch.target_mask, other.target_mask)
    size = {"b": 94, "t": 4, "n": 7, "f": 2}
    assert tuple(batch.inputs.shape) == tuple(size[letter] for letter in layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, "bfloat16"])
def test_dtypes_by_torchs_names(windows, dtype):
    scaler = wl.StandardScaler.fit(windows)
    batch = next(iter(TorchLoader(windows, dtype=dtype, scaler=scaler)))
    exact = next(iter(TorchLoader(windows, dtype="float64", scaler=scaler)))
    kind = torch.bfloat16 if dtype == "bfloat16" else dtype
    assert batch.inputs.dtype == batch.targets.dtype == kind
    single = next(iter(TorchLoader(windows, scaler=scaler)))
    if kind == torch.bfloat16:
        assert torch.equal(batch.inputs, single.inputs.bfloat16())  # torch's own cast of float32
    elif kind == torch.float16:
        same(batch.inputs, exact.inputs.numpy().astype(np.float16))
    assert batch.target_mask.dtype == torch.bool
    assert batch.weights.dtype == torch.float32


def test_an_integer_dtype_is_no_bfloat16():
    values = np.arange(60, dtype=np.uint16).reshape(30, 2)
    windows = wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=2, horizon=1))
    batch = next(iter(TorchLoader(windows, dtype="uint16")))
    assert batch.inputs.dtype == torch.uint16
    assert batch.inputs[3].flatten().tolist() == [6, 7, 8, 9]


VIEWS = {
    "batch": lambda batch: batch,
    "inputs": lambda batch: batch.inputs,
    "slice": lambda batch: batch.targets[1:, :, 0],
    "transpose": lambda batch: batch.inputs.permute(3, 1, 0, 2),
    "numpy": lambda batch: batch.targets.numpy()[2:],
    "mask": lambda batch: batch.input_mask[0],
}


@pytest.mark.parametrize("name", VIEWS)
def test_batches_in_use_are_never_overwritten(windows, name):
    view = VIEWS[name]

    def copied(held):
        if isinstance(held, TorchBatch):
            return [tensor.clone() for tensor in held.arrays().values()]
        return [torch.as_tensor(held).clone()]

    loader = TorchLoader(windows, batch_size=8, shuffle=True, threads=2)
    held, copies = [], []
    for _ in range(3):
        for batch in loader:
            held.append(view(batch))
            copies.append(copied(held[-1]))
    del batch
    gc.collect()
    for one, kept in zip(held, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(copied(one), kept, strict=True))


def test_buffers_are_reused_once_tensors_are_gone(windows):
    loader = TorchLoader(windows, batch_size=32, threads=0)
    places = {batch.inputs.data_ptr() for batch in loader}
    assert len(places) <= 2
    batches = list(loader)
    assert len({batch.inputs.data_ptr() for batch in batches}) == 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edge_weights_have_the_dtype_of_models(dtype):
    doubles = wl.Graph([[0], [1]], np.array([0.1]))
    steps = wl.DynamicGraph.from_steps([([[0], [1]], np.array([0.1]))] * 20)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for graph in (doubles, steps):
            series = wl.Series(np.zeros((20, 2), np.float32), graph=graph)
            batch = next(iter(TorchLoader(wl.WindowSet(series, wl.WindowSpec(lookback=2, horizon=1)))))
            assert batch.graph.edge_weight.dtype == dtype
            assert batch.graph.edge_index.dtype == torch.int64
    finally:
        torch.set_default_dtype(before)


def test_the_static_graph_is_made_of_tensors_once(windows):
    batches = list(TorchLoader(windows, device="cpu"))
    graph = batches[0].graph
    assert torch.equal(graph.edge_index, torch.tensor([[0, 1, 3], [1, 6, 2]]))
    assert graph.edge_weight.tolist() == [0.5, 1.0, 2.0]
    assert all(batch.graph is graph for batch in batches)
    away = [batch.to("meta").graph for batch in batches]
    assert away[0].edge_index.device.type == "meta"
    assert all(other is away[0] for other in away)
    assert torch.equal(pickle.loads(pickle.dumps(graph)).edge_index, graph.edge_index)


def test_dynamic_edges_are_delivered_with_their_batch():
    steps = [[[t % 4], [(t + 1) % 4]] for t in range(40)]
    series = wl.Series(np.zeros((40, 4), np.float32), graph=wl.DynamicGraph.from_steps(steps))
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=1))
    loader = TorchLoader(windows, batch_size=5)
    for batch, other in zip(loader, wl.WindowLoader(windows, batch_size=5), strict=True):
        same(batch.graph.edge_index, other.graph.edge_index)
        assert batch.to("meta").graph.edge_index.device.type == "meta"


def test_transform_comes_last_in_the_loops_thread(windows):
    seen = []

    def transform(batch):
        seen.append((threading.current_thread(), batch.inputs.device.type, batch.starts.dtype))
        return {"x": batch.inputs}

    loader = TorchLoader(windows, device="meta", transform=transform, threads=2)
    assert [set(item) for item in loader] == [{"x"}] * 5
    assert set(seen) == {(threading.current_thread(), "meta", np.dtype(np.int64))}


def test_weighted_batches_do_not_unpack_as_pairs(windows):
    loader = TorchLoader(windows, uneven="exact", rank=1, world_size=4)
    batch = list(loader)[-1]
    assert batch.weights.tolist() == [1.0] * 10 + [0.0] * 54  # a quarter of the last 38, in the full shape
    assert batch.step_weight == 294 - 256
    with pytest.raises(WeightsError, match=r"batch\.weights"):
        _inputs, _targets = batch


def test_a_batch_moves_as_a_whole(windows):
    batch = next(iter(TorchLoader(windows)))
    moved = batch.to("meta", non_blocking=True)
    tensors = [*moved.arrays().values(), moved.weights, moved.graph.edge_index]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.starts is batch.starts
    assert moved.step_weight == batch.step_weight
    assert repr(moved).startswith("TorchBatch(inputs: float32 (64, 4, 7, 2)")


class FakeStream:
    """Records its calls; replaces a CUDA stream on a machine without one."""

    def __init__(self):
        self.inside = threading.local()
        self.marked = []
        self.handed = []

    def __call__(self):
        return self

    def __enter__(self):
        self.inside.yes = True

    def __exit__(self, *_):
        self.inside.yes = False

    def mark(self):
        assert self.inside.yes
        self.marked.append(threading.current_thread())
        return len(self.marked) - 1

    def hand_over(self, mark, tensors):
        assert not getattr(self.inside, "yes", False)
        self.handed.append((mark, threading.current_thread(), tensors))


def test_copies_are_prefetched_and_handed_over_in_the_loops_thread(windows, monkeypatch):
    stream = FakeStream()
    monkeypatch.setattr(torch_device, "side_stream", lambda device: stream)
    loader = TorchLoader(windows, device="meta", threads=2, prefetch_batches=3, batch_size=32)
    for batch in loader:
        mark, thread, tensors = stream.handed[-1]
        assert thread is threading.current_thread()
        assert mark < len(stream.marked)
        names = {id(tensor) for tensor in tensors}
        assert names == {id(tensor) for tensor in [*batch.arrays().values(), batch.weights]}
        assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert sorted(mark for mark, _, _ in stream.handed) == list(range(10))
    assert threading.current_thread() not in stream.marked
    assert loader.device_report().moved_bytes == loader.stats().epochs[0].delivered_bytes


def test_pinned_batches_are_views_of_torchs_own_memory(windows, monkeypatch):
    slabs = []

    def pinned(self, nbytes):
        slabs.append(torch.empty(nbytes, dtype=torch.uint8))
        return slabs[-1]

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch_device.Destination, "_pinned_bytes", pinned)
    batches = list(TorchLoader(windows, pin_memory=True, batch_size=100))
    assert len(slabs) == 3  # one a batch: torch's allocator of pinned memory is the pool
    for slab, batch in zip(slabs, batches, strict=True):
        storages = {tensor.untyped_storage().data_ptr() for tensor in batch.arrays().values()}
        assert storages == {slab.untyped_storage().data_ptr()}
    for batch, other in zip(batches, wl.WindowLoader(windows, batch_size=100), strict=True):
        same(batch.inputs, other.inputs)
        same(batch.target_mask, other.target_mask)


def test_pinned_memory_is_that_of_one_batch(windows, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch_device.Destination,
        "_pinned_bytes",
        lambda self, nbytes: asked.append(nbytes) or torch.empty(nbytes, dtype=torch.uint8),
    )
    loader = TorchLoader(windows, pin_memory=True, batch_size=64, threads=0)
    plain = TorchLoader(windows, batch_size=64, threads=0)
    assert (
        plain._bind().batches_per_call > 1
    )  # where nothing is copied, small batches are made several at a time
    assert len(list(loader)) == len(asked) == len(loader)
    assert set(asked) == {loader._recipe.nbytes(64)}


def test_tensors_are_views_of_the_tensor_that_owns_their_memory():
    whole = torch.zeros(256, dtype=torch.uint8)
    buffers = TorchBuffers(256, lambda nbytes: whole[:nbytes])
    field = Field("inputs", (2, 3), np.dtype(np.float32), 64)
    array = buffers.lease().carve([field])["inputs"]
    array[...] = 7.0
    tensor = as_tensor(array)
    assert tensor.untyped_storage().data_ptr() == whole.data_ptr()
    assert tensor.storage_offset() == 16
    assert whole[64:88].view(torch.float32).tolist() == [7.0] * 6


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch has CUDA")
def test_cuda_without_cuda_is_an_error_at_construction(windows):
    with pytest.raises(LoaderError, match="built without CUDA"):
        TorchLoader(windows, device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("built", [False, True])
def test_pinned_memory_without_a_gpu_is_plain_memory_with_a_warning(windows, monkeypatch, built):
    """As in `DataLoader`, also where torch was built with CUDA and the machine has no GPU."""
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    with pytest.warns(UserWarning, match="no CUDA device"):
        loader = TorchLoader(windows, pin_memory=True, batch_size=64, shuffle=True, seed=2)
    for batch, other in zip(loader, TorchLoader(windows, batch_size=64, shuffle=True, seed=2), strict=True):
        assert torch.equal(batch.inputs, other.inputs)
        assert not batch.inputs.is_pinned()


def test_an_unknown_device_is_refused(windows):
    with pytest.raises(LoaderError, match="device='hpu' cannot be used"):
        TorchLoader(windows, device="hpu")
    with pytest.raises(LoaderError, match="device='warp9' is unknown"):
        TorchLoader(windows, device="warp9")


class Wrapped(IterableDataset):
    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


def test_a_loader_inside_a_worker_is_refused(windows):
    wrapped = Wrapped(TorchLoader(windows))
    with pytest.raises(LoaderError, match="WindowDataset"):
        next(iter(DataLoader(wrapped, batch_size=None, num_workers=1, multiprocessing_context="fork")))


def test_a_loader_pickles_without_its_device_rows(windows):
    loader = TorchLoader(windows, device="cpu", device_memory="all", batch_size=50)
    first = [batch.inputs.clone() for batch in loader]
    again = list(pickle.loads(pickle.dumps(loader)))
    assert [batch.epoch for batch in again] == [1] * 6
    assert all(torch.equal(a, b.inputs) for a, b in zip(first, again, strict=True))
