"""Series against plain arrays: any axes, joins, borders and selections."""

from __future__ import annotations

import math
import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.errors import SeriesError
from windowloader.series.alignment import infer_axes
from windowloader.series.clock import clip_borders
from windowloader.series.graph import Graph
from windowloader.series.series import Series


def canonical(array: np.ndarray, axes: str) -> np.ndarray:
    order = [place for letter in "tnf" for place, axis in enumerate(axes) if axis == letter]
    size = {
        letter: math.prod(n for n, axis in zip(array.shape, axes, strict=True) if axis == letter)
        for letter in "tnf"
    }
    return array.transpose(order).reshape(size["t"], size["n"], size["f"])


def read(series: Series) -> dict[str, np.ndarray]:
    """Every feature of a series as [row or 1, node or 1], by both ways there are."""
    found = {}
    for variable in series.variables:
        rows = np.empty((variable.num_rows, variable.num_nodes, variable.num_features), variable.dtype)
        view = variable.view()
        if variable.has_time:
            half = variable.num_rows // 2
            variable.submit(half, variable.num_rows, rows[half:]).result()
            variable.read(0, half, rows[:half])
        else:
            assert view is not None
            rows[...] = view
        if view is not None:
            np.testing.assert_array_equal(view, rows)
        found.update({name: rows[:, :, place] for place, name in enumerate(variable.features)})
    return found


@st.composite
def variables(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, str], int, tuple[int, ...]]:
    """Arrays of any axes over one time and one space."""
    steps = draw(st.integers(1, 8))
    space = tuple(draw(st.lists(st.integers(1, 4), max_size=2)))
    arrays, axes = {}, {}
    for number in range(draw(st.integers(1, 3))):
        features = draw(st.lists(st.integers(1, 3), max_size=1))
        letters = ["t", *"n" * len(space), *"f" * len(features)]
        order = draw(st.permutations(range(len(letters))))
        spaces, sizes = iter(space), iter(features)
        given_axes = "".join(letters[place] for place in order)
        shape = [steps if a == "t" else next(spaces) if a == "n" else next(sizes) for a in given_axes]
        dtype = draw(st.sampled_from(["f4", "f8", "i2", ">i4"]))
        arrays[f"v{number}"] = (np.arange(math.prod(shape)) + 100 * number).reshape(shape).astype(dtype)
        axes[f"v{number}"] = given_axes
    return arrays, axes, steps, space


@settings(max_examples=80, deadline=None)
@given(variables(), st.data())
def test_a_series_is_its_arrays(
    case: tuple[dict[str, np.ndarray], dict[str, str], int, tuple[int, ...]], data: st.DataObject
) -> None:
    arrays, axes, steps, space = case
    cut = sorted(data.draw(st.sets(st.integers(1, max(steps - 1, 1)), max_size=2)) - {steps})
    pieces = [{} for _ in range(len(cut) + 1)]
    for name, array in arrays.items():
        for piece, part in zip(pieces, np.split(array, cut, axis=axes[name].index("t")), strict=True):
            piece[name] = part
    series = Series(pieces if data.draw(st.booleans()) else arrays, axes=axes)
    assert series.space_shape == space
    assert series.num_steps == steps
    expected = {
        (name if axes[name].count("f") == 0 or whole.shape[2] == 1 else f"{name}.{place}"): whole[:, :, place]
        for name, array in arrays.items()
        for whole in [canonical(array, axes[name])]
        for place in range(whole.shape[2])
    }
    assert series.features == tuple(expected)
    for name, found in read(series).items():
        np.testing.assert_array_equal(found, expected[name])

    # a part of a part, through a pickle
    for _ in range(2):
        start = data.draw(st.integers(0, series.num_steps - 1))
        stop = data.draw(st.integers(start + 1, series.num_steps))
        features = data.draw(st.lists(st.sampled_from(series.features), min_size=1, unique=True))
        nodes = None
        if series.space_shape:
            nodes = data.draw(st.lists(st.integers(0, series.num_nodes - 1), min_size=1, unique=True))
        series = pickle.loads(
            pickle.dumps(series.select(time=slice(start, stop), features=features, nodes=nodes))
        )
        assert series.features == tuple(features)
        assert [column.name for column in series.columns()] == features
        expected = {
            name: expected[name][start:stop] if nodes is None else expected[name][start:stop][:, nodes]
            for name in features
        }
        found = read(series)
        assert set(found) == set(features)
        for name in features:
            np.testing.assert_array_equal(found[name], expected[name])


@settings(max_examples=80, deadline=None)
@given(st.sets(st.integers(1, 30), max_size=6), st.data())
def test_borders_of_a_part_are_those_inside(inner: set[int], data: st.DataObject) -> None:
    borders = np.array([0, *sorted(inner), 31])
    start = data.draw(st.integers(0, 30))
    stop = data.draw(st.integers(start + 1, 31))
    found, kept = clip_borders(borders, slice(start, stop))
    assert found.tolist() == [
        0,
        *[border - start for border in sorted(inner) if start < border < stop],
        stop - start,
    ]
    whole = [sum(border <= row for border in borders) - 1 for row in range(31)]
    assert Series(np.zeros((31, 1)), entities=borders).entity_of(np.arange(31)).tolist() == whole
    assert list(range(*kept.indices(len(borders)))) == sorted(set(whole[start:stop]))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.integers(1, 4), max_size=2),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_inferred_axes_are_unambiguous(steps: int, space: list[int], shape: list[int]) -> None:
    """Whatever is inferred fits; and where it is refused, none fits or several fit equally well."""

    def fits(axes: tuple[str, ...]) -> bool:
        by = {letter: [n for n, axis in zip(shape, axes, strict=True) if axis == letter] for letter in "tnf"}
        return (
            by["t"] in ([], [steps])
            and by["n"] in ([], space)
            and len(by["f"]) <= 1
            and bool(by["t"] or by["n"])
        )

    grids = np.stack(np.meshgrid(*[np.arange(3)] * len(shape), indexing="ij"), -1).reshape(-1, len(shape))
    fitting = {"".join("tnf"[i] for i in row) for row in grids if fits(tuple("tnf"[i] for i in row))}
    least = min((axes.count("f") for axes in fitting), default=0)
    best = {axes for axes in fitting if axes.count("f") == least}
    try:
        assert {infer_axes("x", tuple(shape), steps, tuple(space))} == best
    except SeriesError:
        assert len(best) != 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.data())
def test_a_graph_follows_the_nodes(count: int, data: st.DataObject) -> None:
    dense = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count**2, max_size=count**2)), float)
    dense = dense.reshape(count, count)
    names = np.array([f"s{number}" for number in range(count)])
    order = data.draw(st.permutations(range(count)))
    chosen = data.draw(st.lists(st.sampled_from(range(count)), min_size=1, unique=True))
    series = Series(np.zeros((3, count)), nodes=names[order], graph=Graph.from_dense(dense, nodes=names))
    part = series.select(nodes=list(names[chosen]))
    np.testing.assert_array_equal(series.graph.dense(), dense[np.ix_(order, order)])  # type: ignore[union-attr]
    np.testing.assert_array_equal(part.graph.dense(), dense[np.ix_(chosen, chosen)])  # type: ignore[union-attr]
