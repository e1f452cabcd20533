"""Series: joining, covariates, names, graph, segments, entities, selection, pickles."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from windowloader.errors import AxesError, FeatureNameError, GraphError, SeriesError, WindowLoaderError
from windowloader.series.clock import check_borders
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.series.graph import Graph
from windowloader.series.series import Column, Series
from windowloader.sources.memory import ArraySource
from windowloader.sources.numpy_files import open_npy

RNG = np.random.default_rng(0)
SPEED, FLOW = RNG.random((12, 3)), RNG.integers(0, 99, (12, 3, 2))


def values(series: Series, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows of a variable as read, [row, node or 1, feature]."""
    variable = next(variable for variable in series.variables if variable.name == name)
    stop = variable.num_rows if stop is None else stop
    out = np.empty((stop - start, variable.num_nodes, variable.num_features), variable.dtype)
    variable.read(start, stop, out)
    return out


# --- joining and names ---


def test_one_array() -> None:
    series = Series(SPEED)
    assert (series.num_steps, series.num_nodes, series.space_shape, series.features) == (
        12,
        3,
        (3,),
        ("value",),
    )
    assert (series.nodes, series.clock, series.graph, series.entity_borders) == (None, None, None, None)
    assert series.borders.tolist() == [0, 12]
    assert series.borders.dtype == np.int64
    assert series.tier == "memory"
    assert np.shares_memory(series.variables[0].view(), SPEED)
    assert Series(FLOW).features == ("value.0", "value.1")
    assert Series(FLOW, features=["flow", "lanes"]).features == ("flow", "lanes")
    assert Series(FLOW, variables="flow").features == ("flow.0", "flow.1")
    assert Series(SPEED[:, 0]).space_shape == ()
    assert Series(SPEED[:, 0]).num_nodes == 1
    assert Series(SPEED.T, axes="nt").num_steps == 12
    assert Series(np.zeros((9, 2, 4, 5)), axes="tfnn").space_shape == (4, 5)


def test_a_mapping_joins_along_features_without_copying() -> None:
    series = Series({"speed": SPEED, "flow": FLOW}, missing={"speed": 0.0})
    assert series.features == ("speed", "flow.0", "flow.1")
    assert [variable.missing for variable in series.variables] == [0.0, None]
    assert all(np.shares_memory(v.view(), a) for v, a in zip(series.variables, (SPEED, FLOW), strict=True))
    assert Series({"speed": SPEED, "flow": FLOW}, variables=["flow"]).features == ("flow.0", "flow.1")
    assert Series({"speed": SPEED, "flow": FLOW.T}, axes={"flow": "fnt"}).num_steps == 12
    assert Series({"a": SPEED, "b": FLOW}, features=["x", "y", "z"]).features == ("x", "y", "z")
    assert Series({"a": SPEED, "b": FLOW}, features={"b": ["y", "z"]}).features == ("a", "y", "z")


