"""Series in a time zone or a calendar of their own: dates, clocks, windows as pandas, cftime and xarray have them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.convert.conversion import convert
from windowloader.errors import SeriesError
from windowloader.series.clock import CLOCK_NAMES, Clock
from windowloader.view.inspection import inspect

if TYPE_CHECKING:
    from pathlib import Path

CALENDARS = ("noleap", "all_leap", "360_day", "julian")
ZONES = ("America/Los_Angeles", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "UTC+02:00", "UTC")


def with_waves(time: np.ndarray, week: np.ndarray, year: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All clocks of `CLOCK_NAMES` from the share of the day, the weekday and the day of the year."""
    columns = []
    for plain, turn in ((time, time), (week, week / 7), (year, (year - 1) / lengths)):
        columns += [plain, np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)]
    return np.stack(columns, axis=-1)


def delivered(series: wl.Series, names: tuple[str, ...]) -> np.ndarray:
    """Clocks of all rows, by a loader."""
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0, inputs=names))
    with wl.WindowLoader(windows, batch_size=64, dtype="float64") as loader:
        return np.concatenate([np.array(batch.inputs)[:, 0, 0] for batch in loader])


@given(
    calendar=st.sampled_from(CALENDARS),
    year=st.integers(1690, 2200),
    hours=st.sampled_from([1, 6, 24, 120]),
    gone=st.tuples(st.integers(1, 300), st.integers(0, 20)),
    lookback=st.integers(1, 9),
)
@settings(max_examples=25, deadline=None)
def test_a_calendar_of_its_own(
    calendar: str, year: int, hours: int, gone: tuple[int, int], lookback: int
) -> None:
    start = f"{year:04d}-02-20"
    index = xr.date_range(start, periods=320, freq=f"{hours}h", calendar=calendar, use_cftime=True)
    first, count = gone
    index = index[np.r_[0:first, min(first + count, 320) : 320]]
    steps = len(index)
    values = xr.DataArray(np.zeros((steps, 2)), {"time": index}, ("time", "x"), name="q")
    series = wl.open(values)
    clock = series.clock
    assert clock is not None
    rows = np.arange(steps)
    assert clock.texts(rows) == [date.isoformat() for date in index]
    lengths = [index[0].replace(year=d.year, month=12, day=30).dayofyr for d in index]
    lengths = np.array(lengths) + (calendar != "360_day")
    time = np.array([(d.hour * 60 + d.minute) / 1440 for d in index])
    expected = with_waves(time, np.array(index.dayofweek), np.array(index.dayofyear), lengths)
    np.testing.assert_allclose(delivered(series, CLOCK_NAMES), expected, atol=1e-12)
    step = index[1] - index[0] if first > 1 else index[2] - index[1]
    whole = [index[i + 1] - index[i] <= step * 1.5 for i in range(steps - 1)]
    span = lookback + 3
    starts = [i for i in range(steps - span + 1) if all(whole[i : i + span - 1])]
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=lookback, horizon=3))
    assert len(windows) == len(starts)
    place = steps // 2
    assert clock.searchsorted(index[place].isoformat()) == clock.searchsorted(index[place]) == place
    assert series.select(time=slice(index[place].isoformat(), None)).num_steps == steps - place
    again = pickle.loads(pickle.dumps(series))
    assert again.clock.texts(rows) == clock.texts(rows)
    assert again.fingerprint() == series.fingerprint()
    assert calendar in repr(series)


