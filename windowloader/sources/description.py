"""Variables of a store as xarray describes them: dimensions, labels, times, marks and packing.

In: one lazy `xarray.Dataset` a group, opened with ``decode_cf=False, create_default_indexes=False, cache=False``, or
the user's own. Out: the variables of numbers, one of them with its coordinates, a `Description` that pickles small.
Never reads the values of a variable; coordinates are read once.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from windowloader.errors import CorruptDataError, SourceError, WindowLoaderError

from .base import Description, SlabSource, digest, unknown_variable
from .coordinates import coordinate_labels, time_dimension, time_units, time_values
from .processes import PerProcess, opened, sharing
from .ranges import put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from .packing import Packing
    from .storage import Box

__all__ = ["Contents", "FileSource", "StoreDescription", "opened", "sharing", "split_path"]


T = TypeVar("T")


def split_path(variable: str) -> tuple[str, str]:
    """Group and name of a variable's path.

    Examples
    --------
    >>> split_path("/forecast/surface/t2m"), split_path("t2m")
    (('forecast/surface', 't2m'), ('', 't2m'))
    """
    group, _, name = variable.strip("/").rpartition("/")
    return group, name


class Contents:
    """The groups of a store.

    Parameters
    ----------
    name : str
        Of the store, for messages.
    groups : dict of str to xarray.Dataset
        By path, ``""`` the root, parents before children.
    close : callable, optional
        Releases what the datasets read from.
    where : Stamp or RemoteObject, optional
        The file or object.

    Attributes
    ----------
    frames : sequence of str
        Paths of frames of pandas.
    """

    frames: Sequence[str] = ()

    def __init__(
        self, name: str, groups: dict[str, Any], close: Callable[[], None] = lambda: None, where: Any = None
    ) -> None:
        self.name, self.groups, self.close, self.where = name, groups, close, where

    def names(self) -> tuple[str, ...]:
        """Paths of what can be opened."""
        return self.variables()

    def complete(self, call: Callable[[], T], doing: str = "") -> T:
        """Return the result of a call that reads; ``doing`` names what it reads, for messages."""
        return call()

    def problem(self) -> Exception | None:
        """Why the last read failed, if a library raises an error of its own instead."""
        return None

    def dataset(self, path: str) -> Any:
        """Return the h5py.Dataset of a variable, if it is one."""
        return None

    def frame(self, path: str) -> Any:
        """Return the h5py.Group of a frame."""
        raise NotImplementedError

    def variables(self) -> tuple[str, ...]:
        """Paths of the variables of numbers with a time axis; of all of numbers, if none has one."""
        numbers = list(self._numbers())
        forms = {self._form(path): path for path in numbers}
        timed = {form for form, path in forms.items() if time_dimension(self.array(path)) is not None}
        return tuple(path for path in numbers if self._form(path) in timed) or tuple(numbers)

    def _form(self, path: str) -> tuple[Any, ...]:
        """Key of variables that alike have a time axis or not: to look at each of hundreds would take seconds."""
        return path.rpartition("/")[0], self.raw(path).dims, self.raw(path).shape

    def holds(self, path: str) -> bool:
        """Whether there is something of that path."""
        group, name = self._place(path)
        return group in self.groups and name in self.groups[group].variables

    def listed(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Paths of what can be opened: what is asked for if all of it is there, else `names`."""
        return tuple(asked) if asked and all(self.holds(path.strip("/")) for path in asked) else self.names()

    def choose(self, variable: str | None) -> str:
        """Return the path of the variable that is meant; `SourceFormatError` that lists the variables."""
        if variable is not None and self.holds(path := variable.strip("/")):
            return path
        found = self.names()
        if variable is not None or len(found) != 1:
            unknown_variable(self.name, variable, found)
        return found[0]

    def raw(self, path: str) -> Any:
        """Return a variable as stored: an `xarray.Variable` with its attributes, undecoded."""
        group, name = self._place(path)
        return self.groups[group].variables[name]

    def _place(self, path: str) -> tuple[str, str]:
        """Group and name of a variable; a name in the root may have a slash."""
        return ("", path) if path in self.groups.get("", ()) else split_path(path)

    def load(self, path: str) -> None:
        """Read a coordinate, which then stays in memory."""
        self.raw(path).load()

    def array(self, path: str, *, load: bool = False) -> Any:
        """Return a variable with its coordinates along one dimension, also those of the groups above it.

        Parameters
        ----------
        path : str
            Of the variable.
        load : bool
            Whether the coordinates are read (`load`); those that cannot be read are left out, with a warning.

        Returns
        -------
        xarray.DataArray
            Undecoded but for its coordinates, of which times stay numbers with their units. Without indexes, which
            would read the coordinates.
        """
        import xarray

        group, name = self._place(path)
        values, found = self.raw(path), {}
        for place in (group, *_above(group)):
            for other, one in self.groups[place].variables.items() if place in self.groups else ():
                if other in found or (place, other) == (group, name) or not _describes(other, one, values):
                    continue
                if not load or self._loaded(f"{place}/{other}".lstrip("/")):
                    found[other] = _decoded(other, one)
        index = values.dims == (name,)
        found[name] = _decoded(name, values) if index else values
        whole = xarray.Dataset(coords=xarray.Coordinates(found, indexes={}))
        return whole[name].drop_vars([name] if index else [])

    def _loaded(self, path: str) -> bool:
        try:
            self.load(path)
        except WindowLoaderError:
            raise
        except Exception as error:
            if (problem := self.problem()) is not None:
                raise problem from None
            warnings.warn(
                f"the coordinate {path!r} of {self.name!r} cannot be read and is left out: {error}",
                UserWarning,
                stacklevel=2,
            )
            return False
        return True

    def _numbers(self) -> Iterator[str]:
        for group, dataset in self.groups.items():
            beside = {
                word
                for one in dataset.variables.values()
                for key in ("bounds", "grid_mapping", "coordinates", "ancillary_variables")
                for word in str(one.attrs.get(key, one.encoding.get(key, ""))).split()
            }
            for name, one in dataset.data_vars.items():
                number = one.ndim and one.dtype.kind in "fiub" and not time_units(one.attrs)
                if number and name not in beside and one.dims != (name,):
                    yield f"{group}/{name}".lstrip("/")


