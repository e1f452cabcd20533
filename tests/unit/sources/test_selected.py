from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.errors import SourceFormatError
from windowloader.sources.base import LocalSource
from windowloader.sources.memory import ArraySource
from windowloader.sources.selected import SelectedSource
from windowloader.sources.storage import within

VALUES = np.arange(10 * 4 * 3, dtype="f4").reshape(10, 4, 3)
TIMES = np.datetime64("2020-01-01", "ns") + np.arange(10) * np.timedelta64(1, "h")
LABELS = {1: ["a", "b", "c", "d"], 2: ["speed", "flow", "occupancy"]}


def whole(**more: Any) -> ArraySource:
    return ArraySource(VALUES, labels=LABELS, timestamps=TIMES, **more)


class Stored(LocalSource):
    """Rows that must be read; notes what was asked for."""

    def __init__(self, values: np.ndarray, axes: str, chunks: tuple[int, ...] | None = None) -> None:
        super().__init__("stored", shape=values.shape, dtype=values.dtype, axes=axes, chunks=chunks)
        self.held, self.asked = values.transpose(self.order), []

    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> int:
        self.asked.append((start, stop))
        out[...] = self.held[start:stop]
        return out.nbytes

    def fingerprint(self) -> str:
        return "stored"


def test_slices_and_regular_indices_are_views() -> None:
    for nodes in (slice(1, 3), [1, 2], [3, 1], [2], np.array([3, 2, 1, 0])):
        array = SelectedSource(whole(), rows=slice(2, 9), nodes=nodes).array()
        assert array is not None
        assert np.shares_memory(array, VALUES)
        np.testing.assert_array_equal(array, VALUES[2:9][:, nodes])
    assert SelectedSource(whole(), nodes=[0, 1, 3]).array() is None
    assert SelectedSource(whole(), nodes=[1, 1]).array() is None


def test_labels_and_times_follow() -> None:
    part = SelectedSource(whole(), rows=slice(1, 8), nodes=[3, 0], features=[1])
    assert list(part.labels(1)) == ["d", "a"]  # type: ignore[arg-type]
    assert list(part.labels(2)) == ["flow"]  # type: ignore[arg-type]
    np.testing.assert_array_equal(part.timestamps(), TIMES[1:8])
    assert part.labels(0) is None


def test_only_the_rows_needed_are_read() -> None:
    stored = Stored(VALUES, "tnf", chunks=(4, 4, 3))
    part = SelectedSource(stored, rows=slice(3, 10))
    part.read(1, 3, np.empty((2, 4, 3), "f4"))
    SelectedSource(stored, rows=slice(1, 10), nodes=[2, 0, 1]).read(1, 3, np.empty((2, 3, 3), "f4"))
    assert stored.asked == [(4, 6), (2, 4)]


@pytest.mark.parametrize(
    ("rows", "edges"),
    [
        (slice(0, 10), [0, 4, 8, 10]),
        (slice(3, 9), [0, 1, 5, 6]),
        (slice(1, 10), [0, 3, 7, 9]),
    ],
)
def test_edges_are_relative_to_the_selected_rows(rows: slice, edges: list[int]) -> None:
    source = SelectedSource(Stored(VALUES, "tnf", chunks=(4, 4, 3)), rows=rows)
    np.testing.assert_array_equal(source.storage().edges, edges)
    expected = [
        i for i, row in enumerate(range(10)[rows]) if i == 0 or row // 4 != range(10)[rows][i - 1] // 4
    ]
    np.testing.assert_array_equal(source.storage().edges[:-1], expected)  # type: ignore[index]


def test_invalid_selections_raise() -> None:
    for how, message in (
        ({"nodes": [4]}, "an index into 'n' of 'array': index 4 is out of bounds .* size 4"),
        ({"nodes": [-5]}, "index -5 is out of bounds"),
        ({"nodes": [[1]]}, "more than one dimension"),
        ({"nodes": [1.5]}, "must be of integer"),
        ({"rows": slice(None, None, 2)}, "step 1 is needed"),
    ):
        with pytest.raises(SourceFormatError, match=message):
            SelectedSource(whole(), **how)  # type: ignore[arg-type]
    with pytest.raises(SourceFormatError, match="none of them 'f' to select from"):
        SelectedSource(ArraySource(np.zeros((3, 2))), features=[0])


def test_static_source_without_time() -> None:
    static = VALUES[0]
    part = SelectedSource(Stored(static, "nf"), nodes=[3, 1, 0], features=[2])
    out = np.empty((2, 1), "f4")
    part.read(1, 3, out)
    np.testing.assert_array_equal(out, static[[3, 1, 0]][1:3][:, [2]])
    np.testing.assert_array_equal(
        SelectedSource(ArraySource(static, axes="nf"), nodes=[1]).array(), static[[1]]
    )


