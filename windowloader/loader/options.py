"""The keyword arguments of `WindowLoader`, listed once: adapters take the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from windowloader.batch.roles import WindowReadOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from windowloader.batch.batch import Batch

__all__ = ["LoaderOptions"]


class LoaderOptions(WindowReadOptions, total=False):
    """The keyword arguments of `WindowLoader`: how batches look, and those of `LoaderConfig`, with its defaults."""

    batch_size: int
    shuffle: bool
    seed: int
    transform: Callable[[Batch], Any] | None
    rank: int | None
    world_size: int | None
    lanes: int | None
    uneven: Literal["pad", "drop", "exact"]
    drop_last: bool
    global_batch_size: int | None
    steps_per_epoch: int | None
    epochs: int | None
    memory: str | int
    active_blocks: int | None
    reads_ahead: int | None
    prefetch_batches: int | None
    threads: int | None
