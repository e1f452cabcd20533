"""Files that xarray describes by other engines than h5netcdf, and xarray objects: `XarraySource` reads what is left.

In: a netCDF 3 or GRIB file, a DataArray, a Dataset, a DataTree. Out: `ArraySource` for values in memory, `MappedSource`
for netCDF 3, else `XarraySource`. Never loads a whole variable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError, SourceChangedError, SourceError, SourceFormatError

from .base import SlabSource, digest, optional
from .coordinates import dimension_names, time_dimension
from .description import Contents, StoreDescription, opened
from .handles import Stamp
from .mapping import Region, owner_of, unchanged
from .memory import ArraySource, MappedSource
from .packing import packing
from .processes import PerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.sources import Source

    from .box import Box
    from .packing import Packing

__all__ = ["FileOpener", "XarraySource", "described", "list_netcdf", "open_netcdf", "open_xarray"]


@dataclass(frozen=True, slots=True)
class FileOpener:
    """Opens a file, or HDF5 in a bucket, by an engine of xarray, and describes it; or keeps what a user opened.

    Parameters
    ----------
    name : str
        For messages.
    where : Stamp, RemoteObject or None
        The file or object; None where it is not known.
    key : object
        The same for the same file or object.
    engine : {"h5netcdf", "scipy", "netcdf4", "cfgrib"}
        Of HDF5, of netCDF 3 (classic and 64-bit offset), of netCDF 3 with 64-bit data, of GRIB.
    groups : dict of str to xarray.Dataset, optional
        What a user opened or made, by path: its values are as xarray shows them.
    """

    name: str
    where: Any = field(compare=False)
    key: object = field(repr=False)
    engine: str = ""
    groups: dict[str, Any] | None = field(default=None, compare=False)

    def check(self) -> None:
        """Raise where a file is no longer what was opened."""
        if isinstance(self.where, Stamp):
            self.where.check()

    def fingerprint(self) -> str:
        """Size and time of change of the file, or version of the object, where they are known."""
        where = self.where
        if isinstance(where, Stamp):
            return digest(where.size, where.mtime_ns)
        return "" if where is None else str(where.identity())

    def __call__(self) -> Contents:
        """Open and describe it."""
        if self.groups is not None:
            return Contents(self.name, self.groups)
        self.check()
        packages, extra, what = ENGINES[self.engine]
        for module in packages:
            optional(module, extra=extra, purpose=f"opening {self.name!r} ({what})")
        if self.engine == "h5netcdf":
            from .hdf5 import describe

            return describe(self.where)
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
        return Contents(self.name, {"": dataset}, dataset.close)


ENGINES = {
    "h5netcdf": (("h5py", "xarray", "h5netcdf"), "netcdf", "HDF5"),
    "scipy": (("xarray", "scipy"), "netcdf", "netCDF 3"),
    "netcdf4": (("xarray", "netCDF4"), "netcdf4", "netCDF 3 with 64-bit data"),
    "cfgrib": (("xarray", "cfgrib"), "grib", "GRIB"),
}


class XarraySource(SlabSource):
    """A variable read by rows through xarray.

    Parameters
    ----------
    opener : FileOpener
        Opens the store.
    path : str
        Of the variable.
    array : xarray.DataArray
        The variable, of which only the form is kept.
    values : Packing, optional
        How stored numbers become values.
    **how
        ``axes``, ``dims`` and ``description``, as for `Source`.
    """

    def __init__(
        self, opener: FileOpener, path: str, *, array: Any, values: Packing | None = None, **how: Any
    ) -> None:
        self._opener, self._path, self.packing, self._cut = opener, path, values, False
        self._handle: PerProcess[Contents] = PerProcess()
        super().__init__(
            opener.name if opener.name == path else f"{os.path.basename(opener.name)}:{path}",
            shape=array.shape,
            dtype=values.dtype if values else array.dtype,
            chunks=_chunks(array),
            **how,
        )

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        with self._handle.held(self._opener) as contents:
            self.check()
            try:
                with unchanged():  # scipy maps netCDF 3
                    found = contents.raw(self._path)[self.slab(start, stop, box)].values
                    if self.packing is None:
                        self.as_stored(out)[...] = found
                    else:
                        self.packing.unpack(found, self.as_stored(out))
            except SourceChangedError:
                self._cut = True  # its map has zeros in place of pages: nobody may read them
            except SourceError:
                raise
            except (OSError, RuntimeError) as error:
                self.check()
                damage = f"rows [{start}, {stop}) of {self.name!r} cannot be read: {error}"
                raise contents.problem() or CorruptDataError(damage) from None
        self.check()
        return self.bytes_of(start, stop, box)

    def check(self) -> None:
        """Raise `SourceChangedError` where the file is known and no longer what was opened, or was cut in a read."""
        self._opener.check()
        if self._cut:
            raise SourceChangedError(
                f"the file of {self.name!r} was truncated while it was read; open it again."
            )

    def fingerprint(self) -> str:
        """Shape, dtype and what the file shows of itself."""
        return digest(self.axes, self.shape, None, self.dtype.str, self._path, self._opener.fingerprint())

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._handle.close()


def open_netcdf(
    path: str | os.PathLike[str],
    *,
    variable: str | None = None,
    axes: str | None = None,
    mask_and_scale: bool = True,
) -> Source:
    """Open one variable of a netCDF 3 or GRIB file.

    Parameters
    ----------
    path : path-like
        The file.
    variable : str, optional
        Which variable; may be left out where one has a time axis.
    axes : str, optional
        One letter an axis; default from the names of the dimensions.
    mask_and_scale : bool
        Whether ``scale_factor``, ``add_offset`` and ``_FillValue`` are applied, as xarray does.

    Raises
    ------
    SourceFormatError
        Where there are several variables and none was named, or none of that name; the message lists them.
    """
    opener = _opener(path)
    with opened(opener) as contents:
        name = contents.choose(variable)
        array, how = described(opener, contents, name, axes, mask_and_scale)
    if opener.engine == "scipy":
        region = _region(opener.where, name)
        if region.mappable:
            return MappedSource(region, name=f"{os.path.basename(opener.name)}:{name}", **how)
    return XarraySource(opener, name, array=array, **how)


def described(
    opener: FileOpener, contents: Contents, path: str, axes: str | None, mask_and_scale: bool = True
) -> tuple[Any, dict[str, Any]]:
    """Return a variable with its coordinates, and what sources of it take: names, description, packing."""
    raw, array = contents.raw(path), contents.array(path, load=True)
    unnamed = all(str(dim).startswith("phony_dim_") for dim in raw.dims)
    return array, {
        "axes": axes,
        "dims": None if unnamed else dimension_names(array, axes),
        "description": StoreDescription(opener, path, time_dimension(array, axes), array),
        "values": packing(raw.dtype.newbyteorder("="), raw.attrs, name=path) if mask_and_scale else None,
    }


def list_netcdf(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the variables with a time axis."""
    with opened(_opener(path)) as contents:
        return contents.variables()


