"""What a means of making batches is: it makes those of one pass over random windows, and touches them.

In: a size, its file, a batch size. Out: `Contender` objects; ``run(seconds)`` says how many windows came by in how
long. All deliver 12 → 12 steps of (speed, time of day), z-scored, float32 unless the name says otherwise. Peers are
called as their documentation shows. Nothing here is imported by the package itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .sizes import Size

__all__ = ["HORIZON", "LOOKBACK", "SPAN", "Contender", "Unavailable"]

LOOKBACK = HORIZON = 12
SPAN = LOOKBACK + HORIZON
DAY = 288
ROOM = 11_000_000_000  # bytes a case may hold: half of what the smallest machine in view has


class Unavailable(Exception):  # noqa: N818 - a reason to leave a case out, not an error
    """Why a case cannot run here; printed in its row."""


@dataclass
class Contender:
    """One means. Subclasses fill `batches`."""

    size: Size
    path: Path
    batch: int
    name: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def __post_init__(self) -> None:
        self.endless: Iterator[Any] | None = None

    modules: ClassVar[tuple[str, ...]] = ("numpy",)

    def imports(self) -> None:
        """Import what the means needs, before memory and set-up are measured."""
        for module in self.modules:
            importlib.import_module(module)

    def setup(self) -> None:
        """Do what comes before the first batch."""

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Yield the batches of a pass as (inputs, targets), in random order."""
        raise NotImplementedError

    def _forever(self) -> Iterator[Any]:
        while True:
            yield from self.batches()

    def run(self, seconds: float) -> tuple[int, int, float]:
        """Take and touch batches for about so long; return windows, bytes, seconds."""
        self.endless = self.endless or self._forever()
        windows = moved = 0
        begun = time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds or windows == 0:
            inputs, targets = next(self.endless)
            windows += len(inputs)
            moved += inputs.nbytes + targets.nbytes
            float(inputs[0, 0, 0, 0]), float(targets[-1, -1, -1, -1])
        return windows, moved, passed

    # -- what several means need

    def raw(self) -> np.ndarray:
        """Return the file, mapped."""
        return cast("np.ndarray", np.load(self.path, mmap_mode="r"))

    def need(self, amount: float, what: str) -> None:
        """Raise where an array of this many bytes is no sensible thing to hold."""
        if amount > ROOM:
            raise Unavailable(f"{what} would take {amount / 1e9:.0f} GB")

    def ready(self, dtype: str = "float32") -> np.ndarray:
        """Return the z-scored array with its time of day, shape (time, node, 2), in memory: what peers begin with."""
        self.need(self.size.steps * self.size.nodes * 2 * np.dtype(dtype).itemsize, "the ready array")
        raw = self.raw()
        rows = int(self.size.steps * 0.7)
        mean, std = raw[:rows:7].mean(dtype=np.float64), raw[:rows:7].std(dtype=np.float64)
        values = np.empty((self.size.steps, self.size.nodes, 2), dtype)
        for start in range(0, len(raw), 4096):
            part = slice(start, min(start + 4096, len(raw)))
            values[part, :, 0] = (raw[part] - mean) / std
            values[part, :, 1] = (np.arange(part.start, part.stop) % DAY / DAY)[:, None]
        return values

    def starts(self) -> np.ndarray:
        """Return the starts of the train windows (0.7 of them), shuffled."""
        count = round((self.size.steps - SPAN + 1) * 0.7)
        return np.random.default_rng().permutation(count)

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield full batches of starts."""
        starts = self.starts()
        for at in range(0, len(starts) - self.batch + 1, self.batch):
            yield starts[at : at + self.batch]
