"""The benchmark measures what it says: the same bytes by every means, in turns, with reasons for what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from windowloader.bench import cases, pictures, rounds, sizes, tables
from windowloader.cli import app
from windowloader.errors import LoaderError

SIZE = sizes.Size("400x5", 400, 5)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return sizes.generate(SIZE, tmp_path_factory.mktemp("bench"))


def test_data_is_made_once_and_whole(path):
    assert np.load(path).shape == (400, 5)
    written = path.stat().st_mtime_ns
    assert sizes.generate(SIZE, path.parent) == path
    assert path.stat().st_mtime_ns == written
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_size_is_a_name_or_a_shape():
    assert sizes.find("pems").nodes == 11_160
    assert sizes.find("30x4") == sizes.Size("30x4", 30, 4)
    with pytest.raises(LoaderError, match="metr-la"):
        sizes.find("metr")


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_every_means_delivers_full_batches_of_the_same_bytes(case, path):
    one = case(SIZE, path, 16)
    try:
        one.imports()
        one.setup()
    except (ImportError, cases.Unavailable) as error:
        pytest.skip(str(error))
    inputs, targets = next(one.batches())
    width = 8 if case.name == "pgt-float64" else 4
    assert tuple(inputs.shape) == tuple(targets.shape) == (16, 12, 5, 2)
    assert inputs.nbytes + targets.nbytes == SIZE.batch_bytes(16) * width // 4
    windows, moved, seconds = one.run(0.0)
    assert (windows, moved) == (16, inputs.nbytes + targets.nbytes)
    assert seconds > 0
    for thing in (getattr(one, "loader", None), getattr(one, "pool", None)):
        for end in ("close", "shutdown"):
            getattr(thing, end, lambda: None)()


def test_means_take_turns_and_are_held_against_the_limit_of_their_round(path, monkeypatch):
    monkeypatch.setattr(rounds, "HELD", 1)  # each in a group of its own
    results = rounds.measure(SIZE, path, names=["memcpy-2", "numpy-take"], batch=16, rounds=2, seconds=0.01)
    assert [result.name for result in results] == ["memcpy-1", "memcpy-2", "numpy-take"]
    assert results[0].over_limit == 1.0
    for result in results:
        assert len(result.rounds) == len(result.limit) == 2
        ratios = [
            a["windows"] / a["seconds"] * b["seconds"] / b["windows"]
            for a, b in zip(result.rounds, result.limit, strict=True)
        ]
        assert result.over_limit == pytest.approx(np.median(ratios))
    assert results[1].limit is not results[2].limit


def test_the_command_writes_a_table_json_and_pictures(tmp_path):
    arguments = ["--size", "400x5", "--only", "memcpy-2", "--rounds", "1", "--seconds", "0.05"]
    folders = ["--cache-dir", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, ["bench", *arguments, *folders, "--json"])
    assert found.exit_code == 0, found.output
    assert [row["name"] for row in json.loads(found.stdout)] == ["memcpy-1", "memcpy-2"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "bench.json",
        "bench.md",
        "bench-memory.png",
        "bench-throughput.png",
    }
    kept = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert kept["results"][1]["rounds"][0]["windows"] > 0
    assert "### 400x5" in (tmp_path / "out" / "bench.md").read_text()


def test_what_is_left_out_says_why():
    skipped = rounds.BenchResult("pems", "keras", "keras", skipped="no room")
    assert "left out: no room" in tables.markdown([skipped])


def test_the_pictures_of_the_page_show_its_tables():
    """Else: python -m windowloader.bench.pictures docs/explanation/performance.md docs/assets/bench."""
    docs = Path(__file__).parents[2] / "docs"
    bars = pictures.read_page((docs / "explanation" / "performance.md").read_text(encoding="utf-8"))
    assert {bar.size for bar in bars} == {"metr-la", "pems-bay", "pems-all-la", "pems"}
    assert any(bar.ours for bar in bars)
    for name in ("throughput", "memory"):
        assert pictures.shown(docs / "assets" / "bench" / f"bench-{name}.png") == bars


def test_pictures_carry_what_they_show(tmp_path):
    row = {"windows": 640.0, "seconds": 1.0, "bytes": 1e9, "cpu": 1.0, "peak": 2e6}
    results = [
        rounds.BenchResult("metr-la", "memcpy-1", "memcpy", 0.5, [row], [row]),
        rounds.BenchResult("metr-la", "grain", "grain", 0.0, [], [], skipped="no room"),
    ]
    bars = pictures.bars_of(results)
    assert pictures.read_page(tables.markdown(results)) == bars
    for file in pictures.draw(bars, tmp_path):
        assert pictures.shown(file) == bars
