"""Rank and world size of this process, and work that ranks share.

In: arguments, an initialised process group (torch.distributed, JAX), or a launcher's variables. Out: `Ranks`, and
where they came from; `in_shares`. Resolved late (at the first ``len`` or ``iter``) and once. Never imports a framework,
and never guesses from half of a pair of variables.
"""

from __future__ import annotations

import collections
import operator
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from windowloader.errors import RankError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Ranks", "confirm", "in_shares", "resolve"]

T = TypeVar("T")

SHARES = 4  # per rank at least: those that are faster do more
MOST = 64  # items of a share, so that none takes as long as the time-out of a group

OVERRIDE = "Pass rank= and world_size= to override."

TORCHRUN = (
    "RANK",
    "WORLD_SIZE",
)  # also Accelerate, DeepSpeed, SageMaker, Kubeflow; may run within all others
# Asked before SLURM: its steps start the daemons of an mpirun, whose ranks inherit the variables of the daemon.
LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI, Cray
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),  # MVAPICH2
    ("FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),  # LSF's jsrun
)
RANK_ONLY = {"PMIX_RANK": "PMIx", "PALS_RANKID": "HPE PALS", "ALPS_APP_PE": "Cray ALPS"}  # these set no size
SLURM_RESERVED_STEPS = 0xFFFFFFF0  # batch script, interactive shell, external: no step of parallel tasks


@dataclass(frozen=True, slots=True)
class Ranks:
    """A rank, the world size, and where they came from.

    Parameters
    ----------
    rank : int
        0 ≤ rank < world_size.
    world_size : int
        At least 1.
    origin : str
        For messages.

    Raises
    ------
    RankError
        Where the rank is outside the world.

    Examples
    --------
    >>> Ranks(1, 4, "arguments").rank
    1
    """

    rank: int
    world_size: int
    origin: str

    def __str__(self) -> str:
        return f"{self.rank} of {self.world_size}"

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise RankError(
                f"world_size={self.world_size} (from {self.origin}): there is at least 1 rank. {OVERRIDE}"
            )
        if not 0 <= self.rank < self.world_size:
            raise RankError(
                f"rank {self.rank} is outside world_size={self.world_size} (from {self.origin}). "
                f"Ranks count from 0; were the two set by different launchers? {OVERRIDE}"
            )


def resolve(
    rank: int | None = None, world_size: int | None = None, *, environ: Mapping[str, str] | None = None
) -> Ranks:
    """Find the rank: from arguments, torch.distributed or JAX if initialised, a launcher's variables, or 0 of 1.

    Parameters
    ----------
    rank, world_size : int, optional
        Both or neither.
    environ : mapping, optional
        Variables to look in; None: this process's.

    Returns
    -------
    Ranks

    Raises
    ------
    RankError
        For one argument or variable of a pair without the other, for a value that is not an integer, for a rank outside
        its world, and where a launcher sets the rank but not the world size, or two disagree.

    Examples
    --------
    >>> resolve(0, 2)
    Ranks(rank=0, world_size=2, origin='arguments')
    >>> resolve(environ={"RANK": "3", "WORLD_SIZE": "4"})
    Ranks(rank=3, world_size=4, origin='RANK and WORLD_SIZE')
    >>> resolve(environ={}).world_size
    1
    """
    if rank is not None or world_size is not None:
        return _from_arguments(rank, world_size)
    environ = os.environ if environ is None else environ
    return (
        _from_process_group()
        or _from_environ(environ)
        or Ranks(0, 1, "no process group and no launcher's variables: a single process")
    )


def confirm(ranks: Ranks) -> None:
    """Raise where a process group that was created since says another rank.

    Parameters
    ----------
    ranks : Ranks
        What was found earlier. Ranks from arguments are not checked.

    Raises
    ------
    RankError
        Where the group differs: ranks would count different steps and wait for each other forever.

    Examples
    --------
    >>> confirm(resolve(1, 2))
    """
    group = None if ranks.origin == "arguments" else _from_process_group()
    if group is not None and (group.rank, group.world_size) != (ranks.rank, ranks.world_size):
        raise RankError(
            f"this loader was first used as rank {ranks} (from {ranks.origin}); {group.origin}, initialised since, "
            f"says rank {group}. Use the loader, and its len, only after the process group is created. {OVERRIDE}"
        )


