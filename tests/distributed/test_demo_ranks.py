"""``windowloader demo --ranks 2``: two processes come to the forecasts of one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from windowloader.cli import app

SMALL = ("--size", "500", "8", "--epochs", "2", "--steps-per-epoch", "10", "--batch-size", "16", "--json")


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.campaign
def test_two_ranks_come_to_the_forecasts_of_one(tmp_path):
    found = []
    for ranks in ("2", "1"):
        arguments = ["demo", *SMALL, "--ranks", ranks, "--cache-dir", str(tmp_path)]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout))
    two, one = found
    assert two["steps"] == one["steps"] == 20
    assert two["curves"]["persistence"] == one["curves"]["persistence"]
    assert two["curves"]["graph network"] == pytest.approx(one["curves"]["graph network"], rel=0.02)


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.campaign
def test_two_ranks_train_on_data_without_clock_or_graph(tmp_path):
    np.save(tmp_path / "bare.npy", np.random.default_rng(0).normal(50, 9, (300, 6)).astype("f4"))
    asked = ("--data", str(tmp_path / "bare.npy"), "--epochs", "1", "--steps-per-epoch", "4", "--json")
    result = CliRunner().invoke(app, ["demo", *asked, "--ranks", "2"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 4
