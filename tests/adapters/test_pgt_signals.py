"""PGT's signals, both ways: containers as series, windows as lazy snapshots."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

import windowloader as wl  # noqa: E402
from windowloader.adapters.pgt import from_signal, to_signal  # noqa: E402
from windowloader.errors import AxesError, GraphError, LoaderError, SeriesError  # noqa: E402

ROW = wl.WindowSpec(lookback=1, target_offsets=(0,), inputs=["x"], targets=["y"])


@pytest.fixture(autouse=True)
def imported(pyg):
    """Snapshots are PyG's."""


@pytest.fixture(scope="module")
def pgt(pgt_package):
    """PGT's signals."""
    return pgt_package.signal


@pytest.fixture(scope="module")
def chickenpox(data):
    return json.loads((data / "pgt" / "chickenpox.json").read_text())


@pytest.fixture(scope="module")
def covid(data):
    return json.loads((data / "pgt" / "england_covid.json").read_text())


@pytest.fixture(scope="module")
def tennis(data):
    return json.loads((data / "pgt" / "twitter_tennis_rg17.json").read_text())


def same(ours, theirs):
    """Two snapshots (or attributes) are equal: keys, dtypes, shapes, bits."""
    assert type(ours) is type(theirs)
    assert set(ours.keys()) == set(theirs.keys())
    for key, value in theirs.to_dict().items():
        mine = ours.to_dict()[key]
        if value is None:
            assert mine is None
        elif isinstance(value, torch.Tensor):
            assert mine.dtype == value.dtype, key
            assert mine.shape == value.shape, key
            assert torch.equal(mine.nan_to_num(7e7), value.nan_to_num(7e7)), key
    return True


def same_snapshots(ours, theirs):
    count = theirs.snapshot_count
    assert len(ours) == ours.snapshot_count == count
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert same(one, other)
        if number % 7 == 0:
            assert same(ours[number], other)
    assert same(ours[-1], theirs[count - 1])


def chickenpox_static(pgt, file, lags=4):
    """What PGT's loader makes of its file: lagged features, the next week as target, weights of 1."""
    values, edges = np.array(file["FX"]), np.array(file["edges"]).T
    count = len(values) - lags
    return pgt.StaticGraphTemporalSignal(
        edges, np.ones(edges.shape[1]),
        [values[i : i + lags].T for i in range(count)], [values[i + lags].T for i in range(count)],
    )  # fmt: skip


def covid_dynamic(pgt, file, lags=8):
    """Cases standardised by region over all days, and the mobility of each window's first day."""
    cases = np.array(file["y"])
    scaled = (cases - cases.mean(axis=0)) / (cases.std(axis=0) + 10**-10)
    count = file["time_periods"] - lags
    maps = file["edge_mapping"]
    return pgt.DynamicGraphTemporalSignal(
        [np.array(maps["edge_index"][str(i)]).T for i in range(count)],
        [np.array(maps["edge_weight"][str(i)]) for i in range(count)],
        [scaled[i : i + lags].T for i in range(count)], [scaled[i + lags].T for i in range(count)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def covid_series(covid):
    maps, days = covid["edge_mapping"], range(covid["time_periods"])
    steps = [(np.transpose(maps["edge_index"][str(i)]), maps["edge_weight"][str(i)]) for i in days]
    return wl.Series(
        np.array(covid["y"]), features=["cases"], graph=wl.DynamicGraph.from_steps(steps, num_nodes=129)
    )


@pytest.fixture
def covid_signal(covid_series):
    windows = wl.WindowSet(covid_series, wl.WindowSpec(lookback=8, horizon=1, graph="first"))
    return to_signal(windows, statistics="series", per="node", epsilon=1e-10)


@pytest.fixture
def chickenpox_signal(chickenpox):
    graph = wl.Graph(np.transpose(chickenpox["edges"]), np.ones(len(chickenpox["edges"])))
    series = wl.Series(np.array(chickenpox["FX"]), graph=graph)
    return to_signal(wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=1)))


# -- windows as signals -----------------------------------------------------------------------------------------------


def test_a_static_signal_snapshot_for_snapshot(pgt, chickenpox, chickenpox_signal):
    theirs = chickenpox_static(pgt, chickenpox)
    same_snapshots(chickenpox_signal, theirs)


def test_a_dynamic_signal_snapshot_for_snapshot(pgt, covid, covid_signal):
    theirs = covid_dynamic(pgt, covid)
    same_snapshots(covid_signal, theirs)
    for number in (0, 20, 52):
        np.testing.assert_array_equal(covid_signal.edge_indices[number], theirs.edge_indices[number])
        np.testing.assert_allclose(covid_signal.edge_weights[number], theirs.edge_weights[number])


