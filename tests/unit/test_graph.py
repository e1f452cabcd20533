"""Graphs: validation, files, labels, edges that change from step to step."""

from __future__ import annotations

import collections
import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import GraphError, SourceNotFoundError
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.series.graph import Graph
from windowloader.sources.unpickle import load_plain

DENSE = np.array([[0.0, 2.0, 0.0], [0.0, 0.5, 1.0], [3.0, 0.0, 0.0]])


def same(graph: Graph, dense: np.ndarray = DENSE) -> None:
    np.testing.assert_array_equal(graph.dense(), dense)


def test_a_matrix_and_its_edges_are_the_same_graph() -> None:
    graph = Graph.from_dense(DENSE)
    assert graph.edge_index.tolist() == [[0, 1, 1, 2], [1, 1, 2, 0]]
    assert graph.edge_index.dtype == np.int64
    assert graph.edge_weight is not None
    assert graph.edge_weight.tolist() == [2.0, 0.5, 1.0, 3.0]
    same(graph)
    for form in (scipy.sparse.csr_matrix, scipy.sparse.coo_array, scipy.sparse.csc_array):
        again = Graph.from_dense(form(DENSE))
        same(again)
        np.testing.assert_array_equal(again.edge_index, graph.edge_index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 3], [1, 1]], None, 3), "out of range: edge 1 joins 3 and 1.*0 … 2"),
        (([[0, -1], [1, 1]], None, 3), "out of range: edge 1 joins -1"),
        (([[0, -1], [1, 1]], None, None), "out of range"),
        ((np.zeros((5, 2), int), None, 3), r"shape \(5, 2\).*edge_index.T"),
        ((np.zeros((2, 5)), None, 3), "dtype float64"),
        (([[0, 1], [1, 0]], [1.0], 3), r"edge_weight has shape \(1,\).*2 edges"),
        (([[0, 1], [1, 0]], [1.0, np.nan], 3), "edge_weight of edge 1 is nan"),
        (([[0, 1], [1, 0]], ["a", "b"], 3), "weights are numbers"),
    ],
)
def test_edges_that_cannot_be_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Graph(arguments[0], arguments[1], num_nodes=arguments[2])


def test_labels_are_as_many_as_nodes_and_each_once() -> None:
    assert Graph([[0], [1]], nodes=["a", "b", "c"]).num_nodes == 3
    with pytest.raises(GraphError, match="repeats the labels 'b'"):
        Graph([[0], [1]], nodes=["a", "b", "b"])
    with pytest.raises(GraphError, match="3 labels in one dimension"):
        Graph([[0], [1]], nodes=["a", "b"], num_nodes=3)
    with pytest.raises(GraphError, match=r"square, but this has shape \(2, 3\)"):
        Graph.from_dense(np.zeros((2, 3)))


def test_weights_of_arrays_keep_their_precision_and_others_become_float32(tmp_path) -> None:
    def kind(graph: Graph) -> np.dtype:
        assert graph.edge_weight is not None
        return graph.edge_weight.dtype

    assert kind(Graph([[0], [1]], np.ones(1))) == kind(Graph.from_dense(np.eye(2))) == np.float64
    for weight in ([1], [0.1], np.ones(1, np.int64)):
        assert kind(Graph([[0], [1]], weight)) == np.float32
    assert kind(Graph.from_dense([[0, 0.1], [0, 0]])) == np.float32
    steps = DynamicGraph.from_steps([([[0], [1]], [0.1]), ([[1], [0]], [0.2])])
    assert steps.edge_weight is not None
    assert steps.edge_weight.dtype == np.float32
    for text in ("from,to,weight\n0,1,0.1\n", "0.5,0.1\n0.0,1.0\n"):
        (tmp_path / "graph.csv").write_text(text)
        assert kind(Graph.load(tmp_path / "graph.csv")) == np.float32
    assert Graph([[], []], num_nodes=4).dense().sum() == 0


def test_reordering_carries_labels_weights_and_edges_along() -> None:
    graph = Graph.from_dense(DENSE, nodes=["a", "b", "c"]).reorder(["c", "a", "b"])
    same(graph, DENSE[np.ix_([2, 0, 1], [2, 0, 1])])
    assert graph.nodes is not None
    assert graph.nodes.tolist() == ["c", "a", "b"]
    with pytest.raises(GraphError, match="1 only in the array: 'x'; 1 only in the graph: 'b'"):
        graph.reorder(["c", "a", "x"])
    with pytest.raises(GraphError, match="no node labels"):
        Graph.from_dense(DENSE).reorder(["a"])


