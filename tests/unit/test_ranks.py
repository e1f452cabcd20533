"""Where a rank is found, in which order, and when there is half of one."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from windowloader.errors import RankError
from windowloader.ranks import Ranks, resolve

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "3"}
MVAPICH = {"MV2_COMM_WORLD_RANK": "4", "MV2_COMM_WORLD_SIZE": "5"}


@pytest.fixture(autouse=True)
def no_process_group(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def found(environ, **arguments):
    ranks = resolve(environ=environ, **arguments)
    return ranks.rank, ranks.world_size


def group(rank, size, *, available=True, initialized=True):
    return SimpleNamespace(
        distributed=SimpleNamespace(
            is_available=lambda: available,
            is_initialized=lambda: initialized,
            get_rank=lambda: rank,
            get_world_size=lambda: size,
        )
    )


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1)),
        (TORCHRUN, (3, 8)),
        (SRUN, (2, 4)),
        (OPENMPI, (1, 2)),
        (MPICH, (1, 3)),
        (MVAPICH, (4, 5)),
        (SRUN | TORCHRUN, (3, 8)),  # torchrun started by srun, one task a node
        (SRUN | MPICH, (2, 4)),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, (0, 1)),
        ({**SRUN, "SLURM_NTASKS": "64"}, (2, 4)),  # a step of fewer tasks than the job
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEPID": "1"}, (2, 4)),  # older SLURM
    ],
)
def test_launchers(environ, expected):
    assert found(environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},  # sbatch script, not started by srun
        {
            "SLURM_PROCID": "0",
            "SLURM_NTASKS": "4",
            "SLURM_STEP_ID": "4294967291",
        },  # the batch step by its number
        SRUN | {"SLURM_STEP_ID": "4294967290"},  # interactive shell of an allocation
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun --pty
    ],
)
def test_slurm_without_parallel_tasks_is_one_process(environ):
    assert found(environ) == (0, 1)


def test_arguments_come_first_then_the_process_group(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", group(5, 6))
    assert found(TORCHRUN, rank=0, world_size=2) == (0, 2)
    assert found(TORCHRUN) == (5, 6)
    assert found({"WORLD_SIZE": "6"}) == (5, 6)  # Lightning's child once its group exists
    assert resolve(environ={}).origin == "torch.distributed"


@pytest.mark.parametrize(
    "torch",
    [group(5, 6, initialized=False), group(5, 6, available=False), SimpleNamespace()],
    ids=["not initialised", "not available", "half imported"],
)
def test_without_a_group_the_launcher_says(monkeypatch, torch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert found(TORCHRUN) == (3, 8)


@pytest.mark.parametrize(
    ("environ", "given", "absent"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE='4'", "RANK"),
        ({"RANK": "0"}, "RANK='0'", "WORLD_SIZE"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_RANK='0'", "OMPI_COMM_WORLD_SIZE"),
        ({"PMI_SIZE": "2"}, "PMI_SIZE='2'", "PMI_RANK"),
        ({"MV2_COMM_WORLD_SIZE": "2"}, "MV2_COMM_WORLD_SIZE='2'", "MV2_COMM_WORLD_RANK"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}, "SLURM_NTASKS='2'", "SLURM_PROCID"),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}, "SLURM_PROCID='1'", "SLURM_NTASKS"),
        ({"WORLD_SIZE": "4"} | OPENMPI, "WORLD_SIZE='4'", "RANK"),
    ],
)
def test_half_a_pair_is_an_error_that_names_both(environ, given, absent):
    with pytest.raises(RankError, match=f"{given} is set but {absent} is not.*rank= and world_size="):
        resolve(environ=environ)


def test_half_a_pair_of_arguments():
    with pytest.raises(RankError, match="rank=1 was given without world_size="):
        resolve(1, environ=TORCHRUN)
    with pytest.raises(RankError, match="world_size=2 was given without rank="):
        resolve(world_size=2, environ=TORCHRUN)


@pytest.mark.parametrize(
    ("rank", "size", "words"),
    [
        (4, 4, "rank 4 is outside world_size=4"),
        (-1, 4, "rank -1"),
        (0, 0, "world_size=0"),
        (0, -2, "world_size=-2"),
    ],
)
def test_ranks_outside_the_world(rank, size, words):
    with pytest.raises(RankError, match=f"{words}.*from arguments"):
        resolve(rank, size)
    with pytest.raises(RankError, match=f"{words}.*from RANK and WORLD_SIZE.*Pass rank= and world_size="):
        resolve(environ={"RANK": str(rank), "WORLD_SIZE": str(size)})


def test_what_is_no_number():
    for environ in ({"RANK": "one", "WORLD_SIZE": "2"}, {"RANK": "", "WORLD_SIZE": "2"}):
        with pytest.raises(RankError, match=f"RANK={environ['RANK']!r} is no number"):
            resolve(environ=environ)
    with pytest.raises(TypeError):
        resolve(0.5, 2)


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resolve() == Ranks(1, 2, "RANK and WORLD_SIZE")


def test_torch_is_never_imported():
    code = "import sys; from windowloader.ranks import resolve; resolve(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=280).returncode == 0
