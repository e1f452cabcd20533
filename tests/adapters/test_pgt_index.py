"""PGT's index datasets compared with the batches of PGT's own loaders."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

import windowloader as wl  # noqa: E402
from windowloader.adapters.pgt import PGTWarning, get_index_dataset  # noqa: E402
from windowloader.errors import (  # noqa: E402
    AxesError,
    GraphError,
    LoaderError,
    RankError,
    ScalerError,
    SplitError,
)


@pytest.fixture(scope="module")
def pgt(pgt_package):
    """PGT's loaders."""
    return pgt_package.dataset


@pytest.fixture(scope="module")
def week(data):
    """The METR-LA week as PGT's file has it: speed and time of day, shape (2016, 207, 2), float64."""
    speed = pd.read_csv(data / "metr_la_week" / "los_speed.csv").to_numpy(np.float64)
    day = np.arange(2016) % 288 / 288
    return np.stack([speed, np.repeat(day[:, None], 207, axis=1)], axis=-1)


@pytest.fixture(scope="module")
def adjacency(data):
    with (data / "metr_la_week" / "adj_mx.pkl").open("rb") as file:
        return pickle.load(file, encoding="latin1")[2]


@pytest.fixture
def metr_la(pgt, week, adjacency, tmp_path):
    """PGT's own METR-LA loader over the week."""
    (tmp_path / "METR-LA.zip").touch()
    np.save(tmp_path / "adj_mat.npy", adjacency)
    np.save(tmp_path / "node_values.npy", week)
    return pgt.METRLADatasetLoader(raw_data_dir=str(tmp_path), index=True)


@pytest.fixture
def series(week, adjacency):
    return wl.Series(week, features=["speed", "time"], graph=adjacency)


def assert_same_batches(ours, theirs):
    pairs = list(zip(ours, theirs, strict=True))
    assert pairs
    for (x, y), (their_x, their_y) in pairs:
        assert x.dtype == their_x.dtype
        assert y.dtype == their_y.dtype
        assert torch.equal(x, their_x)
        assert torch.equal(y, their_y)


@pytest.mark.parametrize("shuffle", [False, True])
def test_metr_la_to_the_bit(metr_la, series, shuffle):
    theirs = metr_la.get_index_dataset(shuffle=shuffle)
    ours = get_index_dataset(series, shuffle=shuffle, statistics="series")
    assert len(ours) == len(theirs) == 7
    for place in range(3):
        assert len(ours[place].dataset) == len(theirs[place].dataset)
        torch.manual_seed(7)
        expected = list(theirs[place])
        torch.manual_seed(7)
        assert_same_batches(ours[place], expected)
    for mine, other in zip(ours[3:], theirs[3:], strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)


def test_two_epochs_of_a_shuffled_loader_equal_theirs(metr_la, series):
    theirs = metr_la.get_index_dataset(shuffle=True, batch_size=512)[0]
    ours = get_index_dataset(series, shuffle=True, batch_size=512, statistics="series")[0]
    torch.manual_seed(3)
    expected = [[x for x, _ in theirs] for _ in range(2)]
    torch.manual_seed(3)
    for epoch in expected:
        assert all(torch.equal(x, other) for (x, _), other in zip(ours, epoch, strict=True))
    assert not torch.equal(expected[0][0], expected[1][0])


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_draw_the_same_windows(metr_la, series, shuffle):
    for rank in range(3):
        theirs = metr_la.get_index_dataset(shuffle=shuffle, world_size=3, ddp_rank=rank, batch_size=128)
        ours = get_index_dataset(
            series, shuffle=shuffle, world_size=3, ddp_rank=rank, batch_size=128, statistics="series"
        )
        for mine, other in zip(ours[:3], theirs[:3], strict=True):
            for loader in (mine, other):
                loader.sampler.set_epoch(2)
            assert list(mine.sampler) == list(other.sampler)
        assert_same_batches(ours[0], theirs[0])


def test_windmills_by_node(pgt, tmp_path):
    values = np.random.default_rng(5).gamma(2, 3, (300, 11))
    edges = [[0, 1], [4, 2], [10, 0]]
    weights = [0.5, 0.25, 1.0]
    (tmp_path / "windmill_output.json").write_text(
        json.dumps({"block": values.tolist(), "edges": edges, "weights": weights})
    )
    theirs = pgt.WindmillOutputLargeDatasetLoader(str(tmp_path), index=True).get_index_dataset(lags=8)
    ours = get_index_dataset(
        values, lags=8, statistics="series", per="node", epsilon=1e-10, dtype="float64",
        edges=np.transpose(edges), edge_weights=weights,
    )  # fmt: skip
    for place in range(3):
        assert_same_batches(ours[place], theirs[place])
    for mine, other in zip(ours[3:], theirs[3:], strict=True):
        assert torch.equal(mine, other)