def test_arrays_are_those_of_their_lists_in_float64(pgt, covid, covid_series):
    theirs = covid_dynamic(pgt, covid)
    windows = wl.WindowSet(covid_series, wl.WindowSpec(lookback=8, horizon=1, graph="first"))
    ours = to_signal(windows, statistics="series", per="node", epsilon=1e-10, dtype="float64")
    for number in range(len(ours)):
        np.testing.assert_array_equal(ours.features[number], theirs.features[number])
        np.testing.assert_array_equal(ours.targets[number], theirs.targets[number])
    assert ours[0].x.dtype == torch.float64


def test_pgts_split_and_containers_accept_signals(pgt, covid, covid_signal, chickenpox, chickenpox_signal):
    for ours, theirs in (
        (covid_signal, covid_dynamic(pgt, covid)),
        (chickenpox_signal, chickenpox_static(pgt, chickenpox)),
    ):
        for part, other in zip(
            pgt.temporal_signal_split(ours, 0.8), pgt.temporal_signal_split(theirs, 0.8), strict=True
        ):
            same_snapshots(part, other)
    lazy = chickenpox_signal
    held = pgt.StaticGraphTemporalSignal(lazy.edge_index, lazy.edge_weight, lazy.features, lazy.targets)
    same_snapshots(lazy[5:30], held[5:30])
    lazy = covid_signal
    held = pgt.DynamicGraphTemporalSignal(lazy.edge_indices, lazy.edge_weights, lazy.features, lazy.targets)
    same_snapshots(lazy[40:], held[40:])


def test_stacking_features_and_targets_as_pgts_examples_do(pgt, chickenpox, chickenpox_signal):
    """The batching examples stack ``dataset.features`` and ``dataset.targets`` of a split."""
    train, _ = pgt.temporal_signal_split(chickenpox_signal, 0.5)
    theirs, _ = pgt.temporal_signal_split(chickenpox_static(pgt, chickenpox), 0.5)
    np.testing.assert_array_equal(np.array(train.features), np.array(theirs.features).astype("f4"))
    np.testing.assert_array_equal(np.array(train.targets), np.array(theirs.targets).astype("f4"))


def test_slices_of_slices_and_loops_within_loops(chickenpox_signal):
    part = chickenpox_signal[10:100][5:-5:2]
    assert len(part) == 40
    assert same(part[1], chickenpox_signal[17])
    assert sum(1 for _ in part[:6] for _ in part[:6]) == 36
    assert part[:0].snapshot_count == 0
    assert list(part[:0]) == []
    with pytest.raises(IndexError):
        part[40]


def test_nothing_is_materialised(tmp_path):
    """A mapped series of 40 MB as a signal: one snapshot reads only its own rows."""
    values = np.lib.format.open_memmap(tmp_path / "v.npy", mode="w+", dtype="f4", shape=(10_000, 1_000))
    values[5_000:5_010] = 3
    values.flush()
    del values
    series = wl.open(tmp_path / "v.npy")
    signal = to_signal(wl.WindowSet(series, wl.WindowSpec(lookback=9, horizon=1)))
    assert len(signal) == 9_991
    assert (signal.features[5_000] == 3).all()
    assert signal[5_000].x.shape == (1_000, 9)
    parts = [signal.features, signal.targets, signal[100:]]
    assert all(sys.getsizeof(part) < 1000 for part in parts)


def test_leak_free_scaling_by_the_core(covid_series):
    spec = wl.WindowSpec(lookback=8, horizon=1, graph="first")
    train, test = wl.split(covid_series, spec, (0.8, 0.2))
    scaler = wl.StandardScaler.fit(train, per="node")
    signal = to_signal(test, scaler=scaler, scale_targets=False)
    batch = test.read([2], scaler=scaler, scale_targets=False, layout=("bnt", "bn"))
    np.testing.assert_array_equal(signal[2].x, batch.inputs[0])
    assert signal[2].y.dtype == torch.int64  # unscaled integers stay integers, as in PGT
    np.testing.assert_array_equal(signal[2].y, batch.targets[0])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"layout": "nx"}, AxesError, "brackets"),
        ({"statistics": "train"}, LoaderError, "'series'"),
        ({"statistics": "series", "scaler": wl.StandardScaler(0.0, 1.0)}, LoaderError, "only one of"),
    ],
)
def test_wrong_arguments_are_refused(options, error, match):
    windows = wl.WindowSet(wl.Series(np.zeros((9, 2))), wl.WindowSpec(lookback=2, horizon=1))
    with pytest.raises(error, match=match):
        to_signal(windows, **options)


