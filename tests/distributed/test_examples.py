"""The torchrun example: few lines changed, and a killed run ends where an uninterrupted one does."""

from __future__ import annotations

import ast
import difflib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def data(tmp_path):
    steps = np.arange(700)[:, None]
    noise = np.random.default_rng(0).normal(size=(700, 5))
    np.save(tmp_path / "speeds.npy", (50 + 10 * np.sin(2 * np.pi * steps / 288) + noise).astype(np.float32))
    return tmp_path / "speeds.npy"


def code(name):
    """Lines of a script without its docstring and empty lines."""
    text = (EXAMPLES / name).read_text()
    lines = text.splitlines()[ast.parse(text).body[0].end_lineno :]
    return [line for line in lines if line.strip()]


def test_five_lines_are_new():
    lines = difflib.ndiff(code("ddp_before.py"), code("ddp_after.py"))
    new = [line for line in lines if line.startswith("+ ")]
    assert 0 < len(new) <= 5, new


def test_the_page_shows_the_difference():
    page = (EXAMPLES.parent / "how-to" / "ddp.md").read_text()
    shown = page.split("```diff\n")[1].split("```")[0].splitlines()
    lines = difflib.unified_diff(code("ddp_before.py"), code("ddp_after.py"), n=0, lineterm="")
    assert shown == [line for line in list(lines)[2:] if not line.startswith("@@")]


@pytest.mark.campaign
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(world, data, tmp_path):
    after = EXAMPLES / "ddp_after.py"
    whole = world("rank_example.py", 2, after, data, tmp_path / "whole.pt")
    world("rank_example.py", 2, after, data, tmp_path / "killed.pt", 3, dies=0)  # in the second epoch
    resumed = world("rank_example.py", 2, after, data, tmp_path / "killed.pt")
    assert len(whole[0][0]) == 12 * 32 + 32 + 32 * 12 + 12
    assert whole[0] == whole[1] == resumed[0] == resumed[1]


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["ddp_before.py", "ddp_after.py"])
def test_under_torchrun(data, tmp_path, name):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(EXAMPLES / name), str(data), str(tmp_path / "run.pt")]
    done = subprocess.run([*command, *script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert len(losses) == 4
    assert max(losses) < 2  # of scaled speeds
    assert torch.load(tmp_path / "run.pt")["epoch"] == 1
