"""NaN that nothing fills, and statistics that make NaN: the errors, where they are raised and what they name."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import MissingDataError, ScalerError

SPEC = wl.WindowSpec(lookback=3, horizon=2)


def holes(*places, rows=40, nodes=3, dtype="float32"):
    values = np.random.default_rng(0).uniform(1, 9, (rows, nodes)).astype(dtype)
    for place in places:
        values[place] = np.nan
    return values


@pytest.mark.parametrize("fill", [None, 0.0])
@pytest.mark.parametrize("max_missing", [None, 0.0])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_undeclared_nan_in_memory_is_refused_when_the_loader_is_made(fill, max_missing, dtype):
    series = wl.Series(
        holes((20, 1), dtype=dtype),
        features=["speed"],
        timestamps=("2024-01-01", "1h"),
        nodes=["a", "b", "c"],
    )
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=2, max_missing=max_missing))
    says = (
        r"'speed' at row 20 \(2024-01-01T20:00:00\), node 1 \('b'\) is NaN.*"
        r"missing=float\('nan'\).*fill=0.0.*max_missing=0.0"
    )
    with pytest.raises(MissingDataError, match=says):
        wl.WindowLoader(windows, fill=fill)


def test_undeclared_nan_in_a_file_is_refused_in_place_of_the_first_batch_that_would_deliver_it(tmp_path):
    np.save(tmp_path / "speed.npy", holes((20, 1)))
    windows = wl.WindowSet(wl.open(tmp_path / "speed.npy"), SPEC)
    with wl.WindowLoader(windows, batch_size=4, fill=0.0) as loader:
        batches = iter(loader)
        firsts = []
        with pytest.raises(MissingDataError, match="row 20, node 1 is NaN"):
            firsts.extend(int(batch.starts[0]) for batch in batches)
    assert firsts == [0, 4, 8, 12]  # windows 16 … 19 read row 20


def test_nan_that_no_window_reads_is_no_error():
    values = holes((0, 0), (1, 1), (39, 2))
    windows = wl.WindowSet(wl.Series(values), SPEC).take(range(2, 30))
    with wl.WindowLoader(windows, batch_size=8) as loader:
        assert not any(np.isnan(batch.inputs).any() for batch in loader)


def test_nan_of_an_input_at_rows_that_are_only_targets_is_no_error():
    values = np.stack([holes((39, 0), (38, 1)), holes((0, 0), (2, 1))], -1)
    series = wl.Series(values, features=["a", "b"])
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=2, inputs=["a"], targets=["b"]))
    with wl.WindowLoader(windows, batch_size=8) as loader:
        assert sum(batch.num_windows for batch in loader) == len(windows)


def test_nan_beside_a_sentinel_is_filled_or_refused():
    values = holes((20, 1))
    values[10, 0] = 0
    windows = wl.WindowSet(wl.Series(values, missing=0.0), SPEC)
    with pytest.raises(MissingDataError, match="row 20, node 1 is NaN, and 0 is declared missing.*fill=0.0"):
        wl.WindowLoader(windows)
    with wl.WindowLoader(windows, batch_size=99, fill=0.0) as loader:
        batch = next(iter(loader))
    assert batch.input_mask.sum() == batch.input_mask.size - 6
    assert (batch.inputs[~batch.input_mask] == 0).all()


def test_a_covariate_without_time_is_looked_at_when_the_loader_is_made():
    height = np.array([1.0, np.nan, 2.0])
    series = wl.Series(holes(), covariates={"height": (height, "n")})
    spec = wl.WindowSpec(lookback=3, horizon=2, inputs=["value", "height"], targets=["value"])
    with pytest.raises(MissingDataError, match="'height' at node 1 is NaN, and nothing is declared missing"):
        wl.WindowLoader(wl.WindowSet(series, spec), fill=0.0)


def test_a_declared_fill_of_nan_is_what_was_asked_for():
    windows = wl.WindowSet(wl.Series(holes((20, 1)), missing=np.nan), SPEC)
    batch = windows.read(np.arange(len(windows)), fill=float("nan"))
    np.testing.assert_array_equal(np.isnan(batch.inputs), ~batch.input_mask)


def test_infinite_values_stay_infinite():
    values = holes().astype("float64")
    values[20, 1], values[21, 1], values[22, 2] = np.inf, -np.inf, 1e6
    windows = wl.WindowSet(wl.Series(values), SPEC)
    for dtype in ("float16", "float32", "float64"):
        batch = windows.read([20], scaler=wl.StandardScaler(2.0, 4.0), dtype=dtype)
        assert batch.inputs[0, :2, 1, 0].tolist() == [np.inf, -np.inf]
        assert np.isinf(batch.inputs[0, 2, 2, 0]) == (dtype == "float16")  # more than 65,504


@pytest.mark.parametrize("threads", [0, 2])
def test_a_batch_of_a_stream_that_cannot_be_made_ends_the_epoch_with_its_error(tmp_path, threads):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(str(tmp_path / "v.zarr"), data=holes((200, 1), rows=400), chunks=(20, 3))
    windows = wl.WindowSet(wl.open(tmp_path / "v.zarr"), SPEC)
    with wl.WindowLoader(windows, batch_size=8, shuffle=True, threads=threads, memory="1MiB") as loader:
        for _ in range(2):  # the loader can be iterated again
            with pytest.raises(MissingDataError, match="row 200, node 1 is NaN"):
                list(loader)


def test_a_loader_that_went_to_another_process_looks_too(tmp_path):
    np.save(tmp_path / "speed.npy", holes((20, 1)))
    loader = wl.WindowLoader(wl.WindowSet(wl.open(tmp_path / "speed.npy"), SPEC), batch_size=8)
    with pickle.loads(pickle.dumps(loader)) as again, pytest.raises(MissingDataError, match="row 20"):
        list(again)
    loader.close()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: wl.StandardScaler(np.nan, 1.0), "mean of 'any feature' must be one finite number"),
        (
            lambda: wl.StandardScaler([1.0, 2.0, 3.0], [1.0, np.nan, 1.0]),
            "std of 'any feature' must be .*got .1.0, nan, 1.0",
        ),
        (
            lambda: wl.MinMaxScaler({"speed": np.nan}, {"speed": 1.0}),
            "minimum of 'speed' must be one finite number",
        ),
    ],
)
def test_known_statistics_that_are_nan_are_refused(make, says):
    with pytest.raises(ScalerError, match=says):
        make()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "make",
    [lambda: wl.StandardScaler(0.0, 1e-310), lambda: wl.MinMaxScaler(-1.7e308, 1.7e308)],
    ids=["std", "range"],
)
def test_statistics_that_would_make_nan_of_values_are_refused(make):
    with pytest.raises(ScalerError, match="would make NaN of 'value'.*must be finite"):
        wl.WindowLoader(wl.WindowSet(wl.Series(holes()), SPEC), scaler=make())


def test_unseen_entities_are_refused_by_name_and_pooled_where_asked():
    values = np.random.default_rng(0).normal(50, 9, (300, 1)).astype("float32")
    series = wl.Series(values, entities=[0, 100, 200, 300], entity_names=["kitchen", "attic", "cellar"])
    train, test = wl.split(series, SPEC, (0.67, 0.33), by="entities")
    scaler = wl.StandardScaler.fit(train, per="entity")
    (unseen,) = set(test.entities().tolist())
    name = series.entity_names[unseen]
    wl.WindowLoader(train, scaler=scaler).close()
    with pytest.raises(
        ScalerError, match=rf"no statistics for entity {unseen} \('{name}'\), which 96 of 96 windows"
    ):
        wl.WindowLoader(test, scaler=scaler, fill=0.0)
    with pytest.raises(ScalerError, match="unseen='pooled'"):
        scaler.transform(np.ones((1, 2, 1, 1)), entities=[unseen])
    pooled = wl.StandardScaler.fit(train, per="entity", unseen="pooled")
    assert pooled.mean[unseen] == wl.StandardScaler.fit(train).mean
    with wl.WindowLoader(test, scaler=pooled, batch_size=96) as loader:
        assert np.isfinite(next(iter(loader)).inputs).all()


def test_unseen_goes_with_entities():
    windows = wl.WindowSet(wl.Series(holes()), SPEC)
    with pytest.raises(ScalerError, match="unseen='pooled'.*per='node'"):
        wl.StandardScaler.fit(windows, per="node", unseen="pooled")
    with pytest.raises(ScalerError, match="unseen='mean' is unknown"):
        wl.StandardScaler.fit(windows, unseen="mean")


def test_json_of_the_first_release_loads():
    text = (
        '{"scaler": "StandardScaler", "version": 1, "per": "entity", "rounding": "multiply", "options": {"epsilon": '
        '0.0}, "missing": {}, "statistics": {"value": {"mean": [[1.0], ["nan"]], "std": [[2.0], ["nan"]]}}}'
    )
    scaler = wl.StandardScaler.from_json(text)
    assert scaler.unseen == "raise"
    assert scaler.to_json() == text
