"""Buffers return to their pool when, and only when, nothing references them."""

from __future__ import annotations

import gc
import pickle
import threading

import numpy as np
import pytest

from windowloader.batch.buffers import BufferPool
from windowloader.batch.roles import Field
from windowloader.errors import ClosedError

FIELDS = (
    Field("inputs", (4, 3, 5, 2), np.dtype(np.float32), 0),
    Field("input_mask", (4, 3, 5, 2), np.dtype(bool), 512),
)


def torch_tensor(array):
    return pytest.importorskip("torch").from_numpy(array)


def dlpack_tensor(array):
    return pytest.importorskip("torch").from_dlpack(array)


VIEWS = {
    "slice": lambda array: array[1:],
    "element view": lambda array: array[..., 0],
    "reshape": lambda array: array.reshape(-1),
    "transpose": lambda array: array.T,
    "view of a view": lambda array: array[1:].reshape(-1)[::2],
    "other dtype": lambda array: array.view(np.uint8),
    "as_strided": lambda array: np.lib.stride_tricks.as_strided(array, (2, 2), (8, 4)),
    "asarray": lambda array: np.asarray(array[:2]),
    "memoryview": lambda array: memoryview(array),
    "frombuffer": lambda array: np.frombuffer(array, np.float32),
    "flat iterator": lambda array: array.flat,
    "torch.from_numpy": torch_tensor,
    "tensor of a slice": lambda array: torch_tensor(array[1:])[0],
    "DLPack": dlpack_tensor,
    "numpy from DLPack": lambda array: np.from_dlpack(array),
    "numpy of a tensor": lambda array: torch_tensor(array).numpy()[2:],
    "the other array": lambda array: array,
}


@pytest.fixture
def pool():
    pool = BufferPool(1024, keep=3)
    yield pool
    pool.close()


@pytest.mark.parametrize("name", VIEWS)
def test_each_kind_of_view_keeps_the_memory(pool, name):
    arrays = pool.lease().carve(FIELDS)
    kept = VIEWS[name](arrays["inputs"])
    del arrays
    gc.collect()
    assert pool.free == 0
    del kept
    gc.collect()
    assert pool.free == 1


def test_memory_in_use_is_never_written_again(pool):
    kept = pool.lease().carve(FIELDS)["inputs"][1:]
    kept[...] = 7
    for value in range(20):
        pool.lease().carve(FIELDS)["inputs"][...] = value
    assert (kept == 7).all()


def test_a_buffer_is_used_again_once_all_its_arrays_are_gone(pool):
    arrays = pool.lease().carve(FIELDS)
    address = arrays["inputs"].ctypes.data
    mask = arrays["input_mask"]
    del arrays
    assert pool.lease().carve(FIELDS)["inputs"].ctypes.data != address
    del mask
    assert pool.lease().carve(FIELDS)["inputs"].ctypes.data == address


def test_arrays_are_aligned_contiguous_writable_and_apart(pool):
    arrays = pool.lease().carve(FIELDS)
    for field in FIELDS:
        array = arrays[field.name]
        assert array.ctypes.data % 64 == 0
        assert array.shape == field.shape
        assert array.dtype == field.dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable
    assert not np.shares_memory(arrays["inputs"], arrays["input_mask"])


def test_no_more_is_kept_than_asked(pool):
    kept = [pool.lease() for _ in range(10)]
    kept.clear()
    gc.collect()
    assert pool.free == 3


def test_memory_returns_from_other_threads(pool):
    def consume(batches):
        while batches:
            batches.pop()

    batches = [pool.lease().carve(FIELDS) for _ in range(3)]
    threads = [threading.Thread(target=consume, args=([batches.pop()],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.free == 3


def test_no_two_threads_ever_get_the_same_memory(pool):
    wrong = []

    def work(mark):
        for _ in range(300):
            array = pool.lease().carve(FIELDS)["inputs"]
            array[...] = mark
            if not (array == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 1 <= pool.free <= 3


def test_closing_leaves_arrays_in_use_alone():
    pool = BufferPool(1024)
    kept = pool.lease().carve(FIELDS)["inputs"]
    kept[...] = 3
    pool.lease()
    pool.close()
    assert pool.free == 0
    with pytest.raises(ClosedError, match="closed"):
        pool.lease()
    assert (kept == 3).all()
    del kept
    assert pool.free == 0


def test_arrays_outlive_their_pool():
    array = BufferPool(1024).lease().carve(FIELDS)["inputs"]
    array[...] = 5
    gc.collect()
    assert (array == 5).all()


def test_an_array_pickles_as_an_array(pool):
    array = pool.lease().carve(FIELDS)["inputs"]
    array[...] = 2
    copy = pickle.loads(pickle.dumps(array))
    assert copy.flags.owndata
    assert (copy == array).all()


def test_a_field_beyond_the_buffer_is_refused(pool):
    with pytest.raises(TypeError, match="too small"):
        pool.lease().carve([Field("inputs", (4096,), np.dtype(np.float32), 0)])
