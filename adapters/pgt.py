"""PyTorch Geometric Temporal: its index datasets and signals, over windows that are never materialised.

In: series, window sets, PGT's containers and dataset loaders (by duck type). Out: PGT's tuples of ``DataLoader``s,
lazy signals, series, PyG's ``Data`` and ``Batch``. PGT is never imported, PyG only to make its objects.
"""

from __future__ import annotations

from windowloader.adapters.pgt_contents import HeteroLayout, hetero_layout
from windowloader.adapters.pgt_families import FAMILIES, SignalFamily
from windowloader.adapters.pgt_index import PGTWarning, get_index_dataset
from windowloader.adapters.pgt_objects import to_pyg, to_pyg_steps
from windowloader.adapters.pgt_signals_in import from_signal
from windowloader.adapters.pgt_signals_out import to_signal
from windowloader.adapters.pgt_snapshots import WindowSignal

__all__ = [
    "FAMILIES",
    "HeteroLayout",
    "PGTWarning",
    "SignalFamily",
    "WindowSignal",
    "from_signal",
    "get_index_dataset",
    "hetero_layout",
    "to_pyg",
    "to_pyg_steps",
    "to_signal",
]