def test_a_list_joins_along_time() -> None:
    series = Series([SPEED[:5], SPEED[5:]])
    assert series.num_steps == 12
    np.testing.assert_array_equal(values(series, "value")[:, :, 0], SPEED)
    series = Series([{"speed": SPEED[:5], "flow": FLOW[:5]}, {"flow": FLOW[5:], "speed": SPEED[5:]}])
    np.testing.assert_array_equal(values(series, "flow"), FLOW)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (
            {"a": SPEED, "b": SPEED[:-1]},
            {},
            r"variable 'b' has axes 'tn' and shape \(11, 3\), but the series has 12 steps and space \(3,\)",
        ),
        (
            {"a": SPEED, "b": SPEED[:, :2]},
            {},
            r"variable 'b' has axes 'tn' and shape \(12, 2\), but the series has 12 steps and space \(3,\)",
        ),
        ({"a": SPEED, "b": SPEED[:, 0]}, {}, "covariates="),
        ({"a": SPEED, "b": SPEED[0]}, {"axes": {"b": "n"}}, "without time"),
        ({"a": SPEED}, {"variables": ["b"]}, "unknown: 'b'"),
        ({"a": SPEED}, {"axes": {"b": "tn"}}, "axes= names 'b'"),
        ({"a": SPEED}, {"missing": {"b": 0}}, "missing= names 'b'"),
        ({"a": SPEED}, {"missing": "nan"}, "is not a number"),
        ({"a": FLOW}, {"missing": -0.5}, "missing=-0.5 never occurs in 'a'"),
        ({"a": FLOW}, {"features": ["x", "x"]}, "'x' occur more than once"),
        ({"a": FLOW, "b": SPEED}, {"features": ["x"]}, "1 names .* for 3 features"),
        (SPEED, {"features": ["x", "y", "z"]}, "axes='tf'"),
        (SPEED, {"features": ["time_of_day"]}, "'time_of_day' occur more than once; clocks"),
        (SPEED, {"variables": ["a", "b"]}, "single array"),
        (SPEED, {"variables": []}, r"variables=\[\]"),
        ([{"a": SPEED}, {"b": SPEED}], {}, "item 1 of the list has the variables 'b'"),
        (SPEED, {"covariates": {"value": SPEED}}, "'value' occur more than once"),
        (FLOW, {"covariates": {"value": SPEED}}, "'value' occur more than once"),
        (SPEED, {"timestamps": ["2012-03-01"]}, "1 timestamps for 12 rows"),
        (SPEED, {"nodes": ["a", "b"]}, "3 labels in one dimension"),
        (SPEED, {"nodes": ["a", "b", "b"]}, "nodes= repeats the labels 'b'"),
        (SPEED, {"entity_names": ["a"]}, "without entities="),
    ],
)
def test_mismatched_arguments_raise(target: object, options: dict, message: str) -> None:
    with pytest.raises(SeriesError, match=message):
        Series(target, **options)


def test_invalid_axes_and_dtypes() -> None:
    with pytest.raises(AxesError):
        Series(SPEED, axes="tnf")
    with pytest.raises(AxesError):
        Series(np.zeros((2, 2, 2, 2)))
    with pytest.raises(WindowLoaderError, match="object"):
        Series(np.array([[{}]], dtype=object))


def test_variables_with_timestamps_or_labels_of_their_own_must_agree() -> None:
    days = np.arange("2020-01-01", "2020-01-13", dtype="datetime64[D]")
    one = ArraySource(SPEED, timestamps=days, labels={1: ["a", "b", "c"]})
    series = Series({"x": one, "y": SPEED})
    assert series.clock is not None
    assert series.nodes.tolist() == ["a", "b", "c"]  # type: ignore[union-attr]
    with pytest.raises(SeriesError, match=r"'y'.*disagree on time: .* 1 of 12 .*first 2020-01-01\..*reindex"):
        Series({"x": one, "y": ArraySource(SPEED, timestamps=days + np.timedelta64(1, "D"))})
    moved = Series({"x": one, "y": ArraySource(SPEED[:, [0, 2, 1]], labels={1: ["a", "c", "b"]})})
    np.testing.assert_array_equal(values(moved, "y")[..., 0], SPEED)
    given = Series({"x": one}, timestamps=("2000-01-01", "1h"), nodes=[7, 8, 9])
    assert given.clock.timestamps(0) == np.datetime64("2000-01-01")  # type: ignore[union-attr]
    assert given.nodes.tolist() == [7, 8, 9]  # type: ignore[union-attr]


def test_counting_or_repeated_labels_are_ignored() -> None:
    assert Series(ArraySource(SPEED, labels={1: [0, 1, 2]})).nodes is None
    assert Series(ArraySource(SPEED, labels={1: ["a", "a", "b"]})).nodes is None


# --- columns ---


def test_columns_by_name() -> None:
    series = Series(
        {"speed": SPEED, "flow": FLOW},
        covariates={"weather": np.zeros((12, 2))},
        timestamps=("2012-03-01", "5min"),
    )
    assert [column.name for column in series.columns()] == ["speed", "flow.0", "flow.1"]
    assert series.columns(["flow"]) == (Column("flow.0", 1, 0), Column("flow.1", 1, 1))
    assert series.columns(["weather.1", "day_of_week_cos"]) == (
        Column("weather.1", 2, 1),
        Column("day_of_week_cos", -1, 5),
    )
    assert series.columns("speed") == (Column("speed", 0, 0),)
    assert series.columns([]) == ()
    with pytest.raises(FeatureNameError, match="Did you mean 'speed'"):
        series.columns(["sped"])
    with pytest.raises(FeatureNameError, match="Did you mean 'time_of_day'"):
        series.columns(["timeofday"])
    with pytest.raises(FeatureNameError, match="twice"):
        series.columns(["flow", "flow.0"])
    with pytest.raises(FeatureNameError, match="no timestamps for clock features: pass timestamps="):
        Series(SPEED).columns(["time_of_day"])


