"""What of an HDF5 file h5netcdf and xarray can describe: broken neighbours are left out, other datasets are added.

In: an open file. Out: one raw `xarray.Dataset` a group, names of pandas frames and of compound datasets. Never reads
values. Imported once h5py is known to be there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import xarray
from xarray.core import indexing

from .frame_hdf5 import is_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .blobs import BlobFile

__all__ = ["HDF5File", "datasets_of", "with_plain"]

INTERNAL = ("#refs#", "#subsystem#")  # of MATLAB
NO_NUMBERS = (
    b"char",
    b"cell",
    b"struct",
    b"function_handle",
    b"table",
    b"string",
)  # of MATLAB: codes and references
STRUCTURE = {"DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_Netcdf4Dimid", "_Netcdf4Coordinates"}


class HDF5Group(h5py.Group):  # type: ignore[misc]
    """A group as h5netcdf sees it, which one name that it cannot describe would make refuse the whole file."""

    known: dict[str, dict[str, str]]

    def __iter__(self) -> Iterator[str]:
        kinds = self.known.get(self.name)
        names = super().__iter__()
        return names if kinds is None else (name for name in names if kinds.get(name) in ("group", "netcdf"))

    def __getitem__(self, name: Any) -> Any:
        found = super().__getitem__(name)
        if type(found) is h5py.Group:
            found = HDF5Group(found.id)
            found.known = self.known
        return found


class HDF5File(HDF5Group, h5py.File):  # type: ignore[misc]
    """A file and what it reads from, closed together.

    Parameters
    ----------
    name : str or BlobFile
        Path, or an open object.
    **options
        Of `h5py.File`.

    Attributes
    ----------
    frames, tables : list of str
        Groups of pandas frames, and datasets of records, by path.
    """

    def __init__(self, name: str | BlobFile, **options: Any) -> None:
        self.raw = None if isinstance(name, str) else name
        self.known = {}
        self.frames: list[str] = []
        self.tables: list[str] = []
        super().__init__(name, "r", **options)

    @property
    def title(self) -> str:
        """Path or name of the object, for messages."""
        return str(self.filename) if self.raw is None else self.raw.name

    def problem(self) -> Exception | None:
        """Return what the object's store said, where HDF5 raises an error of its own instead."""
        return None if self.raw is None else self.raw.problem

    def close(self) -> None:
        """Close the file and the object."""
        super().close()
        if self.raw is not None:
            self.raw.close()

    def survey(self) -> None:
        """Look at every name once."""
        left = [self["/"]]
        while left:
            group = left.pop()
            kinds = self.known[group.name] = {}
            for name in h5py.Group.__iter__(group):
                try:
                    kind = _kind(group, name)
                except (KeyError, OSError, RuntimeError, ValueError, TypeError):
                    continue  # a dangling link, a damaged header, a type that NumPy does not have
                kinds[name] = kind
                path = f"{group.name}/{name}".lstrip("/")
                if kind == "group":
                    left.append(group[name])
                elif kind in ("frame", "table"):
                    (self.frames if kind == "frame" else self.tables).append(path)
        self.frames.sort()


def _kind(group: Any, name: str) -> str:
    """How a name is described: group, frame, table, netcdf, plain, or none."""
    item = h5py.Group.__getitem__(group, name)
    if name in INTERNAL or item.attrs.get("MATLAB_class") in NO_NUMBERS or "MATLAB_empty" in item.attrs:
        return "none" if isinstance(item, h5py.Dataset) or name in INTERNAL else "group"
    elsewhere = item.file.filename != group.file.filename
    if isinstance(item, h5py.Group):
        above = group
        while above != item and above.name != "/":
            above = above.parent
        if elsewhere or above == item:  # a link to a group above has no end
            return "none"
        return "frame" if is_frame(item) else "group"
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        return "none"
    if item.dtype.names and item.ndim:
        return "table"
    text = h5py.check_string_dtype(item.dtype) is not None
    if not text and item.dtype.kind not in "fiubcS":
        return "none"
    return "netcdf" if not elsewhere and _attributes(item)[1] and _scales(group, item) else "plain"


