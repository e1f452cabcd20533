from __future__ import annotations

import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import windowloader as wl
from windowloader.errors import MissingExtraError, SourceFormatError
from windowloader.sources.registry import open_source
from windowloader.sources.table_files import has_header, separator
from windowloader.sources.table_long import open_long_table
from windowloader.testing import check_source

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_metr_la_week(data: Path) -> None:
    source = open_source(data / "metr_la_week" / "los_speed.csv")
    frame = pd.read_csv(data / "metr_la_week" / "los_speed.csv")
    check_source(source, frame.to_numpy())
    assert source.shape == (2016, 207)
    assert (source.labels(1)[0], source.labels(1)[-1]) == ("773869", "769373")  # type: ignore[index]


def test_ett(data: Path) -> None:
    source = open_source(data / "ett" / "ETTh1.csv", axes="tf")
    frame = pd.read_csv(data / "ett" / "ETTh1.csv", parse_dates=["date"])
    times = frame.pop("date").to_numpy().astype("datetime64[ns]")
    check_source(source, frame.to_numpy(), timestamps=times)
    assert list(source.labels(1)) == ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]  # type: ignore[arg-type]


def test_other_real_tables(data: Path) -> None:
    rates = open_source(data / "exchange_rate" / "exchange_rate.txt.gz")
    assert (rates.shape, rates.labels(1), rates.timestamps()) == ((7588, 8), None, None)
    assert open_source(data / "ili_us_states" / "state360.txt").shape == (360, 49)
    with pytest.warns(UserWarning, match=r"PeMSD7.*'6.97.*\.1'.*a line of data may have become the header"):
        assert open_source(data / "pemsd7_week" / "PeMSD7.csv").shape == (2015, 228)
    assert open_source(data / "pemsd7_week" / "PeMSD7.csv", header=True).shape == (2015, 228)
    assert open_source(data / "pemsd7_week" / "PEMS7_Adjacency.csv").shape == (228, 228)
    assert open_source(data / "metr_la_week" / "los_adj.csv").shape == (207, 207)


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (["a,b", "1,2"], True),
        (["time,1,2", "x,0,0"], True),
        ([",400001,400017", "0,1,2"], True),
        (["0,1,2", "5,5,5"], True),
        (["1,2,3", "5,5,5"], True),
        (["773869,767541", "64.5,67.0"], True),
        (["7.5,8.5", "1,2"], False),
        (["5,5,3", "1,2,3"], False),
        (["2016-07-01 00:00,5.5,7.1", "2016-07-01 01:00,5.5,7.1"], False),
        (["nan,2.5", "1.5,2.5"], False),
        ([",2.5,3.5", "1.5,2.5,1.5"], False),
    ],
)
def test_header_is_seen(lines: list[str], answer: bool) -> None:
    assert has_header([line.split(",") for line in lines], "x.csv") is answer


@pytest.mark.parametrize("lines", [["17,4", "12,5"], ["7", "8.5", "3"], ["1,12", "3.5,4"]])
def test_an_ambiguous_header_is_an_error(tmp_path: Path, lines: list[str]) -> None:
    path = write(tmp_path / "a.csv", "\n".join(lines))
    with pytest.raises(SourceFormatError, match=r"a\.csv.*header=True or header=False"):
        open_source(path)
    assert len(open_source(path, header=False).array()) == len(lines)  # type: ignore[arg-type]
    assert len(open_source(path, header=True).array()) == len(lines) - 1  # type: ignore[arg-type]


