"""Statistics of epochs: what the loop received, and what it waited for.

In: one `Timeline` per call that built batches, the times of the loop's requests, what was read. Out: `LoaderStats`.
Costs two clock readings per batch, and memory that does not grow with the number of epochs.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from windowloader.rows.counting import ReadCounts
from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EpochStats", "History", "LoaderStats", "Timeline"]

LAST_WAITS = 1024  # single waits that are kept per epoch
LAST_EPOCHS = 16  # epochs whose single waits are kept
MOST_EPOCHS = 4096  # epochs that are kept


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
        For rows from storage, for the gather, and for the hand-over between threads.
    longest_wait : float
        The longest of the single waits.
    read_bytes, read_requests, read_blocks : int
        What this epoch read from storage, in the units of `Plan.own`: decoded bytes of whole chunks, requests, and
        blocks as often as they were read. Rows read ahead count for the epoch that needs them; unused rows for the one
        in which they were dropped. 0 where rows are in memory, mapped, or in the disk cache already.
    waits : deque of float
        The last single waits; empty for old epochs.
    reads : ReadCounts
        Counts the three numbers.
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
    longest_wait: float = 0.0
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=LAST_WAITS), repr=False)
    reads: ReadCounts = field(default_factory=ReadCounts, repr=False)

    def record(self, asked: float, got: float, line: Timeline, windows: int, delivered: int) -> None:
        """Add a batch that was requested and received at these times."""
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
        self.longest_wait = max(self.longest_wait, wait)
        self.waits.append(wait)

    def follow(self, reads: ReadCounts) -> None:
        """Count with an iterator's own counter, which also counts what arrives after its end."""
        reads.take(self.reads)
        self.reads = reads

    @property
    def read_bytes(self) -> int:
        """Decoded bytes read from storage."""
        return self.reads.bytes

    @property
    def read_requests(self) -> int:
        """Requests to storage."""
        return self.reads.requests

    @property
    def read_blocks(self) -> int:
        """Blocks, as often as they were read."""
        return self.reads.blocks

    @property
    def windows_per_second(self) -> float:
        """Windows per second, the loop's own work included."""
        return self.windows / self.seconds if self.seconds else 0.0


class History:
    """The epochs of a loader in bounded memory: of old ones only sums are kept, very old ones are dropped."""

    def __init__(self) -> None:
        self._epochs: deque[EpochStats] = deque(maxlen=MOST_EPOCHS)

    def begin(self, epoch: int) -> EpochStats:
        """Start an epoch and return its statistics."""
        self._epochs.append(EpochStats(epoch))
        if len(self._epochs) > LAST_EPOCHS:
            old = self._epochs[-1 - LAST_EPOCHS]
            old.waits.clear()
            old.reads.settle()
        return self._epochs[-1]

    def stats(self) -> LoaderStats:
        """Return the epochs that are kept, oldest first."""
        return LoaderStats(tuple(self._epochs))


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """Result of `WindowLoader.stats`: the epochs of this process, oldest first, at most the last 4096.

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
        for e in self.epochs:
            lines.append(  # noqa: PERF401
                f"{e.epoch:>5}  {e.batches:>7}  {e.windows:>7}  {e.windows_per_second:>9,.0f}  {e.waited:>5.2f} s"
                f"  {e.waited_read:.2f} s  {e.waited_assemble:>6.2f} s  {e.waited_hand_over:>7.2f} s"
            )
        if any(e.read_requests for e in self.epochs):
            lines[0] += "  from storage  requests"
            for place, e in enumerate(self.epochs, 1):
                lines[place] += f"  {format_bytes(e.read_bytes):>13}  {e.read_requests:>8,}"
        return "\n".join(lines)

    def to_dicts(self) -> list[dict[str, float]]:
        """One flat dict per epoch, for JSON and tables (without the single waits)."""
        names = [f.name for f in fields(EpochStats) if f.name not in ("waits", "reads")]
        names += ["read_bytes", "read_requests", "read_blocks"]
        return [{name: getattr(epoch, name) for name in names} for epoch in self.epochs]

    def plot(self) -> Figure:
        """Plot the wait for each step and what epochs waited for; see `windowloader.view.pictures`."""
        from windowloader.view.pictures import plot_stats

        return plot_stats(self)
