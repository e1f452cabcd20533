"""Labels and clocks of two sides: which are the same, what is refused, and that nothing is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import windowloader as wl
from windowloader.errors import CorruptDataError, GraphError, SeriesError
from windowloader.series.alignment import rows
from windowloader.sources.base import Described, LocalSource
from windowloader.sources.formats import natural
from windowloader.sources.memory import ArraySource
from windowloader.util.labels import order

if TYPE_CHECKING:
    from pathlib import Path

HOURS = pd.date_range("2000-01-01", periods=6, freq="h")
FRAME = pd.DataFrame(np.arange(18.0).reshape(6, 3), HOURS, ["401", "402", "403"])


def loaded(series: wl.Series, *names: str) -> np.ndarray:
    """All rows by a loader: [time, node, feature]."""
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0, inputs=list(names)))
    with wl.WindowLoader(windows, batch_size=4, dtype="float64") as loader:
        return np.concatenate([np.array(batch.inputs)[:, 0] for batch in loader])


@pytest.mark.parametrize(
    ("labels", "wanted", "found"),
    [
        (["a", "b"], ["a", "b"], None),
        (["b", "a", "c"], ["a", "b"], [1, 0]),
        ([b"b", b"a"], ["a", "b"], [1, 0]),
        (["402", "401"], [401, 402], [1, 0]),
        (["0042", "7"], [7, 42], [1, 0]),  # beside numbers, text is a number
        (["0042", "42"], ["42", "0042"], [1, 0]),  # beside text it is not
        ([50.0, 49.75], ["49.75", "50"], [1, 0]),
        (np.array([50.25, 0.5], "f4"), [0.5, 50.25], [1, 0]),
        ([0, 1, 2], ["c", "a", "b"], None),  # numbers that only count, beside other labels, tell nothing
        ([2, 0, 1], [0, 1, 2], [1, 2, 0]),
        ([0, 1, 2, 3], [3, 1], [3, 1]),
        ([np.nan, 1.5], [1.5, np.nan], [1, 0]),  # as pandas matches them
        (None, ["a"], None),
        (["a"], None, None),
        (["a", "a"], ["a", "a"], None),
    ],
)
def test_labels_that_are_the_same(labels: Any, wanted: Any, found: list[int] | None) -> None:
    picked = order(labels, wanted, "x")
    assert (None if picked is None else picked.tolist()) == found


@pytest.mark.parametrize(
    ("labels", "wanted", "message"),
    [
        (
            ["a", "b"],
            ["a", "c", "d"],
            "x lacks 2 of the 3 labels of the series: .*: 'c', 'd'; 1 only in x: 'b'",
        ),
        (["42"], ["0042"], "'0042'"),
        ([0, 1, 2], [1, 2, 3], "1 only in the series: '3'"),
        (["a", "b", "b"], ["b", "a", "c"], "the labels 'b' of x repeat"),
        (["a", "b", "c"], ["a", "a", "b"], "the labels 'a' of the series repeat"),
        (["042", "42"], [42, 7], "the labels '42' of x repeat"),
        ([np.nan, np.nan, 1.0], [1.0], "the labels 'nan' of x repeat"),
        (
            np.array([50.1], "f4"),
            [50.1],
            "'50.1'; 1 only in x: '50.09999.*Labels must be equal",
        ),
    ],
)
def test_labels_that_differ_are_named(labels: Any, wanted: Any, message: str) -> None:
    with pytest.raises(SeriesError, match=message):
        order(labels, wanted, "x")


def test_rows_of_a_clock() -> None:
    times = HOURS.to_numpy("datetime64[ns]")
    assert rows(times, times, "x") is rows(None, times, "x") is rows(times, None, "x") is None
    assert rows(times, times[2:5], "x") == slice(2, 5)
    twice = np.concatenate([times[:3], times[1:]])  # an hour that a change of clocks repeats
    assert rows(twice, times[1:], "x") == slice(3, 8)
    for other in (times[::-1], twice, times[::2], times[:0], times + np.timedelta64(1, "s")):
        with pytest.raises(
            SeriesError, match="x and the series disagree on time: it (lacks|has others between)"
        ):
            rows(other, times, "x")
    with pytest.raises(
        SeriesError, match=r"lacks 4 of 6 timestamps, the first 2000-01-01, .*T01:00, .*T02:00\. It has"
    ):
        rows(times[4:], times, "x")
    with pytest.raises(SeriesError, match=r"has others between.*11 rows from .* the series 6 rows from"):
        rows(np.arange(times[0], times[-1] + 1, np.timedelta64(30, "m")), times, "x")


class Recorded(LocalSource):
    """Rows that must be read, with labels and timestamps, which notes what is read."""

    def __init__(self, frame: pd.DataFrame) -> None:
        described = Described({1: frame.columns.to_numpy()}, frame.index.to_numpy("datetime64[ns]"))
        super().__init__("recorded", shape=frame.shape, dtype="f8", axes="tn", description=described)
        self.rows, self.asked = frame.to_numpy(), []  # type: ignore[var-annotated]

    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> int:
        self.asked.append((start, stop))
        out[...] = self.rows[start:stop]
        return out.nbytes

    def fingerprint(self) -> str:
        return "recorded"


def test_nothing_is_read_to_align_and_then_only_the_rows_of_the_series() -> None:
    wide = pd.DataFrame(
        np.arange(80.0).reshape(20, 4), pd.date_range("1999-12-31 20:00", periods=20, freq="h")
    )
    source = Recorded(wide.set_axis(["403", "x", "401", "402"], axis=1))
    series = wl.open({"speed": FRAME, "w": source}, covariates={"again": source})
    assert source.asked == []
    both = loaded(series, "w", "again")
    np.testing.assert_array_equal(both[..., 0], wide.iloc[4:10, [2, 3, 0]])
    np.testing.assert_array_equal(both[..., 1], both[..., 0])
    assert {row for start, stop in source.asked for row in range(start, stop)} == set(range(4, 10))


def test_chunks_without_nodes_of_the_series_are_not_read(tmp_path: Path) -> None:
    """Of 40 nodes in chunks of 10, the 3 of the series lie in the first and the last chunk: the others are damaged."""
    values = np.random.default_rng(0).random((6, 40))
    array = xr.DataArray(values, {"time": HOURS, "node": np.arange(40) + 100}, ("time", "node"), name="w")
    path = tmp_path / "w.zarr"
    encoding = {"w": {"chunks": (3, 10)}}
    array.to_dataset().to_zarr(path, consolidated=False, zarr_format=2, encoding=encoding)
    for chunk in ("0.1", "0.2", "1.1", "1.2"):
        (path / "w" / chunk).write_bytes(b"damaged")
    with pytest.raises(CorruptDataError):
        loaded(wl.open(str(path)), "w")
    series = wl.open(FRAME.set_axis([131, 105, 103], axis=1), covariates={"w": str(path)})
    assert series.tier == "streamed"
    np.testing.assert_array_equal(loaded(series, "w")[..., 0], values[:, [31, 5, 3]])
    part = series.select(time=slice(3, 6), nodes=["103", "105"])
    for chunk in ("0.0", "0.3", "1.3"):
        (path / "w" / chunk).write_bytes(b"damaged")
    np.testing.assert_array_equal(loaded(part, "w")[..., 0], values[3:, [3, 5]])


def test_others_align_to_given_labels_and_times() -> None:
    values = np.arange(18.0).reshape(6, 3)
    turned = FRAME[["403", "401", "402"]]
    for options in (
        {"nodes": [401, 402, 403], "timestamps": HOURS},
        {"nodes": FRAME.columns, "timestamps": (HOURS[0], "1h")},
    ):
        series = wl.Series({"speed": values, "flow": turned}, covariates={"w": turned}, **options)
        np.testing.assert_array_equal(loaded(series, "speed", "flow", "w"), np.stack([values] * 3, -1))
    with pytest.raises(SeriesError, match="covariate 'w' and the series disagree on time"):
        wl.Series(values, timestamps=("2001-01-01", "1h"), covariates={"w": turned})
    renamed = wl.Series(FRAME, nodes=["x", "y", "z"], timestamps=("2001-01-01", "1h"))
    np.testing.assert_array_equal(loaded(renamed, "value")[..., 0], FRAME)
    zoned = wl.open(
        FRAME.tz_localize("UTC"), covariates={"w": turned.tz_localize("UTC").tz_convert("Asia/Tokyo")}
    )
    np.testing.assert_array_equal(loaded(zoned, "w")[..., 0], FRAME)


def test_covariates_alone_with_labels_or_times_are_aligned_to_each_other() -> None:
    turned = FRAME[["403", "401", "402"]]
    series = wl.Series(np.zeros((6, 3)), covariates={"v": FRAME, "w": turned})
    np.testing.assert_array_equal(loaded(series, "w"), loaded(series, "v"))
    assert series.clock is not None
    assert series.nodes is None
    with pytest.raises(SeriesError, match="covariate 'w' and the series disagree on time"):
        wl.Series(np.zeros((6, 3)), covariates={"v": FRAME, "w": FRAME.set_axis(HOURS + pd.Timedelta("1h"))})


def test_an_axis_without_labels_goes_by_position() -> None:
    values = np.arange(72.0).reshape(6, 3, 4)
    grid = xr.DataArray(values, {"time": HOURS, "lat": [3, 2, 1]}, ("time", "lat", "lon"), name="t")
    series = wl.open(grid, covariates={"u": grid[:, ::-1], "v": (values[..., ::-1], "tnn")})
    np.testing.assert_array_equal(loaded(series, "t")[..., 0], loaded(series, "u")[..., 0])
    np.testing.assert_array_equal(loaded(series, "v")[..., 0], values[..., ::-1])
    with pytest.raises(
        SeriesError, match=r"shape \(6, 3, 3\), but the series has 6 steps and space \(3, 4\)"
    ):
        wl.open(grid, covariates={"u": grid[..., :3]})


def test_columns_that_are_features_are_not_taken_for_nodes() -> None:
    weather = FRAME.set_axis(["rain", "wind", "sun"], axis=1)
    with pytest.raises(
        SeriesError, match=r"3 only in the series: '401'.*features.*covariates=\{'w': \(table, 'tf'\)\}"
    ):
        wl.open(FRAME, covariates={"w": weather})
    for given in ((weather, "tf"), weather[["rain", "wind"]]):
        found = loaded(wl.open(FRAME, covariates={"w": given}), "w")
        np.testing.assert_array_equal(found[:, 1], weather.iloc[:, : found.shape[2]])
    with pytest.raises(
        SeriesError, match="lacks 1 of the 3 labels of the series: 1 only in the series: '402'"
    ):
        wl.open(FRAME, covariates={"w": FRAME[["401", "403"]]})


def test_a_static_table_goes_by_its_column_of_labels(tmp_path: Path, data: Path) -> None:
    table = pd.read_csv(data / "metr_la_week/graph_sensor_locations.csv")
    mixed = table.sample(frac=1, random_state=1)
    mixed.to_csv(tmp_path / "places.csv", index=False)
    speeds = pd.DataFrame(np.zeros((30, 207)), columns=table["sensor_id"].astype(str))
    for given in (str(tmp_path / "places.csv"), mixed, mixed.set_index("sensor_id"), (mixed, "nf")):
        series = wl.open(speeds, covariates={"place": given})
        expected = table[["latitude", "longitude"]]
        np.testing.assert_array_equal(loaded(series, "place.latitude", "place.longitude")[0], expected)
    with pytest.raises(SeriesError, match=r"covariate 'place' lacks 1 of the 207 labels .*: '773869'"):
        wl.open(speeds, covariates={"place": mixed[mixed["sensor_id"] != 773869]})


def test_a_step_counter_is_not_a_label_column() -> None:
    numbered = FRAME.set_axis([1, 2, 3], axis=1)
    weather = pd.DataFrame({"step": range(6), "rain": np.arange(6) / 2})
    found = loaded(wl.open(numbered, covariates={"w": weather}), "w")
    np.testing.assert_array_equal(found[:, 1], weather)


def test_rows_and_columns_of_a_matrix_may_stand_in_different_orders(tmp_path: Path) -> None:
    dense = pd.DataFrame(np.arange(9.0).reshape(3, 3), list("abc"), list("abc"))
    turned = dense.loc[["c", "a", "b"], ["b", "c", "a"]]
    turned.to_csv(tmp_path / "turned.csv")
    for graph in (wl.Graph.from_dense(turned), wl.Graph.load(tmp_path / "turned.csv")):
        np.testing.assert_array_equal(graph.reorder(["a", "b", "c"]).dense(), dense)
        np.testing.assert_array_equal(graph.reorder(["c", "a"]).dense(), dense.loc[["c", "a"], ["c", "a"]])
    np.testing.assert_array_equal(wl.Graph.from_dense(turned.to_numpy()).dense(), turned)
    assert wl.Graph.from_dense(turned.set_axis(range(3), axis=1)).nodes.tolist() == ["c", "a", "b"]  # type: ignore[union-attr]
    with pytest.raises(GraphError, match="rows of the matrix lacks 1 .*1 only in its columns: 'a'"):
        wl.Graph.from_dense(turned.rename(index={"a": "x"}))
    with pytest.raises(GraphError, match="holds numbers"):
        wl.Graph.from_dense(turned.astype(str))
    counted = ArraySource(
        np.zeros((4, 3)), labels={1: [0, 1, 2]}
    )  # labels that count, and a graph in another order
    numbered = turned.set_axis([2, 0, 1], axis=0).set_axis([1, 2, 0], axis=1)
    np.testing.assert_array_equal(wl.Series(counted, graph=numbered).graph.dense(), dense)  # type: ignore[union-attr]


def test_edges_may_join_other_nodes_and_zeros_in_front_belong_to_a_label(tmp_path: Path) -> None:
    edges = pd.DataFrame({"from": ["042", "42", "x"], "to": ["42", "y", "042"], "cost": [1.5, 2.5, 3.5]})
    edges.to_csv(tmp_path / "edges.csv", index=False)
    expected = [[0, 1.5], [0, 0]]
    for graph in (edges, str(tmp_path / "edges.csv")):
        series = wl.Series(np.zeros((4, 2)), nodes=["042", "42"], graph=graph)
        np.testing.assert_array_equal(series.graph.dense(), expected)  # type: ignore[union-attr]
        with pytest.raises(GraphError, match="written in labels"):
            wl.Series(np.zeros((4, 2)), graph=graph)
        with pytest.raises(GraphError, match="not among the 2 labels"):
            wl.Series(np.zeros((4, 2)), nodes=["p", "q"], graph=graph)
    assert wl.Graph.from_dense(edges).nodes.tolist() == ["042", "42", "x", "y"]  # type: ignore[union-attr]
    numbers = pd.DataFrame({"src": [0, 1], "dst": [1, 0]})
    assert wl.Series(np.zeros((4, 2)), graph=numbers).graph.edge_index.tolist() == [[0, 1], [1, 0]]  # type: ignore[union-attr]


def test_parts_in_another_order_than_their_times_go_with_nothing_that_goes_by_row() -> None:
    late_first = [FRAME[3:], FRAME[:3]]
    series = wl.open({"a": late_first, "b": FRAME})
    np.testing.assert_array_equal(loaded(series, "a"), loaded(series, "b"))
    steps = wl.DynamicGraph.from_steps([[[0], [1]]] * 6, num_nodes=3)
    by_row: list[dict[str, Any]] = [
        {"timestamps": HOURS}, {"segments": [0, 2, 6]}, {"graph": steps}, {"covariates": {"w": FRAME.to_numpy()}}
    ]  # fmt: skip
    for options in by_row:
        with pytest.raises(SeriesError, match="variable 'value' are joined by their times.*go by row"):
            wl.open(late_first, **options)
        wl.open([FRAME[:3], FRAME[3:]], **options)
    shared = wl.Series(FRAME.to_numpy(), timestamps=HOURS, covariates={"w": late_first})
    np.testing.assert_array_equal(loaded(shared, "w")[..., 0], FRAME)
    with pytest.raises(SeriesError, match="'b' go by row"):
        wl.open({"a": late_first, "b": [FRAME[3:].to_numpy(), FRAME[:3].to_numpy()]})


def test_names_sort_by_the_numbers_in_them(tmp_path: Path) -> None:
    names = ["part_2", "part_10", "part_1", "a10/b2", "a9/b10", "part_01", "x"]
    assert sorted(names, key=natural) == ["a9/b10", "a10/b2", "part_01", "part_1", "part_2", "part_10", "x"]
    for number in (10, 9, 11, 1):
        np.save(tmp_path / f"part_{number}.npy", np.full((2, 3), float(number)))
    found = loaded(wl.open(f"{tmp_path}/part_*.npy"), "value")[::2, 0, 0]
    assert found.tolist() == [1, 9, 10, 11]
