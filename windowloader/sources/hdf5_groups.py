"""What an HDF5 file holds: h5netcdf and xarray describe a group, or h5py where they refuse one for a broken neighbour.

In: an open file. Out: one raw `xarray.Dataset` a group, names of pandas frames and of compound datasets. Never reads
values. Imported once h5py is known to be there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import h5netcdf
import h5py
import numpy as np
import xarray
from xarray.core import indexing

from .frame_hdf5 import is_frame

__all__ = ["survey"]

INTERNAL = ("#refs#", "#subsystem#")  # of MATLAB
STRUCTURE = {"DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_Netcdf4Dimid", "_Netcdf4Coordinates"}
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"
# What h5py raises for a dangling link, a damaged header, a type that NumPy does not have.
REFUSED = (KeyError, OSError, RuntimeError, ValueError, TypeError)


def survey(file: Any) -> tuple[dict[str, xarray.Dataset], list[str], list[str]]:
    """Look at every name once, and describe the groups.

    Returns
    -------
    groups : dict of str to xarray.Dataset
        By path, parents before children; a dataset of records is one too, of its fields.
    frames, tables : list of str
        Groups of pandas frames, and datasets of records, by path.
    """
    groups: dict[str, Any] = {}
    frames: list[str] = []
    tables: list[str] = []
    labelled: set[str] = set()
    left: list[tuple[str, Any, tuple[Any, ...]]] = [("", file["/"], ())]
    while left:
        path, group, above = left.pop()
        groups[path] = group
        for name in group:
            with suppress(*REFUSED):
                item, inner = group[name], f"{path}/{name}".lstrip("/")
                if isinstance(item, h5py.Dataset):
                    tables += [inner] if item.dtype.names and item.shape else []
                    labelled |= {path} if any(dim.label for dim in item.dims) else set()
                elif isinstance(item, h5py.Group) and is_frame(item):
                    frames.append(inner)
                    groups[inner] = item
                elif isinstance(item, h5py.Group) and name not in INTERNAL and item not in (group, *above):
                    left.append((inner, item, (group, *above)))  # not again: such a link has no end
    root: Any = None
    found = {}
    with suppress(Exception):  # one name that it cannot describe makes it refuse all
        root = h5netcdf.File(file, "r", phony_dims="sort", decode_vlen_strings=True)
    how: dict[str, Any] = {"decode_cf": False, "create_default_indexes": False, "cache": False}
    for path in sorted(groups):
        if path not in labelled:
            with suppress(Exception):
                store = xarray.backends.H5NetCDFStore(root[path] if path else root)
                found[path] = xarray.open_dataset(store, **how)
        if path not in found:
            found[path] = _by_h5py(groups[path])
    if file.raw is not None and file.raw.problem is not None:  # a store failed, and what is left is not all
        raise file.raw.problem
    return found | {path: _records(file[path], path) for path in tables}, sorted(frames), tables


def _by_h5py(group: Any) -> xarray.Dataset:
    """Describe a group by the names and scales that the dimensions of its datasets do have."""
    found: dict[str, xarray.Variable] = {}
    sizes: dict[str, int] = {}
    for name in group:
        with suppress(*REFUSED):
            item = group[name]
            kind = item.dtype.kind if isinstance(item, h5py.Dataset) and item.shape is not None else ""
            values = item.asstr() if kind == "O" else item  # which raises where it is no text
            if kind not in tuple("fiubcSO") or (item.is_scale and NO_VARIABLE in str(item.attrs.get("NAME"))):
                continue
            dims: list[str] = [name] if item.is_scale and item.ndim else []
            for place in range(len(dims), item.ndim):
                size, (scale, own) = item.shape[place], _dimension(item.dims[place])
                if not own or own in (name, *dims) or sizes.get(own, size) != size:
                    own = f"phony_dim_{name}_{place}"
                elif scale is not None and own not in group and scale.shape == (size,):  # it lies elsewhere
                    found[own] = xarray.Variable([own], _lazy(scale), _attributes(scale))
                dims.append(own)
            found[name] = xarray.Variable(dims, _lazy(values), _attributes(item))
            sizes |= zip(dims, item.shape, strict=True)
    along = {name: found.pop(name) for name in sizes if name in found}
    return xarray.Dataset(found, xarray.Coordinates(along, indexes={}))


def _dimension(dim: Any) -> tuple[Any, str]:
    """Scale of a dimension, the last where there are several, and its name; None where none opens."""
    with suppress(*REFUSED):
        scale = dim[len(dim) - 1] if len(dim) else None
        return scale, dim.label if scale is None else os.path.basename(scale.name)
    return None, ""


def _attributes(item: Any) -> dict[str, Any]:
    """Attributes that can be read."""
    found = {}
    for key in item.attrs.keys() - STRUCTURE:
        with suppress(*REFUSED):
            value = item.attrs[key]
            if isinstance(value, h5py.Empty | h5py.Reference | h5py.RegionReference):
                continue
            value = value.decode(errors="replace") if isinstance(value, bytes) else value
            found[key] = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    return found


def _records(table: Any, path: str) -> xarray.Dataset:
    """Describe the fields of records, which may have dimensions of their own."""
    rows = [f"rows of {path}", *(f"phony_dim_{path}_{dim}" for dim in range(1, table.ndim))]
    found = {}
    for name in table.dtype.names:
        if (kind := table.dtype[name]).base.kind in "fiubS":
            own = [f"phony_dim_{path}_{name}_{dim}" for dim in range(len(kind.shape))]
            found[name] = xarray.Variable([*rows, *own], _lazy(table.fields(name)))
    return xarray.Dataset(found)


def _lazy(values: Any) -> Any:
    return indexing.LazilyIndexedArray(_Values(values))


class _Values(xarray.backends.BackendArray):
    """Values of a dataset, or of a field of its records, read when asked for."""

    def __init__(self, values: Any) -> None:
        self.values, self.dtype = values, values.dtype.base
        self.shape = (*values.shape, *values.dtype.shape)

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, place: tuple[Any, ...]) -> Any:
        rank = len(self.values.shape)  # of the records; a field may have dimensions of its own
        return np.asarray(self.values[place[:rank]])[(..., *place[rank:])]
