"""PyG's Batch from batches of windows, compared with PyG's own collation."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

import windowloader as wl  # noqa: E402
from windowloader.adapters.pgt import to_pyg, to_pyg_steps  # noqa: E402
from windowloader.adapters.pytorch import TorchLoader  # noqa: E402
from windowloader.errors import GraphError  # noqa: E402

NODES = 6


@pytest.fixture
def values():
    return np.random.default_rng(2).normal(size=(30, NODES, 2)).astype(np.float32)


@pytest.fixture
def steps():
    rng = np.random.default_rng(3)
    return [(rng.integers(0, NODES, (2, n)), rng.random(n, np.float32)) for n in rng.integers(0, 9, 30)]


def assert_equal(ours, theirs):
    assert set(ours.keys()) == set(theirs.keys())
    for key in theirs.keys():  # noqa: SIM118 - a Data object, not a dict
        assert torch.equal(ours[key], theirs[key]), key
        assert ours[key].dtype == theirs[key].dtype
    assert ours.num_graphs == theirs.num_graphs
    for one, other in zip(ours.to_data_list(), theirs.to_data_list(), strict=True):
        for key in other.keys():  # noqa: SIM118
            assert torch.equal(one[key], other[key])


def collated(pyg, batch, edges):
    """Collate one Data per window by PyG."""
    data = [
        pyg.Data(
            x=torch.from_numpy(x), y=torch.from_numpy(y), edge_index=torch.as_tensor(index),
            edge_attr=torch.as_tensor(weight),
        )
        for x, y, (index, weight) in zip(batch.inputs, batch.targets, edges, strict=True)
    ]  # fmt: skip
    return pyg.Batch.from_data_list(data)


def test_a_static_graph(pyg, values, steps):
    graph = wl.Graph(*steps[3], num_nodes=NODES)
    windows = wl.WindowSet(wl.Series(values, graph=graph), wl.WindowSpec(lookback=4, horizon=1))
    batch = windows.read([3, 0, 11], layout=("bnft", "bnf"))
    assert_equal(to_pyg(batch), collated(pyg, batch, [steps[3]] * 3))


@pytest.mark.parametrize(("mode", "row"), [("first", 0), ("last", 3)])
def test_each_window_its_own_graph(pyg, values, steps, mode, row):
    graph = wl.DynamicGraph.from_steps(steps, num_nodes=NODES)
    windows = wl.WindowSet(wl.Series(values, graph=graph), wl.WindowSpec(lookback=4, horizon=1, graph=mode))
    batch = windows.read([3, 0, 11], layout=("bnft", "bnf"))
    assert_equal(to_pyg(batch), collated(pyg, batch, [steps[start + row] for start in (3, 0, 11)]))


def test_each_row_its_own_graph(pyg, values, steps):
    graph = wl.DynamicGraph.from_steps(steps, num_nodes=NODES)
    windows = wl.WindowSet(wl.Series(values, graph=graph), wl.WindowSpec(lookback=4, horizon=2))
    batch = windows.read([5, 1], layout=("btnf", "bnft"))
    with pytest.raises(GraphError, match="to_pyg_steps"):
        to_pyg(batch)
    found = to_pyg_steps(batch)
    assert len(found) == 4
    for row, one in enumerate(found):
        data = [
            pyg.Data(
                x=torch.from_numpy(values[start + row]), edge_index=torch.as_tensor(steps[start + row][0]),
                edge_attr=torch.as_tensor(steps[start + row][1]),
                y=torch.from_numpy(np.moveaxis(values[start + 4 : start + 6], 0, -1).copy()),
            )
            for start in (5, 1)
        ]  # fmt: skip
        assert_equal(one, pyg.Batch.from_data_list(data))


def test_the_transform_of_a_loader(pyg, values, steps):
    graph = wl.Graph(*steps[3], num_nodes=NODES)
    windows = wl.WindowSet(wl.Series(values, graph=graph), wl.WindowSpec(lookback=4, horizon=1))
    for kind in (wl.WindowLoader, TorchLoader):
        with kind(windows, batch_size=10, layout=("bnft", "bnf"), transform=to_pyg) as loader:
            found = list(loader)
        assert [one.num_graphs for one in found] == [10, 10, 6]
        batch = windows.read(np.arange(10, 20), layout=("bnft", "bnf"))
        assert_equal(found[1], collated(pyg, batch, [steps[3]] * 10))


def test_a_batch_without_a_graph_is_refused(pyg, values):
    batch = wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=4, horizon=1)).read([0], layout="bntf")
    with pytest.raises(GraphError, match="graph="):
        to_pyg(batch)
