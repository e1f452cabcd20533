"""netCDF files and xarray objects: time found by name or by CF, values decoded as they are read.

In: a netCDF 3 or 4 file, a DataArray, a Dataset. Out: `ArraySource` for values in memory, a mapped or plain
HDF5 source where netCDF 4 holds the values as they are, else `XarraySource`. Never loads a whole variable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceChangedError, SourceFormatError

from .base import Description, SlabSource, digest, optional, unknown_variable
from .coordinates import coordinate_labels, dimension_names, time_dimension, time_values, with_times
from .handles import Handle, Stamp
from .hdf5_dataset import open_dataset, open_file
from .mapping import unchanged
from .memory import ArraySource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.source import Source

    from .box import Box

__all__ = ["XarraySource", "list_netcdf", "list_xarray", "open_netcdf", "open_xarray"]

ENCODED = ("scale_factor", "add_offset", "_Unsigned", "_FillValue", "missing_value")


@dataclass(frozen=True, slots=True)
class InFile:
    """A variable of a file, opened by xarray.

    Parameters
    ----------
    stamp : Stamp
        The file.
    variable : str
        Its name, in the root group.
    """

    stamp: Stamp
    variable: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{os.path.basename(self.stamp.path)}:{self.variable}"

    def check(self) -> None:
        """Raise where the file is no longer what was opened."""
        self.stamp.check()

    def open(self) -> _Opened:
        """Open the file."""
        self.check()
        dataset = _open_dataset(self.stamp)
        return _Opened(dataset[self.variable], dataset.close)

    def fingerprint(self) -> str:
        """Variable, and size and time of change of the file."""
        return digest(self.variable, self.stamp.size, self.stamp.mtime_ns)


@dataclass(frozen=True, slots=True, eq=False)
class InHand:
    """A DataArray that reads from its own file or computes when asked (dask).

    Parameters
    ----------
    values : xarray.DataArray
        Not in memory.
    stamp : Stamp or None
        Of the file it is from; None where that is not known.
    """

    values: Any
    stamp: Stamp | None

    @classmethod
    def of(cls, values: Any) -> InHand:
        """Look up which file it is from, where xarray knows."""
        source = str(values.encoding.get("source", ""))
        return cls(values, Stamp.of(source) if os.path.exists(source) else None)

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.values.name or "DataArray")

    def check(self) -> None:
        """Raise where the file it is from is known and no longer what it was."""
        if self.stamp is not None:
            self.stamp.check()

    def open(self) -> _Opened:
        """Return the array."""
        return _Opened(self.values, lambda: None)

    def fingerprint(self) -> str:
        """Name, and where xarray has it from."""
        stamp = self.stamp
        return digest(self.name, stamp and (stamp.size, stamp.mtime_ns), self.values.sizes)


class _Opened:
    """A lazy DataArray and what closes its file."""

    def __init__(self, values: Any, close: Any) -> None:
        self.values, self.close = values, close


class XarraySource(SlabSource):
    """A variable read through xarray: CF's fill values become NaN, packed integers their values.

    Parameters
    ----------
    where : InFile or InHand
        The variable.
    axes : str, optional
        One letter an axis; default from the names of the dimensions.
    """

    def __init__(self, where: InFile | InHand, *, axes: str | None = None) -> None:
        self._where, self._cut = where, False
        self._handle: Handle[_Opened] = Handle()
        with self._handle.held(where.open) as opened:
            values = opened.values
            super().__init__(
                where.name,
                shape=values.shape,
                dtype=values.dtype,
                axes=axes,
                dims=dimension_names(values),
                chunks=_chunks(values),
                description=XarrayDescription(where, time_dimension(values, axes)),
            )
        self._handle.close()

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        with self._handle.held(self._where.open) as opened:
            self.check()
            try:
                with unchanged():  # scipy maps netCDF 3
                    self.as_stored(out)[...] = opened.values.variable[self.slab(start, stop, box)].values
            except SourceChangedError:
                self._cut = True  # its map has zeros in place of pages: nobody may read them
        self.check()
        return self.bytes_of(start, stop, box)

    def check(self) -> None:
        """Raise `SourceChangedError` where the file is known and no longer what was opened, or was cut in a read."""
        self._where.check()
        if self._cut:
            raise SourceChangedError(
                f"the file of {self.name!r} was truncated while it was read; open it again."
            )

    def fingerprint(self) -> str:
        """Shape, dtype and what the file shows of itself."""
        return digest(self.axes, self.shape, None, self.dtype.str, self._where.fingerprint())

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._handle.close()


@dataclass(frozen=True, slots=True)
class XarrayDescription(Description):
    """Coordinates of a variable, read when asked for.

    Parameters
    ----------
    where : InFile or InHand
        The variable.
    time_dim : int or None
        Which of its dimensions is time.
    """

    where: InFile | InHand
    time_dim: int | None

    def labels(self, dim: int) -> np.ndarray | None:
        """Coordinate along a dimension, where it has one of its own name; None for time."""
        if dim == self.time_dim:
            return None
        opened = self.where.open()
        try:
            return coordinate_labels(opened.values, dim)
        finally:
            opened.close()

    def timestamps(self) -> np.ndarray | None:
        """Time coordinate as datetime64[ns]; None, with a warning, where the calendar has no such dates."""
        opened = self.where.open()
        try:
            return None if self.time_dim is None else time_values(opened.values, self.time_dim)
        finally:
            opened.close()

    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the variable."""
        opened = self.where.open()
        try:
            return dict(opened.values.attrs)
        finally:
            opened.close()


