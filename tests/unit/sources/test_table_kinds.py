"""Tables of every kind that people have: the same values, labels and times as pandas, through a loader."""

from __future__ import annotations

import datetime
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dateutil import tz
from pyarrow import feather

import windowloader as wl
from windowloader.errors import SourceFormatError
from windowloader.sources.registry import open_source
from windowloader.sources.table_long import open_long_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INDEX = pd.date_range("2020-01-30", periods=60, freq="h", name="time")
FRAME = pd.DataFrame(np.random.default_rng(0).normal(50, 9, (60, 3)), INDEX, ["b", "a", "c"])
LARGE = 2**60 + 1


def loaded(series: wl.Series) -> np.ndarray:
    """All rows by a loader, shape (time, node)."""
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
    with wl.WindowLoader(windows, batch_size=4096, dtype="float64") as loader:
        return np.concatenate(
            [np.array(batch.inputs)[:, 0].reshape(len(batch.inputs), -1) for batch in loader]
        )


def moments(series: wl.Series) -> np.ndarray:
    assert series.clock is not None
    return series.clock.timestamps(np.arange(series.num_steps))


def hours(series: wl.Series) -> np.ndarray:
    assert series.clock is not None
    return series.clock.values(["time_of_day"], np.arange(series.num_steps))[:, 0] * 24


def check(series: wl.Series, frame: pd.DataFrame = FRAME) -> None:
    np.testing.assert_array_equal(loaded(series), frame)
    assert series.nodes.tolist() == [str(column) for column in frame.columns]  # type: ignore[union-attr]
    np.testing.assert_array_equal(moments(series), frame.index.to_numpy("M8[ns]"))


def write_folder(folder: Path, names: list[str], frame: pd.DataFrame = FRAME) -> Path:
    for name, rows in zip(names, np.array_split(np.arange(len(frame)), len(names)), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        frame.iloc[rows].to_parquet(folder / name)
    (folder / "_SUCCESS").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [
            "year=2020/month=1/part.parquet",
            "year=2020/month=2/part.parquet",
            "year=2020/month=10/part.parquet",
        ],
        ["part-2.parquet", "part-10.parquet", "part-1.parquet"],
        ["only.parquet"],
    ],
)
def test_folders_of_parquet_files(tmp_path: Path, names: list[str]) -> None:
    check(wl.open(write_folder(tmp_path / "a", names)))
    check(wl.open(str(write_folder(tmp_path / "b.parquet", names))))
    flat = FRAME.rename_axis(index=None).reset_index(names="when")
    check(wl.open(write_folder(tmp_path / "c", names, flat), time="when"))
    one = wl.open(next((tmp_path / "a").rglob("*.parquet")))
    assert one.nodes.tolist() == ["b", "a", "c"]  # type: ignore[union-attr]