def test_chickenpox_as_it_is(pgt, pgt_package, data):
    loader = object.__new__(pgt.ChickenpoxDatasetLoader)
    loader._dataset = json.loads((data / "pgt" / "chickenpox.json").read_text())
    loader.index = True
    loader.IndexDataset = pgt_package.IndexDataset
    theirs = loader.get_index_dataset()
    ours = get_index_dataset(
        np.array(loader._dataset["FX"]), lags=4, batch_size=4, statistics=None, dtype="float64",
        edges=np.transpose(loader._dataset["edges"]),
    )  # fmt: skip
    for place in range(3):
        assert_same_batches(ours[place], theirs[place])
    for mine, other in zip(ours[3:5], theirs[3:], strict=True):
        assert torch.equal(mine, other)
    assert ours[5].tolist() == [0.0]
    assert ours[6].tolist() == [1.0]


# -- differences from PGT ---------------------------------------------------------------------------------------------


def test_the_default_sees_no_row_of_the_test_part(week):
    series = wl.Series(week, features=["speed", "time"])
    with pytest.warns(PGTWarning, match=r"rows 0 … 1417.*all 2016 rows.*share up to 23 rows"):
        train, val, test, edges, weights, means, stds = get_index_dataset(series)
    assert (edges, weights) == (None, None)
    rows = week[:1418]  # 1395 windows of 24 rows
    np.testing.assert_allclose(means, rows.mean(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(stds, rows.std(axis=(0, 1)), rtol=1e-6)
    later = week.copy()
    later[1418:] += 1000
    with pytest.warns(PGTWarning):
        other = get_index_dataset(wl.Series(later, features=["speed", "time"]))
    assert_same_batches(other[0], train)
    assert (len(train.dataset), len(val.dataset), len(test.dataset)) == (1395, 199, 399)


def test_the_default_equals_the_core_loader(series):
    with pytest.warns(PGTWarning):
        train, *_ = get_index_dataset(series, batch_size=100)
    parts = wl.split(series, wl.WindowSpec(lookback=12, horizon=12), (0.7, 0.1, 0.2), by="windows")
    with wl.WindowLoader(parts[0], batch_size=100, scaler=wl.StandardScaler.fit(parts[0])) as loader:
        for (x, y), (inputs, targets) in zip(train, loader, strict=True):
            np.testing.assert_array_equal(x.numpy(), inputs)
            np.testing.assert_array_equal(y.numpy(), targets)


def test_clocks_keep_their_range(week):
    series = wl.Series(week[..., 0], features=["speed"], timestamps=("2012-03-01", "5min"))
    with pytest.warns(PGTWarning, match="time_of_day"):
        train, *_, means, stds = get_index_dataset(series, features=["speed", "time_of_day"])
    x, _ = next(iter(train))
    np.testing.assert_allclose(x[3, :, 0, 1], np.arange(3, 15) / 288, rtol=1e-6)
    assert means[1] == 0
    assert stds[1] == 1


def test_parts_that_share_no_target(week):
    with pytest.warns(PGTWarning, match="by='targets'"):
        train, val, *_ = get_index_dataset(wl.Series(week), by="targets")
    assert train.dataset.indices[-1] + 24 <= val.dataset.indices[0] + 12


def test_known_statistics_are_used(week):
    means, stds = torch.tensor([50.0, 0.5]), np.array([10.0, 0.25])
    train, *_, back, _ = get_index_dataset(wl.Series(week), means=means, stds=stds)
    x, _ = next(iter(train))
    raw = week[:12].astype(np.float32)
    np.testing.assert_array_equal(x[0], (raw - np.float32([50, 0.5])) / np.float32([10, 0.25]))
    assert torch.equal(back, means)


def test_missing_cells_are_filled_after_scaling():
    values = np.arange(80.0).reshape(40, 2) + 1
    values[5, 1] = np.nan
    series = wl.Series(values, missing=float("nan"))
    with pytest.warns(PGTWarning):
        train, *_ = get_index_dataset(series, lags=3, fill=0.0)
    known, *_ = get_index_dataset(series, lags=3, fill=0.0, means=[40.0], stds=[20.0])
    for loader in (train, known):
        x, _ = loader.dataset[5]
        assert x[0, 1, 0] == 0
        assert (x[1:] != 0).all()
    marked, *_ = get_index_dataset(series, lags=3, fill=float("nan"), means=[40.0], stds=[20.0])
    x, _ = marked.dataset[5]
    assert x.isnan().sum() == x[0, 1, 0].isnan() == 1


# -- shapes and options -----------------------------------------------------------------------------------------------


def test_horizon_targets_and_layouts(week):
    train, *_ = get_index_dataset(
        wl.Series(week, features=["speed", "time"]), lags=12, horizon=1, targets=["speed"],
        layout=("n(tf)", "n"), statistics=None,
    )  # fmt: skip
    x, y = next(iter(train))
    assert x.shape == (64, 207, 24)
    np.testing.assert_array_equal(x[5].numpy(), week[5:17].transpose(1, 0, 2).reshape(207, 24).astype("f4"))
    np.testing.assert_array_equal(y[5].numpy(), week[17, :, 0].astype("f4"))


def test_the_dataset_is_a_dataset(week):
    train, *_ = get_index_dataset(wl.Series(week), statistics=None, batch_size=50)
    data = train.dataset
    x, y = data[-1]
    assert x.shape == y.shape == (12, 207, 2)
    np.testing.assert_array_equal(data.indices, np.arange(1395))
    assert data.horizon == 12
    with pytest.raises(IndexError):
        data[1395]
    plain = torch.utils.data.DataLoader(data, batch_size=50)  # torch's own collation stacks window by window
    assert_same_batches(plain, train)
    part = torch.utils.data.DataLoader(torch.utils.data.Subset(data, [3, 1]), batch_size=2)
    assert torch.equal(next(iter(part))[0][1], data[1][0])
    assert [len(x) for x, _ in train][-1] == 1395 % 50


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.campaign)])
def test_workers_deliver_the_same_batches(week, context):
    series = wl.Series(week[:200, :5])
    plain, *_ = get_index_dataset(series, statistics="series", batch_size=32)
    copy = pickle.loads(pickle.dumps(plain.dataset))
    assert torch.equal(copy[4][0], plain.dataset[4][0])
    forked, *_ = get_index_dataset(series, statistics="series", batch_size=32, num_workers=1)
    forked.multiprocessing_context = context
    assert_same_batches(forked, plain)


