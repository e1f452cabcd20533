"""The means: each makes the batches of one pass over random windows, and touches them.

In: a size, its file, a batch size. Out: `Case` objects; ``run(seconds)`` says how many windows came by in how long.
All deliver 12 → 12 steps of (speed, time of day), z-scored, float32 unless the name says otherwise. Peers are called
as their documentation shows. Nothing here is imported by the package itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .sizes import Size

__all__ = ["CASES", "Case", "Unavailable"]

LOOKBACK = HORIZON = 12
SPAN = LOOKBACK + HORIZON
DAY = 288
ROOM = 11_000_000_000  # bytes a case may hold: half of what the smallest machine in view has


class Unavailable(Exception):  # noqa: N818 - a reason to leave a case out, not an error
    """Why a case cannot run here; printed in its row."""


@dataclass
class Case:
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


class Limit(Case):
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


class Ours(Case):
    """`WindowLoader` through its public names, from the mapped file."""

    name = "windowloader"
    title = "windowloader"
    modules = (
        "numba",
        "windowloader.loader",
        "windowloader.split",
        "windowloader.gathering.kernels",
        "windowloader.opening",
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


class NumpyTake(Case):
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


class TorchIndex(Case):
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


class Materialised(Case):
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


class Pgt(Case):
    """PGT's IndexDataset in torch's DataLoader, tuned: float32, no workers (each worker made it slower)."""

    name = "pgt-float32"
    title = "PGT IndexDataset + DataLoader, float32"
    modules = ("torch.utils.data", "dask.array")
    dtype: ClassVar[str] = "float32"

    def setup(self) -> None:
        """Load the module by its file: importing the package asks for torch-sparse."""
        from torch.utils.data import DataLoader

        package = importlib.util.find_spec("torch_geometric_temporal")
        if package is None or package.origin is None:
            raise Unavailable("torch-geometric-temporal is not installed")
        file = Path(package.origin).parent / "signal" / "index_dataset.py"
        spec = importlib.util.spec_from_file_location("pgt_index_dataset", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        dataset = module.IndexDataset(np.sort(self.starts()), self.ready(self.dtype), HORIZON)
        self.loader = DataLoader(dataset, batch_size=self.batch, shuffle=True, drop_last=True)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Iterate the loader."""
        yield from self.loader


class Pgt64(Pgt):
    """As it ships: float64."""

    name = "pgt-float64"
    title = "PGT IndexDataset + DataLoader, as shipped (float64)"
    dtype = "float64"


class Xbatcher(Case):
    """xbatcher's generator under torch's DataLoader."""

    name = "xbatcher"
    title = "xbatcher + DataLoader"
    modules = ("torch.utils.data", "xarray", "xbatcher")

    def setup(self) -> None:
        """Windows by dimension name."""
        import xarray as xr
        import xbatcher
        from torch.utils.data import DataLoader
        from xbatcher.loaders.torch import MapDataset

        values = xr.DataArray(self.ready(), dims=("time", "node", "feature"))
        generator = xbatcher.BatchGenerator(
            values,
            {"time": SPAN, "node": self.size.nodes, "feature": 2},
            input_overlap={"time": SPAN - 1},
            preload_batch=False,
        )
        self.loader = DataLoader(MapDataset(generator), batch_size=self.batch, shuffle=True, drop_last=True)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Cut each batch of windows in two."""
        for windows in self.loader:
            yield windows[:, :LOOKBACK], windows[:, LOOKBACK:]


class Grain(Case):
    """grain's MapDataset, shuffled and batched."""

    name = "grain"
    title = "grain MapDataset"
    modules = ("grain",)

    def setup(self) -> None:
        """One element a window: views of the ready array."""
        import grain

        values = self.ready()
        self.data = (
            grain.MapDataset.range(len(self.starts()))
            .shuffle(seed=0)
            .map(lambda s: (values[s : s + LOOKBACK], values[s + LOOKBACK : s + SPAN]))
            .batch(self.batch, drop_remainder=True)
        )

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Iterate in this process."""
        yield from self.data.to_iter_dataset(grain_options())


class Keras(Case):
    """keras' timeseries_dataset_from_array."""

    name = "keras"
    title = "keras timeseries_dataset_from_array"
    modules = ("keras",)

    def imports(self) -> None:
        """Choose its backend first."""
        os.environ.setdefault("KERAS_BACKEND", "torch")
        super().imports()

    def setup(self) -> None:
        """Ask for windows of inputs and targets together."""
        from keras.utils import timeseries_dataset_from_array as windows

        values = self.ready()
        self.need(4 * values.nbytes, "three copies of the array")
        self.data = windows(
            values,
            None,
            SPAN,
            batch_size=self.batch,
            shuffle=True,
            seed=0,
            end_index=round(len(values) * 0.7),
        )

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Cut each batch of windows in two."""
        for windows in self.data:
            array = np.asarray(windows)
            if len(array) == self.batch:
                yield array[:, :LOOKBACK], array[:, LOOKBACK:]


def grain_options() -> Any:
    """No threads: its default of 16 was slower."""
    import grain

    return grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


CASES = (
    Limit, Limit2, Ours, Ours1, Ours2, NumpyTake, TorchIndex, Materialised, Pgt, Pgt64, Xbatcher, Grain, Keras,
)  # fmt: skip
