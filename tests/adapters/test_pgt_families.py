"""PGT's dataset families compared with its own loaders over the same files, snapshot by snapshot."""

from __future__ import annotations

import inspect
import json
import pickle
import types

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

import windowloader as wl  # noqa: E402
from windowloader.adapters.pgt import (  # noqa: E402
    FAMILIES,
    PGTWarning,
    from_signal,
    get_index_dataset,
    to_signal,
)
from windowloader.errors import SourceNotFoundError  # noqa: E402

JSON_FILES = {
    "chickenpox": "chickenpox.json",
    "pedalme": "pedalme_london.json",
    "montevideo-bus": "montevideo_bus.json",
    "england-covid": "england_covid.json",
}


@pytest.fixture(autouse=True)
def imported(pyg):
    """Snapshots are PyG's."""


@pytest.fixture(scope="module")
def pgt(pgt_package):
    """PGT's loaders."""
    return pgt_package.dataset


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(8)


@pytest.fixture(scope="module")
def edges(rng):
    return rng.integers(0, 9, (20, 2)).tolist()


def made(name, rng, edges):
    """Files of families for which there is no test data, in PGT's formats."""
    weights = rng.random(20).tolist()
    if name.startswith("windmill"):
        return {"block": rng.gamma(2, 3, (60, 9)).tolist(), "edges": edges, "weights": weights}
    if name == "wikimaths":
        days = {str(day): {"y": rng.integers(1, 5000, 9).tolist()} for day in range(40)}
        return {"time_periods": 40, "edges": edges, "weights": weights, **days}
    raise ValueError(name)


def made_mtm(rng, edges):
    frames = {
        str(joint): {str(t): "({:.6f}, {:.6f}, {:.6f})".format(*rng.random(3)) for t in range(50)}
        for joint in range(21)
    }
    return {"edges": edges, "LABEL": {str(t): int(c) for t, c in enumerate(rng.integers(0, 6, 50))}, **frames}


def file_of(name, data, rng, edges):
    if name in JSON_FILES:
        return json.loads((data / "pgt" / JSON_FILES[name]).read_text())
    return made(name, rng, edges)


def loader_of(pgt, name, file, **attributes):
    """PGT's loader of a family, with a parsed file instead of a download."""
    loader = object.__new__(getattr(pgt, FAMILIES[name].loader))
    loader._dataset = file
    for key, value in attributes.items():
        setattr(loader, key, value)
    return loader


def same_snapshots(ours, theirs):
    assert len(ours) == theirs.snapshot_count
    for one, other in zip(ours, theirs, strict=True):
        assert set(one.keys()) == set(other.keys())
        for key in other.keys():  # noqa: SIM118 - a Data object, not a dict
            assert one[key].dtype == other[key].dtype
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize(
    ("name", "lags"),
    [
        ("chickenpox", 4),
        ("chickenpox", 9),
        ("pedalme", 4),
        ("pedalme", 1),
        ("montevideo-bus", 4),
        ("england-covid", 8),
        ("windmill-large", 8),
        ("windmill-medium", 8),
        ("windmill-small", 5),
        ("wikimaths", 8),
    ],
)
def test_families_of_one_file(pgt, data, rng, edges, name, lags):
    file = file_of(name, data, rng, edges)
    loader = loader_of(pgt, name, file)
    theirs = loader.get_dataset(lags)
    family = FAMILIES[name]
    ours = family.signal(family.open(loader), lags=lags)
    same_snapshots(ours, theirs)
    same_snapshots(family.signal(family.open(file), lags=lags)[:3], theirs[:3])


def test_a_family_from_its_path(data):
    family = FAMILIES["chickenpox"]
    series = family.open(data / "pgt" / "chickenpox.json")
    assert (series.num_steps, series.num_nodes, series.graph.edge_index.shape[1]) == (521, 20, 102)
    assert len(family.signal(series)) == 517
    with pytest.raises(SourceNotFoundError, match="is not a file"):
        family.open(data / "pgt" / "measles.json")


def test_several_features_of_a_bus_stop(pgt, rng):
    """PGT stacks the chosen variables stop by stop: rows of x are (stop, variable)."""
    nodes = [
        {"bus_stop": 100 + i, "y": rng.integers(0, 9, 30).tolist(), "X": {"rain": rng.random(30).tolist()}}
        for i in range(5)
    ]
    for node in nodes:
        node["X"]["y"] = node["y"]
    links = [{"source": 100, "target": 103, "weight": 2.5}, {"source": 104, "target": 100, "weight": 1.0}]
    loader = loader_of(pgt, "montevideo-bus", {"nodes": nodes, "links": links})
    theirs = loader.get_dataset(lags=4, feature_vars=["y", "rain"])
    family = FAMILIES["montevideo-bus"]
    same_snapshots(family.signal(family.open(loader), inputs=["y", "rain"]), theirs)


