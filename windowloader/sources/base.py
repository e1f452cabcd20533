"""What a source is: an array of rows along time that can be read by row range, and by part of the other axes.

In: what an engine found out about its array. Out: `Source`, the protocol with its defaults, `LocalSource` and
`SlabSource` to build on, and small helpers. Never opens a file itself; never knows of windows.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from windowloader.errors import MissingExtraError, SourceFormatError
from windowloader.hiding import hide_secrets
from windowloader.util.axes import check_axes, check_dtype, check_shape, default_axes

from .box import box_shape, given
from .failures import Asked, Guard
from .reads import Done, in_thread
from .storage import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .box import Box
    from .reads import Pending

__all__ = [
    "BOXES",
    "Described",
    "Description",
    "LocalSource",
    "SlabSource",
    "Source",
    "SourceOver",
    "digest",
    "optional",
    "to_nanoseconds",
    "unknown_variable",
]


MOST_CHUNKS = 1 << 25  # along time, or of one row: plans have a number for each


class Description:
    """Labels, timestamps and attributes, looked up when asked for, so that sources pickle small."""

    __slots__ = ()

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along dimension ``dim`` of the array as stored."""
        return None

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, datetime64[ns]."""
        return None

    def attributes(self) -> Mapping[str, Any]:
        """Attributes that the file gives the array: units, names, titles."""
        return {}


@dataclass(frozen=True, slots=True)
class Described(Description):
    """Labels and timestamps that are in hand.

    Parameters
    ----------
    by_dim : mapping of int to ndarray
        Labels along a dimension of the array as stored.
    times : ndarray of datetime64[ns], optional
        Timestamps of the rows.
    doubts : tuple of str
        What was assumed: see `LocalSource`.
    """

    by_dim: Mapping[int, np.ndarray] = field(default_factory=dict)
    times: np.ndarray | None = None
    doubts: tuple[str, ...] = ()

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along dimension ``dim``, or None."""
        return self.by_dim.get(dim)

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, or None."""
        return self.times


BOXES = ("whole", "slices", "indices")  # the later, the less is read in vain


class Source:
    """An array whose first axis is time, readable by row range: all that the package asks of one, with defaults.

    Subclass it and give ``read``; everything else has a default. Whatever the order of axes in storage, ``t`` comes
    first here; the other letters keep their order. Instances pickle small, open their handles lazily, once per process,
    and reopen after a fork.

    Parameters
    ----------
    name : str
        Path, URL or description, for messages.
    shape : sequence of int
        As stored.
    dtype : dtype-like
        As stored, any byte order.
    axes : str, optional
        Letters of the stored shape; None: from ``dims``, else the default. A source without time, for static
        covariates, has no ``t``.
    dims : sequence of str, optional
        Dimension names of the stored array.
    chunks : sequence of int, optional
        Storage grid, in the stored order: the least that a read takes. None: every range of rows costs alike.
    description : Description, optional
        Labels and timestamps.

    Attributes
    ----------
    order : tuple of int
        Stored dimensions in the order of `axes`, `shape`, `dims` and `chunks`.
    dtype : numpy.dtype
        Native byte order; what `read` delivers.
    boxes : {"whole", "slices", "indices"}
        What `read` can be asked for of the axes after the first: all of them; a range of each; or positions of each,
        rising, beside ranges. What else is wanted is picked from what it reads.
    tier : str
        "memory" or "mapped" where the rows lie in memory or a local file, so that a shuffle is a permutation of all
        windows; "streamed" where they must be read in blocks. Default: as `array` shows.
    shards : tuple of int or None
        Sizes of a shard of a Zarr array, in the order of `axes`.
    padded : bool
        Whether a chunk that reaches beyond the array is stored, and read, whole.
    stored_itemsize : int
        Bytes of a value as reads count them: as it is delivered, or as it is stored.
    fill_value : float or None
        What cells hold that were never written, as delivered; None where the format has no such value.
    moved : bool
        Whether what it joins stands in another order of time than it was given in.
    doubts : tuple of str
        What was assumed about it, with what to write instead; a warning where it is a series' own variable.
    """

    boxes: Literal["whole", "slices", "indices"] = "whole"
    shards: tuple[int, ...] | None = None
    padded = False
    fill_value: float | None = None
    moved = False
    doubts: tuple[str, ...] = ()
    _told: tuple[Box | None, Storage | None] = (None, None)  # of `bytes_of`

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_told": (None, None)}

    def __init__(
        self,
        name: str,
        *,
        shape: Sequence[int],
        dtype: Any,
        axes: str | None = None,
        dims: Sequence[str] | None = None,
        chunks: Sequence[int] | None = None,
        description: Description | None = None,
    ) -> None:
        self.stored_dtype = np.dtype(dtype)
        sizes = check_shape(shape, self.stored_dtype.itemsize, name)
        if axes is None:
            axes = default_axes(len(sizes), dims, name, sizes)
        check_axes(axes, len(sizes), name=name, need_time=False, dims=dims)
        first = max(axes.find("t"), 0)
        self.order = (first, *(dim for dim in range(len(sizes)) if dim != first)) if sizes else ()
        self.name = hide_secrets(name)
        self.axes = "".join(axes[dim] for dim in self.order)
        self.dims = tuple(str(dims[dim]) for dim in self.order) if dims else None
        self.shape = tuple(sizes[dim] for dim in self.order)
        self.dtype = check_dtype(self.stored_dtype, name)
        self.stored_itemsize = self.dtype.itemsize
        self.chunks: tuple[int, ...] | None = None
        self.description = description or Described()
        if chunks is None:
            return
        chunks = check_shape(chunks, self.stored_dtype.itemsize, name, what="chunks", least=1)
        self.chunks = tuple(chunks[dim] for dim in self.order)
        grid = [-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True)]
        if max([*grid[:1], math.prod(grid[1:])]) > MOST_CHUNKS:
            raise SourceFormatError(
                f"{self.name!r} of shape {self.shape} has chunks of {self.chunks}: more than {MOST_CHUNKS} along "
                "time or for a row, more than can be planned for. If that is no damage, `windowloader convert` makes "
                "larger ones."
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.axes} {self.shape} {self.dtype}>"

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        r"""Read rows ``[start, stop)`` into ``out``, any strides, and return the bytes taken from storage.

        Parameters
        ----------
        start, stop : int
        out : ndarray, shape (stop - start, \*sizes of the box), `dtype`
        box : tuple of slice or ndarray, optional
            One for each axis after the first: a slice of step 1 with both ends, or rising positions, as `boxes` allows.
            None: whole axes. A source whose `boxes` is "whole" need not take it.

        Returns
        -------
        int
            Decoded bytes of the chunks that were read.
        """
        raise NotImplementedError(f"{type(self).__name__} has no read(start, stop, out).")

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin `read` and return at once; default: on a thread. ``out`` must stay alive until the result.

        A request cannot be called back: after a read that failed, by `SourceTimeoutError` above all, do not use ``out``
        again. Its rows may still be written.

        Returns
        -------
        Pending or concurrent.futures.Future
            Its result is that of `read`.
        """
        return in_thread(self.read, start, stop, out, *given(box))

    def array(self) -> np.ndarray | None:
        """Return an addressable array of `shape` and `dtype` (in memory or mapped), or None where rows must be read."""
        return None

    @property
    def tier(self) -> str:
        """Where its rows come from: see the class."""
        from .mapping import is_mapped

        array = self.array()
        return "streamed" if array is None else "mapped" if is_mapped(array) else "memory"

    def storage(self, box: Box | None = None) -> Storage:
        """Return how it lies in storage, or what of it lies in a box that `read` takes. Default: by `chunks`."""
        return Storage.of_grid(
            self.shape, self.chunks, itemsize=self.dtype.itemsize, stored_itemsize=self.stored_itemsize, box=box,
            shards=self.shards, whole=self.padded,
        )  # fmt: skip

    def bytes_of(self, start: int, stop: int, box: Box | None = None) -> int:
        """Count the bytes of the chunks that rows, or a box of them, lie in."""
        told, storage = self._told
        if storage is None or told is not box:  # whoever reads a part asks for the same one each time
            storage = self.storage(box)
            self._told = (box, storage)
        return storage.bytes(start, stop)

    def check_range(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> None:
        """Raise `IndexError` for rows that are not there, `ValueError` where ``out`` or a box does not fit."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows [{start}, {stop}) of {self.name!r}, which has rows [0, {self.shape[0]}).")
        if box is not None:
            self._check_box(box)
        expected = (stop - start, *(self.shape[1:] if box is None else box_shape(box)))
        if out.shape != expected:
            raise ValueError(
                f"rows [{start}, {stop}) of {self.name!r} have shape {expected}; out has {out.shape}."
            )

    def _check_box(self, box: Box) -> None:
        kinds = {"whole": (), "slices": (slice,), "indices": (slice, np.ndarray)}[self.boxes]
        if len(box) != len(self.shape) - 1 or not all(isinstance(part, kinds) for part in box):
            raise ValueError(
                f"box={box} was asked of {self.name!r}, of shape {self.shape}, which reads {self.boxes} of its "
                "axes after the first (see Source.boxes)."
            )
        ends = [
            (x.start, x.stop) if isinstance(x, slice) else (x.min(initial=0), x.max(initial=-1) + 1)
            for x in box
        ]
        if not all(0 <= low <= high <= size for (low, high), size in zip(ends, self.shape[1:], strict=True)):
            raise IndexError(f"box={box} reaches beyond the shape {self.shape} of {self.name!r}.")

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis of `shape` as the file has them (sensor ids, latitudes, feature names), or None."""
        return self.description.labels(self.order[axis])

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, datetime64[ns], if the file has them."""
        return self.description.timestamps()

    def fingerprint(self) -> str:
        """Short text that changes when the data do, and reads no values. Default: of name, shape and dtype."""
        return digest(self.name, self.axes, self.shape, self.dtype.str)

    def check(self) -> None:
        """Raise `SourceChangedError` where a local file is no longer what was opened; called before each pass."""

    def close(self) -> None:
        """Let go of handles; a later read opens them again."""

    @property
    def origins(self) -> tuple[Source, ...]:
        """Those that it reads in the end, along time: itself where that is from a file."""
        return (self,)

    def attributes(self) -> Mapping[str, Any]:
        """Attributes that the file gives the array: units, names, titles."""
        return self.description.attributes()

    def codecs(self) -> list[str]:
        """Names of the codecs that it is stored with."""
        return []

    def stored_bytes(self) -> int | None:
        """Bytes that it takes on disk, where that can be told without a request."""
        return None

    def address(self) -> str:
        """Where it is that its name does not say: a bucket's endpoint, the query of a URL but for signatures."""
        return ""

    def state(self) -> str:
        """Text that changes when it is written again with the same metadata, beside `fingerprint`; may ask storage."""
        return ""


class LocalSource(Source):
    """Base of the local sources: a family gives `array` (an addressable array) or `_read`, and `fingerprint`."""

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        """Read rows ``[start, stop)`` into ``out``, any strides."""
        self.check_range(start, stop, out, box)
        if not out.size:
            return 0
        with Guard(Asked(self.name, (start, stop))):
            return self._read(start, stop, out, box)

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        raise NotImplementedError

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Read at once: local rows come from memory, the page cache or under a lock."""
        return Done(self.read(start, stop, out, *given(box)))


class SourceOver(Source):
    """Base of the sources that read another, `source`, or several, `parts`, and say what the first of them says."""

    source: Source

    @property
    def parts(self) -> tuple[Source, ...]:
        """Those that it reads."""
        return (self.source,)

    @property
    def origins(self) -> tuple[Source, ...]:
        """Those of its parts."""
        return tuple(origin for part in self.parts for origin in part.origins)

    @property
    def fill_value(self) -> float | None:  # type: ignore[override]
        """That of the first of its origins."""
        return self.origins[0].fill_value

    @property
    def tier(self) -> str:
        """That of the other."""
        return self.source.tier

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        """Read rows ``[start, stop)`` into ``out``, any strides."""
        return self.submit(start, stop, out, box).result()

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis."""
        return self.parts[0].labels(axis)

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the other."""
        return self.source.timestamps()

    def fingerprint(self) -> str:
        """Fingerprint of the other."""
        return self.source.fingerprint()

    def check(self) -> None:
        """Check all parts."""
        for part in self.parts:
            part.check()

    def close(self) -> None:
        """Close all parts."""
        for part in self.parts:
            part.close()


class SlabSource(LocalSource):
    """A source that is read by slabs of the stored array, so that a part of it can be read alone."""

    boxes = "slices"
    padded = True

    def slab(self, start: int, stop: int, box: Box | None = None) -> tuple[slice, ...]:
        """Index of rows ``[start, stop)`` into the stored array."""
        index: list[Any] = [slice(None)] * len(self.order)
        for dim, part in zip(self.order, (slice(start, stop), *(box or ())), strict=False):
            index[dim] = part
        return tuple(index)

    def as_stored(self, out: np.ndarray) -> np.ndarray:
        """View ``out`` in the stored order of axes."""
        return out.transpose([self.order.index(dim) for dim in range(len(self.order))])


def digest(*parts: object) -> str:
    """Short hexadecimal text of some values."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def optional(module: str, *, extra: str, purpose: str) -> Any:
    """Import a package that only some formats need; `MissingExtraError` says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {module}, which is not installed: pip install 'windowloader[{extra}]'"
        ) from error


def to_nanoseconds(times: np.ndarray, name: str) -> np.ndarray:
    """datetime64 of any unit as datetime64[ns]; years that do not fit are an error, not a wrap-around."""
    exact = times.astype("datetime64[ns]")
    if not np.array_equal(exact.astype(times.dtype), times, equal_nan=True):
        raise SourceFormatError(
            f"timestamps of {name!r} reach from {times.min()} to {times.max()}, and nanoseconds hold "
            "1677-09-21 to 2262-04-11. Pass timestamps= of your own."
        )
    return exact


def unknown_variable(name: str, asked: str | None, found: Sequence[str]) -> NoReturn:
    """Raise `SourceFormatError` with the variables there are to choose from."""
    listed = ", ".join(repr(variable) for variable in found[:20]) + (", …" if len(found) > 20 else "")
    if not found:
        raise SourceFormatError(f"{name!r} holds no array of numbers.")
    if asked is None:
        raise SourceFormatError(
            f"{name!r} holds {len(found)} arrays: {listed}. Choose in wl.open, e.g. "
            f"variables=[{found[0]!r}] (variable={found[0]!r} where a source is opened by itself)."
        )
    raise SourceFormatError(f"{name!r} has no variable {asked!r}; it holds {listed}.")
