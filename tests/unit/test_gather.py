"""Recipes: what they refuse when compiled, what they deliver, and when their loops are chosen."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

import windowloader as wl
from windowloader.batch import row_table
from windowloader.batch.recipe import Recipe
from windowloader.batch.row_table import KeptClock
from windowloader.errors import (
    AxesError,
    FeatureNameError,
    LoaderError,
    MissingDataError,
    ScalerError,
    SeriesError,
)
from windowloader.rows.strided import Rows
from windowloader.scaling.affine import Affine

SPEC = wl.WindowSpec(lookback=3, horizon=2)


def scaler(**affines):
    return SimpleNamespace(affine=affines.get)


def one(shift, factor, divide=False):
    return Affine(np.atleast_2d(shift), np.atleast_2d(factor), divide)


@pytest.fixture
def speed():
    return wl.Series(
        {"speed": np.arange(40, dtype=np.float32).reshape(20, 2)},
        timestamps=("2024-01-01", "6h"),
        covariates={"rain": (np.arange(20.0), "t"), "height": (np.array([3.0, 9.0]), "n")},
    )


def gathered(series, recipe, starts):
    starts = np.asarray(starts, np.int64)
    out = {field.name: np.empty(field.shape, field.dtype) for field in recipe.fields(len(starts))}
    recipe.gather(out, starts, [Rows(series.variables[v].view(), starts) for v in recipe.variables])
    return out


def test_inputs_targets_and_clocks(speed):
    spec = wl.WindowSpec(
        lookback=3, horizon=2, inputs=["speed", "time_of_day"], targets=["speed"], future=["rain"]
    )
    out = gathered(speed, Recipe.compile(speed, spec), [0, 5])
    np.testing.assert_array_equal(out["inputs"][1, :, 1, 0], [11, 13, 15])
    np.testing.assert_array_equal(out["inputs"][1, :, 1, 1], [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(out["targets"][0, :, :, 0], [[6, 7], [8, 9]])
    np.testing.assert_array_equal(out["future"][0, :, 1, 0], [3, 4])


def test_without_broadcast_what_has_no_node_comes_once(speed):
    spec = wl.WindowSpec(
        lookback=3, horizon=2, inputs=["time_of_day", "speed", "rain", "height"], targets=["rain"],
        future=["day_of_week"],
    )  # fmt: skip
    out = gathered(speed, Recipe.compile(speed, spec, broadcast=False), [5])
    assert sorted(out) == ["inputs", "shared_future", "shared_inputs", "targets"]
    assert out["inputs"].shape == (1, 3, 2, 2)
    np.testing.assert_array_equal(out["inputs"][0, 0], [[10, 3], [11, 9]])
    np.testing.assert_array_equal(out["shared_inputs"][0], [[0.25, 5], [0.5, 6], [0.75, 7]])
    np.testing.assert_array_equal(out["targets"][0, :, :, 0], [[8, 8], [9, 9]])
    assert out["shared_future"].shape == (1, 2, 1)


def test_inference_has_no_targets(speed):
    spec = wl.WindowSpec(lookback=3, horizon=0)
    assert [field.name for field in Recipe.compile(speed, spec).fields(4)] == ["inputs"]


def test_masks_come_from_raw_values_and_zero_survives():
    values = np.array([[0, 5], [7, 0], [3, 2], [0, 0], [1, 1]], np.float32)
    series = wl.Series(values, missing=0.0)
    spec = wl.WindowSpec(lookback=2, horizon=1)
    recipe = Recipe.compile(series, spec, scaler=scaler(value=one(3.7, 1 / 0.3)))
    out = gathered(series, recipe, [0, 2])
    np.testing.assert_array_equal(out["input_mask"][0, :, :, 0], values[:2] != 0)
    np.testing.assert_array_equal(out["target_mask"][1, :, :, 0], values[4:] != 0)
    assert out["inputs"][0, 0, 0, 0] == np.float32((0.0 - 3.7) * (1 / 0.3))
    filled = gathered(
        series, Recipe.compile(series, spec, scaler=scaler(value=one(3.7, 1 / 0.3)), fill=0.0), [0]
    )
    assert filled["inputs"][0, 0, 0, 0] == 0


def test_complete_windows_have_no_masks():
    series = wl.Series(np.full((9, 2), 4.0), missing=float("nan"))
    recipe = Recipe.compile(series, wl.WindowSpec(lookback=3, horizon=2, max_missing=0.0))
    assert [field.name for field in recipe.fields(2)] == ["inputs", "targets"]


def test_grids_keep_their_axes_apart():
    series = wl.Series(np.arange(9 * 2 * 3 * 4.0).reshape(9, 2, 3, 4), axes="tfnn")
    recipe = Recipe.compile(series, SPEC, layout="btfn")
    assert recipe.fields(5)[0].shape == (5, 3, 2, 3, 4)
    np.testing.assert_array_equal(
        gathered(series, recipe, [2])["inputs"][0], np.arange(216.0).reshape(9, 2, 3, 4)[2:5]
    )


def test_entities_have_their_own_statistics():
    series = wl.Series(np.arange(20.0).reshape(20, 1), entities=[0, 10, 20])
    recipe = Recipe.compile(series, SPEC, scaler=scaler(value=one([[0.0], [10.0]], [[1.0], [2.0]])))
    out = gathered(series, recipe, [1, 12])
    np.testing.assert_array_equal(out["inputs"][:, 0, 0, 0], [1, 4])


def test_integers_are_copied_as_they_are():
    values = np.array([[2**62 + 1], [5], [6], [7], [8]])
    series = wl.Series(values)
    out = gathered(series, Recipe.compile(series, SPEC, dtype="int64"), [0])
    assert out["inputs"][0, 0, 0, 0] == 2**62 + 1
    with pytest.raises(LoaderError, match="only copies"):
        Recipe.compile(series, SPEC, dtype="int32")
    with pytest.raises(LoaderError, match="only copies"):
        Recipe.compile(series, SPEC, dtype="int64", scaler=scaler(value=one(1.0, 2.0)))


def test_targets_keep_their_units_on_request(speed):
    scaled = scaler(speed=one(10.0, 0.5))
    out = gathered(speed, Recipe.compile(speed, SPEC, scaler=scaled, scale_targets=False), [5])
    assert out["inputs"][0, 0, 0, 0] == 0
    assert out["targets"][0, 0, 0, 0] == 16


def test_parts_of_a_batch_are_filled_apart(speed):
    recipe = Recipe.compile(speed, SPEC)
    starts = np.array([0, 7, 3, 11])
    out = {field.name: np.full(field.shape, -1, field.dtype) for field in recipe.fields(4)}
    rows = [Rows(speed.variables[v].view(), starts) for v in recipe.variables]
    recipe.gather(out, starts, rows, begin=1, end=3)
    assert (out["inputs"][[0, 3]] == -1).all()
    recipe.gather(out, starts, rows, begin=0, end=1)
    recipe.gather(out, starts, rows, begin=3)
    np.testing.assert_array_equal(out["inputs"], gathered(speed, recipe, starts)["inputs"])


def test_rows_may_lie_elsewhere_than_the_series(speed):
    recipe = Recipe.compile(speed, SPEC)
    starts = np.array([5, 9])
    arena = np.full((12, 2, 1), np.nan, np.float32)
    arena[6:12, :, 0] = speed.variables[0].view()[5:11, :, 0]
    arena[0:5, :, 0] = speed.variables[0].view()[9:14, :, 0]
    out = {field.name: np.empty(field.shape, field.dtype) for field in recipe.fields(2)}
    recipe.gather(out, starts, [Rows(arena, np.array([6, 0]))])
    np.testing.assert_array_equal(out["targets"], gathered(speed, recipe, starts)["targets"])


def test_fields_lie_apart_and_aligned(speed):
    recipe = Recipe.compile(speed, wl.WindowSpec(lookback=3, horizon=1, future=["rain"]), dtype="float16")
    fields = recipe.fields(7)
    for field, after in itertools.pairwise(fields):
        assert after.offset % 64 == 0
        assert field.offset + field.nbytes <= after.offset
    assert recipe.nbytes(7) >= fields[-1].offset + fields[-1].nbytes


def test_nothing_of_a_batch_s_size_is_allocated():
    series = wl.Series(np.ones((400, 2000), np.float32), timestamps=("2024-01-01", "1h"))
    spec = wl.WindowSpec(lookback=12, horizon=12, inputs=["value", "time_of_day"])
    recipe = Recipe.compile(series, spec, scaler=scaler(value=one(1.0, 2.0)))
    starts = np.arange(32)
    rows = [Rows(series.variables[0].view(), starts)]
    out = {field.name: np.empty(field.shape, field.dtype) for field in recipe.fields(32)}
    recipe.gather(out, starts, rows)
    tracemalloc.start()
    recipe.gather(out, starts, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < recipe.nbytes(32) // 50


def test_a_recipe_pickles_after_use(speed):
    recipe = Recipe.compile(speed, SPEC)
    before = gathered(speed, recipe, [0, 5])
    after = gathered(speed, pickle.loads(pickle.dumps(recipe)), [0, 5])
    np.testing.assert_array_equal(before["inputs"], after["inputs"])


def test_loops_are_kept_for_few_batch_sizes(speed):
    recipe = Recipe.compile(speed, SPEC)
    for batch in range(1, 40):
        gathered(speed, recipe, list(range(batch % 7 + 1)) * 5)
    assert len(recipe._gathers) <= 16


def test_a_recipe_pickles(speed):
    recipe = pickle.loads(pickle.dumps(Recipe.compile(speed, SPEC)))
    assert gathered(speed, recipe, [3])["inputs"][0, 0, 1, 0] == 7


def test_unknown_names(speed):
    with pytest.raises(FeatureNameError, match="sped"):
        Recipe.compile(speed, wl.WindowSpec(lookback=3, horizon=1, inputs=["sped"]))


def test_a_target_that_would_be_known(speed):
    with pytest.raises((FeatureNameError, ValueError), match="future"):
        Recipe.compile(speed, wl.WindowSpec(lookback=3, horizon=1, targets=["speed"], future=["speed"]))


def test_nan_without_a_way_out():
    series = wl.Series(np.ones((9, 2)), missing=float("nan"))
    with pytest.raises(MissingDataError, match=r"fill=0\.0.*max_missing=0\.0"):
        Recipe.compile(series, SPEC)
    Recipe.compile(series, SPEC, fill=0.0)


def test_clocks_without_timestamps():
    series = wl.Series(np.ones((9, 2)))
    with pytest.raises(SeriesError, match="timestamps"):
        Recipe.compile(series, wl.WindowSpec(lookback=3, horizon=1, inputs=["value", "time_of_day"]))


@pytest.mark.parametrize("layout", ["btnx", "tnf", "btt", ("btnf",), "bnf"])
def test_layouts_that_do_not_fit(speed, layout):
    with pytest.raises(AxesError, match="layout"):
        Recipe.compile(speed, SPEC, layout=layout)


@pytest.mark.parametrize("dtype", ["float8", "complex64", "M8[ns]", object])
def test_dtypes_that_cannot_be(speed, dtype):
    with pytest.raises(LoaderError, match="dtype"):
        Recipe.compile(speed, SPEC, dtype=dtype)


def test_scalers_that_do_not_fit(speed):
    with pytest.raises(ScalerError, match="covers none"):
        Recipe.compile(speed, SPEC, scaler=scaler(volume=one(0.0, 1.0)))
    with pytest.raises(ScalerError, match="2 nodes"):
        Recipe.compile(speed, SPEC, scaler=scaler(speed=one([[1.0, 2.0, 3.0]], [[1.0, 1.0, 1.0]])))
    with pytest.raises(ScalerError, match="not a fitted scaler"):
        Recipe.compile(speed, SPEC, scaler=wl.StandardScaler)


def test_bfloat16_comes_as_its_bits(speed):
    torch = pytest.importorskip("torch")
    out = gathered(speed, Recipe.compile(speed, SPEC, dtype="bfloat16"), [4])
    assert out["inputs"].dtype == np.uint16
    tensor = torch.from_numpy(out["inputs"]).view(torch.bfloat16)
    assert tensor[0, 0, :, 0].tolist() == [8, 9]


@pytest.mark.parametrize("nodes", [1, 7, 207, 600])
@pytest.mark.parametrize("missing", [None, 0.0])
@pytest.mark.parametrize("per", ["feature", "node"])
def test_what_is_written_around_the_cache_is_the_same(nodes, missing, per, monkeypatch):
    """Any number of values of the row beside each, any dtype, from any place in a buffer on."""
    rng = np.random.default_rng(nodes)
    values = (rng.random((60, nodes)) * 60).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = 0
    series = wl.Series(values, features=["speed"], timestamps=("2017-01-01", "5min"), missing=missing)
    clocks = ["time_of_day", "day_of_week"]
    for names in (["speed"], ["speed", *clocks[:1]], [*clocks[:1], "speed"], [*clocks, "speed"]):
        windows = wl.WindowSet(series, wl.WindowSpec(lookback=5, horizon=3, inputs=names, targets=["speed"]))
        scaler = (
            wl.StandardScaler.fit(windows) if per == "feature" else wl.StandardScaler.fit(windows, per=per)
        )
        for dtype in ("float32", "float16"):
            found = []
            for around in (False, True):
                monkeypatch.setattr(Recipe, "_goes_around", lambda *_, around=around: around)
                recipe = Recipe.compile(
                    series, windows.spec, scaler=scaler, dtype=dtype, fill=None if missing is None else 0.0
                )
                starts = np.array([3, 9, 50, 4, 4, 0])
                out = {}
                for field in recipe.fields(len(starts)):  # begins and ends between two cache lines
                    size = field.nbytes // field.dtype.itemsize
                    out[field.name] = np.zeros(size + 3, field.dtype)[3:].reshape(field.shape)
                rows = [Rows(series.variables[0].view(), starts)]
                recipe.gather(out, starts, rows, begin=0, end=2)
                recipe.gather(out, starts, rows, begin=2)
                found.append({name: array.tobytes() for name, array in out.items()})
            assert found[0] == found[1], (names, dtype)


def test_kept_clocks_are_those_computed_per_batch(monkeypatch):
    names = ["speed", "day_of_week", "time_of_day_sin"]
    values = np.zeros((40_000, 2), np.float32)
    series = wl.Series(values, features=["speed"], timestamps=("2024-02-27T05:00", "7min"))
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=12, horizon=12, inputs=names, targets=["speed"]))
    numbers = np.array([0, 10_079, 10_080, 39_000, 20_159, len(windows) - 1])
    kept = windows.read(numbers)
    assert isinstance(Recipe.compile(series, windows.spec).clock, KeptClock)
    monkeypatch.setattr(row_table, "KEPT", 0)
    computed = windows.read(numbers)
    assert not isinstance(Recipe.compile(series, windows.spec).clock, KeptClock)
    assert kept.inputs.tobytes() == computed.inputs.tobytes()
    assert len(np.unique(kept.inputs[..., 1])) > 1


@pytest.mark.parametrize("features", [2, 3, 4])
@pytest.mark.parametrize("per", ["feature", "node"])
def test_values_of_a_node_and_a_clock_are_the_same_in_any_order(features, per):
    names = list("abcd"[:features])
    values = np.random.default_rng(0).random((40, 1500, features)).astype(np.float32)
    series = wl.Series(values, axes="tnf", features=names, timestamps=("2024-02-27", "5min"))
    found = {}
    for inputs in ([*names, "time_of_day"], ["time_of_day", *names]):
        windows = wl.WindowSet(series, wl.WindowSpec(lookback=5, horizon=3, inputs=inputs, targets=["a"]))
        batch = windows.read(np.array([7, 0, 30]), scaler=wl.StandardScaler.fit(windows, per=per))
        found[inputs[0]] = {name: batch.inputs[..., k].tobytes() for k, name in enumerate(inputs)}
    assert found["a"] == found["time_of_day"]


@pytest.mark.parametrize("nodes", [5, 16, 41, 345])
@pytest.mark.parametrize(("features", "inputs"), [  # each compiles loops of its own
    (3, ["time_of_day", "c", "a"]),
    (9, ["time_of_day", "i"]),
    pytest.param(1, ["a", "time_of_day", "day_of_week", "day_of_year"], marks=pytest.mark.campaign),
    pytest.param(3, ["b"], marks=pytest.mark.campaign),
    pytest.param(4, ["d", "day_of_week", "b", "a", "time_of_day"], marks=pytest.mark.campaign),
    pytest.param(8, list("abcdefgh"), marks=pytest.mark.campaign),
])  # fmt: skip
def test_words_find_their_places_in_any_layout(nodes, features, inputs):
    names = list("abcdefghi"[:features])
    values = np.random.default_rng(nodes).random((60, nodes, features)).astype(np.float32)
    series = wl.Series(values, axes="tnf", features=names, timestamps=("2024-02-27", "5min"))
    spec = wl.WindowSpec(lookback=7, horizon=2, inputs=inputs, targets=[names[-1]])
    windows = wl.WindowSet(series, spec)
    scaler = wl.StandardScaler({name: k for k, name in enumerate(names)}, dict.fromkeys(names, 4.0))
    numbers = np.array([7, 0, 30, 30, 51])
    starts = windows.starts(numbers)
    for name, places in (("inputs", starts[:, None] + np.arange(7)), ("targets", starts[:, None] + [7, 8])):
        for k, column in enumerate(getattr(spec, name)):
            if column in names:
                own = names.index(column)
                wanted = ((values[places][..., own].astype(np.float64) - own) * 0.25).astype(np.float32)
            else:
                clock = series.clock.values([column], places)[..., 0].astype(np.float32)
                wanted = np.broadcast_to(clock[..., None], (*places.shape, nodes))
            for layout in ("btnf", "bntf", "bnft", "bfnt", "tbnf"):
                array = getattr(windows.read(numbers, scaler=scaler, layout=layout), name)
                array = array.transpose([layout.index(letter) for letter in "btnf"])
                np.testing.assert_array_equal(array[..., k], wanted, err_msg=f"{column} {layout}")


GUARDED = """
import ctypes, mmap
import numpy as np
import windowloader as wl

