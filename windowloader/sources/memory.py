"""Arrays in memory as sources.

In: an ndarray or anything that turns into one without a copy (a torch tensor, any ``__array__``); a member
of an ``.npz``. Out: `ArraySource`, `LoadedSource`. Never copies, casts or writes to what it was given.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError

from .base import Described, LocalSource, digest, to_nanoseconds, unknown_variable
from .box import within
from .handles import Handle, Stamp
from .mapping import unchanged
from .npz import open_npz_archive
from .region import is_mapped, region_of_memmap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .box import Box

__all__ = ["AddressableSource", "ArraySource", "LoadedSource", "as_array", "list_npz", "open_npz"]


class AddressableSource(LocalSource):
    """A source whose values can be indexed where they lie; subclasses say where that is."""

    boxes = "indices"

    def values(self) -> np.ndarray:
        """Return the array as stored: its own order of axes and bytes."""
        raise NotImplementedError

    @property
    def tier(self) -> str:
        """``"memory"``, also where the bytes are stored in foreign order and must be turned."""
        return "memory"

    def _rows_first(self) -> np.ndarray:
        return self.values().transpose(self.order)

    def array(self) -> np.ndarray | None:
        """Return a read-only view, or None where the bytes are stored in foreign order."""
        if not self.stored_dtype.isnative:
            return None
        view = self._rows_first()
        view.flags.writeable = False
        return view

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        rows = self._rows_first()[start:stop]
        with unchanged(rows):
            out[...] = rows if box is None else within(rows, box)
        return out.nbytes


class ArraySource(AddressableSource):
    """An array in memory, or one that someone mapped: that is mapped again, and pickles as the place in its file.

    Parameters
    ----------
    values : array_like
        Real, integer or boolean, any byte order and strides. It is used where it lies.
    axes : str, optional
        One letter an axis; default from ``dims``, else ``tn`` or ``tnf``.
    name : str
        For messages.
    dims : sequence of str, optional
        Names of the axes.
    labels : mapping of int to array_like, optional
        Labels along an axis of ``values``.
    timestamps : array_like of datetime64, shape (time,), optional
        When the rows were.

    Raises
    ------
    SourceFormatError
        For objects, text, complex numbers and times.

    Examples
    --------
    >>> source = ArraySource(np.arange(12).reshape(2, 6), axes="nt")
    >>> source.shape, source.axes
    ((6, 2), 'tn')
    """

    def __init__(
        self,
        values: Any,
        *,
        axes: str | None = None,
        name: str = "array",
        dims: Sequence[str] | None = None,
        labels: Mapping[int, Any] | None = None,
        timestamps: Any = None,
    ) -> None:
        self._values = as_array(values, name)
        self._region = region_of_memmap(self._values)
        if self._region is not None:  # a map of its own knows when the file changes
            self._values = self._region.map()
        times = None if timestamps is None else to_nanoseconds(np.asanyarray(timestamps), name)
        super().__init__(
            name,
            shape=self._values.shape,
            dtype=self._values.dtype,
            axes=axes,
            dims=dims,
            description=Described({dim: np.asarray(found) for dim, found in (labels or {}).items()}, times),
        )

    def check(self) -> None:
        """Raise `SourceChangedError` where somebody mapped the array, and its file has changed since."""
        if self._region is not None:
            self._region.stamp.check()

    def values(self) -> np.ndarray:
        """Return the array that was given, where it is mapped as it was when it was given."""
        self.check()
        return self._values.view()

    @property
    def tier(self) -> str:
        """``"memory"``, or ``"mapped"`` where somebody mapped it."""
        return "mapped" if is_mapped(self._values) else "memory"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_values": None if self._region is not None else self._values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._region is not None:
            self._values = self._region.map()

    def fingerprint(self) -> str:
        """Shape, dtype and a sample of the values, which cost nothing here."""
        return digest(self.axes, self.shape, self.dtype.str, _sample(self._rows_first(), self.dtype))


class LoadedSource(AddressableSource):
    """An array that a file has to be parsed for: kept in memory, parsed again where it was pickled to.

    Parameters
    ----------
    stamp : Stamp
        The file.
    load : callable
        Picklable; called with the path, returns the array and its description.
    what : str
        Which part of the file it is, for the fingerprint.
    axes : str, optional
        One letter an axis.
    """

    def __init__(
        self,
        stamp: Stamp,
        load: Callable[[str], tuple[np.ndarray, Described]],
        *,
        what: str = "",
        axes: str | None = None,
    ) -> None:
        self._stamp, self._load, self._what = stamp, load, what
        self._handle: Handle[tuple[np.ndarray, Described]] = Handle(survives_fork=True)
        name = os.path.basename(stamp.path) + (f":{what}" if what else "")
        values, _ = self._handle.get(self._open)
        super().__init__(name, shape=values.shape, dtype=values.dtype, axes=axes)

    def _open(self) -> tuple[np.ndarray, Described]:
        self._stamp.check()
        found = self._load(self._stamp.path)
        self._stamp.check()
        return found

    def loaded(self) -> tuple[np.ndarray, Described]:
        """Values and description, parsed if they are not in memory."""
        return self._handle.get(self._open)

    def values(self) -> np.ndarray:
        """Return the array as parsed."""
        return self.loaded()[0].view()

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis of `shape`, or None."""
        return self.loaded()[1].labels(self.order[axis])

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, or None."""
        return self.loaded()[1].timestamps()

    def stored_bytes(self) -> int | None:
        """Bytes of the file."""
        return self._stamp.size

    def fingerprint(self) -> str:
        """Shape, dtype, and size and time of change of the file."""
        return digest(
            self.axes, self.shape, self.dtype.str, self._what, self._stamp.size, self._stamp.mtime_ns
        )

    def close(self) -> None:
        """Free the memory; a later read parses the file again."""
        self._handle.close()


def as_array(values: Any, name: str = "array") -> np.ndarray:
    """Turn an array-like into an ndarray without a copy where its memory can be shared.

    Raises
    ------
    SourceFormatError
        For a dtype NumPy has no number for (bfloat16 tensors), and for integers with a mask.
    """
    if hasattr(values, "detach") and hasattr(values, "cpu"):  # a torch tensor, by duck type
        values = values.detach().cpu()
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        if values.dtype.kind != "f":
            raise SourceFormatError(
                f"{name!r} is a masked array of {values.dtype}, which has no NaN for what is masked. Pass "
                "values.filled(sentinel) and missing=sentinel, or values.astype('float32')."
            )
        return np.asarray(values.filled(np.nan))
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise SourceFormatError(
            f"{name!r} of type {type(values).__qualname__} does not turn into a NumPy array: {error}. "
            "Cast it first, e.g. x.float() for bfloat16."
        ) from error


def _sample(rows: np.ndarray, dtype: np.dtype) -> str:
    """Digest of up to 64 rows spread over the array, up to 1,024 values of each, in the machine's byte order."""
    picked = [*rows[:: max(1, -(-len(rows) // 64))], *rows[-1:]]
    parts = [row.reshape(-1)[:: max(1, -(-row.size // 1024))] for row in picked]
    return digest(*[part.astype(dtype).tobytes() for part in parts])


class LoadMember:
    """Reads one member of an ``.npz``; a class so that it pickles."""

    def __init__(self, member: str) -> None:
        self.member = member

    def __call__(self, path: str) -> tuple[np.ndarray, Described]:
        with open_npz_archive(path) as archive:
            return archive[self.member], Described()


def list_npz(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the members of an ``.npz``."""
    with open_npz_archive(Stamp.of(path).path) as archive:
        return tuple(archive.names)


def open_npz(
    path: str | os.PathLike[str], *, member: str | None = None, axes: str | None = None
) -> LoadedSource:
    """Open one array of an ``.npz`` archive, in memory.

    Parameters
    ----------
    path : path-like
        The archive.
    member : str, optional
        Which array; may be left out where there is one.
    axes : str, optional
        One letter an axis.

    Raises
    ------
    SourceFormatError
        Where there are several arrays and none was named, or none of that name; the message lists them.
    """
    found = list_npz(path)
    if member is None and len(found) == 1:
        member = found[0]
    if member is None or member not in found:
        unknown_variable(os.fspath(path), member, found)
    return LoadedSource(Stamp.of(path), LoadMember(member), what=member, axes=axes)