def _opener(path: str | os.PathLike[str]) -> FileOpener:
    stamp = Stamp.of(path)
    with open(stamp.path, "rb") as file:
        head = file.read(4)
    engine = {b"GRIB": "cfgrib", b"CDF\1": "scipy", b"CDF\2": "scipy", b"CDF\5": "netcdf4"}.get(head)
    if engine is None:
        raise SourceFormatError(f"{stamp.path!r} is no netCDF or GRIB file: it begins with {head!r}.")
    return FileOpener(stamp.path, stamp, stamp, engine)


def _region(stamp: Stamp, variable: str) -> Region:
    """Where the values of a variable of netCDF 3 lie: records of several variables take turns."""
    from scipy.io import netcdf_file

    with netcdf_file(stamp.path, mmap=True) as file:
        values = file.variables[variable].data
        owner: Any = owner_of(values)  # the map of the file
        place = values.__array_interface__["data"][0] - np.frombuffer(owner, np.uint8).ctypes.data
        shape, strides, dtype = values.shape, values.strides, values.dtype
        del values, owner  # scipy warns where something still points into its map
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
    given = _given(target)
    contents = given()
    path = contents.choose(variable) if hasattr(target, "data_vars") else given.name
    raw = contents.raw(path)
    array, how = described(given, contents, path, axes, mask_and_scale=False)
    if not raw._in_memory:
        file = str(raw.encoding.get("source", ""))
        given = replace(given, where=Stamp.of(file) if os.path.isfile(file) else None)
        return XarraySource(given, path, array=array, **how)
    description = how["description"]
    found = {dim: label for dim in range(array.ndim) if (label := description.labels(dim)) is not None}
    times = description.timestamps()
    return ArraySource(raw.values, axes=axes, name=path, dims=how["dims"], labels=found, timestamps=times)


def list_xarray(target: Any) -> tuple[str, ...]:
    """Names of the variables of numbers with a time axis; of all, where none has one."""
    return _given(target)().variables()


def _given(target: Any) -> FileOpener:
    """Keep the groups of a DataArray, Dataset or DataTree."""
    name = type(target).__name__
    groups = {"": target}
    if name == "DataTree":
        above = target.path.rstrip("/")
        groups = {node.path.removeprefix(above).strip("/"): node.to_dataset() for node in target.subtree}
    elif not hasattr(target, "data_vars"):
        name = str(target.name or name)
        name = name if name not in target.coords else f"{name} values"
        groups = {"": target.to_dataset(name=name)}
    return FileOpener(name, None, object(), groups=groups)  # no two are the same


def _chunks(values: Any) -> Sequence[int] | None:
    if values.chunks is not None:  # dask
        return [max(sizes) for sizes in values.chunks]
    stored = values.encoding.get("chunksizes") or values.encoding.get("chunks")
    return stored if stored and len(stored) == values.ndim else None
