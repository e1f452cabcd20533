"""Scalers: literature's numbers, masks, layouts, tensors, constants, entities, JSON, and what they refuse."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import AxesError, FeatureNameError, MissingDataError, ScalerError
from windowloader.scaling.scalers import Scaler, ScalerWarning

torch = pytest.importorskip("torch")
SPEC = wl.WindowSpec(lookback=3, horizon=2)


def windows(values, *, spec=SPEC, keep=None, **options):
    found = wl.WindowSet(wl.Series(values, **options), spec)
    return found if keep is None else found.take(keep)


@pytest.fixture(scope="module")
def speed(data):
    return np.loadtxt(data / "metr_la_week" / "los_speed.csv", delimiter=",", skiprows=1)


def test_dcrnn_numbers_on_the_metr_la_week(speed):
    spec = wl.WindowSpec(lookback=12, horizon=12)
    train = windows(speed, spec=spec, keep=slice(1395))
    scaler = wl.StandardScaler.fit(train, weighting="windows")
    assert scaler.mean == pytest.approx(59.32686319096545, abs=1e-12)
    assert scaler.std == pytest.approx(12.365653034957196, abs=1e-12)
    once = wl.StandardScaler.fit(train)
    assert once.mean == pytest.approx(speed[: 1395 + 23].mean(), abs=1e-12)
    assert once.std == pytest.approx(speed[: 1395 + 23].std(), abs=1e-12)


def test_a_raw_zero_comes_back_as_zero_by_the_mask_and_only_by_it():
    rng = np.random.default_rng(0)
    raw = rng.uniform(1, 70, (5, 4, 3, 1)).astype(np.float32)
    mask = rng.random(raw.shape) < 0.8
    raw[~mask] = 0.0
    lost = 0
    for _ in range(200):
        scaler = wl.StandardScaler(rng.uniform(1, 100), rng.uniform(0.01, 50), missing=0.0)
        scaled = scaler.transform(raw)
        back = scaler.inverse_transform(scaled, mask=mask)
        assert (back[~mask] == 0).all()
        np.testing.assert_allclose(back[mask], raw[mask], rtol=1e-3)
        lost += (scaler.inverse_transform(scaled)[~mask] != 0).any()
        tensor = scaler.inverse_transform(torch.from_numpy(scaled), mask=torch.from_numpy(mask))
        np.testing.assert_array_equal(tensor.numpy(), back)
    assert lost  # arithmetic alone does not bring zeros back


@pytest.mark.parametrize("missing", [0.0, -999.9, np.nan])
def test_a_fitted_scaler_knows_what_stands_for_missing(missing):
    values = np.random.default_rng(0).normal(50, 9, (40, 3, 1)).astype(np.float32)
    values[3:9, 1] = missing
    scaler = wl.StandardScaler.fit(windows(values, features=["speed"], missing=missing))
    assert scaler.mean == pytest.approx(
        np.delete(values.astype(float).ravel(), np.arange(40 * 3)[1::3][3:9]).mean()
    )
    mask = ~(np.isnan(values) | (values == np.float32(missing)))
    back = scaler.inverse_transform(scaler.transform(values, layout="tnf"), layout="tnf", mask=mask)
    np.testing.assert_array_equal(back[~mask], np.full(6, missing, np.float32))
    again = wl.StandardScaler.from_json(scaler.to_json())
    np.testing.assert_array_equal(
        again.inverse_transform(values, layout="tnf", mask=mask)[~mask], back[~mask]
    )


def test_a_mask_needs_to_know_what_missing_is():
    scaler = wl.StandardScaler(1.0, 2.0, features="speed")
    with pytest.raises(ScalerError, match="nothing is declared missing for speed"):
        scaler.inverse_transform(np.zeros((2, 1)), layout="bf", mask=np.ones((2, 1), bool))
    found = scaler.inverse_transform(
        np.zeros((2, 1)), layout="bf", mask=np.array([[True], [False]]), missing=-1
    )
    assert found.tolist() == [[1.0], [-1.0]]


def test_undeclared_nan_is_refused_with_ways_out():
    values = np.ones((20, 2))
    values[4, 1] = np.nan
    with pytest.raises(
        MissingDataError, match=r"row 4, node 1 is NaN.*missing=float\('nan'\).*fill=0.0.*max_missing"
    ):
        wl.StandardScaler.fit(windows(values))


def test_constants_are_warned_of_once_and_scale_by_one():
    values = np.random.default_rng(0).normal(size=(30, 4, 2))
    values[:, 2, 0] = 0.1
    values[:, [0, 3], 1] = 7.3
    with pytest.warns(ScalerWarning) as caught:
        scaler = wl.StandardScaler.fit(
            windows(values, nodes=["a", "b", "c", "d"], features=["x", "y"]), per="node"
        )
    assert len(caught) == 1
    assert str(caught[0].message).startswith(
        "std is 0 for 'x' at node 2 ('c'); 'y' at node 0 ('a'); 'y' at node 3 ('d'): constant there"
    )
    assert scaler.affine("x").factor[0, 2] == 1.0
    scaled = scaler.transform(values, layout="tnf")
    assert (scaled[:, 2, 0] == 0).all()
    np.testing.assert_array_equal(scaler.inverse_transform(scaled, layout="tnf")[:, 2, 0], values[:, 2, 0])
    for other in (wl.MinMaxScaler, wl.RobustScaler):
        with pytest.warns(ScalerWarning, match="is 0 for 'x' at node 2"):
            other.fit(windows(values, features=["x", "y"]), per="node")
    with pytest.warns(ScalerWarning, match="std is 0 for any feature at node 1:"):
        wl.StandardScaler([1.0, 2.0], [1.0, 0.0])


def test_an_epsilon_is_added_to_the_standard_deviation_as_pgt_does():
    values = np.random.default_rng(0).normal(5, 2, size=(50, 3))
    values[:, 1] = 4.0
    scaler = wl.StandardScaler.fit(windows(values), per="node", epsilon=1e-10, rounding="divide")
    expected = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-10)
    np.testing.assert_allclose(scaler.transform(values, layout="tn"), expected, rtol=1e-11, atol=1e-11)
    assert scaler.std[1] == 0
    assert scaler.affine("value").factor[0, 1] == 1e-10


def test_all_missing_names_the_node():
    values = np.ones((20, 3))
    values[:, 1] = 0.0
    found = windows(values, missing=0.0, nodes=[10, 11, 12])
    with pytest.raises(
        ScalerError, match=r"'value' is missing in every row of the window set at node 1 \('11'\)"
    ):
        wl.StandardScaler.fit(found, per="node")
    with pytest.warns(ScalerWarning, match="std is 0"):
        assert wl.StandardScaler.fit(found).mean == 1.0


def test_entities_have_their_own_statistics_and_those_without_rows_have_none():
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [rng.normal(10, 1, (30, 1)), rng.normal(99, 5, (3, 1)), rng.normal(-4, 2, (600, 1))]
    )
    train = windows(values, entities=[0, 30, 33, 633], entity_names=["kitchen", "attic", "cellar"])
    scaler = wl.StandardScaler.fit(train, per="entity")
    np.testing.assert_allclose(scaler.mean, [values[:30].mean(), np.nan, values[33:].mean()], rtol=1e-13)
    x = np.full((3, 2, 1, 1), 10.0)
    found = scaler.transform(x, entities=[0, 2, 0])
    np.testing.assert_allclose(found[:, 0, 0, 0], [(10 - scaler.mean[e]) / scaler.std[e] for e in (0, 2, 0)])
    with pytest.raises(ScalerError, match="entities without rows"):
        scaler.transform(x, entities=[0, 1, 2])
    with pytest.raises(ScalerError, match=r"entities=batch\.entities"):
        scaler.transform(x)
    with pytest.raises(ScalerError, match="0 … 3, but the scaler knows 0 … 2"):
        scaler.transform(x, entities=[0, 3, 2])
    assert wl.StandardScaler.from_json(scaler.to_json()) == scaler
    with pytest.raises(ScalerError, match="needs a series of entities"):
        wl.StandardScaler.fit(windows(values), per="entity")


def test_clocks_and_static_covariates_are_not_covered():
    series = wl.Series(
        np.random.default_rng(0).normal(size=(50, 3, 2)),
        features=["speed", "flow"],
        timestamps=("2020-01-01", "1h"),
        covariates={"rain": (np.arange(50.0)[:, None], "tf"), "height": (np.arange(3.0), "n")},
    )
    spec = wl.WindowSpec(
        lookback=3, horizon=2, inputs=["speed", "rain", "height", "time_of_day"], targets=["speed"]
    )
    scaler = wl.StandardScaler.fit(wl.WindowSet(series, spec))
    assert scaler.features == ("speed", "rain")
    assert scaler.affine("height") is None
    assert scaler.affine("time_of_day") is None
    assert scaler.affine("flow") is None
    assert scaler["rain"].mean == np.arange(50.0).mean()
    free = wl.StandardScaler(1.0, 2.0)
    assert free.affine("anything").shift[0, 0] == 1.0
    assert free.affine("time_of_day_sin") is None
    with pytest.raises(ScalerError, match="'time_of_day' is a clock"):
        wl.StandardScaler.fit(wl.WindowSet(series, spec), features="time_of_day")
    with pytest.raises(ScalerError, match="'height' has no time axis"):
        wl.StandardScaler.fit(wl.WindowSet(series, spec), features=["speed", "height"])
    with pytest.raises(FeatureNameError, match="spead"):
        wl.StandardScaler.fit(wl.WindowSet(series, spec), features="spead")
    only = wl.WindowSpec(lookback=3, horizon=2, inputs=["time_of_day"], targets=[])
    with pytest.raises(ScalerError, match="nothing is left to fit"):
        wl.StandardScaler.fit(wl.WindowSet(series, only))
    assert wl.StandardScaler.fit(wl.WindowSet(series, spec), features="flow").features == ("flow",)


def test_letters_may_be_left_out_and_n_stands_for_all_space_axes():
    scaler = wl.StandardScaler({"t": np.arange(6.0)}, {"t": np.arange(1.0, 7.0)})
    grid = np.random.default_rng(0).normal(size=(4, 2, 3))
    expected = (grid - np.arange(6.0).reshape(2, 3)) * (1 / np.arange(1.0, 7.0).reshape(2, 3))
    np.testing.assert_array_equal(scaler.transform(grid, layout="bn"), expected)
    np.testing.assert_array_equal(scaler.transform(grid[0], layout="n"), expected[0])
    np.testing.assert_array_equal(
        scaler.transform(grid.transpose(1, 2, 0)[None], layout="fnt")[0], expected.transpose(1, 2, 0)
    )
    flat = grid.reshape(4, 6)
    np.testing.assert_array_equal(scaler.transform(flat, layout="tn"), expected.reshape(4, 6))


@pytest.mark.parametrize(
    ("shape", "layout", "error", "words"),
    [
        ((2, 3), "bx", AxesError, "not an order of b"),
        ((2, 3), "bb", AxesError, "each at most once"),
        ((2, 3, 4), "bt", AxesError, "names 2 axes"),
        ((2,), "btn", AxesError, "names 3 axes"),
        ((2, 3, 5, 1), "btnf", ScalerError, "statistics of 4 nodes.*has 5"),
        ((2, 3, 4, 2), "btnf", ScalerError, "covers 1 features.*has 2 features"),
        ((2, 3), "bt", ScalerError, "statistics of 4 nodes.*has 1"),
    ],
)
def test_what_does_not_fit_is_refused(shape, layout, error, words):
    scaler = wl.StandardScaler({"x": np.arange(4.0)}, {"x": np.ones(4)})
    with pytest.raises(error, match=words):
        scaler.transform(np.zeros(shape), layout=layout)


def test_several_features_need_a_feature_axis():
    scaler = wl.StandardScaler({"x": 1.0, "y": 2.0}, {"x": 1.0, "y": 2.0})
    with pytest.raises(
        ScalerError, match=r"covers 2 features \('x', 'y'\).*no feature axis.*scaler\['name'\]"
    ):
        scaler.transform(np.zeros((2, 3)), layout="bn")
    swapped = scaler[["y", "x"]]
    assert swapped.features == ("y", "x")
    assert swapped.transform(np.zeros((1, 2)), layout="bf").tolist() == [[-1.0, -1.0]]
    with pytest.raises(ScalerError, match="covers 'x', 'y', not 'z'"):
        scaler["z"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_keep_dtype_and_gradients(dtype):
    scaler = wl.StandardScaler({"x": np.arange(1.0, 4.0)}, {"x": np.array([2.0, 4.0, 8.0])})
    x = torch.randn(5, 2, 3, 1, dtype=dtype, requires_grad=True)
    y = scaler.inverse_transform(x)
    assert y.dtype == dtype
    y.sum().backward()
    np.testing.assert_array_equal(x.grad[0, 0, :, 0].float().numpy(), [2.0, 4.0, 8.0])
    expected = scaler.inverse_transform(x.detach().double().numpy())
    assert torch.equal(y.detach(), torch.from_numpy(expected).to(dtype))
    assert (
        torch.equal(scaler.transform(y).double().round(decimals=1), x.double().round(decimals=1))
        or dtype.itemsize == 2
    )
    assert scaler.transform(torch.arange(3), layout="n").dtype == torch.get_default_dtype()


def test_integers_become_float64_and_the_argument_is_left_alone():
    x = np.arange(4)
    assert wl.StandardScaler(1.0, 2.0).transform(x, layout="b").tolist() == [-0.5, 0.0, 0.5, 1.0]
    wide = np.zeros(3)
    wl.StandardScaler(1.0, 2.0).transform(wide, layout="b")
    assert wide.tolist() == [0, 0, 0]


def test_json_is_exact_and_hash_and_equality_follow_it(tmp_path):
    rng = np.random.default_rng(0)
    for scaler in (
        wl.StandardScaler(
            rng.normal(size=7), rng.uniform(size=7), features="x", epsilon=1e-10, rounding="divide"
        ),
        wl.MinMaxScaler({"x": 0.1 + 0.2, "y": -1e-300}, {"x": 1 / 3, "y": 5e-324}, feature_range=(-1, 1)),
        wl.RobustScaler(2 / 3, 1e300, missing=float("nan")),
    ):
        scaler.save(tmp_path / "scaler.json")
        for again in (
            Scaler.load(tmp_path / "scaler.json"),
            type(scaler).from_json(scaler.to_json()),
            pickle.loads(pickle.dumps(scaler)),
        ):
            assert type(again) is type(scaler)
            assert again == scaler
            assert hash(again) == hash(scaler)
            assert again.hash() == scaler.hash()
            for name in scaler.names():
                for one, other in zip(scaler._map(name), again._map(name), strict=True):
                    np.testing.assert_array_equal(one, other)
    assert wl.StandardScaler(1.0, 2.0) != wl.StandardScaler(1.0, np.nextafter(2.0, 3.0))
    with pytest.raises(ScalerError, match="the text has a RobustScaler"):
        wl.StandardScaler.load(tmp_path / "scaler.json")
    with pytest.raises(ScalerError, match="not a scaler as to_json writes it"):
        wl.StandardScaler.from_json('{"scaler": "StandardScaler"}')


def test_min_max_reaches_both_ends_of_its_range():
    values = np.random.default_rng(0).normal(5, 3, size=(40, 3, 1))
    train = windows(values)
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        scaler = wl.MinMaxScaler.fit(train, per="node", feature_range=(low, high))
        scaled = scaler.transform(values, layout="tnf")
        np.testing.assert_allclose(scaled.min(axis=0), low, atol=1e-14)
        np.testing.assert_allclose(scaled.max(axis=0), high, atol=1e-14)
    with pytest.raises(ScalerError, match="two rising numbers"):
        wl.MinMaxScaler.fit(train, feature_range=(1, 0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: wl.StandardScaler(0.0, -1.0), "below 0"),
        (lambda: wl.StandardScaler(0.0, np.inf), "must be one finite number.*got inf"),
        (lambda: wl.StandardScaler(0.0, 1.0, epsilon=-1), "epsilon"),
        (lambda: wl.StandardScaler(0.0, 1.0, rounding="up"), "rounding='up'"),
        (lambda: wl.StandardScaler({"x": 0.0}, 1.0), "give both alike"),
        (lambda: wl.StandardScaler({"x": 0.0}, {"y": 1.0}), "must agree"),
        (lambda: wl.StandardScaler([0.0, 1.0], [1.0, 2.0], features=["x", "y"]), "give a mapping"),
        (lambda: wl.StandardScaler(0.0, 1.0, features=[]), "covers nothing"),
        (lambda: wl.StandardScaler(np.zeros((2, 2, 2)), 1.0), "shape"),
        (lambda: wl.MinMaxScaler(1.0, 0.0), "range is below 0"),
        (lambda: wl.RobustScaler(1.0, -1.0), "below 0"),
    ],
)
def test_known_statistics_are_checked(make, words):
    with pytest.raises(ScalerError, match=words):
        make()


@pytest.mark.parametrize("argument", [{"per": "step"}, {"weighting": "time"}, {"rounding": "up"}])
def test_unknown_choices_are_refused(argument):
    with pytest.raises(ScalerError, match="is unknown"):
        wl.StandardScaler.fit(windows(np.random.default_rng(0).normal(size=(20, 2))), **argument)


def test_reprs_are_short():
    many = {f"f{i}": np.arange(1.0, 500.0) for i in range(40)}
    scaler = wl.StandardScaler(many, many)
    assert repr(scaler).endswith("f2: mean and std of 499 nodes; and 37 more)")
    assert len(repr(scaler)) < 160
    assert (
        repr(wl.StandardScaler(59.32686, 12.36565))
        == "StandardScaler(any feature: mean 59.3269, std 12.3657)"
    )


def test_no_framework_is_imported_for_arrays():
    script = (
        "import sys, numpy as np, windowloader as wl\n"
        "s = wl.StandardScaler.fit(wl.WindowSet(wl.Series(np.random.default_rng(0).normal(size=(20, 2))), "
        "wl.WindowSpec(lookback=2, horizon=1)))\n"
        "s.inverse_transform(s.transform(np.ones((2, 2)), layout='bn'), layout='bn')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
