"""What an HDF5 or netCDF-4 file holds, here or in a bucket: its groups, arrays, frames of pandas and records.

In: a file's stamp or an object. Out: `HDF5Contents`. Names and scales of dimensions are those of netCDF-4, read by
h5py: h5netcdf refuses a whole file for one broken name. Never reads values when describing, never unpickles, never lets
an object name a local file.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import h5py
import numpy as np
import xarray
from xarray.core import indexing

from windowloader.errors import SourceFormatError

from .description import Contents, split_path
from .frame_hdf5 import is_frame
from .handles import Stamp
from .hdf5_dataset import HDF5File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .remote_objects import RemoteObject

__all__ = ["HDF5Contents"]

T = TypeVar("T")

MOST_CHUNKS = 4096  # of a coordinate that are read at once
NO_NUMBERS = ["char", "cell", "struct", "function_handle", "table", "string"]  # of MATLAB: codes, references
INTERNAL = ("#refs#", "#subsystem#")  # of MATLAB
STRUCTURE = {"DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_Netcdf4Dimid", "_Netcdf4Coordinates"}
RENAMED = "_nc4_non_coord_"  # of netCDF-4: an array that is named as a dimension which it does not lie along
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"
# What h5py raises for a dangling link, a damaged header, a type that NumPy does not have.
REFUSED = (KeyError, OSError, RuntimeError, ValueError, TypeError)


class HDF5Contents(Contents):
    """The groups of a file, which is open.

    Parameters
    ----------
    where : Stamp or RemoteObject
        The file or object.

    Attributes
    ----------
    frames : list of str
        Groups of pandas frames, by path.
    tables : list of str
        Datasets of records, by path; each is a group too, of its fields.
    elsewhere : list of str
        What of a remote object lies in another file, by path.
    """

    def __init__(self, where: Stamp | RemoteObject) -> None:
        self._opened = HDF5File(where)
        self._described: Any = None  # the h5py.File that the groups are of
        self.frames: list[str] = []
        self.tables: list[str] = []
        self.elsewhere: list[str] = []
        super().__init__(where.name, {}, self._opened.close, where)
        try:
            self.complete(lambda: None)
        except BaseException:
            self.close()
            raise

    def complete(self, call: Callable[[], T], doing: str = "") -> T:
        """Return what a call finds; see `HDF5File.use`. A file that was opened anew is described anew."""

        def use(file: Any) -> T:
            if self._described is not file:
                self._look(file)
                if (problem := self.problem()) is not None:  # which was suppressed: what was found is not all
                    raise problem
                self._described = file
            return call()

        return self._opened.use(use, doing)

    def problem(self) -> Exception | None:
        """Why the store failed."""
        return None if self._opened.raw is None else self._opened.raw.problem

    def names(self) -> tuple[str, ...]:
        """Paths of what can be opened; frames first."""
        return (*self.frames, *self.variables())

    def _numbers(self) -> Iterator[str]:
        for path in super()._numbers():
            attributes, parts = self.raw(path).attrs, (*self.tables, *self.frames)
            empty = "MATLAB_empty" in attributes or attributes.get("MATLAB_class") in NO_NUMBERS
            if not empty and split_path(path)[0] not in parts:
                yield path

    def holds(self, path: str) -> bool:
        """Whether there is an array, frame or dataset of records of that path, here or in another file."""
        return path in (*self.frames, *self.tables, *self.elsewhere) or super().holds(path)

    def choose(self, variable: str | None) -> str:
        """Return the path of the array or frame that is meant."""
        asked = [variable.strip("/")] if variable else [] if self.names() else [*self.tables, *self.elsewhere]
        if found := set(asked) & set(self.elsewhere):
            raise SourceFormatError(
                f"{found.pop()!r} of {self.name!r} lies in other files, which an object in a bucket may not name. "
                "Copy all of them here, or convert them: `windowloader convert`."
            )
        fields = [
            f"{path}/{name}"
            for path in asked
            for name, one in (self.groups[path].data_vars.items() if path in self.tables else ())
            if one.dtype.kind != "S"
        ]
        if fields:
            raise SourceFormatError(
                f"{self.name!r} holds compound datasets (records), of which one field is opened at a time: {fields}. "
                f"Choose in wl.open, e.g. variables=[{fields[0]!r}]; or read the records by pandas and pass the frame."
            )
        return super().choose(variable)

    def array(self, path: str, *, load: bool = False) -> Any:
        """Return a variable with its coordinates; see `Contents.array`."""
        return self.complete(lambda: super(HDF5Contents, self).array(path, load=load))

    def load(self, path: str) -> None:
        """Read a coordinate, which then stays in memory; the pages of its chunks are fetched all at once."""
        item, raw = self.dataset(path), self._opened.raw
        if raw is not None and item is not None and item.chunks:
            places: list[Any] = []
            item.id.chunk_iter(places.append)
            raw.pages.fetch((one.byte_offset, one.byte_offset + one.size) for one in places[:MOST_CHUNKS])
        super().load(path)

    def dataset(self, path: str) -> Any:
        """Return the dataset of a variable, if any; netCDF-4 renames one that is named as a foreign dimension."""
        group, _, name = path.rpartition("/")
        file = self._described
        found = file.get(f"{group}/{RENAMED}{name}") or file.get(path)
        return found if isinstance(found, h5py.Dataset) else None

    def frame(self, path: str) -> Any:
        """Return the group of a frame."""
        return self._described[path]

    def _look(self, file: Any) -> None:
        """Look at every name once, and describe the groups, parents before children."""
        remote = not isinstance(self.where, Stamp)
        groups, self.frames, self.tables, self.elsewhere = {}, [], [], []
        left: list[tuple[str, Any, tuple[Any, ...]]] = [("", file["/"], ())]
        while left:
            path, group, above = left.pop()
            arrays: dict[str, Any] = {}
            for name in group:
                with suppress(*REFUSED):
                    inner = f"{path}/{name}".lstrip("/")
                    if remote and isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                        self.elsewhere.append(inner)
                        continue
                    item = group[name]
                    frame = isinstance(item, h5py.Group) and is_frame(item)
                    if remote and any(
                        _is_elsewhere(one, file) for one in (item, *(item.values() if frame else ()))
                    ):
                        self.elsewhere.append(inner)
                    elif frame:
                        self.frames.append(inner)
                        inside = {key: one for key, one in item.items() if isinstance(one, h5py.Dataset)}
                        groups[inner] = _dataset(item, inside, remote)
                    elif isinstance(item, h5py.Group):
                        if name not in INTERNAL and item not in (group, *above):  # else it would never end
                            left.append((inner, item, (group, *above)))
                    elif isinstance(item, h5py.Dataset) and item.dtype.names:
                        numbers = any(item.dtype[name].base.kind in "fiub" for name in item.dtype.names)
                        self.tables += [inner] if item.shape and numbers else []
                    elif isinstance(item, h5py.Dataset) and item.shape is not None:
                        arrays[name] = item
            groups[path] = _dataset(group, arrays, remote)
        self.frames.sort()
        groups |= {path: _records(file[path], path) for path in self.tables}
        self.groups = dict(sorted(groups.items()))


def _is_elsewhere(item: Any, file: Any) -> bool:
    """Whether what an object holds is, or reads, another file, which would be one of this machine."""
    if item.file.filename != file.filename:  # a soft link to an external one
        return True
    return isinstance(item, h5py.Dataset) and bool(item.external or item.is_virtual)


def _dataset(group: Any, arrays: dict[str, Any], remote: bool) -> xarray.Dataset:
    """Return a group as a raw `xarray.Dataset`, by the names and scales that the dimensions of its arrays have."""
    found: dict[str, xarray.Variable] = {}
    sizes: dict[str, int] = {}
    numbered: dict[int, str] = {}  # dimensions as netCDF-4 counts them
    for stored, item in arrays.items():
        with suppress(*REFUSED):
            if item.is_scale:
                numbered[int(item.attrs["_Netcdf4Dimid"])] = stored.removeprefix(RENAMED)
    for stored, item in arrays.items():
        with suppress(*REFUSED):
            name, kind = stored.removeprefix(RENAMED), item.dtype.kind
            values = item.asstr() if kind == "O" else item  # which raises if it is not text
            if kind not in tuple("fiubcSO") or (item.is_scale and NO_VARIABLE in str(item.attrs.get("NAME"))):
                continue
            dims: list[str] = [name] if item.is_scale and item.ndim else []
            if dims and len(along := item.attrs.get("_Netcdf4Coordinates", ())) == item.ndim > 1:
                dims = [
                    numbered.get(number, f"phony_dim_{name}_{place}")
                    for place, number in enumerate(along.tolist())
                ]
            shape = list(item.shape)
            for place in range(len(dims), item.ndim):
                scale, own = _dimension(item.dims[place], remote)
                if scale is not None and item.maxshape[place] is None:  # as long as the unlimited dimension
                    shape[place] = max(shape[place], *scale.shape[:1])
                size = shape[place]
                if not own or own in (name, *dims) or sizes.get(own, size) != size:
                    own = f"phony_dim_{name}_{place}"
                elif scale is not None and own not in group and scale.shape == (size,):  # in another group
                    found[own] = xarray.Variable([own], _lazy(scale), _attributes(scale))
                dims.append(own)
            found[name] = xarray.Variable(dims, _lazy(values, shape, item.fillvalue), _attributes(item))
            sizes |= zip(dims, shape, strict=True)
    coordinates = {name: found.pop(name) for name in sizes if name in found}
    return xarray.Dataset(found, xarray.Coordinates(coordinates, indexes={}))


def _dimension(dim: Any, remote: bool) -> tuple[Any, str]:
    """Scale of a dimension, the last if there are several, and its name; None if none opens, or it may not be read."""
    with suppress(*REFUSED):
        scale = dim[len(dim) - 1] if len(dim) else None
        if scale is None:
            return None, dim.label
        return None if remote and _is_elsewhere(scale, scale.file) else scale, os.path.basename(scale.name)
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


def _lazy(values: Any, shape: Sequence[int] = (), fill: Any = 0) -> Any:
    return indexing.LazilyIndexedArray(_Values(values, shape, fill))


class _Values(xarray.backends.BackendArray):
    """Values of a dataset, or of a field of its records, read when asked for; ``fill`` up to a longer shape."""

    def __init__(self, values: Any, shape: Sequence[int], fill: Any) -> None:
        self.values, self.dtype, self.fill = values, values.dtype.base, fill
        self.shape = tuple(shape) or (*values.shape, *values.dtype.shape)

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, place: tuple[Any, ...]) -> Any:
        rank = len(self.values.shape)  # of the records; a field may have dimensions of its own
        found = np.asarray(self.values[place[:rank]])[(..., *place[rank:])]
        kept = [(part, size) for part, size in zip(place, self.shape, strict=True) if isinstance(part, slice)]
        lack = [
            len(range(*part.indices(size))) - have
            for (part, size), have in zip(kept, found.shape, strict=True)
        ]
        return np.pad(found, [(0, some) for some in lack], constant_values=self.fill) if any(lack) else found
