"""The keyword arguments of `WindowLoader`, for adapters that take the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable

    from windowloader.batch.batch import Batch
    from windowloader.scaling.scaler import Scaler

__all__ = ["LoaderOptions"]


class LoaderOptions(TypedDict, total=False):
    """The keyword arguments of `WindowLoader`, for adapters that take the same ones."""

    batch_size: int
    shuffle: bool
    seed: int
    scaler: Scaler | None
    scale_targets: bool
    fill: float | None
    dtype: Any  # a name; adapters also take their framework's dtypes
    layout: str | tuple[str, str]
    broadcast: bool
    transform: Callable[[Batch], Any] | None
    rank: int | None
    world_size: int | None
    lanes: int | None
    uneven: Literal["pad", "drop", "exact"]
    drop_last: bool
    global_batch_size: int | None
    steps_per_epoch: int | None
    memory: str | int
    active_blocks: int | None
    reads_ahead: int | None
    prefetch_batches: int | None
    threads: int | None