def _above(group: str) -> Iterator[str]:
    """Paths of the groups above one, the nearest first."""
    while group:
        group = group.rpartition("/")[0]
        yield group


def _describes(name: str, one: Any, values: Any) -> bool:
    """Whether a variable lies along one dimension of another and may label it or say its times.

    Dimensions that the file does not name are shared by all arrays of one size, and carry no meaning.
    """
    texts = one.dtype == "S1" and one.ndim == 2  # characters, one dimension of them
    if one.ndim != 1 + texts or one.sizes[one.dims[0]] != values.sizes.get(one.dims[0]):
        return False
    if str(one.dims[0]).startswith("phony_dim_"):
        return False
    timed = time_units(one.attrs) or one.attrs.get("standard_name") == "time"
    return bool(one.dims == (name,) or timed or one.dtype.kind in "SUOM")


def _decoded(name: str, one: Any) -> Any:
    """Decode a coordinate as xarray does, but for its times."""
    import pandas
    import xarray

    if one.dtype.kind in "Mm":
        return one
    if isinstance(one.dtype, pandas.api.extensions.ExtensionDtype):  # which NumPy does not have
        index = one.to_index()
        periods = isinstance(index, pandas.PeriodIndex)
        return xarray.Variable(one.dims, index.to_timestamp() if periods else index.astype(object), one.attrs)
    return xarray.conventions.decode_cf_variable(name, one, decode_times=False)


class StoreDescription(Description):
    """Labels and timestamps of a variable, read when asked for and kept; a pickle opens the store anew.

    Parameters
    ----------
    opener : callable
        Opens the `Contents`; pickles.
    path : str
        Of the variable.
    time_dim : int or None
        Which stored dimension is time.
    array : xarray.DataArray, optional
        What `Contents.array` returned, coordinates loaded, if it is known already.
    """

    def __init__(
        self, opener: Callable[[], Contents], path: str, time_dim: int | None, array: Any = None
    ) -> None:
        self.opener, self.path, self.time_dim, self._array = opener, path, time_dim, array

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.opener, self.path, self.time_dim)

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along a dimension of the array as stored; None for time."""
        return None if dim == self.time_dim else coordinate_labels(self._held(), dim)

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows; None, with a warning, where there are none."""
        return None if self.time_dim is None else time_values(self._held(), self.time_dim)

    def attributes(self) -> dict[str, Any]:
        """Attributes of the variable as stored."""
        return dict(self._held().attrs)

    def _held(self) -> Any:
        if self._array is None:
            with opened(self.opener) as contents:
                self._array = contents.array(self.path, load=True)
        return self._array


class FileSource(SlabSource):
    """Base of the sources that read slabs through a library's handle: a family gives `_open` and `_load`.

    Parameters
    ----------
    name : str
        For messages.
    where : Stamp, RemoteObject or None
        The file or object; None if it is not known.
    path : str
        Of the variable in it.
    stored : numpy.dtype
        Of its stored numbers.
    values : Packing, optional
        How stored numbers become values.
    **how
        ``shape``, ``chunks``, ``axes``, ``dims`` and ``description``, as for `Source`.
    """

    def __init__(
        self, name: str, where: Any, path: str, *, stored: Any, values: Packing | None = None, **how: Any
    ) -> None:
        self._where, self._path, self._stored, self.packing = where, path, stored, values
        self._handle: PerProcess[Any] = PerProcess()
        super().__init__(name, dtype=values.dtype if values else stored, **how)

    def _open(self) -> Any:
        raise NotImplementedError

    def _load(
        self, handle: Any, index: tuple[slice, ...], target: np.ndarray | None, doing: str
    ) -> np.ndarray:
        """Return stored numbers, in ``target`` if there is one; ``doing`` names what is read, for messages."""
        raise NotImplementedError

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        target, doing = self.as_stored(out), f"rows [{start}, {stop}) of {self.name!r}"
        direct = self.packing is None and target.dtype == self._stored and target.flags.c_contiguous
        self.check()
        try:
            with self._handle.held(self._open) as handle:
                found = self._load(handle, self.slab(start, stop, box), target if direct else None, doing)
        except SourceError:
            raise
        except (OSError, RuntimeError) as error:
            self.check()
            raise CorruptDataError(f"{doing} cannot be read: {error}") from None
        self.check()
        if found is not target:
            put(self.packing, found, target)
        return self.bytes_of(start, stop, box)

    def check(self) -> None:
        """Raise `SourceChangedError` if the file is known and no longer what was opened."""
        if self._where is not None:
            self._where.check()

    def fingerprint(self) -> str:
        """Shape, dtype, and size and time of change of the file, or version of the object, if they are known."""
        state = "" if self._where is None else self._where.identity()
        return digest(self.axes, self.shape, self.dtype.str, self._path, state)

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._handle.close()