def test_separators(tmp_path: Path) -> None:
    assert [separator(line) for line in ("a;b,c", "a\tb", "a|b", "1.5 2.5", "a")] == [
        ";",
        "\t",
        "|",
        r"\s+",
        ",",
    ]
    for text in ("1.5;2.5\n3.5;4.5\n", "1.5\t2.5\n3.5\t4.5\n", "1.5  2.5\n3.5 4.5\n"):
        np.testing.assert_array_equal(
            open_source(write(tmp_path / "a.txt", text)).array(), [[1.5, 2.5], [3.5, 4.5]]
        )


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Timestamp,a,b\n2012-03-01 00:00,1,2\n2012-03-01 00:05,3,4\n", {}),
        ("when,a,b\n2012-03-01T00:00,1,2\n2012-03-01T00:05,3,4\n", {}),
        ("2012-03-01 00:00,1,2\n2012-03-01 00:05,3,4\n", {}),
        (",a,b\n2012-03-01,1,2\n2012-03-01 00:05,3,4\n", {}),
        ("a,at,b\n1,2012-03-01T01:00+01:00,2\n3,2012-03-01T01:05+01:00,4\n", {"time": "at"}),
        ("a,at,b\n1,1330560000,2\n3,1330560300,4\n", {"time": "at", "time_unit": "s"}),
        (
            "a,at,b\n1,01/03/2012 00:00,2\n3,01/03/2012 00:05,4\n",
            {"time": "at", "time_format": "%d/%m/%Y %H:%M"},
        ),
    ],
)
def test_time_column(tmp_path: Path, text: str, options: dict[str, str]) -> None:
    source = open_source(write(tmp_path / "a.csv", text), **options)
    times = np.array(["2012-03-01T00:00", "2012-03-01T00:05"], "datetime64[ns]")
    check_source(source, np.array([[1, 2], [3, 4]]), timestamps=times, fork=False)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("time,a\n1,2.5\n2,3.5\n", {}, "time_unit='s'"),
        ("time,a\n03/04/2012 00:00,2.5\n", {}, "day or the month first"),
        ("time,a\n2012-03-01,2.5\nnever,3.5\n", {}, "row 1 of the times 'a.csv:time' is 'never'"),
        ("x,a\n1,2.5\n", {"time": "utc"}, r"no columns \['utc'\]; it has 'x', 'a'"),
        ("site,a\nnorth,2.5\nsouth,3.5\n", {}, r"\['site'\] of 'a.csv' hold no numbers.*entity="),
        ("a,b\n1,2.5\n", {"columns": ["c"]}, r"no columns \['c'\]"),
        ("", {}, "is empty"),
        ("a,b\n1,2,3\n1,2,3\n", {}, "more fields than the 2 names"),
        ("1.5,2\n1,2,3\n", {}, "cannot be read as CSV"),
        ("a,b\n1,2.5\n", {"tme": "a"}, r"opened as a table.*\['tme'\] were given"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, text: str, options: dict, message: str) -> None:
    with pytest.raises(SourceFormatError, match=message):
        open_source(write(tmp_path / "a.csv", text), **options)


def test_time_false_keeps_the_column(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", "time,a\n1,2.5\n2,3.5\n"), time=False)
    assert (source.shape, source.timestamps()) == ((2, 2), None)


def test_row_numbers_and_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": [3, 4], "name": ["x", "y"]})
    frame.to_csv(tmp_path / "a.csv")
    source = open_source(tmp_path / "a.csv", columns=["b", "a"])
    np.testing.assert_array_equal(source.array(), [[3, 1.5], [4, 2.5]])
    assert list(source.labels(1)) == ["b", "a"]  # type: ignore[arg-type]


def test_missing_values_are_nan(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", "a,b\n1,\n,4\n"))
    np.testing.assert_array_equal(source.array(), [[1, np.nan], [np.nan, 4]])
    nullable = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [0.5, 1.5]})
    np.testing.assert_array_equal(open_source(nullable).array(), [[1, 0.5], [np.nan, 1.5]])


