"""Real ranks: a script in several processes, joined by gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

collect_ignore_glob = ["fork_ranks.py", "rank_*.py"]  # programs, not modules with doctests

HERE = Path(__file__).parent
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_", "OMPI_", "PMI_", "PMIX_", "MV2_", "FLUX_", "PALS_")


@pytest.fixture
def clean_environment(monkeypatch):
    """No launcher's variables, whatever started the tests."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)


@pytest.fixture
def world(tmp_path, clean_environment):
    """Run ``world(script, ranks, *arguments)``; return what each rank printed, as JSON lines.

    ``dies`` names a rank that must end by SIGKILL; then the others must fail.
    """
    count = 0

    def run(script, ranks, *arguments, dies=None):
        nonlocal count
        count += 1
        folder = tmp_path / f"world{count}"
        folder.mkdir()
        command = [
            str(HERE / "fork_ranks.py"),
            str(folder),
            str(ranks),
            str(HERE / script),
            *map(str, arguments),
        ]
        launcher = subprocess.Popen(
            [sys.executable, "-W", "ignore", *command], stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            output, _ = launcher.communicate(timeout=240)
        except BaseException:
            os.killpg(launcher.pid, signal.SIGKILL)  # the ranks too
            launcher.communicate()
            raise
        codes = json.loads(output)
        errors = [(folder / f"{rank}.err").read_text()[-3000:] for rank in range(ranks)]
        if dies is None:
            assert codes == [0] * ranks, "\n".join(errors)
        else:
            assert codes[dies] == -signal.SIGKILL, "\n".join(errors)
            assert all(code != 0 for code in codes), codes
        lines = [(folder / f"{rank}.out").read_text().splitlines() for rank in range(ranks)]
        return [[json.loads(line) for line in own] for own in lines]

    return run
