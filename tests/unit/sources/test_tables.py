from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from windowloader.errors import MissingExtraError, SourceFormatError
from windowloader.sources.registry import open_source
from windowloader.sources.table_files import has_header, separator
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
    assert has_header(lines, ",", "x.csv") is answer


@pytest.mark.parametrize("lines", [["17,4", "12,5"], ["7", "8.5", "3"], ["1,12", "3.5,4"]])
def test_header_is_asked_for_where_nobody_can_tell(tmp_path: Path, lines: list[str]) -> None:
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
        ("x,a\n1,2.5\n", {"time": "utc"}, "no column 'utc'; it has 'x', 'a'"),
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


def test_missing_pandas_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'windowloader\[tables\]'"):
        open_source(write(tmp_path / "a.csv", "a,b\n1.5,2\n"))
