"""The comparison with peers: the same bytes from all, in turns, with reasons for what is skipped."""

from __future__ import annotations

from pathlib import Path

import peers
import pytest

from windowloader.bench import measure

SIZE = "400x5"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return measure.generate(measure.find(SIZE), tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("name", peers.CASES)
def test_every_case_delivers_full_batches_of_the_same_bytes(name, path):
    _, modules, function = peers.CASES[name]
    try:
        for module in modules:
            peers.importlib.import_module(module)
        batches = function(path, 16)
        inputs, targets = next(batches)
    except (ImportError, peers.Unavailable) as error:
        pytest.skip(str(error))
    width = 8 if name == "pgt-float64" else 4
    assert tuple(inputs.shape) == tuple(targets.shape) == (16, 12, 5, 2)
    assert inputs.nbytes == targets.nbytes == 16 * 12 * 5 * 2 * width
    assert measure.turn(batches, 0.0)["windows"] == 16
    batches.close()


def test_cases_take_turns_and_are_compared_with_the_limit_of_their_round(path, monkeypatch):
    monkeypatch.setattr(peers, "TOGETHER", 1)  # each in a group of its own
    rows = peers.run(SIZE, path, ["memcpy-2", "numpy-take"], batch=16, rounds=2, seconds=0.01)
    assert [row["name"] for row in rows] == ["memcpy-1", "memcpy-2", "numpy-take"]
    assert rows[0]["over_limit"] == 1.0
    assert all(row["windows_per_second"] > 0 for row in rows)


def test_the_pictures_of_the_page_show_its_tables():
    """Else: python tests/benchmarks/peers.py --page docs/explanation/performance.md --out docs/assets/bench."""
    docs = Path(__file__).parents[2] / "docs"
    bars = peers.bars_of((docs / "explanation" / "performance.md").read_text(encoding="utf-8"))
    assert {bar[0] for bar in bars} == {"metr-la", "pems-bay", "pems-all-la", "pems"}
    for name in ("throughput", "memory"):
        assert peers.shown(docs / "assets" / "bench" / f"bench-{name}.png") == bars


@pytest.mark.leaks  # matplotlib keeps the fonts it drew with open
def test_pictures_carry_what_they_show(tmp_path):
    figures = {
        "windows_per_second": 640.0,
        "gigabytes_per_second": 1.0,
        "over_limit": 1.0,
        "cpu_seconds_per_window": 1e-3,
    }
    row = {
        "size": "metr-la",
        "title": "memcpy",
        "skipped": "",
        "setup_seconds": 0.5,
        "peak_private_bytes": 2e6,
        **figures,
    }
    table = measure.markdown([row, {"size": "metr-la", "title": "grain", "skipped": "no room"}])
    bars = peers.bars_of(table)
    assert bars == [["metr-la", "memcpy", 1.0, 2e6], ["metr-la", "grain", None, None]]
    peers.draw(bars, tmp_path)
    for name in ("throughput", "memory"):
        assert peers.shown(tmp_path / f"bench-{name}.png") == bars