def test_selecting_keeps_edges_among_what_stays() -> None:
    graph = Graph.from_dense(DENSE, nodes=["a", "b", "c"])
    same(graph.select([2, 0]), DENSE[np.ix_([2, 0], [2, 0])])
    same(graph.select(np.array([False, True, True])), DENSE[1:, 1:])
    for wrong in ([0, 3], [0, 0], np.array([True, False])):
        with pytest.raises(GraphError):
            graph.select(wrong)


def write_csv(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


ROWS = ["0,2,0", "0,0.5,1", "3,0,0"]


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        (ROWS, None),
        (["0,1,2", *ROWS], None),
        (["773869,767541,7675", *ROWS], ["773869", "767541", "7675"]),
        ([",a,b,c", "a," + ROWS[0], "b," + ROWS[1], "c," + ROWS[2]], ["a", "b", "c"]),
        (["0 2 0", "0 .5 1", "3 0 0"], None),
        (["from,to,weight", "0,1,2", "1,1,.5", "1,2,1", "2,0,3"], None),
        (["src;dst;cost", "0;1;2", "1;1;.5", "1;2;1", "2;0;3"], None),
        (["from,to,weight", "a,b,2", "b,b,.5", "b,c,1", "c,a,3"], ["a", "b", "c"]),
    ],
)
def test_text_files(tmp_path: Path, lines: list[str], labels: list[str] | None) -> None:
    graph = Graph.load(write_csv(tmp_path / "graph.csv", lines))
    same(graph)
    assert (None if graph.nodes is None else graph.nodes.tolist()) == labels
    with gzip.open(tmp_path / "graph.csv.gz", "wt") as file:
        file.write("\n".join(lines))
    same(Graph.load(tmp_path / "graph.csv.gz"))


def test_a_list_of_edges_may_be_written_in_labels_or_numbers(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "edges.csv", ["from,to,cost", "30,10,1.5", "10,20,2"])
    graph = Graph.load(path, nodes=[10, 20, 30, 40])
    assert graph.num_nodes == 4
    assert graph.edge_index.tolist() == [[2, 0], [0, 1]]
    assert Graph.load(path, ends="numbers").num_nodes == 31
    assert Graph.load(path, ends="labels").nodes.tolist() == ["10", "20", "30"]  # type: ignore[union-attr]
    numbers = write_csv(tmp_path / "numbers.csv", ["from,to", "0,1"])
    assert Graph.load(numbers, nodes=[10, 20, 30]).edge_index.tolist() == [[0], [1]]
    with pytest.raises(GraphError, match="not among the 2 labels: '30'"):
        Graph.load(path, nodes=[10, 20])