def test_names_of_folders_are_columns_where_they_are_asked_for(tmp_path: Path) -> None:
    for name, place in (("0042", 0), ("0007", 1)):
        (tmp_path / "a" / f"sensor={name}").mkdir(parents=True)
        (FRAME[["a"]] + place).to_parquet(tmp_path / "a" / f"sensor={name}" / "part.parquet")
    series = wl.open(tmp_path / "a", entity="sensor", time="time")
    np.testing.assert_array_equal(series.entity_names, ["0007", "0042"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(loaded(series)[60:, 0], FRAME["a"])
    with (
        pytest.warns(UserWarning, match=r"named by 'sensor', which is left out.*columns=, entity="),
        pytest.raises(wl.errors.SeriesError, match="increase|repeat"),
    ):
        wl.open(tmp_path / "a")
    hourly = FRAME.iloc[:24].reset_index(drop=True).assign(hour=range(24))
    for day in (1, 2):
        (tmp_path / "b" / "year=2020" / "month=3" / f"day={day}").mkdir(parents=True)
        hourly.to_parquet(tmp_path / "b" / "year=2020" / "month=3" / f"day={day}" / "p.parquet")
    series = wl.open(tmp_path / "b", time=["year", "month", "day", "hour"])
    expected = pd.date_range("2020-03-01", periods=48, freq="h")
    np.testing.assert_array_equal(moments(series), expected.to_numpy("M8[ns]"))
    assert series.nodes.tolist() == ["b", "a", "c"]  # type: ignore[union-attr]


def test_feather_and_files_without_a_suffix(tmp_path: Path) -> None:
    feather.write_feather(FRAME, tmp_path / "a.feather")
    feather.write_feather(pa.Table.from_pandas(FRAME), tmp_path / "b.arrow", compression="uncompressed")
    FRAME.to_parquet(tmp_path / "c")
    feather.write_feather(FRAME, tmp_path / "d")
    for name in ("a.feather", "b.arrow", "c", "d"):
        check(wl.open(tmp_path / name))
    (tmp_path / "a.feather").write_bytes(b"ARROW1\0\0 and no more")
    with pytest.raises(SourceFormatError, match=r"a\.feather.* cannot be read as Feather"):
        wl.open(tmp_path / "a.feather")


def test_excel(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    FRAME.to_excel(tmp_path / "a.xlsx")
    stored = pd.read_excel(tmp_path / "a.xlsx", index_col=0)  # Excel keeps 15 digits
    check(wl.open(tmp_path / "a.xlsx"), stored)
    with pd.ExcelWriter(tmp_path / "b.xlsx") as writer:
        FRAME.to_excel(writer, sheet_name="air")
        (FRAME * 2).to_excel(writer, sheet_name="water")
    stored = pd.read_excel(tmp_path / "b.xlsx", sheet_name="water", index_col=0)
    check(wl.open(tmp_path / "b.xlsx", sheet_name="water"), stored)
    assert stored.loc[INDEX[0], "a"] > 60
    pd.DataFrame([[1.5, 2.5], [3.5, 4.5]]).to_excel(tmp_path / "c.xlsx", header=False, index=False)
    np.testing.assert_array_equal(loaded(wl.open(tmp_path / "c.xlsx")), [[1.5, 2.5], [3.5, 4.5]])
    pd.DataFrame([[17, 4], [12, 5]]).to_excel(tmp_path / "c.xlsx", header=False, index=False)
    with pytest.raises(SourceFormatError, match="header=True or header=False"):
        wl.open(tmp_path / "c.xlsx")
    np.testing.assert_array_equal(loaded(wl.open(tmp_path / "c.xlsx", header=False)), [[17, 4], [12, 5]])
    pd.DataFrame([["a", "a"], [3.5, 4.5]]).to_excel(tmp_path / "d.xlsx", header=False, index=False)
    with pytest.raises(SourceFormatError, match="'a'.* more than once"):
        wl.open(tmp_path / "d.xlsx")


def polars_frame(frame: pd.DataFrame) -> Any:
    return pytest.importorskip("polars").from_arrow(pa.Table.from_pandas(frame.reset_index()))


class Stream:
    """A table that has the Arrow C stream alone."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.table = pa.Table.from_pandas(frame.reset_index())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


class Foreign:
    """A table that has ``to_pandas`` alone."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.to_pandas = frame.copy


class Derived(pd.DataFrame):
    """A frame of a package that derives from pandas, as GeoPandas does."""


MAKES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "derived": Derived,
    "arrow": lambda frame: pa.Table.from_pandas(frame.reset_index()),
    "reader": lambda frame: pa.Table.from_pandas(frame.reset_index()).to_reader(),
    "polars": polars_frame,
    "stream": Stream,
    "foreign": Foreign,
    "arrow dtypes": lambda frame: frame.reset_index().convert_dtypes(dtype_backend="pyarrow"),
    "nullable": lambda frame: frame.convert_dtypes(),
    "sparse": lambda frame: frame.astype(pd.SparseDtype(float)),
    "categories": lambda frame: frame.reset_index().astype({"time": "category"}),
    "periods": lambda frame: frame.reset_index().assign(time=lambda f: f["time"].dt.to_period("h")),
    "objects": lambda frame: frame.reset_index().assign(time=lambda f: f["time"].dt.to_pydatetime().tolist()),
}


@pytest.mark.parametrize("make", MAKES)
def test_tables_of_every_library(make: str) -> None:
    check(wl.open(MAKES[make](FRAME)))
    if make not in ("sparse", "categories", "periods"):
        zone = FRAME.tz_localize("Europe/Berlin")
        series = wl.open(MAKES[make](zone))
        np.testing.assert_array_equal(moments(series), zone.index.tz_convert(None).to_numpy("M8[ns]"))
        np.testing.assert_allclose(hours(series), zone.index.hour)


@pytest.mark.parametrize("make", ["arrow", "polars", "stream", "parquet", "nullable"])
def test_whole_numbers_stay_exact(tmp_path: Path, make: str) -> None:
    table = pa.table({"time": INDEX[:3], "n": pa.array([1, None, LARGE]), "x": [0.5, 1.5, 2.5]})
    whole = pa.table({"time": INDEX[:3], "n": [1, 2, LARGE], "m": pa.array([3, 4, 5], pa.int64())})

    def target(table: pa.Table) -> Any:
        if make == "parquet":
            pq.write_table(table, tmp_path / "a.parquet")
            return tmp_path / "a.parquet"
        if make == "nullable":
            return table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        return {"arrow": lambda: table, "stream": lambda: Stream(table.to_pandas().set_index("time")),
                "polars": lambda: pytest.importorskip("polars").from_arrow(table)}[make]()  # fmt: skip

    source = open_source(target(whole), axes="tf")
    assert source.dtype == np.int64
    assert source.array()[2, 0] == LARGE  # type: ignore[index]
    if make != "stream":
        with pytest.raises(SourceFormatError, match=r"'n' of .* above 2\*\*53"):
            wl.open(target(table), axes="tf")
    small = table.set_column(1, "n", pa.array([1, None, 2**50]))
    np.testing.assert_array_equal(open_source(target(small), axes="tf").array()[:, 0], [1, np.nan, 2**50])  # type: ignore[index]


def test_decimals_and_mixed_dtypes() -> None:
    table = pa.table(
        {"time": INDEX[:2], "d": [Decimal("0.1"), Decimal("20.25")], "b": [True, False], "i": [1, 2]}
    )
    np.testing.assert_array_equal(open_source(table, axes="tf").array(), [[0.1, 1, 1], [20.25, 0, 2]])
    frame = pd.DataFrame({"u": np.array([1, 2], "u8"), "i": [-1, 2]})
    assert open_source(frame).array().dtype == frame.to_numpy().dtype  # type: ignore[union-attr]
    with pytest.raises(SourceFormatError, match=r"'i' of .* above 2\*\*53"):
        open_source(pd.DataFrame({"i": [LARGE, 2], "x": [0.5, 1.5]}))


@pytest.mark.parametrize(
    ("texts", "zone"),
    [
        (["2020-03-01 00:00+02:00", "2020-03-01 01:00+02:00"], "UTC+02:00"),
        (["2020-03-01T00:00-0530", "2020-03-01T01:00-0530"], "UTC-05:30"),
        (["20200301T000000+0200", "20200301T010000+0200"], "UTC+02:00"),
        (["2020-03-01T00:00Z", "2020-03-01T01:00Z"], ""),
        (["2020-03-01 00:00:00.5+00:00", "2020-03-01 01:00:00.5+00:00"], ""),
        (["2020-03-01 00:00", "2020-03-01 01:00"], ""),
    ],
)
def test_offsets_of_text_are_kept(tmp_path: Path, texts: list[str], zone: str) -> None:
    (tmp_path / "a.csv").write_text("time,a\n" + "".join(f"{text},1.5\n" for text in texts))
    right = pd.DatetimeIndex(pd.to_datetime(texts))
    long = pd.DataFrame({"time": texts, "id": "x", "v": 1.5})
    wide = pd.DataFrame([[1.5, 2.5]], columns=texts)
    for series in (
        wl.open(tmp_path / "a.csv"),
        wl.open(long, entity="id", time="time"),
        wl.open(long[["v"]].set_axis(texts)),
        wl.open(wide, axes="nt"),
    ):
        utc = right.tz_convert(None) if right.tz is not None else right
        np.testing.assert_array_equal(moments(series), utc.to_numpy("M8[ns]"))
        np.testing.assert_allclose(
            hours(series), right.hour + right.second / 3600 + right.microsecond / 3.6e9
        )
        assert (zone in repr(series)) if zone else ("clocks of" not in repr(series))


def test_different_offsets_warn(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,a\n2020-03-29 01:00+01:00,1\n2020-03-29 03:00+02:00,2\n")
    with pytest.warns(UserWarning, match=r"offsets '\+01:00', '\+02:00'.*clocks.* are of UTC.*tz_convert"):
        series = wl.open(tmp_path / "a.csv")
    np.testing.assert_array_equal(moments(series), np.array(["2020-03-29T00", "2020-03-29T01"], "M8[ns]"))
    (tmp_path / "a.csv").write_text("time,a\n2020-03-29 01:00+01:00,1\n2020-03-29 03:00,2\n")
    with pytest.raises(SourceFormatError, match=r"row 1 .* without an offset"):
        wl.open(tmp_path / "a.csv")


def test_files_with_different_offsets_warn(tmp_path: Path) -> None:
    for month, offset in ((1, "+01:00"), (7, "+02:00")):
        lines = [f"2020-{month:02}-01 {hour:02}:00{offset},{hour}.5" for hour in range(20)]
        (tmp_path / f"{month}.csv").write_text("time,a\n" + "\n".join(lines))
    with pytest.warns(UserWarning, match=r"zones UTC\+01:00, UTC\+02:00: clocks .* are of UTC.*timestamps="):
        series = wl.open(f"{tmp_path}/*.csv")
    assert (
        str(moments(series)[[0, 20]]) == "['2019-12-31T23:00:00.000000000' '2020-06-30T22:00:00.000000000']"
    )


@pytest.mark.parametrize(
    "zone",
    [
        "dateutil/Europe/Berlin",
        tz.tzoffset("X", -5400),
        datetime.timezone(datetime.timedelta(hours=2), "CEST"),
        tz.tzutc(),
        datetime.UTC,
    ],
)
def test_zones_of_every_library(zone: Any) -> None:
    index = pd.date_range("2020-03-28", periods=60, freq="h", tz=zone)
    series = wl.open(FRAME.set_axis(index))
    np.testing.assert_allclose(hours(series), index.hour + index.minute / 60)
    np.testing.assert_array_equal(moments(series), index.tz_convert(None).to_numpy("M8[ns]"))


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "+05:30"])
def test_long_tables_keep_their_zone(tmp_path: Path, zone: str) -> None:
    times = pd.date_range("2020-03-07", periods=48, freq="h", tz=zone)
    frame = pd.DataFrame({"id": np.repeat(["b", "a"], 48), "utc": [*times, *times], "v": np.arange(96.0)})
    frame.to_parquet(tmp_path / "a.parquet")
    for target in (frame, tmp_path / "a.parquet"):
        series = wl.open(target, entity="id", time="utc")
        np.testing.assert_allclose(hours(series), [*times.hour, *times.hour])


@pytest.mark.parametrize("batch", [7, 1000])
def test_long_parquet_files_in_batches(tmp_path: Path, monkeypatch, batch: int) -> None:
    rng = np.random.default_rng(batch)
    frame = pd.DataFrame(
        {
            "id": rng.choice(["0042", "7", "n"], 500),
            "utc": pd.Timestamp("2020") + pd.to_timedelta(rng.permutation(500), "h"),
            "n": rng.integers(0, 9, 500),
            "x": rng.normal(size=500),
        }
    )
    frame.loc[frame.index[400:], "n"] = pd.NA
    frame = frame.convert_dtypes()
    frame[:200].to_parquet(tmp_path / "a.parquet")
    frame[200:].to_parquet(tmp_path / "b.parquet")
    monkeypatch.setattr("windowloader.sources.table_parquet.BATCH", batch)
    found = open_long_table([tmp_path / "a.parquet", tmp_path / "b.parquet"], entity="id", time="utc")
    order = pd.unique(frame["id"])
    np.testing.assert_array_equal(found.names, order)
    right = pd.concat([frame[frame["id"] == name].sort_values("utc") for name in order])
    np.testing.assert_array_equal(found.source.array(), right[["n", "x"]].astype(float))
    np.testing.assert_array_equal(found.source.timestamps(), right["utc"].to_numpy("M8[ns]"))
    for problem, message in (({"utc": "v"}, r"no columns \['utc'\]"), ({"id": "e"}, r"no columns \['id'\]")):
        frame.rename(columns=problem).to_parquet(tmp_path / "c.parquet")
        with pytest.raises(SourceFormatError, match=message):
            open_long_table(tmp_path / "c.parquet", entity="id", time="utc")
    frame[:0].to_parquet(tmp_path / "c.parquet")
    with pytest.raises(SourceFormatError, match=r"'c\.parquet' has no rows"):
        open_long_table(tmp_path / "c.parquet", entity="id", time="utc")


@pytest.mark.campaign
def test_a_long_parquet_file_takes_little_more_memory_than_its_result(tmp_path: Path) -> None:
    rows = np.arange(8_000_000)  # the result has 128 MB
    columns = {
        "id": pa.array(rows % 500).cast(pa.string()),
        "utc": pa.array(rows // 500 * 3600 * 10**9).cast(pa.timestamp("ns")),
        "v": rows * 0.5,
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=1 << 20)
    code = (
        "import sys, pandas, pyarrow.parquet; from windowloader.sources.table_long import open_long_table\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) >> 10\n"
        "before, found = peak(), open_long_table(sys.argv[1], entity='id', time='utc')\n"
        "print(peak() - before, found.source.array()[:3, 0].tolist())"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    more, values = done.stdout.split(" ", 1)
    assert values.strip() == "[0.0, 250.0, 500.0]"
    assert (
        int(more) < 700
    )  # MB; about twice the result, and 1,000 where the file becomes a frame and then sorted copies


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.assign(w=INDEX), "hold no numbers, but datetime64"),
        (FRAME.assign(k=pd.Categorical(["x", "y"] * 30)), "'k'.*hold no numbers"),
        (FRAME.set_axis(["a", "b", "a"], axis=1), "'a' more than once"),
        (FRAME.set_axis(INDEX[[0, *range(59)]]), "repeats from row 0"),
        (FRAME[::-1], "must increase"),
        (FRAME.set_axis(pd.to_timedelta(np.arange(60), "h")), "durations"),
        (pd.DataFrame(), "no columns"),
        (FRAME.iloc[:0], "has 0 rows"),
        (FRAME.assign(i=1j), "'i'.*hold no numbers"),
        (FRAME.set_index("a", append=True), r"levels \['time', 'a'\].*unstack"),
    ],
)
def test_frames_that_are_not_series_raise(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(wl.WindowLoaderError, match=message):
        wl.WindowSet(wl.open(frame), wl.WindowSpec(lookback=1, horizon=0))


def test_frames_of_one_row_or_one_level() -> None:
    check(wl.open(FRAME.iloc[:1]), FRAME.iloc[:1])
    level = pd.MultiIndex.from_arrays([INDEX], names=["time"])
    check(wl.open(FRAME.set_axis(level)))
    columns = FRAME.set_axis(pd.date_range("2020", periods=3), axis=1)
    assert wl.open(columns).nodes.tolist() == ["2020-01-01", "2020-01-02", "2020-01-03"]  # type: ignore[union-attr]
    series = wl.open(FRAME["a"].rename("speed"))
    assert series.features == ("speed",)
    np.testing.assert_array_equal(loaded(series)[:, 0], FRAME["a"])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["temperature", "wind_speed", "load"], "'temperature' and 'wind_speed'"),
        (["speed.401", "speed.402", "flow.401"], "'speed.401' and 'flow.401'"),
        (["speed_a", "speed_b", "speed_c"], ""),
        (["BUDAPEST", "PEST", "ZALA"], ""),
    ],
)
def test_names_of_different_quantities_warn(names: list[str], told: str, recwarn) -> None:
    wl.open(FRAME.set_axis(names, axis=1))
    found = [str(one.message) for one in recwarn]
    assert len(found) == bool(told)
    assert told in "".join(found)
    wl.open(FRAME.set_axis(names, axis=1), axes="tf")
    wl.open(FRAME.set_axis(names, axis=1), axes="tn")
    assert len(recwarn) == bool(told)