@pytest.fixture(scope="module")
def week(data):
    """The METR-LA week as PGT's file has it: speed and time of day, float64."""
    speed = pd.read_csv(data / "metr_la_week" / "los_speed.csv").to_numpy(np.float64)[:400, :40]
    day = np.arange(400) % 288 / 288
    return np.stack([speed, np.repeat(day[:, None], 40, axis=1)], axis=-1)


@pytest.fixture(scope="module")
def adjacency(data):
    with (data / "metr_la_week" / "adj_mx.pkl").open("rb") as file:
        return pickle.load(file, encoding="latin1")[2][:40, :40]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("metr-la", ("METR-LA.zip", "node_values.npy", "adj_mat.npy")),
        ("pems-bay", ("PEMS-BAY.zip", "pems_node_values.npy", "pems_adj_mat.npy")),
    ],
)
@pytest.mark.parametrize(("lags", "horizon"), [(12, 12), (12, 3), (1, 1)])
def test_families_of_arrays(pgt, week, adjacency, tmp_path, name, files, lags, horizon):
    (tmp_path / files[0]).touch()
    np.save(tmp_path / files[1], week)
    np.save(tmp_path / files[2], adjacency)
    loader = getattr(pgt, FAMILIES[name].loader)(raw_data_dir=str(tmp_path))
    theirs = loader.get_dataset(num_timesteps_in=lags, num_timesteps_out=horizon)
    series = FAMILIES[name].open(tmp_path)
    assert series.tier == "mapped"
    same_snapshots(FAMILIES[name].signal(series, lags=lags, horizon=horizon), theirs)


def same_loaders(ours, theirs):
    for place in range(3):
        assert len(ours[place].dataset) == len(theirs[place].dataset)
        assert ours[place].batch_size == theirs[place].batch_size
        assert type(ours[place].sampler) is type(theirs[place].sampler)
        for (x, y), (their_x, their_y) in zip(ours[place], theirs[place], strict=True):
            assert x.dtype == their_x.dtype
            assert torch.equal(x, their_x)
            assert torch.equal(y, their_y)
    for mine, other in zip(ours[3:], theirs[3:], strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)


def write_frame(path, values, times):
    """Write a frame in pandas' fixed format, as PyTables lays it out."""
    import h5py

    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        for key in ("CLASS", "pandas_type", "encoding", "pandas_version"):
            text = {
                "CLASS": "GROUP",
                "pandas_type": "frame",
                "encoding": "UTF-8",
                "pandas_version": "0.15.2",
            }[key]
            group.attrs[key] = np.bytes_(text)
        group.attrs["ndim"], group.attrs["nblocks"] = 2, 1
        names = np.arange(values.shape[1])
        for key, labels in (("axis0", names), ("block0_items", names), ("axis1", times.view("i8"))):
            group[key] = labels
            group[key].attrs["kind"] = np.bytes_("datetime64" if key == "axis1" else "integer")
        group["axis1"].attrs["index_class"] = np.bytes_("datetime")
        group["block0_values"] = values
        group["block0_values"].attrs["transposed"] = 1


INDEXED = {  # PGT's loaders that have index datasets, and the files that they read
    "metr-la": ("node_values.npy", "adj_mat.npy"),
    "pems-bay": ("pems_node_values.npy", "pems_adj_mat.npy"),
    "pems-all-la": ("pems_AllLA_speed.h5", "pems_AllLA_adj_mat.pkl"),
    "pems": ("pems_cali_speed.h5", "pems_cali_adj_mat.pkl"),
    "windmill-large": (),
    "chickenpox": (),
}


@pytest.fixture
def indexed_loader(pgt, pgt_package, data, rng, edges, week, adjacency, tmp_path):
    """PGT's own loader of a family, made for index datasets."""

    def make(name):
        if not INDEXED[name]:
            loader = loader_of(pgt, name, file_of(name, data, rng, edges))
        else:
            loader = loader_of(pgt, name, None, raw_data_dir=str(tmp_path))
            values, graph = (tmp_path / file for file in INDEXED[name])
            if values.suffix == ".npy":
                np.save(values, week)
                np.save(graph, adjacency)
            else:
                loader.pd = frames(values, graph, week[..., 0], adjacency)
        loader.index, loader.IndexDataset = True, pgt_package.IndexDataset
        return loader

    return make