@pytest.mark.parametrize("calendar", CALENDARS)
def test_the_same_from_files(calendar: str, tmp_path: Path) -> None:
    index = xr.date_range("2003-02-01", periods=800, freq="D", calendar=calendar, use_cftime=True)
    dataset = xr.Dataset({"q": (("time", "x"), np.zeros((800, 2)))}, {"time": index})
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    convert(wl.open(str(tmp_path / "a.nc")), str(tmp_path / "b.zarr"))
    texts = [date.isoformat() for date in index]
    for name in ("a.nc", "a.zarr", "b.zarr"):
        series = wl.open(str(tmp_path / name))
        assert series.clock.texts(np.arange(800)) == texts
        assert len(wl.WindowSet(series, wl.WindowSpec(lookback=6, horizon=6))) == 789
        time = inspect(series)["time"]
        assert (time["gaps"], time["calendar"]) == (0, calendar)
    decoded = xr.open_zarr(tmp_path / "b.zarr", consolidated=False)
    assert [date.isoformat() for date in decoded["time"].values] == texts


def test_days_of_other_calendars_are_never_paired() -> None:
    index = xr.date_range("2001-01-01", periods=8, freq="D", calendar="noleap", use_cftime=True)
    with pytest.raises(SeriesError, match=r"calendar 'standard'.*'noleap'"):
        wl.open(
            xr.DataArray(np.zeros((8, 2)), {"time": index}, ("time", "x")),
            covariates={"w": pd.DataFrame({"w": np.zeros(8)}, pd.date_range("2000-12-24", periods=8))},
        )


@given(
    zone=st.sampled_from(ZONES),
    start=st.datetimes(pd.Timestamp(1975, 1, 1), pd.Timestamp(2035, 1, 1)),
    minutes=st.sampled_from([5, 30, 60, 1440]),
    steps=st.integers(2, 400),
    kind=st.sampled_from(["frame", "timestamps", "xarray"]),
)
@settings(max_examples=40, deadline=None)
def test_clocks_of_a_time_zone(zone: str, start: pd.Timestamp, minutes: int, steps: int, kind: str) -> None:
    index = pd.date_range(start, periods=steps, freq=f"{minutes}min", tz="UTC").tz_convert(zone)
    frame = pd.DataFrame({"a": np.zeros(steps)}, index=index)
    if kind == "frame":
        series = wl.open(frame)
    elif kind == "timestamps":
        series = wl.Series(frame.to_numpy(), timestamps=index)
    else:
        series = wl.open(xr.DataArray(np.zeros((steps, 1)), {"time": index}, ("time", "x")))
    day = index.tz_localize(None)
    time = (day - day.normalize()) / pd.Timedelta(days=1)
    lengths = np.where(index.is_leap_year, 366, 365)
    expected = with_waves(np.array(time), np.array(index.day_of_week), np.array(index.day_of_year), lengths)
    for one in (series, pickle.loads(pickle.dumps(series)), series.select(time=slice(0, steps))):
        np.testing.assert_allclose(delivered(one, CLOCK_NAMES), expected, atol=1e-9)
        utc = index.tz_convert(None).to_numpy()
        np.testing.assert_array_equal(one.clock.timestamps(np.arange(steps)), utc)
    plain = wl.Series(frame.to_numpy(), timestamps=index.tz_convert(None))
    assert (zone in repr(series)) == (zone != "UTC")
    assert (series.clock.fingerprint() == plain.clock.fingerprint()) == (zone == "UTC")


def test_a_clock_with_many_rows_is_of_local_time_too() -> None:
    """Clocks that are not kept for all rows, and would repeat every week in UTC."""
    index = pd.date_range("2019-01-01", periods=300_000, freq="5min", tz="Europe/Berlin")
    series = wl.Series(np.zeros((300_000, 1), np.float32), timestamps=index)
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0, inputs=("time_of_day",)))
    with wl.WindowLoader(windows, batch_size=4096, dtype="float64") as loader:
        found = np.concatenate([np.array(batch.inputs).reshape(-1) for batch in loader])
    np.testing.assert_allclose(found * 1440, index.hour * 60 + index.minute, atol=1e-9)


def test_a_clock_without_zone_stays_as_it_was() -> None:
    clock = Clock.from_timestamps(("2012-03-01", "5min"), 2016)
    assert clock.fingerprint() == "547de098b77174ab"
