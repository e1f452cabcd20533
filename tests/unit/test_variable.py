"""Variables: one form for every order and number of axes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.errors import SeriesError
from windowloader.series.variable import Variable, feature_names
from windowloader.sources.mapping import is_mapped
from windowloader.sources.memory import ArraySource
from windowloader.sources.numpy_files import open_npy


def brute(array: np.ndarray, axes: str) -> np.ndarray:
    """[time, node, feature] by copying."""
    order = [place for letter in "tnf" for place, axis in enumerate(axes) if axis == letter]
    size = {
        letter: math.prod(n for n, axis in zip(array.shape, axes, strict=True) if axis == letter)
        for letter in "tnf"
    }
    return array.transpose(order).reshape(size["t"], size["n"], size["f"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_views_and_reads_are_canonical(data: st.DataObject) -> None:
    letters = ["t", *data.draw(st.lists(st.sampled_from("nf"), max_size=3))]
    axes = "".join(data.draw(st.permutations(letters)))
    shape = tuple(data.draw(st.integers(1, 4)) for _ in axes)
    array = np.arange(math.prod(shape), dtype="i4").reshape(shape)
    source = ArraySource(array, axes=axes)
    variable = Variable("x", source, feature_names("x", source, named=True))
    expected = brute(array, axes)
    assert (variable.num_rows, variable.num_nodes, variable.num_features) == expected.shape
    assert variable.row_bytes == expected[0].nbytes
    view = variable.view()
    if view is not None:
        np.testing.assert_array_equal(view, expected)
        assert np.shares_memory(view, array)
    start = data.draw(st.integers(0, variable.num_rows))
    stop = data.draw(st.integers(start, variable.num_rows))
    wide = np.full((stop - start, 2 * variable.num_nodes, variable.num_features + 1), -1, "i4")
    out = wide[:, ::2, 1:]  # any strides
    variable.read(start, stop, out)
    np.testing.assert_array_equal(out, expected[start:stop])
    assert (wide[:, 1::2] == -1).all()
    assert (wide[:, :, 0] == -1).all()
    out[...] = 0
    variable.submit(start, stop, out).result()
    np.testing.assert_array_equal(out, expected[start:stop])


def test_what_lacks_an_axis_is_broadcast() -> None:
    table = Variable("w", ArraySource(np.zeros((9, 2)), axes="tf"), ("a", "b"))
    assert (table.has_time, table.has_nodes, table.num_nodes) == (True, False, 1)
    fixed = Variable("alt", ArraySource(np.zeros((2, 5)), axes="fn"), ("a", "b"))
    assert (fixed.has_time, fixed.has_nodes, fixed.num_rows) == (False, True, 1)
    assert fixed.view().shape == (1, 5, 2)  # type: ignore[union-attr]
    values = np.arange(12).reshape(2, 3, 2)
    apart = Variable(
        "x", ArraySource(values, axes="nfn"), ("a", "b", "c")
    )  # no view has both space axes together
    np.testing.assert_array_equal(apart.view(), values.transpose(0, 2, 1).reshape(1, 4, 3))  # type: ignore[arg-type]


def test_names_of_features() -> None:
    def names(
        shape: tuple[int, ...], axes: str, labels: dict | None = None, *, named: bool = True
    ) -> tuple[str, ...]:
        return feature_names("t", ArraySource(np.zeros(shape), axes=axes, labels=labels), named=named)

    assert names((9, 4), "tn") == ("t",)
    assert names((9, 4, 1), "tnf") == ("t",)
    assert names((9, 4, 2), "tnf") == ("t.0", "t.1")
    assert names((9, 2, 4), "tfn", {1: np.array([500.0, 850.0])}) == ("t.500", "t.850")
    assert names((9, 2), "tf", {1: np.array(["OT", "HUFL"])}) == ("t.OT", "t.HUFL")
    assert names((9, 2), "tf", {1: np.array(["OT", "HUFL"])}, named=False) == ("OT", "HUFL")
    assert names((9, 1), "tf", {1: np.array(["kwh"])}, named=False) == ("kwh",)
    assert names((9, 2, 2), "tff", {2: np.array([b"a", b"b"])}) == ("t.0.a", "t.0.b", "t.1.a", "t.1.b")
    with pytest.raises(SeriesError, match="2 features .*1 names: t"):
        Variable("t", ArraySource(np.zeros((9, 4, 2))), ("t",))


def test_mapped_arrays_are_detected(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 4, 2)))
    view = Variable("x", open_npy(tmp_path / "x.npy"), ("a", "b")).view()
    assert view is not None
    assert is_mapped(view[2:, ::2].transpose(1, 0, 2))
    assert is_mapped(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert not is_mapped(np.zeros(3)[1:])
    assert not is_mapped(np.frombuffer(b"12345678"))
