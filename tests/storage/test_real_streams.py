"""Measured data streamed with a fifth of their size in memory: grids with a chunk a step, and METR-LA's full length.

The folder has a week of METR-LA, a month of ERA5, decades of model years: tiled where the length matters.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

import windowloader as wl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def an_epoch_at_a_time(monkeypatch):
    monkeypatch.setattr("windowloader.rows.lane_cache.LaneCache._drains", lambda self, lane_pass: False)


def era5(data):
    xarray = pytest.importorskip("xarray")
    with xarray.open_dataset(data / "era5_uk" / "era5-2mt-2019-03-uk.nc", engine="h5netcdf") as opened:
        return opened["t2m"].values.astype("f4"), ("time", "latitude", "longitude")


def north_america(data):
    xarray = pytest.importorskip("xarray")
    where = data / "iris" / "A1B_north_america.nc"
    with xarray.open_dataset(where, decode_times=False, engine="h5netcdf") as opened:
        return opened["air_temperature"].values.astype("f4"), ("time", "latitude", "longitude")


def sea_surface(data):
    xarray = pytest.importorskip("xarray")
    with xarray.open_dataset(
        data / "iris" / "ostia_monthly.nc", decode_times=False, engine="h5netcdf"
    ) as opened:
        return opened["surface_temperature"].values.astype("f4"), ("time", "latitude", "longitude")


def metr_la(data):
    pandas = pytest.importorskip("pandas")
    return pandas.read_csv(data / "metr_la_week" / "los_speed.csv").to_numpy("f4"), ("time", "sensor")


@dataclass(frozen=True)
class Case:
    """Data, their chunks, windows of them, and how a fifth of their size has them read."""

    make: Callable[[Path], tuple[np.ndarray, tuple[str, ...]]]
    spec: wl.WindowSpec
    mode: str
    times: int = 1
    chunk: int = 1
    active: int | None = None
    fill: float | None = None


CASES = {
    "era5": Case(era5, wl.WindowSpec(lookback=3, horizon=2), "blocks", active=2),
    "era5, longer windows": Case(era5, wl.WindowSpec(lookback=6, horizon=3), "halo", active=4),
    "iris": Case(north_america, wl.WindowSpec(lookback=4, horizon=2), "blocks", times=4, active=2),
    "iris, as it is": Case(north_america, wl.WindowSpec(lookback=4, horizon=2), "halo"),
    "ostia": Case(sea_surface, wl.WindowSpec(lookback=2, horizon=1), "blocks", times=8, active=2, fill=0.0),
    "metr-la": Case(metr_la, wl.WindowSpec(lookback=12, horizon=12), "blocks", times=17, chunk=288),
}


LONG = ("era5, longer windows", "iris")  # thousands of requests
FORMS = [
    pytest.param(case, id=name, marks=[pytest.mark.campaign] * (name in LONG)) for name, case in CASES.items()
]


@pytest.mark.parametrize("case", FORMS)
def test_a_fifth_of_the_size_is_enough(case, data, static, bucket_folder, tmp_path):
    import zarr

    values, dims = case.make(data)
    values = np.tile(values, (case.times, *[1] * (values.ndim - 1)))
    name, chunks = f"{tmp_path.name}.zarr", (case.chunk, *values.shape[1:])
    store = bucket_folder / "bkt" / name
    zarr.create_array(store, data=values, chunks=chunks, dimension_names=dims, compressors=None)
    np.save(tmp_path / "mapped.npy", values)
    missing = None if case.fill is None else float("nan")
    series = wl.open(f"{static.url}/bkt/{name}", missing=missing)
    windows, mapped = (
        wl.WindowSet(one, case.spec)
        for one in (series, wl.open(tmp_path / "mapped.npy", axes="tnn"[: values.ndim], missing=missing))
    )
    scaler = wl.StandardScaler.fit(windows)
    assert scaler.to_json() == wl.StandardScaler.fit(mapped).to_json()
    memory, how = values.nbytes // 5, {"scaler": scaler, "fill": case.fill}
    with wl.WindowLoader(
        windows, batch_size=32, shuffle=True, memory=memory, active_blocks=case.active, **how
    ) as loader:
        plan = loader.plan()
        static.clear()
        seen = []
        for batch in loader:
            expected = mapped.read(batch.starts, **how)
            for field in ("inputs", "targets", "input_mask", "target_mask"):
                np.testing.assert_array_equal(getattr(batch, field), getattr(expected, field))
            seen += batch.starts.tolist()
    assert sorted(seen) == list(range(len(values) - case.spec.span + 1))
    gets = collections.Counter(path for _, path, *_ in static.data)
    assert plan.mode == case.mode
    assert plan.memory.total <= memory
    assert len(gets) == len(values) // case.chunk
    assert sum(gets.values()) == plan.own.requests
    assert sum(sent for *_, sent in static.data) == plan.own.bytes
    if plan.mode == "blocks":
        assert set(gets.values()) == {1}
    series.variables[0].source.close()
    del mapped, expected
