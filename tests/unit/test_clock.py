"""Clocks: what is taken as timestamps, how small they are, what is refused."""

from __future__ import annotations

import datetime
import pickle

import numpy as np
import pandas as pd
import pytest

from windowloader.errors import FeatureNameError, SeriesError
from windowloader.series.clock import Clock
from windowloader.util.calendars import Times, frequency, nanoseconds_of

FIVE_MINUTES = np.arange("2012-03-01", "2012-03-08", np.timedelta64(5, "m"), dtype="datetime64[m]")


@pytest.mark.parametrize(
    "given",
    [
        FIVE_MINUTES,
        FIVE_MINUTES.astype("datetime64[ns]"),
        FIVE_MINUTES.astype(str),
        FIVE_MINUTES.astype(str).tolist(),
        FIVE_MINUTES.astype(object).tolist(),
        pd.date_range("2012-03-01", periods=2016, freq="5min"),
        pd.Series(pd.date_range("2012-03-01", periods=2016, freq="5min")),
        pd.date_range("2012-03-01", periods=2016, freq="5min", tz="UTC"),
        pd.date_range("2012-03-01 01:00", periods=2016, freq="5min", tz="Europe/Paris"),
        pd.Series(pd.date_range("2012-02-29 19:00", periods=2016, freq="5min", tz="America/New_York")),
        [f"{text}:00Z" for text in FIVE_MINUTES.astype(str)],
        ("2012-03-01", "5min"),
        ("2012-03-01T00:00", np.timedelta64(5, "m")),
        (datetime.datetime(2012, 3, 1), datetime.timedelta(minutes=5)),
        (pd.Timestamp("2012-03-01"), pd.Timedelta("5min")),
    ],
)
def test_timestamps_in_any_form_are_the_same_clock(given: object) -> None:
    clock = Clock.from_timestamps(given, 2016)
    np.testing.assert_array_equal(clock.timestamps(np.arange(2016)), FIVE_MINUTES.astype("datetime64[ns]"))
    assert len(clock.rows) == 1
    assert clock.nbytes == 24


def test_a_hundred_million_rows_take_bytes() -> None:
    clock = Clock.from_timestamps(("2000-01-01", "1s"), 10**8)
    assert clock.nbytes == 24
    assert len(pickle.dumps(clock)) < 500
    assert clock.searchsorted("2001-01-01") == 366 * 86400
    assert clock.timestamps(10**8 - 1) == np.datetime64("2000-01-01", "ns") + np.timedelta64(10**8 - 1, "s")


def test_an_irregular_clock_keeps_its_timestamps() -> None:
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.integers(1, 10**12, 1000)).view("datetime64[ns]")
    clock = Clock.from_timestamps(values, 1000)
    assert clock.nbytes <= 12 * (len(values) + 1)
    np.testing.assert_array_equal(clock.timestamps(np.arange(1000)), values)


def test_months_and_jitter_are_no_jumps_but_gaps_and_weekends_are() -> None:
    months = pd.date_range("2006-01-01", periods=54, freq="MS")
    assert not len(Clock.from_timestamps(months, 54).jumps(np.array([0, 54])))
    jittered = FIVE_MINUTES[:100].astype("datetime64[s]") + np.random.default_rng(0).integers(-60, 60, 100)
    assert not len(Clock.from_timestamps(jittered, 100).jumps(np.array([0, 100])))
    gap = np.delete(FIVE_MINUTES, [50])
    assert Clock.from_timestamps(gap, len(gap)).jumps(np.array([0, len(gap)])).tolist() == [50]
    workdays = pd.bdate_range("2024-01-01", periods=10)
    assert Clock.from_timestamps(workdays, 10).jumps(np.array([0, 10])).tolist() == [5]


def test_clocks_are_right_across_days_leap_years_and_before_1970() -> None:
    moments = [
        "1899-12-31T18:00",
        "1900-02-28",
        "1900-03-01",
        "1969-12-31T23:59",
        "2000-02-29T12:00",
        "2000-12-31",
    ]
    clock = Clock.from_timestamps(moments, 6)
    values = clock.values(["time_of_day", "day_of_week", "day_of_year"], np.arange(6))
    assert values[:, 0].tolist() == [0.75, 0.0, 0.0, (24 * 60 - 1) / (24 * 60), 0.5, 0.0]
    assert values[:, 1].tolist() == [
        6,
        2,
        3,
        2,
        1,
        6,
    ]  # Sunday, Wednesday, Thursday, Wednesday, Tuesday, Sunday
    assert values[:, 2].tolist() == [365, 59, 60, 365, 60, 366]


