"""The commands plan and stats, and what a plan means for a run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import windowloader as wl
from windowloader.cli import app
from windowloader.cli.options import duration, progress_bar, rate
from windowloader.convert.conversion import convert
from windowloader.plan.outlook import outlook
from windowloader.plan.plan import EpochCost

WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments], env=WIDE)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    values = np.random.default_rng(0).normal(60, 9, (4000, 50)).astype("f4")
    convert(wl.Series(values, timestamps=("2012-03-01", "5min")), path, chunks=100)
    return path


def loader_of(path, **options) -> wl.WindowLoader:
    windows = wl.WindowSet(wl.open(path), wl.WindowSpec(lookback=12, horizon=12))
    return wl.WindowLoader(windows, batch_size=16, shuffle=True, fill=0.0, **options)


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_command_tells_the_plan_of_the_loader(store, ranks) -> None:
    done = run("plan", store, "--batch-size", 16, "--ranks", ranks, "--memory", "64MiB", "--json")
    assert done.exit_code == 0, done.output
    with loader_of(store, rank=0, world_size=ranks, memory="64MiB") as loader:
        expected = loader.plan().to_dict()
    found = json.loads(done.stdout)
    assert found.pop("outlook") is None
    found.pop("first_seconds"), expected.pop("first_seconds")
    assert found == json.loads(json.dumps(expected))


def test_the_page_has_the_stall(store) -> None:
    page = run("plan", store, "--step-time", "80ms", "--bandwidth", "1MB", "--memory", "64MiB").output
    assert "stall share" in page
    assert "bandwidth" in page


def test_who_waits_for_whom(store) -> None:
    with loader_of(store, rank=0, world_size=1, memory="64MiB") as loader:
        plan = replace(
            loader.plan(),
            steps=100,
            at_a_time=10,
            own=EpochCost(bytes=10_000_000, requests=1000, distinct=10_000_000),
            first=EpochCost(bytes=100_000, requests=10, distinct=100_000),
        )
    slow = outlook(plan, step_seconds=0.01, latency=0.02, bandwidth=1e6)
    assert (slow.limit, slow.reading_seconds, slow.stall_seconds) == ("bandwidth", 10.0, 9.0)
    far = outlook(plan, step_seconds=0.01, latency=0.2, bandwidth=1e9)
    assert (far.limit, far.reading_seconds, far.stall_share) == ("latency", 20.0, 0.95)
    near = outlook(plan, step_seconds=1.0, latency=0.02, bandwidth=1e6)
    assert near.limit == "training"
    assert near.stall_seconds == pytest.approx(near.first_seconds) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["standard", "minmax", "robust"])
@pytest.mark.parametrize("per", ["feature", "node"])
def test_stats_are_the_scaler(store, tmp_path, kind, per) -> None:
    out = tmp_path / "scaler.json"
    done = run("stats", store, "--kind", kind, "--per", per, "--split", "0.7,0.1,0.2", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    train = wl.split(wl.open(store), wl.WindowSpec(lookback=12, horizon=12), (0.7, 0.1, 0.2))[0]
    classes = {"standard": wl.StandardScaler, "minmax": wl.MinMaxScaler, "robust": wl.RobustScaler}
    expected = classes[kind].fit(train, per=per)
    assert classes[kind].load(out) == expected
    assert json.loads(done.stdout) == {"windows": len(train), "scaler": json.loads(expected.to_json())}
    assert run("stats", store, "--kind", kind, "--per", per).exit_code == 0


@pytest.mark.parametrize(
    "wrong",
    [("--kind", "gauss"), ("--per", "day"), ("--weighting", "none"), ("--out", "/nowhere/at/all.json")],
)
def test_wrong_use_of_stats_ends_with_two(store, wrong) -> None:
    assert run("stats", store, *wrong).exit_code == 2


@pytest.mark.parametrize(
    "wrong", [("--step-time", "soon"), ("--step-time", "80"), ("--step-time", "3 h"), ("--ranks", "0")]
)
def test_wrong_use_of_plan_ends_with_two(store, wrong) -> None:
    assert run("plan", store, *wrong).exit_code == 2


def test_amounts_of_time_and_of_network() -> None:
    assert [duration(text) for text in ("80ms", "2 min", "3s", "5us")] == pytest.approx([0.08, 120, 3, 5e-6])
    assert [rate(text) for text in ("100Mbit", "10Gbit/s", "20 MB", "8bit")] == [12.5e6, 1.25e9, 20e6, 1]


def test_bars_are_drawn_on_terminals_only_and_only_for_work_that_lasts(monkeypatch, capsys) -> None:
    from windowloader.cli import options

    with progress_bar("bytes") as advance:
        advance("writing", 1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_bar("bytes") as advance:
        advance("writing", 1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(options, "SOON", -1.0)
    with progress_bar("bytes") as advance:
        advance("writing", 10**6, 2 * 10**6)
        advance("reading back", 10**6, 2 * 10**6)
    shown = capsys.readouterr().err
    assert "writing" in shown or "MB" in shown
