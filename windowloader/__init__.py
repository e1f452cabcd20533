"""Training batches of sliding windows over spatiotemporal arrays, built at run time from where the data is.

Three lines from a file to a loop::

    series = wl.open("pems.zarr")                                # any array with a time axis
    train, val, test = wl.split(series, wl.WindowSpec(lookback=12, horizon=12), (0.7, 0.1, 0.2))
    loader = wl.WindowLoader(train, batch_size=64, scaler=wl.StandardScaler.fit(train))

    open            a path, URL, array or mapping of them -> Series
    Series          values with time, nodes, covariates, graph
    WindowSpec      what one window reads
    WindowSet       the windows of a series: len, starts, take, read
    split, folds    parts that share no targets, with an audit
    convert         a series written anew, in chunks that suit windows
    scan            one pass over the data that notes what is missing
    StandardScaler, MinMaxScaler, RobustScaler
    WindowLoader    batches in order, for any rank and world size, resumable
    Batch           what it yields: acts as the pair (inputs, targets)
    Source          to derive from, where no format fits
    Graph, DynamicGraph
    WindowLoaderError, and the tree below it in windowloader.errors

For frameworks: windowloader.adapters (pytorch, lightning, pgt, numpy_loops).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from windowloader import errors as errors

from .errors import WindowLoaderError as WindowLoaderError

if TYPE_CHECKING:
    from .batch.batch import Batch as Batch
    from .convert.conversion import convert as convert
    from .loader.loader import WindowLoader as WindowLoader
    from .scaling.scalers import MinMaxScaler as MinMaxScaler
    from .scaling.scalers import RobustScaler as RobustScaler
    from .scaling.scalers import StandardScaler as StandardScaler
    from .series.dynamic_graph import DynamicGraph as DynamicGraph
    from .series.graph import Graph as Graph
    from .series.opening import open as open
    from .series.series import Series as Series
    from .sources import Source as Source
    from .windows.missing import scan as scan
    from .windows.split import folds as folds
    from .windows.split import split as split
    from .windows.window_set import WindowSet as WindowSet
    from .windows.window_set import WindowSpec as WindowSpec

__version__ = "0.1.0"

# Where each public name lives. They are imported on first use, so that importing the package is quick.
# There is no __all__: pydoc would follow it and print every class in full, where help() should fit a screen.
_HOMES = {
    "Batch": "batch.batch",
    "DynamicGraph": "series.dynamic_graph",
    "Graph": "series.graph",
    "MinMaxScaler": "scaling.scalers",
    "RobustScaler": "scaling.scalers",
    "Series": "series.series",
    "Source": "sources",
    "StandardScaler": "scaling.scalers",
    "WindowLoader": "loader.loader",
    "WindowSet": "windows.window_set",
    "WindowSpec": "windows.window_set",
    "folds": "windows.split",
    "open": "series.opening",
    "scan": "windows.missing",
    "split": "windows.split",
}


def __getattr__(name: str) -> object:
    if name == "convert":  # a module that can be called
        return import_module(".convert", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "convert", "WindowLoaderError", "__version__", "errors"])