ROADS = ["from,to", "1,2", "2,3", "3,4"]  # as labels 1 … 5, or as numbers 0 … 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"nodes": [1, 2, 3, 4, 5]},
            r"could be written in labels or in numbers.*'1', '2', '3'.*ends='labels'",
        ),
        ({"nodes": [3, 2, 1, 0, 4]}, "could be written in labels or in numbers"),
        ({"nodes": ["a", "b", "c"]}, "not among the 3 labels: '4', '1', '2', '3'|not among the 3 labels"),
        ({"ends": "ids"}, "ends='ids': a list of edges is written in 'labels' or in 'numbers'"),
    ],
)
def test_a_list_that_reads_both_ways_is_an_error_that_names_both(
    tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        Graph.load(write_csv(tmp_path / "edges.csv", ROADS), **options)


def test_a_list_that_reads_one_way_is_read_so(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "edges.csv", ROADS)
    assert Graph.load(path).edge_index.tolist() == [[1, 2, 3], [2, 3, 4]]
    for nodes, index in (
        (range(5), [[1, 2, 3], [2, 3, 4]]),  # labels and numbers alike
        (range(1, 5), [[0, 1, 2], [1, 2, 3]]),  # 4 is no number of four nodes
        (list("abcde"), [[1, 2, 3], [2, 3, 4]]),
    ):
        graph = Graph.load(path, nodes=list(nodes))
        assert graph.edge_index.tolist() == index
    five = [1, 2, 3, 4, 5]
    assert Graph.load(path, nodes=five, ends="labels").edge_index.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert Graph.load(path, nodes=five, ends="numbers").edge_index.tolist() == [[1, 2, 3], [2, 3, 4]]


def test_sensor_ids_are_never_taken_for_numbers(tmp_path: Path, data: Path) -> None:
    """METR-LA's matrix as a list of edges between sensors, and PeMSD7's between numbers."""
    folder = data / "metr_la_week"
    ids = (folder / "graph_sensor_ids.txt").read_text().strip().split(",")
    matrix = np.loadtxt(folder / "los_adj.csv", delimiter=",", dtype="f4")
    ends = np.argwhere(matrix)
    lines = ["from,to,cost", *(f"{ids[i]},{ids[j]},{matrix[i, j]}" for i, j in ends.tolist())]
    path = write_csv(tmp_path / "distances.csv", lines)
    speeds = np.loadtxt(folder / "los_speed.csv", delimiter=",", skiprows=1, max_rows=30)
    series = wl.Series(speeds, nodes=ids, graph=str(path))
    np.testing.assert_array_equal(series.graph.dense(), matrix)  # type: ignore[union-attr]
    with pytest.raises(GraphError, match=r"join 207 nodes.*up to 774204.*nodes=.*ends='numbers'"):
        Graph.load(path)
    with pytest.raises(GraphError, match=r"up to node 774204.*nodes 0 … 206.*pass nodes="):
        wl.Series(speeds, graph=str(path))
    letters = write_csv(tmp_path / "letters.csv", ["from,to", "a,b"])
    with pytest.raises(GraphError, match=r"written in labels \('a', 'b'\).*pass nodes="):
        wl.Series(speeds[:, :2], graph=str(letters))

    matrix = np.loadtxt(data / "pemsd7_week/PEMS7_Adjacency.csv", delimiter=",", skiprows=1, dtype="f4")
    ends = np.argwhere(matrix)
    path = write_csv(tmp_path / "pems.csv", ["from,to", *(f"{i},{j}" for i, j in ends.tolist())])
    speeds = np.zeros((30, len(matrix)))
    series = wl.Series(speeds, graph=str(path))
    np.testing.assert_array_equal(series.graph.dense() > 0, matrix > 0)  # type: ignore[union-attr]
    named = wl.Series(speeds, nodes=[f"s{number}" for number in range(len(matrix))], graph=str(path))
    np.testing.assert_array_equal(named.graph.dense() > 0, matrix > 0)  # type: ignore[union-attr]


def test_arrays_in_files(tmp_path: Path) -> None:
    graph = Graph.from_dense(DENSE)
    np.savez(tmp_path / "adj.npz", adj=DENSE, sensors=np.arange(3))
    np.savez(tmp_path / "edges.npz", edge_index=graph.edge_index, edge_weight=graph.edge_weight, num_nodes=3)
    np.savez(
        tmp_path / "labelled.npz",
        edge_index=graph.edge_index,
        edge_weight=graph.edge_weight,
        nodes=list("abc"),
    )
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.csr_matrix(DENSE))
    np.save(tmp_path / "dense.npy", DENSE)
    for name in ("adj.npz", "edges.npz", "labelled.npz", "sparse.npz", "dense.npy"):
        same(Graph.load(tmp_path / name))
    np.save(tmp_path / "index.npy", graph.edge_index)
    same(Graph.load(tmp_path / "index.npy"), DENSE != 0)
    assert Graph.load(tmp_path / "labelled.npz").nodes.tolist() == ["a", "b", "c"]  # type: ignore[union-attr]


def test_files_that_hold_no_graph(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=DENSE, y=DENSE)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "text.npy", np.array([["a"]]))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    write_csv(tmp_path / "ragged.csv", ["1,2", "3", "4,5"])
    write_csv(tmp_path / "wide.csv", ["1,2,3", "4,5,6"])
    write_csv(tmp_path / "words.csv", ["a,b", "c,d"])
    write_csv(tmp_path / "short.csv", ["from,to,weight", "1"])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "graph.docx").write_text("")
    names = [
        "two.npz",
        "objects.npy",
        "text.npy",
        "cut.npz",
        "ragged.csv",
        "wide.csv",
        "words.csv",
        "short.csv",
    ]
    for name in [*names, "empty.csv", "graph.docx"]:
        with pytest.raises(GraphError) as raised:
            Graph.load(tmp_path / name)
        assert name in str(raised.value)
    with pytest.raises(SourceNotFoundError):
        Graph.load(tmp_path / "none.pkl")


