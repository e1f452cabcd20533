"""HDF5 and netCDF-4 files, here and in a bucket: which arrays and frames they hold, and one of them opened.

In: a path or an object, perhaps the name of an array. Out: a source, from `hdf5_dataset` or `frame_hdf5`. Never reads
values when opening, never unpickles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from windowloader.axes import default_axes
from windowloader.errors import SourceFormatError

from .base import digest, optional, unknown_variable
from .cf import packing
from .coordinates import dimension_names, time_dimension
from .description import Contents, StoreDescription, opened, split_path
from .frame_hdf5 import open_frame
from .handles import Stamp
from .hdf5_dataset import HDF5Source, name_of, open_dataset, open_file, told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from windowloader.source import Source

    from .base import LocalSource
    from .blobs import Blob

__all__ = ["HDF5Opener", "list_hdf5", "open_hdf5"]


@dataclass(eq=False)
class HDF5Contents(Contents):
    """The groups of a file, which is open.

    Parameters
    ----------
    file : HDF5File
        By h5py.
    where : Stamp or Blob
        The file or object.
    """

    file: Any = None
    where: Any = None

    def names(self) -> tuple[str, ...]:
        """Paths of what can be opened; frames first."""
        return (*self.file.frames, *self.variables())

    def variables(self) -> tuple[str, ...]:
        """Paths of the variables of numbers; scales of dimensions where there is nothing else. No fields of records."""
        found = tuple(path for path in super().variables() if split_path(path)[0] not in self.file.tables)
        scales = [
            f"{group}/{name}".lstrip("/")
            for group, dataset in self.groups.items()
            for name, one in dataset.variables.items()
            if one.dims == (name,) and one.dtype.kind in "fiub"
        ]
        return found or (() if self.file.frames or self.file.tables else tuple(scales))

    def choose(self, variable: str | None) -> str:
        """Return the path of the array or frame that is meant."""
        asked = "" if variable is None else variable.strip("/")
        if asked in self.file.frames:
            return asked
        names = self.names() if not asked else ()
        if len(names) == 1:
            return names[0]
        tables = [asked] if asked in self.file.tables else [] if asked or names else self.file.tables
        fields = [
            f"{path}/{name}"
            for path in tables
            for name, one in self.groups[path].data_vars.items()
            if one.dtype.kind in "fiub"
        ]
        if fields:
            raise SourceFormatError(
                f"{self.name!r} holds compound datasets (records), of which one field is opened at a time: {fields}. "
                f"Choose in wl.open, e.g. variables=[{fields[0]!r}]; or read the records by pandas and pass the frame."
            )
        if not asked:
            unknown_variable(self.name, None, names)
        if self.file.get(asked) is not None:
            self._show(asked)
        return super().choose(asked)

    def _show(self, path: str) -> None:
        """Describe a dataset that is asked for and not listed: of a frame, or of no numbers, which its dtype tells."""
        from .hdf5_groups import with_plain

        group, name = split_path(path)
        known = self.groups.get(group)
        if known is None or name not in known.variables:
            self.groups[group] = with_plain(known, name, self.file[path])


@dataclass(frozen=True, slots=True)
class HDF5Opener:
    """Opens a file or object.

    Parameters
    ----------
    where : Stamp or Blob
        The file or object.
    key : object
        The same for the same file or object.
    """

    where: Stamp | Blob = field(compare=False)
    key: object = field(repr=False)

    raw = True  # what it describes is undecoded

    @classmethod
    def of(cls, target: Any, storage_options: Mapping[str, Any] | None = None) -> HDF5Opener:
        """Return what opens a path or URL."""
        from .blobs import blob_of

        if "://" not in os.fspath(target):
            stamp = Stamp.of(target)
            return cls(stamp, stamp)
        return cls(blob_of(target, storage_options), digest(target, sorted((storage_options or {}).items())))

    @property
    def name(self) -> str:
        """For messages."""
        return self.where.path if isinstance(self.where, Stamp) else self.where.name

    def check(self) -> None:
        """Raise where the file is no longer what was opened."""
        if isinstance(self.where, Stamp):
            self.where.check()

    def fingerprint(self) -> str:
        """Size and time of change of the file, or version of the object."""
        where = self.where
        return digest(where.size, where.mtime_ns) if isinstance(where, Stamp) else where.identity()

    def __call__(self) -> HDF5Contents:
        """Open and describe it."""
        self.check()
        for module in ("h5py", "xarray", "h5netcdf"):
            optional(module, extra="netcdf", purpose=f"opening {self.name!r}")
        from .hdf5_groups import datasets_of

        file = open_file(self.where)
        try:
            with told(self.name, file, self.where):
                groups = datasets_of(file)
        except BaseException:
            file.close()
            raise
        problem = (lambda: None) if file.raw is None else (lambda: file.raw.problem)
        return HDF5Contents(self.name, groups, file.close, problem, file, self.where)


def list_hdf5(target: Any, storage_options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Names of the arrays of numbers in a file, and of the frames that pandas wrote; () for a lone frame."""
    with opened(HDF5Opener.of(target, storage_options)) as contents:
        with told(contents.name, contents.file, contents.where):
            names = contents.names()
        return () if names == tuple(contents.file.frames) and len(names) == 1 else names