def test_parquet(tmp_path: Path) -> None:
    times = pd.date_range("2012-03-01", periods=3, freq="5min", tz="America/Los_Angeles", name="t")
    values = np.arange(6, dtype="f4").reshape(3, 2)
    pd.DataFrame(values, times, columns=["a", "b"]).to_parquet(tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    check_source(source, values, timestamps=times.tz_convert(None).to_numpy("M8[ns]"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceFormatError, match=r"broken\.parquet"):
        open_source(tmp_path / "broken.parquet")


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch) -> None:
    pd.DataFrame({"a": [1.5], "b": [2.0]}).to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"a\.parquet.*pip install 'windowloader\[parquet\]'"):
        open_source(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as sheet:
        sheet.writestr("xl/workbook.xml", "")
    with pytest.raises(MissingExtraError, match=r"a\.xlsx.*openpyxl.*pip install 'windowloader\[tables\]'"):
        open_source(tmp_path / "a.xlsx")


def loaded(series: wl.Series) -> np.ndarray:
    """All rows by a loader, shape (time, node, feature)."""
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
    with wl.WindowLoader(windows, batch_size=4096, dtype="float64") as loader:
        return np.concatenate([np.array(batch.inputs)[:, 0] for batch in loader])


def moments(series: wl.Series) -> np.ndarray:
    assert series.clock is not None
    return series.clock.timestamps(np.arange(series.num_steps))


NOON = "2012-03-01 12:00"


@pytest.mark.parametrize(
    ("text", "options", "read", "times"),
    [
        ("t;a\n@;1,5\n@;2.000,25\n", {"decimal": ",", "thousands": "."}, {"sep": ";"}, "t"),
        ('time,a,b\n@,"1,234",1\n@,"12,345.5",2\n', {"thousands": ","}, {}, "time"),
        ("time,T\u00e4tigkeit\n@,1.5\n@,2\n", {"encoding": "latin-1"}, {}, "time"),
        ("time,T\u00e4tigkeit\n@,1.5\n@,2\n", {"encoding": "utf-16-le"}, {}, "time"),
        ("time,a\n@,1\n@,-\n", {"na_values": ["-"]}, {}, "time"),
        ("time,a,b\n,m/s,K\n@,1,2\n@,3,4\n", {"header": [0, 1], "time": "time"}, {}, "time"),
        ("time,a\n@,1\n@,2\n", {"dtype": {"a": "float32"}}, {}, "time"),
    ],
)  # fmt: skip
def test_options_of_pandas_by_their_names(
    tmp_path: Path, text: str, options: dict, read: dict, times: str
) -> None:
    for place in ("00", "05"):
        text = text.replace("@", f"2012-03-01 12:{place}", 1)
    (tmp_path / "a.csv").write_text(text, options.get("encoding", "utf-8"))
    given = {name: value for name, value in options.items() if name != "time"}
    expected = pd.read_csv(tmp_path / "a.csv", **given, **read).drop(
        columns=times, level=0 if "header" in given else None
    )
    series = wl.open(tmp_path / "a.csv", missing=float("nan") if "na_values" in options else None, **options)
    if "na_values" in options:
        np.testing.assert_array_equal(series.variables[0].view()[:, :, 0], expected)  # type: ignore[index]
    else:
        np.testing.assert_array_equal(loaded(series)[:, :, 0], expected)
    assert moments(series).tolist() == pd.date_range(NOON, periods=2, freq="5min").as_unit("ns").asi8.tolist()


@pytest.mark.parametrize(
    ("text", "time", "form"),
    [
        ("date,time,a\n2012-03-01,12:00,1\n2012-03-01,12:05,2\n", ["date", "time"], None),
        ("date,time,a\n20120301,1200,1\n20120301,1205,2\n", ["date", "time"], "%Y%m%d %H%M"),
        ("date,a,time\n01/03/2012,1,12:00\n01/03/2012,2,12:05\n", ["date", "time"], "%d/%m/%Y %H:%M"),
        ("Year,month,day,hour,minute,a\n2012,3,1,12,0,1\n2012,3,1,12,5,2\n",
         ["Year", "month", "day", "hour", "minute"], None),
    ],
)  # fmt: skip
def test_times_in_several_columns(tmp_path: Path, text: str, time: list[str], form: str | None) -> None:
    path = write(tmp_path / "a.csv", text)
    expected = pd.date_range(NOON, periods=2, freq="5min").as_unit("ns").asi8.tolist()
    opened = [wl.open(path, time=time, time_format=form)]
    if form != "%Y%m%d %H%M":  # a frame has lost the zeros of such a time at night
        opened += [wl.open(pd.read_csv(path), time=time, time_format=form)]
    for series in opened:
        assert moments(series).tolist() == expected
        np.testing.assert_array_equal(loaded(series)[:, :, 0], [[1], [2]])


@pytest.mark.parametrize("ids", [["0042", "0007"], ["401", "402"], ["north", "south"]])
@pytest.mark.parametrize(
    ("header", "options"),
    [
        (["2020-01-01", "2020-01-02", "2020-01-03"], {}),
        (["1/1/20", "1/2/20", "1/3/20"], {"time_format": "%m/%d/%y"}),
        (["20200101", "20200102", "20200103"], {"time_format": "%Y%m%d"}),
    ],
)
def test_rows_are_sensors(tmp_path: Path, ids: list[str], header: list[str], options: dict) -> None:
    rows = [f"{name},{place}.5,{place + 2},3" for place, name in enumerate(ids)]
    path = write(tmp_path / "a.csv", "\n".join([",".join(["sensor", *header]), *rows]) + "\n")
    frame = pd.read_csv(path, index_col=0, dtype={"sensor": str})
    for target in (path, frame):
        series = wl.open(target, axes="nt", **options)
        assert series.nodes.astype(str).tolist() == ids  # type: ignore[union-attr]
        np.testing.assert_array_equal(loaded(series)[:, :, 0], frame.T)
        assert moments(series).astype("M8[D]").astype(str).tolist() == [
            "2020-01-01",
            "2020-01-02",
            "2020-01-03",
        ]


def test_rows_with_levels_are_unstacked(tmp_path: Path) -> None:
    times = pd.date_range("2020", periods=20, freq="h")
    index = pd.MultiIndex.from_product([times, ["b", "a"]], names=["time", "id"])
    frame = pd.DataFrame({"speed": np.arange(40.0), "flow": np.arange(40.0) * 2}, index)
    expected = frame["speed"].unstack("id")
    frame[["speed"]].to_parquet(tmp_path / "a.parquet")
    for target in (frame[["speed"]], frame["speed"], frame[["speed"]].swaplevel(), tmp_path / "a.parquet"):
        series = wl.open(target)
        assert series.nodes.tolist() == ["a", "b"]  # type: ignore[union-attr]
        np.testing.assert_array_equal(loaded(series)[:, :, 0], expected)
    with pytest.raises(SourceFormatError, match=r"levels \['time', 'id'\].*unstack.*entity="):
        wl.open(frame)
    with pytest.raises(SourceFormatError, match="not one a time and id"):
        wl.open(pd.concat([frame, frame])[["speed"]])
    long = wl.open(frame, entity="id", time="time")
    assert long.features == ("speed", "flow")
    np.testing.assert_array_equal(
        loaded(long.select(features=["flow"]))[:20, 0], frame["flow"].xs("b", level="id")
    )


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("date,a\n01/03/12,1\n02/03/12,2\n", {}, r"'01/03/12'.*day or the month first.*time_format="),
        ("date,a\n2012-03-01,1\n05.03.2012,2\n", {}, r"'05\.03\.2012'.*day or the month first"),
        (
            "date,a\n01-Mar-12,1\n02-Mar-12,2\n",
            {},
            r"row 0 .* is '01-Mar-12', which is no time.*time_format=",
        ),
        ("time,a\n00:00,1\n00:05,2\n", {}, r"'00:00', which is no time.*time=\['date', 'time'\]"),
        ("date,a\n20200131,1\n20200201,2\n", {}, r"time_format='%Y%m%d'"),
        ("date,a\n1990,1\n1991,2\n", {}, r"time_format='%Y'"),
        (
            "date,time,a\n2012-03-01,00:00,1\n",
            {},
            r"\['date', 'time'\].*join them by time=\['date', 'time'\]",
        ),
        ("a,b\n1.5,2\n3.5,?\n", {}, r"row 1 of 'b' is '\?' \(1 of 2 rows.*na_values=\['\?'\]"),
        ("a;b\n0;0\n1,5;3\n", {}, r"row 1 of 'a' is '1,5'.*decimal=','"),
        ('a,b\n10,1\n"1,234",2\n', {}, r"row 1 of 'a' is '1,234'.*thousands=','"),
        ("a;b\n1.234,5;1\n", {"decimal": ","}, r"'1\.234,5'.*thousands='\.'"),
        ("time,a\n,m/s\n2012-03-01,1\n", {}, "time"),
        ("a,b\nm/s,K\n1,2\n3,4\n", {}, r"row 0 of 'a' is 'm/s'.*header=\[0, 1\]"),
        ("speed,speed,flow\n1.5,2,3\n", {}, r"\['speed'\] more than once.*columns="),
        ("x,when,a\n1,2012-03-01,2\n", {}, r"'2012-03-01'.*time='when'"),
        ("sensor,2019,2020\nA,1,2\n", {"axes": "nt"}, r"'2019' to '2020'.*time_format='%Y'"),
        ("Province,Country,1/22/20\nA,B,2\n", {"axes": "nt"}, r"'Province', 'Country' of .*set_index"),
        ("time,a\n2012-03-01,1\n", {"encoding": "utf-99"}, "utf-99"),
    ],
)
def test_what_could_mean_two_things_is_asked(tmp_path: Path, text: str, options: dict, message: str) -> None:
    with pytest.raises(SourceFormatError, match=message):
        wl.open(write(tmp_path / "a.csv", text), **options)


