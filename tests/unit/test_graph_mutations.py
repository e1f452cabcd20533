"""Damaged and hostile graph files: no crash, no more memory than a file can ask for, no error but the package's."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("graph_mutations.py")
CASES = 17_000


def loaded(folder: Path, first: int, last: int, *real: Path) -> dict:
    """Load the cases in a process of their own; one that crashes names its case."""
    folder.mkdir()
    command = [sys.executable, str(WORKER), str(folder), str(first), str(last), *map(str, real)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    number = (folder / "number").read_text() if (folder / "number").exists() else "none"
    assert done.returncode == 0, f"case {number}: exit status {done.returncode}\n{done.stderr[-3000:]}"
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert told["grown"] < 1 << 30
    assert sum(told["found"].values()) == last - first
    return told


def test_damaged_and_hostile_files_are_errors_of_graphs(tmp_path: Path) -> None:
    told = loaded(tmp_path / "few", 0, 500)
    assert told["found"]["GraphError"] > told["hostile"] > 70
    assert told["found"]["read"] > 20  # damage may leave a graph


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_many_damaged_files(tmp_path: Path, data: Path) -> None:
    real = data / "metr_la_week" / "adj_mx.pkl"
    total: collections.Counter[str] = collections.Counter()
    grown = 0
    for first in range(500, 500 + CASES, 1000):
        told = loaded(tmp_path / str(first), first, first + 1000, real)
        total.update(told["found"])
        grown = max(grown, told["grown"])
    print(f"{total.total()} damaged files: {dict(total)}, at most {grown >> 20} MiB more memory")
    assert total.total() == CASES
