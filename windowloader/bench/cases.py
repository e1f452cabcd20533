"""The means: the limit, windowloader, what can be written by hand, and the peers.

In: a size, its file, a batch size. Out: `Contender` objects, see ``case``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .case import LOOKBACK, SPAN, Contender, Unavailable
from .peers import Grain, Keras, Pgt, Pgt64, Tsl, Xbatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CASES", "Contender", "Unavailable"]


class Limit(Contender):
    """Copies each window's bytes from a ready array into a reused buffer: the least that delivering them can cost."""

    name = "memcpy-1"
    title = "memcpy, 1 thread (the limit)"
    modules = ("windowloader.bench.copying",)
    threads: ClassVar[int] = 1

    def setup(self) -> None:
        """Hold a ready array of at most 2 GB: beyond the caches, and as cold as a larger one."""
        row = self.size.nodes * 8
        self.rows = min(self.size.steps, max(2 * SPAN, 2_000_000_000 // row))
        self.source = np.full((self.rows, self.size.nodes, 2), 0.5, np.float32)
        self.out = [np.zeros((self.batch, LOOKBACK, self.size.nodes, 2), np.float32) for _ in range(2)]
        self.pool = ThreadPoolExecutor(self.threads)

    def _copy(self, first: int, starts: np.ndarray) -> None:
        from .copying import copy_windows

        half = LOOKBACK * self.size.nodes * 2
        copy_windows(self.source.reshape(-1), starts, half // LOOKBACK, half, first, *self.flat)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Copy, split between the threads."""
        self.flat = [out.reshape(-1) for out in self.out]
        share = -(-self.batch // self.threads)
        for starts in self.chunks():
            inside = starts % (self.rows - SPAN)
            if self.threads == 1:
                self._copy(0, inside)
            else:
                pieces = range(0, self.batch, share)
                list(self.pool.map(self._copy, pieces, [inside[p : p + share] for p in pieces]))
            yield self.out[0], self.out[1]


class Limit2(Limit):
    """The same on two threads."""

    name = "memcpy-2"
    title = "memcpy, 2 threads"
    threads = 2


class Ours(Contender):
    """`WindowLoader` through its public names, from the mapped file."""

    name = "windowloader"
    title = "windowloader"
    modules = (
        "numba",
        "windowloader.loader.loader",
        "windowloader.windows.split",
        "windowloader.batch.kernels",
        "windowloader.series.opening",
    )
    options: ClassVar[dict[str, Any]] = {}

    def setup(self) -> None:
        """Open, split, scale: what a user writes."""
        import windowloader as wl

        series = wl.open(self.path, features=["speed"], timestamps=("2012-03-01", "5min"))
        spec = wl.WindowSpec(
            lookback=12, horizon=12, inputs=["speed", "time_of_day"], targets=["speed", "time_of_day"]
        )
        train, _, _ = wl.split(series, spec, (0.7, 0.1, 0.2), by="windows")
        scaler = wl.StandardScaler(60.0, 9.0, features=["speed"])
        self.loader = wl.WindowLoader(
            train, batch_size=self.batch, shuffle=True, scaler=scaler, drop_last=True, **self.options
        )

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Iterate the loader."""
        for batch in self.loader:
            yield batch.inputs, batch.targets


class Ours1(Ours):
    """One thread, in the loop's own."""

    name = "windowloader-1"
    title = "windowloader, 1 thread"
    options: ClassVar[dict[str, Any]] = {"threads": 0}


class Ours2(Ours):
    """Two threads ahead of the loop."""

    name = "windowloader-2"
    title = "windowloader, 2 threads"
    options: ClassVar[dict[str, Any]] = {"threads": 2}


class NumpyTake(Contender):
    """``np.take`` into reused buffers, from a ready array."""

    name = "numpy-take"
    title = "NumPy take(out=), ready array"

    def setup(self) -> None:
        """Hold the ready array."""
        self.values = self.ready()
        self.out = [np.zeros((self.batch, LOOKBACK, self.size.nodes, 2), np.float32) for _ in range(2)]

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Take the rows of the inputs, then those of the targets."""
        steps = np.arange(LOOKBACK)
        for starts in self.chunks():
            rows = starts[:, None] + steps
            np.take(self.values, rows, axis=0, out=self.out[0], mode="clip")
            np.take(self.values, rows + LOOKBACK, axis=0, out=self.out[1], mode="clip")
            yield self.out[0], self.out[1]


class TorchIndex(Contender):
    """Advanced indexing of a ready tensor."""

    name = "torch-index"
    title = "torch advanced index, ready tensor"
    modules = ("torch",)

    def setup(self) -> None:
        """Hold the ready tensor."""
        import torch

        self.values = torch.from_numpy(self.ready())

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Index by rows."""
        import torch

        steps = torch.arange(LOOKBACK)
        for starts in self.chunks():
            rows = torch.from_numpy(starts)[:, None] + steps
            yield self.values[rows], self.values[rows + LOOKBACK]


class Materialised(Contender):
    """All windows stored beforehand, float32."""

    name = "materialised"
    title = "materialised windows"

    def setup(self) -> None:
        """Store each window twice over, as the literature's scripts do."""
        windows = self.size.steps - SPAN + 1
        self.need(windows * SPAN * self.size.nodes * 8, "all windows")
        view = np.lib.stride_tricks.sliding_window_view(self.ready(), SPAN, axis=0)
        stored = np.ascontiguousarray(np.moveaxis(view, -1, 1))
        self.inputs, self.targets = stored[:, :LOOKBACK], stored[:, LOOKBACK:]

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Index by window."""
        for starts in self.chunks():
            yield self.inputs[starts], self.targets[starts]


CASES = (
    Limit, Limit2, Ours, Ours1, Ours2, NumpyTake, TorchIndex, Materialised, Pgt, Pgt64, Xbatcher, Grain, Keras, Tsl,
)  # fmt: skip
