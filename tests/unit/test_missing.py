"""Scans: what is counted, kept and read again, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import MissingDataError, WindowSpecError
from windowloader.windows import missing, missing_policy


@pytest.fixture(autouse=True)
def nothing_kept():
    missing._kept.clear()
    yield
    missing._kept.clear()


@pytest.fixture
def holes():
    """Speeds with a fifth of the readings missing (0)."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 70, (1000, 5)).astype(np.float32)
    values[rng.random(values.shape) < 0.02] = 0
    return values


def complete(values, span):
    seen = (values != 0).all(axis=1)
    return [s for s in range(len(values) - span + 1) if seen[s : s + span].all()]


COMPLETE = wl.WindowSpec(lookback=3, horizon=2, max_missing=0.0)


def test_sizes_of_reads_and_chunks_do_not_matter(holes, monkeypatch):
    monkeypatch.setattr(missing, "READ_BYTES", 37 * 20)
    monkeypatch.setattr(missing_policy, "CHUNK", 64)
    windows = wl.WindowSet(wl.Series(holes, missing=0.0), COMPLETE)
    assert windows.starts().tolist() == complete(holes, 5)
    spec = wl.WindowSpec(lookback=3, horizon=2, on_missing="raise")
    first = int(np.flatnonzero((holes == 0).any(axis=1))[0])
    with pytest.raises(MissingDataError, match=f"at row {first},"):
        wl.WindowSet(wl.Series(holes, missing=0.0), spec)


def test_values_in_memory_are_looked_at_anew(holes):
    series = wl.Series(holes, missing=0.0)
    wl.scan(series)
    holes[:] = 1
    assert len(wl.WindowSet(series, COMPLETE)) == 996


def counting(monkeypatch):
    calls = []
    real = missing._count

    def count(*arguments):
        calls.append(arguments[0].name)
        return real(*arguments)

    monkeypatch.setattr(missing, "_count", count)
    return calls


