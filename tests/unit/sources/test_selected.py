from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.errors import SourceFormatError
from windowloader.sources.base import LocalSource
from windowloader.sources.memory import ArraySource
from windowloader.sources.selected import SelectedSource

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

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        self.asked.append((start, stop))
        out[...] = self.held[start:stop]

    def fingerprint(self) -> str:
        return "stored"


def test_slices_and_even_steps_are_views() -> None:
    for nodes in (slice(1, 3), [1, 2], [3, 1], [2], np.array([3, 2, 1, 0])):
        array = SelectedSource(whole(), rows=slice(2, 9, 3), nodes=nodes).array()
        assert array is not None
        assert np.shares_memory(array, VALUES)
        np.testing.assert_array_equal(array, VALUES[2:9:3][:, nodes])
    assert SelectedSource(whole(), nodes=[0, 1, 3]).array() is None
    assert SelectedSource(whole(), nodes=[1, 1]).array() is None


def test_labels_and_times_follow() -> None:
    part = SelectedSource(whole(), rows=slice(1, 8, 2), nodes=[3, 0], features=[1])
    assert list(part.labels(1)) == ["d", "a"]  # type: ignore[arg-type]
    assert list(part.labels(2)) == ["flow"]  # type: ignore[arg-type]
    np.testing.assert_array_equal(part.timestamps(), TIMES[1:8:2])
    assert part.labels(0) is None


def test_only_the_rows_needed_are_read() -> None:
    stored = Stored(VALUES, "tnf", chunks=(4, 4, 3))
    part = SelectedSource(stored, rows=slice(3, 10))
    part.read(1, 3, np.empty((2, 4, 3), "f4"))
    SelectedSource(stored, rows=slice(1, 10, 3), nodes=[2, 0, 1]).read(1, 3, np.empty((2, 3, 3), "f4"))
    assert stored.asked == [(4, 6), (4, 8)]


@pytest.mark.parametrize(
    ("rows", "edges"),
    [
        (slice(0, 10), [0, 4, 8, 10]),
        (slice(3, 9), [0, 1, 5, 6]),
        (slice(1, 10, 2), [0, 2, 4, 5]),
        (slice(5, 5), [0]),
    ],
)
def test_edges_are_counted_in_the_rows_that_stay(rows: slice, edges: list[int]) -> None:
    source = SelectedSource(Stored(VALUES, "tnf", chunks=(4, 4, 3)), rows=rows)
    np.testing.assert_array_equal(source.edges(), edges)
    expected = [
        i for i, row in enumerate(range(10)[rows]) if i == 0 or row // 4 != range(10)[rows][i - 1] // 4
    ]
    np.testing.assert_array_equal(source.edges()[:-1], expected)  # type: ignore[index]


def test_what_is_not_there_is_said() -> None:
    for how, message in (
        ({"nodes": [4]}, "reaches from 4 to 4, and there are 4"),
        ({"nodes": [-5]}, "reaches from -5"),
        ({"nodes": [[1]]}, "one dimension"),
        ({"nodes": [True, False, True, True]}, "dtype bool"),
        ({"rows": slice(None, None, -1)}, "steps of 1 or more"),
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
        rows=slice(1, 5, 2),
        nodes=[2, 0],
    )
    out = np.empty(part.shape, "f4")
    part.read(0, 2, out)
    np.testing.assert_array_equal(out, VALUES[2:10][1:5:2][:, [1, 3]])


def test_fingerprint_depends_on_what_stays() -> None:
    parts: list[dict[str, Any]] = [
        {},
        {"rows": slice(1, 10)},
        {"nodes": [0]},
        {"nodes": [1]},
        {"features": [0]},
    ]
    assert len({SelectedSource(whole(), **how).fingerprint() for how in parts}) == len(parts)


def test_source_that_can_take_reads_less() -> None:
    class Taking(Stored):
        can_take = True

        def take(self, axis: int, index: np.ndarray) -> Taking:
            taken = Taking(self.held.take(index, axis), self.axes)
            taken.asked = self.asked
            self.asked.append((axis, index.tolist()))
            return taken

    stored = Taking(VALUES.reshape(10, 2, 2, 3), "tnnf")
    part = SelectedSource(stored, nodes=[3, 1, 3], features=[2, 0])
    out = np.empty(part.shape, "f4")
    part.read(0, 10, out)
    np.testing.assert_array_equal(out, VALUES[:, [3, 1, 3]][:, :, [2, 0]])
    assert stored.asked == [(2, [1]), (3, [0, 2]), (0, 10)]


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
    rows = slice(
        *sorted(data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))), data.draw(st.integers(1, 3))
    )
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
