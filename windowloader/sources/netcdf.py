"""Files that xarray describes, HDF5 in buckets, and xarray objects: one array of them opened.

In: a netCDF, HDF5 or GRIB file, an HDF5 object, a DataArray, a Dataset, a DataTree. Out: a source, the fastest that the
storage allows: `ArraySource` for values in memory, `MappedSource` for netCDF 3, those of `hdf5_dataset` and
`frame_hdf5`, else `XarraySource`. Never loads a whole variable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceFormatError
from windowloader.util.axes import default_axes

from .base import digest, optional
from .coordinates import dimension_names, time_dimension
from .description import Contents, FileSource, StoreDescription, opened
from .handles import Stamp
from .mapping import Region, owner_of, unchanged
from .memory import ArraySource, MappedSource
from .packing import packing
from .remote_objects import remote_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.sources import Source


__all__ = ["XarraySource", "list_netcdf", "list_xarray", "open_netcdf", "open_xarray"]

ENGINES = {  # module, extra, and what it reads
    "h5py": ("h5py", "netcdf", "HDF5"),
    "scipy": ("scipy", "netcdf", "netCDF 3"),
    "netcdf4": ("netCDF4", "netcdf4", "netCDF 3 with 64-bit data"),
    "cfgrib": ("cfgrib", "grib", "GRIB"),
}
HEADS = {b"GRIB": "cfgrib", b"CDF\1": "scipy", b"CDF\2": "scipy", b"CDF\5": "netcdf4"}


@dataclass(frozen=True, slots=True)
class FileOpener:
    """Opens a file, or HDF5 in a bucket, by an engine of xarray, and describes it; or keeps what a user opened.

    Parameters
    ----------
    name : str
        For messages.
    where : Stamp, RemoteObject or None
        The file or object; None if it is not known.
    key : object
        The same for the same file or object.
    engine : {"h5py", "scipy", "netcdf4", "cfgrib"}
        Of HDF5, of netCDF 3 (classic and 64-bit offset), of netCDF 3 with 64-bit data, of GRIB.
    groups : dict of str to xarray.Dataset, optional
        What a user opened or made, by path: its values are as xarray shows them.
    """

    name: str
    where: Any = field(compare=False)
    key: object = field(repr=False)
    engine: str = ""
    groups: dict[str, Any] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, target: Any, storage_options: Mapping[str, Any] | None = None) -> FileOpener:
        """Return the opener of a path, by the file's first bytes, or of a URL of HDF5."""
        if "://" in os.fspath(target):
            remote = remote_object(target, storage_options)
            return cls(remote.name, remote, digest(target, sorted((storage_options or {}).items())), "h5py")
        stamp = Stamp.of(target)
        with open(stamp.path, "rb") as file:
            return cls(stamp.path, stamp, stamp, HEADS.get(file.read(4), "h5py"))

    def check(self) -> None:
        """Raise if a file is no longer what was opened."""
        if self.where is not None:
            self.where.check()

    def __call__(self) -> Contents:
        """Open and describe it."""
        if self.groups is not None:
            return Contents(self.name, self.groups)
        self.check()
        module, extra, what = ENGINES[self.engine]
        optional(module, extra=extra, purpose=f"opening {self.name!r} ({what})")
        if self.engine == "h5py":
            from .hdf5 import HDF5Contents

            return HDF5Contents(self.where)
        import xarray

        how: dict[str, Any] = {"decode_cf": False, "create_default_indexes": False, "cache": False}
        if self.engine == "cfgrib":  # which would write an index beside the file
            how["backend_kwargs"] = {"indexpath": "", "time_dims": ("valid_time",), "errors": "raise"}
        try:
            dataset = xarray.open_dataset(self.name, engine=self.engine, **how)
        except Exception as error:
            self.check()
            kind = CorruptDataError if self.engine == "scipy" else SourceFormatError
            several = self.engine == "cfgrib" and "filter_by_keys" in str(error)
            advice = "Open one of its groups by xarray.open_dataset and pass the Dataset: " if several else ""
            raise kind(f"{self.name!r} cannot be opened as {what}: {advice}{error}") from error
        return Contents(self.name, {"": dataset}, dataset.close, where=self.where)


