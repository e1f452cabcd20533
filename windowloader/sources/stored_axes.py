"""What the dimensions of an array in a store are: their letters, labels and timestamps.

In: a store's keys, its catalog, an array of it. Out: letters, and `Coordinates`, which are read when asked for. Never
reads the array itself.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.axes import check_axes, default_axes, dimension_role

from .cf import PACKED, is_time, times_of, unpacked
from .failures import Asked, explained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .catalog import ArrayInfo, Catalog
    from .keys import Keys

__all__ = ["Coordinates", "describe"]


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Labels and timestamps of a stored array's dimensions, read when asked for.

    Parameters
    ----------
    keys : Keys
        Of the store.
    paths : tuple of (str or None)
        Array that labels each stored dimension.
    time : int or None
        The stored dimension that is time.
    selection : tuple of (int, ndarray)
        Positions kept along stored dimensions.
    """

    keys: Keys
    paths: tuple[str | None, ...]
    time: int | None
    selection: tuple[tuple[int, np.ndarray], ...] = ()

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along a dimension of the array as stored."""
        if (found := self._read(dim)) is None:
            return None
        timed = dim == self.time or is_time(found[1])
        labels = times_of(*found, name=self.paths[dim] or "") if timed else found[0]
        index = dict(self.selection).get(dim)
        return labels if labels is None or index is None else labels[index]

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows."""
        if self.time is None or (found := self._read(self.time)) is None:
            return None
        return times_of(*found, name=self.paths[self.time] or "time")

    def _read(self, dim: int) -> tuple[np.ndarray, Mapping[str, Any]] | None:
        if (path := self.paths[dim]) is None:
            return None
        import zarr

        if not any(self.keys.get([f"{path}/zarr.json", f"{path}/.zarray"])):
            return None  # a dimension named without an array of its own

        def read() -> tuple[np.ndarray, Mapping[str, Any]]:
            array = zarr.open_array(self.keys.zarr(), path=path, mode="r")
            fill = array.fill_value if array.metadata.zarr_format == 2 else None
            # A fill value of 0 is zarr-python's default, and no mark: a time that counts from 0 has a first row.
            left = {key: said for key, said in array.attrs.items() if key not in PACKED}
            return unpacked(np.asarray(array[...]), array.attrs, fill or None), left

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # text has no settled form in Zarr 3: nothing the reader can help
            return explained(Asked(f"{self.keys.name}/{path}"), read)


def describe(keys: Keys, catalog: Catalog, array: ArrayInfo, axes: str | None) -> tuple[str, Coordinates]:
    """Return the letters of an array and what labels its dimensions.

    Parameters
    ----------
    keys : Keys
        Of the store.
    catalog : Catalog
        Its arrays.
    array : ArrayInfo
        One of them.
    axes : str or None
        Letters, if given.

    Returns
    -------
    tuple of (str, Coordinates)
    """
    name = f"{keys.name}/{array.path}".rstrip("/")
    dims = catalog.dims(array)
    if dims is not None and array.dims is not None:
        beside = [catalog.coordinate(array, dim) for dim in array.dims]
        dims = tuple(
            dim if one is None else dimension_role(dim, one.attributes)
            for dim, one in zip(dims, beside, strict=True)
        )
    letters = axes or default_axes(len(array.shape), dims, name, array.shape)
    check_axes(letters, len(array.shape), name=name, need_time=False, dims=dims)
    time = letters.find("t")
    found = [
        (catalog.times if place == time else catalog.coordinate)(array, dim)
        for place, dim in enumerate(array.dims or ())
    ]
    paths = tuple(None if coordinate is None else coordinate.path for coordinate in found)
    return letters, Coordinates(keys, paths or (None,) * len(letters), time if time >= 0 else None)
