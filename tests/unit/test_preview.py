"""Previews: every mark on a time line is a row that windows hold, counted one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import windowloader as wl
from windowloader.cli import app
from windowloader.view.preview import preview

WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments], env=WIDE)


def rows_in(windows: wl.WindowSet) -> tuple[set[int], set[int]]:
    inputs, targets = set(), set()
    for start in windows.starts().tolist():
        inputs |= set((start + windows.spec.input_rows).tolist())
        targets |= set((start + windows.spec.target_rows).tolist())
    return inputs, targets


@pytest.mark.parametrize("by", ["targets", "rows", "windows"])
@pytest.mark.parametrize("purge", [0, 7])
@pytest.mark.parametrize("stride", [1, 9])
def test_marks_are_what_windows_hold(by, purge, stride) -> None:
    series = wl.Series(np.zeros((120, 2)))
    parts = wl.split(
        series, wl.WindowSpec(lookback=5, horizon=3, stride=stride), (0.6, 0.2, 0.2), by=by, purge=purge
    )
    found = preview(parts, width=120)  # a character a row
    every = set()
    for part, windows in zip(found["parts"], parts, strict=True):
        inputs, targets = rows_in(windows)
        every |= inputs | targets
        assert [row for row, mark in enumerate(part["line"]) if mark == "█"] == sorted(targets)
        assert [row for row, mark in enumerate(part["line"]) if mark == "░"] == sorted(inputs - targets)
        assert (part["input_rows"], part["target_rows"], part["only_inputs"]) == (
            len(inputs),
            len(targets),
            len(inputs - targets),
        )
        assert part["rows"] == windows.row_range
    assert found["unused"] == 120 - len(every)
    assert [row for row, mark in enumerate(found["unused_line"]) if mark == "█"] == sorted(
        set(range(120)) - every
    )
    assert found["leaks"] == (sum(shared.rows for shared in parts.audit().leaks))
    assert (found["leaks"] > 0) == (by == "windows" and purge < 7 and stride == 1) or by == "windows"


def test_windows_tell_their_rows_and_times() -> None:
    series = wl.Series(np.zeros((100, 2)), timestamps=("2012-03-01", "1h"))
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=2, delay=1, dilation=2))
    first, random, last = preview(windows)["windows"]
    assert (first["inputs"], first["targets"]) == ((0, 2, 4), (8, 10))
    assert first["target_times"] == ("2012-03-01T08:00:00", "2012-03-01T10:00:00")
    assert last["position"] == len(windows) - 1
    assert last["targets"][-1] == 99
    assert random["start"] == windows.starts([random["position"]])[0]


def test_the_command_on_real_data(data) -> None:
    speed = data / "metr_la_week/los_speed.csv"
    options = ("--start", "2012-03-01", "--freq", "5min", "--lookback", "12", "--horizon", "12")
    done = run("preview", speed, *options, "--by", "windows", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [part["windows"] for part in found["parts"]] == [1395, 199, 399]
    assert found["leaks"] > 0
    page = run("preview", speed, *options, "--split", "2012-03-06,2012-03-07").output
    assert "no part reads targets of a later one" in page
    assert "2012-03-01T01:00:00 … 2012-03-01T01:55:00" in page


@pytest.mark.parametrize("wrong", [("--by", "luck"), ("--lookback", "0"), ("--stride", "x")])
def test_wrong_use_ends_with_two(tmp_path, wrong) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 2)))
    assert run("preview", tmp_path / "a.npy", *wrong).exit_code == 2
