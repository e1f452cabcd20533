"""The means take turns: one process each, round after round, so that a busy minute is everybody's.

In: a size, names of means, how many rounds of how many seconds. Out: `BenchResult` a means, with medians over the
rounds and ratios to the limit of the same round. Never runs two means at once.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, cast

from windowloader.errors import LoaderError

from .case import SPAN
from .cases import CASES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from .cases import Contender
    from .sizes import Size

__all__ = ["BenchResult", "measure"]

LIMIT = "memcpy-1"
HELD = 12_000_000_000  # bytes that processes which wait for their turn may hold together


@dataclass(slots=True)
class BenchResult:
    """One means at one size.

    Attributes
    ----------
    setup : float
        Seconds from a file to the first batch, after imports.
    rounds, limit : list of dict
        As the worker said them, and as the limit's worker did in the same rounds.
    skipped : str
        Why it did not run, "" where it did.
    """

    size: str
    name: str
    title: str
    setup: float = 0.0
    rounds: list[dict[str, float]] = field(default_factory=list)
    limit: list[dict[str, float]] = field(default_factory=list)
    skipped: str = ""

    def median(self, of: Callable[[dict[str, float]], float]) -> float:
        """Median over the rounds; 0 where there are none."""
        return statistics.median(map(of, self.rounds)) if self.rounds else 0.0

    @property
    def windows_per_second(self) -> float:
        """Median."""
        return self.median(lambda one: one["windows"] / one["seconds"])

    @property
    def gigabytes_per_second(self) -> float:
        """Delivered, median."""
        return self.median(lambda one: one["bytes"] / one["seconds"] / 1e9)

    @property
    def cpu_per_window(self) -> float:
        """Seconds of processor a window, median."""
        return self.median(lambda one: one["cpu"] / one["windows"])

    @property
    def peak(self) -> float:
        """Highest private memory above imports, bytes."""
        return max((one["peak"] for one in self.rounds), default=0.0)

    @property
    def over_limit(self) -> float:
        """Windows a second over the limit's in the same round, median."""
        pairs = zip(self.rounds, self.limit, strict=True)
        ratios = [a["windows"] / a["seconds"] / (b["windows"] / b["seconds"]) for a, b in pairs]
        return statistics.median(ratios) if ratios else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Flat, for JSON and tables."""
        return {
            "size": self.size,
            "name": self.name,
            "title": self.title,
            "skipped": self.skipped,
            "setup_seconds": self.setup,
            "windows_per_second": self.windows_per_second,
            "gigabytes_per_second": self.gigabytes_per_second,
            "over_limit": self.over_limit,
            "peak_private_bytes": self.peak,
            "cpu_seconds_per_window": self.cpu_per_window,
        }


class _Worker:
    """A worker that waits for its turn."""

    def __init__(self, case: type[Contender], size: Size, path: Path, batch: int) -> None:
        self.result = BenchResult(size.name, case.name, case.title)
        command = [
            sys.executable,
            "-m",
            "windowloader.bench.worker",
            case.name,
            size.name,
            str(path),
            str(batch),
        ]
        # torch's OpenMP threads spin at barriers, which on shared processors slows everybody
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._read(lambda said: setattr(self.result, "setup", said["setup"]))

    def _read(self, take: Callable[[dict[str, Any]], None]) -> None:
        line = cast("IO[str]", self.process.stdout).readline()
        said = json.loads(line) if line else {"skipped": f"ended with code {self.process.wait()}"}
        if "skipped" in said:
            self.result.skipped = said["skipped"]
        else:
            take(said)

    def turn(self, seconds: float) -> None:
        if self.result.skipped:
            return
        pipe = cast("IO[str]", self.process.stdin)
        pipe.write(f"{seconds}\n")
        pipe.flush()
        self._read(self.result.rounds.append)

    def end(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            cast("IO[str]", pipe).close()
        self.process.terminate()
        self.process.wait()


def measure(
    size: Size,
    path: Path,
    *,
    names: Iterable[str] | None = None,
    batch: int = 64,
    rounds: int = 5,
    seconds: float = 2.0,
    advance: Callable[[str], None] = lambda _: None,
) -> list[BenchResult]:
    """Let the means take turns.

    Parameters
    ----------
    size : Size
    path : Path
        From `generate`.
    names : iterable of str, optional
        Of `CASES`; the limit always runs. None: all.
    batch : int
        Windows a batch.
    rounds : int
        Turns of each.
    seconds : float
        A turn.
    advance : callable
        Told what is going on.

    Returns
    -------
    list of Result
        In the order of `CASES`; the first is the limit.
    """
    wanted = None if names is None else {LIMIT, *names}
    chosen = [case for case in CASES if wanted is None or case.name in wanted]
    unknown = (wanted or set()) - {case.name for case in CASES}
    if unknown:
        raise LoaderError(f"no means is called {sorted(unknown)}: {', '.join(case.name for case in CASES)}.")
    if size.steps - SPAN + 1 < batch:
        raise LoaderError(f"size {size.name!r} holds fewer windows of {SPAN} rows than a batch of {batch}.")
    limit, others = chosen[0], chosen[1:]
    together = max(1, int(HELD // (size.steps * size.nodes * 8)))
    groups = [others[at : at + together] for at in range(0, len(others), together)]
    found: list[BenchResult] = []
    for group in groups or [[]]:
        processes: list[_Worker] = []
        try:
            for case in (limit, *group):
                advance(f"{size.name}: {case.title}, set up")
                processes.append(_Worker(case, size, path, batch))
            for turn in range(rounds):
                advance(f"{size.name}: round {turn + 1} of {rounds}")
                for process in processes:
                    process.turn(seconds)
        finally:
            for process in processes:
                process.end()
        results = [process.result for process in processes]
        for result in results:
            result.limit = results[0].rounds if not result.skipped else []
        found += results if not found else results[1:]
    return found
