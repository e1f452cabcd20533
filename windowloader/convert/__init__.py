"""Writes a series anew, as Zarr or ``.npy``, in chunks that suit windows: `convert`.

In: a series and a destination. Out: a store, resumable. Never changes what the values mean.
"""

from .conversion import convert

__all__ = ["convert"]
