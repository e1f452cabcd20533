"""Window sets on real series: what they refuse, choose, read and pickle."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import FeatureNameError, WindowSpecError
from windowloader.windows.index import Explicit, Runs

SPEC = wl.WindowSpec(lookback=12, horizon=12)


def series_of(steps, **options):
    return wl.Series(np.arange(steps * 2, dtype=np.float32).reshape(steps, 2), name="traffic.npy", **options)


def test_published_count_of_windows():
    assert len(wl.WindowSet(series_of(2016), SPEC)) == 1993


@pytest.mark.parametrize(
    ("steps", "options", "says"),
    [
        (20, {}, r"lookback=12 \+ delay=0 \+ horizon=12 needs 24 steps, but .* has 20"),
        (60, {"segments": [0, 10, 33, 50, 60]}, r"the longest segment of .* \(number 1 of 4, rows 10 … 32\) has 23"),
    ],
)  # fmt: skip
def test_a_span_longer_than_every_segment_is_an_error(steps, options, says):
    with pytest.raises(WindowSpecError, match=says):
        wl.WindowSet(series_of(steps, **options), SPEC)


def test_short_segments_can_be_refused():
    series = series_of(100, segments=[0, 60, 75, 100])
    assert wl.WindowSet(series, SPEC).starts().tolist() == [*range(37), 75, 76]
    spec = wl.WindowSpec(lookback=12, horizon=12, short_segments="raise")
    with pytest.raises(
        WindowSpecError, match=r"'traffic.npy' \(number 1 of 3, rows 60 … 74\) has 15.*short_segments='skip'"
    ):
        wl.WindowSet(series, spec)
    assert len(wl.WindowSet(series_of(100, segments=[0, 60, 100]), spec)) == 37 + 17


def test_names_are_looked_up_when_the_set_is_built():
    with pytest.raises(FeatureNameError, match="sped"):
        wl.WindowSet(series_of(50), wl.WindowSpec(lookback=2, horizon=1, inputs=["sped"]))
    both = wl.Series({"x": np.zeros((50, 2))}, features={"x": ["x"]})
    with pytest.raises(WindowSpecError, match=r"\['x'\] are both targets and future"):
        wl.WindowSet(both, wl.WindowSpec(lookback=2, horizon=1, future=["x"]))


def test_a_target_that_is_an_input_too_is_refused():
    series = wl.Series({"x": np.zeros((50, 2)), "y": np.zeros((50, 2))})
    with pytest.raises(WindowSpecError, match=r"\['x', 'y'\] at offset 0 are both inputs and targets"):
        wl.WindowSet(series, wl.WindowSpec(lookback=3, target_offsets=(0, 1)))
    nowcast = wl.WindowSpec(lookback=3, target_offsets=(0,), inputs=["x"], targets=["y"])
    assert len(wl.WindowSet(series, nowcast)) == 48


def test_three_meters_of_different_lengths_give_windows_within_a_meter():
    series = series_of(90, entities=[0, 40, 65, 90], entity_names=["a", "b", "c"])
    windows = wl.WindowSet(series, SPEC)
    assert windows.starts().tolist() == [*range(17), 40, 41, 65, 66]
    assert windows.entities().tolist() == [0] * 17 + [1, 1, 2, 2]
    assert windows.entities([0, 18]).tolist() == [0, 1]


def test_numbers_outside_the_set_are_refused():
    windows = wl.WindowSet(series_of(30), SPEC)
    for wrong in (7, -1, [0, 99]):
        with pytest.raises(IndexError, match="outside this set of 7"):
            windows.starts(wrong)
    with pytest.raises(TypeError, match="flatnonzero"):
        windows.take(np.ones(7, bool))
    assert windows.starts(np.array([], int)).tolist() == []
    assert windows.starts(np.array([[0, 1], [2, 3]])).shape == (2, 2)
    assert windows.starts(3) == 3


def test_what_is_evenly_spaced_stays_arithmetic():
    windows = wl.WindowSet(series_of(500), SPEC)
    for even in (slice(3, 90, 4), range(0, 477, 2), np.arange(10, 20), [5], []):
        assert isinstance(windows.take(even).index, Runs)
    for listed in ([3, 1], [1, 1], [0, 1, 3], range(9, 0, -1)):
        assert isinstance(windows.take(listed).index, Explicit)
        assert windows.take(listed).starts().tolist() == list(listed)


def test_roles_of_rows_are_checked():
    with pytest.raises(ValueError, match="Known are 'inputs', 'targets' and 'all'"):
        wl.WindowSet(series_of(30), SPEC).row_counts(0, 3, role="future")


def test_fingerprints_tell_windows_apart_but_not_values():
    windows = wl.WindowSet(series_of(60), SPEC)
    other = wl.WindowSet(wl.Series(np.ones((60, 2), np.float32)), SPEC)
    assert windows.fingerprint() == other.fingerprint()
    assert windows.fingerprint() != windows.take(range(5)).fingerprint()
    assert (
        windows.fingerprint()
        != wl.WindowSet(series_of(60), wl.WindowSpec(lookback=11, horizon=13)).fingerprint()
    )


def test_a_window_set_on_a_mapped_file_pickles_small(tmp_path):
    path = tmp_path / "traffic.npy"
    np.save(path, np.zeros((105_120, 50), np.float32))
    windows = wl.WindowSet(wl.open(path, timestamps=("2012-01-01", "5min")), SPEC)
    assert len(pickle.dumps(windows)) < 4096
    gaps = np.unique(np.random.default_rng(0).choice(105_000, 1000)[:1000] + 1)
    parted = wl.WindowSet(wl.open(path, segments=[0, *gaps, 105_120]), SPEC)
    data = pickle.dumps(parted)
    assert len(data) < 4096 + 16 * len(gaps)
    again = pickle.loads(data)
    assert again.fingerprint() == parted.fingerprint()
    assert again.part is None


def test_reading_a_batch_without_a_loader(tmp_path):
    values = np.random.default_rng(0).random((80, 3)).astype(np.float32)
    np.save(tmp_path / "values.npy", values)
    for series in (wl.Series(values), wl.open(tmp_path / "values.npy")):
        batch = wl.WindowSet(series, SPEC).read([4, 0, 4])
        assert batch.starts.tolist() == [4, 0, 4]
        assert (batch.inputs[..., 0] == np.stack([values[4:16], values[:12], values[4:16]])).all()
        assert (batch.targets[..., 0] == np.stack([values[16:28], values[12:24], values[16:28]])).all()


def test_reading_what_must_be_read(tmp_path):
    zarr = pytest.importorskip("zarr")
    values = np.random.default_rng(0).random((80, 3)).astype(np.float32)
    array = zarr.create_array(tmp_path / "values.zarr", shape=values.shape, chunks=(16, 2), dtype="float32")
    array[:] = values
    batch = wl.WindowSet(wl.open(tmp_path / "values.zarr", axes="tn"), SPEC).read([50, 0])
    assert (batch.inputs[..., 0] == np.stack([values[50:62], values[:12]])).all()


def test_each_window_gets_its_own_edges():
    edges = [np.array([[0], [t % 2]]) for t in range(30)]
    graph = wl.DynamicGraph.from_steps([(edge, None) for edge in edges])
    series = series_of(30, graph=graph)
    windows = wl.WindowSet(series, SPEC)
    assert windows.graph_at(np.array([0, 1])) is not None
    assert wl.WindowSet(series_of(30), SPEC).graph_at(np.array([0])) is None


def test_a_set_says_what_it_is():
    windows = wl.WindowSet(series_of(30), SPEC)
    assert repr(windows) == "WindowSet(7 windows of rows 0 … 29)"
    assert repr(windows.take([])) == "WindowSet(0 windows)"
