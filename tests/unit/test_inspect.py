"""What `inspect` says of series whose every figure is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import windowloader as wl
from windowloader.cli import app
from windowloader.convert.conversion import convert
from windowloader.view.inspection import inspect

WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments], env=WIDE)


def test_all_there_is_to_know_of_a_store(tmp_path) -> None:
    values = np.random.default_rng(0).uniform(1, 80, (1000, 7)).astype("f4")
    values[10:20, 3] = np.nan
    series = wl.Series(values, timestamps=("2012-03-01", "5min"), nodes=[f"s{number}" for number in range(7)])
    convert(series, tmp_path / "a.zarr", chunks=100, shards=500)
    found = inspect(wl.open(tmp_path / "a.zarr"), lookback=6, horizon=4, batch_size=8)
    (variable,) = found["variables"]
    assert (found["tier"], found["steps"], found["nodes"], found["labelled"], found["edges"]) == (
        "streamed",
        1000,
        7,
        True,
        None,
    )
    assert (variable["chunks"], variable["shards"], variable["raw_bytes"]) == (
        (100, 7),
        (500, 7),
        values.nbytes,
    )
    assert variable["codecs"] == ("bytes", "blosc:lz4", "crc32c")
    files = [file.stat().st_size for file in (tmp_path / "a.zarr/value").rglob("*") if file.is_file()]
    assert variable["stored_bytes"] == sum(files)
    (values_report,) = variable["values"]
    assert values_report["missing"] == pytest.approx(10 / 7000)
    assert (values_report["low"], values_report["high"]) == (np.nanmin(values), np.nanmax(values))
    assert values_report["mean"] == pytest.approx(np.nanmean(values, dtype="f8"))
    assert found["windows"] == len(
        wl.WindowSet(wl.open(tmp_path / "a.zarr"), wl.WindowSpec(lookback=6, horizon=4))
    )
    assert (found["inputs"], found["targets"], found["batch_bytes"]) == (
        (8, 6, 7, 1),
        (8, 4, 7, 1),
        4 * 8 * 10 * 7,
    )
    assert any("--missing nan" in advice for advice in found["advice"])


def test_gaps_are_found_and_the_longest_named() -> None:
    stamps = np.datetime64("2020-01-01", "ns") + np.arange(100) * np.timedelta64(1, "h")
    stamps[40:] += np.timedelta64(5, "h")
    stamps[70:] += np.timedelta64(9, "D")
    found = inspect(wl.Series(np.zeros((100, 2)), timestamps=stamps), lookback=2, horizon=1)
    assert found["time"] is not None
    assert (found["time"]["gaps"], found["segments"], found["time"]["step_seconds"]) == (2, 3, 3600.0)
    assert found["time"]["longest"][1] == ("2020-01-04T02:00:00", "2020-01-13T03:00:00")
    assert found["windows"] == 38 + 28 + 28


def test_a_sample_is_bounded_and_full_is_all(monkeypatch) -> None:
    from windowloader.view import inspection

    monkeypatch.setattr(inspection, "SAMPLE_BYTES", 8 * 4 * 160)
    values = np.ones((10_000, 4))
    values[5::10] = 0
    series = wl.Series(values, missing=0.0)
    seen: list[tuple[int, int]] = []
    some = inspect(series, progress=lambda *now: seen.append(now))
    assert some["variables"][0]["values"][0]["rows"] == 160
    assert seen[-1] == (160 * 32, 160 * 32)
    whole = inspect(series, full=True)["variables"][0]["values"][0]
    assert (whole["rows"], whole["missing"], whole["low"]) == (10_000, 0.1, 1.0)


def test_zeros_that_look_like_missing_readings_are_pointed_out() -> None:
    values = np.random.default_rng(0).uniform(50, 70, (400, 4))
    values[np.random.default_rng(1).random(values.shape) < 0.1] = 0
    assert any("--missing 0" in advice for advice in inspect(wl.Series(values))["advice"])
    assert not any("--missing 0" in advice for advice in inspect(wl.Series(values, missing=0.0))["advice"])


@pytest.mark.parametrize(
    ("file", "options", "expected"),
    [
        (
            "metr_la_week/los_speed.csv",
            ["--start", "2012-03-01", "--freq", "5min"],
            {"steps": 2016, "nodes": 207},
        ),
        ("era5_uk/era5-2mt-2019-03-uk.nc", [], {"steps": 744, "space": [33, 49], "features": ["t2m"]}),
        ("iris/NEMO", [], {"steps": 3, "nodes": 330 * 360}),
        ("ett/ETTh1.csv", ["--axes", "tf"], {"steps": 17420, "nodes": 1}),
    ],
)
def test_real_files(data, file, options, expected) -> None:
    done = run("inspect", data / file, *options, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {key: found[key] for key in expected} == expected


def test_the_page_says_the_same(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.ones((300, 5)))
    page = " ".join(
        run("inspect", tmp_path / "a.npy", "--start", "2012-03-01", "--freq", "5min").output.split()
    )
    for part in (
        "steps 300",
        "tier mapped",
        "last 2012-03-02T00:55:00",
        "windows 277",
    ):
        assert part in page


def test_wrong_use_ends_with_two(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.ones((300, 5)))
    assert run("inspect", tmp_path / "a.npy", "--start", "2012-03-01").exit_code == 2
    assert run("inspect").exit_code == 2
    assert run("inspect", tmp_path / "a.npy", "--option", "anon").exit_code == 2