# --- pickles ---


class Malicious:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/windowloader-was-here",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    ids = ["a", "b", "c"]
    numbers = {"a": 0, "b": 1, "c": 2}
    content = [ids, numbers, np.asfortranarray(DENSE.astype("f4"))]
    (tmp_path / "adj.pkl").write_bytes(pickle.dumps(content, protocol))
    graph = Graph.load(tmp_path / "adj.pkl")
    same(graph, DENSE.astype("f4"))
    assert graph.nodes is not None
    assert graph.nodes.tolist() == ids
    plain = {
        "x": (1, 2.5, "é", b"\xff\x00", None, True),
        "y": np.float32(2),
        "z": np.arange(4, dtype=">i2")[::2],
    }
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(plain, protocol))
    found = load_plain((tmp_path / "plain.pkl").read_bytes())
    assert found["x"] == plain["x"]
    assert found["y"] == 2
    np.testing.assert_array_equal(found["z"], [0, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Malicious(), "names posix.system"),
        ([["a"], {"a": 0}, Malicious()], "names posix.system"),
        (eval, r"names (__builtin__|builtins)\.eval"),
        (Path("x"), "names pathlib"),
        (collections.OrderedDict(a=1), "names collections.OrderedDict"),
        (scipy.sparse.csr_matrix(DENSE), "only lists, dicts, strings, numbers and NumPy arrays"),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused_and_nothing_runs(
    tmp_path: Path, content: object, message: str
) -> None:
    for protocol in (0, 2, 5):
        (tmp_path / "adj.pkl").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(GraphError, match=message):
            Graph.load(tmp_path / "adj.pkl")
    assert not Path("/tmp/windowloader-was-here").exists()


def test_a_pickle_with_changed_line_ends_is_recognised(tmp_path: Path) -> None:
    plain = pickle.dumps((["a", "b"], {"a": 0, "b": 1}, np.eye(2, dtype="f4")), protocol=0)
    (tmp_path / "adj.pkl").write_bytes(plain.replace(b"\n", b"\r\n"))
    with pytest.raises(GraphError, match="line ends"):
        Graph.load(tmp_path / "adj.pkl")


def test_damaged_pickles_and_other_contents_are_errors_of_graphs(tmp_path: Path) -> None:
    whole = pickle.dumps([["a", "b", "c"], {"a": 0, "b": 1, "c": 2}, DENSE])
    for data in (
        whole[:20],
        whole[:-30],
        b"",
        b"\x80\x04]",
        b"not a pickle",
        b"cnumpy\nndarray\n(I9\nI9\ntR.",
    ):
        (tmp_path / "adj.pkl").write_bytes(data)
        with pytest.raises(GraphError, match=r"adj\.pkl"):
            Graph.load(tmp_path / "adj.pkl")
    for content in (
        {"a": 1},
        [1, 2, 3],
        [["a"], {}, DENSE],
        [["a", "b", "c"], {"a": 2, "b": 1, "c": 0}, DENSE],
    ):
        (tmp_path / "adj.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(GraphError):
            Graph.load(tmp_path / "adj.pkl")


def test_real_graphs(data: Path) -> None:
    graph = Graph.load(data / "metr_la_week" / "adj_mx.pkl")  # a pickle of Python 2
    with open(data / "metr_la_week" / "adj_mx.pkl", "rb") as file:
        ids, _, dense = pickle.load(file, encoding="latin1")
    same(graph, dense)
    assert graph.nodes is not None
    assert graph.nodes.tolist() == list(ids)
    assert graph.edge_index.shape == (2, 1722)
    assert Graph.load(data / "metr_la_week" / "los_adj.csv").edge_index.shape == (2, 2833)
    assert Graph.load(data / "pemsd7_week" / "PEMS7_Adjacency.csv").num_nodes == 228
    assert Graph.load(data / "ili_us_states" / "state-adj.txt").num_nodes == 49


# --- dynamic ---


@st.composite
def dynamic(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray]]:
    steps = []
    for _ in range(draw(st.integers(1, 8))):
        count = draw(st.integers(0, 5))
        ends = draw(st.lists(st.integers(0, 3), min_size=2 * count, max_size=2 * count))
        steps.append((np.array(ends, np.int64).reshape(2, count), np.arange(count) + 0.5))
    return steps


@settings(max_examples=60, deadline=None)
@given(dynamic(), st.data())
def test_edges_of_windows_against_a_plain_loop(
    steps: list[tuple[np.ndarray, np.ndarray]], data: st.DataObject
) -> None:
    graph = DynamicGraph.from_steps(steps, num_nodes=4)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(steps) - 1), min_size=1))))
    starts = data.draw(st.lists(st.integers(0, len(steps) - 1 - int(rows[-1])), max_size=4))
    mode = data.draw(st.sampled_from(["each", "first", "last"]))
    kept = {"each": rows, "first": rows[:1], "last": rows[-1:]}[mode]
    edges = graph.batch(starts, rows, mode, 4)
    assert edges.offsets.shape == (len(starts), len(kept) + 1)
    for window, start in enumerate(starts):
        for place, row in enumerate(kept):
            index, weight = steps[start + row]
            part = slice(edges.offsets[window, place], edges.offsets[window, place + 1])
            np.testing.assert_array_equal(edges.edge_index[:, part], index + 4 * window)
            np.testing.assert_array_equal(edges.edge_weight[part], weight)
    for place, row in enumerate(kept):
        index, weight = edges.step(place)
        expected = [steps[start + row][0] + 4 * window for window, start in enumerate(starts)]
        np.testing.assert_array_equal(index, np.concatenate([np.empty((2, 0)), *expected], axis=1))
        assert len(weight) == index.shape[1]
    assert edges.edge_index.shape[1] == (edges.offsets[-1, -1] if starts else 0)