class XarraySource(FileSource):
    """A variable read by rows through xarray.

    Parameters
    ----------
    opener : FileOpener
        Opens the store.
    path : str
        Of the variable.
    array : xarray.DataArray
        The variable, of which only the form is kept.
    **how
        ``axes``, ``dims``, ``description`` and ``values``, as for `FileSource`.
    """

    def __init__(self, opener: FileOpener, path: str, *, array: Any, **how: Any) -> None:
        self._opener = opener
        name = opener.name if opener.name == path else f"{os.path.basename(opener.name)}:{path}"
        form = {"shape": array.shape, "chunks": _chunks(array), "stored": array.dtype}
        super().__init__(name, opener.where, path, **form, **how)

    def _open(self) -> Contents:
        return self._opener()

    def _load(
        self, handle: Contents, index: tuple[slice, ...], target: np.ndarray | None, doing: str
    ) -> np.ndarray:
        with unchanged(name=repr(self.name)):  # scipy maps netCDF 3
            return handle.complete(lambda: np.array(handle.raw(self._path)[index].values), doing)


def open_netcdf(
    target: str | os.PathLike[str],
    *,
    variable: str | None = None,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    mask_and_scale: bool = True,
    **options: Any,
) -> Source:
    """Open one array of an HDF5, netCDF or GRIB file.

    Parameters
    ----------
    target : path or URL
        The file; by URL HDF5 and netCDF-4 alone.
    variable : str, optional
        Path of an array in the file, ``"forecast/surface/t2m"``, or key of a pandas frame; may be left out if there is
        one.
    axes : str, optional
        One letter an axis; default from the names of dimensions, else ``tn`` or ``tnf``. Of MATLAB's files in the
        order that MATLAB shows, which the file has in reverse.
    storage_options : mapping, optional
        For a URL.
    mask_and_scale : bool
        Whether ``scale_factor``, ``add_offset`` and ``_FillValue`` are applied, as xarray does.
    **options
        Of a frame; see `windowloader.sources.table_files.TableOptions`.

    Raises
    ------
    SourceFormatError
        If there are several arrays and none was named, or none of that name; the message lists them.
    """
    opener = FileOpener.of(target, storage_options)
    with opened(opener) as contents:
        path, opener = contents.choose(variable), replace(opener, where=contents.where)
        if path not in contents.frames:
            if options:
                raise SourceFormatError(
                    f"{path!r} of {contents.name!r} is no frame of pandas, and takes no options of tables; "
                    f"{sorted(options)} were given."
                )
            return contents.complete(lambda: _open(opener, contents, path, axes, mask_and_scale))
        if isinstance(opener.where, Stamp):
            from .tables import open_stored_frame

            return open_stored_frame(opener.where, contents.frame(path), axes=axes, **options)
    from .fetching import open_fetched

    return open_fetched(
        str(target), storage_options, lambda here: open_netcdf(here, variable=path, axes=axes, **options)
    )


def list_netcdf(
    target: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
) -> tuple[str, ...]:
    """Names of the frames of pandas in a file, and of its arrays, with a time axis if any; () for a lone frame."""
    with opened(FileOpener.of(target, storage_options)) as contents:
        names = contents.listed(names)
        return () if names == tuple(contents.frames) and len(names) == 1 else names


def _open(
    opener: FileOpener, contents: Contents, path: str, axes: str | None, mask_and_scale: bool
) -> Source:
    asked, raw = axes, contents.raw(path)
    if matlab := "MATLAB_class" in raw.attrs:
        axes = (asked or default_axes(raw.ndim, None, path))[::-1]
    array, how = _described(opener, contents, path, axes, mask_and_scale)
    item = contents.dataset(path)  # of the file as it is open now
    if opener.engine == "scipy":
        region = _region(opener.where, path)
        if region.mappable:
            return MappedSource(region, name=f"{os.path.basename(opener.name)}:{path}", **how)
    source: Source
    if item is None or item.shape != raw.shape or item.dtype.newbyteorder("=") != raw.dtype.newbyteorder("="):
        source = XarraySource(opener, path, array=array, **how)
    else:
        from .hdf5_dataset import open_dataset

        source = open_dataset(opener.where, item, **how)
    if matlab and asked is None and raw.ndim > 1:
        shown, letters = " × ".join(map(str, raw.shape[::-1])), (axes or "")[::-1]
        source.doubts = (
            f"{path!r} of {contents.name!r} was written by MATLAB, whose dimensions a file has in reverse. It is read "
            f"as MATLAB shows it, {shown}, with axes={letters!r}; give axes= in that order.",
        )
    return source


