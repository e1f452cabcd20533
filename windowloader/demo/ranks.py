"""The demo on several ranks of this machine, joined by gloo.

In: a task and settings. Out: ranks that train beside this process, which is the first of them. The loaders find their
ranks by themselves: nothing here deals windows.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from . import training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .task import DemoTask
    from .training import Settings

__all__ = ["joined"]


@contextlib.contextmanager
def joined(ranks: int, task: DemoTask, settings: Settings) -> Iterator[Callable[[nn.Module], nn.Module]]:
    """Start the other ranks and be the first; end them all at the end.

    Parameters
    ----------
    ranks : int
        At least 2.
    task : DemoTask
    settings : Settings

    Yields
    ------
    callable
        ``wrap(model)`` for `windowloader.demo.training.fit`, which all ranks must come to.
    """
    threads = torch.get_num_threads()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="windowloader-") as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        others = [
            context.Process(target=_follow, args=(rank, ranks, meeting, task, settings), daemon=True)
            for rank in range(1, ranks)
        ]
        try:
            for other in others:
                other.start()
            _join(0, ranks, meeting)
            yield DistributedDataParallel
            for other in others:
                other.join()
        finally:
            for other in others:
                if other.pid is not None:
                    other.kill()
                    other.join()
            if distributed.is_initialized():
                distributed.destroy_process_group()
            torch.set_num_threads(threads)


def _join(rank: int, ranks: int, meeting: str) -> None:
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)


def _follow(rank: int, ranks: int, meeting: str, task: DemoTask, settings: Settings) -> None:
    """Do what the first rank does, without its words and scores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt ends the first rank, which ends the others
    try:
        _join(rank, ranks, meeting)
        training.load_once(task, settings)
        training.fit(task, settings, wrap=DistributedDataParallel)
        distributed.destroy_process_group()
    except Exception as error:
        sys.exit(f"rank {rank}: {type(error).__name__}: {' '.join(str(error).split())}")
