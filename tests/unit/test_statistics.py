"""Statistics do not depend on how rows are read, and see only the rows that windows hold."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import pickle
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import CredentialsError, MissingDataError, ScalerError, SourceError
from windowloader.sources.executors import pickled, run
from windowloader.sources.options import locate


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


def moments(source, *, per="feature", read_bytes=1 << 20, keep=None, **options):
    """Mean and standard deviation of each feature, shape (feature, 2, statistic), by reads of some bytes."""
    windows = wl.WindowSet(wl.Series(source, **options), SPEC)
    windows = windows if keep is None else windows.take(keep)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("windowloader.scaling.fit.READ_BYTES", read_bytes)
        scaler = wl.StandardScaler.fit(windows, per=per)
    return np.array([[scaler[name].mean, scaler[name].std] for name in scaler.features])


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
    np.testing.assert_allclose(found[:, 0], held.mean(axis=(0, 1)), rtol=1e-13)
    np.testing.assert_allclose(found[:, 1], held.std(axis=(0, 1)), rtol=1e-13)


def test_a_failed_read_surfaces_and_leaves_nothing_under_way(values):
    with pytest.raises(OSError, match="lost"):
        moments(Streamed(values, chunk=100, fail_at=450), read_bytes=100 * values[0].nbytes)


@pytest.mark.parametrize("dtype", ["int8", "int64", "float16", "float32", "float64", ">f4"])
def test_every_dtype_is_summed_as_float64(dtype):
    values = np.random.default_rng(1).integers(-100, 100, size=(300, 3)).astype(dtype)
    found = moments(values, read_bytes=1 << 20)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(found[0], [wide.mean(), wide.std()], rtol=1e-13)


@pytest.mark.parametrize("level", [0.0, 1e6, -3e8])
def test_a_high_level_does_not_drown_the_spread(level):
    values = np.random.default_rng(2).normal(size=(1000, 4)) + level
    found = moments(values, read_bytes=1 << 20)
    expected = np.var(values.astype(np.longdouble))
    assert found[0, 1] ** 2 == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("declared", [-1.0, float("nan")])
def test_nan_is_missing_wherever_anything_is_declared(declared):
    values = np.random.default_rng(3).normal(size=(400, 3))
    values[300, 1], values[17, 0] = np.nan, declared
    windows = wl.WindowSet(wl.Series(values, missing=declared), SPEC)
    seen = values[np.isfinite(values) & (values != declared)]
    scaler = wl.StandardScaler.fit(windows)
    assert scaler.mean == pytest.approx(seen.mean(), rel=1e-12)
    assert scaler.std == pytest.approx(seen.std(), rel=1e-12)


KINDS = [wl.StandardScaler, wl.MinMaxScaler, wl.RobustScaler]


@pytest.mark.parametrize("kind", KINDS)
def test_an_undeclared_nan_is_named(kind):
    values = np.ones((400, 3, 2))
    values[300, 1, 1] = np.nan
    series = wl.Series(values, features=["speed", "flow"], nodes=["a", "b", "c"])
    windows = wl.WindowSet(series, SPEC)
    with pytest.raises(
        MissingDataError, match=r"'flow' at row 300, node 1 \('b'\) is NaN.*missing=float\('nan'\)"
    ):
        kind.fit(windows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_an_infinite_value_is_named_whatever_is_missing(kind, bad):
    values = np.ones((40, 3))
    values[7, 2] = bad
    series = wl.Series(values, missing=np.nan)
    with pytest.raises(ScalerError, match=r"row 7, node 2 is -?inf"):
        kind.fit(wl.WindowSet(series, SPEC), per="node")


def test_a_bad_value_in_a_row_that_no_window_holds_does_not_matter():
    values = np.arange(120.0).reshape(40, 3)
    values[20] = np.nan
    held = np.concatenate([values[:8], values[30:38]])
    np.testing.assert_allclose(moments(values, keep=[0, 30])[0], [held.mean(), held.std()], rtol=1e-14)


def test_progress_rises_to_the_whole(values):
    seen = []
    windows = wl.WindowSet(wl.Series(Streamed(values, 100)), SPEC)
    wl.StandardScaler.fit(windows, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (1500, 1500)


# -- on executors ----------------------------------------------------------------------------------------------------


def cut(first: int, last: int, rng) -> list[slice]:
    """Cut rows at some of the borders of groups, in any order."""
    borders = [row for row in range(first + 256, last, 256) if rng.random() < 0.4]
    ends = [first, *borders, last]
    parts = [slice(*pair) for pair in itertools.pairwise(ends)]
    rng.shuffle(parts)
    return parts


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(KINDS),
    st.sampled_from([{}, {"per": "node"}, {"per": "entity"}, {"per": "entity", "unseen": "pooled"}]),
    st.sampled_from(["rows", "windows"]),
)
def test_any_cutting_and_any_order_of_parts_gives_the_same_bits(seed, kind, options, weighting):
    rng = np.random.default_rng(seed)
    steps, nodes = int(rng.integers(600, 5000)), int(rng.integers(1, 5))
    values = rng.lognormal(3, 2, (steps, nodes))
    values[rng.random(values.shape) < 0.2] = np.nan
    borders = np.append(np.unique([0, *(rng.integers(20, steps - 20, 6) // 20 * 20)]), steps)
    series = wl.Series(values, missing=np.nan, entities=borders if "per" in options else None)
    windows = wl.WindowSet(series, SPEC).take(slice(int(rng.integers(0, 300)), None))
    options = {**options, "weighting": weighting}
    whole = kind.fit(windows, **options)
    parts = [kind.fit_partial(windows, rows, **options) for rows in cut(*windows.row_range, rng)]
    assert kind.merge(windows, pickle.loads(pickle.dumps(parts)), **options) == whole


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 1e3, -1e9]), st.integers(1, 3000))
def test_sums_are_those_of_exact_arithmetic(seed, level, steps):
    values = np.random.default_rng(seed).standard_t(3, (steps + 8, 3)) + level
    scaler = wl.StandardScaler.fit(wl.WindowSet(wl.Series(values), SPEC), per="node")
    for node in range(3):
        column = [Fraction(value) for value in values[:, node].tolist()]
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        assert scaler.mean[node] == pytest.approx(float(mean), rel=1e-14, abs=1e-14)
        assert scaler.std[node] == pytest.approx(math.sqrt(variance), rel=1e-10 if level else 1e-13)


def test_the_tree_is_fixed_by_the_numbers_of_the_groups():
    """Groups of constant values tell in which order they were joined: (((0 1) (2 3)) 4)."""
    values = np.repeat([1e16, 1.0, 1.0, 1e16, 3.0], 256)[:, np.newaxis]
    windows = wl.WindowSet(wl.Series(values), wl.WindowSpec(lookback=1, horizon=0))
    one, other = ((1e16 + (1.0 - 1e16) * 0.5), (1.0 + (1e16 - 1.0) * 0.5))
    four = one + (other - one) * 0.5
    assert wl.StandardScaler.fit(windows).mean == pytest.approx(four + (3.0 - four) * 0.2, rel=1e-15)


def mapped(tmp_path, steps=20_000):
    np.save(tmp_path / "a.npy", np.random.default_rng(7).normal(60, 9, (steps, 120)).astype("f4"))
    return wl.WindowSet(wl.open(tmp_path / "a.npy"), SPEC)


def test_processes_and_threads_give_the_bits_of_one_thread(tmp_path, monkeypatch):
    monkeypatch.setattr("windowloader.scaling.fit.PIECE_BYTES", 1 << 20)
    windows, seen = mapped(tmp_path), []
    whole = wl.StandardScaler.fit(windows, per="node")
    assert json.loads(whole.to_json())["options"]["statistics"] == "statistics-2"
    pools = (
        ThreadPoolExecutor(3),
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")),
    )
    for pool in pools:
        with pool as executor:
            found = wl.StandardScaler.fit(
                windows,
                per="node",
                executor=executor,
                progress=lambda done, total: seen.append((done, total)),
            )
        assert found == whole
        assert seen[-1] == (20_000, 20_000)
        assert len(seen) == 5
        seen.clear()


def test_what_cannot_be_shared_out_is_told(tmp_path):
    windows = mapped(tmp_path, 1000)
    kind = wl.StandardScaler
    with pytest.raises(ScalerError, match=r"end at 300, within a group of 256.*take 256 or 512"):
        kind.fit_partial(windows, slice(0, 300))
    with pytest.raises(ScalerError, match="between 0 and 1000"):
        kind.fit_partial(windows, (0, 2000))
    first, last = kind.fit_partial(windows, (0, 512)), kind.fit_partial(windows, slice(512, None))
    with pytest.raises(ScalerError, match=r"rows 512 … 999 are in no part"):
        kind.merge(windows, [first])
    with pytest.raises(ScalerError, match=r"rows 0 … 511 are in two parts"):
        kind.merge(windows, [first, last, first])
    with pytest.raises(ScalerError, match="of other options"):
        kind.merge(windows, [first, last], weighting="windows")
    with pytest.raises(TypeError, match=r"executor=4 is no concurrent\.futures\.Executor"):
        kind.fit(windows, executor=4)


@pytest.mark.parametrize(
    "location",
    [
        locate("s3://bucket/a.zarr", {"key": "AKIA", "secret": "hush"}),
        locate("https://host/a.zarr", {"headers": {"Authorization": "Bearer hush"}}),
        locate("https://me:hush@host/a.zarr"),
        {"storage_options": {"account_key": "hush"}},
        "https://host/a.csv?signature=hush",
    ],
)
def test_keys_by_value_are_not_sent_to_other_processes(location):
    pool = ProcessPoolExecutor(1)  # starts none
    with pool, pytest.raises(CredentialsError, match=r"not sent to other processes.*environment") as error:
        list(run(partial(print, location), [1], executor=pool, at_once=1))
    assert "hush" not in str(error.value)


def test_keys_of_the_environment_are_looked_up_by_each_worker(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    for options in ({}, {"profile": "lab"}, {"anon": True}):
        assert b"hush" not in pickled(partial(print, locate("s3://bucket/a.zarr", options)))


def test_an_array_in_memory_is_not_sent_with_every_piece(monkeypatch):
    monkeypatch.setattr("windowloader.sources.executors.LARGEST_JOB", 100_000)
    windows = wl.WindowSet(wl.Series(np.zeros((20_000, 3))), SPEC)
    with ProcessPoolExecutor(1) as pool, pytest.raises(SourceError, match=r"numpy\.save"):
        wl.StandardScaler.fit(windows, executor=pool)
    with ThreadPoolExecutor(2) as pool, pytest.warns(UserWarning, match="constant"):
        wl.StandardScaler.fit(windows, executor=pool)


def test_a_worker_that_dies_is_told():
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver"))
    with pool, pytest.raises(SourceError, match="a worker of the executor ended"):
        list(run(os._exit, [3], executor=pool, at_once=1))
