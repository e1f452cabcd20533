"""How an epoch went: what the loop received, and what it waited for.

In: one `Made` time line a batch and the moments the loop waited. Out: `LoaderStats`. Never measures anything itself
but with the clock, and costs two clock readings a batch.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .viewing.plots import Picture

__all__ = ["EpochStats", "LoaderStats", "Timeline"]

LAST_WAITS = 1024  # single waits that are kept: an epoch may have millions


@dataclass(slots=True)
class Timeline:
    """When the work on one batch began, had its rows, and was done (seconds of ``time.perf_counter``)."""

    begun: float = field(default_factory=time.perf_counter)
    read: float = 0.0
    done: float = 0.0


@dataclass(slots=True)
class EpochStats:
    """One epoch as the loop saw it.

    Attributes
    ----------
    epoch : int
    batches, windows : int
        Received by the loop.
    delivered_bytes : int
        Bytes of the arrays received.
    seconds : float
        From the first request to the last, the loop's own work included.
    waited : float
        Seconds the loop waited for a batch: the sum of the next three.
    waited_read, waited_assemble, waited_hand_over : float
        For rows from storage, for the gather, and for threads to take turns.
    waits : deque of float
        The last single waits.
    """

    epoch: int
    batches: int = 0
    windows: int = 0
    delivered_bytes: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    waited_read: float = 0.0
    waited_assemble: float = 0.0
    waited_hand_over: float = 0.0
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=LAST_WAITS), repr=False)

    def record(self, asked: float, got: float, line: Timeline, windows: int, delivered: int) -> None:
        """Add a batch that was asked for and got at these moments."""
        wait = got - asked
        read = max(0.0, min(got, line.read) - max(asked, line.begun))
        assemble = max(0.0, min(got, line.done) - max(asked, line.read))
        self.batches += 1
        self.windows += windows
        self.delivered_bytes += delivered
        self.waited += wait
        self.waited_read += read
        self.waited_assemble += assemble
        self.waited_hand_over += wait - read - assemble
        self.waits.append(wait)

    @property
    def windows_per_second(self) -> float:
        """Windows a second, the loop's own work included."""
        return self.windows / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """What `WindowLoader.stats` returns: the epochs of this process, oldest first.

    Examples
    --------
    >>> stats = LoaderStats((EpochStats(epoch=0, batches=10, windows=640, seconds=2.0, waited=0.5),))
    >>> print(stats)
    epoch  batches  windows  windows/s  waited  (read  assemble  hand-over)
        0       10      640        320   0.50 s  0.00 s    0.00 s     0.00 s
    """

    epochs: tuple[EpochStats, ...]

    def __str__(self) -> str:
        lines = ["epoch  batches  windows  windows/s  waited  (read  assemble  hand-over)"]
        lines += [
            f"{e.epoch:>5}  {e.batches:>7}  {e.windows:>7}  {e.windows_per_second:>9,.0f}  {e.waited:>5.2f} s"
            f"  {e.waited_read:.2f} s  {e.waited_assemble:>6.2f} s  {e.waited_hand_over:>7.2f} s"
            for e in self.epochs
        ]
        return "\n".join(lines)

    def to_dicts(self) -> list[dict[str, float]]:
        """One flat dict an epoch, for JSON and tables (without the single waits)."""
        names = [f.name for f in fields(EpochStats) if f.name != "waits"]
        return [{name: getattr(epoch, name) for name in names} for epoch in self.epochs]

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        from .viewing.notebook import stats_html

        return stats_html(self)

    def plot(self) -> Picture:
        """Draw the wait for each step and what epochs waited for (extra ``plot``); see `windowloader.viewing.plots`."""
        from .viewing.plots import plot_stats

        return plot_stats(self)