def test_counters_beside_times_warn(tmp_path: Path) -> None:
    FRAME.assign(No=np.arange(60) + 7).to_csv(tmp_path / "a.csv")
    with pytest.warns(UserWarning, match=r"the columns \['No'\] of 'a\.csv' .* row numbers"):
        wl.open(tmp_path / "a.csv")
    wl.open(tmp_path / "a.csv", axes="tf")
    with pytest.warns(UserWarning, match=r"\['No'\]"):
        wl.open(FRAME.assign(No=np.arange(60.0)))
    wl.open(FRAME.assign(a=[np.inf, *range(59)]))
    seconds = FRAME.reset_index(drop=True).assign(ts=INDEX.as_unit("s").asi8.astype(float))[["ts", "a"]]
    with pytest.warns(UserWarning, match=r"\['ts'\] .*time_unit"):
        wl.open(seconds, axes="tn")


def real(data: Path, name: str) -> pd.DataFrame:
    """ETT's transformer, or METR-LA's week with the times that its origin gives."""
    if name == "ett":
        return pd.read_csv(data / "ett" / "ETTh1.csv", index_col="date", parse_dates=True)
    frame = pd.read_csv(data / "metr_la_week" / "los_speed.csv")
    return frame.copy().set_axis(
        pd.date_range("2012-03-01", periods=2016, freq="5min", tz="America/Los_Angeles")
    )