@settings(max_examples=40, deadline=None)
@given(dynamic(), st.permutations(range(4)), st.integers(1, 4))
def test_parts_of_a_dynamic_graph(
    steps: list[tuple[np.ndarray, np.ndarray]], order: list[int], count: int
) -> None:
    graph = DynamicGraph.from_steps(steps, nodes=["a", "b", "c", "d"])
    chosen = order[:count]
    part = graph.select(chosen)
    begin = len(steps) // 2
    late = graph.steps(begin, len(steps))
    assert late.num_steps == len(steps) - begin
    for number, (index, weight) in enumerate(steps):
        dense = Graph(index, weight, num_nodes=4).dense()
        window = part.batch([number], [0])
        found = Graph(window.edge_index, window.edge_weight, num_nodes=count).dense()
        np.testing.assert_array_equal(found, dense[np.ix_(chosen, chosen)])
        if number >= begin:
            np.testing.assert_array_equal(late.batch([number - begin], [0]).edge_index, index)


def test_invalid_dynamic_graphs_are_refused() -> None:
    edges = [[0, 1], [1, 0]]
    for offsets, message in (
        ([0, 1], "rise from 0 to the 2 edges"),
        ([1, 2], "rise from 0"),
        ([0, 2, 1, 2], "rise"),
        ([0.0, 2.0], "integers"),
    ):
        with pytest.raises(GraphError, match=message):
            DynamicGraph(edges, None, offsets)
    with pytest.raises(GraphError, match="step 1: edge_index out of range"):
        DynamicGraph.from_steps([edges, [[0], [9]]], num_nodes=2)
    with pytest.raises(GraphError, match="1 of 2 steps have edge weights"):
        DynamicGraph.from_steps([np.array(edges), (edges, [1.0, 2.0])])
    graph = DynamicGraph(edges, None, [0, 1, 2])
    with pytest.raises(GraphError, match="from step 1 to 2; the graph has 2"):
        graph.batch([1], [0, 1])
    with pytest.raises(GraphError, match="none of 'each'"):
        graph.batch([0], [0], "every")  # type: ignore[arg-type]
    assert graph.batch([0], [0, 1]).edge_weight is None


def test_a_real_graph_of_every_day(data: Path) -> None:
    content = json.loads((data / "pgt" / "england_covid.json").read_text())
    index, weight = content["edge_mapping"]["edge_index"], content["edge_mapping"]["edge_weight"]
    graph = DynamicGraph.from_steps(
        [
            (np.array(index[str(t)]).T if np.shape(index[str(t)])[0] != 2 else index[str(t)], weight[str(t)])
            for t in range(61)
        ],
        num_nodes=129,
    )
    edges = graph.batch([0, 1], [0, 1])
    assert np.diff(edges.offsets).tolist() == [[2158, 1743], [1743, np.shape(weight["2"])[0]]]
    mapped = edges.map(lambda array: array[..., :1])
    assert mapped.edge_index.shape == (2, 1)
