"""The peers: loaders that a user would pick instead, called as their documentation shows.

In: a size, its file, a batch size. Out: `Contender` objects, see ``case``. Nothing here is
imported by the package itself.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .case import HORIZON, LOOKBACK, SPAN, Contender, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Grain", "Keras", "Pgt", "Pgt64", "Tsl", "Xbatcher"]


class Pgt(Contender):
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


class Xbatcher(Contender):
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


class Grain(Contender):
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


class Keras(Contender):
    """keras' timeseries_dataset_from_array."""

    name = "keras"
    title = "keras timeseries_dataset_from_array"
    modules = ("tensorflow", "keras")

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


class Tsl(Contender):
    """Torch Spatiotemporal's data set and loader, on data that are scaled already."""

    name = "tsl"
    title = "tsl SpatioTemporalDataset + StaticGraphLoader"
    modules = ("tsl.data.loader",)

    def setup(self) -> None:
        """Windows of the train part."""
        from tsl.data import SpatioTemporalDataset
        from tsl.data.loader import StaticGraphLoader

        values = self.ready()[: round(self.size.steps * 0.7)]
        dataset = SpatioTemporalDataset(target=values, window=LOOKBACK, horizon=HORIZON)
        self.loader = StaticGraphLoader(dataset, batch_size=self.batch, shuffle=True, drop_last=True)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Iterate the loader."""
        for batch in self.loader:
            yield batch.input.x, batch.target.y


def grain_options() -> Any:
    """No threads: its default of 16 was slower."""
    import grain

    return grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
