"""A batch is a pair, unless its weights would be lost."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from windowloader.batch.batch import Batch
from windowloader.errors import WeightsError


@pytest.fixture
def batch():
    return Batch(
        inputs=np.zeros((4, 12, 5, 2), np.float32),
        targets=np.ones((4, 3, 5, 1), np.float32),
        input_mask=np.ones((4, 12, 5, 2), bool),
        starts=np.arange(4),
        entities=np.zeros(4, np.int64),
        weights=np.array([1, 1, 1, 0], np.float32),
        graph="the graph",
        epoch=2,
        step=7,
    )


def test_it_acts_as_the_pair(batch):
    inputs, targets = batch
    assert inputs is batch.inputs
    assert targets is batch.targets
    assert batch[0] is inputs
    assert batch[-1] is targets
    assert len(batch) == 2
    assert list(batch)[1] is targets
    with pytest.raises(IndexError):
        batch[2]


@pytest.mark.parametrize("take", [list, tuple, lambda batch: batch[0], lambda batch: batch[1]])
def test_an_exact_batch_is_no_pair(batch, take):
    exact = Batch(inputs=batch.inputs, targets=batch.targets, weights=batch.weights, exact=True)
    with pytest.raises(WeightsError, match=r"batch\.weights"):
        take(exact)
    assert len(exact) == 2
    assert "inputs" in repr(exact)


def test_map_takes_arrays_and_weights_and_leaves_the_rest(batch):
    seen = []
    mapped = batch.map(lambda array: seen.append(array) or array.reshape(-1))
    assert len(seen) == 4
    assert mapped.inputs.shape == (480,)
    assert mapped.input_mask.shape == (480,)
    assert mapped.weights.shape == (4,)
    assert mapped.starts is batch.starts
    assert mapped.future is None
    assert (mapped.epoch, mapped.step, mapped.graph) == (2, 7, "the graph")


def test_sizes(batch):
    assert batch.num_windows == 4
    assert batch.nbytes == 480 * 4 + 60 * 4 + 480
    assert list(batch.arrays()) == ["inputs", "targets", "input_mask"]


@pytest.mark.parametrize("through", [lambda b: pickle.loads(pickle.dumps(b)), copy.deepcopy, copy.copy])
def test_it_pickles_and_copies(batch, through):
    other = through(batch)
    np.testing.assert_array_equal(other.targets, batch.targets)
    np.testing.assert_array_equal(other.starts, batch.starts)
    assert (other.epoch, other.step, other.graph, other.exact) == (2, 7, "the graph", False)


def test_repr_is_short(batch):
    assert repr(batch) == (
        "Batch(inputs: float32 (4, 12, 5, 2), targets: float32 (4, 3, 5, 1), input_mask: bool (4, 12, 5, 2), "
        "epoch=2, step=7)"
    )


def test_it_cannot_be_changed(batch):
    with pytest.raises(AttributeError):
        batch.inputs = None