def _described(
    opener: FileOpener, contents: Contents, path: str, axes: str | None, mask_and_scale: bool
) -> tuple[Any, dict[str, Any]]:
    """Return a variable with its coordinates, and the arguments of its source: names, description, packing."""
    array, raw = contents.array(path, load=True), contents.raw(path)
    unnamed = all(str(dim).startswith("phony_dim_") for dim in raw.dims)
    return array, {
        "axes": axes,
        "dims": None if unnamed else dimension_names(array, axes),
        "description": StoreDescription(opener, path, time_dimension(array, axes), array),
        "values": packing(raw.dtype.newbyteorder("="), raw.attrs, name=path) if mask_and_scale else None,
    }


def _region(stamp: Stamp, variable: str) -> Region:
    """Where the values of a variable of netCDF 3 lie: records of several variables alternate."""
    from scipy.io import netcdf_file

    with netcdf_file(stamp.path, mmap=True) as file:
        values = file.variables[variable].data
        owner: Any = owner_of(values)  # the map of the file
        place = values.__array_interface__["data"][0] - np.frombuffer(owner, np.uint8).ctypes.data
        shape, strides, dtype = values.shape, values.strides, values.dtype
        del values, owner  # scipy warns if something still points into its map
    return Region(stamp=stamp, offset=place, shape=shape, strides=strides, dtype=dtype)


def open_xarray(target: Any, *, variable: str | None = None, axes: str | None = None) -> Source:
    """Open a DataArray, or one variable of a Dataset or DataTree.

    Parameters
    ----------
    target : xarray.DataArray, xarray.Dataset or xarray.DataTree
        In memory, from a file, or computed by dask: what is not in memory is read by rows.
    variable : str, optional
        Which variable; of a DataTree by its path.
    axes : str, optional
        One letter an axis; default from the names of the dimensions.

    Examples
    --------
    >>> import xarray
    >>> values = xarray.DataArray(np.zeros((3, 4)), dims=("sensor", "time"), name="speed")
    >>> open_xarray(values).shape
    (4, 3)
    """
    import xarray

    given = _given(target)
    contents = given()
    path = given.name if isinstance(target, xarray.DataArray) else contents.choose(variable)
    raw = contents.raw(path)
    array, how = _described(given, contents, path, axes, mask_and_scale=False)
    if not raw._in_memory:
        file = str(raw.encoding.get("source", ""))
        given = replace(given, where=Stamp.of(file) if os.path.isfile(file) else None)
        return XarraySource(given, path, array=array, **how)
    description = how["description"]
    found = {dim: label for dim in range(array.ndim) if (label := description.labels(dim)) is not None}
    times = description.timestamps()
    return ArraySource(raw.values, axes=axes, name=path, dims=how["dims"], labels=found, timestamps=times)


def list_xarray(target: Any, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the variables of numbers with a time axis; of all, if none has one."""
    return _given(target)().listed(names)


def _given(target: Any) -> FileOpener:
    """Keep the groups of a DataArray, Dataset or DataTree."""
    import xarray

    name = type(target).__name__
    groups = {"": target}
    if isinstance(target, xarray.DataTree):
        above = target.path.rstrip("/")
        groups = {node.path.removeprefix(above).strip("/"): node.to_dataset() for node in target.subtree}
    elif isinstance(target, xarray.DataArray):
        name = str(target.name or name)
        name = name if name not in target.coords else f"{name} values"
        groups = {"": target.to_dataset(name=name)}
    return FileOpener(name, None, object(), groups=groups)  # no two are the same


def _chunks(values: Any) -> Sequence[int] | None:
    if values.chunks is not None:  # dask
        return [max(sizes) for sizes in values.chunks]
    stored = values.encoding.get("chunksizes") or values.encoding.get("chunks")
    return stored if stored and len(stored) == values.ndim else None
