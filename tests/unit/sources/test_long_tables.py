from __future__ import annotations

import errno
import gc
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import SourceError, SourceFormatError
from windowloader.sources import table_long, table_parquet, table_passes, table_stored
from windowloader.sources.table_long import open_long_table
from windowloader.testing import check_source

if TYPE_CHECKING:
    from pathlib import Path


def readings() -> pd.DataFrame:
    """Three meters of different lengths with overlapping dates, in no order."""
    rows = [("c", day, day * 1.0, 1) for day in range(5)] + [("a", day, day + 0.5, 2) for day in range(3, 10)]
    rows += [("b", 4, 9.0, 3)]
    frame = pd.DataFrame(rows, columns=["meter", "day", "kwh", "phase"])
    frame["utc"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(frame.pop("day"), unit="D")
    return frame.sample(frac=1, random_state=0, ignore_index=True)


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame", "list"])
def test_entities_lie_end_to_end(tmp_path: Path, kind: str) -> None:
    frame = readings()
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    half = [frame[:6], frame[6:]]
    target = {"csv": tmp_path / "a.csv", "parquet": tmp_path / "a.parquet", "frame": frame, "list": half}[
        kind
    ]
    found = open_long_table(target, entity="meter", time="utc")
    order = frame["meter"].unique()
    expected = pd.concat([frame[frame["meter"] == name].sort_values("utc") for name in order])
    np.testing.assert_array_equal(found.names, order)
    sizes = [(frame["meter"] == name).sum() for name in order]
    np.testing.assert_array_equal(found.borders, np.append(0, np.cumsum(sizes)))
    check_source(
        found.source,
        expected[["kwh", "phase"]].to_numpy(),
        timestamps=expected["utc"].to_numpy("M8[ns]"),
        pickled_bytes=4096 if kind in ("csv", "parquet") else None,
        fork=False,
    )
    assert found.source.axes == "tf"
    assert list(found.source.labels(1)) == ["kwh", "phase"]  # type: ignore[arg-type]


def test_urls_of_local_files(tmp_path: Path) -> None:
    readings().to_csv(tmp_path / "a.csv", index=False)
    readings().to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert open_long_table(f"file://{tmp_path}/{name}", entity="meter", time="utc").source.shape == (
            13,
            2,
        )


def test_values_are_chosen() -> None:
    found = open_long_table(readings(), entity="meter", time="utc", values=["phase"])
    assert found.source.shape == (13, 1)
    assert found.source.dtype == np.int64


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"entity": "site"}, r"no columns \['site'\]; it has 'meter'"),
        ({}, {"values": ["kw"]}, r"no columns \['kw'\]"),
        ({"note": "x"}, {}, r"\['note'\].*hold no numbers"),
        ({"meter": [None] + ["a"] * 12}, {}, "row 0 .* has no 'meter'"),
        ({"utc": ["soon"] + ["2020-01-01"] * 12}, {}, "row 0 of the times .* is 'soon'"),
    ],
)
def test_what_does_not_fit_is_said(change: dict, options: dict, message: str) -> None:
    with pytest.raises(SourceFormatError, match=message):
        open_long_table(readings().assign(**change), **{"entity": "meter", "time": "utc", **options})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), min_size=1, max_size=60))
def test_order_against_sorting_by_hand(rows: list[tuple[int, int]]) -> None:
    frame = pd.DataFrame({"e": [e for e, _ in rows], "t": [t for _, t in rows], "v": range(len(rows))})
    found = open_long_table(frame, entity="e", time="t", time_unit="s")
    seen = list(dict.fromkeys(frame["e"]))
    by_hand = sorted(range(len(rows)), key=lambda row: (seen.index(rows[row][0]), rows[row][1], row))
    np.testing.assert_array_equal(found.source.array()[:, 0], by_hand)  # type: ignore[index]


# -- larger than memory ------------------------------------------------------------------------------------------------

ZONED = {"entity": "meter", "time": "utc", "static": ["tariff", "area"]}


