"""Windows by number: the same as a loader's, pickled, of any layout."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import windowloader as wl
from windowloader.batch.window_reader import WindowReader
from windowloader.errors import AxesError


@pytest.fixture
def windows():
    values = np.random.default_rng(0).normal(50, 9, (40, 3, 2)).astype(np.float32)
    return wl.WindowSet(wl.Series(values, features=["speed", "flow"]), wl.WindowSpec(lookback=4, horizon=2))


def test_reads_what_the_window_set_reads(windows):
    positions = np.array([7, 0, 7, 34])
    scaler = wl.StandardScaler.fit(windows)
    with WindowReader(windows, scaler=scaler, layout="bnft") as reader:
        batch = reader.read(positions)
    expected = windows.read(positions, scaler=scaler, layout="bnft")
    np.testing.assert_array_equal(batch.inputs, expected.inputs)
    np.testing.assert_array_equal(batch.targets, expected.targets)
    np.testing.assert_array_equal(batch.starts, [7, 0, 7, 34])


def test_fills_the_arrays_that_it_is_given(windows):
    with WindowReader(windows) as reader:
        out = {field.name: np.empty(field.shape, field.dtype) for field in reader.recipe.fields(2)}
        batch = reader.read(np.array([3, 9]), out=out)
        assert batch.inputs is out["inputs"]
        np.testing.assert_array_equal(batch.targets, reader.read(np.array([3, 9])).targets)


def test_batches_do_not_share_memory(windows):
    with WindowReader(windows) as reader:
        first, second = reader.read(np.array([0])), reader.read(np.array([0]))
    assert not np.shares_memory(first.inputs, second.inputs)


def test_large_batches_are_never_overwritten_while_held():
    """Their memory comes from a pool, and stays in use as long as a view references it."""
    values = np.arange(400 * 50.0).reshape(400, 50)
    with WindowReader(wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=12, horizon=12))) as reader:
        kept = []
        for turn in range(12):
            size = 200 if turn % 5 else 90
            batch = reader.read(np.arange(turn, turn + size))
            assert batch.nbytes > 1 << 18
            if turn % 2:
                kept.append((turn, batch.targets[::7, 3]))
        for turn, part in kept:
            rows = np.arange(turn, turn + (200 if turn % 5 else 90))[::7] + 15
            np.testing.assert_array_equal(part[..., 0], values[rows])


def test_survives_pickling(windows):
    reader = WindowReader(windows, dtype="float64")
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy.read(np.array([5])).inputs, reader.read(np.array([5])).inputs)
    for one in (reader, copy):
        one.close()


def test_refuses_a_number_outside(windows):
    with WindowReader(windows) as reader, pytest.raises(IndexError, match="35"):
        reader.read(np.array([35]))


def test_a_dynamic_graph_only_where_asked():
    graph = wl.DynamicGraph.from_steps([[[0], [1]]] * 10, num_nodes=2)
    series = wl.Series(np.zeros((10, 2)), graph=graph)
    with WindowReader(wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=1, graph="first"))) as reader:
        assert reader.read(np.array([0]), graph=False).graph is None
        np.testing.assert_array_equal(reader.read(np.array([0, 1])).graph.edge_index, [[0, 2], [1, 3]])


def test_labels_of_rows_leave_out_the_node_axis():
    """What no node has of its own needs no axis of nodes; a role with one column by node does."""
    values, labels = np.zeros((12, 5)), np.arange(24.0).reshape(12, 2)
    series = wl.Series(values, covariates={"label": (labels, "tf")})
    spec = wl.WindowSpec(lookback=3, target_offsets=(-2, -1, 0), inputs=["value"], targets=["label"])
    batch = wl.WindowSet(series, spec).read([4], layout=("bnt", "btf"))
    assert batch.inputs.shape == (1, 5, 3)
    np.testing.assert_array_equal(batch.targets[0], labels[4:7])
    with pytest.raises(AxesError, match="leaves out 'n'"):
        wl.WindowSet(series, spec).read([4], layout=("bt", "btf"))