def test_workers_of_a_streamed_series_are_not_forked(week, tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(str(tmp_path / "week.zarr"), data=week[:200, :5], chunks=(32, 5, 2))
    series = wl.open(tmp_path / "week.zarr")
    plain, *_ = get_index_dataset(series, statistics="series", batch_size=32)  # reads all of it
    workers, *_ = get_index_dataset(series, statistics="series", batch_size=32, num_workers=1)
    assert_same_batches(workers, plain)


def test_a_series_on_a_device(week):
    """The code of allGPU=0, run on the CPU: PGT's GPU statistics divide by n - 1."""
    series = wl.Series(week, features=["speed", "time"])
    ours = get_index_dataset(series, allGPU="cpu", statistics="series", targets=["speed"])
    values = torch.tensor(week, dtype=torch.float32)
    mean = values.mean(dim=(0, 1))
    std = (values - mean).std(dim=(0, 1))
    assert torch.equal(ours[6], std)
    x, y = next(iter(ours[0]))
    assert torch.equal(x[7], ((values - mean) / std)[7:19])
    assert torch.equal(y[7], ((values - mean) / std)[19:31, :, :1])
    with pytest.warns(PGTWarning):
        held = get_index_dataset(series, allGPU="cpu")
    with pytest.warns(PGTWarning):
        read = get_index_dataset(series)
    assert_same_batches(held[1], read[1])


def test_a_path_is_opened(tmp_path, week):
    np.save(tmp_path / "speed.npy", week[:100])
    mapped, *_ = get_index_dataset(tmp_path / "speed.npy", lags=4, statistics="series")
    assert mapped.dataset.windows.series.tier == "mapped"
    held, *_ = get_index_dataset(week[:100], lags=4, statistics="series")
    assert_same_batches(mapped, held)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"world_size": 2}, RankError, "otherwise neither"),
        ({"world_size": 2, "ddp_rank": 2}, RankError, "counts from 0"),
        ({"statistics": "test"}, ScalerError, "'train', 'series'"),
        ({"means": [1.0]}, ScalerError, "go together"),
        ({"means": [1.0, 2.0, 3.0], "stds": [1.0, 2.0, 3.0]}, ScalerError, "shape"),
        ({"dtype": "float16"}, LoaderError, "float32"),
        ({"horizon": 0}, LoaderError, "pairs"),
        ({"layout": "nx"}, AxesError, "brackets"),
        ({"layout": "nt"}, AxesError, "leaves out 'f'"),
        ({"edges": [[0, 1]]}, GraphError, "edge"),
        ({"ratio": (0.7, 0.1, 0.1)}, SplitError, "sum"),
        ({"lags": 60}, SplitError, "no windows"),
        ({"allGPU": "cpu", "layout": "ntf"}, LoaderError, "permute"),
    ],
)
@pytest.mark.filterwarnings("ignore::windowloader.adapters.pgt.PGTWarning")
def test_wrong_arguments_are_refused(week, options, error, match):
    with pytest.raises(error, match=match):
        get_index_dataset(wl.Series(week[:124]), **options)


def test_a_constant_is_not_divided_by_zero():
    with pytest.warns(UserWarning, match="1 of 1 standard deviations are 0"):
        train, *_ = get_index_dataset(np.full((60, 3), 7.0), lags=3, statistics="series")
    assert (next(iter(train))[0] == 0).all()