def in_shares(key: str, items: Sequence[T], work: Callable[[Sequence[T]], bytes]) -> list[bytes]:
    """Process items once among all ranks of torch.distributed, and return all results on each rank that asks.

    Ranks take shares from a counter in the store of the process group. This is no collective: a rank that does not ask
    delays no one, and one that asks later finds the results. Without a group this process does all.

    Parameters
    ----------
    key : str
        What the results depend on; the same on all ranks.
    items : sequence
        The same on all ranks.
    work : callable
        Called with consecutive items.

    Returns
    -------
    list of bytes
        Results of all shares, in order.

    Raises
    ------
    RankError
        Where another rank failed, with its error, or did not answer within the time-out of the group.

    Examples
    --------
    >>> in_shares("sum", [1, 2, 3], lambda items: str(sum(items)).encode())
    [b'6']
    """
    ranks = _from_process_group()
    store = None if ranks is None or ranks.world_size == 1 else _group_store()
    if ranks is None or store is None:
        return [work(items)]
    count = max(1, min(len(items), max(SHARES * ranks.world_size, len(items) // MOST)))
    edges = [number * len(items) // count for number in range(count + 1)]
    name = f"windowloader/{key}/{_FAILED[key]}"
    try:
        while (number := store.add(f"{name}/next", 1) - 1) < count:
            try:
                result = b"+" + work(items[edges[number] : edges[number + 1]])
            except BaseException as error:
                store.set(f"{name}/{number}", f"-rank {ranks}: {type(error).__name__}: {error}")
                raise
            store.set(f"{name}/{number}", result)
        return [_result_of(store, f"{name}/{number}") for number in range(count)]
    except BaseException:
        _FAILED[key] += 1  # a second call begins anew, as it does on the other ranks
        raise


_FAILED: collections.Counter[str] = collections.Counter()


def _result_of(store: Any, name: str) -> bytes:
    """Wait for the result of one share."""
    try:
        result: bytes = store.get(name)
    except RuntimeError as error:
        raise RankError(
            f"a rank that shares this work did not answer within the time-out of the process group: {error}. Did it "
            "end? Start all ranks again, or pass a longer timeout= to init_process_group."
        ) from error
    if result[:1] == b"-":
        raise RankError(f"another rank failed at its share of this work: {result[1:].decode()}")
    return result[1:]


def _distributed() -> Any | None:
    """Return torch.distributed where the program has imported and initialised it, in this process."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    ready = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if ready else None


def _group_store() -> Any | None:
    """Return the key-value store of torch.distributed; a forked child must not use its parent's connection."""
    distributed = _distributed()
    if distributed is None or distributed in _INHERITED:
        return None
    return distributed.distributed_c10d._get_default_store()


_INHERITED: list[Any] = []  # torch.distributed, in a process forked since it was initialised
os.register_at_fork(after_in_child=lambda: _INHERITED.append(_distributed()))


def _from_arguments(rank: int | None, world_size: int | None) -> Ranks:
    if rank is None or world_size is None:
        given, absent = ("world_size", "rank") if rank is None else ("rank", "world_size")
        value = world_size if rank is None else rank
        raise RankError(f"{given}={value} was given without {absent}=. Pass both, or neither to detect them.")
    return Ranks(operator.index(rank), operator.index(world_size), "arguments")


def _from_process_group() -> Ranks | None:
    """Ask torch.distributed and JAX, but only where the program has imported and initialised them itself."""
    distributed = _distributed()
    if distributed is not None:
        return Ranks(distributed.get_rank(), distributed.get_world_size(), "torch.distributed")
    jax = sys.modules.get("jax")
    is_initialized = getattr(
        getattr(jax, "distributed", None), "is_initialized", None
    )  # older releases lack it
    if jax is None or is_initialized is None or not is_initialized():
        return None
    return Ranks(jax.process_index(), jax.process_count(), "jax.distributed")


def _from_environ(environ: Mapping[str, str]) -> Ranks | None:
    """Read the variables of launchers and of SLURM; `RankError` where two disagree."""
    if ranks := _from_pair(environ, *TORCHRUN):
        return ranks
    found = next(filter(None, (_from_pair(environ, *pair) for pair in LAUNCHERS)), None)
    if found is not None and found.world_size > 1:
        return found
    step = _from_slurm(environ)
    said = "it does not set the number of ranks" if step is None else f"{step.origin} say rank {step}"
    if found is not None and step is not None and step.world_size > 1:
        raise RankError(
            f"{found.origin} say rank {found}, {said}: one of them is left over from a shell or step around this one. "
            f"Unset its variables. {OVERRIDE}"
        )
    if found is not None:
        return found
    for name, launcher in RANK_ONLY.items():
        rank = environ.get(name)
        if rank is not None and (step is None or _number(name, rank) != step.rank):
            raise RankError(
                f"{name}={rank!r} is set, so {launcher} started this process, but {said}. {OVERRIDE} Or set RANK and "
                "WORLD_SIZE."
            )
    return step


def _from_pair(environ: Mapping[str, str], rank_name: str, size_name: str) -> Ranks | None:
    rank, size = environ.get(rank_name), environ.get(size_name)
    if rank is not None and size is not None:
        return Ranks(_number(rank_name, rank), _number(size_name, size), f"{rank_name} and {size_name}")
    if rank is None and size is None:
        return None
    given, absent = (rank_name, size_name) if size is None else (size_name, rank_name)
    raise RankError(
        f"{given}={environ[given]!r} is set but {absent} is not, so the rank of this process is unknown. A launcher "
        "sets both; where a process group is created first (Lightning), use the loader after that. Otherwise set "
        f"{absent} or unset {given}. {OVERRIDE}"
    )


def _from_slurm(environ: Mapping[str, str]) -> Ranks | None:
    """Read SLURM's variables; None outside of a step.

    A batch script has SLURM_NTASKS too, and an interactive shell a step of its own: each is one process.
    """
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID"))
    if step is None:
        return None
    # The step's own count; the job's (SLURM_NTASKS) is inherited by steps of fewer tasks.
    size_name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    size = environ.get(size_name)
    if _number("SLURM_STEP_ID", step) >= SLURM_RESERVED_STEPS:
        return Ranks(0, 1, f"SLURM_STEP_ID={step}: a batch script or an interactive shell")
    if size is not None and _number(size_name, size) <= 1:
        return Ranks(0, 1, f"{size_name}={size}")
    return _from_pair(environ, "SLURM_PROCID", size_name)


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise RankError(f"{name}={value!r} is not an integer. Correct or unset it. {OVERRIDE}") from None