def frames(values, graph, speeds, adjacency):
    """Write the files of PGT's large sets, and stand in for ``read_hdf``, which needs PyTables.

    It returns each column in one piece, so that PGT's sums go down the columns.
    """
    pytest.importorskip("h5py")
    times = np.datetime64("2012-03-01", "ns") + np.arange(len(speeds)) * np.timedelta64(300, "s")
    write_frame(values, np.ascontiguousarray(speeds), times)
    with graph.open("wb") as file:
        pickle.dump((list(map(str, range(speeds.shape[1]))), {}, adjacency), file)
    frame = pd.DataFrame(np.asfortranarray(speeds), index=pd.DatetimeIndex(times), copy=False)
    return types.SimpleNamespace(read_hdf=lambda path, key: frame)


@pytest.mark.parametrize("name", INDEXED)
def test_an_index_dataset_equals_the_loaders_own_by_default(indexed_loader, name):
    """Lags, batches, parts, scaling and the number of values are those of PGT's call without arguments."""
    loader = indexed_loader(name)
    theirs = loader.get_index_dataset()
    ours = get_index_dataset(loader)
    assert len(ours) == len(theirs) == (5 if name == "chickenpox" else 7)
    same_loaders(ours, theirs)


@pytest.mark.parametrize("name", INDEXED)
def test_an_index_dataset_equals_the_loaders_own_with_arguments(indexed_loader, name):
    loader = indexed_loader(name)
    arguments = (6, 32, True, -1, (0.6, 0.2, 0.2))
    ours, theirs = get_index_dataset(loader, *arguments), loader.get_index_dataset(*arguments)
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        torch.manual_seed(5)
        expected = list(other)
        torch.manual_seed(5)
        assert all(torch.equal(x, y) for x, y in zip(next(iter(mine)), expected[0], strict=True))
    same_loaders(get_index_dataset(loader, 6, 32), loader.get_index_dataset(6, 32))


def test_every_loader_of_lagged_windows_is_a_family_with_its_lags(pgt):
    found = {family.loader: name for name, family in FAMILIES.items()}
    others = {"TwitterTennisDatasetLoader", "MTMDatasetLoader"}  # from_signal(loader.get_dataset())
    kinds = {name: kind for name, kind in vars(pgt).items() if name.endswith("DatasetLoader")}
    kinds = {name: kind for name, kind in kinds.items() if name not in others}
    assert {found[name] for name, kind in kinds.items() if hasattr(kind, "get_index_dataset")} == set(INDEXED)
    for name, kind in kinds.items():
        method = getattr(kind, "get_index_dataset" if found[name] in INDEXED else "get_dataset")
        known = [p.default for p in inspect.signature(method).parameters.values() if "lags" in p.name]
        assert known in ([], [FAMILIES[found[name]].lags]), name


def test_arguments_override_those_of_the_loader(indexed_loader):
    loader = indexed_loader("chickenpox")
    with pytest.warns(PGTWarning):
        *_, means, stds = get_index_dataset(loader, statistics="train")
    assert means.abs() > 0
    assert stds != 1
    assert len(get_index_dataset(indexed_loader("metr-la"), statistics=None)) == 7
    x, _ = get_index_dataset(loader, allGPU="cpu")[0].dataset[0]
    assert x.dtype == torch.float32  # as PGT's on a GPU


def test_a_family_without_its_leak(data):
    """The same snapshots, scaled by statistics of the train part."""
    family = FAMILIES["england-covid"]
    windows = family.windows(family.open(data / "pgt" / "england_covid.json"))
    train, test = wl.split(windows, None, (0.8, 0.2))
    scaler = wl.StandardScaler.fit(train, per="node", epsilon=1e-10)
    signal = to_signal(test, scaler=scaler)
    raw = test.read([0], dtype="float64", layout=("bnt", "bn"))
    expected = (raw.inputs[0] - scaler.mean[:, None]) / (scaler.std[:, None] + 1e-10)
    np.testing.assert_allclose(signal[0].x, expected, rtol=1e-5)


def test_a_series_of_mtm_signals(pgt, rng, edges):
    """MTM's features are [feature, node, frame], so the node axis is passed."""
    loader = object.__new__(pgt.MTMDatasetLoader)
    loader._dataset = made_mtm(rng, edges)
    theirs = loader.get_dataset(16)
    series = from_signal(theirs, node_axis=1)
    assert (series.num_steps, series.num_nodes, len(series.features)) == (34, 21, 48)