def test_a_mapped_file_is_scanned_once(holes, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", holes)
    series = wl.open(tmp_path / "a.npy", missing=0.0)
    calls = counting(monkeypatch)
    wl.scan(series)
    assert wl.WindowSet(series, COMPLETE).starts().tolist() == complete(holes, 5)
    assert len(calls) == 1
    holes[:] = 1
    np.save(tmp_path / "a.npy", holes)
    assert len(wl.WindowSet(wl.open(tmp_path / "a.npy", missing=0.0), COMPLETE)) == 996
    assert len(calls) == 2


def test_a_store_is_scanned_once_in_reads_along_its_chunks(holes, tmp_path, monkeypatch):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(tmp_path / "a.zarr", shape=holes.shape, chunks=(48, 2), dtype="float32")
    array[:] = holes
    monkeypatch.setattr(missing, "READ_BYTES", 20 * 60)
    calls, steps = counting(monkeypatch), []
    series = wl.open(tmp_path / "a.zarr", axes="tn", missing=0.0)
    assert series.tier == "streamed"
    found = wl.scan(series, progress=lambda done, total: steps.append((done, total)))
    assert list(found.missing.values()) == [int((holes == 0).sum())]
    assert wl.WindowSet(
        wl.open(tmp_path / "a.zarr", axes="tn", missing=0.0), COMPLETE
    ).starts().tolist() == complete(holes, 5)
    assert len(calls) == 1
    assert steps[-1] == (1000, 1000)
    assert steps == sorted(steps)


def test_nothing_declared_means_nothing_missing(holes):
    assert repr(wl.scan(wl.Series(holes))) == "MissingScan(nothing is declared missing)"
    assert len(wl.WindowSet(wl.Series(holes), COMPLETE)) == 996
    assert len(wl.WindowSet(wl.Series(holes.astype(np.int16), missing=np.nan), COMPLETE)) == 996


def test_a_share_too_small_names_the_share_that_would_do(holes):
    holes[:, 2] = 0
    with pytest.raises(
        WindowSpecError,
        match=r"max_missing=0.0 leaves none of 996 windows: the most complete misses a share of 0.2",
    ):
        wl.WindowSet(wl.Series(holes, missing=0.0), COMPLETE)
    spec = wl.WindowSpec(lookback=3, horizon=2, max_missing=0.2)
    assert len(wl.WindowSet(wl.Series(holes, missing=0.0), spec)) > 0


def test_the_first_missing_value_is_named_with_its_time():
    values = np.ones((50, 3), np.float32)
    values[20, 1] = np.nan
    spec = wl.WindowSpec(lookback=3, horizon=2, on_missing="raise")
    series = wl.Series(
        values,
        missing=np.nan,
        nodes=["773869", "767541", "767542"],
        timestamps=("2012-03-01", "5min"),
        features=["speed"],
    )
    says = r"'speed' is missing at 1 of 3 nodes at row 20 \(2012-03-01T01:40:00\).*max_missing=0.0"
    with pytest.raises(MissingDataError, match=says):
        wl.WindowSet(series, spec)
    assert len(wl.WindowSet(series.select(nodes=["773869", "767542"]), spec)) == 46
    kept = wl.WindowSpec(lookback=3, horizon=2, on_missing="raise", max_missing=0.0)
    assert wl.WindowSet(series, kept).starts().tolist() == [*range(16), *range(21, 46)]


def test_only_rows_and_columns_that_are_read_count():
    values = np.ones((30, 2, 2), np.float32)
    values[5, 0, 1] = np.nan
    series = wl.Series(values, features=["a", "b"], missing=np.nan)
    whole = wl.WindowSpec(lookback=2, horizon=1, on_missing="raise", inputs=["a"], targets=["a"])
    assert len(wl.WindowSet(series, whole)) == 28
    odd = wl.WindowSpec(lookback=2, horizon=1, dilation=2, stride=2, on_missing="raise")
    assert len(wl.WindowSet(series, odd)) == 13


def test_covariates_without_time_count_in_every_window():
    values = np.ones((30, 4), np.float32)
    height = np.array([1.0, np.nan, 2.0, 3.0])
    series = wl.Series(values, covariates={"height": (height, "n")}, missing={"height": np.nan})
    names = {"inputs": ["value", "height"], "targets": ["value"]}
    assert len(wl.WindowSet(series, wl.WindowSpec(lookback=2, horizon=1, max_missing=0.125, **names))) == 28
    with pytest.raises(WindowSpecError, match="0.125"):
        wl.WindowSet(series, wl.WindowSpec(lookback=2, horizon=1, max_missing=0.1, **names))
    with pytest.raises(MissingDataError, match="'height' is missing at 1 of 4 nodes at row 0,"):
        wl.WindowSet(series, wl.WindowSpec(lookback=2, horizon=1, on_missing="raise", **names))


def test_shares_are_compared_as_they_are_written():
    values = np.ones((10, 10), np.float32)
    values[:, 0] = np.nan
    series = wl.Series(values, missing=np.nan)
    assert len(wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=1, max_missing=0.1))) == 7
    with pytest.raises(WindowSpecError):
        wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=1, max_missing=np.nextafter(0.1, 0)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int64", ">f4", "bool"])
def test_any_dtype_and_order_of_axes(dtype):
    values = np.random.default_rng(0).integers(0, 2, (3, 40)).astype(dtype)
    found = wl.scan(wl.Series(values, axes="nt", missing=0.0))
    assert list(found.missing.values()) == [int((values == 0).sum())]


def test_the_metr_la_week_has_none(data):
    values = np.loadtxt(data / "metr_la_week" / "los_speed.csv", delimiter=",", skiprows=1)
    assert wl.scan(wl.Series(values, missing=0.0)).share == {"value": 0.0}


def test_sea_temperatures_miss_land(data):
    pytest.importorskip("xarray")
    series = wl.open(data / "iris" / "ostia_monthly.nc", variables=["surface_temperature"], missing=np.nan)
    assert sum(wl.scan(series).missing.values()) == 110970