def test_a_graph_for_each_row_is_refused(covid_series):
    with pytest.raises(GraphError, match="graph='first'"):
        to_signal(wl.WindowSet(covid_series, wl.WindowSpec(lookback=8, horizon=1)))


# -- signals as series ------------------------------------------------------------------------------------------------


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def edges_of(rng, count=6, nodes=5):
    return rng.integers(0, nodes, (2, count)), rng.random(count)


@pytest.fixture(params=["temporal", "static feature"])
def homogeneous(request, pgt, rng):
    """PGT's six containers of one node type, with additional features of two kinds."""
    steps, nodes = 7, 5
    features = [rng.normal(size=(nodes, 3, 2)) for _ in range(steps)]
    targets = [rng.integers(0, 9, nodes) for _ in range(steps)]
    more = {
        "weights": [rng.normal(size=nodes) for _ in range(steps)],
        "label": [rng.integers(0, 4, (2,)) for _ in range(steps)],
    }
    pairs = [edges_of(rng, 3 + i) for i in range(steps)]
    index, weight = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    batches = [rng.integers(0, 2, nodes) for _ in range(steps)]
    if request.param == "static feature":
        return [
            pgt.DynamicGraphStaticSignal(index, weight, features[0], targets, **more),
            pgt.DynamicGraphStaticSignalBatch(index, weight, features[0], targets, batches, **more),
        ]
    return [
        pgt.StaticGraphTemporalSignal(index[0], weight[0], features, targets, **more),
        pgt.StaticGraphTemporalSignalBatch(index[0], weight[0], features, targets, batches[0], **more),
        pgt.DynamicGraphTemporalSignal(index, weight, features, targets, **more),
        pgt.DynamicGraphTemporalSignalBatch(index, weight, features, targets, batches, **more),
        pgt.StaticGraphTemporalSignal(index[0], None, features, targets),
        pgt.StaticGraphTemporalSignal(None, None, features, targets),
    ]


def same_values(ours, theirs):
    """Snapshots are equal but for the axes of x, which are folded into features."""
    assert len(ours) == theirs.snapshot_count
    for one, other in zip(ours, theirs, strict=True):
        nodes = len(other.x)
        assert torch.equal(one.x, other.x.reshape(nodes, -1))
        assert one.y.dtype == other.y.dtype
        assert torch.equal(one.y, other.y)
        for name in ("edge_index", "edge_attr"):
            mine, their = getattr(one, name), getattr(other, name)
            assert (mine is None) == (their is None)
            assert mine is None or torch.equal(mine, their)


def test_every_container_round_trips(homogeneous):
    for theirs in homogeneous:
        series = from_signal(theirs)
        ours = to_signal(wl.WindowSet(series, ROW), layout=("nf", "n"))
        same_values(ours, theirs)
        same_values(to_signal(wl.WindowSet(from_signal(ours), ROW), layout=("nf", "n")), theirs)
        for name in theirs.additional_feature_keys:
            place = 0 if name == "label" else slice(None)  # labels do not differ by node
            spec = wl.WindowSpec(lookback=1, horizon=0, inputs=[name])
            batch = wl.WindowSet(series, spec).read(np.arange(7), dtype="float64", layout="bnf")
            for values, given in zip(batch.inputs, getattr(theirs, name), strict=True):
                np.testing.assert_array_equal(values[place].ravel(), given)


def test_targets_of_whole_graphs(pgt, rng):
    features = [rng.normal(size=(4, 2)) for _ in range(5)]
    theirs = pgt.StaticGraphTemporalSignal(
        *edges_of(rng, 3, 4), features, [rng.normal(size=3) for _ in range(5)]
    )
    same_snapshots(to_signal(wl.WindowSet(from_signal(theirs), ROW)), theirs)


def test_snapshots_without_features_or_targets(pgt, rng):
    features = [rng.normal(size=(4, 2)) for _ in range(5)]
    targets = [rng.normal(size=4) for _ in range(5)]
    features[1], targets[3] = None, None
    pairs = [edges_of(rng, 3, 4) for _ in range(5)]
    theirs = pgt.StaticGraphTemporalSignal(*pairs[0], features, targets)
    ours = to_signal(wl.WindowSet(from_signal(theirs), ROW))
    assert same(ours[4], theirs[4])
    assert ours[1].x.isnan().all()
    assert np.isnan(ours.targets[3]).all()
    edges = [pair[0] if i != 2 else None for i, pair in enumerate(pairs)]
    weights = [pair[1] if i != 2 else None for i, pair in enumerate(pairs)]
    dynamic = pgt.DynamicGraphTemporalSignal(edges, weights, features, targets)
    ours = to_signal(wl.WindowSet(from_signal(dynamic), ROW))
    assert ours[2].edge_index.shape == (2, 0)
    assert same(ours[4], dynamic[4])