# --- covariates ---


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((12,), "t"), ((3,), "n"), ((12, 3), "tn"), ((3, 12), "nt"), ((12, 7), "tf"), ((7, 12), "ft"), ((3, 7), "nf"),
        ((12, 3, 7), "tnf"), ((7, 3, 12), "fnt"), ((3, 3), None), ((12, 12), None), ((7,), None), ((7, 8), None),
    ],
)  # fmt: skip
def test_covariate_axes_are_inferred_or_required(shape: tuple[int, ...], axes: str | None) -> None:
    array = RNG.random(shape)
    if axes is None:
        with pytest.raises(SeriesError, match=r"Say which letter each axis is: covariates=\{'x'"):
            Series(SPEED, covariates={"x": array})
        return
    told = Series(SPEED, covariates={"x": array})
    given = Series(SPEED, covariates={"x": (array, axes)})
    for series in (told, given):
        variable = series.variables[1]
        assert (variable.has_time, variable.has_nodes) == ("t" in axes, "n" in axes)
        expected = array.transpose([axes.index(letter) for letter in "tnf" if letter in axes])
        np.testing.assert_array_equal(variable.view().ravel(), expected.ravel())  # type: ignore[union-attr]
        assert series.features == ("value",)
        assert series.num_own == 1


def test_axes_of_covariates_in_ambiguous_series() -> None:
    square = np.zeros((3, 3))
    with pytest.raises(SeriesError, match="could be"):
        Series(square, covariates={"x": np.zeros(3)})
    assert not Series(square, covariates={"x": (np.zeros(3), "n")}).variables[1].has_time
    grid = Series(
        np.zeros((9, 4, 5)), axes="tnn", covariates={"height": np.zeros((4, 5)), "w": np.zeros((9, 3))}
    )
    assert [variable.num_nodes for variable in grid.variables] == [20, 20, 1]
    with pytest.raises(SeriesError, match="12 steps and space"):
        Series(SPEED, covariates={"x": (np.zeros((11, 2)), "tf")})
    with pytest.raises(SeriesError, match="mapping of name to array"):
        Series(SPEED, covariates=[SPEED])  # type: ignore[arg-type]


def test_a_single_missing_value_applies_to_own_variables() -> None:
    series = Series(SPEED, covariates={"x": FLOW, "y": SPEED}, missing=float("nan"))
    assert np.isnan(series.variables[0].missing)  # type: ignore[arg-type]
    assert series.variables[1].missing is None
    assert Series(FLOW, missing=float("nan")).variables[0].missing is None  # integers are never NaN
    assert Series(SPEED, covariates={"x": FLOW}, missing={"x": 0}).variables[1].missing == 0.0


# --- segments and entities ---


def test_segments_are_given_or_where_time_jumps() -> None:
    times = np.datetime64("2012-03-01T00:00") + np.array(
        [0, 5, 10, 15, 30, 35, 40, 100, 105, 110, 115, 120], "m8[m]"
    )
    assert Series(SPEED, timestamps=times).borders.tolist() == [0, 4, 7, 12]
    assert Series(SPEED, timestamps=times, segments=[0, 12]).borders.tolist() == [0, 12]
    assert Series(SPEED, segments=[0, 5, 12]).borders.tolist() == [0, 5, 12]
    assert Series(SPEED, segments=[0, 5, 12], entities=[0, 3, 12]).borders.tolist() == [0, 3, 5, 12]
    assert Series(SPEED, timestamps=times, entities=[0, 4, 12]).borders.tolist() == [0, 4, 7, 12]


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ([0, 5], r"increasing\. Found int64 of shape \(2,\), \[0, 5\]\."),
        ([1, 12], r"\[1, 12\]\."),
        ([0, 7, 5, 12], r"\[0, 7, 5, 12\]\."),
        ([0, 5, 5, 12], r"\[0, 5, 5, 12\]\."),
        ([5, 7], r"\[5, 7\]\. Of lengths make np\.append\(0, np\.cumsum\(lengths\)\)"),
        ([(0, 5), (5, 12)], r"shape \(2, 2\).*of pairs \(start, stop\) np\.append\(starts, 12\)"),
        ([0.0, 12.0], "Found float64"),
        ([12], r"shape \(1,\)"),
    ],
)
def test_borders_in_another_form_are_refused_with_advice(borders: list, message: str) -> None:
    for what in ("segments", "entities"):
        with pytest.raises(SeriesError, match=f"{what}=.*{message}"):
            check_borders(borders, 12, what=what)


