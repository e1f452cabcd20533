"""Lightning on two processes, by each of its launchers: each window once, and resumed."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import windowloader as wl

SCRIPT = Path(__file__).parent / "rank_lightning.py"


def fit(folder, *strategies):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), *strategies]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        "windowloader assigns windows to the 2 ranks; use_distributed_sampler does not apply" in done.stderr
    )


def found(folder):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.campaign
@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    "programs",
    [
        pytest.param([["0:ddp_fork", "1:ddp_fork"]], id="forked"),
        pytest.param([["0:ddp"], ["1:ddp_spawn"]], id="subprocess, spawned"),
    ],
)
def test_each_window_once_and_a_resumed_run_is_the_rest(tmp_path, programs):
    for strategies in programs:
        fit(tmp_path, *strategies)
    ranks, resumed = found(tmp_path / "0"), found(tmp_path / "1")
    values = np.zeros((130, 3), np.float32)
    parts = wl.split(wl.Series(values), wl.WindowSpec(lookback=4, horizon=3), (0.7, 0.2, 0.1))
    train, val = (part.starts(np.arange(len(part))).tolist() for part in (parts["train"], parts["val"]))

    assert len(ranks[0]["train"]) == len(ranks[1]["train"]) == 2 * -(-len(train) // 10)
    for epoch in (0, 1):
        seen = [start for rank in ranks for at, starts in rank["train"] if at == epoch for start in starts]
        assert set(seen) == set(train)
        assert len(seen) - len(train) < 2  # "pad": the last step is filled up
    for rank in ranks:  # after the sanity check: the same in both epochs
        once = rank["val"][1:]
        assert once[: len(once) // 2] == once[len(once) // 2 :]
        assert rank["val"][0] == once[0]
    counted = collections.Counter()
    for rank in ranks:
        for starts, weights in rank["val"][1 : 1 + len(rank["val"][1:]) // 2]:
            counted.update(start for start, weight in zip(starts, weights, strict=True) if weight)
    assert counted == collections.Counter(val)

    for rank in (0, 1):
        assert resumed[rank]["train"] == ranks[rank]["train"][4:]