size = 4 * 40 * 32 * 3
room = mmap.mmap(-1, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE + mmap.PAGESIZE)
address = ctypes.addressof(ctypes.c_char.from_buffer(room))
libc, end = ctypes.CDLL(None, use_errno=True), len(room) - mmap.PAGESIZE
assert libc.mprotect(ctypes.c_void_p(address + end), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
values = np.frombuffer(room, np.float32, size // 4, end - size).reshape(40, 32, 3)
values[:] = np.arange(values.size).reshape(values.shape)
series = wl.Series(values[..., 1:], axes="tnf", features=["b", "c"], timestamps=("2024-02-27", "5min"))
windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=1, inputs=["time_of_day", "c"], targets=["b"]))
scaler = wl.StandardScaler({"b": 0.0, "c": 0.0}, {"b": 1.0, "c": 1.0})
for layout in ("btnf", "bfnt", "bntf"):
    batch = windows.read(np.array([36, 0]), scaler=scaler, layout=layout)
    inputs = batch.inputs.transpose([layout.index(letter) for letter in "btnf"])
    assert (inputs[0, ..., 1] == values[36:39, :, 2]).all()
print("read")
"""


def test_no_word_behind_an_array_is_read():
    """Some features of an array that ends where the process may not read."""
    done = subprocess.run(
        [sys.executable, "-c", GUARDED], capture_output=True, text=True, check=False, timeout=280
    )
    assert (done.returncode, done.stdout.split()) == (0, ["read"]), done.stderr


@pytest.mark.parametrize("layout", ["btnf", "btfn", "bntf", "bnft", "bfnt", "bnt", "nbtf", "tbnf"])
@pytest.mark.parametrize("nodes", [2, 11, 33])
def test_around_the_cache_each_layout_is_the_same(layout, nodes, monkeypatch):
    features = 1 if "f" not in layout else 2
    rng = np.random.default_rng(nodes)
    series = wl.Series(
        rng.random((80, nodes, features)).astype(np.float32), axes="tnf", timestamps=("2017-01-01", "5min")
    )
    clocks = ["time_of_day", "day_of_week", "day_of_year"] if "f" in layout else []
    names = [*series.features, *clocks]
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=32, horizon=3, inputs=names, targets=names[:1]))
    for scaler in (None, wl.StandardScaler.fit(windows, per="node")):
        found = []
        for around in (False, True):
            monkeypatch.setattr(Recipe, "_goes_around", lambda *_, around=around: around)
            recipe = Recipe.compile(series, windows.spec, scaler=scaler, layout=layout)
            starts = np.array([3, 9, 40, 4, 4, 0])
            out = {}
            for field in recipe.fields(len(starts)):
                room = np.zeros(field.nbytes + 64, np.uint8)
                begin = -room.ctypes.data % 64
                out[field.name] = room[begin : begin + field.nbytes].view(field.dtype).reshape(field.shape)
            recipe.gather(out, starts, [Rows(series.variables[0].view(), starts)])
            found.append({name: array.tobytes() for name, array in out.items()})
        assert found[0] == found[1]