def test_entities() -> None:
    days = np.concatenate(
        [
            np.arange("2020-01-01", "2020-01-06", dtype="M8[D]"),
            np.arange("2020-01-02", "2020-01-09", dtype="M8[D]"),
        ]
    )
    series = Series(SPEED, entities=[0, 5, 12], entity_names=["a", "b"], timestamps=days)
    assert series.entity_of([[0, 4], [5, 11]]).tolist() == [[0, 0], [1, 1]]
    assert series.entity_names.tolist() == ["a", "b"]  # type: ignore[union-attr]
    assert Series(SPEED).entity_of([3]).tolist() == [0]
    with pytest.raises(SeriesError, match="goes back from row 4"):
        Series(SPEED, timestamps=days)
    with pytest.raises(SeriesError, match="entity_names="):
        Series(SPEED, entities=[0, 5, 12], entity_names=["a"])


# --- graph ---


def test_a_graph_is_aligned_by_labels_or_refused() -> None:
    dense = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 1.0], [3.0, 0.0, 0.0]])
    graph = Graph.from_dense(dense, nodes=[30, 10, 20])
    series = Series(SPEED, nodes=["10", "20", "30"], graph=graph)
    order = [1, 2, 0]
    np.testing.assert_array_equal(series.graph.dense(), dense[np.ix_(order, order)])  # type: ignore[union-attr]
    assert series.graph.nodes.tolist() == ["10", "20", "30"]  # type: ignore[union-attr]
    same = Graph.from_dense(dense, nodes=["10", "20", "30"])
    assert Series(SPEED, nodes=[10, 20, 30], graph=same).graph is same
    with pytest.raises(GraphError, match="1 only in the array: '40'; 1 only in the graph: '30'"):
        Series(SPEED, nodes=[10, 20, 40], graph=graph)
    assert Series(SPEED, graph=graph).graph is graph  # no labels on the array: its order is taken
    assert Series(SPEED, nodes=[1, 2, 3], graph=Graph([[0], [1]])).graph.num_nodes == 3  # type: ignore[union-attr]
    for wrong in (dense[:2, :2], np.zeros((4, 4)), Graph([[0], [3]]), Graph([[0], [1]], num_nodes=2)):
        with pytest.raises(GraphError, match="nodes and the series 3|the series has the nodes 0 … 2"):
            Series(SPEED, graph=wrong)
    with pytest.raises(GraphError, match="list; a Graph"):
        Series(SPEED, graph=[[0, 1], [1, 0]])


def test_a_dynamic_graph_has_the_steps_of_the_series() -> None:
    steps = [[[t % 3], [(t + 1) % 3]] for t in range(12)]
    graph = DynamicGraph.from_steps(steps, nodes=["c", "a", "b"])
    series = Series(SPEED, nodes=["a", "b", "c"], graph=graph)
    assert isinstance(series.graph, DynamicGraph)
    assert series.graph.batch([0], [0]).edge_index.tolist() == [[2], [0]]
    part = series.select(time=slice(1, 3), nodes=["b", "a"]).graph
    assert isinstance(part, DynamicGraph)
    assert part.num_steps == 2
    assert part.batch([0], [0]).edge_index.tolist() == [[1], [0]]
    assert part.batch([1], [0]).edge_index.shape == (2, 0)
    with pytest.raises(GraphError, match="11 steps and the series 12"):
        Series(SPEED, graph=DynamicGraph.from_steps(steps[1:], num_nodes=3))


# --- select ---


