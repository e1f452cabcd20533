"""The arguments of a loader, checked.

In: what the user passed. Out: a frozen `LoaderConfig`, or an error that says what to do. Never looks at the data, at
ranks or at the machine.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal

from windowloader.errors import LoaderError
from windowloader.util.units import parse_bytes

__all__ = ["LoaderConfig"]

LEAST = 200  # bytes of memory below which a unit was forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """How a loader reads, orders and spreads its windows; what a batch looks like is the recipe's.

    The parameters are those of `WindowLoader`; ``memory`` may be text and is bytes afterwards.

    Raises
    ------
    LoaderError
        For a count that is none, an unknown ``uneven``, or arguments that exclude each other.

    Examples
    --------
    >>> LoaderConfig(batch_size=32, memory="64MiB").memory
    67108864
    """

    batch_size: int = 64
    shuffle: bool = False
    seed: int = 0
    rank: int | None = None
    world_size: int | None = None
    lanes: int | None = None
    uneven: Literal["pad", "drop", "exact"] = "pad"
    drop_last: bool = False
    global_batch_size: int | None = None
    steps_per_epoch: int | None = None
    epochs: int | None = None
    memory: str | int = "1GiB"
    active_blocks: int | None = None
    reads_ahead: int | None = None
    prefetch_batches: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        asked = self.memory
        object.__setattr__(self, "memory", parse_bytes(asked))
        if self.budget < LEAST:
            raise LoaderError(
                f"memory={asked!r} is {self.budget} bytes, which holds no rows. Write a unit, as in memory='10GiB'."
            )
        counts = {
            "batch_size": self.batch_size,
            "global_batch_size": self.global_batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.epochs,
            "lanes": self.lanes,
            "active_blocks": self.active_blocks,
            "reads_ahead": self.reads_ahead,
            "prefetch_batches": self.prefetch_batches,
            "threads": self.threads,
        }
        for name, value in counts.items():
            if value is not None or name == "batch_size":
                object.__setattr__(self, name, _count(name, value, least=0 if name == "threads" else 1))
        try:
            seed = operator.index(self.seed)
        except TypeError:
            seed = -1
        if not 0 <= seed < 1 << 128:
            raise LoaderError(
                f"seed={self.seed!r} is no whole number in [0, 2**128). The order is a function of it, so that a run "
                "can be repeated; for another one each time draw it yourself, and write it down."
            )
        for name, flag in (("shuffle", self.shuffle), ("drop_last", self.drop_last)):
            if flag not in (True, False):
                raise LoaderError(f"{name}={flag!r} is neither True nor False.")
        if self.uneven not in ("pad", "drop", "exact"):
            raise LoaderError(f"uneven={self.uneven!r} is not known. Pass 'pad', 'drop' or 'exact'.")
        if self.uneven == "exact" and self.drop_last:
            raise LoaderError(
                "uneven='exact' delivers each window once, drop_last=True leaves some out. "
                "Pass drop_last=False, or uneven='drop'."
            )

    @property
    def budget(self) -> int:
        """``memory`` in bytes."""
        return int(self.memory)

    def global_batch(self, world_size: int) -> int:
        """Windows of a full step over all ranks."""
        return self.global_batch_size or self.batch_size * world_size


def _count(name: str, value: Any, *, least: int) -> int:
    """Check a number of things."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise LoaderError(f"{name}={value!r} must be an integer >= {least}.")
    return number
