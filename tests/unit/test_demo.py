"""The demo in small, its baselines against plain NumPy, and in full on a week of METR-LA."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

import windowloader as wl
from windowloader.cli import app
from windowloader.demo import generated, report, training

if TYPE_CHECKING:
    from pathlib import Path

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


def demo(*arguments: str):
    return CliRunner().invoke(app, ["demo", *arguments], env=WIDE, catch_exceptions=False)


def make_small(tmp_path: Path, **options) -> training.DemoTask:
    """Open three days of twelve sensors (a fixture would keep the mapped file open past its test)."""
    made = generated.generate(tmp_path, steps=3 * 288, nodes=12)
    times = (generated.START, generated.STEP)
    series = wl.open(made.speeds, features=["speed"], timestamps=times, missing=0.0, graph=made.graph)
    return training.open_task(series, **options)


# -- the generated data set ------------------------------------------------------------------------------------------


def test_the_data_set_is_made_once_and_the_same_for_a_seed(tmp_path: Path) -> None:
    first = generated.generate(tmp_path / "a", steps=400, nodes=10)
    before = first.speeds.stat().st_mtime_ns
    assert generated.generate(tmp_path / "a", steps=400, nodes=10).speeds.stat().st_mtime_ns == before
    again = generated.generate(tmp_path / "b", steps=400, nodes=10)
    assert np.array_equal(np.load(first.speeds), np.load(again.speeds))
    other = generated.generate(tmp_path / "a", steps=400, nodes=10, seed=1)
    assert not np.array_equal(np.load(first.speeds), np.load(other.speeds))
    assert len(list((tmp_path / "a").iterdir())) == 4, "nothing is left beside two arrays and two graphs"


def test_the_data_set_looks_like_traffic() -> None:
    index, weight, roads = generated.make_graph(207)
    assert 207 * 4 < index.shape[1] < 207 * 16
    assert ((weight >= 0.1) & (weight <= 1)).all()
    assert np.array_equal(np.unique(index), np.arange(207)), "every sensor is on the graph"
    speeds = generated.make_speeds(14 * 288, index, weight, roads)
    assert speeds.dtype == np.float32
    seen = speeds[speeds > 0]
    assert 3 <= seen.min() <= seen.max() <= 70
    assert 0.03 < (speeds == 0).mean() < 0.15
    days = np.where(speeds > 0, speeds, np.nan).reshape(14, 288, 207)
    weekday = np.array([(day + 3) % 7 < 5 for day in range(14)])
    rush, night = days[weekday][:, 204:222], days[weekday][:, 24:48]
    assert np.nanmean(rush) < np.nanmean(night) - 8, "evenings are slower than nights"
    assert np.nanmean(rush) < np.nanmean(days[~weekday][:, 204:222]) - 3, "and than weekend evenings"


def test_queues_move_along_the_graph() -> None:
    index, weight, roads = generated.make_graph(60)
    speeds = generated.make_speeds(14 * 288, index, weight, roads)
    slow = np.where(speeds > 0, speeds - np.median(speeds, axis=0), 0)
    near = np.corrcoef(slow.T)
    joined = np.zeros((60, 60), bool)
    joined[index[0], index[1]] = True
    np.fill_diagonal(joined, False)
    apart = ~joined & ~np.eye(60, dtype=bool)
    assert near[joined].mean() > near[apart].mean() + 0.1


# -- baselines and scores, by hand -----------------------------------------------------------------------------------


def plain_errors(values: np.ndarray, windows: wl.WindowSet, forecast) -> np.ndarray:
    """Masked error by step ahead, window by window."""
    total, count = np.zeros(12), np.zeros(12)
    for start in windows.starts():
        truth = values[start + 12 : start + 24]
        found = forecast(start)
        seen = truth != 0
        total += (np.abs(found - truth) * seen).sum(1)
        count += seen.sum(1)
    return total / count


def test_baselines_and_scores_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    small = make_small(tmp_path)
    values = np.asarray(small.train.series.variables[0].view()[:, :, 0], np.float64)
    fitted_on = values[: small.train.row_range[1]].copy()
    mean = fitted_on[fitted_on != 0].mean()

    def persistence(start: int) -> np.ndarray:
        past = values[start : start + 12]
        last = [column[column != 0][-1] if (column != 0).any() else mean for column in past.T]
        return np.tile(last, (12, 1))

    def average(start: int) -> np.ndarray:
        rows = []
        for row in range(start + 12, start + 24):
            same = fitted_on[row % 288 :: 288]  # under two weeks: by the time of day
            overall = np.array([column[column != 0].mean() for column in fitted_on.T])
            count = (same != 0).sum(0)
            rows.append(np.where(count > 0, same.sum(0) / np.maximum(count, 1), overall))
        return np.array(rows)

    fitted_on[:12] = fitted_on[-11:] = 0  # the first targets of the train windows
    forecasters = {"last": training.persistence, "average": training.historical_average(small)}
    errors, kept = training.score(small, small.val, forecasters, keep=20)
    np.testing.assert_allclose(errors["last"], plain_errors(values, small.val, persistence), rtol=1e-5)
    np.testing.assert_allclose(errors["average"], plain_errors(values, small.val, average), rtol=1e-5)
    rows = small.val.starts(np.arange(20)) + 23
    seen = values[rows] != 0
    np.testing.assert_allclose(kept["observed"][seen], values[rows][seen], rtol=1e-5)
    assert np.isnan(kept["observed"][~seen]).all()


def test_two_weeks_are_averaged_by_the_week() -> None:
    weeks = np.tile(np.arange(7 * 24, dtype=np.float64), 4)[:, None] + 1
    hourly = training.open_task(wl.Series(weeks, timestamps=("2024-01-01", "1h")))
    errors, _ = training.score(hourly, hourly.test, {"average": training.historical_average(hourly)})
    assert errors["average"].max() < 1e-3, "what repeats each week is known exactly"


def test_without_a_clock_the_average_is_the_mean() -> None:
    values = np.random.default_rng(0).normal(50, 9, (300, 3))
    plain = training.open_task(wl.Series(values))
    forecast = training.historical_average(plain)
    _, kept = training.score(plain, plain.test, {"average": forecast}, keep=5)
    fitted_on = values[12 : plain.train.row_range[1] - 11]
    np.testing.assert_allclose(kept["average"], np.tile(fitted_on.mean(0), (5, 1)), rtol=1e-5)


# -- the model and the run ------------------------------------------------------------------------------------------


def test_training_begins_at_persistence_and_gets_better(tmp_path: Path) -> None:
    seen = []
    task = make_small(tmp_path, epochs=2, batch_size=32)
    training.fit(task, advance=lambda *step: seen.append(step))
    steps = -(-len(task.train) // 32)
    assert [step for _, step, _ in seen] == [*range(1, steps + 1)] * 2
    losses = [loss for _, step, loss in seen if step == steps]
    assert losses[1] < losses[0]
    untrained = training.GraphForecaster(task)
    forecasters = {
        "last": training.persistence,
        "model": untrained,
    }
    errors, _ = training.score(task, task.val, forecasters)
    assert abs(errors["model"] - errors["last"]).max() < 0.35 * errors["last"].max()


def test_the_same_seed_trains_the_same_model(tmp_path: Path) -> None:
    small = make_small(tmp_path, epochs=1, batch_size=64, steps_per_epoch=3)
    first, second = training.fit(small), training.fit(small)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert np.array_equal(one.detach().numpy(), other.detach().numpy())


def test_short_data_get_more_epochs_and_smaller_batches(tmp_path: Path) -> None:
    chosen = make_small(tmp_path)
    assert chosen.epochs * -(-len(chosen.train) // chosen.batch_size) >= training.ENOUGH
    assert 8 <= chosen.batch_size <= 64
    asked = make_small(tmp_path, epochs=1, batch_size=5, steps_per_epoch=2)
    assert (asked.epochs, asked.batch_size, asked.steps_per_epoch) == (1, 5, 2)


@pytest.mark.leaks  # matplotlib keeps the fonts it drew with open
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_result_is_printed_and_drawn(tmp_path: Path, ending: str) -> None:
    from rich.console import Console

    small = make_small(tmp_path, epochs=1, batch_size=64, steps_per_epoch=2)
    figures, forecasts = training.run(small)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.errors_table(figures))
    page = console.export_text()
    for words in (
        "persistence",
        "historical average",
        "graph network",
        "15 min",
        "60 min",
    ):
        assert words in page
    assert max(map(len, page.splitlines())) <= 80
    assert report.costs(figures | {"seconds": 1.0})["seconds in total"] == 1
    windows = sum(figures["windows"].values())
    assert figures["memory"]["windows_float32"] == windows * 24 * 12 * 4
    assert figures["memory"]["data"] == 3 * 288 * 12 * 4
    report.picture(figures, forecasts, small, tmp_path / f"plot.{ending}")
    assert (tmp_path / f"plot.{ending}").stat().st_size > 20_000


# -- the command -----------------------------------------------------------------------------------------------------


def test_json_is_all_that_is_printed(tmp_path: Path) -> None:
    done = demo(
        "--json",
        "--size",
        "600",
        "10",
        "--steps-per-epoch",
        "2",
        "--epochs",
        "1",
        "--cache-dir",
        str(tmp_path),
    )
    found = json.loads(done.output)
    assert found["generated"] is True
    assert set(found["mae"]) == {"val", "test"}
    assert set(found["mae"]["val"]["graph network"]) == {"15 min", "30 min", "60 min"}
    assert found["steps"] == 2


def test_generated_data_are_called_generated(tmp_path: Path) -> None:
    done = demo(
        "--size", "600", "10", "--steps-per-epoch", "2", "--epochs", "1", "--cache-dir", str(tmp_path)
    )
    assert "generated" in done.output
    assert "graph network" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "x.npy", "--start", "2012-03-01"], "--freq"),
        (["--adjacency", "adj.pkl"], "give --data too"),
        (["--save", "absent/plot.png"], "no folder"),
        (["--epochs", "0"], "epochs"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: list[str], words: str) -> None:
    done = demo(*arguments)
    assert done.exit_code == 2
    assert words in done.output


def test_a_grid_without_a_graph_joins_its_cells() -> None:
    values = np.random.default_rng(0).normal(280, 5, (200, 3, 4))
    graph = training.open_task(wl.Series(values, axes="tnn")).graph
    assert graph is not None
    assert graph.num_nodes == 12
    assert graph.edge_index.shape[1] == 2 * (3 * 3 + 2 * 4)
    dense = graph.dense()
    assert np.array_equal(dense, dense.T)
    assert dense.sum(1).tolist() == [2, 3, 3, 2, 3, 4, 4, 3, 2, 3, 3, 2]


@pytest.mark.campaign
def test_the_week_of_metr_la_is_forecast_better_than_both_baselines(data: Path) -> None:
    week = data / "metr_la_week"
    done = demo(
        "--data", str(week / "los_speed.csv"), "--adjacency", str(week / "adj_mx.pkl"),
        "--start", "2012-03-01", "--freq", "5min", "--json",
    )  # fmt: skip
    mae = json.loads(done.output)["mae"]
    for part in ("val", "test"):
        for ahead in ("15 min", "30 min", "60 min"):
            ours = mae[part]["graph network"][ahead]
            assert ours < min(mae[part]["persistence"][ahead], mae[part]["historical average"][ahead])


def test_era5_runs_as_a_grid(data: Path) -> None:
    file = data / "era5_uk" / "era5-2mt-2019-03-uk.nc"
    done = demo("--data", str(file), "--variable", "t2m", "--epochs", "1", "--steps-per-epoch", "3", "--json")
    found = json.loads(done.output)
    assert "33 × 49 nodes" in found["data"]
    assert found["edges"] == 6304
    assert set(found["mae"]["val"]["persistence"]) == {"3 h", "6 h", "12 h"}