def test_encodings(tmp_path: Path) -> None:
    text = "time,T\u00e4tigkeit\n2012-03-01 00:00,1\n2012-03-01 00:05,2\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "a.csv").write_text(text, encoding)
        series = wl.open(tmp_path / "a.csv", **({} if "8" in encoding else {"encoding": encoding}))
        assert series.nodes.tolist() == ["T\u00e4tigkeit"]  # type: ignore[union-attr]
        np.testing.assert_array_equal(loaded(series).ravel(), [1, 2])
        assert str(moments(series)[1]).startswith("2012-03-01T00:05")
    for encoding in ("latin-1", "utf-16", "utf-16-le"):
        (tmp_path / "a.csv").write_text(text, encoding)
        with pytest.raises(SourceFormatError, match="encoding="):
            wl.open(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (",a,b\n5,1.5,2.5\n7,3.5,9.5\n9,5.5,6.5\n", r"\['Unnamed: 0'\]"),
        ("ts,a,b\n1330560000,1.5,2\n1330560300,3.5,9\n1330560900,5.5,6\n", r"\['ts'\]"),
        ('"Year","Water"\n"1885",356.5\n"1887",386.5\n"1888",397.5\n', r"\['Year'\]"),
        ("No,year,month,day,hour,pm\n1,2010,1,1,0,10.5\n2,2010,1,1,1,12.5\n3,2010,1,1,2,13.5\n",
         r"\['No', 'year', 'month', 'day', 'hour'\]"),
        ("date,hour,pm\n2010-01-01,0,10.5\n2010-01-02,1,12.5\n", r"\['hour'\]"),
    ],
)  # fmt: skip
def test_counting_columns_warn(tmp_path: Path, text: str, columns: str) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.warns(UserWarning, match=rf"{columns} of 'a\.csv' are taken for readings.*columns=.*time="):
        wl.open(path)
    last = text.split("\n", 1)[0].strip('"').split(",")[-1]
    wl.open(path, columns=[last.strip('"')])  # says that they are meant