def test_selection_of_a_selection() -> None:
    part = SelectedSource(
        SelectedSource(Stored(VALUES, "tnf"), rows=slice(2, 10), nodes=[3, 0, 1]),
        rows=slice(1, 5),
        nodes=[2, 0],
    )
    out = np.empty(part.shape, "f4")
    part.read(0, 4, out)
    np.testing.assert_array_equal(out, VALUES[2:10][1:5][:, [1, 3]])


def test_fingerprint_depends_on_what_stays() -> None:
    parts: list[dict[str, Any]] = [
        {},
        {"rows": slice(1, 10)},
        {"nodes": [0]},
        {"nodes": [1]},
        {"features": [0]},
    ]
    assert len({SelectedSource(whole(), **how).fingerprint() for how in parts}) == len(parts)


class Boxed(Stored):
    """Reads ranges, or positions, of the other axes too."""

    def __init__(self, values: np.ndarray, axes: str, boxes: Literal["slices", "indices"]) -> None:
        super().__init__(values, axes)
        self.boxes, self.seen = boxes, []

    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> int:
        super()._read(start, stop, out=(rows := np.empty((stop - start, *self.shape[1:]), "f4")))
        out[...] = rows if box is None else within(rows, box)
        self.seen.append([part if isinstance(part, slice) else part.tolist() for part in box or ()])
        return out.nbytes


@pytest.mark.parametrize(
    ("boxes", "asked", "taken"),
    [
        ("indices", [slice(0, 2), slice(1, 2), [0, 2]], 10 * 4 * 4),
        ("slices", [slice(0, 2), slice(1, 2), slice(0, 3)], 10 * 6 * 4),
    ],
)
def test_a_source_that_reads_boxes_reads_less(boxes: Any, asked: list[Any], taken: int) -> None:
    stored = Boxed(VALUES.reshape(10, 2, 2, 3), "tnnf", boxes)
    part = SelectedSource(stored, nodes=[3, 1, 3], features=[2, 0])
    out = np.empty(part.shape, "f4")
    size = part.read(0, 10, out)
    np.testing.assert_array_equal(out, VALUES[:, [3, 1, 3]][:, :, [2, 0]])
    assert stored.seen == [asked]
    assert size == part.storage().cost([0], [10]).bytes[0] == taken
    assert part.storage().row_bytes == 3 * 2 * 4


def test_a_part_of_a_part_is_one_box() -> None:
    stored = Boxed(VALUES, "tnf", "indices")
    part = SelectedSource(
        SelectedSource(stored, rows=slice(2, 9), nodes=[3, 0, 1]), nodes=[2, 0], features=[1]
    )
    out = np.empty((2, *part.shape[1:]), "f4")
    part.read(1, 3, out)
    np.testing.assert_array_equal(out, VALUES[3:5][:, [1, 3]][:, :, [1]])
    assert stored.seen == [[[1, 3], slice(1, 2)]]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_against_numpy(data: st.DataObject) -> None:
    axes = (
        "t" + data.draw(st.permutations("nnf").map("".join))
        if data.draw(st.booleans())
        else data.draw(st.permutations("tnff").map("".join))
    )
    shape = [data.draw(st.integers(1, 4)) for _ in axes]
    values = np.arange(np.prod(shape)).reshape(shape)
    source = data.draw(st.sampled_from([ArraySource(values, axes=axes), Stored(values, axes)]))
    rows = slice(*sorted(data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))))
    first = np.moveaxis(values, axes.index("t"), 0)[rows]
    letters = source.axes
    expected, how = first, {"rows": rows}
    for letter, name in (("f", "features"), ("n", "nodes")):
        places = [axis for axis, found in enumerate(letters) if found == letter]
        total = int(np.prod([expected.shape[axis] for axis in places]))
        index = data.draw(st.none() | st.lists(st.integers(-total, total - 1), max_size=5))
        if index is None:
            continue
        how[name] = index
        together = np.moveaxis(expected, places, range(len(places)))
        together = together.reshape(total, *together.shape[len(places) :])[np.array(index, int)]
        expected = np.moveaxis(together, 0, places[0])
        letters = "".join(found for axis, found in enumerate(letters) if axis not in places[1:])
    part = SelectedSource(source, **how)  # type: ignore[arg-type]
    assert (part.axes, part.shape) == (letters, expected.shape)
    out = np.empty(part.shape, values.dtype)
    part.read(0, part.shape[0], out)
    np.testing.assert_array_equal(out, expected)
    view = part.array()
    assert view is None or np.array_equal(view, expected)