def full() -> Series:
    return Series(
        {"speed": SPEED, "flow": FLOW},
        covariates={
            "w": np.arange(24.0).reshape(12, 2),
            "alt": np.array([1.0, 2.0, 3.0]),
            "static": (np.ones((3, 2)), "nf"),
        },
        timestamps=("2012-03-01", "6h"),
        nodes=["a", "b", "c"],
        graph=np.arange(9.0).reshape(3, 3),
        segments=[0, 4, 9, 12],
        missing=0.0,
    )


def test_selecting_time() -> None:
    series = full()
    for part in (
        series.select(time=slice(2, 10)),
        series.select(time=slice("2012-03-01T12", "2012-03-03T12")),
    ):
        assert part.num_steps == 8
        assert part.borders.tolist() == [0, 2, 7, 8]
        assert part.clock.timestamps(0) == np.datetime64("2012-03-01T12")  # type: ignore[union-attr]
        np.testing.assert_array_equal(values(part, "speed")[:, :, 0], SPEED[2:10])
        np.testing.assert_array_equal(values(part, "w")[:, 0], np.arange(24.0).reshape(12, 2)[2:10])
        np.testing.assert_array_equal(part.variables[3].view()[0, :, 0], [1, 2, 3])  # type: ignore[index]
        assert part.graph is series.graph
        assert part.tier == "memory"
    assert series.select(time=slice(-3, None)).num_steps == 3
    for wrong in (slice(5, 5), slice(0, 9, 2), 3, slice("2013-01-01", None), (0, 3)):
        with pytest.raises(SeriesError):
            series.select(time=wrong)
    with pytest.raises(SeriesError, match="no timestamps"):
        Series(SPEED).select(time=slice("2012-03-01", None))


@pytest.mark.parametrize(
    ("nodes", "numbers"),
    [
        ([2, 0], [2, 0]), (["c", "a"], [2, 0]), (slice(1, None), [1, 2]), (slice(None, None, -1), [2, 1, 0]),
        (np.array([True, False, True]), [0, 2]), ("b", [1]), (-1, [2]),
    ],
)  # fmt: skip
def test_selecting_nodes(nodes: object, numbers: list[int]) -> None:
    part = full().select(nodes=nodes)
    assert part.space_shape == (len(numbers),)
    assert part.nodes.tolist() == [["a", "b", "c"][number] for number in numbers]  # type: ignore[union-attr]
    np.testing.assert_array_equal(values(part, "flow"), FLOW[:, numbers])
    np.testing.assert_array_equal(part.graph.dense(), np.arange(9.0).reshape(3, 3)[np.ix_(numbers, numbers)])  # type: ignore[union-attr]
    alt = next(variable for variable in part.variables if variable.name == "alt")
    for static in (alt, pickle.loads(pickle.dumps(alt))):  # without time: always addressable
        np.testing.assert_array_equal(static.view().ravel(), np.array([1.0, 2.0, 3.0])[numbers])


def test_invalid_node_and_feature_selections() -> None:
    series = full()
    for nodes, message in (
        ([3], "index 3 is out of bounds .* size 3.*Integers are positions"),
        (["z"], "'array' lacks 1 of the 1 labels of nodes=: .*'z'"),
        ([0, 0], "twice"),
        ([], "none is left"),
        (np.array([True]), r"size of axis is 3 but .* 1.*a mask has the shape \(3,\)"),
        ([[0], [1]], "one dimension"),
    ):
        with pytest.raises(SeriesError, match=message):
            series.select(nodes=nodes)
    with pytest.raises(SeriesError, match="has no node labels"):
        Series(SPEED).select(nodes=["a"])
    with pytest.raises(SeriesError, match="no space axis"):
        Series(SPEED[:, 0]).select(nodes=[0])
    with pytest.raises(FeatureNameError, match="covariates or clocks"):
        series.select(features=["w"])
    with pytest.raises(FeatureNameError, match="none were named"):
        series.select(features=[])


def test_selecting_features_keeps_covariates() -> None:
    part = full().select(features=["flow.1", "speed"])
    assert part.features == ("flow.1", "speed")
    assert [variable.name for variable in part.variables] == ["speed", "flow", "w", "alt", "static"]
    assert part.num_own == 2
    assert part.columns()[0] == Column("flow.1", 1, 0)
    np.testing.assert_array_equal(values(part, "flow"), FLOW[:, :, 1:])
    assert full().select(features=["flow"]).features == ("flow.0", "flow.1")