@pytest.mark.parametrize("name", ["ett", "metr_la"])
@pytest.mark.parametrize("form", ["csv", "parquet", "folder", "feather", "frame", "polars", "fixed", "table"])
def test_real_tables_in_every_form(tmp_path: Path, data: Path, name: str, form: str) -> None:
    frame = real(data, name)
    target: Any = tmp_path / f"a.{form}"
    if form in ("fixed", "table"):
        pytest.importorskip("tables")
        frame.to_hdf(target := tmp_path / "a.h5", key="df", format=form)
    elif form == "folder":
        write_folder(target, ["part-2.parquet", "part-10.parquet", "part-1.parquet"], frame)
    elif form == "polars":
        target = polars_frame(frame.rename_axis(index="time"))
    elif form == "frame":
        target = frame
    else:
        {"csv": frame.to_csv, "parquet": frame.to_parquet, "feather": frame.to_feather}[form](target)
    series = wl.open(target, axes="tf" if name == "ett" else None)
    np.testing.assert_array_equal(loaded(series), frame)
    right = frame.index.tz_convert(None) if frame.index.tz else frame.index  # type: ignore[attr-defined]
    np.testing.assert_array_equal(moments(series), right.to_numpy("M8[ns]"))
    np.testing.assert_allclose(hours(series), frame.index.hour + frame.index.minute / 60)  # type: ignore[attr-defined]
    if name == "metr_la":
        assert series.nodes.tolist() == list(frame.columns)  # type: ignore[union-attr]
        assert (type(series.variables[0].source).__name__ == "MappedSource") == (form == "fixed")
    else:
        assert series.features == tuple(frame.columns)