def meters(rows: int = 900) -> pd.DataFrame:
    """Readings in no order of meters of different lengths, with numbers that lack some and columns of each meter."""
    rng = np.random.default_rng(rows)
    owner = rng.integers(0, 17, rows) ** 2 // 17
    times = pd.Timestamp("2020-03-28", tz="Europe/Berlin") + pd.to_timedelta(
        rng.permutation(rows) * 30, "min"
    )
    frame = pd.DataFrame({"meter": [f"{n:04}" for n in owner], "utc": times, "kwh": rng.normal(size=rows)})
    frame["count"] = pd.array(rng.integers(0, 99, rows), "Int64")
    frame.loc[frame.index[rows // 2 :: 7], "count"] = pd.NA
    return frame.assign(tariff=[f"t{n % 3}" for n in owner], area=owner * 1.5)


@pytest.fixture
def large(monkeypatch) -> Any:
    """Every Parquet file counts as large, and batches, pieces and states are of a few rows."""
    monkeypatch.setattr(table_long, "SMALL", 0)
    monkeypatch.setattr(table_parquet, "BATCH", 37)
    for name, size in {"PIECE": 2048, "SAVED": 90, "TOUCHED": 9999}.items():
        monkeypatch.setattr(table_passes, name, size)
    return monkeypatch


def folder_of(frame: pd.DataFrame, path: Path, form: str) -> Any:
    """Write a table as one file, a list of files, or a folder of a meter each."""
    if form == "hive":
        for name, part in frame.groupby("meter", sort=False):
            (path / f"meter={name}").mkdir(parents=True)
            part.drop(columns="meter").to_parquet(path / f"meter={name}" / "part.parquet")
        return path
    path.mkdir()
    frame = frame.astype({"meter": "category"}) if form == "category" else frame
    frame = frame.set_index("utc") if form == "index" else frame
    parts = [frame[:100], frame[100:]] if form == "list" else [frame]
    for place, part in enumerate(parts):
        part.to_parquet(path / f"{place}.parquet", row_group_size=64)
    return [*map(str, sorted(path.iterdir()))] if form == "list" else path / "0.parquet"


@pytest.mark.parametrize("form", ["file", "list", "hive", "category", "index"])
def test_a_file_has_what_memory_has(tmp_path: Path, large, form: str) -> None:
    frame = meters()
    right = wl.open(frame.assign(meter=frame["meter"].astype(str)), **ZONED)  # in memory
    target = folder_of(frame, tmp_path / "parts", form)
    series = wl.open(target, **ZONED, cache_dir=tmp_path / "cache", missing=float("nan"))
    assert series.tier == "mapped"
    assert series.features == right.features == ("kwh", "count")
    order = [*map(str, series.entity_names)]  # type: ignore[arg-type]
    assert sorted(order) == sorted(frame["meter"].unique())
    assert order == (sorted(order) if form == "hive" else [*frame["meter"].unique()])
    expected = frame.set_index("meter").loc[order]
    by_time = pd.concat([expected.loc[[name]].sort_values("utc") for name in order])
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
    with wl.WindowLoader(windows, batch_size=256, shuffle=False, dtype="float64", fill=-1.0) as loader:
        found = np.concatenate([batch.inputs.reshape(-1, 2).copy() for batch in loader])
    np.testing.assert_array_equal(found, by_time[["kwh", "count"]].astype(float).fillna(-1))
    assert series.clock is not None
    assert series.clock.calendar == "Europe/Berlin"
    stamps = by_time["utc"].dt.tz_convert(None).to_numpy("M8[ns]")
    np.testing.assert_array_equal(series.clock.timestamps(np.arange(len(frame))), stamps)
    assert series.static["tariff"].tolist() == [by_time.loc[[one], "tariff"].iloc[0] for one in order]
    np.testing.assert_array_equal(
        series.static["area"], [by_time.loc[[one], "area"].iloc[0] for one in order]
    )
    if form != "hive":
        np.testing.assert_array_equal(series.borders, right.borders)
        assert series.clock.fingerprint() == right.clock.fingerprint()  # type: ignore[union-attr]
    large.setattr(table_stored, "_build", None)  # is there
    again = wl.open(target, **ZONED, cache_dir=tmp_path / "cache", missing=float("nan"))
    assert again.fingerprint() == series.fingerprint()
    part = again.select(time=slice(int(again.entity_borders[1]), len(frame)))  # type: ignore[index]
    assert part.static["tariff"].tolist() == series.static["tariff"][1:].tolist()
    assert len(pickle.dumps(again.variables[0].source)) < 4096


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [1, 6, 19])
def test_a_killed_run_goes_on(tmp_path: Path, large, after: int) -> None:
    frame, skips, read = meters(), [], table_passes.times_of
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=64)
    right = open_long_table(frame, **ZONED)

    def dying(*given: Any) -> Any:
        nonlocal after
        if (after := after - 1) < 0:
            raise Killed
        return read(*given)

    def counted(part: Any, *given: Any) -> Any:
        skips.append(given[-1])
        return frames(part, *given)

    frames = table_parquet.ParquetPart.frames
    large.setattr(table_passes, "times_of", dying)
    begun = after
    with pytest.raises(Killed):
        open_long_table(tmp_path / "a.parquet", **ZONED, cache_dir=str(tmp_path / "c"))
    large.setattr(table_passes, "times_of", read)
    large.setattr(table_parquet.ParquetPart, "frames", counted)
    found = open_long_table(tmp_path / "a.parquet", **ZONED, cache_dir=str(tmp_path / "c"))
    assert skips[0] == 0  # what the first pass counts
    assert (skips[1] > 0) == (begun > 1)
    np.testing.assert_array_equal(found.source.array(), right.source.array())
    np.testing.assert_array_equal(found.source.timestamps(), right.source.timestamps())  # type: ignore[arg-type]


