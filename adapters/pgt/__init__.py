"""PyTorch Geometric Temporal: its index datasets and signals, over windows that are never materialised.

In: series, window sets, PGT's containers and dataset loaders, known by their attributes. Out: PGT's tuples of
``DataLoader``s, lazy signals, series, PyG's ``Data`` and ``Batch``. PGT is never imported, and PyG only to make its
objects.
"""

from __future__ import annotations

from windowloader.adapters.pgt.families import FAMILIES, SignalFamily
from windowloader.adapters.pgt.index import PGTWarning, get_index_dataset
from windowloader.adapters.pgt.pyg import to_pyg, to_pyg_steps
from windowloader.adapters.pgt.signals import WindowSignal, from_signal, to_signal

__all__ = [
    "FAMILIES",
    "PGTWarning",
    "SignalFamily",
    "WindowSignal",
    "from_signal",
    "get_index_dataset",
    "to_pyg",
    "to_pyg_steps",
    "to_signal",
]
