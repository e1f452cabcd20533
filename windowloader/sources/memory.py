"""Sources whose values can be indexed in place: arrays of the user, mapped files, and files parsed into memory.

In: an ndarray or anything that converts to one without a copy (a torch tensor, any ``__array__``); a region of a file;
a function that parses one. Out: `ArraySource`, `MappedSource`, `LoadedSource`. Never copies, casts or writes to the
arrays it was given.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError

from .base import Described, LocalSource, digest, to_nanoseconds
from .mapping import region_of_memmap, unchanged
from .processes import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .handles import Stamp
    from .mapping import Region
    from .packing import Packing
    from .storage import Box

__all__ = ["AddressableSource", "ArraySource", "LoadedSource", "MappedSource", "as_array", "open_array"]


class AddressableSource(LocalSource):
    """Base of the sources whose values can be indexed in place, by default in a mapped file.

    Parameters
    ----------
    name : str
        For messages.
    region : Region, optional
        Where in a file the values lie; mapped on first use in each process. None: a subclass gives `values`.
    packing : Packing, optional
        How stored numbers become values.
    **array
        As for `Source`.
    """

    boxes = "indices"

    def __init__(
        self, name: str, *, region: Region | None = None, packing: Packing | None = None, **array: Any
    ) -> None:
        self.region, self.packing = region, packing
        self._map: PerProcess[np.ndarray] = PerProcess(survives_fork=True)
        super().__init__(name, **array)

    def values(self) -> np.ndarray:
        """Return the array as stored: its own order of axes and bytes; raises where its file has changed."""
        if self.region is None:
            raise NotImplementedError
        self.check()
        return self._map.get(self.region.map)

    @property
    def tier(self) -> str:
        """``"mapped"`` with a region, which is not mapped for this; else ``"memory"``."""
        return "memory" if self.region is None else "mapped"

    def check(self) -> None:
        """Raise `SourceChangedError` where the file has changed since it was opened."""
        if self.region is not None:
            self.region.stamp.check()

    def close(self) -> None:
        """Drop the map; existing views stay valid."""
        self._map.close()

    def _rows_first(self) -> np.ndarray:
        return self.values().transpose(self.order)

    def array(self) -> np.ndarray | None:
        """Return a read-only view, or None where stored bytes are not the values in native byte order."""
        if self.packing is not None or not self.stored_dtype.isnative:
            return None
        view = self._rows_first()
        view.flags.writeable = False
        return view

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        rows = self._rows_first()[start:stop]
        with unchanged(rows):
            if box is not None:
                from .storage import within

                rows = within(rows, box)
            if self.packing is None:
                out[...] = rows
            else:
                self.packing.unpack(rows, out)
        return out.nbytes


class ArraySource(AddressableSource):
    """An array in memory, or a memmap, which is mapped again and pickles as its place in the file.

    Parameters
    ----------
    values : array_like
        Real, integer or boolean, any byte order and strides. It is not copied.
    name : str
        For messages.
    labels : mapping of int to array_like, optional
        Labels along an axis of ``values``.
    timestamps : array_like of datetime64, shape (time,), optional
        When the rows were.
    **array
        ``axes`` and ``dims``, as for `Source`.

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
        name: str = "array",
        labels: Mapping[int, Any] | None = None,
        timestamps: Any = None,
        **array: Any,
    ) -> None:
        given = as_array(values, name)
        region = region_of_memmap(given)  # mapped again, as `FileMap` detects changes of its file
        self._values = None if region is not None else given
        times = None if timestamps is None else to_nanoseconds(np.asanyarray(timestamps), name)
        found = Described({dim: np.asarray(one) for dim, one in (labels or {}).items()}, times)
        super().__init__(
            name, region=region, shape=given.shape, dtype=given.dtype, description=found, **array
        )

    def values(self) -> np.ndarray:
        """Return the array that was given."""
        return super().values() if self._values is None else self._values.view()

    def fingerprint(self) -> str:
        """Shape, dtype and a sample of the values."""
        return digest(self.axes, self.shape, self.dtype.str, _sample(self._rows_first(), self.dtype))


class MappedSource(AddressableSource):
    """A region of a file, mapped on first use in each process.

    Parameters
    ----------
    region : Region
        Where the values lie.
    name : str, optional
        For messages; default the file's name.
    values : Packing, optional
        How stored numbers become values.
    **array
        ``axes``, ``dims`` and ``description``, as for `Source`.
    """

    region: Region

    def __init__(
        self, region: Region, *, name: str | None = None, values: Packing | None = None, **array: Any
    ) -> None:
        name, dtype = name or os.path.basename(region.stamp.path), values.dtype if values else region.dtype
        super().__init__(name, region=region, packing=values, shape=region.shape, dtype=dtype, **array)

    def fingerprint(self) -> str:
        """Shape, dtype and place, and size and time of change of the file."""
        place, stamp = self.region, self.region.stamp
        packed = [self.dtype.str] if self.packing else []
        where = place.dtype.str, place.strides, place.offset, stamp.size, stamp.mtime_ns
        return digest(self.axes, self.shape, *where, *packed)

    def stored_bytes(self) -> int | None:
        """Bytes of the region."""
        return int(self.region.nbytes)


class LoadedSource(AddressableSource):
    """An array parsed from a file and kept in memory; parsed again where it was pickled to.

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
        self._parsed: PerProcess[tuple[np.ndarray, Described]] = PerProcess(survives_fork=True)
        name = os.path.basename(stamp.path) + (f":{what}" if what else "")
        values = self.values()
        super().__init__(name, shape=values.shape, dtype=values.dtype, axes=axes)

    def _open(self) -> tuple[np.ndarray, Described]:
        self._stamp.check()
        found = self._load(self._stamp.path)
        self._stamp.check()
        return found

    def loaded(self) -> tuple[np.ndarray, Described]:
        """Values and description, parsed if they are not in memory."""
        return self._parsed.get(self._open)

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
        stamp = self._stamp
        return digest(self.axes, self.shape, self.dtype.str, self._what, stamp.size, stamp.mtime_ns)

    def close(self) -> None:
        """Free the memory; a later read parses the file again."""
        self._parsed.close()


def open_array(values: Any, *, axes: str | None = None) -> ArraySource:
    """Open an array of NumPy, torch or anything with ``__array__``."""
    return ArraySource(values, axes=axes)


def as_array(values: Any, name: str = "array") -> np.ndarray:
    """Convert an array-like to an ndarray, without a copy where its memory can be shared.

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
                f"{name!r} is a masked array of {values.dtype}, which has no NaN for masked values. Pass "
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