def open_hdf5(
    target: str | os.PathLike[str],
    *,
    variable: str | None = None,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    mask_and_scale: bool = True,
) -> Source:
    """Open one array of an HDF5 or netCDF-4 file.

    Parameters
    ----------
    target : path or URL
        The file.
    variable : str, optional
        Path of an array in the file, ``"forecast/surface/t2m"``, or key of a pandas frame; may be left out where there
        is one.
    axes : str, optional
        One letter an axis; default from the names of dimensions, else ``tn`` or ``tnf``. Of MATLAB's files in the
        order that MATLAB shows, which the file has in reverse.
    storage_options : mapping, optional
        For a URL.
    mask_and_scale : bool
        Whether ``scale_factor``, ``add_offset`` and ``_FillValue`` are applied, as xarray does.

    Raises
    ------
    SourceFormatError
        Where there are several arrays and none was named, or none of that name; the message lists them.
    """
    opener = HDF5Opener.of(target, storage_options)
    with opened(opener) as contents, told(opener.name, contents.file, contents.where):
        path = contents.choose(variable)
        if path in contents.file.frames:
            if not isinstance(contents.where, Stamp):
                from .fetching import open_fetched

                return open_fetched(
                    str(target), storage_options, lambda here: open_hdf5(here, variable=path, axes=axes)
                )
            return open_frame(contents.where, contents.file[path], axes=axes)
        return _open_array(HDF5Opener(contents.where, opener.key), contents, path, axes, mask_and_scale)


def _open_array(
    opener: HDF5Opener, contents: HDF5Contents, path: str, axes: str | None, mask_and_scale: bool
) -> Source:
    raw, array, where = contents.raw(path), contents.array(path, load=True), contents.where
    item = _dataset_of(contents.file, path)
    values = packing(raw.dtype.newbyteorder("="), raw.attrs) if mask_and_scale else None
    matlab, asked = item is not None and "MATLAB_class" in item.attrs, axes
    if matlab:
        axes = (asked or default_axes(raw.ndim, None, path))[::-1]
    dims = (
        None if all(str(dim).startswith("phony_dim_") for dim in raw.dims) else dimension_names(array, axes)
    )
    how: dict[str, Any] = {
        "axes": axes,
        "dims": dims,
        "description": StoreDescription(opener, path, time_dimension(array, axes), array),
        "values": values,
    }
    parent, _, name = path.rpartition("/")
    source: LocalSource
    if parent in contents.file.tables:
        source = HDF5Source(where, contents.file[parent], field=name, **how)
    elif (
        item is None or item.shape != raw.shape or item.dtype.newbyteorder("=") != raw.dtype.newbyteorder("=")
    ):
        from .netcdf import XarraySource

        source = XarraySource(opener, path, **how, array=array)
    else:
        source = open_dataset(where, item, **how)
    if matlab and asked is None and raw.ndim > 1:
        letters = (axes or "")[::-1]
        source.doubts = (
            f"{path!r} of {name_of(where)!r} was written by MATLAB, whose dimensions a file has in reverse. It is read as "
            f"{' × '.join(map(str, raw.shape[::-1]))}, as MATLAB shows it, with axes={letters!r}; give axes= in that order.",
        )
    return source


def _dataset_of(file: Any, path: str) -> Any:
    """Return the dataset of a variable; netCDF-4 has another name for one that is called as a foreign dimension."""
    group, _, name = path.rpartition("/")
    found = file.get(f"{group}/_nc4_non_coord_{name}") or file.get(path)
    return found if hasattr(found, "chunks") else None