def test_nan_values_are_kept(pgt, rng):
    features = [rng.normal(size=(4, 2)) for _ in range(5)]
    features[2][1, 0] = np.nan
    theirs = pgt.StaticGraphTemporalSignal(*edges_of(rng, 3, 4), features, features)
    same_snapshots(to_signal(wl.WindowSet(from_signal(theirs), ROW), layout="nf"), theirs)


def test_the_tennis_graphs_from_file(pgt, tennis):
    hours = range(tennis["time_periods"])
    theirs = pgt.DynamicGraphTemporalSignal(
        [np.array(tennis[str(i)]["edges"]).T for i in hours],
        [np.array(tennis[str(i)]["weights"]) for i in hours],
        [np.array(tennis[str(i)]["X"]) for i in hours],
        [np.log(1.0 + np.array(tennis[str(min(i + 1, 119))]["y"])) for i in hours],
    )
    series = from_signal(theirs)
    assert (series.num_steps, series.num_nodes, series.features) == (120, 1000, ("x.0", "x.1", "y"))
    same_snapshots(to_signal(wl.WindowSet(series, ROW)), theirs)


def test_lagged_features_become_the_series_they_were_cut_from(pgt, chickenpox):
    theirs = chickenpox_static(pgt, chickenpox)
    series = from_signal(theirs, lagged=True)
    np.testing.assert_array_equal(series.variables[0].view()[..., 0], chickenpox["FX"])
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=1))
    same_snapshots(to_signal(windows), theirs)
    longer = to_signal(wl.WindowSet(series, wl.WindowSpec(lookback=12, horizon=3)))
    same_snapshots(longer, to_horizon(pgt, chickenpox, 12, 3))


def to_horizon(pgt, file, lags, horizon):
    values, edges = np.array(file["FX"]), np.array(file["edges"]).T
    count = len(values) - lags - horizon + 1
    return pgt.StaticGraphTemporalSignal(
        edges, np.ones(edges.shape[1]), [values[i : i + lags].T for i in range(count)],
        [values[i + lags : i + lags + horizon].T for i in range(count)],
    )  # fmt: skip


def test_lagged_features_of_a_dynamic_graph(pgt, covid, covid_series):
    theirs = covid_dynamic(pgt, covid)
    series = from_signal(theirs, lagged=True)
    assert series.num_steps == 61
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=8, horizon=1, graph="first"))
    same_snapshots(to_signal(windows), theirs)


def test_lagged_with_targets_of_the_first_feature_only(pgt, rng):
    """METR-LA's: features [node, feature, lag], targets of the speed; the last targets' rows lack the other feature."""
    values = rng.normal(size=(20, 3, 2))
    theirs = pgt.StaticGraphTemporalSignal(
        *edges_of(rng, 4, 3),
        [np.moveaxis(values[i : i + 4], 0, -1) for i in range(15)],
        [values[i + 4 : i + 6, :, 0].T for i in range(15)],
    )
    series = from_signal(theirs, lagged=True)
    np.testing.assert_array_equal(series.variables[0].view(), values[:18])


def test_features_that_are_not_lagged_are_refused(pgt, rng):
    features = [rng.normal(size=(3, 4)) for _ in range(5)]
    signal = pgt.StaticGraphTemporalSignal(None, None, features, [a[:, 0] for a in features])
    with pytest.raises(SeriesError, match="no lag"):
        from_signal(signal, lagged=True)
    values = rng.normal(size=(9, 3))
    other = [rng.normal(size=3) for _ in range(5)]
    signal = pgt.StaticGraphTemporalSignal(None, None, [values[i : i + 4].T for i in range(5)], other)
    with pytest.raises(SeriesError, match="not the steps that follow"):
        from_signal(signal, lagged=True)


def test_snapshots_that_differ_in_shape_are_refused(pgt, rng):
    features = [rng.normal(size=(3 + (i == 2), 4)) for i in range(5)]
    signal = pgt.StaticGraphTemporalSignal(None, None, features, [a[:, 0] for a in features])
    with pytest.raises(SeriesError, match=r"snapshot 2 has shape \(4, 4\)"):
        from_signal(signal)
    with pytest.raises(SeriesError, match="no PGT signal"):
        from_signal(pgt)