def test_values_keep_the_shape_of_the_rows() -> None:
    clock = Clock.from_timestamps(("2012-03-01", "6h"), 8)
    rows = np.array([[0, 1, 2], [4, 5, 7]])
    values = clock.values(["time_of_day", "time_of_day_sin"], rows)
    assert values.shape == (2, 3, 2)
    assert values[:, :, 0].tolist() == [[0.0, 0.25, 0.5], [0.0, 0.25, 0.75]]
    np.testing.assert_allclose(values[0, :, 1], [0, 1, 0], atol=1e-15)


def test_non_increasing_timestamps_raise() -> None:
    values = FIVE_MINUTES.copy()
    values[[700, 701]] = values[[701, 700]]
    with pytest.raises(
        SeriesError, match=r"goes back from row 700 \(2012-03-03T10:25.*2012-03-03T10:20"
    ) as raised:
        Clock.from_timestamps(values, 2016)
    assert "entities=" in str(raised.value)
    values = FIVE_MINUTES.copy()
    values[9] = values[8]
    with pytest.raises(SeriesError, match="repeats from row 8 "):
        Clock.from_timestamps(values, 2016)


def test_time_may_fall_from_one_entity_to_the_next() -> None:
    values = np.concatenate([FIVE_MINUTES[100:], FIVE_MINUTES, FIVE_MINUTES[:1]])
    borders = np.array([0, 1916, 3932, 3933])
    clock = Clock.from_timestamps(values, 3933, borders)
    assert len(clock.rows) == 3
    np.testing.assert_array_equal(clock.timestamps(np.arange(3933)), values)
    with pytest.raises(SeriesError, match="within an entity"):
        Clock.from_timestamps(values[::-1], 3933, borders)
    with pytest.raises(SeriesError, match="3 entities, each with its own dates"):
        Clock.from_timestamps(("2012-03-01", "5min"), 3933, borders)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (FIVE_MINUTES[:-1], "2015 timestamps for 2016 rows"),
        (np.arange(2016), "int64 numbers, whose unit is not known"),
        (np.arange(2016.0), "float64 numbers"),
        (np.append(FIVE_MINUTES[:-1], np.datetime64("NaT", "ns")), "row 2015 is NaT, not a time"),
        (["yesterday"] * 2016, "cannot be read as times"),
        ([object()] * 2016, "cannot be read as times"),
        (FIVE_MINUTES.astype("datetime64[Y]") + np.timedelta64(400, "Y"), "which nanoseconds since 1970 can"),
        (FIVE_MINUTES.reshape(-1, 2), r"shape \(1008, 2\)"),
        (("2012-03-01", "1000W"), "after the year 2262"),
    ],
)
def test_invalid_timestamps_raise(given: object, message: str) -> None:
    with pytest.raises(SeriesError, match=message):
        Clock.from_timestamps(given, 2016)


@pytest.mark.parametrize("freq", ["MS", "M", "5", "0min", "-5min", "", 5, None, np.timedelta64(1, "M")])
def test_invalid_frequencies_raise(freq: object) -> None:
    with pytest.raises(SeriesError, match="not a step of a fixed length"):
        frequency(freq)


def test_rows_out_of_range_and_unknown_names_raise() -> None:
    clock = Clock.from_timestamps(("2012-03-01", "5min"), 10)
    with pytest.raises(IndexError, match="not all in 0 … 9"):
        clock.timestamps([0, 10])
    with pytest.raises(FeatureNameError, match="'hour' is not a clock feature"):
        clock.values(["hour"], [0])


def test_zones_are_converted_to_utc() -> None:
    assert nanoseconds_of(["2012-03-01T01:00:00+01:00"]) == nanoseconds_of(["2012-03-01"])
    zone = datetime.timezone(datetime.timedelta(hours=-5))
    assert nanoseconds_of([datetime.datetime(2012, 2, 29, 19, tzinfo=zone)]) == nanoseconds_of(["2012-03-01"])


def test_many_entities_in_pieces_have_the_runs_of_the_whole(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    borders = np.concatenate([[0], np.cumsum(rng.integers(1, 40, 60))])
    steps = rng.choice([1, 1, 1, 1, 2, 5], int(borders[-1]))
    times = Times(np.concatenate([np.cumsum(part) for part in np.split(steps, borders[1:-1])]) * 10**9, "")
    whole = Clock.from_timestamps(times, int(borders[-1]), borders)
    monkeypatch.setattr("windowloader.series.clock.PIECE", 50)
    pieces = Clock.from_timestamps(times, int(borders[-1]), borders)
    assert pieces.fingerprint() == whole.fingerprint()
    np.testing.assert_array_equal(pieces.timestamps(np.arange(borders[-1])), times)
    row = int(borders[-2]) - 1
    times[row] = times[row - 1]
    with pytest.raises(SeriesError, match=f"repeats from row {row - 1} .* to row {row} .* within an entity"):
        Clock.from_timestamps(times, int(borders[-1]), borders)
