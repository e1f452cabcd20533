"""Statistics do not depend on how rows are read, and see only the rows that windows hold."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import MissingDataError, ScalerError
from windowloader.scaling.fit import reduce_rows
from windowloader.scaling.statistics import Extremes, Moments


class Streamed(wl.Source):
    """A source that must be read, with a storage grid, and that notes what is asked of it."""

    def __init__(self, values, chunk=None, fail_at=None):
        chunks = None if chunk is None else (chunk, *values.shape[1:])
        super().__init__("streamed", shape=values.shape, dtype=values.dtype, chunks=chunks)
        self.values, self.fail_at = values, fail_at
        self.asked: list[tuple[int, int]] = []
        self.under_way = 0

    def read(self, start, stop, out):
        out[...] = self.values[start:stop]
        return out.nbytes

    def submit(self, start, stop, out):
        self.asked.append((start, stop))
        self.under_way += 1
        future: Future = Future()
        if self.fail_at is not None and start <= self.fail_at < stop:
            future.set_exception(OSError("lost"))
        else:
            future.set_result(self.read(start, stop, out))
        return future


SPEC = wl.WindowSpec(lookback=5, horizon=3)


def moments(source, *, per="feature", read_bytes, weighting="rows", keep=None, **options):
    windows = wl.WindowSet(wl.Series(source, **options), SPEC)
    windows = windows if keep is None else windows.take(keep)
    series = windows.series
    entities = len(series.entity_borders) - 1 if per == "entity" else 1
    reducers = {c: [Moments(entities, series.num_nodes, per != "node")] for c in series.columns()}
    reduce_rows(windows, reducers, weighting=weighting, read_bytes=read_bytes)
    tables = [(reducer.finish(), reducer.count) for [reducer] in reducers.values()]
    return np.stack([np.concatenate([count, table["mean"], table["std"]], axis=1) for table, count in tables])


@pytest.fixture
def values():
    return np.random.default_rng(0).lognormal(2, 1, size=(1500, 70, 2)).astype(np.float32)


@pytest.mark.parametrize("per", ["feature", "node", "entity"])
def test_any_read_size_and_grid_gives_the_same_bits(values, per):
    options = {"entities": [0, 700, 1110, 1500]} if per == "entity" else {}
    expected = moments(values, per=per, read_bytes=1 << 30, **options)
    row = values[0].nbytes
    for chunk in (None, 1, 100, 256, 999):
        for rows in (1, 77, 256, 4000):
            found = moments(Streamed(values, chunk), per=per, read_bytes=rows * row, **options)
            np.testing.assert_array_equal(found, expected)


def test_tiles_of_wide_rows_change_no_bit(values, monkeypatch):
    expected = moments(values, read_bytes=1 << 30)
    monkeypatch.setattr("windowloader.scaling.statistics.TILE_BYTES", 8 * 70 * 3)
    np.testing.assert_array_equal(moments(values, read_bytes=1 << 30), expected)


def test_groups_of_256_rows_count_from_the_first_row_of_the_set(values):
    """Shifting the same rows to another place in a longer series changes no bit."""
    shifted = np.concatenate([np.full((100, 70, 2), 1e9, np.float32), values])
    expected = moments(values, read_bytes=1 << 20)
    found = moments(shifted, read_bytes=1 << 20, keep=slice(100, None))
    np.testing.assert_array_equal(found, expected)


def test_storage_is_read_once_in_order_along_its_own_edges(values):
    source = Streamed(values, chunk=100)
    moments(source, read_bytes=250 * values[0].nbytes)
    assert source.asked == [(i, min(i + 200, 1500)) for i in range(0, 1500, 200)]


def test_rows_that_no_window_holds_are_neither_counted_nor_read(values):
    source = Streamed(values, chunk=100)
    found = moments(source, read_bytes=100 * values[0].nbytes, keep=[0, 1, 1000])
    held = np.concatenate([values[0:9], values[1000:1008]]).astype(np.float64)
    assert source.asked == [(0, 9), (1000, 1008)]
    np.testing.assert_allclose(found[:, 0, 1], held.mean(axis=(0, 1)), rtol=1e-13)
    assert (found[:, 0, 0] == 17 * 70).all()


def test_a_failed_read_surfaces_and_leaves_nothing_under_way(values):
    with pytest.raises(OSError, match="lost"):
        moments(Streamed(values, chunk=100, fail_at=450), read_bytes=100 * values[0].nbytes)


@pytest.mark.parametrize("dtype", ["int8", "int64", "float16", "float32", "float64", ">f4"])
def test_every_dtype_is_summed_as_float64(dtype):
    values = np.random.default_rng(1).integers(-100, 100, size=(300, 3)).astype(dtype)
    found = moments(values, read_bytes=1 << 20)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(found[0, 0], [900, wide.mean(), wide.std()], rtol=1e-13)


@pytest.mark.parametrize("level", [0.0, 1e6, -3e8])
def test_a_high_level_does_not_drown_the_spread(level):
    values = np.random.default_rng(2).normal(size=(1000, 4)) + level
    found = moments(values, read_bytes=1 << 20)
    expected = np.var(values.astype(np.longdouble))
    assert found[0, 0, 2] ** 2 == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("declared", [-1.0, float("nan")])
def test_nan_is_missing_wherever_anything_is_declared(declared):
    values = np.random.default_rng(3).normal(size=(400, 3))
    values[300, 1], values[17, 0] = np.nan, declared
    windows = wl.WindowSet(wl.Series(values, missing=declared), SPEC)
    seen = values[np.isfinite(values) & (values != declared)]
    scaler = wl.StandardScaler.fit(windows)
    assert scaler.mean == pytest.approx(seen.mean(), rel=1e-12)
    assert scaler.std == pytest.approx(seen.std(), rel=1e-12)


@pytest.mark.parametrize("reducer", [Moments, Extremes])
def test_an_undeclared_nan_is_named(reducer):
    values = np.ones((400, 3, 2))
    values[300, 1, 1] = np.nan
    series = wl.Series(values, features=["speed", "flow"], nodes=["a", "b", "c"])
    windows = wl.WindowSet(series, SPEC)
    reducers = {column: [reducer(1, 3, True)] for column in series.columns()}
    with pytest.raises(
        MissingDataError, match=r"'flow' at row 300, node 1 \('b'\) is NaN.*missing=float\('nan'\)"
    ):
        reduce_rows(windows, reducers, weighting="rows")


@pytest.mark.parametrize("reducer", [Moments, Extremes])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_an_infinite_value_is_named_whatever_is_missing(reducer, bad):
    values = np.ones((40, 3))
    values[7, 2] = bad
    series = wl.Series(values, missing=np.nan)
    with pytest.raises(ScalerError, match=r"row 7, node 2 is -?inf"):
        reduce_rows(
            wl.WindowSet(series, SPEC),
            {series.columns()[0]: [reducer(1, 3, False)]},
            weighting="rows",
        )


def test_a_bad_value_in_a_row_that_no_window_holds_does_not_matter():
    values = np.ones((40, 3))
    values[20] = np.nan
    found = moments(values, read_bytes=1 << 20, keep=[0, 30])
    assert found[0, 0].tolist() == [2 * 8 * 3, 1.0, 0.0]


def test_progress_rises_to_the_whole(values):
    seen = []
    windows = wl.WindowSet(wl.Series(Streamed(values, 100)), SPEC)
    wl.StandardScaler.fit(windows, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (1500, 1500)
