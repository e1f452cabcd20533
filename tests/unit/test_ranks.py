"""Where a rank is found, in which order, and when there is half of one."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from windowloader.errors import RankError
from windowloader.util.ranks import Ranks, confirm, resolve

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "3"}
FLUX = {"FLUX_TASK_RANK": "5", "FLUX_JOB_SIZE": "7", "FLUX_JOB_ID": "f1"}
MVAPICH = {"MV2_COMM_WORLD_RANK": "4", "MV2_COMM_WORLD_SIZE": "5"}


@pytest.fixture(autouse=True)
def no_process_group(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delitem(sys.modules, "jax", raising=False)


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
        (SRUN | OPENMPI, (1, 2)),  # mpirun within a step, whose variables are those of its daemon
        (SRUN | MPICH, (1, 3)),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"} | FLUX, (5, 7)),
        (FLUX, (5, 7)),
        ({"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2", "PMIX_RANK": "1"}, (1, 2)),
        (OPENMPI | {"PMIX_RANK": "1"}, (1, 2)),
        (SRUN | {"PMIX_RANK": "2"}, (2, 4)),  # srun --mpi=pmix
        (SRUN | {"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, (0, 1)),
        (SRUN | {"PMIX_RANK": "0", "SLURM_STEP_ID": "4294967290"}, (0, 1)),
        (MPICH | {"PALS_RANKID": "1", "PALS_APID": "a"}, (1, 3)),
        (FLUX | {"PALS_RANKID": "5", "PMIX_RANK": "5"}, (5, 7)),
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


def test_jax_says_where_it_is_initialised(monkeypatch):
    def jax(initialized):
        distributed = SimpleNamespace(is_initialized=lambda: initialized)
        return SimpleNamespace(distributed=distributed, process_index=lambda: 1, process_count=lambda: 3)

    monkeypatch.setitem(sys.modules, "jax", jax(False))
    assert found(SRUN) == (2, 4)
    early = resolve(environ=SRUN)
    monkeypatch.setitem(sys.modules, "jax", jax(True))
    assert found(SRUN) == (1, 3)
    assert resolve(environ={}).origin == "jax.distributed"
    with pytest.raises(
        RankError, match="rank 2 of 4 .*; jax.distributed, initialised since, says rank 1 of 3"
    ):
        confirm(early)
    monkeypatch.setitem(sys.modules, "torch", group(5, 6))
    assert found(SRUN) == (5, 6)
    monkeypatch.setitem(sys.modules, "torch", group(5, 6, initialized=False))
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace())  # being imported, or older
    assert found(SRUN) == (2, 4)


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
        ({"FLUX_TASK_RANK": "2"}, "FLUX_TASK_RANK='2'", "FLUX_JOB_SIZE"),
        ({"MV2_COMM_WORLD_SIZE": "2"}, "MV2_COMM_WORLD_SIZE='2'", "MV2_COMM_WORLD_RANK"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}, "SLURM_NTASKS='2'", "SLURM_PROCID"),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}, "SLURM_PROCID='1'", "SLURM_NTASKS"),
        ({"WORLD_SIZE": "4"} | OPENMPI, "WORLD_SIZE='4'", "RANK"),
    ],
)
def test_half_a_pair_is_an_error_that_names_both(environ, given, absent):
    with pytest.raises(RankError, match=f"{given} is set but {absent} is not.*rank= and world_size="):
        resolve(environ=environ)


@pytest.mark.parametrize(
    ("environ", "name", "launcher"),
    [
        ({"PMIX_RANK": "3", "PMIX_NAMESPACE": "job"}, "PMIX_RANK='3'", "PMIx"),
        ({"PALS_RANKID": "3", "PALS_APID": "a"}, "PALS_RANKID='3'", "HPE PALS"),
        ({"ALPS_APP_PE": "3"}, "ALPS_APP_PE='3'", "Cray ALPS"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "PMIX_RANK": "0"}, "PMIX_RANK='0'", "PMIx"),
    ],
)
def test_a_launcher_that_says_no_size_is_an_error(environ, name, launcher):
    with pytest.raises(RankError, match=f"{name} is set, so {launcher} started.*rank= and world_size="):
        resolve(environ=environ)
    assert found(environ, rank=1, world_size=4) == (1, 4)
    assert found(environ | TORCHRUN) == (3, 8)


def test_launchers_that_disagree_are_an_error():
    with pytest.raises(RankError, match="PMIX_RANK='3' is set, so PMIx started.*say rank 2 of 4"):
        resolve(environ=SRUN | {"PMIX_RANK": "3"})
    with pytest.raises(
        RankError, match="PMI_RANK and PMI_SIZE say rank 0 of 1, .*rank 2 of 4: one of them is left"
    ):
        resolve(environ=SRUN | {"PMI_RANK": "0", "PMI_SIZE": "1"})


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
        with pytest.raises(RankError, match=f"RANK={environ['RANK']!r} is not an integer"):
            resolve(environ=environ)
    with pytest.raises(TypeError):
        resolve(0.5, 2)


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resolve() == Ranks(1, 2, "RANK and WORLD_SIZE")


def test_torch_is_never_imported():
    code = """
import sys
from windowloader.util.ranks import resolve
resolve()
sys.exit(bool({"torch", "jax"} & {*sys.modules}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=280).returncode == 0
