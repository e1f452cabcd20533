"""Fixtures of the adapters' tests: other packages, where they are installed."""

from __future__ import annotations

import sys
import types
import warnings

import pytest


@pytest.fixture(scope="session")
def pyg():
    """PyG's data objects, imported once: its own import warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch_geometric.data")


@pytest.fixture(scope="session")
def pgt_package(pyg):
    """PGT's loaders and signals; packages that only their import needs are replaced by stand-ins."""
    stand_ins = {}
    for name, member in (("torch_sparse", "SparseTensor"), ("dask", "array"), ("dask.array", "Array")):
        try:
            __import__(name)
        except ImportError:
            stand_ins[name] = types.ModuleType(name)
            setattr(stand_ins[name], member, stand_ins.get("dask.array", type(member, (), {})))
    sys.modules.update(stand_ins)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torch_geometric_temporal.dataset as dataset
            import torch_geometric_temporal.signal as signal
            from torch_geometric_temporal.signal.index_dataset import IndexDataset
        except ImportError as error:
            pytest.skip(f"PyTorch Geometric Temporal cannot be imported: {error}")
        finally:
            for name in stand_ins:
                del sys.modules[name]
    return types.SimpleNamespace(dataset=dataset, signal=signal, IndexDataset=IndexDataset)
