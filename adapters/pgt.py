"""PyTorch Geometric Temporal: its index datasets and signals, over windows that are never materialised.

In: series, window sets, PGT's containers and dataset loaders (by duck type). Out: PGT's tuples of ``DataLoader``s,
lazy signals, series, PyG's ``Data`` and ``Batch``. PGT is never imported, PyG only to make its objects.
"""

from __future__ import annotations

from windowloader.adapters.pgt_index import PGTWarning, get_index_dataset

__all__ = ["PGTWarning", "get_index_dataset"]