def test_different_quantities_warn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal([80, -5, 1013], [20, 10, 5], (240, 3))
    frame = pd.DataFrame(
        values, pd.date_range("2020", periods=240, freq="h"), ["pm2.5", "dew_point", "pressure"]
    )
    frame.to_csv(tmp_path / "a.csv")
    for target in (frame, tmp_path / "a.csv"):
        with pytest.warns(
            UserWarning, match=r"'dew_point' and 'pressure' have no values in common.*axes='tf'"
        ) as told:
            wl.open(target)
        assert len(told) == 1
        wl.open(target, axes="tn")
        windows = wl.WindowSet(wl.open(target, axes="tf"), wl.WindowSpec(lookback=1, horizon=0))
        with wl.WindowLoader(windows, batch_size=240, scaler=wl.StandardScaler.fit(windows)) as loader:
            np.testing.assert_allclose(next(iter(loader)).inputs.std(axis=0), 1, rtol=1e-5)
    wl.open(frame.set_axis(["MT_001", "MT_002", "MT_003"], axis=1))  # names that are ids
    wl.open(np.zeros((240, 2)), covariates={"weather": (frame, "tf")})


def test_tables_of_other_libraries() -> None:
    times = pd.date_range("2020", periods=20, freq="h", name="time")
    frame = pd.DataFrame({"b": np.arange(20.0), "a": np.arange(20.0) + 3}, times).reset_index()
    series = wl.open(pa.table(frame))
    assert series.nodes.tolist() == ["b", "a"]  # type: ignore[union-attr]
    np.testing.assert_array_equal(loaded(series)[:, :, 0], frame[["b", "a"]])
    np.testing.assert_array_equal(moments(series), times.to_numpy("M8[ns]"))
    found = open_long_table(pa.table({"id": ["x", "x"], "t": times[:2], "v": [1, 2]}), entity="id", time="t")
    np.testing.assert_array_equal(found.source.array().ravel(), [1, 2])  # type: ignore[union-attr]
    heights = pa.table({"id": ["y", "x"], "height": [1.0, 2.0]})
    series = wl.open(np.zeros((9, 2)), nodes=["x", "y"], covariates={"s": heights})
    np.testing.assert_array_equal(series.variables[1].view().ravel(), [2, 1])  # type: ignore[union-attr]