def _attributes(item: Any) -> tuple[dict[str, Any], bool]:
    """Attributes that can be read, and whether these are all."""
    found, whole = {}, True
    for key in item.attrs:
        if key in STRUCTURE:
            continue
        try:
            value = item.attrs[key]
        except (OSError, RuntimeError, ValueError, TypeError, KeyError):
            value = None
        if value is None or isinstance(value, h5py.Empty | h5py.Reference | h5py.RegionReference):
            whole = False
            continue
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        found[key] = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    return found, whole


def _scale(dim: Any) -> Any:
    """Scale of a dimension, the last where there are several; None where there is none that opens."""
    try:
        return dim[len(dim) - 1] if len(dim) else None
    except (KeyError, OSError, RuntimeError, ValueError):
        return None


def _scales(group: Any, item: Any) -> bool:
    """Whether the dimensions of a dataset are all named by scales of its group or those above, or none has a name."""
    if item.is_scale:
        return True
    scales = [_scale(dim) for dim in item.dims]
    if not any("DIMENSION_LIST" in item.attrs or dim.label for dim in item.dims):
        return True
    above = [group.name]
    while above[-1] != "/":
        above.append(os.path.dirname(above[-1]))
    return all(
        scale is not None and os.path.dirname(scale.name) in above and _attributes(scale)[1]
        for scale in scales
    )


def datasets_of(file: HDF5File) -> dict[str, xarray.Dataset]:
    """Describe the groups of a file by h5netcdf and xarray, parents before children."""
    import h5netcdf

    file.survey()
    root = h5netcdf.File(file, "r", phony_dims="sort", decode_vlen_strings=True)
    found = {}
    for path in sorted(file.known):
        group = root if path == "/" else root[path]
        raw = xarray.open_dataset(_Store(group), decode_cf=False, create_default_indexes=False, cache=False)
        for name, kind in file.known[path].items():
            if kind == "plain":
                raw = with_plain(raw, name, file[path][name])
        found[path.strip("/")] = raw
    for path in file.tables:
        table = file[path]
        rows = [f"rows of {path}", *(f"phony_dim_{path}_{dim}" for dim in range(1, table.ndim))]
        found[path] = xarray.Dataset(
            {
                name: _variable(table.fields(name), (*table.shape, *kind.shape), kind.base, rows, {})
                for name in table.dtype.names
                if (kind := table.dtype[name]).base.kind in "fiubS"
            }
        )
    return found


class _Store(xarray.backends.H5NetCDFStore):
    """Describes variables alone: attributes of groups may be of types that xarray does not have."""

    def get_attrs(self) -> Any:
        """Return none."""
        return xarray.core.utils.FrozenDict()


class _Values(xarray.backends.BackendArray):
    """Values of a dataset, or of a field of its records, read when asked for."""

    def __init__(self, values: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.values, self.shape, self.dtype = values, shape, dtype

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, lambda place: np.asarray(self.values[place])
        )


def _variable(
    values: Any, shape: tuple[int, ...], dtype: Any, dims: list[str], attributes: dict[str, Any]
) -> xarray.Variable:
    dims = [*dims, *(f"phony_dim_{dims[0]}_{dim}" for dim in range(len(dims), len(shape)))]
    return xarray.Variable(dims, indexing.LazilyIndexedArray(_Values(values, shape, dtype)), attributes)


def with_plain(dataset: xarray.Dataset | None, name: str, item: Any) -> xarray.Dataset:
    """Add a dataset that h5netcdf does not take, with the names and scales that its dimensions do have."""
    dataset = xarray.Dataset() if dataset is None else dataset
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        return dataset
    dims: list[str] = []
    scales: dict[str, xarray.Variable] = {}
    for place, dim in enumerate(item.dims):
        scale, size = _scale(dim), item.shape[place]
        own = dim.label if scale is None else os.path.basename(scale.name)
        if not own or own in (name, *dims) or dataset.sizes.get(own, size) != size:
            own = f"phony_dim_{name}_{place}"
        elif scale is not None and own not in dataset.variables and scale.shape == (size,):
            scales[own] = _variable(scale, scale.shape, scale.dtype, [own], _attributes(scale)[0])
        dims.append(own)
    made = {name: _variable(item, item.shape, item.dtype, dims, _attributes(item)[0])}
    dataset = dataset.assign_coords(xarray.Coordinates(scales, indexes={}))
    if name in dataset.sizes:
        return dataset.assign_coords(xarray.Coordinates(made, indexes={}))
    return dataset.assign(made)