def test_one_of_several_processes_builds(tmp_path: Path, large) -> None:
    meters().to_parquet(tmp_path / "a.parquet")
    build, built = table_stored._build, []
    large.setattr(table_stored, "_build", lambda *given: built.append(1) or build(*given))
    with ThreadPoolExecutor(4) as pool:  # locks of files that are opened apart are as those of processes
        opened = pool.map(
            lambda _: open_long_table(tmp_path / "a.parquet", **ZONED, cache_dir=str(tmp_path)), range(4)
        )
        values = [found.source.array() for found in opened]
    assert len(built) == 1
    assert all(np.array_equal(one, values[0], equal_nan=True) for one in values)  # type: ignore[arg-type]


def test_what_is_kept_and_what_goes(tmp_path: Path, large) -> None:
    path, cache = tmp_path / "a.parquet", tmp_path / "cache"
    large.setenv("TMPDIR", str(tmp_path / "temporary"))
    large.setattr("tempfile.tempdir", None)
    os.mkdir(tmp_path / "temporary")
    meters().to_parquet(path)
    found = open_long_table(path, **ZONED)
    assert len(os.listdir(tmp_path / "temporary")) == 1
    del found
    gc.collect()
    assert not os.listdir(tmp_path / "temporary")
    first = open_long_table(path, **ZONED, cache_dir=str(cache))
    meters(700).to_parquet(path)
    second = open_long_table(path, **ZONED, cache_dir=str(cache))
    assert len(second.source.array()) == 700  # type: ignore[arg-type]
    assert len(os.listdir(cache)) == 2  # the first is in use
    del first, second
    gc.collect()
    (folder,) = [one for one in cache.iterdir() if os.path.getsize(one / "times") == 8 * 700]
    os.truncate(folder / "times", 800)  # is made again
    (folder / "progress.npz").write_bytes(b"PK\3\4 damaged")
    third = open_long_table(path, **ZONED, cache_dir=str(cache))
    assert os.listdir(cache) == [folder.name]
    assert len(third.source.timestamps()) == 700  # type: ignore[arg-type]
    del third
    gc.collect()
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="not a folder of this user alone"):
        open_long_table(path, **ZONED, cache_dir=str(cache))


def test_large_tables_that_cannot_be_opened(tmp_path: Path, large) -> None:
    path = tmp_path / "a.parquet"
    meters().assign(area=range(900)).to_parquet(path)
    with pytest.raises(
        SourceFormatError, match=r"\['tariff', 'area'\] of '\d{4}' in 'a.parquet' are .*static="
    ):
        open_long_table(path, **ZONED)
    meters().to_parquet(path)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    large.setattr("os.posix_fallocate", full)
    with pytest.raises(SourceError, match=r"are needed in .*No space left.*cache_dir="):
        open_long_table(path, **ZONED)