def _open_dataset(stamp: Stamp) -> Any:
    xarray = optional("xarray", extra="netcdf", purpose=f"opening {stamp.path!r}")
    with open(stamp.path, "rb") as file:
        classic = file.read(3) == b"CDF"
    if classic:
        optional("scipy", extra="netcdf", purpose=f"opening {stamp.path!r} (netCDF 3)")
    else:
        optional("h5netcdf", extra="netcdf", purpose=f"opening {stamp.path!r}")
        open_file(stamp).close()  # says what is wrong with a broken file
    engine = "scipy" if classic else "h5netcdf"
    try:
        return with_times(xarray.open_dataset(stamp.path, engine=engine, decode_times=False, cache=False))
    except (OSError, ValueError, TypeError) as error:
        raise SourceFormatError(f"{stamp.path!r} cannot be opened as netCDF by {engine}: {error}") from error


def open_netcdf(
    path: str | os.PathLike[str], *, variable: str | None = None, axes: str | None = None
) -> Source:
    """Open one variable of a netCDF file.

    Parameters
    ----------
    path : path-like
        netCDF 4, or netCDF 3 where scipy is installed.
    variable : str, optional
        Which variable; may be left out where one has a time axis.
    axes : str, optional
        One letter an axis; default from the names of the dimensions.

    Raises
    ------
    SourceFormatError
        Where there are several variables and none was named, or none of that name; the message lists them.
    """
    stamp = Stamp.of(path)
    dataset = _open_dataset(stamp)
    with dataset:
        name = _choose(dataset, variable, os.fspath(path))
        values = dataset[name]
        if not any(key in values.encoding and not _is_nan(values.encoding[key]) for key in ENCODED):
            source = _plain(InFile(stamp, name), values, axes)
            if source is not None:
                return source
    return XarraySource(InFile(stamp, name), axes=axes)


def _plain(where: InFile, values: Any, axes: str | None) -> Source | None:
    """Source by h5py for a variable whose values are stored as they are; None where xarray must read."""
    with open(where.stamp.path, "rb") as file:
        if file.read(3) == b"CDF":
            return None
    with open_file(where.stamp) as file:
        dataset = file[where.variable]
        if dataset.dtype.newbyteorder("=") != values.dtype.newbyteorder("=") or dataset.shape != values.shape:
            return None
        description = XarrayDescription(where, time_dimension(values, axes))
        return open_dataset(
            where.stamp, dataset, axes=axes, dims=dimension_names(values), description=description
        )


def open_xarray(target: Any, *, variable: str | None = None, axes: str | None = None) -> Source:
    """Open a DataArray, or one variable of a Dataset.

    Parameters
    ----------
    target : xarray.DataArray or xarray.Dataset
        In memory, from a file, or computed by dask: what is not in memory is read by rows.
    variable : str, optional
        Which variable of a Dataset.
    axes : str, optional
        One letter an axis; default from the names of the dimensions.

    Examples
    --------
    >>> import xarray
    >>> values = xarray.DataArray(np.zeros((3, 4)), dims=("sensor", "time"), name="speed")
    >>> open_xarray(values).shape
    (4, 3)
    """
    if hasattr(target, "data_vars"):
        target = with_times(target)
        target = target[_choose(target, variable, "Dataset")]
    if not getattr(target, "_in_memory", True):
        return XarraySource(InHand.of(target), axes=axes)
    time_dim = time_dimension(target, axes)
    found = {
        dim: label
        for dim in range(target.ndim)
        if dim != time_dim and (label := coordinate_labels(target, dim)) is not None
    }
    return ArraySource(
        target.values,
        axes=axes,
        name=str(target.name or "DataArray"),
        dims=dimension_names(target),
        labels=found,
        timestamps=None if time_dim is None else time_values(target, time_dim),
    )


def list_netcdf(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the variables with a time axis."""
    with _open_dataset(Stamp.of(path)) as dataset:
        return list_xarray(dataset)


def list_xarray(dataset: Any) -> tuple[str, ...]:
    """Names of a Dataset's variables of numbers with a time axis; of all, where none has one."""
    bounds = {
        str(array.attrs.get(key, array.encoding.get(key)))
        for array in dataset.variables.values()
        for key in ("bounds", "grid_mapping")
    }
    numbers = [
        name
        for name, array in dataset.data_vars.items()
        if array.ndim and array.dtype.kind in "fiub" and name not in bounds
    ]
    timed = [name for name in numbers if time_dimension(dataset[name], None) is not None]
    return tuple(str(name) for name in timed or numbers)


def _choose(dataset: Any, variable: str | None, name: str) -> str:
    if variable is not None and variable in dataset.variables:
        return variable
    found = list_xarray(dataset)
    if variable is not None or len(found) != 1:
        unknown_variable(name, variable, found)
    return found[0]


def _chunks(values: Any) -> Sequence[int] | None:
    if values.chunks is not None:  # dask
        return [max(sizes) for sizes in values.chunks]
    stored = values.encoding.get("chunksizes")
    return stored if stored and len(stored) == values.ndim else None


def _is_nan(value: Any) -> bool:
    return bool(np.all(np.isnan(value))) if np.asarray(value).dtype.kind == "f" else False