@pytest.mark.parametrize("index", ["text", "period", "epoch", "year"])
def test_row_labels_of_a_frame_that_are_times(index: str) -> None:
    times = pd.date_range("2000", periods=6, freq="YS")
    frame = pd.DataFrame({"a": np.arange(6.0)}, times)
    labels, options = {
        "text": (times.astype(str), {}),
        "period": (times.to_period("Y"), {}),
        "epoch": (times.as_unit("s").asi8, {"time": "at", "time_unit": "s"}),
        "year": (times.year, {"time": "at", "time_format": "%Y"}),
    }[index]
    frame.index = pd.Index(labels, name="at")
    if options:
        with pytest.warns(
            UserWarning, match=r"row labels of 'DataFrame', from '\d+' to '\d+', are not taken for times"
        ):
            wl.open(frame)
    np.testing.assert_array_equal(moments(wl.open(frame, **options)), times.to_numpy("M8[ns]"))


def test_shapes_of_tables_that_people_have(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    air = "Date;Time;CO(GT);T;;\n10/03/2004;18.00.00;2,6;13,6;;\n10/03/2004;19.00.00;2;13,3;;\n"
    series = wl.open(write(path, air), time=["Date", "Time"], time_format="%d/%m/%Y %H.%M.%S", decimal=",")
    assert series.nodes.tolist() == ["CO(GT)", "T"]  # type: ignore[union-attr]
    np.testing.assert_array_equal(loaded(series)[:, :, 0], [[2.6, 13.6], [2, 13.3]])
    assert moments(series).astype("M8[h]").astype(str).tolist() == ["2004-03-10T18", "2004-03-10T19"]
    series = wl.open(write(path, "item,d_1,d_2,d_3\n401,1,2,3\n402,4,5,6\n"), axes="nt")
    assert series.nodes.tolist() == [401, 402]  # type: ignore[union-attr]
    np.testing.assert_array_equal(loaded(series)[:, :, 0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(
        loaded(wl.open(pd.DataFrame(np.arange(6.0).reshape(2, 3)), axes="nt"))[:, :, 0],
        [[0, 3], [1, 4], [2, 5]],
    )
    with pytest.raises(SourceFormatError, match=r"'item', 'jan', 'feb'.*set_index"):
        wl.open(write(path, "item,jan,feb\n401,1,2\n402,4,5\n"), axes="nt")
    with pytest.raises(SourceFormatError, match=r"more fields.*decimal=','"):
        wl.open(write(path, "value\n1,5\n2,5\n"))
    with pytest.raises(SourceFormatError, match="'a' more than once"):
        wl.open(pd.DataFrame(np.zeros((9, 2)), columns=["a", "a"]))
    levels = pd.MultiIndex.from_product([["speed", "flow"], ["a", "b"]])
    with pytest.warns(UserWarning, match=r"'speed\.a' and 'flow\.a' are names of different ones.*axes='tf'"):
        series = wl.open(pd.DataFrame(np.zeros((9, 4)), columns=levels))
    assert series.nodes.tolist() == ["speed.a", "speed.b", "flow.a", "flow.b"]  # type: ignore[union-attr]
