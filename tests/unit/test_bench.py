"""The benchmark of the package: memcpy and the loader in turns over the same bytes, and the plan beside the reads."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from windowloader.bench import measure
from windowloader.cli import app
from windowloader.errors import LoaderError

SIZE = (400, 5)


@pytest.fixture
def path(tmp_path):
    return measure.generate(SIZE, tmp_path / "bench")


def test_data_is_made_once_and_whole(path):
    assert np.load(path).shape == SIZE
    written = path.stat().st_mtime_ns
    assert measure.generate(SIZE, path.parent) == path
    assert path.stat().st_mtime_ns == written
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_size_is_a_name_or_a_shape():
    assert measure.find("pems")[1] == 11_160
    assert measure.find("30x4") == (30, 4)
    with pytest.raises(LoaderError, match="metr-la"):
        measure.find("metr")


@pytest.mark.parametrize("threads", [1, 2])
def test_memcpy_copies_whole_windows(threads):
    shapes = (16, 12, 5, 2), (16, 3, 5, 2)
    batches = measure.memcpy(400, *shapes, threads)
    inputs, targets = next(batches)
    batches.close()
    assert (inputs.shape, targets.shape) == shapes
    assert (inputs == 0.5).all()
    assert (targets == 0.5).all()


def test_rows_are_compared_with_the_limit_of_the_same_round(path):
    windows, options = measure.open_size(path)
    rows = measure.measure(
        windows,
        name="small",
        only=["windowloader-1"],
        rounds=2,
        seconds=0.01,
        options={**options, "batch_size": 16},
    )
    assert [row["name"] for row in rows] == ["memcpy-1", "windowloader-1"]
    assert rows[0]["over_limit"] == 1.0
    fast = [
        {"windows": 20, "seconds": 1.0, "bytes": 8, "cpu": 1.0},
        {"windows": 30, "seconds": 1.0, "bytes": 8, "cpu": 1.0},
    ]
    slow = [{**one, "windows": 10} for one in fast]
    assert measure.figures(fast, slow)["over_limit"] == 2.5


def test_the_plan_is_compared_with_what_was_read(tmp_path):
    import zarr

    import windowloader as wl

    zarr.create_array(tmp_path / "a.zarr", data=np.ones((400, 5), "f4"), chunks=(50, 5))
    windows = wl.WindowSet(wl.open(tmp_path / "a.zarr"), wl.WindowSpec(lookback=12, horizon=12))
    found = measure.check_plan(windows, options={"batch_size": 16, "memory": "1GiB"})
    planned, measured = found["read_bytes"]
    assert planned == 400 * 5 * 4
    assert measured in (planned, 2 * planned)  # the next epoch may have begun


def test_the_command_measures_your_own_data(tmp_path):
    np.save(tmp_path / "own.npy", np.ones((400, 5), "f4"))
    arguments = [
        "--only",
        "windowloader",
        "--rounds",
        "1",
        "--seconds",
        "0.05",
        "--out",
        str(tmp_path / "out"),
    ]
    found = CliRunner().invoke(app, ["bench", str(tmp_path / "own.npy"), *arguments])
    assert found.exit_code == 0, found.output
    assert "planned and measured" in found.output
    kept = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert kept["results"][1]["windows_per_second"] > 0
    assert "### your data" in (tmp_path / "out" / "bench.md").read_text()


def test_the_command_prints_json(tmp_path):
    arguments = ["--size", "400x5", "--only", "memcpy-2", "--rounds", "1", "--seconds", "0.05"]
    found = CliRunner().invoke(app, ["bench", *arguments, "--cache-dir", str(tmp_path), "--json"])
    assert found.exit_code == 0, found.output
    assert [row["name"] for row in json.loads(found.stdout)] == ["memcpy-1", "memcpy-2"]