def test_selecting_from_entities_and_grids() -> None:
    series = Series(SPEED, entities=[0, 3, 7, 12], entity_names=["x", "y", "z"])
    part = series.select(time=slice(1, 6))
    assert part.entity_borders.tolist() == [0, 2, 5]  # type: ignore[union-attr]
    assert part.entity_names.tolist() == ["x", "y"]  # type: ignore[union-attr]
    stamps = np.tile(np.arange("2020-01-01", "2020-01-07", dtype="M8[D]"), 2)
    with pytest.raises(SeriesError, match="dates of their own"):
        Series(SPEED, entities=[0, 6, 12], timestamps=stamps).select(time=slice("2020-01-02", None))
    grid = np.arange(9 * 2 * 4 * 5).reshape(9, 2, 4, 5)
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = mask[3, 0] = True
    part = Series(grid, axes="tfnn", covariates={"h": np.arange(20).reshape(4, 5)}).select(nodes=mask)
    assert part.space_shape == (2,)
    np.testing.assert_array_equal(values(part, "value"), grid[:, :, mask].transpose(0, 2, 1))


# --- pickles and fingerprints ---


def test_pickles_are_small_and_whole(tmp_path) -> None:
    np.save(tmp_path / "x.npy", SPEED)
    times = np.datetime64("2012-03-01", "ns") + np.arange(12) * np.timedelta64(5, "m")
    times[6:] += np.timedelta64(1, "h")
    series = Series(open_npy(tmp_path / "x.npy"), timestamps=times, nodes=["a", "b", "c"], missing=0.0)
    assert series.tier == "mapped"
    data = pickle.dumps(series)
    assert len(data) < 4096
    again = pickle.loads(data)
    assert again.borders.tolist() == [0, 6, 12]
    assert again.borders.dtype == np.int64
    np.testing.assert_array_equal(again.clock.timestamps(np.arange(12)), times)
    assert again.fingerprint() == series.fingerprint()
    assert repr(again) == repr(series)
    part = pickle.loads(pickle.dumps(series.select(nodes=["c", "a"], time=slice(3, 9))))
    np.testing.assert_array_equal(values(part, "value")[:, :, 0], SPEED[3:9, [2, 0]])


def test_a_pickle_grows_by_few_bytes_a_gap(tmp_path) -> None:
    count, gaps = 200_000, 10_000
    np.save(tmp_path / "x.npy", np.zeros((count, 1), "i1"))
    steps = np.full(count, 300 * 10**9)
    steps[RNG.choice(np.arange(1, count), gaps, replace=False)] *= RNG.integers(2, 99, gaps)
    series = Series(open_npy(tmp_path / "x.npy"), timestamps=np.cumsum(steps).view("M8[ns]"))
    assert abs(len(series.borders) - gaps) < 1000
    assert len(pickle.dumps(series)) < 4096 + 8 * gaps


def test_the_fingerprint_changes_with_the_data_and_not_by_itself() -> None:
    base = Series(SPEED, timestamps=("2012-03-01", "5min")).fingerprint()
    assert base == Series(SPEED.copy(), timestamps=("2012-03-01", "5min")).fingerprint()
    others = [
        Series(SPEED + 1, timestamps=("2012-03-01", "5min")),
        Series(SPEED, timestamps=("2012-03-02", "5min")),
        Series(SPEED),
        Series(SPEED, timestamps=("2012-03-01", "5min"), segments=[0, 3, 12]),
        Series(SPEED, timestamps=("2012-03-01", "5min"), missing=0.0),
        Series(SPEED, timestamps=("2012-03-01", "5min"), features=["speed"]),
        Series(SPEED.astype("f4"), timestamps=("2012-03-01", "5min")),
    ]
    assert len({base, *(series.fingerprint() for series in others)}) == len(others) + 1


def test_a_series_cannot_be_changed() -> None:
    series = Series(SPEED)
    with pytest.raises(AttributeError):
        series.num_steps = 3  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        series.other = 3  # type: ignore[attr-defined]
