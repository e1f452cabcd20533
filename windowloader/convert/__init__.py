"""Writes a series anew, as Zarr or ``.npy``, in chunks that suit windows: `convert`.

In: a series and a destination. Out: a store, resumable. Never changes what the values mean.
"""

import sys
from types import ModuleType

from .conversion import convert

__all__ = ["convert"]


class _Convert(ModuleType):
    """Lets ``windowloader.convert(…)`` call the function that has the folder's name."""

    __call__ = staticmethod(convert)


sys.modules[__name__].__class__ = _Convert
