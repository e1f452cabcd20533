"""What a store says of its variables, as xarray has it: dimensions, labels, times, marks and packing.

In: one lazy `xarray.Dataset` a group, opened with ``decode_cf=False, create_default_indexes=False, cache=False``, or
the user's own. Out: the variables of numbers, one of them with its coordinates, a `Description` that pickles small.
Never reads the values of a variable; coordinates are read once.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .base import unknown_variable
from .coordinates import coordinate_labels, time_dimension, time_values, with_times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np

__all__ = ["Contents", "StoreDescription", "loaded", "shared", "sharing", "split_path"]

_SHARED: ContextVar[dict[Any, Contents] | None] = ContextVar("shared", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Have `shared` return the same contents for the same key, until the end of the block."""
    token = _SHARED.set({})
    try:
        yield
    finally:
        for contents in (_SHARED.get() or {}).values():
            contents.close()
        _SHARED.reset(token)


def shared(key: Any, make: Callable[[], Contents]) -> Contents:
    """Return the contents of a key: made by ``make``, once within `sharing`."""
    held = _SHARED.get()
    if held is None:
        return make()
    if key not in held:
        held[key] = make()
    return held[key]


def split_path(variable: str) -> tuple[str, str]:
    """Group and name of a variable's path.

    Examples
    --------
    >>> split_path("/forecast/surface/t2m"), split_path("t2m")
    (('forecast/surface', 't2m'), ('', 't2m'))
    """
    group, _, name = variable.strip("/").rpartition("/")
    return group, name


@dataclass(eq=False)
class Contents:
    """The groups of a store.

    Parameters
    ----------
    name : str
        Of the store, for messages.
    groups : mapping of str to xarray.Dataset
        By path, ``""`` the root, parents before children.
    close : callable
        Lets go of what the datasets read from.
    """

    name: str
    groups: Mapping[str, Any]
    close: Callable[[], None] = field(default=lambda: None)

    def variables(self) -> tuple[str, ...]:
        """Paths of the variables of numbers with a time axis; of all of numbers, where none has one."""
        numbers = list(self._numbers())
        known: dict[
            Any, bool
        ] = {}  # by what decides it: describing each of hundreds of variables takes seconds
        timed = []
        for path in numbers:
            raw = self.raw(path)
            key = split_path(path)[0], raw.dims, raw.shape, str(raw.attrs.get("coordinates"))
            if key not in known:
                known[key] = time_dimension(self.array(path)) is not None
            timed += [path] if known[key] else []
        return tuple(timed or numbers)

    def choose(self, variable: str | None) -> str:
        """Return the path of the variable that is meant; `SourceFormatError` with those there are to choose from."""
        if variable is not None:
            group, name = split_path(variable)
            if group in self.groups and name in self.groups[group].variables:
                return variable.strip("/")
        found = self.variables()
        if variable is not None or len(found) != 1:
            unknown_variable(self.name, variable, found)
        return found[0]

    def raw(self, path: str) -> Any:
        """Return a variable as stored: an `xarray.Variable` with its attributes, undecoded."""
        group, name = split_path(path)
        return self.groups[group].variables[name]

    def load(self, path: str) -> None:
        """Read a coordinate, which then stays in memory."""
        self.raw(path).load()

    def array(self, path: str, *, load: bool = False) -> Any:
        """Return a variable with its coordinates, also those of the groups above it.

        Parameters
        ----------
        path : str
            Of the variable.
        load : bool
            Whether coordinates of one dimension are read (`load`), before they are decoded.

        Returns
        -------
        xarray.DataArray
            Undecoded but for its coordinates, of which times stay numbers with their units.
        """
        import xarray

        group, name = split_path(path)
        own = self.groups[group]
        values = own.variables[name]
        said = str(values.attrs.get("coordinates", values.encoding.get("coordinates", ""))).split()
        homes = {
            other: group
            for other, one in own.variables.items()
            if set(one.dims) <= set(values.dims)
            and (_describes(other, one, values) or other in said or other in own.coords)
        }
        for above in _above(group):
            for other, one in self.groups[above].variables.items() if above in self.groups else ():
                if other not in own.variables and _describes(other, one, values):
                    homes.setdefault(other, above)
        homes.pop(name, None)
        for other, home in homes.items():
            if load and self.groups[home].variables[other].ndim == 1:
                self.load(f"{home}/{other}".lstrip("/"))
        # Without indexes, which xarray would read coordinates for.
        decode = xarray.conventions.decode_cf_variable
        decoded = {
            other: decode(other, self.groups[home].variables[other], decode_times=False)
            for other, home in homes.items()
        }
        named = {other for other, one in decoded.items() if one.dims == (other,) or other in said}
        coordinates = xarray.Coordinates({other: decoded[other] for other in named}, indexes={})
        others = {other: one for other, one in decoded.items() if other not in named}
        return with_times(xarray.Dataset({name: values, **others}, coordinates))[name]

    def _numbers(self) -> Iterator[str]:
        for group, dataset in self.groups.items():
            beside = {
                word
                for one in dataset.variables.values()
                for key in ("bounds", "grid_mapping", "coordinates", "ancillary_variables")
                for word in str(one.attrs.get(key, one.encoding.get(key, ""))).split()
            }
            for name, one in dataset.data_vars.items():
                if one.ndim and one.dtype.kind in "fiub" and name not in beside and one.dims != (name,):
                    yield f"{group}/{name}".lstrip("/")


def _above(group: str) -> Iterator[str]:
    """Paths of the groups above one, the nearest first."""
    while group:
        group = group.rpartition("/")[0]
        yield group


def _describes(name: str, one: Any, values: Any) -> bool:
    """Whether a variable lies along one dimension of another and may label it or say its times."""
    if one.ndim != 1 or values.sizes.get(one.dims[0]) != one.size:
        return False
    timed = " since " in str(one.attrs.get("units", "")) or one.attrs.get("standard_name") == "time"
    return bool(one.dims == (name,) or timed or one.dtype.kind in "SUOM")


class StoreDescription:
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
        What `Contents.array` returned, where it is in hand.
    """

    def __init__(
        self, opener: Callable[[], Contents], path: str, time_dim: int | None, array: Any = None
    ) -> None:
        self.opener, self.path, self.time_dim = opener, path, time_dim
        self._array, self._lock = array, threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.opener, self.path, self.time_dim)

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along a dimension of the array as stored; None for time."""
        return None if dim == self.time_dim else coordinate_labels(self._held(), dim)

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows; None, with a warning, where there are none."""
        return None if self.time_dim is None else time_values(self._held(), self.time_dim)

    def _held(self) -> Any:
        with self._lock:
            if self._array is None:
                contents = self.opener()
                try:
                    self._array = loaded(contents.array(self.path, load=True))
                finally:
                    contents.close()
            return self._array


def loaded(array: Any) -> Any:
    """Return an array whose coordinates of one dimension are in memory; its values stay where they are."""
    for coordinate in array.coords.values():
        if coordinate.ndim == 1:
            coordinate.variable.load()
    return array
